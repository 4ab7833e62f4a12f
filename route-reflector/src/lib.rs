//! `route-reflector`: a BGP speaker that reflects routes between its clients (RFC 4456) and writes none into
//! the kernel. Wiring only.

mod config;
mod file;
mod nodes;
mod service;
mod watch;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::{CommandFactory, Parser};
use tracing_subscriber::filter::LevelFilter;

/// Reflects BGP routes between its clients. A change of the file, or SIGHUP, is taken over by its differences:
/// sessions that it does not concern stay. SIGTERM leaves clients with their routes (graceful restart).
#[derive(Debug, Parser)]
#[command(name = "route-reflector", version)]
struct Arguments {
    /// YAML file: routerId, asNumber, clusterId, listen, clients, peers
    #[arg(long, default_value = "/etc/route-reflector.yaml")]
    config: PathBuf,
    /// Check the file, say what is wrong with it, and exit
    #[arg(long, alias = "check-config")]
    check: bool,
    /// Unix socket on which `ocicat bgp` and `gobgp` ask
    #[arg(long, default_value = "/run/route-reflector.sock")]
    socket: PathBuf,
    /// Unix socket that answers `birdc`; none unless given
    #[arg(long)]
    bird_socket: Option<PathBuf>,
    /// Address and port of /healthz, /readyz and /metrics; none unless given
    #[arg(long)]
    http: Option<SocketAddr>,
    /// Record all that the speaker is told into this new file; `ocicat bgp replay` plays it again
    #[arg(long)]
    record: Option<PathBuf>,
    /// error, warn, info, debug or trace
    #[arg(long, default_value = "info")]
    log_level: LevelFilter,
}

/// The options of the command line, for the reference.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Runs the reflector that the arguments of the process describe, until it is told to end.
///
/// # Errors
///
/// The file makes no sense, or a socket cannot be had.
pub fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let settings = config::read(&arguments.config)?;
    if arguments.check {
        let speaker = &settings.speaker;
        println!("{} client ranges, {} peers: fine", speaker.dynamic.len(), speaker.peers.len());
        return Ok(());
    }
    tracing_subscriber::fmt()
        .with_max_level(arguments.log_level)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start runtime")?;
    runtime.block_on(service::run(&arguments, settings))?;
    // Sockets close without a Cease: clients keep all routes until we are back.
    runtime.shutdown_background();
    Ok(())
}
