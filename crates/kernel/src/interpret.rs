//! Walks one packet over packet rules, table by table, as netfilter would.
//!
//! For tests and for explanations: it judges what is *meant* to be in the kernel. It knows our rules only; what
//! kube-proxy or a firewall adds is told by the caller ([`Packet::service`]) or left out. Total: a chain that is
//! not there, or rules that never end, drop.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use model::{Cidr, Family, PortRange, Protocol};

use crate::ipset::{IpSetMember, IpSetName};
use crate::iptables::{ChainName, Hook, HookName, IptablesTable};
use crate::packet_rule::{
    ConntrackState, InterfaceSide, Match, PacketRule, PacketSide, RejectWith, RuleAction,
};

/// Where the rules, sets and addresses of one node are looked up.
pub trait Ruleset {
    /// What stands in a chain of the kernel.
    fn hook(&self, family: Family, table: IptablesTable, hook: HookName) -> Option<&Hook>;

    fn chain(&self, family: Family, table: IptablesTable, name: &ChainName) -> Option<&[PacketRule]>;

    fn set(&self, name: &IpSetName) -> Option<&BTreeSet<IpSetMember>>;

    /// Is it an address of this node: on any interface, or on the one that is named?
    fn is_local(&self, address: IpAddr, interface: Option<&str>) -> bool {
        let _ = (address, interface);
        false
    }
}

/// One packet as it comes to the node, and what the kernel knows about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: Protocol,
    pub source_port: u16,
    pub destination_port: u16,
    /// Type and code.
    pub icmp: (u8, u8),
    /// `None`: a process of the node sends it.
    pub from: Option<Arc<str>>,
    /// `None`: it is for the node itself.
    pub to: Option<Arc<str>>,
    /// One of `New`, `Established`, `Related`, `Invalid`; `Untracked` after [`RuleAction::NoTrack`].
    pub state: ConntrackState,
    /// Where a service's address is translated to, before the packet is routed.
    pub service: Option<(IpAddr, u16)>,
    /// Was the destination of its connection translated?
    pub is_dnat: bool,
    pub mark: u32,
    /// Does the way back to its source lead elsewhere than to where it came from?
    pub reverse_path_fails: bool,
    /// SYN alone.
    pub is_syn: bool,
    /// Does every rate limit still have room?
    pub within_limits: bool,
    /// Connections that a connection counter has seen.
    pub connections: u32,
}

impl Packet {
    /// The first packet of a connection from port 40000, through no interface yet.
    pub fn new(source: IpAddr, destination: IpAddr, protocol: Protocol, port: u16) -> Self {
        Self {
            source,
            destination,
            protocol,
            source_port: 40_000,
            destination_port: port,
            icmp: (8, 0),
            from: None,
            to: None,
            state: ConntrackState::New,
            service: None,
            is_dnat: false,
            mark: 0,
            reverse_path_fails: false,
            is_syn: true,
            within_limits: true,
            connections: 0,
        }
    }

    /// The same packet through these interfaces.
    pub fn via(&self, from: Option<&str>, to: Option<&str>) -> Self {
        Self { from: from.map(Arc::from), to: to.map(Arc::from), ..self.clone() }
    }

    pub fn family(&self) -> Family {
        Family::of(self.source)
    }

    fn address(&self, side: PacketSide) -> IpAddr {
        match side {
            PacketSide::Source => self.source,
            PacketSide::Destination => self.destination,
        }
    }

    fn port(&self, side: PacketSide) -> u16 {
        match side {
            PacketSide::Source => self.source_port,
            PacketSide::Destination => self.destination_port,
        }
    }

    fn has_ports(&self) -> bool {
        self.protocol.has_ports() || self.protocol == Protocol::UDPLITE
    }
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    Drop,
    Reject(RejectWith),
    /// No rule of ours decided in the filter table: others' rules and the policy of the kernel's chain do.
    Undecided,
}

impl Verdict {
    /// Is it stopped by a rule of ours?
    pub fn is_stopped(self) -> bool {
        matches!(self, Verdict::Drop | Verdict::Reject(_))
    }
}

/// How the source of a connection is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceNat {
    /// To the address of the interface through which it leaves.
    Masquerade,
    To(IpAddr),
}

/// A rule that matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub table: IptablesTable,
    /// A chain of ours, or a chain of the kernel.
    pub chain: Arc<str>,
    /// From 0, inside the chain.
    pub rule: usize,
}

/// One entry that a rule wrote about the packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// `None`: the kernel's log.
    pub group: Option<u16>,
    pub prefix: Arc<str>,
}

/// The end of a walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub verdict: Verdict,
    /// As it left: with its mark and what was translated.
    pub packet: Packet,
    pub source_nat: Option<SourceNat>,
    pub dscp: Option<u8>,
    /// The rules that matched, in order.
    pub steps: Vec<Step>,
    pub logged: Vec<Logged>,
}

/// Walks a packet through the node. Where it goes follows from its interfaces: from one to another it is
/// forwarded; without `to` it is for the node, without `from` the node sends it.
pub fn walk(rules: &impl Ruleset, packet: &Packet) -> Outcome {
    let mut walk = Walk::new(rules, packet);
    let verdict = walk.all_tables();
    Outcome {
        verdict,
        packet: walk.packet,
        source_nat: walk.source_nat,
        dscp: walk.dscp,
        steps: walk.steps,
        logged: walk.logged,
    }
}

/// The kernel takes no deeper nesting of jumps.
const MAX_DEPTH: usize = 16;
/// More rules than any table has on one way: whoever needs more goes round in circles.
const MAX_RULES: usize = 1_000_000;

struct Walk<'a, R> {
    rules: &'a R,
    packet: Packet,
    table: IptablesTable,
    source_nat: Option<SourceNat>,
    dscp: Option<u8>,
    steps: Vec<Step>,
    logged: Vec<Logged>,
    tested: usize,
}

impl<'a, R: Ruleset> Walk<'a, R> {
    fn new(rules: &'a R, packet: &Packet) -> Self {
        let packet = packet.clone();
        let (steps, logged) = (Vec::new(), Vec::new());
        Self {
            rules,
            packet,
            table: IptablesTable::Raw,
            source_nat: None,
            dscp: None,
            steps,
            logged,
            tested: 0,
        }
    }

    fn all_tables(&mut self) -> Verdict {
        use IptablesTable::{Filter, Mangle, Nat, Raw};
        let is_sent = self.packet.from.is_none();
        let (before, decides) = match (is_sent, self.packet.to.is_some()) {
            (true, _) => ("OUTPUT", "OUTPUT"),
            (false, true) => ("PREROUTING", "FORWARD"),
            (false, false) => ("PREROUTING", "INPUT"),
        };
        // What comes in has no interface to leave through before it is routed.
        let to = if is_sent { None } else { self.packet.to.take() };
        let mut stopped = self.stops(Raw, before).or_else(|| self.stops(Mangle, before));
        if stopped.is_none() {
            stopped = self.stops(Nat, before);
            self.translate_service();
        }
        self.packet.to = to.or_else(|| self.packet.to.take());
        if let Some(verdict) = stopped {
            return verdict;
        }
        let verdict = self.hook(Filter, decides).unwrap_or(Verdict::Undecided);
        if verdict.is_stopped() || self.packet.to.is_none() {
            return verdict;
        }
        self.packet.from = None;
        self.stops(Mangle, "POSTROUTING").or_else(|| self.stops(Nat, "POSTROUTING")).unwrap_or(verdict)
    }

    /// Some when the packet ends here. In nat only the first packet of a connection is seen.
    fn stops(&mut self, table: IptablesTable, hook: HookName) -> Option<Verdict> {
        if table == IptablesTable::Nat && self.packet.state != ConntrackState::New {
            return None;
        }
        self.hook(table, hook).filter(|verdict| verdict.is_stopped())
    }

    fn translate_service(&mut self) {
        if let (Some((address, port)), false) = (self.packet.service, self.packet.is_dnat) {
            (self.packet.destination, self.packet.destination_port) = (address, port);
            self.packet.is_dnat = true;
        }
    }

    fn hook(&mut self, table: IptablesTable, name: HookName) -> Option<Verdict> {
        self.table = table;
        let rules = self.rules;
        let hook = rules.hook(self.packet.family(), table, name)?;
        let all = [&hook.inserts, &hook.appends];
        all.into_iter().find_map(|part| self.run(name, part, 0))
    }

    fn chain(&mut self, name: &ChainName, depth: usize) -> Option<Verdict> {
        let rules = self.rules;
        match rules.chain(self.packet.family(), self.table, name) {
            Some(chain) if depth <= MAX_DEPTH => self.run(name.as_str(), chain, depth),
            _ => Some(Verdict::Drop),
        }
    }

    /// `None`: goes on behind the jump that led here.
    fn run(&mut self, chain: &str, rules: &[PacketRule], depth: usize) -> Option<Verdict> {
        for (index, rule) in rules.iter().enumerate() {
            self.tested += 1;
            if self.tested > MAX_RULES {
                return Some(Verdict::Drop);
            }
            if !rule.matches.iter().all(|condition| self.holds(condition)) {
                continue;
            }
            self.steps.push(Step { table: self.table, chain: chain.into(), rule: index });
            let decided = match &rule.action {
                RuleAction::Jump(to) => self.chain(to, depth + 1),
                RuleAction::Goto(to) => return self.chain(to, depth),
                RuleAction::InterfaceMap { side, chains } => {
                    let interface = self.interface(*side);
                    match interface.and_then(|interface| chains.get(interface)) {
                        Some(to) => return self.chain(to, depth),
                        None => None,
                    }
                }
                RuleAction::Return => return None,
                RuleAction::SetMarkAndReturn { value, mask } => {
                    self.set_mark(*value, *mask);
                    return None;
                }
                action => self.act(action),
            };
            if decided.is_some() {
                return decided;
            }
        }
        None
    }

    /// Some when that ends the table.
    fn act(&mut self, action: &RuleAction) -> Option<Verdict> {
        match action {
            RuleAction::Accept => return Some(Verdict::Accept),
            RuleAction::Drop => return Some(Verdict::Drop),
            RuleAction::Reject(with) => return Some(Verdict::Reject(*with)),
            RuleAction::Dnat(address) => {
                self.packet.destination = *address;
                self.packet.is_dnat = true;
                return Some(Verdict::Accept);
            }
            RuleAction::Snat { address, .. } => {
                self.source_nat = Some(SourceNat::To(*address));
                return Some(Verdict::Accept);
            }
            RuleAction::Masquerade { .. } => {
                self.source_nat = Some(SourceNat::Masquerade);
                return Some(Verdict::Accept);
            }
            RuleAction::SetMark { value, mask } => self.set_mark(*value, *mask),
            RuleAction::NoTrack => self.packet.state = ConntrackState::Untracked,
            RuleAction::Log { prefix } => {
                self.logged.push(Logged { group: None, prefix: prefix.clone() });
            }
            RuleAction::Nflog { group, prefix, .. } => {
                self.logged.push(Logged { group: Some(*group), prefix: prefix.clone() });
            }
            RuleAction::SetDscp(value) => self.dscp = Some(*value),
            RuleAction::None
            | RuleAction::ClampMss
            | RuleAction::Return
            | RuleAction::SetMarkAndReturn { .. }
            | RuleAction::Jump(_)
            | RuleAction::Goto(_)
            | RuleAction::InterfaceMap { .. } => {}
        }
        None
    }

    fn set_mark(&mut self, value: u32, mask: u32) {
        self.packet.mark = self.packet.mark & !mask | value;
    }

    fn interface(&self, side: InterfaceSide) -> Option<&str> {
        match side {
            InterfaceSide::In => self.packet.from.as_deref(),
            InterfaceSide::Out => self.packet.to.as_deref(),
        }
    }

    fn holds(&self, condition: &Match) -> bool {
        let packet = &self.packet;
        match condition {
            Match::InInterface(interface) => interface.holds(packet.from.as_deref()),
            Match::OutInterface(interface) => interface.holds(packet.to.as_deref()),
            Match::Mark { value, mask, negated } => (packet.mark & mask == *value) != *negated,
            Match::Protocol { protocol, negated } => (packet.protocol == *protocol) != *negated,
            Match::Net { side, net, negated } => net.contains(packet.address(*side)) != *negated,
            Match::Nets { side, nets, negated } => {
                nets.iter().any(|net| net.contains(packet.address(*side))) != *negated
            }
            Match::Set { name, side, with_port, negated } => self.in_set(name, *side, *with_port) != *negated,
            Match::Ports { side, ranges, negated } => {
                let is_in = |range: &PortRange| range.contains(packet.port(*side));
                (packet.has_ports() && ranges.iter().any(is_in)) != *negated
            }
            Match::Port { side, port } => packet.has_ports() && packet.port(*side) == *port,
            Match::Icmp { family, kind, code, negated } => {
                let icmp = match family {
                    Family::V4 => Protocol::ICMP,
                    Family::V6 => Protocol::ICMPV6,
                };
                let is_it = packet.icmp.0 == *kind && code.is_none_or(|code| code == packet.icmp.1);
                packet.protocol == icmp && is_it != *negated
            }
            Match::Conntrack { states, negated } => {
                states.iter().any(|state| self.is_in_state(*state)) != *negated
            }
            Match::ReversePathFails => packet.reverse_path_fails,
            Match::LocalAddress { side, negated, of_out_interface } => {
                let interface = if *of_out_interface { packet.to.as_deref() } else { None };
                self.rules.is_local(packet.address(*side), interface) != *negated
            }
            Match::Limit(_) => packet.within_limits,
            Match::TcpSyn | Match::TcpOpening => packet.protocol == Protocol::TCP && packet.is_syn,
            Match::ConnectionsAbove(most) => packet.connections > *most,
        }
    }

    fn is_in_state(&self, state: ConntrackState) -> bool {
        match state {
            ConntrackState::Dnat => self.packet.is_dnat,
            ConntrackState::Snat => false,
            state => self.packet.state == state,
        }
    }

    /// A set that is not there holds nothing.
    fn in_set(&self, name: &IpSetName, side: PacketSide, with_port: bool) -> bool {
        let Some(members) = self.rules.set(name) else { return false };
        let packet = &self.packet;
        let address = packet.address(side);
        if with_port {
            let member = IpSetMember::IpPort(address, packet.protocol, packet.port(side));
            return members.contains(&member);
        }
        let nets = (0..=packet.family().bits()).filter_map(|length| Cidr::truncated(address, length));
        nets.rev().any(|net| members.contains(&IpSetMember::Net(net)))
    }
}
