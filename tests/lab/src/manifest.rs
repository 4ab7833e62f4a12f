//! What the shipped manifest says of a node's pod: programs, environment, probes, capabilities, volumes, account.
//! Pure: nothing here looks at the machine or at a cluster.

use anyhow::Context;
use serde_json::Value;

/// The manifest that people apply.
const SHIPPED: &str = include_str!("../../../manifests/ocicat.yaml");

/// Who a container is unless the manifest says otherwise: `USER` of images/Containerfile.
const IMAGE_USER: u64 = 65532;
/// Kinds that a lab creates; the others describe pods, which it runs by itself.
const APPLIED: [&str; 6] =
    ["ConfigMap", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"];

/// A manifest, read.
#[derive(Debug, Clone)]
pub struct Manifest {
    objects: Vec<Value>,
}

/// A pod's containers and what they share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its service account.
    pub account: String,
    /// Run to their ends, one after the other, before the others start.
    pub init: Vec<Container>,
    /// Run until the pod ends.
    pub containers: Vec<Container>,
}

/// One container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Variables with the fields and keys that they are taken from filled in.
    pub environment: Vec<(String, String)>,
    /// Number of the user that it runs as: the container's, else the pod's, else the image's.
    pub user: u32,
    /// What it may do, such as `NET_ADMIN`; only root has any.
    pub capabilities: Vec<String>,
    /// Directories and files of the node.
    pub mounts: Vec<Mount>,
    /// Port and path of the readiness probe.
    pub readiness: Option<(u16, String)>,
}

/// A path of the node inside of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// On the node.
    pub host: String,
    /// In the container.
    pub inside: String,
    /// Whether the container only reads.
    pub read_only: bool,
}

impl Manifest {
    /// Reads a manifest; the shipped one unless given.
    ///
    /// # Errors
    /// It is no YAML.
    pub fn read(text: Option<&str>) -> anyhow::Result<Self> {
        let objects: Vec<Value> =
            serde_saphyr::from_multiple(text.unwrap_or(SHIPPED)).context("read the manifest's YAML")?;
        Ok(Self { objects: objects.into_iter().filter(|object| !object.is_null()).collect() })
    }

    /// The definitions of custom resources.
    pub fn definitions(&self) -> impl Iterator<Item = &Value> {
        self.objects.iter().filter(|object| object["kind"] == "CustomResourceDefinition")
    }

    /// Accounts, roles and settings.
    pub fn applied(&self) -> impl Iterator<Item = &Value> {
        self.objects.iter().filter(|object| APPLIED.iter().any(|kind| object["kind"] == *kind))
    }

    /// The pod of a DaemonSet or Deployment on a node; `fields` are such as `spec.nodeName`.
    ///
    /// # Errors
    /// It is not there, or something in it is not understood.
    pub fn pod(&self, name: &str, fields: &[(&str, &str)]) -> anyhow::Result<Pod> {
        let is_it = |object: &&Value| {
            matches!(object["kind"].as_str(), Some("DaemonSet" | "Deployment"))
                && object["metadata"]["name"] == name
        };
        let object =
            self.objects.iter().find(is_it).with_context(|| format!("the manifest has no {name}"))?;
        let spec = &object["spec"]["template"]["spec"];
        let containers = |list: &str| -> anyhow::Result<Vec<Container>> {
            let all = spec[list].as_array().into_iter().flatten();
            all.map(|container| self.container(spec, container, fields)).collect()
        };
        Ok(Pod {
            account: spec["serviceAccountName"].as_str().unwrap_or("default").to_owned(),
            init: containers("initContainers")?,
            containers: containers("containers")?,
        })
    }

    fn container(
        &self,
        spec: &Value,
        container: &Value,
        fields: &[(&str, &str)],
    ) -> anyhow::Result<Container> {
        let name = text(&container["name"]);
        anyhow::ensure!(
            container["securityContext"]["privileged"] != true,
            "{name} is privileged, which nothing needs to be"
        );
        let words = |list: &str| container[list].as_array().cloned().unwrap_or_default();
        let command: Vec<String> = words("command").iter().chain(&words("args")).map(text).collect();
        anyhow::ensure!(!command.is_empty(), "{name} has no command");
        let mut environment = Vec::new();
        for variable in words("env") {
            if let Some(value) = self.variable(&variable, fields)? {
                environment.push((text(&variable["name"]), value));
            }
        }
        let users = [container, spec].map(|of| of["securityContext"]["runAsUser"].as_u64());
        let user = users.into_iter().flatten().next().unwrap_or(IMAGE_USER);
        let probe = &container["readinessProbe"]["httpGet"];
        let port = probe["port"].as_u64().and_then(|port| u16::try_from(port).ok());
        Ok(Container {
            name,
            command,
            environment,
            user: u32::try_from(user).with_context(|| format!("user {user}"))?,
            capabilities: texts(&container["securityContext"]["capabilities"]["add"]),
            mounts: mounts(spec, container)?,
            readiness: port.map(|port| (port, text(&probe["path"]))),
        })
    }

    /// `None` is an optional key that is not there.
    fn variable(&self, variable: &Value, fields: &[(&str, &str)]) -> anyhow::Result<Option<String>> {
        let from = &variable["valueFrom"];
        if let Some(path) = from["fieldRef"]["fieldPath"].as_str() {
            let found = fields.iter().find(|(field, _)| *field == path);
            let (_, value) = found.with_context(|| format!("{}: no field {path}", variable["name"]))?;
            return Ok(Some((*value).to_owned()));
        }
        if let Some(key) = from["configMapKeyRef"]["key"].as_str() {
            let source = &from["configMapKeyRef"];
            let map = self
                .objects
                .iter()
                .find(|object| object["kind"] == "ConfigMap" && object["metadata"]["name"] == source["name"]);
            let value = map.and_then(|map| map["data"][key].as_str());
            anyhow::ensure!(
                value.is_some() || source["optional"] == true,
                "{}: no key {key} in ConfigMap {}",
                variable["name"],
                source["name"]
            );
            return Ok(value.map(str::to_owned));
        }
        Ok(Some(text(&variable["value"])))
    }
}

fn mounts(spec: &Value, container: &Value) -> anyhow::Result<Vec<Mount>> {
    let volumes = spec["volumes"].as_array().cloned().unwrap_or_default();
    let mounts = container["volumeMounts"].as_array().into_iter().flatten();
    mounts
        .map(|mount| {
            let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]);
            let host = volume.and_then(|volume| volume["hostPath"]["path"].as_str());
            Ok(Mount {
                host: host.with_context(|| format!("{} is no path of the node", mount["name"]))?.to_owned(),
                inside: text(&mount["mountPath"]),
                read_only: mount["readOnly"] == true,
            })
        })
        .collect()
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().map(text).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &[(&str, &str)] = &[("spec.nodeName", "n1"), ("metadata.namespace", "kube-system")];

    #[test]
    fn the_shipped_pod_of_a_node_is_understood() {
        let pod = Manifest::read(None).unwrap().pod("calico-node", NODE).unwrap();

        assert_eq!(pod.account, "calico-node");
        let names: Vec<&str> = pod.containers.iter().map(|container| container.name.as_str()).collect();
        assert_eq!(names, ["felix", "bird-lite", "cni-configuration"]);
        assert_eq!(pod.init[0].command[1..], ["install", "--binaries-only"]);
        let felix = &pod.containers[0];
        assert!(felix.environment.contains(&("NODENAME".into(), "n1".into())));
        assert!(felix.environment.contains(&("FELIX_TYPHAK8SSERVICENAME".into(), "none".into())));
        assert_eq!(felix.readiness, Some((9099, "/readiness".into())));
        assert!(felix.mounts.iter().any(|mount| mount.inside == "/host/proc/sys/net"));
        assert!(pod.init.iter().chain(&pod.containers).all(|container| container.user == 0));
    }

    #[test]
    fn who_a_container_is_is_said_by_itself_then_by_its_pod_then_by_the_image() {
        let user = |pod: &str, container: &str| {
            let container = format!("{{name: c, command: [x], securityContext: {container}}}");
            let pod = format!("{{securityContext: {pod}, containers: [{container}]}}");
            let text = format!("kind: DaemonSet\nmetadata: {{name: x}}\nspec: {{template: {{spec: {pod}}}}}");
            Manifest::read(Some(&text)).unwrap().pod("x", NODE).unwrap().containers[0].user
        };

        assert_eq!(user("{runAsUser: 0}", "{runAsUser: 7}"), 7);
        assert_eq!(user("{runAsUser: 0}", "{}"), 0);
        assert_eq!(user("{}", "{}"), 65532);
        let containerfile = include_str!("../../../images/Containerfile");
        assert!(containerfile.contains("\nUSER 65532:"), "{containerfile}");
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let manifest = |container: &str| {
            let text = format!(
                "kind: DaemonSet\nmetadata: {{name: x}}\nspec: {{template: {{spec: {{containers: [{container}]}}}}}}"
            );
            Manifest::read(Some(&text)).unwrap().pod("x", NODE).map_err(|error| error.to_string())
        };
        for (container, named) in [
            ("{name: c, command: [x], securityContext: {privileged: true}}", "privileged"),
            ("{name: c}", "no command"),
            ("{name: c, command: [x], env: [{name: A, valueFrom: {fieldRef: {fieldPath: a.b}}}]}", "a.b"),
            ("{name: c, command: [x], volumeMounts: [{name: v, mountPath: /v}]}", "no path of the node"),
        ] {
            let error = manifest(container).unwrap_err();
            assert!(error.contains(named), "{container}: {error}");
        }
    }
}
