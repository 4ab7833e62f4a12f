//! nf_tables against the real kernel, as root; `nft` is the witness.

mod common;

use std::sync::Arc;
use std::time::Instant;

use common::{attempt, in_new_netns, run};
use kernel::nft::*;
use kernel::{IpSet, IpSetKind, IpSetMember, RuleEvent};
use kernel_linux::{NftablesDriver, RuleEvents};
use model::{Family, Protocol};

const W: Word = Word::FIRST;

fn name(text: &str) -> Arc<str> {
    text.into()
}

fn rule(expressions: Vec<Expression>) -> NftRule {
    NftRule { expressions, ..NftRule::default() }
}

fn verdict(verdict: NftVerdict) -> NftRule {
    rule(vec![Expression::Verdict(verdict)])
}

fn chain(rules: Vec<NftRule>) -> NftChain {
    NftChain { hook: None, rules: rules.into(), decides: true }
}

fn base(kind: NftChainType, number: u32, priority: i32, rules: Vec<NftRule>) -> NftChain {
    NftChain { hook: Some(NftHook { kind, number, priority }), rules: rules.into(), decides: false }
}

fn set(kind: IpSetKind, family: Family, members: Vec<IpSetMember>) -> IpSet {
    IpSet { kind, family, members: Arc::new(members.into_iter().collect()) }
}

fn nets(members: &[&str]) -> Vec<IpSetMember> {
    members.iter().map(|member| IpSetMember::Net(member.parse().expect("a prefix"))).collect()
}

fn tables() -> Nftables<NftablesDriver> {
    Nftables::new(NftablesDriver::open(true).expect("nf_tables; run the tests as root"))
}

fn apply(tables: &mut Nftables<NftablesDriver>) -> NftApplied {
    let applied = tables.apply(Instant::now()).expect("the kernel answers");
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
    applied
}

/// What `nft` shows of one chain, without its braces.
fn listed(family: &str, chain: &str) -> Vec<String> {
    let text = run("nft", &["-nn", "list", "chain", family, NFT_TABLE, chain]);
    let rules = text.lines().map(str::trim).skip(2).filter(|line| *line != "}");
    rules.map(str::to_owned).collect()
}

/// One rule with every expression that rules of ours have, beside what `nft` calls it.
fn everything() -> Vec<(NftRule, &'static str)> {
    let meta = |key| Expression::Meta { key, to: W };
    let compare = |value: &[u8]| Expression::Compare { from: W, value: Data::new(value), negated: false };
    let payload = |header, offset, length| Expression::Payload { header, offset, length, to: W };
    let tcp = || vec![meta(MetaKey::Protocol), compare(&[6])];
    let then = |mut expressions: Vec<Expression>, more: Vec<Expression>| {
        expressions.extend(more);
        rule(expressions)
    };
    let masked = |mask: u32, value: u32, negated| {
        let zero = Data::host(0);
        vec![
            Expression::Bitwise { from: W, to: W, mask: Data::host(mask), xor: zero },
            Expression::Compare { from: W, value: Data::host(value), negated },
        ]
    };
    let ports = AnonymousSet {
        key: NftKey::Port,
        ranges: vec![(Data::port(80), Data::port(80)), (Data::port(90), Data::port(65535))],
    };
    let mut with_set = then(
        tcp(),
        vec![
            payload(Header::Transport, 2, 2),
            Expression::Lookup { from: W, set: SetReference::Anonymous(0), negated: false },
            Expression::Verdict(NftVerdict::Accept),
        ],
    );
    with_set.sets.push(ports);
    let mut state = vec![Expression::Conntrack { key: ConntrackKey::State, to: W }];
    state.extend(masked(state::ESTABLISHED | state::RELATED, 0, true));
    let mut mark = vec![meta(MetaKey::Mark)];
    mark.extend(masked(0x10000, 0x10000, false));
    mark.push(Expression::Verdict(NftVerdict::Return));
    let local = Fib::AddressType { source: false, out_interface: false };
    vec![
        (with_set, "tcp dport { 80, 90-65535 } accept"),
        (rule(state), "ct state 0x2,0x4"),
        (rule(mark), "meta mark & 0x00010000 == 0x00010000 return"),
        (
            rule(vec![
                meta(MetaKey::Mark),
                Expression::Bitwise { from: W, to: W, mask: Data::host(!0x30000), xor: Data::host(0x10000) },
                Expression::SetMark { from: W },
            ]),
            "meta mark set meta mark & 0xfffdffff | 0x00010000",
        ),
        (rule(vec![meta(MetaKey::InInterface), compare(b"cali")]), "iifname \"cali*\""),
        (
            rule(vec![
                payload(Header::Network, 12, 4),
                Expression::Compare { from: W, value: Data::new(&[10, 0, 0, 1]), negated: true },
            ]),
            "ip saddr != 10.0.0.1",
        ),
        (
            then(
                tcp(),
                vec![
                    payload(Header::Transport, 2, 2),
                    Expression::Range { from: W, first: Data::port(5), last: Data::port(9), negated: true },
                ],
            ),
            "tcp dport != 5-9",
        ),
        (
            rule(vec![Expression::Fib { fib: local, to: W }, compare(&Fib::LOCAL.to_ne_bytes())]),
            "fib daddr type 2",
        ),
        (
            rule(vec![
                Expression::Limit { rate: 10, per: Per::Minute, burst: 5 },
                Expression::Nflog { group: 7, prefix: name("D|i|x|1"), size: Some(128) },
            ]),
            "limit rate 10/minute log prefix \"D|i|x|1\" group 7 snaplen 128",
        ),
        (
            rule(vec![Expression::Log { prefix: name("calico-packet: ") }]),
            "log prefix \"calico-packet: \" level notice",
        ),
        (
            then(tcp(), vec![Expression::ConnectionsAbove(5), Expression::Reject(Reject::TcpReset)]),
            "meta l4proto 6 ct count over 5 reject with tcp reset",
        ),
        (rule(vec![Expression::Reject(Reject::PortUnreachable)]), "reject"),
        (verdict(NftVerdict::Jump(name("filter-cali-FORWARD"))), "jump filter-cali-FORWARD"),
    ]
}

#[test]
fn nft_reads_every_expression_as_it_is_meant() {
    in_new_netns(|| {
        let mut tables = tables();
        let (rules, expected): (Vec<_>, Vec<_>) = everything().into_iter().unzip();
        let comment = Some(name("knp/default/allow \"all\""));
        let commented = NftRule { comment, ..verdict(NftVerdict::Drop) };
        tables.set_chain(Family::V4, &name("filter-cali-FORWARD"), Some(chain(vec![commented])));
        tables.set_chain(Family::V4, &name("filter-FORWARD"), Some(base(NftChainType::Filter, 2, 0, rules)));

        apply(&mut tables);

        let listed = listed("ip", "filter-FORWARD");
        assert_eq!(listed[0], "type filter hook forward priority 0; policy accept;");
        assert_eq!(listed[1..], expected);
        assert_eq!(tables.resync().unwrap(), 0);
    });
}

fn ports(members: &[(&str, Protocol, u16)]) -> Vec<IpSetMember> {
    let member = |(address, protocol, port): &(&str, Protocol, u16)| {
        IpSetMember::IpPort(address.parse().expect("an address"), *protocol, *port)
    };
    members.iter().map(member).collect()
}

/// Everything of one kind: sets of all layouts in both families, a map, chains that refer to them.
fn want_everything(tables: &mut Nftables<NftablesDriver>) {
    let whole = [
        (Family::V4, nets(&["10.0.0.0/25", "10.0.0.128/25", "10.0.0.7/32", "128.0.0.0/1"])),
        (Family::V6, nets(&["2001:db8::/33", "fd00::7/128", "8000::/1"])),
    ];
    for (family, members) in whole {
        tables.set_set(family, &name("nets"), Some(set(IpSetKind::Net, family, members)));
    }
    let hosts = set(IpSetKind::Net, Family::V4, nets(&["10.0.0.1/32", "10.0.0.2/32"]));
    tables.set_set(Family::V4, &name("hosts"), Some(hosts));
    let named = ports(&[("10.0.0.1", Protocol::TCP, 80), ("10.0.0.1", Protocol::UDP, 53)]);
    tables.set_set(Family::V4, &name("ports"), Some(set(IpSetKind::IpPort, Family::V4, named)));
    let named = ports(&[("fd00::1", Protocol::SCTP, 80)]);
    tables.set_set(Family::V6, &name("ports"), Some(set(IpSetKind::IpPort, Family::V6, named)));
    for family in Family::ALL {
        let width = family.bits() / 8;
        let address = Expression::Payload { header: Header::Network, offset: 12, length: width, to: W };
        let asks =
            |set: &str| Expression::Lookup { from: W, set: SetReference::Named(name(set)), negated: false };
        let accept = Expression::Verdict(NftVerdict::Accept);
        let asking = rule(vec![address, asks("nets"), accept]);
        tables.set_chain(family, &name("filter-pod"), Some(chain(vec![asking])));
        let dispatch = rule(vec![
            Expression::Meta { key: MetaKey::InInterface, to: W },
            Expression::VerdictMap { from: W, map: name("dispatch") },
        ]);
        tables.set_chain(
            family,
            &name("filter-FORWARD"),
            Some(base(NftChainType::Filter, 2, 0, vec![dispatch, verdict(NftVerdict::Drop)])),
        );
        tables.set_map(family, &name("dispatch"), true);
        let goto = NftVerdict::Goto(name("filter-pod"));
        tables.set_entry(family, &name("dispatch"), &name("cali1"), Some(goto));
    }
}

#[test]
fn a_new_process_finds_everything_as_it_was_written() {
    in_new_netns(|| {
        let mut writer = tables();
        want_everything(&mut writer);
        apply(&mut writer);

        let mut successor = tables();
        want_everything(&mut successor);

        assert_eq!(successor.resync().expect("the tables are read"), 0);
        assert_eq!(apply(&mut successor).changes, 0);
        let listed = run("nft", &["list", "set", "ip", "calico", "nets"]);
        assert!(listed.contains("10.0.0.0/25") && listed.contains("128.0.0.0/1"), "{listed}");
        assert!(!listed.contains("10.0.0.7"), "within 10.0.0.0/25: {listed}");
        let listed = run("nft", &["list", "map", "ip6", "calico", "dispatch"]);
        assert!(listed.contains("\"cali1\" : goto filter-pod"), "{listed}");
    });
}

#[test]
fn members_come_and_go_and_a_set_changes_its_layout_under_the_rules_that_ask_it() {
    in_new_netns(|| {
        let mut tables = tables();
        want_everything(&mut tables);
        apply(&mut tables);
        let listed = || run("nft", &["list", "set", "ip", "calico", "nets"]);

        tables.change_set(Family::V4, &name("nets"), &nets(&["10.1.0.0/16"]), &nets(&["10.0.0.0/25"]));
        apply(&mut tables);
        assert!(listed().contains("10.0.0.7") && listed().contains("10.1.0.0/16"), "{}", listed());
        assert_eq!(tables.resync().expect("the tables are read"), 0);

        let only_hosts = set(IpSetKind::Net, Family::V4, nets(&["10.0.0.9/32"]));
        tables.set_set(Family::V4, &name("nets"), Some(only_hosts));
        apply(&mut tables);
        assert!(!listed().contains("interval") && listed().contains("10.0.0.9"), "{}", listed());
        assert_eq!(tables.resync().expect("the tables are read"), 0);

        tables.change_set(Family::V4, &name("nets"), &nets(&["0.0.0.0/1", "128.0.0.0/1"]), &[]);
        apply(&mut tables);
        assert!(listed().contains("interval"), "{}", listed());
        assert_eq!(tables.resync().expect("the tables are read"), 0);
    });
}

#[test]
fn what_is_wanted_no_more_goes_with_what_refers_to_it() {
    in_new_netns(|| {
        let mut tables = tables();
        want_everything(&mut tables);
        apply(&mut tables);

        for family in Family::ALL {
            for chain in ["filter-pod", "filter-FORWARD"] {
                tables.set_chain(family, &name(chain), None);
            }
            for set in ["nets", "hosts"] {
                tables.set_set(family, &name(set), None);
            }
            tables.set_map(family, &name("dispatch"), false);
        }
        apply(&mut tables);
        let left = "type ipv4_addr . inet_proto . inet_service";
        let listed = run("nft", &["list", "table", "ip", "calico"]);
        assert!(
            listed.contains("set ports") && listed.contains(left) && !listed.contains("nets"),
            "{listed}"
        );

        tables.want_nothing();
        apply(&mut tables);
        assert_eq!(run("nft", &["list", "ruleset"]), "");
    });
}

/// Returns when somebody else has changed our tables.
fn wait_for_others(events: &mut RuleEvents, driver: &NftablesDriver) {
    let is_others =
        |event: &RuleEvent| matches!(event, RuleEvent::Native { writer } if !driver.is_own(*writer));
    while !events.receive().expect("events").iter().any(is_others) {}
}

#[test]
fn what_somebody_else_does_to_ours_is_told_at_once_and_repaired_whole() {
    in_new_netns(|| {
        let mut tables = tables();
        let mut events = RuleEvents::open().expect("events");
        want_everything(&mut tables);
        apply(&mut tables);
        let whole = run("nft", &["list", "ruleset"]);

        let harms: [&[&str]; 6] = [
            &["flush", "ruleset"],
            &["delete", "table", "ip6", "calico"],
            &["flush", "chain", "ip", "calico", "filter-FORWARD"],
            &["insert", "rule", "ip", "calico", "filter-pod", "accept"],
            &["delete", "element", "ip", "calico", "dispatch", "{ \"cali1\" }"],
            &["add", "element", "ip", "calico", "nets", "{ 11.0.0.1 }"],
        ];
        for harm in harms {
            run("nft", &["add", "table", "inet", "somebody"]);
            run("nft", harm);
            wait_for_others(&mut events, tables.driver());
            tables.invalidate();
            apply(&mut tables);
            let now = run("nft", &["list", "ruleset"]);
            assert_eq!(now.replace("table inet somebody {\n}\n", ""), whole, "{harm:?}");
        }
    });
}

#[test]
fn changes_that_found_no_room_are_said_to_be_lost() {
    in_new_netns(|| {
        let mut events = RuleEvents::open().expect("events");
        let file = std::env::temp_dir().join(format!("kernel-linux-rules-{}", std::process::id()));
        let rule =
            format!("add rule ip somebody c ip saddr 192.0.2.1 counter drop comment \"{:100}\"\n", "why");
        let rules = rule.repeat(40_000);
        std::fs::write(&file, format!("add table ip somebody\nadd chain ip somebody c\n{rules}")).unwrap();
        // Nobody reads meanwhile.
        run("nft", &["-f", &file.to_string_lossy()]);
        std::fs::remove_file(&file).unwrap();

        let told = events.receive().expect("events");

        assert!(told.contains(&RuleEvent::Overrun), "{told:?}");
    });
}

#[test]
fn a_refused_chain_keeps_what_it_was_and_stops_no_other() {
    in_new_netns(|| {
        let mut tables = tables();
        want_everything(&mut tables);
        apply(&mut tables);
        let nowhere = verdict(NftVerdict::Jump(name("filter-nowhere")));
        tables.set_chain(Family::V4, &name("filter-pod"), Some(chain(vec![nowhere.clone()])));
        tables.set_chain(Family::V4, &name("filter-new"), Some(chain(vec![nowhere])));
        tables.set_chain(Family::V4, &name("filter-good"), Some(chain(vec![verdict(NftVerdict::Accept)])));

        let applied = tables.apply(Instant::now()).expect("the kernel answers");

        let failed: Vec<_> = applied.failed.iter().map(|(object, _)| object.to_string()).collect();
        assert_eq!(failed, ["IPv4 chain filter-new", "IPv4 chain filter-pod"]);
        assert_eq!(listed("ip", "filter-good"), ["accept"]);
        assert!(listed("ip", "filter-pod")[0].contains("@nets"), "{:?}", listed("ip", "filter-pod"));
        assert!(listed("ip", "filter-new")[0].starts_with("drop"), "{:?}", listed("ip", "filter-new"));
    });
}

#[test]
fn calicos_table_is_taken_over_and_what_is_unknown_in_it_goes() {
    in_new_netns(|| {
        run("nft", &["add", "table", "ip", "calico"]);
        for object in ["set ip calico nets { type ipv4_addr . inet_service; }", "chain ip calico old"] {
            run("nft", &["add", object]);
        }

        let mut tables = tables();
        want_everything(&mut tables);
        apply(&mut tables);

        assert_eq!(tables.resync().expect("the tables are read"), 0);
        assert!(!attempt("nft", &["list", "chain", "ip", "calico", "old"]).0);
    });
}

/// Set in the process that is to be killed: which of two rulesets it begins with.
const VICTIM: &str = "OCICAT_TEST_NFTABLES_VICTIM";

/// A ruleset of many chains and members of which one word tells which it is.
fn want_version(tables: &mut Nftables<NftablesDriver>, version: u32) {
    let address = |host: u32| format!("10.{version}.{}.{}/32", host / 256, host % 256);
    let members: Vec<String> = (0..2000).map(address).collect();
    let members: Vec<&str> = members.iter().map(String::as_str).collect();
    let hosts = set(IpSetKind::Net, Family::V4, nets(&members));
    tables.set_set(Family::V4, &name("hosts"), Some(hosts));
    for number in 0..200 {
        let mark = Expression::Immediate { to: W, value: Data::host(version) };
        let rules = vec![rule(vec![mark, Expression::SetMark { from: W }]); 10];
        tables.set_chain(Family::V4, &name(&format!("filter-{number}")), Some(chain(rules)));
    }
}

/// How many chains and members of each version there are.
fn versions() -> [(usize, usize); 2] {
    let listed = run("nft", &["list", "table", "ip", "calico"]);
    [1, 2].map(|version| {
        let mark = format!("meta mark set 0x{version:08x}");
        (listed.matches(&mark).count(), listed.matches(&format!("10.{version}.")).count())
    })
}

#[test]
fn a_process_that_is_killed_while_it_writes_leaves_the_old_or_the_new_state_whole() {
    if std::env::var_os(VICTIM).is_some() {
        let mut tables = tables();
        for version in [1, 2].into_iter().cycle() {
            want_version(&mut tables, version);
            apply(&mut tables);
        }
    }
    in_new_netns(|| {
        for round in 0..8 {
            let this = std::env::current_exe().expect("this program");
            let test = "a_process_that_is_killed_while_it_writes_leaves_the_old_or_the_new_state_whole";
            let mut victim = std::process::Command::new(this)
                .args(["--exact", test])
                .env(VICTIM, "1")
                .stdout(std::process::Stdio::null())
                .spawn()
                .expect("a victim");
            // Until it has begun, and then somewhere in the middle of something.
            while !attempt("nft", &["list", "chain", "ip", "calico", "filter-0"]).0 {
                let ended = victim.try_wait().expect("a child");
                assert!(ended.is_none(), "the victim did not even begin: {ended:?}");
            }
            std::thread::sleep(std::time::Duration::from_micros(700 * round));
            victim.kill().expect("it can be killed");
            victim.wait().expect("it is gone");

            let versions = versions();
            assert!(matches!(versions, [(2000, 2000), (0, 0)] | [(0, 0), (2000, 2000)]), "{versions:?}");
            run("nft", &["delete", "table", "ip", "calico"]);
        }
    });
}
