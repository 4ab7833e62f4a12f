//! Tells the cluster of the speaker: statuses that somebody asked for, each in its period, and Events. Owns the
//! tasks; what they say is worked out elsewhere.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use crate::node_status::node_status;
use bgp_api::{Console, utc};
use datastore::crd::CalicoNodeStatusSpec;
use datastore::{Datastore, NodeEvent};
use model::NodeName;
use tokio::sync::mpsc;

/// Events that wait for the API server; what comes then is lost.
const WAITING: usize = 64;

/// Fills every `CalicoNodeStatus` that names this node.
pub(crate) async fn statuses(datastore: Datastore, node: NodeName, console: Console) {
    let mut changes = datastore.watch_node_statuses(node);
    let mut wanted: BTreeMap<String, (CalicoNodeStatusSpec, Instant)> = BTreeMap::new();
    // What went wrong last: the same is told once.
    let mut told = String::new();
    loop {
        let next = wanted.values().map(|(_, at)| *at).min();
        tokio::select! {
            change = changes.recv() => match change {
                // Our own writes are told too: only another spec is written at once.
                Some((name, Some(spec))) if spec.update_period_seconds > 0 => {
                    let at = wanted.get(&name).filter(|(known, _)| *known == spec).map(|(_, at)| *at);
                    wanted.insert(name, (spec, at.unwrap_or_else(Instant::now)));
                }
                Some((name, _)) => drop(wanted.remove(&name)),
                None => return,
            },
            () = sleep_until(next) => {}
        }
        let now = Instant::now();
        for (name, (spec, at)) in wanted.iter_mut().filter(|(_, (_, at))| *at <= now) {
            *at = now
                + Duration::from_secs(u64::try_from(spec.update_period_seconds).unwrap_or(u64::MAX).max(1));
            let classes = spec.classes.clone();
            let Ok(status) = console.ask(move |subject| node_status(subject, &classes)).await else { return };
            let written = datastore.write_node_status(name, &status).await;
            let failure = written.err().map(|error| error.to_string()).unwrap_or_default();
            if failure != told {
                if !failure.is_empty() {
                    tracing::warn!(name, error = failure, "status is written again later");
                }
                told = failure;
            }
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Makes Events; the sender must not wait.
pub(crate) fn events(datastore: Datastore, node: NodeName) -> mpsc::Sender<NodeEvent> {
    let (sender, mut events) = mpsc::channel::<NodeEvent>(WAITING);
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            if let Err(error) = datastore.publish("bird-lite", &node, &event, &utc(SystemTime::now())).await {
                tracing::debug!(%error, "Event is lost");
            }
        }
    });
    sender
}
