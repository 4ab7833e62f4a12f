//! Walks one packet over rules as nf_tables spells them, the way the kernel does: header octets into registers,
//! comparisons, verdicts.
//!
//! For tests: what [`crate::interpret`] says of the rules as they are meant must come out here, too. It is told
//! nothing of the meaning: it sees headers, and the tables of [`crate::fake::FakeNft`].

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use model::{Cidr, Family, Protocol};

use super::expression::{
    ConntrackKey, Data, Expression, Fib, Header, MetaKey, NftVerdict, Reject, SetReference, Word, state,
};
use super::objects::{AnonymousSet, NftChainType, NftRule};
use crate::fake::FakeNftTable;
use crate::interpret::{Packet, Verdict};
use crate::ipset::IpSetMember;
use crate::packet_rule::{ConntrackState, RejectWith};

/// The end of a walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walked {
    pub verdict: Verdict,
    pub mark: u32,
    pub destination: IpAddr,
    /// Was the source to be translated; to which address, where one was named?
    pub source_nat: Option<Option<IpAddr>>,
    pub dscp: Option<u8>,
    /// Group (none: the kernel's log) and prefix of each entry.
    pub logged: Vec<(Option<u16>, Arc<str>)>,
}

/// Walks a packet through the base chains that it meets, by hook and priority. `is_local` says whether an address
/// is one of the node's, on the named interface or on any.
pub fn walk(
    table: &FakeNftTable,
    packet: &Packet,
    is_local: &dyn Fn(IpAddr, Option<&str>) -> bool,
) -> Walked {
    let mut machine = Machine {
        table,
        packet: packet.clone(),
        is_local,
        registers: [0; 80],
        source_nat: None,
        dscp: None,
        logged: Vec::new(),
    };
    let verdict = machine.all_hooks();
    Walked {
        verdict,
        mark: machine.packet.mark,
        destination: machine.packet.destination,
        source_nat: machine.source_nat,
        dscp: machine.dscp,
        logged: machine.logged,
    }
}

struct Machine<'a> {
    table: &'a FakeNftTable,
    packet: Packet,
    is_local: &'a dyn Fn(IpAddr, Option<&str>) -> bool,
    registers: [u8; 80],
    source_nat: Option<Option<IpAddr>>,
    dscp: Option<u8>,
    logged: Vec<(Option<u16>, Arc<str>)>,
}

/// What one rule came to.
enum Ruled {
    /// On to the next rule.
    Next,
    Verdict(NftVerdict),
    /// Evaluation ends here with this.
    Final(Verdict),
}

const PREROUTING: u32 = 0;
const INPUT: u32 = 1;
const FORWARD: u32 = 2;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;
const MAX_DEPTH: usize = 16;

impl Machine<'_> {
    fn all_hooks(&mut self) -> Verdict {
        let is_sent = self.packet.from.is_none();
        // What comes in has no interface to leave through before it is routed.
        let to = if is_sent { None } else { self.packet.to.take() };
        let decides = match (is_sent, to.is_some()) {
            (true, _) => OUTPUT,
            (false, true) => FORWARD,
            (false, false) => INPUT,
        };
        let mut verdict = Verdict::Undecided;
        if is_sent {
            // kube-proxy translates between the two.
            verdict = self.hook(OUTPUT, i32::MIN..0);
            self.translate_service();
            if !verdict.is_stopped() {
                verdict = self.hook(OUTPUT, 0..i32::MAX);
            }
        } else {
            let before = self.hook(PREROUTING, i32::MIN..i32::MAX);
            self.translate_service();
            self.packet.to = to;
            if before.is_stopped() {
                return before;
            }
            if !verdict.is_stopped() {
                verdict = self.hook(decides, i32::MIN..i32::MAX);
            }
        }
        if verdict.is_stopped() || self.packet.to.is_none() {
            return verdict;
        }
        self.packet.from = None;
        let after = self.hook(POSTROUTING, i32::MIN..i32::MAX);
        if after.is_stopped() { after } else { verdict }
    }

    fn translate_service(&mut self) {
        if let (Some((address, port)), false) = (self.packet.service, self.packet.is_dnat) {
            (self.packet.destination, self.packet.destination_port) = (address, port);
            self.packet.is_dnat = true;
        }
    }

    /// The base chains of one hook with these priorities, in their order.
    fn hook(&mut self, number: u32, priorities: std::ops::Range<i32>) -> Verdict {
        let table = self.table;
        let mut bases: Vec<_> = table
            .chains
            .iter()
            .filter_map(|(name, chain)| Some((chain.hook?, name)))
            .filter(|(hook, _)| hook.number == number && priorities.contains(&hook.priority))
            .collect();
        bases.sort_by_key(|(hook, _)| hook.priority);
        let mut last = Verdict::Undecided;
        for (hook, name) in bases {
            if hook.kind == NftChainType::Nat && self.packet.state != ConntrackState::New {
                continue;
            }
            last = self.chain(name, 0).unwrap_or(Verdict::Undecided);
            if last.is_stopped() {
                return last;
            }
        }
        last
    }

    /// `None`: goes on behind the jump that led here.
    fn chain(&mut self, name: &str, depth: usize) -> Option<Verdict> {
        let table = self.table;
        let Some(chain) = table.chains.get(name).filter(|_| depth <= MAX_DEPTH) else {
            return Some(Verdict::Drop);
        };
        for rule in &chain.rules {
            let decided = match self.rule(rule) {
                Ruled::Next => None,
                Ruled::Final(verdict) => Some(verdict),
                Ruled::Verdict(NftVerdict::Accept) => Some(Verdict::Accept),
                Ruled::Verdict(NftVerdict::Drop) => Some(Verdict::Drop),
                Ruled::Verdict(NftVerdict::Return) => return None,
                Ruled::Verdict(NftVerdict::Jump(to)) => self.chain(&to, depth + 1),
                Ruled::Verdict(NftVerdict::Goto(to)) => return self.chain(&to, depth + 1),
            };
            if decided.is_some() {
                return decided;
            }
        }
        None
    }

    fn rule(&mut self, rule: &NftRule) -> Ruled {
        for expression in &rule.expressions {
            let goes_on = match expression {
                Expression::Meta { .. }
                | Expression::Payload { .. }
                | Expression::Conntrack { .. }
                | Expression::Fib { .. } => self.load(expression),
                Expression::Verdict(verdict) => return Ruled::Verdict(verdict.clone()),
                Expression::VerdictMap { from, map } => {
                    let key = interface(self.read(*from, 16));
                    let map = self.table.maps.get(map).expect("the fake kernel refuses unknown maps");
                    match map.get(key.as_str()) {
                        Some(verdict) => return Ruled::Verdict(verdict.clone()),
                        None => true,
                    }
                }
                Expression::Reject(Reject::PortUnreachable) => {
                    return Ruled::Final(Verdict::Reject(RejectWith::PortUnreachable));
                }
                Expression::Reject(Reject::TcpReset) => {
                    return Ruled::Final(Verdict::Reject(RejectWith::TcpReset));
                }
                Expression::Masquerade { .. } => {
                    self.source_nat = Some(None);
                    return Ruled::Final(Verdict::Accept);
                }
                Expression::SourceNat { family, address, .. } => {
                    self.source_nat = Some(self.address(*address, *family));
                    return Ruled::Final(Verdict::Accept);
                }
                Expression::DestinationNat { family, address, .. } => {
                    self.packet.destination =
                        self.address(*address, *family).expect("a register holds an address");
                    self.packet.is_dnat = true;
                    return Ruled::Final(Verdict::Accept);
                }
                other => self.step(other, rule),
            };
            if !goes_on {
                break;
            }
        }
        Ruled::Next
    }

    /// Everything that loads a value; `false` ends the rule.
    fn load(&mut self, expression: &Expression) -> bool {
        let (value, to): (Vec<u8>, Word) = match expression {
            Expression::Meta { key, to } => (self.meta(*key), *to),
            Expression::Payload { header, offset, length, to } => {
                let bytes = match header {
                    Header::Network => self.network_header(),
                    Header::Transport => self.transport_header(),
                };
                let (from, length) = (usize::from(*offset), usize::from(*length));
                let Some(value) = bytes.get(from..from + length) else { return false };
                (value.to_vec(), *to)
            }
            Expression::Conntrack { key, to } => {
                let Some(value) = self.conntrack(*key) else { return false };
                (value.to_ne_bytes().to_vec(), *to)
            }
            Expression::Fib { fib, to } => (self.fib(*fib).to_ne_bytes().to_vec(), *to),
            _ => return true,
        };
        self.write(to, &value);
        true
    }

    /// Everything that compares or has an effect; `false` ends the rule.
    fn step(&mut self, expression: &Expression, rule: &NftRule) -> bool {
        match expression {
            Expression::SetMark { from } => self.packet.mark = self.number(*from),
            Expression::Bitwise { from, to, mask, xor } => {
                let value = self.read(*from, mask.as_bytes().len());
                let bits = value.iter().zip(mask.as_bytes()).zip(xor.as_bytes());
                let value: Vec<u8> = bits.map(|((value, mask), xor)| (value & mask) ^ xor).collect();
                self.write(*to, &value);
            }
            Expression::Compare { from, value, negated } => {
                return (self.read(*from, value.as_bytes().len()) == value.as_bytes()) != *negated;
            }
            Expression::Range { from, first, last, negated } => {
                let value = self.read(*from, first.as_bytes().len());
                return (*first..=*last).contains(&Data::new(&value)) != *negated;
            }
            Expression::Lookup { from, set, negated } => return self.holds(*from, set, rule) != *negated,
            Expression::Limit { .. } => return self.packet.within_limits,
            Expression::ConnectionsAbove(most) => return self.packet.connections > *most,
            Expression::Log { prefix } => self.logged.push((None, prefix.clone())),
            Expression::Nflog { group, prefix, .. } => self.logged.push((Some(*group), prefix.clone())),
            Expression::Immediate { to, value } => self.write(*to, value.as_bytes()),
            // Says nothing of where a packet goes.
            Expression::RouteMss { .. } | Expression::ToNetworkOrder { .. } | Expression::LowerMss { .. } => {
            }
            Expression::NoTrack => self.packet.state = ConntrackState::Untracked,
            Expression::WriteNetworkHeader { from, offset: 0, length: 2 } => {
                let value = self.read(*from, 2);
                let bits = u16::from_be_bytes([value[0], value[1]]);
                let shift = if self.packet.family() == Family::V4 { 2 } else { 6 };
                self.dscp = Some((bits >> shift) as u8 & 0x3f);
            }
            other => panic!("no rule of ours has {other:?}"),
        }
        true
    }

    fn at(word: Word) -> usize {
        usize::from(word.0) * 4
    }

    fn read(&self, from: Word, length: usize) -> Vec<u8> {
        self.registers[Self::at(from)..][..length].to_vec()
    }

    /// What is shorter than its words is filled up, as the kernel does.
    fn write(&mut self, to: Word, value: &[u8]) {
        let start = Self::at(to);
        self.registers[start..][..value.len().next_multiple_of(4)].fill(0);
        self.registers[start..][..value.len()].copy_from_slice(value);
    }

    fn number(&self, from: Word) -> u32 {
        u32::from_ne_bytes(self.registers[Self::at(from)..][..4].try_into().expect("four octets"))
    }

    fn address(&self, from: Word, family: Family) -> Option<IpAddr> {
        let bytes = self.read(from, usize::from(family.bits() / 8));
        match family {
            Family::V4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
            Family::V6 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        }
    }

    fn meta(&self, key: MetaKey) -> Vec<u8> {
        let name = |interface: &Option<Arc<str>>| {
            let mut name = interface.as_deref().unwrap_or_default().as_bytes().to_vec();
            name.resize(16, 0);
            name
        };
        match key {
            MetaKey::Mark => self.packet.mark.to_ne_bytes().to_vec(),
            MetaKey::InInterface => name(&self.packet.from),
            MetaKey::OutInterface => name(&self.packet.to),
            MetaKey::Protocol => vec![self.packet.protocol.0],
        }
    }

    fn network_header(&self) -> Vec<u8> {
        let packet = &self.packet;
        match (packet.source, packet.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut header = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, packet.protocol.0, 0, 0];
                header.extend(source.octets());
                header.extend(destination.octets());
                header
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut header = vec![0x60, 0, 0, 0, 0, 20, packet.protocol.0, 64];
                header.extend(source.octets());
                header.extend(destination.octets());
                header
            }
            _ => panic!("{packet:?} is of two families"),
        }
    }

    fn transport_header(&self) -> Vec<u8> {
        let packet = &self.packet;
        match packet.protocol {
            Protocol::ICMP | Protocol::ICMPV6 => vec![packet.icmp.0, packet.icmp.1, 0, 0, 0, 0, 0, 0],
            Protocol::TCP | Protocol::UDP | Protocol::SCTP | Protocol::UDPLITE => {
                let mut header = packet.source_port.to_be_bytes().to_vec();
                header.extend(packet.destination_port.to_be_bytes());
                header.resize(20, 0);
                const SYN: u8 = 2;
                const ACK: u8 = 16;
                header[13] = if packet.is_syn { SYN } else { ACK };
                header
            }
            // Octets of something that has no ports.
            _ => vec![0x45, 0, 0, 40],
        }
    }

    /// `None`: the packet is in no connection.
    fn conntrack(&self, key: ConntrackKey) -> Option<u32> {
        let packet = &self.packet;
        let bit = match packet.state {
            ConntrackState::New => state::NEW,
            ConntrackState::Established => state::ESTABLISHED,
            ConntrackState::Related => state::RELATED,
            ConntrackState::Invalid => state::INVALID,
            ConntrackState::Untracked => state::UNTRACKED,
            ConntrackState::Dnat | ConntrackState::Snat => panic!("no state of a packet: {packet:?}"),
        };
        match key {
            ConntrackKey::State => Some(bit),
            ConntrackKey::Status if bit & (state::INVALID | state::UNTRACKED) != 0 => None,
            ConntrackKey::Status => Some(if packet.is_dnat { state::DESTINATION_NAT } else { 0 }),
        }
    }

    fn fib(&self, fib: Fib) -> u32 {
        match fib {
            Fib::ReversePath => (!self.packet.reverse_path_fails).into(),
            Fib::AddressType { source, out_interface } => {
                let address = if source { self.packet.source } else { self.packet.destination };
                let interface = if out_interface { self.packet.to.as_deref() } else { None };
                // RTN_UNICAST.
                if (self.is_local)(address, interface) { Fib::LOCAL } else { 1 }
            }
        }
    }

    fn holds(&self, from: Word, set: &SetReference, rule: &NftRule) -> bool {
        match set {
            SetReference::Anonymous(index) => self.holds_anonymous(from, &rule.sets[*index]),
            SetReference::Named(name) => {
                let set = self.table.sets.get(name).expect("the fake kernel refuses unknown sets");
                let family = self.packet.family();
                let width = usize::from(family.bits() / 8);
                let address = self.address(from, family).expect("a register holds an address");
                match set.layout {
                    super::NftSetLayout::Ports(_) => {
                        let key = self.read(from, width + 8);
                        let port = u16::from_be_bytes([key[width + 4], key[width + 5]]);
                        set.members.contains(&IpSetMember::IpPort(address, Protocol(key[width]), port))
                    }
                    _ => holds_address(&set.members, address),
                }
            }
        }
    }

    fn holds_anonymous(&self, from: Word, set: &AnonymousSet) -> bool {
        let Some((first, _)) = set.ranges.first() else { return false };
        let value = Data::new(&self.read(from, first.as_bytes().len()));
        set.ranges.iter().any(|(first, last)| (*first..=*last).contains(&value))
    }
}

fn holds_address(members: &BTreeSet<IpSetMember>, address: IpAddr) -> bool {
    let nets = (0..=Family::of(address).bits()).filter_map(|length| Cidr::truncated(address, length));
    nets.rev().any(|net| members.contains(&IpSetMember::Net(net)))
}

fn interface(key: Vec<u8>) -> String {
    let name: Vec<u8> = key.into_iter().take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&name).into_owned()
}
