//! Sends clients elsewhere: when others could take them, and before this process ends.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use datastore::Datastore;
use datastore::typha::service_endpoints;
use fanout::{ClientId, connection_limit};

use crate::hub::Hub;

/// How often the other instances are counted.
const COUNT: Duration = Duration::from_secs(30);
/// At most one client is sent away in this time.
const SHED: Duration = Duration::from_secs(1);
/// Connections of a node: felix and bird-lite.
const PROGRAMS: usize = 2;

/// Keeps to this instance's share of the connections, for ever.
pub async fn run(datastore: Datastore, hub: Arc<Hub>, namespace: String, service: String) {
    let mut limit = usize::MAX;
    let mut count_in = Duration::ZERO;
    loop {
        if count_in.is_zero() {
            count_in = COUNT;
            match service_endpoints(&datastore.client(), &namespace, &service).await {
                Ok(found) => {
                    limit = connection_limit(hub.look(|server| server.len("Node")), found.len(), PROGRAMS)
                }
                Err(error) => tracing::debug!(%error, "the other instances cannot be counted"),
            }
        }
        tokio::time::sleep(SHED).await;
        count_in = count_in.saturating_sub(SHED);
        if hub.look(fanout::Server::connections) > limit {
            shed(&hub, 1, "this instance has more than its share of clients");
        }
    }
}

/// Sends all clients away, evenly over `time`.
pub async fn drain(hub: &Hub, time: Duration) {
    const STEPS: u32 = 20;
    for left in (1..=STEPS).rev() {
        let connections = hub.look(fanout::Server::connections);
        shed(hub, connections.div_ceil(left as usize), "this instance ends");
        tokio::time::sleep(time / STEPS).await;
    }
}

/// Sends some clients away, chosen at random.
fn shed(hub: &Hub, count: usize, reason: &str) {
    let random = RandomState::new();
    let mut clients: Vec<ClientId> = hub.look(|server| server.clients().map(|client| client.id).collect());
    clients.sort_by_key(|id| random.hash_one(id.0));
    for id in clients.into_iter().take(count) {
        hub.close(id, reason);
    }
}
