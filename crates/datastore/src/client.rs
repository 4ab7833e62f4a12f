//! The connection to the API server, and the writes that are not IPAM's.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use model::{Secret, Update};
use tokio::sync::mpsc;

use crate::watch::{self, Interest};
use crate::{Error, Result};

/// The cluster, seen through its API server. Cheap to clone.
#[derive(Clone)]
pub struct Datastore {
    client: Client,
}

impl Datastore {
    /// Reads a kubeconfig, or without one what a Pod finds in its file system. Talks to nobody yet.
    ///
    /// # Errors
    /// [`Error::Configuration`] when there is no usable configuration.
    pub async fn connect(kubeconfig: Option<&Path>) -> Result<Self> {
        let mut config = match kubeconfig {
            Some(path) => {
                let named = |error: &dyn std::fmt::Display| {
                    Error::Configuration(format!("kubeconfig {}: {error}", path.display()))
                };
                let file = Kubeconfig::read_from(path).map_err(|error| named(&error))?;
                let options = KubeConfigOptions::default();
                Config::from_custom_kubeconfig(file, &options).await.map_err(|error| named(&error))?
            }
            None => Config::incluster().map_err(|error| {
                Error::Configuration(format!("no kubeconfig given, and not in a Pod: {error}"))
            })?,
        };
        config.connect_timeout = Some(Duration::from_secs(5));
        // We know what to retry, and when; the client does not.
        config.default_retry = false;
        let client = Client::try_from(config).map_err(|error| Error::Configuration(error.to_string()))?;
        Ok(Self { client })
    }

    /// Over a client that exists already.
    pub fn from_client(client: Client) -> Self {
        Self { client }
    }

    /// The client, for what has no method here.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Lists and watches; see [`watch`](crate::watch).
    pub fn watch(&self, interest: Interest) -> mpsc::Receiver<Update> {
        watch::spawn(self.client(), interest)
    }

    /// Everything as it is now.
    ///
    /// # Errors
    /// When the API server cannot be reached, refuses us, or has not told everything within `limit`.
    pub async fn snapshot(&self, interest: Interest, limit: Duration) -> Result<Vec<Update>> {
        let what = || "list everything".to_owned();
        self.client.apiserver_version().await.map_err(|error| Error::of(what, error))?;
        let listed = tokio::time::timeout(limit, watch::snapshot(self.client(), interest)).await;
        listed.map_err(|_| Error::Unavailable {
            what: what(),
            reason: format!("not done within {} s; may this user list all kinds of policy?", limit.as_secs()),
        })
    }

    /// Follows Calico's annotations of all namespaces; `None` until they have been listed.
    pub fn watch_namespace_annotations(
        &self,
    ) -> tokio::sync::watch::Receiver<Option<watch::namespaces::NamespaceAnnotations>> {
        watch::namespaces::spawn(self.client())
    }

    /// Watches Secrets of one namespace: those whose names `wanted` holds, one by one, and no other. What one
    /// says that was let go a moment ago may still come.
    pub fn watch_secrets(
        &self,
        namespace: &str,
        wanted: tokio::sync::watch::Receiver<BTreeSet<String>>,
    ) -> mpsc::Receiver<(String, Secret)> {
        watch::secrets::spawn(self.client(), namespace, wanted)
    }
}

/// A request that takes longer has failed; only watches may.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
