//! `lab up` on the user's side: checks what can go wrong beforehand, starts the daemon, waits for Ready.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::cleanup;
use crate::cli::Up;
use crate::cni;
use crate::commands::{Progress, remark, say};
use crate::control::{self, Failure, Request};
use crate::controllers::Controllers;
use crate::daemon::{self, OPTIONS_FILE};
use crate::names::{LabName, STATE_ROOT};
use crate::node::{TYPHA, typha_address};
use crate::options::{Encap, ExternalApi, LabOptions};
use crate::topology;
use crate::tor::Tor;

/// How long the daemon may take to open its control socket.
const SOCKET_LIMIT: Duration = Duration::from_secs(120);

/// Starts a lab; prints the kubeconfig's path when it is ready.
pub fn run(args: Up) -> Result<u8, Failure> {
    let begun = Instant::now();
    let options = options(args)?;
    require_root()?;
    check_machine(&options)?;
    refuse_second(&options.name)?;
    let state = prepare_state(&options)?;
    let mut child = start_daemon(&options, &state)?;
    let mut progress = Progress::default();
    let started = wait_for_socket(&options.name, &mut child)
        .and_then(|()| control::ask(&options.name, &Request::Wait, |text| progress.show(text)));
    progress.clear();
    if let Err(failure) = started {
        let log = last_lines(&state.join("daemon.log"));
        cleanup::wait_gone(i32::try_from(child.id()).unwrap_or(0));
        cleanup::sweep(&options.name).ok();
        let hint = if log.is_empty() { String::new() } else { format!("\nthe daemon's last words:\n{log}") };
        return Err(Failure {
            message: format!("lab {} did not come up: {}{hint}", options.name, failure.message),
            ..failure
        });
    }
    remark(&format!(
        "{} nodes are Ready after {:.1} s; export KUBECONFIG={}",
        options.nodes,
        begun.elapsed().as_secs_f64(),
        options.name.kubeconfig().display()
    ));
    say(&options.name.kubeconfig().display().to_string())
}

/// The daemon's own entry.
pub fn daemon(name: &LabName) -> Result<u8, Failure> {
    let failed = |e: anyhow::Error| Failure::failed(format!("{e:#}"));
    let path = name.state_dir().join(OPTIONS_FILE);
    let text =
        fs::read_to_string(&path).map_err(|e| Failure::failed(format!("read {}: {e}", path.display())))?;
    let options =
        serde_json::from_str(&text).map_err(|e| Failure::failed(format!("{}: {e}", path.display())))?;
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Failure::failed(format!("start the runtime: {e}")))?;
    runtime.block_on(daemon::run(options)).map_err(failed)?;
    runtime.shutdown_timeout(Duration::from_millis(200));
    Ok(0)
}

/// Namespaces and links need root.
pub(crate) fn require_root() -> Result<(), Failure> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Failure::usage("a lab makes network namespaces: run it as root (sudo lab …)"))
}

fn options(args: Up) -> Result<LabOptions, Failure> {
    let external = match args.kube_apiserver.as_str() {
        "embedded" => None,
        url => {
            let token =
                args.token.clone().ok_or_else(|| Failure::usage("--kube-apiserver URL needs --token"))?;
            Some(ExternalApi { url: url.to_owned(), token, ca_file: args.certificate_authority })
        }
    };
    if external.is_none() && args.token.is_some() && args.kube_apiserver == "embedded" {
        remark("--token is for an API server elsewhere; the embedded one makes its own");
    }
    let bin_dir = match args.bin_dir {
        Some(dir) => dir,
        None => own_dir()?,
    };
    let bin_dir = fs::canonicalize(&bin_dir)
        .map_err(|e| Failure::usage(format!("--bin-dir {}: {e}", bin_dir.display())))?;
    let options = LabOptions {
        name: args.which.name,
        nodes: args.nodes,
        subnets: args.subnets,
        tor: args.tor,
        pod_cidr: args.pod_cidr,
        encap: args.encap,
        family: args.family,
        external,
        agents: !args.no_agents,
        controllers: wants_controllers(&bin_dir, args.no_controllers),
        typha: args.typha,
        bin_dir,
        manifest: args.manifest.map(|path| fs::canonicalize(&path).unwrap_or(path)),
    };
    options.validate().map_err(Failure::usage)?;
    Ok(options)
}

/// A lab works without it, so an incomplete build is no reason to have none.
fn wants_controllers(bin_dir: &Path, left_out: bool) -> bool {
    let is_installed = Controllers::is_installed(bin_dir);
    if !left_out && !is_installed {
        remark(&format!(
            "no controllers in {}: nothing checks objects or writes policies' status",
            bin_dir.display()
        ));
    }
    !left_out && is_installed
}

fn own_dir() -> Result<PathBuf, Failure> {
    let own = std::env::current_exe().map_err(|e| Failure::failed(format!("where is lab itself? {e}")))?;
    Ok(own.parent().unwrap_or(Path::new("/")).to_owned())
}

fn check_machine(options: &LabOptions) -> Result<(), Failure> {
    let encap = options.encap.as_str();
    if options.encap != Encap::Never && !topology::kernel_has_ipip() {
        let again: Vec<String> = std::env::args().skip(1).collect();
        return Err(Failure::usage(format!(
            "--encap {encap} needs IPIP, which this kernel does not have; in a machine with a kernel that has it, \
             for as long as COMMAND runs: lab vm -- sh -c 'lab {} && COMMAND'",
            again.join(" ")
        )));
    }
    Tor::check_installed(options.tor).map_err(Failure::usage)?;
    let missing = |what: String| {
        Failure::usage(format!("{what}; build the workspace (cargo build --workspace) or give --bin-dir"))
    };
    cni::find_plugins(&options.bin_dir).map_err(missing)?;
    if options.agents {
        for program in ["felix", "bird-lite"].into_iter().chain(options.typha.then_some(TYPHA)) {
            let path = options.bin_dir.join(program);
            if !path.is_file() {
                return Err(missing(format!("{} is missing", path.display())));
            }
        }
    }
    Ok(())
}

fn refuse_second(name: &LabName) -> Result<(), Failure> {
    if control::running_labs().contains(name) {
        return Err(Failure::usage(format!("lab {name} is already up; `lab down --name {name}` removes it")));
    }
    let swept = cleanup::sweep(name)
        .map_err(|e| Failure::failed(format!("remove the remains of lab {name}: {e}")))?;
    if !swept.is_empty() {
        remark(&format!(
            "removed the remains of an earlier lab {name}: {} namespaces, {} processes",
            swept.namespaces, swept.processes
        ));
    }
    Ok(())
}

fn prepare_state(options: &LabOptions) -> Result<PathBuf, Failure> {
    let state = options.name.state_dir();
    let failed = |e: std::io::Error| Failure::failed(format!("make {}: {e}", state.display()));
    make_state_dir(&state).map_err(failed)?;
    let text = serde_json::to_string_pretty(options).map_err(|e| Failure::failed(e.to_string()))?;
    let path = state.join(OPTIONS_FILE);
    let mut file = OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::mode(&mut file, 0o600);
    let mut file = file.write(true).create(true).truncate(true).open(&path).map_err(failed)?;
    std::io::Write::write_all(&mut file, text.as_bytes()).map_err(failed)?;
    Ok(state)
}

/// The end of another lab, if it was the last, takes away the directory above: then it is made again.
fn make_state_dir(state: &Path) -> std::io::Result<()> {
    let mut made = Ok(());
    for _ in 0..20 {
        fs::create_dir_all(STATE_ROOT)?;
        // Others may pass through (FRR's zebra runs as a user of its own) but not look around; secrets are 0600.
        made = fs::DirBuilder::new().mode(0o711).create(state);
        if !made.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
            break;
        }
    }
    made
}

fn start_daemon(options: &LabOptions, state: &Path) -> Result<Child, Failure> {
    let failed = |e: std::io::Error| Failure::failed(format!("start the daemon: {e}"));
    let log = OpenOptions::new().append(true).create(true).open(state.join("daemon.log")).map_err(failed)?;
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command
        .args(["daemon", options.name.as_str()])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(failed)?)
        .stderr(log);
    // The programs of all nodes have the daemon's variables.
    command.envs(options.typha.then(|| ("FELIX_TYPHAADDR", typha_address(options).to_string())));
    // SAFETY: setsid is async-signal-safe and touches no memory of this process.
    unsafe {
        command.pre_exec(|| {
            rustix::process::setsid()?;
            Ok(())
        });
    }
    command.spawn().map_err(failed)
}

fn wait_for_socket(name: &LabName, child: &mut Child) -> Result<(), Failure> {
    let deadline = Instant::now() + SOCKET_LIMIT;
    loop {
        if std::os::unix::net::UnixStream::connect(name.control_socket()).is_ok() {
            return Ok(());
        }
        if let Ok(Some(status)) = child.try_wait() {
            return Err(Failure::failed(format!("the daemon ended at once ({status})")));
        }
        if Instant::now() >= deadline {
            return Err(Failure::failed("the daemon does not open its control socket"));
        }
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// The end of the daemon's log, for a failure that it could not report itself.
fn last_lines(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
