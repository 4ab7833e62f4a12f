//! Settings of the cluster-wide controllers.

use std::collections::BTreeMap;

use model::{AssignIps, AutoHostEndpoints, HostEndpointTemplate, KubeControllersConfiguration};

use super::{Problems, net, selector};
use crate::crd::{self, Switch};

/// A KubeControllersConfiguration; what cannot be understood counts as absent, a template that cannot is left out.
pub fn kube_controllers_configuration(
    spec: &crd::KubeControllersConfigurationSpec,
    problems: &mut Problems,
) -> KubeControllersConfiguration {
    let balancers = spec.controllers.as_ref().and_then(|all| all.load_balancer.as_ref());
    let assign_ips = match balancers.and_then(|settings| settings.assign_ips) {
        Some(crd::AssignIps::RequestedServicesOnly) => AssignIps::RequestedServicesOnly,
        Some(crd::AssignIps::AllServices) | None => AssignIps::AllServices,
    };
    let Some(node) = spec.controllers.as_ref().and_then(|all| all.node.as_ref()) else {
        return KubeControllersConfiguration { assign_ips, ..KubeControllersConfiguration::default() };
    };
    let grace = node
        .leak_grace_period
        .as_deref()
        .and_then(|text| problems.take("spec.controllers.node.leakGracePeriod", model::parse_duration(text)));
    let settings = node.host_endpoint.as_ref().filter(|all| all.auto_create == Some(Switch::Enabled));
    let auto_host_endpoints = settings.map(|settings| AutoHostEndpoints {
        with_default: settings.create_default_host_endpoint != Some(Switch::Disabled),
        templates: (settings.templates.iter().flatten().enumerate())
            .filter_map(|(index, entry)| template(index, entry, problems))
            .collect(),
    });
    KubeControllersConfiguration { leak_grace_period: grace, auto_host_endpoints, assign_ips }
}

/// The status that says what is in force.
pub fn kube_controllers_status(
    running: &KubeControllersConfiguration,
    decided: &BTreeMap<String, String>,
) -> crd::KubeControllersConfigurationStatus {
    let switch = |on: bool| Some(if on { Switch::Enabled } else { Switch::Disabled });
    let made = running.auto_host_endpoints.as_ref();
    let node = crd::NodeControllerSettings {
        leak_grace_period: running.leak_grace_period.map(|grace| format!("{}s", grace.as_secs())),
        host_endpoint: Some(crd::AutoHostEndpointSettings {
            auto_create: switch(made.is_some()),
            create_default_host_endpoint: switch(made.is_none_or(|made| made.with_default)),
            templates: None,
        }),
    };
    let load_balancer = crd::LoadBalancerControllerSettings {
        assign_ips: Some(match running.assign_ips {
            AssignIps::AllServices => crd::AssignIps::AllServices,
            AssignIps::RequestedServicesOnly => crd::AssignIps::RequestedServicesOnly,
        }),
    };
    let controllers = crd::ControllersSettings { node: Some(node), load_balancer: Some(load_balancer) };
    crd::KubeControllersConfigurationStatus {
        environment_vars: Some(decided.clone()),
        running_config: Some(crd::KubeControllersConfigurationSpec { controllers: Some(controllers) }),
    }
}

fn template(
    index: usize,
    entry: &crd::HostEndpointTemplate,
    problems: &mut Problems,
) -> Option<HostEndpointTemplate> {
    let field = |name: &str| format!("spec.controllers.node.hostEndpoint.templates[{index}].{name}");
    let interfaces = match entry.interface_pattern.as_deref().filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => {
            let checked = regex::Regex::new(text).map_err(|error| error.to_string());
            problems.take(&field("interfacePattern"), checked)?;
            Some(text.to_owned())
        }
    };
    let nodes = selector(problems, &field("nodeSelector"), entry.node_selector.as_deref()).ok()?;
    let texts = entry.interface_cidrs.iter().flatten().enumerate();
    let cidrs = texts
        .filter_map(|(i, text)| problems.take(&format!("{}[{i}]", field("interfaceCIDRs")), net(text)))
        .collect();
    Some(HostEndpointTemplate {
        name: entry.generate_name.clone(),
        cidrs,
        interfaces,
        labels: entry.labels.clone().unwrap_or_default(),
        nodes,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn convert(node: Value) -> (KubeControllersConfiguration, Vec<String>) {
        let spec = json!({"prometheusMetricsPort": 9094, "controllers": {"namespace": {}, "node": node}});
        let mut problems = Problems::default();
        let found = kube_controllers_configuration(&serde_json::from_value(spec).unwrap(), &mut problems);
        (found, problems.0.into_iter().map(|problem| problem.field).collect())
    }

    #[test]
    fn host_endpoints_are_made_only_where_somebody_switched_it_on() {
        let settings = |node| convert(node).0.auto_host_endpoints;

        assert_eq!(settings(json!({})), None);
        assert_eq!(settings(json!({"hostEndpoint": {"createDefaultHostEndpoint": "Enabled"}})), None);
        let on = settings(json!({"hostEndpoint": {"autoCreate": "Enabled"}})).unwrap();
        assert!(on.with_default && on.templates.is_empty());
    }

    #[test]
    fn what_is_wrong_with_a_template_is_named() {
        let (found, problems) = convert(json!({"leakGracePeriod": "15m", "hostEndpoint": {
        "autoCreate": "Enabled", "createDefaultHostEndpoint": "Disabled", "templates": [
            {"generateName": "a", "interfaceCIDRs": ["10.0.0.0/8", "x"], "interfacePattern": "^eth"},
            {"generateName": "c", "interfacePattern": "eth["},
            {"generateName": "b", "nodeSelector": "zone = 'a'"},
        ]}}));

        let place = "spec.controllers.node.hostEndpoint.templates";
        assert_eq!(
            problems,
            [
                format!("{place}[0].interfaceCIDRs[1]"),
                format!("{place}[1].interfacePattern"),
                format!("{place}[2].nodeSelector"),
            ]
        );
        let made = found.auto_host_endpoints.clone().unwrap();
        assert!(!made.with_default);
        assert_eq!((made.templates.len(), made.templates[0].cidrs.len()), (1, 1));
        assert_eq!(made.templates[0].interfaces.as_deref(), Some("^eth"));
        assert_eq!(found.leak_grace_period, Some(std::time::Duration::from_secs(900)));
        let status = serde_json::to_value(kube_controllers_status(&found, &BTreeMap::new())).unwrap();
        let running = &status["runningConfig"]["controllers"];
        assert_eq!(running["node"]["leakGracePeriod"], "900s");
        assert_eq!(running["node"]["hostEndpoint"]["createDefaultHostEndpoint"], "Disabled");
        assert_eq!(running["loadBalancer"]["assignIPs"], "AllServices");
    }
}
