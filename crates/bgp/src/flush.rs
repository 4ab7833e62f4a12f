//! Adj-RIB-Out. Owns what each peer has from us, and turns changes of the table into UPDATEs.
//!
//! A peer is a cursor on the log of changes: a new peer starts at its beginning, a slow one stays behind,
//! and neither costs memory by the route. Bytes are made only as fast as the transport takes them.

use std::collections::HashMap;
use std::sync::Arc;

use bgp_packet::{Family, PathAttributes, Prefix, encode_end_of_rib, encode_reach, encode_unreach};

use crate::export::Exporter;
use crate::peer::Session;
use crate::rib::{PeerIndex, Source};
use crate::{Event, Output, Speaker};

/// Octets that may wait in the transport for one peer before no more are made.
const WINDOW: usize = 256 * 1024;
/// Changes that are looked at in one go.
const BATCH: usize = 2048;

/// Routes to announce and to withdraw, grouped by what goes into one message.
#[derive(Default)]
struct Batch {
    order: Vec<Arc<PathAttributes>>,
    reach: HashMap<(*const PathAttributes, Family), Vec<Prefix>>,
    unreach: [Vec<Prefix>; 2],
}

impl Speaker {
    /// Makes output for peers that have changes to get and room to get them.
    pub(crate) fn flush(&mut self) {
        if self.flushed != self.rib.now() {
            self.flushed = self.rib.now();
            let all = (0..self.peers.len()).filter(|i| self.peers[*i].is_some());
            self.pending = all.filter_map(|i| PeerIndex::try_from(i).ok()).collect();
        }
        while self.outputs.is_empty() {
            let Some(index) = self.pending.pop_front() else {
                self.collect();
                return;
            };
            if self.flush_peer(index) {
                self.pending.push_back(index);
            }
        }
    }

    /// Lets the table drop what every consumer has seen.
    fn collect(&mut self) {
        let cursors = self.peers.iter().flatten().filter_map(|p| p.session.as_ref()).map(|s| s.cursor);
        let owner = self.start.report_routes.then_some(self.route_cursor);
        let seen = cursors.chain(owner).min().unwrap_or(self.rib.now());
        self.rib.collect(seen);
    }

    /// Sends one batch to a peer; gives back whether more is waiting.
    fn flush_peer(&mut self, index: PeerIndex) -> bool {
        let deferring = self.deferral.is_some();
        let Some(session) = self.peers.get(index as usize).and_then(|p| p.as_ref()?.session.as_ref()) else {
            return false;
        };
        if session.in_flight >= WINDOW {
            return false;
        }
        let (cursor, conn) = (session.cursor, session.conn);
        let (prefixes, next) = self.rib.changes(cursor, BATCH);
        let mut bytes = Vec::new();
        if next > cursor {
            let batch = self.batch(index, &prefixes, deferring);
            let Some(session) = self.peer_mut(index).and_then(|p| p.session.as_mut()) else { return false };
            session.cursor = next;
            let lost = batch.encode(session, &mut bytes);
            lost.iter().for_each(|prefix| drop(session.advertised.remove(prefix)));
            self.report_lost(index, &lost);
        }
        let now = self.rib.now();
        let Some(session) = self.peer_mut(index).and_then(|p| p.session.as_mut()) else { return false };
        if !deferring {
            let cursor = session.cursor;
            session.end_of_rib.retain(|(family, at)| {
                let due = cursor >= *at;
                if due {
                    encode_end_of_rib(&mut bytes, *family);
                }
                !due
            });
        }
        session.in_flight += bytes.len();
        let more = session.cursor < now;
        if !bytes.is_empty() {
            self.outputs.push_back(Output::Send { conn, bytes: bytes.into() });
        }
        more
    }

    /// Says which routes no message could carry.
    fn report_lost(&mut self, index: PeerIndex, lost: &[Prefix]) {
        let Some(peer) = self.peer(index).map(|p| p.key) else { return };
        for prefix in lost {
            let detail = format!("attributes of {prefix} are too long to be sent");
            self.events.push_back(Event::Malformed { peer, detail });
        }
    }

    /// Sorts changed prefixes into what the peer gets and what is taken from it.
    fn batch(&mut self, index: PeerIndex, prefixes: &[Prefix], deferring: bool) -> Batch {
        let mut batch = Batch::default();
        let mut exported: HashMap<(*const PathAttributes, Source), Arc<PathAttributes>> = HashMap::new();
        for prefix in prefixes {
            let Some(Some(peer)) = self.peers.get(index as usize) else { break };
            let Some(session) = peer.session.as_ref() else { break };
            if !session.families.contains(&prefix.family()) {
                continue;
            }
            let config = &self.config;
            let exporter = Exporter { config, index, peer, session, rib: &self.rib };
            let best = self.rib.best(prefix).filter(|path| !deferring || path.source == Source::Local);
            let attributes = best.and_then(|path| exporter.export(prefix, path).map(|a| (path, a)));
            let attributes = attributes.map(|(path, a)| ((Arc::as_ptr(&path.attributes), path.source), a));
            let attributes = attributes.map(|(key, a)| match exported.get(&key) {
                Some(known) if **known == a => known.clone(),
                _ => {
                    let shared = self.rib.intern(a);
                    exported.insert(key, shared.clone());
                    shared
                }
            });
            let Some(session) = self.peers[index as usize].as_mut().and_then(|p| p.session.as_mut()) else {
                break;
            };
            batch.add(session, *prefix, attributes);
        }
        batch
    }

    /// Sends a peer everything again (RFC 2918).
    pub(crate) fn send_again(&mut self, index: PeerIndex) {
        let now = self.rib.now();
        if let Some(session) = self.peer_mut(index).and_then(|p| p.session.as_mut()) {
            session.cursor = 0;
            session.refresh_until = now;
            self.pending.push_back(index);
        }
    }

    /// Looks at everything again for a peer, and sends what differs (after a change of policy).
    pub(crate) fn export_again(&mut self, index: PeerIndex) {
        if let Some(session) = self.peer_mut(index).and_then(|p| p.session.as_mut()) {
            session.cursor = 0;
            self.pending.push_back(index);
        }
    }
}

impl Batch {
    /// Notes one prefix and keeps Adj-RIB-Out.
    fn add(&mut self, session: &mut Session, prefix: Prefix, attributes: Option<Arc<PathAttributes>>) {
        let Some(attributes) = attributes else {
            if session.advertised.remove(&prefix).is_some() {
                self.unreach[usize::from(prefix.family() == Family::Ipv6)].push(prefix);
            }
            return;
        };
        let old = session.advertised.insert(prefix, attributes.clone());
        let same = old.is_some_and(|old| Arc::ptr_eq(&old, &attributes) || old == attributes);
        if same && session.cursor >= session.refresh_until {
            return;
        }
        let key = (Arc::as_ptr(&attributes), prefix.family());
        let group = self.reach.entry(key).or_insert_with(|| {
            self.order.push(attributes);
            Vec::new()
        });
        group.push(prefix);
    }

    /// Appends the UPDATEs: withdrawals first. Gives back prefixes whose attributes fit no message.
    fn encode(mut self, session: &Session, bytes: &mut Vec<u8>) -> Vec<Prefix> {
        for prefixes in &self.unreach {
            encode_unreach(bytes, prefixes, session.options);
        }
        let mut lost = Vec::new();
        for attributes in &self.order {
            for family in Family::ALL {
                let Some(prefixes) = self.reach.remove(&(Arc::as_ptr(attributes), family)) else { continue };
                if encode_reach(bytes, attributes, &prefixes, session.options).is_err() {
                    // What the peer may still have must not stay.
                    encode_unreach(bytes, &prefixes, session.options);
                    lost.extend(prefixes);
                }
            }
        }
        lost
    }
}
