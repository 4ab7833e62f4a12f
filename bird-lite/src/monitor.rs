//! What happens in the kernel. Owns the translation of kernel events into what must be looked at again.

use std::io;

use kernel::{LinkEvent, PROTO_BIRD};
use kernel_linux::events::Events;
use tokio::sync::mpsc;

/// What must be looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disturbance {
    /// A `proto bird` route came or went.
    OwnRoutes,
    /// A route that is not ours came or went.
    Surroundings,
    /// A link or an address: the kernel drops routes with them, some without a word.
    Everything,
}

/// Subscribes in this thread's network namespace. Reports that wait count once.
pub(crate) fn start() -> io::Result<mpsc::Receiver<Disturbance>> {
    let (sender, receiver) = mpsc::channel(64);
    let deliver = move |event: LinkEvent| match classify(&event) {
        // A full queue holds the same news already.
        Some(news) => !matches!(sender.try_send(news), Err(mpsc::error::TrySendError::Closed(_))),
        None => !sender.is_closed(),
    };
    Events::open()?.spawn(deliver)?;
    Ok(receiver)
}

fn classify(event: &LinkEvent) -> Option<Disturbance> {
    match event {
        LinkEvent::Route { protocol: PROTO_BIRD } => Some(Disturbance::OwnRoutes),
        LinkEvent::Route { .. } => Some(Disturbance::Surroundings),
        // Links of pods come and go all the time and lead to no next hop.
        LinkEvent::Link { name, .. } | LinkEvent::LinkGone { name, .. } if name.starts_with("cali") => None,
        LinkEvent::Link { .. } | LinkEvent::LinkGone { .. } => Some(Disturbance::Everything),
        LinkEvent::Address { .. } | LinkEvent::Overrun => Some(Disturbance::Everything),
        LinkEvent::Neighbour { .. } => None,
    }
}
