//! The `lab` command; everything it does is in the library.

use std::process::ExitCode;

use clap::Parser;

use lab::cli::Cli;
use lab::commands;

fn main() -> ExitCode {
    match commands::run(Cli::parse()) {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            commands::complain(&failure);
            ExitCode::from(failure.exit)
        }
    }
}
