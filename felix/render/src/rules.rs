//! One policy rule as packet rules of one family (`spec/felix.md` §1.9).
//!
//! The matches of a packet rule are ANDed; what is ORed and does not fit into one match (lists of prefixes, more
//! ports than `multiport` takes) becomes blocks of rules that work on the scratch marks.

use felix_calc::{ActiveEntity, ActiveRule};
use kernel::{Match, PacketRule, PacketSide, RuleAction};
use model::{Action, Cidr, Family, IcmpMatch, PortRange, Protocol};

use crate::names::{
    ACCEPT, PASS, SCRATCH0, SCRATCH1, clear_mark, mark_clear, mark_set, protocol, set_mark, set_name,
};

/// Slots of one `multiport` match; a range takes two.
const MULTIPORT_SLOTS: usize = 15;

/// The rules of one policy rule; none when it can match no packet of this family.
pub(crate) fn render_rule(rule: &ActiveRule, family: Family) -> Vec<PacketRule> {
    let Some(rule) = OfFamily::new(rule, family) else { return Vec::new() };
    let mut matcher = Matcher::default();
    matcher.rule(&rule);
    let mut rules = matcher.blocks.rules;
    let mut condition = matcher.positive;
    condition.extend(matcher.negative);
    if matcher.blocks.count > 0 {
        condition.push(mark_set(SCRATCH0));
    }
    let when = |action: RuleAction| PacketRule::new(action).when_all(condition);
    match rule.action {
        Action::Allow => rules.extend([when(set_mark(ACCEPT)), returns(ACCEPT)]),
        Action::Pass => rules.extend([when(set_mark(PASS)), returns(PASS)]),
        Action::Deny => rules.push(when(RuleAction::Drop)),
        Action::Log => rules.push(when(RuleAction::Log { prefix: "calico-packet: ".into() })),
    }
    rules
}

fn returns(mark: u32) -> PacketRule {
    PacketRule::new(RuleAction::Return).when(mark_set(mark))
}

/// A rule in which only what concerns one family is left.
struct OfFamily<'a> {
    family: Family,
    action: Action,
    protocol: Option<Protocol>,
    not_protocol: Option<Protocol>,
    icmp: Option<IcmpMatch>,
    not_icmp: Option<IcmpMatch>,
    source: Side<'a>,
    destination: Side<'a>,
}

/// One side of a packet.
struct Side<'a> {
    family: Family,
    side: PacketSide,
    entity: &'a ActiveEntity,
    nets: Vec<Cidr>,
    not_nets: Vec<Cidr>,
    /// False where the ports cannot be tested and the rule denies: it then denies all ports.
    test_ports: bool,
}

impl<'a> OfFamily<'a> {
    fn new(rule: &'a ActiveRule, family: Family) -> Option<Self> {
        let icmp = match family {
            Family::V4 => Protocol::ICMP,
            Family::V6 => Protocol::ICMPV6,
        };
        let asks_for_icmp = rule.icmp.is_some() || rule.not_icmp.is_some();
        let protocol = rule.protocol.or(asks_for_icmp.then_some(icmp));
        let is_icmp = |p| p == Protocol::ICMP || p == Protocol::ICMPV6;
        if rule.family.is_some_and(|only| only != family) || protocol.is_some_and(|p| is_icmp(p) && p != icmp)
        {
            return None;
        }
        if asks_for_icmp && protocol != Some(icmp) {
            return None;
        }
        let has_ports = protocol.is_some_and(|p| p.has_ports() || p == Protocol::UDPLITE);
        let numeric = |entity: &ActiveEntity| !(entity.ports.is_empty() && entity.not_ports.is_empty());
        let untestable = !has_ports && (numeric(&rule.source) || numeric(&rule.destination));
        if untestable && rule.action != Action::Deny {
            return None;
        }
        Some(Self {
            family,
            action: rule.action,
            protocol,
            not_protocol: rule.not_protocol,
            icmp: rule.icmp,
            not_icmp: rule.not_icmp,
            source: Side::new(&rule.source, PacketSide::Source, family, !untestable)?,
            destination: Side::new(&rule.destination, PacketSide::Destination, family, !untestable)?,
        })
    }
}

impl<'a> Side<'a> {
    /// `None` when no address of the family can match.
    fn new(entity: &'a ActiveEntity, side: PacketSide, family: Family, test_ports: bool) -> Option<Self> {
        let of_family = |nets: &[Cidr]| -> Vec<Cidr> {
            nets.iter().copied().filter(|net| net.family() == family).collect()
        };
        let (nets, not_nets) = (of_family(&entity.nets), of_family(&entity.not_nets));
        if (nets.is_empty() && !entity.nets.is_empty()) || not_nets.iter().any(|net| net.length() == 0) {
            return None;
        }
        Some(Self { family, side, entity, nets, not_nets, test_ports })
    }

    fn net(&self, net: Cidr, negated: bool) -> Match {
        Match::Net { side: self.side, net, negated }
    }

    fn set(&self, id: &str, with_port: bool, negated: bool) -> Match {
        Match::Set { name: set_name(self.family, id), side: self.side, with_port, negated }
    }

    /// Numeric ports, as many a match as it has room for.
    fn ports(&self, ranges: &[PortRange], negated: bool) -> Vec<Match> {
        let ports = |ranges: Vec<PortRange>| Match::Ports { side: self.side, ranges: ranges.into(), negated };
        multiports(ranges).into_iter().map(ports).collect()
    }

    /// The alternatives of which one port must match; of none, every port does.
    fn port_rows(&self) -> Vec<Match> {
        if !self.test_ports {
            return Vec::new();
        }
        let named = self.entity.named_ports.iter().map(|id| self.set(id.as_str(), true, false));
        self.ports(&self.entity.ports, false).into_iter().chain(named).collect()
    }
}

/// Collects the matches of the final rule, and the blocks before it.
#[derive(Default)]
struct Matcher {
    positive: Vec<Match>,
    negative: Vec<Match>,
    blocks: Blocks,
}

impl Matcher {
    fn rule(&mut self, rule: &OfFamily<'_>) {
        self.positive.extend(rule.protocol.map(protocol));
        self.negative.extend(rule.not_protocol.map(|protocol| Match::Protocol { protocol, negated: true }));
        let sides = [&rule.source, &rule.destination];
        // Positive blocks come first: a negative one can only take away.
        let ports = sides.map(|side| self.port_rows(side, rule.protocol));
        let nets = sides.map(|side| self.net_rows(side));
        for side in sides {
            self.not_nets(side);
        }
        for ((side, ports), nets) in sides.into_iter().zip(ports).zip(nets) {
            self.positive.extend(nets);
            self.positive.extend(side.entity.set.as_ref().map(|id| side.set(id.as_str(), false, false)));
            self.positive.extend(ports);
        }
        let icmp = |icmp: IcmpMatch, negated| Match::Icmp {
            family: rule.family,
            kind: icmp.kind,
            code: icmp.code,
            negated,
        };
        self.positive.extend(rule.icmp.map(|wanted| icmp(wanted, false)));
        for side in sides {
            self.not_sets_and_ports(side);
        }
        self.negative.extend(rule.not_icmp.map(|unwanted| icmp(unwanted, true)));
    }

    /// Makes a block of several rows; a single one is for the final rule, which tests for the protocol itself.
    fn port_rows(&mut self, side: &Side<'_>, wanted: Option<Protocol>) -> Option<Match> {
        let mut rows = side.port_rows();
        if rows.len() < 2 {
            return rows.pop();
        }
        let with_protocol = |row: Match| match row {
            Match::Ports { .. } => wanted.map(protocol).into_iter().chain([row]).collect(),
            _ => vec![row],
        };
        self.blocks.any_of(rows.into_iter().map(with_protocol).collect());
        None
    }

    fn net_rows(&mut self, side: &Side<'_>) -> Option<Match> {
        if side.nets.len() < 2 {
            return side.nets.first().map(|net| side.net(*net, false));
        }
        self.blocks.any_of(side.nets.iter().map(|net| vec![side.net(*net, false)]).collect());
        None
    }

    /// A rule has room for one prefix a side, negated or not.
    fn not_nets(&mut self, side: &Side<'_>) {
        match side.not_nets.as_slice() {
            [net] if side.nets.len() != 1 => self.negative.push(side.net(*net, true)),
            nets => nets.iter().for_each(|net| self.blocks.none_of(side.net(*net, false))),
        }
    }

    fn not_sets_and_ports(&mut self, side: &Side<'_>) {
        let entity = side.entity;
        self.negative.extend(entity.not_set.as_ref().map(|id| side.set(id.as_str(), false, true)));
        if side.test_ports {
            self.negative.extend(side.ports(&entity.not_ports, true));
        }
        self.negative.extend(entity.not_named_ports.iter().map(|id| side.set(id.as_str(), true, true)));
    }
}

/// Rules that leave SCRATCH0 set where every block passes.
#[derive(Default)]
struct Blocks {
    rules: Vec<PacketRule>,
    count: usize,
}

impl Blocks {
    /// Passes where one of `rows` matches. All such blocks come before those of `none_of`.
    fn any_of(&mut self, rows: Vec<Vec<Match>>) {
        let passes = if self.count == 0 { SCRATCH0 } else { SCRATCH1 };
        match self.count {
            0 => self.rules.push(PacketRule::new(clear_mark(SCRATCH0 | SCRATCH1))),
            1 => {}
            _ => self.rules.push(PacketRule::new(clear_mark(SCRATCH1))),
        }
        self.rules.extend(rows.into_iter().map(|row| PacketRule::new(set_mark(passes)).when_all(row)));
        if self.count > 0 {
            self.rules.push(PacketRule::new(clear_mark(SCRATCH0)).when(mark_clear(SCRATCH1)));
        }
        self.count += 1;
    }

    /// Passes where `row` does not match.
    fn none_of(&mut self, row: Match) {
        if self.count == 0 {
            let start = RuleAction::SetMark { value: SCRATCH0, mask: SCRATCH0 | SCRATCH1 };
            self.rules.push(PacketRule::new(start));
        }
        self.rules.push(PacketRule::new(clear_mark(SCRATCH0)).when(row));
        self.count += 1;
    }
}

/// Lists of ranges, each within the slots of one `multiport` match.
fn multiports(ranges: &[PortRange]) -> Vec<Vec<PortRange>> {
    let mut lists: Vec<(usize, Vec<PortRange>)> = Vec::new();
    for range in ranges {
        let slots = if range.first == range.last { 1 } else { 2 };
        match lists.last_mut() {
            Some((used, list)) if *used + slots <= MULTIPORT_SLOTS => {
                *used += slots;
                list.push(*range);
            }
            _ => lists.push((slots, vec![*range])),
        }
    }
    lists.into_iter().map(|(_, list)| list).collect()
}
