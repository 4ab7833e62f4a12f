//! The state of the kernel's clock.

/// Does somebody keep the clock (`adjtimex(2)`, STA_UNSYNC)? `None` where the kernel does not say.
pub fn is_clock_synchronised() -> Option<bool> {
    // SAFETY: zeros ask only, and the pointer is to a whole `timex`.
    let state = unsafe {
        let mut clock: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&mut clock) >= 0).then_some(clock.status)
    };
    state.map(|status| status & libc::STA_UNSYNC == 0)
}
