//! Every match and action as iptables' words, taken by the real iptables with both backends, as root.
//!
//! A rule that is misspelled would close its chain. What a kernel lacks a module for it says so itself.

#![allow(clippy::unwrap_used, reason = "clippy exempts only the test functions themselves")]

mod common;

use std::time::Instant;

use common::in_new_netns;
use kernel::{
    Chain, ChainName, ConntrackState, DROP_GROUP, InterfaceMatch, Iptables, IptablesTable, Match, PacketRule,
    PacketSide, RejectWith, RuleAction,
};
use kernel_linux::{Backend, IptablesTools};
use model::{ChainInsertMode, Family, PortRange, Protocol, RateLimit, RateUnit};

use PacketSide::{Destination, Source};

/// What iptables says when it knows a match and the kernel does not.
const LACKING: [&str; 3] =
    ["No chain/target/match by that name", "missing kernel module", "RULE_APPEND failed"];

fn protocol(protocol: Protocol, negated: bool) -> Match {
    Match::Protocol { protocol, negated }
}

fn matches(family: Family) -> Vec<Vec<Match>> {
    let tcp = || protocol(Protocol::TCP, false);
    let (net, icmp) = match family {
        Family::V4 => ("192.0.2.0/24".parse().unwrap(), Protocol::ICMP),
        Family::V6 => ("2001:db8::/32".parse().unwrap(), Protocol::ICMPV6),
    };
    let ranges = [PortRange { first: 1, last: 9 }, PortRange::single(80)];
    let local = |side, negated, of_out_interface| Match::LocalAddress { side, negated, of_out_interface };
    let mut all = vec![vec![tcp()], vec![protocol(Protocol(253), true)]];
    for negated in [false, true] {
        all.extend([
            vec![Match::InInterface(InterfaceMatch { negated, ..InterfaceMatch::prefixed("cali") })],
            vec![Match::Mark { value: 0, mask: 0x20000, negated }],
            vec![Match::Mark { value: 0x20000, mask: 0x20000, negated }],
            vec![Match::Net { side: Source, net, negated }, Match::Net { side: Destination, net, negated }],
            vec![tcp(), Match::Ports { side: Source, ranges: ranges.into(), negated }],
            vec![tcp(), Match::Ports { side: Destination, ranges: ranges.into(), negated }],
            vec![protocol(icmp, false), Match::Icmp { family, kind: 8, code: Some(1), negated }],
            vec![protocol(icmp, false), Match::Icmp { family, kind: 8, code: None, negated }],
            vec![Match::Conntrack { states: &[ConntrackState::Dnat], negated }],
            vec![local(Source, negated, false), local(Destination, negated, false)],
        ]);
    }
    let states = &[
        ConntrackState::New,
        ConntrackState::Established,
        ConntrackState::Related,
        ConntrackState::Invalid,
        ConntrackState::Untracked,
    ];
    all.extend([
        vec![Match::Conntrack { states, negated: false }],
        vec![protocol(Protocol::UDP, false), Match::Port { side: Destination, port: 4789 }],
        vec![tcp(), Match::TcpSyn, Match::ConnectionsAbove(5)],
        vec![Match::Limit(RateLimit { count: 10, unit: RateUnit::Minute, burst: 7 })],
    ]);
    all
}

/// Each with a table that takes it.
fn actions(family: Family) -> Vec<(IptablesTable, Vec<Match>, RuleAction)> {
    use IptablesTable::{Filter, Mangle, Nat, Raw};
    let address = match family {
        Family::V4 => "192.0.2.7".parse().unwrap(),
        Family::V6 => "2001:db8::7".parse().unwrap(),
    };
    let tcp = || vec![protocol(Protocol::TCP, false)];
    let ports = Some(PortRange { first: 32_768, last: 65_535 });
    let prefix = "D|e|gnp/a-policy.with-a-name/of-the-longest~_0123456789ab|12345";
    assert_eq!(prefix.len(), 63);
    vec![
        (Filter, vec![], RuleAction::Accept),
        (Filter, vec![], RuleAction::Drop),
        (Filter, vec![], RuleAction::Return),
        (Filter, vec![], RuleAction::Reject(RejectWith::PortUnreachable)),
        (Filter, tcp(), RuleAction::Reject(RejectWith::TcpReset)),
        (Filter, vec![], RuleAction::SetMark { value: 0x80000, mask: 0x18_0000 }),
        (Filter, vec![], RuleAction::Log { prefix: "calico-packet: ".into() }),
        (Raw, vec![], RuleAction::Nflog { group: DROP_GROUP, prefix: prefix.into(), size: 80 }),
        (Raw, vec![], RuleAction::NoTrack),
        (Mangle, vec![], RuleAction::SetDscp(20)),
        (Mangle, vec![protocol(Protocol::TCP, false), Match::TcpOpening], RuleAction::ClampMss),
        (Nat, tcp(), RuleAction::Masquerade { ports, random_fully: true }),
        (Nat, vec![], RuleAction::Masquerade { ports: None, random_fully: true }),
        (Nat, tcp(), RuleAction::Snat { address, ports, random_fully: true }),
        (Nat, vec![], RuleAction::Snat { address, ports: None, random_fully: false }),
    ]
}

/// Writes one rule; `false` when the kernel lacks what it needs.
fn is_taken(tables: &mut Iptables<IptablesTools>, table: IptablesTable, rule: PacketRule) -> bool {
    let name = ChainName::fixed("cali-rule");
    let text = kernel::rule_text(&rule);
    tables.set_chain(table, name.clone(), Some(Chain { name: name.clone(), rules: [rule].into() }));
    let applied = tables.apply(Instant::now()).expect("the tables can be read");
    let errors: Vec<String> = applied.failed.iter().map(|refused| refused.error.to_string()).collect();
    let is_lacking = errors.iter().any(|error| LACKING.iter().any(|lacking| error.contains(lacking)));
    assert!(errors.is_empty() || is_lacking, "{text}: {errors:?}");
    if errors.is_empty() {
        assert_eq!(
            tables.resync().expect("the tables can be read"),
            0,
            "{text} reads back as something else"
        );
    }
    tables.set_chain(table, name, None);
    tables.apply(Instant::now()).expect("the tables can be read");
    errors.is_empty()
}

#[test]
fn every_match_and_action_is_taken() {
    for (backend, family) in [
        (Backend::Legacy, Family::V4),
        (Backend::Legacy, Family::V6),
        (Backend::Nft, Family::V4),
        (Backend::Nft, Family::V6),
    ] {
        in_new_netns(|| {
            let Ok(tools) = IptablesTools::new(backend, family) else { return };
            let mut tables = Iptables::new(tools, ChainInsertMode::Insert);
            let mut taken = 0;
            let mut lacking = Vec::new();
            let mut try_rule = |table, rule: PacketRule| {
                let text = kernel::rule_text(&rule);
                if is_taken(&mut tables, table, rule) { taken += 1 } else { lacking.push(text) }
            };
            for conditions in matches(family) {
                let rule = PacketRule::new(RuleAction::Return).comment("a comment").when_all(conditions);
                try_rule(IptablesTable::Filter, rule);
            }
            try_rule(IptablesTable::Raw, PacketRule::new(RuleAction::Drop).when(Match::ReversePathFails));
            for (table, conditions, action) in actions(family) {
                try_rule(table, PacketRule::new(action).when_all(conditions));
            }
            eprintln!("{backend} {family:?}: {taken} taken, lacking {lacking:#?}");
            assert!(taken > 25, "the kernel lacks {lacking:#?}");
        });
    }
}
