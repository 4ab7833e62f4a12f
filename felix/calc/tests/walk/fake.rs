//! A dataplane that refuses references to what is not there, and the removal of what is referred to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use felix_calc::{
    ActiveEndpoint, ActiveEntity, ActiveHostEndpoint, ActivePolicy, ActiveProfile, ActiveRule, ActiveTier,
    Change, ClusterRoute, EndpointPolicies, Pools, SetId, VxlanEnd, VxlanPeer, WireguardEnd, WireguardPeer,
};
use kernel::{IpSetKind, IpSetMember};
use model::{Cidr, Family, FelixConfiguration, HostInterface, NodeName, PolicyKey};

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fake {
    sets: BTreeMap<SetId, (IpSetKind, BTreeSet<IpSetMember>)>,
    policies: BTreeMap<PolicyKey, Arc<ActivePolicy>>,
    profiles: BTreeMap<Arc<str>, Arc<ActiveProfile>>,
    endpoints: BTreeMap<HostInterface, Arc<ActiveEndpoint>>,
    hosts: BTreeMap<Arc<str>, Arc<ActiveHostEndpoint>>,
    configuration: Option<FelixConfiguration>,
    addresses: Arc<BTreeSet<IpAddr>>,
    pools: Arc<Pools>,
    tunnel: Option<Ipv4Addr>,
    services: Arc<[Cidr]>,
    routes: BTreeMap<Cidr, ClusterRoute>,
    ends: BTreeMap<Family, VxlanEnd>,
    peers: BTreeMap<(Family, NodeName), VxlanPeer>,
    wireguard_ends: BTreeMap<Family, WireguardEnd>,
    wireguard_peers: BTreeMap<(Family, NodeName), WireguardPeer>,
}

impl Fake {
    pub fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            self.apply_one(change);
            self.check_references();
        }
    }

    fn apply_one(&mut self, change: Change) {
        match change {
            Change::Configuration(configuration) => self.configuration = Some(*configuration),
            Change::IpSet(id, Some(set)) => {
                let members: BTreeSet<_> = set.members.iter().copied().collect();
                assert_eq!(members.len(), set.members.len(), "{id} has a member twice");
                assert!(
                    self.sets.insert(id.clone(), (set.kind, members)).is_none(),
                    "{id} is told whole again"
                );
            }
            Change::IpSet(id, None) => assert!(self.sets.remove(&id).is_some(), "{id} was not there"),
            Change::IpSetDelta { id, added, removed } => {
                assert!(!added.is_empty() || !removed.is_empty(), "an empty delta of {id}");
                let (_, members) = self.sets.get_mut(&id).unwrap_or_else(|| panic!("{id} is not there"));
                removed.iter().for_each(|m| assert!(members.remove(m), "{m:?} was not in {id}"));
                added.iter().for_each(|m| assert!(members.insert(*m), "{m:?} was in {id}"));
            }
            Change::Policy(key, Some(policy)) => {
                let old = self.policies.insert(key, policy.clone());
                assert_ne!(old, Some(policy), "a policy is told twice");
            }
            Change::Policy(key, None) => assert!(self.policies.remove(&key).is_some(), "{key} was not there"),
            Change::Profile(name, Some(profile)) => {
                let old = self.profiles.insert(name, profile.clone());
                assert_ne!(old, Some(profile), "a profile is told twice");
            }
            Change::Profile(name, None) => assert!(self.profiles.remove(&name).is_some()),
            Change::Endpoint(interface, Some(endpoint)) => {
                let old = self.endpoints.insert(interface, endpoint.clone());
                assert_ne!(old, Some(endpoint), "an endpoint is told twice");
            }
            Change::Endpoint(interface, None) => assert!(self.endpoints.remove(&interface).is_some()),
            Change::HostEndpoint(name, Some(endpoint)) => {
                let old = self.hosts.insert(name, endpoint.clone());
                assert_ne!(old, Some(endpoint), "a host endpoint is told twice");
            }
            Change::HostEndpoint(name, None) => assert!(self.hosts.remove(&name).is_some()),
            Change::Hosts(hosts) => self.addresses = hosts,
            Change::Pools(pools) => self.pools = pools,
            Change::ServiceRanges(ranges) => self.services = ranges,
            Change::TunnelAddress(address) => self.tunnel = address,
            Change::ClusterRoute(destination, Some(route)) => {
                let old = self.routes.insert(destination, route);
                assert_ne!(old, Some(route), "a route is told twice");
            }
            Change::ClusterRoute(destination, None) => assert!(self.routes.remove(&destination).is_some()),
            Change::VxlanEnd(family, Some(end)) => _ = self.ends.insert(family, end),
            Change::VxlanEnd(family, None) => assert!(self.ends.remove(&family).is_some()),
            Change::VxlanPeer(family, node, Some(peer)) => _ = self.peers.insert((family, node), peer),
            Change::VxlanPeer(family, node, None) => assert!(self.peers.remove(&(family, node)).is_some()),
            Change::WireguardEnd(family, Some(end)) => {
                let old = self.wireguard_ends.insert(family, end);
                assert_ne!(old, Some(end), "an end is told twice");
            }
            Change::WireguardEnd(family, None) => assert!(self.wireguard_ends.remove(&family).is_some()),
            Change::WireguardPeer(family, node, Some(peer)) => {
                let old = self.wireguard_peers.insert((family, node), peer.clone());
                assert_ne!(old, Some(peer), "a node is told twice");
            }
            Change::WireguardPeer(family, node, None) => {
                assert!(self.wireguard_peers.remove(&(family, node)).is_some());
            }
        }
    }

    fn check_references(&self) {
        let of_policies = self.policies.values().flat_map(|p| p.ingress.iter().chain(&p.egress));
        let of_profiles = self.profiles.values().flat_map(|p| p.ingress.iter().chain(&p.egress));
        for set in of_policies.chain(of_profiles).flat_map(|r| [&r.source, &r.destination]).flat_map(sets_of)
        {
            assert!(self.sets.contains_key(set), "{set} is referred to, but is not there");
        }
        for route in self.routes.values() {
            let ClusterRoute::Vxlan { gateway, .. } = route else { continue };
            assert!(self.peers.values().any(|peer| peer.tunnel == *gateway), "nobody is behind {gateway}");
        }
        for (family, node) in self.wireguard_peers.keys() {
            assert!(self.wireguard_ends.contains_key(family), "{node} is behind no WireGuard link");
        }
        for (interface, endpoint) in &self.endpoints {
            let EndpointPolicies::Open { profiles, tiers } = &endpoint.policies else { continue };
            self.check_endpoint(interface, profiles, tiers);
        }
        for (name, host) in &self.hosts {
            for tiers in [&host.untracked, &host.pre_dnat, &host.forward, &host.normal] {
                self.check_endpoint(name, &host.profiles, tiers);
            }
        }
    }

    fn check_endpoint(&self, name: &str, profiles: &[Arc<str>], tiers: &[ActiveTier]) {
        for profile in profiles {
            assert!(self.profiles.contains_key(profile), "{name} needs the profile {profile}");
        }
        for key in tiers.iter().flat_map(|tier| tier.ingress.iter().chain(&tier.egress)) {
            assert!(self.policies.contains_key(key), "{name} refers to {key}, which is not there");
        }
    }

    /// The members of every set.
    pub fn members(&self) -> Vec<Vec<IpSetMember>> {
        self.sets.values().map(|(_, members)| members.iter().copied().collect()).collect()
    }

    /// Ways to other nodes, one a line.
    pub fn ways(&self) -> Vec<String> {
        let way = |route: &ClusterRoute| match route {
            ClusterRoute::Direct { gateway } => format!("direct via {gateway}"),
            ClusterRoute::Vxlan { gateway, .. } => format!("vxlan via {gateway}"),
            ClusterRoute::Blackhole => "blackhole".to_owned(),
            ClusterRoute::OfSpeaker => "speaker".to_owned(),
            ClusterRoute::Unreachable(reason) => format!("unreachable, {reason:?}"),
        };
        self.routes.iter().map(|(destination, route)| format!("{destination} {}", way(route))).collect()
    }

    /// Nodes that are talked with through WireGuard, one a line.
    pub fn encrypted(&self) -> Vec<String> {
        let line = |((_, node), peer): (&(Family, NodeName), &WireguardPeer)| {
            let destinations: Vec<_> = peer.destinations.iter().map(ToString::to_string).collect();
            format!("{node} at {}: {}", peer.endpoint, destinations.join(" "))
        };
        self.wireguard_peers.iter().map(line).collect()
    }

    /// What is active, one thing a line.
    pub fn lines(&self) -> Vec<String> {
        let sets = self.sets.iter().map(|(id, (_, members))| {
            let members: Vec<_> = members.iter().map(member).collect();
            format!("set {id}: {}", members.join(" "))
        });
        let policies = self.policies.keys().map(|key| format!("policy {key}"));
        let endpoints = self.endpoints.values().map(|endpoint| {
            let what = match &endpoint.policies {
                EndpointPolicies::Closed(reason) => format!("closed, {reason}"),
                EndpointPolicies::Open { tiers, .. } => tiers.iter().map(tier).collect::<Vec<_>>().join("; "),
            };
            format!("endpoint {}: {what}", endpoint.local.pod).trim_end().to_owned()
        });
        let hosts = self.hosts.values().map(|host| {
            let tiers = |tiers: &[ActiveTier]| tiers.iter().map(tier).collect::<Vec<_>>().join("; ");
            let stages = [
                ("untracked", &host.untracked),
                ("preDNAT", &host.pre_dnat),
                ("forward", &host.forward),
                ("normal", &host.normal),
            ];
            let stages = stages.iter().filter(|(_, of_stage)| !of_stage.is_empty());
            let stages: Vec<_> =
                stages.map(|(stage, of_stage)| format!("{stage} {}", tiers(of_stage))).collect();
            let profiles = host.profiles.join(" ");
            format!("host {}: {} profiles [{profiles}]", host.endpoint.name, stages.join(" | "))
        });
        let profiles = self.profiles.values().filter(|profile| !profile.name.starts_with("kns."));
        let profiles = profiles.map(|profile| {
            let actions =
                |rules: &[ActiveRule]| format!("{:?}", rules.iter().map(|r| r.action).collect::<Vec<_>>());
            format!(
                "profile {}: in {} out {}",
                profile.name,
                actions(&profile.ingress),
                actions(&profile.egress)
            )
        });
        sets.chain(policies).chain(profiles).chain(endpoints).chain(hosts).collect()
    }

    /// What rules refer to, one rule a line, by policy or profile.
    pub fn rules(&self) -> BTreeMap<String, Vec<String>> {
        let policies = self.policies.values().map(|p| (p.key.to_string(), p.ingress.iter().chain(&p.egress)));
        let profiles =
            self.profiles.values().map(|p| (p.name.to_string(), p.ingress.iter().chain(&p.egress)));
        policies.chain(profiles).map(|(name, rules)| (name, rules.map(rule).collect())).collect()
    }
}

fn rule(rule: &ActiveRule) -> String {
    format!("{:?} from [{}] to [{}]", rule.action, entity(&rule.source), entity(&rule.destination))
}

fn entity(entity: &ActiveEntity) -> String {
    let one = |name: &str, id: &Option<SetId>| id.iter().map(|id| format!("{name} {id}")).collect::<Vec<_>>();
    let many = |name: &str, ids: &[SetId]| ids.iter().map(|id| format!("{name} {id}")).collect::<Vec<_>>();
    [
        one("set", &entity.set),
        one("not", &entity.not_set),
        many("port", &entity.named_ports),
        many("not port", &entity.not_named_ports),
        one("service", &entity.service),
    ]
    .concat()
    .join(", ")
}

fn sets_of(entity: &ActiveEntity) -> impl Iterator<Item = &SetId> {
    let single = entity.set.iter().chain(&entity.not_set);
    single.chain(&entity.named_ports).chain(&entity.not_named_ports).chain(&entity.service)
}

pub fn member(member: &IpSetMember) -> String {
    match member {
        IpSetMember::Net(cidr) if cidr.is_host() => cidr.address().to_string(),
        IpSetMember::Net(cidr) => cidr.to_string(),
        IpSetMember::IpPort(address, protocol, port) => format!("{address},{protocol}:{port}"),
    }
}

fn tier(tier: &ActiveTier) -> String {
    let keys = |keys: &[PolicyKey]| keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let end = if tier.default_action_is_pass { "pass" } else { "deny" };
    format!("{} in [{}] out [{}] {end}", tier.name, keys(&tier.ingress), keys(&tier.egress))
}
