//! Each kind of thing by itself: host endpoints, network sets, Services, profiles, staged policies.

use felix_calc::{Calc, Change};
use kernel::IpSetMember;
use model::{
    Action, HostEndpoint, HostEndpointInterface, NetworkSet, NetworkSetKey, NodeName, ObjectKey, PodKey,
    Policy, PolicyKey, PolicyKind, PortMatch, PortRange, Profile, Protocol, Rule, Selector, ServicePort,
    StagedAction, Update,
};

use crate::state::{
    NODE, State, applied, check_walk, labels, namespace, pod, policy, slice, stored, tell_all,
};

fn id(selector: &str) -> String {
    selector.parse::<Selector>().unwrap().set_id()
}

fn host(name: &str, node: &str, pairs: &[(&str, &str)], profiles: &[&str]) -> HostEndpoint {
    HostEndpoint {
        name: name.into(),
        node: NodeName::from(node),
        interface: Some(HostEndpointInterface::Named("eth0".into())),
        expected_ips: vec![format!("172.20.0.{}", name.len()).parse().unwrap()],
        labels: labels(pairs),
        profiles: profiles.iter().map(|name| (*name).into()).collect(),
        ports: Vec::new(),
    }
}

fn has(host: &HostEndpoint) -> Update {
    Update::HostEndpoint(host.name.clone(), Some(Box::new(host.clone())))
}

fn network_set(namespace: Option<&str>, pairs: &[(&str, &str)], nets: &[&str]) -> Update {
    let nets = nets.iter().map(|net| net.parse().unwrap()).collect();
    let set = NetworkSet { labels: labels(pairs), nets };
    Update::NetworkSet(NetworkSetKey::new(namespace, "nets"), Some(set))
}

fn profile(name: &str, ingress: Vec<Rule>, pairs: &[(&str, &str)]) -> Update {
    let profile = Profile { name: name.into(), ingress, egress: Vec::new(), labels: labels(pairs) };
    Update::Profile(name.into(), Some(Box::new(profile)))
}

/// A policy of both directions without rules.
fn bare(name: &str, selector: &str) -> Policy {
    let mut policy = policy(name, selector, "all()");
    (policy.ingress, policy.applies_to_egress) = (Vec::new(), true);
    policy
}

/// A local pod `default/web` to which everything in the state applies.
fn with_web() -> State {
    let web = pod("web", "10.0.0.1", &[("app", "web")]);
    State::default().with(namespace(&[])).with(stored(&web)).with_local(&web)
}

#[test]
fn policies_of_a_host_endpoint_stand_where_they_are_asked() {
    let untracked = Policy { do_not_track: true, apply_on_forward: true, ..bare("untracked", "has(host)") };
    let pre_dnat = Policy { pre_dnat: true, apply_on_forward: true, ..bare("pre", "has(host)") };
    let forward = Policy { apply_on_forward: true, ..bare("forward", "all()") };
    let base = with_web().with(has(&host("h", NODE, &[("host", "")], &[])));
    let base = [untracked, pre_dnat, forward, bare("normal", "all()")]
        .iter()
        .fold(base, |state, policy| state.with(applied(policy)));
    let pod = "endpoint default/web: default in [gnp/forward gnp/normal] out [gnp/forward gnp/normal] deny";
    let policies = ["policy gnp/forward", "policy gnp/normal", "policy gnp/pre", "policy gnp/untracked"];

    check_walk(&[
        base.clone().leads_to(&[
            policies[0],
            policies[1],
            policies[2],
            policies[3],
            pod,
            "host h: untracked default in [gnp/untracked] out [gnp/untracked] deny | \
             preDNAT default in [gnp/pre] out [] deny | \
             forward default in [gnp/forward] out [gnp/forward] deny | \
             normal default in [gnp/forward gnp/normal] out [gnp/forward gnp/normal] deny profiles []",
        ]),
        // A pod with such labels does not make policies active that bind host endpoints alone.
        base.clone()
            .without("host h")
            .with(stored(&crate::state::pod("web", "10.0.0.1", &[("host", "")])))
            .leads_to(&[policies[0], policies[1], pod]),
        base.without("pod default/web"),
    ]);
}

#[test]
fn host_endpoints_of_all_nodes_are_in_sets_and_this_nodes_are_endpoints() {
    let base = with_web().with(applied(&policy("p", "app == 'web'", "has(host)")));
    let here = host("here", NODE, &[("host", "")], &["projectcalico-default-allow"]);
    let there = host("elsewhere", "n2", &[("host", "")], &[]);
    let nowhere = HostEndpoint { expected_ips: Vec::new(), ..there.clone() };
    let endpoint = "endpoint default/web: default in [gnp/p] out [] deny";

    check_walk(&[
        base.clone().with(has(&here)).with(has(&there)).leads_to(&[
            &format!("set {}: 172.20.0.4 172.20.0.9", id("has(host)")),
            "policy gnp/p",
            "profile projectcalico-default-allow: in [Allow] out [Allow]",
            endpoint,
            "host here:  profiles [projectcalico-default-allow]",
        ]),
        base.with(has(&nowhere)).leads_to(&[&format!("set {}: ", id("has(host)")), "policy gnp/p", endpoint]),
    ]);
}

#[test]
fn a_host_endpoint_inherits_labels_of_its_profiles_and_its_own_come_first() {
    let endpoint = host("h", NODE, &[("zone", "a")], &["own", "kns.default"]);
    let base = with_web().with(has(&endpoint)).with(applied(&bare("p", "zone == 'a' && role == 'b'")));
    let line = |tiers: &str| format!("host h: {tiers} profiles [own kns.default]");
    let matched = line("normal default in [gnp/p] out [gnp/p] deny");
    let denies = "profile own: in [Deny] out [Deny]";

    check_walk(&[
        base.clone().leads_to(&[denies, "endpoint default/web:", &line("")]),
        base.with(profile("own", vec![Rule::any(Action::Allow)], &[("zone", "z"), ("role", "b")]))
            .leads_to(&["policy gnp/p", "profile own: in [Allow] out []", "endpoint default/web:", &matched]),
    ]);
}

#[test]
fn rules_of_profiles_have_sets_like_those_of_policies() {
    let rule = policy("", "all()", "app == 'web'").ingress.remove(0);
    let base = with_web().with(has(&host("h", NODE, &[], &["own"])));
    let set = format!("set {}: 10.0.0.1", id("app == 'web'"));

    check_walk(&[
        base.clone().with(profile("own", vec![rule.clone()], &[])).leads_to(&[
            &set,
            "profile own: in [Allow] out []",
            "endpoint default/web:",
            "host h:  profiles [own]",
        ]),
        // Nobody uses it.
        base.without("host h").with(profile("own", vec![rule], &[])).leads_to(&["endpoint default/web:"]),
    ]);
}

#[test]
fn network_sets_are_members_by_their_labels_and_their_namespaces() {
    let by_team = policy("p", "app == 'web'", "pcns.team == 'a' && kind == 'nets'");
    let base = with_web().with(applied(&by_team)).with(namespace(&[("team", "a")]));
    let selector = id("(pcns.team == 'a' && kind == 'nets')");
    let lines = |members: &str| {
        let endpoint = "endpoint default/web: default in [gnp/p] out [] deny".to_owned();
        [format!("set {selector}: {members}"), "policy gnp/p".to_owned(), endpoint]
    };
    let leads = |state: State, members: &str| state.leads_to(&lines(members).each_ref().map(String::as_str));
    let nets = |nets: &[&str]| network_set(Some("default"), &[("kind", "nets")], nets);

    check_walk(&[
        leads(base.clone().with(nets(&["10.1.0.0/16", "10.1.2.0/24"])), "10.1.0.0/16 10.1.2.0/24"),
        leads(base.clone().with(nets(&["0.0.0.0/0", "10.1.2.0/24"])), "0.0.0.0/0 10.1.2.0/24"),
        leads(base.clone().with(nets(&["0.0.0.0/0"])).with(namespace(&[("team", "b")])), ""),
        // No one can pretend to be in another namespace.
        leads(
            base.with(nets(&[])).with(namespace(&[])).with(network_set(
                Some("default"),
                &[("kind", "nets"), ("pcns.team", "a")],
                &["10.0.0.0/8"],
            )),
            "",
        ),
    ]);
}

#[test]
fn a_services_set_follows_its_endpoints() {
    let service = Some(ObjectKey::new("default", "db"));
    let mut allow = policy("p", "app == 'web'", "all()");
    allow.ingress[0].source.selector = None;
    allow.ingress[0].source.service.clone_from(&service);
    (allow.egress, allow.applies_to_egress) = (vec![Rule::any(Action::Allow)], true);
    allow.egress[0].destination.service = service;
    let base = with_web().with(applied(&allow));
    let ports = |port| vec![ServicePort { name: "".into(), protocol: Protocol::TCP, port }];
    let part = |name: &str, service: &str, last: u8, port| {
        slice(name, service, vec![[10, 0, 1, last].into()], ports(port))
    };
    let lines = |with_ports: &str, without: &str| {
        [
            format!("set svc:3Cs4BthDPDutOQkACBvrHoSPdO3B_5Bht8SwYA: {with_ports}"),
            format!("set svcnoport:_feIcJRKgpbxbUAuabwz8DUUDbmoPD5eCOszPA: {without}"),
            "policy gnp/p".to_owned(),
            "endpoint default/web: default in [gnp/p] out [gnp/p] deny".to_owned(),
        ]
    };
    let leads = |state: State, with_ports: &str, without: &str| {
        state.leads_to(&lines(with_ports, without).each_ref().map(String::as_str))
    };

    check_walk(&[
        leads(base.clone(), "", ""),
        leads(base.clone().with(part("s", "db", 1, 80)), "10.0.1.1,TCP:80", "10.0.1.1"),
        leads(
            base.clone().with(part("s", "db", 1, 81)).with(part("t", "db", 1, 81)),
            "10.0.1.1,TCP:81",
            "10.0.1.1",
        ),
        leads(base.clone().with(part("s", "web", 1, 80)), "", ""),
        leads(
            base.with(part("s", "db", 1, 80)).with(part("t", "db", 2, 53)),
            "10.0.1.1,TCP:80 10.0.1.2,TCP:53",
            "10.0.1.1 10.0.1.2",
        ),
    ]);
}

#[test]
fn staged_policies_are_asked_about_and_never_active() {
    let key = |name: &str| PolicyKey::new(PolicyKind::StagedGlobalNetworkPolicy, None, name);
    let staged = |name: &str, order, of: &str| Policy {
        key: key(name),
        order,
        staged: Some(StagedAction::Set),
        ..policy(name, of, "all()")
    };
    let state = with_web()
        .with(applied(&staged("late", None, "all()")))
        .with(applied(&staged("early", Some(1.0), "app == 'web'")))
        .with(applied(&staged("other", None, "app == 'other'")));
    check_walk(&[state.clone().leads_to(&["endpoint default/web:"])]);
    let mut calc = Calc::new(NodeName::from(NODE));
    tell_all(&mut calc, state);

    let names = |pod: &PodKey| -> Vec<String> {
        calc.staged_of(pod).iter().map(|policy| policy.key.to_string()).collect()
    };
    assert_eq!(names(&PodKey::new("default", "web")), ["sgnp/early", "sgnp/late"]);
    assert!(names(&PodKey::new("default", "unknown")).is_empty());
}

#[test]
fn a_policy_that_every_node_needs_is_active_without_an_endpoint() {
    let needed = Policy { needed_everywhere: true, ..policy("p", "app == 'nobody'", "app == 'web'") };
    let set = format!("set {}: 10.0.0.1", id("app == 'web'"));

    check_walk(&[
        with_web().with(applied(&needed)).leads_to(&[&set, "policy gnp/p", "endpoint default/web:"]),
        with_web().with(applied(&Policy { needed_everywhere: false, ..needed })),
    ]);
}

#[test]
fn a_new_version_of_a_policy_is_told_though_it_says_the_same() {
    let version = |generation| Policy { generation, ..policy("p", "all()", "all()") };
    let mut calc = Calc::new(NodeName::from(NODE));
    tell_all(&mut calc, with_web());
    calc.apply(Update::InSync);
    calc.apply(applied(&version(1)));
    calc.flush();

    calc.apply(applied(&version(2)));
    let changes = calc.flush();

    assert!(
        matches!(&changes[..], [Change::Policy(_, Some(policy))] if policy.generation == 2),
        "{changes:?}"
    );
}

#[test]
fn a_named_port_without_a_protocol_is_every_protocols_and_its_selector_narrows_it() {
    let port = |protocol, port| model::EndpointPort { name: "dns".to_owned(), protocol, port };
    let mut db = pod("db", "10.0.0.2", &[("app", "db")]);
    db.ports = vec![port(Protocol::TCP, 53), port(Protocol::UDP, 5353)];
    let mut other = pod("other", "10.0.0.3", &[("app", "other")]);
    other.ports = db.ports.clone();
    let mut allow = policy("p", "app == 'web'", "all()");
    allow.ingress[0].source.selector = None;
    allow.ingress[0].destination.selector = Some("app == 'db'".parse().unwrap());
    allow.ingress[0].destination.ports = vec![PortMatch::Named("dns".to_owned())];
    let base = with_web().with(stored(&db)).with(stored(&other));
    let address = db.addresses[0];

    let members = base.clone().with(applied(&allow)).members();

    assert_eq!(
        members,
        [IpSetMember::IpPort(address, Protocol::TCP, 53), IpSetMember::IpPort(address, Protocol::UDP, 5353),]
    );
    // With a number beside it, the selector has a set of its own.
    allow.ingress[0].destination.ports.push(PortMatch::Range(PortRange::single(80)));
    check_walk(&[base.clone(), base.with(applied(&allow))]);
}

#[test]
fn policies_of_one_order_and_name_stand_by_namespace_and_kind() {
    let named = |kind, namespace: Option<&str>| Policy {
        key: PolicyKey::new(kind, namespace, "same"),
        ..bare("same", "all()")
    };
    let state = with_web()
        .with(applied(&named(PolicyKind::NetworkPolicy, Some("default"))))
        .with(applied(&named(PolicyKind::KubernetesNetworkPolicy, Some("default"))))
        .with(applied(&named(PolicyKind::GlobalNetworkPolicy, None)));
    let order = "[gnp/same knp/default/same np/default/same]";

    check_walk(&[state.leads_to(&[
        "policy knp/default/same",
        "policy np/default/same",
        "policy gnp/same",
        &format!("endpoint default/web: default in {order} out {order} deny"),
    ])]);
}

#[test]
fn ten_thousand_rules_and_a_selector_of_64_kilobytes_come_and_go() {
    let values: Vec<_> = (0..6000).map(|number| format!("'value-{number}'")).collect();
    let long = format!("app in {{{}, 'web'}}", values.join(", "));
    assert!(long.len() > 64 << 10);
    let mut many = policy("many", "app == 'web'", "all()");
    many.ingress = (0..10_000)
        .map(|number| policy("", "all()", &format!("app == 'app-{number}'")).ingress.remove(0))
        .collect();
    let mut calc = Calc::new(NodeName::from(NODE));
    tell_all(&mut calc, with_web().with(applied(&policy("long", &long, &long))).with(applied(&many)));
    calc.apply(Update::InSync);
    let sets = |changes: &[Change], there: bool| {
        let is = |change: &&Change| matches!(change, Change::IpSet(_, set) if set.is_some() == there);
        changes.iter().filter(is).count()
    };

    assert_eq!(sets(&calc.flush(), true), 10_001);
    for name in ["many", "long"] {
        calc.apply(Update::Policy(PolicyKey::new(PolicyKind::GlobalNetworkPolicy, None, name), None));
    }
    assert_eq!(sets(&calc.flush(), false), 10_001);
}

/// A cluster in which `pods` pods are clients in ten apps, and a local one allows four apps; what one more
/// client's change of labels says, and how many selectors are tried for it.
fn cost_of_a_change(pods: usize, policies: usize) -> (usize, u64) {
    let mut calc = Calc::new(NodeName::from(NODE));
    calc.apply(namespace(&[]));
    let client = |number: usize, app: usize| {
        let address = format!("10.1.{}.{}", number / 250, number % 250);
        stored(&pod(&format!("client-{number}"), &address, &[("app", &format!("app-{app}")), ("client", "")]))
    };
    (0..pods).for_each(|number| calc.apply(client(number, number % 10)));
    tell_all(&mut calc, with_web());
    for number in 0..policies {
        let from = format!("app == 'app-{}' && has(client)", number % 400);
        calc.apply(applied(&policy(&format!("p-{number}"), "app == 'web'", &from)));
    }
    calc.apply(Update::InSync);
    calc.flush();
    let before = calc.selectors_tried();
    let unlike_others = [("app", "app-1"), ("client", ""), ("own", "")];
    calc.apply(stored(&pod("client-0", "10.1.0.0", &unlike_others)));
    let changes = calc.flush().into_iter().map(|change| match change {
        Change::IpSetDelta { added, removed, .. } => added.len() + removed.len(),
        other => panic!("{other:?} is more than the change of one pod"),
    });
    (changes.sum(), calc.selectors_tried() - before)
}

#[test]
fn a_change_of_labels_tries_no_more_selectors_where_there_are_more_pods_and_policies() {
    let (members, small) = cost_of_a_change(20, 20);
    let (members_of_many, large) = cost_of_a_change(2000, 800);

    // It leaves one set and enters another one.
    assert_eq!((members, members_of_many), (2, 2));
    assert_eq!(small, large);
    assert!((1..5).contains(&large), "{large} selectors were tried");
}
