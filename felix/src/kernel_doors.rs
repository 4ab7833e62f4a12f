//! Waits until the kernel can be written to. A node without iptables or ip_set is not restarted again and again: the
//! agent stays, unready, says what is missing, and goes on as soon as it is there.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use felix_dataplane::Ownership;
use kernel_linux::Backend;

use crate::checks::Features;
use crate::drivers::{self, Opened};
use crate::health::{Component, Health};

/// First pause after a try that failed; it doubles with each further one.
pub const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What the dataplane writes to, and the backend of iptables that others use; `None` where there is no iptables.
pub struct Doors {
    pub backend: Option<Backend>,
    pub opened: Opened,
}

/// One try to open everything that the dataplane writes to.
pub fn open(features: Features, ownership: &Ownership) -> Result<Doors> {
    let (backend, opened) = match Backend::detect() {
        Ok(backend) => (Some(backend), drivers::open(Some(backend), ownership, features.ipv6)?),
        Err(reason) => (None, drivers::open(None, ownership, features.ipv6).context(reason)?),
    };
    let shown = backend.map_or_else(|| "none".to_owned(), |backend| backend.to_string());
    tracing::info!(backend = shown, ipip = features.ipip, ipv6 = features.ipv6, "kernel");
    Ok(Doors { backend, opened })
}

/// Tries until it works; readiness and the log tell why it does not yet, the log only when the reason changes.
pub async fn wait<T, F>(health: &Health, first_pause: Duration, open: F) -> T
where
    T: Send + 'static,
    F: Fn() -> Result<T> + Clone + Send + 'static,
{
    let mut pause = first_pause;
    let mut present = None;
    loop {
        let result = tokio::task::spawn_blocking(open.clone()).await;
        let error = match result.unwrap_or_else(|panic| Err(anyhow!("opening the kernel: {panic}"))) {
            Ok(opened) => {
                if present.is_some() {
                    tracing::info!("the kernel can be written to now");
                }
                health.set_waiting(Component::Dataplane);
                return opened;
            }
            Err(error) => format!("{error:#}"),
        };
        if present.as_ref() != Some(&error) {
            tracing::error!(
                error,
                "cannot write to the kernel, so pods get neither routes nor policy; will be retried"
            );
            health.set_unready(Component::Dataplane, error.clone());
            present = Some(error);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[tokio::test]
    async fn the_agent_stays_unready_with_the_reason_until_the_kernel_is_there() {
        let health = Health::new();
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let open = {
            let (health, seen) = (health.clone(), seen.clone());
            move || {
                let mut seen = seen.lock();
                seen.push(health.reason_against(&[Component::Dataplane]).unwrap_or_default());
                if seen.len() < 3 {
                    Err(anyhow!("no iptables works; install the package iptables"))
                } else {
                    Ok(7)
                }
            }
        };

        let opened = wait(&health, Duration::ZERO, open).await;

        assert_eq!(opened, 7);
        let seen = seen.lock();
        assert!(seen[1].contains("install the package iptables"), "{seen:?}");
        assert_eq!(seen[1], seen[2]);
        let reason = health.reason_against(&[Component::Dataplane]);
        assert_eq!(reason.as_ref(), Some(&seen[0]), "waits for the datastore, as at the start");
    }
}
