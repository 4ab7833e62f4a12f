//! What the arguments of `typha` mean. Wiring only.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::hub::Hub;
use crate::listener::Listener;
use crate::{balance, watches, web};
use anyhow::{Context, bail};
use clap::{CommandFactory, Parser};
use datastore::Datastore;
use datastore::typha::{Files, Identity, ServerTls};
use fanout::Limits;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::filter::LevelFilter;

/// Watches the cluster once, for the felix and bird-lite of many nodes.
#[derive(Debug, Parser)]
#[command(name = "typha", version)]
struct Arguments {
    /// How to reach the API server; without it, as a Pod does
    #[arg(long, env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Where felix and bird-lite connect
    #[arg(long, env = "TYPHA_LISTEN", default_value = "0.0.0.0:5473")]
    listen: SocketAddr,
    /// PEM file with the CA of the clients; needs the next three options too, or no TLS is spoken at all
    #[arg(long, env = "TYPHA_CAFILE")]
    ca_file: Option<PathBuf>,
    /// PEM file with our certificate, and those between it and the CA
    #[arg(long, env = "TYPHA_SERVERCERTFILE")]
    cert_file: Option<PathBuf>,
    /// PEM file with its key
    #[arg(long, env = "TYPHA_SERVERKEYFILE")]
    key_file: Option<PathBuf>,
    /// Common name that a client's certificate must have
    #[arg(long, env = "TYPHA_CLIENTCN")]
    client_cn: Option<String>,
    /// URI that a client's certificate may have instead
    #[arg(long, env = "TYPHA_CLIENTURISAN")]
    client_uri_san: Option<String>,
    /// Service of all instances, by which each knows its share of the clients; none for no share
    #[arg(long, env = "TYPHA_K8SSERVICENAME", default_value = "calico-typha")]
    service: String,
    /// Namespace of the Service
    #[arg(long, env = "TYPHA_K8SNAMESPACE", default_value = "kube-system")]
    namespace: String,
    /// Connections beyond this are refused
    #[arg(long, env = "TYPHA_MAXCONNECTIONSUPPERLIMIT", default_value_t = 10_000)]
    max_connections: usize,
    /// Seconds over which clients are sent elsewhere when asked to stop
    #[arg(long, env = "TYPHA_SHUTDOWNTIMEOUTSECS", default_value_t = 30)]
    shutdown_seconds: u64,
    /// Where /liveness, /readiness and /metrics are answered
    #[arg(long, env = "TYPHA_HEALTHLISTEN", default_value = "127.0.0.1:9093")]
    health_listen: SocketAddr,
    /// error, warn, info, debug or trace
    #[arg(long, env = "TYPHA_LOGSEVERITYSCREEN", default_value = "info")]
    log_level: LevelFilter,
}

/// How long a client's TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a client may take nothing.
const WRITE: Duration = Duration::from_secs(60);

/// The options of the command line, for the reference.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Runs typha by the arguments of the process, until it is told to end.
///
/// # Errors
///
/// An argument makes no sense, a socket cannot be had, or the API server's credentials cannot be read.
pub fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt().with_max_level(arguments.log_level).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(arguments))
}

fn tls(arguments: &Arguments) -> anyhow::Result<Option<ServerTls>> {
    let (cn, uri) = (arguments.client_cn.as_ref(), arguments.client_uri_san.as_ref());
    let files = (&arguments.ca_file, &arguments.cert_file, &arguments.key_file);
    match files {
        (None, None, None) if cn.or(uri).is_none() => {
            tracing::warn!("no TLS: whoever reaches this port reads the cluster's pods and policies");
            Ok(None)
        }
        (Some(ca), Some(certificate), Some(key)) if cn.or(uri).is_some() => {
            let (ca, certificate, key) = (ca.clone(), certificate.clone(), key.clone());
            Ok(Some(ServerTls::load(Files { ca, certificate, key })?))
        }
        _ => bail!("TLS needs --ca-file, --cert-file, --key-file, and --client-cn or --client-uri-san"),
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let tls = tls(&arguments)?.map(|tls| Arc::new(Mutex::new(tls)));
    let datastore = Datastore::connect(arguments.kubeconfig.as_deref()).await?;
    let bind =
        async |address| TcpListener::bind(address).await.with_context(|| format!("listen on {address}"));
    let (clients, health) = (bind(arguments.listen).await?, bind(arguments.health_listen).await?);
    let (stop, stopped) = watch::channel(false);
    let hub = Hub::new(Limits::default());
    tokio::spawn({
        let hub = hub.clone();
        async move { hub.keep_time().await }
    });
    tokio::spawn(web::serve(health, hub.clone(), stopped.clone()));
    tokio::spawn(watches::run(datastore.clone(), hub.clone()));
    if let Some(tls) = &tls {
        tokio::spawn(Listener::follow_files(tls.clone()));
    }
    if arguments.service != "none" {
        tokio::spawn(balance::run(datastore, hub.clone(), arguments.namespace, arguments.service));
    }
    let listener = Listener {
        hub: hub.clone(),
        tls,
        clients: Identity { common_name: arguments.client_cn, uri_san: arguments.client_uri_san },
        most: arguments.max_connections,
        handshake: HANDSHAKE,
        write: WRITE,
    };
    tracing::info!(listen = %arguments.listen, version = env!("CARGO_PKG_VERSION"), "typha starts");
    tokio::spawn(Arc::new(listener).run(clients, stopped));
    tokio::select! {
        _ = terminated.recv() => {}
        _ = interrupted.recv() => {}
    }
    stop.send_replace(true);
    tracing::info!("stopping; clients are sent elsewhere");
    tokio::select! {
        () = balance::drain(&hub, Duration::from_secs(arguments.shutdown_seconds)) => {}
        _ = terminated.recv() => {}
        _ = interrupted.recv() => {}
    }
    Ok(())
}
