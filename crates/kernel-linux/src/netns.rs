//! Network namespaces by path. Never leaves the calling thread in another one.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::nl::named;

/// An open network namespace, such as `/var/run/netns/x` or `/proc/123/ns/net`.
#[derive(Debug)]
pub struct Netns {
    file: File,
    path: PathBuf,
}

impl Netns {
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref().to_owned();
        let file =
            File::open(&path).map_err(|e| named(format!("open network namespace {}", path.display()), e))?;
        Ok(Self { file, path })
    }

    /// The namespace of the calling thread.
    pub fn current() -> io::Result<Self> {
        Self::open("/proc/thread-self/ns/net")
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Runs `work` inside, on a thread of its own, so that nothing has to be restored, come what may.
    ///
    /// A panic of `work` becomes an error.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, || {
                self.enter()?;
                work()
            })?;
            thread.join().unwrap_or_else(|_| Err(panicked()))
        })
    }

    /// As [`Netns::run`], on the calling thread, which takes a tenth of the time; for programs of one thread. A
    /// thread that cannot come back ends the process.
    pub fn visit<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let home = Self::current()?;
        self.enter()?;
        let outcome = catch_unwind(AssertUnwindSafe(work));
        if home.enter().is_err() {
            // Whatever came next would be done to a container instead of the node.
            std::process::abort();
        }
        outcome.unwrap_or_else(|_| Err(panicked()))
    }

    fn enter(&self) -> io::Result<()> {
        move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network)).map_err(|e| {
            named(format!("enter network namespace {}", self.path.display()), io::Error::from(e))
        })
    }
}

fn panicked() -> io::Error {
    io::Error::other("work in a network namespace panicked")
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
