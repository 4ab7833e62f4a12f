//! What the arguments of `bird-lite` mean. Wiring only.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::peers::RouterId;
use anyhow::Context;
use clap::builder::BoolishValueParser;
use clap::{ArgAction, CommandFactory, Parser};
use datastore::typha;
use model::PodCidrBlocks;
use tracing_subscriber::filter::LevelFilter;

use crate::app;
use crate::log_level::LogLevel;

/// The BGP speaker of a node: announces its blocks, learns those of others, and writes their routes.
#[derive(Debug, Parser)]
#[command(name = "bird-lite", version)]
struct Arguments {
    /// Name of this node in the cluster
    #[arg(long, env = "NODENAME")]
    node_name: String,
    /// How to reach the API server; without it, as a Pod does
    #[arg(long, env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Namespace of the Secrets that hold BGP passwords
    #[arg(long, env = "NAMESPACE", default_value = "kube-system")]
    namespace: String,
    /// BGP Identifier: an IPv4 address, or hash to derive one from the node's name; its IPv4 address unless given
    #[arg(long, env = "CALICO_ROUTER_ID", default_value = "")]
    router_id: RouterId,
    /// Unix socket on which `ocicat bgp` and `gobgp` ask
    #[arg(long, default_value = "/var/run/calico/bird-lite.sock")]
    socket: PathBuf,
    /// Unix socket that answers `birdc` about IPv4 peers; beside --socket unless given. bird6.ctl, for IPv6
    /// peers, is in the same directory
    #[arg(long)]
    bird_socket: Option<PathBuf>,
    /// Where /liveness, /readiness and /metrics are answered
    #[arg(long, default_value = "127.0.0.1:9098")]
    health_listen: SocketAddr,
    /// Record all that the speaker is told into this new file; `ocicat bgp replay` plays it again
    #[arg(long)]
    record: Option<PathBuf>,
    /// Ranges of cluster IPs to announce, with commas between them; wins over serviceClusterIPs of BGPConfiguration
    #[arg(long, env = "CALICO_ADVERTISE_CLUSTER_IPS")]
    advertise_cluster_ips: Option<String>,
    /// Learned routes refer to nexthop objects (`ip nexthop`) where the kernel has such; false lets each route name its
    /// way itself
    #[arg(long, env = "BIRD_LITE_NEXTHOP_OBJECTS", default_value_t = true, action = ArgAction::Set)]
    nexthop_objects: bool,
    /// true: another IPAM plugin gives out addresses of Node.spec.podCIDRs, and those of this node are announced
    #[arg(long, env = "USE_POD_CIDR", default_value = "false", value_parser = BoolishValueParser::new(),
        action = ArgAction::Set)]
    use_pod_cidr: bool,
    /// error, warn, info, debug or trace
    #[arg(long, default_value = "info")]
    log_level: LevelFilter,
}

/// The options of the command line, for the reference.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Runs the speaker by the arguments of the process, until it is told to end.
///
/// # Errors
///
/// An argument makes no sense, a socket cannot be had, or the API server's credentials cannot be read.
pub fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let log_level = LogLevel::start(arguments.log_level);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start runtime")?;
    runtime.block_on(app::run(app::Settings {
        node_name: arguments.node_name.as_str().into(),
        kubeconfig: arguments.kubeconfig,
        namespace: arguments.namespace,
        router_id: arguments.router_id,
        log_level,
        bird_socket: arguments.bird_socket.unwrap_or_else(|| arguments.socket.with_file_name("bird.ctl")),
        socket: arguments.socket,
        record: arguments.record,
        advertise_cluster_ips: arguments.advertise_cluster_ips.filter(|ranges| !ranges.trim().is_empty()),
        health_listen: arguments.health_listen,
        nexthop_objects: arguments.nexthop_objects,
        pod_cidrs: arguments.use_pod_cidr.then(PodCidrBlocks::default),
        typha: typha::Settings::from_parameters(
            |name| std::env::var(format!("FELIX_{}", name.to_ascii_uppercase())).ok(),
            std::env::var("OCICAT_TYPHA_FALLBACK").ok().as_deref(),
        )?,
    }))?;
    // Sockets close without a Cease, and routes stay: peers and kernel carry on until we are back.
    runtime.shutdown_background();
    Ok(())
}
