//! Endpoints of pods: their chains, the dispatch to them, routes, neighbours and sysctls.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use felix_calc::{ActiveEndpoint, PodOptions};
use kernel::{Chain, ChainName, InterfaceSide, IptablesTable, Neighbour, NeighbourKey, RouteKey};
use model::{Cidr, Direction, Family, HostInterface};

use super::{DIRECTIONS, Renderer};
use crate::compact::{ProfileSays, before_dispatch};
use crate::dispatch::Dispatch;
use crate::drops::DropReason;
use crate::endpoint_chains::{Way, endpoint_chain, is_closed, limits_packets, render_pod};
use crate::names::{FROM_WORKLOAD_DISPATCH, TO_WORKLOAD_DISPATCH};
use crate::pod_state::{addresses, is_interface_name, route, route_form, sysctls};
use crate::settings::{Context, RuleDataplane};

/// Root, interface and policy of the dispatches to pods.
const DISPATCHES: [(&str, InterfaceSide, Direction); 2] = [
    (FROM_WORKLOAD_DISPATCH, InterfaceSide::In, Direction::Egress),
    (TO_WORKLOAD_DISPATCH, InterfaceSide::Out, Direction::Ingress),
];

impl Renderer {
    /// An interface whose name could not stand in a rule stays unknown, which is closed.
    pub(super) fn set_endpoint(&mut self, interface: HostInterface, endpoint: Option<Arc<ActiveEndpoint>>) {
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
        let families = |endpoint: &Option<Arc<ActiveEndpoint>>| {
            endpoint.as_ref().map(|endpoint| self.families_of(endpoint))
        };
        self.dispatch_dirty |= families(&old) != families(&endpoint);
        let asks = |endpoint: &Option<Arc<ActiveEndpoint>>| {
            endpoint.as_ref().is_some_and(|endpoint| endpoint.options != PodOptions::default())
        };
        let is_closed = |endpoint: &Option<Arc<ActiveEndpoint>>| {
            endpoint.as_ref().is_some_and(|endpoint| is_closed(&self.rules, endpoint))
        };
        let is_nftables = self.rules.dataplane == RuleDataplane::Nftables;
        self.static_dirty |=
            asks(&old) || asks(&endpoint) || (is_nftables && is_closed(&old) != is_closed(&endpoint));
        let is_apart = |endpoint: &Option<Arc<ActiveEndpoint>>| {
            is_closed(endpoint) || endpoint.as_deref().is_some_and(limits_packets)
        };
        self.dispatch_dirty |= is_nftables && is_apart(&old) != is_apart(&endpoint);
        match endpoint {
            Some(endpoint) => {
                self.render_endpoint(&endpoint);
                self.endpoints.insert(interface, endpoint);
            }
            None => {
                self.sysctls.remove(&interface);
                let chains = DIRECTIONS.map(|direction| endpoint_chain(Way::Pod, direction, &interface));
                self.remove_chains(chains);
                self.use_groups(&interface, Vec::new());
            }
        }
        touched.into_iter().for_each(|address| self.render_route(address));
    }

    pub(super) fn render_endpoint(&mut self, endpoint: &ActiveEndpoint) {
        let interface = &endpoint.local.interface;
        let rules = self.rules.clone();
        let mut all_groups = Vec::new();
        let families = self.families_of(endpoint);
        for family in Family::ALL.into_iter().filter(|family| !families.contains(family)) {
            for direction in DIRECTIONS {
                let chain = endpoint_chain(Way::Pod, direction, interface);
                self.chains.remove(&(family, IptablesTable::Filter, chain));
            }
        }
        for family in families {
            let context = Context::new(&rules, family, IptablesTable::Filter);
            for direction in DIRECTIONS {
                let (policies, profiles) = (&self.policies, &self.profiles);
                let says =
                    |name: &Arc<str>| ProfileSays::of(profiles.get(name).map(|known| &**known), direction);
                let (chain, groups) =
                    render_pod(&context, endpoint, direction, |key| policies.get(key), says);
                self.put_chain(family, chain);
                all_groups.extend(groups);
            }
        }
        self.use_groups(interface, all_groups);
        // Of a pod that somebody else connected it may be unknown: then the kernel asks the pod.
        let knows_mac = endpoint.local.mac != [0; 6];
        for address in addresses(endpoint, self.ipv6()).filter(|_| knows_mac) {
            let key = NeighbourKey { interface: interface.clone(), address };
            self.neighbours.put(key, Neighbour { mac: endpoint.local.mac });
        }
        // The kernel knows nothing of what a pod may send from beside its addresses.
        let is_allowed = self.rules.source_spoofing && !endpoint.options.allowed_sources.is_empty();
        let rp_filter = if is_allowed { "0" } else { self.settings.rp_filter };
        self.sysctls.put(interface.clone(), sysctls(interface, self.settings.ipv6, rp_filter));
    }

    /// Families in which a pod has chains: those of its addresses. In another it is unknown, which is closed, and an
    /// ADD has half as much to write. One that is closed by intent is so in all.
    pub(super) fn families_of(&self, endpoint: &ActiveEndpoint) -> Vec<Family> {
        let has = |family: &Family| {
            let sources = &endpoint.options.allowed_sources;
            endpoint.local.addresses.iter().any(|address| Family::of(*address) == *family)
                || sources.iter().any(|net| net.family() == *family)
        };
        let own: Vec<Family> = self.families().filter(has).collect();
        if own.is_empty() || is_closed(&self.rules, endpoint) { self.families().collect() } else { own }
    }

    /// Where two interfaces claim one address, the last by name has it: any rule will do that depends on
    /// present state only.
    pub(super) fn render_route(&mut self, address: IpAddr) {
        let winner = self.claims.get(&address).and_then(BTreeSet::last);
        match winner {
            Some(interface) if self.ipv6() || address.is_ipv4() => {
                let (key, route) = route(&self.configuration, address, interface);
                self.routes.put(key, route);
            }
            Some(_) => {}
            None => {
                self.claims.remove(&address);
                let metric = route_form(&self.configuration, address).priority;
                self.routes.remove(&RouteKey::new(Cidr::host(address), metric));
            }
        }
    }

    /// Interfaces of pods that may send from elsewhere, and from where.
    pub(super) fn allowed_sources(&self, family: Family) -> Vec<(HostInterface, Cidr)> {
        let mut allowed = Vec::new();
        if self.rules.source_spoofing {
            for (interface, endpoint) in &self.endpoints {
                let sources = endpoint.options.allowed_sources.iter();
                let sources = sources.filter(|net| net.family() == family);
                allowed.extend(sources.map(|net| (interface.clone(), *net)));
            }
        }
        allowed
    }

    /// Floating addresses with the pod's own; the first interface by name has one that several ask for.
    pub(super) fn floating_addresses(&self) -> Vec<(IpAddr, IpAddr)> {
        let mut floating = BTreeMap::new();
        if self.configuration.floating_ips {
            for endpoint in self.endpoints.values() {
                for external in &endpoint.options.floating {
                    let is_same = |own: &&IpAddr| own.is_ipv4() == external.is_ipv4();
                    if let Some(own) = endpoint.local.addresses.iter().find(is_same) {
                        floating.entry(*external).or_insert(*own);
                    }
                }
            }
        }
        floating.into_iter().collect()
    }

    /// Addresses of pods whose packets carry a mark out of the cluster.
    pub(super) fn dscp(&self, family: Family) -> BTreeMap<IpAddr, u8> {
        let mut marks = BTreeMap::new();
        for endpoint in self.endpoints.values() {
            if let Some(dscp) = endpoint.options.dscp {
                let own = endpoint.local.addresses.iter().filter(|own| Family::of(**own) == family);
                marks.extend(own.map(|own| (*own, dscp)));
            }
        }
        marks
    }

    /// Closed endpoints with their chains, by what they send and by what they receive; for nftables alone, which
    /// looks at them before everything else.
    pub(super) fn closed_interfaces(&self) -> [BTreeMap<Arc<str>, ChainName>; 2] {
        if self.rules.dataplane != RuleDataplane::Nftables {
            return Default::default();
        }
        let closed = self.endpoints.iter().filter(|(_, endpoint)| is_closed(&self.rules, endpoint));
        let closed: Vec<&HostInterface> = closed.map(|(interface, _)| interface).collect();
        [Direction::Egress, Direction::Ingress].map(|direction| {
            let chain = |interface: &&HostInterface| {
                (Arc::from(interface.as_str()), endpoint_chain(Way::Pod, direction, interface))
            };
            closed.iter().map(chain).collect()
        })
    }

    pub(super) fn render_dispatches(&mut self) {
        let rules = self.rules.clone();
        let mut wanted = BTreeSet::new();
        // What is closed is so for connections that are there, and where packets are counted, these count.
        let is_apart = |endpoint: &ActiveEndpoint| is_closed(&rules, endpoint) || limits_packets(endpoint);
        let apart = self.endpoints.iter().filter(|(_, endpoint)| is_apart(endpoint));
        let apart: BTreeSet<HostInterface> = apart.map(|(interface, _)| interface.clone()).collect();
        let apart: BTreeSet<&str> = apart.iter().map(String::as_str).collect();
        for family in self.families() {
            let context = Context::new(&rules, family, IptablesTable::Filter);
            let known = self.endpoints.iter().filter(|(_, pod)| self.families_of(pod).contains(&family));
            let interfaces: Vec<String> = known.map(|(interface, _)| interface.clone()).collect();
            for (root, side, direction) in DISPATCHES {
                let target = |interface: &'_ str| endpoint_chain(Way::Pod, direction, interface);
                let targets: BTreeMap<&str, ChainName> =
                    interfaces.iter().map(|interface| (interface.as_str(), target(interface))).collect();
                let place = (direction, &DropReason::UnknownInterface);
                let otherwise = context.dropped(place, Some("Unknown interface".to_owned()), &[]);
                let before = before_dispatch(&context, direction);
                let dispatch = Dispatch {
                    root,
                    side,
                    targets: &targets,
                    stems: &rules.prefixes,
                    before: &before,
                    apart: &apart,
                    otherwise: &otherwise,
                };
                let chains: Vec<Chain> = dispatch.render(context.is_nftables());
                for chain in chains {
                    wanted.insert((family, chain.name.clone()));
                    self.put_chain(family, chain);
                }
            }
        }
        for (family, name) in std::mem::take(&mut self.dispatch_chains) {
            if !wanted.contains(&(family, name.clone())) {
                self.chains.remove(&(family, IptablesTable::Filter, name));
            }
        }
        self.dispatch_chains = wanted;
    }
}
