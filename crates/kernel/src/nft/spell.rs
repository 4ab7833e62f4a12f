//! How nf_tables spells a packet rule: expressions that load, compare and decide. The only place that knows.

use std::sync::Arc;

use model::{Cidr, Family, PortRange, RateUnit};

use super::expression::{
    ConntrackKey, Data, Expression, Fib, Header, MetaKey, NftVerdict, Per, Reject, SetReference, Word, state,
};
use super::objects::{AnonymousSet, NftChain, NftChainType, NftHook, NftKey, NftMap, NftRule, nft_set_name};
use crate::iptables::{Chain, ChainName, Hook, HookName, IptablesTable};
use crate::packet_rule::{
    ConntrackState, InterfaceMatch, InterfaceSide, Match, PacketRule, PacketSide, RejectWith, RuleAction,
};

/// A chain as nf_tables has it, and the maps that its rules ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpelledChain {
    pub name: Arc<str>,
    pub chain: NftChain,
    pub maps: Vec<(Arc<str>, NftMap)>,
}

/// The name of a chain in our table: `filter-cali-FORWARD`, as Calico has it.
pub fn nft_chain_name(table: IptablesTable, name: &str) -> Arc<str> {
    format!("{}-{name}", table.name()).into()
}

/// Spells one chain of ours.
pub fn spell_chain(family: Family, table: IptablesTable, chain: &Chain) -> SpelledChain {
    let decides = CLOSED_PREFIXES.iter().any(|prefix| chain.name.as_str().starts_with(prefix));
    let name = nft_chain_name(table, chain.name.as_str());
    ChainSpeller::new(family, table, name).spell(chain.rules.iter(), None, decides)
}

/// Spells what stands in a chain of the kernel: a base chain of ours at the same place.
pub fn spell_hook(family: Family, table: IptablesTable, name: HookName, hook: &Hook) -> SpelledChain {
    let rules = hook.inserts.iter().chain(&hook.appends);
    ChainSpeller::new(family, table, nft_chain_name(table, name)).spell(
        rules,
        Some(nft_hook(table, name)),
        false,
    )
}

/// Where the base chain of a kernel's chain stands. Translation of sources comes behind kube-proxy's.
pub fn nft_hook(table: IptablesTable, name: HookName) -> NftHook {
    let number = match name {
        "INPUT" => 1,
        "FORWARD" => 2,
        "OUTPUT" => 3,
        "POSTROUTING" => 4,
        _ => 0,
    };
    let priority = match (table, number) {
        (IptablesTable::Raw, _) => -300,
        (IptablesTable::Mangle, _) => -150,
        (IptablesTable::Nat, 1 | 4) => 110,
        (IptablesTable::Nat, _) => -100,
        (IptablesTable::Filter, _) => 0,
    };
    let kind = if table == IptablesTable::Nat { NftChainType::Nat } else { NftChainType::Filter };
    NftHook { kind, number, priority }
}

/// Chains in which policy is decided.
const CLOSED_PREFIXES: [&str; 9] = [
    "cali-pi-",
    "cali-po-",
    "cali-pri-",
    "cali-pro-",
    "cali-gi-",
    "cali-go-",
    "cali-tw-",
    "cali-fw-",
    "cali-cidr-block",
];

struct ChainSpeller {
    family: Family,
    table: IptablesTable,
    name: Arc<str>,
    rules: Vec<NftRule>,
    maps: Vec<(Arc<str>, NftMap)>,
    /// How many maps are still to come.
    maps_to_come: usize,
}

impl ChainSpeller {
    fn new(family: Family, table: IptablesTable, name: Arc<str>) -> Self {
        Self { family, table, name, rules: Vec::new(), maps: Vec::new(), maps_to_come: 0 }
    }

    fn spell<'a>(
        mut self,
        rules: impl Iterator<Item = &'a PacketRule> + Clone,
        hook: Option<NftHook>,
        decides: bool,
    ) -> SpelledChain {
        let asks_map = |rule: &&PacketRule| matches!(rule.action, RuleAction::InterfaceMap { .. });
        self.maps_to_come = rules.clone().filter(asks_map).count();
        rules.for_each(|rule| self.push(rule));
        let chain = NftChain { hook, rules: self.rules.into(), decides };
        SpelledChain { name: self.name, chain, maps: self.maps }
    }

    fn push(&mut self, rule: &PacketRule) {
        self.push_one(rule);
        // Of a packet that is in no connection nf_tables says nothing, and a rule that asks ends there; iptables
        // says that nothing was translated.
        let of_none = Match::Conntrack {
            states: &[ConntrackState::Invalid, ConntrackState::Untracked],
            negated: false,
        };
        if let Some(at) = rule.matches.iter().position(is_untranslated) {
            let mut other = rule.clone();
            other.matches[at] = of_none;
            self.push_one(&other);
        }
    }

    fn push_one(&mut self, rule: &PacketRule) {
        let mut speller = RuleSpeller { family: self.family, rule: NftRule::default() };
        if !rule.matches.iter().all(|condition| speller.condition(condition)) {
            // It can match no packet.
            return;
        }
        match &rule.action {
            RuleAction::InterfaceMap { side, chains } => {
                let map = self.add_map(chains);
                speller.load_interface(*side);
                speller.rule.expressions.push(Expression::VerdictMap { from: Word::FIRST, map });
            }
            action => speller.action(self.table, action),
        }
        speller.rule.comment = comment(&rule.comments);
        self.rules.push(speller.rule);
    }

    /// The last map of a chain has the chain's own name, whether there are others or not.
    fn add_map(&mut self, chains: &std::collections::BTreeMap<Arc<str>, ChainName>) -> Arc<str> {
        self.maps_to_come = self.maps_to_come.saturating_sub(1);
        let name = match self.maps_to_come {
            0 => self.name.clone(),
            more => format!("{}-{more}", self.name).into(),
        };
        let goto = |chain: &ChainName| NftVerdict::Goto(nft_chain_name(self.table, chain.as_str()));
        let entries = chains.iter().map(|(interface, chain)| (interface.clone(), goto(chain)));
        self.maps.push((name.clone(), entries.collect()));
        name
    }
}

fn is_untranslated(condition: &Match) -> bool {
    let is_translation =
        |state: &ConntrackState| matches!(state, ConntrackState::Dnat | ConntrackState::Snat);
    matches!(condition, Match::Conntrack { states, negated: true } if states.iter().any(is_translation))
}

/// All comments as one; what could leave its quotes when it is listed and read again becomes `_`.
fn comment(comments: &[Arc<str>]) -> Option<Arc<str>> {
    if comments.is_empty() {
        return None;
    }
    let text = comments.join("; ");
    Some(harmless(&text, NftRule::COMMENT).into())
}

fn harmless(text: &str, most: usize) -> String {
    let is_safe = |c: char| (c.is_ascii_graphic() || c == ' ') && c != '"' && c != '\\';
    text.chars().take(most).map(|c| if is_safe(c) { c } else { '_' }).collect()
}

const W: Word = Word::FIRST;

struct RuleSpeller {
    family: Family,
    rule: NftRule,
}

impl RuleSpeller {
    /// Adds what tests a condition. `false`: it can never hold.
    fn condition(&mut self, condition: &Match) -> bool {
        match condition {
            Match::InInterface(interface) => self.interface(InterfaceSide::In, interface),
            Match::OutInterface(interface) => self.interface(InterfaceSide::Out, interface),
            Match::Mark { value, mask, negated } => {
                self.push(Expression::Meta { key: MetaKey::Mark, to: W });
                self.masked(*mask, *value, *negated);
            }
            Match::Protocol { protocol, negated } => {
                self.push(Expression::Meta { key: MetaKey::Protocol, to: W });
                self.compare(&[protocol.0], *negated);
            }
            Match::Net { side, net, negated } => return self.net(*side, *net, *negated),
            Match::Nets { side, nets, negated } => return self.nets(*side, nets, *negated),
            Match::Set { name, side, with_port, negated } => {
                self.load_address(*side);
                if *with_port {
                    let behind = self.family.bits() / 32;
                    self.push(Expression::Meta { key: MetaKey::Protocol, to: Word(behind) });
                    self.load_port(*side, Word(behind + 1));
                }
                let set = SetReference::Named(nft_set_name(name));
                self.push(Expression::Lookup { from: W, set, negated: *negated });
            }
            Match::Ports { side, ranges, negated } => return self.ports(*side, ranges, *negated),
            Match::Port { side, port } => {
                self.load_port(*side, W);
                self.compare(&port.to_be_bytes(), false);
            }
            Match::Icmp { kind, code, negated, .. } => {
                let length = if code.is_some() { 2 } else { 1 };
                self.push(Expression::Payload { header: Header::Transport, offset: 0, length, to: W });
                self.compare(&[*kind, code.unwrap_or_default()][..usize::from(length)], *negated);
            }
            Match::Conntrack { states, negated } => self.conntrack(states, *negated),
            Match::ReversePathFails => {
                self.push(Expression::Fib { fib: Fib::ReversePath, to: W });
                self.compare(&0_u32.to_ne_bytes(), false);
            }
            Match::LocalAddress { side, negated, of_out_interface } => {
                let source = *side == PacketSide::Source;
                let fib = Fib::AddressType { source, out_interface: *of_out_interface };
                self.push(Expression::Fib { fib, to: W });
                self.compare(&Fib::LOCAL.to_ne_bytes(), *negated);
            }
            Match::Limit(limit) => {
                let per = match limit.unit {
                    RateUnit::Second => Per::Second,
                    RateUnit::Minute => Per::Minute,
                    RateUnit::Hour => Per::Hour,
                    RateUnit::Day => Per::Day,
                };
                self.push(Expression::Limit { rate: limit.count.into(), per, burst: limit.burst });
            }
            Match::TcpSyn => self.syn_alone_of(FIN_SYN_RST_ACK),
            Match::TcpOpening => self.syn_alone_of(SYN_RST),
            Match::ConnectionsAbove(count) => self.push(Expression::ConnectionsAbove(*count)),
        }
        true
    }

    fn push(&mut self, expression: Expression) {
        self.rule.expressions.push(expression);
    }

    fn compare(&mut self, value: &[u8], negated: bool) {
        self.push(Expression::Compare { from: W, value: Data::new(value), negated });
    }

    /// Compares bits of a number of the host.
    fn masked(&mut self, mask: u32, value: u32, negated: bool) {
        let (mask, xor) = (Data::host(mask), Data::host(0));
        self.push(Expression::Bitwise { from: W, to: W, mask, xor });
        self.compare(&value.to_ne_bytes(), negated);
    }

    fn load_interface(&mut self, side: InterfaceSide) {
        let key = match side {
            InterfaceSide::In => MetaKey::InInterface,
            InterfaceSide::Out => MetaKey::OutInterface,
        };
        self.push(Expression::Meta { key, to: W });
    }

    fn interface(&mut self, side: InterfaceSide, interface: &InterfaceMatch) {
        self.load_interface(side);
        let name = interface.name.as_bytes();
        let mut value = [0; 16];
        let length = name.len().min(15);
        value[..length].copy_from_slice(&name[..length]);
        // The whole register, with the NUL behind the name, unless only the beginning counts.
        let compared = if interface.prefix { &value[..length] } else { &value[..] };
        self.compare(compared, interface.negated);
    }

    fn address_offset(&self, side: PacketSide) -> u8 {
        match (self.family, side) {
            (Family::V4, PacketSide::Source) => 12,
            (Family::V4, PacketSide::Destination) => 16,
            (Family::V6, PacketSide::Source) => 8,
            (Family::V6, PacketSide::Destination) => 24,
        }
    }

    fn load_address(&mut self, side: PacketSide) {
        let (offset, length) = (self.address_offset(side), self.family.bits() / 8);
        self.push(Expression::Payload { header: Header::Network, offset, length, to: W });
    }

    fn load_port(&mut self, side: PacketSide, to: Word) {
        let offset = if side == PacketSide::Source { 0 } else { 2 };
        self.push(Expression::Payload { header: Header::Transport, offset, length: 2, to });
    }

    fn net(&mut self, side: PacketSide, net: Cidr, negated: bool) -> bool {
        if net.family() != self.family {
            return negated;
        }
        if net.length() == 0 {
            return !negated;
        }
        let (first, _) = Data::range(net);
        if net.length().is_multiple_of(8) {
            // Whole octets need no mask.
            let (offset, length) = (self.address_offset(side), net.length() / 8);
            self.push(Expression::Payload { header: Header::Network, offset, length, to: W });
            self.compare(&first.as_bytes()[..usize::from(length)], negated);
        } else {
            self.load_address(side);
            let mask = Data::netmask(self.family, net.length());
            let xor = Data::new(&[0; 16][..mask.as_bytes().len()]);
            self.push(Expression::Bitwise { from: W, to: W, mask, xor });
            self.compare(first.as_bytes(), negated);
        }
        true
    }

    fn nets(&mut self, side: PacketSide, nets: &[Cidr], negated: bool) -> bool {
        let mut ranges: Vec<_> = nets
            .iter()
            .filter(|net| net.family() == self.family)
            .map(|net| (*net, Data::range(*net)))
            .collect();
        ranges.sort();
        // In order a prefix stands before everything within it.
        ranges.dedup_by(|later, earlier| earlier.0.covers(later.0));
        match ranges.as_slice() {
            [] => return negated,
            [(net, _)] => return self.net(side, *net, negated),
            _ => {}
        }
        self.load_address(side);
        self.lookup(
            NftKey::Address(self.family),
            ranges.into_iter().map(|(_, range)| range).collect(),
            negated,
        );
        true
    }

    fn ports(&mut self, side: PacketSide, ranges: &[PortRange], negated: bool) -> bool {
        let mut sorted: Vec<(u16, u16)> = ranges.iter().map(|range| (range.first, range.last)).collect();
        sorted.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::new();
        for (first, last) in sorted.into_iter().filter(|(first, last)| first <= last) {
            match merged.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        if merged.is_empty() {
            return negated;
        }
        self.load_port(side, W);
        match merged.as_slice() {
            [(port, last)] if port == last => self.compare(&port.to_be_bytes(), negated),
            [(first, last)] => {
                let (first, last) = (Data::port(*first), Data::port(*last));
                self.push(Expression::Range { from: W, first, last, negated });
            }
            many => {
                let ranges = many.iter().map(|(first, last)| (Data::port(*first), Data::port(*last)));
                self.lookup(NftKey::Port, ranges.collect(), negated);
            }
        }
        true
    }

    fn lookup(&mut self, key: NftKey, ranges: Vec<(Data, Data)>, negated: bool) {
        let set = SetReference::Anonymous(self.rule.sets.len());
        self.rule.sets.push(AnonymousSet { key, ranges });
        self.push(Expression::Lookup { from: W, set, negated });
    }

    fn syn_alone_of(&mut self, flags: u8) {
        self.push(Expression::Payload { header: Header::Transport, offset: 13, length: 1, to: W });
        let (mask, xor) = (Data::new(&[flags]), Data::new(&[0]));
        self.push(Expression::Bitwise { from: W, to: W, mask, xor });
        self.compare(&[SYN], false);
    }

    /// A rule asks for states or for translations, never for either of both.
    fn conntrack(&mut self, states: &[ConntrackState], negated: bool) {
        let bits = |state: &ConntrackState| match state {
            ConntrackState::New => (ConntrackKey::State, state::NEW),
            ConntrackState::Established => (ConntrackKey::State, state::ESTABLISHED),
            ConntrackState::Related => (ConntrackKey::State, state::RELATED),
            ConntrackState::Invalid => (ConntrackKey::State, state::INVALID),
            ConntrackState::Untracked => (ConntrackKey::State, state::UNTRACKED),
            ConntrackState::Dnat => (ConntrackKey::Status, state::DESTINATION_NAT),
            ConntrackState::Snat => (ConntrackKey::Status, state::SOURCE_NAT),
        };
        for key in [ConntrackKey::State, ConntrackKey::Status] {
            let of_key = states.iter().map(bits).filter(|(of, _)| *of == key).map(|(_, bit)| bit);
            let mask = of_key.fold(0, |mask, bit| mask | bit);
            if mask != 0 {
                self.push(Expression::Conntrack { key, to: W });
                // One of the bits is set: what is left is not zero.
                self.masked(mask, 0, !negated);
            }
        }
    }

    fn action(&mut self, table: IptablesTable, action: &RuleAction) {
        let chain = |name: &ChainName| nft_chain_name(table, name.as_str());
        let expression = match action {
            RuleAction::None | RuleAction::InterfaceMap { .. } => return,
            RuleAction::Jump(to) => Expression::Verdict(NftVerdict::Jump(chain(to))),
            RuleAction::Goto(to) => Expression::Verdict(NftVerdict::Goto(chain(to))),
            RuleAction::Accept => Expression::Verdict(NftVerdict::Accept),
            RuleAction::Drop => Expression::Verdict(NftVerdict::Drop),
            RuleAction::Return => Expression::Verdict(NftVerdict::Return),
            RuleAction::Reject(RejectWith::PortUnreachable) => Expression::Reject(Reject::PortUnreachable),
            RuleAction::Reject(RejectWith::TcpReset) => Expression::Reject(Reject::TcpReset),
            RuleAction::SetMark { value, mask } => return self.set_mark(*value, *mask),
            RuleAction::SetMarkAndReturn { value, mask } => {
                self.set_mark(*value, *mask);
                Expression::Verdict(NftVerdict::Return)
            }
            RuleAction::NoTrack => Expression::NoTrack,
            RuleAction::Log { prefix } => Expression::Log { prefix: harmless(prefix, MAX_PREFIX).into() },
            RuleAction::Nflog { group, prefix, size } => Expression::Nflog {
                group: *group,
                prefix: harmless(prefix, MAX_PREFIX).into(),
                size: Some(*size),
            },
            RuleAction::Dnat(address) => {
                self.immediate(W, Data::address(*address));
                Expression::DestinationNat { family: self.family, address: W, port: None }
            }
            RuleAction::Snat { address, ports, random_fully } => {
                self.immediate(W, Data::address(*address));
                let ports = self.port_range(*ports, Word(4));
                let (family, random_fully) = (self.family, *random_fully);
                Expression::SourceNat { family, address: W, ports, random_fully }
            }
            RuleAction::Masquerade { ports, random_fully } => {
                let ports = self.port_range(*ports, W);
                Expression::Masquerade { ports, random_fully: *random_fully }
            }
            RuleAction::SetDscp(value) => self.dscp(*value),
            RuleAction::ClampMss => {
                self.push(Expression::RouteMss { to: W });
                self.push(Expression::ToNetworkOrder { word: W });
                Expression::LowerMss { from: W }
            }
        };
        self.push(expression);
    }

    fn set_mark(&mut self, value: u32, mask: u32) {
        self.push(Expression::Meta { key: MetaKey::Mark, to: W });
        let (mask, xor) = (Data::host(!mask), Data::host(value));
        self.push(Expression::Bitwise { from: W, to: W, mask, xor });
        self.push(Expression::SetMark { from: W });
    }

    fn immediate(&mut self, to: Word, value: Data) {
        self.push(Expression::Immediate { to, value });
    }

    fn port_range(&mut self, ports: Option<PortRange>, at: Word) -> Option<(Word, Word)> {
        let ports = ports?;
        let next = Word(at.0 + 1);
        self.immediate(at, Data::port(ports.first));
        self.immediate(next, Data::port(ports.last));
        Some((at, next))
    }

    /// The six bits stand in the second octet of an IPv4 header, and across the first two of an IPv6 header.
    fn dscp(&mut self, value: u8) -> Expression {
        let value = u16::from(value & 0x3f);
        let (mask, bits): (u16, u16) = match self.family {
            Family::V4 => (0xff03, value << 2),
            Family::V6 => (0xf03f, value << 6),
        };
        self.push(Expression::Payload { header: Header::Network, offset: 0, length: 2, to: W });
        let (mask, xor) = (Data::new(&mask.to_be_bytes()), Data::new(&bits.to_be_bytes()));
        self.push(Expression::Bitwise { from: W, to: W, mask, xor });
        Expression::WriteNetworkHeader { from: W, offset: 0, length: 2 }
    }
}

/// Flags of a TCP header.
const SYN: u8 = 2;
const SYN_RST: u8 = 0x06;
const FIN_SYN_RST_ACK: u8 = 0x17;

/// Longest prefix of a log entry, in bytes.
const MAX_PREFIX: usize = 127;
