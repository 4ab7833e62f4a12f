//! `lab exec`: replaces this process by a command inside a namespace.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::control::Failure;
use crate::netns;

/// Becomes the command; returns only when that failed. Must be called before any other thread exists.
pub fn become_command(namespace: &Path, command: &[OsString], environment: &[(&str, OsString)]) -> Failure {
    if let Err(e) = netns::move_this_thread(namespace) {
        return Failure { message: e.to_string(), exit: 125 };
    }
    netns::remount_sys();
    let Some((program, arguments)) = command.split_first() else {
        return Failure::usage("no command");
    };
    let error = Command::new(program).args(arguments).envs(environment.iter().map(|(k, v)| (k, v))).exec();
    let exit = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
    Failure { message: format!("{}: {error}", program.display()), exit }
}
