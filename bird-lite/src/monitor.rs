//! What happens in the kernel. Owns the thread that listens, and what of it concerns a speaker.

use std::io;
use std::thread;

use kernel_linux::{RouteEvent, RouteEvents};
use tokio::sync::mpsc;

/// Bursts that wait. When these are full the thread waits, the kernel counts what it drops, and everything is
/// read again.
const BURSTS: usize = 16;

/// Subscribes in this thread's network namespace to all changes but those that the sockets with the
/// ports `ignored` make.
pub(crate) fn start(ignored: Vec<u32>) -> io::Result<mpsc::Receiver<Vec<RouteEvent>>> {
    let (sender, receiver) = mpsc::channel(BURSTS);
    let mut events = RouteEvents::open(ignored)?;
    let work = move || {
        loop {
            let burst = events.receive().unwrap_or_else(|error| {
                tracing::warn!(%error, "cannot hear of kernel events");
                thread::sleep(std::time::Duration::from_secs(1));
                vec![RouteEvent::Overrun]
            });
            if !burst.is_empty() && sender.blocking_send(burst).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("kernel-events".to_owned()).spawn(work)?;
    Ok(receiver)
}
