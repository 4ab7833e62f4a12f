//! What becomes of policies that people write, by the scenarios of `spec/control.md` §9.2.

use model::{Action, Family, IcmpMatch, Protocol, Rule};
use serde_json::{Value, json};

use super::scope::NAMESPACE;
use super::*;

fn meta(namespace: Option<&str>) -> ObjectMeta {
    ObjectMeta {
        name: Some("p".to_owned()),
        namespace: namespace.map(str::to_owned),
        generation: Some(7),
        uid: Some("u".to_owned()),
        ..ObjectMeta::default()
    }
}

fn np(spec: Value) -> (Option<Policy>, Vec<String>) {
    let mut problems = Problems::default();
    let policy = network_policy(&meta(Some("dev")), &serde_json::from_value(spec).unwrap(), &mut problems);
    (policy, problems.0.into_iter().map(|problem| problem.field).collect())
}

fn gnp(spec: Value) -> (Option<Policy>, Vec<String>) {
    let mut problems = Problems::default();
    let policy = global_network_policy(&meta(None), &serde_json::from_value(spec).unwrap(), &mut problems);
    (policy, problems.0.into_iter().map(|problem| problem.field).collect())
}

fn canonical(text: &str) -> String {
    text.parse::<Selector>().unwrap().to_string()
}

/// Selector of the source of the first ingress rule.
fn source(policy: (Option<Policy>, Vec<String>)) -> Option<String> {
    assert_eq!(policy.1, [""; 0]);
    policy.0.unwrap().ingress[0].source.selector.as_ref().map(Selector::to_string)
}

#[test]
fn a_network_policy_is_scoped_to_its_namespace() {
    let (policy, _) = np(json!({"selector": "role == 'db'"}));
    let expected = canonical("role == 'db' && projectcalico.org/namespace == 'dev'");
    assert_eq!(policy.unwrap().selector.to_string(), expected);

    let (policy, _) = np(json!({"serviceAccountSelector": "all()"}));
    let expected = canonical("has(projectcalico.org/serviceaccount) && projectcalico.org/namespace == 'dev'");
    assert_eq!(policy.unwrap().selector.to_string(), expected);
}

#[test]
fn only_what_selects_is_scoped() {
    let rule = |entity: Value| np(json!({"ingress": [{"action": "Allow", "source": entity}]}));

    let own = "projectcalico.org/namespace == \"dev\"";
    assert_eq!(source(rule(json!({"selector": "a=='b'"}))), Some(canonical(&format!("a=='b' && {own}"))));
    assert_eq!(source(rule(json!({"selector": "all()"}))), Some(canonical(own)));
    assert_eq!(source(rule(json!({"notSelector": "a=='b'"}))), Some(canonical(own)));
    assert_eq!(source(rule(json!({"nets": ["10.0.0.0/8"]}))), None);
    assert_eq!(
        source(rule(json!({"namespaceSelector": "team == 'x'"}))),
        Some(canonical("pcns.team == 'x'"))
    );
    let anywhere = canonical("has(projectcalico.org/namespace)");
    assert_eq!(source(rule(json!({"namespaceSelector": "all()"}))), Some(anywhere.clone()));
    let nowhere = Selector::has(NAMESPACE).unwrap().negated().to_string();
    assert_eq!(source(rule(json!({"namespaceSelector": "global()"}))), Some(nowhere));
    assert_eq!(
        source(rule(json!({"serviceAccounts": {"names": ["s1"], "selector": "r == 'y'"}}))),
        Some(canonical(&format!("projectcalico.org/serviceaccount in {{'s1'}} && pcsa.r == 'y' && {own}")))
    );
}

#[test]
fn a_global_policy_has_no_namespace_of_its_own() {
    let rule = |entity: Value| gnp(json!({"ingress": [{"action": "Allow", "source": entity}]}));

    assert_eq!(source(rule(json!({"selector": "a=='b'"}))), Some(canonical("a=='b'")));
    assert_eq!(source(rule(json!({"selector": "all()"}))), Some("all()".to_owned()));
    assert_eq!(source(rule(json!({"notSelector": "a=='b'"}))), None);
    let (policy, _) = gnp(json!({"selector": "a=='b'", "namespaceSelector": "team == 'x'"}));
    assert_eq!(policy.unwrap().selector.to_string(), canonical("a=='b' && pcns.team == 'x'"));
}

#[test]
fn types_follow_the_rules() {
    let rule = json!([{"action": "Allow"}]);
    for (spec, expected) in [
        (json!({}), (true, false)),
        (json!({"ingress": rule}), (true, false)),
        (json!({"egress": rule}), (false, true)),
        (json!({"ingress": rule, "egress": rule}), (true, true)),
        (json!({"types": ["Egress"], "ingress": rule}), (false, true)),
    ] {
        let policy = np(spec.clone()).0.unwrap();

        assert_eq!((policy.applies_to_ingress, policy.applies_to_egress), expected, "{spec}");
    }
}

#[test]
fn everything_a_rule_can_say_is_kept() {
    let (policy, problems) = gnp(json!({"tier": "t", "order": 5.5, "egress": [{
        "action": "Pass", "ipVersion": 6, "protocol": 17, "notProtocol": "TCP",
        "notICMP": {"type": 8, "code": 0},
        "source": {"notNets": ["fd00::1"], "notPorts": [80, "90:91"]},
        "destination": {"ports": ["http", 53], "notSelector": "x == 'y'"},
    }]}));

    assert_eq!(problems, [""; 0]);
    let policy = policy.unwrap();
    assert_eq!((&*policy.tier, policy.order), ("t", Some(5.5)));
    let rule = &policy.egress[0];
    assert_eq!((rule.action, rule.family), (Action::Pass, Some(Family::V6)));
    assert_eq!((rule.protocol, rule.not_protocol), (Some(Protocol::UDP), Some(Protocol::TCP)));
    assert_eq!(rule.not_icmp, Some(IcmpMatch { kind: 8, code: Some(0) }));
    assert_eq!(rule.source.not_nets, ["fd00::1/128".parse().unwrap()]);
    assert_eq!(rule.source.not_ports, ["80".parse().unwrap(), "90:91".parse().unwrap()]);
    assert_eq!(rule.destination.ports, ["http".parse().unwrap(), "53".parse().unwrap()]);
    assert!(rule.destination.not_selector.is_some());
}

#[test]
fn a_rule_that_is_not_understood_closes() {
    for part in [
        json!({"source": {"selector": "(a == 'b'"}}),
        json!({"source": {"nets": ["10.0.0.0/40"]}}),
        json!({"source": {"ports": [80]}}),
        json!({"protocol": "ICMP", "destination": {"ports": [80]}}),
        json!({"destination": {"services": {"name": "web"}, "selector": "all()"}}),
        json!({"http": {"methods": ["GET"]}}),
        json!({"icmp": {"code": 1}}),
    ] {
        for (action, expected) in
            [("Allow", vec![]), ("Log", vec![]), ("Deny", vec![Rule::any(Action::Deny)])]
        {
            let mut rule = part.clone();
            rule["action"] = json!(action);

            let (policy, problems) = np(json!({"ingress": [rule]}));

            assert_eq!(policy.unwrap().ingress, expected, "{action} {part}");
            assert_eq!(problems.len(), 1, "{problems:?}");
        }
    }
}

#[test]
fn a_policy_whose_selector_is_not_understood_is_gone_and_named() {
    assert_eq!(np(json!({"selector": "(a == 'b'"})), (None, vec!["spec.selector".to_owned()]));
    assert_eq!(np(json!({"selector": "global()"})), (None, vec!["spec.selector".to_owned()]));
}

#[test]
fn a_selector_is_refused_with_its_place() {
    let mut problems = Problems::default();
    let rule = json!({"ingress": [{"action": "Allow", "source": {"selector": "role = 'db'"}}]});

    network_policy(&meta(Some("dev")), &serde_json::from_value(rule).unwrap(), &mut problems);

    let said = problems.0[0].to_string();
    assert!(said.starts_with("spec.ingress[0].source.selector: expected =="), "{said}");
    assert!(said.ends_with("at position 5"), "{said}");
}

#[test]
fn what_a_policy_is_besides_its_rules_is_kept() {
    let spec = json!({"performanceHints": ["AssumeNeededOnEveryNode"], "ingress": [
        {"action": "Log", "metadata": {"annotations": {"why": "audit"}}}]});

    let policy = np(spec).0.unwrap();

    assert_eq!((policy.generation, &*policy.uid, policy.needed_everywhere), (7, "u", true));
    assert_eq!(policy.ingress[0].annotations, [("why".into(), "audit".into())]);
}

/// The rule alone, in a list and in a policy with or without a namespace; what is said against it.
fn refused(policy: fn(Value) -> (Option<Policy>, Vec<String>), list: &str, rule: Value) -> bool {
    let (policy, problems) = policy(json!({list: [rule]}));
    let policy = policy.unwrap();
    let kept = if list == "ingress" { policy.ingress } else { policy.egress };
    assert_eq!(problems.is_empty(), kept.len() == 1, "{problems:?}");
    !problems.is_empty()
}

/// `spec/control.md` §9.2, 39.
#[test]
fn ports_need_a_protocol_that_has_them() {
    let rule = |protocol: Value, ports: Value| json!({"action": "Allow", "protocol": protocol, "destination": {"ports": ports}});
    assert!(refused(gnp, "ingress", json!({"action": "Allow", "destination": {"ports": [80]}})));
    assert!(!refused(gnp, "ingress", json!({"action": "Allow", "destination": {"ports": ["http"]}})));
    assert!(refused(gnp, "ingress", rule(json!("ICMP"), json!([80]))));
    assert!(refused(gnp, "ingress", rule(json!("ICMP"), json!(["http"]))));
    for protocol in [json!("TCP"), json!(6), json!("UDP"), json!(17), json!("SCTP"), json!("132")] {
        assert!(!refused(gnp, "ingress", rule(protocol, json!([80, "90:91", "http"]))));
    }
    assert!(refused(gnp, "ingress", rule(json!("TCP"), json!(["91:90"]))));
}

/// `spec/control.md` §9.2, 40.
#[test]
fn a_rule_is_about_one_family() {
    for rule in [
        json!({"source": {"nets": ["10.0.0.0/8", "fd00::/8"]}}),
        json!({"source": {"nets": ["10.0.0.0/8"]}, "destination": {"notNets": ["fd00::/8"]}}),
        json!({"ipVersion": 6, "source": {"nets": ["10.0.0.0/8"]}}),
        json!({"ipVersion": 4, "protocol": "ICMPv6"}),
        json!({"protocol": "ICMP", "destination": {"nets": ["fd00::/8"]}}),
        json!({"source": {"notNets": ["0.0.0.0/0"]}}),
        json!({"ipVersion": 5}),
        json!({"protocol": "ICMP", "icmp": {"type": 255}}),
    ] {
        let mut rule = rule;
        rule["action"] = json!("Allow");
        assert!(refused(gnp, "ingress", rule.clone()), "{rule}");
    }
    let sound = json!({"action": "Allow", "ipVersion": 6, "protocol": "ICMPv6", "icmp": {"type": 128},
        "source": {"nets": ["fd00::/8"]}});
    assert!(!refused(gnp, "ingress", sound));
}

/// `spec/control.md` §9.2, 41.
#[test]
fn a_service_stands_alone_and_on_the_right_side() {
    let web = json!({"name": "web", "namespace": "d"});
    let to = |entity: Value| json!({"action": "Allow", "protocol": "TCP", "destination": entity});
    let from = |entity: Value| json!({"action": "Allow", "source": entity});
    assert!(refused(gnp, "egress", to(json!({"services": web, "selector": "a == 'b'"}))));
    assert!(refused(gnp, "egress", to(json!({"services": web, "ports": [80]}))));
    assert!(refused(gnp, "ingress", to(json!({"services": web}))));
    assert!(refused(gnp, "egress", from(json!({"services": web}))));
    assert!(refused(gnp, "egress", to(json!({"services": {"name": "web"}}))));
    assert!(!refused(np, "egress", to(json!({"services": {"name": "web"}}))));

    let (policy, _) = np(json!({"egress": [to(json!({"services": {"name": "web"}}))]}));
    let service = policy.unwrap().egress[0].destination.service.clone();
    assert_eq!(service, Some(model::ObjectKey::new("dev", "web")));
    assert!(!refused(gnp, "ingress", from(json!({"services": web}))));
}

/// `spec/control.md` §9.2, 42.
#[test]
fn global_stands_alone_and_among_namespaces() {
    let from = |entity: Value| json!({"action": "Allow", "source": entity});
    assert!(refused(np, "ingress", from(json!({"selector": "global()"}))));
    assert!(!refused(np, "ingress", from(json!({"namespaceSelector": "global()"}))));
    assert!(refused(np, "ingress", from(json!({"namespaceSelector": "global() || a == 'b'"}))));
}

/// `spec/control.md` §9.2, 43.
#[test]
fn stages_of_host_endpoints_fit_each_other() {
    let (untracked, problems) = gnp(json!({"doNotTrack": true}));
    let untracked = untracked.unwrap();
    assert_eq!(problems, ["spec.applyOnForward"]);
    assert!(untracked.do_not_track && untracked.apply_on_forward);

    let both = json!({"doNotTrack": true, "preDNAT": true, "applyOnForward": true});
    assert_eq!(gnp(both), (None, vec!["spec.preDNAT".to_owned()]));

    let egress = json!([{"action": "Deny"}]);
    let (early, problems) = gnp(json!({"preDNAT": true, "applyOnForward": true, "egress": egress}));
    assert_eq!(problems, ["spec.egress"]);
    assert!(!early.unwrap().applies_to_egress);
}

/// `spec/control.md` §9.2, 44.
#[test]
fn a_type_is_given_once() {
    assert_eq!(np(json!({"types": ["Ingress", "Ingress"]})).1, ["spec.types"]);
    assert_eq!(np(json!({"types": ["Egress"], "ingress": [{"action": "Allow"}]})).1, [""; 0]);
}

/// `spec/control.md` §9.2, 45.
#[test]
fn http_is_for_rules_that_allow_in_and_opens_nothing() {
    let said = |list: &str, rule: Value| {
        let mut problems = Problems::default();
        let spec = serde_json::from_value(json!({list: [rule]})).unwrap();
        let policy = global_network_policy(&meta(None), &spec, &mut problems).unwrap();
        assert!(policy.ingress.iter().chain(&policy.egress).all(|rule| rule.action == Action::Deny));
        problems.0.into_iter().map(|problem| (problem.field, problem.is_warning)).collect::<Vec<_>>()
    };
    let http = json!({"methods": ["GET"]});
    assert_eq!(
        said("ingress", json!({"action": "Deny", "http": http})),
        [("spec.ingress[0].http".into(), false)]
    );
    assert_eq!(
        said("egress", json!({"action": "Allow", "http": http})),
        [("spec.egress[0].http".into(), false)]
    );
    let twice = json!({"methods": ["GET", "GET"]});
    assert_eq!(
        said("ingress", json!({"action": "Allow", "http": twice})),
        [("spec.ingress[0].http.methods[1]".into(), false)]
    );
    assert_eq!(
        said("ingress", json!({"action": "Allow", "http": http})),
        [("spec.ingress[0].http".into(), true)]
    );
}

/// `spec/control.md` §9.2, 50.
#[test]
fn built_in_tiers_are_what_they_are() {
    let tier_of = |name: &str, spec: Value| {
        let mut problems = Problems::default();
        let found = tier(name, &serde_json::from_value(spec).unwrap(), &mut problems);
        (found, problems.0.into_iter().map(|problem| problem.field).collect::<Vec<_>>())
    };
    assert_eq!(tier_of("a.b", json!({})).1, ["metadata.name"]);
    assert_eq!(tier_of(&"a".repeat(64), json!({})).1, ["metadata.name"]);
    let (found, problems) = tier_of("default", json!({"defaultAction": "Pass"}));
    assert_eq!((found.default_action_is_pass, problems), (false, vec!["spec.defaultAction".to_owned()]));
    let (found, problems) = tier_of("kube-baseline", json!({"order": 5, "defaultAction": "Pass"}));
    assert_eq!((found.order, problems), (Some(10_000_000.0), vec!["spec.order".to_owned()]));
    assert_eq!(tier_of("platform", json!({"order": 5})).1, [""; 0]);
}

/// `spec/control.md` §9.2, 51.
#[test]
fn a_staged_deletion_says_nothing_else() {
    let staged = |spec: Value| {
        let mut problems = Problems::default();
        let spec = serde_json::from_value(spec).unwrap();
        let policy = staged_network_policy(&meta(Some("dev")), &spec, &mut problems).unwrap();
        assert_eq!(policy.key.to_string(), "snp/dev/p");
        (policy.staged, problems.0.len())
    };
    let rules = json!([{"action": "Allow"}]);
    assert_eq!(staged(json!({})), (Some(StagedAction::Set), 0));
    assert_eq!(staged(json!({"stagedAction": "Delete", "tier": "t"})), (Some(StagedAction::Delete), 0));
    assert_eq!(staged(json!({"stagedAction": "Delete", "ingress": rules})), (Some(StagedAction::Delete), 1));
}
