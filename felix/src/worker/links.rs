//! The thread's view of links: what it does when one changes, and what follows from those of the node itself (host
//! endpoints, MTU, addresses that are the node's own).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use felix_dataplane::Ports;
use kernel::{Link, LinkEvent, PROTO_BOOT, PROTO_FELIX};
use kernel_linux::SHAPER_PREFIX;
use model::{Family, HostInterface};
use regex::Regex;

use super::Worker;
use crate::mtu::{Encapsulation, pod_mtu, uplink_mtu};
use crate::service::PodSettings;

/// How long to wait for more events before looking at the kernel: one change makes several.
const SETTLE: Duration = Duration::from_millis(30);
const TUNNEL: &str = "tunl0";
/// Has the addresses of Services where kube-proxy works in mode IPVS.
const IPVS: &str = "kube-ipvs0";

impl<P: Ports> Worker<P> {
    pub(super) fn event(&mut self, event: LinkEvent, now: Instant) {
        let soon = now + SETTLE;
        match event {
            // With many pods on the node a look at all links takes longer than all the rest of an ADD.
            LinkEvent::Link { name, index } if self.is_pod_link(&name) => {
                self.pod_link_indexes.insert(index);
                self.dataplane.link_changed(&name);
                self.shaper.link_changed(&name, index);
            }
            LinkEvent::LinkGone { name, index } if self.is_pod_link(&name) => {
                self.pod_link_indexes.remove(&index);
                self.dataplane.link_gone(&name);
            }
            LinkEvent::Link { name, .. } | LinkEvent::LinkGone { name, .. }
                if name.starts_with(SHAPER_PREFIX) => {}
            LinkEvent::Link { name, .. } | LinkEvent::LinkGone { name, .. } => {
                if name == TUNNEL {
                    self.dataplane.resync_tunnel(soon);
                }
                if self.dataplane.uses_link(&name) {
                    self.dataplane.resync_cluster(soon);
                }
                self.look_soon(soon);
            }
            LinkEvent::Address { index } => {
                if !self.pod_link_indexes.contains(&index) {
                    self.look_soon(soon);
                    self.dataplane.resync_tunnel(soon);
                    if self.cluster_hangs_on(index) {
                        self.dataplane.resync_cluster(soon);
                    }
                }
            }
            LinkEvent::Route { protocol } => {
                if [PROTO_BOOT, PROTO_FELIX, self.configuration.route_protocol].contains(&protocol) {
                    self.dataplane.resync_routes(soon);
                }
                match protocol {
                    PROTO_FELIX => self.dataplane.resync_cluster(soon),
                    _ => self.dataplane.others_routes_changed(soon),
                }
            }
            LinkEvent::Neighbour { index } => {
                if self.pod_link_indexes.contains(&index) {
                    self.dataplane.resync_neighbours(soon);
                } else if self.cluster_hangs_on(index) {
                    self.dataplane.resync_cluster(soon);
                }
            }
            LinkEvent::Forwarding { index } => {
                if self.cluster_hangs_on(index) {
                    self.dataplane.resync_cluster(soon);
                }
            }
            LinkEvent::Overrun => {
                self.dataplane.resync(now);
                self.look_soon(now);
            }
        }
    }

    pub(super) fn is_pod_link(&self, name: &str) -> bool {
        name.starts_with(&self.configuration.interface_prefix)
    }

    /// Does the way to other nodes hang on this link of the node?
    fn cluster_hangs_on(&self, index: u32) -> bool {
        let name = self.host_links.iter().find(|link| link.index == index).map(|link| &link.name);
        name.is_some_and(|name| self.dataplane.uses_link(name))
    }

    fn look_soon(&mut self, at: Instant) {
        self.links_at = Some(self.links_at.map_or(at, |other| other.min(at)));
    }

    /// Reads the links if that is due: the node's own addresses, the MTU of its uplinks.
    pub(super) fn look_at_links(&mut self, now: Instant) {
        if self.links_at.is_none_or(|at| at > now) {
            return;
        }
        match (self.read_links)() {
            Ok(links) => {
                let refresh = self.configuration.interface_refresh_interval;
                self.links_at = (!refresh.is_zero()).then(|| now + refresh);
                self.renderer.set_ipvs(links.iter().any(|link| link.name == IPVS));
                let excluded = &self.configuration.interface_exclude;
                let links = links.into_iter().filter(|link| {
                    !is_excluded(&link.name, excluded) && !link.name.starts_with(SHAPER_PREFIX)
                });
                let (pods, host): (Vec<_>, Vec<_>) = links.partition(|link| self.is_pod_link(&link.name));
                self.pod_link_indexes = pods.iter().map(|link| link.index).collect();
                if *self.host_links != host {
                    self.host_links = Arc::new(host);
                    self.renderer.set_host_addresses(host_addresses(&self.host_links));
                    self.renderer.set_host_links(addresses_by_link(&self.host_links));
                    self.published.links.send_replace(self.host_links.clone());
                    self.publish_pod_settings();
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read the links");
                self.links_at = Some(now + Duration::from_secs(1));
            }
        }
    }

    pub(super) fn publish_pod_settings(&mut self) {
        let mtu = (!self.host_links.is_empty()).then(|| {
            let pattern = self.configuration.mtu_iface_pattern.as_deref();
            let uplink = uplink_mtu(&self.host_links, pattern, &self.node_addresses);
            self.dataplane.set_tunnel_mtu(Encapsulation::Ipip.mtu(&self.configuration, uplink));
            for (family, vxlan) in [(Family::V4, Encapsulation::Vxlan), (Family::V6, Encapsulation::VxlanV6)]
            {
                self.dataplane.set_vxlan_mtu(family, vxlan.mtu(&self.configuration, uplink));
                let wireguard = Encapsulation::wireguard(family);
                self.dataplane.set_wireguard_mtu(family, wireguard.mtu(&self.configuration, uplink));
            }
            pod_mtu(&self.configuration, uplink, &self.encapsulations)
        });
        // Until the pools are known, nobody knows what pods shall have.
        if let Some(mtu) = mtu.filter(|_| self.in_sync) {
            self.pod_mtus.want(mtu, Instant::now());
        }
        let interface_prefix = self.configuration.interface_prefix.clone();
        (self.published.pod_settings)(PodSettings { interface_prefix, mtu });
    }
}

/// For host endpoints: which link has which addresses.
fn addresses_by_link(links: &[Link]) -> BTreeMap<HostInterface, BTreeSet<IpAddr>> {
    let addresses = |link: &Link| link.addresses.iter().map(|(address, _)| *address).collect();
    links.iter().map(|link| (link.name.clone(), addresses(link))).collect()
}

/// Addresses on the node's own links; link-local ones of IPv6 mean nothing without their link.
pub(super) fn host_addresses(links: &[Link]) -> BTreeSet<IpAddr> {
    let addresses = links.iter().flat_map(|link| link.addresses.iter().map(|(address, _)| *address));
    addresses.filter(|address| !matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())).collect()
}

/// Is a link one that the agent does not look at? Names, or regular expressions between slashes.
fn is_excluded(name: &str, patterns: &[String]) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_prefix('/').and_then(|rest| rest.strip_suffix('/')) {
        Some(pattern) => Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(name)),
        None => pattern == name,
    })
}
