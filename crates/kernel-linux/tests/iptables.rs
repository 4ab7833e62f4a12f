//! iptables against the real kernel with both backends, as root; `iptables-*-save` is the witness.

mod common;

use std::time::{Duration, Instant};

use common::{attempt, in_new_netns, run};
use kernel::{
    Chain, ChainName, Hook, InterfaceMatch, Iptables, IptablesDriver as _, IptablesTable, Match, PacketRule,
    PacketSide, RuleAction, RuleEvent,
};
use kernel_linux::{Backend, IptablesTools, RuleEvents};
use model::{ChainInsertMode, Family, PortRange, Protocol};

const FILTER: IptablesTable = IptablesTable::Filter;
const NAT: IptablesTable = IptablesTable::Nat;

fn clock() -> Instant {
    Instant::now()
}

fn chain(name: &str, rules: &[PacketRule]) -> Chain {
    Chain { name: ChainName::fixed(name), rules: rules.into() }
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

fn protocol(protocol: Protocol) -> Match {
    Match::Protocol { protocol, negated: false }
}

/// iptables refuses to look for ports where no protocol is asked for.
fn ports_of_nothing() -> Match {
    Match::Ports { side: PacketSide::Source, ranges: [PortRange::single(1)].into(), negated: false }
}

fn wants(tables: &mut Iptables<IptablesTools>) {
    set(
        tables,
        FILTER,
        chain(
            "cali-FORWARD",
            &[jump("cali-from").when(Match::InInterface(InterfaceMatch::prefixed("cali")))],
        ),
    );
    set(tables, FILTER, chain("cali-from", &[returns().when(protocol(Protocol::TCP)), dropped()]));
    let hook = Hook { inserts: vec![jump("cali-FORWARD")], appends: vec![accept()] };
    tables.set_hook(FILTER, "FORWARD", hook);
    set(
        tables,
        NAT,
        chain(
            "cali-POSTROUTING",
            &[PacketRule::new(RuleAction::Masquerade { ports: None, random_fully: false })
                .when(Match::OutInterface(InterfaceMatch::named("up0")))],
        ),
    );
    let hook = Hook { inserts: vec![], appends: vec![jump("cali-POSTROUTING")] };
    tables.set_hook(NAT, "POSTROUTING", hook);
}

fn accept() -> PacketRule {
    PacketRule::new(RuleAction::Accept).comment("Policy explicitly accepted packet.").when(Match::Mark {
        value: 0x10000,
        mask: 0x10000,
        negated: false,
    })
}

fn set(tables: &mut Iptables<IptablesTools>, table: IptablesTable, chain: Chain) {
    tables.set_chain(table, chain.name.clone(), Some(chain));
}

fn saved(backend: Backend, table: &str) -> Vec<String> {
    let text = run(&format!("iptables-{backend}-save"), &["-t", table]);
    text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

/// `chain` as rules without hash comments.
fn rules(backend: Backend, table: &str, chain: &str) -> Vec<String> {
    let prefix = format!("-A {chain} ");
    let all = saved(backend, table);
    let rules = all.iter().filter_map(|line| line.strip_prefix(&prefix)).map(|rule| {
        let Some((front, rest)) = rule.split_once("-m comment --comment \"cali:") else {
            return rule.to_owned();
        };
        format!("{front}{}", rest.split_once("\" ").unwrap_or_default().1)
    });
    rules.collect()
}

fn edit(backend: Backend, arguments: &[&str]) {
    run(&format!("iptables-{backend}"), arguments);
}

fn on_both_backends(test: fn(Backend)) {
    for backend in [Backend::Legacy, Backend::Nft] {
        in_new_netns(|| {
            if works(backend) {
                test(backend);
            }
        });
    }
}

/// Where the kernel lacks what a backend needs, that is what must be said, and the other one taken.
fn works(backend: Backend) -> bool {
    let name = format!("iptables-{backend}");
    if attempt(&name, &["-N", "probe"]).0 {
        edit(backend, &["-X", "probe"]);
        return true;
    }
    let error = IptablesTools::new(backend, Family::V4).expect_err("it cannot work");
    assert_eq!(error.kind(), std::io::ErrorKind::Unsupported, "{error}");
    assert_ne!(Backend::detect().expect("one works"), backend);
    false
}

fn open(backend: Backend) -> Iptables<IptablesTools> {
    let tools = IptablesTools::new(backend, Family::V4).expect("Debian package iptables, and root");
    Iptables::new(tools, ChainInsertMode::Insert)
}

fn apply(tables: &mut Iptables<IptablesTools>) -> usize {
    let applied = tables.apply(clock()).expect("the tables can be read");
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
    applied.lines
}

#[test]
fn chains_and_jumps_are_written_once() {
    on_both_backends(|backend| {
        let mut tables = open(backend);
        wants(&mut tables);

        assert!(apply(&mut tables) > 0);

        assert_eq!(rules(backend, "filter", "cali-from"), ["-p tcp -j RETURN", "-j DROP"]);
        assert_eq!(rules(backend, "filter", "cali-FORWARD"), ["-i cali+ -j cali-from"]);
        let forward = rules(backend, "filter", "FORWARD");
        assert_eq!(forward[0], "-j cali-FORWARD");
        assert!(forward[1].ends_with("-m mark --mark 0x10000/0x10000 -j ACCEPT"), "{forward:?}");
        assert_eq!(rules(backend, "nat", "POSTROUTING"), ["-j cali-POSTROUTING"]);
        assert_eq!(apply(&mut tables), 0);
        // After a restart everything is found in order.
        let mut again = open(backend);
        wants(&mut again);
        assert_eq!(apply(&mut again), 0);
    });
}

#[test]
fn foreign_rules_stay_and_stay_where_they_are() {
    on_both_backends(|backend| {
        edit(backend, &["-A", "FORWARD", "-s", "192.0.2.7", "-j", "DROP"]);
        edit(backend, &["-N", "KUBE-FORWARD"]);
        edit(backend, &["-A", "FORWARD", "-j", "KUBE-FORWARD"]);
        let mut tables = open(backend);
        wants(&mut tables);

        apply(&mut tables);

        let forward = rules(backend, "filter", "FORWARD");
        assert_eq!(forward[..3], ["-j cali-FORWARD", "-s 192.0.2.7/32 -j DROP", "-j KUBE-FORWARD"]);
        assert!(forward[3].ends_with("-j ACCEPT"), "{forward:?}");
        assert!(saved(backend, "filter").iter().any(|line| line.starts_with(":KUBE-FORWARD")));
    });
}

#[test]
fn what_others_break_is_repaired_at_the_next_look() {
    let breaks: [&[&[&str]]; 5] = [
        &[&["-F", "cali-FORWARD"]],
        &[&["-F"], &["-X"]],
        &[&["-I", "FORWARD", "-s", "192.0.2.7", "-j", "DROP"]],
        &[&["-D", "cali-from", "1"]],
        &[&["-A", "FORWARD", "-s", "192.0.2.7", "-j", "DROP"], &["-I", "cali-from", "-j", "ACCEPT"]],
    ];
    for (at, commands) in breaks.into_iter().enumerate() {
        for backend in [Backend::Legacy, Backend::Nft] {
            in_new_netns(move || {
                if !works(backend) {
                    return;
                }
                let mut tables = open(backend);
                wants(&mut tables);
                apply(&mut tables);
                let whole = saved(backend, "filter");
                commands.iter().for_each(|arguments| edit(backend, arguments));

                assert!(tables.resync().unwrap() > 0, "break {at}");
                apply(&mut tables);

                let mut repaired = saved(backend, "filter");
                repaired.retain(|line| !line.contains("192.0.2.7"));
                let ours = |lines: &[String]| -> Vec<String> {
                    lines.iter().filter(|line| line.starts_with("-A")).cloned().collect()
                };
                assert_eq!(ours(&repaired), ours(&whole), "{backend} after break {at}");
                assert_eq!(rules(backend, "filter", "FORWARD")[0], "-j cali-FORWARD");
                assert_eq!(tables.resync().unwrap(), 0);
            });
        }
    }
}

#[test]
fn leftovers_of_an_earlier_run_are_swept() {
    on_both_backends(|backend| {
        for name in ["cali-old", "cali-old-2", "felix-x", "DOCKER"] {
            edit(backend, &["-N", name]);
        }
        edit(backend, &["-A", "cali-old", "-j", "cali-old-2"]);
        let comment = "cali:AAAAAAAAAAAAAAAA";
        edit(backend, &["-A", "INPUT", "-m", "comment", "--comment", comment, "-j", "cali-old"]);
        edit(backend, &["-A", "INPUT", "-p", "tcp", "-m", "comment", "--comment", comment, "-j", "DROP"]);
        edit(backend, &["-A", "INPUT", "-j", "felix-x"]);
        edit(backend, &["-A", "INPUT", "-j", "DOCKER"]);
        let mut tables = open(backend);
        wants(&mut tables);

        apply(&mut tables);

        assert_eq!(rules(backend, "filter", "INPUT"), ["-j DOCKER"]);
        let chains: Vec<_> = saved(backend, "filter").into_iter().filter(|l| l.starts_with(":")).collect();
        let has = |name: &str| chains.iter().any(|line| line.starts_with(&format!(":{name} ")));
        assert!(has("DOCKER") && has("cali-from"), "{chains:?}");
        assert!(!has("cali-old") && !has("cali-old-2") && !has("felix-x"), "{chains:?}");
    });
}

#[test]
fn a_change_writes_only_its_chain() {
    on_both_backends(|backend| {
        let mut tables = open(backend);
        wants(&mut tables);
        apply(&mut tables);

        set(&mut tables, FILTER, chain("cali-from", &[jump("cali-new")]));
        set(&mut tables, FILTER, chain("cali-new", &[dropped().when(protocol(Protocol::UDP))]));
        let lines = apply(&mut tables);

        // Table, two declarations, two rules, commit.
        assert_eq!(lines, 6);
        assert_eq!(rules(backend, "filter", "cali-from"), ["-j cali-new"]);
        set(&mut tables, FILTER, chain("cali-from", &[dropped()]));
        tables.set_chain(FILTER, ChainName::fixed("cali-new"), None);
        apply(&mut tables);
        assert!(!saved(backend, "filter").iter().any(|line| line.contains("cali-new")));
        assert_eq!(tables.resync().unwrap(), 0);
    });
}

#[test]
fn pods_are_inserted_into_the_dispatch_and_deleted_from_it() {
    on_both_backends(|backend| {
        let mut tables = open(backend);
        wants(&mut tables);
        pods(&mut tables, &["cali1", "cali2"]);
        apply(&mut tables);
        let goto = |pod: &str| format!("-i {pod} -g cali-fw-{pod}");

        pods(&mut tables, &["cali1", "cali2", "cali3"]);
        apply(&mut tables);
        let front = [goto("cali3"), goto("cali1"), goto("cali2"), "-j DROP".to_owned()];
        assert_eq!(rules(backend, "filter", "cali-from-wl-dispatch"), front);
        assert_eq!(tables.resync().unwrap(), 0);

        pods(&mut tables, &["cali2"]);
        apply(&mut tables);
        let left = [goto("cali2"), "-j DROP".to_owned()];
        assert_eq!(rules(backend, "filter", "cali-from-wl-dispatch"), left);
        assert!(rules(backend, "filter", "cali-fw-cali1").is_empty());
        assert_eq!(tables.resync().unwrap(), 0);
    });
}

/// Wants the dispatch to these pods, and of `cali1` to `cali3` no others.
fn pods(tables: &mut Iptables<IptablesTools>, interfaces: &[&str]) {
    for pod in ["cali1", "cali2", "cali3"] {
        let chain = chain(&format!("cali-fw-{pod}"), &[returns()]);
        tables.set_chain(FILTER, chain.name.clone(), interfaces.contains(&pod).then_some(chain));
    }
    let goto = |pod: &&str| {
        let chain = ChainName::limited("cali-fw-", pod);
        PacketRule::new(RuleAction::Goto(chain)).when(Match::InInterface(InterfaceMatch::named(pod)))
    };
    let dispatch: Vec<_> = interfaces.iter().map(goto).chain([dropped()]).collect();
    set(tables, FILTER, chain("cali-from-wl-dispatch", &dispatch));
}

#[test]
fn a_table_that_fails_names_its_line_and_stops_no_other() {
    on_both_backends(|backend| {
        let mut tables = open(backend);
        wants(&mut tables);
        let bad =
            chain("cali-bad", &[returns().when(protocol(Protocol::TCP)), dropped().when(ports_of_nothing())]);
        set(&mut tables, IptablesTable::Mangle, bad);
        set(&mut tables, IptablesTable::Mangle, chain("cali-good", &[returns()]));
        set(&mut tables, IptablesTable::Raw, chain("cali-PREROUTING", &[jump("cali-missing")]));

        let start = clock();
        let applied = tables.apply(start).unwrap();

        let failed: Vec<_> = applied.failed.iter().map(|refused| refused.table).collect();
        assert_eq!(failed, [IptablesTable::Raw, IptablesTable::Mangle], "{:?}", applied.failed);
        let text = applied.failed[1].error.to_string();
        assert!(text.contains("--source-ports 1 --jump DROP]"), "{text}");
        assert!(applied.failed[0].error.to_string().contains("cali-missing"), "{}", applied.failed[0].error);
        assert_eq!(rules(backend, "mangle", "cali-good"), ["-j RETURN"], "beside a bad chain");
        assert_eq!(rules(backend, "filter", "FORWARD").len(), 2);
        assert_eq!(rules(backend, "nat", "POSTROUTING").len(), 1);
        let due = tables.poll_timeout().unwrap();
        assert_eq!(tables.apply(start).unwrap().lines, 0, "not before its time");

        set(
            &mut tables,
            IptablesTable::Mangle,
            chain("cali-bad", &[returns().when(protocol(Protocol::TCP))]),
        );
        set(&mut tables, IptablesTable::Raw, chain("cali-PREROUTING", &[]));
        let applied = tables.apply(due).unwrap();

        assert!(applied.failed.is_empty(), "{:?}", applied.failed);
        assert_eq!(rules(backend, "filter", "FORWARD").len(), 2);
        assert!(tables.is_settled());
    });
}

#[test]
fn appended_jumps_come_behind_the_users_rules() {
    on_both_backends(|backend| {
        edit(backend, &["-A", "FORWARD", "-s", "192.0.2.7", "-j", "DROP"]);
        let mut tables = open(backend);
        tables.set_insert_mode(ChainInsertMode::Append);
        wants(&mut tables);

        apply(&mut tables);
        let forward = rules(backend, "filter", "FORWARD");
        assert_eq!(forward[..2], ["-s 192.0.2.7/32 -j DROP", "-j cali-FORWARD"]);
        assert_eq!(tables.resync().unwrap(), 0);

        tables.set_insert_mode(ChainInsertMode::Insert);
        apply(&mut tables);
        assert_eq!(rules(backend, "filter", "FORWARD")[0], "-j cali-FORWARD");
    });
}

#[test]
fn nothing_wanted_leaves_nothing_behind() {
    on_both_backends(|backend| {
        let mut tables = open(backend);
        wants(&mut tables);
        apply(&mut tables);
        edit(backend, &["-A", "FORWARD", "-s", "192.0.2.7", "-j", "DROP"]);

        // As when another backend has taken over.
        apply(&mut open(backend));

        let left: Vec<_> = saved(backend, "filter").into_iter().filter(|l| l.contains("cali")).collect();
        assert_eq!(left, Vec::<String>::new());
        assert_eq!(rules(backend, "filter", "FORWARD"), ["-s 192.0.2.7/32 -j DROP"]);
    });
}

#[test]
fn ipv6_has_tables_of_its_own() {
    for backend in [Backend::Legacy, Backend::Nft] {
        in_new_netns(|| {
            if !works(backend) {
                return;
            }
            let tools = IptablesTools::new(backend, Family::V6).unwrap();
            let mut tables = Iptables::new(tools, ChainInsertMode::Insert);
            wants(&mut tables);

            apply(&mut tables);

            let six = run(&format!("ip6tables-{backend}-save"), &[]);
            assert!(six.contains(":cali-FORWARD "), "{six}");
            assert!(!run(&format!("iptables-{backend}-save"), &[]).contains("cali"));
        });
    }
}

#[test]
fn the_backend_in_use_is_detected() {
    in_new_netns(|| {
        if !works(Backend::Nft) {
            return;
        }
        run("iptables-nft", &["-t", "mangle", "-N", "KUBE-KUBELET-CANARY"]);
        assert_eq!(Backend::detect().unwrap(), Backend::Nft);
        run("iptables-nft", &["-t", "mangle", "-X", "KUBE-KUBELET-CANARY"]);
        let (ok, text) = attempt("iptables-legacy", &["-t", "mangle", "-N", "KUBE-IPTABLES-HINT"]);
        assert!(ok, "{text}");
        assert_eq!(Backend::detect().unwrap(), Backend::Legacy);
    });
}

#[test]
fn looking_for_the_backend_leaves_nothing_behind() {
    in_new_netns(|| {
        if works(Backend::Nft) {
            // A table that was left would be in the way of the second look.
            IptablesTools::new(Backend::Nft, Family::V4).unwrap();
            IptablesTools::new(Backend::Nft, Family::V4).unwrap();
        }
    });
}

#[test]
fn what_others_write_to_legacy_tables_shows_by_a_number() {
    in_new_netns(|| {
        let mut tables = open(Backend::Legacy);
        wants(&mut tables);
        apply(&mut tables);
        assert!(!tables.is_disturbed(), "our own writes count as others'");

        edit(Backend::Legacy, &["-F", "cali-from"]);

        assert!(tables.is_disturbed());
        assert!(tables.resync().unwrap() > 0);
        apply(&mut tables);
        assert!(!tables.is_disturbed());
    });
}

#[test]
fn the_kernel_says_who_wrote_rules_of_nftables() {
    in_new_netns(|| {
        if !works(Backend::Nft) {
            return;
        }
        let mut events = RuleEvents::open().unwrap();
        let mut tables = open(Backend::Nft);
        wants(&mut tables);

        apply(&mut tables);
        let own = events.receive().unwrap();
        edit(Backend::Nft, &["-F", "cali-from"]);
        let mut others = events.receive().unwrap();

        let is_own = |event: &RuleEvent| match event {
            RuleEvent::Iptables { writer, .. } => tables.driver().has_written(*writer),
            _ => false,
        };
        // The look for the family's support writes too, as the kernel says only to those who listen.
        assert!(own.iter().any(is_own), "{own:?}");
        assert!(!others.is_empty() && !others.iter().any(is_own), "{others:?}");
        let named = |event: &RuleEvent| matches!(event, RuleEvent::Commit { process, pid, .. } if process.starts_with("iptables") && *pid > 0);
        while !others.iter().any(named) {
            others = events.receive().unwrap();
        }
    });
}

#[test]
fn leftovers_of_the_other_backend_go_and_others_rules_stay() {
    in_new_netns(|| {
        if !works(Backend::Nft) {
            return;
        }
        for (old, new) in [(Backend::Legacy, Backend::Nft), (Backend::Nft, Backend::Legacy)] {
            edit(old, &["-N", "KUBE-FIREWALL"]);
            edit(old, &["-A", "KUBE-FIREWALL", "-s", "192.0.2.1", "-j", "DROP"]);
            edit(old, &["-A", "FORWARD", "-j", "KUBE-FIREWALL"]);
            let mut tables = open(old);
            wants(&mut tables);
            apply(&mut tables);

            let tools = IptablesTools::of_leftovers(new.other(), Family::V4).expect("there is something");
            let mut leftovers = Iptables::new(tools, ChainInsertMode::Insert);
            apply(&mut leftovers);

            let text = run(&format!("iptables-{old}-save"), &[]);
            assert!(!text.contains("cali"), "{text}");
            assert!(text.contains("-A KUBE-FIREWALL -s 192.0.2.1/32 -j DROP"), "{text}");
            edit(old, &["-F"]);
            edit(old, &["-X"]);
        }
    });
}

#[test]
fn a_lock_that_is_held_is_named_and_waited_for() {
    // Everybody on the machine waits for the lock that all share: this test is in a process with a lock of its own.
    let Some(path) = std::env::var_os("XTABLES_LOCKFILE") else {
        let path = std::env::temp_dir().join(format!("xtables-{}.lock", std::process::id()));
        let mut own = std::process::Command::new(std::env::current_exe().unwrap());
        own.args(["--exact", "a_lock_that_is_held_is_named_and_waited_for"]).env("XTABLES_LOCKFILE", &path);
        let output = own.output().unwrap();
        let _ = std::fs::remove_file(&path);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    };
    in_new_netns(|| {
        let mut tables = open(Backend::Legacy);
        wants(&mut tables);
        tables.driver_mut().set_lock_patience(Duration::from_millis(20));
        let lock = std::fs::File::create(path).unwrap();
        lock.lock().unwrap();

        let refused = tables.apply(clock()).unwrap().failed;
        assert!(!refused.is_empty());
        assert!(refused.iter().all(|refused| refused.error.to_string().contains("lock")), "{refused:?}");
        lock.unlock().unwrap();
        tables.driver_mut().set_lock_patience(Duration::from_secs(60));
        tables.apply(tables.poll_timeout().expect("it is tried again")).unwrap();

        assert!(tables.is_settled());
        assert!(tables.driver_mut().take_times().is_some_and(|times| times.run > Duration::ZERO));
    });
}
