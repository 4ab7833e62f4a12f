//! The loop that carries policies, and what nodes say of them, to the aggregate and to the complaints, and what
//! follows from these to the API server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use datastore::{Datastore, Followed, Interest, Kind, NodeEvent, timestamp};
use model::NodeName;
use tokio::sync::watch;
use tokio::time::sleep_until;

use crate::aggregate::Aggregate;
use crate::complaints::Complaints;
use crate::leader;
use crate::metrics::Metrics;

/// Changes are gathered so long before they are written.
const GATHER: Duration = Duration::from_millis(200);
/// After a write that failed.
const RETRY: Duration = Duration::from_secs(2);

/// What a node's agent watches and this does not: what no policy is told by, and changes all the time.
const NOT_OURS: [Kind; 10] = [
    Kind::Node,
    Kind::Pod,
    Kind::Namespace,
    Kind::ServiceAccount,
    Kind::IpamBlock,
    Kind::BlockAffinity,
    Kind::IpamConfiguration,
    Kind::BgpConfiguration,
    Kind::FelixConfiguration,
    Kind::EndpointSlice,
];

/// What is watched: policies, and what else may make no sense.
fn kinds() -> Vec<Kind> {
    let of_agents = Kind::FELIX.into_iter().filter(|kind| !NOT_OURS.contains(kind));
    of_agents.chain([Kind::NodeName, Kind::BgpPeer, Kind::BgpFilter]).collect()
}

/// Writes while this replica leads; never ends.
pub async fn run(datastore: Datastore, leads: watch::Receiver<bool>, metrics: Arc<Metrics>) {
    let writing = || async {
        if let Err(error) = write(&datastore, &metrics).await {
            tracing::warn!(%error, "the status of policies cannot be read, it is tried again");
            tokio::time::sleep(RETRY).await;
        }
    };
    leader::while_leading(leads, writing).await;
}

async fn write(datastore: &Datastore, metrics: &Metrics) -> datastore::Result<()> {
    let mut aggregate = Aggregate::new(datastore.policy_statuses().await?);
    let mut complaints = Complaints::default();
    let interest = Interest { kinds: kinds(), ..Interest::felix(NodeName::from("controllers")) };
    let mut updates = datastore.watch(interest);
    let mut reports = datastore.watch_node_policies();
    let mut at: Option<Instant> = None;
    loop {
        let wake = at.unwrap_or_else(|| now() + Duration::from_secs(3600));
        tokio::select! {
            update = updates.recv() => {
                let Some(update) = update else { return Ok(()) };
                complaints.apply(&update, now());
                aggregate.apply(update, now());
                at = Some(sooner(at, now() + GATHER));
            }
            report = reports.recv() => {
                let Some(report) = report else { return Ok(()) };
                match report {
                    Followed::Put(node, report) => aggregate.report(&node.as_str().into(), Some(report)),
                    Followed::Gone(node) => aggregate.report(&node.as_str().into(), None),
                    Followed::Listed => {}
                }
                at = Some(sooner(at, now() + GATHER));
            }
            () = sleep_until(wake.into()) => {
                let status = flush(datastore, &mut aggregate, metrics).await;
                let events = complain(datastore, &mut complaints, metrics).await;
                at = [status, events].into_iter().flatten().min();
            }
        }
    }
}

/// Makes the Events that are due. When is it to be called again?
async fn complain(datastore: &Datastore, complaints: &mut Complaints, metrics: &Metrics) -> Option<Instant> {
    metrics.not_understood.set(i64::try_from(complaints.count()).unwrap_or(i64::MAX));
    for (object, why) in complaints.due(now()) {
        let reason = "NotUnderstood".to_owned();
        let event = NodeEvent { is_warning: true, reason, message: why.to_string() };
        if let Err(error) = datastore.publish_about_object(&object, &event, &timestamp()).await {
            tracing::warn!(%object, %error, "the Event cannot be written, it is tried again");
            return Some(now() + RETRY);
        }
        complaints.told(&object, why, now());
    }
    complaints.next(now())
}

/// Writes what is due. When is it to be called again?
async fn flush(datastore: &Datastore, aggregate: &mut Aggregate, metrics: &Metrics) -> Option<Instant> {
    let vanished: Vec<NodeName> = aggregate.vanished().cloned().collect();
    for node in vanished {
        match datastore.forget_node_policies(&node).await {
            Ok(()) => aggregate.forgotten(&node),
            Err(error) => tracing::warn!(%node, %error, "what a node said that is gone cannot be deleted"),
        }
    }
    let mut failed = false;
    for (key, status) in aggregate.due(now(), &timestamp()) {
        match datastore.write_policy_status(&key, &status).await {
            Ok(()) => {
                metrics.status_writes.inc();
                aggregate.wrote(key, status);
            }
            // It went meanwhile; the watch will say so.
            Err(datastore::Error::NotFound { .. }) => aggregate.wrote(key, status),
            Err(error) => {
                metrics.status_failures.inc();
                tracing::warn!(%key, %error, "the status cannot be written, it is tried again");
                failed = true;
            }
        }
    }
    metrics.unprogrammed.set(i64::try_from(aggregate.unprogrammed()).unwrap_or(i64::MAX));
    let next = aggregate.settle(now(), &timestamp());
    failed |= aggregate.vanished().next().is_some();
    if failed { Some(now() + RETRY) } else { next }
}

fn sooner(at: Option<Instant>, other: Instant) -> Instant {
    at.map_or(other, |at| at.min(other))
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
