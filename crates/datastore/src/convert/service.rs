//! Services and their endpoints.

use std::net::IpAddr;

use model::{EndpointSlice, Family, ObjectKey, Protocol, Service, ServicePort};

use super::Problems;
use crate::objects::{EndpointSliceObject, PortEntry, ServiceObject};

/// A Service that has an address in the cluster; `None` for others, which are nobody's to announce.
pub fn service(object: &ServiceObject, problems: &mut Problems) -> Option<Service> {
    let (meta, spec) = (&object.metadata, &object.spec);
    let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
    if !matches!(kind, "ClusterIP" | "NodePort" | "LoadBalancer") {
        return None;
    }
    let first = spec.cluster_ip.as_slice();
    let listed = spec.cluster_ips.as_deref().filter(|all| !all.is_empty()).unwrap_or(first);
    let cluster_ips = addresses(problems, "spec.clusterIPs", listed.iter().filter(|a| *a != "None"));
    if cluster_ips.is_empty() {
        return None;
    }
    let ingress = object.status.load_balancer.ingress.iter().flatten().filter_map(|i| i.ip.as_ref());
    Some(Service {
        key: ObjectKey::new(meta.namespace.as_deref()?, meta.name.as_deref()?),
        cluster_ips,
        external_ips: addresses(problems, "spec.externalIPs", spec.external_ips.iter().flatten()),
        load_balancer_ips: addresses(problems, "status.loadBalancer.ingress", ingress),
        local_traffic_only: spec.external_traffic_policy.as_deref() == Some("Local"),
        ports: ports(spec.ports.as_deref()),
    })
}

/// An EndpointSlice of a Service; `None` for slices of nothing, or of names instead of addresses.
pub fn endpoint_slice(object: &EndpointSliceObject, _: &mut Problems) -> Option<EndpointSlice> {
    let meta = &object.metadata;
    let service = meta.labels.as_ref()?.get("kubernetes.io/service-name")?;
    let family = match object.address_type.as_str() {
        "IPv4" => Family::V4,
        "IPv6" => Family::V6,
        _ => return None,
    };
    // Nothing said counts as ready.
    let is_ready = |ready: Option<bool>| ready.unwrap_or(true);
    let ready = || object.endpoints.iter().flatten().filter(|e| is_ready(e.conditions.ready));
    Some(EndpointSlice {
        key: ObjectKey::new(meta.namespace.as_deref()?, meta.name.as_deref()?),
        service: service.as_str().into(),
        family,
        any_ready: ready().next().is_some(),
        ready_nodes: ready().filter_map(|e| e.node_name.as_deref()).map(Into::into).collect(),
        addresses: slice_addresses(object, family),
        ports: ports(object.ports.as_deref()),
    })
}

/// Addresses of the slice's family, sorted, each once.
fn slice_addresses(object: &EndpointSliceObject, family: Family) -> Vec<IpAddr> {
    let texts = object.endpoints.iter().flatten().flat_map(|endpoint| &endpoint.addresses);
    let parsed = texts.filter_map(|text| text.parse().ok());
    let mut addresses: Vec<IpAddr> = parsed.filter(|address| Family::of(*address) == family).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// Ports that have a number and a protocol that is known.
fn ports(entries: Option<&[PortEntry]>) -> Vec<ServicePort> {
    let known = entries.unwrap_or_default().iter().filter_map(|entry| {
        let protocol: Protocol = entry.protocol.as_deref().unwrap_or("TCP").parse().ok()?;
        let port = u16::try_from(entry.port?).ok()?;
        Some(ServicePort { name: entry.name.as_deref().unwrap_or_default().into(), protocol, port })
    });
    known.collect()
}

fn addresses<'a>(
    problems: &mut Problems,
    field: &str,
    texts: impl Iterator<Item = &'a String>,
) -> Vec<IpAddr> {
    texts.filter(|text| !text.is_empty()).filter_map(|text| problems.take(field, text.parse())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn converted(spec: Value, status: Value) -> Option<Service> {
        let object = json!({"metadata": {"name": "s", "namespace": "d"}, "spec": spec, "status": status});
        service(&serde_json::from_value(object).unwrap(), &mut Problems::default())
    }

    #[test]
    fn addresses_of_every_kind_are_taken() {
        let spec = json!({
            "type": "LoadBalancer", "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5", "fd00:96::5"],
            "externalIPs": ["203.0.113.7"], "externalTrafficPolicy": "Local", "ports": [{"port": 80}],
        });
        let status = json!({"loadBalancer": {"ingress": [{"ip": "198.51.100.5"}, {"hostname": "x"}]}});

        let service = converted(spec, status).unwrap();

        assert_eq!((service.cluster_ips.len(), service.external_ips.len()), (2, 1));
        assert_eq!(service.load_balancer_ips, ["198.51.100.5".parse::<IpAddr>().unwrap()]);
        assert!(service.local_traffic_only);
    }

    #[test]
    fn services_without_an_address_are_nobodys() {
        assert_eq!(converted(json!({"clusterIP": "None"}), json!({})), None);
        assert_eq!(converted(json!({"type": "ExternalName", "clusterIP": "10.96.0.5"}), json!({})), None);
        assert_eq!(converted(json!({}), json!({})), None);
        assert!(converted(json!({"clusterIP": "10.96.0.5"}), json!({})).is_some());
    }

    #[test]
    fn an_endpoint_counts_where_it_is_ready() {
        let object = json!({
            "metadata": {"name": "s-1", "namespace": "d", "labels": {"kubernetes.io/service-name": "s"}},
            "addressType": "IPv4",
            "endpoints": [
                {"addresses": ["10.0.0.1"], "nodeName": "n1", "conditions": {"ready": true}},
                {"addresses": ["10.0.0.2"], "nodeName": "n2", "conditions": {"ready": false}},
                {"addresses": ["10.0.0.3"], "nodeName": "n3"},
                {"addresses": ["10.0.0.4"]},
            ],
        });

        let slice = endpoint_slice(&serde_json::from_value(object).unwrap(), &mut Problems::default());

        let slice = slice.unwrap();
        let nodes: Vec<_> = slice.ready_nodes.iter().map(model::NodeName::as_str).collect();
        assert_eq!((nodes, slice.any_ready, slice.family), (vec!["n1", "n3"], true, Family::V4));
    }
}
