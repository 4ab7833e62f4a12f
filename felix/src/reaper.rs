//! Deletes the links that DELs took out of service, together and a while later: the kernel waits some twenty
//! milliseconds for each deletion, however many links it is of, and pods that come meanwhile would wait with it.

use std::sync::Arc;
use std::time::Duration;

use kernel_linux::Rtnl;
use tokio::sync::Notify;
use tokio::time::sleep;

/// How long links are gathered.
const GATHER: Duration = Duration::from_secs(1);

/// Reaps when told that links may have been retired, and every `check` without being told; never returns.
pub async fn run(retired: Arc<Notify>, check: Duration) {
    loop {
        tokio::select! {
            () = retired.notified() => sleep(GATHER).await,
            () = sleep(check) => {}
        }
        let reaped = tokio::task::spawn_blocking(|| Rtnl::open()?.reap_retired()).await;
        if let Ok(Err(error)) = reaped {
            tracing::warn!(%error, "cannot delete the links of deleted pods");
        }
    }
}
