//! BGP settings.

use std::collections::BTreeMap;
use std::str::FromStr;

use model::{
    BgpCommunity, BgpConfiguration, Cidr, LogSeverity, NodeName, PrefixAdvertisement, ProgramClusterRoutes,
    SecretKey, ServiceRanges,
};

use super::{Problems, net};
use crate::crd;

/// The objects that make up the settings of one node.
#[derive(Clone, Debug, Default)]
pub struct BgpSettings {
    /// The one named `default`.
    pub default: Option<Box<crd::BGPConfigurationSpec>>,
    /// Those named `node.<name>`, by the node's name.
    pub nodes: BTreeMap<String, Box<crd::BGPConfigurationSpec>>,
}

/// Settings of `node`: those named `default`, with what `node.<name>` says instead.
pub fn bgp_configuration(
    settings: &BgpSettings,
    node: &NodeName,
    problems: &mut Problems,
) -> BgpConfiguration {
    let empty = crd::BGPConfigurationSpec::default();
    let default = settings.default.as_deref().unwrap_or(&empty);
    let own = settings.nodes.get(node.as_str()).map_or(&empty, |own| &**own);
    let built_in = BgpConfiguration::default();
    let cluster_listen_port = default
        .listen_port
        .and_then(|port| problems.take("spec.listenPort", port_of(port)))
        .unwrap_or(built_in.listen_port);
    let node_listen_ports: BTreeMap<NodeName, u16> = settings
        .nodes
        .iter()
        .filter_map(|(name, spec)| {
            let port = problems.take("spec.listenPort", port_of(spec.listen_port?))?;
            Some((name.as_str().into(), port))
        })
        .collect();
    let severity = own.log_severity_screen.as_deref().or(default.log_severity_screen.as_deref());
    let time = default.node_mesh_max_restart_time.as_deref();
    BgpConfiguration {
        node_to_node_mesh: default.node_to_node_mesh_enabled.unwrap_or(built_in.node_to_node_mesh),
        as_number: default
            .as_number
            .as_ref()
            .and_then(|number| problems.take("spec.asNumber", as_number(&number.0)))
            .unwrap_or(built_in.as_number),
        listen_port: node_listen_ports.get(node).copied().unwrap_or(cluster_listen_port),
        cluster_listen_port,
        node_listen_ports,
        listen_on_node_addresses: own.bind_mode.or(default.bind_mode) == Some(crd::BindMode::NodeIP),
        services: services(default, problems),
        prefix_advertisements: prefix_advertisements([default, own], problems),
        mesh_password: secret_key(default.node_mesh_password.as_ref(), "spec.nodeMeshPassword", problems),
        mesh_max_restart_time: time
            .and_then(|text| problems.take("spec.nodeMeshMaxRestartTime", model::parse_duration(text))),
        programs: default.program_cluster_routes.map_or(built_in.programs, programs),
        normal_priority_v4: priority(default.ipv4_normal_route_priority, built_in.normal_priority_v4),
        normal_priority_v6: priority(default.ipv6_normal_route_priority, built_in.normal_priority_v6),
        local_workload_peering_v4: address(
            problems,
            "spec.localWorkloadPeeringIPV4",
            default.local_workload_peering_ip_v4.as_deref(),
        ),
        local_workload_peering_v6: address(
            problems,
            "spec.localWorkloadPeeringIPV6",
            default.local_workload_peering_ip_v6.as_deref(),
        ),
        maximum_paths: default
            .maximum_paths
            .and_then(|paths| usize::try_from(paths).ok())
            .map_or(built_in.maximum_paths, |paths| paths.clamp(1, built_in.maximum_paths)),
        ebgp_requires_policy: default.ebgp_requires_policy.unwrap_or(built_in.ebgp_requires_policy),
        log_severity: severity.and_then(|text| problems.take("spec.logSeverityScreen", log_severity(text))),
    }
}

/// Variable that wins over serviceClusterIPs.
pub const ADVERTISE_CLUSTER_IPS: &str = "CALICO_ADVERTISE_CLUSTER_IPS";

/// The ranges of [`ADVERTISE_CLUSTER_IPS`], with commas between them.
pub fn ranges(text: &str, problems: &mut Problems) -> Vec<Cidr> {
    let texts = text.split(',').map(str::trim).filter(|text| !text.is_empty());
    texts.filter_map(|text| problems.take(ADVERTISE_CLUSTER_IPS, net(text))).collect()
}

fn services(spec: &crd::BGPConfigurationSpec, problems: &mut Problems) -> ServiceRanges {
    let mut ranges = |field: &str, entries: &Option<Vec<crd::CidrEntry>>| -> Vec<Cidr> {
        let entries = entries.iter().flatten().enumerate();
        entries
            .filter_map(|(i, entry)| problems.take(&format!("spec.{field}[{i}].cidr"), net(&entry.cidr)))
            .collect()
    };
    ServiceRanges {
        cluster_ips: ranges("serviceClusterIPs", &spec.service_cluster_ips),
        external_ips: ranges("serviceExternalIPs", &spec.service_external_ips),
        load_balancer_ips: ranges("serviceLoadBalancerIPs", &spec.service_load_balancer_ips),
        aggregate_load_balancers: spec.service_load_balancer_aggregation != Some(crd::Switch::Disabled),
    }
}

/// What the node's own configuration says comes beside what the cluster's says; names of either serve both.
fn prefix_advertisements(
    specs: [&crd::BGPConfigurationSpec; 2],
    problems: &mut Problems,
) -> Vec<PrefixAdvertisement> {
    let named = specs.iter().flat_map(|spec| spec.communities.iter().flatten());
    let names: BTreeMap<&str, &str> =
        named.map(|community| (community.name.as_str(), community.value.as_str())).collect();
    let mut found = Vec::new();
    for spec in specs {
        for (i, entry) in spec.prefix_advertisements.iter().flatten().enumerate() {
            let field = format!("spec.prefixAdvertisements[{i}]");
            let Some(cidr) = problems.take(&format!("{field}.cidr"), net(&entry.cidr)) else { continue };
            let mut communities: Vec<BgpCommunity> = Vec::new();
            for (j, text) in entry.communities.iter().flatten().enumerate() {
                let value = names.get(text.as_str()).copied().unwrap_or(text);
                let community = value.parse::<BgpCommunity>().map_err(|error| {
                    let known = names.contains_key(text.as_str());
                    if known {
                        format!("{text}: {error}")
                    } else {
                        format!("{error}, and no name in communities")
                    }
                });
                communities.extend(problems.take(&format!("{field}.communities[{j}]"), community));
            }
            found.push(PrefixAdvertisement { cidr, communities });
        }
    }
    found
}

fn programs(value: crd::ProgramClusterRoutes) -> ProgramClusterRoutes {
    use crd::ProgramClusterRoutes as Value;
    ProgramClusterRoutes {
        ipip: matches!(value, Value::Enabled | Value::EnabledIPIPOnly),
        no_encapsulation: matches!(value, Value::Enabled | Value::EnabledNoEncapOnly),
    }
}

fn address<A: FromStr>(problems: &mut Problems, field: &str, text: Option<&str>) -> Option<A> {
    let text = text.filter(|text| !text.is_empty())?;
    problems.take(field, text.parse().map_err(|_| format!("{text:?} is no address of the family")))
}

fn priority(value: Option<i32>, default: u32) -> u32 {
    value.and_then(|value| u32::try_from(value).ok()).filter(|value| *value != 0).unwrap_or(default)
}

fn log_severity(text: &str) -> Result<LogSeverity, String> {
    Ok(match text.to_ascii_lowercase().as_str() {
        "trace" => LogSeverity::Trace,
        "debug" => LogSeverity::Debug,
        "" | "info" => LogSeverity::Info,
        "warning" => LogSeverity::Warning,
        "none" | "error" | "fatal" => LogSeverity::Error,
        _ => return Err(format!("{text:?} is no log level")),
    })
}

/// Where a password is; a reference without a name cannot be followed and is named.
pub(super) fn secret_key(
    password: Option<&crd::BGPPassword>,
    field: &str,
    problems: &mut Problems,
) -> Option<SecretKey> {
    let reference = password?.secret_key_ref.as_ref();
    let name = reference.and_then(|reference| reference.name.clone()).unwrap_or_default();
    let key = reference.map(|reference| reference.key.clone()).unwrap_or_default();
    if name.is_empty() || key.is_empty() {
        problems.add(
            format!("{field}.secretKeyRef"),
            "names no Secret and key: the session stays down rather than go without a password",
        );
    }
    Some(SecretKey { name, key })
}

/// Takes `64512` and `1.10` (RFC 5396 asdot).
pub(super) fn as_number(text: &str) -> Result<u32, String> {
    let invalid = || format!("{text:?} is not an AS number (1 to 4294967295, or 0.1 to 65535.65535)");
    model::parse_as_number(text).ok_or_else(invalid)
}

fn port_of(port: i32) -> Result<u16, String> {
    u16::try_from(port).ok().filter(|port| *port != 0).ok_or_else(|| format!("{port} is not a port"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(value: Value) -> Option<Box<crd::BGPConfigurationSpec>> {
        Some(Box::new(serde_json::from_value(value).unwrap()))
    }

    fn convert(default: Value, nodes: &[(&str, Value)]) -> (BgpConfiguration, Problems) {
        let nodes = nodes.iter().map(|(name, value)| ((*name).to_owned(), spec(value.clone()).unwrap()));
        let settings = BgpSettings { default: spec(default), nodes: nodes.collect() };
        let mut problems = Problems::default();
        let found = bgp_configuration(&settings, &"n1".into(), &mut problems);
        (found, problems)
    }

    #[test]
    fn a_node_has_its_own_port_but_not_its_own_mesh() {
        let default = json!({"asNumber": 65000, "nodeToNodeMeshEnabled": false, "listenPort": 1790});
        let nodes = [
            ("n1", json!({"listenPort": 1791, "asNumber": 1, "bindMode": "NodeIP"})),
            ("n2", json!({"listenPort": 1792})),
        ];

        let (found, _) = convert(default, &nodes);

        assert!(!found.node_to_node_mesh && found.listen_on_node_addresses);
        assert_eq!((found.as_number, found.listen_port), (65000, 1791));
        let ports = ["n1", "n2", "n3"].map(|name| found.listen_port_of(&name.into()));
        assert_eq!(ports, [1791, 1792, 1790]);
        assert_eq!(convert(json!({}), &[]).0, BgpConfiguration::default());
    }

    #[test]
    fn communities_come_by_name_or_value_from_cluster_and_node() {
        let default = json!({
            "communities": [{"name": "rack", "value": "65000:100"}],
            "prefixAdvertisements": [{"cidr": "10.0.0.0/16", "communities": ["rack", "65000:1:2"]}],
        });
        let node =
            json!({"prefixAdvertisements": [{"cidr": "10.0.0.0/24", "communities": ["rack", "nobody"]}]});

        let (found, problems) = convert(default, &[("n1", node)]);

        let text: Vec<_> = found
            .prefix_advertisements
            .iter()
            .map(|a| (a.cidr.to_string(), a.communities.iter().map(ToString::to_string).collect::<Vec<_>>()))
            .collect();
        let both = vec!["65000:100".to_owned(), "65000:1:2".to_owned()];
        let expected =
            [("10.0.0.0/16".to_owned(), both.clone()), ("10.0.0.0/24".to_owned(), both[..1].to_vec())];
        assert_eq!(text, expected);
        assert_eq!(problems.0[0].field, "spec.prefixAdvertisements[0].communities[1]");
    }

    #[test]
    fn the_rest_of_the_settings_is_understood() {
        let (found, problems) = convert(
            json!({
                "serviceClusterIPs": [{"cidr": "10.96.0.0/12"}, {"cidr": "fd00:96::/108"}],
                "serviceExternalIPs": [{"cidr": "203.0.113.7/32"}],
                "serviceLoadBalancerIPs": [{"cidr": "198.51.100.0/24"}],
                "serviceLoadBalancerAggregation": "Disabled",
                "nodeMeshPassword": {"secretKeyRef": {"name": "bgp", "key": "mesh"}},
                "nodeMeshMaxRestartTime": "200s", "programClusterRoutes": "EnabledIPIPOnly",
                "ipv4NormalRoutePriority": 2000, "logSeverityScreen": "Debug", "asNumber": "1.10",
            }),
            &[],
        );

        assert_eq!(problems, Problems::default());
        assert_eq!(found.services.all().count(), 4);
        assert!(!found.services.aggregate_load_balancers);
        assert_eq!(found.mesh_password.unwrap().to_string(), "Secret bgp key mesh");
        assert_eq!(found.mesh_max_restart_time.unwrap().as_secs(), 200);
        assert_eq!(found.programs, ProgramClusterRoutes { ipip: true, no_encapsulation: false });
        assert_eq!((found.normal_priority_v4, found.normal_priority_v6), (2000, 1024));
        assert_eq!((found.log_severity, found.as_number), (Some(LogSeverity::Debug), 65546));
    }
}
