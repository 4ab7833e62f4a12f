//! `ocicat`: asks the agents of a node what they do and why.
//!
//! Owns the command line and how answers look. Never changes anything by itself and never talks to the API server.

mod bgp;
mod client;
mod node;
mod table;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use client::CallError;

/// Asks the agents of this node what they do and why.
///
/// Exit status: 0 when answered, 1 when the agent answers that it cannot or is not ready, 2 for a wrong command line,
/// 3 when no agent answers.
#[derive(Parser)]
#[command(name = "ocicat", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The BGP speaker of this node (bird-lite, or a route reflector)
    #[command(subcommand)]
    Bgp(BgpCommand),
    /// The node agent (felix)
    #[command(subcommand)]
    Node(NodeCommand),
    /// Prints the version
    Version,
}

#[derive(Subcommand)]
enum BgpCommand {
    /// Peers with state, uptime, prefixes, and why one is down
    Summary {
        /// Exit with 1 unless every peer is Established and nothing is pending or wrong
        #[arg(long)]
        check: bool,
        #[command(flatten)]
        options: SpeakerOptions,
    },
    /// Paths of the table, the best ones marked with '*'
    Routes {
        /// Only paths to this prefix, such as 10.65.0.0/26
        prefix: Option<String>,
        /// Only what this peer (its address) has from us
        #[arg(long, value_name = "PEER")]
        advertised_to: Option<String>,
        #[command(flatten)]
        options: SpeakerOptions,
    },
    /// Ends a peer's session so that a new one begins
    Reset {
        /// Address of the peer
        peer: String,
        #[command(flatten)]
        options: SpeakerOptions,
    },
}

#[derive(Subcommand)]
enum NodeCommand {
    /// Can the agent connect pods, and if not, why
    Status(AgentOptions),
}

#[derive(Args)]
struct SpeakerOptions {
    /// Unix socket of the speaker
    #[arg(long, env = "OCICAT_BGP_SOCKET", default_value = "/var/run/calico/bird-lite.sock")]
    socket: PathBuf,
    #[command(flatten)]
    output: OutputOptions,
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

/// What a command has to say, and whether all is well.
struct Report {
    text: String,
    is_well: bool,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Bgp(command) => run_bgp(command),
        Command::Node(NodeCommand::Status(options)) => node::status(&options.socket, options.output.output),
        Command::Version => {
            Ok(Report { text: format!("ocicat {}\n", env!("CARGO_PKG_VERSION")), is_well: true })
        }
    };
    match outcome {
        // A reader that has seen enough (`| head`) is no failure.
        Ok(report) => match io::stdout().write_all(report.text.as_bytes()) {
            Ok(()) if report.is_well => ExitCode::SUCCESS,
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            _ => ExitCode::from(UNWELL),
        },
        Err(error) => {
            let _ = writeln!(io::stderr(), "ocicat: {error}");
            ExitCode::from(if error.is_silence() { SILENT } else { UNWELL })
        }
    }
}

fn run_bgp(command: BgpCommand) -> Result<Report, CallError> {
    match command {
        BgpCommand::Summary { check, options } => {
            let report = bgp::summary(&options.socket, options.output.output)?;
            Ok(Report { is_well: report.is_well || !check, ..report })
        }
        BgpCommand::Routes { prefix, advertised_to, options } => {
            let format = options.output.output;
            bgp::routes(
                &options.socket,
                format,
                prefix.unwrap_or_default(),
                advertised_to.unwrap_or_default(),
            )
        }
        BgpCommand::Reset { peer, options } => bgp::reset(&options.socket, options.output.output, peer),
    }
}

/// Exit status: the agent answers, and something is wrong.
const UNWELL: u8 = 1;
/// Exit status: nobody answers.
const SILENT: u8 = 3;

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
