//! What becomes of DELs: the queue of the plugin is drained, and endpoints whose DEL was lost are dropped.

use std::sync::Arc;
use std::time::Duration;

use kernel_linux::Rtnl;
use tokio::sync::Notify;

use crate::addresses::Addresses;
use crate::cluster::Cluster;
use crate::reaper;
use crate::service::{NodeService, Pods};

/// How often the queue is looked at without being told: the CNI plugin writes to it while the agent starts.
const QUEUE_CHECK: Duration = Duration::from_secs(30);
/// First pause before releasing addresses is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Drains the queue when something comes, when something failed, and now and then.
pub async fn run<A: Addresses, P: Pods>(service: Arc<NodeService<A, P>>, cluster: Arc<Cluster>) {
    let mut own = cluster.own();
    if own.wait_for(|own| own.in_sync).await.is_err() {
        return;
    }
    drop_stale(&service, &cluster);
    let retired = Arc::new(Notify::new());
    tokio::spawn(reaper::run(retired.clone(), QUEUE_CHECK));
    let mut pause = RETRY;
    loop {
        let left = service.drain().await;
        retired.notify_one();
        pause = if left > 0 { (pause * 2).min(QUEUE_CHECK) } else { RETRY };
        let wait = if left > 0 { pause } else { QUEUE_CHECK };
        tokio::select! {
            () = service.queued.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Endpoints whose pod and whose interface are both gone: their DEL was lost while nobody was there to take it.
fn drop_stale<A: Addresses, P: Pods>(service: &NodeService<A, P>, cluster: &Cluster) {
    let Ok(mut rtnl) = Rtnl::open() else { return };
    let stored: Vec<_> = service.store.lock().iter().cloned().collect();
    for endpoint in stored {
        let is_there = rtnl.link_by_name(&endpoint.host_interface).map_or(true, |link| link.is_some());
        if !is_there && !cluster.has_pod(&endpoint.pod_key(), &endpoint.uid) {
            tracing::info!(pod = %endpoint.pod_key(), "pod and interface are gone; endpoint dropped");
            service.take_down(&endpoint);
        }
    }
}
