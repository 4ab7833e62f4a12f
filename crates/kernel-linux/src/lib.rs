//! The Linux kernel behind `kernel`'s ports: netlink sockets, `iptables-restore`, sysctls, namespaces.
//!
//! Blocking and without a runtime, so that the static CNI binary can use it as it is. Decides nothing: what is
//! wanted comes in, what the kernel says goes out.

pub mod events;
pub mod netns;
pub mod nl;
pub mod pod;
pub mod pod_state;
pub mod sysctl;

mod aside;
mod clock;
mod connections;
mod conntrack;
mod fdb;
mod fib;
mod genl;
mod ipset;
mod iptables;
mod iptables_session;
mod link;
mod link_entries;
mod neighbour;
mod nexthop;
mod nflog;
mod nft;
mod offload;
mod path_probe;
mod pod_mtu;
mod route;
mod route_events;
mod rtnl;
mod rule_events;
mod shaping;
mod table_info;
mod tunnel;
mod tunnel_link;
mod vxlan;
mod wireguard;
mod wireguard_peers;
mod xtables_lock;

pub use clock::is_clock_synchronised;
pub use connections::{ConnectionTuple, TrackedConnection};
pub use conntrack::{Conntrack, Tracked};
pub use fdb::FdbDriver;
pub use fib::{FibKind, FibMatch};
pub use ipset::IpSetDriver;
pub use iptables::{Backend, IptablesTools};
pub use link::RETIRED_GROUP;
pub use neighbour::NeighbourDriver;
pub use netns::Netns;
pub use nexthop::NexthopDriver;
pub use nflog::{Heard, Nflog};
pub use nft::{ForeignChain, NftablesDriver, all_nft_chains, nft_chains, probe as probe_nftables};
pub use path_probe::probe_paths;
pub use pod_mtu::{Namespaces, PodMtu};
pub use route::{FibLookup, RouteDriver, RouteOwner};
pub use route_events::{RouteEvent, RouteEvents};
pub use rtnl::Rtnl;
pub use rule_events::RuleEvents;
pub use shaping::SHAPER_PREFIX;
pub use sysctl::SysctlDriver;
pub use tunnel::TunnelDriver;
pub use vxlan::VxlanDriver;
pub use wireguard::WireguardDriver;
pub use wireguard_peers::WireguardPeerDriver;
pub use xtables_lock::set_lock_probe_interval;
