//! Calls the CNI plugin as containerd does: environment, configuration on stdin, DEL twice.
//! What to wire and when is the kubelet stand-in's business.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::names::Family;
use crate::netns;

/// How long one call may take.
const LIMIT: Duration = Duration::from_secs(90);

/// What stays the same for all pods of a node.
#[derive(Debug, Clone)]
pub struct CniNode {
    /// The node's name.
    pub node: String,
    /// The node's namespace: the plugin runs inside.
    pub netns: PathBuf,
    /// felix's socket.
    pub felix_socket: PathBuf,
    /// Where the plugins are.
    pub bin_dir: PathBuf,
    /// Which families pods get.
    pub family: Family,
    /// Where the plugin's standard error goes.
    pub log: PathBuf,
}

/// One pod's sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// The pod's namespace in the cluster.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's uid.
    pub uid: String,
    /// The sandbox container's id.
    pub container_id: String,
    /// The pod's network namespace.
    pub netns: PathBuf,
}

/// What ADD made.
#[derive(Debug, Clone, PartialEq)]
pub struct Added {
    /// The pod's addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// The whole result, given back on DEL.
    pub result: Value,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    /// The plugin could not be run.
    #[error("plugin type=\"calico\" cannot be run: {0}")]
    Run(#[from] io::Error),
    /// The plugin did not end in time.
    #[error("plugin type=\"calico\" did not end within {} s", LIMIT.as_secs())]
    Timeout,
    /// The plugin said no.
    #[error("plugin type=\"calico\" failed ({verb}): {message}")]
    Refused {
        /// `add` or `delete`.
        verb: &'static str,
        /// The plugin's own words.
        message: String,
    },
    /// The plugin succeeded but what it printed is no result.
    #[error("plugin type=\"calico\" printed no valid result: {0}")]
    Result(String),
}

impl CniNode {
    /// Wires a pod.
    pub async fn add(&self, sandbox: &Sandbox) -> Result<Added, CniError> {
        let output = self.call("ADD", sandbox, true, None).await?;
        let stdout = check(&output, "add")?;
        parse_result(&stdout)
    }

    /// Unwires a pod while its namespace still stands, as when a sandbox is stopped.
    pub async fn delete(&self, sandbox: &Sandbox, added: Option<&Added>) -> Result<(), CniError> {
        let output = self.call("DEL", sandbox, true, added.map(|a| &a.result)).await?;
        check(&output, "delete").map(|_| ())
    }

    /// Unwires a pod once more without its namespace and without a result, as when a sandbox is removed.
    pub async fn delete_again(&self, sandbox: &Sandbox) -> Result<(), CniError> {
        let output = self.call("DEL", sandbox, false, None).await?;
        check(&output, "delete").map(|_| ())
    }

    async fn call(
        &self,
        verb: &str,
        sandbox: &Sandbox,
        netns: bool,
        prev: Option<&Value>,
    ) -> Result<Output, CniError> {
        let stdin = self.configuration(prev).to_string();
        let environment = self.environment(verb, sandbox, netns);
        let program = self.bin_dir.join("calico");
        let runtime = tokio::runtime::Handle::current();
        let mut child = netns::enter(&self.netns, move || {
            let _entered = runtime.enter();
            Command::new(&program)
                .envs(environment)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", program.display())))
        })
        .await?;
        let mut pipe = child.stdin.take().ok_or_else(|| io::Error::other("no pipe to the plugin"))?;
        // A plugin that ends without reading shows in its exit status.
        pipe.write_all(stdin.as_bytes()).await.ok();
        drop(pipe);
        let output =
            tokio::time::timeout(LIMIT, child.wait_with_output()).await.map_err(|_| CniError::Timeout)??;
        self.keep_log(verb, sandbox, &output);
        Ok(output)
    }

    fn keep_log(&self, verb: &str, sandbox: &Sandbox, output: &Output) {
        if output.stderr.is_empty() && output.status.success() {
            return;
        }
        let Ok(mut log) = OpenOptions::new().append(true).create(true).open(&self.log) else { return };
        let mut text =
            format!("{verb} {}/{}: {}\n", sandbox.namespace, sandbox.pod, output.status).into_bytes();
        text.extend_from_slice(&output.stderr);
        if !output.status.success() {
            text.extend_from_slice(&output.stdout);
        }
        text.push(b'\n');
        log.write_all(&text).ok();
    }

    fn configuration(&self, prev: Option<&Value>) -> Value {
        let yes_no = |yes: bool| if yes { "true" } else { "false" };
        let mut conf = json!({
            "cniVersion": "1.0.0",
            "name": "k8s-pod-network",
            "type": "calico",
            "nodename": self.node,
            "felix_socket": self.felix_socket,
            "ipam": {
                "type": "calico-ipam",
                "assign_ipv4": yes_no(self.family.has_v4()),
                "assign_ipv6": yes_no(self.family.has_v6()),
            },
            "policy": {"type": "k8s"},
        });
        if let Some(prev) = prev {
            conf["prevResult"] = prev.clone();
        }
        conf
    }

    fn environment(&self, verb: &str, sandbox: &Sandbox, netns: bool) -> Vec<(&'static str, String)> {
        let path = if netns { sandbox.netns.display().to_string() } else { String::new() };
        vec![
            ("CNI_COMMAND", verb.to_owned()),
            ("CNI_CONTAINERID", sandbox.container_id.clone()),
            ("CNI_NETNS", path),
            ("CNI_IFNAME", "eth0".to_owned()),
            ("CNI_PATH", self.bin_dir.display().to_string()),
            (
                "CNI_ARGS",
                format!(
                    "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
                    sandbox.namespace, sandbox.pod, sandbox.container_id, sandbox.uid
                ),
            ),
        ]
    }
}

/// Whether the plugins are there; the error names what is missing and where it was sought.
pub fn find_plugins(bin_dir: &Path) -> Result<(), String> {
    for plugin in ["calico", "calico-ipam"] {
        let path = bin_dir.join(plugin);
        if !path.is_file() {
            return Err(format!("CNI plugin {} is missing", path.display()));
        }
    }
    Ok(())
}

fn check(output: &Output, verb: &'static str) -> Result<String, CniError> {
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let error: Value = serde_json::from_str(&stdout).unwrap_or_default();
    let message = match (error["msg"].as_str(), error["details"].as_str()) {
        (Some(msg), Some(details)) if !details.is_empty() => format!("{msg}: {details}"),
        (Some(msg), _) => msg.to_owned(),
        _ => {
            let stderr = String::from_utf8_lossy(&output.stderr);
            format!("{}: {}", output.status, stderr.trim().lines().last().unwrap_or("it said nothing"))
        }
    };
    Err(CniError::Refused { verb, message })
}

fn parse_result(stdout: &str) -> Result<Added, CniError> {
    let result: Value =
        serde_json::from_str(stdout).map_err(|e| CniError::Result(format!("{e} in {stdout:?}")))?;
    let mut addresses: Vec<IpAddr> = result["ips"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok())
        .collect();
    addresses.sort_by_key(IpAddr::is_ipv6);
    if addresses.is_empty() {
        return Err(CniError::Result(format!("no address in {stdout:?}")));
    }
    Ok(Added { addresses, result })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    fn node() -> CniNode {
        CniNode {
            node: "n1".into(),
            netns: "/run/netns/lab-n1".into(),
            felix_socket: "/run/ocicat-lab/lab/n1/felix.sock".into(),
            bin_dir: "/opt/bin".into(),
            family: Family::V4,
            log: "/dev/null".into(),
        }
    }

    fn sandbox() -> Sandbox {
        Sandbox {
            namespace: "x".into(),
            pod: "a".into(),
            uid: "u".into(),
            container_id: "c".into(),
            netns: "/run/netns/lab-x-a".into(),
        }
    }

    #[test]
    fn environment_is_containerds() {
        let environment = node().environment("ADD", &sandbox(), true);
        assert!(environment.contains(&("CNI_NETNS", "/run/netns/lab-x-a".into())));
        assert!(environment.contains(&(
            "CNI_ARGS",
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=x;K8S_POD_NAME=a;K8S_POD_INFRA_CONTAINER_ID=c;K8S_POD_UID=u".into()
        )));
        assert!(node().environment("DEL", &sandbox(), false).contains(&("CNI_NETNS", String::new())));
    }

    #[test]
    fn only_the_first_delete_carries_the_result() {
        assert_eq!(node().configuration(None).get("prevResult"), None);
        let prev = json!({"ips": []});
        assert_eq!(node().configuration(Some(&prev))["prevResult"], prev);
        assert_eq!(node().configuration(None)["ipam"]["assign_ipv6"], "false");
    }

    #[test]
    fn addresses_come_out_of_the_result_ipv4_first() {
        let added = parse_result(
            r#"{"cniVersion":"1.0.0","ips":[{"address":"fd00::1/128"},{"address":"10.65.0.1/32"}]}"#,
        )
        .unwrap();
        assert_eq!(added.addresses, ["10.65.0.1".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()]);
        assert!(parse_result("{}").is_err());
        assert!(parse_result("OK").is_err());
    }

    #[test]
    fn the_plugins_own_words_reach_the_user() {
        let output = Output {
            status: ExitStatus::from_raw(256),
            stdout: br#"{"cniVersion":"1.0.0","code":11,"msg":"felix is away","details":"retry"}"#.to_vec(),
            stderr: Vec::new(),
        };
        assert_eq!(
            check(&output, "add").unwrap_err().to_string(),
            "plugin type=\"calico\" failed (add): felix is away: retry"
        );
    }
}
