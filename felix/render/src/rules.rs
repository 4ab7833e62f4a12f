//! One policy rule as iptables rules of one family (`spec/felix.md` §1.9).
//!
//! iptables ANDs the matches of a rule; what is ORed and does not fit into one match (lists of prefixes, more
//! ports than `multiport` takes) becomes blocks of rules that work on the scratch marks.

use felix_calc::{ActiveEntity, ActiveRule};
use kernel::Rule;
use model::{Action, Cidr, Family, IcmpMatch, PortRange, Protocol};

use crate::names::{ACCEPT, PASS, SCRATCH0, SCRATCH1, clear_mark, mark_clear, mark_set, set_mark, set_name};

/// Slots of one `multiport` match; a range takes two.
const MULTIPORT_SLOTS: usize = 15;

/// The rules of one policy rule; none when it can match no packet of this family.
pub(crate) fn render_rule(rule: &ActiveRule, family: Family) -> Vec<Rule> {
    let Some(rule) = OfFamily::new(rule, family) else { return Vec::new() };
    let mut matcher = Matcher::default();
    matcher.rule(&rule);
    let mut rules = matcher.blocks.rules;
    let mut condition = matcher.positive;
    condition.extend(matcher.negative);
    if matcher.blocks.count > 0 {
        condition.push(mark_set(SCRATCH0));
    }
    let condition = condition.join(" ");
    match rule.action {
        Action::Allow => rules.extend(verdict(&condition, ACCEPT)),
        Action::Pass => rules.extend(verdict(&condition, PASS)),
        Action::Deny => rules.push(Rule::new(&[], &condition, "--jump DROP")),
        Action::Log => rules.push(Rule::new(
            &[],
            &condition,
            "--jump LOG --log-prefix \"calico-packet: \" --log-level 5",
        )),
    }
    rules
}

fn verdict(condition: &str, mark: u32) -> [Rule; 2] {
    [Rule::new(&[], condition, &set_mark(mark)), Rule::new(&[], &mark_set(mark), "--jump RETURN")]
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

/// One side of a packet, and how iptables spells it.
struct Side<'a> {
    family: Family,
    spelling: &'static Spelling,
    entity: &'a ActiveEntity,
    nets: Vec<Cidr>,
    not_nets: Vec<Cidr>,
    /// False where the ports cannot be tested and the rule denies: it then denies all ports.
    test_ports: bool,
}

struct Spelling {
    net: &'static str,
    set: &'static str,
    port_set: &'static str,
    ports: &'static str,
}

const SOURCE: Spelling =
    Spelling { net: "--source", set: "src", port_set: "src,src", ports: "--source-ports" };
const DESTINATION: Spelling =
    Spelling { net: "--destination", set: "dst", port_set: "dst,dst", ports: "--destination-ports" };

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
            source: Side::new(&rule.source, &SOURCE, family, !untestable)?,
            destination: Side::new(&rule.destination, &DESTINATION, family, !untestable)?,
        })
    }
}

impl<'a> Side<'a> {
    /// `None` when no address of the family can match.
    fn new(
        entity: &'a ActiveEntity,
        spelling: &'static Spelling,
        family: Family,
        test_ports: bool,
    ) -> Option<Self> {
        let of_family = |nets: &[Cidr]| -> Vec<Cidr> {
            nets.iter().copied().filter(|net| net.family() == family).collect()
        };
        let (nets, not_nets) = (of_family(&entity.nets), of_family(&entity.not_nets));
        if (nets.is_empty() && !entity.nets.is_empty()) || not_nets.iter().any(|net| net.length() == 0) {
            return None;
        }
        Some(Self { family, spelling, entity, nets, not_nets, test_ports })
    }

    fn net(&self, net: Cidr) -> String {
        format!("{} {net}", self.spelling.net)
    }

    /// The alternatives of which one port must match; of none, every port does.
    fn port_rows(&self, protocol: Option<Protocol>) -> Vec<String> {
        if !self.test_ports {
            return Vec::new();
        }
        let protocol = protocol.map(protocol_match).unwrap_or_default();
        let numeric = multiports(&self.entity.ports);
        let numeric =
            numeric.into_iter().map(|p| format!("{protocol} -m multiport {} {p}", self.spelling.ports));
        let named =
            self.entity.named_ports.iter().map(|id| self.set_match(id.as_str(), self.spelling.port_set));
        numeric.chain(named).collect()
    }

    fn set_match(&self, id: &str, dimension: &str) -> String {
        format!("-m set --match-set {} {dimension}", set_name(self.family, id))
    }

    fn not_set_match(&self, id: &str, dimension: &str) -> String {
        format!("-m set ! --match-set {} {dimension}", set_name(self.family, id))
    }
}

/// Collects the matches of the final rule, and the blocks before it.
#[derive(Default)]
struct Matcher {
    positive: Vec<String>,
    negative: Vec<String>,
    blocks: Blocks,
}

impl Matcher {
    fn rule(&mut self, rule: &OfFamily<'_>) {
        self.positive.extend(rule.protocol.map(protocol_match));
        self.negative.extend(rule.not_protocol.map(|protocol| format!("! {}", protocol_match(protocol))));
        let sides = [&rule.source, &rule.destination];
        // Positive blocks come first: a negative one can only take away.
        let ports = sides.map(|side| self.port_rows(side, rule.protocol));
        let nets = sides.map(|side| self.net_rows(side));
        for side in sides {
            self.not_nets(side);
        }
        for (i, side) in sides.into_iter().enumerate() {
            self.positive.extend(nets[i].clone());
            self.positive
                .extend(side.entity.set.as_ref().map(|id| side.set_match(id.as_str(), side.spelling.set)));
            // The final rule names the protocol already.
            let protocol = rule.protocol.map(|p| protocol_match(p) + " ").unwrap_or_default();
            self.positive
                .extend(ports[i].as_ref().map(|row| row.strip_prefix(&protocol).unwrap_or(row).to_owned()));
        }
        let module = match rule.family {
            Family::V4 => ("icmp", "--icmp-type"),
            Family::V6 => ("icmp6", "--icmpv6-type"),
        };
        self.positive
            .extend(rule.icmp.map(|icmp| format!("-m {} {} {}", module.0, module.1, icmp_type(icmp))));
        for side in sides {
            self.not_sets_and_ports(side);
        }
        self.negative
            .extend(rule.not_icmp.map(|icmp| format!("-m {} ! {} {}", module.0, module.1, icmp_type(icmp))));
    }

    /// Makes a block of several rows; a single one is for the final rule.
    fn port_rows(&mut self, side: &Side<'_>, protocol: Option<Protocol>) -> Option<String> {
        let mut rows = side.port_rows(protocol);
        if rows.len() < 2 {
            return rows.pop();
        }
        self.blocks.any_of(&rows);
        None
    }

    fn net_rows(&mut self, side: &Side<'_>) -> Option<String> {
        if side.nets.len() < 2 {
            return side.nets.first().map(|net| side.net(*net));
        }
        self.blocks.any_of(&side.nets.iter().map(|net| side.net(*net)).collect::<Vec<_>>());
        None
    }

    /// A rule has room for one prefix a side, negated or not.
    fn not_nets(&mut self, side: &Side<'_>) {
        match side.not_nets.as_slice() {
            [net] if side.nets.len() != 1 => self.negative.push(format!("! {}", side.net(*net))),
            nets => nets.iter().for_each(|net| self.blocks.none_of(&side.net(*net))),
        }
    }

    fn not_sets_and_ports(&mut self, side: &Side<'_>) {
        let spelling = side.spelling;
        self.negative
            .extend(side.entity.not_set.as_ref().map(|id| side.not_set_match(id.as_str(), spelling.set)));
        if side.test_ports {
            let rows = multiports(&side.entity.not_ports);
            self.negative
                .extend(rows.into_iter().map(|row| format!("-m multiport ! {} {row}", spelling.ports)));
        }
        let named = side.entity.not_named_ports.iter();
        self.negative.extend(named.map(|id| side.not_set_match(id.as_str(), spelling.port_set)));
    }
}

/// Rules that leave SCRATCH0 set where every block passes.
#[derive(Default)]
struct Blocks {
    rules: Vec<Rule>,
    count: usize,
}

impl Blocks {
    /// Passes where one of `rows` matches. All such blocks come before those of `none_of`.
    fn any_of(&mut self, rows: &[String]) {
        let mut push = |matches: &str, action: &str| self.rules.push(Rule::new(&[], matches, action));
        if self.count == 0 {
            push("", &clear_mark(SCRATCH0 | SCRATCH1));
            rows.iter().for_each(|row| push(row, &set_mark(SCRATCH0)));
        } else {
            if self.count > 1 {
                push("", &clear_mark(SCRATCH1));
            }
            rows.iter().for_each(|row| push(row, &set_mark(SCRATCH1)));
            push(&mark_clear(SCRATCH1), &clear_mark(SCRATCH0));
        }
        self.count += 1;
    }

    /// Passes where `row` does not match.
    fn none_of(&mut self, row: &str) {
        if self.count == 0 {
            let start = format!("--jump MARK --set-mark {SCRATCH0:#x}/{:#x}", SCRATCH0 | SCRATCH1);
            self.rules.push(Rule::new(&[], "", &start));
        }
        self.rules.push(Rule::new(&[], row, &clear_mark(SCRATCH0)));
        self.count += 1;
    }
}

fn protocol_match(protocol: Protocol) -> String {
    match protocol {
        Protocol::TCP => "-p tcp".to_owned(),
        Protocol::UDP => "-p udp".to_owned(),
        Protocol::SCTP => "-p sctp".to_owned(),
        Protocol::UDPLITE => "-p udplite".to_owned(),
        Protocol::ICMP => "-p icmp".to_owned(),
        Protocol::ICMPV6 => "-p icmpv6".to_owned(),
        Protocol(number) => format!("-p {number}"),
    }
}

fn icmp_type(icmp: IcmpMatch) -> String {
    match icmp.code {
        Some(code) => format!("{}/{code}", icmp.kind),
        None => icmp.kind.to_string(),
    }
}

/// Comma-separated lists, each within the slots of one `multiport` match.
fn multiports(ranges: &[PortRange]) -> Vec<String> {
    let mut lists: Vec<(usize, String)> = Vec::new();
    for range in ranges {
        let (slots, text) = match range.first == range.last {
            true => (1, range.first.to_string()),
            false => (2, format!("{}:{}", range.first, range.last)),
        };
        match lists.last_mut() {
            Some((used, list)) if *used + slots <= MULTIPORT_SLOTS => {
                *used += slots;
                list.push(',');
                list.push_str(&text);
            }
            _ => lists.push((slots, text)),
        }
    }
    lists.into_iter().map(|(_, list)| list).collect()
}
