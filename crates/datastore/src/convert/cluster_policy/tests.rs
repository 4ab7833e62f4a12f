//! Both generations of the API by what becomes of them.

use model::{Labels, Protocol, Selector};
use serde_json::json;

use super::*;

fn meta() -> ObjectMeta {
    ObjectMeta { name: Some("p".to_owned()), generation: Some(3), ..ObjectMeta::default() }
}

fn cluster(mut spec: Value) -> (Option<Policy>, Vec<String>) {
    let given = spec.as_object_mut().unwrap();
    given.entry("tier").or_insert(json!("Admin"));
    given.entry("priority").or_insert(json!(10));
    given.entry("subject").or_insert(json!({"namespaces": {}}));
    let mut problems = Problems::default();
    let policy = cluster_network_policy(&meta(), &spec, &mut problems);
    (policy, problems.0.into_iter().map(|problem| problem.field).collect())
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    let pod = [("projectcalico.org/orchestrator", "k8s"), ("projectcalico.org/namespace", "dev")];
    pod.iter().chain(pairs).map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

/// `spec/control.md` §9.2, 31.
#[test]
fn an_admin_policy_stands_in_the_tier_above_all() {
    let (policy, problems) = cluster(json!({"ingress": [
        {"name": "web", "action": "Accept", "from": [{"namespaces": {"matchLabels": {"team": "x"}}}]}]}));

    assert_eq!(problems, [""; 0]);
    let policy = policy.unwrap();
    assert_eq!((&*policy.tier, policy.order, policy.generation), ("kube-admin", Some(10.0), 3));
    assert_eq!((policy.applies_to_ingress, policy.applies_to_egress), (true, false));
    assert_eq!(policy.key.to_string(), "kcnp/p");
    let rule = &policy.ingress[0];
    assert_eq!(rule.action, Action::Allow);
    assert_eq!(rule.annotations, [("name".into(), "web".into())]);
    let peers: &Selector = rule.source.selector.as_ref().unwrap();
    assert!(peers.matches(&labels(&[("pcns.team", "x")])) && !peers.matches(&labels(&[])));
    assert!(!peers.matches(&Labels::from([("pcns.team".to_owned(), "x".to_owned())])), "not a pod");
}

#[test]
fn a_baseline_policy_stands_in_the_tier_below_all() {
    let (policy, _) = cluster(json!({"tier": "Baseline", "subject": {"pods":
        {"namespaceSelector": {"matchLabels": {"env": "prod"}}, "podSelector": {"matchLabels": {"app": "a"}}}}}));

    let policy = policy.unwrap();
    assert_eq!(&*policy.tier, "kube-baseline");
    assert!(policy.selector.matches(&labels(&[("pcns.env", "prod"), ("app", "a")])));
    assert!(!policy.selector.matches(&labels(&[("app", "a")])));
}

#[test]
fn every_peer_meets_every_protocol() {
    let (policy, problems) = cluster(json!({"egress": [{
        "action": "Pass",
        "to": [{"networks": ["10.0.0.0/8", "fd00::/8"]}, {"pods": {"podSelector": {}}}],
        "protocols": [
            {"tcp": {"destinationPort": {"number": 80}}},
            {"udp": {"destinationPort": {"range": {"start": 53, "end": 54}}}},
            {"destinationNamedPort": "http"}],
    }]}));

    assert_eq!(problems, [""; 0]);
    let egress = policy.unwrap().egress;
    let said: Vec<_> = egress.iter().map(|rule| (rule.protocol, rule.destination.ports.clone())).collect();
    let ports = |text: &str| vec![text.parse().unwrap()];
    let three =
        [(Some(Protocol::TCP), ports("80")), (Some(Protocol::UDP), ports("53:54")), (None, ports("http"))];
    assert_eq!(said, [&three[..], &three[..]].concat());
    assert_eq!(egress[0].destination.nets.len(), 2);
    assert!(egress[3].destination.selector.is_some());
    assert!(egress.iter().all(|rule| rule.action == Action::Pass));
}

#[test]
fn a_rule_that_is_not_understood_fails_closed() {
    let parts = [
        json!({"from": []}),
        json!({"from": [{}]}),
        json!({"from": [{"somethingNew": {}}]}),
        json!({"from": [{"networks": ["10.0.0.0/8"]}]}),
        json!({"from": [{"namespaces": {}, "pods": {"podSelector": {}}}]}),
        json!({"from": [{"namespaces": {}}, {"namespaces": {"matchExpressions": [{"key": "a", "operator": "Maybe"}]}}]}),
        json!({"from": [{"namespaces": {}}], "protocols": [{}]}),
        json!({"from": [{"namespaces": {}}], "protocols": [{"tcp": {}}]}),
        json!({"from": [{"namespaces": {}}], "protocols": [{"tcp": {"destinationPort": {"number": 70000}}}]}),
        json!({"from": [{"namespaces": {}}], "protocols": [{"tcp": {"destinationPort": {"range": {"start": 9, "end": 8}}}}]}),
        json!({"from": "everybody"}),
    ];
    for part in parts {
        for (action, expected) in [
            ("Accept", vec![]),
            ("Deny", vec![Rule::any(Action::Deny)]),
            ("Pass", vec![Rule::any(Action::Deny)]),
            ("Perhaps", vec![Rule::any(Action::Deny)]),
        ] {
            let mut rule = part.clone();
            rule["action"] = json!(action);

            let (policy, problems) = cluster(json!({"ingress": [rule]}));

            let policy = policy.unwrap();
            assert_eq!(policy.ingress, expected, "{action} {part}");
            assert!(policy.applies_to_ingress);
            assert_eq!(problems, ["spec.ingress[0]"], "{action} {part}");
        }
    }
    for peer in [json!({"nodes": {}}), json!({"domainNames": ["a.example"]}), json!({"networks": []})] {
        let (policy, problems) = cluster(json!({"egress": [{"action": "Deny", "to": [peer]}]}));

        assert_eq!((policy.unwrap().egress, problems.len()), (vec![Rule::any(Action::Deny)], 1));
    }
}

#[test]
fn a_policy_for_nobody_known_is_none() {
    for spec in [
        json!({"tier": "Middle"}),
        json!({"subject": {}}),
        json!({"subject": {"namespaces": {}, "pods": {"podSelector": {}}}}),
        json!({"subject": 3}),
    ] {
        let (policy, problems) = cluster(spec.clone());

        assert_eq!((policy, problems.len()), (None, 1), "{spec}");
    }
}

#[test]
fn the_first_generation_says_the_same_in_other_words() {
    let spec = json!({"priority": 5, "subject": {"namespaces": {}}, "ingress": [{
        "action": "Allow", "from": [{"namespaces": {}}],
        "ports": [
            {"portNumber": {"protocol": "UDP", "port": 53}},
            {"portRange": {"protocol": "SCTP", "start": 1, "end": 9}},
            {"namedPort": "http"}],
    }]});
    let mut problems = Problems::default();

    let admin = admin_network_policy(&meta(), &spec, &mut problems).unwrap();
    let baseline = baseline_admin_network_policy(&meta(), &spec, &mut problems).unwrap();

    assert_eq!(problems, Problems::default());
    assert_eq!((&*admin.tier, admin.order, &*baseline.tier), ("kube-admin", Some(5.0), "kube-baseline"));
    assert_ne!(admin.key.to_string(), baseline.key.to_string());
    let protocols: Vec<_> = admin.ingress.iter().map(|rule| rule.protocol).collect();
    assert_eq!(protocols, [Some(Protocol::UDP), Some(Protocol::SCTP), None]);
}
