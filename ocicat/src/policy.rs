//! `ocicat policy`: what a change would do, and which policies are in the kernel.

mod classes;
mod compare;
mod ports;
mod status;
mod whatif;

use clap::Subcommand;

use crate::client::CallError;
use crate::felix::FelixTarget;
use crate::{OutputOptions, Report};

#[derive(Subcommand)]
pub(crate) enum PolicyCommand {
    /// Which connections would change if these objects were applied or deleted; nothing is applied
    Whatif(whatif::WhatifOptions),
    /// Which policies each node has in its kernel, and at which generation
    Status {
        #[command(flatten)]
        target: FelixTarget,
        #[command(flatten)]
        output: OutputOptions,
    },
}

pub(crate) fn run(command: &PolicyCommand) -> Result<Report, CallError> {
    match command {
        PolicyCommand::Whatif(options) => whatif::run(options),
        PolicyCommand::Status { target, output } => status::run(target, output.output),
    }
}
