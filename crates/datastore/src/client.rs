//! The connection to the API server, and the writes that are not IPAM's.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use model::{NodeName, Secret, Update};
use tokio::sync::mpsc;
use tower::util::MapRequestLayer;

use crate::token::TokenFile;
use crate::typha::{self, Feed};
use crate::watch::kinds::Watched;
use crate::watch::sources::ObjectStream;
use crate::watch::{self, Interest, Kind, RawStream, Source};
use crate::{Error, Result};

/// The cluster, seen through its API server. Cheap to clone.
#[derive(Clone)]
pub struct Datastore {
    client: Client,
    /// Watches are typha's.
    typha: Option<Feed>,
}

impl Datastore {
    /// Reads a kubeconfig, or without one what a Pod finds in its file system. Talks to nobody yet.
    ///
    /// # Errors
    /// [`Error::Configuration`] when there is no usable configuration.
    pub async fn connect(kubeconfig: Option<&Path>) -> Result<Self> {
        Self::connect_to(kubeconfig, None).await
    }

    /// As [`connect`](Self::connect), to the cluster of another context than the kubeconfig's current one. The path may
    /// be a list of files as `KUBECONFIG` has it; what comes first counts.
    ///
    /// # Errors
    /// [`Error::Configuration`] when there is no usable configuration, or no such context.
    pub async fn connect_to(kubeconfig: Option<&Path>, context: Option<&str>) -> Result<Self> {
        let mut config = match kubeconfig {
            Some(path) => {
                let named = |error: &dyn std::fmt::Display| {
                    Error::Configuration(format!("kubeconfig {}: {error}", path.display()))
                };
                let file = kubeconfig_of(path).map_err(|error| named(&error))?;
                let options =
                    KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
                Config::from_custom_kubeconfig(file, &options).await.map_err(|error| named(&error))?
            }
            None => Config::incluster().map_err(|error| {
                Error::Configuration(format!("no kubeconfig given, and not in a Pod: {error}"))
            })?,
        };
        config.connect_timeout = Some(Duration::from_secs(5));
        // We know what to retry, and when; the client does not.
        config.default_retry = false;
        let unusable = |error: &dyn std::fmt::Display| Error::Configuration(error.to_string());
        // An inline token wins over a file.
        let file = config.auth_info.token_file.take().filter(|_| config.auth_info.token.is_none());
        let builder = ClientBuilder::try_from(config).map_err(|error| unusable(&error))?;
        let Some(file) = file else { return Ok(Self { client: builder.build(), typha: None }) };
        let token = TokenFile::open(file.clone().into(), Instant::now())
            .map_err(|error| unusable(&format_args!("token file {file}: {error}")))?;
        let sign = MapRequestLayer::new(move |request| token.sign(request, Instant::now()));
        Ok(Self { client: builder.with_layer(&sign).build(), typha: None })
    }

    /// Over a client that exists already.
    pub fn from_client(client: Client) -> Self {
        Self { client, typha: None }
    }

    /// From now on, what is the same for all nodes is heard from typha, by a program of this name on this node.
    /// Must be called within a runtime.
    #[must_use]
    pub fn through_typha(self, settings: typha::Settings, node: &NodeName, program: &str) -> Self {
        let feed = Feed::start(self.client.clone(), settings, node, program);
        Self { typha: Some(feed), ..self }
    }

    /// Lists and watches objects of a kind that become no updates.
    pub(crate) fn watch_objects<K: Watched>(&self, kind: Kind) -> ObjectStream<K> {
        watch::sources::objects(self.client(), self.typha.as_ref(), kind)
    }

    /// Lists and watches one kind for ever, for who passes it on; see [`Kind::SHARED`].
    pub fn watch_raw(&self, kind: Kind) -> RawStream {
        watch::sources::watch_raw(self.client(), kind)
    }

    /// The client, for what has no method here.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Lists and watches; see [`watch`](crate::watch).
    pub fn watch(&self, interest: Interest) -> mpsc::Receiver<Update> {
        watch::spawn(Source { client: self.client(), typha: self.typha.clone() }, interest)
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
        watch::namespaces::spawn(self.watch_objects(Kind::Namespace))
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

/// One file, or those of a list that exist, put together.
fn kubeconfig_of(path: &Path) -> std::result::Result<Kubeconfig, KubeconfigError> {
    let mut files = std::env::split_paths(path).filter(|file| file.exists());
    let (Some(first), Some(second)) = (files.next(), files.next()) else {
        let only = std::env::split_paths(path).find(|file| file.exists());
        return Kubeconfig::read_from(only.as_deref().unwrap_or(path));
    };
    let merged = Kubeconfig::read_from(first)?.merge(Kubeconfig::read_from(second)?)?;
    files.try_fold(merged, |merged, file| merged.merge(Kubeconfig::read_from(file)?))
}

/// A request that takes longer has failed; only watches may.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
