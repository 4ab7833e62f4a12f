//! The kernel's side of the speaker. Owns the copy of the node's own routes, and when these and the table of
//! `proto bird` routes are read and written.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, POD_INTERFACES};
use crate::fib::{Fib, Resolved, Unclear};
use crate::kernel_routes::{Context, TUNNEL};
use crate::next_hops::NextHops;
use crate::nexthop_objects::NexthopObjects;
use crate::route_table::{RouteTable, Written};
use bgp::{NextHopInterest, Speaker};
use bgp_packet::Prefix;
use kernel::{CARRIES_PODS, Link, NexthopId, NexthopObject, PROTO_BIRD, Route, RouteKey, RouteKind};
use kernel_linux::{NexthopDriver, RouteDriver, RouteEvent, RouteOwner, Rtnl};
use model::Cidr;
use tokio::sync::mpsc;

use crate::monitor;
use crate::peering_addresses::PeeringAddresses;

/// Disturbances that come together are looked at once; who deletes our routes again and again costs no more.
const SETTLE: Duration = Duration::from_millis(50);
/// With more routes disturbed than this, all are read again.
const DISTURBED: usize = 10_000;
/// After a failure to read.
const RETRY: Duration = Duration::from_secs(1);

/// Kernel routes of this speaker.
pub(crate) struct Dataplane {
    table: RouteTable<RouteDriver, NexthopDriver>,
    rtnl: Rtnl,
    fib: Fib,
    /// Next hops that the speaker asks about, and answers that it has not had.
    next_hops: NextHops,
    answers: Vec<IpAddr>,
    peering: PeeringAddresses,
    /// Links came, went or changed their state since that was asked.
    links_changed: bool,
    tunnel_up: bool,
    /// What somebody did to our routes and nexthop objects, to be put right at `repair_at`.
    disturbed: BTreeMap<RouteKey, Option<Route>>,
    disturbed_nexthops: BTreeMap<NexthopId, Option<NexthopObject>>,
    repair_at: Option<Instant>,
    /// When all of ours, and all of the node's own routes, are to be read again.
    resync_at: Option<Instant>,
    survey_at: Option<Instant>,
    /// Unwanted routes may go.
    sweep: bool,
    synced: bool,
}

impl Dataplane {
    /// Listens to the kernel, and reads what an earlier run left behind; nothing is written yet. Routes are to refer to
    /// nexthop objects where the kernel has such, if `nexthop_objects`.
    pub(crate) fn open(nexthop_objects: bool) -> io::Result<(Self, mpsc::Receiver<Vec<RouteEvent>>)> {
        let driver = RouteDriver::new(vec![RouteOwner::Protocol(PROTO_BIRD)])?;
        let nexthops = NexthopDriver::new(PROTO_BIRD)?;
        let events = monitor::start(vec![driver.port()?, nexthops.port()?])?;
        let objects = NexthopObjects::adopt(nexthops, nexthop_objects)?;
        if nexthop_objects && !objects.is_enabled() {
            tracing::info!("the kernel has no nexthop objects: routes name their ways themselves");
        }
        let mut dataplane = Self {
            table: RouteTable::adopt(driver, objects)?,
            rtnl: Rtnl::open()?,
            fib: Fib::default(),
            next_hops: NextHops::default(),
            answers: Vec::new(),
            peering: PeeringAddresses::default(),
            links_changed: false,
            tunnel_up: false,
            disturbed: BTreeMap::new(),
            disturbed_nexthops: BTreeMap::new(),
            repair_at: None,
            resync_at: None,
            survey_at: None,
            sweep: false,
            synced: false,
        };
        dataplane.survey()?;
        Ok((dataplane, events))
    }

    /// Whether routes of an earlier run are still there: forwarding was kept.
    pub(crate) fn has_adopted(&self) -> bool {
        self.table.count() > 0
    }

    /// Reads the node's own routes and the state of the tunnel. Gives back whether that has changed.
    fn survey(&mut self) -> io::Result<bool> {
        let (gateways, links) = (self.fib.take_gateways(), self.fib.take_links());
        self.fib = Fib::new(self.rtnl.all_routes()?);
        self.fib.set_gateways(gateways);
        let up = self.rtnl.links()?.into_iter().filter(|link| link.up);
        let up = up.map(|link| (link.index, link.name)).collect();
        self.links_changed |= links != up;
        self.fib.set_links(up);
        let carries_pods = |link: &Link| link.up && link.alias.as_deref() == Some(CARRIES_PODS);
        let up = self.rtnl.link_by_name(TUNNEL)?.is_some_and(|link| carries_pods(&link));
        Ok(std::mem::replace(&mut self.tunnel_up, up) != up)
    }

    /// Takes in what has changed in the kernel.
    pub(crate) fn events(&mut self, cluster: &Cluster, events: Vec<RouteEvent>, now: Instant) {
        for event in events {
            match event {
                RouteEvent::Put { key, route, replaces } => self.put(cluster, key, route, replaces, now),
                RouteEvent::Gone { key, route } if route.protocol == PROTO_BIRD => {
                    self.own_gone(key, now);
                }
                RouteEvent::Gone { key, .. } => {
                    let changed = self.fib.remove(key);
                    self.fib_changed(cluster, key, changed, now);
                }
                RouteEvent::Nexthop { id, protocol, object } => {
                    // One that carries another protocol number is not ours any more: it is made anew.
                    let object = object.filter(|_| protocol == PROTO_BIRD);
                    self.disturbed_nexthops.insert(id, object);
                    self.repair_at.get_or_insert(now + SETTLE);
                }
                RouteEvent::Link { name, up } if name.starts_with(POD_INTERFACES) => {
                    self.peering.link_changed(&name);
                    self.pod_link(cluster, &name, up)
                }
                // Addresses of a pod's link come with routes of their own, and go with the link.
                RouteEvent::Address { name } if name.starts_with(POD_INTERFACES) => {
                    self.peering.link_changed(&name);
                }
                RouteEvent::Link { .. } | RouteEvent::Address { .. } | RouteEvent::Overrun => {
                    self.read_again(now);
                }
            }
        }
    }

    fn read_again(&mut self, now: Instant) {
        self.peering.look_again();
        self.resync_at.get_or_insert(now + SETTLE);
        self.survey_at.get_or_insert(now + SETTLE);
    }

    fn put(&mut self, cluster: &Cluster, key: RouteKey, route: Route, replaces: bool, now: Instant) {
        if route.protocol == PROTO_BIRD {
            if replaces {
                let changed = self.fib.remove(key);
                self.fib_changed(cluster, key, changed, now);
            }
            // Beside one of ours under the same key: which of them counts, an event does not say.
            if !replaces && self.table.holds(&key).is_some() {
                self.resync_at.get_or_insert(now + SETTLE);
            } else {
                self.disturb(key, Some(route), now);
            }
            return;
        }
        if replaces && self.table.holds(&key).is_some() {
            self.disturb(key, None, now);
        }
        let changed = self.fib.put(key, route, replaces);
        self.fib_changed(cluster, key, changed, now);
    }

    fn own_gone(&mut self, key: RouteKey, now: Instant) {
        let several = |route: &Route| matches!(&route.kind, RouteKind::Unicast(hops) if hops.len() > 1);
        if self.table.holds(&key).is_some_and(several) {
            // IPv6 tells of each next hop by itself.
            self.resync_at.get_or_insert(now + SETTLE);
        } else {
            self.disturb(key, None, now);
        }
    }

    /// A pod's link: when it goes, the kernel drops its routes without a word.
    fn pod_link(&mut self, cluster: &Cluster, name: &str, up: bool) {
        if up {
            return;
        }
        for destination in self.fib.remove_through(name) {
            self.follow(cluster, Some(destination));
        }
    }

    /// The node's own routes to `within`, or any of them, have changed.
    fn follow(&mut self, cluster: &Cluster, within: Option<Cidr>) {
        // What is behind a gateway follows the way to the gateway.
        let within = within.filter(|_| !self.fib.has_gateways());
        let context = Context { cluster, fib: &self.fib, tunnel_up: self.tunnel_up };
        self.table.fib_changed(context, within);
        self.answers.extend(self.next_hops.changed(&self.fib, within));
    }

    /// Takes the speaker's questions about next hops, and gives it the answers.
    pub(crate) fn answer(&mut self, speaker: &mut Speaker) {
        while let Some(interest) = speaker.poll_next_hop() {
            match interest {
                NextHopInterest::Watch(next_hop) => {
                    self.next_hops.watch(&self.fib, next_hop);
                    self.answers.push(next_hop);
                }
                NextHopInterest::Forget(next_hop) => self.next_hops.forget(next_hop),
            }
        }
        for next_hop in std::mem::take(&mut self.answers) {
            speaker.handle_next_hop(next_hop, self.cost(next_hop));
        }
    }

    fn cost(&self, next_hop: IpAddr) -> Option<u32> {
        match next_hop {
            // Always there, behind the link of the session that told of it.
            IpAddr::V6(address) if address.is_unicast_link_local() => Some(0),
            _ => self.next_hops.way(next_hop).map(Resolved::cost),
        }
    }

    fn fib_changed(
        &mut self,
        cluster: &Cluster,
        key: RouteKey,
        changed: Result<bool, Unclear>,
        now: Instant,
    ) {
        match changed {
            Ok(false) => {}
            Ok(true) => self.follow(cluster, Some(key.destination)),
            Err(Unclear) => drop(self.survey_at.get_or_insert(now + SETTLE)),
        }
    }

    fn disturb(&mut self, key: RouteKey, route: Option<Route>, now: Instant) {
        self.disturbed.insert(key, route);
        self.repair_at.get_or_insert(now + SETTLE);
        if self.disturbed.len() > DISTURBED {
            self.resync_at.get_or_insert(now + SETTLE);
            self.disturbed.clear();
        }
    }

    /// Takes over a change of the Loc-RIB.
    pub(crate) fn learn(&mut self, cluster: &Cluster, prefix: Prefix, route: Option<bgp::Route>) {
        let context = Context { cluster, fib: &self.fib, tunnel_up: self.tunnel_up };
        self.table.learn(context, prefix, route);
    }

    /// What ways depend on beside the node's own routes has changed: the mode of a pool, or a tunnel.
    pub(crate) fn ways_changed(&mut self, cluster: &Cluster) {
        let context = Context { cluster, fib: &self.fib, tunnel_up: self.tunnel_up };
        self.table.ways_changed(context);
    }

    /// Decides about every route anew: pools or nodes have changed.
    pub(crate) fn decide_all(&mut self, cluster: &Cluster) {
        if self.fib.set_gateways(cluster.gateways.clone()) {
            self.follow(cluster, None);
        }
        let context = Context { cluster, fib: &self.fib, tunnel_up: self.tunnel_up };
        self.table.decide_all(context);
    }

    /// Decides about some routes anew: what this node holds of them has changed.
    pub(crate) fn decide_some(&mut self, cluster: &Cluster, prefixes: &BTreeSet<Prefix>) {
        let context = Context { cluster, fib: &self.fib, tunnel_up: self.tunnel_up };
        self.table.decide_some(context, prefixes);
    }

    /// Sets which links of pods have which addresses of ours.
    pub(crate) fn set_peering(&mut self, links: BTreeSet<String>, addresses: Vec<IpAddr>) {
        self.peering.set(links, addresses);
    }

    /// Whether other links are up than when this was asked last.
    pub(crate) fn take_links_changed(&mut self) -> bool {
        std::mem::take(&mut self.links_changed)
    }

    /// Indexes of links that are up, by their names.
    pub(crate) fn link_indexes(&self) -> BTreeMap<String, u32> {
        self.fib.link_indexes().map(|(name, index)| (name.to_owned(), index)).collect()
    }

    /// From now on unwanted routes go: the peers have said what they have.
    pub(crate) fn allow_sweep(&mut self) {
        self.sweep = true;
    }

    /// When `work` is due next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let due = [self.repair_at, self.resync_at, self.survey_at, self.table.poll_timeout()];
        due.into_iter().flatten().min()
    }

    /// Looks at what was disturbed, and writes what differs.
    pub(crate) fn work(&mut self, cluster: &Cluster, now: Instant) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(self.survey_at) {
            self.survey_at = None;
            self.survey_again(cluster, now);
        }
        if due(self.repair_at) {
            self.repair_at = None;
            for (key, route) in std::mem::take(&mut self.disturbed) {
                self.table.observe(key, route);
            }
            for (id, object) in std::mem::take(&mut self.disturbed_nexthops) {
                self.table.observe_nexthop(id, object);
            }
        }
        if due(self.resync_at) {
            self.resync_at = None;
            if let Err(error) = self.table.resync() {
                tracing::warn!(%error, "cannot read our routes");
                self.resync_at = Some(now + RETRY);
            }
        }
        self.peering.work(&mut self.rtnl);
        let Written { routes, nexthops } = self.table.apply(self.sweep, now);
        self.synced = true;
        if nexthops.written + nexthops.deleted > 0 {
            tracing::info!(written = nexthops.written, deleted = nexthops.deleted, "nexthop objects");
        }
        if routes.written + routes.deleted > 0 {
            tracing::info!(written = routes.written, deleted = routes.deleted, "kernel routes");
        }
        for (_, error) in nexthops.failed {
            tracing::warn!(%error, "cannot write nexthop object; its routes name the way themselves");
        }
        for (key, error) in routes.failed {
            tracing::warn!(destination = %key.destination, %error, "cannot write route");
        }
    }

    fn survey_again(&mut self, cluster: &Cluster, now: Instant) {
        match self.survey() {
            Ok(tunnel_changed) => {
                // What could not be written before a link came up can be now.
                self.table.retry_now(now);
                self.follow(cluster, None);
                if tunnel_changed {
                    self.ways_changed(cluster);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read the node's routes");
                self.survey_at = Some(now + RETRY);
            }
        }
    }

    /// What is wanted has been written once.
    pub(crate) fn is_synced(&self) -> bool {
        self.synced
    }

    /// How many routes of ours the kernel has.
    pub(crate) fn count(&self) -> usize {
        self.table.count()
    }

    /// Routes that ought to be in the kernel and are not, with the reason.
    pub(crate) fn pending(&self) -> Vec<(String, String)> {
        let lost = self.next_hops.unreachable().filter(|next_hop| self.cost(*next_hop).is_none());
        let lost = lost.map(|next_hop| {
            let reason = "no route to this next hop: check the node's routing table";
            (format!("routes by {next_hop}"), reason.to_owned())
        });
        lost.chain(self.table.pending()).collect()
    }
}

#[cfg(test)]
#[path = "dataplane_tests.rs"]
mod tests;
