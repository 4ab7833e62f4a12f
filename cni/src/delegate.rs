//! Other IPAM plugins: found in `CNI_PATH`, started with our environment and our configuration.

use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Map, Value};

use crate::error::{CniError, code};
use crate::invocation::Verb;
use crate::plugin::Context;
use crate::result::Success;

/// Asks a plugin for addresses.
pub fn add(plugin: &str, path: &[PathBuf], conf: &Map<String, Value>) -> Result<Success, CniError> {
    let output = run(plugin, path, conf, Verb::Add)?;
    let value: Value = serde_json::from_slice(&output).map_err(|error| broken(plugin, &error.to_string()))?;
    Success::parse(plugin, &value).map_err(|error| broken(plugin, &error.to_string()))
}

/// The configuration for a plugin that must know this node's subnet: `usePodCidr` and `usePodCidrIPv6` become the
/// subnets that the cluster gave the node.
pub(crate) fn conf(context: &Context) -> Result<Map<String, Value>, CniError> {
    let raw = &context.conf.raw;
    if !raw.get("ipam").is_some_and(|ipam| ipam.to_string().contains(POD_CIDR)) {
        return Ok(raw.clone());
    }
    let subnets = context.agent.node_subnets().map_err(|error| error.into_cni(&context.subject()))?;
    let of_family = |is_v6: bool| subnets.iter().find(|subnet| subnet.contains(':') == is_v6);
    let missing = |name: &str| {
        let text = format!(
            "ipam.subnet {name:?}: the cluster has given this node no such podCIDR (Node spec.podCIDRs)"
        );
        CniError::new(code::TRY_AGAIN, text)
    };
    with_subnets(raw, |name, is_v6| of_family(is_v6).cloned().ok_or_else(|| missing(name)))
}

/// The configuration for verbs to which the subnet does not matter: they work while the agent is away.
pub(crate) fn conf_of_anywhere(context: &Context) -> Map<String, Value> {
    let any = |_: &str, is_v6: bool| Ok(if is_v6 { "::/0" } else { "0.0.0.0/0" }.to_owned());
    with_subnets(&context.conf.raw, any).unwrap_or_else(|_| context.conf.raw.clone())
}

/// Puts what `subnet` says in the place of every `usePodCidr…` that is a `subnet` of `ipam`.
fn with_subnets(
    raw: &Map<String, Value>,
    subnet: impl Fn(&str, bool) -> Result<String, CniError>,
) -> Result<Map<String, Value>, CniError> {
    let mut conf = raw.clone();
    let Some(ipam) = conf.get_mut("ipam") else { return Ok(conf) };
    // `subnet` itself, and those of `ranges`, a list of lists.
    let mut places = vec![ipam];
    while let Some(place) = places.pop() {
        match place {
            Value::Array(items) => places.extend(items),
            Value::Object(object) => {
                for (key, value) in object {
                    match value.as_str() {
                        Some(name) if key == "subnet" && name.eq_ignore_ascii_case(POD_CIDR) => {
                            *value = Value::String(subnet(POD_CIDR, false)?);
                        }
                        Some(name) if key == "subnet" && name.eq_ignore_ascii_case(POD_CIDR_V6) => {
                            *value = Value::String(subnet(POD_CIDR_V6, true)?);
                        }
                        Some(_) => {}
                        None => places.push(value),
                    }
                }
            }
            _ => {}
        }
    }
    Ok(conf)
}

const POD_CIDR: &str = "usePodCidr";
const POD_CIDR_V6: &str = "usePodCidrIPv6";

/// Any other verb: its success says nothing.
pub fn call(plugin: &str, path: &[PathBuf], conf: &Map<String, Value>, verb: Verb) -> Result<(), CniError> {
    run(plugin, path, conf, verb).map(drop)
}

fn run(plugin: &str, path: &[PathBuf], conf: &Map<String, Value>, verb: Verb) -> Result<Vec<u8>, CniError> {
    let file = find(plugin, path)?;
    let failed = |error: io::Error| {
        CniError::new(code::DELEGATE, format!("ipam.type: cannot run {}", file.display()))
            .details(error.to_string())
    };
    let mut child = Command::new(&file)
        .env("CNI_COMMAND", verb.as_str())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        let text = serde_json::to_vec(conf).expect("a map with string keys is always JSON");
        match stdin.write_all(&text) {
            // A plugin may answer without reading to the end.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(failed(error)),
            _ => {}
        }
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(failure(plugin, &output.stdout, &output.status.to_string()))
}

/// Specification, "Execution protocol": the first file of this name in `CNI_PATH`.
fn find(plugin: &str, path: &[PathBuf]) -> Result<PathBuf, CniError> {
    let is_executable = |file: &PathBuf| {
        file.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
    };
    let found = path.iter().map(|directory| directory.join(plugin)).find(is_executable);
    found.ok_or_else(|| {
        let searched: Vec<_> = path.iter().map(|directory| directory.display().to_string()).collect();
        CniError::new(
            code::DELEGATE,
            format!(
                "ipam.type: no executable {plugin:?} in CNI_PATH ({}): install it, or use \"calico-ipam\"",
                searched.join(":")
            ),
        )
    })
}

/// The plugin's own error, when it printed one.
fn failure(plugin: &str, stdout: &[u8], status: &str) -> CniError {
    let value: Value = serde_json::from_slice(stdout).unwrap_or_default();
    let (Some(number), Some(msg)) = (value["code"].as_u64(), value["msg"].as_str()) else {
        return broken(plugin, &format!("{status} without a CNI error"));
    };
    let number = u32::try_from(number).unwrap_or(code::DELEGATE);
    CniError::new(number, format!("IPAM plugin {plugin}: {msg}"))
        .details(value["details"].as_str().unwrap_or_default())
}

fn broken(plugin: &str, why: &str) -> CniError {
    CniError::new(code::DELEGATE, format!("IPAM plugin {plugin} gave no CNI result")).details(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_that_is_nowhere_is_named_with_the_path() {
        let error = add("nowhere", &["/a".into(), "/b".into()], &Map::new()).unwrap_err();

        assert_eq!(error.code, 102);
        assert!(error.msg.contains("\"nowhere\"") && error.msg.contains("/a:/b"), "{}", error.msg);
    }

    #[test]
    fn subnets_of_the_node_stand_where_they_are_asked_for() {
        let raw = serde_json::json!({"name": "usePodCidr", "ipam": {
            "type": "host-local", "subnet": "usePodCidr",
            "ranges": [[{"subnet": "usePodCidrIPv6"}], [{"subnet": "192.0.2.0/24"}]],
        }});

        let conf = with_subnets(raw.as_object().unwrap(), |_, is_v6| {
            Ok(if is_v6 { "fd00::/64" } else { "10.244.1.0/24" }.to_owned())
        });

        let conf = conf.unwrap();
        assert_eq!(conf["name"], "usePodCidr");
        assert_eq!(conf["ipam"]["subnet"], "10.244.1.0/24");
        assert_eq!(conf["ipam"]["ranges"][0][0]["subnet"], "fd00::/64");
        assert_eq!(conf["ipam"]["ranges"][1][0]["subnet"], "192.0.2.0/24");
    }

    #[test]
    fn a_plugins_own_error_is_handed_on() {
        let error = failure("host-local", br#"{"code":11,"msg":"busy","details":"lock"}"#, "exit status: 1");

        assert_eq!((error.code, error.details.as_str()), (11, "lock"));
        assert!(error.msg.contains("host-local: busy"));
        assert_eq!(failure("x", b"panic!", "signal: 6").code, 102);
    }
}
