//! A kernel in memory, for the tests of whoever writes kernel state.
//!
//! It refuses what the real one refuses: a rule that jumps to a chain or looks up a set that does not exist,
//! destroying a chain or set that is referred to, a route or neighbour on a link that does not exist. And it
//! refuses what it is told to refuse. Clones share one state.

mod iptables;
mod nexthop;
mod nft;
mod wireguard;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use model::{Cidr, Family};

use crate::iptables::IptablesTable;
use crate::{
    Driver, Failures, FdbEntry, FdbKey, IpSet, IpSetAction, IpSetMember, IpSetName, IpSetPort, IpSetProbe,
    IpSetWrite, Neighbour, NeighbourKey, NexthopId, NexthopObject, Route, RouteKey, Tunnel, VxlanLink,
    WireguardLink, WireguardPeer, WireguardPeerKey,
};

pub use iptables::FakeIptables;
pub use nexthop::FakeNexthops;
pub use nft::{FakeNft, FakeNftChain, FakeNftTable};
pub use wireguard::{FakeWireguardLinks, FakeWireguardPeers};

/// Something that can be told to fail.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entry {
    Route(RouteKey),
    Nexthop(NexthopId),
    /// Everything about nexthop objects, as by a kernel that has none.
    Nexthops,
    Neighbour(NeighbourKey),
    IpSet(IpSetName),
    Sysctl(String),
    Tunnel(String),
    Vxlan(String),
    Fdb(FdbKey),
    Wireguard(String),
    WireguardPeer(WireguardPeerKey),
    /// Every `iptables-restore` of a table.
    Table(Family, IptablesTable),
    /// Every change of the set or map of nf_tables with this name, and every rule of the chain but a plain drop.
    Nft(String),
    /// Every transaction of nf_tables, without a reason.
    NftCommit,
    /// Every listing.
    Lists,
}

/// The shared state; fields are public so that a test can look, and disturb.
#[derive(Debug, Default)]
pub struct State {
    pub links: BTreeSet<String>,
    pub routes: BTreeMap<RouteKey, Route>,
    pub nexthops: BTreeMap<NexthopId, NexthopObject>,
    pub neighbours: BTreeMap<NeighbourKey, Neighbour>,
    pub ip_sets: BTreeMap<IpSetName, IpSet>,
    pub sysctls: BTreeMap<String, String>,
    pub tunnels: BTreeMap<String, Tunnel>,
    pub vxlans: BTreeMap<String, VxlanLink>,
    pub fdb: BTreeMap<FdbKey, FdbEntry>,
    pub wireguards: BTreeMap<String, WireguardLink>,
    pub wireguard_peers: BTreeMap<WireguardPeerKey, WireguardPeer>,
    /// Nodes with which this one came to terms.
    pub wireguard_handshakes: BTreeSet<WireguardPeerKey>,
    pub chains: BTreeMap<(Family, IptablesTable), iptables::Chains>,
    pub nft: BTreeMap<Family, FakeNftTable>,
    /// What is refused, as by [`FakeKernel::refuse`].
    pub refused: BTreeSet<Entry>,
    /// So many transactions of nf_tables are done but answered as if that were not known.
    pub lost_answers: usize,
    /// How many entries (or restores) were written or deleted so far.
    pub writes: usize,
    /// Every `iptables-restore` input so far.
    pub restores: Vec<String>,
}

impl State {
    fn drop_link(&mut self, name: &str) {
        self.links.remove(name);
        self.vxlans.remove(name);
        self.wireguards.remove(name);
        self.wireguard_peers.retain(|key, _| key.interface != name);
        self.wireguard_handshakes.retain(|key| key.interface != name);
        self.fdb.retain(|key, _| key.interface != name);
        self.neighbours.retain(|key, _| key.interface != name);
        let through = |route: &Route| route.hops().iter().any(|hop| hop.interface.as_deref() == Some(name));
        self.routes.retain(|_, route| !through(route));
        self.remove_nexthops(|hop| hop.interface.as_deref() == Some(name));
    }
}

/// A kernel in memory.
#[derive(Clone, Debug, Default)]
pub struct FakeKernel(Arc<Mutex<State>>);

impl FakeKernel {
    pub fn new() -> Self {
        let kernel = Self::default();
        kernel.state().links.insert("lo".to_owned());
        for family in Family::ALL {
            for table in IptablesTable::ALL {
                kernel.state().chains.insert((family, table), iptables::Chains::of_table(table));
            }
        }
        kernel
    }

    /// Looks into the state, or changes it behind everyone's back. Drop the guard before calling a driver.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn add_link(&self, name: &str) {
        self.state().links.insert(name.to_owned());
    }

    /// Removes a link, and with it its routes, nexthop objects, neighbours and forwarding entries, as the real kernel
    /// does.
    pub fn remove_link(&self, name: &str) {
        self.state().drop_link(name);
    }

    /// Makes every write of `entry` fail until `heal`.
    pub fn refuse(&self, entry: Entry) {
        self.state().refused.insert(entry);
    }

    /// Stops refusing anything.
    pub fn heal(&self) {
        self.state().refused.clear();
    }

    /// All routes count as ours.
    pub fn routes(&self) -> FakeRoutes {
        self.routes_where(|_| true)
    }

    /// Those routes count as ours.
    pub fn routes_where(&self, is_ours: fn(&Route) -> bool) -> FakeRoutes {
        FakeRoutes { kernel: self.clone(), is_ours }
    }

    pub fn vxlans(&self) -> FakeVxlans {
        FakeVxlans(self.clone())
    }

    pub fn fdb(&self) -> FakeFdb {
        FakeFdb(self.clone())
    }

    pub fn wireguard_links(&self) -> FakeWireguardLinks {
        FakeWireguardLinks(self.clone())
    }

    pub fn wireguard_peers(&self) -> FakeWireguardPeers {
        FakeWireguardPeers(self.clone())
    }

    pub fn nexthops(&self) -> FakeNexthops {
        FakeNexthops(self.clone())
    }

    /// All neighbours count as ours.
    pub fn neighbours(&self) -> FakeNeighbours {
        self.neighbours_of(|_| true)
    }

    /// Neighbours on those links count as ours.
    pub fn neighbours_of(&self, is_ours: fn(&str) -> bool) -> FakeNeighbours {
        FakeNeighbours { kernel: self.clone(), is_ours }
    }

    pub fn ip_sets(&self) -> FakeIpSets {
        FakeIpSets(self.clone())
    }

    pub fn sysctls(&self) -> FakeSysctls {
        FakeSysctls(self.clone())
    }

    pub fn tunnels(&self) -> FakeTunnels {
        FakeTunnels(self.clone())
    }

    pub fn iptables(&self, family: Family) -> FakeIptables {
        FakeIptables::new(self.clone(), family)
    }

    pub fn nft(&self) -> FakeNft {
        FakeNft(self.clone())
    }

    /// The rules of one chain as `iptables-save` would print them behind `-A CHAIN `; `None`: no such chain.
    pub fn chain(&self, family: Family, table: IptablesTable, name: &str) -> Option<Vec<String>> {
        self.state().chains.get(&(family, table))?.rules.get(name).cloned()
    }

    fn list<T>(&self, read: impl FnOnce(&State) -> T) -> io::Result<T> {
        let state = self.state();
        if state.refused.contains(&Entry::Lists) {
            return Err(io::Error::other("told to refuse lists"));
        }
        Ok(read(&state))
    }

    /// Applies one after another what `put` and `delete` do, unless told to refuse it.
    fn apply<K: Clone, V>(
        &self,
        puts: &[(K, V)],
        deletes: &[K],
        entry: impl Fn(&K) -> Entry,
        put: impl Fn(&mut State, &K, &V) -> io::Result<()>,
        delete: impl Fn(&mut State, &K) -> io::Result<()>,
    ) -> Failures<K> {
        let mut state = self.state();
        let mut failures = Vec::new();
        let puts = puts.iter().map(|(key, value)| (key, Some(value)));
        for (key, value) in puts.chain(deletes.iter().map(|key| (key, None))) {
            let result = match value {
                _ if state.refused.contains(&entry(key)) => Err(io::Error::other("told to refuse this")),
                Some(value) => put(&mut state, key, value),
                None => delete(&mut state, key),
            };
            match result {
                Ok(()) => state.writes += 1,
                Err(error) => failures.push((key.clone(), error)),
            }
        }
        failures
    }
}

fn no_link(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("there is no link {name}"))
}

/// Routes of the main table.
#[derive(Clone, Debug)]
pub struct FakeRoutes {
    kernel: FakeKernel,
    is_ours: fn(&Route) -> bool,
}

impl FakeRoutes {
    /// Destinations to which somebody else has a way.
    pub fn of_others(&self) -> io::Result<BTreeSet<Cidr>> {
        self.kernel.list(|state| {
            let others = state.routes.iter().filter(|(_, route)| !(self.is_ours)(route));
            others.filter(|(_, route)| !route.hops().is_empty()).map(|(key, _)| key.destination).collect()
        })
    }
}

impl Driver for FakeRoutes {
    type Key = RouteKey;
    type Value = Route;

    fn list(&mut self) -> io::Result<BTreeMap<RouteKey, Route>> {
        self.kernel.list(|state| {
            let ours = state.routes.iter().filter(|(_, route)| (self.is_ours)(route));
            ours.map(|(key, route)| (*key, state.told(route))).collect()
        })
    }

    fn apply(&mut self, puts: &[(RouteKey, Route)], deletes: &[RouteKey]) -> Failures<RouteKey> {
        let put = |state: &mut State, key: &RouteKey, route: &Route| {
            let mut links = route.hops().iter().filter_map(|hop| hop.interface.as_ref());
            if let Some(missing) = links.find(|name| !state.links.contains(*name)) {
                return Err(no_link(missing));
            }
            if let Some(missing) = route.nexthop().filter(|id| !state.nexthops.contains_key(id)) {
                return Err(io::Error::other(format!("nexthop {missing} does not exist")));
            }
            state.routes.insert(*key, route.clone());
            Ok(())
        };
        self.kernel.apply(
            puts,
            deletes,
            |key| Entry::Route(*key),
            put,
            |state, key| {
                state.routes.remove(key);
                Ok(())
            },
        )
    }

    fn matches(desired: &Route, actual: &Route) -> bool {
        desired.is_realised_by(actual)
    }
}

#[derive(Clone, Debug)]
pub struct FakeNeighbours {
    kernel: FakeKernel,
    is_ours: fn(&str) -> bool,
}

impl Driver for FakeNeighbours {
    type Key = NeighbourKey;
    type Value = Neighbour;

    fn list(&mut self) -> io::Result<BTreeMap<NeighbourKey, Neighbour>> {
        self.kernel.list(|state| {
            let ours = state.neighbours.iter().filter(|(key, _)| (self.is_ours)(&key.interface));
            ours.map(|(key, value)| (key.clone(), *value)).collect()
        })
    }

    fn apply(
        &mut self,
        puts: &[(NeighbourKey, Neighbour)],
        deletes: &[NeighbourKey],
    ) -> Failures<NeighbourKey> {
        let put = |state: &mut State, key: &NeighbourKey, neighbour: &Neighbour| {
            if !state.links.contains(&key.interface) {
                return Err(no_link(&key.interface));
            }
            state.neighbours.insert(key.clone(), *neighbour);
            Ok(())
        };
        self.kernel.apply(
            puts,
            deletes,
            |key| Entry::Neighbour(key.clone()),
            put,
            |state, key| {
                state.neighbours.remove(key);
                Ok(())
            },
        )
    }
}

/// Sets whose name is ours.
#[derive(Clone, Debug)]
pub struct FakeIpSets(FakeKernel);

impl IpSetPort for FakeIpSets {
    fn names(&mut self) -> io::Result<BTreeSet<IpSetName>> {
        self.0.list(|state| {
            state.ip_sets.keys().filter(|name| IpSetName::is_ours(name.as_str())).cloned().collect()
        })
    }

    fn absent(&mut self, members: &[IpSetProbe<'_>]) -> io::Result<Vec<usize>> {
        self.0.list(|state| {
            let holds = |probe: &IpSetProbe<'_>| {
                state.ip_sets.get(probe.name).is_some_and(|set| set.members.contains(probe.member))
            };
            let absent = members.iter().enumerate().filter(|(_, probe)| !holds(probe));
            absent.map(|(index, _)| index).collect()
        })
    }

    fn read(&mut self, name: &IpSetName) -> io::Result<Option<IpSet>> {
        self.0.list(|state| state.ip_sets.get(name).cloned())
    }

    fn write(&mut self, writes: &[IpSetWrite<'_>]) -> Vec<(usize, io::Error)> {
        let mut state = self.0.state();
        let results = writes.iter().map(|write| write_set(&mut state, write)).enumerate();
        results.filter_map(|(index, result)| result.err().map(|error| (index, error))).collect()
    }

    fn destroy(&mut self, names: &[IpSetName]) -> Vec<(IpSetName, io::Error)> {
        let destroy = |state: &mut State, key: &IpSetName| {
            if state.chains.values().any(|chains| chains.refers_to_set(key.as_str())) {
                return Err(io::Error::other(format!("set {key} is in use by a rule")));
            }
            state.ip_sets.remove(key);
            Ok(())
        };
        self.0.apply::<_, ()>(&[], names, |key| Entry::IpSet(key.clone()), |_, _, ()| Ok(()), destroy)
    }
}

fn write_set(state: &mut State, write: &IpSetWrite<'_>) -> io::Result<()> {
    let refuse = |text: &str| Err(io::Error::other(text.to_owned()));
    if state.refused.contains(&Entry::IpSet(write.name.clone())) {
        return refuse("told to refuse this");
    }
    let is_whole = |member: &IpSetMember| match member {
        IpSetMember::Net(cidr) => cidr.length() > 0,
        IpSetMember::IpPort(..) => true,
    };
    let held = state.ip_sets.get(write.name);
    let members = match write.action {
        IpSetAction::Create(_) if held.is_some() => return refuse("a set of this name exists"),
        IpSetAction::Change { .. } | IpSetAction::Swap(_) if held.is_none() => return refuse("no such set"),
        IpSetAction::Create(members) | IpSetAction::Swap(members) | IpSetAction::Replace(members) => {
            members.clone()
        }
        IpSetAction::Change { add, remove } => {
            let mut members = held.map(|set| (*set.members).clone()).unwrap_or_default();
            members.retain(|member| !remove.contains(member));
            members.extend(add);
            members
        }
    };
    if !members.iter().all(is_whole) {
        return refuse("a set cannot hold a prefix of length 0");
    }
    let set = IpSet { kind: write.kind, family: write.family, members: Arc::new(members) };
    state.ip_sets.insert(write.name.clone(), set);
    state.writes += 1;
    Ok(())
}

/// Files below /proc/sys, as `net/ipv4/ip_forward`; those of a link need the link.
#[derive(Clone, Debug)]
pub struct FakeSysctls(FakeKernel);

impl Driver for FakeSysctls {
    type Key = String;
    type Value = String;

    fn list(&mut self) -> io::Result<BTreeMap<String, String>> {
        self.0.list(|state| state.sysctls.clone())
    }

    fn apply(&mut self, puts: &[(String, String)], deletes: &[String]) -> Failures<String> {
        let put = |state: &mut State, path: &String, value: &String| {
            let parts: Vec<&str> = path.split('/').collect();
            if let ["net", "ipv4" | "ipv6", "conf" | "neigh", link, _] = parts.as_slice()
                && !matches!(*link, "all" | "default")
                && !state.links.contains(*link)
            {
                return Err(no_link(link));
            }
            state.sysctls.insert(path.clone(), value.clone());
            Ok(())
        };
        self.0.apply(
            puts,
            deletes,
            |path| Entry::Sysctl(path.clone()),
            put,
            |state, path| {
                state.sysctls.remove(path);
                Ok(())
            },
        )
    }
}

/// IPIP links; putting one makes the link.
#[derive(Clone, Debug)]
pub struct FakeTunnels(FakeKernel);

impl Driver for FakeTunnels {
    type Key = String;
    type Value = Tunnel;

    fn list(&mut self) -> io::Result<BTreeMap<String, Tunnel>> {
        self.0.list(|state| state.tunnels.clone())
    }

    fn apply(&mut self, puts: &[(String, Tunnel)], deletes: &[String]) -> Failures<String> {
        let put = |state: &mut State, name: &String, tunnel: &Tunnel| {
            state.links.insert(name.clone());
            state.tunnels.insert(name.clone(), tunnel.clone());
            Ok(())
        };
        self.0.apply(
            puts,
            deletes,
            |name| Entry::Tunnel(name.clone()),
            put,
            |state, name| {
                state.tunnels.remove(name);
                Ok(())
            },
        )
    }

    fn matches(desired: &Tunnel, actual: &Tunnel) -> bool {
        desired.is_realised_by(actual)
    }
}

/// VXLAN links; putting one makes the link, and one that must be made anew loses what was on it.
#[derive(Clone, Debug)]
pub struct FakeVxlans(FakeKernel);

impl Driver for FakeVxlans {
    type Key = String;
    type Value = VxlanLink;

    fn list(&mut self) -> io::Result<BTreeMap<String, VxlanLink>> {
        self.0.list(|state| state.vxlans.clone())
    }

    fn apply(&mut self, puts: &[(String, VxlanLink)], deletes: &[String]) -> Failures<String> {
        let put = |state: &mut State, name: &String, link: &VxlanLink| {
            if state.vxlans.get(name).is_some_and(|old| !link.can_be_made_of(old)) {
                state.drop_link(name);
            }
            state.links.insert(name.clone());
            state.vxlans.insert(name.clone(), link.clone());
            Ok(())
        };
        self.0.apply(
            puts,
            deletes,
            |name| Entry::Vxlan(name.clone()),
            put,
            |state, name| {
                state.drop_link(name);
                Ok(())
            },
        )
    }

    fn matches(desired: &VxlanLink, actual: &VxlanLink) -> bool {
        desired.is_realised_by(actual)
    }
}

#[derive(Clone, Debug)]
pub struct FakeFdb(FakeKernel);

impl Driver for FakeFdb {
    type Key = FdbKey;
    type Value = FdbEntry;

    fn list(&mut self) -> io::Result<BTreeMap<FdbKey, FdbEntry>> {
        self.0.list(|state| state.fdb.clone())
    }

    fn apply(&mut self, puts: &[(FdbKey, FdbEntry)], deletes: &[FdbKey]) -> Failures<FdbKey> {
        let put = |state: &mut State, key: &FdbKey, entry: &FdbEntry| {
            if !state.vxlans.contains_key(&key.interface) {
                return Err(no_link(&key.interface));
            }
            state.fdb.insert(key.clone(), *entry);
            Ok(())
        };
        self.0.apply(
            puts,
            deletes,
            |key| Entry::Fdb(key.clone()),
            put,
            |state, key| {
                state.fdb.remove(key);
                Ok(())
            },
        )
    }
}
