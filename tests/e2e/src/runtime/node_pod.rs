//! The containers of a node as the shipped manifest says them, run by podman out of the image: its user, capabilities,
//! read-only root, seccomp profile and paths of the node, as a kubelet would ask for them.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{Cluster, within};

/// The pod of one node of a lab that was brought up with the shipped manifest.
pub struct NodePod {
    /// `spec` of the pod.
    spec: Value,
    node: String,
    netns: String,
    /// What stands for the file system of the node.
    directory: PathBuf,
    account: PathBuf,
}

impl NodePod {
    /// `objects` are those of the manifest.
    pub fn new(cluster: &Cluster, node: &str, objects: &[Value]) -> Self {
        let is_it =
            |object: &&Value| object["kind"] == "DaemonSet" && object["metadata"]["name"] == "calico-node";
        let spec =
            objects.iter().find(is_it).expect("the manifest has calico-node")["spec"]["template"]["spec"]
                .clone();
        let account = spec["serviceAccountName"].as_str().unwrap_or_default();
        Self {
            node: node.to_owned(),
            netns: format!("/run/netns/{}-{node}", cluster.name()),
            directory: cluster.socket(node, ""),
            account: Path::new(cluster.kubeconfig()).with_file_name("serviceaccounts").join(account),
            spec,
        }
    }

    /// Names of the containers of a list of the pod, `initContainers` or `containers`.
    pub fn names(&self, list: &str) -> Vec<String> {
        let all = self.spec[list].as_array().into_iter().flatten();
        all.map(|container| text(&container["name"]).to_owned()).collect()
    }

    /// The words for `podman run` with which a container is as the manifest says: options, image, command.
    pub fn words(&self, name: &str, image: &str, environment: &[(String, String)]) -> Vec<String> {
        let container = self.container(name);
        let (of_pod, own) = (&self.spec["securityContext"], &container["securityContext"]);
        let mut words: Vec<String> = vec!["--network".into(), format!("ns:{}", self.netns)];
        let user = [own, of_pod].iter().find_map(|context| context["runAsUser"].as_u64());
        words.extend(user.map(|user| format!("--user={user}")));
        if own["readOnlyRootFilesystem"] == true {
            words.extend(["--read-only".into(), "--read-only-tmpfs=false".into()]);
        }
        if own["allowPrivilegeEscalation"] == false {
            words.push("--security-opt=no-new-privileges".into());
        }
        if of_pod["seccompProfile"]["type"] != "RuntimeDefault" {
            words.push("--security-opt=seccomp=unconfined".into());
        }
        for (option, list) in [("--cap-drop", "drop"), ("--cap-add", "add")] {
            let capabilities = own["capabilities"][list].as_array().into_iter().flatten();
            words.extend(capabilities.map(|capability| format!("{option}={}", text(capability))));
        }
        words.extend(environment.iter().map(|(name, value)| format!("--env={name}={value}")));
        words.extend(self.volumes(container));
        words.push(image.to_owned());
        let command =
            ["command", "args"].iter().flat_map(|list| container[*list].as_array().into_iter().flatten());
        words.extend(command.map(|word| text(word).to_owned()));
        words
    }

    /// The manifest's variables of a container with their references filled in, as the lab's own process has them, which
    /// must run, and where the API server is.
    pub fn environment(&self, cluster: &Cluster, name: &str) -> Vec<(String, String)> {
        let pid = || -> Option<u64> {
            let status: Value = serde_json::from_str(&cluster.lab_ok(&["status", "-o", "json"])).ok()?;
            let node = status["nodes"].as_array()?.iter().find(|of| of["name"] == self.node)?.clone();
            node["agents"].as_array()?.iter().find(|of| of["name"] == name)?["pid"].as_u64()
        };
        let pid = within(60, "the program runs", pid, Option::is_some).expect("it was waited for");
        let given = fs::read(format!("/proc/{pid}/environ")).expect("the program runs");
        let given = String::from_utf8_lossy(&given).into_owned();
        let variables = self.container(name)["env"].as_array().into_iter().flatten();
        let named: Vec<&str> = variables.map(|variable| text(&variable["name"])).collect();
        let pairs = given.split('\0').filter_map(|pair| pair.split_once('='));
        let wanted =
            pairs.filter(|(name, _)| named.contains(name) || name.starts_with("KUBERNETES_SERVICE_"));
        wanted.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    fn container(&self, name: &str) -> &Value {
        let lists = ["initContainers", "containers"].iter();
        let mut all = lists.flat_map(|list| self.spec[*list].as_array().into_iter().flatten());
        all.find(|container| container["name"] == name).expect("the pod has this container")
    }

    fn volumes(&self, container: &Value) -> Vec<String> {
        let place = |mount: &Value| {
            let volumes = self.spec["volumes"].as_array().into_iter().flatten();
            let volume = volumes.clone().find(|volume| volume["name"] == mount["name"]);
            self.on_machine(text(&volume.expect("a mount names a volume")["hostPath"]["path"]))
        };
        let mounts = container["volumeMounts"].as_array().into_iter().flatten();
        let mut words: Vec<String> = mounts
            .map(|mount| {
                let mode = if mount["readOnly"] == true { "ro" } else { "rw" };
                format!("--volume={}:{}:{mode}", place(mount).display(), text(&mount["mountPath"]))
            })
            .collect();
        let inside = "/var/run/secrets/kubernetes.io/serviceaccount";
        words.push(format!("--volume={}:{inside}:ro", self.account.display()));
        words
    }

    /// The lab's own places for paths of a node.
    fn on_machine(&self, path: &str) -> PathBuf {
        match path {
            "/var/run/calico" => self.directory.clone(),
            "/run/xtables.lock" => self.directory.join("xtables.lock"),
            path if path.starts_with("/proc/") => path.into(),
            path => self.directory.join("host").join(path.trim_start_matches('/')),
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
