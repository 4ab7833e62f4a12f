//! `ocicat`: asks the agents of a node what they do and why.
//!
//! Owns the command line and how answers look. Never changes anything by itself, and asks the API server by `kubectl`
//! only.

mod bgp;
mod client;
mod node;
mod table;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

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
    /// BGP speakers (bird-lite, route reflectors): all of this machine, or one
    #[command(subcommand)]
    Bgp(bgp::BgpCommand),
    /// The node agent (felix)
    #[command(subcommand)]
    Node(NodeCommand),
    /// Prints the version
    Version,
}

#[derive(Subcommand)]
enum NodeCommand {
    /// Can the agent connect pods, and if not, why
    Status(AgentOptions),
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
        Command::Bgp(command) => bgp::run(command),
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
