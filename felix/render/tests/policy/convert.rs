//! Kubernetes NetworkPolicy to [`model::Policy`] for tests of what comes behind it (`spec/control.md` §1.13, §2.3).
//! The datastore's own conversion is tested where it is.

use model::{
    Action, EntityRule, Policy, PolicyKey, PolicyKind, PortMatch, PortRange, Protocol, Rule, Selector,
};
use serde_json::Value;

/// Takes a whole NetworkPolicy object.
pub fn policy(object: &Value) -> Policy {
    let namespace = object["metadata"]["namespace"].as_str().unwrap();
    let name = object["metadata"]["name"].as_str().unwrap();
    let spec = &object["spec"];
    let types = || spec["policyTypes"].as_array().filter(|types| !types.is_empty());
    let has_type = |name: &str| types().is_some_and(|types| types.iter().any(|t| t == name));
    Policy {
        tier: "default".into(),
        order: Some(1000.0),
        applies_to_ingress: has_type("Ingress") || types().is_none(),
        applies_to_egress: has_type("Egress") || (types().is_none() && !list(&spec["egress"]).is_empty()),
        ingress: rules(&spec["ingress"], "from", namespace),
        egress: rules(&spec["egress"], "to", namespace),
        ..Policy::new(
            PolicyKey {
                kind: PolicyKind::KubernetesNetworkPolicy,
                namespace: Some(namespace.into()),
                name: name.into(),
            },
            Selector::and([
                Selector::equals("projectcalico.org/orchestrator", "k8s").unwrap(),
                in_namespace(namespace),
                label_selector(&spec["podSelector"]),
            ]),
        )
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn rules(value: &Value, peers: &str, namespace: &str) -> Vec<Rule> {
    let mut result = Vec::new();
    for rule in list(value) {
        let entities: Vec<EntityRule> = match list(&rule[peers]) {
            [] => vec![EntityRule::default()],
            peers => peers.iter().map(|peer| entity(peer, namespace)).collect(),
        };
        for (protocol, ports) in ports_by_protocol(list(&rule["ports"])) {
            for entity in &entities {
                let mut rule = Rule { protocol, ..Rule::any(Action::Allow) };
                match peers {
                    "from" => rule.source = entity.clone(),
                    _ => rule.destination = entity.clone(),
                }
                rule.destination.ports = ports.clone();
                result.push(rule);
            }
        }
    }
    result
}

fn ports_by_protocol(ports: &[Value]) -> Vec<(Option<Protocol>, Vec<PortMatch>)> {
    if ports.is_empty() {
        return vec![(None, Vec::new())];
    }
    let mut result: Vec<(Option<Protocol>, Vec<PortMatch>)> = Vec::new();
    for port in ports {
        let protocol: Protocol = port["protocol"].as_str().unwrap_or("TCP").parse().unwrap();
        let number = |value: &Value| value.as_u64().and_then(|number| u16::try_from(number).ok());
        let wanted = match (&port["port"], number(&port["port"])) {
            (Value::Null, _) => {
                // Every port of the protocol: no list says more.
                result.push((Some(protocol), Vec::new()));
                continue;
            }
            (Value::String(name), _) => PortMatch::Named(name.clone()),
            (_, first) => {
                let first = first.expect("a port is a number or a name");
                PortMatch::Range(PortRange { first, last: number(&port["endPort"]).unwrap_or(first) })
            }
        };
        match result.iter_mut().find(|(p, ports)| *p == Some(protocol) && !ports.is_empty()) {
            Some((_, ports)) => ports.push(wanted),
            None => result.push((Some(protocol), vec![wanted])),
        }
    }
    result
}

fn entity(peer: &Value, namespace: &str) -> EntityRule {
    let nets = |value: &Value| list(value).iter().map(|net| net.as_str().unwrap().parse().unwrap()).collect();
    if let Some(block) = peer.get("ipBlock") {
        let nets_of_block = vec![block["cidr"].as_str().unwrap().parse().unwrap()];
        return EntityRule { nets: nets_of_block, not_nets: nets(&block["except"]), ..EntityRule::default() };
    }
    let anywhere = Selector::has("projectcalico.org/namespace").unwrap();
    let scope = match peer.get("namespaceSelector") {
        Some(selector) => label_selector(selector).prefixed("pcns.", &anywhere),
        None => in_namespace(namespace),
    };
    let pods = peer.get("podSelector").map_or(Selector::all(), label_selector);
    let is_pod = Selector::equals("projectcalico.org/orchestrator", "k8s").unwrap();
    EntityRule { selector: Some(Selector::and([is_pod, scope, pods])), ..EntityRule::default() }
}

fn in_namespace(name: &str) -> Selector {
    Selector::equals("projectcalico.org/namespace", name).unwrap()
}

fn label_selector(selector: &Value) -> Selector {
    let mut parts = Vec::new();
    for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
        parts.push(Selector::equals(key, value.as_str().unwrap()).unwrap());
    }
    for expression in list(&selector["matchExpressions"]) {
        let key = expression["key"].as_str().unwrap();
        let values: Vec<&str> = list(&expression["values"]).iter().map(|v| v.as_str().unwrap()).collect();
        parts.push(match expression["operator"].as_str().unwrap() {
            "In" => Selector::is_in(key, values).unwrap(),
            "NotIn" => Selector::not_in(key, values).unwrap(),
            "Exists" => Selector::has(key).unwrap(),
            "DoesNotExist" => Selector::has(key).unwrap().negated(),
            other => panic!("{other:?} is no operator"),
        });
    }
    Selector::and(parts)
}
