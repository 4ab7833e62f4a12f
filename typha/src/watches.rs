//! One watch of the API server for each kind that is asked for.

use std::sync::Arc;

use datastore::{Datastore, Kind};
use futures_util::StreamExt;

use crate::hub::Hub;

/// Watches what is asked for; never ends.
pub async fn run(datastore: Datastore, hub: Arc<Hub>) {
    loop {
        for name in hub.asked().await {
            let Some(kind) = Kind::shared(&name) else { continue };
            let mut events = datastore.watch_raw(kind);
            let hub = hub.clone();
            tokio::spawn(async move {
                while let Some((_, event)) = events.next().await {
                    hub.event(&name, event);
                }
            });
        }
    }
}
