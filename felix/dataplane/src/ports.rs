//! The kernel as the dataplane needs it: one driver a kind of state.

use std::collections::BTreeSet;
use std::io;

use kernel::nft::NftDriver;
use kernel::{
    Driver, FdbEntry, FdbKey, IpSetPort, IptablesDriver, Neighbour, NeighbourKey, Route, RouteKey, Tunnel,
    VxlanLink, WireguardLinks, WireguardPeers,
};
use model::{Cidr, FelixConfiguration};

use crate::cluster::ClusterDrivers;

/// The types of the drivers.
pub trait Ports {
    /// Both families.
    type IpSets: IpSetPort;
    /// One family.
    type Iptables: IptablesDriver;
    /// Both families.
    type Nftables: NftDriver;
    type Routes: Driver<Key = RouteKey, Value = Route>;
    type Neighbours: Driver<Key = NeighbourKey, Value = Neighbour>;
    /// By path below `/proc/sys`. Neither read back nor deleted: an interface takes its sysctls with it.
    type Sysctls: Driver<Key = String, Value = String>;
    /// By name of the link. Deleting one means taking its address away.
    type Tunnels: Driver<Key = String, Value = Tunnel>;

    /// By name of the link.
    type Vxlans: Driver<Key = String, Value = VxlanLink>;
    type Fdb: Driver<Key = FdbKey, Value = FdbEntry>;
    type WireguardLinks: WireguardLinks;
    type WireguardPeers: WireguardPeers;

    /// From now on these routes and neighbours are ours; `cluster` is for routes to other nodes.
    fn set_ownership(
        routes: &mut Self::Routes,
        neighbours: &mut Self::Neighbours,
        cluster: &mut Self::Routes,
        ownership: &Ownership,
    ) {
        let _ = (routes, neighbours, cluster, ownership);
    }

    /// Destinations to which others have a way than the one behind `routes`.
    fn routes_of_others(routes: &mut Self::Routes) -> io::Result<BTreeSet<Cidr>>;
}

/// By what routes to pods, and neighbours, are known as ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// Names of pods' interfaces begin so.
    pub prefix: String,
    /// Protocol of our routes to pods.
    pub protocol: u8,
    /// Routes of other protocols to interfaces of pods are ours to sweep, too.
    pub takes_all: bool,
}

impl From<&FelixConfiguration> for Ownership {
    fn from(configuration: &FelixConfiguration) -> Self {
        Self {
            prefix: configuration.interface_prefix.clone(),
            protocol: configuration.route_protocol,
            takes_all: configuration.remove_external_routes,
        }
    }
}

/// The drivers themselves.
pub struct Drivers<P: Ports> {
    pub ip_sets: P::IpSets,
    pub iptables: P::Iptables,
    /// `None` when the kernel has no IPv6.
    pub ip6tables: Option<P::Iptables>,
    /// `None` when the kernel takes no tables of nf_tables.
    pub nftables: Option<P::Nftables>,
    pub routes: P::Routes,
    pub neighbours: P::Neighbours,
    pub sysctls: P::Sysctls,
    pub tunnels: P::Tunnels,
    pub cluster: ClusterDrivers<P>,
}
