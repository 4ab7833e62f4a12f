//! Tells the API server behind the pods which addresses they drew, and holds new ones ready.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::sleep;

use crate::cluster::OwnNode;
use crate::ipam::ClusterAddresses;

/// Draws of so long go into one write.
const GATHER: Duration = Duration::from_millis(200);
/// Rests that end within so long go into one write.
const GATHER_RESTS: Duration = Duration::from_secs(5);
/// So often the reserve is filled up meanwhile: where nothing is left it stays low.
const MOST_FILLS: usize = 8;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How often it is looked without being told.
const LOOK: Duration = Duration::from_secs(300);

/// Never returns; ending it at any moment loses nothing.
pub async fn keep_up(addresses: Arc<ClusterAddresses>, mut own: watch::Receiver<OwnNode>) {
    if own.wait_for(|own| own.in_sync).await.is_err() {
        return;
    }
    let mut pause = FIRST_PAUSE;
    loop {
        match addresses.keep_up().await {
            Ok(next) => {
                pause = FIRST_PAUSE;
                tokio::select! {
                    () = addresses.due() => gather(&addresses).await,
                    () = sleep(until(next)) => {}
                }
            }
            Err(error) => {
                tracing::warn!(%error, "addresses that pods drew are not written yet; it is tried again");
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Waits for more draws. Meanwhile the reserve is filled up where it runs low: that is quick, while each draw that a block
/// is told of costs a write.
async fn gather(addresses: &ClusterAddresses) {
    let over = sleep(GATHER);
    tokio::pin!(over);
    for _ in 0..MOST_FILLS {
        tokio::select! {
            () = &mut over => return,
            () = addresses.low() => {}
        }
        if addresses.fill_up().await.is_err() {
            // Whoever keeps up says so.
            break;
        }
    }
    over.await;
}

/// How long until the end of a rest, in nanoseconds since the epoch.
fn until(end: Option<u64>) -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    end.map_or(LOOK, |end| (Duration::from_nanos(end).saturating_sub(now) + GATHER_RESTS).min(LOOK))
}
