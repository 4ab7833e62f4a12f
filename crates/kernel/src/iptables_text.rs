//! How iptables spells a packet rule, in Calico's words (`spec/felix.md` §1.4). The only place that knows.

use std::fmt::{self, Write};

use model::{Family, PortRange, Protocol, RateUnit};

use crate::packet_rule::{
    ConntrackState, InterfaceMatch, Match, PacketRule, PacketSide, RejectWith, RuleAction,
};

/// Everything that stands behind the chain's name and our hash comment: comments, matches and action, with
/// single spaces between them; empty for a rule without any.
///
/// Characters of a comment or prefix that could break out of their quotes become `_`.
pub fn rule_text(rule: &PacketRule) -> String {
    let mut text = String::with_capacity(128);
    for comment in &rule.comments {
        push(&mut text, format_args!("-m comment --comment \"{}\"", Quoted(comment, MAX_COMMENT)));
    }
    for condition in &rule.matches {
        push(&mut text, format_args!("{}", Spelled(condition)));
    }
    if rule.action != RuleAction::None {
        push(&mut text, format_args!("{}", Spelled(&rule.action)));
    }
    text
}

/// Longest comment, in bytes.
const MAX_COMMENT: usize = 256;
/// Longest prefix that `LOG` takes, in bytes.
const MAX_LOG_PREFIX: usize = 29;
/// Longest prefix that `NFLOG` takes, in bytes.
const MAX_NFLOG_PREFIX: usize = 63;

fn push(text: &mut String, part: fmt::Arguments<'_>) {
    if !text.is_empty() {
        text.push(' ');
    }
    text.write_fmt(part).expect("a String takes everything");
}

/// Text that stands in quotes: safe characters only, cut at so many.
struct Quoted<'a>(&'a str, usize);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The bar parts our own prefixes; Calico's comments have none.
        let is_safe = |c: char| {
            c.is_ascii_alphanumeric() || "_ @%+=:,./-".contains(c) || (c == '|' && self.1 == MAX_NFLOG_PREFIX)
        };
        self.0.chars().take(self.1).try_for_each(|c| f.write_char(if is_safe(c) { c } else { '_' }))
    }
}

struct Spelled<'a, T>(&'a T);

/// `! ` where a match is negated.
fn not(negated: bool) -> &'static str {
    if negated { "! " } else { "" }
}

fn side(side: PacketSide) -> &'static str {
    match side {
        PacketSide::Source => "source",
        PacketSide::Destination => "destination",
    }
}

fn short_side(side: PacketSide) -> &'static str {
    match side {
        PacketSide::Source => "src",
        PacketSide::Destination => "dst",
    }
}

impl fmt::Display for Spelled<'_, Match> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Match::InInterface(interface) => write_interface(f, "in", interface),
            Match::OutInterface(interface) => write_interface(f, "out", interface),
            Match::Mark { value, mask, negated } => {
                write!(f, "-m mark {}--mark {}/{mask:#x}", not(*negated), Hex(*value))
            }
            Match::Protocol { protocol, negated } => write!(f, "{}-p {}", not(*negated), Name(*protocol)),
            Match::Net { side: of, net, negated } => write!(f, "{}--{} {net}", not(*negated), side(*of)),
            Match::Nets { side: of, nets, negated } => {
                write!(f, "{}--{} {}", not(*negated), side(*of), Joined(nets))
            }
            Match::Set { name, side, with_port, negated } => {
                let side = short_side(*side);
                write!(f, "-m set {}--match-set {name} {side}", not(*negated))?;
                if *with_port { write!(f, ",{side}") } else { Ok(()) }
            }
            Match::Ports { side: of, ranges, negated } => {
                let ranges: Vec<_> = ranges.iter().map(|range| Range(*range, ':')).collect();
                write!(f, "-m multiport {}--{}-ports {}", not(*negated), side(*of), Joined(&ranges))
            }
            Match::Port { side, port } => write!(f, "--{}port {port}", &short_side(*side)[..1]),
            Match::Icmp { family, kind, code, negated } => {
                let (module, option) = match family {
                    Family::V4 => ("icmp", "icmp-type"),
                    Family::V6 => ("icmp6", "icmpv6-type"),
                };
                write!(f, "-m {module} {}--{option} {kind}", not(*negated))?;
                code.iter().try_for_each(|code| write!(f, "/{code}"))
            }
            Match::Conntrack { states, negated } => {
                let states: Vec<_> = states.iter().map(|state| state_name(*state)).collect();
                write!(f, "-m conntrack {}--ctstate {}", not(*negated), Joined(&states))
            }
            Match::ReversePathFails => f.write_str("-m rpfilter --invert --validmark"),
            Match::LocalAddress { side, negated, of_out_interface } => {
                let limit = if *of_out_interface { " --limit-iface-out" } else { "" };
                write!(f, "-m addrtype {}--{}-type LOCAL{limit}", not(*negated), short_side(*side))
            }
            Match::Limit(limit) => {
                write!(
                    f,
                    "-m limit --limit {}/{} --limit-burst {}",
                    limit.count,
                    unit(limit.unit),
                    limit.burst
                )
            }
            Match::TcpOpening => f.write_str("-m tcp --tcp-flags SYN,RST SYN"),
            Match::TcpSyn => f.write_str("-m tcp --tcp-flags FIN,SYN,RST,ACK SYN"),
            Match::ConnectionsAbove(count) => {
                write!(f, "-m connlimit --connlimit-above {count} --connlimit-mask 0")
            }
        }
    }
}

impl fmt::Display for Spelled<'_, RuleAction> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let random = |random_fully: bool| if random_fully { " --random-fully" } else { "" };
        match self.0 {
            RuleAction::None => Ok(()),
            RuleAction::Jump(chain) => write!(f, "--jump {chain}"),
            RuleAction::Goto(chain) => write!(f, "--goto {chain}"),
            RuleAction::Accept => f.write_str("--jump ACCEPT"),
            RuleAction::Drop | RuleAction::InterfaceMap { .. } | RuleAction::SetMarkAndReturn { .. } => {
                f.write_str("--jump DROP")
            }
            RuleAction::Reject(RejectWith::PortUnreachable) => f.write_str("--jump REJECT"),
            RuleAction::Reject(RejectWith::TcpReset) => f.write_str("--jump REJECT --reject-with tcp-reset"),
            RuleAction::Return => f.write_str("--jump RETURN"),
            RuleAction::SetMark { value, mask } => {
                write!(f, "--jump MARK --set-mark {}/{mask:#x}", Hex(*value))
            }
            RuleAction::NoTrack => f.write_str("--jump NOTRACK"),
            RuleAction::Log { prefix } => {
                write!(f, "--jump LOG --log-prefix \"{}\" --log-level 5", Quoted(prefix, MAX_LOG_PREFIX))
            }
            RuleAction::Nflog { group, prefix, size } => {
                let prefix = Quoted(prefix, MAX_NFLOG_PREFIX);
                write!(
                    f,
                    "--jump NFLOG --nflog-group {group} --nflog-prefix \"{prefix}\" --nflog-size {size}"
                )
            }
            RuleAction::Dnat(address) => write!(f, "--jump DNAT --to-destination {address}"),
            RuleAction::Snat { address, ports, random_fully } => {
                write!(f, "--jump SNAT --to-source ")?;
                match ports {
                    None => write!(f, "{address}")?,
                    Some(ports) if address.is_ipv6() => write!(f, "[{address}]:{}", Range(*ports, '-'))?,
                    Some(ports) => write!(f, "{address}:{}", Range(*ports, '-'))?,
                }
                f.write_str(random(*random_fully))
            }
            RuleAction::Masquerade { ports, random_fully } => {
                f.write_str("--jump MASQUERADE")?;
                ports.iter().try_for_each(|ports| write!(f, " --to-ports {}", Range(*ports, '-')))?;
                f.write_str(random(*random_fully))
            }
            RuleAction::ClampMss => f.write_str("--jump TCPMSS --clamp-mss-to-pmtu"),
            RuleAction::SetDscp(value) => write!(f, "--jump DSCP --set-dscp {value}"),
        }
    }
}

fn write_interface(f: &mut fmt::Formatter<'_>, way: &str, interface: &InterfaceMatch) -> fmt::Result {
    let any = if interface.prefix { "+" } else { "" };
    write!(f, "{}--{way}-interface {}{any}", not(interface.negated), interface.name)
}

fn state_name(state: ConntrackState) -> &'static str {
    match state {
        ConntrackState::New => "NEW",
        ConntrackState::Established => "ESTABLISHED",
        ConntrackState::Related => "RELATED",
        ConntrackState::Invalid => "INVALID",
        ConntrackState::Untracked => "UNTRACKED",
        ConntrackState::Dnat => "DNAT",
        ConntrackState::Snat => "SNAT",
    }
}

fn unit(unit: RateUnit) -> &'static str {
    match unit {
        RateUnit::Second => "sec",
        RateUnit::Minute => "minute",
        RateUnit::Hour => "hour",
        RateUnit::Day => "day",
    }
}

/// A mark's value; 0 has no `0x` in Calico's spelling.
struct Hex(u32);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 { f.write_str("0") } else { write!(f, "{:#x}", self.0) }
    }
}

/// A protocol as `-p` takes it.
struct Name(Protocol);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Protocol::TCP => f.write_str("tcp"),
            Protocol::UDP => f.write_str("udp"),
            Protocol::SCTP => f.write_str("sctp"),
            Protocol::UDPLITE => f.write_str("udplite"),
            Protocol::ICMP => f.write_str("icmp"),
            Protocol::ICMPV6 => f.write_str("icmpv6"),
            Protocol(number) => write!(f, "{number}"),
        }
    }
}

/// A range of ports, or the one port of it.
struct Range(PortRange, char);

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.first)?;
        if self.0.first == self.0.last { Ok(()) } else { write!(f, "{}{}", self.1, self.0.last) }
    }
}

struct Joined<'a, T>(&'a [T]);

impl<T: fmt::Display> fmt::Display for Joined<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, item) in self.0.iter().enumerate() {
            write!(f, "{}{item}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipset::IpSetName;
    use crate::iptables::ChainName;
    use model::RateLimit;

    fn set(id: &str, side: PacketSide, negated: bool) -> Match {
        Match::Set { name: IpSetName::new(Family::V4, id), side, with_port: false, negated }
    }

    #[test]
    fn a_comment_cannot_leave_its_quotes() {
        let tcp = Match::Protocol { protocol: Protocol::TCP, negated: false };
        let rule = PacketRule::new(RuleAction::Drop).comment("a\" --jump ACCEPT\n-A X").when(tcp);

        let expected = "-m comment --comment \"a_ --jump ACCEPT_-A X\" -p tcp --jump DROP";
        assert_eq!(rule_text(&rule), expected);
    }

    #[test]
    fn references_are_found() {
        let rule = PacketRule::new(RuleAction::Goto(ChainName::fixed("cali-fw-x")))
            .when(set("s:a", PacketSide::Source, false))
            .when(set("s:b", PacketSide::Destination, true));

        assert_eq!(rule.targets().map(ChainName::as_str).collect::<Vec<_>>(), ["cali-fw-x"]);
        assert_eq!(rule.sets().map(IpSetName::as_str).collect::<Vec<_>>(), ["cali40s:a", "cali40s:b"]);
        assert_eq!(PacketRule::new(RuleAction::Drop).targets().count(), 0);
        assert_eq!(
            rule_text(&rule),
            "-m set --match-set cali40s:a src -m set ! --match-set cali40s:b dst --goto cali-fw-x"
        );
    }

    #[test]
    fn matches_are_spelled_as_calico_does() {
        use PacketSide::{Destination, Source};
        let range = |first, last| PortRange { first, last };
        let expected = [
            (Match::OutInterface(InterfaceMatch::prefixed("cali")), "--out-interface cali+"),
            (Match::Mark { value: 0, mask: 0x20000, negated: true }, "-m mark ! --mark 0/0x20000"),
            (
                Match::Ports {
                    side: Destination,
                    ranges: [range(80, 80), range(1, 9)].into(),
                    negated: true,
                },
                "-m multiport ! --destination-ports 80,1:9",
            ),
            (Match::Port { side: Destination, port: 4789 }, "--dport 4789"),
            (
                Match::Icmp { family: Family::V6, kind: 128, code: Some(0), negated: true },
                "-m icmp6 ! --icmpv6-type 128/0",
            ),
            (
                Match::LocalAddress { side: Source, negated: true, of_out_interface: true },
                "-m addrtype ! --src-type LOCAL --limit-iface-out",
            ),
            (
                Match::Limit(RateLimit { count: 10, unit: RateUnit::Second, burst: 5 }),
                "-m limit --limit 10/sec --limit-burst 5",
            ),
            (
                Match::Net { side: Source, net: "fd00::/8".parse().unwrap(), negated: true },
                "! --source fd00::/8",
            ),
        ];

        for (condition, text) in expected {
            assert_eq!(rule_text(&PacketRule::new(RuleAction::None).when(condition)), text);
        }
    }

    #[test]
    fn actions_are_spelled_as_calico_does() {
        let ports = Some(PortRange { first: 4790, last: 65535 });
        let expected = [
            (
                RuleAction::Nflog { group: 7, prefix: "D|i|np/x/y|0".into(), size: 80 },
                "--jump NFLOG --nflog-group 7 --nflog-prefix \"D|i|np/x/y|0\" --nflog-size 80",
            ),
            (
                RuleAction::Masquerade { ports, random_fully: true },
                "--jump MASQUERADE --to-ports 4790-65535 --random-fully",
            ),
            (
                RuleAction::Snat { address: "192.0.2.7".parse().unwrap(), ports, random_fully: false },
                "--jump SNAT --to-source 192.0.2.7:4790-65535",
            ),
            (
                RuleAction::Log { prefix: "calico-packet: ".into() },
                "--jump LOG --log-prefix \"calico-packet: \" --log-level 5",
            ),
            (RuleAction::Reject(RejectWith::TcpReset), "--jump REJECT --reject-with tcp-reset"),
        ];

        for (action, text) in expected {
            assert_eq!(rule_text(&PacketRule::new(action)), text);
        }
    }
}
