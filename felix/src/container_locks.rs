//! One lock a container, by the handle that holds its addresses: what is done for one waits for nothing of another.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

/// See the module's description. Locks that nobody holds or waits for are forgotten.
#[derive(Default)]
pub struct ContainerLocks(Mutex<BTreeMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl ContainerLocks {
    /// Waits for the container's lock.
    pub async fn lock(&self, handle: &str) -> OwnedMutexGuard<()> {
        let own = {
            let mut locks = self.0.lock();
            locks.retain(|_, lock| lock.strong_count() > 0);
            match locks.get(handle).and_then(Weak::upgrade) {
                Some(lock) => lock,
                None => {
                    let lock = Arc::default();
                    locks.insert(handle.to_owned(), Arc::downgrade(&lock));
                    lock
                }
            }
        };
        own.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn only_the_same_container_waits() {
        let locks = ContainerLocks::default();

        let first = locks.lock("c1").await;

        assert!(locks.lock("c2").now_or_never().is_some());
        assert!(locks.lock("c1").now_or_never().is_none());
        drop(first);
        assert!(locks.lock("c1").now_or_never().is_some());
    }

    #[tokio::test]
    async fn what_nobody_holds_is_forgotten() {
        let locks = ContainerLocks::default();

        for id in ["c1", "c2", "c3"] {
            drop(locks.lock(id).await);
        }

        assert_eq!(locks.0.lock().len(), 1);
    }
}
