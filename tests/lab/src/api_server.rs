//! The API server of a lab as the lab sees it: where it listens, the two kubeconfigs, stop and start.
//! Embedded in the daemon, or a server elsewhere that is forwarded into the router namespace.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use tokio::net::TcpSocket;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::embedded::Embedded;
use crate::names::{API_PORT, Family, LabName, api_addresses, netns_path};
use crate::netns;
use crate::node_pod::NAMESPACE;
use crate::options::{ExternalApi, LabOptions};
use crate::status::ApiServerStatus;
use crate::topology::ROUTER;

const CONTROLLERS_ACCOUNT: &str = "calico-kube-controllers";
/// The accounts whose processes a lab runs.
const ACCOUNTS: [&str; 2] = ["calico-node", CONTROLLERS_ACCOUNT];
/// How long their tokens are good, as a kubelet asks for them, and how often there are new ones.
const TOKEN_LIFETIME: Duration = Duration::from_secs(3607);
pub(crate) const TOKEN_RENEWAL: Duration = Duration::from_secs(1200);

/// The API server of a running lab.
pub struct ApiServer {
    lab: LabName,
    family: Family,
    url: String,
    host: SocketAddr,
    backend: Backend,
    state: Mutex<State>,
    /// Keeps the port on the host from everybody else while the server is stopped.
    _port: Option<TcpSocket>,
}

enum Backend {
    Embedded(Box<Embedded>),
    External { server: String },
}

#[derive(Default)]
struct State {
    running: bool,
    forwarders: JoinSet<()>,
}

impl ApiServer {
    /// Starts the server and writes both kubeconfigs.
    pub async fn start(options: &LabOptions) -> anyhow::Result<Self> {
        let (lab, family) = (options.name.clone(), options.family);
        let server = match &options.external {
            None => Self::start_embedded(lab, family).await?,
            Some(external) => Self::start_external(lab, family, external).await?,
        };
        Ok(server)
    }

    async fn start_embedded(lab: LabName, family: Family) -> anyhow::Result<Self> {
        let port = TcpSocket::new_v4()?;
        port.set_reuseaddr(true)?;
        port.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).context("reserve a port on 127.0.0.1")?;
        let host = port.local_addr()?;
        let host_listener = TcpListener::bind(host).with_context(|| format!("listen on {host}"))?;
        let mut names: Vec<IpAddr> = api_addresses(family);
        names.push(host.ip());
        let embedded = Embedded::new(&names)?;
        let url = format!("https://{host}");
        write_secret(&lab.kubeconfig(), &embedded.kubeconfig(&url))?;
        write_secret(&lab.node_kubeconfig(), &embedded.kubeconfig(&node_url("https", family)))?;
        let server = Self {
            lab,
            family,
            url,
            host,
            backend: Backend::Embedded(Box::new(embedded)),
            state: Mutex::default(),
            _port: Some(port),
        };
        server.serve(vec![host_listener]).await?;
        Ok(server)
    }

    async fn start_external(lab: LabName, family: Family, external: &ExternalApi) -> anyhow::Result<Self> {
        let (scheme, authority) = split_url(&external.url).map_err(anyhow::Error::msg)?;
        let server = authority.clone();
        let host = tokio::net::lookup_host(&server)
            .await
            .with_context(|| format!("resolve {server}"))?
            .next()
            .with_context(|| format!("{server} has no address"))?;
        write_secret(&lab.kubeconfig(), &external_kubeconfig(&external.url, None, external)?)?;
        let name = authority.rsplit_once(':').map_or(authority.as_str(), |(name, _)| name);
        let node =
            external_kubeconfig(&node_url(&scheme, family), Some(name.trim_matches(['[', ']'])), external)?;
        write_secret(&lab.node_kubeconfig(), &node)?;
        let backend = Backend::External { server };
        let this = Self {
            lab,
            family,
            url: external.url.clone(),
            host,
            backend,
            state: Mutex::default(),
            _port: None,
        };
        this.serve(Vec::new()).await?;
        Ok(this)
    }

    /// Gives the accounts of the manifest new tokens; those of a server elsewhere are not ours to give.
    pub fn renew_tokens(&self) -> anyhow::Result<()> {
        let Backend::Embedded(embedded) = &self.backend else { return Ok(()) };
        for account in ACCOUNTS {
            embedded
                .write_account(&self.lab.account_dir(account), NAMESPACE, account, TOKEN_LIFETIME)
                .with_context(|| format!("give {account} a token"))?;
        }
        Ok(())
    }

    /// Writes the kubeconfig of `controllers`: with its own account, or else the administrator's.
    pub fn write_controllers_kubeconfig(&self, has_account: bool) -> anyhow::Result<()> {
        let place = self.lab.controllers_kubeconfig();
        std::fs::create_dir_all(place.parent().unwrap_or(Path::new("/")))?;
        if !has_account {
            return write_secret(&place, &std::fs::read_to_string(self.lab.kubeconfig())?);
        }
        let account = self.lab.account_dir(CONTROLLERS_ACCOUNT);
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "lab",
            "clusters": [{"name": "lab",
                "cluster": {"server": self.url, "certificate-authority": account.join("ca.crt")}}],
            "users": [{"name": "lab", "user": {"tokenFile": account.join("token")}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab", "namespace": NAMESPACE}}],
        });
        write_secret(&place, &serde_json::to_string_pretty(&config)?)
    }

    /// What status shows.
    pub async fn status(&self) -> ApiServerStatus {
        let running = self.state.lock().await.running;
        ApiServerStatus {
            url: self.url.clone(),
            state: if running { "running" } else { "stopped" }.to_owned(),
            embedded: matches!(self.backend, Backend::Embedded(_)),
        }
    }

    /// Cuts the server off: listeners and connections close, the data stays.
    pub async fn stop(&self) -> anyhow::Result<()> {
        let mut state = self.state.lock().await;
        if let Backend::Embedded(embedded) = &self.backend {
            embedded.stop().await;
        }
        state.forwarders.shutdown().await;
        state.running = false;
        Ok(())
    }

    /// Serves again at the same addresses with the same data.
    pub async fn resume(&self) -> anyhow::Result<()> {
        if self.state.lock().await.running {
            return Ok(());
        }
        let mut listeners = Vec::new();
        if matches!(self.backend, Backend::Embedded(_)) {
            listeners.push(TcpListener::bind(self.host).with_context(|| format!("listen on {}", self.host))?);
        }
        self.serve(listeners).await
    }

    async fn serve(&self, mut listeners: Vec<TcpListener>) -> anyhow::Result<()> {
        let inside = self.listen_inside().await?;
        let mut state = self.state.lock().await;
        match &self.backend {
            Backend::Embedded(embedded) => {
                listeners.extend(inside);
                embedded.start(listeners).await?;
            }
            Backend::External { server, .. } => {
                for listener in inside {
                    listener.set_nonblocking(true)?;
                    let listener = tokio::net::TcpListener::from_std(listener)?;
                    state.forwarders.spawn(forward(listener, server.clone()));
                }
            }
        }
        state.running = true;
        Ok(())
    }

    /// Listens at the addresses that the nodes know, inside the router namespace.
    async fn listen_inside(&self) -> anyhow::Result<Vec<TcpListener>> {
        let namespace = netns_path(&self.lab.netns(ROUTER));
        let addresses = api_addresses(self.family);
        netns::enter(&namespace, move || {
            addresses.into_iter().map(|address| TcpListener::bind((address, API_PORT))).collect()
        })
        .await
        .context("listen inside the router namespace")
    }
}

/// Carries the connections of the lab's namespaces to a server that only the host reaches.
async fn forward(listener: tokio::net::TcpListener, server: String) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((mut inner, _)) = accepted else { continue };
                let server = server.clone();
                connections.spawn(async move {
                    match tokio::net::TcpStream::connect(&server).await {
                        Ok(mut outer) => {
                            tokio::io::copy_bidirectional(&mut inner, &mut outer).await.ok();
                        }
                        Err(e) => tracing::warn!(server, error = %e, "API server not reached"),
                    }
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

fn node_url(scheme: &str, family: Family) -> String {
    let address = api_addresses(family)[0];
    format!("{scheme}://{}", SocketAddr::new(address, API_PORT))
}

/// Splits `https://host[:port]` into scheme and `host:port`.
fn split_url(url: &str) -> Result<(String, String), String> {
    let bad = || format!("--kube-apiserver {url:?} is not of the form https://host:port");
    let (scheme, rest) = url.split_once("://").ok_or_else(bad)?;
    let authority = rest.trim_end_matches('/');
    if !matches!(scheme, "http" | "https") || authority.is_empty() || authority.contains(['/', '@', '?']) {
        return Err(bad());
    }
    let port = if scheme == "http" { 80 } else { 443 };
    let has_port = authority
        .rsplit_once(':')
        .is_some_and(|(_, p)| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
    let authority = if has_port { authority.to_owned() } else { format!("{authority}:{port}") };
    Ok((scheme.to_owned(), authority))
}

fn external_kubeconfig(
    url: &str,
    server_name: Option<&str>,
    external: &ExternalApi,
) -> anyhow::Result<String> {
    let mut cluster = json!({ "server": url });
    match &external.ca_file {
        Some(ca) if !ca.is_file() => bail!("--certificate-authority {} is no file", ca.display()),
        Some(ca) => {
            cluster["certificate-authority"] = json!(ca);
            if let Some(name) = server_name {
                cluster["tls-server-name"] = json!(name);
            }
        }
        None if url.starts_with("https") => cluster["insecure-skip-tls-verify"] = json!(true),
        None => {}
    }
    let config: Value = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "lab",
        "clusters": [{"name": "lab", "cluster": cluster}],
        "users": [{"name": "lab", "user": {"token": external.token}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab", "namespace": "default"}}],
    });
    // JSON is YAML.
    Ok(serde_json::to_string_pretty(&config)?)
}

/// Writes a file that only its owner may read.
fn write_secret(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("write {}", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_split_or_refused() {
        assert_eq!(split_url("https://k.example:6443/").unwrap(), ("https".into(), "k.example:6443".into()));
        assert_eq!(split_url("https://k.example").unwrap().1, "k.example:443");
        assert_eq!(split_url("http://[::1]:8080").unwrap().1, "[::1]:8080");
        for bad in ["k.example:6443", "ftp://x", "https://", "https://a/b", "https://u@h"] {
            assert!(split_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn nodes_are_told_the_address_inside() {
        assert_eq!(node_url("https", Family::V4), "https://172.20.255.1:6443");
        assert_eq!(node_url("https", Family::V6), "https://[fd00:20:ffff::1]:6443");
    }
}
