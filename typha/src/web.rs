//! Probes and metrics by plain HTTP.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::{Duration, Instant};

use probes::{Response, Status};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::hub::Hub;

/// The machine is told the time every second; without it for so long, something is stuck.
const STUCK: Duration = Duration::from_secs(60);

/// Answers for ever. Ready as soon as every kind was listed, until `stopped`.
pub async fn serve(listener: TcpListener, hub: Arc<Hub>, stopped: watch::Receiver<bool>) {
    probes::serve(listener, move |path: &str| match path {
        "/liveness" if hub.stalled() > STUCK => unavailable("time stands still"),
        "/liveness" => Response::text(Status::Ok, "ok\n"),
        "/readiness" => readiness(&hub, *stopped.borrow()),
        "/metrics" => Response::metrics(&registry(&hub)),
        _ => {
            Response::text(Status::NotFound, "there is nothing here but /liveness, /readiness and /metrics\n")
        }
    })
    .await;
}

fn readiness(hub: &Hub, stopped: bool) -> Response {
    let unlisted = hub.look(fanout::Server::unlisted);
    if stopped {
        return unavailable("stopping");
    }
    match unlisted.is_empty() {
        true => Response::text(Status::Ok, "ok\n"),
        false => unavailable(&format!("not listed yet: {}", unlisted.join(", "))),
    }
}

fn unavailable(reason: &str) -> Response {
    Response::text(Status::ServiceUnavailable, format!("{reason}\n"))
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Client {
    program: String,
    version: String,
}

type Level = Gauge<i64, AtomicI64>;

/// All figures as they are now.
fn registry(hub: &Hub) -> Registry {
    let mut registry = Registry::default();
    let (clients, objects, entries, octets) = hub.look(|server| {
        let (clients, objects) = (Family::<Client, Level>::default(), Family::<Kind, Level>::default());
        let (entries, octets) = (Family::<Kind, Level>::default(), Family::<Kind, Level>::default());
        for client in server.clients() {
            // Names that nobody here gave: what is odd counts together.
            let known = |text: String| if text.len() <= 32 { text } else { "other".to_owned() };
            let label = Client { program: known(client.program), version: known(client.version) };
            clients.get_or_create(&label).inc();
        }
        for (kind, there, all, size) in server.sizes() {
            let label = Kind { kind: kind.to_owned() };
            objects.get_or_create(&label).set(level(there));
            entries.get_or_create(&label).set(level(all));
            octets.get_or_create(&label).set(level(size));
        }
        (clients, objects, entries, octets)
    });
    registry.register("typha_connections_active", "Clients, by program and version", clients);
    registry.register("typha_cache_size", "Objects of each kind", objects);
    registry.register("typha_log_entries", "Entries of the log of each kind, outdated ones too", entries);
    registry.register("typha_log_bytes", "Octets of the log of each kind, as they are sent", octets);
    counters(hub, &mut registry);
    registry
}

fn counters(hub: &Hub, registry: &mut Registry) {
    let counters = hub.look(fanout::Server::counters);
    let mut count = |name: &str, help: &str, value: u64| {
        let counter = Counter::<u64, AtomicU64>::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    };
    count("typha_updates", "Events of the API server", hub.events());
    count("typha_lists_sent", "Lists of a kind that were begun for clients", counters.lists);
    count("typha_lists_resumed", "Kinds that a client went on with, without a list", counters.resumed);
    count("typha_lists_again", "Lists begun again for clients that were too slow", counters.lists_again);
    count("typha_chunks_sent", "Messages with objects that were sent", counters.chunks);
    count("typha_sent_bytes", "Octets that were sent, before TLS", counters.octets);
    count(
        "typha_connections_dropped",
        "Clients that were dropped: silent, behind, not understood",
        counters.dropped,
    );
    let behind = Gauge::<f64, AtomicU64>::default();
    behind.set(hub.look(|server| server.longest_behind(Instant::now())).as_secs_f64());
    registry.register(
        "typha_longest_behind_seconds",
        "How long a client has had something left to read",
        behind,
    );
}

fn level(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
