//! WireGuard between nodes: links, who stands behind them, and with whom we have come to terms.
//!
//! A destination is sent through WireGuard when its node and we have come to terms, not before: until then what is sent
//! would be lost, and the other side may never have heard of us. Once it is sent so, it stays as long as the node has a
//! key. Links and nodes that are not wanted any more stay for a while: others may still send through them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::{Duration, Instant};

use felix_render::WireguardOutput;
use kernel::{
    NextHop, PROTO_FELIX, Route, RouteKey, RouteKind, WireguardLink, WireguardLinks as _, WireguardPeerKey,
    WireguardPeers as _, WireguardSession, wireguard_link_name,
};
use model::{Family, WireguardKey};

use crate::audit::{self, KindAudit};
use crate::ports::Ports;
use crate::stage::Stage;
use crate::status::{Kind, Report, Status};

/// How long nothing must have come through a link, or from a node behind it, before it goes when it is not wanted any
/// more: the agent of another node may just be starting, and its kernel sends on as it was told.
const LINGER: Duration = Duration::from_secs(15);
/// It goes then whatever comes.
const LONGEST_LINGER: Duration = Duration::from_secs(600);
/// First pause before nodes are looked at again with whom we have not come to terms; it doubles.
const FIRST_LOOK: Duration = Duration::from_millis(100);
const LONGEST_LOOK: Duration = Duration::from_secs(5);

/// The drivers of WireGuard.
pub struct WireguardDrivers<P: Ports> {
    pub links: P::WireguardLinks,
    pub peers: P::WireguardPeers,
}

pub(crate) struct WireguardStage<P: Ports> {
    links: Stage<P::WireguardLinks>,
    peers: Stage<P::WireguardPeers>,
    link_wishes: BTreeMap<String, WireguardLink>,
    mtus: BTreeMap<Family, u32>,
    /// Who a destination is behind.
    ways: BTreeMap<RouteKey, WireguardPeerKey>,
    /// Those of the wanted with whom we have not come to terms: few, but for the first moments.
    unmet: BTreeSet<WireguardPeerKey>,
    /// When to look at the others, and the pause behind that.
    look_at: Option<Instant>,
    has_looked: bool,
    pause: Duration,
    /// When what is not wanted any more may go.
    link_ends: BTreeMap<String, End>,
    peer_ends: BTreeMap<WireguardPeerKey, End>,
}

/// When something that is not wanted any more may go.
struct End {
    at: Instant,
    /// However much still comes.
    limit: Instant,
    /// Bytes that had come when it was looked at last.
    received: u64,
}

impl End {
    fn new(now: Instant, received: u64) -> Self {
        Self { at: now + LINGER, limit: now + LONGEST_LINGER, received }
    }

    /// When its time has come and somebody still sends, it stays on.
    fn look(&mut self, now: Instant, received: u64) {
        if self.at <= now && std::mem::replace(&mut self.received, received) != received && now < self.limit {
            self.at = now + LINGER;
        }
    }
}

impl<P: Ports> WireguardStage<P> {
    pub(crate) fn new(drivers: WireguardDrivers<P>) -> Self {
        Self {
            links: Stage::new(Kind::WireguardLinks, drivers.links, String::clone),
            peers: Stage::new(Kind::WireguardPeers, drivers.peers, |key| {
                format!("{} behind {}", key.key, key.interface)
            }),
            link_wishes: BTreeMap::new(),
            mtus: BTreeMap::new(),
            ways: BTreeMap::new(),
            unmet: BTreeSet::new(),
            look_at: None,
            has_looked: false,
            pause: FIRST_LOOK,
            link_ends: BTreeMap::new(),
            peer_ends: BTreeMap::new(),
        }
    }

    /// Gives back the destinations whose way may be another now.
    pub(crate) fn want(&mut self, output: WireguardOutput) -> BTreeSet<RouteKey> {
        for (name, link) in output.links {
            match link {
                Some(link) => _ = self.link_wishes.insert(name.clone(), link),
                None => _ = self.link_wishes.remove(&name),
            }
            self.want_link(name);
        }
        for (key, peer) in output.peers {
            match peer {
                Some(_) => {
                    self.look_soon();
                    if !self.peers.table.desired().contains_key(&key) {
                        self.unmet.insert(key.clone());
                    }
                }
                None => _ = self.unmet.remove(&key),
            }
            self.peers.table.set(key, peer);
        }
        let concerned = output.ways.keys().copied().collect();
        for (key, peer) in output.ways {
            match peer {
                Some(peer) => _ = self.ways.insert(key, peer),
                None => _ = self.ways.remove(&key),
            }
        }
        concerned
    }

    fn want_link(&mut self, name: String) {
        let family = if name == wireguard_link_name(Family::V6) { Family::V6 } else { Family::V4 };
        let mtu = self.mtus.get(&family).copied();
        let link = self.link_wishes.get(&name).cloned();
        self.links.table.set(name, link.map(|link| WireguardLink { mtu: link.mtu.or(mtu), ..link }));
    }

    /// Says what MTU the link of a family gets, bytes.
    pub(crate) fn set_mtu(&mut self, family: Family, mtu: u32) {
        if self.mtus.insert(family, mtu) != Some(mtu) {
            self.want_link(wireguard_link_name(family).to_owned());
        }
    }

    fn look_soon(&mut self) {
        self.pause = FIRST_LOOK;
        self.look_at = None;
    }

    pub(crate) fn resync(&mut self, at: Instant) {
        self.links.resync_at(at);
        self.peers.resync_at(at);
    }

    pub(crate) fn set_refresh(&mut self, interval: Duration, now: Instant) {
        self.links.set_refresh(interval, now);
        self.peers.set_refresh(interval, now);
    }

    pub(crate) fn resync_if_due(&mut self, now: Instant, report: &mut Report) {
        self.links.resync_if_due(now, report);
        self.peers.resync_if_due(now, report);
    }

    /// Makes links and whom to talk with, and finds out with whom that works. Gives back the links that were made anew,
    /// which have lost the routes through them, and the destinations whose way may be another now.
    pub(crate) fn apply_puts(
        &mut self,
        now: Instant,
        report: &mut Report,
    ) -> (Vec<String>, BTreeSet<RouteKey>) {
        let mut made: Vec<String> = self.links.table.pending_puts().cloned().collect();
        made.retain(|name| !self.links.table.actual().contains_key(name));
        self.links.apply_puts(now, report);
        made.retain(|name| !self.links.table.is_pending(name));
        for name in &made {
            let behind = self.peers.table.desired().keys().filter(|peer| peer.interface == *name);
            for peer in behind.cloned().collect::<Vec<_>>() {
                self.peers.table.forget(&peer);
                self.unmet.insert(peer);
            }
        }
        // A kernel without WireGuard is asked for the link alone, not for each of a thousand nodes.
        if self.links.table.actual().keys().any(|name| self.link_wishes.contains_key(name)) {
            self.peers.apply_puts(now, report);
        }
        let mut changed = self.look(now);
        if !made.is_empty() {
            let on_new_link = self.ways.iter().filter(|(_, peer)| made.contains(&peer.interface));
            changed.extend(on_new_link.map(|(key, _)| *key));
        }
        (made, changed)
    }

    /// Asks the kernel how it goes with those who are not ready, and greets them again.
    fn look(&mut self, now: Instant) -> BTreeSet<RouteKey> {
        let mut unready: Vec<WireguardPeerKey> = self.unready().cloned().collect();
        self.has_looked = false;
        if unready.is_empty() || self.look_at.is_some_and(|at| at > now) {
            return BTreeSet::new();
        }
        self.has_looked = true;
        self.look_at = Some(now + self.pause);
        self.pause = (self.pause * 2).min(LONGEST_LOOK);
        let Ok(sessions) = self.sessions() else { return BTreeSet::new() };
        let has_session =
            |peer: &WireguardPeerKey| sessions.get(peer).is_some_and(|one| one.handshake.is_some());
        unready.iter().filter(|peer| has_session(peer)).for_each(|peer| _ = self.unmet.remove(peer));
        unready.retain(|peer| !has_session(peer));
        // What is greeted in vain is greeted again.
        let _ = self.peers.table.driver_mut().greet(&unready);
        let changed = self.ways.iter().filter(|(_, peer)| has_session(peer));
        changed.map(|(key, _)| *key).collect()
    }

    /// Those that the kernel knows and with whom we have not come to terms.
    fn unready(&self) -> impl Iterator<Item = &WireguardPeerKey> {
        self.unmet.iter().filter(|peer| !self.peers.table.is_pending(peer))
    }

    fn is_ready(&self, peer: &WireguardPeerKey) -> bool {
        self.peers.table.desired().contains_key(peer) && !self.unmet.contains(peer)
    }

    /// How it goes with every node.
    pub(crate) fn sessions(&mut self) -> io::Result<BTreeMap<WireguardPeerKey, WireguardSession>> {
        self.peers.table.driver_mut().sessions()
    }

    /// The route of a destination through WireGuard, if it is to be sent so. `present` is the one that it has, and
    /// `is_lost` says that it has none, whosesoever, without.
    pub(crate) fn route(
        &self,
        key: &RouteKey,
        present: Option<&Route>,
        is_lost: impl FnOnce() -> bool,
    ) -> Option<Route> {
        let peer = self.ways.get(key)?;
        if !self.links.table.actual().contains_key(&peer.interface) || self.peers.table.is_pending(peer) {
            return None;
        }
        let route = through(&peer.interface);
        let is_so = present.is_some_and(|present| route.is_realised_by(present));
        (is_so || self.is_ready(peer) || is_lost()).then_some(route)
    }

    /// Was somebody looked at in this very apply?
    pub(crate) fn looks_now(&self) -> bool {
        self.has_looked
    }

    /// Destinations that wait for their node.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &RouteKey> {
        let ways = (!self.unmet.is_empty()).then_some(&self.ways).into_iter().flatten();
        ways.filter(|(_, peer)| self.unmet.contains(peer)).map(|(key, _)| key)
    }

    /// What is not wanted any more goes when its time has come, links when `is_used` says that no route needs them.
    pub(crate) fn apply_deletes(
        &mut self,
        now: Instant,
        report: &mut Report,
        is_used: impl Fn(&String) -> bool,
    ) {
        self.let_linger(now);
        let (links, peers) = (&self.link_ends, &self.peer_ends);
        let is_early = |end: Option<&End>| end.is_some_and(|end| end.at > now);
        // With its link a node goes too, and not before it.
        self.peers.apply_deletes_but(now, report, |peer| {
            is_early(peers.get(peer)) || links.contains_key(&peer.interface)
        });
        let gone: Vec<String> = self.links.table.pending_deletes().cloned().collect();
        self.links.apply_deletes_but(now, report, |name| is_early(links.get(name)) || is_used(name));
        // What is still in use is asked about again.
        let late = self.link_ends.values_mut().chain(self.peer_ends.values_mut()).filter(|end| end.at <= now);
        late.for_each(|end| end.at = now + LONGEST_LOOK);
        for name in gone.iter().filter(|name| !self.links.table.is_pending(name)) {
            let behind = self.peers.table.actual().keys().filter(|peer| peer.interface == *name);
            for peer in behind.cloned().collect::<Vec<_>>() {
                self.peers.table.forget(&peer);
            }
        }
    }

    /// Notes what is not wanted any more, and whether others still send through it.
    fn let_linger(&mut self, now: Instant) {
        let links: BTreeSet<String> = self.links.table.pending_deletes().cloned().collect();
        let peers: BTreeSet<WireguardPeerKey> = self.peers.table.pending_deletes().cloned().collect();
        self.link_ends.retain(|name, _| links.contains(name));
        self.peer_ends.retain(|peer, _| peers.contains(peer));
        let is_known = links.len() == self.link_ends.len() && peers.len() == self.peer_ends.len();
        if is_known && self.link_ends.values().chain(self.peer_ends.values()).all(|end| end.at > now) {
            return;
        }
        let sessions = self.sessions().unwrap_or_default();
        for name in links {
            let on_link = sessions.iter().filter(|(peer, _)| peer.interface == name);
            let received = on_link.map(|(_, session)| session.received).sum();
            self.link_ends.entry(name).or_insert_with(|| End::new(now, received)).look(now, received);
        }
        for peer in peers {
            let received = sessions.get(&peer).map_or(0, |session| session.received);
            self.peer_ends.entry(peer).or_insert_with(|| End::new(now, received)).look(now, received);
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let ends = self.link_ends.values().chain(self.peer_ends.values()).map(|end| end.at).min();
        let look = self.look_at.filter(|_| self.unready().next().is_some());
        [self.links.poll_timeout(), self.peers.poll_timeout(), look, ends].into_iter().flatten().min()
    }

    pub(crate) fn uses_link(&self, name: &str) -> bool {
        self.link_wishes.contains_key(name)
    }

    /// The public keys of the links that are wanted and there.
    pub(crate) fn keys(&self) -> BTreeMap<Family, WireguardKey> {
        let keys = self.links.table.driver().keys();
        let of_family = |family: Family| {
            let name = wireguard_link_name(family);
            let is_there =
                self.link_wishes.contains_key(name) && self.links.table.actual().contains_key(name);
            Some((family, *keys.get(name).filter(|_| is_there)?))
        };
        Family::ALL.into_iter().filter_map(of_family).collect()
    }

    /// Why the link of a family that is wanted is not there.
    pub(crate) fn errors(&self) -> impl Iterator<Item = String> + '_ {
        let wanted = self.link_wishes.keys();
        wanted.filter_map(|name| self.links.table.error(name).map(|error| format!("{name}: {error}")))
    }

    /// Those with whom we have not come to terms for a while, by link and key.
    pub(crate) fn silent(&self) -> Vec<WireguardPeerKey> {
        let is_late = self.pause >= LONGEST_LOOK;
        self.unready().filter(|_| is_late).cloned().collect()
    }

    pub(crate) fn add_to(&self, status: &mut Status) {
        self.links.add_to(status);
        self.peers.add_to(status);
        // What stays for a while is not pending.
        for (kind, ends) in
            [(Kind::WireguardLinks, self.link_ends.len()), (Kind::WireguardPeers, self.peer_ends.len())]
        {
            if let Some(pending) = status.pending.get_mut(&kind) {
                *pending = pending.saturating_sub(ends);
            }
        }
    }

    pub(crate) fn audit(&mut self) -> [(Kind, KindAudit); 2] {
        let mut links = audit::of_stage(&mut self.links, audit::wireguard);
        links.differences.retain(|difference| difference.intended.is_some());
        let mut peers = audit::of_stage(&mut self.peers, audit::wireguard_peer);
        peers.differences.retain(|difference| difference.intended.is_some());
        [(Kind::WireguardLinks, links), (Kind::WireguardPeers, peers)]
    }
}

fn through(interface: &str) -> Route {
    let hop = NextHop { gateway: None, interface: Some(interface.to_owned()), onlink: false };
    Route { kind: RouteKind::Unicast(vec![hop]), protocol: PROTO_FELIX, source: None, mtu: None }
}

/// Does a route lead through a WireGuard link of ours?
pub(crate) fn is_through(route: &Route) -> bool {
    let names = Family::ALL.map(wireguard_link_name);
    route.hops().iter().any(|hop| hop.interface.as_deref().is_some_and(|name| names.contains(&name)))
}
