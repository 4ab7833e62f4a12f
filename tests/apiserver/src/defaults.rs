//! Defaults of the built-in kinds that controllers and `kubectl` rely on.

use serde_json::{Map, Value, json};

use crate::object::{child_mut, meta_mut, meta_str};

/// Namespaces carry their name as a label and are active.
pub(crate) fn namespace(value: &mut Value, _old: Option<&Value>) {
    let name = meta_str(value, "name").to_owned();
    let labels = meta_mut(value).entry("labels").or_insert_with(|| json!({}));
    if let Some(labels) = labels.as_object_mut() {
        labels.insert("kubernetes.io/metadata.name".into(), json!(name));
    }
    default(child_mut(value, "spec"), "finalizers", json!(["kubernetes"]));
    default(child_mut(value, "status"), "phase", json!("Active"));
}

/// Nodes have a spec, and their name as the label that selectors use.
pub(crate) fn node(value: &mut Value, _old: Option<&Value>) {
    child_mut(value, "spec");
    child_mut(value, "status");
}

/// What the real server and its admission plugins put into a pod.
pub(crate) fn pod(value: &mut Value, old: Option<&Value>) {
    let spec = child_mut(value, "spec");
    for (field, of) in [
        ("restartPolicy", json!("Always")),
        ("dnsPolicy", json!("ClusterFirst")),
        ("schedulerName", json!("default-scheduler")),
        ("terminationGracePeriodSeconds", json!(30)),
        ("enableServiceLinks", json!(true)),
        ("preemptionPolicy", json!("PreemptLowerPriority")),
        ("priority", json!(0)),
        ("securityContext", json!({})),
    ] {
        default(spec, field, of);
    }
    let account = spec.get("serviceAccountName").or(spec.get("serviceAccount")).cloned();
    let account = account.filter(|a| a.as_str().is_some_and(|a| !a.is_empty())).unwrap_or(json!("default"));
    spec.insert("serviceAccountName".into(), account.clone());
    spec.insert("serviceAccount".into(), account);
    containers_defaults(spec);
    if old.is_none() {
        let quality = quality_of_service(value);
        let status = child_mut(value, "status");
        status.clear();
        status.insert("phase".into(), json!("Pending"));
        status.insert("qosClass".into(), json!(quality));
    }
}

/// Those of all containers of a pod, or of a template of pods.
fn containers_defaults(spec: &mut Map<String, Value>) {
    let host_network = spec.get("hostNetwork") == Some(&json!(true));
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            container_defaults(container, host_network);
        }
    }
}

fn container_defaults(container: &mut Value, host_network: bool) {
    let Some(container) = container.as_object_mut() else { return };
    let image = container.get("image").and_then(Value::as_str).unwrap_or("").to_owned();
    let tag = image.rsplit('/').next().unwrap_or("").split_once(':').map(|(_, tag)| tag);
    let policy =
        if image.contains('@') || tag.is_some_and(|t| t != "latest") { "IfNotPresent" } else { "Always" };
    default(container, "imagePullPolicy", json!(policy));
    default(container, "resources", json!({}));
    default(container, "terminationMessagePath", json!("/dev/termination-log"));
    default(container, "terminationMessagePolicy", json!("File"));
    for port in container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(port) = port.as_object_mut() else { continue };
        default(port, "protocol", json!("TCP"));
        if host_network && let Some(number) = port.get("containerPort").cloned() {
            default(port, "hostPort", number);
        }
    }
}

fn quality_of_service(pod: &Value) -> &'static str {
    let containers = pod.pointer("/spec/containers").and_then(Value::as_array).cloned().unwrap_or_default();
    let asks =
        |c: &Value, kind: &str, resource: &str| c.pointer(&format!("/resources/{kind}/{resource}")).cloned();
    let any = containers.iter().any(|c| {
        ["requests", "limits"].iter().any(|k| ["cpu", "memory"].iter().any(|r| asks(c, k, r).is_some()))
    });
    let all_equal = containers.iter().all(|c| {
        ["cpu", "memory"].iter().all(|r| {
            let limit = asks(c, "limits", r);
            limit.is_some() && asks(c, "requests", r).is_none_or(|request| Some(request) == limit)
        })
    });
    match (any, all_equal && !containers.is_empty()) {
        (_, true) => "Guaranteed",
        (true, false) => "Burstable",
        (false, false) => "BestEffort",
    }
}

/// `stringData` goes into `data`; the type is Opaque.
pub(crate) fn secret(value: &mut Value, _old: Option<&Value>) {
    use base64::Engine;
    let Some(map) = value.as_object_mut() else { return };
    if let Some(Value::Object(plain)) = map.remove("stringData") {
        let data = child_mut(value, "data");
        for (key, text) in plain {
            let encoded = base64::engine::general_purpose::STANDARD.encode(text.as_str().unwrap_or(""));
            data.insert(key, json!(encoded));
        }
    }
    if let Some(map) = value.as_object_mut() {
        default(map, "type", json!("Opaque"));
    }
}

/// Defaults of a service. The address is given by the caller, who knows which are taken.
pub(crate) fn service(value: &mut Value, old: Option<&Value>) {
    let spec = child_mut(value, "spec");
    default(spec, "type", json!("ClusterIP"));
    default(spec, "sessionAffinity", json!("None"));
    let kind = spec["type"].as_str().unwrap_or("").to_owned();
    if kind != "ExternalName" {
        default(spec, "internalTrafficPolicy", json!("Cluster"));
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if let Some(kept) = old.and_then(|o| o.pointer(&format!("/spec/{field}"))) {
                default(spec, field, kept.clone());
            }
        }
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        default(spec, "externalTrafficPolicy", json!("Cluster"));
    }
    if kind == "LoadBalancer" {
        default(spec, "allocateLoadBalancerNodePorts", json!(true));
    }
    let old_ports = old.and_then(|o| o.pointer("/spec/ports")).and_then(Value::as_array);
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(port) = port.as_object_mut() else { continue };
        default(port, "protocol", json!("TCP"));
        if let Some(number) = port.get("port").cloned() {
            default(port, "targetPort", number);
        }
        let is_same =
            |o: &&Value| o.get("port") == port.get("port") && o.get("protocol") == port.get("protocol");
        let kept = old_ports.and_then(|all| all.iter().find(is_same)?.get("nodePort").cloned());
        if let Some(kept) = kept.filter(|_| matches!(kind.as_str(), "NodePort" | "LoadBalancer")) {
            default(port, "nodePort", kept);
        }
    }
    default(child_mut(value, "status"), "loadBalancer", json!({}));
}

/// One replica, and what its pods' containers have.
pub(crate) fn deployment(value: &mut Value, old: Option<&Value>) {
    default(child_mut(value, "spec"), "replicas", json!(1));
    template(value, old);
}

/// What the containers of a template of pods have.
pub(crate) fn template(value: &mut Value, _old: Option<&Value>) {
    if let Some(spec) = value.pointer_mut("/spec/template/spec").and_then(Value::as_object_mut) {
        containers_defaults(spec);
    }
}

/// `policyTypes` follow from the rules; ports are TCP.
pub(crate) fn network_policy(value: &mut Value, _old: Option<&Value>) {
    let spec = child_mut(value, "spec");
    default(spec, "podSelector", json!({}));
    if spec.get("policyTypes").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        let mut types = vec![json!("Ingress")];
        if spec.get("egress").and_then(Value::as_array).is_some_and(|e| !e.is_empty()) {
            types.push(json!("Egress"));
        }
        spec.insert("policyTypes".into(), Value::Array(types));
    }
    for direction in ["ingress", "egress"] {
        for rule in spec.get_mut(direction).and_then(Value::as_array_mut).into_iter().flatten() {
            for port in rule.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
                if let Some(port) = port.as_object_mut() {
                    default(port, "protocol", json!("TCP"));
                }
            }
        }
    }
}

/// Sets a member that is absent or null.
fn default(map: &mut Map<String, Value>, field: &str, to: Value) {
    let slot = map.entry(field).or_insert(Value::Null);
    if slot.is_null() {
        *slot = to;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_types_follow_from_the_rules() {
        for (spec, types) in [
            (json!({}), json!(["Ingress"])),
            (json!({"egress": []}), json!(["Ingress"])),
            (json!({"egress": [{}]}), json!(["Ingress", "Egress"])),
            (json!({"policyTypes": ["Egress"]}), json!(["Egress"])),
        ] {
            let mut policy = json!({"spec": spec});
            network_policy(&mut policy, None);
            assert_eq!(policy["spec"]["policyTypes"], types);
        }
    }

    #[test]
    fn new_pod_is_pending_with_its_quality() {
        let limits = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
        for (resources, quality) in [
            (json!({}), "BestEffort"),
            (limits, "Guaranteed"),
            (json!({"requests": {"cpu": "1"}}), "Burstable"),
        ] {
            let mut value = json!({"spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]}, "status": {"phase": "Running"}});
            pod(&mut value, None);
            assert_eq!(value["status"], json!({"phase": "Pending", "qosClass": quality}));
            assert_eq!(value["spec"]["serviceAccountName"], "default");
            assert_eq!(value["spec"]["containers"][0]["imagePullPolicy"], "Always");
        }
    }
}
