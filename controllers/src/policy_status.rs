//! The loop that carries what nodes say to the aggregate, and what follows to the API server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use datastore::{Datastore, Followed, Interest, Kind, timestamp};
use model::NodeName;
use tokio::sync::watch;
use tokio::time::sleep_until;

use crate::aggregate::Aggregate;
use crate::leader;
use crate::metrics::Metrics;

/// Changes are gathered so long before they are written.
const GATHER: Duration = Duration::from_millis(200);
/// After a write that failed.
const RETRY: Duration = Duration::from_secs(2);

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
    let kinds = vec![Kind::NodeName, Kind::NetworkPolicy, Kind::GlobalNetworkPolicy];
    let interest = Interest { kinds, ..Interest::felix(NodeName::from("controllers")) };
    let mut updates = datastore.watch(interest);
    let mut reports = datastore.watch_node_policies();
    let mut at: Option<Instant> = None;
    loop {
        let wake = at.unwrap_or_else(|| now() + Duration::from_secs(3600));
        tokio::select! {
            update = updates.recv() => {
                let Some(update) = update else { return Ok(()) };
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
            () = sleep_until(wake.into()) => at = flush(datastore, &mut aggregate, metrics).await,
        }
    }
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
