//! Publishes in the Node's annotations by which keys other nodes may talk with this one through WireGuard: those of
//! links that are there, and no others. Other nodes send nothing through WireGuard to a node that tells no key.

use std::collections::BTreeMap;
use std::time::Duration;

use datastore::convert::{WIREGUARD_PUBLIC_KEY, WIREGUARD_PUBLIC_KEY_V6};
use model::{Family, Node, WireguardKey};
use tokio::sync::watch;

use crate::cluster::OwnNode;
use crate::node_address::Annotate;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Public keys of the node's own links; `None` until the kernel was looked at.
pub type OwnKeys = Option<BTreeMap<Family, WireguardKey>>;

/// Keeps the annotations right; ends with the agent.
pub async fn run(
    mut keys: watch::Receiver<OwnKeys>,
    mut own: watch::Receiver<OwnNode>,
    annotate: impl Annotate,
) {
    let mut pause = FIRST_PAUSE;
    loop {
        let present = keys.borrow_and_update().clone();
        let state = own.borrow_and_update().clone();
        let changes = match (present, state.node.filter(|_| state.in_sync)) {
            (Some(keys), Some(node)) => changes(&node, &keys),
            _ => Vec::new(),
        };
        let mut failed = false;
        if !changes.is_empty() {
            match annotate.annotate(&changes).await {
                Ok(()) => tracing::info!(?changes, "public keys of WireGuard published"),
                Err(error) => {
                    tracing::warn!(error = %format!("{error:#}"), "public keys of WireGuard; will be retried");
                    failed = true;
                }
            }
        }
        let again = async {
            match failed {
                true => tokio::time::sleep(pause).await,
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = keys.changed() => if changed.is_err() { return },
            changed = own.changed() => if changed.is_err() { return },
            () = again => {}
        }
        pause = if failed { (pause * 2).min(LONGEST_PAUSE) } else { FIRST_PAUSE };
    }
}

/// What the Node says otherwise than the kernel.
fn changes(node: &Node, keys: &BTreeMap<Family, WireguardKey>) -> Vec<(&'static str, Option<String>)> {
    let annotations = [(Family::V4, WIREGUARD_PUBLIC_KEY), (Family::V6, WIREGUARD_PUBLIC_KEY_V6)];
    let differs =
        |(family, _): &(Family, &str)| node.tunnels.wireguard_key(*family) != keys.get(family).copied();
    let changed = annotations.into_iter().filter(differs);
    changed.map(|(family, name)| (name, keys.get(&family).map(ToString::to_string))).collect()
}
