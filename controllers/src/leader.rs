//! One of several replicas writes: whoever holds a Lease.
//!
//! A Lease that is not renewed for its duration, by our own clock since we first saw it so, is free.

use std::time::{Duration, Instant};

use datastore::{Datastore, LeaseState};
use tokio::sync::{mpsc, watch};

use crate::metrics::Metrics;

const LEASE: &str = "ocicat-controllers";
const DURATION: Duration = Duration::from_secs(15);
/// Between renewals.
const RENEW: Duration = Duration::from_secs(5);
/// Between looks of those who do not lead.
const LOOK: Duration = Duration::from_secs(2);

/// See the module.
pub struct Election {
    pub datastore: Datastore,
    pub namespace: String,
    /// Who this is; no other replica has the same.
    pub identity: String,
}

/// A Lease, and since when it has not changed.
#[derive(Default)]
struct Seen {
    renewed: String,
    since: Option<Instant>,
}

impl Election {
    /// Runs for ever and says whether this replica leads.
    pub async fn run(&self, leading: &watch::Sender<bool>, metrics: &Metrics) {
        let mut seen = Seen::default();
        let mut renewed: Option<Instant> = None;
        loop {
            match self.try_once(&mut seen).await {
                Ok(true) => renewed = Some(Instant::now()),
                Ok(false) => renewed = None,
                Err(error) => tracing::warn!(%error, "the Lease cannot be reached"),
            }
            // One that cannot renew stops before another may begin.
            let leads = renewed.is_some_and(|at| at.elapsed() < DURATION - RENEW);
            if leading.send_if_modified(|before| std::mem::replace(before, leads) != leads) {
                tracing::info!(identity = self.identity, leads, "election");
                metrics.leads.set(leads.into());
            }
            tokio::time::sleep(if leads { RENEW } else { LOOK }).await;
        }
    }

    /// Gives the Lease back, so that another need not wait.
    pub async fn resign(&self, leading: &watch::Sender<bool>) {
        if !leading.send_replace(false) {
            return;
        }
        let found = self.datastore.lease(&self.namespace, LEASE).await;
        if let Ok(Some(state)) = found
            && state.holder == self.identity
        {
            // Whatever comes of it: the Lease runs out by itself.
            _ = self.take(Some(&state), "").await;
        }
    }

    async fn try_once(&self, seen: &mut Seen) -> datastore::Result<bool> {
        let found = self.datastore.lease(&self.namespace, LEASE).await?;
        if let Some(state) = &found {
            if state.renewed != seen.renewed || seen.since.is_none() {
                *seen = Seen { renewed: state.renewed.clone(), since: Some(Instant::now()) };
            }
            let is_stale = seen.since.is_some_and(|since| since.elapsed() > DURATION);
            if state.holder != self.identity && !state.holder.is_empty() && !is_stale {
                return Ok(false);
            }
        }
        self.take(found.as_ref(), &self.identity).await
    }

    async fn take(&self, seen: Option<&LeaseState>, holder: &str) -> datastore::Result<bool> {
        let seconds = i32::try_from(DURATION.as_secs()).unwrap_or(i32::MAX);
        let now = datastore::timestamp();
        self.datastore.take_lease((&self.namespace, LEASE), seen, holder, (&now, seconds)).await
    }
}

/// Does `work` while this replica leads, again when it ends, and drops it where it stands when another one leads.
/// Ends when nobody says any more who does.
pub async fn while_leading<W: Future<Output = ()>>(mut leads: watch::Receiver<bool>, work: impl Fn() -> W) {
    while leads.wait_for(|leads| *leads).await.is_ok() {
        let mut resigned = leads.clone();
        tokio::select! {
            () = work() => {}
            _ = resigned.wait_for(|leads| !*leads) => {}
        }
    }
}

/// What comes next of what may not be watched just now.
pub(crate) async fn next<T>(receiver: &mut Option<mpsc::Receiver<T>>) -> Option<T> {
    match receiver {
        Some(receiver) => receiver.recv().await,
        None => std::future::pending().await,
    }
}
