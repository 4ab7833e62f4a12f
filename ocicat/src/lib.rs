//! `ocicat`: asks the agents of a node what they do and why.
//!
//! Owns the command line and how answers look. Changes nothing but what `ipam` and `migrate` are told to: it reads sockets of agents, those of
//! other nodes by `kubectl exec`, and the API server where a question is about the cluster.

mod audit;
mod bgp;
mod client;
mod cluster;
mod diags;
mod doctor;
mod drops;
mod explain;
mod felix;
mod get;
mod ipam;
mod kubectl;
mod migrate;
mod node;
mod node_status;
mod policy;
mod reach;
#[cfg(test)]
mod reference;
mod relay;
mod remote;
mod route;
mod status;
mod table;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

/// Asks the agents of a cluster, a laboratory or this node what they do and why.
///
/// Those of other nodes are asked by `kubectl exec`. Rows of nodes that answer are shown, whoever else does not.
///
/// Exit status: 0 when answered and all is well, 1 when an agent answers that it cannot, is not ready, or that something
/// is not as it should be, or when one of several does not answer, 2 for a wrong command line, 3 when nobody answers; `explain`: 4 when policy denies the
/// connection, 5 when policy and a node's kernel differ; `policy whatif`: 6 when a connection would change;
/// `doctor`: 7 when there are warnings and no errors.
#[derive(Parser)]
#[command(name = "ocicat", version, disable_help_subcommand = true)]
struct Cli {
    /// Before or after the command, as kubectl has them.
    #[command(flatten)]
    cluster: cluster::ClusterOptions,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// One screen: problems first, then nodes, sessions, policies and pools
    Status(status::StatusOptions),
    /// What is wrong with each node, with what was seen and the command that mends it; works without the API server
    Doctor(doctor::DoctorOptions),
    /// One bundle for whoever was not there: kernel, agents, logs, objects of all nodes, without secrets
    Diags(diags::DiagsOptions),
    /// Objects of the network with the columns that calicoctl's users know
    Get(get::GetOptions),
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
    /// The way of a packet
    #[command(subcommand)]
    Route(route::RouteCommand),
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
    /// From Calico to us and back, node by node, with the addresses that pods have
    #[command(subcommand)]
    Migrate(migrate::MigrateCommand),
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

/// Answers what the arguments of the process ask.
#[must_use]
pub fn main() -> ExitCode {
    let matches = Cli::command().bin_name(program()).get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let outcome = match cli.command {
        Command::Status(options) => status::run(&options),
        Command::Doctor(options) => doctor::run(&options),
        Command::Diags(options) => diags::run(&options),
        Command::Get(options) => get::run(&options),
        Command::Bgp(command) => bgp::run(command),
        Command::Node(NodeCommand::Status(options)) => node::status(&options.socket, options.output.output),
        Command::Node(NodeCommand::Config { target, output }) => node::config(&target, output.output),
        Command::Ipam(command) => ipam::run(&command),
        Command::Drops(options) => drops::run(&options),
        Command::Explain(options) => explain::run(&options),
        Command::Route(command) => route::run(&command),
        Command::Policy(command) => policy::run(&command),
        Command::Audit { target, output } => audit::run(&target, output.output),
        Command::Migrate(command) => migrate::run(&command),
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

/// What it was started as: `kubectl` looks for its plugins by name.
fn program() -> &'static str {
    let name = std::env::args_os().next().map(PathBuf::from);
    let name = name.as_deref().and_then(|path| path.file_stem()).and_then(|name| name.to_str());
    if name.is_some_and(|name| name.starts_with("kubectl-ocicat")) { "kubectl ocicat" } else { "ocicat" }
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
/// Exit status: nothing is broken, but something may.
const WARNED: u8 = 7;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_of_the_cluster_stand_before_or_after_the_command() {
        for line in [
            "ocicat --context c --kubeconfig k status",
            "ocicat status --context c --kubeconfig k",
            "ocicat --context x status --kubeconfig k --context c",
        ] {
            let cli = Cli::try_parse_from(line.split(' '));
            let Ok(Cli { command: Command::Status(options), .. }) = cli else { panic!("{line}") };
            let cluster = options.cluster();
            assert_eq!(
                (cluster.context.as_deref(), cluster.kubeconfig.as_deref()),
                (Some("c"), Some("k".as_ref()))
            );
        }
    }
}
