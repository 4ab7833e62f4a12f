//! Probes and metrics by plain HTTP.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::metrics::Metrics;

/// Connections that are served at once; others wait in the kernel's queue.
const CONNECTIONS: usize = 32;
/// How long one connection may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Answers for ever. Whoever answers lives; ready it is once `ready` says so.
pub async fn serve(listener: TcpListener, metrics: Arc<Metrics>, ready: watch::Receiver<bool>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let permit = permits.clone().acquire_owned().await.expect("the semaphore is never closed");
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (metrics, ready) = (metrics.clone(), ready.clone());
        tokio::spawn(async move {
            let answer = service_fn(move |request| {
                let (metrics, is_ready) = (metrics.clone(), *ready.borrow());
                async move { Ok::<_, Infallible>(answer(&request, &metrics, is_ready)) }
            });
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
            _ = tokio::time::timeout(PATIENCE, connection).await;
            drop(permit);
        });
    }
}

fn answer(request: &Request<Incoming>, metrics: &Metrics, is_ready: bool) -> Response<Full<Bytes>> {
    let (status, text) = match request.uri().path() {
        "/readiness" if !is_ready => {
            (StatusCode::SERVICE_UNAVAILABLE, "the webhook is not registered yet\n".to_owned())
        }
        "/liveness" | "/readiness" => (StatusCode::OK, "ok\n".to_owned()),
        "/metrics" => (StatusCode::OK, metrics.scrape()),
        _ => (
            StatusCode::NOT_FOUND,
            "there is nothing here but /liveness, /readiness and /metrics\n".to_owned(),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
}
