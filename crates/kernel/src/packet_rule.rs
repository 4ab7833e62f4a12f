//! Packet rules in nobody's spelling: what a rule tests and what it does.
//!
//! `felix-render` makes them; [`crate::rule_text`] spells them for iptables, the nf_tables door as expressions,
//! and [`crate::interpret`] walks a packet over them. They stand in chains: see [`crate::Chain`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use model::{Cidr, Family, PortRange, Protocol, RateLimit};

use crate::ipset::IpSetName;
use crate::iptables::ChainName;

/// One rule: when every match holds, the action is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketRule {
    /// For people; never decides anything. As they were given: each spelling makes them harmless.
    pub comments: Vec<Arc<str>>,
    /// ANDed, tested in this order.
    pub matches: Vec<Match>,
    pub action: RuleAction,
}

impl PacketRule {
    /// A rule that matches every packet.
    pub fn new(action: RuleAction) -> Self {
        Self { comments: Vec::new(), matches: Vec::new(), action }
    }

    /// Jumps to a chain with a fixed name; what returns from it goes on behind this rule.
    pub fn jump(chain: &str) -> Self {
        Self::new(RuleAction::Jump(ChainName::fixed(chain)))
    }

    /// Adds one more condition, tested after those that are there.
    pub fn when(mut self, condition: Match) -> Self {
        self.matches.push(condition);
        self
    }

    /// Adds conditions, tested after those that are there.
    pub fn when_all(mut self, conditions: impl IntoIterator<Item = Match>) -> Self {
        self.matches.extend(conditions);
        self
    }

    /// Adds a comment behind those that are there.
    pub fn comment(mut self, comment: impl Into<Arc<str>>) -> Self {
        self.comments.push(comment.into());
        self
    }

    /// The chains that it jumps or goes to.
    pub fn targets(&self) -> impl Iterator<Item = &ChainName> {
        let (one, many) = match &self.action {
            RuleAction::Jump(chain) | RuleAction::Goto(chain) => (Some(chain), None),
            RuleAction::InterfaceMap { chains, .. } => (None, Some(chains.values())),
            _ => (None, None),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    /// The IP sets that it looks up.
    pub fn sets(&self) -> impl Iterator<Item = &IpSetName> {
        self.matches.iter().filter_map(|condition| match condition {
            Match::Set { name, .. } => Some(name),
            _ => None,
        })
    }
}

/// Which end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PacketSide {
    Source,
    Destination,
}

/// Through which interface a packet comes or goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InterfaceSide {
    In,
    Out,
}

/// The name of an interface, or the beginning of several names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InterfaceMatch {
    pub name: Arc<str>,
    /// Is `name` only the beginning?
    pub prefix: bool,
    pub negated: bool,
}

impl InterfaceMatch {
    /// Exactly this interface.
    pub fn named(name: &str) -> Self {
        Self { name: name.into(), prefix: false, negated: false }
    }

    /// Every interface whose name begins so.
    pub fn prefixed(prefix: &str) -> Self {
        Self { name: prefix.into(), prefix: true, negated: false }
    }

    /// Does an interface satisfy it? `None`: the packet has no such interface.
    pub fn holds(&self, interface: Option<&str>) -> bool {
        let interface = interface.unwrap_or_default();
        let matches = if self.prefix { interface.starts_with(&*self.name) } else { interface == &*self.name };
        matches != self.negated
    }
}

/// What conntrack thinks of a packet; the last two are about its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConntrackState {
    New,
    Established,
    Related,
    Invalid,
    Untracked,
    /// Its destination was translated.
    Dnat,
    /// Its source was translated.
    Snat,
}

/// One condition on a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    InInterface(InterfaceMatch),
    OutInterface(InterfaceMatch),
    /// `packet mark & mask == value`.
    Mark {
        value: u32,
        mask: u32,
        negated: bool,
    },
    Protocol {
        protocol: Protocol,
        negated: bool,
    },
    Net {
        side: PacketSide,
        net: Cidr,
        negated: bool,
    },
    /// In any of these prefixes. Only rendered for nftables: iptables has no such match.
    Nets {
        side: PacketSide,
        nets: Arc<[Cidr]>,
        negated: bool,
    },
    Set {
        name: IpSetName,
        side: PacketSide,
        /// Is (address, protocol, port) looked up, in place of the address?
        with_port: bool,
        negated: bool,
    },
    /// In any of these ranges; never true of packets without ports (negated: always). A rule with it tests for
    /// a protocol with ports first. For iptables at most 15 slots, of which a range takes two.
    Ports {
        side: PacketSide,
        ranges: Arc<[PortRange]>,
        negated: bool,
    },
    /// One port, spelled by the protocol's own match. A rule with it tests for the protocol first.
    Port {
        side: PacketSide,
        port: u16,
    },
    /// ICMP or ICMPv6, by family. A rule with it tests for the protocol first.
    Icmp {
        family: Family,
        kind: u8,
        code: Option<u8>,
        negated: bool,
    },
    Conntrack {
        states: &'static [ConntrackState],
        negated: bool,
    },
    /// The route back to the source does not lead through the interface that it came from, its mark considered.
    ReversePathFails,
    /// The address is one of this host's.
    LocalAddress {
        side: PacketSide,
        negated: bool,
        /// Does only an address of the interface count through which the packet leaves?
        of_out_interface: bool,
    },
    /// Holds as long as the rate is not exceeded; each rule counts for itself.
    Limit(RateLimit),
    /// SYN alone of SYN, ACK, FIN, RST. A rule with it tests for TCP first.
    TcpSyn,
    /// SYN without RST: a TCP connection's first packet, and the answer to it. A rule with it tests for TCP first.
    TcpOpening,
    /// More than so many connections pass this rule's connection counter, all sources taken together.
    ConnectionsAbove(u32),
}

/// How a sender is told that it was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RejectWith {
    /// ICMP port unreachable, of the packet's family.
    PortUnreachable,
    TcpReset,
}

/// What is done to a packet for which a rule's matches hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleAction {
    /// Nothing: the rule carries a comment.
    None,
    Jump(ChainName),
    /// Returns where this chain would.
    Goto(ChainName),
    Accept,
    Drop,
    Reject(RejectWith),
    Return,
    /// `mark = mark & !mask | value`; never a bit of `value` outside `mask`.
    SetMark {
        value: u32,
        mask: u32,
    },
    /// `SetMark` and `Return` in one. Only rendered for nftables: for iptables it is spelled as a drop.
    SetMarkAndReturn {
        value: u32,
        mask: u32,
    },
    /// Conntrack shall not see it (table raw).
    NoTrack,
    /// To the kernel's log, level notice; at most 29 bytes of prefix.
    Log {
        prefix: Arc<str>,
    },
    /// The first bytes of it to a netlink group; at most 63 bytes of prefix.
    Nflog {
        group: u16,
        prefix: Arc<str>,
        /// How many bytes of the packet.
        size: u32,
    },
    Dnat(IpAddr),
    Snat {
        address: IpAddr,
        ports: Option<PortRange>,
        random_fully: bool,
    },
    Masquerade {
        ports: Option<PortRange>,
        random_fully: bool,
    },
    SetDscp(u8),
    /// Lowers the largest segment that a packet which opens a TCP connection asks for (RFC 9293 §3.7.1) to what fits
    /// through the routes to its destination and back (table mangle; with [`Match::TcpOpening`]).
    ClampMss,
    /// Goes to the chain of the packet's interface; a packet of an interface that is not there goes on behind
    /// this rule. Only rendered for nftables: for iptables it is spelled as a drop.
    InterfaceMap {
        side: InterfaceSide,
        chains: Arc<BTreeMap<Arc<str>, ChainName>>,
    },
}

/// The netlink group to which every dropped packet is logged before it is dropped.
pub const DROP_GROUP: u16 = 7;
