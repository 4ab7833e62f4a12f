//! The names that stand in blocks and handles; Calico's where it has one.

use model::{NodeName, TunnelKind};

/// Attribute: the node that the address is used on.
pub const NODE: &str = "node";
/// Attribute: the pod's namespace.
pub const NAMESPACE: &str = "namespace";
/// Attribute: the pod's name.
pub const POD: &str = "pod";
/// Attribute: the pod's UID, which tells a pod from a later one of the same name.
pub const UID: &str = "uid";
/// Attribute: the pod's interface when it is not `eth0`.
pub const INTERFACE: &str = "interface";
/// Attribute: the container's network namespace where another CNI plugin makes its interface, so that nothing else on
/// the node tells of the container; [`NETNS_UNSEEN`] where the agent cannot see it.
pub const NETNS: &str = "netns";
/// Value of [`NETNS`]: somewhere.
pub const NETNS_UNSEEN: &str = "unseen";
/// Attribute: when the address was given out, RFC 3339.
pub const TIMESTAMP: &str = "timestamp";
/// Attribute: what the address is for when it is no pod's.
pub const TYPE: &str = "type";

/// Value of [`TYPE`]: held ready by a node for its next pods.
pub const TYPE_RESERVED: &str = "reserved";
/// Value of [`TYPE`]: address of a Service.
pub const TYPE_LOAD_BALANCER: &str = "loadBalancer";
/// Attribute: the Service that an address was given to.
pub const SERVICE: &str = "service";
/// Owner of the blocks that Services' addresses are from: no node.
pub const LOAD_BALANCER: &str = "virtual:load-balancer";

/// Handle of the addresses that a node holds ready; Kubernetes' rules make a node's name a valid part.
pub fn reserve_handle(node: &NodeName) -> String {
    format!("{RESERVE_PREFIX}{node}")
}

/// The node that a handle of [`reserve_handle`] is of.
pub fn node_of_reserve(handle: &str) -> Option<NodeName> {
    handle.strip_prefix(RESERVE_PREFIX).map(NodeName::from)
}

/// Handle of the address of a node's tunnel.
pub fn tunnel_handle(kind: TunnelKind, node: &NodeName) -> String {
    let kind = match kind {
        TunnelKind::Ipip => "ipip",
        TunnelKind::Vxlan => "vxlan",
        TunnelKind::VxlanV6 => "vxlan-v6",
        TunnelKind::Wireguard => "wireguard",
        TunnelKind::WireguardV6 => "wireguard-v6",
    };
    format!("{kind}-tunnel-addr-{node}")
}

/// Value of [`TYPE`]: address of a node's tunnel.
pub fn tunnel_type(kind: TunnelKind) -> &'static str {
    match kind {
        TunnelKind::Ipip => "ipipTunnelAddress",
        TunnelKind::Vxlan => "vxlanTunnelAddress",
        TunnelKind::VxlanV6 => "vxlanV6TunnelAddress",
        TunnelKind::Wireguard => "wireguardTunnelAddress",
        TunnelKind::WireguardV6 => "wireguardV6TunnelAddress",
    }
}

const RESERVE_PREFIX: &str = "ocicat-reserved-";
