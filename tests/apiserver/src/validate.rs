//! What built-in kinds must look like; every refusal names its field.

use ipnetwork::IpNetwork;
use serde_json::{Map, Value, json};

use crate::names;
use crate::object::meta;
use crate::status::Cause;

/// Checks labels, annotations and finalizers of any object.
pub(crate) fn metadata(value: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    if let Some(labels) = meta(value, "labels") {
        check_labels(labels, "metadata.labels", &mut causes);
    }
    match meta(value, "annotations") {
        Some(Value::Object(map)) => {
            for (key, text) in map {
                if let Some(why) = names::label_key_error(&key.to_lowercase()) {
                    causes.push(Cause::invalid("metadata.annotations", &json!(key), why));
                }
                if !text.is_string() {
                    causes.push(Cause::wrong_type(
                        format!("metadata.annotations.{key}"),
                        text,
                        "must be a string",
                    ));
                }
            }
            let size: usize = map.iter().map(|(k, v)| k.len() + v.as_str().map_or(0, str::len)).sum();
            if size > 256 * 1024 {
                let message = "Too long: may not be more than 262144 bytes".into();
                causes.push(Cause {
                    reason: "FieldValueTooLong",
                    message,
                    field: "metadata.annotations".into(),
                });
            }
        }
        Some(Value::Null) | None => {}
        Some(other) => causes.push(Cause::wrong_type("metadata.annotations", other, "must be an object")),
    }
    for finalizer in meta(value, "finalizers").and_then(Value::as_array).into_iter().flatten() {
        if let Some(why) = names::label_key_error(finalizer.as_str().unwrap_or("")) {
            causes.push(Cause::invalid("metadata.finalizers", finalizer, why));
        }
    }
    causes
}

fn check_labels(labels: &Value, path: &str, causes: &mut Vec<Cause>) {
    let map = match labels {
        Value::Object(map) => map,
        Value::Null => return,
        other => {
            causes.push(Cause::wrong_type(path, other, "must be an object"));
            return;
        }
    };
    for (key, value) in map {
        if let Some(why) = names::label_key_error(key) {
            causes.push(Cause::invalid(path, &json!(key), why));
        }
        match value.as_str() {
            Some(text) => {
                if let Some(why) = names::label_value_error(text) {
                    causes.push(Cause::invalid(path, value, why));
                }
            }
            None => causes.push(Cause::wrong_type(format!("{path}.{key}"), value, "must be a string")),
        }
    }
}

/// A `LabelSelector` object.
fn check_selector(selector: &Value, path: &str, causes: &mut Vec<Cause>) {
    if let Some(labels) = selector.get("matchLabels") {
        check_labels(labels, &format!("{path}.matchLabels"), causes);
    }
    for (i, expression) in list(selector, "matchExpressions").enumerate() {
        let here = format!("{path}.matchExpressions[{i}]");
        let count = list(expression, "values").count();
        match expression["operator"].as_str().unwrap_or("") {
            "In" | "NotIn" if count == 0 => {
                let why = "must be specified when `operator` is 'In' or 'NotIn'";
                causes.push(Cause::required(format!("{here}.values"), why));
            }
            "Exists" | "DoesNotExist" if count > 0 => {
                let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                causes.push(Cause::forbidden(format!("{here}.values"), why));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => {
                let why = "not a valid selector operator";
                causes.push(Cause::invalid(format!("{here}.operator"), &expression["operator"], why));
            }
        }
        if let Some(why) = names::label_key_error(expression["key"].as_str().unwrap_or("")) {
            causes.push(Cause::invalid(format!("{here}.key"), &expression["key"], why));
        }
        for (j, value) in list(expression, "values").enumerate() {
            if let Some(why) = names::label_value_error(value.as_str().unwrap_or("")) {
                causes.push(Cause::invalid(format!("{here}.values[{j}]"), value, why));
            }
        }
    }
}

/// A pod, and that an update changes only what may change.
pub(crate) fn pod(value: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    pod_spec(&value["spec"], "spec", &mut causes);
    let policy = &value["spec"]["restartPolicy"];
    if !matches!(policy.as_str(), Some("Always" | "OnFailure" | "Never")) {
        let supported = ["Always", "OnFailure", "Never"].map(str::to_owned);
        causes.push(Cause::unsupported("spec.restartPolicy", policy, &supported));
    }
    for (i, entry) in
        value.pointer("/status/podIPs").and_then(Value::as_array).into_iter().flatten().enumerate()
    {
        if entry["ip"].as_str().is_none_or(|ip| ip.parse::<std::net::IpAddr>().is_err()) {
            causes.push(Cause::invalid(
                format!("status.podIPs[{i}].ip"),
                &entry["ip"],
                "must be a valid IP address",
            ));
        }
    }
    if let Some(old) = old
        && mutable_pod_parts_removed(&value["spec"]) != mutable_pod_parts_removed(&old["spec"])
    {
        let why = "pod updates may not change fields other than `spec.containers[*].image`,\
                   `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to \
                   existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
                   previously negative)";
        causes.push(Cause::forbidden("spec", why));
    }
    causes
}

fn mutable_pod_parts_removed(spec: &Value) -> Value {
    let mut spec = spec.clone();
    if let Some(map) = spec.as_object_mut() {
        for field in
            ["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "schedulingGates"]
        {
            map.remove(field);
        }
        for list in ["containers", "initContainers"] {
            for container in map.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                container["image"] = Value::Null;
            }
        }
    }
    spec
}

/// The pod template of a workload.
pub(crate) fn workload(value: &Value, _old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let spec = &value["spec"];
    match spec.get("selector") {
        Some(selector) => {
            check_selector(selector, "spec.selector", &mut causes);
            let labels = spec.pointer("/template/metadata/labels");
            let wanted = selector.get("matchLabels").and_then(Value::as_object);
            if wanted.into_iter().flatten().any(|(k, v)| labels.and_then(|l| l.get(k)) != Some(v)) {
                let shown = labels.cloned().unwrap_or(Value::Null);
                let why = "`selector` does not match template `labels`";
                causes.push(Cause::invalid("spec.template.metadata.labels", &shown, why));
            }
        }
        None => causes.push(Cause::required("spec.selector", "")),
    }
    pod_spec(&spec["template"]["spec"], "spec.template.spec", &mut causes);
    causes
}

fn pod_spec(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    if list(spec, "containers").next().is_none() {
        causes.push(Cause::required(format!("{path}.containers"), ""));
    }
    let mut seen = Vec::new();
    for kind in ["initContainers", "containers"] {
        for (i, container) in list(spec, kind).enumerate() {
            check_container(container, &format!("{path}.{kind}[{i}]"), &mut seen, causes);
        }
    }
    let volumes: Vec<&str> = list(spec, "volumes").filter_map(|v| v["name"].as_str()).collect();
    for kind in ["initContainers", "containers"] {
        for (i, container) in list(spec, kind).enumerate() {
            for (j, mount) in list(container, "volumeMounts").enumerate() {
                let name = mount["name"].as_str().unwrap_or("");
                if !volumes.contains(&name) {
                    let message = format!("Not found: {name:?}");
                    let field = format!("{path}.{kind}[{i}].volumeMounts[{j}].name");
                    causes.push(Cause { reason: "FieldValueNotFound", message, field });
                }
            }
        }
    }
}

fn check_container(container: &Value, path: &str, seen: &mut Vec<String>, causes: &mut Vec<Cause>) {
    let name = container["name"].as_str().unwrap_or("");
    if name.is_empty() {
        causes.push(Cause::required(format!("{path}.name"), ""));
    } else if let Some(why) = names::dns_label_error(name) {
        causes.push(Cause::invalid(format!("{path}.name"), &container["name"], why));
    } else if seen.iter().any(|s| s == name) {
        causes.push(Cause::duplicate(format!("{path}.name"), &container["name"]));
    }
    seen.push(name.to_owned());
    if container["image"].as_str().unwrap_or("").is_empty() {
        causes.push(Cause::required(format!("{path}.image"), ""));
    }
    let mut port_names = Vec::new();
    for (i, port) in list(container, "ports").enumerate() {
        let here = format!("{path}.ports[{i}]");
        match port.get("containerPort") {
            None => causes.push(Cause::required(format!("{here}.containerPort"), "")),
            Some(number) => check_port(number, &format!("{here}.containerPort"), causes),
        }
        if let Some(number) = port.get("hostPort").filter(|p| **p != json!(0)) {
            check_port(number, &format!("{here}.hostPort"), causes);
        }
        check_protocol(port, &here, causes);
        if let Some(text) = port["name"].as_str() {
            if let Some(why) = names::port_name_error(text) {
                causes.push(Cause::invalid(format!("{here}.name"), &port["name"], why));
            } else if port_names.contains(&text) {
                causes.push(Cause::duplicate(format!("{here}.name"), &port["name"]));
            }
            port_names.push(text);
        }
    }
}

fn check_port(number: &Value, path: &str, causes: &mut Vec<Cause>) {
    if !number.as_i64().is_some_and(|n| (1..=65535).contains(&n)) {
        causes.push(Cause::invalid(path, number, "must be between 1 and 65535, inclusive"));
    }
}

fn check_protocol(port: &Value, path: &str, causes: &mut Vec<Cause>) {
    if !matches!(port["protocol"].as_str(), Some("TCP" | "UDP" | "SCTP")) {
        let supported = ["SCTP", "TCP", "UDP"].map(str::to_owned);
        causes.push(Cause::unsupported(format!("{path}.protocol"), &port["protocol"], &supported));
    }
}

/// A network policy.
pub(crate) fn network_policy(value: &Value, _old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let spec = &value["spec"];
    check_selector(&spec["podSelector"], "spec.podSelector", &mut causes);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for (i, rule) in list(spec, direction).enumerate() {
            let here = format!("spec.{direction}[{i}]");
            for (j, port) in list(rule, "ports").enumerate() {
                check_policy_port(port, &format!("{here}.ports[{j}]"), &mut causes);
            }
            for (j, peer) in list(rule, peers).enumerate() {
                check_peer(peer, &format!("{here}.{peers}[{j}]"), &mut causes);
            }
        }
    }
    let types: Vec<&Value> = list(spec, "policyTypes").collect();
    if types.len() > 2 {
        let why = "may not specify more than two policyTypes";
        causes.push(Cause::invalid("spec.policyTypes", &spec["policyTypes"], why));
    }
    for (i, kind) in types.into_iter().enumerate() {
        if !matches!(kind.as_str(), Some("Ingress" | "Egress")) {
            let supported = ["Egress", "Ingress"].map(str::to_owned);
            causes.push(Cause::unsupported(format!("spec.policyTypes[{i}]"), kind, &supported));
        }
    }
    causes
}

fn check_policy_port(port: &Value, path: &str, causes: &mut Vec<Cause>) {
    check_protocol(port, path, causes);
    match port.get("port") {
        Some(number @ Value::Number(_)) => {
            check_port(number, &format!("{path}.port"), causes);
            if let Some(end) = port.get("endPort") {
                check_port(end, &format!("{path}.endPort"), causes);
                if end.as_i64() < number.as_i64() {
                    let why = "must be greater than or equal to `port`";
                    causes.push(Cause::invalid(format!("{path}.endPort"), end, why));
                }
            }
        }
        Some(Value::String(name)) => {
            if let Some(why) = names::port_name_error(name) {
                causes.push(Cause::invalid(format!("{path}.port"), &port["port"], why));
            }
            if let Some(end) = port.get("endPort") {
                let why = "may not be specified when `port` is non-numeric";
                causes.push(Cause::invalid(format!("{path}.endPort"), end, why));
            }
        }
        Some(Value::Null) | None => {
            if let Some(end) = port.get("endPort").filter(|e| !e.is_null()) {
                let why = "may not be specified when `port` is not specified";
                causes.push(Cause::invalid(format!("{path}.endPort"), end, why));
            }
        }
        Some(other) => {
            causes.push(Cause::wrong_type(format!("{path}.port"), other, "must be an integer or a string"))
        }
    }
}

fn check_peer(peer: &Value, path: &str, causes: &mut Vec<Cause>) {
    let mut kinds = 0;
    for selector in ["podSelector", "namespaceSelector"] {
        if let Some(given) = peer.get(selector).filter(|s| !s.is_null()) {
            kinds += 1;
            check_selector(given, &format!("{path}.{selector}"), causes);
        }
    }
    if let Some(block) = peer.get("ipBlock").filter(|b| !b.is_null()) {
        if kinds > 0 {
            causes.push(Cause::forbidden(path, "may not specify both ipBlock and another peer"));
        }
        kinds += 1;
        check_ip_block(block, &format!("{path}.ipBlock"), causes);
    }
    if kinds == 0 {
        causes.push(Cause::required(path, "must specify a peer"));
    }
}

fn check_ip_block(block: &Value, path: &str, causes: &mut Vec<Cause>) {
    let Some(text) = block["cidr"].as_str().filter(|t| !t.is_empty()) else {
        causes.push(Cause::required(format!("{path}.cidr"), ""));
        return;
    };
    let Some(outer) = check_cidr(text, &format!("{path}.cidr"), causes) else { return };
    for (i, except) in list(block, "except").enumerate() {
        let here = format!("{path}.except[{i}]");
        let Some(inner) = check_cidr(except.as_str().unwrap_or(""), &here, causes) else { continue };
        let inside = match (outer, inner) {
            (IpNetwork::V4(o), IpNetwork::V4(n)) => n.prefix() > o.prefix() && o.contains(n.ip()),
            (IpNetwork::V6(o), IpNetwork::V6(n)) => n.prefix() > o.prefix() && o.contains(n.ip()),
            _ => false,
        };
        if !inside {
            causes.push(Cause::invalid(here, except, "must be a strict subset of `cidr`"));
        }
    }
}

fn check_cidr(text: &str, path: &str, causes: &mut Vec<Cause>) -> Option<IpNetwork> {
    let why = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
    let network = if text.contains('/') { text.parse::<IpNetwork>().ok() } else { None };
    let Some(network) = network else {
        causes.push(Cause::invalid(path, &json!(text), why));
        return None;
    };
    if network.ip() != network.network() {
        let better = format!("{}/{}", network.network(), network.prefix());
        let why = format!("must not have bits set beyond the prefix length (it should be {better:?})");
        causes.push(Cause::invalid(path, &json!(text), why));
        return None;
    }
    Some(network)
}

/// A service.
pub(crate) fn service(value: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let spec = &value["spec"];
    let kind = spec["type"].as_str().unwrap_or("");
    if !matches!(kind, "ClusterIP" | "NodePort" | "LoadBalancer" | "ExternalName") {
        let supported = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"].map(str::to_owned);
        causes.push(Cause::unsupported("spec.type", &spec["type"], &supported));
    }
    let headless = spec["clusterIP"] == "None";
    let ports: Vec<&Value> = list(spec, "ports").collect();
    if ports.is_empty() && !headless && kind != "ExternalName" {
        causes.push(Cause::required("spec.ports", ""));
    }
    let mut seen = Vec::new();
    for (i, port) in ports.iter().enumerate() {
        let here = format!("spec.ports[{i}]");
        check_port(&port["port"], &format!("{here}.port"), &mut causes);
        check_protocol(port, &here, &mut causes);
        match port["name"].as_str() {
            None | Some("") if ports.len() > 1 => causes.push(Cause::required(format!("{here}.name"), "")),
            Some(name) if !name.is_empty() => {
                if let Some(why) = names::dns_label_error(name) {
                    causes.push(Cause::invalid(format!("{here}.name"), &port["name"], why));
                } else if seen.contains(&name) {
                    causes.push(Cause::duplicate(format!("{here}.name"), &port["name"]));
                }
                seen.push(name);
            }
            _ => {}
        }
    }
    let address = spec["clusterIP"].as_str().unwrap_or("");
    if !matches!(address, "" | "None") && address.parse::<std::net::IpAddr>().is_err() {
        causes.push(Cause::invalid("spec.clusterIP", &spec["clusterIP"], "must be a valid IP address"));
    }
    if let Some(before) = old.and_then(|o| o.pointer("/spec/clusterIP")).and_then(Value::as_str)
        && before != address
        && kind != "ExternalName"
    {
        causes.push(Cause::invalid("spec.clusterIP", &spec["clusterIP"], "field is immutable"));
    }
    if let Some(selector) = spec.get("selector") {
        check_labels(selector, "spec.selector", &mut causes);
    }
    causes
}

/// A node.
pub(crate) fn node(value: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let spec = &value["spec"];
    let cidrs: Vec<&Value> = list(spec, "podCIDRs").collect();
    for (i, cidr) in cidrs.iter().enumerate() {
        check_cidr(cidr.as_str().unwrap_or(""), &format!("spec.podCIDRs[{i}]"), &mut causes);
    }
    if let Some(cidr) = spec.get("podCIDR").and_then(Value::as_str).filter(|_| cidrs.is_empty()) {
        check_cidr(cidr, "spec.podCIDR", &mut causes);
    }
    for (i, taint) in list(spec, "taints").enumerate() {
        let here = format!("spec.taints[{i}]");
        if let Some(why) = names::label_key_error(taint["key"].as_str().unwrap_or("")) {
            causes.push(Cause::invalid(format!("{here}.key"), &taint["key"], why));
        }
        if !matches!(taint["effect"].as_str(), Some("NoSchedule" | "PreferNoSchedule" | "NoExecute")) {
            let supported = ["NoSchedule", "PreferNoSchedule", "NoExecute"].map(str::to_owned);
            causes.push(Cause::unsupported(format!("{here}.effect"), &taint["effect"], &supported));
        }
    }
    for (i, address) in
        value.pointer("/status/addresses").and_then(Value::as_array).into_iter().flatten().enumerate()
    {
        if address["address"].as_str().is_none_or(str::is_empty) {
            causes.push(Cause::required(format!("status.addresses[{i}].address"), ""));
        }
    }
    if let Some(before) = old.and_then(|o| o.pointer("/spec/podCIDR")).filter(|b| **b != spec["podCIDR"]) {
        let why = format!("node updates may not change podCIDR except from \"\" to valid (it was {before})");
        causes.push(Cause::forbidden("spec.podCIDR", &why));
    }
    causes
}

fn list<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value.get(field).and_then(Value::as_array).into_iter().flatten()
}

/// Whether a value of the metadata has the type that it must have; a wrong one cannot be decoded at all.
pub(crate) fn metadata_shape(metadata: &Map<String, Value>) -> Option<String> {
    for (field, fits) in [
        ("name", Value::is_string as fn(&Value) -> bool),
        ("namespace", Value::is_string),
        ("generateName", Value::is_string),
        ("uid", Value::is_string),
        ("resourceVersion", Value::is_string),
        ("labels", Value::is_object),
        ("annotations", Value::is_object),
        ("finalizers", Value::is_array),
        ("ownerReferences", Value::is_array),
        ("managedFields", Value::is_array),
    ] {
        if let Some(value) = metadata.get(field)
            && !value.is_null()
            && !fits(value)
        {
            return Some(format!("metadata.{field} has the wrong type"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(causes: Vec<Cause>) -> Vec<String> {
        causes.into_iter().map(|c| c.field).collect()
    }

    fn policy(rule: Value) -> Value {
        let mut value = json!({"spec": {"podSelector": {}, "ingress": [rule]}});
        crate::defaults::network_policy(&mut value, None);
        value
    }

    #[test]
    fn policy_names_the_wrong_field() {
        for (rule, expected) in [
            (
                json!({"from": [{"podSelector": {"matchLabels": {"a": "b"}}}], "ports": [{"port": 80}, {"port": "http"}]}),
                vec![],
            ),
            (json!({"ports": [{"port": 80, "endPort": 90}]}), vec![]),
            (json!({"ports": [{"port": 80, "endPort": 79}]}), vec!["spec.ingress[0].ports[0].endPort"]),
            (json!({"ports": [{"endPort": 79}]}), vec!["spec.ingress[0].ports[0].endPort"]),
            (
                json!({"ports": [{"port": 70000, "protocol": "ICMP"}]}),
                vec!["spec.ingress[0].ports[0].protocol", "spec.ingress[0].ports[0].port"],
            ),
            (json!({"from": [{}]}), vec!["spec.ingress[0].from[0]"]),
            (
                json!({"from": [{"ipBlock": {"cidr": "10.0.0.1/8"}}]}),
                vec!["spec.ingress[0].from[0].ipBlock.cidr"],
            ),
            (
                json!({"from": [{"ipBlock": {"cidr": "10.0.0.0"}}]}),
                vec!["spec.ingress[0].from[0].ipBlock.cidr"],
            ),
            (json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}]}), vec![]),
            (
                json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16", "10.0.0.0/8"]}}]}),
                vec![
                    "spec.ingress[0].from[0].ipBlock.except[0]",
                    "spec.ingress[0].from[0].ipBlock.except[1]",
                ],
            ),
            (
                json!({"from": [{"ipBlock": {"cidr": "::/0"}, "podSelector": {}}]}),
                vec!["spec.ingress[0].from[0]"],
            ),
            (
                json!({"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Is"}]}}]}),
                vec!["spec.ingress[0].from[0].podSelector.matchExpressions[0].operator"],
            ),
            (
                json!({"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}]}),
                vec!["spec.ingress[0].from[0].podSelector.matchExpressions[0].values"],
            ),
        ] {
            assert_eq!(fields(network_policy(&policy(rule.clone()), None)), expected, "{rule}");
        }
    }

    #[test]
    fn host_bits_are_refused_with_the_right_network() {
        let causes = network_policy(&policy(json!({"from": [{"ipBlock": {"cidr": "10.1.2.3/16"}}]})), None);

        assert!(causes[0].message.contains("10.1.0.0/16"), "{causes:?}");
    }

    #[test]
    fn pod_names_the_wrong_field() {
        let of = |containers: Value| {
            let mut value = json!({"spec": {"containers": containers}});
            crate::defaults::pod(&mut value, None);
            value
        };
        for (containers, expected) in [
            (json!([{"name": "a", "image": "i", "ports": [{"containerPort": 80, "name": "http"}]}]), vec![]),
            (json!([]), vec!["spec.containers"]),
            (
                json!([{"image": "i"}, {"name": "A", "image": "i"}]),
                vec!["spec.containers[0].name", "spec.containers[1].name"],
            ),
            (
                json!([{"name": "a", "image": "i"}, {"name": "a"}]),
                vec!["spec.containers[1].name", "spec.containers[1].image"],
            ),
            (
                json!([{"name": "a", "image": "i", "ports": [{"containerPort": 0}]}]),
                vec!["spec.containers[0].ports[0].containerPort"],
            ),
            (
                json!([{"name": "a", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]),
                vec!["spec.containers[0].volumeMounts[0].name"],
            ),
        ] {
            assert_eq!(fields(pod(&of(containers.clone()), None)), expected, "{containers}");
        }
        let (old, mut new) =
            (of(json!([{"name": "a", "image": "i"}])), of(json!([{"name": "a", "image": "j"}])));
        assert_eq!(fields(pod(&new, Some(&old))), Vec::<String>::new());
        new["spec"]["nodeName"] = json!("n1");
        assert_eq!(fields(pod(&new, Some(&old))), ["spec"]);
    }

    #[test]
    fn labels_are_checked_on_everything() {
        let value =
            json!({"metadata": {"labels": {"a b": "c", "ok": "-"}, "annotations": {"Example.org/x": "y"}}});

        assert_eq!(fields(metadata(&value)), ["metadata.labels", "metadata.labels"]);
    }

    #[test]
    fn service_keeps_its_address() {
        let of = |ip: &str| json!({"spec": {"type": "ClusterIP", "clusterIP": ip, "ports": [{"port": 80, "protocol": "TCP"}]}});

        assert_eq!(fields(service(&of("10.0.0.1"), Some(&of("10.0.0.1")))), Vec::<String>::new());
        assert_eq!(fields(service(&of("10.0.0.2"), Some(&of("10.0.0.1")))), ["spec.clusterIP"]);
        assert_eq!(
            fields(service(&json!({"spec": {"type": "X", "ports": []}}), None)),
            ["spec.type", "spec.ports"]
        );
    }
}
