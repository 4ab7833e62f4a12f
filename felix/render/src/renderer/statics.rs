//! What hangs on no single pod, policy or host endpoint: static chains, hooks, sets of hosts and pools, `tunl0`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use kernel::{InterfaceMatch, IpSetKind, IpSetMember, IptablesTable, vxlan_link_name, wireguard_link_name};
use model::{Cidr, Direction, Family, NatOutgoingExclusions};

use super::Renderer;
use crate::TunnelDevice;
use crate::endpoint_chains::{Way, endpoint_chain, limits_packets};
use crate::host_chains::used_roots;
use crate::ipvs_chains::IpvsInput;
use crate::names::{
    ALL_HOSTS, ALL_VXLAN, DSCP_SOURCES, MASQUERADE_POOLS, NETWORK_POOLS, THIS_HOST, set_name,
};
use crate::nat_chains::NatInput;
use crate::pod_state::is_interface_name;
use crate::sets::family_set;
use crate::static_chains::{StaticInput, render_hooks, render_static};

impl Renderer {
    fn receives_ipip(&self) -> bool {
        self.settings.ipip || self.pools.ipip
    }

    /// Does the kernel get checksums of packets inside others wrong where it leaves them to the hardware?
    pub(super) fn has_bad_checksum_offload(&self) -> bool {
        self.configuration.checksum_offload_broken.unwrap_or(self.settings.no_checksum_offload)
    }

    fn uses_vxlan(&self, family: Family) -> bool {
        self.pools.vxlan.contains(&family)
    }

    fn excludes_hosts(&self) -> bool {
        self.configuration.nat_outgoing_exclusions == NatOutgoingExclusions::IpPoolsAndHostIps
    }

    pub(super) fn render_static(&mut self) {
        let mut wanted = BTreeSet::new();
        for family in Family::ALL {
            let input = self.static_input(family);
            let has_chains = self.families().any(|wanted| wanted == family);
            for table in IptablesTable::ALL {
                for chain in render_static(&input, table).into_iter().filter(|_| has_chains) {
                    let key = (family, table, chain.name.clone());
                    wanted.insert(key.clone());
                    self.chains.put(key, chain);
                }
                for (name, hook) in render_hooks(&input, table) {
                    let key = (family, table, name);
                    if has_chains { self.hooks.put(key, hook) } else { self.hooks.remove(&key) }
                }
            }
        }
        let stale: Vec<_> = self.static_chains.difference(&wanted).cloned().collect();
        stale.iter().for_each(|key| self.chains.remove(key));
        self.static_chains = wanted;
    }

    fn static_input(&self, family: Family) -> StaticInput {
        StaticInput {
            family,
            settings: (*self.rules).clone(),
            to_host: self.configuration.endpoint_to_host_action,
            ipip: family == Family::V4 && self.receives_ipip(),
            vxlan: self.uses_vxlan(family),
            wireguard: self.wireguard_port(family),
            loop_prevention: self.configuration.service_loop_prevention,
            services: self.services.clone(),
            allowed_sources: self.allowed_sources(family),
            dscp: self.dscp(family),
            closed: self.closed_interfaces(),
            limits_packets: self.endpoints.values().any(|endpoint| limits_packets(endpoint)),
            host_roots: used_roots(&self.governed),
            ipvs: self.ipvs_input(family),
            nat: self.nat_input(family),
        }
    }

    /// Where kube-proxy works in mode IPVS: whose packets it carries on.
    fn ipvs_input(&self, family: Family) -> Option<IpvsInput> {
        if !self.ipvs {
            return None;
        }
        let known = self.endpoints.iter().filter(|(_, pod)| self.families_of(pod).contains(&family));
        let pods = known.map(|(name, _)| (name, Way::Pod, Direction::Egress));
        let hosts = self.governed.interfaces.keys().map(|name| (name, Way::Forward, Direction::Ingress));
        let chain =
            |(name, way, direction): (&String, _, _)| (name.clone(), endpoint_chain(way, direction, name));
        Some(IpvsInput {
            endpoints: pods.chain(hosts).map(chain).collect(),
            node_ports: self.configuration.node_port_ranges.clone(),
        })
    }

    fn nat_input(&self, family: Family) -> NatInput {
        let vxlan = self.uses_vxlan(family);
        let has_ipip = family == Family::V4 && self.receives_ipip() && self.tunnel_address.is_some();
        let mut tunnels = Vec::new();
        tunnels.extend(has_ipip.then_some("tunl0"));
        tunnels.extend(vxlan.then_some(vxlan_link_name(family)));
        tunnels.extend(self.has_wireguard_address(family).then_some(wireguard_link_name(family)));
        NatInput {
            masquerade: self.pools.masquerade.iter().any(|pool| pool.family() == family),
            random_fully: self.settings.random_fully,
            ports: self.configuration.nat_port_range,
            address: self.configuration.nat_outgoing_address,
            interface: self.configuration.nat_outgoing_interface_filter.as_deref().and_then(interface_filter),
            exclude_hosts: self.excludes_hosts(),
            tunnels,
            vxlan_port: vxlan.then_some(self.rules.vxlan_port),
            floating: self.floating_addresses(),
        }
    }

    pub(super) fn render_host_sets(&mut self) {
        let nets = |cidrs: &BTreeSet<Cidr>| cidrs.iter().copied().map(IpSetMember::Net).collect::<Vec<_>>();
        let hosts = |hosts: &BTreeSet<IpAddr>| nets(&hosts.iter().copied().map(Cidr::host).collect());
        let mut tunnel_ends = hosts(&self.hosts);
        tunnel_ends.extend(self.configuration.external_nodes.iter().copied().map(IpSetMember::Net));
        let sets = [
            (NETWORK_POOLS, nets(&self.pools.network)),
            (MASQUERADE_POOLS, nets(&self.pools.masquerade)),
            (THIS_HOST, hosts(&self.host_addresses)),
            (ALL_HOSTS, tunnel_ends.clone()),
            (ALL_VXLAN, tunnel_ends),
            (DSCP_SOURCES, Vec::new()),
        ];
        for family in self.set_families() {
            let dscp: BTreeSet<IpAddr> = self.dscp(family).into_keys().collect();
            for (id, members) in &sets {
                let name = set_name(family, id);
                let is_used = match *id {
                    ALL_HOSTS => (family == Family::V4 && self.receives_ipip()) || self.excludes_hosts(),
                    ALL_VXLAN => self.uses_vxlan(family),
                    DSCP_SOURCES => !dscp.is_empty(),
                    _ => true,
                };
                let members = if *id == DSCP_SOURCES { &hosts(&dscp) } else { members };
                match is_used {
                    true => self.host_sets.put(name, family_set(IpSetKind::Net, members, family)),
                    false => self.host_sets.remove(&name),
                }
            }
        }
    }

    pub(super) fn render_tunnel(&mut self) -> Option<TunnelDevice> {
        let device = TunnelDevice {
            wanted: self.receives_ipip(),
            address: self.tunnel_address,
            mtu: self.configuration.tunnel_mtus.ipip,
            no_checksum_offload: self.has_bad_checksum_offload(),
            carries_pods: self.pools.ipip,
        };
        (self.tunnel.replace(device) != Some(device)).then_some(device)
    }
}

/// A name, or the beginning of names when it ends in `+`; nothing else can stand in a rule.
fn interface_filter(text: &str) -> Option<InterfaceMatch> {
    let (name, prefix) = text.strip_suffix('+').map_or((text, false), |name| (name, true));
    is_interface_name(name).then(|| InterfaceMatch { name: name.into(), prefix, negated: false })
}
