//! Probes and metrics by plain HTTP.

use std::sync::Arc;

use probes::{Response, Status};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::metrics::Metrics;

/// Answers for ever. Whoever answers lives; ready it is once `ready` says so.
pub async fn serve(listener: TcpListener, metrics: Arc<Metrics>, ready: watch::Receiver<bool>) {
    probes::serve(listener, move |path: &str| match path {
        "/readiness" if !*ready.borrow() => {
            Response::text(Status::ServiceUnavailable, "the webhook is not registered yet\n")
        }
        "/liveness" | "/readiness" => Response::text(Status::Ok, "ok\n"),
        "/metrics" => metrics.scrape(),
        _ => {
            Response::text(Status::NotFound, "there is nothing here but /liveness, /readiness and /metrics\n")
        }
    })
    .await;
}
