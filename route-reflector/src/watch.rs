//! Notices changes of files. Owns an inotify instance over the directories that they are in, so that files which
//! are replaced by a rename, or by a symbolic link as in a mounted ConfigMap, are noticed, too.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How long a change may go on: editors write in several steps.
const SETTLE: Duration = Duration::from_millis(100);

/// Watches files.
#[derive(Debug)]
pub(crate) struct Watch {
    fd: AsyncFd<OwnedFd>,
    directories: BTreeSet<PathBuf>,
    /// Something has changed, and is told then.
    due: Option<Instant>,
}

impl Watch {
    /// Watches nothing yet. Must be called inside a tokio runtime.
    pub(crate) fn new() -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        // SAFETY: the descriptor is owned by the `AsyncFd`, and neither replaced nor closed before it.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE)? };
        Ok(Self { fd, directories: BTreeSet::new(), due: None })
    }

    /// Watches the directories of `files`, too.
    pub(crate) fn add<'a>(&mut self, files: impl IntoIterator<Item = &'a Path>) {
        for file in files {
            let directory = match file.parent() {
                Some(parent) if parent != Path::new("") => parent,
                _ => Path::new("."),
            };
            if self.directories.contains(directory) {
                continue;
            }
            let flags =
                WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO | WatchFlags::CREATE | WatchFlags::DELETE;
            match inotify::add_watch(self.fd.get_ref(), directory, flags) {
                Ok(_) => drop(self.directories.insert(directory.to_owned())),
                Err(error) => {
                    let directory = directory.display();
                    tracing::warn!(%directory, %error, "changes are noticed by SIGHUP only");
                }
            }
        }
    }

    /// Waits until something in the directories has changed and come to rest. May be dropped at any time without
    /// loss.
    pub(crate) async fn changed(&mut self) {
        loop {
            let Some(due) = self.due else {
                self.readable().await;
                #[allow(clippy::disallowed_methods, reason = "a program may read the clock")]
                let now = Instant::now();
                self.due = Some(now + SETTLE);
                continue;
            };
            tokio::time::sleep_until(due.into()).await;
            let mut rest = [0; 4096];
            while rustix::io::read(self.fd.get_ref(), &mut rest).is_ok_and(|n| n > 0) {}
            self.due = None;
            return;
        }
    }

    async fn readable(&self) {
        loop {
            let Ok(mut guard) = self.fd.readable().await else { return std::future::pending().await };
            let mut events = [0; 4096];
            match rustix::io::read(guard.get_inner(), &mut events) {
                Ok(n) if n > 0 => return,
                _ => guard.clear_ready(),
            }
        }
    }
}
