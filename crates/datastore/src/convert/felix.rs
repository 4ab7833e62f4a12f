//! Settings of the node agent, from their objects.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use model::{FelixConfiguration, Labels, NodeName, Selector, SettingReason, SettingSource};
use serde_json::Value;

use super::{Problems, selector};

/// One FelixConfiguration that may concern the node.
#[derive(Clone, Debug, PartialEq)]
pub struct FelixObject {
    /// Older comes first.
    created: String,
    /// For names other than `default` and `node.*`: nodes that it is for; without one, for none.
    nodes: Option<Selector>,
    spec: Value,
    /// Parameters by name, from annotations `config.projectcalico.org/<Name>`.
    parameters: BTreeMap<String, String>,
}

/// One FelixConfiguration as it is kept; `None` when it is another node's.
pub fn felix_object(
    node: &NodeName,
    meta: &ObjectMeta,
    spec: &Value,
    problems: &mut Problems,
) -> Option<FelixObject> {
    let name = meta.name.as_deref()?;
    if name.strip_prefix("node.").is_some_and(|of| of != node.as_str()) {
        return None;
    }
    let nodes = match name == "default" || name.starts_with("node.") {
        true => None,
        false => selector(problems, "spec.nodeSelector", spec["nodeSelector"].as_str()).ok()?,
    };
    let annotations = meta.annotations.iter().flatten();
    let parameters = annotations
        .filter_map(|(key, value)| Some((key.strip_prefix(ANNOTATION)?.to_owned(), value.clone())))
        .collect();
    let created = meta.creation_timestamp.as_ref().map(|at| at.0.to_string()).unwrap_or_default();
    Some(FelixObject { created, nodes, spec: spec.clone(), parameters })
}

const ANNOTATION: &str = "config.projectcalico.org/";

/// Built-in defaults, over them the object `default`, then the oldest whose nodeSelector selects the node, then
/// `node.<name>`. What is not in force as it was given stands in the result's notes.
pub fn felix_configuration(
    objects: &BTreeMap<Arc<str>, FelixObject>,
    node: &NodeName,
    labels: &Labels,
) -> FelixConfiguration {
    let mut settings = FelixConfiguration::default();
    let own: Arc<str> = format!("node.{node}").into();
    if let Some(default) = objects.get("default") {
        apply(&mut settings, default, &SettingSource::Default);
    }
    let selecting =
        objects.iter().filter(|(_, object)| object.nodes.as_ref().is_some_and(|nodes| nodes.matches(labels)));
    if let Some((name, scoped)) = selecting.min_by(|(a, x), (b, y)| (&x.created, a).cmp(&(&y.created, b))) {
        apply(&mut settings, scoped, &SettingSource::Selector(name.clone()));
    }
    if let Some(object) = objects.get(&own) {
        apply(&mut settings, object, &SettingSource::Node(own));
    }
    settings
}

fn apply(settings: &mut FelixConfiguration, object: &FelixObject, source: &SettingSource) {
    for (field, value) in object.spec.as_object().into_iter().flatten() {
        // This one says for which nodes it all is.
        if field != "nodeSelector" {
            settings.set_field(field, &text(value), source);
        }
    }
    for (name, value) in &object.parameters {
        settings.set_parameter(name, value, source);
    }
}

/// What is wrong with a FelixConfiguration, whichever node it is for.
pub fn check_felix_configuration(meta: &ObjectMeta, spec: &Value, problems: &mut Problems) {
    let name = meta.name.as_deref().unwrap_or_default();
    let node = NodeName::from(name.strip_prefix("node.").unwrap_or_default());
    let Some(object) = felix_object(&node, meta, spec, problems) else { return };
    let mut settings = FelixConfiguration::default();
    apply(&mut settings, &object, &SettingSource::Default);
    for note in settings.notes {
        let field = format!("spec.{}", note.name);
        match note.reason {
            SettingReason::Invalid(reason) => problems.add(field, reason),
            reason => problems.warn(field, reason),
        }
    }
}

/// A value as the environment would have it.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(entries) if entries.is_empty() => "none".to_owned(),
        Value::Array(entries) => entries.iter().map(entry).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// An entry of a list; ports of failsafe lists are objects.
fn entry(value: &Value) -> String {
    let Some(port) = value.get("port") else { return text(value) };
    let protocol = value["protocol"].as_str().filter(|name| !name.is_empty()).unwrap_or("tcp");
    match value["net"].as_str().filter(|net| !net.is_empty()) {
        Some(net) => format!("{protocol}:{net}:{port}"),
        None => format!("{protocol}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use model::{ChainInsertMode, EndpointToHostAction};
    use serde_json::json;

    use super::*;

    fn objects(all: &[(&str, &str, Value)]) -> BTreeMap<Arc<str>, FelixObject> {
        let node = NodeName::from("n1");
        let kept = all.iter().filter_map(|(name, created, spec)| {
            let meta = json!({"name": name, "creationTimestamp": created});
            let meta: ObjectMeta = serde_json::from_value(meta).unwrap();
            let mut problems = Problems::default();
            let object = felix_object(&node, &meta, spec, &mut problems)?;
            Some(((*name).into(), object))
        });
        kept.collect()
    }

    fn merged(all: &[(&str, &str, Value)]) -> FelixConfiguration {
        let labels = Labels::from([("zone".to_owned(), "a".to_owned())]);
        felix_configuration(&objects(all), &"n1".into(), &labels)
    }

    const DAY: &str = "2026-01-01T00:00:00Z";
    const LATER: &str = "2026-01-02T00:00:00Z";

    #[test]
    fn the_more_particular_wins() {
        let found = merged(&[
            (
                "default",
                DAY,
                json!({"routeRefreshInterval": "10s", "chainInsertMode": "Append", "mtu": 1400}),
            ),
            ("zone-a", LATER, json!({"nodeSelector": "zone == 'a'", "mtu": 1300})),
            (
                "zone-a-old",
                DAY,
                json!({"nodeSelector": "has(zone)", "mtu": 1200, "routeRefreshInterval": "15s"}),
            ),
            ("zone-b", DAY, json!({"nodeSelector": "zone == 'b'", "mtu": 1100})),
            ("nobody", DAY, json!({"mtu": 1000})),
            ("node.n1", DAY, json!({"routeRefreshInterval": "20s", "defaultEndpointToHostAction": "Drop"})),
            ("node.n2", DAY, json!({"mtu": 900})),
        ]);

        assert_eq!(found.notes, []);
        assert_eq!(found.route_refresh_interval, Duration::from_secs(20));
        assert_eq!(found.chain_insert_mode, ChainInsertMode::Append);
        assert_eq!(found.endpoint_to_host_action, EndpointToHostAction::Drop);
        assert_eq!(found.mtu, Some(1200), "of two that select the node the older counts");
    }

    #[test]
    fn a_value_that_cannot_be_used_is_named_and_the_next_best_stays() {
        let found = merged(&[
            ("default", DAY, json!({"routeRefreshInterval": "10s"})),
            (
                "node.n1",
                DAY,
                json!({"routeRefreshInterval": "soon", "noSuch": 1, "wireguardHostEncryptionEnabled": true}),
            ),
        ]);

        assert_eq!(found.route_refresh_interval, Duration::from_secs(10));
        let said: Vec<String> =
            found.notes.iter().map(|note| format!("{} {}", note.name, note.reason.as_str())).collect();
        assert_eq!(
            said,
            [
                "noSuch unknown",
                "routeRefreshInterval invalid",
                "wireguardHostEncryptionEnabled not-acted-upon"
            ]
        );
        assert!(found.notes.iter().all(|note| note.source == SettingSource::Node("node.n1".into())));
    }

    #[test]
    fn lists_and_objects_are_read() {
        let found = merged(&[(
            "default",
            DAY,
            json!({
                "failsafeInboundHostPorts": [{"protocol": "TCP", "port": 22}, {"protocol": "udp", "port": 68, "net": "10.0.0.0/8"}],
                "failsafeOutboundHostPorts": [],
                "externalNodesList": ["192.0.2.1"],
                    "iptablesMarkMask": 4278190080u32,
            }),
        )]);

        assert_eq!(found.notes, []);
        assert_eq!((found.failsafe_inbound.len(), found.failsafe_outbound.len()), (2, 0));
        assert_eq!((found.external_nodes.len(), found.mark_mask), (1, 0xff00_0000));
    }

    #[test]
    fn what_is_wrong_is_told_by_its_field() {
        let mut problems = Problems::default();
        let meta = ObjectMeta { name: Some("node.x".to_owned()), ..ObjectMeta::default() };

        check_felix_configuration(&meta, &json!({"vxlanPort": 0, "bpfEnabled": true}), &mut problems);

        let said: Vec<_> = problems.0.iter().map(|p| (p.field.as_str(), p.is_warning)).collect();
        assert_eq!(said, [("spec.bpfEnabled", true), ("spec.vxlanPort", false)]);
    }
}
