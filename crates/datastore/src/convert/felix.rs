//! Settings of the node agent.

use std::collections::BTreeMap;

use model::{ChainInsertMode, EndpointToHostAction, FelixConfiguration};

use super::Problems;
use super::duration::duration;
use crate::crd;

/// Built-in defaults, over them the object `default`, then `node.<name>`, then `FELIX_*` variables (names in
/// capitals as Calico has them; their values win over every object).
pub fn felix_configuration(
    default: Option<&crd::FelixConfigurationSpec>,
    node: Option<&crd::FelixConfigurationSpec>,
    overrides: &BTreeMap<String, String>,
    problems: &mut Problems,
) -> FelixConfiguration {
    let mut settings = FelixConfiguration::default();
    for spec in [default, node].into_iter().flatten() {
        apply(&mut settings, spec, problems);
    }
    for (name, value) in overrides {
        let Some(name) = name.strip_prefix("FELIX_") else { continue };
        if let Err(reason) = override_one(&mut settings, &name.to_ascii_uppercase(), value) {
            problems.add(format!("FELIX_{name}"), reason);
        }
    }
    settings
}

fn apply(settings: &mut FelixConfiguration, spec: &crd::FelixConfigurationSpec, problems: &mut Problems) {
    if let Some(prefix) = &spec.interface_prefix {
        settings.interface_prefix = first_of_list(prefix);
    }
    if let Some(mode) = spec.chain_insert_mode {
        settings.chain_insert_mode = match mode {
            crd::ChainInsertMode::Insert | crd::ChainInsertMode::LowerInsert => ChainInsertMode::Insert,
            crd::ChainInsertMode::Append | crd::ChainInsertMode::LowerAppend => ChainInsertMode::Append,
        };
    }
    if let Some(action) = spec.default_endpoint_to_host_action {
        settings.endpoint_to_host_action = match action {
            crd::EndpointToHostAction::Drop => EndpointToHostAction::Drop,
            crd::EndpointToHostAction::Accept => EndpointToHostAction::Accept,
            crd::EndpointToHostAction::Return => EndpointToHostAction::Return,
        };
    }
    let mut time = |field: &str, text: &Option<String>, into: &mut std::time::Duration| {
        let found = text.as_deref().and_then(|text| problems.take(field, duration(text)));
        *into = found.unwrap_or(*into);
    };
    time(
        "spec.iptablesRefreshInterval",
        &spec.iptables_refresh_interval,
        &mut settings.iptables_refresh_interval,
    );
    time("spec.ipsetsRefreshInterval", &spec.ipsets_refresh_interval, &mut settings.ipsets_refresh_interval);
    time("spec.routeRefreshInterval", &spec.route_refresh_interval, &mut settings.route_refresh_interval);
    if let Some(mtu) = spec.mtu.or(spec.ipip_mtu) {
        settings.mtu = u32::try_from(mtu).ok().filter(|mtu| *mtu != 0);
    }
    if let Some(ipv6) = spec.ipv6_support {
        settings.ipv6 = ipv6;
    }
    if let Some(priority) = spec.ipv4_normal_route_priority.and_then(|priority| u32::try_from(priority).ok())
    {
        settings.route_priority = priority;
    }
    if let Some(level) = &spec.log_severity_screen {
        settings.log_severity =
            problems.take("spec.logSeverityScreen", level.parse()).or(settings.log_severity);
    }
    if let Some(pattern) = &spec.mtu_iface_pattern {
        settings.mtu_iface_pattern = Some(pattern.clone());
    }
}

/// Names that are unknown here are left alone: they may be Calico's own.
fn override_one(settings: &mut FelixConfiguration, name: &str, value: &str) -> Result<(), String> {
    match name {
        "INTERFACEPREFIX" => settings.interface_prefix = first_of_list(value),
        "CHAININSERTMODE" => {
            settings.chain_insert_mode = match value.to_ascii_lowercase().as_str() {
                "insert" => ChainInsertMode::Insert,
                "append" => ChainInsertMode::Append,
                _ => return Err(format!("{value:?} is neither insert nor append")),
            };
        }
        "DEFAULTENDPOINTTOHOSTACTION" => {
            settings.endpoint_to_host_action = match value.to_ascii_lowercase().as_str() {
                "drop" => EndpointToHostAction::Drop,
                "accept" => EndpointToHostAction::Accept,
                "return" => EndpointToHostAction::Return,
                _ => return Err(format!("{value:?} is none of Drop, Accept and Return")),
            };
        }
        "IPTABLESREFRESHINTERVAL" => settings.iptables_refresh_interval = duration(value)?,
        "IPSETSREFRESHINTERVAL" => settings.ipsets_refresh_interval = duration(value)?,
        "ROUTEREFRESHINTERVAL" => settings.route_refresh_interval = duration(value)?,
        "MTU" | "IPINIPMTU" => {
            let mtu: u32 = value.parse().map_err(|_| format!("{value:?} is not an MTU"))?;
            settings.mtu = Some(mtu).filter(|mtu| *mtu != 0);
        }
        "IPV6SUPPORT" => {
            settings.ipv6 = match value.to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" => true,
                "false" | "0" | "no" => false,
                _ => return Err(format!("{value:?} is neither true nor false")),
            };
        }
        "IPV4NORMALROUTEPRIORITY" => {
            settings.route_priority = value.parse().map_err(|_| format!("{value:?} is not a priority"))?;
        }
        "LOGSEVERITYSCREEN" => settings.log_severity = Some(value.parse()?),
        "MTUIFACEPATTERN" => settings.mtu_iface_pattern = Some(value.to_owned()),
        _ => {}
    }
    Ok(())
}

/// Calico allows several prefixes; pods get interfaces with the first one.
fn first_of_list(text: &str) -> String {
    text.split(',').next().unwrap_or(text).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;

    fn spec(value: Value) -> crd::FelixConfigurationSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_more_particular_wins() {
        let default = spec(json!({"routeRefreshInterval": "10s", "chainInsertMode": "Append", "mtu": 1400}));
        let node = spec(json!({"routeRefreshInterval": "20s", "defaultEndpointToHostAction": "Drop"}));
        let overrides = BTreeMap::from([
            ("FELIX_MTU".to_owned(), "9000".to_owned()),
            ("FELIX_DEFAULTENDPOINTTOHOSTACTION".to_owned(), "ACCEPT".to_owned()),
            ("FELIX_IPV6SUPPORT".to_owned(), "false".to_owned()),
            ("FELIX_UNKNOWN".to_owned(), "x".to_owned()),
        ]);
        let mut problems = Problems::default();

        let found = felix_configuration(Some(&default), Some(&node), &overrides, &mut problems);

        assert_eq!(problems, Problems::default());
        assert_eq!(found.route_refresh_interval, Duration::from_secs(20));
        assert_eq!(found.chain_insert_mode, ChainInsertMode::Append);
        assert_eq!(found.endpoint_to_host_action, EndpointToHostAction::Accept);
        assert_eq!((found.mtu, found.ipv6), (Some(9000), false));
    }

    #[test]
    fn a_value_that_cannot_be_used_is_named_and_the_next_best_stays() {
        let default = spec(json!({"routeRefreshInterval": "soon"}));
        let overrides = BTreeMap::from([("FELIX_MTU".to_owned(), "big".to_owned())]);
        let mut problems = Problems::default();

        let found = felix_configuration(Some(&default), None, &overrides, &mut problems);

        assert_eq!(found, FelixConfiguration::default());
        let fields: Vec<_> = problems.0.iter().map(|problem| problem.field.as_str()).collect();
        assert_eq!(fields, ["spec.routeRefreshInterval", "FELIX_MTU"]);
    }
}
