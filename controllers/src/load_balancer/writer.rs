//! Makes what the index says so.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use datastore::{AssignRequest, Datastore, Followed, IpamClient, NodeEvent, timestamp};
use ipam::names;
use model::{AllowedUse, Family, LoadBalancerService, NodeName, Update};
use tokio::sync::mpsc;

use super::{Index, Step};
use crate::leader::next;
use crate::metrics::Metrics;
use crate::settings::Settings;

/// After a change, for others to come.
const GATHER: Duration = Duration::from_millis(200);
/// After something failed.
const RETRY: Duration = Duration::from_secs(5);
/// A Service that cannot have an address is tried again after so long, and twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Writes until `updates` ends.
pub async fn write(
    datastore: &Datastore,
    updates: &mut mpsc::Receiver<Update>,
    mut settings: Settings,
    metrics: &Metrics,
) {
    let node = NodeName::from(names::LOAD_BALANCER);
    let mut writer = Writer {
        datastore,
        client: IpamClient::new(datastore, node.clone()),
        node,
        index: Index::default(),
        metrics,
        waits: BTreeMap::new(),
    };
    settings.mark_changed();
    let mut services = None;
    loop {
        if services.is_none() && writer.index.is_needed() {
            services = Some(datastore.watch_load_balancers());
        }
        let pause = writer.flush().await;
        let mut until = tokio::time::Instant::now() + pause;
        let mut is_first = true;
        loop {
            tokio::select! {
                update = updates.recv() => match update {
                    Some(update) => writer.observe(&update),
                    None => return,
                },
                Some(said) = next(&mut services) => writer.service(said),
                changed = settings.changed() => {
                    if changed.is_err() { return }
                    if let Some(settings) = settings.borrow_and_update().as_ref() {
                        writer.index.assign(settings.assign_ips);
                    }
                }
                () = tokio::time::sleep_until(until) => break,
            }
            // What comes within a moment is one change.
            if std::mem::take(&mut is_first) {
                until = until.min(tokio::time::Instant::now() + GATHER);
            }
        }
    }
}

struct Writer<'a> {
    datastore: &'a Datastore,
    client: IpamClient,
    node: NodeName,
    index: Index,
    metrics: &'a Metrics,
    /// Services that cannot have what they ask for, by handle: what was said of them, and when they are tried again.
    waits: BTreeMap<String, Wait>,
}

struct Wait {
    said: String,
    until: Instant,
    pause: Duration,
}

impl Writer<'_> {
    fn observe(&mut self, update: &Update) {
        // Of blocks the client knows what it wrote itself.
        if !matches!(update, Update::Block(..)) && self.client.observe(update, &self.node) {
            self.waits.values_mut().for_each(|wait| wait.until = Instant::now());
        }
        self.index.observe(update);
    }

    fn service(&mut self, said: Followed<Option<LoadBalancerService>>) {
        match said {
            Followed::Put(name, service) => {
                if let Some(wait) = service.as_ref().and_then(|service| self.waits.get_mut(&service.handle)) {
                    wait.until = Instant::now();
                }
                self.index.service(name, service);
            }
            Followed::Gone(name) => self.index.service(name, None),
            Followed::Listed => self.index.has_services(),
        }
    }

    /// Does what is to be done; how long until there is something to do again by itself.
    async fn flush(&mut self) -> Duration {
        let mut pause = Duration::from_secs(3600);
        let steps = self.index.steps();
        let asking: Vec<String> = steps.iter().filter_map(waiting).collect();
        self.waits.retain(|handle, _| asking.contains(handle));
        for step in steps {
            if let Some(wait) = waiting(&step).and_then(|handle| self.waits.get(&handle)) {
                let left = wait.until.saturating_duration_since(Instant::now());
                if !left.is_zero() {
                    pause = pause.min(left);
                    continue;
                }
            }
            if let Err(error) = self.take(step).await {
                tracing::warn!(error = %format!("{error:#}"), "addresses of Services are tried again");
                self.metrics.load_balancer_failures.inc();
                pause = pause.min(RETRY);
            }
        }
        let pauses = self.waits.values().map(|wait| wait.until.saturating_duration_since(Instant::now()));
        self.metrics.load_balancer_addresses.set(i64::try_from(self.index.addresses()).unwrap_or(i64::MAX));
        pauses.chain([pause]).min().unwrap_or(pause)
    }

    async fn take(&mut self, step: Step) -> anyhow::Result<()> {
        match step {
            Step::Assign(service, families) => self.assign(service, &families).await,
            Step::Show(service, addresses) => self.show(&service, &addresses).await,
            Step::Release(handle) => self.release(&handle).await,
            Step::ReleaseGone(handle, key) => {
                // A list that shows nothing proves nothing.
                let found = self.datastore.load_balancer(&key).await?;
                if found.is_some_and(|service| service.handle == handle) {
                    return Ok(());
                }
                self.release(&handle).await
            }
            Step::Complain(service, reason) => {
                self.complain(&service, reason).await;
                Ok(())
            }
        }
    }

    async fn assign(&mut self, service: LoadBalancerService, families: &[Family]) -> anyhow::Result<()> {
        let Ok(asks) = &service.asks else { return Ok(()) };
        let mut request = AssignRequest::new(&service.handle, AllowedUse::LoadBalancer);
        request.addresses.clone_from(&asks.addresses);
        if asks.addresses.is_empty() {
            request.ipv4 = families.contains(&Family::V4).into();
            request.ipv6 = families.contains(&Family::V6).into();
            request.ipv4_pools.clone_from(&asks.ipv4_pools);
            request.ipv6_pools.clone_from(&asks.ipv6_pools);
        }
        let attributes = [
            (names::SERVICE, &*service.key.name),
            (names::NAMESPACE, &*service.key.namespace),
            (names::TYPE, names::TYPE_LOAD_BALANCER),
            (names::TIMESTAMP, &timestamp()),
        ];
        request.attributes = attributes.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        match self.client.assign(&request).await {
            Ok(mut addresses) => {
                addresses.sort_unstable();
                self.waits.remove(&service.handle);
                self.show(&service, &addresses).await
            }
            Err(datastore::IpamError::Assign(error)) => {
                self.metrics.load_balancer_failures.inc();
                self.complain(&service, error.to_string()).await;
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn show(&self, service: &LoadBalancerService, addresses: &[IpAddr]) -> anyhow::Result<()> {
        match self.datastore.write_ingress(service, addresses).await {
            Ok(()) => tracing::info!(service = %service.key, ?addresses, "addresses of a Service"),
            // It went meanwhile; the watch tells.
            Err(datastore::Error::NotFound { .. } | datastore::Error::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    async fn release(&self, handle: &str) -> anyhow::Result<()> {
        self.client.release_at_once(handle).await?;
        tracing::info!(handle, "addresses of a Service given back");
        Ok(())
    }

    /// Once for each reason: in the log, and in an Event of the Service.
    async fn complain(&mut self, service: &LoadBalancerService, reason: String) {
        let known = self.waits.remove(&service.handle);
        let pause = known.as_ref().map_or(FIRST_PAUSE, |wait| (wait.pause * 2).min(LONGEST_PAUSE));
        if known.is_none_or(|wait| wait.said != reason) {
            tracing::warn!(service = %service.key, reason, "a Service cannot have an address");
            let event =
                NodeEvent { is_warning: true, reason: "NoAddress".to_owned(), message: reason.clone() };
            let told = self.datastore.publish_about_service(&service.key, &event, &timestamp()).await;
            if let Err(error) = told {
                tracing::warn!(service = %service.key, %error, "the Event cannot be written");
            }
        }
        let wait = Wait { said: reason, until: Instant::now() + pause, pause };
        self.waits.insert(service.handle.clone(), wait);
    }
}

/// The handle of a Service that has not what it should have.
fn waiting(step: &Step) -> Option<String> {
    match step {
        Step::Assign(service, _) | Step::Complain(service, _) => Some(service.handle.clone()),
        _ => None,
    }
}
