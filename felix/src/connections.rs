//! Forgets the connections of addresses that no local pod has any more, so that the next pod with such an address
//! inherits none. Beside the dataplane's thread: it reads the whole table of connections.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use model::{HostInterface, LocalEndpoint};
use parking_lot::Mutex;

/// Pause before a flush that failed is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Which addresses local pods have, and which of those that they had are still to be flushed.
pub struct Connections {
    state: Arc<Mutex<State>>,
    wake: SyncSender<()>,
}

#[derive(Default)]
struct State {
    live: BTreeMap<HostInterface, Vec<IpAddr>>,
    /// Their pod is gone, their route perhaps not yet.
    leaving: BTreeSet<IpAddr>,
    /// Their route is gone too.
    left: BTreeSet<IpAddr>,
    /// Another pod has them by now, which is not to start before they are flushed.
    reused: BTreeSet<IpAddr>,
    /// Being flushed.
    flushing: BTreeSet<IpAddr>,
}

/// The side that flushes.
pub struct Flusher {
    state: Arc<Mutex<State>>,
    woken: Receiver<()>,
}

impl Connections {
    pub fn new() -> (Self, Flusher) {
        // One message that waits is as good as many.
        let (wake, woken) = sync_channel(1);
        let state: Arc<Mutex<State>> = Arc::default();
        (Self { state: state.clone(), wake }, Flusher { state, woken })
    }

    /// A pod has these addresses from now on; what it had before and has no more is leaving.
    pub fn up(&self, endpoint: &LocalEndpoint) {
        let state = &mut *self.state.lock();
        let old = state.live.insert(endpoint.interface.clone(), endpoint.addresses.clone());
        let old = old.into_iter().flatten().filter(|address| !endpoint.addresses.contains(address));
        state.leaving.extend(old);
        let is_reused = |address: &&IpAddr| {
            [&state.leaving, &state.left, &state.flushing].iter().any(|set| set.contains(*address))
        };
        let reused: Vec<_> = endpoint.addresses.iter().filter(is_reused).copied().collect();
        state.reused.extend(reused);
    }

    /// May the pod behind an interface start? Not as long as it would inherit connections.
    pub fn is_clean(&self, interface: &str) -> bool {
        let state = self.state.lock();
        let mut addresses = state.live.get(interface).into_iter().flatten();
        !addresses.any(|address| state.reused.contains(address))
    }

    /// The addresses of the local pod behind an interface.
    pub fn addresses_of(&self, interface: &str) -> Vec<IpAddr> {
        self.state.lock().live.get(interface).cloned().unwrap_or_default()
    }

    /// The interface of the local pod that has this address.
    pub fn interface_of(&self, address: IpAddr) -> Option<HostInterface> {
        let state = self.state.lock();
        let mut live = state.live.iter();
        live.find(|(_, addresses)| addresses.contains(&address)).map(|(interface, _)| interface.clone())
    }

    /// The pod behind an interface is gone.
    pub fn down(&self, interface: &str) {
        let mut state = self.state.lock();
        let old = state.live.remove(interface).into_iter().flatten();
        old.for_each(|address| {
            state.reused.remove(&address);
            state.leaving.insert(address);
        });
    }

    /// The routes of the pods that are gone are no longer in the kernel: no packet makes a new connection.
    pub fn routes_gone(&self) {
        let mut state = self.state.lock();
        if state.leaving.is_empty() {
            return;
        }
        let leaving = std::mem::take(&mut state.leaving);
        state.left.extend(leaving);
        // Full: the flusher will look anyway. Closed: the agent ends.
        let _ = self.wake.try_send(());
    }
}

impl Flusher {
    /// Flushes whenever something has left, until the other side is gone; calls `done` after each flush.
    pub fn run(self, mut flush: impl FnMut(&BTreeSet<IpAddr>) -> io::Result<usize>, mut done: impl FnMut()) {
        let mut failed = BTreeSet::new();
        loop {
            let woken = if failed.is_empty() {
                self.woken.recv().map_err(RecvTimeoutError::from)
            } else {
                self.woken.recv_timeout(RETRY)
            };
            if woken == Err(RecvTimeoutError::Disconnected) {
                return;
            }
            failed.append(&mut self.take());
            failed = self.without_live(failed);
            if failed.is_empty() {
                continue;
            }
            match flush(&failed) {
                Ok(forgotten) => {
                    tracing::debug!(addresses = ?failed, forgotten, "connections of deleted pods forgotten");
                    self.flushed();
                    failed.clear();
                    done();
                }
                Err(error) => tracing::warn!(%error, "connections of deleted pods stay; will be retried"),
            }
        }
    }

    fn take(&self) -> BTreeSet<IpAddr> {
        let state = &mut *self.state.lock();
        let taken = std::mem::take(&mut state.left);
        state.flushing.extend(&taken);
        taken
    }

    /// An address that another pod has by now keeps its connections, they may be that pod's; unless that pod has
    /// not started yet.
    fn without_live(&self, mut addresses: BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        let state = &mut *self.state.lock();
        for address in state.live.values().flatten().filter(|address| !state.reused.contains(address)) {
            addresses.remove(address);
        }
        state.flushing.retain(|address| addresses.contains(address));
        addresses
    }

    fn flushed(&self) {
        let state = &mut *self.state.lock();
        for address in std::mem::take(&mut state.flushing) {
            state.reused.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_pod_has_any_more_is_flushed_after_its_route_is_gone() {
        let (connections, flusher) = Connections::new();
        connections.up(&pod("cali1", &["10.65.0.1", "10.65.0.2"]));
        connections.up(&pod("cali2", &["10.65.0.2"]));

        connections.down("cali1");
        assert_eq!(flusher.take(), BTreeSet::new());
        connections.routes_gone();

        assert_eq!(flushed(connections, flusher), [addresses(&["10.65.0.1"])]);
    }

    #[test]
    fn a_pod_with_an_address_of_another_starts_when_its_connections_are_gone() {
        let (connections, flusher) = Connections::new();
        connections.up(&pod("cali1", &["10.65.0.1"]));
        assert!(connections.is_clean("cali1"));
        connections.down("cali1");

        connections.up(&pod("cali2", &["10.65.0.1"]));
        assert!(!connections.is_clean("cali2"), "it would inherit");
        connections.routes_gone();
        flusher.take();
        assert!(!connections.is_clean("cali2"), "not flushed yet");
        assert_eq!(flusher.without_live(addresses(&["10.65.0.1"])), addresses(&["10.65.0.1"]));
        flusher.flushed();

        assert!(connections.is_clean("cali2"));
        assert_eq!(
            flusher.without_live(addresses(&["10.65.0.1"])),
            BTreeSet::new(),
            "its own connections stay"
        );
    }

    #[test]
    fn a_pod_that_is_announced_twice_inherits_nothing_and_loses_nothing() {
        let (connections, flusher) = Connections::new();
        connections.up(&pod("cali1", &["10.65.0.1"]));
        connections.up(&pod("cali1", &["10.65.0.1"]));
        connections.routes_gone();

        assert!(connections.is_clean("cali1"));
        assert_eq!(flushed(connections, flusher), [] as [BTreeSet<IpAddr>; 0]);
    }

    #[test]
    fn an_address_that_a_pod_loses_is_flushed() {
        let (connections, flusher) = Connections::new();
        connections.up(&pod("cali1", &["10.65.0.1", "fd00::1"]));

        connections.up(&pod("cali1", &["10.65.0.1"]));
        connections.routes_gone();

        assert_eq!(flushed(connections, flusher), [addresses(&["fd00::1"])]);
    }

    /// What is flushed until the agent ends.
    fn flushed(connections: Connections, flusher: Flusher) -> Vec<BTreeSet<IpAddr>> {
        drop(connections);
        let mut all = Vec::new();
        flusher.run(
            |addresses| {
                all.push(addresses.clone());
                Ok(0)
            },
            || {},
        );
        all
    }

    fn pod(interface: &str, list: &[&str]) -> LocalEndpoint {
        LocalEndpoint {
            container_id: interface.to_owned(),
            interface: interface.to_owned(),
            pod: model::PodKey::new("default", "web"),
            addresses: addresses(list).into_iter().collect(),
            mac: [2, 0, 0, 0, 0, 1],
        }
    }

    fn addresses(list: &[&str]) -> BTreeSet<IpAddr> {
        list.iter().map(|address| address.parse().unwrap()).collect()
    }
}
