//! Running the lab and kubectl.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A program that was built beside this one.
pub fn beside(program: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    own.parent().unwrap_or(Path::new("target/debug")).join(program)
}

/// Runs to the end; standard output when it succeeded, an error with standard error otherwise.
pub fn run(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("{} ended with {}: {}{}", shown(command), output.status, error.trim(), text.trim());
    }
    Ok(text)
}

/// Runs to the end, whatever the exit status.
pub fn output(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null()).output().with_context(|| format!("start {}", shown(command)))
}

/// Feeds `input` to a command's standard input.
pub fn run_with_input(command: &mut Command, input: &str) -> Result<String> {
    use std::io::Write;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {}", shown(command)))?;
    child.stdin.take().context("standard input is piped")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "{} ended with {}: {}",
            shown(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Asks again until `look` is content or the time is up; the last answer either way.
pub fn until<T>(limit: Duration, mut look: impl FnMut() -> (bool, T)) -> (bool, T) {
    let deadline = Instant::now() + limit;
    loop {
        let (content, answer) = look();
        if content || Instant::now() >= deadline {
            return (content, answer);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn shown(command: &Command) -> String {
    let name = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let mut words = vec![name.to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|argument| argument.to_string_lossy().into_owned()));
    words.join(" ")
}
