//! What Kubernetes NetworkPolicy means, written straight from its documentation, slowly, on the JSON objects:
//! shares nothing with what it judges.

use std::net::IpAddr;

use serde_json::Value;

use crate::cases::{CasePod, Labels};
use crate::cluster::Cluster;

/// One end of a connection; no pod when it is outside the pod network.
#[derive(Clone, Copy)]
pub struct End<'a> {
    pub address: IpAddr,
    /// Namespace and pod.
    pub pod: Option<(&'a str, &'a CasePod)>,
}

/// May `source` connect to `destination`? Both the egress policies of the one and the ingress policies of the
/// other must let it.
pub fn is_allowed(
    cluster: &Cluster,
    source: End<'_>,
    destination: End<'_>,
    port: u16,
    protocol: &str,
) -> bool {
    let connection = Connection { cluster, destination, port, protocol };
    connection.direction_allows("Egress", "egress", "to", source, destination)
        && connection.direction_allows("Ingress", "ingress", "from", destination, source)
}

struct Connection<'a> {
    cluster: &'a Cluster,
    destination: End<'a>,
    port: u16,
    protocol: &'a str,
}

impl Connection<'_> {
    fn direction_allows(
        &self,
        kind: &str,
        rules: &str,
        peers: &str,
        subject: End<'_>,
        other: End<'_>,
    ) -> bool {
        let Some((namespace, pod)) = subject.pod else { return true };
        let mut is_isolated = false;
        for policy in self.cluster.policies.values() {
            let selects = policy["metadata"]["namespace"] == namespace
                && selects(&policy["spec"]["podSelector"], &pod.labels)
                && policy_types(&policy["spec"]).contains(&kind);
            if !selects {
                continue;
            }
            is_isolated = true;
            let allowing = list(&policy["spec"][rules]).iter();
            if allowing.into_iter().any(|rule| self.rule_allows(rule, peers, namespace, other)) {
                return true;
            }
        }
        !is_isolated
    }

    fn rule_allows(&self, rule: &Value, peers: &str, namespace: &str, other: End<'_>) -> bool {
        let (ports, peers) = (list(&rule["ports"]), list(&rule[peers]));
        (ports.is_empty() || ports.iter().any(|port| self.port_matches(port)))
            && (peers.is_empty() || peers.iter().any(|peer| self.peer_matches(peer, namespace, other)))
    }

    fn port_matches(&self, port: &Value) -> bool {
        if port["protocol"].as_str().unwrap_or("TCP") != self.protocol {
            return false;
        }
        match &port["port"] {
            Value::Null => true,
            Value::String(name) => self.destination.pod.is_some_and(|(_, pod)| {
                pod.ports
                    .iter()
                    .any(|p| p.name == *name && p.protocol == self.protocol && p.port == self.port)
            }),
            number => {
                let first = number.as_u64().unwrap();
                let last = port["endPort"].as_u64().unwrap_or(first);
                (first..=last).contains(&u64::from(self.port))
            }
        }
    }

    fn peer_matches(&self, peer: &Value, own_namespace: &str, other: End<'_>) -> bool {
        if let Some(block) = peer.get("ipBlock") {
            let within = |net: &Value| net_contains(net.as_str().unwrap(), other.address);
            return within(&block["cidr"]) && !list(&block["except"]).iter().any(within);
        }
        let Some((namespace, pod)) = other.pod else { return false };
        let in_scope = match peer.get("namespaceSelector") {
            Some(selector) => selects(selector, &self.cluster.namespaces[namespace]),
            None => namespace == own_namespace,
        };
        in_scope && peer.get("podSelector").is_none_or(|selector| selects(selector, &pod.labels))
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The API server's default: Ingress always, Egress with egress rules.
fn policy_types(spec: &Value) -> Vec<&str> {
    match list(&spec["policyTypes"]) {
        [] if list(&spec["egress"]).is_empty() => vec!["Ingress"],
        [] => vec!["Ingress", "Egress"],
        types => types.iter().filter_map(Value::as_str).collect(),
    }
}

fn selects(selector: &Value, labels: &Labels) -> bool {
    let equal = selector["matchLabels"].as_object().into_iter().flatten();
    let mut equal = equal.map(|(key, value)| labels.get(key).map(String::as_str) == value.as_str());
    let mut expressions = list(&selector["matchExpressions"]).iter().map(|expression| {
        let label = labels.get(expression["key"].as_str().unwrap());
        let among =
            label.is_some_and(|label| list(&expression["values"]).iter().any(|v| v == label.as_str()));
        match expression["operator"].as_str().unwrap() {
            "In" => among,
            "NotIn" => !among,
            "Exists" => label.is_some(),
            "DoesNotExist" => label.is_none(),
            other => panic!("{other:?} is no operator"),
        }
    });
    equal.all(|holds| holds) && expressions.all(|holds| holds)
}

fn net_contains(net: &str, address: IpAddr) -> bool {
    let (network, length) = net.split_once('/').unwrap();
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)) << 96, 4),
        IpAddr::V6(address) => (u128::from(address), 6),
    };
    let ((network, network_family), (address, family)) = (bits(network.parse().unwrap()), bits(address));
    let mask = u128::MAX.checked_shl(128 - length.parse::<u32>().unwrap()).unwrap_or(0);
    network_family == family && network & mask == address & mask
}
