//! Events about this node for people. Owns that they wait for nobody: what the API server does not take is lost.

use std::time::SystemTime;

use datastore::convert::rfc3339;
use datastore::{Datastore, NodeEvent};
use model::NodeName;
use tokio::sync::mpsc;

/// Events that wait for the API server.
const WAITING: usize = 16;

/// Makes Events; the sender must not wait.
pub fn spawn(datastore: Datastore, node: NodeName) -> mpsc::Sender<NodeEvent> {
    let (sender, mut events) = mpsc::channel::<NodeEvent>(WAITING);
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            let now = rfc3339(SystemTime::now());
            if let Err(error) = datastore.publish("felix", &node, &event, &now).await {
                tracing::debug!(%error, "Event is lost");
            }
        }
    });
    sender
}
