//! What a new cluster starts with.

use serde_json::{Value, json};

use crate::api::{Api, WriteOptions};

const NAMESPACES: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];

/// Creates what is missing: the namespaces, and the service by which pods reach the server.
pub(crate) fn bootstrap(api: &Api) -> anyhow::Result<()> {
    let options = WriteOptions::by("kube-apiserver");
    for name in NAMESPACES {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        ensure(api, "", namespace, &options)?;
    }
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}]},
    });
    ensure(api, "default", service, &options)
}

fn ensure(api: &Api, namespace: &str, value: Value, options: &WriteOptions) -> anyhow::Result<()> {
    let text = |field: &str| value[field].as_str().unwrap_or("");
    let Some(resource) = api.resource(text("apiVersion"), text("kind")) else { return Ok(()) };
    match api.create(&resource, namespace, value, options) {
        Ok(_) => Ok(()),
        Err(error) if error.reason == "AlreadyExists" => Ok(()),
        Err(error) => Err(error.into()),
    }
}
