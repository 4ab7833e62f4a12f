//! The KubeControllersConfiguration: watched once for all who go by it, and its status, which says what is in force.

use std::collections::BTreeMap;
use std::time::Duration;

use datastore::{Datastore, Followed};
use model::KubeControllersConfiguration;
use tokio::sync::watch;

use crate::leader;

/// What is in force; `None` until it was read.
pub type Settings = watch::Receiver<Option<KubeControllersConfiguration>>;

/// After a write that failed.
const RETRY: Duration = Duration::from_secs(5);

/// What wins over the object: flags and variables of the environment.
#[derive(Clone, Debug, Default)]
pub struct Decided {
    /// How long something that nobody owns is left alone.
    pub leak_grace_period: Option<Duration>,
}

impl Decided {
    /// How long something is left alone where nobody says anything.
    pub const LEAK_GRACE_PERIOD: Duration = Duration::from_secs(300);

    fn over(&self, said: KubeControllersConfiguration) -> KubeControllersConfiguration {
        let grace = self.leak_grace_period.or(said.leak_grace_period);
        KubeControllersConfiguration {
            leak_grace_period: Some(grace.unwrap_or(Self::LEAK_GRACE_PERIOD)),
            ..said
        }
    }

    /// As the status names them.
    fn environment(&self) -> BTreeMap<String, String> {
        let grace = self.leak_grace_period.map(|grace| grace.as_secs().to_string());
        grace.map(|grace| ("OCICAT_LEAK_GRACE".to_owned(), grace)).into_iter().collect()
    }
}

/// Watches the settings for ever.
pub fn watch(datastore: &Datastore, decided: Decided) -> Settings {
    let (sender, settings) = watch::channel(None);
    let mut changes = datastore.watch_kube_controllers_configuration();
    tokio::spawn(async move {
        while let Some(said) = changes.recv().await {
            let found = match said {
                Followed::Put(_, found) => Some(found),
                Followed::Gone(_) => Some(KubeControllersConfiguration::default()),
                // There may be none.
                Followed::Listed => sender.borrow().is_none().then(KubeControllersConfiguration::default),
            };
            let Some(found) = found.map(|found| decided.over(found)) else { continue };
            sender.send_if_modified(|known| {
                let changed = known.as_ref() != Some(&found);
                *known = Some(found);
                changed
            });
        }
    });
    settings
}

/// Writes the status while this replica leads; never ends.
pub async fn report(
    datastore: Datastore,
    leads: watch::Receiver<bool>,
    settings: Settings,
    decided: Decided,
) {
    leader::while_leading(leads, || write(&datastore, settings.clone(), &decided)).await;
}

async fn write(datastore: &Datastore, mut settings: Settings, decided: &Decided) {
    let environment = decided.environment();
    settings.mark_changed();
    while settings.changed().await.is_ok() {
        let Some(running) = settings.borrow_and_update().clone() else { continue };
        while let Err(error) = datastore.write_running_config(&running, &environment).await {
            tracing::warn!(%error, "the status of the settings cannot be written, it is tried again");
            tokio::time::sleep(RETRY).await;
        }
    }
}
