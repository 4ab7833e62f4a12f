//! One policy rule as packet rules of one family (`spec/felix.md` §1.9).
//!
//! The matches of a packet rule are ANDed; what is ORed and does not fit into one match (lists of prefixes, more
//! ports than `multiport` takes) becomes blocks of rules that work on the scratch marks.

use felix_calc::{ActiveEntity, ActiveRule};
use kernel::{Match, PacketRule, PacketSide, RuleAction};
use model::{Action, Cidr, Direction, Family, IcmpMatch, PortRange, Protocol};

use crate::marks::{Marks, clear_mark, mark_clear, mark_set, set_mark};
use crate::names::{protocol, set_name};
use crate::policy_chains::RulePlace;
use crate::settings::Context;

/// Slots of one `multiport` match; a range takes two.
const MULTIPORT_SLOTS: usize = 15;

/// More are not shown: the kernel takes rules up to 64 KB, and each comment has room of its own there.
const MOST_ANNOTATIONS: usize = 16;

/// The rules of one policy rule; none when it can match no packet of this family.
pub(crate) fn render_rule(
    context: &Context<'_>,
    place: &RulePlace<'_>,
    rule: &ActiveRule,
) -> Vec<PacketRule> {
    let Some(of_family) = OfFamily::new(rule, context.family) else { return Vec::new() };
    let marks = context.marks();
    let mut matcher = Matcher::new(marks, context.is_nftables());
    matcher.rule(&of_family);
    let mut rules = matcher.blocks.rules;
    let mut condition = matcher.positive;
    condition.extend(matcher.negative);
    if matcher.blocks.count > 0 {
        condition.push(mark_set(marks.scratch0));
    }
    match rule.action {
        // Nothing comes behind what a pod receives. The rule is a quarter shorter, and so is what the kernel checks
        // whenever a rule changes.
        Action::Allow if place.direction == Direction::Ingress && context.accepts_ingress_at_once() => {
            rules.push(PacketRule::new(RuleAction::Accept).when_all(condition));
        }
        Action::Allow => rules.extend(decided(context, marks.accept, condition)),
        Action::Pass => rules.extend(decided(context, marks.pass, condition)),
        Action::Deny => rules.extend(context.denied((place.direction, &place.drop_reason()), condition)),
        Action::Log => {
            condition.extend(context.settings.log_limit.map(Match::Limit));
            let log = RuleAction::Log { prefix: place.log_prefix(context.settings) };
            rules.push(PacketRule::new(log).when_all(condition));
        }
    }
    for rendered in &mut rules {
        let annotations = rule.annotations.iter().take(MOST_ANNOTATIONS);
        rendered.comments.extend(annotations.map(|(key, value)| format!("{key}={value}").into()));
    }
    rules
}

/// Marks what is decided, and returns. With nftables one rule does both, which halves what the kernel walks over when
/// it checks a changed table, and what it tests a packet by.
fn decided(context: &Context<'_>, mark: u32, condition: Vec<Match>) -> Vec<PacketRule> {
    if context.is_nftables() {
        let both = RuleAction::SetMarkAndReturn { value: mark, mask: mark };
        return vec![PacketRule::new(both).when_all(condition)];
    }
    let returns = PacketRule::new(RuleAction::Return).when(mark_set(mark));
    vec![PacketRule::new(set_mark(mark)).when_all(condition), returns]
}

/// A rule in which only what concerns one family is left.
struct OfFamily<'a> {
    family: Family,
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

    fn nets(&self, nets: &[Cidr], negated: bool) -> Match {
        Match::Nets { side: self.side, nets: nets.into(), negated }
    }
}

/// Collects the matches of the final rule, and the blocks before it.
struct Matcher {
    /// Does one match take any number of prefixes and ports?
    takes_lists: bool,
    positive: Vec<Match>,
    negative: Vec<Match>,
    blocks: Blocks,
}

impl Matcher {
    fn new(marks: Marks, takes_lists: bool) -> Self {
        let blocks = Blocks { marks, rules: Vec::new(), count: 0 };
        Self { takes_lists, positive: Vec::new(), negative: Vec::new(), blocks }
    }

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
            let service = side.entity.service.as_ref();
            self.positive.extend(service.map(|id| side.set(id.as_str(), true, false)));
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

    /// Numeric ports, as many a match as it has room for.
    fn ports(&self, side: &Side<'_>, ranges: &[PortRange], negated: bool) -> Vec<Match> {
        let ports = |ranges: Vec<PortRange>| Match::Ports { side: side.side, ranges: ranges.into(), negated };
        let slots = if self.takes_lists { usize::MAX } else { MULTIPORT_SLOTS };
        multiports(ranges, slots).into_iter().map(ports).collect()
    }

    /// Makes a block of the alternatives of which one port must match; of none, every port does. A single one
    /// is for the final rule, which tests for the protocol itself.
    fn port_rows(&mut self, side: &Side<'_>, wanted: Option<Protocol>) -> Option<Match> {
        if !side.test_ports {
            return None;
        }
        let mut rows = self.ports(side, &side.entity.ports, false);
        rows.extend(side.entity.named_ports.iter().map(|id| side.set(id.as_str(), true, false)));
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
        match side.nets.as_slice() {
            [] => None,
            [net] => Some(side.net(*net, false)),
            nets if self.takes_lists => Some(side.nets(nets, false)),
            nets => {
                self.blocks.any_of(nets.iter().map(|net| vec![side.net(*net, false)]).collect());
                None
            }
        }
    }

    /// A rule of iptables has room for one prefix a side, negated or not.
    fn not_nets(&mut self, side: &Side<'_>) {
        match side.not_nets.as_slice() {
            [] => {}
            [net] if self.takes_lists || side.nets.len() != 1 => self.negative.push(side.net(*net, true)),
            nets if self.takes_lists => self.negative.push(side.nets(nets, true)),
            nets => nets.iter().for_each(|net| self.blocks.none_of(side.net(*net, false))),
        }
    }

    fn not_sets_and_ports(&mut self, side: &Side<'_>) {
        let entity = side.entity;
        self.negative.extend(entity.not_set.as_ref().map(|id| side.set(id.as_str(), false, true)));
        if side.test_ports {
            let ports = self.ports(side, &entity.not_ports, true);
            self.negative.extend(ports);
        }
        self.negative.extend(entity.not_named_ports.iter().map(|id| side.set(id.as_str(), true, true)));
    }
}

/// Rules that leave the mark `scratch0` set where every block passes.
struct Blocks {
    marks: Marks,
    rules: Vec<PacketRule>,
    count: usize,
}

impl Blocks {
    /// Passes where one of `rows` matches. All such blocks come before those of `none_of`.
    fn any_of(&mut self, rows: Vec<Vec<Match>>) {
        let Marks { scratch0, scratch1, .. } = self.marks;
        let passes = if self.count == 0 { scratch0 } else { scratch1 };
        match self.count {
            0 => self.rules.push(PacketRule::new(clear_mark(scratch0 | scratch1))),
            1 => {}
            _ => self.rules.push(PacketRule::new(clear_mark(scratch1))),
        }
        self.rules.extend(rows.into_iter().map(|row| PacketRule::new(set_mark(passes)).when_all(row)));
        if self.count > 0 {
            self.rules.push(PacketRule::new(clear_mark(scratch0)).when(mark_clear(scratch1)));
        }
        self.count += 1;
    }

    /// Passes where `row` does not match.
    fn none_of(&mut self, row: Match) {
        let Marks { scratch0, scratch1, .. } = self.marks;
        if self.count == 0 {
            let start = RuleAction::SetMark { value: scratch0, mask: scratch0 | scratch1 };
            self.rules.push(PacketRule::new(start));
        }
        self.rules.push(PacketRule::new(clear_mark(scratch0)).when(row));
        self.count += 1;
    }
}

/// Lists of ranges, each within the slots of one match.
fn multiports(ranges: &[PortRange], room: usize) -> Vec<Vec<PortRange>> {
    let mut lists: Vec<(usize, Vec<PortRange>)> = Vec::new();
    for range in ranges {
        let slots = if range.first == range.last { 1 } else { 2 };
        match lists.last_mut() {
            Some((used, list)) if used.saturating_add(slots) <= room => {
                *used += slots;
                list.push(*range);
            }
            _ => lists.push((slots, vec![*range])),
        }
    }
    lists.into_iter().map(|(_, list)| list).collect()
}
