//! How Calico was installed: its DaemonSet's environment, its ConfigMap, the CNI configuration in there, and what else
//! stands in the way.

use model::{FelixConfiguration, SettingReason, SettingSource};
use serde_json::Value;

use crate::{Effect, Note};

/// What was found; each as the API server has it.
#[derive(Clone, Debug, Default)]
pub struct Installation {
    /// Calico's `calico-node`.
    pub daemon_set: Option<Value>,
    /// `calico-config`.
    pub config_map: Option<Value>,
    /// Replicas of `tigera-operator`, which writes everything anew that is changed.
    pub operator_replicas: Option<i64>,
    /// APIService `v3.projectcalico.org`.
    pub api_service: Option<Value>,
    /// Nodes that are not Linux.
    pub other_nodes: Vec<String>,
}

/// Variables that mean here what they mean there; they go into the environment of our DaemonSet.
const SAME: [&str; 26] = [
    "NODENAME",
    "IP",
    "IP6",
    "IP_AUTODETECTION_METHOD",
    "IP6_AUTODETECTION_METHOD",
    "AS",
    "AUTODETECT_POLL_INTERVAL",
    "DISABLE_NODE_IP_CHECK",
    "CLUSTER_TYPE",
    "WAIT_FOR_DATASTORE",
    "NO_DEFAULT_POOLS",
    "CALICO_IPV4POOL_CIDR",
    "CALICO_IPV4POOL_IPIP",
    "CALICO_IPV4POOL_VXLAN",
    "CALICO_IPV4POOL_NAT_OUTGOING",
    "CALICO_IPV4POOL_BLOCK_SIZE",
    "CALICO_IPV4POOL_NODE_SELECTOR",
    "CALICO_IPV4POOL_DISABLE_BGP_EXPORT",
    "CALICO_IPV6POOL_CIDR",
    "CALICO_IPV6POOL_VXLAN",
    "CALICO_IPV6POOL_NAT_OUTGOING",
    "CALICO_IPV6POOL_BLOCK_SIZE",
    "CALICO_IPV6POOL_NODE_SELECTOR",
    "CALICO_IPV6POOL_DISABLE_BGP_EXPORT",
    "CALICO_ROUTER_ID",
    "CALICO_ADVERTISE_CLUSTER_IPS",
];

/// Variables without a meaning here, and why none is missed.
const NEEDLESS: [(&str, &str); 10] = [
    ("CALICO_DISABLE_FILE_LOGGING", "agents log to standard error only"),
    ("CALICO_MANAGE_CNI", "the plugin has no token that would have to be renewed"),
    ("CALICO_API_GROUP", "objects are in projectcalico.org/v3"),
    ("CALICO_K8S_NODE_REF", "a node has one name: NODENAME"),
    ("CALICO_STARTUP_LOGLEVEL", "FELIX_LOGSEVERITYSCREEN counts from the start"),
    ("KUBERNETES_SERVICE_HOST", "the pod's own counts"),
    ("KUBERNETES_SERVICE_PORT", "the pod's own counts"),
    ("KUBECONFIG", "the pod's service account counts"),
    ("CALICO_NODENAME_FILE", "NODENAME counts"),
    ("CNI_TOKEN_REFRESH_INTERVAL", "the plugin has no token that would have to be renewed"),
];

/// Keys of the `calico` plugin's configuration that need no thought.
const PLUGIN_KEYS: [&str; 13] = [
    "type",
    "name",
    "cniVersion",
    "log_level",
    "log_file_path",
    "datastore_type",
    "nodename",
    "mtu",
    "ipam",
    "policy",
    "kubernetes",
    "container_settings",
    "feature_control",
];

/// Everything that is to be said of an installation, with the thing that it is about.
pub fn installation_notes(found: &Installation) -> Vec<(String, Note)> {
    let mut notes = Vec::new();
    if found.api_service.as_ref().and_then(|api| api.pointer("/spec/service")).is_some_and(Value::is_object) {
        let reason = "Calico's API server answers for projectcalico.org/v3, and hides the custom resources of that group: \
            kubectl delete apiservice v3.projectcalico.org (its objects stay in crd.projectcalico.org/v1)";
        let note = Note::new(Effect::Blocks, "spec.service", reason);
        notes.push(("APIService v3.projectcalico.org".to_owned(), note));
    }
    if found.operator_replicas.is_some_and(|replicas| replicas > 0) {
        let reason = "the operator would undo every step: kubectl -n tigera-operator scale deployment tigera-operator \
            --replicas=0";
        let note = Note::new(Effect::Blocks, "spec.replicas", reason);
        notes.push(("Deployment tigera-operator".to_owned(), note));
    }
    for node in &found.other_nodes {
        let reason = "only Linux nodes can move, and Calico would not hear of pods on them";
        notes.push((format!("Node {node}"), Note::new(Effect::Blocks, "kubernetes.io/os", reason)));
    }
    if let Some(daemon_set) = &found.daemon_set {
        let config = found.config_map.as_ref().and_then(|map| map.get("data"));
        let of_agent = environment(daemon_set, "containers", "calico-node", config);
        let of_agent = of_agent.into_iter().map(|(name, value)| variable(&name, value.as_deref()));
        let all = of_agent.chain(installer_notes(daemon_set, config));
        notes.extend(all.map(|note| ("DaemonSet calico-node".to_owned(), note)));
    }
    if let Some(data) = found.config_map.as_ref().and_then(|map| map.get("data")).and_then(Value::as_object) {
        for (key, value) in data {
            let text = value.as_str().unwrap_or_default();
            notes.extend(
                config_key(key, text).into_iter().map(|note| ("ConfigMap calico-config".to_owned(), note)),
            );
        }
    }
    notes
}

/// What the installer of the plugin is told otherwise than by default: where ours writes its own configuration, too.
fn installer_notes(daemon_set: &Value, config: Option<&Value>) -> Vec<Note> {
    let defaults = [("CNI_CONF_NAME", "10-calico.conflist"), ("CNI_NET_DIR", "/etc/cni/net.d")];
    let given = environment(daemon_set, "initContainers", "install-cni", config);
    let note = |(name, value): (String, Option<String>)| {
        let (_, default) = defaults.iter().find(|(known, _)| *known == name)?;
        let value = value.filter(|value| !value.is_empty() && value != default)?;
        let reason = format!(
            "Calico writes {value:?}, and ours writes {default}: give our containers install-cni and cni-configuration the same, \
             or runtimes go on with Calico's configuration"
        );
        Some(Note::new(Effect::Differs, name, reason))
    };
    given.into_iter().filter_map(note).collect()
}

/// Variables of a container; no value for one that the kubelet or an absent key gives.
fn environment(
    daemon_set: &Value,
    list: &str,
    container: &str,
    config: Option<&Value>,
) -> Vec<(String, Option<String>)> {
    let containers = daemon_set.pointer(&format!("/spec/template/spec/{list}")).and_then(Value::as_array);
    let calico = containers
        .into_iter()
        .flatten()
        .filter(|one| one.get("name").and_then(Value::as_str) == Some(container));
    let all = calico.filter_map(|one| one.get("env")?.as_array()).flatten();
    all.filter_map(|one| {
        let name = one.get("name")?.as_str()?.to_owned();
        let direct = one.get("value").and_then(Value::as_str);
        let key = one.pointer("/valueFrom/configMapKeyRef/key").and_then(Value::as_str);
        let of_map = key.and_then(|key| config?.get(key)?.as_str());
        Some((name, direct.or(of_map).map(str::to_owned)))
    })
    .collect()
}

fn variable(name: &str, value: Option<&str>) -> Note {
    let given = value.unwrap_or_default().trim();
    let note = |effect, reason: &str| Note::new(effect, name, reason.to_owned());
    match name {
        "DATASTORE_TYPE" if given != "kubernetes" => note(
            Effect::Blocks,
            "Calico keeps its objects in etcd: move them into Kubernetes first (calicoctl datastore migrate)",
        ),
        "CALICO_NETWORKING_BACKEND" => backend(name, given),
        "USE_POD_CIDR" if given == "true" => note(Effect::Blocks, HOST_LOCAL),
        "CALICO_DISABLE_FELIX" if !given.is_empty() => {
            note(Effect::Blocks, "there is no felix that could be taken over from")
        }
        "CALICO_NETWORKING" if given == "false" => backend(name, "none"),
        "DATASTORE_TYPE" | "USE_POD_CIDR" => note(Effect::Maps, "as it is here"),
        _ if SAME.contains(&name) => note(Effect::Maps, "goes into the environment of our DaemonSet"),
        _ => match (NEEDLESS.iter().find(|(needless, _)| *needless == name), name.strip_prefix("FELIX_")) {
            (Some((_, why)), _) => note(Effect::Ignored, why),
            (None, Some(parameter)) => felix_variable(name, parameter, given),
            (None, None) => note(Effect::Ignored, "nothing here has a variable of this name"),
        },
    }
}

const HOST_LOCAL: &str = "pods have addresses of Node.spec.podCIDR (host-local), which no block shows: move to calico-ipam \
    first (calico-ipam -upgrade)";

fn backend(field: &str, given: &str) -> Note {
    match given {
        "" | "bird" => Note::new(Effect::Maps, field, "BGP carries the routes here, too"),
        "vxlan" => Note::new(
            Effect::Differs,
            field,
            "felix makes the routes here, too; bird-lite runs beside it and peers with nodes that have moved, unless \
                BGPConfiguration has nodeToNodeMeshEnabled false",
        ),
        "none" => Note::new(
            Effect::Blocks,
            field,
            "another network carries the packets of pods; only policy would move",
        ),
        other => Note::new(Effect::Blocks, field, format!("{other:?} is no backend that is known")),
    }
}

fn felix_variable(name: &str, parameter: &str, given: &str) -> Note {
    if matters(parameter) && given.eq_ignore_ascii_case("true") {
        return Note::new(Effect::Blocks, name, dataplane_reason(parameter));
    }
    let mut settings = FelixConfiguration::default();
    settings.set_parameter(parameter, given, &SettingSource::Environment);
    match settings.notes.into_iter().next().map(|note| note.reason) {
        None => Note::new(Effect::Maps, name, "goes into the environment of our DaemonSet"),
        Some(SettingReason::NotActedUpon(why)) => Note::new(Effect::Ignored, name, why),
        Some(reason) => Note::new(Effect::Ignored, name, reason.to_string()),
    }
}

/// Settings of which Calico would leave something in the kernel that packets go by.
pub(crate) fn matters(parameter: &str) -> bool {
    ["bpfenabled", "wireguardenabled", "wireguardenabledv6"]
        .contains(&parameter.to_ascii_lowercase().as_str())
}

/// Why such a setting blocks.
pub(crate) fn dataplane_reason(parameter: &str) -> String {
    if parameter.to_ascii_lowercase().starts_with("bpf") {
        "Calico's eBPF programs would stay in force beside our rules: set it to false, and wait for all nodes"
            .to_owned()
    } else {
        "Calico's own rules and tables of routes for WireGuard would stay: set it to false before, and to true afterwards".to_owned()
    }
}

fn config_key(key: &str, text: &str) -> Vec<Note> {
    let note = |effect, reason: &str| vec![Note::new(effect, key, reason.to_owned())];
    match key {
        "typha_service_name" if text.is_empty() || text == "none" => note(Effect::Maps, "there is no typha"),
        "typha_service_name" => note(
            Effect::Differs,
            "our agents ask another typha, which ours alone speaks to: see docs/typha.md",
        ),
        "calico_backend" => vec![backend(key, text)],
        "veth_mtu" if text.is_empty() || text == "0" => note(Effect::Maps, "the MTU is found out here, too"),
        "veth_mtu" => note(Effect::Maps, "goes into calico-config, and holds for new pods"),
        "cni_network_config" => conflist(key, text),
        _ => note(Effect::Ignored, "nothing here reads it"),
    }
}

/// The CNI configuration, with placeholders such as `__CNI_MTU__` in it.
fn conflist(key: &str, text: &str) -> Vec<Note> {
    // Numbers are placeholders without quotes.
    let filled = text.replace("__CNI_MTU__", "0");
    let Ok(conflist) = serde_json::from_str::<Value>(&filled) else {
        return vec![Note::new(
            Effect::Differs,
            key,
            "is no JSON: compare what the nodes have in /etc/cni/net.d",
        )];
    };
    let mut notes = Vec::new();
    let name = conflist.get("name").and_then(Value::as_str).unwrap_or_default();
    if name != "k8s-pod-network" {
        let reason = format!(
            "the network is {name:?}: give ours the same name, or DEL will not find the handles of present pods"
        );
        notes.push(Note::new(Effect::Differs, format!("{key}.name"), reason));
    }
    for plugin in conflist.get("plugins").and_then(Value::as_array).into_iter().flatten() {
        let kind = plugin.get("type").and_then(Value::as_str).unwrap_or_default();
        let field = format!("{key}.plugins[{kind}]");
        match kind {
            "calico" => notes.extend(plugin_notes(&field, plugin)),
            "portmap" => notes.push(Note::new(Effect::Maps, field, "is chained here, too")),
            "bandwidth" => notes.push(Note::new(
                Effect::Maps,
                field,
                "the agent itself limits bandwidth by the same annotations",
            )),
            _ => notes.push(Note::new(
                Effect::Differs,
                field,
                "is not chained here: add it to cni_network_config of ours",
            )),
        }
    }
    notes
}

fn plugin_notes(field: &str, plugin: &Value) -> Vec<Note> {
    let mut notes = Vec::new();
    let ipam = plugin.pointer("/ipam/type").and_then(Value::as_str).unwrap_or_default();
    match ipam {
        "calico-ipam" => {
            notes.push(Note::new(Effect::Maps, format!("{field}.ipam"), "blocks go over as they are"))
        }
        "host-local" => notes.push(Note::new(Effect::Blocks, format!("{field}.ipam"), HOST_LOCAL)),
        other => {
            let reason = format!(
                "{other:?} gives the addresses: ours delegates to it, too, when its configuration says so"
            );
            notes.push(Note::new(Effect::Differs, format!("{field}.ipam"), reason));
        }
    }
    let unknown = plugin.as_object().into_iter().flatten().map(|(key, _)| key);
    for key in unknown.filter(|key| !PLUGIN_KEYS.contains(&key.as_str())) {
        notes.push(Note::new(Effect::Ignored, format!("{field}.{key}"), "our plugin has no such setting"));
    }
    notes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Installation {
        let env: Vec<_> = pairs.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        let containers = json!([{"name": "calico-node", "env": env}]);
        let daemon_set = json!({"spec": {"template": {"spec": {"containers": containers}}}});
        Installation { daemon_set: Some(daemon_set), ..Installation::default() }
    }

    fn said(found: &Installation) -> Vec<(String, Effect)> {
        installation_notes(found).into_iter().map(|(_, note)| (note.field, note.effect)).collect()
    }

    #[test]
    fn each_variable_has_its_answer() {
        let found = env(&[
            ("DATASTORE_TYPE", "kubernetes"),
            ("IP", "autodetect"),
            ("CALICO_MANAGE_CNI", "true"),
            ("FELIX_DEFAULTENDPOINTTOHOSTACTION", "ACCEPT"),
            ("FELIX_BPFENABLED", "true"),
            ("FELIX_WIREGUARDENABLED", "false"),
            ("FELIX_NOSUCHTHING", "1"),
            ("SOMETHING", "1"),
        ]);

        let expected = [
            ("DATASTORE_TYPE", Effect::Maps),
            ("IP", Effect::Maps),
            ("CALICO_MANAGE_CNI", Effect::Ignored),
            ("FELIX_DEFAULTENDPOINTTOHOSTACTION", Effect::Maps),
            ("FELIX_BPFENABLED", Effect::Blocks),
            ("FELIX_WIREGUARDENABLED", Effect::Maps),
            ("FELIX_NOSUCHTHING", Effect::Ignored),
            ("SOMETHING", Effect::Ignored),
        ];
        assert_eq!(said(&found), expected.map(|(name, effect)| (name.to_owned(), effect)));
    }

    #[test]
    fn a_configuration_of_another_name_is_told() {
        let env = json!([{"name": "CNI_CONF_NAME", "value": "05-calico.conflist"}, {"name": "SLEEP", "value": "false"}]);
        let init = json!([{"name": "install-cni", "env": env}]);
        let daemon_set = json!({"spec": {"template": {"spec": {"initContainers": init}}}});

        let told = said(&Installation { daemon_set: Some(daemon_set), ..Installation::default() });

        assert_eq!(told, [("CNI_CONF_NAME".to_owned(), Effect::Differs)]);
    }

    #[test]
    fn what_another_way_of_working_means_blocks() {
        for (name, value) in [
            ("DATASTORE_TYPE", "etcdv3"),
            ("CALICO_NETWORKING_BACKEND", "none"),
            ("USE_POD_CIDR", "true"),
            ("CALICO_NETWORKING", "false"),
        ] {
            assert_eq!(said(&env(&[(name, value)])), [(name.to_owned(), Effect::Blocks)], "{name}={value}");
        }
        let found = Installation {
            api_service: Some(json!({"spec": {"service": {"name": "calico-api"}}})),
            operator_replicas: Some(1),
            other_nodes: vec!["win".to_owned()],
            ..Installation::default()
        };
        assert_eq!(installation_notes(&found).iter().filter(|(_, n)| n.effect == Effect::Blocks).count(), 3);
        let local = Installation { api_service: Some(json!({"spec": {}})), ..Installation::default() };
        assert!(installation_notes(&local).is_empty(), "custom resources answer for themselves");
    }

    #[test]
    fn the_cni_configuration_is_read_with_its_placeholders() {
        let text = r#"{"name": "other", "cniVersion": "1.0.0", "plugins": [
            {"type": "calico", "mtu": __CNI_MTU__, "nodename": "__KUBERNETES_NODE_NAME__",
             "ipam": {"type": "calico-ipam"}, "policy_setup_timeout_seconds": 3},
            {"type": "portmap"}, {"type": "tuning"}]}"#;
        let data = json!({"cni_network_config": text, "veth_mtu": "0", "typha_service_name": "calico-typha", "x": "y"});
        let found = Installation { config_map: Some(json!({"data": data})), ..Installation::default() };

        let expected = [
            ("cni_network_config.name", Effect::Differs),
            ("cni_network_config.plugins[calico].ipam", Effect::Maps),
            ("cni_network_config.plugins[calico].policy_setup_timeout_seconds", Effect::Ignored),
            ("cni_network_config.plugins[portmap]", Effect::Maps),
            ("cni_network_config.plugins[tuning]", Effect::Differs),
            ("typha_service_name", Effect::Differs),
            ("veth_mtu", Effect::Maps),
            ("x", Effect::Ignored),
        ];
        assert_eq!(said(&found), expected.map(|(name, effect)| (name.to_owned(), effect)));
    }

    #[test]
    fn nonsense_says_little_and_breaks_nothing() {
        for nonsense in [json!(null), json!(3), json!({"data": 3}), json!({"spec": {"template": []}})] {
            let found = Installation {
                daemon_set: Some(nonsense.clone()),
                config_map: Some(nonsense.clone()),
                api_service: Some(nonsense),
                ..Installation::default()
            };
            assert!(installation_notes(&found).is_empty());
        }
    }
}
