//! Limits that the system sets to this process. Owns raising and naming them.

use std::io;

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the limit of open descriptors as far as this process may, and gives it back. To be called once at
/// start: each session needs a descriptor.
pub fn raise_descriptor_limit() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        // It stays as it is when it cannot be raised; the result says so.
        let _ = setrlimit(Resource::Nofile, limit);
    }
    descriptors()
}

/// How many descriptors this process may have open.
pub(crate) fn descriptors() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Whether a call failed because descriptors or memory have run out.
pub(crate) fn is_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}
