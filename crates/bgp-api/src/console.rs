//! The way of a question to the speaker and back. Owns the queue; the speaker's loop takes a call whenever it
//! has a turn, so no question ever waits for a lock or sees a half-done change.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Instant, SystemTime};

use bgp::Speaker;
use tokio::sync::{mpsc, oneshot};

use crate::Observers;

/// Questions that wait at a time; who asks more waits itself.
const QUEUE: usize = 16;

/// What a call gets to see, and may change.
#[derive(Debug)]
pub struct Subject<'a> {
    /// The speaker; `None` before it has its settings.
    pub speaker: Option<&'a mut Speaker>,
    /// What only the owner of the speaker knows.
    pub owner: Owner,
    /// Now, on the speaker's clock.
    pub now: Instant,
}

/// What a program knows of itself beside its speaker.
#[derive(Clone, Debug, Default)]
pub struct Owner {
    /// Node name; empty for a reflector outside the cluster.
    pub node: String,
    /// Version of the program.
    pub version: &'static str,
    /// When the program started.
    pub started: Option<Instant>,
    /// When its configuration last changed.
    pub reconfigured: Option<Instant>,
    /// Addresses and ports that are listened on.
    pub listening: Vec<SocketAddr>,
    /// Its routes in the kernel; `None` when it writes none.
    pub kernel: Option<KernelRoutes>,
    /// What keeps the speaker as a whole from working, in words.
    pub problems: Vec<String>,
}

/// The kernel's side of a node's speaker.
#[derive(Clone, Debug, Default)]
pub struct KernelRoutes {
    /// Routes of ours in the kernel.
    pub written: usize,
    /// Routes that should be in the kernel and are not: destination and why.
    pub pending: Vec<(String, String)>,
}

impl Subject<'_> {
    /// The wall clock at an instant of the speaker's clock.
    pub fn wall(&self, at: Instant) -> SystemTime {
        let now = SystemTime::now();
        match self.now.checked_duration_since(at) {
            Some(ago) => now.checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH),
            None => now + at.saturating_duration_since(self.now),
        }
    }
}

type Work = Box<dyn FnOnce(&mut Subject<'_>) + Send>;

/// One call that waits for its turn.
pub struct Call(Work);

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Call")
    }
}

impl Call {
    /// Lets the call do its work and answer whoever asked.
    pub fn run(self, mut subject: Subject<'_>) {
        (self.0)(&mut subject);
    }
}

/// The end at which questions are asked.
#[derive(Clone, Debug)]
pub struct Console {
    calls: mpsc::Sender<Call>,
    pub(crate) observers: Observers,
}

/// The end at which the speaker's owner takes them.
#[derive(Debug)]
pub struct Calls {
    calls: mpsc::Receiver<Call>,
    observers: Observers,
}

/// The speaker's owner is gone: the process is stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

/// A queue of calls.
pub fn console() -> (Console, Calls) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let observers = Observers::default();
    (Console { calls: sender, observers: observers.clone() }, Calls { calls: receiver, observers })
}

impl Console {
    /// Lets `work` see the speaker, and gives back what it makes of it.
    ///
    /// # Errors
    /// When the owner has gone.
    pub async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Subject<'_>) -> T + Send + 'static,
    ) -> Result<T, Gone> {
        let (reply, answer) = oneshot::channel();
        let call = Call(Box::new(move |subject| {
            // Whoever asked may have gone meanwhile.
            let _ = reply.send(work(subject));
        }));
        self.calls.send(call).await.map_err(|_| Gone)?;
        answer.await.map_err(|_| Gone)
    }
}

impl Calls {
    /// Those who look on: the owner lets them look after each turn.
    pub fn observers(&self) -> &Observers {
        &self.observers
    }

    /// The next call. May be dropped at any time without loss.
    pub async fn next(&mut self) -> Call {
        match self.calls.recv().await {
            Some(call) => call,
            None => std::future::pending().await,
        }
    }
}
