//! NetworkPolicy of `networking.k8s.io/v1`.
//!
//! It becomes a policy of tier `default` with order 1000. A peer or port that cannot be understood is left
//! out: the policy then allows less, never more.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use model::{
    Action, Direction, EntityRule, InvalidSelector, Policy, PolicyKey, PolicyKind, PortMatch, PortRange,
    Protocol, Rule, Selector,
};

use super::label_selector::{self, own_namespace, pods_of};
use super::policy::{staged_action, uid};
use super::product::{Resolved, product};
use super::{Problems, net};
use crate::crd;
use crate::objects::NetworkPolicyObject;

/// A Kubernetes NetworkPolicy; `None` when it cannot be told which pods it is for.
pub fn kubernetes_policy(object: &NetworkPolicyObject, problems: &mut Problems) -> Option<Policy> {
    let empty = NetworkPolicySpec::default();
    let spec = object.spec.as_ref().unwrap_or(&empty);
    convert(PolicyKind::KubernetesNetworkPolicy, &object.metadata, spec, problems)
}

/// A StagedKubernetesNetworkPolicy; `None` when it cannot be told which pods it is for.
pub fn staged_kubernetes_policy(
    meta: &ObjectMeta,
    spec: &crd::StagedKubernetesNetworkPolicySpec,
    problems: &mut Problems,
) -> Option<Policy> {
    let says_more = spec.pod_selector.is_some()
        || spec.ingress.is_some()
        || spec.egress.is_some()
        || spec.policy_types.is_some();
    if spec.staged_action == crd::StagedAction::Delete && says_more {
        problems.add("spec.stagedAction", "a policy that stages a deletion says nothing else");
    }
    let types = spec.policy_types.as_ref().map(|types| types.iter().map(|t| format!("{t:?}")).collect());
    let staged = NetworkPolicySpec {
        pod_selector: spec.pod_selector.clone(),
        ingress: spec.ingress.clone(),
        egress: spec.egress.clone(),
        policy_types: types,
    };
    let policy = convert(PolicyKind::StagedKubernetesNetworkPolicy, meta, &staged, problems)?;
    Some(Policy { staged: Some(staged_action(spec.staged_action)), ..policy })
}

fn convert(
    kind: PolicyKind,
    meta: &ObjectMeta,
    spec: &NetworkPolicySpec,
    problems: &mut Problems,
) -> Option<Policy> {
    let namespace = meta.namespace.as_deref()?;
    let name = meta.name.as_deref()?;
    let pods = spec.pod_selector.clone().unwrap_or_default();
    let selector = problems.take("spec.podSelector", pods_of(&own_namespace(namespace), &pods))?;
    let converter = Converter { namespace };
    let mut ingress = Vec::new();
    for (index, rule) in spec.ingress.iter().flatten().enumerate() {
        let field = format!("spec.ingress[{index}]");
        let (peers, ports) = (rule.from.as_deref(), rule.ports.as_deref());
        converter.rules(&field, Direction::Ingress, peers, ports, problems, &mut ingress);
    }
    let mut egress = Vec::new();
    for (index, rule) in spec.egress.iter().flatten().enumerate() {
        let field = format!("spec.egress[{index}]");
        let (peers, ports) = (rule.to.as_deref(), rule.ports.as_deref());
        converter.rules(&field, Direction::Egress, peers, ports, problems, &mut egress);
    }
    let types = spec.policy_types.as_deref().unwrap_or_default();
    let has = |name: &str| types.iter().any(|t| t == name);
    let key = PolicyKey::new(kind, Some(namespace), name);
    Some(Policy {
        order: Some(1000.0),
        applies_to_ingress: types.is_empty() || has("Ingress"),
        applies_to_egress: has("Egress")
            || (types.is_empty() && spec.egress.iter().flatten().next().is_some()),
        ingress,
        egress,
        generation: meta.generation.unwrap_or_default(),
        uid: uid(meta),
        ..Policy::new(key, selector)
    })
}

struct Converter<'a> {
    namespace: &'a str,
}

impl Converter<'_> {
    /// Appends the product of peers and protocols of one rule.
    fn rules(
        &self,
        field: &str,
        direction: Direction,
        peers: Option<&[NetworkPolicyPeer]>,
        ports: Option<&[NetworkPolicyPort]>,
        problems: &mut Problems,
        out: &mut Vec<Rule>,
    ) {
        let side = if direction == Direction::Ingress { "from" } else { "to" };
        let peers = match peers.filter(|peers| !peers.is_empty()) {
            None => vec![EntityRule::default()],
            Some(peers) => peers
                .iter()
                .enumerate()
                .filter_map(|(i, peer)| problems.take(&format!("{field}.{side}[{i}]"), self.peer(peer)))
                .collect(),
        };
        let ports = match ports.filter(|ports| !ports.is_empty()) {
            None => vec![(None, Vec::new())],
            Some(ports) => by_protocol(field, ports, problems),
        };
        out.extend(product(direction, &Rule::any(Action::Allow), &peers, &ports));
    }

    fn peer(&self, peer: &NetworkPolicyPeer) -> Result<EntityRule, String> {
        match (&peer.ip_block, &peer.namespace_selector, &peer.pod_selector) {
            (Some(block), None, None) => Ok(EntityRule {
                nets: vec![net(&block.cidr)?],
                not_nets: block.except.iter().flatten().map(|text| net(text)).collect::<Result<_, _>>()?,
                ..EntityRule::default()
            }),
            (Some(_), _, _) => Err("ipBlock excludes the selectors".to_owned()),
            (None, None, None) => Err("says neither ipBlock nor a selector".to_owned()),
            (None, namespaces, pods) => {
                let selector = self.peer_selector(namespaces.as_ref(), pods.as_ref());
                Ok(EntityRule {
                    selector: Some(selector.map_err(|error| error.to_string())?),
                    ..EntityRule::default()
                })
            }
        }
    }

    fn peer_selector(
        &self,
        namespaces: Option<&LabelSelector>,
        pods: Option<&LabelSelector>,
    ) -> Result<Selector, InvalidSelector> {
        let namespace = match namespaces {
            None => own_namespace(self.namespace),
            Some(labels) => label_selector::namespaces(labels),
        };
        pods_of(&namespace, pods.unwrap_or(&LabelSelector::default()))
    }
}

/// Ports by protocol, ranges merged; no ports means all of that protocol.
fn by_protocol(field: &str, ports: &[NetworkPolicyPort], problems: &mut Problems) -> Vec<Resolved> {
    let mut all: BTreeMap<Protocol, Option<Vec<PortMatch>>> = BTreeMap::new();
    for (index, port) in ports.iter().enumerate() {
        let field = format!("{field}.ports[{index}]");
        let protocol = port.protocol.as_deref().unwrap_or("TCP").parse();
        let Some(protocol) = problems.take(&field, protocol) else { continue };
        let Some(found) = problems.take(&field, port_match(port)) else { continue };
        let entry = all.entry(protocol).or_insert_with(|| Some(Vec::new()));
        match found {
            None => *entry = None,
            Some(found) => {
                if let Some(entry) = entry {
                    entry.push(found);
                }
            }
        }
    }
    all.into_iter().map(|(protocol, ports)| (Some(protocol), merged(ports.unwrap_or_default()))).collect()
}

/// `None` when every port is meant.
fn port_match(port: &NetworkPolicyPort) -> Result<Option<PortMatch>, String> {
    let number = |n: i32| u16::try_from(n).map_err(|_| format!("{n} is not a port"));
    match (&port.port, port.end_port) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err("endPort needs port".to_owned()),
        (Some(IntOrString::String(_)), Some(_)) => Err("endPort needs a numeric port".to_owned()),
        (Some(IntOrString::String(name)), None) => {
            name.parse().map(Some).map_err(|error: model::InvalidPort| error.to_string())
        }
        (Some(IntOrString::Int(first)), end) => {
            let range = PortRange { first: number(*first)?, last: number(end.unwrap_or(*first))? };
            if range.first > range.last {
                return Err(format!("endPort {} is below port {}", range.last, range.first));
            }
            Ok(Some(PortMatch::Range(range)))
        }
    }
}

/// Ranges in order, those that touch as one; then names.
fn merged(ports: Vec<PortMatch>) -> Vec<PortMatch> {
    let mut ports = ports;
    ports.sort();
    ports.dedup();
    let mut out: Vec<PortMatch> = Vec::with_capacity(ports.len());
    for port in ports {
        if let (Some(PortMatch::Range(before)), PortMatch::Range(range)) = (out.last_mut(), &port)
            && u32::from(range.first) <= u32::from(before.last) + 1
        {
            before.last = before.last.max(range.last);
            continue;
        }
        out.push(port);
    }
    out
}

#[cfg(test)]
mod tests {
    use model::Labels;
    use serde_json::{Value, json};

    use super::*;

    fn convert(spec: Value) -> (Policy, Problems) {
        let object = json!({"metadata": {"name": "p", "namespace": "dev"}, "spec": spec});
        let mut problems = Problems::default();
        let policy = kubernetes_policy(&serde_json::from_value(object).unwrap(), &mut problems).unwrap();
        (policy, problems)
    }

    fn sound(spec: Value) -> Policy {
        let (policy, problems) = convert(spec);
        assert_eq!(problems, Problems::default());
        policy
    }

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
    }

    const DEV: [(&str, &str); 2] =
        [("projectcalico.org/namespace", "dev"), ("projectcalico.org/orchestrator", "k8s")];

    #[test]
    fn types_are_defaulted_as_kubernetes_does() {
        for (spec, ingress, egress) in [
            (json!({"podSelector": {}}), true, false),
            (json!({"podSelector": {}, "egress": [{}]}), true, true),
            (json!({"podSelector": {}, "egress": []}), true, false),
            (json!({"podSelector": {}, "policyTypes": ["Egress"]}), false, true),
            (json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}), true, true),
        ] {
            let policy = sound(spec.clone());

            assert_eq!((policy.applies_to_ingress, policy.applies_to_egress), (ingress, egress), "{spec}");
        }
    }

    #[test]
    fn an_empty_rule_allows_everything_and_no_rule_nothing() {
        assert_eq!(sound(json!({"podSelector": {}, "ingress": [{}]})).ingress, [Rule::any(Action::Allow)]);
        assert_eq!(
            sound(json!({"podSelector": {}, "ingress": [{"from": [], "ports": []}]})).ingress.len(),
            1
        );
        assert_eq!(sound(json!({"podSelector": {}, "ingress": []})).ingress, []);
    }

    #[test]
    fn the_policy_is_for_pods_of_its_namespace_only() {
        let policy = sound(json!({"podSelector": {
            "matchLabels": {"app": "web"},
            "matchExpressions": [{"key": "env", "operator": "NotIn", "values": ["prod"]}],
        }}));

        let pod = |extra: &[(&str, &str)]| labels(&[&DEV[..], extra].concat());
        assert!(policy.selector.matches(&pod(&[("app", "web")])));
        assert!(!policy.selector.matches(&pod(&[("app", "web"), ("env", "prod")])));
        assert!(!policy.selector.matches(&labels(&[
            ("app", "web"),
            ("projectcalico.org/namespace", "other"),
            DEV[1]
        ])));
    }

    #[test]
    fn peers_are_selected_in_their_namespaces() {
        let peer = |peer: Value| {
            let policy = sound(json!({"podSelector": {}, "ingress": [{"from": [peer]}]}));
            policy.ingress[0].source.selector.clone().unwrap()
        };
        let own = labels(&[&DEV[..], &[("app", "a")]].concat());
        let mut other = own.clone();
        other.insert("projectcalico.org/namespace".into(), "other".into());
        other.insert("pcns.team".into(), "x".into());

        let by_pod = peer(json!({"podSelector": {"matchLabels": {"app": "a"}}}));
        assert!(by_pod.matches(&own) && !by_pod.matches(&other));
        let anywhere = peer(json!({"namespaceSelector": {}}));
        assert!(anywhere.matches(&own) && anywhere.matches(&other) && !anywhere.matches(&labels(&[])));
        let team = peer(
            json!({"namespaceSelector": {"matchLabels": {"team": "x"}}, "podSelector": {"matchLabels": {"app": "a"}}}),
        );
        assert!(team.matches(&other) && !team.matches(&own));
        let not_team = peer(
            json!({"namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}}),
        );
        assert!(not_team.matches(&own) && !not_team.matches(&other));
        let all_of_own = peer(json!({"podSelector": {}}));
        assert!(all_of_own.matches(&own) && !all_of_own.matches(&other));
    }

    #[test]
    fn ip_blocks_have_exceptions() {
        let policy = sound(json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [
            {"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}], "ports": [{"port": 443}]}]}));

        let rule = &policy.egress[0];
        assert_eq!(rule.destination.nets, ["10.0.0.0/8".parse().unwrap()]);
        assert_eq!(rule.destination.not_nets, ["10.1.0.0/16".parse().unwrap()]);
        assert_eq!(rule.destination.ports, ["443".parse().unwrap()]);
        assert_eq!(rule.protocol, Some(Protocol::TCP));
    }

    #[test]
    fn ports_are_merged_per_protocol() {
        let policy = sound(json!({"podSelector": {}, "ingress": [{"ports": [
            {"port": 81}, {"port": 80}, {"port": 8080, "endPort": 8090}, {"port": "http"},
            {"port": 53, "protocol": "UDP"}, {"protocol": "SCTP"}, {"port": 7, "protocol": "SCTP"}]}]}));

        let ports: Vec<_> =
            policy.ingress.iter().map(|rule| (rule.protocol.unwrap(), &rule.destination.ports[..])).collect();
        let tcp = ["80:81", "8080:8090", "http"].map(|text| text.parse().unwrap());
        assert_eq!(
            ports,
            [(Protocol::TCP, &tcp[..]), (Protocol::UDP, &["53".parse().unwrap()]), (Protocol::SCTP, &[])]
        );
    }

    #[test]
    fn what_is_not_understood_never_opens() {
        let (policy, problems) = convert(json!({"podSelector": {}, "ingress": [
            {"from": [
                {"podSelector": {"matchLabels": {"app": "a"}}},
                {"podSelector": {"matchExpressions": [{"key": "x", "operator": "Maybe"}]}},
                {}, {"ipBlock": {"cidr": "300.0.0.0/8"}}]},
            {"ports": [{"port": 90, "endPort": 80}, {"port": 70000}, {"port": "http", "endPort": 3}, {"port": 1, "protocol": "X"}]},
        ]}));

        assert_eq!(policy.ingress.len(), 1, "{:?}", policy.ingress);
        assert!(policy.applies_to_ingress);
        let fields: Vec<_> = problems.0.iter().map(|problem| problem.field.as_str()).collect();
        assert_eq!(
            fields[..3],
            ["spec.ingress[0].from[1]", "spec.ingress[0].from[2]", "spec.ingress[0].from[3]"]
        );
        assert_eq!(fields.len(), 7);
    }
}
