//! Waiting with a limit, never blindly.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// Looks until `is_content`, at most `limit`; the last look either way.
pub fn until<T>(
    limit: Duration,
    mut look: impl FnMut() -> T,
    is_content: impl Fn(&T) -> bool,
) -> Result<T, T> {
    let deadline = Instant::now() + limit;
    loop {
        let seen = look();
        if is_content(&seen) {
            return Ok(seen);
        }
        if Instant::now() >= deadline {
            return Err(seen);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// How much longer than expected a thing may take: tests share two cores, and none of them is timed.
const SLACK: u64 = 8;

/// As [`until`], for what should take `seconds` at most, with slack; fails the test with what was seen last.
#[track_caller]
pub fn within<T: Debug>(
    seconds: u64,
    what: &str,
    look: impl FnMut() -> T,
    is_content: impl Fn(&T) -> bool,
) -> T {
    match until(Duration::from_secs(seconds * SLACK), look, is_content) {
        Ok(seen) => seen,
        Err(seen) => panic!("{what}: not within {} s; last seen: {seen:?}", seconds * SLACK),
    }
}
