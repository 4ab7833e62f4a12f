//! Validating admission webhooks: which are concerned by a write, and what they say to it.
//!
//! Webhooks are called at their URL; one that is named as a Service cannot be reached from here and counts as
//! failed. Selectors and match conditions are not looked at.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use base64::Engine;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::api::Api;
use crate::object::meta_str;
use crate::registry::Resource;
use crate::status::ApiError;

/// What a write does, as rules of webhooks call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        }
    }
}

/// A write that webhooks are to judge.
pub(crate) struct Attempt<'a> {
    pub(crate) resource: &'a Resource,
    pub(crate) operation: Operation,
    /// As it will be stored.
    pub(crate) object: Option<Value>,
    pub(crate) old: Option<Value>,
    pub(crate) dry_run: bool,
}

/// The webhooks whose rules match.
pub(crate) fn concerned(api: &Api, resource: &Resource, operation: Operation) -> Vec<Value> {
    let Some(of) = api.resource("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration") else {
        return Vec::new();
    };
    let (configurations, _) = api.store.list(&of.collection(), None);
    let all = configurations.iter().flat_map(|object| list(object.value(), "webhooks").to_vec());
    all.filter(|webhook| list(webhook, "rules").iter().any(|rule| matches(rule, resource, operation)))
        .collect()
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn matches(rule: &Value, resource: &Resource, operation: Operation) -> bool {
    let has = |field: &str, wanted: &str| list(rule, field).iter().any(|v| v == "*" || v == wanted);
    has("operations", operation.as_str())
        && has("apiGroups", &resource.group)
        && has("apiVersions", &resource.version)
        && has("resources", &resource.plural)
}

/// Asks all of them, one after the other. Returns their warnings.
pub(crate) async fn admit(webhooks: &[Value], attempt: &Attempt<'_>) -> Result<Vec<String>, ApiError> {
    let mut warnings = Vec::new();
    for webhook in webhooks {
        let name = webhook["name"].as_str().unwrap_or_default();
        match ask(webhook, attempt).await {
            Ok(response) => {
                let said = list(&response, "warnings").iter();
                warnings.extend(said.filter_map(|text| text.as_str().map(str::to_owned)));
                if response["allowed"] != json!(true) {
                    return Err(denied(name, attempt, &response["status"]));
                }
            }
            Err(error) if webhook["failurePolicy"] == "Ignore" => {
                tracing::warn!(webhook = name, error = format!("{error:#}"), "webhook failed, ignored");
            }
            Err(error) => {
                let why = format!("failed calling webhook {name:?}: {error:#}");
                return Err(ApiError::internal(format!("Internal error occurred: {why}")));
            }
        }
    }
    Ok(warnings)
}

fn denied(webhook: &str, attempt: &Attempt<'_>, status: &Value) -> ApiError {
    let message = status["message"].as_str().unwrap_or("no reason given");
    let object = attempt.object.as_ref().or(attempt.old.as_ref());
    let name = object.map(|object| meta_str(object, "name")).unwrap_or_default();
    let why = format!("admission webhook {webhook:?} denied the request: {message}");
    let mut error = ApiError::forbidden(&attempt.resource.group, &attempt.resource.plural, name, &why);
    error.message = why;
    error
}

async fn ask(webhook: &Value, attempt: &Attempt<'_>) -> anyhow::Result<Value> {
    let seconds = webhook["timeoutSeconds"].as_u64().unwrap_or(10).clamp(1, 30);
    let call = call(&webhook["clientConfig"], review(attempt));
    let answer = tokio::time::timeout(Duration::from_secs(seconds), call).await.context("timed out")??;
    Ok(answer["response"].clone())
}

fn review(attempt: &Attempt<'_>) -> Value {
    let resource = attempt.resource;
    let kind = json!({"group": resource.group, "version": resource.version, "kind": resource.kind});
    let plural = json!({"group": resource.group, "version": resource.version, "resource": resource.plural});
    let object = attempt.object.as_ref().or(attempt.old.as_ref());
    let meta = |field| object.map(|object| meta_str(object, field)).unwrap_or_default();
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": crate::clock::uid(), "kind": kind, "resource": plural,
            "requestKind": kind, "requestResource": plural,
            "name": meta("name"), "namespace": meta("namespace"),
            "operation": attempt.operation.as_str(), "userInfo": {"username": "kubernetes-admin"},
            "object": attempt.object, "oldObject": attempt.old, "dryRun": attempt.dry_run,
        },
    })
}

/// One POST over a connection of its own.
async fn call(client: &Value, body: Value) -> anyhow::Result<Value> {
    let url: http::Uri = client["url"].as_str().context("it has no URL")?.parse().context("read its URL")?;
    let host = url.host().context("its URL has no host")?.trim_matches(['[', ']']).to_owned();
    let stream = TcpStream::connect((host.as_str(), url.port_u16().unwrap_or(443)))
        .await
        .with_context(|| format!("connect to {url}"))?;
    let name = ServerName::try_from(host.clone()).context("the host of its URL")?;
    let mut stream = connector(client)?.connect(name, stream).await.context("TLS handshake")?;
    let body = body.to_string();
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    let mut answer = Vec::new();
    // One that closes without a farewell has said all the same.
    let read = stream.take(MAX_ANSWER).read_to_end(&mut answer).await;
    let text = String::from_utf8_lossy(&answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        read?;
        bail!("it gave no answer");
    };
    if !head.starts_with("HTTP/1.1 200") {
        bail!("it answered {}", head.lines().next().unwrap_or_default());
    }
    serde_json::from_str(body).context("read its answer")
}

const MAX_ANSWER: u64 = 1 << 20;

fn connector(client: &Value) -> anyhow::Result<TlsConnector> {
    let bundle = client["caBundle"].as_str().unwrap_or_default();
    let pem = base64::engine::general_purpose::STANDARD.decode(bundle).context("decode its caBundle")?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        roots.add(certificate.context("read its caBundle")?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
