//! The table of `proto bird` routes. Owns what is wanted there, under which key the route of a prefix stands,
//! and what cannot be installed yet. Decides nothing about a single route, and knows no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Instant;

use bgp_packet::Prefix;
use kernel::{Applied, Driver, NextHop, NexthopId, NexthopObject, Route, RouteKey, RouteKind, Table};
use model::Cidr;

use crate::convert::cidr;
use crate::kernel_routes::{Context, Leg, Verdict, ours, own_routes};
use crate::legs::{Legs, Turn};
use crate::nexthop_objects::NexthopObjects;

/// Learned routes and those that no peer told us, and what the kernel has of them.
pub struct RouteTable<R, N>
where
    R: Driver<Key = RouteKey, Value = Route>,
    N: Driver<Key = NexthopId, Value = NexthopObject>,
{
    table: Table<R>,
    /// What routes refer to.
    objects: NexthopObjects<N>,
    /// Best routes of the Loc-RIB.
    learned: BTreeMap<Prefix, Learned>,
    /// Routes that cannot be installed yet, and why.
    blocked: BTreeMap<Prefix, String>,
    /// Routes that the node agent takes over, and that stay until its own are there.
    handed_over: BTreeSet<Prefix>,
    /// The key under which the route of a prefix stands.
    keys: BTreeMap<Prefix, RouteKey>,
    /// Routes that no peer told us.
    own: BTreeMap<RouteKey, Route>,
    /// How the next hops of learned routes are reached.
    legs: Legs,
}

/// A route of the Loc-RIB, and the pool that it is in.
struct Learned {
    route: bgp::Route,
    pool: Option<Cidr>,
}

impl Learned {
    /// In order, each once.
    fn legs(&self) -> Vec<Leg> {
        let hops = self.route.next_hops.iter();
        let mut legs: Vec<Leg> = hops.map(|hop| Leg { next_hop: *hop, pool: self.pool }).collect();
        legs.sort_unstable();
        legs.dedup();
        legs
    }
}

/// Why a route that is not ours any more still stands.
const AWAITS_AGENT: &str =
    "the pool has VXLAN now, and felix has not written its route yet; ours stays until it has";

/// What one run of [`RouteTable::apply`] did.
#[derive(Debug, Default)]
pub struct Written {
    pub routes: Applied<RouteKey>,
    pub nexthops: Applied<NexthopId>,
}

impl<R, N> RouteTable<R, N>
where
    R: Driver<Key = RouteKey, Value = Route>,
    N: Driver<Key = NexthopId, Value = NexthopObject>,
{
    /// Reads what an earlier run left behind; nothing is written yet.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn adopt(routes: R, objects: NexthopObjects<N>) -> io::Result<Self> {
        let mut table = Table::new(routes);
        table.resync()?;
        Ok(Self {
            table,
            objects,
            learned: BTreeMap::new(),
            blocked: BTreeMap::new(),
            handed_over: BTreeSet::new(),
            keys: BTreeMap::new(),
            own: BTreeMap::new(),
            legs: Legs::default(),
        })
    }

    /// Reads the kernel's nexthop objects and routes anew.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn resync(&mut self) -> io::Result<()> {
        self.objects.resync()?;
        self.table.resync().map(drop)
    }

    /// Takes over a change of the Loc-RIB.
    pub fn learn(&mut self, context: Context<'_>, prefix: Prefix, route: Option<bgp::Route>) {
        self.hold(context, prefix, route.map(|route| Learned { route, pool: context.pool(prefix) }));
        self.decide(context, prefix);
    }

    /// Puts a learned route in the place of the one before, and keeps the index of legs.
    fn hold(&mut self, context: Context<'_>, prefix: Prefix, new: Option<Learned>) {
        let legs = new.as_ref().map_or(Vec::new(), Learned::legs);
        let old = match new {
            Some(new) => self.learned.insert(prefix, new),
            None => self.learned.remove(&prefix),
        };
        let old = old.map_or(Vec::new(), |old| old.legs());
        if old == legs {
            return;
        }
        for leg in legs.iter().filter(|leg| !old.contains(leg)) {
            self.legs.add(context, *leg, prefix);
        }
        self.objects.enter(&legs);
        let gone = old.iter().filter(|leg| !legs.contains(leg));
        let unused: Vec<Leg> = gone.filter(|leg| self.legs.remove(**leg, prefix)).copied().collect();
        self.objects.leave(&old, &unused);
    }

    /// The node's own routes to `within`, or any of them, have changed: follows with what depends on them.
    pub fn fib_changed(&mut self, context: Context<'_>, within: Option<Cidr>) {
        if context.fib.has_gateways() {
            self.decide_own(context);
        }
        self.follow(context, within);
        let covers = |prefix: &&Prefix| within.is_none_or(|within| within.covers(cidr(**prefix)));
        for prefix in self.handed_over.iter().filter(covers).copied().collect::<Vec<_>>() {
            self.decide(context, prefix);
        }
    }

    /// What ways depend on beside the node's own routes has changed, such as the mode of a pool or the tunnel.
    pub fn ways_changed(&mut self, context: Context<'_>) {
        self.follow(context, None);
    }

    /// Looks how next hops in `within`, or all, are reached now. One that leads another way takes its routes along.
    fn follow(&mut self, context: Context<'_>, within: Option<Cidr>) {
        for (leg, turn) in self.legs.refresh(context, within) {
            if matches!(&turn, Turn::Moved(hop) if self.objects.turn(leg, hop)) {
                continue;
            }
            for prefix in self.legs.prefixes(leg).collect::<Vec<_>>() {
                self.decide(context, prefix);
            }
        }
    }

    /// Somebody else made or deleted a route that carries our protocol number, or put one in its place.
    pub fn observe(&mut self, key: RouteKey, route: Option<Route>) {
        self.table.observe(key, route);
    }

    /// Somebody else made or deleted a nexthop object with a number of ours, or put something else in its place.
    pub fn observe_nexthop(&mut self, id: NexthopId, object: Option<NexthopObject>) {
        if object.is_none() {
            let by = self.table.actual().iter().filter(|(_, route)| route.nexthop() == Some(id));
            for key in by.map(|(key, _)| *key).collect::<Vec<_>>() {
                self.table.observe(key, None);
            }
        }
        self.objects.observe(id, object);
    }

    /// Whether the kernel holds a route of ours under this key, as far as is known.
    pub fn holds(&self, key: &RouteKey) -> Option<&Route> {
        self.table.actual().get(key)
    }

    /// Decides about every route anew: pools, nodes or the node's own routes have changed.
    pub fn decide_all(&mut self, context: Context<'_>) {
        self.decide_own(context);
        self.follow(context, None);
        for prefix in self.learned.keys().copied().collect::<Vec<_>>() {
            self.decide(context, prefix);
        }
    }

    /// Decides about the routes that no peer told us.
    fn decide_own(&mut self, context: Context<'_>) {
        let wanted = own_routes(context);
        let gone: Vec<RouteKey> = self.own.keys().filter(|key| !wanted.contains_key(key)).copied().collect();
        self.own = wanted;
        for key in gone {
            self.table.set(key, None);
        }
        for (key, route) in &self.own {
            self.table.set(*key, Some(route.clone()));
        }
    }

    /// Decides anew about some prefixes: what this node holds of them has changed.
    pub fn decide_some<'a>(&mut self, context: Context<'_>, prefixes: impl IntoIterator<Item = &'a Prefix>) {
        for prefix in prefixes {
            // A next hop that is a pod of this node is reached in its own way.
            self.follow(context, Some(cidr(*prefix)));
            self.decide(context, *prefix);
        }
    }

    fn decide(&mut self, context: Context<'_>, prefix: Prefix) {
        if let Some(learned) = self.learned.get(&prefix)
            && learned.pool != context.pool(prefix)
        {
            let learned = Learned { route: learned.route.clone(), pool: context.pool(prefix) };
            self.hold(context, prefix, Some(learned));
        }
        let learned = self.learned.get(&prefix);
        let key = learned.and_then(|learned| context.key(prefix, &learned.route));
        let (Some(learned), Some(key)) = (learned, key) else { return self.skip(prefix) };
        let legs = learned.legs();
        match Verdict::of(legs.iter().filter_map(|leg| self.legs.way(*leg))) {
            Verdict::Install(hops) => {
                self.blocked.remove(&prefix);
                self.handed_over.remove(&prefix);
                if let Some(old) = self.keys.insert(prefix, key).filter(|old| *old != key) {
                    self.unset(old);
                }
                self.install(key, &legs, hops);
            }
            Verdict::Skip => self.skip(prefix),
            Verdict::HandOver => self.hand_over(context, prefix),
            Verdict::Pending(reason) => {
                self.handed_over.remove(&prefix);
                self.keep_standing(prefix);
                self.blocked.insert(prefix, reason);
            }
        }
    }

    /// The node agent routes it from now on. What stands of ours stays beside its route until that is there.
    fn hand_over(&mut self, context: Context<'_>, prefix: Prefix) {
        self.keep_standing(prefix);
        if !self.keys.contains_key(&prefix) || context.fib.has_way_to(cidr(prefix)) {
            return self.skip(prefix);
        }
        self.handed_over.insert(prefix);
        self.blocked.insert(prefix, AWAITS_AGENT.to_owned());
    }

    fn skip(&mut self, prefix: Prefix) {
        self.blocked.remove(&prefix);
        self.handed_over.remove(&prefix);
        if let Some(old) = self.keys.remove(&prefix) {
            self.unset(old);
        }
    }

    /// Wants a route by these legs, which come to these hops.
    fn install(&mut self, key: RouteKey, legs: &[Leg], hops: Vec<NextHop>) {
        let standing = self.table.actual().get(&key).and_then(Route::nexthop);
        let ways: Vec<_> = legs.iter().filter_map(|leg| Some((*leg, self.legs.way(*leg)?))).collect();
        let kind = self.objects.kind(&ways, standing).unwrap_or(RouteKind::Unicast(hops));
        self.table.set(key, Some(ours(kind)));
    }

    /// The object of some leg can be had now, or not any more: its routes refer to it, or name the ways themselves.
    fn install_again(&mut self, leg: Leg) {
        for prefix in self.legs.prefixes(leg).collect::<Vec<_>>() {
            let (Some(learned), Some(key)) = (self.learned.get(&prefix), self.keys.get(&prefix).copied())
            else {
                continue;
            };
            let legs = learned.legs();
            let verdict = Verdict::of(legs.iter().filter_map(|leg| self.legs.way(*leg)));
            if let Verdict::Install(hops) = verdict {
                self.install(key, &legs, hops);
            }
        }
    }

    /// What stands there already stays: an old way is better than none.
    fn keep_standing(&mut self, prefix: Prefix) {
        if self.keys.contains_key(&prefix) {
            return;
        }
        let destination = cidr(prefix);
        let of_metric = |metric| RouteKey { destination, metric };
        let standing = self.table.actual().range(of_metric(0)..=of_metric(u32::MAX)).next();
        if let Some((key, route)) = standing.map(|(key, route)| (*key, route.clone())) {
            self.keys.insert(prefix, key);
            self.table.set(key, Some(route));
        }
    }

    /// No longer wants a learned route, unless one of our own stands under the same key.
    fn unset(&mut self, key: RouteKey) {
        let own = self.own.get(&key).cloned();
        self.table.set(key, own);
    }

    /// Writes what differs; deletes what is not wanted only when `sweep` allows it. Nexthop objects come before the
    /// routes that refer to them and go after them.
    pub fn apply(&mut self, sweep: bool, now: Instant) -> Written {
        let mut written = Written::default();
        loop {
            let (turned, applied) = self.objects.write(now);
            written.nexthops.merge(applied);
            if turned.is_empty() {
                break;
            }
            turned.into_iter().for_each(|leg| self.install_again(leg));
        }
        if !sweep {
            written.routes = self.table.apply_puts(now);
            return written;
        }
        written.routes = self.table.apply(now);
        let routes = &self.table;
        let used = || routes.actual().values().filter_map(Route::nexthop).collect();
        written.nexthops.merge(self.objects.sweep(now, used));
        written
    }

    /// When `apply` is due again for what failed.
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.table.poll_timeout(), self.objects.poll_timeout()].into_iter().flatten().min()
    }

    /// Failed entries are tried at the next `apply`.
    pub fn retry_now(&mut self, now: Instant) {
        self.objects.retry_now(now);
        self.table.retry_now(now);
    }

    /// How many routes of ours the kernel has.
    pub fn count(&self) -> usize {
        self.table.actual().len()
    }

    /// How many nexthop objects of ours the kernel has, and whether routes are to refer to them.
    pub fn nexthops(&self) -> (usize, bool) {
        (self.objects.count(), self.objects.is_enabled())
    }

    /// Routes that ought to be in the kernel and are not, with the reason.
    pub fn pending(&self) -> Vec<(String, String)> {
        let blocked = self.blocked.iter().map(|(prefix, reason)| (prefix.to_string(), reason.clone()));
        let failing =
            self.table.failing().map(|(key, error)| (key.destination.to_string(), error.to_owned()));
        blocked.chain(failing).collect()
    }
}
