//! Ends connections that policy no longer allows (`policyConntrackMode: Strict`): after rules or sets that concern a
//! pod have changed, the pod's connections are judged by the rules that are wanted now, and exactly those that could
//! not be opened again are forgotten.
//!
//! Beside the dataplane's thread, which judges some hundred at a time in its turn. Pods whose rules change while
//! that goes on are looked at again.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use kernel::interpret::Packet;
use kernel_linux::{Conntrack, Tracked, TrackedConnection};
use parking_lot::Mutex;

/// Connections that are judged in one turn of the dataplane's thread.
const TURN: usize = 256;
/// Between two looks at the table of connections.
const PAUSE: Duration = Duration::from_millis(200);
/// Before a look that failed is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Where the dataplane's thread says which addresses are to be looked at.
pub struct Strict {
    addresses: Arc<Mutex<BTreeSet<IpAddr>>>,
    wake: SyncSender<()>,
}

/// The side that looks.
pub struct Checker {
    addresses: Arc<Mutex<BTreeSet<IpAddr>>>,
    woken: Receiver<()>,
}

impl Strict {
    pub fn new() -> (Self, Checker) {
        // One message that waits is as good as many.
        let (wake, woken) = sync_channel(1);
        let addresses: Arc<Mutex<BTreeSet<IpAddr>>> = Arc::default();
        (Self { addresses: addresses.clone(), wake }, Checker { addresses, woken })
    }

    /// What policy says of pods with these addresses has changed, and the kernel has it.
    pub fn changed(&self, addresses: impl IntoIterator<Item = IpAddr>) {
        self.addresses.lock().extend(addresses);
        // Full: the checker will look anyway. Closed: the agent ends.
        let _ = self.wake.try_send(());
    }
}

/// The table of connections, as far as this needs it.
pub trait Table {
    type Entry;
    fn of(&mut self, addresses: &BTreeSet<IpAddr>) -> io::Result<Vec<Self::Entry>>;
    fn packet(entry: &Self::Entry) -> Packet;
    fn forget(&mut self, entries: &[Self::Entry]) -> io::Result<usize>;
}

impl Table for Conntrack {
    type Entry = Tracked;

    fn of(&mut self, addresses: &BTreeSet<IpAddr>) -> io::Result<Vec<Tracked>> {
        Conntrack::of(self, addresses)
    }

    fn packet(entry: &Tracked) -> Packet {
        first_packet(&entry.connection)
    }

    fn forget(&mut self, entries: &[Tracked]) -> io::Result<usize> {
        Conntrack::forget(self, entries)
    }
}

impl Checker {
    /// Looks whenever something has changed, until the other side is gone. `judge` says of packets which are
    /// stopped; nothing when nobody can say.
    pub fn run<T: Table>(
        self,
        mut open: impl FnMut() -> io::Result<T>,
        mut judge: impl FnMut(Vec<Packet>) -> Vec<bool>,
    ) {
        while self.woken.recv().is_ok() {
            loop {
                let addresses = std::mem::take(&mut *self.addresses.lock());
                if addresses.is_empty() {
                    break;
                }
                match open().and_then(|mut table| check(&mut table, &addresses, &mut judge)) {
                    Ok(ended) => {
                        if ended > 0 {
                            tracing::info!(ended, "connections that policy no longer allows are forgotten");
                        }
                        thread::sleep(PAUSE);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "connections cannot be compared with policy; will be retried");
                        self.addresses.lock().extend(addresses);
                        if self.woken.recv_timeout(RETRY) == Err(RecvTimeoutError::Disconnected) {
                            return;
                        }
                    }
                }
            }
        }
    }
}

fn check<T: Table>(
    table: &mut T,
    addresses: &BTreeSet<IpAddr>,
    judge: &mut impl FnMut(Vec<Packet>) -> Vec<bool>,
) -> io::Result<usize> {
    let mut entries = table.of(addresses)?;
    let mut ended = 0;
    while !entries.is_empty() {
        let turn = entries.split_off(entries.len().saturating_sub(TURN));
        let stopped = judge(turn.iter().map(T::packet).collect());
        if stopped.len() != turn.len() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the dataplane did not answer"));
        }
        let denied = turn.into_iter().zip(stopped).filter(|(_, is_stopped)| *is_stopped);
        let denied: Vec<_> = denied.map(|(entry, _)| entry).collect();
        if !denied.is_empty() {
            ended += table.forget(&denied)?;
        }
    }
    Ok(ended)
}

/// The packet that would open a connection again, through no interface yet.
fn first_packet(connection: &TrackedConnection) -> Packet {
    let TrackedConnection { original, reply, .. } = connection;
    let port = original.destination_port;
    let mut packet = Packet::new(original.source, original.destination, original.protocol, port);
    packet.source_port = original.source_port;
    packet.icmp = original.icmp;
    let server = (reply.source, reply.source_port);
    let is_translated = server != (original.destination, original.destination_port);
    packet.service = (is_translated && original.protocol.has_ports()).then_some(server);
    packet
}

#[cfg(test)]
mod tests {
    use model::Protocol;

    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u16>>>);

    impl Table for Memory {
        type Entry = u16;

        fn of(&mut self, _: &BTreeSet<IpAddr>) -> io::Result<Vec<u16>> {
            Ok(self.0.lock().clone())
        }

        fn packet(port: &u16) -> Packet {
            let address = "10.65.0.1".parse().unwrap();
            Packet::new(address, address, Protocol::TCP, *port)
        }

        fn forget(&mut self, ports: &[u16]) -> io::Result<usize> {
            self.0.lock().retain(|port| !ports.contains(port));
            Ok(ports.len())
        }
    }

    #[test]
    fn exactly_what_is_stopped_now_is_forgotten() {
        let table = Memory(Arc::new(Mutex::new((0..1000).collect())));
        let (strict, checker) = Strict::new();
        strict.changed(["10.65.0.1".parse().unwrap()]);
        drop(strict);

        let open = {
            let table = table.clone();
            move || Ok(table.clone())
        };
        checker.run(open, |packets| packets.iter().map(|packet| packet.destination_port % 2 == 0).collect());

        assert_eq!(table.0.lock().len(), 500);
        assert!(table.0.lock().iter().all(|port| port % 2 == 1));
    }

    #[test]
    fn who_cannot_be_judged_stays() {
        let table = Memory(Arc::new(Mutex::new(vec![80])));
        let (strict, checker) = Strict::new();
        strict.changed(["10.65.0.1".parse().unwrap()]);
        drop(strict);

        let open = {
            let table = table.clone();
            move || Ok(table.clone())
        };
        checker.run(open, |_| Vec::new());

        assert_eq!(*table.0.lock(), [80]);
    }
}
