//! Node agent of Ocicat: routes, policy and addresses of the pods of one node.
//!
//! Owns settings, wiring, the CNI plugin's socket, health and metrics. Decides nothing about policy, addresses or
//! rules: that is `felix-calc`, `ipam`, `felix-render` and `felix-dataplane`. It never flushes anything: not when
//! it starts, not when it ends, and a SIGKILL at any moment is safe.

mod address_book;
mod addresses;
mod adopt;
mod annotations;
mod autodetect;
mod backend;
mod checks;
mod cluster;
mod command;
mod config_file;
mod connections;
mod dataplane_thread;
mod default_pools;
mod del_queue;
mod draw_journal;
mod drivers;
mod drop_log;
mod drops;
mod endpoint_store;
mod events;
mod first_start;
mod handle_locks;
mod health;
mod interfaces;
mod ipam;
mod journal;
mod keep_up;
mod kernel_doors;
mod kernel_watch;
mod listeners;
mod logging;
mod metrics;
mod mtu;
mod network_condition;
mod node_address;
mod operator;
mod pod_cidrs;
mod pod_mtus;
mod pod_options;
mod pods;
mod policy_status;
mod reaper;
mod reclaim;
mod release;
mod rule_mode;
#[cfg(test)]
mod scratch;
mod server;
mod service;
mod settings;
mod shaper;
mod start_settings;
mod state_files;
mod steps;
mod strict;
mod tunnel_address;
pub mod variables;
mod wireguard;
mod wireguard_metrics;
mod worker;

use anyhow::Result;
use clap::{CommandFactory, Parser};

use settings::{Arguments, Settings};

/// The options of the command line, for the reference.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Runs the agent until it is told to end; reads the arguments of the process and its environment.
///
/// # Errors
///
/// Settings or the kernel leave no way to start.
pub fn main() -> Result<()> {
    let host_name = steps::host_name();
    let arguments = Arguments::parse();
    let fixed = steps::FixedAddresses {
        health: arguments.health_listen.is_some(),
        metrics: arguments.metrics_listen.is_some(),
    };
    if let Some(mount) = &arguments.proc_sys {
        kernel_linux::sysctl::use_mount(mount);
    }
    let path = arguments.config_file.clone();
    let file = config_file::read(&path);
    let text = file.as_deref().unwrap_or_default();
    let (settings, ignored) = Settings::new(arguments, environment(), text, &host_name);
    let log_level = logging::start(settings.log_format, settings.overrides.log_severity())?;
    if let Err(error) = file {
        tracing::error!(path = %path.display(), %error, "the configuration file cannot be read, it counts as empty");
    }
    ignored.iter().for_each(|setting| tracing::warn!(%setting, "environment and configuration file"));
    settings.start.misfits().for_each(|misfit| tracing::error!(%misfit, "environment"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(steps::run(settings, fixed, log_level))
}

/// Variables that are text; others cannot be ours.
fn environment() -> impl Iterator<Item = (String, String)> {
    let text = |(key, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((key.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text)
}
