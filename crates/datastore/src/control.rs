//! What cluster-wide controllers need besides: credentials in a Secret, the registration of a webhook, and a
//! Lease by which one of several leads.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::client::Datastore;
use crate::{Error, Result};

/// Who holds a Lease, as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseState {
    pub holder: String,
    /// When it was renewed last, as the holder wrote it. Only whether it changes means anything: clocks differ.
    pub renewed: String,
    revision: Option<String>,
}

impl Datastore {
    /// Content of a Secret; `None` when there is none.
    ///
    /// # Errors
    /// When the API server cannot be reached or refuses.
    pub async fn secret_data(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<BTreeMap<String, Vec<u8>>>> {
        let api: Api<Secret> = Api::namespaced(self.client(), namespace);
        let found = self.bounded(|| format!("Secret {namespace}/{name}"), api.get_opt(name)).await?;
        Ok(found.map(|secret| secret.data.into_iter().flatten().map(|(key, value)| (key, value.0)).collect()))
    }

    /// Makes a Secret, or replaces the content of one.
    ///
    /// # Errors
    /// When the API server cannot be reached or refuses.
    pub async fn write_secret(
        &self,
        namespace: &str,
        name: &str,
        data: &BTreeMap<String, Vec<u8>>,
    ) -> Result<()> {
        let api: Api<Secret> = Api::namespaced(self.client(), namespace);
        let data: BTreeMap<&String, ByteString> =
            data.iter().map(|(key, value)| (key, ByteString(value.clone()))).collect();
        let patch = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": {"name": name, "namespace": namespace}, "data": data,
        });
        self.bounded(
            || format!("Secret {namespace}/{name}"),
            api.patch(name, &PatchParams::apply("controllers").force(), &Patch::Apply(patch)),
        )
        .await
        .map(drop)
    }

    /// Registers a validating webhook: `webhooks` as `ValidatingWebhookConfiguration` spells them.
    ///
    /// # Errors
    /// When the API server cannot be reached or refuses.
    pub async fn register_webhook(&self, name: &str, webhooks: &Value) -> Result<()> {
        let api: Api<ValidatingWebhookConfiguration> = Api::all(self.client());
        let patch = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": name}, "webhooks": webhooks,
        });
        self.bounded(
            || format!("ValidatingWebhookConfiguration {name}"),
            api.patch(name, &PatchParams::apply("controllers").force(), &Patch::Apply(patch)),
        )
        .await
        .map(drop)
    }

    /// Who holds a Lease; `None` when there is none.
    ///
    /// # Errors
    /// When the API server cannot be reached or refuses.
    pub async fn lease(&self, namespace: &str, name: &str) -> Result<Option<LeaseState>> {
        let api: Api<Lease> = Api::namespaced(self.client(), namespace);
        let found = self.bounded(|| format!("Lease {namespace}/{name}"), api.get_opt(name)).await?;
        Ok(found.map(|lease| {
            let spec = lease.spec.unwrap_or_default();
            LeaseState {
                holder: spec.holder_identity.unwrap_or_default(),
                renewed: spec.renew_time.map(|at| at.0.to_string()).unwrap_or_default(),
                revision: lease.metadata.resource_version,
            }
        }))
    }

    /// Takes or renews a Lease as `holder`, unless somebody changed it since `seen`. `now` is an RFC 3339 time
    /// with microseconds. Is it ours now?
    ///
    /// # Errors
    /// When the API server cannot be reached or refuses.
    pub async fn take_lease(
        &self,
        (namespace, name): (&str, &str),
        seen: Option<&LeaseState>,
        holder: &str,
        (now, seconds): (&str, i32),
    ) -> Result<bool> {
        let api: Api<Lease> = Api::namespaced(self.client(), namespace);
        let object = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {
                "name": name, "namespace": namespace,
                "resourceVersion": seen.and_then(|seen| seen.revision.clone()),
            },
            "spec": {"holderIdentity": holder, "leaseDurationSeconds": seconds, "renewTime": now},
        });
        let what = || format!("Lease {namespace}/{name}");
        let lease: Lease = serde_json::from_value(object)
            .map_err(|error| Error::of(what, kube::Error::SerdeError(error)))?;
        let parameters = PostParams::default();
        let written = match seen {
            None => self.bounded(what, api.create(&parameters, &lease)).await,
            Some(_) => self.bounded(what, api.replace(name, &parameters, &lease)).await,
        };
        match written {
            Ok(_) => Ok(true),
            Err(Error::Conflict { .. } | Error::AlreadyExists { .. } | Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Now as RFC 3339 with microseconds, in UTC.
pub fn timestamp() -> String {
    let now = k8s_openapi::jiff::Timestamp::now();
    format!("{now:.6}")
}

/// Bytes as the API spells them, such as the `caBundle` of a webhook.
pub fn base64(bytes: &[u8]) -> String {
    let value = serde_json::to_value(ByteString(bytes.to_vec())).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}
