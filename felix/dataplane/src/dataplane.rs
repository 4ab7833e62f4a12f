//! The dataplane: every kind of kernel state, and the order among them.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use felix_render::{Hold, IpSetChange, Output, Sysctl, TunnelDevice};
use kernel::{
    Chain, ChainName, Hook, HookName, IpSet, IpSetName, IpSetPort as _, IptablesTable, RuleEvent, Tunnel,
    WireguardPeerKey, WireguardSession,
};
use model::{ChainInsertMode, Cidr, Family, FelixConfiguration, HostInterface, WireguardKey};

use crate::audit::{self, Audit};
use crate::chains::Chains;
use crate::cluster::ClusterStage;
use crate::endpoint::{EndpointState, missing_chains};
use crate::foreign::ForeignWriters;
use crate::ip_sets::SetStage;
use crate::leftovers::Leftovers;
use crate::local::{LocalFact, of_neighbour, of_route};
use crate::nft_stage::NftStage;
use crate::ports::{Drivers, Ownership, Ports};
use crate::stage::Stage;
use crate::status::{Kind, Report, Status};

type WantedSets = BTreeMap<IpSetName, IpSetChange>;
type WantedChains = BTreeMap<(Family, IptablesTable, ChainName), Option<Chain>>;
type WantedHooks = BTreeMap<(Family, IptablesTable, HookName), Hook>;

/// The fallback device of the kernel's IPIP module.
const TUNNEL: &str = "tunl0";

/// How often each kind is read back when nothing else gives reason to; zero means never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refresh {
    pub iptables: Duration,
    /// First look at rules after they were written, then less and less often.
    pub iptables_after_write: Duration,
    pub nftables: Duration,
    pub ip_sets: Duration,
    pub routes: Duration,
}

impl From<&FelixConfiguration> for Refresh {
    fn from(configuration: &FelixConfiguration) -> Self {
        Self {
            iptables: configuration.iptables_refresh_interval,
            iptables_after_write: configuration.iptables_post_write_check_interval,
            nftables: configuration.nftables.refresh_interval,
            ip_sets: configuration.ipsets_refresh_interval,
            routes: configuration.route_refresh_interval,
        }
    }
}

/// What [`Dataplane::apply`] has just been at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Reading back what the kernel has of routes, neighbours and tunnels.
    ReadBack,
    /// Sets, chains and hooks.
    Policy,
    /// Routes, neighbours, sysctls and tunnels.
    Routes,
}

/// See the crate's description.
pub struct Dataplane<P: Ports> {
    pub(crate) ip_sets: SetStage<P::IpSets>,
    pub(crate) chains: Vec<Chains<P::Iptables>>,
    /// Drivers that are not used any more, until nothing of ours is left behind them.
    leftovers: Vec<Leftovers<P::Iptables>>,
    /// `None` when the kernel takes no tables of nf_tables.
    nft: Option<NftStage<P::Nftables>>,
    /// Where is policy? The other way into the kernel wants nothing, and is emptied when all is in the one in use.
    uses_nft: bool,
    /// Is the place that policy has left still to be emptied?
    is_moving: bool,
    foreign: ForeignWriters,
    routes: Stage<LocalFact<P::Routes>>,
    neighbours: Stage<LocalFact<P::Neighbours>>,
    sysctls: Stage<P::Sysctls>,
    interface_sysctls: BTreeMap<HostInterface, Arc<[Sysctl]>>,
    tunnels: Stage<P::Tunnels>,
    tunnel_wish: TunnelDevice,
    /// MTU of `tunl0` unless the wish names one.
    tunnel_mtu: Option<u32>,
    cluster: ClusterStage<P>,
}

impl<P: Ports> Dataplane<P> {
    /// Wants nothing, and will read everything back at the first apply.
    pub fn new(drivers: Drivers<P>, now: Instant) -> Self {
        let routes = LocalFact::new(drivers.routes, of_route);
        let neighbours = LocalFact::new(drivers.neighbours, of_neighbour);
        let mut chains = vec![Chains::new(Family::V4, drivers.iptables)];
        chains.extend(drivers.ip6tables.map(|driver| Chains::new(Family::V6, driver)));
        let families = chains.iter().map(|chains| chains.family).collect();
        let mut dataplane = Self {
            ip_sets: SetStage::new(drivers.ip_sets),
            chains,
            leftovers: Vec::new(),
            nft: drivers.nftables.map(|driver| NftStage::new(driver, families)),
            uses_nft: false,
            is_moving: true,
            foreign: ForeignWriters::default(),
            routes: Stage::new(Kind::Routes, routes, |key| key.destination.to_string()),
            neighbours: Stage::new(Kind::Neighbours, neighbours, |key| {
                format!("{} on {}", key.address, key.interface)
            }),
            sysctls: Stage::new(Kind::Sysctls, drivers.sysctls, String::clone),
            interface_sysctls: BTreeMap::new(),
            tunnels: Stage::new(Kind::Tunnels, drivers.tunnels, String::clone),
            tunnel_wish: TunnelDevice::default(),
            tunnel_mtu: None,
            cluster: ClusterStage::new(drivers.cluster),
        };
        dataplane.resync(now);
        dataplane
    }

    /// Takes the renderer's differences; nothing is written before `apply`.
    pub fn want(&mut self, output: Output) {
        self.cluster.want(output.cluster, output.wireguard);
        match &mut self.nft {
            Some(nft) if self.uses_nft => nft.want(output.ip_sets, output.chains, output.hooks),
            _ => self.want_iptables(output.ip_sets, output.chains, output.hooks),
        }
        for (key, route) in output.routes {
            if let Some(route) = &route {
                let interfaces = of_route(&key, route);
                interfaces.into_iter().for_each(|name| self.routes.table.driver_mut().know(name));
            }
            self.routes.table.set(key, route);
        }
        for (key, neighbour) in output.neighbours {
            if neighbour.is_some() {
                self.neighbours.table.driver_mut().know(&key.interface);
            }
            self.neighbours.table.set(key, neighbour);
        }
        for (interface, sysctls) in output.sysctls {
            self.want_sysctls(interface, sysctls);
        }
        if let Some(tunnel) = output.tunnel {
            self.tunnel_wish = tunnel;
            self.want_tunnel();
        }
    }

    fn want_iptables(&mut self, sets: WantedSets, chains: WantedChains, hooks: WantedHooks) {
        for (name, change) in sets {
            self.ip_sets.want(name, change);
        }
        for ((family, table, name), chain) in chains {
            self.of_family(family).into_iter().for_each(|c| c.want_chain(table, name.clone(), chain.clone()));
        }
        for ((family, table, name), hook) in hooks {
            self.of_family(family).into_iter().for_each(|c| c.want_hook(table, name, hook.clone()));
        }
    }

    /// Does policy go through nf_tables' own tables?
    pub fn uses_nftables(&self) -> bool {
        self.uses_nft
    }

    pub(crate) fn nft_in_use(&self) -> Option<&NftStage<P::Nftables>> {
        self.nft.as_ref().filter(|_| self.uses_nft)
    }

    /// Moves policy to nf_tables' own tables, or back to iptables; `false` where the kernel has no such tables. What
    /// is there stays in force until everything is in the new place, and goes then. Every chain and hook must be
    /// wanted anew before the next `apply`; IP sets move by themselves.
    pub fn use_nftables(&mut self, wanted: bool, now: Instant) -> bool {
        let Some(nft) = &mut self.nft else { return !wanted };
        if wanted == self.uses_nft {
            return true;
        }
        self.uses_nft = wanted;
        if wanted {
            nft.take_over(now);
            for (name, set) in self.ip_sets.sets.all_wanted() {
                let members = Arc::new(set.members.clone());
                let set = IpSet { kind: set.kind, family: set.family, members };
                nft.want_set(name.clone(), IpSetChange::Full(set));
            }
        } else {
            for (name, set) in nft.wanted_sets() {
                self.ip_sets.want(name, set);
            }
            self.ip_sets.resync_at(now);
            self.chains.iter_mut().for_each(|chains| chains.resync_at(now));
        }
        self.is_moving = true;
        true
    }

    /// Takes away what is in the place that is not used any more.
    fn finish_move(&mut self, now: Instant) {
        if !std::mem::take(&mut self.is_moving) {
            return;
        }
        if self.uses_nft {
            self.chains.iter_mut().for_each(|chains| chains.want_nothing(now));
            self.ip_sets.want_nothing(now);
        } else {
            self.nft.iter_mut().for_each(|nft| nft.retire(now));
        }
    }

    /// Writes sets and chains where policy goes through iptables, or empties that place.
    fn apply_iptables(&mut self, now: Instant, report: &mut Report, progress: &mut impl FnMut()) {
        self.ip_sets.resync_if_due(now, report);
        self.ip_sets.apply_puts(now, report);
        progress();
        for chains in &mut self.chains {
            chains.apply(now, report, |set| self.ip_sets.missing(set));
            progress();
        }
        for leftovers in &mut self.leftovers {
            let family = leftovers.family;
            if self.chains.iter().any(|chains| chains.family == family && chains.is_settled()) {
                leftovers.apply(now, report);
                progress();
            }
        }
    }

    /// Writes what policy asks for, first in the place that is used.
    fn apply_policy(&mut self, now: Instant, report: &mut Report, progress: &mut impl FnMut()) {
        if !self.uses_nft {
            self.apply_iptables(now, report, progress);
            if self.chains.iter().all(Chains::is_settled) {
                self.finish_move(now);
                self.nft.iter_mut().for_each(|nft| nft.apply(now, report));
                progress();
            }
            return;
        }
        self.nft.iter_mut().for_each(|nft| nft.apply(now, report));
        progress();
        if self.nft.as_ref().is_some_and(NftStage::is_settled) {
            self.finish_move(now);
            self.apply_iptables(now, report, progress);
        }
    }

    fn of_family(&mut self, family: Family) -> Option<&mut Chains<P::Iptables>> {
        self.chains.iter_mut().find(|chains| chains.family == family)
    }

    /// Sysctls that are no longer wanted are forgotten: they go with their interface.
    fn want_sysctls(&mut self, interface: HostInterface, sysctls: Option<Arc<[Sysctl]>>) {
        let new = sysctls.as_deref().unwrap_or_default();
        for old in self.interface_sysctls.remove(&interface).iter().flat_map(|old| old.iter()) {
            if !new.iter().any(|sysctl| sysctl.path == old.path) {
                self.sysctls.table.forget(&old.path);
                self.sysctls.table.set(old.path.clone(), None);
            }
        }
        for sysctl in new {
            self.sysctls.table.set(sysctl.path.clone(), Some(sysctl.value.to_owned()));
        }
        sysctls.into_iter().for_each(|sysctls| {
            self.interface_sysctls.insert(interface.clone(), sysctls);
        });
    }

    /// Says what MTU `tunl0` gets unless the configuration names one, bytes.
    pub fn set_tunnel_mtu(&mut self, mtu: u32) {
        self.tunnel_mtu = Some(mtu);
        self.want_tunnel();
    }

    /// Says what MTU the VXLAN link of a family gets, bytes.
    pub fn set_vxlan_mtu(&mut self, family: Family, mtu: u32) {
        self.cluster.set_mtu(family, mtu);
    }

    /// Says what MTU the WireGuard link of a family gets, bytes.
    pub fn set_wireguard_mtu(&mut self, family: Family, mtu: u32) {
        self.cluster.wireguard.set_mtu(family, mtu);
    }

    /// By what other nodes may know this one's WireGuard: the keys of links that are wanted and there.
    pub fn wireguard_keys(&self) -> BTreeMap<Family, WireguardKey> {
        self.cluster.wireguard.keys()
    }

    /// How it goes with the nodes behind WireGuard links.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn wireguard_sessions(&mut self) -> io::Result<BTreeMap<WireguardPeerKey, WireguardSession>> {
        self.cluster.wireguard.sessions()
    }

    /// Why WireGuard is wanted and not there, by link.
    pub fn wireguard_errors(&self) -> impl Iterator<Item = String> + '_ {
        self.cluster.wireguard.errors()
    }

    /// Nodes that take WireGuard, and with whom we have not come to terms: what goes there is not encrypted, unless
    /// there is no other way.
    pub fn silent_wireguard_peers(&self) -> Vec<WireguardPeerKey> {
        self.cluster.wireguard.silent()
    }

    /// The device is kept when no pool needs it any more: only its address goes.
    fn want_tunnel(&mut self) {
        let TunnelDevice { wanted, address, mtu, no_checksum_offload, carries_pods } = self.tunnel_wish;
        let tunnel = Tunnel { address, mtu: mtu.or(self.tunnel_mtu), no_checksum_offload, carries_pods };
        self.tunnels.table.set(TUNNEL.to_owned(), wanted.then_some(tunnel));
    }

    /// Reads everything back at the next apply.
    pub fn resync(&mut self, now: Instant) {
        self.ip_sets.resync_at(now);
        self.chains.iter_mut().for_each(|chains| chains.resync_at(now));
        self.nft.iter_mut().for_each(|nft| nft.resync_at(now));
        self.resync_routes(now);
        self.neighbours.resync_at(now);
        self.tunnels.resync_at(now);
        self.cluster.resync(now);
    }

    /// Reads VXLAN links and what leads to other nodes back at the first apply at or after `at`.
    pub fn resync_cluster(&mut self, at: Instant) {
        self.cluster.resync(at);
    }

    /// Somebody else's routes have changed: one of ours that waits for that is looked at again.
    pub fn others_routes_changed(&mut self, at: Instant) {
        self.cluster.others_changed(at);
    }

    /// Does the way to other nodes hang on this link?
    pub fn uses_link(&self, name: &str) -> bool {
        self.cluster.uses_link(name)
    }

    /// Routes to other nodes that stay although they are not wanted, and for what they wait.
    pub fn held_routes(&self) -> impl Iterator<Item = (Cidr, Hold)> + '_ {
        self.cluster.held()
    }

    /// Reads routes back at the first apply at or after `at`.
    pub fn resync_routes(&mut self, at: Instant) {
        self.routes.resync_at(at);
    }

    /// Reads neighbours back at the first apply at or after `at`.
    pub fn resync_neighbours(&mut self, at: Instant) {
        self.neighbours.resync_at(at);
    }

    /// Reads `tunl0` back at the first apply at or after `at`.
    pub fn resync_tunnel(&mut self, at: Instant) {
        self.tunnels.resync_at(at);
    }

    /// Which routes and neighbours are ours. To be said before the first apply, with the prefix that stays.
    pub fn set_ownership(&mut self, ownership: &Ownership) {
        let routes = self.routes.table.driver_mut().inner_mut();
        let neighbours = self.neighbours.table.driver_mut().inner_mut();
        P::set_ownership(routes, neighbours, self.cluster.routes_mut(), ownership);
    }

    /// IP sets made from now on hold at most so many members.
    pub fn set_max_set_size(&mut self, members: u32) {
        self.ip_sets.sets.driver_mut().set_max_size(members);
    }

    /// Where jumps to our chains go in the kernel's.
    pub fn set_insert_mode(&mut self, mode: ChainInsertMode) {
        self.chains.iter_mut().for_each(|chains| chains.set_insert_mode(mode));
    }

    /// Writes the chains of a family through another driver from now on. What is behind the present one stays
    /// until everything is behind the new one; then it is swept.
    pub fn replace_iptables(&mut self, family: Family, driver: P::Iptables, now: Instant) {
        if let Some(chains) = self.of_family(family) {
            let old = chains.replace_driver(driver, now);
            self.leftovers.retain(|leftovers| leftovers.family != family);
            self.leftovers.push(Leftovers::new(family, old));
        }
    }

    /// Sweeps what an earlier run, or Calico, left behind a driver that is not used: now and at every refresh.
    pub fn sweep_iptables(&mut self, family: Family, driver: P::Iptables) {
        self.leftovers.push(Leftovers::new(family, driver));
    }

    /// Somebody wrote rules; where it was not ourselves, they are read back soon.
    pub fn rules_written(&mut self, event: RuleEvent, now: Instant) {
        match event {
            RuleEvent::Iptables { family, writer } => {
                if self.of_family(family).is_some_and(|chains| chains.written_by(writer, now)) {
                    self.foreign.wrote(writer, Kind::Chains(family));
                }
            }
            RuleEvent::Native { writer } => {
                for nft in self.nft.iter_mut().filter(|nft| !nft.is_own(writer)) {
                    nft.disturbed(now);
                    self.foreign.wrote(writer, Kind::Nftables);
                }
            }
            RuleEvent::Commit { writer, process, pid } => self.foreign.is(writer, &process, pid, now),
            RuleEvent::Overrun => {
                self.chains.iter_mut().for_each(|chains| chains.disturbed(now));
                self.nft.iter_mut().for_each(|nft| nft.disturbed(now));
            }
        }
    }

    /// Reads everything back this often from now on.
    pub fn set_refresh(&mut self, refresh: Refresh, now: Instant) {
        self.ip_sets.set_refresh(refresh.ip_sets, now);
        for chains in &mut self.chains {
            chains.set_refresh(refresh.iptables, now);
            chains.set_check_after(refresh.iptables_after_write);
        }
        self.nft.iter_mut().for_each(|nft| nft.set_refresh(refresh.nftables, now));
        self.routes.set_refresh(refresh.routes, now);
        self.neighbours.set_refresh(refresh.routes, now);
        self.tunnels.set_refresh(refresh.routes, now);
        self.cluster.set_refresh(refresh.routes, now);
    }

    /// An interface came, went up or down, or changed: the kernel may have dropped what was on it.
    pub fn link_changed(&mut self, interface: &str) {
        let routes = self.routes.table.desired().iter();
        let routes: Vec<_> = routes
            .filter(|(key, route)| of_route(key, route).contains(&interface))
            .map(|(key, _)| *key)
            .collect();
        routes.iter().for_each(|key| self.routes.table.forget(key));
        let neighbours = self.neighbours.table.desired().keys();
        let neighbours: Vec<_> = neighbours.filter(|key| key.interface == interface).cloned().collect();
        neighbours.iter().for_each(|key| self.neighbours.table.forget(key));
        for sysctl in self.interface_sysctls.get(interface).iter().flat_map(|sysctls| sysctls.iter()) {
            self.sysctls.table.forget(&sysctl.path);
        }
    }

    /// An interface is gone, with everything on it.
    pub fn link_gone(&mut self, interface: &str) {
        self.link_changed(interface);
        if !self.interface_sysctls.contains_key(interface) {
            self.routes.table.driver_mut().forget(interface);
            self.neighbours.table.driver_mut().forget(interface);
        }
    }

    /// Brings the kernel to what is wanted, as far as it lets us. `progress` is called often, and told what was done.
    pub fn apply(&mut self, now: Instant, mut progress: impl FnMut(Step)) -> Report {
        let mut report = Report::default();
        self.read_back(now, &mut report, &mut || progress(Step::ReadBack));
        self.apply_policy(now, &mut report, &mut || progress(Step::Policy));
        self.routes.apply(now, &mut report);
        self.neighbours.apply(now, &mut report);
        progress(Step::Routes);
        self.sysctls.apply(now, &mut report);
        self.tunnels.apply(now, &mut report);
        progress(Step::Routes);
        self.cluster.apply(now, &mut report);
        progress(Step::Routes);
        if !self.chains.iter().any(Chains::gathers) {
            self.ip_sets.apply_deletes(now, &mut report);
        }
        progress(Step::Policy);
        report
    }

    fn read_back(&mut self, now: Instant, report: &mut Report, progress: &mut impl FnMut()) {
        self.routes.resync_if_due(now, report);
        self.neighbours.resync_if_due(now, report);
        self.tunnels.resync_if_due(now, report);
        self.cluster.resync_if_due(now, report);
        progress();
    }

    /// When `apply` has something to do without being told anything new.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let chains = self.chains.iter().filter_map(Chains::poll_timeout);
        let leftovers = self.leftovers.iter().filter_map(Leftovers::poll_timeout);
        let iptables = chains.chain(leftovers).chain(self.ip_sets.poll_timeout()).min();
        let nft = self.nft.as_ref().and_then(NftStage::poll_timeout);
        // The place that is not used waits for the one that is.
        let waits = match self.uses_nft {
            true => !self.nft.as_ref().is_some_and(NftStage::is_settled),
            false => !self.chains.iter().all(Chains::is_settled),
        };
        let all = [
            iptables.filter(|_| !(self.uses_nft && waits)),
            nft.filter(|_| self.uses_nft || !waits),
            self.routes.poll_timeout(),
            self.neighbours.poll_timeout(),
            self.sysctls.poll_timeout(),
            self.tunnels.poll_timeout(),
            self.cluster.poll_timeout(),
        ];
        all.into_iter().flatten().min()
    }

    /// Why a chain of the filter table that is wanted is not in the kernel; `None` when it is, or not wanted.
    pub fn missing_chain(&self, name: &ChainName) -> Option<String> {
        if let Some(nft) = self.nft_in_use() {
            return nft.missing_chain(name);
        }
        let wanted = self.chains.iter().filter(|chains| chains.filter_rules(name).is_some());
        wanted.into_iter().find_map(|chains| chains.missing(name))
    }

    /// The interfaces of the pods that it knows.
    pub fn pod_interfaces(&self) -> impl Iterator<Item = &HostInterface> {
        self.interface_sysctls.keys()
    }

    /// What is in the kernel for a pod's interface.
    pub fn endpoint(&self, interface: &str) -> EndpointState {
        let mut missing = Vec::new();
        let mut is_known = false;
        for (key, route) in self.routes.table.desired() {
            if of_route(key, route).contains(&interface) {
                is_known = true;
                missing.extend(self.routes.missing(key));
            }
        }
        let neighbours = self.neighbours.table.desired().keys().filter(|key| key.interface == interface);
        missing.extend(neighbours.filter_map(|key| self.neighbours.missing(key)));
        let sysctls = self.interface_sysctls.get(interface).into_iter().flat_map(|sysctls| sysctls.iter());
        let required = sysctls.filter(|sysctl| sysctl.required);
        missing.extend(required.filter_map(|sysctl| self.sysctls.missing(&sysctl.path)));
        let lost = self.nft_in_use().and_then(|nft| nft.missing_of(interface));
        is_known |= lost.is_some();
        missing.extend(lost.unwrap_or_default());
        for chains in self.chains.iter().filter(|_| !self.uses_nft) {
            let lost = missing_chains(interface, chains, |set| self.ip_sets.missing(set));
            is_known |= lost.is_some();
            missing.extend(lost.unwrap_or_default());
        }
        match (is_known, missing.is_empty()) {
            (false, _) => EndpointState::Unknown,
            (true, true) => EndpointState::Programmed,
            (true, false) => EndpointState::Missing(missing),
        }
    }

    /// Reads everything and compares it with what is wanted; writes nothing. Sysctls that were never written yet
    /// are left out.
    pub fn audit(&mut self) -> Audit {
        let mut kinds = BTreeMap::from([
            (Kind::IpSets, self.ip_sets.audit()),
            (Kind::Routes, audit::of_stage(&mut self.routes, audit::route)),
            (Kind::Neighbours, audit::of_stage(&mut self.neighbours, audit::neighbour)),
            (Kind::Sysctls, audit::of_stage(&mut self.sysctls, String::clone)),
            (Kind::Tunnels, audit::of_stage(&mut self.tunnels, audit::tunnel)),
        ]);
        kinds.extend(self.cluster.audit());
        kinds.extend(self.chains.iter_mut().map(|chains| (chains.kind(), chains.audit())));
        kinds.extend(self.nft.iter_mut().map(|nft| (Kind::Nftables, nft.audit())));
        for (kind, audit) in &mut kinds {
            audit.writer = self.foreign.last(*kind).cloned();
        }
        Audit { kinds }
    }

    /// Everything that is wanted, pending and failing, by kind.
    pub fn status(&self) -> Status {
        let mut status = Status::default();
        self.ip_sets.add_to(&mut status);
        self.chains.iter().for_each(|chains| chains.add_to(&mut status));
        self.nft.iter().for_each(|nft| nft.add_to(&mut status));
        self.routes.add_to(&mut status);
        self.neighbours.add_to(&mut status);
        self.sysctls.add_to(&mut status);
        self.tunnels.add_to(&mut status);
        self.cluster.add_to(&mut status);
        status
    }
}
