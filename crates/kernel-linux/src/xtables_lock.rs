//! The lock that programs of iptables-legacy hold while they write.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// As long as the lock is held, it is tried again after this, in microseconds. There is one lock for all families.
static PAUSE: AtomicU64 = AtomicU64::new(5_000);

/// While somebody else holds the lock of iptables-legacy, it is tried again that often; every 5 ms unless said.
pub fn set_lock_probe_interval(interval: Duration) {
    PAUSE.store(interval.as_micros().try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// Waits until nobody holds the lock; returns how long that took. Does not keep it: `iptables-restore` takes it
/// itself. Where there is no lock file, nobody holds it.
pub(crate) fn wait(patience: Duration) -> io::Result<Duration> {
    let path = std::env::var_os("XTABLES_LOCKFILE").unwrap_or_else(|| "/run/xtables.lock".into());
    let Ok(file) = File::open(&path) else { return Ok(Duration::ZERO) };
    let started = Instant::now();
    loop {
        // SAFETY: plain system call on a descriptor that is open; closing it gives the lock back.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
            return Ok(started.elapsed());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::WouldBlock {
            return Ok(started.elapsed());
        }
        if started.elapsed() >= patience {
            let text = format!("another program has held the lock {} for {patience:?}", path.display());
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
        }
        thread::sleep(Duration::from_micros(PAUSE.load(Ordering::Relaxed)).min(patience));
    }
}
