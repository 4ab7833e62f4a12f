//! HostEndpoints.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use model::{EndpointPort, HostEndpoint, HostEndpointInterface};

use super::Problems;
use super::network_set::labels;
use crate::crd;

/// A HostEndpoint; `None` when it cannot be told which interface it is about.
pub fn host_endpoint(
    meta: &ObjectMeta,
    spec: &crd::HostEndpointSpec,
    problems: &mut Problems,
) -> Option<HostEndpoint> {
    let interface = match spec.interface_name.as_deref().unwrap_or_default() {
        "" => None,
        "*" => Some(HostEndpointInterface::All),
        // IFNAMSIZ, and what the kernel takes for a name.
        name if name.len() > 15 || name.contains(['/', ' ', '*']) => {
            problems.add("spec.interfaceName", format!("{name:?} is not the name of an interface"));
            return None;
        }
        name => Some(HostEndpointInterface::Named(name.into())),
    };
    let texts = spec.expected_ips.iter().flatten().enumerate();
    let expected_ips: Vec<_> = texts
        .filter_map(|(i, text)| {
            let parsed = text.parse().map_err(|_| format!("{text:?} is not an address"));
            problems.take(&format!("spec.expectedIPs[{i}]"), parsed)
        })
        .collect();
    if interface.is_none() && expected_ips.is_empty() {
        problems.add("spec", "interfaceName or expectedIPs is needed");
        return None;
    }
    Some(HostEndpoint {
        name: meta.name.as_deref()?.into(),
        node: spec.node.as_str().into(),
        interface,
        expected_ips,
        labels: labels(meta, problems),
        profiles: spec.profiles.iter().flatten().map(|name| name.as_str().into()).collect(),
        ports: ports(spec.ports.as_deref(), problems),
    })
}

/// A host endpoint without ports as its object says it.
pub fn host_endpoint_spec(endpoint: &HostEndpoint) -> crd::HostEndpointSpec {
    let interface = match &endpoint.interface {
        None => None,
        Some(HostEndpointInterface::All) => Some("*".to_owned()),
        Some(HostEndpointInterface::Named(name)) => Some(name.to_string()),
    };
    crd::HostEndpointSpec {
        node: endpoint.node.to_string(),
        interface_name: interface,
        expected_ips: Some(endpoint.expected_ips.iter().map(ToString::to_string).collect()),
        profiles: Some(endpoint.profiles.iter().map(ToString::to_string).collect()),
        ports: None,
    }
}

fn ports(entries: Option<&[crd::HostEndpointPort]>, problems: &mut Problems) -> Vec<EndpointPort> {
    let mut ports = Vec::new();
    for (index, entry) in entries.unwrap_or_default().iter().enumerate() {
        let field = |name: &str| format!("spec.ports[{index}].{name}");
        let protocol = problems.take(&field("protocol"), entry.protocol.0.parse());
        let port = u16::try_from(entry.port).ok().filter(|port| *port != 0);
        let port = problems.take(&field("port"), port.ok_or(format!("{} is not a port", entry.port)));
        if let (Some(protocol), Some(port)) = (protocol, port) {
            ports.push(EndpointPort { name: entry.name.clone(), protocol, port });
        }
    }
    ports
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn convert(spec: Value) -> (Option<HostEndpoint>, Vec<String>) {
        let meta = ObjectMeta { name: Some("h".to_owned()), ..ObjectMeta::default() };
        let mut problems = Problems::default();
        let found = host_endpoint(&meta, &serde_json::from_value(spec).unwrap(), &mut problems);
        (found, problems.0.into_iter().map(|problem| problem.field).collect())
    }

    /// `spec/control.md` §9.2, 53.
    #[test]
    fn an_interface_is_named_or_known_by_its_addresses() {
        assert_eq!(convert(json!({"node": "n1"})), (None, vec!["spec".to_owned()]));
        let (all, problems) = convert(json!({"node": "n1", "interfaceName": "*"}));
        assert_eq!(all.unwrap().interface, Some(HostEndpointInterface::All));
        assert_eq!(problems, [""; 0]);
        let (by_address, _) = convert(json!({"node": "n1", "expectedIPs": ["10.0.0.1", "fd00::1"]}));
        assert_eq!(by_address.unwrap().expected_ips.len(), 2);
        assert_eq!(convert(json!({"node": "n1", "interfaceName": "a-name-of-17-long"})).0, None);
    }

    #[test]
    fn a_port_that_is_none_is_left_out_and_named() {
        let (found, problems) = convert(json!({"node": "n1", "interfaceName": "eth0", "ports": [
            {"name": "ssh", "protocol": "TCP", "port": 22}, {"name": "x", "protocol": "NONE", "port": 0}]}));

        assert_eq!(found.unwrap().ports.len(), 1);
        assert_eq!(problems, ["spec.ports[1].protocol", "spec.ports[1].port"]);
    }
}
