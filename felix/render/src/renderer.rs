//! The renderer: keeps what it was told, and renders again what that concerns.
//!
//! What one policy or endpoint makes is rendered when it comes; what hangs on several things (dispatch, host
//! endpoints, static chains) once a flush, if one of them changed. A wish that is equal to the one before is
//! never told.

mod cluster;
mod endpoints;
mod hosts;
mod policies;
mod statics;
mod wireguard;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use felix_calc::{ActiveEndpoint, ActiveHostEndpoint, ActivePolicy, ActiveProfile, Change, Pools, SetId};
use kernel::{
    Chain, ChainName, Hook, HookName, IpSet, IpSetMember, IptablesTable, Neighbour, NeighbourKey, Route,
    RouteKey,
};
use model::{Cidr, Direction, Family, FelixConfiguration, HostInterface, PolicyKey};

use crate::drops::{DropNames, DropPlace};
use crate::group_uses::GroupUses;
use crate::host_links::{Governed, HostLinks};
use crate::ipvs_chains::has_room;
use crate::marks::MarkMaskTooSmall;
use crate::names::set_name;
use crate::sets::{family_members, family_set};
use crate::settings::{RenderSettings, RuleDataplane, RuleSettings};
use crate::tracked::Tracked;
use crate::{IpSetChange, Output, Sysctl, TunnelDevice};

type ChainKey = (Family, IptablesTable, ChainName);

const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// See the crate's description.
pub struct Renderer {
    settings: RenderSettings,
    configuration: FelixConfiguration,
    rules: Arc<RuleSettings>,
    /// Why the configured mark mask is not used.
    bad_mark_mask: Option<MarkMaskTooSmall>,
    policies: BTreeMap<PolicyKey, Arc<ActivePolicy>>,
    profiles: BTreeMap<Arc<str>, Arc<ActiveProfile>>,
    groups: GroupUses,
    endpoints: BTreeMap<HostInterface, Arc<ActiveEndpoint>>,
    host_endpoints: BTreeMap<Arc<str>, Arc<ActiveHostEndpoint>>,
    host_links: HostLinks,
    governed: Governed,
    drop_names: DropNames,
    hosts: Arc<BTreeSet<IpAddr>>,
    host_addresses: BTreeSet<IpAddr>,
    /// kube-proxy works in mode IPVS.
    ipvs: bool,
    pools: Arc<Pools>,
    tunnel_address: Option<Ipv4Addr>,
    services: Arc<[Cidr]>,
    /// The interfaces that claim each address.
    claims: BTreeMap<IpAddr, BTreeSet<HostInterface>>,
    static_dirty: bool,
    dispatch_dirty: bool,
    host_endpoints_dirty: bool,
    /// What the dispatches to pods are made of.
    dispatch_chains: BTreeSet<(Family, ChainName)>,
    /// What the host endpoints are made of.
    host_chains: BTreeSet<ChainKey>,
    static_chains: BTreeSet<ChainKey>,
    chains: Tracked<ChainKey, Chain>,
    hooks: Tracked<(Family, IptablesTable, HookName), Hook>,
    /// Those that calc does not know of.
    host_sets: Tracked<kernel::IpSetName, IpSet>,
    set_changes: BTreeMap<kernel::IpSetName, IpSetChange>,
    routes: Tracked<RouteKey, Route>,
    neighbours: Tracked<NeighbourKey, Neighbour>,
    sysctls: Tracked<HostInterface, Arc<[Sysctl]>>,
    tunnel: Option<TunnelDevice>,
    cluster: cluster::ClusterWishes,
    wireguard: wireguard::WireguardWishes,
}

const IPVS_WITH_NFTABLES: &str = "kube-proxy works in mode IPVS, and what pods send to Services meets no policy of \
    theirs: that needs nftablesMode Disabled, or another mode of kube-proxy";
const IPVS_WITHOUT_MARKS: &str = "kube-proxy works in mode IPVS, and what pods send to Services meets no policy of \
    theirs: iptablesMarkMask has not two bits left for it";

impl Renderer {
    /// With an empty datastore: the static chains alone, everything closed.
    pub fn new(settings: RenderSettings) -> Self {
        let configuration = FelixConfiguration::default();
        let rules = RuleSettings::new(settings.dataplane, &configuration)
            .expect("the default mark mask has sixteen bits");
        Self {
            settings,
            configuration,
            rules: Arc::new(rules),
            bad_mark_mask: None,
            policies: BTreeMap::new(),
            profiles: BTreeMap::new(),
            groups: GroupUses::default(),
            endpoints: BTreeMap::new(),
            host_endpoints: BTreeMap::new(),
            host_links: HostLinks::new(),
            governed: Governed::default(),
            drop_names: DropNames::default(),
            hosts: Arc::default(),
            host_addresses: BTreeSet::new(),
            ipvs: false,
            pools: Arc::default(),
            tunnel_address: None,
            services: Arc::default(),
            claims: BTreeMap::new(),
            static_dirty: true,
            dispatch_dirty: true,
            host_endpoints_dirty: true,
            dispatch_chains: BTreeSet::new(),
            host_chains: BTreeSet::new(),
            static_chains: BTreeSet::new(),
            chains: Tracked::default(),
            hooks: Tracked::default(),
            host_sets: Tracked::default(),
            set_changes: BTreeMap::new(),
            routes: Tracked::default(),
            neighbours: Tracked::default(),
            sysctls: Tracked::default(),
            tunnel: None,
            cluster: cluster::ClusterWishes::default(),
            wireguard: wireguard::WireguardWishes::default(),
        }
    }

    /// Takes one change; the caller keeps calc's order.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Configuration(configuration) => self.set_configuration(*configuration),
            Change::IpSet(id, set) => self.set_ip_set(&id, set.as_ref()),
            Change::IpSetDelta { id, added, removed } => self.change_ip_set(&id, &added, &removed),
            Change::Policy(key, policy) => self.set_policy(key, policy),
            Change::Profile(name, profile) => self.set_profile(name, profile),
            Change::HostEndpoint(name, endpoint) => self.set_host_endpoint(name, endpoint),
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
            Change::ServiceRanges(ranges) => {
                self.services = ranges;
                self.static_dirty = true;
            }
            Change::ClusterRoute(destination, route) => self.set_cluster_route(destination, route),
            Change::VxlanEnd(family, end) => self.set_vxlan_end(family, end),
            Change::VxlanPeer(family, node, peer) => self.set_vxlan_peer(family, node, peer),
            Change::WireguardEnd(family, end) => self.set_wireguard_end(family, end),
            Change::WireguardPeer(family, node, peer) => self.set_wireguard_peer(family, node, peer),
        }
    }

    /// The addresses on this node's own interfaces (set `this-host`), as the link monitor sees them.
    pub fn set_host_addresses(&mut self, addresses: BTreeSet<IpAddr>) {
        self.host_addresses = addresses;
        self.static_dirty = true;
    }

    /// This node's interfaces with their addresses, as the link monitor sees them: they decide which interface a
    /// host endpoint governs. Interfaces of pods may be among them.
    pub fn set_host_links(&mut self, links: BTreeMap<HostInterface, BTreeSet<IpAddr>>) {
        if self.host_links != links {
            self.host_links = links;
            self.cluster_dirty();
            self.host_endpoints_dirty |= !self.host_endpoints.is_empty();
        }
    }

    /// Does kube-proxy work in mode IPVS on this node, as the link monitor sees it (`kube-ipvs0` is there)?
    pub fn set_ipvs(&mut self, ipvs: bool) {
        self.static_dirty |= self.ipvs != ipvs;
        self.ipvs = ipvs;
    }

    /// The interfaces that host endpoints govern, as of the last flush; `*` for the one that governs all others.
    pub fn governed_interfaces(&self) -> BTreeMap<&str, &Arc<str>> {
        let named = self.governed.interfaces.iter();
        let named = named.map(|(interface, active)| (interface.as_str(), &active.endpoint.name));
        named.chain(self.governed.all.iter().map(|active| ("*", &active.endpoint.name))).collect()
    }

    /// Where a packet was dropped, by the prefix of its record; `None` when the prefix is not one of
    /// [`crate::drop_prefix`], or names what is no longer there.
    pub fn explain_prefix(&self, prefix: &str) -> Option<DropPlace> {
        self.drop_names.explain(prefix)
    }

    /// What is not in force as somebody wants it, because it cannot be.
    pub fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> = self.bad_mark_mask.iter().map(ToString::to_string).collect();
        if self.ipvs && self.settings.dataplane == RuleDataplane::Nftables {
            problems.push(IPVS_WITH_NFTABLES.to_owned());
        } else if self.ipvs && !has_room(self.rules.mark_mask, self.rules.marks.all_and_drop()) {
            problems.push(IPVS_WITHOUT_MARKS.to_owned());
        }
        for active in self.governed.all.iter() {
            let tiers = active.untracked.iter();
            let policies: BTreeSet<_> =
                tiers.flat_map(|tier| tier.ingress.iter().chain(&tier.egress)).collect();
            let untracked = |policy| {
                format!(
                    "{policy} (doNotTrack) is not in force for host endpoint {}: without connection tracking there \
                     is no policy for all interfaces at once; give the interface a host endpoint of its own",
                    active.endpoint.name
                )
            };
            problems.extend(policies.into_iter().map(untracked));
        }
        problems
    }

    /// Renders for another dataplane from now on, and tells every chain and hook anew at the next flush.
    pub fn set_dataplane(&mut self, dataplane: RuleDataplane) {
        if dataplane == self.settings.dataplane {
            return;
        }
        self.settings.dataplane = dataplane;
        self.chains.clear();
        self.hooks.clear();
        self.set_configuration(self.configuration.clone());
        self.render_everything();
    }

    /// What a pod's interface is subject to, as it was last told.
    pub fn endpoint(&self, interface: &str) -> Option<&ActiveEndpoint> {
        self.endpoints.get(interface).map(|endpoint| &**endpoint)
    }

    /// What differs since the last flush.
    pub fn flush(&mut self) -> Output {
        let mut output = Output::default();
        let endpoints_differ = self.dispatch_dirty || self.host_endpoints_dirty;
        if std::mem::take(&mut self.dispatch_dirty) {
            self.render_dispatches();
        }
        if std::mem::take(&mut self.host_endpoints_dirty) {
            self.render_host_endpoints();
        }
        if std::mem::take(&mut self.static_dirty) || (self.ipvs && endpoints_differ) {
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
        output.cluster = self.flush_cluster();
        output.wireguard = self.flush_wireguard();
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
        self.cluster_dirty();
        if old.wireguard.keep_alive != self.configuration.wireguard.keep_alive {
            self.render_wireguard_peers();
        }
        let new = &self.configuration;
        self.static_dirty = true;
        self.host_endpoints_dirty |=
            old.failsafe_inbound != new.failsafe_inbound || old.failsafe_outbound != new.failsafe_outbound;
        let rules_differ = match RuleSettings::new(self.settings.dataplane, new) {
            Ok(rules) => {
                self.bad_mark_mask = None;
                self.set_rules(rules)
            }
            Err(error) => {
                // The mark bits in force stay, and everything else of the new configuration holds.
                let usable = FelixConfiguration {
                    mark_mask: self.rules.mark_mask,
                    nftables: model::NftablesSettings { mark_mask: self.rules.mark_mask, ..new.nftables },
                    ..new.clone()
                };
                self.bad_mark_mask = Some(error);
                let rules = RuleSettings::new(self.settings.dataplane, &usable);
                self.set_rules(rules.expect("the mark mask in force has enough bits"))
            }
        };
        let new = &self.configuration;
        let everything_but_rules = |configuration: &FelixConfiguration| {
            let FelixConfiguration { ipv6, ipv4_routes, ipv6_routes, route_protocol, .. } = configuration;
            (*ipv6, *ipv4_routes, *ipv6_routes, *route_protocol)
        };
        let is_rare = everything_but_rules(&old) != everything_but_rules(new);
        if is_rare {
            // Rare, and few know of these: everything anew.
            self.chains.clear();
            self.routes.clear();
            self.neighbours.clear();
        }
        if rules_differ || is_rare {
            self.render_everything();
        }
    }

    /// Takes what follows from the configuration; does anything differ?
    fn set_rules(&mut self, mut rules: RuleSettings) -> bool {
        rules.pods_alone = self.rules.pods_alone;
        let differ = rules != *self.rules;
        self.rules = Arc::new(rules);
        differ
    }

    /// After a change of what every rule depends on. What comes out as before is not told.
    fn render_everything(&mut self) {
        self.render_all_policies();
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
        self.host_endpoints_dirty = true;
        self.static_dirty = true;
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

    /// In the filter table.
    fn put_chain(&mut self, family: Family, chain: Chain) {
        self.chains.put((family, IptablesTable::Filter, chain.name.clone()), chain);
    }

    /// Out of the filter table.
    fn remove_chains(&mut self, names: impl IntoIterator<Item = ChainName>) {
        for name in names {
            for family in Family::ALL {
                self.chains.remove(&(family, IptablesTable::Filter, name.clone()));
            }
        }
    }
}
