//! Pods.

use std::net::IpAddr;

use model::{EndpointPort, Labels, Pod, PodKey};

use super::Problems;
use crate::objects::{PodObject, PodStatus};

/// A Pod; one that has finished has no addresses any more.
pub fn pod(object: &PodObject, problems: &mut Problems) -> Option<Pod> {
    let meta = &object.metadata;
    let key = PodKey::new(meta.namespace.as_deref()?, meta.name.as_deref()?);
    let annotations: Labels = meta.annotations.clone().unwrap_or_default();
    let mut labels = meta.labels.clone().unwrap_or_default();
    // Nobody may label his pod into another namespace or service account.
    labels.retain(|name, _| !is_reserved(name));
    let addresses =
        if is_finished(object) { Vec::new() } else { addresses(&object.status, &annotations, problems) };
    Some(Pod {
        key,
        uid: meta.uid.clone().unwrap_or_default(),
        node: object.spec.node_name.as_deref().filter(|name| !name.is_empty()).map(Into::into),
        addresses,
        labels,
        ports: ports(object, problems),
        service_account: object.spec.service_account_name.clone().filter(|name| !name.is_empty()),
        host_network: object.spec.host_network.unwrap_or(false),
        annotations: annotations
            .into_iter()
            .filter(|(name, _)| ANNOTATIONS.iter().any(|prefix| name.starts_with(prefix)))
            .collect(),
    })
}

/// What the network cares about; the rest of a Pod's annotations may be long.
const ANNOTATIONS: [&str; 5] = [
    "cni.projectcalico.org/",
    "projectcalico.org/",
    "qos.projectcalico.org/",
    "kubernetes.io/ingress-bandwidth",
    "kubernetes.io/egress-bandwidth",
];
const POD_IP: &str = "cni.projectcalico.org/podIP";
const POD_IPS: &str = "cni.projectcalico.org/podIPs";

fn is_reserved(label: &str) -> bool {
    label.starts_with("pcns.")
        || label.starts_with("pcsa.")
        || matches!(
            label,
            "projectcalico.org/namespace"
                | "projectcalico.org/orchestrator"
                | "projectcalico.org/serviceaccount"
        )
}

/// Its containers are gone, or the CNI plugin has taken its address back (an annotation that is empty says so).
fn is_finished(object: &PodObject) -> bool {
    let taken_back =
        object.metadata.annotations.as_ref().and_then(|a| a.get(POD_IP)).is_some_and(String::is_empty);
    matches!(object.status.phase.as_deref(), Some("Succeeded" | "Failed"))
        || (object.metadata.deletion_timestamp.is_some() && taken_back)
}

/// From the status, else from what the CNI plugin wrote.
fn addresses(status: &PodStatus, annotations: &Labels, problems: &mut Problems) -> Vec<IpAddr> {
    let listed: Vec<&str> = status.pod_ips.iter().flatten().filter_map(|entry| entry.ip.as_deref()).collect();
    let (field, texts) = if !listed.is_empty() {
        ("status.podIPs", listed)
    } else if let Some(address) = status.pod_ip.as_deref().filter(|address| !address.is_empty()) {
        ("status.podIP", vec![address])
    } else {
        let text = annotations.get(POD_IPS).or_else(|| annotations.get(POD_IP));
        (
            "metadata.annotations[cni.projectcalico.org/podIPs]",
            text.map(|t| t.split(',').collect()).unwrap_or_default(),
        )
    };
    texts
        .into_iter()
        .map(str::trim)
        .filter(|text| !text.is_empty())
        .filter_map(|text| {
            let address = text.split_once('/').map_or(text, |(address, _)| address);
            problems.take(field, address.parse())
        })
        .collect()
}

fn ports(object: &PodObject, problems: &mut Problems) -> Vec<EndpointPort> {
    let containers = object.spec.init_containers.iter().chain(&object.spec.containers).flatten();
    let mut ports = Vec::new();
    for port in containers.flat_map(|container| container.ports.iter().flatten()) {
        let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) else { continue };
        let protocol = port.protocol.as_deref().unwrap_or("TCP").parse();
        let Some(protocol) = problems.take("spec.containers.ports.protocol", protocol) else { continue };
        let Some(number) =
            problems.take("spec.containers.ports.containerPort", u16::try_from(port.container_port))
        else {
            continue;
        };
        ports.push(EndpointPort { name: name.to_owned(), protocol, port: number });
    }
    ports
}

#[cfg(test)]
mod tests {
    use model::Protocol;
    use serde_json::{Value, json};

    use super::*;

    fn convert(object: Value) -> Pod {
        let mut problems = Problems::default();
        let pod = pod(&serde_json::from_value(object).unwrap(), &mut problems).unwrap();
        assert_eq!(problems, Problems::default());
        pod
    }

    #[test]
    fn a_running_pod_has_addresses_ports_and_an_account() {
        let pod = convert(json!({
            "metadata": {
                "name": "web", "namespace": "default", "uid": "u1",
                "labels": {"app": "web", "pcns.evil": "1", "projectcalico.org/namespace": "kube-system"},
                "annotations": {"cni.projectcalico.org/podIP": "10.0.0.9/32", "other": "x"},
                "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}],
            },
            "spec": {
                "nodeName": "n1", "serviceAccountName": "sa", "volumes": [{}],
                "containers": [{"name": "c", "ports": [
                    {"name": "http", "containerPort": 8080}, {"containerPort": 1},
                    {"name": "dns", "containerPort": 53, "protocol": "UDP"}]}],
            },
            "status": {"phase": "Running", "podIP": "10.0.0.9", "podIPs": [{"ip": "10.0.0.9"}, {"ip": "fd00::9"}]},
        }));

        assert_eq!(pod.addresses, ["10.0.0.9".parse::<IpAddr>().unwrap(), "fd00::9".parse().unwrap()]);
        assert_eq!(pod.labels, Labels::from([("app".into(), "web".into())]));
        let port = |name: &str, protocol, port| EndpointPort { name: name.into(), protocol, port };
        assert_eq!(pod.ports, [port("http", Protocol::TCP, 8080), port("dns", Protocol::UDP, 53)]);
        assert_eq!(pod.service_account.as_deref(), Some("sa"));
        assert_eq!(pod.annotations.len(), 1);
    }

    #[test]
    fn a_finished_pod_has_no_address() {
        for (phase, deleted, annotation, expected) in [
            ("Running", false, "", 1),
            ("Running", true, "10.0.0.5/32", 1),
            ("Running", true, "", 0),
            ("Succeeded", false, "10.0.0.5/32", 0),
            ("Failed", false, "10.0.0.5/32", 0),
        ] {
            let mut object = json!({
                "metadata": {"name": "a", "namespace": "b", "annotations": {POD_IP: annotation}},
                "status": {"phase": phase, "podIPs": [{"ip": "10.0.0.5"}]},
            });
            if deleted {
                object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }

            assert_eq!(convert(object).addresses.len(), expected, "{phase} {deleted} {annotation:?}");
        }
    }

    #[test]
    fn before_the_status_says_anything_the_annotation_counts() {
        let pod = convert(json!({
            "metadata": {"name": "a", "namespace": "b", "annotations": {POD_IPS: "10.0.0.5/32,fd00::5/128"}},
        }));

        assert_eq!(pod.addresses, ["10.0.0.5".parse::<IpAddr>().unwrap(), "fd00::5".parse().unwrap()]);
    }
}
