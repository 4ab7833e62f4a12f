//! What is written for a given state of the tables, into a kernel in memory.

use std::time::{Duration, Instant};

use kernel::fake::{Entry, FakeIptables, FakeKernel};
use kernel::{
    Chain, ChainName, Hook, InterfaceMatch, IpSet, IpSetKind, IpSetName, Iptables, IptablesTable, Match,
    PacketRule, PacketSide, Part, RuleAction,
};
use model::{ChainInsertMode, Family, Protocol};

const FILTER: IptablesTable = IptablesTable::Filter;
const V4: Family = Family::V4;

/// Any instant will do: only differences matter.
#[expect(clippy::disallowed_methods, reason = "a test begins at some instant")]
fn clock() -> Instant {
    Instant::now()
}

fn jump(to: &str) -> PacketRule {
    PacketRule::jump(to)
}

fn dropped() -> PacketRule {
    PacketRule::new(RuleAction::Drop)
}

fn returns() -> PacketRule {
    PacketRule::new(RuleAction::Return)
}

fn from(interfaces: &str) -> Match {
    Match::InInterface(InterfaceMatch::prefixed(interfaces))
}

fn protocol(protocol: Protocol) -> Match {
    Match::Protocol { protocol, negated: false }
}

/// Looks up a set that no test makes by itself.
fn in_set() -> Match {
    let name = IpSetName::new(V4, "s:x");
    Match::Set { name, side: PacketSide::Source, with_port: false, negated: false }
}

fn set(tables: &mut Iptables<FakeIptables>, name: &str, rules: &[PacketRule]) {
    let name = ChainName::fixed(name);
    tables.set_chain(FILTER, name.clone(), Some(Chain { name, rules: rules.into() }));
}

fn forward_hook() -> Hook {
    Hook {
        inserts: vec![jump("cali-FORWARD")],
        appends: vec![PacketRule::new(RuleAction::Accept).when(Match::Mark {
            value: 0x10000,
            mask: 0x10000,
            negated: false,
        })],
    }
}

fn tables(kernel: &FakeKernel) -> Iptables<FakeIptables> {
    let mut tables = Iptables::new(kernel.iptables(V4), ChainInsertMode::Insert);
    set(&mut tables, "cali-FORWARD", &[jump("cali-from").when(from("cali"))]);
    set(&mut tables, "cali-from", &[returns().when(protocol(Protocol::TCP)), dropped()]);
    tables.set_hook(FILTER, "FORWARD", forward_hook());
    tables
}

/// Applies, and returns the input of `iptables-restore`.
fn apply(kernel: &FakeKernel, tables: &mut Iptables<FakeIptables>) -> String {
    kernel.state().restores.clear();
    let applied = tables.apply(clock()).expect("the fake can be read");
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
    kernel.state().restores.concat()
}

fn chain(kernel: &FakeKernel, name: &str) -> Vec<String> {
    let rules = kernel.chain(V4, FILTER, name).expect("the chain exists");
    let bare = |rule: String| match rule.split_once("-m comment --comment \"cali:") {
        Some((_, rest)) => rest.split_once("\" ").map(|(_, rest)| rest.to_owned()).unwrap_or_default(),
        None => rule,
    };
    rules.into_iter().map(bare).collect()
}

fn push(kernel: &FakeKernel, name: &str, at: usize, rule: &str) {
    let mut state = kernel.state();
    let rules = &mut state.chains.get_mut(&(V4, FILTER)).expect("the table exists").rules;
    rules.entry(name.to_owned()).or_default().insert(at, rule.to_owned());
}

#[test]
fn a_clean_table_gets_chains_then_jumps() {
    let kernel = FakeKernel::new();

    let written = apply(&kernel, &mut tables(&kernel));

    assert_eq!(
        written,
        "*filter\n\
         :cali-FORWARD - [0:0]\n\
         :cali-from - [0:0]\n\
         -A cali-FORWARD -m comment --comment \"cali:vrAczHdL9_tY4f8i\" --in-interface cali+ --jump cali-from\n\
         -A cali-from -m comment --comment \"cali:57_c9OiteloJUSYO\" -p tcp --jump RETURN\n\
         -A cali-from -m comment --comment \"cali:BYZv39skzm7jGGlQ\" --jump DROP\n\
         -I FORWARD -m comment --comment \"cali:wUHhoiAYhphO9Mso\" --jump cali-FORWARD\n\
         -A FORWARD -m comment --comment \"cali:qLDka513xdgwzScw\" -m mark --mark 0x10000/0x10000 --jump ACCEPT\n\
         COMMIT\n"
    );
}

#[test]
fn what_is_right_is_not_written() {
    let kernel = FakeKernel::new();
    apply(&kernel, &mut tables(&kernel));

    // Another run of us finds everything in place.
    let mut tables = tables(&kernel);

    assert_eq!(apply(&kernel, &mut tables), "");
    assert!(tables.is_settled());
}

#[test]
fn a_changed_chain_is_written_alone() {
    let kernel = FakeKernel::new();
    let mut tables = tables(&kernel);
    apply(&kernel, &mut tables);

    set(&mut tables, "cali-from", &[dropped().when(protocol(Protocol::UDP))]);

    assert_eq!(
        apply(&kernel, &mut tables),
        "*filter\n\
         :cali-from - [0:0]\n\
         -A cali-from -m comment --comment \"cali:PxoqpHXHJ6a3YNUi\" -p udp --jump DROP\n\
         COMMIT\n"
    );
}

#[test]
fn a_chain_goes_after_the_last_jump_to_it_in_a_transaction_of_its_own() {
    let kernel = FakeKernel::new();
    let mut tables = tables(&kernel);
    apply(&kernel, &mut tables);

    set(&mut tables, "cali-FORWARD", &[]);
    tables.set_chain(FILTER, ChainName::fixed("cali-from"), None);

    assert_eq!(
        apply(&kernel, &mut tables),
        "*filter\n:cali-FORWARD - [0:0]\nCOMMIT\n*filter\n:cali-from - [0:0]\nCOMMIT\n*filter\n-X cali-from\nCOMMIT\n"
    );
    assert_eq!(kernel.chain(V4, FILTER, "cali-from"), None);
}

#[test]
fn one_more_pod_is_inserted_and_takes_nothing_away() {
    let kernel = FakeKernel::new();
    let mut tables = tables(&kernel);
    pods(&mut tables, &["cali1"]);
    apply(&kernel, &mut tables);

    pods(&mut tables, &["cali0", "cali1"]);

    let written = apply(&kernel, &mut tables);
    let lines: Vec<_> = written.lines().collect();
    assert_eq!(lines[..2], ["*filter", ":cali-fw-cali0 - [0:0]"]);
    assert!(lines[2].starts_with("-I cali-from-wl-dispatch "), "{written}");
    assert!(lines[3].starts_with("-A cali-fw-cali0 "), "{written}");
    assert_eq!(lines[4..], ["COMMIT"]);
    let leaf = |pod: &str| format!("--in-interface {pod} --goto cali-fw-{pod}");
    assert_eq!(chain(&kernel, DISPATCH), [leaf("cali0"), leaf("cali1"), "--jump DROP".to_owned()]);

    // Its place is no matter: not now, and not for a later run.
    pods(&mut tables, &["cali0", "cali1", "cali2"]);
    apply(&kernel, &mut tables);
    assert_eq!(chain(&kernel, DISPATCH)[0], leaf("cali2"));
    assert_eq!(tables.resync().unwrap(), 0);
    let mut later = self::tables(&kernel);
    pods(&mut later, &["cali0", "cali1", "cali2"]);
    assert_eq!(apply(&kernel, &mut later), "");
}

#[test]
fn pods_that_leave_go_together_a_little_later() {
    let start = clock();
    let patience = Duration::from_secs(1);
    let kernel = FakeKernel::new();
    let mut tables = tables(&kernel).with_patience(patience);
    pods(&mut tables, &["cali1", "cali2", "cali3"]);
    tables.apply(start).unwrap();

    pods(&mut tables, &["cali2", "cali3"]);
    assert_eq!(tables.apply(start).unwrap().lines, 0);
    pods(&mut tables, &["cali3", "cali4"]);
    let applied = tables.apply(start + patience / 2).unwrap();
    assert_eq!((applied.chains_written, applied.chains_deleted), (2, 0), "the new one waits for nobody");
    assert_eq!((tables.poll_timeout(), tables.gathers()), (Some(start + patience), true));
    assert!(tables.is_settled() && tables.differences().is_empty());
    assert_eq!(chain(&kernel, DISPATCH).len(), 5);

    kernel.state().restores.clear();
    let applied = tables.apply(start + patience).unwrap();

    assert_eq!((applied.chains_deleted, applied.failed.len()), (2, 0));
    let written = kernel.state().restores.concat();
    assert!(!written.contains("-A ") && !written.contains("-I "), "{written}");
    let leaf = |pod: &str| format!("--in-interface {pod} --goto cali-fw-{pod}");
    assert_eq!(chain(&kernel, DISPATCH), [leaf("cali4"), leaf("cali3"), "--jump DROP".to_owned()]);
    assert_eq!(kernel.chain(V4, FILTER, "cali-fw-cali1"), None);
    assert_eq!((tables.poll_timeout(), tables.gathers()), (None, false));
    assert_eq!(tables.resync().unwrap(), 0);
}

#[test]
fn a_pod_that_comes_back_before_its_chain_went_keeps_it() {
    let start = clock();
    let kernel = FakeKernel::new();
    let mut tables = tables(&kernel).with_patience(Duration::from_secs(1));
    pods(&mut tables, &["cali1", "cali2"]);
    tables.apply(start).unwrap();
    pods(&mut tables, &["cali2"]);
    tables.apply(start).unwrap();

    pods(&mut tables, &["cali1", "cali2"]);

    assert_eq!(tables.apply(start).unwrap().lines, 0);
    assert_eq!((tables.poll_timeout(), tables.is_settled()), (None, true));
    assert_eq!(chain(&kernel, DISPATCH).len(), 3);
}

#[test]
fn a_dispatch_that_somebody_has_emptied_is_written_anew() {
    let kernel = FakeKernel::new();
    let mut tables = tables(&kernel).with_patience(Duration::from_secs(1));
    pods(&mut tables, &["cali1"]);
    apply(&kernel, &mut tables);
    kernel.state().chains.get_mut(&(V4, FILTER)).unwrap().rules.remove(DISPATCH);

    pods(&mut tables, &["cali1", "cali2"]);
    apply(&kernel, &mut tables);

    assert_eq!(chain(&kernel, DISPATCH).len(), 3);
    assert_eq!(tables.resync().unwrap(), 0);
}

const DISPATCH: &str = "cali-from-wl-dispatch";

/// Wants these pods, and of those that the tests know no other.
fn pods(tables: &mut Iptables<FakeIptables>, interfaces: &[&str]) {
    for pod in ["cali0", "cali1", "cali2", "cali3", "cali4"] {
        let name = ChainName::limited("cali-fw-", pod);
        let chain = Chain { name: name.clone(), rules: [returns()].into() };
        tables.set_chain(FILTER, name, interfaces.contains(&pod).then_some(chain));
    }
    let goto = |pod: &&str| {
        let chain = ChainName::limited("cali-fw-", pod);
        PacketRule::new(RuleAction::Goto(chain)).when(Match::InInterface(InterfaceMatch::named(pod)))
    };
    let rules: Vec<_> = interfaces.iter().map(goto).chain([dropped()]).collect();
    set(tables, DISPATCH, &rules);
}

#[test]
fn stale_rules_of_ours_go_and_foreign_ones_stay() {
    let kernel = FakeKernel::new();
    let stale = "-m comment --comment \"cali:AAAAAAAAAAAAAAAA\" -j cali-old";
    push(&kernel, "cali-old", 0, "-j DROP");
    push(&kernel, "DOCKER", 0, "-j DROP");
    push(&kernel, "INPUT", 0, stale);
    push(&kernel, "INPUT", 1, "-j DOCKER");
    push(&kernel, "INPUT", 2, stale);
    push(&kernel, "FORWARD", 0, "-j DOCKER");

    let written = apply(&kernel, &mut tables(&kernel));

    assert_eq!(written.matches(&format!("-D INPUT {stale}\n")).count(), 2);
    assert_eq!(chain(&kernel, "INPUT"), ["-j DOCKER"]);
    assert_eq!(kernel.chain(V4, FILTER, "cali-old"), None);
    assert_eq!(chain(&kernel, "DOCKER"), ["-j DROP"]);
    let forward = ["--jump cali-FORWARD", "-j DOCKER", "-m mark --mark 0x10000/0x10000 --jump ACCEPT"];
    assert_eq!(chain(&kernel, "FORWARD"), forward);
}

#[test]
fn a_rule_that_got_before_the_jump_is_overtaken_again() {
    let kernel = FakeKernel::new();
    let mut tables = tables(&kernel);
    apply(&kernel, &mut tables);
    push(&kernel, "FORWARD", 0, "-s 192.0.2.7 -j DROP");
    push(&kernel, "FORWARD", 3, "-s 192.0.2.8 -j DROP");

    assert_eq!(tables.resync().unwrap(), 1);
    apply(&kernel, &mut tables);

    let forward = [
        "--jump cali-FORWARD",
        "-s 192.0.2.7 -j DROP",
        "-s 192.0.2.8 -j DROP",
        "-m mark --mark 0x10000/0x10000 --jump ACCEPT",
    ];
    assert_eq!(chain(&kernel, "FORWARD"), forward);
    assert_eq!(tables.resync().unwrap(), 0);
}

#[test]
fn the_mode_of_insertion_may_change() {
    let kernel = FakeKernel::new();
    push(&kernel, "FORWARD", 0, "-s 192.0.2.7 -j DROP");
    let mut tables = tables(&kernel);
    let (jump, mark) = ("--jump cali-FORWARD", "-m mark --mark 0x10000/0x10000 --jump ACCEPT");

    tables.set_insert_mode(ChainInsertMode::Append);
    apply(&kernel, &mut tables);
    assert_eq!(chain(&kernel, "FORWARD"), ["-s 192.0.2.7 -j DROP", jump, mark]);
    tables.set_insert_mode(ChainInsertMode::Insert);
    apply(&kernel, &mut tables);
    assert_eq!(chain(&kernel, "FORWARD"), [jump, "-s 192.0.2.7 -j DROP", mark]);
    assert_eq!(tables.resync().unwrap(), 0);
}

#[test]
fn a_hook_that_is_no_longer_wanted_leaves_nothing() {
    let kernel = FakeKernel::new();
    let mut tables = tables(&kernel);
    apply(&kernel, &mut tables);

    tables.set_hook(FILTER, "FORWARD", Hook::default());
    apply(&kernel, &mut tables);

    assert_eq!(chain(&kernel, "FORWARD"), Vec::<String>::new());
}

#[test]
fn what_somebody_took_away_in_the_meantime_is_found_and_repaired_in_the_same_apply() {
    let kernel = FakeKernel::new();
    let mut tables = tables(&kernel);
    apply(&kernel, &mut tables);
    // Unknown to us, cali-from vanishes; then a chain that jumps to it changes.
    let mut state = kernel.state();
    let rules = &mut state.chains.get_mut(&(V4, FILTER)).unwrap().rules;
    rules.get_mut("cali-FORWARD").unwrap().clear();
    rules.remove("cali-from");
    drop(state);

    set(&mut tables, "cali-FORWARD", &[jump("cali-from").when(from("tap"))]);
    apply(&kernel, &mut tables);

    assert_eq!(chain(&kernel, "cali-from"), ["-p tcp --jump RETURN", "--jump DROP"]);
}

#[test]
fn a_table_that_fails_stops_no_other_and_is_tried_again() {
    let start = clock();
    let kernel = FakeKernel::new();
    let mut tables = tables(&kernel);
    let name = ChainName::fixed("cali-PREROUTING");
    tables.set_chain(IptablesTable::Raw, name.clone(), Some(Chain { name, rules: [].into() }));
    kernel.refuse(Entry::Table(V4, IptablesTable::Raw));

    let applied = tables.apply(start).unwrap();
    assert_eq!(applied.failed[0].table, IptablesTable::Raw);
    assert_eq!(chain(&kernel, "cali-from").len(), 2);
    assert_eq!(tables.poll_timeout(), Some(start + Duration::from_millis(50)));
    assert_eq!(tables.apply(start).unwrap().lines, 0);

    kernel.heal();
    let applied = tables.apply(start + Duration::from_millis(50)).unwrap();
    assert_eq!((applied.chains_written, tables.poll_timeout()), (1, None));
    assert!(tables.is_settled());
}

#[test]
fn a_chain_that_is_refused_stops_no_other_and_stays_closed() {
    let start = clock();
    let kernel = FakeKernel::new();
    let mut tables = tables(&kernel);
    set(&mut tables, "cali-good", &[returns()]);
    set(&mut tables, "cali-from", &[jump("cali-bad"), dropped()]);
    set(&mut tables, "cali-bad", &[returns().when(in_set())]);

    let applied = tables.apply(start).unwrap();

    assert_eq!(applied.failed.len(), 1, "{:?}", applied.failed);
    assert!(applied.failed[0].error.to_string().contains("cali40s:x"));
    assert_eq!(chain(&kernel, "cali-good"), ["--jump RETURN"]);
    assert_eq!(chain(&kernel, "cali-bad"), ["--jump DROP"]);
    assert_eq!(chain(&kernel, "cali-from"), ["--jump cali-bad", "--jump DROP"]);
    assert_eq!(chain(&kernel, "FORWARD").len(), 2);
    assert!(!tables.is_settled());

    // Refused again it stays so; with its set it is written.
    let due = tables.poll_timeout().unwrap();
    assert_eq!(tables.apply(due).unwrap().failed.len(), 1);
    assert_eq!(chain(&kernel, "cali-bad"), ["--jump DROP"]);
    let set = IpSet { kind: IpSetKind::Net, family: V4, members: Default::default() };
    kernel.state().ip_sets.insert(IpSetName::new(V4, "s:x"), set);
    let due = tables.poll_timeout().unwrap();
    assert!(tables.apply(due).unwrap().failed.is_empty());
    assert_eq!(chain(&kernel, "cali-bad").len(), 1);
    assert!(tables.is_settled());
}

#[test]
fn a_refused_chain_delays_no_other_change() {
    let start = clock();
    let kernel = FakeKernel::new();
    let mut tables = tables(&kernel);
    let bad = returns().when(in_set());
    set(&mut tables, "cali-bad", &[bad]);
    assert_eq!(tables.apply(start).unwrap().failed[0].part, Part::Chain(ChainName::fixed("cali-bad")));
    let due = tables.poll_timeout();

    // Another chain is written at once, and the bad one is left in peace.
    set(&mut tables, "cali-good", &[returns()]);
    let applied = tables.apply(start).unwrap();

    assert_eq!((applied.chains_written, applied.failed.len()), (1, 0));
    assert_eq!(chain(&kernel, "cali-good"), ["--jump RETURN"]);
    assert_eq!(tables.poll_timeout(), due);
    assert_eq!(tables.refused().count(), 1);

    // So is the bad one as soon as something else is wanted of it.
    set(&mut tables, "cali-bad", &[returns()]);
    tables.apply(start).unwrap();
    assert_eq!(chain(&kernel, "cali-bad"), ["--jump RETURN"]);
    assert_eq!((tables.poll_timeout(), tables.refused().count()), (None, 0));
}

#[test]
fn a_refused_chain_that_hooks_lead_to_does_not_lock_the_node_out() {
    let kernel = FakeKernel::new();
    let mut tables = tables(&kernel);
    set(&mut tables, "cali-FORWARD", &[returns().when(in_set())]);

    assert_eq!(tables.apply(clock()).unwrap().failed.len(), 1);

    assert_eq!(chain(&kernel, "cali-FORWARD"), Vec::<String>::new());
    assert_eq!(chain(&kernel, "FORWARD")[0], "--jump cali-FORWARD");
}

#[test]
fn tables_that_cannot_be_read_are_not_written() {
    let kernel = FakeKernel::new();
    let mut tables = tables(&kernel);
    kernel.refuse(Entry::Lists);

    assert!(tables.apply(clock()).is_err());
    assert_eq!(kernel.state().writes, 0);
    assert!(tables.poll_timeout().is_some());
}

#[test]
fn the_fake_refuses_references_to_nothing() {
    let kernel = FakeKernel::new();
    let mut tables = tables(&kernel);
    let name = IpSetName::new(V4, "s:x");
    set(&mut tables, "cali-from", &[jump("cali-missing").when(in_set())]);

    let failed = |tables: &mut Iptables<FakeIptables>| {
        let failed = tables.apply(tables.poll_timeout().unwrap_or_else(clock)).unwrap().failed;
        failed.first().map(|refused| refused.error.to_string()).unwrap_or_default()
    };
    assert!(failed(&mut tables).contains("cali-missing"));
    set(&mut tables, "cali-missing", &[]);
    assert!(failed(&mut tables).contains("no set cali40s:x"));
    let set = IpSet { kind: IpSetKind::Net, family: V4, members: Default::default() };
    kernel.state().ip_sets.insert(name, set);
    assert_eq!(failed(&mut tables), "");
}
