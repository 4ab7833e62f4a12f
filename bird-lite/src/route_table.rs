//! The table of `proto bird` routes. Owns what is wanted there, under which key the route of a prefix stands,
//! and what cannot be installed yet. Decides nothing about a single route, and knows no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Instant;

use bgp::PeerKey;
use bgp_packet::Prefix;
use kernel::{Applied, Driver, Route, RouteKey, Table};
use model::Cidr;

use crate::convert::cidr;
use crate::kernel_routes::{Context, Verdict, own_routes};
use crate::next_hops::NextHops;

/// Learned routes and those that no peer told us, and what the kernel has of them.
pub struct RouteTable<D: Driver<Key = RouteKey, Value = Route>> {
    table: Table<D>,
    /// Best routes of the Loc-RIB.
    learned: BTreeMap<Prefix, bgp::Route>,
    /// Routes that cannot be installed yet, and why.
    blocked: BTreeMap<Prefix, String>,
    /// The key under which the route of a prefix stands.
    keys: BTreeMap<Prefix, RouteKey>,
    /// Routes that no peer told us.
    own: BTreeMap<RouteKey, Route>,
    /// Prefixes by the next hops of their routes, and how these are reached.
    dependants: BTreeMap<PeerKey, BTreeSet<Prefix>>,
    next_hops: NextHops,
}

impl<D: Driver<Key = RouteKey, Value = Route>> RouteTable<D> {
    /// Reads what an earlier run left behind; nothing is written yet.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn adopt(driver: D) -> io::Result<Self> {
        let mut table = Table::new(driver);
        table.resync()?;
        Ok(Self {
            table,
            learned: BTreeMap::new(),
            blocked: BTreeMap::new(),
            keys: BTreeMap::new(),
            own: BTreeMap::new(),
            dependants: BTreeMap::new(),
            next_hops: NextHops::default(),
        })
    }

    /// Reads the kernel's routes anew.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn resync(&mut self) -> io::Result<()> {
        self.table.resync().map(drop)
    }

    /// Takes over a change of the Loc-RIB.
    pub fn learn(&mut self, context: Context<'_>, prefix: Prefix, route: Option<bgp::Route>) {
        let hops = route.iter().flat_map(|route| route.next_hops.clone()).collect();
        let old = match route {
            Some(route) => self.learned.insert(prefix, route),
            None => self.learned.remove(&prefix),
        };
        self.depend(context, prefix, old.map_or(Vec::new(), |route| route.next_hops), hops);
        self.decide(context, prefix);
    }

    /// Keeps the index of next hops.
    fn depend(&mut self, context: Context<'_>, prefix: Prefix, old: Vec<PeerKey>, new: Vec<PeerKey>) {
        for hop in old.iter().filter(|hop| !new.contains(hop)) {
            let Some(prefixes) = self.dependants.get_mut(hop) else { continue };
            prefixes.remove(&prefix);
            if prefixes.is_empty() {
                self.dependants.remove(hop);
                self.next_hops.forget(hop.address());
            }
        }
        for hop in new.into_iter().filter(|hop| !old.contains(hop)) {
            self.dependants.entry(hop).or_default().insert(prefix);
            // A link-local one is always there as long as its link is.
            if !hop.is_link_local() {
                self.next_hops.watch(context.fib, hop.address());
            }
        }
    }

    /// The node's own routes to `within`, or any of them, have changed: decides about what depends on them.
    pub fn fib_changed(&mut self, context: Context<'_>, within: Option<Cidr>) {
        if context.fib.has_gateways() {
            self.decide_own(context);
        }
        let changed = self.next_hops.changed(context.fib, within).into_iter().map(PeerKey::from);
        // Which links are up is looked at together with everything else.
        let on_links = self.dependants.keys().filter(|hop| within.is_none() && hop.is_link_local());
        for hop in changed.chain(on_links.copied()).collect::<Vec<_>>() {
            let prefixes = self.dependants.get(&hop).into_iter().flatten();
            for prefix in prefixes.copied().collect::<Vec<_>>() {
                self.decide(context, prefix);
            }
        }
    }

    /// Somebody else made or deleted a route that carries our protocol number, or put one in its place.
    pub fn observe(&mut self, key: RouteKey, route: Option<Route>) {
        self.table.observe(key, route);
    }

    /// Whether the kernel holds a route of ours under this key, as far as is known.
    pub fn holds(&self, key: &RouteKey) -> Option<&Route> {
        self.table.actual().get(key)
    }

    /// Decides about every route anew: pools, nodes or the node's own routes have changed.
    pub fn decide_all(&mut self, context: Context<'_>) {
        self.decide_own(context);
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
            self.decide(context, *prefix);
        }
    }

    fn decide(&mut self, context: Context<'_>, prefix: Prefix) {
        let verdict = self.learned.get(&prefix).map_or(Verdict::Skip, |route| context.verdict(prefix, route));
        match verdict {
            Verdict::Install(key, route) => {
                self.blocked.remove(&prefix);
                if let Some(old) = self.keys.insert(prefix, key).filter(|old| *old != key) {
                    self.unset(old);
                }
                self.table.set(key, Some(route));
            }
            Verdict::Skip => {
                self.blocked.remove(&prefix);
                if let Some(old) = self.keys.remove(&prefix) {
                    self.unset(old);
                }
            }
            Verdict::Pending(reason) => {
                self.keep_standing(prefix);
                self.blocked.insert(prefix, reason);
            }
        }
    }

    /// What stands there already stays: an old way is better than none.
    fn keep_standing(&mut self, prefix: Prefix) {
        if self.keys.contains_key(&prefix) {
            return;
        }
        let destination = cidr(prefix);
        let standing = self.table.actual().iter().find(|(key, _)| key.destination == destination);
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

    /// Writes what differs; deletes what is not wanted only when `sweep` allows it.
    pub fn apply(&mut self, sweep: bool, now: Instant) -> Applied<RouteKey> {
        if sweep { self.table.apply(now) } else { self.table.apply_puts(now) }
    }

    /// When `apply` is due again for what failed.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.table.poll_timeout()
    }

    /// Failed entries are tried at the next `apply`.
    pub fn retry_now(&mut self, now: Instant) {
        self.table.retry_now(now);
    }

    /// How many routes of ours the kernel has.
    pub fn count(&self) -> usize {
        self.table.actual().len()
    }

    /// Routes that ought to be in the kernel and are not, with the reason.
    pub fn pending(&self) -> Vec<(String, String)> {
        let blocked = self.blocked.iter().map(|(prefix, reason)| (prefix.to_string(), reason.clone()));
        let failing =
            self.table.failing().map(|(key, error)| (key.destination.to_string(), error.to_owned()));
        blocked.chain(failing).collect()
    }
}
