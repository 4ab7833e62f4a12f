//! What an apply did, and what is still to be done.

use std::collections::BTreeMap;
use std::fmt;

use kernel::RestoreTimes;
use model::Family;

/// A kind of kernel state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    IpSets,
    Chains(Family),
    /// Chains, sets and maps in our own tables of nf_tables.
    Nftables,
    /// Chains of ours behind the iptables backend that is not used.
    Leftovers(Family),
    Routes,
    Neighbours,
    Sysctls,
    Tunnels,
    /// VXLAN links between nodes.
    Vxlans,
    /// Behind which node an Ethernet address is.
    Fdb,
    /// Ethernet addresses of other nodes' VXLAN links.
    ClusterNeighbours,
    /// Routes to pods on other nodes.
    ClusterRoutes,
    /// WireGuard links between nodes.
    WireguardLinks,
    /// Other nodes behind them.
    WireguardPeers,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::IpSets => "ipset",
            Kind::Nftables => "nftables",
            Kind::Chains(Family::V4) => "iptables",
            Kind::Chains(Family::V6) => "ip6tables",
            Kind::Leftovers(Family::V4) => "iptables leftover",
            Kind::Leftovers(Family::V6) => "ip6tables leftover",
            Kind::Routes => "route",
            Kind::Neighbours => "neighbour",
            Kind::Sysctls => "sysctl",
            Kind::Tunnels => "tunnel",
            Kind::Vxlans => "VXLAN link",
            Kind::Fdb => "VXLAN forwarding entry",
            Kind::ClusterNeighbours => "VXLAN neighbour",
            Kind::ClusterRoutes => "cluster route",
            Kind::WireguardLinks => "WireGuard link",
            Kind::WireguardPeers => "WireGuard peer",
        })
    }
}

/// One entry that could not be written, or one kind that could not be read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    pub kind: Kind,
    /// What it was about, for a person.
    pub what: String,
    pub error: String,
}

/// What one apply did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Entries written and deleted, by kind; kinds without any are left out.
    pub changed: BTreeMap<Kind, usize>,
    /// Kinds that were read back, with the number of entries found different from what was last written.
    pub resynced: BTreeMap<Kind, usize>,
    /// What failed in this very apply.
    pub failed: Vec<Failed>,
    /// What writing rules cost, by family.
    pub restores: Vec<(Family, RestoreTimes)>,
}

/// What is in the kernel and what is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Entries that are wanted, by kind.
    pub wanted: BTreeMap<Kind, usize>,
    /// Entries still to be written or deleted, by kind; every kind is there.
    pub pending: BTreeMap<Kind, usize>,
    /// Those of them whose last try failed.
    pub failing: Vec<Failed>,
}
