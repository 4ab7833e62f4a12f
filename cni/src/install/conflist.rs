//! The network configuration that is installed: the default one, or the user's template filled in.

use std::fs;

use serde_json::{Value, json};

use super::options::Options;
use crate::config::NetConf;

/// The configuration for a runtime of today; 1.0.0 is what containerd 1.6 and podman 4 take. What somebody has chained
/// with our plugin in the list that is there stays in its place; of what Calico chains itself, `bandwidth` goes, since the
/// agent limits by the same annotations.
pub(super) fn default(options: &Options, with_portmap: bool, present: Option<&[u8]>) -> String {
    let calico = json!({
        "type": "calico",
        "felix_socket": options.felix_socket,
        "mtu": options.mtu,
        "log_level": options.log_level,
        "log_file_path": options.log_file,
        "ipam": { "type": "calico-ipam" },
        "policy": { "type": "k8s" },
    });
    let present: Value = present.and_then(|text| serde_json::from_slice(text).ok()).unwrap_or_default();
    let mut plugins = present["plugins"].as_array().cloned().unwrap_or_default();
    if let Some(ours) = plugins.iter_mut().find(|plugin| plugin["type"] == "calico") {
        // Only Calico's plugin asks the API server itself.
        let was_calicos = ours.get("kubernetes").is_some() || ours.get("datastore_type").is_some();
        *ours = calico;
        plugins.retain(|plugin| !was_calicos || plugin["type"] != "bandwidth");
    } else {
        plugins = vec![calico];
    }
    if with_portmap && plugins.len() == 1 {
        plugins.push(json!({ "type": "portmap", "snat": true, "capabilities": { "portMappings": true } }));
    }
    let list = json!({ "name": "k8s-pod-network", "cniVersion": "1.0.0", "plugins": plugins });
    format!("{list:#}\n")
}

/// The user's own configuration, filled in and checked; `None` when there is none.
pub(super) fn template(options: &Options) -> Result<Option<String>, String> {
    let (what, text) = match (&options.network_config_file, &options.network_config) {
        (Some(path), _) => {
            let text = fs::read_to_string(path).map_err(|error| {
                format!("CNI_NETWORK_CONFIG_FILE: cannot read {}: {error}", path.display())
            })?;
            ("CNI_NETWORK_CONFIG_FILE", text)
        }
        (None, Some(text)) => ("CNI_NETWORK_CONFIG", text.clone()),
        (None, None) => return Ok(None),
    };
    let text = fill(options, text);
    check(&text).map_err(|problem| format!("{what}: {problem}"))?;
    Ok(Some(text))
}

/// Puts values in the place of Calico's template variables.
fn fill(options: &Options, text: String) -> String {
    let values = [
        ("__CNI_MTU__", options.mtu.to_string()),
        ("__LOG_LEVEL__", options.log_level.clone()),
        ("__LOG_FILE_PATH__", options.log_file.clone()),
        ("__LOG_FILE_MAX_SIZE__", "100".to_owned()),
        ("__LOG_FILE_MAX_AGE__", "30".to_owned()),
        ("__LOG_FILE_MAX_COUNT__", "10".to_owned()),
        ("__DATASTORE_TYPE__", "kubernetes".to_owned()),
        ("__KUBERNETES_NODE_NAME__", options.node_name.clone()),
        // The plugin has no use for a kubeconfig and none is made.
        ("__KUBECONFIG_FILEPATH__", String::new()),
        ("__FELIX_SOCKET__", options.felix_socket.clone()),
    ];
    values.iter().fold(text, |text, (name, value)| text.replace(name, value))
}

/// The plugin must take what a runtime will hand it from this file.
fn check(text: &str) -> Result<(), String> {
    let list: Value = serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?;
    let single = [list.clone()];
    let plugins = match list.get("plugins") {
        Some(Value::Array(plugins)) => plugins.as_slice(),
        Some(_) => return Err("plugins is not a list".to_owned()),
        None => &single,
    };
    for plugin in plugins.iter().filter(|plugin| plugin["type"] == "calico") {
        let mut conf = plugin.clone();
        for key in ["name", "cniVersion"] {
            if let Some(value) = list.get(key) {
                conf[key] = value.clone();
            }
        }
        NetConf::parse(conf.to_string().as_bytes()).map_err(|(_, error)| error.to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(config: Option<&str>) -> Options {
        let env = |name: &str| (name == "CNI_NETWORK_CONFIG").then(|| config.map(str::to_owned)).flatten();
        Options::parse(&["--mtu=1400".into()], env).unwrap().unwrap()
    }

    #[test]
    fn the_default_is_good_and_has_portmap_where_that_exists() {
        for with_portmap in [false, true] {
            let text = default(&options(None), with_portmap, None);

            check(&text).unwrap();
            assert_eq!(text.contains("portmap"), with_portmap);
            assert!(text.contains("\"mtu\": 1400"));
        }
    }

    #[test]
    fn what_others_have_chained_stays_in_its_place() {
        let present = br#"{"name":"k8s-pod-network","cniVersion":"0.3.1","plugins":[
            {"type":"first"},{"type":"calico","mtu":9000},{"type":"bandwidth","capabilities":{"bandwidth":true}}]}"#;

        let list: Value = serde_json::from_str(&default(&options(None), true, Some(present))).unwrap();

        let types: Vec<_> = list["plugins"]
            .as_array()
            .unwrap()
            .iter()
            .map(|plugin| plugin["type"].as_str().unwrap())
            .collect();
        assert_eq!(types, ["first", "calico", "bandwidth"]);
        assert_eq!((&list["plugins"][1]["mtu"], &list["cniVersion"]), (&json!(1400), &json!("1.0.0")));
        for nonsense in [&b"{"[..], b"[]", br#"{"plugins":[{"type":"flannel"}]}"#] {
            assert_eq!(default(&options(None), true, Some(nonsense)), default(&options(None), true, None));
        }
    }

    #[test]
    fn what_calico_chains_for_bandwidth_goes_when_a_node_changes_hands() {
        let calicos = br#"{"name":"k8s-pod-network","cniVersion":"0.3.1","plugins":[
            {"type":"calico","datastore_type":"kubernetes","ipam":{"type":"calico-ipam"},
             "kubernetes":{"kubeconfig":"/etc/cni/net.d/calico-kubeconfig"}},
            {"type":"bandwidth","capabilities":{"bandwidth":true}},
            {"type":"portmap","snat":true,"capabilities":{"portMappings":true}}]}"#;

        let text = default(&options(None), true, Some(calicos));

        let list: Value = serde_json::from_str(&text).unwrap();
        let types = [0, 1, 2].map(|at| list["plugins"][at]["type"].as_str());
        assert_eq!(types, [Some("calico"), Some("portmap"), None]);
        assert!(!text.contains("kubeconfig"), "{text}");
    }

    #[test]
    fn a_template_is_filled_in() {
        let text = r#"{"name":"n","cniVersion":"0.3.1","plugins":[{"type":"calico","mtu":__CNI_MTU__,"log_level":"__LOG_LEVEL__"}]}"#;

        let filled = template(&options(Some(text))).unwrap().unwrap();

        assert!(filled.contains(r#""mtu":1400,"log_level":"info""#), "{filled}");
    }

    #[test]
    fn a_template_that_no_plugin_could_take_is_refused() {
        for (text, named) in [
            ("{", "CNI_NETWORK_CONFIG: not JSON"),
            (r#"{"plugins":{}}"#, "plugins"),
            (r#"{"name":"n","cniVersion":"9","plugins":[{"type":"calico"}]}"#, "cniVersion"),
            (r#"{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"calico","mtu":"x"}]}"#, "mtu"),
        ] {
            assert!(template(&options(Some(text))).unwrap_err().contains(named), "{text}");
        }
    }
}
