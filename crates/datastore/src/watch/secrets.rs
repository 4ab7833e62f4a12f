//! The few Secrets that hold passwords. Owns that only those are read that somebody asked for, and that what
//! they say is neither logged nor hashed.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client};
use model::{Password, Secret};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::Retry;
use crate::objects::SecretObject;

/// Watches the Secrets whose names `wanted` holds; ends when its sender or the receiver is dropped.
///
/// What a Secret says that was let go a moment ago may still come.
pub(crate) fn spawn(
    client: Client,
    namespace: &str,
    mut wanted: watch::Receiver<BTreeSet<String>>,
) -> mpsc::Receiver<(String, Secret)> {
    let (sender, found) = mpsc::channel(16);
    let api: Api<SecretObject> = Api::namespaced(client, namespace);
    tokio::spawn(async move {
        let mut running: BTreeMap<String, Watcher> = BTreeMap::new();
        while wanted.changed().await.is_ok() {
            let names = wanted.borrow_and_update().clone();
            running.retain(|name, _| names.contains(name));
            for name in names {
                let start = || Watcher(tokio::spawn(follow(api.clone(), name.clone(), sender.clone())));
                running.entry(name.clone()).or_insert_with(start);
            }
        }
    });
    found
}

/// A task that ends when nobody holds it.
#[derive(Debug)]
struct Watcher(JoinHandle<()>);

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Tells what one Secret says, now and after each change.
///
/// Once it was read, a failure changes nothing: a password does not become wrong because the API server is away.
async fn follow(api: Api<SecretObject>, name: String, sender: mpsc::Sender<(String, Secret)>) {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = watcher(api, config).backoff(Retry::new()).boxed();
    let mut seen = false;
    let mut was_read = false;
    let mut failed = false;
    while let Some(event) = events.next().await {
        let secret = match event {
            Ok(watcher::Event::Init) => {
                seen = false;
                continue;
            }
            Ok(watcher::Event::InitDone) if seen => continue,
            Ok(watcher::Event::InitDone | watcher::Event::Delete(_)) => Secret::Absent,
            Ok(watcher::Event::InitApply(object) | watcher::Event::Apply(object)) => {
                seen = true;
                present(object)
            }
            Err(error) => {
                if !std::mem::replace(&mut failed, true) {
                    tracing::warn!(secret = name, %error, "cannot read the Secret, it is retried");
                }
                if was_read {
                    continue;
                }
                Secret::Unreadable(reason(&error))
            }
        };
        was_read |= !matches!(secret, Secret::Unreadable(_));
        failed &= !was_read;
        if sender.send((name.clone(), secret)).await.is_err() {
            return;
        }
    }
}

/// The entries that are text, without the line end that editors leave.
fn present(object: SecretObject) -> Secret {
    let entries = object.data.unwrap_or_default().into_iter();
    let texts = entries.filter_map(|(key, bytes)| {
        let text = String::from_utf8(bytes.0).ok()?;
        Some((key, Password::new(text.trim_end_matches(['\r', '\n']).to_owned())))
    });
    Secret::Present(texts.collect())
}

fn reason(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.message.clone(),
        other => other.to_string(),
    }
}
