//! Objects of Calico that the cluster keeps as something else. Pure: objects of Kubernetes come in.

use std::net::IpAddr;

use model::{Family, PodKey, host_interface_name};
use serde_json::{Map, Value, json};

use super::kinds::plain_value;

/// What names of pods' interfaces begin with.
const PREFIX: &str = "cali";

/// A Node as calicoctl shows it.
pub(super) fn node(object: &Value) -> Value {
    let annotation = |name: &str| {
        let value = object.pointer("/metadata/annotations")?.get(format!("projectcalico.org/{name}"))?;
        value.as_str().filter(|text| !text.is_empty()).map(|text| json!(text))
    };
    let fields = [
        ("asNumber", "ASNumber"),
        ("ipv4Address", "IPv4Address"),
        ("ipv6Address", "IPv6Address"),
        ("ipv4IPIPTunnelAddr", "IPv4IPIPTunnelAddr"),
        ("routeReflectorClusterID", "RouteReflectorClusterID"),
    ];
    let bgp: Map<String, Value> =
        fields.into_iter().filter_map(|(field, name)| Some((field.to_owned(), annotation(name)?))).collect();
    let addresses = object.pointer("/status/addresses").and_then(Value::as_array).into_iter().flatten();
    let addresses = addresses.filter(|address| address["type"] != "Hostname");
    json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": "Node",
        "metadata": metadata(object, plain_value(&object["metadata"]["name"])),
        "spec": {
            "addresses": addresses.cloned().collect::<Vec<_>>(),
            "bgp": bgp,
            "orchRefs": [{"nodeName": object["metadata"]["name"], "orchestrator": "k8s"}],
        },
    })
}

/// A pod with an address of its own; `None` for others.
pub(super) fn workload_endpoint(pod: &Value) -> Option<Value> {
    let text = |path: &str| pod.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let (namespace, name, node) =
        (text("/metadata/namespace"), text("/metadata/name"), text("/spec/nodeName"));
    let is_over = matches!(text("/status/phase"), "Succeeded" | "Failed");
    if node.is_empty() || is_over || pod.pointer("/spec/hostNetwork") == Some(&json!(true)) {
        return None;
    }
    let addresses = pod.pointer("/status/podIPs").and_then(Value::as_array).into_iter().flatten();
    let networks: Vec<String> = addresses
        .filter_map(|entry| entry["ip"].as_str()?.parse::<IpAddr>().ok())
        .map(|address| format!("{address}/{}", Family::of(address).bits()))
        .collect();
    if networks.is_empty() {
        return None;
    }
    let key = PodKey { namespace: namespace.into(), name: name.into() };
    let account = text("/spec/serviceAccountName");
    let account = if account.is_empty() { "default" } else { account };
    // A dash of a part is doubled, so that the parts can be told apart.
    let part = |text: &str| text.replace('-', "--");
    let endpoint = format!("{}-k8s-{}-eth0", part(node), part(name));
    Some(json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": "WorkloadEndpoint",
        "metadata": metadata(pod, endpoint),
        "spec": {
            "orchestrator": "k8s",
            "node": node,
            "pod": name,
            "endpoint": "eth0",
            "serviceAccountName": account,
            "interfaceName": host_interface_name(PREFIX, &key).to_string(),
            "ipNetworks": networks,
            "profiles": [format!("kns.{namespace}"), format!("ksa.{namespace}.{account}")],
        },
    }))
}

/// What a namespace stands for: its labels for all of its pods.
pub(super) fn namespace_profile(namespace: &Value) -> Value {
    let name = plain_value(&namespace["metadata"]["name"]);
    let mut labels = Map::new();
    labels.insert("projectcalico.org/name".to_owned(), json!(name));
    let own = namespace.pointer("/metadata/labels").and_then(Value::as_object);
    let labels: Map<String, Value> = labels
        .into_iter()
        .chain(own.into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())))
        .map(|(key, value)| (format!("pcns.{key}"), value))
        .collect();
    profile(&format!("kns.{name}"), &Value::Object(labels), true)
}

/// What a service account stands for.
pub(super) fn account_profile(account: &Value) -> Value {
    let at = |path: &str| account.pointer(path).map(plain_value).unwrap_or_default();
    let (namespace, name) = (at("/metadata/namespace"), at("/metadata/name"));
    let own = account.pointer("/metadata/labels").and_then(Value::as_object);
    let labels: Map<String, Value> = std::iter::once(("pcsa.projectcalico.org/name".to_owned(), json!(name)))
        .chain(own.into_iter().flatten().map(|(key, value)| (format!("pcsa.{key}"), value.clone())))
        .collect();
    profile(&format!("ksa.{namespace}.{name}"), &Value::Object(labels), false)
}

/// The one that allows everything.
pub(super) fn default_profile() -> Value {
    profile("projectcalico-default-allow", &json!({}), true)
}

fn profile(name: &str, labels: &Value, allows: bool) -> Value {
    let rules = if allows { json!([{"action": "Allow"}]) } else { json!([]) };
    json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": "Profile",
        "metadata": {"name": name},
        "spec": {"ingress": rules, "egress": rules, "labelsToApply": labels},
    })
}

/// A policy of Kubernetes among Calico's: its name says what it is, its spec stays as it stands.
pub(super) fn kubernetes_policy(object: &Value) -> Value {
    let mut policy = object.clone();
    let name = plain_value(&object["metadata"]["name"]);
    policy["metadata"]["name"] = json!(format!("knp.default.{name}"));
    let selector = object.pointer("/spec/podSelector").map(selector_text).unwrap_or_default();
    policy["spec"]["selector"] = json!(selector);
    policy["spec"]["order"] = json!(1000);
    policy
}

/// A selector of Kubernetes in Calico's language.
fn selector_text(selector: &Value) -> String {
    let labels = selector["matchLabels"].as_object().into_iter().flatten();
    let labels = labels.map(|(key, value)| format!("{key} == '{}'", plain_value(value)));
    let expressions = selector["matchExpressions"].as_array().into_iter().flatten().map(|expression| {
        let key = plain_value(&expression["key"]);
        let values = expression["values"].as_array().into_iter().flatten();
        let values = values.map(|value| format!("'{}'", plain_value(value))).collect::<Vec<_>>().join(", ");
        match expression["operator"].as_str() {
            Some("In") => format!("{key} in {{ {values} }}"),
            Some("NotIn") => format!("{key} not in {{ {values} }}"),
            Some("Exists") => format!("has({key})"),
            _ => format!("! has({key})"),
        }
    });
    let kubernetes = "projectcalico.org/orchestrator == 'k8s'".to_owned();
    std::iter::once(kubernetes).chain(labels).chain(expressions).collect::<Vec<_>>().join(" && ")
}

/// What identifies an object, under another name.
fn metadata(object: &Value, name: String) -> Value {
    let mut kept = Map::new();
    kept.insert("name".to_owned(), json!(name));
    for key in ["namespace", "uid", "creationTimestamp", "resourceVersion", "labels", "annotations"] {
        if let Some(value) = object["metadata"].get(key) {
            kept.insert(key.to_owned(), value.clone());
        }
    }
    Value::Object(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_an_endpoint_and_one_of_the_host_network_is_none() {
        let pod = json!({
            "metadata": {"name": "web-0", "namespace": "shop"},
            "spec": {"nodeName": "node-1"},
            "status": {"podIPs": [{"ip": "10.65.0.7"}, {"ip": "fd00::7"}], "phase": "Running"},
        });

        let endpoint = workload_endpoint(&pod).unwrap();

        assert_eq!(endpoint["metadata"]["name"], "node--1-k8s-web--0-eth0");
        assert_eq!(endpoint["spec"]["ipNetworks"], json!(["10.65.0.7/32", "fd00::7/128"]));
        assert_eq!(endpoint["spec"]["profiles"], json!(["kns.shop", "ksa.shop.default"]));
        assert!(endpoint["spec"]["interfaceName"].as_str().unwrap().starts_with("cali"));
        for (path, value) in [
            ("/spec/hostNetwork", json!(true)),
            ("/spec/nodeName", json!("")),
            ("/status/phase", json!("Failed")),
            ("/status/podIPs", json!([])),
        ] {
            let mut other = pod.clone();
            other["spec"]["hostNetwork"] = json!(false);
            *other.pointer_mut(path).unwrap() = value;
            assert_eq!(workload_endpoint(&other), None, "{path}");
        }
    }

    #[test]
    fn a_selector_of_kubernetes_is_written_in_calicos_language() {
        let selector = json!({
            "matchLabels": {"app": "web"},
            "matchExpressions": [{"key": "tier", "operator": "In", "values": ["a", "b"]}, {"key": "x", "operator": "DoesNotExist"}],
        });

        let expected =
            "projectcalico.org/orchestrator == 'k8s' && app == 'web' && tier in { 'a', 'b' } && ! has(x)";
        assert_eq!(selector_text(&selector), expected);
    }

    #[test]
    fn a_node_shows_what_its_annotations_say() {
        let object = json!({
            "metadata": {"name": "n1", "annotations": {"projectcalico.org/IPv4Address": "192.0.2.1/24", "projectcalico.org/ASNumber": ""}},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}, {"type": "Hostname", "address": "n1"}]},
        });

        let node = node(&object);

        assert_eq!(node["spec"]["bgp"], json!({"ipv4Address": "192.0.2.1/24"}));
        assert_eq!(node["spec"]["addresses"].as_array().unwrap().len(), 1);
    }
}
