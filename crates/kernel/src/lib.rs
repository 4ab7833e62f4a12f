//! Kernel state as tables: one kind of state per file, the port through which it is written, tables that
//! retry what failed, and fakes that refuse what the kernel would refuse.
//!
//! Pure: the netlink sockets and processes behind the ports are `crates/kernel-linux`.

pub mod fake;
pub mod interpret;

mod driver;
mod ipset;
mod ipset_table;
mod iptables;
mod iptables_chain;
mod iptables_plan;
mod iptables_retries;
mod iptables_save;
mod iptables_tables;
mod iptables_text;
mod link;
mod neighbour;
mod nexthop;
pub mod nft;
mod optional;
mod packet;
mod packet_rule;
mod pauses;
mod route;
mod rule_event;
mod shaping;
mod table;
mod tunnel;
mod vxlan;
mod wireguard;

pub use driver::{Driver, Failures};
pub use ipset::{IpSet, IpSetKind, IpSetMember, IpSetName};
pub use ipset_table::{IpSetAction, IpSetPort, IpSetProbe, IpSetWanted, IpSetWrite, IpSets};
pub use iptables::{Chain, ChainName, Hook, HookName, IptablesTable, chain_hashes};
pub use iptables_retries::{Part, Refused};
pub use iptables_save::{Saved, SavedRule, SavedTable, parse_save};
pub use iptables_tables::{Iptables, IptablesApplied, IptablesDriver, RestoreSection, RestoreTimes};
pub use iptables_text::rule_text;
pub use link::{Link, LinkEvent};
pub use neighbour::{Neighbour, NeighbourKey};
pub use nexthop::{NexthopId, NexthopObject};
pub use optional::Optional;
pub use packet::{LoggedPacket, PacketHead, Transport};
pub use packet_rule::{
    ConntrackState, DROP_GROUP, InterfaceMatch, InterfaceSide, Match, PacketRule, PacketSide, RejectWith,
    RuleAction,
};
pub use route::{NextHop, PROTO_BIRD, PROTO_BOOT, PROTO_FELIX, Route, RouteKey, RouteKind};
pub use rule_event::RuleEvent;
pub use shaping::{Bandwidth, Shaping};
pub use table::{Applied, Table};
pub use tunnel::{CARRIES_PODS, Tunnel};
pub use vxlan::{FdbEntry, FdbKey, VxlanLink, vxlan_link_name};
pub use wireguard::{
    WireguardLink, WireguardLinks, WireguardPeer, WireguardPeerKey, WireguardPeers, WireguardSession,
    wireguard_link_name,
};
