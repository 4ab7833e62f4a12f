//! The kernel as the dataplane needs it: one driver a kind of state.

use kernel::nft::NftDriver;
use kernel::{Driver, IpSetPort, IptablesDriver, Neighbour, NeighbourKey, Route, RouteKey, Tunnel};

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

    /// Names of pods' interfaces begin so from now on.
    fn set_interface_prefix(routes: &mut Self::Routes, neighbours: &mut Self::Neighbours, prefix: &str) {
        let _ = (routes, neighbours, prefix);
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
}
