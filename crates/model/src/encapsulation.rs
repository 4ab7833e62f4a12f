//! How packets to pods on other nodes travel, decided in one place: by the pool's modes, this node's subnets and the
//! next hop.

use std::fmt;
use std::net::IpAddr;

use crate::{Cidr, EncapMode, Family, IpPool, Node, TunnelKind};

/// What is put around a packet on its way to another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Encapsulation {
    /// Nothing: it goes through the LAN as it is.
    None,
    /// Through `tunl0`.
    Ipip,
    /// Through `vxlan.calico` or `vxlan-v6.calico`.
    Vxlan,
}

impl Encapsulation {
    /// How a packet to an address of `pool` travels to `next_hop`. `subnets` are those that this node's own addresses
    /// are in, each with its own length: what is inside is on-link. A tunnel carries one family alone, and IPIP no IPv6.
    pub fn of(pool: &IpPool, subnets: impl IntoIterator<Item = Cidr>, next_hop: IpAddr) -> Self {
        let is_near = subnets.into_iter().any(|subnet| subnet.contains(next_hop));
        let is_used = |mode| match mode {
            EncapMode::Never => false,
            EncapMode::CrossSubnet => !is_near,
            EncapMode::Always => true,
        };
        if is_used(pool.vxlan_mode) && Family::of(next_hop) == pool.cidr.family() {
            Self::Vxlan
        } else if is_used(pool.ipip_mode) && next_hop.is_ipv4() && pool.cidr.family() == Family::V4 {
            Self::Ipip
        } else {
            Self::None
        }
    }
}

/// The way to a pod on another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodePath {
    /// Through the LAN to the node's address.
    Direct { gateway: IpAddr },
    /// Through `tunl0` to the node's address.
    Ipip { gateway: IpAddr },
    /// Through the VXLAN link to the address of the node's tunnel.
    Vxlan { gateway: IpAddr },
    /// There is none yet.
    Unreachable(Unreachable),
}

/// Why a node cannot be reached as the pool asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unreachable {
    /// There is no such Node.
    UnknownNode,
    /// The Node has no address of this family.
    NoAddress(Family),
    /// This node has none.
    NoOwnAddress(Family),
    /// The node has not said that it takes VXLAN of this family.
    NotReady(Family),
    /// `vxlanEnabled: false` forbids what the pool asks for.
    Forbidden,
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownNode => f.write_str("there is no such Node"),
            Self::NoAddress(family) => write!(f, "the Node has no {family} address"),
            Self::NoOwnAddress(family) => write!(f, "this node has no {family} address"),
            Self::NotReady(family) => write!(
                f,
                "the node has not published the address of its {family} VXLAN tunnel yet; see its calico-node"
            ),
            Self::Forbidden => f.write_str("FelixConfiguration has vxlanEnabled: false"),
        }
    }
}

impl NodePath {
    /// The way from `own` to a pod with an address of `pool` on `remote`. A tunnel is used only to who has said that it
    /// receives: a VXLAN end is announced after its link is up.
    pub fn of(pool: &IpPool, own: &Node, remote: &Node) -> Self {
        let family = pool.cidr.family();
        let Some(at) = remote.address(family) else {
            return Self::Unreachable(Unreachable::NoAddress(family));
        };
        let Some(own) = own.address(family) else {
            return Self::Unreachable(Unreachable::NoOwnAddress(family));
        };
        match Encapsulation::of(pool, [own.subnet()], at.address) {
            Encapsulation::None => Self::Direct { gateway: at.address },
            Encapsulation::Ipip => Self::Ipip { gateway: at.address },
            Encapsulation::Vxlan => match remote.tunnels.address(TunnelKind::vxlan(family)) {
                Some(gateway) => Self::Vxlan { gateway },
                None => Self::Unreachable(Unreachable::NotReady(family)),
            },
        }
    }
}

impl IpPool {
    /// The node agent itself writes the routes to its pods on other nodes, also those through the LAN; of other pools
    /// the speaker does.
    pub fn is_routed_by_agent(&self) -> bool {
        self.vxlan_mode != EncapMode::Never
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AllowedUse, AssignmentMode, NodeAddress, Selector, Tunnels};

    const MODES: [EncapMode; 3] = [EncapMode::Never, EncapMode::CrossSubnet, EncapMode::Always];

    fn pool(cidr: &str, ipip_mode: EncapMode, vxlan_mode: EncapMode) -> IpPool {
        IpPool {
            name: "p".to_owned(),
            cidr: cidr.parse().unwrap(),
            ipip_mode,
            vxlan_mode,
            nat_outgoing: false,
            disabled: false,
            disable_bgp_export: false,
            block_size: 26,
            node_selector: Selector::all(),
            namespace_selector: Selector::all(),
            allowed_uses: vec![AllowedUse::Workload],
            assignment_mode: AssignmentMode::Automatic,
            deleting: false,
            created: 0,
        }
    }

    fn node(v4: Option<(&str, u8)>, v6: Option<(&str, u8)>, tunnels: Tunnels) -> Node {
        let at = |at: Option<(&str, u8)>| {
            at.map(|(a, length)| NodeAddress { address: a.parse().unwrap(), length })
        };
        Node { ipv4: at(v4), ipv6: at(v6), tunnels, ..Node::named("n") }
    }

    fn announced() -> Tunnels {
        Tunnels { vxlan: "10.0.9.1".parse().ok(), vxlan_v6: "fd00::9".parse().ok(), ..Tunnels::default() }
    }

    /// Every pair of modes, near and far, against what the words of the modes say.
    #[test]
    fn every_combination_of_modes_is_decided_by_their_words() {
        let subnet: Cidr = "192.0.2.0/24".parse().unwrap();
        for (ipip, vxlan) in MODES.into_iter().flat_map(|a| MODES.map(|b| (a, b))) {
            for (next_hop, near) in [("192.0.2.9", true), ("198.51.100.9", false)] {
                let says = |mode| mode == EncapMode::Always || mode == EncapMode::CrossSubnet && !near;
                let wanted = match (says(vxlan), says(ipip)) {
                    (true, _) => Encapsulation::Vxlan,
                    (false, true) => Encapsulation::Ipip,
                    (false, false) => Encapsulation::None,
                };
                let pool = pool("10.0.0.0/16", ipip, vxlan);
                let found = Encapsulation::of(&pool, [subnet], next_hop.parse().unwrap());
                assert_eq!(found, wanted, "{ipip:?} {vxlan:?} {next_hop}");
            }
        }
    }

    #[test]
    fn tunnels_keep_to_their_family() {
        let v6 = pool("fd00::/48", EncapMode::Always, EncapMode::Never);
        assert_eq!(
            Encapsulation::of(&v6, [], "2001:db8::1".parse().unwrap()),
            Encapsulation::None,
            "no IPIP"
        );
        let v4 = pool("10.0.0.0/16", EncapMode::Always, EncapMode::Never);
        assert_eq!(Encapsulation::of(&v4, [], "2001:db8::1".parse().unwrap()), Encapsulation::None);
        let v6 = pool("fd00::/48", EncapMode::Never, EncapMode::Always);
        assert_eq!(Encapsulation::of(&v6, [], "2001:db8::1".parse().unwrap()), Encapsulation::Vxlan);
    }

    #[test]
    fn only_who_has_announced_its_tunnel_is_sent_to() {
        let own = node(Some(("192.0.2.1", 24)), Some(("2001:db8::1", 64)), announced());
        let far = |tunnels| node(Some(("198.51.100.1", 24)), Some(("2001:db8:1::1", 64)), tunnels);
        let near = node(Some(("192.0.2.9", 32)), None, Tunnels::default());
        let v4 = pool("10.0.0.0/16", EncapMode::Never, EncapMode::CrossSubnet);
        let v6 = pool("fd00::/48", EncapMode::Never, EncapMode::Always);

        let not_ready = |family| NodePath::Unreachable(Unreachable::NotReady(family));
        assert_eq!(NodePath::of(&v4, &own, &far(Tunnels::default())), not_ready(Family::V4));
        assert_eq!(NodePath::of(&v6, &own, &far(Tunnels::default())), not_ready(Family::V6));
        let via = |text: &str| NodePath::Vxlan { gateway: text.parse().unwrap() };
        assert_eq!(NodePath::of(&v4, &own, &far(announced())), via("10.0.9.1"));
        assert_eq!(NodePath::of(&v6, &own, &far(announced())), via("fd00::9"));
        // The subnet is that of this node's own prefix length, whatever the other one's is.
        assert_eq!(
            NodePath::of(&v4, &own, &near),
            NodePath::Direct { gateway: "192.0.2.9".parse().unwrap() }
        );
        assert_eq!(NodePath::of(&v6, &own, &near), NodePath::Unreachable(Unreachable::NoAddress(Family::V6)));
    }
}
