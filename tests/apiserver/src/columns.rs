//! Printer columns of the built-in resources, as `kubectl get` shows them on a cluster.

use serde_json::{Value, json};

use crate::clock;

/// Columns and the function that fills a row. The row's cells follow the order of `heads`.
#[derive(Debug)]
pub(crate) struct Columns {
    /// Name, type and priority (1: only with `-o wide`).
    pub(crate) heads: &'static [(&'static str, &'static str, u8)],
    /// Cells of one object.
    pub(crate) cells: fn(&Value) -> Vec<Value>,
}

pub(crate) static NAME_AGE: Columns =
    Columns { heads: &[("Name", "string", 0), ("Age", "string", 0)], cells: |o| vec![name(o), age(o)] };

pub(crate) static CREATED_AT: Columns = Columns {
    heads: &[("Name", "string", 0), ("Created At", "date", 0)],
    cells: |o| vec![name(o), at(o, "/metadata/creationTimestamp")],
};

pub(crate) static NAMESPACE: Columns = Columns {
    heads: &[("Name", "string", 0), ("Status", "string", 0), ("Age", "string", 0)],
    cells: |o| vec![name(o), at(o, "/status/phase"), age(o)],
};

pub(crate) static CONFIG_MAP: Columns = Columns {
    heads: &[("Name", "string", 0), ("Data", "string", 0), ("Age", "string", 0)],
    cells: |o| vec![name(o), json!((size(o, "/data") + size(o, "/binaryData")).to_string()), age(o)],
};

pub(crate) static SECRET: Columns = Columns {
    heads: &[("Name", "string", 0), ("Type", "string", 0), ("Data", "string", 0), ("Age", "string", 0)],
    cells: |o| vec![name(o), at(o, "/type"), json!(size(o, "/data").to_string()), age(o)],
};

pub(crate) static SERVICE_ACCOUNT: Columns = Columns {
    heads: &[("Name", "string", 0), ("Secrets", "string", 0), ("Age", "string", 0)],
    cells: |o| vec![name(o), json!(size(o, "/secrets").to_string()), age(o)],
};

pub(crate) static ENDPOINTS: Columns = Columns {
    heads: &[("Name", "string", 0), ("Endpoints", "string", 0), ("Age", "string", 0)],
    cells: |o| vec![name(o), json!(endpoints(o)), age(o)],
};

pub(crate) static EVENT: Columns = Columns {
    heads: &[
        ("Last Seen", "string", 0),
        ("Type", "string", 0),
        ("Reason", "string", 0),
        ("Object", "string", 0),
        ("Subobject", "string", 1),
        ("Source", "string", 1),
        ("Message", "string", 0),
        ("First Seen", "string", 1),
        ("Count", "string", 1),
        ("Name", "string", 1),
    ],
    cells: event,
};

pub(crate) static NODE: Columns = Columns {
    heads: &[
        ("Name", "string", 0),
        ("Status", "string", 0),
        ("Roles", "string", 0),
        ("Age", "string", 0),
        ("Version", "string", 0),
        ("Internal-IP", "string", 1),
        ("External-IP", "string", 1),
        ("OS-Image", "string", 1),
        ("Kernel-Version", "string", 1),
        ("Container-Runtime", "string", 1),
    ],
    cells: node,
};

pub(crate) static POD: Columns = Columns {
    heads: &[
        ("Name", "string", 0),
        ("Ready", "string", 0),
        ("Status", "string", 0),
        ("Restarts", "string", 0),
        ("Age", "string", 0),
        ("IP", "string", 1),
        ("Node", "string", 1),
        ("Nominated Node", "string", 1),
        ("Readiness Gates", "string", 1),
    ],
    cells: pod,
};

pub(crate) static SERVICE: Columns = Columns {
    heads: &[
        ("Name", "string", 0),
        ("Type", "string", 0),
        ("Cluster-IP", "string", 0),
        ("External-IP", "string", 0),
        ("Port(s)", "string", 0),
        ("Age", "string", 0),
        ("Selector", "string", 1),
    ],
    cells: service,
};

pub(crate) static DAEMON_SET: Columns = Columns {
    heads: &[
        ("Name", "string", 0),
        ("Desired", "integer", 0),
        ("Current", "integer", 0),
        ("Ready", "integer", 0),
        ("Up-to-date", "integer", 0),
        ("Available", "integer", 0),
        ("Node Selector", "string", 0),
        ("Age", "string", 0),
        ("Containers", "string", 1),
        ("Images", "string", 1),
        ("Selector", "string", 1),
    ],
    cells: daemon_set,
};

pub(crate) static DEPLOYMENT: Columns = Columns {
    heads: &[
        ("Name", "string", 0),
        ("Ready", "string", 0),
        ("Up-to-date", "integer", 0),
        ("Available", "integer", 0),
        ("Age", "string", 0),
        ("Containers", "string", 1),
        ("Images", "string", 1),
        ("Selector", "string", 1),
    ],
    cells: deployment,
};

pub(crate) static LEASE: Columns = Columns {
    heads: &[("Name", "string", 0), ("Holder", "string", 0), ("Age", "string", 0)],
    cells: |o| vec![name(o), at(o, "/spec/holderIdentity"), age(o)],
};

pub(crate) static ENDPOINT_SLICE: Columns = Columns {
    heads: &[
        ("Name", "string", 0),
        ("AddressType", "string", 0),
        ("Ports", "string", 0),
        ("Endpoints", "string", 0),
        ("Age", "string", 0),
    ],
    cells: endpoint_slice,
};

pub(crate) static NETWORK_POLICY: Columns = Columns {
    heads: &[("Name", "string", 0), ("Pod-Selector", "string", 0), ("Age", "string", 0)],
    cells: |o| vec![name(o), json!(selector(o.pointer("/spec/podSelector"))), age(o)],
};

pub(crate) static POD_DISRUPTION_BUDGET: Columns = Columns {
    heads: &[
        ("Name", "string", 0),
        ("Min Available", "string", 0),
        ("Max Unavailable", "string", 0),
        ("Allowed Disruptions", "integer", 0),
        ("Age", "string", 0),
    ],
    cells: |o| {
        let or_na = |path| o.pointer(path).map_or(json!("N/A"), |v| json!(plain(v)));
        let allowed = number(o, "/status/disruptionsAllowed");
        vec![name(o), or_na("/spec/minAvailable"), or_na("/spec/maxUnavailable"), json!(allowed), age(o)]
    },
};

pub(crate) static PRIORITY_CLASS: Columns = Columns {
    heads: &[
        ("Name", "string", 0),
        ("Value", "integer", 0),
        ("Global-Default", "boolean", 0),
        ("Age", "string", 0),
        ("PreemptionPolicy", "string", 0),
    ],
    cells: |o| {
        let global = o.pointer("/globalDefault").and_then(Value::as_bool).unwrap_or(false);
        let policy = o.pointer("/preemptionPolicy").and_then(Value::as_str).unwrap_or("PreemptLowerPriority");
        vec![name(o), json!(number(o, "/value")), json!(global), age(o), json!(policy)]
    },
};

pub(crate) static ROLE_BINDING: Columns = Columns {
    heads: &[
        ("Name", "string", 0),
        ("Role", "string", 0),
        ("Age", "string", 0),
        ("Users", "string", 1),
        ("Groups", "string", 1),
        ("ServiceAccounts", "string", 1),
    ],
    cells: |o| {
        let role = format!("{}/{}", text(o, "/roleRef/kind"), text(o, "/roleRef/name"));
        let subjects = |kind: &str| {
            let found = items(o, "/subjects").filter(|s| text(s, "/kind") == kind).map(|s| {
                let namespace = text(s, "/namespace");
                if namespace.is_empty() {
                    text(s, "/name").into()
                } else {
                    format!("{namespace}/{}", text(s, "/name"))
                }
            });
            json!(found.collect::<Vec<_>>().join(", "))
        };
        vec![name(o), json!(role), age(o), subjects("User"), subjects("Group"), subjects("ServiceAccount")]
    },
};

/// A duration as `kubectl` shows an age.
pub(crate) fn human_duration(seconds: i64) -> String {
    let (minutes, hours, days, years) =
        (seconds / 60, seconds / 3600, seconds / 86_400, seconds / 31_536_000);
    let two = |big: i64, unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{big}{unit}"),
        small => format!("{big}{unit}{small}{small_unit}"),
    };
    match seconds {
        ..0 => "0s".into(),
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => two(years, "y", days % 365, "d"),
        _ => format!("{years}y"),
    }
}

/// Time since an RFC 3339 time, as `kubectl` shows an age.
pub(crate) fn since(time: &str) -> String {
    clock::parse_time(time).map_or_else(|| "<unknown>".into(), |t| human_duration(clock::unix_now() - t))
}

fn name(o: &Value) -> Value {
    at(o, "/metadata/name")
}

fn age(o: &Value) -> Value {
    json!(since(text(o, "/metadata/creationTimestamp")))
}

fn at(o: &Value, path: &str) -> Value {
    o.pointer(path).cloned().unwrap_or_else(|| json!(""))
}

fn text<'a>(o: &'a Value, path: &str) -> &'a str {
    o.pointer(path).and_then(Value::as_str).unwrap_or("")
}

fn number(o: &Value, path: &str) -> i64 {
    o.pointer(path).and_then(Value::as_i64).unwrap_or(0)
}

fn or_none(text: &str) -> Value {
    json!(if text.is_empty() { "<none>" } else { text })
}

fn items<'a>(o: &'a Value, path: &str) -> impl Iterator<Item = &'a Value> {
    o.pointer(path).and_then(Value::as_array).into_iter().flatten()
}

fn size(o: &Value, path: &str) -> usize {
    match o.pointer(path) {
        Some(Value::Object(map)) => map.len(),
        Some(Value::Array(list)) => list.len(),
        _ => 0,
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// `k=v,k2=v2`, or `<none>`.
fn map_text(map: Option<&Value>) -> String {
    let pairs: Vec<String> = map
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", plain(v)))
        .collect();
    if pairs.is_empty() { "<none>".into() } else { pairs.join(",") }
}

/// A `LabelSelector` object as text.
fn selector(selector: Option<&Value>) -> String {
    let Some(selector) = selector else { return "<none>".into() };
    let mut parts: Vec<String> = selector
        .get("matchLabels")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", plain(v)))
        .collect();
    for expression in items(selector, "/matchExpressions") {
        let key = text(expression, "/key");
        let values: Vec<String> = items(expression, "/values").map(plain).collect();
        parts.push(match text(expression, "/operator") {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    if parts.is_empty() { "<none>".into() } else { parts.join(",") }
}

/// At most `most` entries, then how many more there are.
fn shortened(list: &[String], most: usize) -> String {
    if list.is_empty() {
        "<none>".into()
    } else if list.len() > most {
        format!("{} + {} more...", list[..most].join(","), list.len() - most)
    } else {
        list.join(",")
    }
}

fn endpoints(o: &Value) -> String {
    let mut list = Vec::new();
    for subset in items(o, "/subsets") {
        for address in items(subset, "/addresses") {
            let ip = text(address, "/ip");
            let ports: Vec<i64> = items(subset, "/ports").map(|p| number(p, "/port")).collect();
            let shown = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
            match ports.as_slice() {
                [] => list.push(ip.to_owned()),
                ports => list.extend(ports.iter().map(|p| format!("{shown}:{p}"))),
            }
        }
    }
    shortened(&list, 3)
}

fn endpoint_slice(o: &Value) -> Vec<Value> {
    let ports: Vec<String> = items(o, "/ports").map(|p| p.get("port").map_or("*".into(), plain)).collect();
    let ports = if ports.is_empty() { "<unset>".to_owned() } else { shortened(&ports, 3) };
    let addresses: Vec<String> =
        items(o, "/endpoints").flat_map(|e| items(e, "/addresses").map(plain).collect::<Vec<_>>()).collect();
    let addresses = if addresses.is_empty() { "<unset>".to_owned() } else { shortened(&addresses, 3) };
    vec![name(o), at(o, "/addressType"), json!(ports), json!(addresses), age(o)]
}

fn event(o: &Value) -> Vec<Value> {
    let first = [text(o, "/firstTimestamp"), text(o, "/eventTime"), text(o, "/metadata/creationTimestamp")];
    let last = [text(o, "/series/lastObservedTime"), text(o, "/lastTimestamp"), first[0], first[1], first[2]];
    let ago =
        |times: &[&str]| json!(times.iter().find(|t| !t.is_empty()).map_or("<unknown>".into(), |t| since(t)));
    let kind = text(o, "/involvedObject/kind").to_lowercase();
    let object = match text(o, "/involvedObject/name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let component = match text(o, "/source/component") {
        "" => text(o, "/reportingComponent"),
        component => component,
    };
    let host = text(o, "/source/host");
    let source = if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") };
    let count = o.pointer("/series/count").or(o.pointer("/count")).and_then(Value::as_i64).unwrap_or(1);
    vec![
        ago(&last),
        at(o, "/type"),
        at(o, "/reason"),
        json!(object),
        at(o, "/involvedObject/fieldPath"),
        json!(source),
        json!(text(o, "/message").trim()),
        ago(&first),
        json!(count.to_string()),
        name(o),
    ]
}

fn node(o: &Value) -> Vec<Value> {
    let ready = items(o, "/status/conditions").find(|c| text(c, "/type") == "Ready");
    let mut status = match ready.map(|c| text(c, "/status")) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if o.pointer("/spec/unschedulable").and_then(Value::as_bool) == Some(true) {
        status.push_str(",SchedulingDisabled");
    }
    let labels = o.pointer("/metadata/labels").and_then(Value::as_object);
    let mut roles: Vec<String> = Vec::new();
    for (key, value) in labels.into_iter().flatten() {
        if let Some(role) = key.strip_prefix("node-role.kubernetes.io/").filter(|r| !r.is_empty()) {
            roles.push(role.to_owned());
        } else if key == "kubernetes.io/role" {
            roles.push(plain(value));
        }
    }
    let address = |kind: &str| {
        or_none(
            items(o, "/status/addresses")
                .find(|a| text(a, "/type") == kind)
                .map_or("", |a| text(a, "/address")),
        )
    };
    let info = |field: &str| match text(o, &format!("/status/nodeInfo/{field}")) {
        "" => json!("<unknown>"),
        known => json!(known),
    };
    vec![
        name(o),
        json!(status),
        or_none(&roles.join(",")),
        age(o),
        json!(text(o, "/status/nodeInfo/kubeletVersion")),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

fn pod(o: &Value) -> Vec<Value> {
    let statuses: Vec<&Value> = items(o, "/status/containerStatuses").collect();
    let ready = statuses.iter().filter(|s| s.get("ready").and_then(Value::as_bool) == Some(true)).count();
    let restarts: i64 = statuses.iter().map(|s| number(s, "/restartCount")).sum();
    let ip = items(o, "/status/podIPs").next().map_or(text(o, "/status/podIP"), |p| text(p, "/ip"));
    let gates = size(o, "/spec/readinessGates");
    let gates = if gates == 0 {
        json!("<none>")
    } else {
        let fulfilled = items(o, "/spec/readinessGates").filter(|g| {
            let wanted = text(g, "/conditionType");
            items(o, "/status/conditions").any(|c| text(c, "/type") == wanted && text(c, "/status") == "True")
        });
        json!(format!("{}/{gates}", fulfilled.count()))
    };
    vec![
        name(o),
        json!(format!("{ready}/{}", size(o, "/spec/containers"))),
        json!(pod_status(o, &statuses)),
        json!(restarts.to_string()),
        age(o),
        or_none(ip),
        or_none(text(o, "/spec/nodeName")),
        or_none(text(o, "/status/nominatedNodeName")),
        gates,
    ]
}

/// The word that stands in the STATUS column: the phase, or why a container does not run.
fn pod_status(o: &Value, statuses: &[&Value]) -> String {
    let mut word = match text(o, "/status/reason") {
        "" => text(o, "/status/phase").to_owned(),
        reason => reason.to_owned(),
    };
    for status in statuses {
        let waiting = text(status, "/state/waiting/reason");
        let terminated = text(status, "/state/terminated/reason");
        if !waiting.is_empty() {
            word = waiting.to_owned();
        } else if !terminated.is_empty() {
            word = terminated.to_owned();
        }
    }
    if o.pointer("/metadata/deletionTimestamp").is_some() {
        return if text(o, "/status/reason") == "NodeLost" { "Unknown".into() } else { "Terminating".into() };
    }
    if word.is_empty() { "Unknown".into() } else { word }
}

fn service(o: &Value) -> Vec<Value> {
    let kind = match text(o, "/spec/type") {
        "" => "ClusterIP",
        kind => kind,
    };
    let mut external: Vec<String> = items(o, "/status/loadBalancer/ingress")
        .map(|i| if text(i, "/ip").is_empty() { text(i, "/hostname") } else { text(i, "/ip") }.to_owned())
        .filter(|_| kind == "LoadBalancer")
        .collect();
    external.extend(items(o, "/spec/externalIPs").map(plain));
    let external = match kind {
        "ExternalName" => text(o, "/spec/externalName").to_owned(),
        "LoadBalancer" if external.is_empty() => "<pending>".to_owned(),
        _ if external.is_empty() => "<none>".to_owned(),
        _ => external.join(","),
    };
    let ports: Vec<String> = items(o, "/spec/ports")
        .map(|p| {
            let node_port = match number(p, "/nodePort") {
                0 => String::new(),
                port => format!(":{port}"),
            };
            let protocol = if text(p, "/protocol").is_empty() { "TCP" } else { text(p, "/protocol") };
            format!("{}{node_port}/{protocol}", number(p, "/port"))
        })
        .collect();
    vec![
        name(o),
        json!(kind),
        or_none(text(o, "/spec/clusterIP")),
        json!(external),
        or_none(&ports.join(",")),
        age(o),
        json!(map_text(o.pointer("/spec/selector"))),
    ]
}

fn template(o: &Value) -> [Value; 3] {
    let list = |field: &str| {
        let all: Vec<&str> = items(o, "/spec/template/spec/containers").map(|c| text(c, field)).collect();
        json!(all.join(","))
    };
    [list("/name"), list("/image"), json!(selector(o.pointer("/spec/selector")))]
}

fn daemon_set(o: &Value) -> Vec<Value> {
    let mut cells = vec![name(o)];
    for field in [
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "numberReady",
        "updatedNumberScheduled",
        "numberAvailable",
    ] {
        cells.push(json!(number(o, &format!("/status/{field}"))));
    }
    cells.push(json!(map_text(o.pointer("/spec/template/spec/nodeSelector"))));
    cells.push(age(o));
    cells.extend(template(o));
    cells
}

fn deployment(o: &Value) -> Vec<Value> {
    let wanted = o.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    let mut cells = vec![
        name(o),
        json!(format!("{}/{wanted}", number(o, "/status/readyReplicas"))),
        json!(number(o, "/status/updatedReplicas")),
        json!(number(o, "/status/availableReplicas")),
        age(o),
    ];
    cells.extend(template(o));
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_kubectl_prints_them() {
        for (seconds, shown) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (601, "10m"),
            (10_800, "3h"),
            (11_000, "3h3m"),
            (172_800, "2d"),
            (180_000, "2d2h"),
            (700_000, "8d"),
            (70_000_000, "2y80d"),
        ] {
            assert_eq!(human_duration(seconds), shown);
        }
    }

    #[test]
    fn pod_row_tells_readiness_and_reason() {
        let pod = json!({
            "metadata": {"name": "p", "creationTimestamp": clock::now()},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}], "nodeName": "n1"},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [
                {"ready": true, "restartCount": 2},
                {"ready": false, "restartCount": 1, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]},
        });

        let cells = (POD.cells)(&pod);

        assert_eq!(cells[1..4], [json!("1/2"), json!("CrashLoopBackOff"), json!("3")]);
        assert_eq!(cells[5..], [json!("10.0.0.1"), json!("n1"), json!("<none>"), json!("<none>")]);
        for columns in
            [&POD, &NODE, &SERVICE, &EVENT, &DAEMON_SET, &DEPLOYMENT, &ENDPOINT_SLICE, &ROLE_BINDING]
        {
            assert_eq!((columns.cells)(&pod).len(), columns.heads.len());
        }
    }

    #[test]
    fn policy_selector_is_readable() {
        let policy = json!({"spec": {"podSelector": {
            "matchLabels": {"app": "web"},
            "matchExpressions": [{"key": "tier", "operator": "In", "values": ["a", "b"]}, {"key": "x", "operator": "DoesNotExist"}],
        }}});

        assert_eq!(selector(policy.pointer("/spec/podSelector")), "app=web,tier in (a,b),!x");
        assert_eq!(selector(Some(&json!({}))), "<none>");
    }
}
