//! Readiness of thousands of sockets by one descriptor. Owns the epoll instance; knows nothing of what is read
//! or written.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Events that are taken from the kernel at a time.
const EVENTS: usize = 512;

/// What a socket waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Bytes, or connections to accept.
    Read,
    /// Room to write, or the end of a connect, beside bytes.
    ReadWrite,
}

impl Wait {
    fn flags(self) -> epoll::EventFlags {
        match self {
            Self::Read => epoll::EventFlags::IN,
            Self::ReadWrite => epoll::EventFlags::IN | epoll::EventFlags::OUT,
        }
    }
}

/// A socket that is ready.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ready {
    /// What the socket was registered with.
    pub(crate) token: u64,
    /// There are bytes, the end, or an error to read.
    pub(crate) readable: bool,
    /// There is room, or an error.
    pub(crate) writable: bool,
}

/// An epoll instance that the runtime watches: one wake-up serves all sockets that are ready.
pub(crate) struct Poller {
    fd: AsyncFd<OwnedFd>,
    events: Vec<epoll::Event>,
}

impl fmt::Debug for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poller").field("fd", &self.fd).finish_non_exhaustive()
    }
}

impl Poller {
    /// Must be called inside a tokio runtime.
    pub(crate) fn new() -> io::Result<Self> {
        let fd = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        // SAFETY: the descriptor is owned by the `AsyncFd`, and neither replaced nor closed before it.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE)? };
        Ok(Self { fd, events: Vec::with_capacity(EVENTS) })
    }

    /// Watches a socket; it stops being watched when it is closed.
    pub(crate) fn add(&self, socket: impl AsFd, token: u64, wait: Wait) -> io::Result<()> {
        Ok(epoll::add(self.fd.get_ref(), socket, epoll::EventData::new_u64(token), wait.flags())?)
    }

    /// Watches a socket under another token or for something else.
    pub(crate) fn modify(&self, socket: impl AsFd, token: u64, wait: Wait) -> io::Result<()> {
        Ok(epoll::modify(self.fd.get_ref(), socket, epoll::EventData::new_u64(token), wait.flags())?)
    }

    /// Stops watching a socket that stays open.
    pub(crate) fn remove(&self, socket: impl AsFd) {
        let _ = epoll::delete(self.fd.get_ref(), socket);
    }

    /// Waits until a socket may be ready. May be dropped at any time without loss.
    pub(crate) async fn ready(&mut self) {
        while self.events.is_empty() {
            let Ok(mut guard) = self.fd.readable().await else { return };
            wait(guard.get_inner(), &mut self.events);
            if self.events.is_empty() {
                guard.clear_ready();
            }
        }
    }

    /// Sockets that are ready now; each is reported again as long as it stays so.
    pub(crate) fn take(&mut self, ready: &mut Vec<Ready>) {
        if self.events.is_empty() {
            wait(self.fd.get_ref(), &mut self.events);
        }
        ready.clear();
        ready.extend(self.events.drain(..).map(|event| {
            let flags = event.flags;
            let failed = flags.intersects(epoll::EventFlags::ERR | epoll::EventFlags::HUP);
            Ready {
                token: event.data.u64(),
                readable: failed || flags.contains(epoll::EventFlags::IN),
                writable: failed || flags.contains(epoll::EventFlags::OUT),
            }
        }));
    }
}

fn wait(fd: &OwnedFd, events: &mut Vec<epoll::Event>) {
    const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
    // An interrupted call is as good as one that found nothing: the descriptor stays readable.
    let _ = epoll::wait(fd, spare_capacity(events), Some(&AT_ONCE));
}
