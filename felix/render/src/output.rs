//! What [`crate::Renderer`] says: how the desired state of the kernel differs from what it said before.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use kernel::{
    Chain, ChainName, FdbEntry, FdbKey, Hook, HookName, IpSet, IpSetMember, IpSetName, IptablesTable,
    Neighbour, NeighbourKey, Route, RouteKey, VxlanLink, WireguardLink, WireguardPeer, WireguardPeerKey,
};
use model::{Family, HostInterface};

/// Every entry is the present wish for one key; `None` unwishes it. The first flush tells everything.
///
/// Apply in the order: IP sets that come or change, chains with hooks, IP sets that go; routes, neighbours
/// and sysctls beside that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    pub ip_sets: BTreeMap<IpSetName, IpSetChange>,
    pub chains: BTreeMap<(Family, IptablesTable, ChainName), Option<Chain>>,
    pub hooks: BTreeMap<(Family, IptablesTable, HookName), Hook>,
    pub routes: BTreeMap<RouteKey, Option<Route>>,
    pub neighbours: BTreeMap<NeighbourKey, Option<Neighbour>>,
    /// By interface: to be written when it comes up, too.
    pub sysctls: BTreeMap<HostInterface, Option<Arc<[Sysctl]>>>,
    /// `None` when it has not changed.
    pub tunnel: Option<TunnelDevice>,
    pub cluster: ClusterOutput,
    pub wireguard: WireguardOutput,
}

/// What leads to pods on other nodes where the agent itself routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterOutput {
    /// VXLAN links by name; their MTU is the dataplane's.
    pub links: BTreeMap<String, Option<VxlanLink>>,
    pub fdb: BTreeMap<FdbKey, Option<FdbEntry>>,
    pub neighbours: BTreeMap<NeighbourKey, Option<Neighbour>>,
    pub routes: BTreeMap<RouteKey, Option<Route>>,
    /// Routes that are not wanted, and stay for a while should they be there.
    pub held: BTreeMap<RouteKey, Option<Hold>>,
}

/// What may lead to pods on other nodes through WireGuard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WireguardOutput {
    /// Links by name; their MTU is the dataplane's.
    pub links: BTreeMap<String, Option<WireguardLink>>,
    pub peers: BTreeMap<WireguardPeerKey, Option<WireguardPeer>>,
    /// Who is to be sent what has this destination, as soon as both sides have come to terms.
    pub ways: BTreeMap<RouteKey, Option<WireguardPeerKey>>,
}

/// For how long an unwanted route stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Until somebody else has a route to the same destination.
    UntilAnother,
    /// As long as it leads through no VXLAN link: there is no other way yet.
    UnlessTunnel,
}

impl Output {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IpSetChange {
    /// The whole set.
    Full(IpSet),
    /// To be applied to the wish that was told before.
    Delta {
        added: Vec<IpSetMember>,
        removed: Vec<IpSetMember>,
    },
    Gone,
}

/// One file below `/proc/sys`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sysctl {
    /// As `net/ipv4/conf/cali68caf03a5f4/proxy_arp`.
    pub path: String,
    pub value: &'static str,
    /// Must it hold before the interface counts as configured? Otherwise failure is a warning.
    pub required: bool,
}

/// The wish for `tunl0`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunnelDevice {
    /// It must exist and be up.
    pub wanted: bool,
    /// Its only address, as /32; none is wanted when `None`.
    pub address: Option<Ipv4Addr>,
    /// `None`: the smallest MTU of the uplinks, less 20 for the outer header.
    pub mtu: Option<u32>,
    pub no_checksum_offload: bool,
    /// Some pool's packets are sent through it.
    pub carries_pods: bool,
}
