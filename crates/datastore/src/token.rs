//! The bearer token of a service account, which the kubelet writes anew long before it ends. Owns when its file is read
//! again; knows nothing of what the token may do.
//!
//! The client's own way goes by the wall clock: one that is set back keeps an old token for as long, until it has ended.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::header::AUTHORIZATION;
use http::{HeaderValue, Request};

/// How old a token that was read may be. The file is small, and requests are few.
const FRESH: Duration = Duration::from_secs(1);

/// A token that lies in a file; cheap to clone.
#[derive(Clone)]
pub(crate) struct TokenFile(Arc<Mutex<Kept>>);

struct Kept {
    path: PathBuf,
    header: HeaderValue,
    read_at: Instant,
}

impl TokenFile {
    /// Reads the token for the first time.
    ///
    /// # Errors
    /// When the file cannot be read, or what it holds is no token.
    pub(crate) fn open(path: PathBuf, now: Instant) -> io::Result<Self> {
        let header = read(&path)?;
        Ok(Self(Arc::new(Mutex::new(Kept { path, header, read_at: now }))))
    }

    /// Puts the token on a request. A file that cannot be read leaves the token that was read last.
    pub(crate) fn sign<B>(&self, mut request: Request<B>, now: Instant) -> Request<B> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(kept.read_at) >= FRESH {
            kept.read_at = now;
            if let Ok(header) = read(&kept.path) {
                kept.header = header;
            }
        }
        request.headers_mut().insert(AUTHORIZATION, kept.header.clone());
        request
    }
}

fn read(path: &std::path::Path) -> io::Result<HeaderValue> {
    let token = std::fs::read_to_string(path)?;
    let token = token.trim();
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "it holds no token");
    let mut header = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| wrong())?;
    header.set_sensitive(true);
    if token.is_empty() { Err(wrong()) } else { Ok(header) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_was_written_anew_is_used_and_an_old_one_kept_when_there_is_none() {
        let path = std::env::temp_dir().join(format!("token-{}", std::process::id()));
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        std::fs::write(&path, "old\n").unwrap();
        let token = TokenFile::open(path.clone(), start).unwrap();
        let signed = |now| {
            let request = token.sign(Request::new(()), now);
            request.headers()[AUTHORIZATION].to_str().unwrap().to_owned()
        };

        assert_eq!(signed(start), "Bearer old");
        std::fs::write(&path, "new").unwrap();
        assert_eq!(signed(after(0)), "Bearer old");
        assert_eq!(signed(after(1)), "Bearer new");
        std::fs::write(&path, "").unwrap();
        assert_eq!(signed(after(2)), "Bearer new");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(signed(after(3)), "Bearer new");
        assert!(TokenFile::open(path, start).is_err());
        assert!(!format!("{:?}", token.sign(Request::new(()), start).headers()).contains("new"));
    }
}
