//! The processes of a node, made from the shipped manifest: programs, arguments, environment, capabilities, paths of the
//! node, service account. Who supervises them is `agents`' business, what kubelets do else is `node`'s.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::agents::AgentSpec;
use crate::container::{self, Confinement};
use crate::manifest::{Container, Manifest};
use crate::names::{API_PORT, Family, LabName, api_addresses, netns_path};
use crate::options::LabOptions;

/// The DaemonSet that every node runs, and the namespace of its objects.
const DAEMON_SET: &str = "calico-node";
/// Where all that is ours is.
pub const NAMESPACE: &str = "kube-system";
/// Where a pod finds its account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Variables with these beginnings that the lab itself was started with win over the manifest's.
const OURS: [&str; 4] = ["FELIX_", "CALICO_", "OCICAT_", "BIRD_LITE_"];

/// What all nodes' processes have in common.
#[derive(Debug)]
pub struct PodMaker {
    manifest: Manifest,
    bin_dir: PathBuf,
    family: Family,
    /// What this lab wants otherwise than the manifest.
    variables: Vec<(String, String)>,
    /// Processes use their service account; with an API server elsewhere, the lab's kubeconfig.
    has_accounts: bool,
}

impl PodMaker {
    /// For a lab with these options.
    pub fn new(manifest: Manifest, options: &LabOptions) -> Self {
        Self {
            manifest,
            bin_dir: options.bin_dir.clone(),
            family: options.family,
            variables: variables(options),
            has_accounts: options.external.is_none(),
        }
    }

    /// Runs the init containers of a node and says how to run the others.
    ///
    /// # Errors
    /// The manifest is not understood, or an init container fails.
    pub async fn prepare(&self, lab: &LabName, node: &str) -> anyhow::Result<Vec<AgentSpec>> {
        let addresses = [("spec.nodeName", node), ("metadata.namespace", NAMESPACE)];
        let pod = self.manifest.pod(DAEMON_SET, &addresses)?;
        for container in &pod.init {
            let spec = self.spec(lab, node, &pod.account, container)?;
            let status = spec.spawn().await.with_context(|| format!("start {}", spec.name))?.wait().await?;
            anyhow::ensure!(
                status.success(),
                "{} of {node}: {status}, see {}",
                spec.name,
                spec.log.display()
            );
        }
        pod.containers.iter().map(|container| self.spec(lab, node, &pod.account, container)).collect()
    }

    fn spec(
        &self,
        lab: &LabName,
        node: &str,
        account: &str,
        container: &Container,
    ) -> anyhow::Result<AgentSpec> {
        let name = &container.name;
        let directory = lab.state_dir().join(node);
        let program = Path::new(&container.command[0]).file_name().context("a command is a directory")?;
        let mut command = vec![self.bin_dir.join(program).display().to_string()];
        command.extend_from_slice(&container.command[1..]);
        let mut environment = self.environment(container);
        let mut mounts = Vec::new();
        for mount in &container.mounts {
            mounts.push((on_machine(&directory, &mount.host)?, (&mount.inside).into(), mount.read_only));
        }
        if self.has_accounts {
            mounts.push((lab.account_dir(account), ACCOUNT.into(), true));
        } else {
            let kubeconfig = lab.node_kubeconfig();
            environment.push(("KUBECONFIG".to_owned(), kubeconfig.display().to_string()));
            mounts.push((kubeconfig.clone(), kubeconfig, true));
        }
        let capabilities = container.capabilities.iter().map(|capability| {
            container::capability(capability).with_context(|| format!("{name}: capability {capability}"))
        });
        let root = directory.join("root").join(name);
        fs::create_dir_all(&root).with_context(|| format!("make {}", root.display()))?;
        Ok(AgentSpec {
            name: name.clone(),
            command,
            environment,
            netns: netns_path(&lab.netns(node)),
            log: directory.join(format!("{name}.log")),
            readiness: container.readiness.as_ref().map(|(port, _)| (Ipv4Addr::LOCALHOST, *port).into()),
            confinement: Some(Confinement {
                root,
                mounts,
                user: container.user,
                capabilities: capabilities.collect::<anyhow::Result<_>>()?,
            }),
        })
    }

    fn environment(&self, container: &Container) -> Vec<(String, String)> {
        let is_given =
            |name: &str| OURS.iter().any(|ours| name.starts_with(ours)) && std::env::var_os(name).is_some();
        let wanted = |name: &String| self.variables.iter().find(|(of, _)| of == name).map(|(_, v)| v.clone());
        let of_manifest = container.environment.iter().filter(|(name, _)| !is_given(name));
        let mut all: Vec<(String, String)> = of_manifest
            .map(|(name, value)| (name.clone(), wanted(name).unwrap_or_else(|| value.clone())))
            .collect();
        let server = SocketAddr::new(api_addresses(self.family)[0], API_PORT);
        all.push(("KUBERNETES_SERVICE_HOST".to_owned(), server.ip().to_string()));
        all.push(("KUBERNETES_SERVICE_PORT".to_owned(), server.port().to_string()));
        all
    }
}

/// What differs with the lab's families and pools, as an overlay says it.
fn variables(options: &LabOptions) -> Vec<(String, String)> {
    let detect = |is_there: bool| if is_there { "autodetect" } else { "none" };
    let family = options.family;
    [
        ("IP", detect(family.has_v4())),
        ("IP6", detect(family.has_v6())),
        ("CALICO_IPV4POOL_CIDR", if family.has_v4() { &options.pod_cidr } else { "none" }),
        ("CALICO_IPV4POOL_IPIP", options.encap.as_str()),
        ("CALICO_IPV6POOL_CIDR", if family.has_v6() { crate::cluster::POD_CIDR_V6 } else { "none" }),
        ("CALICO_IPV6POOL_NAT_OUTGOING", "true"),
        ("FELIX_IPV6SUPPORT", if family.has_v6() { "true" } else { "false" }),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// What stands for a path of the node: the node's own directory, but for the kernel's.
fn on_machine(directory: &Path, path: &str) -> anyhow::Result<PathBuf> {
    let place = match path {
        "/var/run/calico" => directory.to_owned(),
        "/run/xtables.lock" => {
            let lock = directory.join("xtables.lock");
            fs::OpenOptions::new().append(true).create(true).open(&lock)?;
            lock
        }
        path if path.starts_with("/proc/") || path.starts_with("/sys/") => PathBuf::from(path),
        path => directory.join("host").join(path.trim_start_matches('/')),
    };
    if !place.exists() {
        fs::create_dir_all(&place).with_context(|| format!("make {}", place.display()))?;
    }
    Ok(place)
}
