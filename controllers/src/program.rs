//! What the arguments of `controllers` mean. Wiring only.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::metrics::Metrics;
use crate::settings::Decided;
use crate::webhook::Endpoint;
use crate::{host_endpoints, ipam, leader, policy_status, settings, web, webhook};
use anyhow::Context;
use clap::{CommandFactory, Parser};
use datastore::Datastore;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::filter::LevelFilter;

/// Refuses objects that make no sense, and says in the status of policies where they are in force.
#[derive(Debug, Parser)]
#[command(name = "controllers", version)]
struct Arguments {
    /// How to reach the API server; without it, as a Pod does
    #[arg(long, env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Namespace of the webhook's Secret, of its Service and of the Lease
    #[arg(long, env = "NAMESPACE", default_value = "kube-system")]
    namespace: String,
    /// Where the API server's webhook requests are answered, by HTTPS
    #[arg(long, default_value = "0.0.0.0:9443")]
    webhook_listen: SocketAddr,
    /// How the API server reaches it, such as https://192.0.2.1:9443; without it, by the Service
    /// ocicat-controllers
    #[arg(long)]
    webhook_url: Option<String>,
    /// Register no webhook
    #[arg(long)]
    no_webhook: bool,
    /// Where /liveness, /readiness and /metrics are answered
    #[arg(long, default_value = "127.0.0.1:9094")]
    health_listen: SocketAddr,
    /// Who this is in the election of the one that writes; host and process unless given
    #[arg(long, env = "POD_NAME")]
    identity: Option<String>,
    /// Seconds after which handles and blocks that nobody owns are deleted, 0 for never; unless given,
    /// leakGracePeriod of the KubeControllersConfiguration, else 300
    #[arg(long, env = "OCICAT_LEAK_GRACE")]
    leak_grace: Option<u64>,
    /// Seconds that a node which no Node object stands for has to say that it lives before all that it holds is
    /// freed, 0 for ever
    #[arg(long, env = "OCICAT_NODE_GRACE", default_value_t = 120)]
    node_grace: u64,
    /// error, warn, info, debug or trace
    #[arg(long, default_value = "info")]
    log_level: LevelFilter,
}

/// The options of the command line, for the reference.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Runs the controllers by the arguments of the process, until it is told to end.
///
/// # Errors
///
/// An argument makes no sense, a socket cannot be had, or the API server's credentials cannot be read.
pub fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt().with_max_level(arguments.log_level).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(arguments))
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let datastore = Datastore::connect(arguments.kubeconfig.as_deref()).await?;
    let metrics = Arc::new(Metrics::default());
    let listener = TcpListener::bind(arguments.health_listen)
        .await
        .with_context(|| format!("listen on {}", arguments.health_listen))?;
    let (registered, ready) = watch::channel(arguments.no_webhook);
    tokio::spawn(web::serve(listener, metrics.clone(), ready));
    if !arguments.no_webhook {
        let listener = TcpListener::bind(arguments.webhook_listen)
            .await
            .with_context(|| format!("listen on {}", arguments.webhook_listen))?;
        let endpoint = match arguments.webhook_url {
            Some(url) => Endpoint::Url(url),
            None => Endpoint::Service { namespace: arguments.namespace.clone() },
        };
        let (datastore, namespace) = (datastore.clone(), arguments.namespace.clone());
        tokio::spawn(webhook::run(datastore, namespace, endpoint, listener, metrics.clone(), registered));
    }
    let (leading, leads) = watch::channel(false);
    let election = leader::Election {
        datastore: datastore.clone(),
        namespace: arguments.namespace,
        identity: arguments.identity.unwrap_or_else(identity),
    };
    tokio::spawn(policy_status::run(datastore.clone(), leads.clone(), metrics.clone()));
    let decided = Decided { leak_grace_period: arguments.leak_grace.map(Duration::from_secs) };
    let settings = settings::watch(&datastore, decided.clone());
    tokio::spawn(settings::report(datastore.clone(), leads.clone(), settings.clone(), decided));
    tokio::spawn(host_endpoints::run(datastore.clone(), leads.clone(), metrics.clone(), settings.clone()));
    let node_grace = Duration::from_secs(arguments.node_grace);
    tokio::spawn(ipam::run(datastore, leads, metrics.clone(), settings, node_grace));
    tokio::select! {
        () = election.run(&leading, &metrics) => {}
        _ = terminated.recv() => {}
        _ = interrupted.recv() => {}
    }
    election.resign(&leading).await;
    Ok(())
}

fn identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}-{}", host.trim(), std::process::id())
}
