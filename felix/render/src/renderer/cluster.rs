//! What leads to pods on other nodes where the agent itself routes: VXLAN links, who stands behind them, routes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use felix_calc::{ClusterRoute, VxlanEnd, VxlanPeer};
use kernel::{
    FdbEntry, FdbKey, Neighbour, NeighbourKey, NextHop, PROTO_FELIX, Route, RouteKey, RouteKind, VxlanLink,
    vxlan_link_name,
};
use model::{Cidr, Family, Mac, NodeName};

use super::Renderer;
use crate::output::{ClusterOutput, Hold};
use crate::tracked::Tracked;

/// What is wished for, and what it is made of.
#[derive(Default)]
pub(super) struct ClusterWishes {
    ends: BTreeMap<Family, VxlanEnd>,
    given: BTreeMap<Cidr, ClusterRoute>,
    peers: BTreeMap<(Family, NodeName), VxlanPeer>,
    /// Links, settings or ends have changed: everything hangs on them.
    dirty: bool,
    links: Tracked<String, VxlanLink>,
    fdb: Tracked<FdbKey, FdbEntry>,
    neighbours: Tracked<NeighbourKey, Neighbour>,
    routes: Tracked<RouteKey, Route>,
    held: Tracked<RouteKey, Hold>,
}

impl Renderer {
    pub(super) fn cluster_dirty(&mut self) {
        self.cluster.dirty = true;
    }

    pub(super) fn set_vxlan_end(&mut self, family: Family, end: Option<VxlanEnd>) {
        match end {
            Some(end) => _ = self.cluster.ends.insert(family, end),
            None => _ = self.cluster.ends.remove(&family),
        }
        self.cluster.dirty = true;
    }

    pub(super) fn set_vxlan_peer(&mut self, family: Family, node: NodeName, peer: Option<VxlanPeer>) {
        let key = (family, node);
        let old = match peer {
            Some(peer) => self.cluster.peers.insert(key, peer),
            None => self.cluster.peers.remove(&key),
        };
        if let Some(old) = old {
            self.forget_peer(family, &old);
        }
        peer.into_iter().for_each(|peer| self.render_peer(family, &peer));
    }

    pub(super) fn set_cluster_route(&mut self, destination: Cidr, route: Option<ClusterRoute>) {
        match route {
            Some(route) => _ = self.cluster.given.insert(destination, route),
            None => _ = self.cluster.given.remove(&destination),
        }
        self.render_cluster_route(destination);
    }

    /// What differs since the last flush.
    pub(super) fn flush_cluster(&mut self) -> ClusterOutput {
        if std::mem::take(&mut self.cluster.dirty) {
            self.render_vxlan_links();
            for ((family, _), peer) in self.cluster.peers.clone() {
                self.render_peer(family, &peer);
            }
            for destination in self.cluster.given.keys().copied().collect::<Vec<_>>() {
                self.render_cluster_route(destination);
            }
        }
        let cluster = &mut self.cluster;
        ClusterOutput {
            links: cluster.links.take(),
            fdb: cluster.fdb.take(),
            neighbours: cluster.neighbours.take(),
            routes: cluster.routes.take(),
            held: cluster.held.take(),
        }
    }

    /// The link that has this address of the node.
    fn link_with(&self, address: IpAddr) -> Option<&String> {
        self.host_links.iter().find(|(_, addresses)| addresses.contains(&address)).map(|(name, _)| name)
    }

    fn render_vxlan_links(&mut self) {
        for family in Family::ALL {
            let name = vxlan_link_name(family).to_owned();
            let Some(end) = self.cluster.ends.get(&family).copied() else {
                self.cluster.links.remove(&name);
                continue;
            };
            // While the address is on no link, what was there stays.
            let Some(parent) = self.link_with(end.local).cloned() else { continue };
            let link = VxlanLink {
                vni: self.configuration.vxlan_vni,
                port: self.configuration.vxlan_port,
                local: end.local,
                parent,
                mac: end.mac,
                mtu: None,
                address: end.address,
                no_checksum_offload: self.has_bad_checksum_offload(),
            };
            self.cluster.links.put(name, link);
        }
    }

    fn forget_peer(&mut self, family: Family, peer: &VxlanPeer) {
        let (fdb, neighbour) = keys(family, peer);
        self.cluster.fdb.remove(&fdb);
        self.cluster.neighbours.remove(&neighbour);
    }

    fn render_peer(&mut self, family: Family, peer: &VxlanPeer) {
        if !self.cluster.ends.contains_key(&family) {
            return self.forget_peer(family, peer);
        }
        let (fdb, neighbour) = keys(family, peer);
        self.cluster.fdb.put(fdb, FdbEntry { destination: peer.address });
        self.cluster.neighbours.put(neighbour, Neighbour { mac: peer.mac });
    }

    fn render_cluster_route(&mut self, destination: Cidr) {
        let key = cluster_route_key(destination);
        let family = destination.family();
        let (kind, hold) = match self.cluster.given.get(&destination) {
            Some(ClusterRoute::Direct { gateway }) => {
                let own = self.own_address(family);
                // While the address is on no link, what was there stays.
                let Some(parent) = own.and_then(|own| self.link_with(own)).cloned() else { return };
                (Some(through(*gateway, parent)), None)
            }
            Some(ClusterRoute::Vxlan { gateway, mac }) => {
                let far = far_end(*gateway, *mac);
                (Some(through(far, vxlan_link_name(family).to_owned())), None)
            }
            Some(ClusterRoute::Blackhole) => (Some(RouteKind::Blackhole), None),
            Some(ClusterRoute::OfSpeaker) => (None, Some(Hold::UntilAnother)),
            Some(ClusterRoute::Unreachable(_)) => (None, Some(Hold::UnlessTunnel)),
            None => (None, None),
        };
        match kind {
            Some(kind) => {
                let route = Route { kind, protocol: PROTO_FELIX, source: None, mtu: None };
                self.cluster.routes.put(key, route);
            }
            None => self.cluster.routes.remove(&key),
        }
        match hold {
            Some(hold) => self.cluster.held.put(key, hold),
            None => self.cluster.held.remove(&key),
        }
    }

    /// The address that this node's end of VXLAN has in the outer header, which other nodes know it by.
    fn own_address(&self, family: Family) -> Option<IpAddr> {
        self.cluster.ends.get(&family).map(|end| end.local)
    }
}

fn keys(family: Family, peer: &VxlanPeer) -> (FdbKey, NeighbourKey) {
    let interface = vxlan_link_name(family).to_owned();
    let fdb = FdbKey { interface: interface.clone(), mac: peer.mac };
    (fdb, NeighbourKey { interface, address: far_end(peer.tunnel, peer.mac) })
}

/// The address by which routes name the other end of a tunnel. In IPv6 it is the link-local one of its Ethernet address
/// (RFC 4291, appendix A): the kernel refuses a gateway to which another route leads elsewhere, and the speaker's route to the
/// tunnel's block may still do so.
fn far_end(tunnel: IpAddr, mac: Mac) -> IpAddr {
    match tunnel {
        IpAddr::V4(_) => tunnel,
        IpAddr::V6(_) => {
            let [a, b, c, d, e, f] = mac;
            IpAddr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
        }
    }
}

fn through(gateway: IpAddr, interface: String) -> RouteKind {
    // A link-local gateway is on the link anyway.
    let onlink = !matches!(gateway, IpAddr::V6(v6) if v6.is_unicast_link_local());
    RouteKind::Unicast(vec![NextHop { gateway: Some(gateway), interface: Some(interface), onlink }])
}

/// The smallest metric that there is, so that the speaker's route of the same destination can stand beside it and yields.
/// IPv6 takes 0 for 1024.
pub(super) fn cluster_route_key(destination: Cidr) -> RouteKey {
    let metric = match destination.family() {
        Family::V4 => 0,
        Family::V6 => 1,
    };
    RouteKey::new(destination, metric)
}
