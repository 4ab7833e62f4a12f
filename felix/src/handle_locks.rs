//! One request at a time for each handle, and none waits for another handle's.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

/// Locks by name; those that nobody holds or waits for are forgotten.
#[derive(Default)]
pub struct HandleLocks {
    locks: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl HandleLocks {
    /// Waits until nobody else is busy with this handle; ends with the guard.
    pub async fn lock(&self, handle: &str) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock();
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            locks.entry(handle.to_owned()).or_default().clone()
        };
        lock.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_same_handle_waits() {
        let locks = HandleLocks::default();
        let first = locks.lock("a").await;

        let _other = locks.lock("b").await;
        let mut second = Box::pin(locks.lock("a"));

        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        let second = second.await;
        drop(second);
        let _again = locks.lock("c").await;
        assert_eq!(locks.locks.lock().keys().collect::<Vec<_>>(), ["b", "c"]);
    }
}
