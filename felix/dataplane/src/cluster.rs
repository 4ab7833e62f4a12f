//! What leads to pods on other nodes where the agent itself routes: the order among links, those behind them and
//! routes, and how a route is handed to the speaker.
//!
//! A route of ours that the speaker shall have stands beside its one, with a smaller metric, until that is there: packets
//! never find none.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use felix_render::{ClusterOutput, Hold, WireguardOutput};
use kernel::{Route, RouteKey, VxlanLink, vxlan_link_name};
use model::{Cidr, Family};

use crate::audit::{self, KindAudit};
use crate::local::of_route;
use crate::ports::Ports;
use crate::stage::Stage;
use crate::status::{Kind, Report, Status};
use crate::wireguard::{WireguardDrivers, WireguardStage, is_through};

/// Pause before other programs' routes are read again after that has failed.
const RETRY: Duration = Duration::from_secs(1);

/// The drivers of what leads to other nodes.
pub struct ClusterDrivers<P: Ports> {
    pub vxlans: P::Vxlans,
    pub fdb: P::Fdb,
    pub neighbours: P::Neighbours,
    pub routes: P::Routes,
    pub wireguard: WireguardDrivers<P>,
}

pub(crate) struct ClusterStage<P: Ports> {
    links: Stage<P::Vxlans>,
    fdb: Stage<P::Fdb>,
    neighbours: Stage<P::Neighbours>,
    routes: Stage<P::Routes>,
    pub(crate) wireguard: WireguardStage<P>,
    /// Routes without WireGuard.
    plain: BTreeMap<RouteKey, Route>,
    /// Destinations whose way is to be chosen anew.
    unchosen: BTreeSet<RouteKey>,
    /// Unwanted routes that stay for a while.
    held: BTreeMap<RouteKey, Hold>,
    /// Where somebody else has a way to, as far as was looked.
    of_others: BTreeSet<Cidr>,
    /// When to look again, if a route is held then; at the next apply in any case where something new is held.
    look_at: Option<Instant>,
    is_new_held: bool,
    link_wishes: BTreeMap<String, VxlanLink>,
    mtus: BTreeMap<Family, u32>,
}

impl<P: Ports> ClusterStage<P> {
    pub(crate) fn new(drivers: ClusterDrivers<P>) -> Self {
        Self {
            links: Stage::new(Kind::Vxlans, drivers.vxlans, String::clone),
            fdb: Stage::new(Kind::Fdb, drivers.fdb, |key| {
                let mac = key.mac.map(|octet| format!("{octet:02x}")).join(":");
                format!("{mac} on {}", key.interface)
            }),
            neighbours: Stage::new(Kind::ClusterNeighbours, drivers.neighbours, |key| {
                format!("{} on {}", key.address, key.interface)
            }),
            routes: Stage::new(Kind::ClusterRoutes, drivers.routes, |key| key.destination.to_string()),
            wireguard: WireguardStage::new(drivers.wireguard),
            plain: BTreeMap::new(),
            unchosen: BTreeSet::new(),
            held: BTreeMap::new(),
            of_others: BTreeSet::new(),
            look_at: None,
            is_new_held: false,
            link_wishes: BTreeMap::new(),
            mtus: BTreeMap::new(),
        }
    }

    pub(crate) fn routes_mut(&mut self) -> &mut P::Routes {
        self.routes.table.driver_mut()
    }

    pub(crate) fn want(&mut self, output: ClusterOutput, wireguard: WireguardOutput) {
        self.unchosen.extend(self.wireguard.want(wireguard));
        for (name, link) in output.links {
            match link {
                Some(link) => _ = self.link_wishes.insert(name.clone(), link),
                None => _ = self.link_wishes.remove(&name),
            }
            self.want_link(name);
        }
        output.fdb.into_iter().for_each(|(key, entry)| self.fdb.table.set(key, entry));
        output.neighbours.into_iter().for_each(|(key, entry)| self.neighbours.table.set(key, entry));
        for (key, route) in output.routes {
            self.unchosen.insert(key);
            match route {
                Some(route) => _ = self.plain.insert(key, route),
                None => _ = self.plain.remove(&key),
            }
        }
        for (key, hold) in output.held {
            match hold {
                Some(hold) => {
                    self.held.insert(key, hold);
                    self.is_new_held = true;
                }
                None => _ = self.held.remove(&key),
            }
        }
    }

    fn want_link(&mut self, name: String) {
        let link = self.link_wishes.get(&name).cloned().map(|link| {
            let mtu = self.mtus.get(&Family::of(link.local)).copied();
            VxlanLink { mtu: link.mtu.or(mtu), ..link }
        });
        self.links.table.set(name, link);
    }

    /// Says what MTU the VXLAN link of a family gets, bytes.
    pub(crate) fn set_mtu(&mut self, family: Family, mtu: u32) {
        if self.mtus.insert(family, mtu) != Some(mtu) {
            self.want_link(vxlan_link_name(family).to_owned());
        }
    }

    pub(crate) fn resync(&mut self, at: Instant) {
        self.links.resync_at(at);
        self.fdb.resync_at(at);
        self.neighbours.resync_at(at);
        self.routes.resync_at(at);
        self.wireguard.resync(at);
        self.others_changed(at);
    }

    /// Somebody else's routes have changed: one that is held may go.
    pub(crate) fn others_changed(&mut self, at: Instant) {
        self.look_at = Some(self.look_at.map_or(at, |other| other.min(at)));
    }

    pub(crate) fn set_refresh(&mut self, interval: Duration, now: Instant) {
        self.links.set_refresh(interval, now);
        self.fdb.set_refresh(interval, now);
        self.neighbours.set_refresh(interval, now);
        self.routes.set_refresh(interval, now);
        self.wireguard.set_refresh(interval, now);
    }

    /// Does anything hang on this link?
    pub(crate) fn uses_link(&self, name: &str) -> bool {
        let is_vxlan = self.link_wishes.iter().any(|(own, link)| own == name || link.parent == name);
        is_vxlan || self.wireguard.uses_link(name)
    }

    pub(crate) fn resync_if_due(&mut self, now: Instant, report: &mut Report) {
        self.links.resync_if_due(now, report);
        self.fdb.resync_if_due(now, report);
        self.neighbours.resync_if_due(now, report);
        self.routes.resync_if_due(now, report);
        self.wireguard.resync_if_due(now, report);
    }

    /// What others lead through comes first and goes last.
    pub(crate) fn apply(&mut self, now: Instant, report: &mut Report) {
        let mut made: Vec<String> = self.links.table.pending_puts().cloned().collect();
        self.links.apply_puts(now, report);
        made.retain(|name| !self.links.table.is_pending(name));
        made.iter().for_each(|name| self.link_made(name));
        self.fdb.apply_puts(now, report);
        self.neighbours.apply_puts(now, report);
        self.choose_ways(now, report);
        self.routes.apply_puts(now, report);
        self.look_at_others(now, report);
        if self.routes.table.has_deletes() {
            let held: BTreeSet<RouteKey> = self.held_keys().collect();
            self.routes.apply_deletes_but(now, report, |key| held.contains(key));
        }
        let routes = &self.routes.table;
        let is_used = |name: &String| {
            routes.actual().iter().any(|(key, route)| of_route(key, route).contains(&&**name))
        };
        if self.links.table.has_deletes() {
            self.links.apply_deletes_but(now, report, is_used);
        }
        self.wireguard.apply_deletes(now, report, is_used);
        self.sweep_peers(now, report);
    }

    /// Through WireGuard, or as without it: where something has changed, or nobody else has a way meanwhile.
    fn choose_ways(&mut self, now: Instant, report: &mut Report) {
        let (made, changed) = self.wireguard.apply_puts(now, report);
        made.iter().for_each(|name| self.link_made(name));
        let mut unchosen = std::mem::take(&mut self.unchosen);
        unchosen.extend(changed);
        let has_none = |key: &&RouteKey| !self.plain.contains_key(key) && !self.is_encrypted(key);
        let pathless: BTreeSet<RouteKey> = self.wireguard.waiting().filter(has_none).copied().collect();
        let is_fresh = !pathless.is_empty() && self.wireguard.looks_now() && self.read_others(report);
        unchosen.extend(pathless.into_iter().filter(|_| is_fresh));
        for key in unchosen {
            let plain = self.plain.get(&key);
            let is_lost = || is_fresh && plain.is_none() && !self.of_others.contains(&key.destination);
            let route = self.wireguard.route(&key, self.routes.table.actual().get(&key), is_lost);
            let route = route.or_else(|| plain.cloned());
            // Who is to have the route may not have it back yet.
            self.is_new_held |= route.is_none() && self.held.contains_key(&key);
            self.routes.table.set(key, route);
        }
    }

    fn is_encrypted(&self, key: &RouteKey) -> bool {
        self.routes.table.desired().get(key).is_some_and(is_through)
    }

    /// Who is behind a route that is still there stays.
    fn sweep_peers(&mut self, now: Instant, report: &mut Report) {
        if !self.fdb.table.has_deletes() && !self.neighbours.table.has_deletes() {
            return;
        }
        let hops = self.routes.table.actual().values().flat_map(Route::hops);
        let used: BTreeSet<IpAddr> = hops.filter_map(|hop| hop.gateway).collect();
        let behind = self.neighbours.table.actual().iter().filter(|(key, _)| used.contains(&key.address));
        let macs: BTreeSet<[u8; 6]> = behind.map(|(_, neighbour)| neighbour.mac).collect();
        self.neighbours.apply_deletes_but(now, report, |key| used.contains(&key.address));
        self.fdb.apply_deletes_but(now, report, |key| macs.contains(&key.mac));
    }

    /// A link that was made anew has lost what stood on it.
    fn link_made(&mut self, name: &str) {
        let through = |(key, route): &(&RouteKey, &Route)| of_route(key, route).contains(&name);
        let routes = self.routes.table.desired().iter().filter(through);
        for key in routes.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.routes.table.forget(&key);
        }
        let on = self.fdb.table.desired().keys().filter(|key| key.interface == name);
        on.cloned().collect::<Vec<_>>().iter().for_each(|key| self.fdb.table.forget(key));
        let on = self.neighbours.table.desired().keys().filter(|key| key.interface == name);
        on.cloned().collect::<Vec<_>>().iter().for_each(|key| self.neighbours.table.forget(key));
    }

    fn look_at_others(&mut self, now: Instant, report: &mut Report) {
        let is_due = self.look_at.is_some_and(|at| at <= now) || self.is_new_held;
        if !is_due || !self.routes.table.has_deletes() {
            return;
        }
        self.is_new_held = false;
        self.look_at = (!self.read_others(report)).then(|| now + RETRY);
    }

    /// Finds out where others have a way to; says whether that worked.
    fn read_others(&mut self, report: &mut Report) -> bool {
        match P::routes_of_others(self.routes.table.driver_mut()) {
            Ok(others) => self.of_others = others,
            Err(error) => {
                self.note_failure(&error, report);
                return false;
            }
        }
        true
    }

    fn note_failure(&self, error: &io::Error, report: &mut Report) {
        let what = "those of others (cannot be read)".to_owned();
        report.failed.push(crate::Failed { kind: Kind::ClusterRoutes, what, error: error.to_string() });
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let look_at = self.look_at.filter(|_| self.routes.table.has_deletes());
        let stages = [
            self.links.poll_timeout(),
            self.fdb.poll_timeout(),
            self.neighbours.poll_timeout(),
            self.routes.poll_timeout(),
            self.wireguard.poll_timeout(),
        ];
        stages.into_iter().flatten().chain(look_at).min()
    }

    /// Unwanted routes that are there, and stay.
    fn held_keys(&self) -> impl Iterator<Item = RouteKey> + '_ {
        let unwanted = self.routes.table.pending_deletes();
        unwanted
            .filter(|key| match self.held.get(key) {
                None => false,
                Some(Hold::UntilAnother) => !self.of_others.contains(&key.destination),
                Some(Hold::UnlessTunnel) => self
                    .routes
                    .table
                    .actual()
                    .get(key)
                    .is_some_and(|route| !is_through_vxlan(key, route) && !is_through(route)),
            })
            .copied()
    }

    /// Routes that stay although they are not wanted, and for what they wait.
    pub(crate) fn held(&self) -> impl Iterator<Item = (Cidr, Hold)> + '_ {
        self.held_keys().filter_map(|key| Some((key.destination, *self.held.get(&key)?)))
    }

    pub(crate) fn add_to(&self, status: &mut Status) {
        self.links.add_to(status);
        self.fdb.add_to(status);
        self.neighbours.add_to(status);
        self.routes.add_to(status);
        self.wireguard.add_to(status);
        // What stays on purpose is not pending.
        let held = self.held().count();
        if let Some(pending) = status.pending.get_mut(&Kind::ClusterRoutes) {
            *pending = pending.saturating_sub(held);
        }
    }

    pub(crate) fn audit(&mut self) -> Vec<(Kind, KindAudit)> {
        let held: BTreeSet<String> = self.held().map(|(destination, _)| destination.to_string()).collect();
        let mut routes = audit::of_stage(&mut self.routes, audit::route);
        routes
            .differences
            .retain(|difference| difference.intended.is_some() || !held.contains(&difference.what));
        let mut kinds = vec![
            (Kind::Vxlans, audit::of_stage(&mut self.links, audit::vxlan)),
            (Kind::Fdb, audit::of_stage(&mut self.fdb, |entry| format!("dst {}", entry.destination))),
            (Kind::ClusterNeighbours, audit::of_stage(&mut self.neighbours, audit::neighbour)),
            (Kind::ClusterRoutes, routes),
        ];
        kinds.extend(self.wireguard.audit());
        kinds
    }
}

fn is_through_vxlan(key: &RouteKey, route: &Route) -> bool {
    let names = Family::ALL.map(vxlan_link_name);
    of_route(key, route).iter().any(|interface| names.contains(interface))
}
