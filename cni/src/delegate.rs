//! Other IPAM plugins: found in `CNI_PATH`, started with our environment and our configuration.

use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Map, Value};

use crate::error::{CniError, code};
use crate::invocation::Verb;
use crate::result::Success;

/// Asks a plugin for addresses.
pub fn add(plugin: &str, path: &[PathBuf], conf: &Map<String, Value>) -> Result<Success, CniError> {
    let output = run(plugin, path, conf, Verb::Add)?;
    let value: Value = serde_json::from_slice(&output).map_err(|error| broken(plugin, &error.to_string()))?;
    Success::parse(plugin, &value).map_err(|error| broken(plugin, &error.to_string()))
}

/// Any other verb: its success says nothing.
pub fn call(plugin: &str, path: &[PathBuf], conf: &Map<String, Value>, verb: Verb) -> Result<(), CniError> {
    run(plugin, path, conf, verb).map(drop)
}

fn run(plugin: &str, path: &[PathBuf], conf: &Map<String, Value>, verb: Verb) -> Result<Vec<u8>, CniError> {
    let file = find(plugin, path)?;
    let failed = |error: io::Error| {
        CniError::new(code::DELEGATE, format!("ipam.type: cannot run {}", file.display()))
            .details(error.to_string())
    };
    let mut child = Command::new(&file)
        .env("CNI_COMMAND", verb.as_str())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        let text = serde_json::to_vec(conf).expect("a map with string keys is always JSON");
        match stdin.write_all(&text) {
            // A plugin may answer without reading to the end.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(failed(error)),
            _ => {}
        }
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(failure(plugin, &output.stdout, &output.status.to_string()))
}

/// Specification, "Execution protocol": the first file of this name in `CNI_PATH`.
fn find(plugin: &str, path: &[PathBuf]) -> Result<PathBuf, CniError> {
    let is_executable = |file: &PathBuf| {
        file.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
    };
    let found = path.iter().map(|directory| directory.join(plugin)).find(is_executable);
    found.ok_or_else(|| {
        let searched: Vec<_> = path.iter().map(|directory| directory.display().to_string()).collect();
        CniError::new(
            code::DELEGATE,
            format!(
                "ipam.type: no executable {plugin:?} in CNI_PATH ({}): install it, or use \"calico-ipam\"",
                searched.join(":")
            ),
        )
    })
}

/// The plugin's own error, when it printed one.
fn failure(plugin: &str, stdout: &[u8], status: &str) -> CniError {
    let value: Value = serde_json::from_slice(stdout).unwrap_or_default();
    let (Some(number), Some(msg)) = (value["code"].as_u64(), value["msg"].as_str()) else {
        return broken(plugin, &format!("{status} without a CNI error"));
    };
    let number = u32::try_from(number).unwrap_or(code::DELEGATE);
    CniError::new(number, format!("IPAM plugin {plugin}: {msg}"))
        .details(value["details"].as_str().unwrap_or_default())
}

fn broken(plugin: &str, why: &str) -> CniError {
    CniError::new(code::DELEGATE, format!("IPAM plugin {plugin} gave no CNI result")).details(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_that_is_nowhere_is_named_with_the_path() {
        let error = add("nowhere", &["/a".into(), "/b".into()], &Map::new()).unwrap_err();

        assert_eq!(error.code, 102);
        assert!(error.msg.contains("\"nowhere\"") && error.msg.contains("/a:/b"), "{}", error.msg);
    }

    #[test]
    fn a_plugins_own_error_is_handed_on() {
        let error = failure("host-local", br#"{"code":11,"msg":"busy","details":"lock"}"#, "exit status: 1");

        assert_eq!((error.code, error.details.as_str()), (11, "lock"));
        assert!(error.msg.contains("host-local: busy"));
        assert_eq!(failure("x", b"panic!", "signal: 6").code, 102);
    }
}
