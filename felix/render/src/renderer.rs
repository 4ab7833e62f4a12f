//! The renderer: keeps what it was told, and renders again what that concerns.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use felix_calc::{ActiveEndpoint, ActivePolicy, ActiveProfile, Change, Pools, SetId};
use kernel::{
    Chain, ChainName, Hook, HookName, InterfaceSide, IpSet, IpSetKind, IpSetMember, IptablesTable, Neighbour,
    NeighbourKey, Route, RouteKey,
};
use model::{Cidr, Direction, Family, FelixConfiguration, HostInterface, PolicyKey};

use crate::endpoint_chains::{Dispatch, render_dispatch, render_endpoint};
use crate::names::{
    ALL_HOSTS, FROM_WORKLOAD_DISPATCH, MASQUERADE_POOLS, NETWORK_POOLS, THIS_HOST, TO_WORKLOAD_DISPATCH,
    endpoint_chain, policy_chain, profile_chain, set_name,
};
use crate::pod_state::{addresses, is_interface_name, route, sysctls};
use crate::policy_chains::{render_policy, render_profile};
use crate::sets::{family_members, family_set};
use crate::static_chains::{StaticInput, render_hooks, render_static};
use crate::tracked::Tracked;
use crate::{IpSetChange, Output, Sysctl, TunnelDevice};

/// Facts about this machine that are no configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenderSettings {
    /// Does the kernel have IPv6? Both this and the configuration must say so.
    pub ipv6: bool,
    /// Does `MASQUERADE` take `--random-fully` (iptables 1.6.2, kernel 3.14)?
    pub random_fully: bool,
    /// Does the kernel have IPIP? Then IPIP of other nodes is received whatever the pools say, so that a
    /// sender may switch a pool's mode before this node has heard of it.
    pub ipip: bool,
}

impl Default for RenderSettings {
    fn default() -> Self {
        Self { ipv6: true, random_fully: true, ipip: true }
    }
}

type ChainKey = (Family, IptablesTable, ChainName);

const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

const DISPATCHES: [Dispatch; 2] = [
    Dispatch { root: FROM_WORKLOAD_DISPATCH, interface: InterfaceSide::In, direction: Direction::Egress },
    Dispatch { root: TO_WORKLOAD_DISPATCH, interface: InterfaceSide::Out, direction: Direction::Ingress },
];

/// See the crate's description.
pub struct Renderer {
    settings: RenderSettings,
    configuration: FelixConfiguration,
    policies: BTreeMap<PolicyKey, Arc<ActivePolicy>>,
    profiles: BTreeMap<Arc<str>, Arc<ActiveProfile>>,
    endpoints: BTreeMap<HostInterface, Arc<ActiveEndpoint>>,
    hosts: Arc<BTreeSet<IpAddr>>,
    host_addresses: BTreeSet<IpAddr>,
    pools: Arc<Pools>,
    tunnel_address: Option<Ipv4Addr>,
    /// The interfaces that claim each address.
    claims: BTreeMap<IpAddr, BTreeSet<HostInterface>>,
    /// Is there anything to be rendered at the flush that hangs on no single pod or policy?
    static_dirty: bool,
    dispatch_dirty: bool,
    chains: Tracked<ChainKey, Chain>,
    hooks: Tracked<(Family, IptablesTable, HookName), Hook>,
    /// Those that calc does not know of.
    host_sets: Tracked<kernel::IpSetName, IpSet>,
    set_changes: BTreeMap<kernel::IpSetName, IpSetChange>,
    routes: Tracked<RouteKey, Route>,
    neighbours: Tracked<NeighbourKey, Neighbour>,
    sysctls: Tracked<HostInterface, Arc<[Sysctl]>>,
    tunnel: Option<TunnelDevice>,
}

impl Renderer {
    /// With an empty datastore: the static chains alone, everything closed.
    pub fn new(settings: RenderSettings) -> Self {
        Self {
            settings,
            configuration: FelixConfiguration::default(),
            policies: BTreeMap::new(),
            profiles: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            hosts: Arc::default(),
            host_addresses: BTreeSet::new(),
            pools: Arc::default(),
            tunnel_address: None,
            claims: BTreeMap::new(),
            static_dirty: true,
            dispatch_dirty: true,
            chains: Tracked::default(),
            hooks: Tracked::default(),
            host_sets: Tracked::default(),
            set_changes: BTreeMap::new(),
            routes: Tracked::default(),
            neighbours: Tracked::default(),
            sysctls: Tracked::default(),
            tunnel: None,
        }
    }

    /// Takes one change; the caller keeps calc's order.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Configuration(configuration) => self.set_configuration(configuration),
            Change::IpSet(id, set) => self.set_ip_set(&id, set.as_ref()),
            Change::IpSetDelta { id, added, removed } => self.change_ip_set(&id, &added, &removed),
            Change::Policy(key, policy) => self.set_policy(key, policy),
            Change::Profile(name, profile) => self.set_profile(name, profile),
            Change::HostEndpoint(..) => {}
            Change::Endpoint(interface, endpoint) => self.set_endpoint(interface, endpoint),
            Change::Hosts(hosts) => {
                self.hosts = hosts;
                self.static_dirty = true;
            }
            Change::Pools(pools) => {
                self.pools = pools;
                self.static_dirty = true;
            }
            Change::TunnelAddress(address) => {
                self.tunnel_address = address;
                self.static_dirty = true;
            }
        }
    }

    /// The addresses on this node's own interfaces (set `this-host`), as the link monitor sees them.
    pub fn set_host_addresses(&mut self, addresses: BTreeSet<IpAddr>) {
        self.host_addresses = addresses;
        self.static_dirty = true;
    }

    /// What differs since the last flush.
    pub fn flush(&mut self) -> Output {
        let mut output = Output::default();
        if std::mem::take(&mut self.dispatch_dirty) {
            self.render_dispatches();
        }
        if std::mem::take(&mut self.static_dirty) {
            self.render_static();
            self.render_host_sets();
            output.tunnel = self.render_tunnel();
        }
        output.ip_sets = std::mem::take(&mut self.set_changes);
        output.ip_sets.extend(
            self.host_sets
                .take()
                .into_iter()
                .map(|(name, set)| (name, set.map_or(IpSetChange::Gone, IpSetChange::Full))),
        );
        output.chains = self.chains.take();
        let hooks = self.hooks.take().into_iter();
        output.hooks = hooks.map(|(key, hook)| (key, hook.unwrap_or_default())).collect();
        output.routes = self.routes.take();
        output.neighbours = self.neighbours.take();
        output.sysctls = self.sysctls.take();
        output
    }

    /// The families that have chains.
    fn families(&self) -> impl Iterator<Item = Family> + use<> {
        let ipv6 = self.ipv6();
        Family::ALL.into_iter().filter(move |family| *family == Family::V4 || ipv6)
    }

    fn ipv6(&self) -> bool {
        self.settings.ipv6 && self.configuration.ipv6
    }

    fn set_configuration(&mut self, configuration: FelixConfiguration) {
        let old = std::mem::replace(&mut self.configuration, configuration);
        self.static_dirty = true;
        let new = &self.configuration;
        if (old.ipv6, old.route_priority) == (new.ipv6, new.route_priority) {
            return;
        }
        // Rare, and few know of these: everything anew.
        self.chains.clear();
        self.routes.clear();
        self.neighbours.clear();
        self.policies
            .values()
            .cloned()
            .collect::<Vec<_>>()
            .iter()
            .for_each(|policy| self.render_policy(policy));
        self.profiles.clone().values().for_each(|profile| self.render_profile(profile));
        for endpoint in self.endpoints.values().cloned().collect::<Vec<_>>() {
            self.render_endpoint(&endpoint);
        }
        self.claims
            .keys()
            .copied()
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|address| self.render_route(address));
        self.dispatch_dirty = true;
    }

    /// Sets exist in both families even while the configuration wants no IPv6: they cost little there, and
    /// need not be told again when it does.
    fn set_families(&self) -> impl Iterator<Item = Family> + use<> {
        let ipv6 = self.settings.ipv6;
        Family::ALL.into_iter().filter(move |family| *family == Family::V4 || ipv6)
    }

    fn set_ip_set(&mut self, id: &SetId, set: Option<&felix_calc::IpSet>) {
        for family in self.set_families() {
            let change = match set {
                Some(set) => IpSetChange::Full(family_set(set.kind, &set.members, family)),
                None => IpSetChange::Gone,
            };
            self.set_changes.insert(set_name(family, id.as_str()), change);
        }
    }

    fn change_ip_set(&mut self, id: &SetId, added: &[IpSetMember], removed: &[IpSetMember]) {
        for family in self.set_families() {
            let added: Vec<_> = family_members(added, family).collect();
            let removed: Vec<_> = family_members(removed, family).collect();
            if added.is_empty() && removed.is_empty() {
                continue;
            }
            let name = set_name(family, id.as_str());
            let delta = IpSetChange::Delta { added, removed };
            match self.set_changes.remove(&name) {
                Some(earlier) => _ = self.set_changes.insert(name, earlier.then(delta)),
                None => _ = self.set_changes.insert(name, delta),
            }
        }
    }

    fn set_policy(&mut self, key: PolicyKey, policy: Option<Arc<ActivePolicy>>) {
        match policy {
            Some(policy) => {
                self.render_policy(&policy);
                self.policies.insert(key, policy);
            }
            None => {
                self.policies.remove(&key);
                self.remove_chains(DIRECTIONS.map(|direction| policy_chain(direction, &key)));
            }
        }
    }

    fn render_policy(&mut self, policy: &ActivePolicy) {
        for family in self.families() {
            for direction in DIRECTIONS {
                self.put_chain(family, render_policy(policy, direction, family));
            }
        }
    }

    fn set_profile(&mut self, name: Arc<str>, profile: Option<Arc<ActiveProfile>>) {
        match profile {
            Some(profile) => {
                self.render_profile(&profile);
                self.profiles.insert(name, profile);
            }
            None => {
                self.profiles.remove(&name);
                self.remove_chains(DIRECTIONS.map(|direction| profile_chain(direction, &name)));
            }
        }
    }

    fn render_profile(&mut self, profile: &ActiveProfile) {
        for family in self.families() {
            for direction in DIRECTIONS {
                self.put_chain(family, render_profile(profile, direction, family));
            }
        }
    }

    /// An interface whose name could not stand in a rule stays unknown, which is closed.
    fn set_endpoint(&mut self, interface: HostInterface, endpoint: Option<Arc<ActiveEndpoint>>) {
        if !is_interface_name(&interface) {
            return;
        }
        let old = self.endpoints.remove(&interface);
        let mut touched = BTreeSet::new();
        for address in old.iter().flat_map(|old| &old.local.addresses) {
            touched.insert(*address);
            if let Some(claims) = self.claims.get_mut(address) {
                claims.remove(&interface);
            }
        }
        for address in endpoint.iter().flat_map(|endpoint| &endpoint.local.addresses) {
            touched.insert(*address);
            self.claims.entry(*address).or_default().insert(interface.clone());
        }
        for address in &touched {
            self.neighbours.remove(&NeighbourKey { interface: interface.clone(), address: *address });
        }
        self.dispatch_dirty |= old.is_none() || endpoint.is_none();
        match endpoint {
            Some(endpoint) => {
                self.render_endpoint(&endpoint);
                self.endpoints.insert(interface, endpoint);
            }
            None => {
                self.sysctls.remove(&interface);
                self.remove_chains(DIRECTIONS.map(|direction| endpoint_chain(direction, &interface)));
            }
        }
        touched.into_iter().for_each(|address| self.render_route(address));
    }

    fn render_endpoint(&mut self, endpoint: &ActiveEndpoint) {
        let interface = &endpoint.local.interface;
        for family in self.families() {
            for direction in DIRECTIONS {
                self.put_chain(family, render_endpoint(endpoint, direction));
            }
        }
        for address in addresses(endpoint, self.ipv6()) {
            let key = NeighbourKey { interface: interface.clone(), address };
            self.neighbours.put(key, Neighbour { mac: endpoint.local.mac });
        }
        self.sysctls.put(interface.clone(), sysctls(interface, self.settings.ipv6));
    }

    /// Where two interfaces claim one address, the last by name has it: any rule will do that depends on
    /// present state only.
    fn render_route(&mut self, address: IpAddr) {
        let metric = self.configuration.route_priority;
        let winner = self.claims.get(&address).and_then(BTreeSet::last);
        match winner {
            Some(interface) if self.ipv6() || address.is_ipv4() => {
                let (key, route) = route(address, interface, metric);
                self.routes.put(key, route);
            }
            Some(_) => {}
            None => {
                self.claims.remove(&address);
                self.routes.remove(&RouteKey::new(Cidr::host(address), metric));
            }
        }
    }

    fn render_dispatches(&mut self) {
        let interfaces: Vec<&str> = self.endpoints.keys().map(String::as_str).collect();
        let chains: Vec<Chain> =
            DISPATCHES.iter().flat_map(|dispatch| render_dispatch(dispatch, &interfaces)).collect();
        let wanted: BTreeSet<&ChainName> = chains.iter().map(|chain| &chain.name).collect();
        let is_ours = |name: &str| DISPATCHES.iter().any(|dispatch| name.starts_with(dispatch.root));
        let stale = self.chains.keys().filter(|(.., name)| is_ours(name.as_str()) && !wanted.contains(name));
        let stale: Vec<_> = stale.cloned().collect();
        stale.iter().for_each(|key| self.chains.remove(key));
        for family in self.families() {
            chains.iter().for_each(|chain| self.put_chain(family, chain.clone()));
        }
    }

    fn receives_ipip(&self) -> bool {
        self.settings.ipip || self.pools.ipip
    }

    fn render_static(&mut self) {
        for family in Family::ALL {
            let input = self.static_input(family);
            for table in IptablesTable::ALL {
                let wanted = self.families().any(|wanted| wanted == family);
                for chain in render_static(&input, table) {
                    let key = (family, table, chain.name.clone());
                    if wanted { self.chains.put(key, chain) } else { self.chains.remove(&key) }
                }
                for (name, hook) in render_hooks(table) {
                    let key = (family, table, name);
                    if wanted { self.hooks.put(key, hook) } else { self.hooks.remove(&key) }
                }
            }
        }
    }

    fn static_input(&self, family: Family) -> StaticInput {
        StaticInput {
            family,
            prefix: self.configuration.interface_prefix.clone(),
            to_host: self.configuration.endpoint_to_host_action,
            ipip: family == Family::V4 && self.receives_ipip(),
            tunnel_address: self.tunnel_address.is_some(),
            masquerade: self.pools.masquerade.iter().any(|pool| pool.family() == family),
            random_fully: self.settings.random_fully,
        }
    }

    fn render_host_sets(&mut self) {
        let nets = |cidrs: &BTreeSet<Cidr>| cidrs.iter().copied().map(IpSetMember::Net).collect::<Vec<_>>();
        let hosts = |hosts: &BTreeSet<IpAddr>| nets(&hosts.iter().copied().map(Cidr::host).collect());
        let sets = [
            (NETWORK_POOLS, nets(&self.pools.network)),
            (MASQUERADE_POOLS, nets(&self.pools.masquerade)),
            (THIS_HOST, hosts(&self.host_addresses)),
            (ALL_HOSTS, hosts(&self.hosts)),
        ];
        for family in self.set_families() {
            for (id, members) in &sets {
                let name = set_name(family, id);
                if *id == ALL_HOSTS && !(family == Family::V4 && self.receives_ipip()) {
                    self.host_sets.remove(&name);
                } else {
                    self.host_sets.put(name, family_set(IpSetKind::Net, members, family));
                }
            }
        }
    }

    fn render_tunnel(&mut self) -> Option<TunnelDevice> {
        let device = TunnelDevice {
            wanted: self.receives_ipip(),
            address: self.tunnel_address,
            mtu: self.configuration.mtu,
        };
        (self.tunnel.replace(device) != Some(device)).then_some(device)
    }

    fn put_chain(&mut self, family: Family, chain: Chain) {
        self.chains.put((family, IptablesTable::Filter, chain.name.clone()), chain);
    }

    fn remove_chains(&mut self, names: [ChainName; 2]) {
        for name in names {
            for family in Family::ALL {
                self.chains.remove(&(family, IptablesTable::Filter, name.clone()));
            }
        }
    }
}
