//! `route-reflector`: a BGP speaker that reflects routes between its clients (RFC 4456) and writes none into
//! the kernel. Wiring only.

mod config;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use bgp::{Event, Speaker, Start};
use bgp_api::{ControlSocket, Owner, Subject};
use bgp_transport::Driver;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::LevelFilter;

use config::Settings;

/// Reflects BGP routes between its clients. SIGHUP reads the configuration again: only what differs changes,
/// and sessions that it does not concern stay.
#[derive(Debug, Parser)]
#[command(name = "route-reflector", version)]
struct Arguments {
    /// YAML file: routerId, asNumber, clusterId, listen, clients, peers
    #[arg(long, default_value = "/etc/route-reflector.yaml")]
    config: PathBuf,
    /// Check the file, say what is wrong with it, and exit
    #[arg(long)]
    check_config: bool,
    /// Unix socket on which `ocicat bgp` asks
    #[arg(long, default_value = "/run/route-reflector.sock")]
    socket: PathBuf,
    /// error, warn, info, debug or trace
    #[arg(long, default_value = "info")]
    log_level: LevelFilter,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let settings = config::read(&arguments.config)?;
    if arguments.check_config {
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
    runtime.block_on(run(&arguments, settings))?;
    // Sockets close without a Cease: clients keep all routes until we are back.
    runtime.shutdown_background();
    Ok(())
}

async fn run(arguments: &Arguments, settings: Settings) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    let mut reload = signal(SignalKind::hangup()).context("handle SIGHUP")?;
    // A socket that an earlier run left behind means that clients may still hold what it reflected.
    let restarted = arguments.socket.exists();
    let (console, mut calls) = bgp_api::console();
    let mut control = ControlSocket::bind(&arguments.socket, console)
        .with_context(|| format!("listen on {}", arguments.socket.display()))?;
    let start = Start { seed: seed(), forwarding_kept: restarted, ..Start::default() };
    let mut driver =
        Driver::new(Speaker::new(settings.speaker, start, Instant::now())).context("start driver")?;
    if let Err(errors) = driver.listen(&settings.listen) {
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        anyhow::bail!(texts.join("; "));
    }
    tracing::info!(restarted, "reflecting");
    let started = Instant::now();
    let mut reconfigured = started;
    loop {
        tokio::select! {
            () = driver.turn() => {}
            call = calls.next() => {
                let owner = owner(&driver, started, reconfigured);
                call.run(Subject { speaker: Some(driver.speaker_mut()), owner, now: Instant::now() });
            }
            _ = reload.recv() => {
                reconfigure(arguments, &mut driver);
                reconfigured = Instant::now();
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
        while let Some(event) = driver.speaker_mut().poll_event() {
            log(&event);
        }
    }
    // The next run must find the socket: see above.
    control.keep_file();
    Ok(())
}

fn owner(driver: &Driver, started: Instant, reconfigured: Instant) -> Owner {
    Owner {
        version: env!("CARGO_PKG_VERSION"),
        started: Some(started),
        reconfigured: Some(reconfigured),
        listening: driver.listening().collect(),
        ..Owner::default()
    }
}

/// Takes over the file as it is now; a file with an error changes nothing.
fn reconfigure(arguments: &Arguments, driver: &mut Driver) {
    let settings = match config::read(&arguments.config) {
        Ok(settings) => settings,
        Err(error) => return tracing::error!(error = format!("{error:#}"), "configuration not changed"),
    };
    for change in driver.speaker_mut().reconfigure(settings.speaker, Instant::now()) {
        tracing::info!(?change, "configuration");
    }
    for error in driver.listen(&settings.listen).err().into_iter().flatten() {
        tracing::error!("{error}");
    }
}

fn seed() -> u64 {
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    time.as_nanos() as u64
}

fn log(event: &Event) {
    match event {
        Event::PeerUp { peer } => tracing::info!(%peer, "session up"),
        Event::PeerDown { peer, cause, routes_kept } => {
            tracing::warn!(%peer, %cause, routes_kept, "session down");
        }
        Event::PeerFailed { peer, cause } => tracing::info!(%peer, %cause, "cannot connect"),
        Event::Malformed { peer, detail } => tracing::warn!(%peer, %detail, "malformed message"),
        Event::MaxPrefixWarning { peer, family, received, limit } => {
            tracing::warn!(%peer, %family, received, limit, "nearly as many routes as the peer may send");
        }
        Event::RestartComplete => tracing::info!("restart complete"),
    }
}
