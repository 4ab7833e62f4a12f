//! The lab's own client of the API server, embedded or external: plain REST calls with JSON bodies.
//! The watches are in `kubelet`; what to write is decided by the callers.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use http::{Method, Request};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};

use crate::names::{Family, TOR_AS, gateways, zone};

/// The pods' IPv6 pool.
pub const POD_CIDR_V6: &str = "fd00:10:65::/48";
const MERGE_PATCH: &str = "application/merge-patch+json";
const JSON: &str = "application/json";
/// How long a new CRD may take to be served.
const ESTABLISH: Duration = Duration::from_secs(120);

/// A connection to the API server.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
}

impl Cluster {
    /// Reads a kubeconfig and prepares a client; nothing is sent yet.
    pub async fn connect(kubeconfig: &Path) -> anyhow::Result<Self> {
        let file =
            Kubeconfig::read_from(kubeconfig).with_context(|| format!("read {}", kubeconfig.display()))?;
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        Ok(Self { client: Client::try_from(config)? })
    }

    /// The kube client, for watches.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Reads an object; `None` when there is none.
    pub async fn get(&self, path: &str) -> kube::Result<Option<Value>> {
        match self.send(Method::GET, path, JSON, None).await {
            Ok(value) => Ok(Some(value)),
            Err(e) if status_code(&e) == Some(404) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Creates an object in a collection; false when one of that name is there already.
    pub async fn create(&self, collection: &str, object: &Value) -> kube::Result<bool> {
        match self.send(Method::POST, collection, JSON, Some(object)).await {
            Ok(_) => Ok(true),
            Err(e) if status_code(&e) == Some(409) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Creates an account, a role, a binding or a map of settings, or makes one that is there equal.
    pub async fn apply(&self, object: &Value) -> anyhow::Result<()> {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or("");
        let (version, kind, name) = (text("/apiVersion"), text("/kind"), text("/metadata/name"));
        let root = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
        let scope = match text("/metadata/namespace") {
            "" => String::new(),
            namespace => format!("/namespaces/{namespace}"),
        };
        let collection = format!("{root}{scope}/{}s", kind.to_lowercase());
        let made = self.create(&collection, object).await.with_context(|| format!("create {kind} {name}"))?;
        if !made {
            let path = format!("{collection}/{name}");
            self.patch(&path, object).await.with_context(|| format!("update {kind} {name}"))?;
        }
        Ok(())
    }

    /// Merges `patch` into an object or, by a path that ends in `/status`, into its status.
    pub async fn patch(&self, path: &str, patch: &Value) -> kube::Result<()> {
        self.send(Method::PATCH, path, MERGE_PATCH, Some(patch)).await.map(|_| ())
    }

    /// Deletes an object at once; one that is not there, or is another by now, counts as deleted.
    pub async fn delete(&self, path: &str, uid: Option<&str>) -> kube::Result<()> {
        let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0});
        if let Some(uid) = uid {
            options["preconditions"] = json!({ "uid": uid });
        }
        match self.send(Method::DELETE, path, JSON, Some(&options)).await {
            Err(e) if !matches!(status_code(&e), Some(404 | 409)) => Err(e),
            _ => Ok(()),
        }
    }

    /// Asks a pod to end as `kubectl delete` does: with its grace period.
    pub async fn delete_gracefully(&self, path: &str) -> kube::Result<()> {
        match self.send(Method::DELETE, path, JSON, Some(&json!({}))).await {
            Err(e) if status_code(&e) != Some(404) => Err(e),
            _ => Ok(()),
        }
    }

    /// Whether the server answers at all.
    pub async fn is_healthy(&self) -> bool {
        let Ok(request) = Request::get("/readyz").body(Vec::new()) else { return false };
        self.client.request_text(request).await.is_ok()
    }

    /// Records an event about a pod; failures are of no consequence.
    pub async fn event(&self, pod: &PodRef<'_>, kind: &str, reason: &str, message: &str) {
        let now = timestamp();
        let object = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"generateName": format!("{}.", pod.name), "namespace": pod.namespace},
            "involvedObject": {"apiVersion": "v1", "kind": "Pod", "namespace": pod.namespace, "name": pod.name,
                "uid": pod.uid},
            "reason": reason, "message": message, "type": kind, "count": 1,
            "firstTimestamp": now, "lastTimestamp": now,
            "source": {"component": "lab"},
        });
        let path = format!("/api/v1/namespaces/{}/events", pod.namespace);
        if let Err(e) = self.create(&path, &object).await {
            tracing::debug!(error = %e, "event not recorded");
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        content: &str,
        body: Option<&Value>,
    ) -> kube::Result<Value> {
        let bytes =
            body.map_or_else(Vec::new, |b| serde_json::to_vec(b).expect("a JSON value can be written"));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content)
            .header("accept", JSON)
            .body(bytes)
            .map_err(kube::Error::HttpError)?;
        self.client.request(request).await
    }

    /// Creates or updates CRDs and waits until the server serves them.
    pub async fn apply_crds(&self, crds: &[Value]) -> anyhow::Result<()> {
        const PATH: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        let mut names = Vec::new();
        for crd in crds.iter().filter(|crd| crd["kind"] == "CustomResourceDefinition") {
            let name = crd["metadata"]["name"].as_str().context("a CRD has no name")?;
            if !self.create(PATH, crd).await.with_context(|| format!("create CRD {name}"))? {
                let patch = json!({"spec": crd["spec"]});
                self.patch(&format!("{PATH}/{name}"), &patch)
                    .await
                    .with_context(|| format!("update CRD {name}"))?;
            }
            names.push(name);
        }
        for name in names {
            self.wait_established(&format!("{PATH}/{name}")).await?;
        }
        Ok(())
    }

    async fn wait_established(&self, path: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + ESTABLISH;
        loop {
            let crd = self.get(path).await?.unwrap_or_default();
            let conditions = crd["status"]["conditions"].as_array().cloned().unwrap_or_default();
            if conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True") {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < deadline, "{path} is not Established after {ESTABLISH:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Creates the pools; what a user left there stays as it is.
    pub async fn create_pools(&self, family: Family, pod_cidr: &str, encap: &str) -> anyhow::Result<()> {
        for pool in pools(family, pod_cidr, encap) {
            let name = pool["metadata"]["name"].clone();
            self.create("/apis/projectcalico.org/v3/ippools", &pool)
                .await
                .with_context(|| format!("create IPPool {name}"))?;
        }
        Ok(())
    }

    /// Makes every node of a subnet peer with the router's addresses there.
    pub async fn create_tor_peers(&self, family: Family, subnets: u32) -> anyhow::Result<()> {
        for peer in tor_peers(family, subnets) {
            let name = peer["metadata"]["name"].clone();
            self.create("/apis/projectcalico.org/v3/bgppeers", &peer)
                .await
                .with_context(|| format!("create BGPPeer {name}"))?;
        }
        Ok(())
    }
}

/// Which pod an event is about.
#[derive(Debug, Clone, Copy)]
pub struct PodRef<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its uid.
    pub uid: &'a str,
}

/// The HTTP status of an API error.
pub fn status_code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// The present time as the API writes it.
pub fn timestamp() -> Value {
    let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::now());
    serde_json::to_value(now).unwrap_or_default()
}

fn pools(family: Family, pod_cidr: &str, encap: &str) -> Vec<Value> {
    let pool = |name: &str, cidr: &str, block: u8, ipip: &str| {
        json!({
            "apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": name},
            "spec": {"cidr": cidr, "ipipMode": ipip, "vxlanMode": "Never", "natOutgoing": true,
                "blockSize": block, "nodeSelector": "all()"},
        })
    };
    let mut all = Vec::new();
    if family.has_v4() {
        all.push(pool("default-ipv4-ippool", pod_cidr, 26, encap));
    }
    if family.has_v6() {
        // There is no IPIP for IPv6.
        all.push(pool("default-ipv6-ippool", POD_CIDR_V6, 122, "Never"));
    }
    all
}

fn tor_peers(family: Family, subnets: u32) -> Vec<Value> {
    let mut all = Vec::new();
    for subnet in 0..subnets {
        for address in gateways(subnet, family) {
            let suffix = if address.is_ipv6() && family.has_v4() { "-v6" } else { "" };
            all.push(json!({
                "apiVersion": "projectcalico.org/v3", "kind": "BGPPeer",
                "metadata": {"name": format!("tor-subnet-{subnet}{suffix}")},
                "spec": {"peerIP": address, "asNumber": TOR_AS,
                    "nodeSelector": format!("topology.kubernetes.io/zone == '{}'", zone(subnet))},
            }));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_family_has_its_pool_and_peers() {
        let names = |values: Vec<Value>| -> Vec<String> {
            values.iter().map(|v| v["metadata"]["name"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(
            names(pools(Family::Dual, "10.65.0.0/16", "Never")),
            ["default-ipv4-ippool", "default-ipv6-ippool"]
        );
        assert_eq!(names(tor_peers(Family::Dual, 1)), ["tor-subnet-0", "tor-subnet-0-v6"]);
        assert_eq!(names(tor_peers(Family::V6, 2)), ["tor-subnet-0", "tor-subnet-1"]);
    }

    #[test]
    fn a_peer_is_for_the_nodes_of_its_subnet() {
        let peers = tor_peers(Family::V4, 2);
        assert_eq!(
            peers[1]["spec"],
            json!({"peerIP": "172.20.1.1", "asNumber": 64513,
                "nodeSelector": "topology.kubernetes.io/zone == 'subnet-1'"})
        );
    }
}
