//! The embedded API server behind the few verbs that a lab needs.

use std::net::{IpAddr, TcpListener};

use apiserver::{ApiServer, Handle};
use tokio::sync::Mutex;

/// The embedded server, running or stopped; its data outlives a stop.
pub(crate) struct Embedded {
    server: ApiServer,
    running: Mutex<Option<Handle>>,
}

impl Embedded {
    /// Prepares a server with an empty store and a certificate for these addresses; nothing listens yet.
    pub(crate) fn new(addresses: &[IpAddr]) -> anyhow::Result<Self> {
        let builder = addresses.iter().fold(ApiServer::builder(), |b, address| b.san(address.to_string()));
        Ok(Self { server: builder.build()?, running: Mutex::default() })
    }

    pub(crate) fn kubeconfig(&self, url: &str) -> String {
        self.server.kubeconfig(url)
    }

    pub(crate) async fn start(&self, listeners: Vec<TcpListener>) -> anyhow::Result<()> {
        let handle = self.server.serve(listeners)?;
        *self.running.lock().await = Some(handle);
        Ok(())
    }

    /// Closes listeners and connections; returns when the addresses are free again.
    pub(crate) async fn stop(&self) {
        if let Some(handle) = self.running.lock().await.take() {
            handle.stop().await;
        }
    }
}
