//! BGP settings of the cluster.

use std::net::SocketAddr;
use std::time::Duration;

use crate::{NodeName, Selector};

/// `BGPConfiguration` named `default`, with defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpConfiguration {
    pub node_to_node_mesh: bool,
    pub as_number: u32,
    pub listen_port: u16,
}

impl Default for BgpConfiguration {
    fn default() -> Self {
        Self { node_to_node_mesh: true, as_number: 64512, listen_port: 179 }
    }
}

/// Which nodes a `BGPPeer` is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerSelection {
    /// Neither `node` nor `nodeSelector`.
    AllNodes,
    Node(NodeName),
    Selector(Selector),
}

/// What next hop is announced to a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NextHopMode {
    #[default]
    Auto,
    SelfAddress,
    Keep,
}

/// `BGPPeer` of `projectcalico.org/v3`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpPeer {
    pub name: String,
    pub nodes: PeerSelection,
    /// Address and port; port 179 unless given. `None` when `peer_selector` chooses nodes.
    pub peer: Option<SocketAddr>,
    /// Nodes to peer with, instead of an address.
    pub peer_selector: Option<Selector>,
    /// Required with `peer`.
    pub as_number: Option<u32>,
    pub local_as_number: Option<u32>,
    pub next_hop_mode: NextHopMode,
    pub keepalive_time: Option<Duration>,
    pub max_restart_time: Option<Duration>,
    /// Bind to the node's address; false leaves the choice to the kernel.
    pub source_address_is_node_ip: bool,
}
