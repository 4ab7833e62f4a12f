//! The states.

use felix_calc::Calc;
use kernel::IpSetMember;
use model::{EndpointPort, NodeName, PortMatch, Protocol, Selector, Update};

use crate::state::{State, applied, check_walk, labels, namespace, pod, policy, stored, tier};

fn id(selector: &str) -> String {
    selector.parse::<Selector>().unwrap().set_id()
}

#[test]
fn only_what_local_endpoints_are_subject_to_is_active() {
    let web = pod("web", "10.0.0.1", &[("app", "web")]);
    let client = pod("client", "10.0.1.1", &[("app", "client")]);
    let allow = policy("allow", "app == 'web'", "app == 'client'");
    let remote = State::default().with(namespace(&[])).with(stored(&web)).with(stored(&client));
    let with_policy = remote.clone().with(applied(&allow));
    let clients = format!("set {}: 10.0.1.1", id("app == 'client'"));
    let local = with_policy.clone().with_local(&web);

    check_walk(&[
        remote.leads_to(&[]),
        with_policy.leads_to(&[]),
        local.clone().leads_to(&[
            &clients,
            "policy gnp/allow",
            "endpoint default/web: default in [gnp/allow] out [] deny",
        ]),
        local.clone().with(stored(&pod("web", "10.0.0.1", &[]))).leads_to(&["endpoint default/web:"]),
        local.clone().without("policy gnp/allow").leads_to(&["endpoint default/web:"]),
        local
            .clone()
            .without("pod default/web")
            .leads_to(&["endpoint default/web: closed, the Pod is not known"]),
        local
            .without("namespace default")
            .leads_to(&["endpoint default/web: closed, the Namespace is not known"]),
    ]);
}

#[test]
fn members_are_counted_and_sets_are_shared() {
    let web = pod("web", "10.0.0.1", &[("app", "web")]);
    let (one, two) = (pod("one", "10.0.1.1", &[("c", "")]), pod("two", "10.0.1.1", &[("c", "")]));
    let base = State::default().with(namespace(&[])).with(stored(&web)).with_local(&web);
    let base = base.with(applied(&policy("p", "app == 'web'", "has(c)")));
    let base = base.with(applied(&policy("q", "all()", "has(c)")));
    let endpoint = "endpoint default/web: default in [gnp/p gnp/q] out [] deny";
    let lines = |members: &str| format!("set {}: {members}", id("has(c)"));

    let both = base.clone().with(stored(&one)).with(stored(&two));
    check_walk(&[
        base.leads_to(&[&lines(""), "policy gnp/p", "policy gnp/q", endpoint]),
        both.clone().leads_to(&[&lines("10.0.1.1"), "policy gnp/p", "policy gnp/q", endpoint]),
        both.clone().without("pod default/one").leads_to(&[
            &lines("10.0.1.1"),
            "policy gnp/p",
            "policy gnp/q",
            endpoint,
        ]),
        both.without("policy gnp/p").leads_to(&[
            &lines("10.0.1.1"),
            "policy gnp/q",
            "endpoint default/web: default in [gnp/q] out [] deny",
        ]),
    ]);
}

#[test]
fn labels_are_inherited_from_namespace_and_service_account() {
    let web = pod("web", "10.0.0.1", &[("pcns.team", "forged")]);
    let base = State::default().with(stored(&web)).with_local(&web);
    let base = base.with(applied(&policy("ns", "pcns.team == 'a'", "all()")));
    let base = base.with(applied(&policy(
        "sa",
        "pcsa.role == 'b' && pcsa.projectcalico.org/name == 'robot'",
        "all()",
    )));
    let account = |role: &str| {
        Update::ServiceAccount("default".to_owned(), "robot".to_owned(), Some(labels(&[("role", role)])))
    };
    let everyone = format!("set {}: 10.0.0.1", id("all()"));

    check_walk(&[
        base.clone().with(namespace(&[("team", "z")])).leads_to(&["endpoint default/web:"]),
        base.clone().with(namespace(&[("team", "a")])).leads_to(&[
            &everyone,
            "policy gnp/ns",
            "endpoint default/web: default in [gnp/ns] out [] deny",
        ]),
        base.clone().with(namespace(&[("team", "forged")])).with(account("b")).leads_to(&[
            &everyone,
            "policy gnp/sa",
            "endpoint default/web: default in [gnp/sa] out [] deny",
        ]),
        base.with(namespace(&[("team", "z")])).with(account("c")),
    ]);
}

#[test]
fn tiers_and_policies_have_an_order() {
    let web = pod("web", "10.0.0.1", &[]);
    let base = State::default().with(namespace(&[])).with(stored(&web)).with_local(&web);
    let make = |name: &str, tier: &str, order| {
        let mut policy = policy(name, "all()", "all()");
        (policy.tier, policy.order, policy.ingress) = (tier.into(), order, Vec::new());
        applied(&policy)
    };
    let base = base
        .with(make("b", "default", Some(5.0)))
        .with(make("a", "default", None))
        .with(make("c", "default", Some(-5.0)))
        .with(make("d", "default", Some(5.0)))
        .with(make("e", "early", None))
        .with(make("f", "kube-baseline", None));
    let policies = ["a", "b", "c", "d", "e", "f"].map(|name| format!("policy gnp/{name}"));
    let lines =
        |endpoint: &str| -> Vec<String> { policies.iter().cloned().chain([endpoint.to_owned()]).collect() };
    let default = "default in [gnp/c gnp/b gnp/d gnp/a] out [] deny; kube-baseline in [gnp/f] out [] pass";
    let early = lines(&format!("endpoint default/web: early in [gnp/e] out [] pass; {default}"));
    let unknown = lines(&format!("endpoint default/web: {default}; early in [gnp/e] out [] deny"));

    check_walk(&[
        base.clone().leads_to(&unknown.iter().map(String::as_str).collect::<Vec<_>>()),
        base.clone()
            .with(tier("early", Some(1.0)))
            .leads_to(&early.iter().map(String::as_str).collect::<Vec<_>>()),
        base.with(tier("early", None)),
    ]);
}

#[test]
fn named_ports_are_resolved_by_name_and_protocol() {
    let port = |name: &str, protocol, port| EndpointPort { name: name.to_owned(), protocol, port };
    let mut web = pod("web", "10.0.0.1", &[]);
    web.ports =
        vec![port("http", Protocol::TCP, 80), port("http", Protocol::UDP, 81), port("x", Protocol::TCP, 9)];
    let mut moved = web.clone();
    moved.ports[0].port = 8080;
    let mut allow = policy("p", "all()", "all()");
    allow.ingress[0].source.selector = None;
    allow.ingress[0].protocol = Some(Protocol::TCP);
    allow.ingress[0].destination.ports = vec![PortMatch::Named("http".to_owned())];
    let base = State::default().with(namespace(&[])).with_local(&web).with(applied(&allow));

    let before = base.clone().with(stored(&web)).members();
    let after = base.clone().with(stored(&moved)).members();

    assert_eq!(before, [IpSetMember::IpPort(web.addresses[0], Protocol::TCP, 80)]);
    assert_eq!(after, [IpSetMember::IpPort(web.addresses[0], Protocol::TCP, 8080)]);
    check_walk(&[base.clone().with(stored(&web)), base.clone().with(stored(&moved)), base]);
}

#[test]
fn pods_of_the_hosts_network_are_in_no_set() {
    let web = pod("web", "10.0.0.1", &[]);
    let mut host = pod("host", "172.20.0.1", &[]);
    host.host_network = true;
    let base = State::default().with(namespace(&[])).with(stored(&web)).with_local(&web);
    let base = base.with(applied(&policy("p", "all()", "all()"))).with(stored(&host));
    let everyone = format!("set {}: 10.0.0.1", id("all()"));
    let endpoint = "endpoint default/web: default in [gnp/p] out [] deny";

    check_walk(&[base.leads_to(&[&everyone, "policy gnp/p", endpoint])]);
}

#[test]
fn a_local_pods_address_counts_before_its_status_has_it() {
    let web = pod("web", "10.0.0.1", &[]);
    let mut young = web.clone();
    young.addresses.clear();
    let base =
        State::default().with(namespace(&[])).with_local(&web).with(applied(&policy("p", "all()", "all()")));
    let everyone = format!("set {}: 10.0.0.1", id("all()"));
    let lines = [&*everyone, "policy gnp/p", "endpoint default/web: default in [gnp/p] out [] deny"];

    check_walk(&[
        base.clone().with(stored(&young)).leads_to(&lines),
        base.with(stored(&web)).leads_to(&lines),
    ]);
}

#[test]
fn nothing_is_said_before_the_datastore_is_in_sync() {
    let web = pod("web", "10.0.0.1", &[]);
    let mut calc = Calc::new(NodeName::from("n1"));
    calc.apply(namespace(&[]));
    calc.apply(stored(&web));

    assert_eq!(calc.flush(), []);
    calc.apply(Update::InSync);
    assert!(!calc.flush().is_empty());
}
