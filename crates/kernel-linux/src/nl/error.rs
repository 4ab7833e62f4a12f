//! What the kernel answers when it refuses a message.

use std::fmt;
use std::io;

/// A message that the kernel refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Positive `errno`; ipset's own codes begin at 4096.
    pub errno: i32,
    /// The kernel's explanation (NLMSGERR_ATTR_MSG), where it gives one.
    pub text: Option<String>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", io::Error::from_raw_os_error(self.errno))?;
        match &self.text {
            Some(text) => write!(f, ": {text}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = io::Error::from_raw_os_error(error.errno).kind();
        io::Error::new(kind, error)
    }
}

/// An error with the thing that it happened to in front.
#[derive(Debug)]
struct Named {
    what: String,
    errno: Option<i32>,
    source: io::Error,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.source)
    }
}

impl std::error::Error for Named {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.source()
    }
}

/// Puts what was tried in front of an error; its kind and `errno` stay.
pub fn named(what: impl Into<String>, error: impl Into<io::Error>) -> io::Error {
    let source = error.into();
    io::Error::new(source.kind(), Named { what: what.into(), errno: errno(&source), source })
}

/// The `errno` behind an error of this crate or of the system.
pub fn errno(error: &io::Error) -> Option<i32> {
    if let Some(code) = error.raw_os_error() {
        return Some(code);
    }
    let inner = error.get_ref()?;
    if let Some(refused) = inner.downcast_ref::<Error>() {
        return Some(refused.errno);
    }
    inner.downcast_ref::<Named>().and_then(|named| named.errno)
}
