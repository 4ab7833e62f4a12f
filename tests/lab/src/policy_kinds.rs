//! The kinds of `policy.networking.k8s.io` as CRDs: in a cluster whoever runs it installs them, here the lab does.
//! They say no more than what people write and what makes an object nonsense; what policy means is felix's.

use serde_json::{Value, json};

/// ClusterNetworkPolicy of v1alpha2, AdminNetworkPolicy and BaselineAdminNetworkPolicy of v1alpha1.
pub fn definitions() -> [Value; 3] {
    let rules = |actions: &[&str], ports: &Value| {
        let direction = |name: &str, peer: &Value| list(100, &rule(actions, name, peer, ports));
        (direction("from", &peer(false)), direction("to", &peer(true)))
    };
    let priority = json!({"type": "integer", "format": "int32", "minimum": 0, "maximum": 1000});

    let (ingress, egress) = rules(&["Accept", "Deny", "Pass"], &json!({"protocols": list(25, &protocol())}));
    let cluster = json!({
        "type": "object", "required": ["tier", "priority", "subject"],
        "properties": {
            "tier": choice(&["Admin", "Baseline"]), "priority": priority, "subject": subject(),
            "ingress": ingress, "egress": egress,
        },
    });
    let ports = json!({"ports": list(100, &admin_port())});
    let (ingress, egress) = rules(&["Allow", "Deny", "Pass"], &ports);
    let admin = json!({
        "type": "object", "required": ["priority", "subject"],
        "properties": {"priority": priority, "subject": subject(), "ingress": ingress, "egress": egress},
    });
    let (ingress, egress) = rules(&["Allow", "Deny"], &ports);
    let baseline = json!({
        "type": "object", "required": ["subject"],
        "properties": {"subject": subject(), "ingress": ingress, "egress": egress},
    });
    [
        definition("v1alpha2", "ClusterNetworkPolicy", "clusternetworkpolicies", &[], &cluster),
        definition("v1alpha1", "AdminNetworkPolicy", "adminnetworkpolicies", &["anp"], &admin),
        definition(
            "v1alpha1",
            "BaselineAdminNetworkPolicy",
            "baselineadminnetworkpolicies",
            &["banp"],
            &baseline,
        ),
    ]
}

const GROUP: &str = "policy.networking.k8s.io";

/// `short` has no `cnp`, which is NetworkPolicy's of `projectcalico.org`.
fn definition(version: &str, kind: &str, plural: &str, short: &[&str], spec: &Value) -> Value {
    let mut schema = json!({"type": "object", "required": ["spec"], "properties": {"spec": spec}});
    if kind == "BaselineAdminNetworkPolicy" {
        schema["x-kubernetes-validations"] =
            json!([{"rule": "self.metadata.name == 'default'", "message": "there is one, named default"}]);
    }
    let column = |name: &str, kind: &str, path: &str| json!({"name": name, "type": kind, "jsonPath": path});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{plural}.{GROUP}"),
            // The API server of a cluster demands it of groups below k8s.io.
            "annotations": {"api-approved.kubernetes.io": "unapproved, a stand-in for tests"},
        },
        "spec": {
            "group": GROUP, "scope": "Cluster",
            "names": {"kind": kind, "listKind": format!("{kind}List"), "plural": plural,
                "singular": kind.to_lowercase(), "shortNames": short},
            "versions": [{
                "name": version, "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
                "additionalPrinterColumns": [column("Priority", "string", ".spec.priority"),
                    column("Age", "date", ".metadata.creationTimestamp")],
            }],
        },
    })
}

/// Exactly one of the properties.
fn one_of(properties: Value) -> Value {
    json!({"type": "object", "minProperties": 1, "maxProperties": 1, "properties": properties})
}

fn list(most: u32, items: &Value) -> Value {
    json!({"type": "array", "maxItems": most, "items": items})
}

fn choice(words: &[&str]) -> Value {
    json!({"type": "string", "enum": words})
}

fn text(most: u32) -> Value {
    json!({"type": "string", "maxLength": most})
}

fn port_number() -> Value {
    json!({"type": "integer", "format": "int32", "minimum": 1, "maximum": 65535})
}

fn label_selector() -> Value {
    let requirement = json!({
        "type": "object", "required": ["key", "operator"],
        "properties": {"key": {"type": "string"}, "operator": {"type": "string"},
            "values": {"type": "array", "items": {"type": "string"}}},
    });
    json!({"type": "object", "properties": {
        "matchLabels": {"type": "object", "additionalProperties": {"type": "string"}},
        "matchExpressions": {"type": "array", "items": requirement},
    }})
}

fn pods() -> Value {
    json!({"type": "object", "required": ["namespaceSelector", "podSelector"],
        "properties": {"namespaceSelector": label_selector(), "podSelector": label_selector()}})
}

fn subject() -> Value {
    one_of(json!({"namespaces": label_selector(), "pods": pods()}))
}

fn peer(is_egress: bool) -> Value {
    let mut kinds = json!({"namespaces": label_selector(), "pods": pods()});
    if is_egress {
        kinds["nodes"] = label_selector();
        kinds["networks"] = list(25, &text(43));
        kinds["domainNames"] = list(25, &text(255));
    }
    one_of(kinds)
}

/// `ports` is the field that says protocols and ports, which the two generations spell differently.
fn rule(actions: &[&str], peers: &str, peer: &Value, ports: &Value) -> Value {
    let mut properties = ports.clone();
    properties["name"] = text(100);
    properties["action"] = choice(actions);
    properties[peers] = list(100, peer);
    json!({"type": "object", "required": ["action", peers], "properties": properties})
}

fn protocol() -> Value {
    let range = json!({"type": "object", "required": ["start", "end"],
        "properties": {"start": port_number(), "end": port_number()}});
    let port = one_of(json!({"number": port_number(), "range": range}));
    let of =
        json!({"type": "object", "required": ["destinationPort"], "properties": {"destinationPort": port}});
    one_of(json!({"tcp": of, "udp": of, "sctp": of, "destinationNamedPort": text(63)}))
}

fn admin_port() -> Value {
    let protocol = json!({"type": "string", "default": "TCP", "enum": ["TCP", "UDP", "SCTP"]});
    one_of(json!({
        "portNumber": {"type": "object", "required": ["port"],
            "properties": {"protocol": protocol, "port": port_number()}},
        "portRange": {"type": "object", "required": ["start", "end"],
            "properties": {"protocol": protocol, "start": port_number(), "end": port_number()}},
        "namedPort": text(63),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_says_its_own_words() {
        let [cluster, admin, baseline] = definitions();
        let actions = |crd: &Value| {
            let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
            crd.pointer(&format!("{spec}/ingress/items/properties/action/enum")).cloned().unwrap()
        };

        assert_eq!(actions(&cluster), json!(["Accept", "Deny", "Pass"]));
        assert_eq!(actions(&admin), json!(["Allow", "Deny", "Pass"]));
        assert_eq!(actions(&baseline), json!(["Allow", "Deny"]));
        assert_eq!(cluster["metadata"]["name"], "clusternetworkpolicies.policy.networking.k8s.io");
    }
}
