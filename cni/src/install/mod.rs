//! `calico install`: puts the plugins and the network configuration where the container runtime looks.
//!
//! Whatever a runtime may run or read meanwhile is replaced as a whole, never written in place; the configuration
//! comes last, because a runtime calls the node ready as soon as it is there.

mod conflist;
mod options;

use std::ffi::OsString;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use options::Options;
pub use options::USAGE;

use crate::agent::Agent;

/// Runs `calico install` with the arguments behind these words.
pub(crate) fn run(arguments: &[OsString]) -> ExitCode {
    let options = match Options::parse(arguments, |name| std::env::var(name).ok()) {
        Ok(Some(options)) => options,
        Ok(None) => {
            let _ = io::stdout().write_all(USAGE.as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(text) => {
            let _ = writeln!(io::stderr(), "calico install: {text}; see calico install --help");
            return ExitCode::from(2);
        }
    };
    let outcome = if options.uninstall { uninstall(&options) } else { install(&options) };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            let _ = writeln!(io::stderr(), "calico install: {text}");
            ExitCode::FAILURE
        }
    }
}

/// Copies the plugins, then writes the configuration, as far as either is asked for.
fn install(options: &Options) -> Result<(), String> {
    // A template that is no good must be found before anything is changed.
    let template = conflist::template(options)?;
    if !options.when_ready {
        install_binaries(options)?;
    }
    // From here on: whoever reads that the configuration is there may end us at once.
    let end = (options.when_ready || options.stay).then(EndSignals::hold);
    if !options.binaries_only {
        if options.when_ready && !wait_for_agent(options, end.as_ref()) {
            return Ok(());
        }
        configure(options, template)?;
    }
    if let Some(end) = end.filter(|_| options.stay) {
        end.wait();
    }
    Ok(())
}

fn configure(options: &Options, template: Option<String>) -> Result<(), String> {
    let has = |name: &str| options.bin_dirs.iter().any(|directory| directory.join(name).exists());
    if !has("loopback") {
        say(
            "no loopback plugin in the binary directories: containerd and CRI-O need it (Debian: containernetworking-plugins)",
        );
    }
    let path = options.net_dir.join(&options.conf_name);
    let text = match template {
        Some(text) => text,
        None => conflist::default(options, has("portmap"), fs::read(&path).ok().as_deref()),
    };
    replace(&path, text.as_bytes(), 0o600)?;
    say(&format!("wrote {}", path.display()));
    if let Some(old) = options.old_conf_name.as_ref().filter(|old| **old != options.conf_name) {
        remove(&options.net_dir.join(old))?;
    }
    Ok(())
}

/// A runtime calls the node ready as soon as the configuration is there: by then pods must get addresses. False: it
/// was told to end.
fn wait_for_agent(options: &Options, end: Option<&EndSignals>) -> bool {
    let agent = Agent::new(Path::new(&options.felix_socket));
    let mut last = String::new();
    while let Err(error) = agent.status() {
        let reason = error.into_cni("waiting").to_string();
        if reason != last {
            say(&reason);
            last = reason;
        }
        if end.is_some_and(|end| end.comes_within(LOOK_AGAIN)) {
            return false;
        }
    }
    true
}

/// SIGTERM and SIGINT, held back until somebody waits for them: the first process of a container dies of no signal
/// that it does not wait for.
struct EndSignals(libc::sigset_t);

impl EndSignals {
    fn hold() -> Self {
        // SAFETY: all-zero is a valid set, and the calls write into what is ours.
        let signals = unsafe {
            let mut signals: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut signals);
            for signal in [libc::SIGTERM, libc::SIGINT] {
                libc::sigaddset(&raw mut signals, signal);
            }
            libc::sigprocmask(libc::SIG_BLOCK, &raw const signals, std::ptr::null_mut());
            signals
        };
        Self(signals)
    }

    fn comes_within(&self, time: Duration) -> bool {
        let limit = libc::timespec {
            tv_sec: time.as_secs().try_into().unwrap_or(libc::time_t::MAX),
            tv_nsec: time.subsec_nanos().into(),
        };
        // SAFETY: both are ours and live as long as the call.
        unsafe { libc::sigtimedwait(&raw const self.0, std::ptr::null_mut(), &raw const limit) > 0 }
    }

    fn wait(&self) {
        let mut received = 0;
        // SAFETY: both are ours and live as long as the call.
        unsafe { libc::sigwait(&raw const self.0, &raw mut received) };
    }
}

/// Takes away the configuration, then the two plugins; others' plugins stay.
fn uninstall(options: &Options) -> Result<(), String> {
    remove(&options.net_dir.join(&options.conf_name))?;
    for directory in &options.bin_dirs {
        for name in OWN {
            remove(&directory.join(name))?;
        }
    }
    Ok(())
}

/// Installs into every directory that can be written; one is enough.
fn install_binaries(options: &Options) -> Result<(), String> {
    let binaries = binaries(options)?;
    let mut is_done = false;
    let mut problems = Vec::new();
    for directory in &options.bin_dirs {
        let outcome = binaries.iter().try_for_each(|source| install_binary(options, source, directory));
        match outcome {
            Ok(()) => is_done = true,
            Err(problem) => {
                say(&problem);
                problems.push(problem);
            }
        }
    }
    if is_done {
        return Ok(());
    }
    Err(format!("no binary directory could be written: {}", problems.join("; ")))
}

/// Our two, and those beside them that a cluster needs, as far as they are there.
fn binaries(options: &Options) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    for name in OWN.iter().chain(&COMPANIONS) {
        let source = options.source_dir.join(name);
        if options.skip.iter().any(|skip| skip == name) {
            continue;
        }
        if source.is_file() {
            found.push(source);
        } else if OWN.contains(name) {
            return Err(format!(
                "{} is missing: name the directory of the plugins with --source-dir",
                source.display()
            ));
        }
    }
    Ok(found)
}

fn install_binary(options: &Options, source: &Path, directory: &Path) -> Result<(), String> {
    let name = source.file_name().unwrap_or_default();
    let target = directory.join(name);
    if !options.update && target.exists() {
        return Ok(());
    }
    let bytes = fs::read(source).map_err(|error| format!("cannot read {}: {error}", source.display()))?;
    if fs::read(&target).is_ok_and(|old| old == bytes) && mode(&target) == Some(BINARY_MODE) {
        return Ok(());
    }
    replace(&target, &bytes, BINARY_MODE)?;
    say(&format!("installed {}", target.display()));
    Ok(())
}

/// Writes beside the target and renames, so that readers see the old file or the new one.
fn replace(target: &Path, bytes: &[u8], mode: u32) -> Result<(), String> {
    let directory = target.parent().unwrap_or(Path::new("/"));
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    // A runtime reads *.conf and *.conflist and runs what it knows by name: neither is this.
    let temporary = directory.join(format!(".{name}.{}.tmp", std::process::id()));
    let written = fs::create_dir_all(directory).and_then(|()| {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        // The mode given to open() is cut by the umask.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&temporary, target)
    });
    written.map_err(|error| {
        let _ = fs::remove_file(&temporary);
        format!("cannot write {}: {error}", target.display())
    })
}

fn remove(path: &Path) -> Result<(), String> {
    match fs::remove_file(path) {
        Ok(()) => say(&format!("removed {}", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(format!("cannot remove {}: {error}", path.display())),
    }
    Ok(())
}

fn mode(path: &Path) -> Option<u32> {
    path.metadata().ok().map(|data| data.permissions().mode() & 0o7777)
}

fn say(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// The plugins that are this project's.
const OWN: [&str; 2] = ["calico", "calico-ipam"];
/// Others' plugins that an image may bring along.
const COMPANIONS: [&str; 5] = ["loopback", "portmap", "host-local", "bandwidth", "tuning"];
/// How often an agent that is not ready is asked again.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// No SUID: a runtime runs plugins as root anyway.
const BINARY_MODE: u32 = 0o755;
