//! A whole node in memory: calculation and renderer on one side, a fake kernel that refuses what the real one
//! refuses on the other.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use felix_calc::Calc;
use felix_dataplane::{
    ClusterDrivers, Dataplane, Drivers, EndpointState, Kind, Ports, Refresh, Report, Touched,
    WireguardDrivers,
};
use felix_render::{RenderSettings, Renderer, RuleDataplane};
use kernel::fake::{
    Entry, FakeFdb, FakeIpSets, FakeIptables, FakeKernel, FakeNeighbours, FakeNft, FakeRoutes, FakeSysctls,
    FakeTunnels, FakeVxlans, FakeWireguardLinks, FakeWireguardPeers,
};
use kernel::{
    IpSetName, IptablesTable, NextHop, Optional, PROTO_BIRD, PROTO_BOOT, PROTO_FELIX, Route, RouteKey,
    RouteKind, RuleEvent, WireguardPeerKey,
};
use model::{
    Action, AllowedUse, AssignmentMode, Block, Cidr, EncapMode, Family, FelixConfiguration, IpPool, Labels,
    LocalEndpoint, NodeAddress, NodeName, Pod, PodKey, Policy, PolicyKey, PolicyKind, Rule, Selector,
    Tunnels, Update, WireguardKey, WireguardSettings,
};

const WEB: &str = "cali00000000web";
const DB: &str = "cali000000000db";

#[test]
fn a_pod_is_programmed_when_everything_is_in_the_kernel() {
    let mut node = Node::new();
    node.add_pod("web", WEB, "10.65.0.1");
    node.sync();

    node.apply();

    assert_eq!(node.dataplane.endpoint(WEB), EndpointState::Programmed);
    assert_eq!(node.dataplane.endpoint("cali-other"), EndpointState::Unknown);
    assert!(node.has_route("10.65.0.1/32", WEB));
    assert!(node.kernel.chain(Family::V4, IptablesTable::Filter, &format!("cali-tw-{WEB}")).is_some());
    assert_eq!(node.dataplane.status().failing, []);
}

#[test]
fn a_restart_adopts_what_is_there_and_writes_nothing() {
    let mut before = Node::new();
    before.add_pod("web", WEB, "10.65.0.1");
    before.deny_to("web", "db");
    before.sync();
    before.apply();
    before.apply();
    let written = before.kernel.state().writes;

    let mut after = Node::over(before.kernel.clone());
    after.add_pod("web", WEB, "10.65.0.1");
    after.deny_to("web", "db");
    after.sync();
    let report = after.apply();

    // Sysctls cannot be told apart from what they were, and writing them again harms nobody.
    let changed: Vec<_> = report.changed.keys().filter(|kind| **kind != Kind::Sysctls).collect();
    assert!(changed.is_empty(), "{changed:?} were written again");
    let sysctls = report.changed.get(&Kind::Sysctls).copied().unwrap_or_default();
    assert_eq!(after.kernel.state().writes, written + sysctls);
    assert_eq!(after.dataplane.endpoint(WEB), EndpointState::Programmed);
}

#[test]
fn what_an_earlier_run_left_and_nobody_wants_is_swept() {
    let mut before = Node::new();
    before.add_pod("web", WEB, "10.65.0.1");
    before.add_pod("db", DB, "10.65.0.2");
    before.deny_to("web", "db");
    before.sync();
    before.apply();

    let mut after = Node::over(before.kernel.clone());
    after.kernel.remove_link(DB);
    after.add_pod("web", WEB, "10.65.0.1");
    after.sync();
    after.apply();

    assert_eq!(after.kernel.chain(Family::V4, IptablesTable::Filter, &format!("cali-tw-{DB}")), None);
    let state = after.kernel.state();
    assert!(state.ip_sets.keys().all(|name| !name.as_str().contains("s:")), "selector sets are still there");
}

#[test]
fn a_route_to_a_pod_that_nobody_took_down_stays() {
    let kernel = FakeKernel::new();
    kernel.add_link("cali0000unknown");
    let (key, route) = route_to("10.65.0.9/32", "cali0000unknown");
    kernel.state().routes.insert(key, route);
    let mut node = Node::over(kernel);
    node.add_pod("web", WEB, "10.65.0.1");
    let (foreign, route) = route_to("10.99.0.1/32", WEB);
    node.kernel.state().routes.insert(foreign, route);
    node.sync();

    node.apply();

    assert!(node.has_route("10.65.0.9/32", "cali0000unknown"), "the pod may be alive");
    assert!(!node.has_route("10.99.0.1/32", WEB), "all routes of a pod of ours are known");
}

#[test]
fn what_others_delete_is_put_back() {
    let mut node = Node::new();
    node.add_pod("web", WEB, "10.65.0.1");
    node.deny_to("web", "db");
    node.sync();
    node.apply();
    {
        let mut state = node.kernel.state();
        state.routes.clear();
        state.neighbours.clear();
        let filter = state.chains.get_mut(&(Family::V4, IptablesTable::Filter)).unwrap();
        filter.rules.get_mut("cali-FORWARD").unwrap().clear();
    }

    node.dataplane.resync(node.now);
    let report = node.apply();

    assert!(report.resynced[&Kind::Chains(Family::V4)] > 0, "{report:?}");
    assert!(report.resynced[&Kind::Routes] > 0, "{report:?}");
    assert!(node.has_route("10.65.0.1/32", WEB));
    assert!(
        !node.kernel.chain(Family::V4, IptablesTable::Filter, "cali-FORWARD").unwrap().is_empty(),
        "the chain is still empty"
    );
    assert_eq!(node.dataplane.endpoint(WEB), EndpointState::Programmed);
}

#[test]
fn everything_is_read_back_when_its_refresh_is_due() {
    let minute = Duration::from_secs(60);
    let mut node = Node::new();
    let refresh = Refresh {
        iptables: minute,
        iptables_after_write: Duration::ZERO,
        ip_sets: minute,
        nftables: minute,
        routes: minute,
    };
    node.dataplane.set_refresh(refresh, node.now);
    node.add_pod("web", WEB, "10.65.0.1");
    node.sync();
    node.settle();
    node.kernel.state().routes.clear();

    let due = node.dataplane.poll_timeout().expect("a refresh is planned");
    assert!(due > node.now && due <= node.now + minute);
    node.now += minute;
    node.apply();

    assert!(node.has_route("10.65.0.1/32", WEB));
}

#[test]
fn a_link_that_comes_back_gets_its_routes_at_once() {
    let mut node = Node::new();
    node.add_pod("web", WEB, "10.65.0.1");
    node.sync();
    node.settle();
    node.kernel.remove_link(WEB);
    node.kernel.add_link(WEB);

    node.dataplane.link_changed(WEB);
    node.apply();

    assert!(node.has_route("10.65.0.1/32", WEB));
    assert_eq!(node.dataplane.endpoint(WEB), EndpointState::Programmed);
}

#[test]
fn one_entry_that_fails_stops_no_other_and_is_named() {
    let mut node = Node::new();
    node.add_pod("web", WEB, "10.65.0.1");
    node.add_pod("db", DB, "10.65.0.2");
    let (key, _) = route_to("10.65.0.1/32", WEB);
    node.kernel.refuse(Entry::Route(key));
    node.sync();

    node.apply();

    assert_eq!(node.dataplane.endpoint(DB), EndpointState::Programmed);
    let missing = node.missing(WEB);
    assert!(missing.iter().any(|what| what.contains("10.65.0.1/32")), "{missing:?}");
    let status = node.dataplane.status();
    assert_eq!(status.pending[&Kind::Routes], 1);
    assert_eq!(status.failing.len(), 1, "{:?}", status.failing);

    node.kernel.heal();
    node.now = node.dataplane.poll_timeout().expect("it will be tried again");
    node.apply();
    assert_eq!(node.dataplane.endpoint(WEB), EndpointState::Programmed);
}

#[test]
fn a_pod_whose_set_cannot_be_written_is_closed_and_the_others_work() {
    let mut node = Node::new();
    node.add_pod("web", WEB, "10.65.0.1");
    node.add_pod("db", DB, "10.65.0.2");
    node.deny_to("web", "db");
    node.sync();
    let set = node.wanted_selector_set();
    node.kernel.refuse(Entry::IpSet(set.clone()));

    node.apply();

    assert_eq!(node.dataplane.endpoint(DB), EndpointState::Programmed);
    let missing = node.missing(WEB);
    assert!(missing.iter().any(|what| what.contains(set.as_str())), "{missing:?}");
    let chains = node.kernel.state();
    let filter = &chains.chains[&(Family::V4, IptablesTable::Filter)].rules;
    let policy: Vec<_> = filter.iter().filter(|(name, _)| name.starts_with("cali-pi-")).collect();
    assert!(
        policy.iter().all(|(_, rules)| rules.len() == 1 && rules[0].contains("DROP")),
        "not closed: {policy:?}"
    );
    drop(chains);

    node.kernel.heal();
    node.now += Duration::from_secs(11);
    node.apply();
    assert_eq!(node.dataplane.endpoint(WEB), EndpointState::Programmed);
}

#[test]
fn a_set_that_a_rule_of_others_holds_is_named_until_it_lets_go() {
    let mut node = Node::new();
    node.add_pod("web", WEB, "10.65.0.1");
    node.deny_to("web", "db");
    node.sync();
    node.apply();
    let set = node.wanted_selector_set();
    let foreign = format!("-m set --match-set {set} src -j ACCEPT");
    node.kernel.state().chains.get_mut(&FILTER).unwrap().rules.insert("INPUT".to_owned(), vec![foreign]);

    // Nobody of ours needs the set any more, and another pod comes.
    node.calc.apply(Update::Policy(deny_key(), None));
    node.add_pod("db", DB, "10.65.0.2");
    node.apply();
    node.now = node.dataplane.poll_timeout().expect("the policy's chain goes a little later");
    node.apply();

    assert_eq!(node.dataplane.endpoint(DB), EndpointState::Programmed);
    let status = node.dataplane.status();
    assert_eq!(status.pending[&Kind::IpSets], 1);
    assert!(status.failing.len() == 1 && status.failing[0].what.contains(set.as_str()), "{status:?}");
    assert!(node.kernel.state().ip_sets.contains_key(&set));

    node.kernel.state().chains.get_mut(&FILTER).unwrap().rules.insert("INPUT".to_owned(), Vec::new());
    node.now = node.dataplane.poll_timeout().expect("it will be tried again");
    node.apply();
    assert!(!node.kernel.state().ip_sets.contains_key(&set));
    assert_eq!(node.dataplane.status().failing, []);
}

#[test]
fn when_changes_were_lost_everything_is_read_again() {
    for uses_nftables in [false, true] {
        let mut node = Node::new();
        if uses_nftables {
            node.use_nftables(true);
        }
        node.add_pod("web", WEB, "10.65.0.1");
        node.sync();
        node.settle();
        let nft = node.kernel.state().nft.clone();
        let chains = node.kernel.state().chains.clone();
        {
            let mut state = node.kernel.state();
            state.nft.clear();
            if !uses_nftables {
                state.chains.get_mut(&FILTER).unwrap().rules.get_mut("cali-FORWARD").unwrap().clear();
            }
        }

        node.dataplane.rules_written(RuleEvent::Overrun, node.now);
        node.settle();

        assert_eq!(node.kernel.state().nft, nft);
        assert_eq!(node.kernel.state().chains, chains);
    }
}

#[test]
fn a_pod_waits_for_its_link_and_says_so() {
    let mut node = Node::new();
    node.add_pod("web", WEB, "10.65.0.1");
    node.kernel.remove_link(WEB);
    node.sync();

    node.apply();
    let missing = node.missing(WEB);
    node.kernel.add_link(WEB);
    node.dataplane.link_changed(WEB);
    node.apply();

    assert!(missing.iter().any(|what| what.contains(WEB)), "{missing:?}");
    assert_eq!(node.dataplane.endpoint(WEB), EndpointState::Programmed);
}

#[test]
fn a_deleted_pod_leaves_nothing() {
    let mut node = Node::new();
    node.sync();
    node.apply();
    let routes = node.kernel.state().routes.clone();
    let chains = node.filter_chains();
    node.add_pod("web", WEB, "10.65.0.1");
    node.deny_to("web", "db");
    node.apply();
    assert_ne!(node.filter_chains(), chains);

    node.remove_pod("web", WEB);
    node.apply();
    assert_eq!(node.kernel.state().routes, routes, "routes go at once, chains with those of other pods");
    node.settle();

    assert_eq!(node.kernel.state().routes, routes);
    assert_eq!(node.filter_chains(), chains);
    assert_eq!(node.dataplane.endpoint(WEB), EndpointState::Unknown);
}

#[test]
fn when_nothing_can_be_read_back_nothing_is_lost_and_it_is_tried_again() {
    let mut node = Node::new();
    node.kernel.refuse(Entry::Lists);
    node.add_pod("web", WEB, "10.65.0.1");
    node.sync();

    let report = node.apply();
    assert!(!report.failed.is_empty());
    assert_ne!(node.dataplane.endpoint(WEB), EndpointState::Programmed);

    node.kernel.heal();
    node.settle();
    assert_eq!(node.dataplane.endpoint(WEB), EndpointState::Programmed);
    assert_eq!(node.dataplane.status().failing, []);
}

#[test]
fn an_idle_node_has_nothing_to_do_but_its_refreshes() {
    let mut node = Node::new();
    node.add_pod("web", WEB, "10.65.0.1");
    node.sync();
    node.settle();
    let written = node.kernel.state().writes;

    assert_eq!(node.dataplane.poll_timeout(), None);
    let report = node.apply();

    assert_eq!(report, Report::default());
    assert_eq!(node.kernel.state().writes, written);
}

#[test]
fn a_change_of_policy_names_the_pods_that_it_concerns() {
    let mut node = Node::new();
    node.add_pod("web", WEB, "10.65.0.1");
    node.add_pod("db", DB, "10.65.0.2");
    node.sync();
    node.settle();

    node.deny_to("web", "other");
    for change in node.calc.flush() {
        node.renderer.apply(change);
    }
    let output = node.renderer.flush();
    let touched = Touched::from(&output);
    node.dataplane.want(output);
    assert_eq!(node.dataplane.touched_pods(&touched), [WEB]);

    // A set that its rules look up gets a member.
    node.add_pod("other", "cali0000000other", "10.65.0.3");
    for change in node.calc.flush() {
        node.renderer.apply(change);
    }
    let output = node.renderer.flush();
    let touched = Touched::from(&output);
    node.dataplane.want(output);
    assert!(node.dataplane.touched_pods(&touched).contains(&WEB.to_owned()));
}

#[test]
fn an_audit_names_what_differs_and_changes_nothing() {
    let mut node = Node::new();
    node.add_pod("web", WEB, "10.65.0.1");
    node.deny_to("web", "db");
    node.sync();
    node.settle();
    assert!(node.dataplane.audit().is_clean(), "{:?}", node.dataplane.audit());
    let set = node.wanted_selector_set();
    {
        let mut state = node.kernel.state();
        state.routes.clear();
        let stale = state.ip_sets[&set].clone();
        state.ip_sets.insert(IpSetName::new(Family::V4, "s:stale"), stale);
        state.chains.get_mut(&FILTER).unwrap().rules.get_mut("cali-FORWARD").unwrap().pop();
        let sysctl = format!("net/ipv4/conf/{WEB}/proxy_arp");
        state.sysctls.insert(sysctl, "0".to_owned());
    }
    let before = node.kernel.state().writes;

    let audit = node.dataplane.audit();

    assert_eq!(node.kernel.state().writes, before);
    let differing =
        |kind: Kind| audit.kinds[&kind].differences.iter().map(|d| d.what.clone()).collect::<Vec<_>>();
    assert_eq!(differing(Kind::Routes), ["10.65.0.1/32"]);
    assert_eq!(differing(Kind::IpSets), ["cali40s:stale"]);
    assert_eq!(differing(Kind::Chains(Family::V4)), ["table filter: chain cali-FORWARD"]);
    assert_eq!(differing(Kind::Sysctls), [format!("net/ipv4/conf/{WEB}/proxy_arp")]);
    node.apply();
    assert!(node.dataplane.audit().is_clean(), "{:?}", node.dataplane.audit());
}

#[test]
fn an_audit_names_who_else_wrote_where_the_kernel_tells() {
    let mut node = Node::new();
    node.add_pod("web", WEB, "10.65.0.1");
    node.sync();
    node.settle();
    let named = |writer| RuleEvent::Commit { writer, process: "nft".into(), pid: 42 };

    node.dataplane.rules_written(named(7), node.now);
    assert_eq!(
        node.dataplane.audit().kinds[&Kind::Chains(Family::V4)].writer,
        None,
        "it wrote nothing of ours"
    );
    node.dataplane.rules_written(RuleEvent::Iptables { family: Family::V4, writer: 7 }, node.now);
    node.dataplane.rules_written(named(7), node.now);

    let audit = node.dataplane.audit();
    let writer = audit.kinds[&Kind::Chains(Family::V4)].writer.clone().expect("a writer");
    assert_eq!((&*writer.process, writer.pid, writer.at), ("nft", 42, node.now));
    assert_eq!(audit.kinds[&Kind::IpSets].writer, None);
}

#[test]
fn others_who_write_without_end_delay_nothing() {
    let mut node = Node::new();
    node.add_pod("web", WEB, "10.65.0.1");
    node.sync();
    node.settle();
    node.now += Duration::from_secs(1);
    let event = RuleEvent::Iptables { family: Family::V4, writer: 7 };
    for _ in 0..1000 {
        node.dataplane.rules_written(event.clone(), node.now);
    }
    node.apply();
    node.kernel.state().chains.get_mut(&FILTER).unwrap().rules.get_mut("cali-FORWARD").unwrap().clear();

    for _ in 0..1000 {
        node.dataplane.rules_written(event.clone(), node.now);
    }
    let due = node.dataplane.poll_timeout().expect("it is read again");

    assert!(due <= node.now + Duration::from_secs(1), "in {:?}", due - node.now);
    node.now = due;
    node.apply();
    assert!(!node.kernel.chain(Family::V4, IptablesTable::Filter, "cali-FORWARD").unwrap().is_empty());
}

#[test]
fn rules_move_to_another_backend_and_the_old_one_is_swept_after() {
    let mut node = Node::new();
    node.add_pod("web", WEB, "10.65.0.1");
    node.deny_to("web", "db");
    node.sync();
    node.settle();
    let other = FakeKernel::new();
    let sets = node.kernel.state().ip_sets.clone();
    other.state().ip_sets = sets;
    other.refuse(Entry::Table(Family::V4, IptablesTable::Filter));
    let old = node.filter_chains();
    node.kernel
        .state()
        .chains
        .get_mut(&FILTER)
        .unwrap()
        .rules
        .get_mut("FORWARD")
        .unwrap()
        .push(FOREIGN.into());

    node.dataplane.replace_iptables(Family::V4, Optional::present(other.iptables(Family::V4)), node.now);
    node.apply();
    assert_eq!(node.filter_chains(), old, "nothing else would hold the policy");

    other.heal();
    node.now += Duration::from_secs(11);
    node.apply();
    let rules = |kernel: &FakeKernel| kernel.state().chains[&FILTER].rules.clone();
    assert!(rules(&other).contains_key(&format!("cali-tw-{WEB}")));
    let left: Vec<_> = rules(&node.kernel).into_values().flatten().collect();
    assert_eq!(left, [FOREIGN]);
    assert!(rules(&node.kernel).keys().all(|name| !name.starts_with("cali-")));
    assert_eq!(node.dataplane.endpoint(WEB), EndpointState::Programmed);
}

#[test]
fn with_nftables_everything_of_policy_is_in_its_tables() {
    let mut node = Node::new();
    node.use_nftables(true);
    node.add_pod("web", WEB, "10.65.0.1");
    node.add_pod("db", DB, "10.65.0.2");
    node.deny_to("web", "db");
    node.sync();

    node.settle();

    assert_eq!(node.dataplane.endpoint(WEB), EndpointState::Programmed);
    assert!(node.dataplane.audit().is_clean(), "{:?}", node.dataplane.audit());
    assert!(node.filter_chains().iter().all(|name| !name.starts_with("cali-")));
    assert!(node.kernel.state().ip_sets.is_empty());
    let map = node.kernel.state().nft[&Family::V4].maps["filter-cali-from-wl-dispatch"].clone();
    assert_eq!(map.keys().map(|name| &**name).collect::<Vec<_>>(), [DB, WEB]);

    node.remove_pod("web", WEB);
    node.settle();
    assert_eq!(node.dataplane.endpoint(WEB), EndpointState::Unknown);
    assert_eq!(node.dataplane.audit().kinds[&Kind::Nftables].differences, []);
}

#[test]
fn with_nftables_a_pod_whose_policy_is_refused_is_named_and_the_others_are_not() {
    let mut node = Node::new();
    node.use_nftables(true);
    node.add_pod("web", WEB, "10.65.0.1");
    node.add_pod("db", DB, "10.65.0.2");
    node.sync();
    node.kernel.refuse(Entry::Nft(format!("filter-cali-tw-{WEB}")));

    node.apply();

    assert_eq!(node.dataplane.endpoint(DB), EndpointState::Programmed);
    let missing = node.missing(WEB);
    assert!(missing.iter().any(|what| what.contains("told to refuse")), "{missing:?}");
    node.kernel.heal();
    node.settle();
    assert_eq!(node.dataplane.endpoint(WEB), EndpointState::Programmed);
}

#[test]
fn policy_moves_between_iptables_and_nftables_and_is_never_in_neither() {
    let mut node = Node::new();
    node.add_pod("web", WEB, "10.65.0.1");
    node.add_pod("db", DB, "10.65.0.2");
    node.deny_to("web", "db");
    node.sync();
    node.settle();
    let iptables = node.kernel.state().chains.clone();
    let sets = node.kernel.state().ip_sets.clone();

    node.kernel.refuse(Entry::NftCommit);
    node.use_nftables(true);
    node.apply();
    assert_eq!(node.kernel.state().chains, iptables, "nothing else would hold the policy");
    assert!(matches!(node.dataplane.endpoint(WEB), EndpointState::Missing(_)));

    node.kernel.heal();
    node.settle();
    assert_eq!(node.dataplane.endpoint(WEB), EndpointState::Programmed);
    assert!(node.filter_chains().iter().all(|name| !name.starts_with("cali-")));
    assert!(node.kernel.state().ip_sets.is_empty());

    let tables = node.kernel.state().nft.clone();
    node.kernel.refuse(Entry::Table(Family::V4, IptablesTable::Filter));
    node.use_nftables(false);
    node.apply();
    assert_eq!(node.kernel.state().nft, tables, "nothing else would hold the policy");

    node.kernel.heal();
    node.now += Duration::from_secs(11);
    node.settle();
    assert_eq!(node.dataplane.endpoint(WEB), EndpointState::Programmed);
    assert!(node.kernel.state().nft.is_empty());
    assert_eq!(node.kernel.state().ip_sets, sets);
    assert_eq!(node.kernel.state().chains, iptables);
}

#[test]
fn with_nftables_what_somebody_else_took_away_comes_back_when_it_is_told() {
    let mut node = Node::new();
    node.use_nftables(true);
    node.add_pod("web", WEB, "10.65.0.1");
    node.sync();
    node.settle();
    let whole = node.kernel.state().nft.clone();
    node.kernel.state().nft.clear();

    node.dataplane.rules_written(RuleEvent::Native { writer: 77 }, node.now);
    node.apply();

    assert_eq!(node.kernel.state().nft, whole);
}

#[test]
fn nftables_needs_neither_iptables_nor_ip_sets() {
    let installed = Arc::new(AtomicBool::new(false));
    let mut node = Node::with_tools(FakeKernel::new(), &installed);
    node.add_pod("web", WEB, "10.65.0.1");
    node.add_pod("db", DB, "10.65.0.2");
    node.deny_to("web", "db");
    node.use_nftables(true);
    node.sync();

    node.settle();

    assert_eq!(node.dataplane.endpoint(WEB), EndpointState::Programmed);
    assert_eq!(node.dataplane.status().failing, []);
    assert!(node.dataplane.audit().is_clean(), "{:?}", node.dataplane.audit());

    // What is asked for in vain is said, and done as soon as it can be; until then policy stays where it is.
    node.use_nftables(false);
    node.apply();
    let missing = node.missing(WEB);
    assert!(missing.iter().any(|what| what.contains("it is not installed")), "{missing:?}");
    assert!(node.kernel.state().nft.contains_key(&Family::V4));

    installed.store(true, Ordering::Relaxed);
    node.settle();
    assert_eq!(node.dataplane.endpoint(WEB), EndpointState::Programmed);
    assert!(node.kernel.state().nft.is_empty());
    assert!(!node.kernel.state().ip_sets.is_empty());
}

const FILTER: (Family, IptablesTable) = (Family::V4, IptablesTable::Filter);
const FOREIGN: &str = "-s 192.0.2.7 -j DROP";

struct Fake;

impl Ports for Fake {
    type IpSets = Optional<FakeIpSets>;
    type Iptables = Optional<FakeIptables>;
    type Routes = FakeRoutes;
    type Neighbours = FakeNeighbours;
    type Sysctls = FakeSysctls;
    type Tunnels = FakeTunnels;
    type Nftables = FakeNft;
    type Vxlans = FakeVxlans;
    type Fdb = FakeFdb;
    type WireguardLinks = FakeWireguardLinks;
    type WireguardPeers = FakeWireguardPeers;

    fn routes_of_others(routes: &mut FakeRoutes) -> io::Result<BTreeSet<Cidr>> {
        routes.of_others()
    }
}

fn is_of_pod(route: &Route) -> bool {
    ![PROTO_FELIX, PROTO_BIRD].contains(&route.protocol)
}

fn is_vxlan(interface: &str) -> bool {
    interface.starts_with("vxlan")
}

/// One node over a fake kernel.
struct Node {
    kernel: FakeKernel,
    calc: Calc,
    renderer: Renderer,
    dataplane: Dataplane<Fake>,
    now: Instant,
}

impl Node {
    fn new() -> Self {
        Self::over(FakeKernel::new())
    }

    fn over(kernel: FakeKernel) -> Self {
        Self::with_tools(kernel, &Arc::new(AtomicBool::new(true)))
    }

    /// iptables and IP sets are on the node while `installed` says so.
    fn with_tools(kernel: FakeKernel, installed: &Arc<AtomicBool>) -> Self {
        let now = Instant::now();
        let checked = || {
            let installed = installed.clone();
            move || match installed.load(Ordering::Relaxed) {
                true => Ok(()),
                false => Err(io::Error::other("it is not installed")),
            }
        };
        let iptables = |family| {
            let (kernel, check) = (kernel.clone(), checked());
            Optional::new(move || check().map(|()| kernel.iptables(family))).0
        };
        let ip_sets = {
            let (kernel, check) = (kernel.clone(), checked());
            Optional::new(move || check().map(|()| kernel.ip_sets())).0
        };
        let drivers = Drivers {
            ip_sets,
            iptables: iptables(Family::V4),
            ip6tables: Some(iptables(Family::V6)),
            nftables: Some(kernel.nft()),
            routes: kernel.routes_where(is_of_pod),
            neighbours: kernel.neighbours_of(|name| !is_vxlan(name)),
            sysctls: kernel.sysctls(),
            tunnels: kernel.tunnels(),
            cluster: ClusterDrivers {
                vxlans: kernel.vxlans(),
                fdb: kernel.fdb(),
                neighbours: kernel.neighbours_of(is_vxlan),
                routes: kernel.routes_where(|route| route.protocol == PROTO_FELIX),
                wireguard: WireguardDrivers {
                    links: kernel.wireguard_links(),
                    peers: kernel.wireguard_peers(),
                },
            },
        };
        let mut calc = Calc::new(NodeName::from("n1"));
        calc.apply(Update::Namespace("default".to_owned(), Some(Labels::new())));
        let renderer = Renderer::new(RenderSettings::default());
        Self { kernel, calc, renderer, dataplane: Dataplane::new(drivers, now), now }
    }

    fn add_pod(&mut self, name: &str, interface: &str, address: &str) {
        self.kernel.add_link(interface);
        let key = PodKey::new("default", name);
        let address = address.parse().unwrap();
        self.calc.apply(Update::Pod(
            key.clone(),
            Some(Pod {
                key: key.clone(),
                uid: name.to_owned(),
                node: Some(NodeName::from("n1")),
                addresses: vec![address],
                labels: Labels::from([("app".to_owned(), name.to_owned())]),
                ports: Vec::new(),
                service_account: None,
                host_network: false,
                annotations: Labels::new(),
            }),
        ));
        let endpoint = LocalEndpoint {
            container_id: name.to_owned(),
            pod: key,
            interface: interface.to_owned(),
            addresses: vec![address],
            mac: [2, 0, 0, 0, 0, 1],
        };
        self.calc.set_local_endpoint(interface.to_owned(), Some(endpoint));
    }

    fn remove_pod(&mut self, name: &str, interface: &str) {
        self.calc.set_local_endpoint(interface.to_owned(), None);
        self.calc.apply(Update::Pod(PodKey::new("default", name), None));
        let kind = PolicyKind::KubernetesNetworkPolicy;
        let key = PolicyKey { kind, namespace: Some("default".into()), name: "deny".into() };
        self.calc.apply(Update::Policy(key, None));
    }

    /// Pods with app=`to` take nothing from pods with app=`from`.
    fn deny_to(&mut self, to: &str, from: &str) {
        let key = deny_key();
        let selector = |app: &str| format!("app == \"{app}\"").parse::<Selector>().unwrap();
        let mut rule = Rule::any(Action::Deny);
        rule.source.selector = Some(selector(from));
        let policy = Policy {
            order: Some(1000.0),
            applies_to_ingress: true,
            ingress: vec![rule, Rule::any(Action::Allow)],
            ..Policy::new(key.clone(), selector(to))
        };
        self.calc.apply(Update::Policy(key, Some(Box::new(policy))));
    }

    fn use_nftables(&mut self, wanted: bool) {
        assert!(self.dataplane.use_nftables(wanted, self.now));
        let dataplane = if wanted { RuleDataplane::Nftables } else { RuleDataplane::Iptables };
        self.renderer.set_dataplane(dataplane);
    }

    fn sync(&mut self) {
        self.calc.apply(Update::InSync);
    }

    fn apply(&mut self) -> Report {
        for change in self.calc.flush() {
            self.renderer.apply(change);
        }
        self.dataplane.want(self.renderer.flush());
        self.dataplane.apply(self.now, |_| {})
    }

    /// Applies until nothing is due within the next ten seconds.
    fn settle(&mut self) {
        self.apply();
        let end = self.now + Duration::from_secs(10);
        while let Some(due) = self.dataplane.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.apply();
        }
        let status = self.dataplane.status();
        assert!(status.pending.values().all(|pending| *pending == 0), "it never comes to rest: {status:?}");
    }

    fn missing(&self, interface: &str) -> Vec<String> {
        match self.dataplane.endpoint(interface) {
            EndpointState::Missing(what) => what,
            state => panic!("{interface} is {state:?}"),
        }
    }

    fn has_route(&self, destination: &str, interface: &str) -> bool {
        let destination: Cidr = destination.parse().unwrap();
        let state = self.kernel.state();
        state.routes.iter().any(|(key, route)| {
            let RouteKind::Unicast(hops) = &route.kind else { return false };
            key.destination == destination
                && hops.iter().any(|hop| hop.interface.as_deref() == Some(interface))
        })
    }

    fn filter_chains(&self) -> Vec<String> {
        let state = self.kernel.state();
        state.chains[&(Family::V4, IptablesTable::Filter)].rules.keys().cloned().collect()
    }

    /// The set of the policy's selector, found by a run on another kernel.
    fn wanted_selector_set(&self) -> IpSetName {
        let mut other = Node::new();
        other.add_pod("web", WEB, "10.65.0.1");
        other.add_pod("db", DB, "10.65.0.2");
        other.deny_to("web", "db");
        other.sync();
        other.apply();
        let state = other.kernel.state();
        let mut sets = state.ip_sets.keys().filter(|name| name.as_str().starts_with("cali40s:"));
        sets.next().expect("the policy's selector has a set").clone()
    }
}

/// What [`Node::deny_to`] writes.
fn deny_key() -> PolicyKey {
    PolicyKey::new(PolicyKind::KubernetesNetworkPolicy, Some("default"), "deny")
}

fn route_to(destination: &str, interface: &str) -> (RouteKey, Route) {
    let hop = NextHop { gateway: None, interface: Some(interface.to_owned()), onlink: false };
    let kind = RouteKind::Unicast(vec![hop]);
    let key = RouteKey::new(destination.parse().unwrap(), 1024);
    (key, Route { kind, protocol: PROTO_BOOT, source: None, mtu: None })
}

/// A node with a pool and a block on another node, both with addresses of VXLAN tunnels.
fn with_remote_block(node: &mut Node, vxlan_mode: EncapMode) {
    let host = |name: &str, address: &str, tunnel: &str| {
        let address = address.parse().unwrap();
        let node = model::Node {
            ipv4: Some(NodeAddress { address, length: 24 }),
            internal_ips: vec![address],
            tunnels: Tunnels { vxlan: tunnel.parse().ok(), ..Tunnels::default() },
            ..model::Node::named(name)
        };
        Update::Node(name.into(), Some(node))
    };
    node.calc.apply(host("n1", "192.0.2.1", "10.65.0.1"));
    node.calc.apply(host("n2", "198.51.100.2", "10.65.2.1"));
    node.set_mode(vxlan_mode);
    let block = Block {
        cidr: REMOTE.parse().unwrap(),
        affinity: Some("n2".into()),
        allocations: vec![None; 64],
        unallocated: Vec::new(),
        attributes: Vec::new(),
        sequence_number: 0,
        sequence_number_for_allocation: BTreeMap::new(),
        deleted: false,
    };
    node.calc.apply(Update::Block(block.cidr, Some(Box::new(block))));
    let own = BTreeSet::from(["192.0.2.1".parse().unwrap()]);
    node.kernel.add_link("eth0");
    node.renderer.set_host_links(BTreeMap::from([("eth0".to_owned(), own)]));
}

const REMOTE: &str = "10.65.2.0/26";

impl Node {
    fn set_mode(&mut self, vxlan_mode: EncapMode) {
        let pool = IpPool {
            name: "a".to_owned(),
            cidr: "10.65.0.0/16".parse().unwrap(),
            ipip_mode: EncapMode::Never,
            vxlan_mode,
            nat_outgoing: false,
            disabled: false,
            disable_bgp_export: false,
            block_size: 26,
            node_selector: Selector::all(),
            namespace_selector: Selector::all(),
            allowed_uses: vec![AllowedUse::Workload],
            assignment_mode: AssignmentMode::Automatic,
            deleting: false,
            created: 0,
        };
        self.calc.apply(Update::Pool("a".to_owned(), Some(pool)));
    }

    /// Who routes to the other node's block, through which link.
    fn remote(&self) -> Vec<(u8, String)> {
        let state = self.kernel.state();
        let to = state.routes.iter().filter(|(key, _)| key.destination == REMOTE.parse().unwrap());
        let link = |route: &Route| route.hops()[0].interface.clone().unwrap_or_default();
        to.map(|(_, route)| (route.protocol, link(route))).collect()
    }

    fn speaker_writes(&self) {
        let hop = NextHop { gateway: None, interface: Some("eth0".to_owned()), onlink: false };
        let kind = RouteKind::Unicast(vec![hop]);
        let route = Route { kind, protocol: PROTO_BIRD, source: None, mtu: None };
        self.kernel.state().routes.insert(RouteKey::new(REMOTE.parse().unwrap(), 1024), route);
    }
}

#[test]
fn a_pool_with_vxlan_leads_through_its_link_to_who_is_behind_it() {
    let mut node = Node::new();
    with_remote_block(&mut node, EncapMode::Always);
    node.sync();

    node.apply();

    assert_eq!(node.remote(), [(PROTO_FELIX, "vxlan.calico".to_owned())]);
    let state = node.kernel.state();
    let link = &state.vxlans["vxlan.calico"];
    assert_eq!((link.vni, link.port, link.parent.as_str()), (4096, 4789, "eth0"));
    assert_eq!(link.address, "10.65.0.1".parse().ok());
    let behind: Vec<_> = state.fdb.values().map(|entry| entry.destination.to_string()).collect();
    assert_eq!(behind, ["198.51.100.2"]);
    assert!(state.neighbours.keys().any(|key| key.address.to_string() == "10.65.2.1"));
}

#[test]
fn a_route_is_handed_to_the_speaker_when_its_own_is_there() {
    let mut node = Node::new();
    with_remote_block(&mut node, EncapMode::Always);
    node.sync();
    node.apply();
    let ours = (PROTO_FELIX, "vxlan.calico".to_owned());

    node.set_mode(EncapMode::Never);
    node.apply();
    node.apply();
    assert_eq!(node.remote(), std::slice::from_ref(&ours), "nobody else has one");
    assert_eq!(node.dataplane.held_routes().count(), 1);
    assert!(node.kernel.state().fdb.len() == 1, "who is behind it stays, too");

    node.speaker_writes();
    node.dataplane.others_routes_changed(node.now);
    node.apply();
    assert_eq!(node.remote(), [(PROTO_BIRD, "eth0".to_owned())]);
    assert_eq!(node.dataplane.held_routes().count(), 0);

    node.set_mode(EncapMode::Always);
    node.apply();
    assert_eq!(node.remote(), [ours, (PROTO_BIRD, "eth0".to_owned())], "and back, beside it");
}

#[test]
fn an_agent_that_restarts_in_the_middle_keeps_the_way_and_hands_it_over() {
    let mut before = Node::new();
    with_remote_block(&mut before, EncapMode::Always);
    before.sync();
    before.apply();

    let mut after = Node::over(before.kernel.clone());
    with_remote_block(&mut after, EncapMode::Never);
    after.sync();
    after.apply();
    assert_eq!(after.remote(), [(PROTO_FELIX, "vxlan.calico".to_owned())]);

    after.speaker_writes();
    after.dataplane.others_routes_changed(after.now);
    after.apply();
    assert_eq!(after.remote(), [(PROTO_BIRD, "eth0".to_owned())]);
}

#[test]
fn a_route_to_a_block_that_is_gone_goes_at_once() {
    let mut node = Node::new();
    with_remote_block(&mut node, EncapMode::Always);
    node.sync();
    node.apply();

    node.calc.apply(Update::Block(REMOTE.parse().unwrap(), None));
    node.apply();

    assert_eq!(node.remote(), []);
}

#[test]
fn a_link_that_is_made_anew_gets_back_what_stood_on_it() {
    let mut node = Node::new();
    with_remote_block(&mut node, EncapMode::Always);
    node.sync();
    node.apply();
    node.kernel.remove_link("vxlan.calico");

    node.dataplane.resync_cluster(node.now);
    node.apply();

    assert_eq!(node.remote(), [(PROTO_FELIX, "vxlan.calico".to_owned())]);
    assert_eq!((node.kernel.state().fdb.len(), node.dataplane.status().failing.len()), (1, 0));
}

const WIREGUARD: &str = "wireguard.cali";

/// The node behind the WireGuard link, by its key.
fn other_node() -> WireguardPeerKey {
    WireguardPeerKey { interface: WIREGUARD.to_owned(), key: WireguardKey([2; 32]) }
}

impl Node {
    fn encrypt(&mut self, enabled: bool) {
        let wireguard = WireguardSettings { enabled, ..WireguardSettings::default() };
        let configuration = FelixConfiguration { wireguard, ..FelixConfiguration::default() };
        self.calc.apply(Update::FelixConfiguration(Some(Box::new(configuration))));
    }

    /// The other node tells, or tells not any more, that it takes WireGuard.
    fn other_takes(&mut self, takes: bool) {
        let address = "198.51.100.2".parse().unwrap();
        let wireguard_key = takes.then_some(other_node().key);
        let tunnels = Tunnels { vxlan: "10.65.2.1".parse().ok(), wireguard_key, ..Tunnels::default() };
        let node = model::Node {
            ipv4: Some(NodeAddress { address, length: 24 }),
            internal_ips: vec![address],
            tunnels,
            ..model::Node::named("n2")
        };
        self.calc.apply(Update::Node("n2".into(), Some(node)));
    }

    fn other_answers(&self) {
        self.kernel.state().wireguard_handshakes.insert(other_node());
    }

    /// Applies until the way to the other node's block is this.
    fn comes_to(&mut self, way: &[(u8, &str)]) {
        let end = self.now + Duration::from_secs(600);
        loop {
            self.apply();
            let present = self.remote();
            let is_so =
                present.iter().map(|(protocol, link)| (*protocol, link.as_str())).eq(way.iter().copied());
            let Some(due) = self.dataplane.poll_timeout().filter(|due| *due <= end && !is_so) else {
                assert!(is_so, "{present:?} is no {way:?}");
                return;
            };
            self.now = self.now.max(due);
        }
    }
}

/// A node with WireGuard whose speaker has a way to the other node's block.
fn encrypting() -> Node {
    let mut node = Node::new();
    with_remote_block(&mut node, EncapMode::Never);
    node.speaker_writes();
    node.encrypt(true);
    node.sync();
    node.apply();
    node
}

const PLAIN: (u8, &str) = (PROTO_BIRD, "eth0");
const ENCRYPTED: (u8, &str) = (PROTO_FELIX, WIREGUARD);

#[test]
fn nothing_is_sent_through_wireguard_before_the_other_node_has_answered() {
    let mut node = encrypting();
    assert_eq!(node.dataplane.wireguard_keys().len(), 1, "it takes WireGuard before it sends any");
    assert_eq!(node.kernel.state().wireguards[WIREGUARD].port, 51820);

    node.other_takes(true);
    node.settle();
    node.comes_to(&[PLAIN]);
    let peer = node.kernel.state().wireguard_peers[&other_node()].clone();
    assert_eq!(peer.endpoint.to_string(), "198.51.100.2:51820");
    assert!(peer.allowed.contains(&REMOTE.parse().unwrap()));
    assert_eq!(node.dataplane.silent_wireguard_peers(), [other_node()]);

    node.other_answers();
    node.comes_to(&[ENCRYPTED, PLAIN]);
    assert!(node.dataplane.silent_wireguard_peers().is_empty());
    assert!(node.dataplane.audit().is_clean(), "{:?}", node.dataplane.audit());
}

#[test]
fn a_destination_without_any_other_way_is_sent_through_wireguard_at_once() {
    let mut node = Node::new();
    with_remote_block(&mut node, EncapMode::Never);
    node.encrypt(true);
    node.other_takes(true);
    node.sync();

    node.comes_to(&[ENCRYPTED]);
}

#[test]
fn when_wireguard_is_switched_off_routes_go_first_and_the_link_later() {
    let mut node = encrypting();
    node.other_takes(true);
    node.other_answers();
    node.comes_to(&[ENCRYPTED, PLAIN]);

    node.encrypt(false);
    node.apply();

    assert_eq!(node.remote(), [(PLAIN.0, PLAIN.1.to_owned())]);
    assert!(node.dataplane.wireguard_keys().is_empty(), "nobody shall begin to send");
    let is_there = |node: &Node| {
        let state = node.kernel.state();
        (state.wireguards.contains_key(WIREGUARD), state.wireguard_peers.contains_key(&other_node()))
    };
    assert_eq!(is_there(&node), (true, true), "others may still send");
    assert_eq!(node.dataplane.status().failing, []);

    node.now += Duration::from_secs(31);
    node.settle();
    assert_eq!(is_there(&node), (false, false));
}

#[test]
fn a_node_that_withdraws_its_key_gets_plain_packets_and_may_come_back() {
    let mut node = encrypting();
    node.other_takes(true);
    node.other_answers();
    node.comes_to(&[ENCRYPTED, PLAIN]);

    node.other_takes(false);
    node.apply();
    assert_eq!(node.remote(), [(PLAIN.0, PLAIN.1.to_owned())]);

    node.other_takes(true);
    node.comes_to(&[ENCRYPTED, PLAIN]);
}

#[test]
fn an_agent_that_restarts_keeps_what_is_encrypted_so_although_nobody_answers() {
    let mut before = encrypting();
    before.other_takes(true);
    before.other_answers();
    before.comes_to(&[ENCRYPTED, PLAIN]);
    before.kernel.state().wireguard_handshakes.clear();

    let mut after = Node::over(before.kernel.clone());
    with_remote_block(&mut after, EncapMode::Never);
    after.encrypt(true);
    after.other_takes(true);
    after.sync();
    after.apply();

    assert_eq!(after.remote().first(), Some(&(ENCRYPTED.0, ENCRYPTED.1.to_owned())));
    assert!(after.kernel.state().wireguards.contains_key(WIREGUARD));
}

#[test]
fn a_kernel_without_wireguard_leaves_everything_as_it_was_and_says_so() {
    let mut node = Node::new();
    with_remote_block(&mut node, EncapMode::Never);
    node.speaker_writes();
    node.kernel.refuse(Entry::Wireguard(WIREGUARD.to_owned()));
    node.encrypt(true);
    node.other_takes(true);
    node.sync();

    let report = node.apply();

    assert_eq!(node.remote(), [(PLAIN.0, PLAIN.1.to_owned())]);
    assert!(node.dataplane.wireguard_keys().is_empty());
    assert_eq!(report.failed.len(), 1, "nobody is tried to be put behind no link: {report:?}");
    let errors: Vec<String> = node.dataplane.wireguard_errors().collect();
    assert!(errors.iter().any(|error| error.starts_with(WIREGUARD)), "{errors:?}");

    node.kernel.heal();
    node.other_answers();
    node.comes_to(&[ENCRYPTED, PLAIN]);
}

#[test]
fn a_pool_with_vxlan_is_encrypted_instead_and_back() {
    let mut node = Node::new();
    with_remote_block(&mut node, EncapMode::Always);
    node.sync();
    node.apply();
    node.encrypt(true);
    node.other_takes(true);
    node.other_answers();
    node.comes_to(&[ENCRYPTED]);

    node.encrypt(false);
    node.comes_to(&[(PROTO_FELIX, "vxlan.calico")]);
}

#[test]
fn a_wireguard_link_that_vanishes_is_made_anew_and_waits_for_answers_again() {
    let mut node = encrypting();
    node.other_takes(true);
    node.other_answers();
    node.comes_to(&[ENCRYPTED, PLAIN]);
    node.kernel.remove_link(WIREGUARD);

    node.dataplane.resync_cluster(node.now);
    node.apply();
    assert_eq!(node.dataplane.wireguard_keys().len(), 1);
    assert_eq!(node.remote(), [(PLAIN.0, PLAIN.1.to_owned())]);

    node.other_answers();
    node.comes_to(&[ENCRYPTED, PLAIN]);
}
