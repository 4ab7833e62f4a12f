//! The HTTPS server of the webhook, and its registration.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use datastore::{CHECKED, Datastore};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use crate::credentials::Credentials;
use crate::metrics::{Metrics, Review};
use crate::review::{Verdict, response, review};

/// How the API server reaches the webhook.
#[derive(Clone, Debug)]
pub enum Endpoint {
    /// `https://host:port`.
    Url(String),
    /// The Service [`SERVICE`] of this namespace.
    Service { namespace: String },
}

/// Name of the Service, and of the registration.
pub const SERVICE: &str = "ocicat-controllers";
const PATH: &str = "/validate";
/// Connections that are served at once; others wait in the kernel's queue.
const CONNECTIONS: usize = 64;
/// How long one connection may take, and stay idle.
const PATIENCE: Duration = Duration::from_secs(30);
/// Objects are no larger in the API server's store, and a review holds two.
const MAX_BODY: usize = 8 << 20;
/// Between looks at Secret and registration, which somebody may have changed.
const LOOK: Duration = Duration::from_secs(60);
/// After a look that failed.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

impl Endpoint {
    /// Names that the serving certificate needs.
    fn names(&self) -> Vec<String> {
        match self {
            Endpoint::Url(url) => {
                let host = url.parse::<http::Uri>().ok().and_then(|url| url.host().map(str::to_owned));
                host.map(|host| host.trim_matches(['[', ']']).to_owned()).into_iter().collect()
            }
            Endpoint::Service { namespace } => {
                vec![format!("{SERVICE}.{namespace}.svc"), format!("{SERVICE}.{namespace}.svc.cluster.local")]
            }
        }
    }

    /// The one entry of the registration. What cannot be asked is ignored: a cluster works without us.
    fn registration(&self, ca: &str) -> Value {
        let bundle = datastore::base64(ca.as_bytes());
        let client = match self {
            Endpoint::Url(url) => {
                json!({"url": format!("{}{PATH}", url.trim_end_matches('/')), "caBundle": bundle})
            }
            Endpoint::Service { namespace } => json!({
                "service": {"namespace": namespace, "name": SERVICE, "path": PATH, "port": 443},
                "caBundle": bundle,
            }),
        };
        let rule = |operations: &[&str], resources: &[&str]| {
            json!({"operations": operations, "apiGroups": ["projectcalico.org"], "apiVersions": ["v3"],
                "resources": resources, "scope": "*"})
        };
        json!([{
            "name": "validate.projectcalico.org",
            "admissionReviewVersions": ["v1"],
            "clientConfig": client,
            "failurePolicy": "Ignore",
            "matchPolicy": "Equivalent",
            "rules": [rule(&["CREATE", "UPDATE"], &CHECKED), rule(&["DELETE"], &["tiers"])],
            "sideEffects": "None",
            "timeoutSeconds": 5,
        }])
    }
}

/// Serves and stays registered; never ends. `registered` hears when it is for the first time.
pub async fn run(
    datastore: Datastore,
    namespace: String,
    endpoint: Endpoint,
    listener: TcpListener,
    metrics: Arc<Metrics>,
    registered: watch::Sender<bool>,
) {
    let (tls, current) = watch::channel(None);
    tokio::spawn(serve(listener, current, datastore.clone(), metrics));
    let mut known: Option<Credentials> = None;
    loop {
        let look = stay_registered(&datastore, &namespace, &endpoint, &mut known, &tls).await;
        if look.is_ok() {
            registered.send_replace(true);
        }
        if let Err(error) = &look {
            tracing::warn!(error = format!("{error:#}"), "the webhook is not registered, it is tried again");
        }
        tokio::time::sleep(if look.is_ok() { LOOK } else { LOOK_AGAIN }).await;
    }
}

async fn stay_registered(
    datastore: &Datastore,
    namespace: &str,
    endpoint: &Endpoint,
    known: &mut Option<Credentials>,
    tls: &watch::Sender<Option<TlsAcceptor>>,
) -> anyhow::Result<()> {
    let credentials = Credentials::load_or_create(datastore, namespace, &endpoint.names()).await?;
    if known.as_ref() != Some(&credentials) {
        tls.send_replace(Some(TlsAcceptor::from(credentials.server_config()?)));
        tracing::info!(?endpoint, "the webhook serves");
    }
    datastore.register_webhook(SERVICE, &endpoint.registration(&credentials.ca)).await?;
    *known = Some(credentials);
    Ok(())
}

async fn serve(
    listener: TcpListener,
    tls: watch::Receiver<Option<TlsAcceptor>>,
    datastore: Datastore,
    metrics: Arc<Metrics>,
) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let permit = permits.clone().acquire_owned().await.expect("the semaphore is never closed");
        let Ok((stream, _)) = listener.accept().await else { continue };
        let Some(tls) = tls.borrow().clone() else { continue };
        let (datastore, metrics) = (datastore.clone(), metrics.clone());
        tokio::spawn(async move {
            _ = tokio::time::timeout(PATIENCE, connection(stream, tls, datastore, metrics)).await;
            drop(permit);
        });
    }
}

async fn connection(stream: TcpStream, tls: TlsAcceptor, datastore: Datastore, metrics: Arc<Metrics>) {
    let stream = match tls.accept(stream).await {
        Ok(stream) => stream,
        Err(error) => return tracing::debug!(%error, "TLS handshake failed"),
    };
    let answer = service_fn(move |request| {
        let (datastore, metrics) = (datastore.clone(), metrics.clone());
        async move { Ok::<_, Infallible>(answer(request, &datastore, &metrics).await) }
    });
    let served =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
    if let Err(error) = served {
        tracing::debug!(%error, "connection ended");
    }
}

async fn answer(
    request: Request<Incoming>,
    datastore: &Datastore,
    metrics: &Metrics,
) -> Response<Full<Bytes>> {
    if request.uri().path() != PATH {
        return text(StatusCode::NOT_FOUND, format!("there is nothing here but {PATH}\n"));
    }
    let Ok(body) = Limited::new(request.into_body(), MAX_BODY).collect().await else {
        return text(StatusCode::PAYLOAD_TOO_LARGE, "the review is too large or incomplete\n".to_owned());
    };
    let Ok(asked) = serde_json::from_slice::<Value>(&body.to_bytes()) else {
        return text(StatusCode::BAD_REQUEST, "this is not an AdmissionReview\n".to_owned());
    };
    let outcome = |outcome| metrics.reviews.get_or_create(&Review { outcome }).inc();
    match review(datastore, &asked["request"]).await {
        Ok(verdict) => {
            outcome(if matches!(verdict, Verdict::Allowed(_)) { "allowed" } else { "refused" });
            let mut sent = text(StatusCode::OK, response(&asked["request"], &verdict).to_string());
            sent.headers_mut()
                .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
            sent
        }
        Err(error) => {
            outcome("failed");
            tracing::warn!(%error, "a review failed");
            text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"))
        }
    }
}

fn text(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
}
