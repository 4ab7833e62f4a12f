//! `ocicat`: asks the agents of a node what they do and why.
//!
//! Owns the command line and how answers look. Never changes anything by itself: it reads sockets of agents, those of
//! other nodes by `kubectl exec`, and the API server where a question is about the cluster.

mod audit;
mod bgp;
mod client;
mod cluster;
mod drops;
mod explain;
mod felix;
mod ipam;
mod kubectl;
mod node;
mod policy;
mod reach;
mod relay;
mod remote;
mod table;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Asks the agents of a cluster, a laboratory or this node what they do and why.
///
/// Those of other nodes are asked by `kubectl exec`. Rows of nodes that answer are shown, whoever else does not.
///
/// Exit status: 0 when answered and all is well, 1 when an agent answers that it cannot, is not ready, or that something
/// is not as it should be, or when one of several does not answer, 2 for a wrong command line, 3 when nobody answers; `explain`: 4 when policy denies the
/// connection, 5 when policy and a node's kernel differ; `policy whatif`: 6 when a connection would change.
#[derive(Parser)]
#[command(name = "ocicat", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// BGP speakers (bird-lite, route reflectors): all of the cluster, or one
    #[command(subcommand)]
    Bgp(bgp::BgpCommand),
    /// Addresses: who has which, whether that is all right, and what to do about it
    #[command(subcommand)]
    Ipam(ipam::IpamCommand),
    /// The node agent (felix)
    #[command(subcommand)]
    Node(NodeCommand),
    /// Packets that were dropped: at which pod, by which policy
    Drops(drops::DropsOptions),
    /// May a connection pass, and why: policy, Service, route, and what the kernel says
    Explain(explain::ExplainOptions),
    /// Policies: what a change would do, and which are in the kernel
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Is everything in the kernel as it should be
    Audit {
        #[command(flatten)]
        target: felix::FelixTarget,
        #[command(flatten)]
        output: OutputOptions,
    },
    /// Joins standard input and output to an agent's socket: how other machines ask the agents of this node
    Relay(relay::RelayOptions),
    /// Prints the version
    Version,
}

#[derive(Subcommand)]
enum NodeCommand {
    /// Can the agent connect pods, and if not, why
    Status(AgentOptions),
    /// The settings in force, where each comes from, and what is ignored
    Config {
        #[command(flatten)]
        target: felix::FelixTarget,
        #[command(flatten)]
        output: OutputOptions,
    },
}

#[derive(Args)]
struct AgentOptions {
    /// Unix socket of the agent
    #[arg(long, env = "OCICAT_FELIX_SOCKET", default_value = "/var/run/calico/felix.sock")]
    socket: PathBuf,
    #[command(flatten)]
    output: OutputOptions,
}

#[derive(Args)]
struct OutputOptions {
    /// How the answer is printed
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Table,
    /// For programs; keys stay as they are, new ones may come
    Json,
}

/// What a command has to say, and its exit status.
struct Report {
    text: String,
    status: u8,
}

impl Report {
    /// `is_well`: all is as it should be, and everybody answered.
    fn new(text: String, is_well: bool) -> Self {
        Self { text, status: if is_well { 0 } else { UNWELL } }
    }
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Bgp(command) => bgp::run(command),
        Command::Node(NodeCommand::Status(options)) => node::status(&options.socket, options.output.output),
        Command::Node(NodeCommand::Config { target, output }) => node::config(&target, output.output),
        Command::Ipam(command) => ipam::run(&command),
        Command::Drops(options) => drops::run(&options),
        Command::Explain(options) => explain::run(&options),
        Command::Policy(command) => policy::run(&command),
        Command::Audit { target, output } => audit::run(&target, output.output),
        Command::Relay(options) => relay::run(&options),
        Command::Version => Ok(Report::new(format!("ocicat {}\n", env!("CARGO_PKG_VERSION")), true)),
    };
    match outcome {
        // A reader that has seen enough (`| head`) is no failure.
        Ok(report) => match io::stdout().write_all(report.text.as_bytes()) {
            Ok(()) => ExitCode::from(report.status),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::from(report.status),
            Err(_) => ExitCode::from(UNWELL),
        },
        Err(error) => {
            let _ = writeln!(io::stderr(), "ocicat: {error}");
            ExitCode::from(match error {
                _ if error.is_usage() => USAGE,
                _ if error.is_silence() => SILENT,
                _ => UNWELL,
            })
        }
    }
}

/// Exit status: the agent answers, and something is wrong.
const UNWELL: u8 = 1;
/// Exit status: the command line makes no sense.
const USAGE: u8 = 2;
/// Exit status: nobody answers.
const SILENT: u8 = 3;
/// Exit status: policy denies the connection.
const DENIED: u8 = 4;
/// Exit status: policy and a node's kernel differ.
const DIFFERS: u8 = 5;
/// Exit status: a connection would change.
const CHANGES: u8 = 6;

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
