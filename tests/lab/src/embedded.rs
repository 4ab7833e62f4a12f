//! The embedded API server behind the few verbs that a lab needs.

use std::net::{IpAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

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

    /// Writes what a pod finds of its account into a directory, with a token of that lifetime.
    pub(crate) fn write_account(
        &self,
        directory: &Path,
        namespace: &str,
        account: &str,
        lifetime: Duration,
    ) -> anyhow::Result<()> {
        let token = self.server.service_account_token(namespace, account, lifetime)?;
        std::fs::create_dir_all(directory)?;
        for (name, text) in
            [("ca.crt", self.server.ca_pem()), ("namespace", namespace), ("token", token.token.as_str())]
        {
            // Whoever reads meanwhile sees the old one or the new one.
            let new = directory.join(format!(".{name}"));
            std::fs::write(&new, text)?;
            std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
            std::fs::rename(&new, directory.join(name))?;
        }
        Ok(())
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
