//! Which packets are told apart by rules: protocols, and ranges of ports between the numbers that rules name.

use std::collections::{BTreeMap, BTreeSet};

use model::{EntityRule, Family, IcmpMatch, PortMatch, PortRange, Protocol, Rule};

/// Packets that no rule tells apart, with one of them to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PacketClass {
    /// The first of the range stands for all.
    Ports(Protocol, PortRange),
    /// A type of ICMP and, where rules name codes, a code.
    Icmp(u8, u8),
    /// A protocol without ports.
    Other(Protocol),
}

/// Gathers what rules name.
#[derive(Debug, Default)]
pub(super) struct PortNames {
    /// Where a range begins, so that a new class does.
    starts: BTreeSet<u16>,
    icmp: BTreeSet<(u8, u8)>,
    protocols: BTreeSet<Protocol>,
}

const WITH_PORTS: [Protocol; 3] = [Protocol::TCP, Protocol::UDP, Protocol::SCTP];
/// Ranges at most; beyond, neighbouring ones are put together, and what differs inside one may be missed.
const MOST_RANGES: usize = 256;

impl PortNames {
    /// Takes what one rule names.
    pub(super) fn rule(&mut self, rule: &Rule) {
        self.protocols.extend([rule.protocol, rule.not_protocol].into_iter().flatten());
        for IcmpMatch { kind, code } in [rule.icmp, rule.not_icmp].into_iter().flatten() {
            self.icmp.insert((kind, code.unwrap_or(0)));
        }
        // Source ports are those of clients: one stands for all.
        let EntityRule { ports, not_ports, .. } = &rule.destination;
        for port in ports.iter().chain(not_ports) {
            if let PortMatch::Range(range) = port {
                self.range(*range);
            }
        }
    }

    /// Takes a port that something listens on by name.
    pub(super) fn port(&mut self, port: u16) {
        self.range(PortRange::single(port));
    }

    fn range(&mut self, range: PortRange) {
        self.starts.insert(range.first);
        self.starts.extend(range.last.checked_add(1));
    }

    /// Were there more ranges than are looked at?
    pub(super) fn is_cut(&self) -> bool {
        self.starts.len() > MOST_RANGES
    }

    /// Every class of one family.
    pub(super) fn classes(&self, family: Family) -> Vec<PacketClass> {
        let mut starts: Vec<u16> =
            [1].into_iter().chain(self.starts.iter().copied().filter(|s| *s > 1)).collect();
        starts.truncate(MOST_RANGES);
        let ends = starts.iter().skip(1).map(|next| next - 1).chain([u16::MAX]);
        let ranges: Vec<_> =
            starts.iter().zip(ends).map(|(first, last)| PortRange { first: *first, last }).collect();
        let mut classes: Vec<_> = WITH_PORTS
            .into_iter()
            .flat_map(|protocol| ranges.iter().map(move |range| PacketClass::Ports(protocol, *range)))
            .collect();
        let echo = if family == Family::V4 { (8, 0) } else { (128, 0) };
        let icmp: BTreeSet<_> = self.icmp.iter().copied().chain([echo]).collect();
        classes.extend(icmp.into_iter().map(|(kind, code)| PacketClass::Icmp(kind, code)));
        let known = [Protocol::TCP, Protocol::UDP, Protocol::SCTP, Protocol::ICMP, Protocol::ICMPV6];
        let others = self.protocols.iter().filter(|protocol| !known.contains(protocol));
        classes.extend(others.map(|protocol| PacketClass::Other(*protocol)));
        classes
    }
}

/// In words, neighbouring ranges joined: `TCP 80, 443-8080; UDP; ICMP 8/0`.
pub(super) fn words(classes: &BTreeSet<PacketClass>) -> String {
    let mut ranges: BTreeMap<Protocol, Vec<PortRange>> = BTreeMap::new();
    let mut others = Vec::new();
    for class in classes {
        match class {
            PacketClass::Ports(protocol, range) => {
                let joined = ranges.entry(*protocol).or_default();
                match joined.last_mut() {
                    Some(last) if last.last.checked_add(1) == Some(range.first) => last.last = range.last,
                    _ => joined.push(*range),
                }
            }
            PacketClass::Icmp(kind, code) => others.push(format!("ICMP {kind}/{code}")),
            PacketClass::Other(protocol) => others.push(format!("protocol {protocol}")),
        }
    }
    let range = |range: &PortRange| match (range.first, range.last) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    };
    let with_ports = ranges.iter().map(|(protocol, ranges)| match ranges.as_slice() {
        [PortRange { first: 1, last: u16::MAX }] => protocol.to_string(),
        ranges => format!("{protocol} {}", ranges.iter().map(range).collect::<Vec<_>>().join(", ")),
    });
    with_ports.chain(others).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use model::Action;

    use super::*;

    #[test]
    fn ports_between_the_named_ones_are_one_class() {
        let mut names = PortNames::default();
        let mut rule = Rule::any(Action::Allow);
        rule.destination.ports = vec!["80".parse().unwrap(), "443:65535".parse().unwrap()];
        names.rule(&rule);

        let tcp: Vec<_> = names
            .classes(Family::V4)
            .into_iter()
            .filter_map(|class| match class {
                PacketClass::Ports(Protocol::TCP, range) => Some((range.first, range.last)),
                _ => None,
            })
            .collect();

        assert_eq!(tcp, [(1, 79), (80, 80), (81, 442), (443, 65535)]);
    }

    #[test]
    fn classes_are_joined_for_people() {
        let range = |first, last| PacketClass::Ports(Protocol::TCP, PortRange { first, last });
        let all = |protocol| PacketClass::Ports(protocol, PortRange { first: 1, last: u16::MAX });
        let classes =
            [range(80, 80), range(81, 90), range(443, 443), all(Protocol::UDP), PacketClass::Icmp(8, 0)];

        assert_eq!(words(&classes.into_iter().collect()), "TCP 80-90, 443; UDP; ICMP 8/0");
    }
}
