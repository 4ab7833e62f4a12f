//! All programs of the image in one file, which is what it is started as: they share most of their code.
//!
//! Owns the choice by name, nothing else. The image has it as `ocicat`, with symbolic links of the other names.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let name = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&name).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let outcome = match name {
        "bird-lite" => bird_lite::main(),
        "controllers" => controllers::main(),
        "felix" => felix::main(),
        "route-reflector" => route_reflector::main(),
        "typha" => typha::main(),
        // `ocicat` and `kubectl-ocicat`; whoever started a copy by another name gets its help.
        _ => return ocicat::main(),
    };
    // As the standard library ends a `main` that returns an error.
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error:?}");
            ExitCode::FAILURE
        }
    }
}
