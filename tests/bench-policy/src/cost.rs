//! What a piece of work takes: time on the clock, and CPU time of this thread and of the programs that it ran.

use std::time::{Duration, Instant};

/// Time on the clock and CPU time. On a busy machine only the second one says something.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    pub wall: Duration,
    pub cpu: Duration,
}

/// A running measurement; it belongs to the thread that began it.
pub struct Stopwatch {
    begin: Instant,
    cpu: Duration,
}

impl Stopwatch {
    pub fn start() -> Self {
        Self { begin: Instant::now(), cpu: cpu() }
    }

    pub fn stop(&self) -> Cost {
        Cost { wall: self.begin.elapsed(), cpu: cpu().saturating_sub(self.cpu) }
    }
}

/// CPU time of this thread and of the processes that ended as children of this one.
fn cpu() -> Duration {
    thread_cpu() + rusage_children()
}

/// CPU time of this thread, with what the kernel did for it.
pub fn thread_cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists, and the time lives across the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn rusage_children() -> Duration {
    // SAFETY: all zero is a valid rusage, which lives across the call.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage);
        usage
    };
    let of = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1_000);
    of(usage.ru_utime) + of(usage.ru_stime)
}
