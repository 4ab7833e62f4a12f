//! The server: a store that stays, and listeners that come and go.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::api::Api;
use crate::auth::{Auth, Token};
use crate::bootstrap;
use crate::http::{self, Context};
use crate::kubeconfig;
use crate::persist::Disk;
use crate::pki::Pki;
use crate::status::ApiError;
use crate::store::Store;

/// Time that a client has for its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Time that requests under way have to notice that their connection is gone.
const FAREWELL: Duration = Duration::from_secs(30);

/// How to build an [`ApiServer`].
#[derive(Debug, Clone)]
pub struct Builder {
    data_dir: Option<PathBuf>,
    token: Option<String>,
    names: Vec<String>,
    watch_log: usize,
    sync: bool,
    bookmark_interval: Duration,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            data_dir: None,
            token: None,
            names: Vec::new(),
            watch_log: 10_000,
            sync: false,
            bookmark_interval: Duration::from_secs(60),
        }
    }
}

impl Builder {
    /// Keeps objects, revision, certificates and token in this directory; without one all is in memory only.
    #[must_use]
    pub fn data_dir(mut self, directory: Option<PathBuf>) -> Self {
        self.data_dir = directory;
        self
    }

    /// Bearer token of the administrator; made up (and kept) if none is given.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// One more name or address in the serving certificate. The addresses of listeners are in it anyway.
    #[must_use]
    pub fn san(mut self, name: impl Into<String>) -> Self {
        self.names.push(name.into());
        self
    }

    /// How many events are kept per resource, so how far back a watch can start (10 000).
    #[must_use]
    pub fn watch_log(mut self, events: usize) -> Self {
        self.watch_log = events;
        self
    }

    /// Whether each write is on the disk before it is acknowledged, so that it survives a power cut and not only
    /// the end of the process (no).
    #[must_use]
    pub fn sync(mut self, sync: bool) -> Self {
        self.sync = sync;
        self
    }

    /// Time between the bookmarks of a watch (one minute).
    #[must_use]
    pub fn bookmark_interval(mut self, interval: Duration) -> Self {
        self.bookmark_interval = interval;
        self
    }

    /// Opens the store and makes what is missing in it. No listener is open yet.
    ///
    /// # Errors
    /// The directory cannot be used, or another server uses it.
    pub fn build(self) -> anyhow::Result<ApiServer> {
        let disk = match &self.data_dir {
            None => None,
            Some(directory) => {
                std::fs::create_dir_all(directory)
                    .with_context(|| format!("create the directory {}", directory.display()))?;
                Some(Disk::open(&directory.join("store.redb"), self.sync)?)
            }
        };
        let pki = Pki::load_or_create(disk.as_ref(), self.token)?;
        let api = Arc::new(Api::new(Arc::new(Store::open(disk, self.watch_log)?)));
        bootstrap::bootstrap(&api).context("create the first namespaces")?;
        let auth = Arc::new(Auth::new(pki.token.clone()));
        Ok(ApiServer { api, auth, pki, names: self.names, bookmark_interval: self.bookmark_interval })
    }
}

/// A server with its store. Listeners are opened by [`ApiServer::serve`], as often as one likes.
#[derive(Debug)]
pub struct ApiServer {
    api: Arc<Api>,
    auth: Arc<Auth>,
    pki: Pki,
    names: Vec<String>,
    bookmark_interval: Duration,
}

impl ApiServer {
    /// Starts to describe a server.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The API without the network, for programs that embed the server.
    pub fn api(&self) -> &Arc<Api> {
        &self.api
    }

    /// The administrator's bearer token.
    pub fn token(&self) -> &str {
        &self.pki.token
    }

    /// A token of a service account, as the kubelet gives one to each pod. It may do what roles say.
    ///
    /// # Errors
    /// There is no such account.
    pub fn service_account_token(
        &self,
        namespace: &str,
        name: &str,
        lifetime: Duration,
    ) -> Result<Token, ApiError> {
        self.auth.issue(&self.api, namespace, name, lifetime)
    }

    /// The certificate of the server's authority, PEM.
    pub fn ca_pem(&self) -> &str {
        &self.pki.ca_pem
    }

    /// A kubeconfig for the server at `url`, with CA and token in it.
    pub fn kubeconfig(&self, url: &str) -> String {
        kubeconfig::kubeconfig(url, &self.pki.ca_pem, &self.pki.token)
    }

    /// A kubeconfig with a client certificate in place of the token.
    pub fn kubeconfig_with_certificate(&self, url: &str) -> String {
        kubeconfig::with_certificate(url, &self.pki.ca_pem, &self.pki.client_pem, &self.pki.client_key_pem)
    }

    /// Serves on listeners that the caller has bound, in whichever network namespace. Must be called inside a tokio
    /// runtime.
    ///
    /// # Errors
    /// A listener cannot be used, or a name does not fit into a certificate.
    pub fn serve(&self, listeners: Vec<TcpListener>) -> anyhow::Result<Handle> {
        let mut names = self.names.clone();
        let mut addresses = Vec::new();
        for listener in &listeners {
            let address = listener.local_addr().context("address of a listener")?;
            listener.set_nonblocking(true).context("make a listener non-blocking")?;
            if !address.ip().is_unspecified() && !names.contains(&address.ip().to_string()) {
                names.push(address.ip().to_string());
            }
            addresses.push(address);
        }
        let tls = TlsAcceptor::from(Arc::new(self.pki.server_config(&names)?));
        let (in_use, unused) = mpsc::channel(1);
        let mut tasks = Vec::new();
        for (listener, address) in listeners.into_iter().zip(&addresses) {
            let context = Arc::new(Context {
                api: self.api.clone(),
                auth: self.auth.clone(),
                address: address.to_string(),
                bookmark_interval: self.bookmark_interval,
                _in_use: in_use.clone(),
            });
            let listener = tokio::net::TcpListener::from_std(listener).context("register a listener")?;
            tasks.push(tokio::spawn(accept(listener, tls.clone(), context)));
        }
        Ok(Handle { addresses, tasks: Mutex::new(tasks), unused: Mutex::new(Some(unused)) })
    }
}

/// Open listeners and their connections. Dropping it closes them at once; the store stays with [`ApiServer`].
#[derive(Debug)]
pub struct Handle {
    addresses: Vec<SocketAddr>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    /// Closes when the last request that uses the store is over.
    unused: Mutex<Option<mpsc::Receiver<()>>>,
}

impl Handle {
    /// Where it listens, in the order of the listeners given.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// URL of the first listener.
    pub fn url(&self) -> String {
        self.addresses.first().map_or_else(String::new, |a| format!("https://{a}"))
    }

    /// Closes listeners and connections, and waits until that is done, so that the ports are free and nothing
    /// but [`ApiServer`] holds the store.
    pub async fn stop(self) {
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            task.abort();
            // Aborting is the wish: the error that says so is no news.
            let _aborted = task.await;
        }
        let unused = self.unused.lock().take();
        if let Some(mut unused) = unused
            && tokio::time::timeout(FAREWELL, unused.recv()).await.is_err()
        {
            tracing::warn!("requests are still under way after the listeners were closed");
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        for task in self.tasks.lock().iter() {
            task.abort();
        }
    }
}

/// Accepts until it is aborted; its connections end with it, since it owns them.
async fn accept(listener: tokio::net::TcpListener, tls: TlsAcceptor, context: Arc<Context>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, tls.clone(), context.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, tls: TlsAcceptor, context: Arc<Context>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let stream = match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake"),
        Err(_) => return tracing::debug!("TLS handshake takes too long"),
    };
    let has_certificate = stream.get_ref().1.peer_certificates().is_some_and(|c| !c.is_empty());
    let service = service_fn(move |request| {
        let context = context.clone();
        async move { Ok::<_, std::convert::Infallible>(http::serve(context, request, has_certificate).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(1000);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "connection");
    }
}
