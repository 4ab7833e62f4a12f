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
        let mut state = self.state.lock();
        let old = state.live.insert(endpoint.interface.clone(), endpoint.addresses.clone());
        state.leaving.extend(old.into_iter().flatten());
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
        let old = state.live.remove(interface);
        state.leaving.extend(old.into_iter().flatten());
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
    /// Flushes whenever something has left, until the other side is gone.
    pub fn run(self, mut flush: impl FnMut(&BTreeSet<IpAddr>) -> io::Result<usize>) {
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
                    failed.clear();
                }
                Err(error) => tracing::warn!(%error, "connections of deleted pods stay; will be retried"),
            }
        }
    }

    fn take(&self) -> BTreeSet<IpAddr> {
        std::mem::take(&mut self.state.lock().left)
    }

    /// An address that another pod has by now keeps its connections: they may be that pod's.
    fn without_live(&self, mut addresses: BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        for address in self.state.lock().live.values().flatten() {
            addresses.remove(address);
        }
        addresses
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
    fn an_address_that_comes_back_in_time_is_kept() {
        let (connections, flusher) = Connections::new();
        connections.up(&pod("cali1", &["10.65.0.1"]));
        connections.down("cali1");
        connections.routes_gone();

        connections.up(&pod("cali2", &["10.65.0.1"]));

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
        flusher.run(|addresses| {
            all.push(addresses.clone());
            Ok(0)
        });
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
