//! `lab vm`: runs a command in a throw-away machine with a stock Debian kernel and this machine's file system.
//! The guest sees `/` read-only under an overlay that vanishes with it, except for shared directories.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{Engine, Vm};
use crate::commands::remark;
use crate::control::Failure;
use crate::netns;

mod boot;
mod cpio;

use boot::Boot;

/// Exit status when the time was up, as timeout(1) has it.
const TIME_IS_UP: u8 = 124;
/// Exit status when the machine itself failed.
const NO_RESULT: u8 = 125;
/// Descriptors of the machine's console, standard output and standard error.
const FDS: [i32; 3] = [10, 11, 12];
/// How long the machine may take to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs the command; its exit status is ours.
pub fn run(args: &Vm) -> Result<u8, Failure> {
    run_machine(args).map_err(|e| Failure { message: format!("vm: {e:#}"), exit: NO_RESULT })
}

fn run_machine(args: &Vm) -> anyhow::Result<u8> {
    let boot = boot::prepare(args.engine)?;
    if args.prepare {
        return Ok(0);
    }
    let directory = RunDirectory::new()?;
    let shares = directory.fill(args, &boot)?;
    let mut command = match args.engine {
        Engine::Uml => uml(args, &boot, &directory.0),
        Engine::Qemu => qemu(args, &boot, &directory.0, &shares),
    };
    let console = File::create(directory.0.join("console"))?;
    let log = File::create(directory.0.join("log"))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
    pass_descriptors(&mut command, [console.as_fd(), io::stdout().as_fd(), io::stderr().as_fd()])?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let end = runtime.block_on(watch(command, Duration::from_secs(args.timeout)))?;
    let console = directory.console();
    if args.verbose {
        io::stderr().write_all(console.as_bytes()).ok();
    }
    Ok(conclude(&end, &directory.0, &console, args))
}

/// How the machine's process ended.
enum End {
    Itself(ExitStatus),
    TimeIsUp,
    Signal(i32),
}

fn conclude(end: &End, directory: &Path, console: &str, args: &Vm) -> u8 {
    let status = fs::read_to_string(directory.join("status")).ok().and_then(|s| s.trim().parse().ok());
    if let Some(status) = status {
        return status;
    }
    match end {
        End::TimeIsUp => {
            remark(&format!("vm: stopped after {} s", args.timeout));
            TIME_IS_UP
        }
        End::Signal(number) => u8::try_from(128 + number).unwrap_or(NO_RESULT),
        End::Itself(status) => {
            if !args.verbose {
                let lines: Vec<&str> = console.lines().collect();
                let tail = lines[lines.len().saturating_sub(40)..].join("\n");
                writeln!(io::stderr(), "{tail}").ok();
            }
            remark(&format!("vm: the machine ended without a result ({status})"));
            NO_RESULT
        }
    }
}

async fn watch(mut command: Command, limit: Duration) -> anyhow::Result<End> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // A group of its own: UML's helpers end with it.
    command.process_group(0);
    let mut child = command.spawn().context("start the machine")?;
    let group = child.id().and_then(|id| i32::try_from(id).ok()).unwrap_or(0);
    let end = tokio::select! {
        status = child.wait() => End::Itself(status?),
        () = tokio::time::sleep(limit) => End::TimeIsUp,
        _ = terminate.recv() => End::Signal(libc::SIGTERM),
        _ = interrupt.recv() => End::Signal(libc::SIGINT),
    };
    if !matches!(end, End::Itself(_)) {
        stop(&mut child, group).await;
    }
    kill_group(group);
    Ok(end)
}

async fn stop(child: &mut Child, pid: i32) {
    netns::signal(pid, libc::SIGTERM);
    if tokio::time::timeout(PATIENCE, child.wait()).await.is_err() {
        child.kill().await.ok();
    }
}

fn kill_group(group: i32) {
    if group > 1 {
        // SAFETY: kill takes two integers and has no memory effects; the group is the one made above.
        unsafe { libc::kill(-group, libc::SIGKILL) };
    }
}

fn uml(args: &Vm, boot: &Boot, directory: &Path) -> Command {
    let [console, out, err] = FDS;
    let mut command = Command::new("linux.uml");
    command
        .arg(format!("mem={}M", args.memory))
        .arg(joined("initrd=", &boot.ramdisk))
        .arg(joined("ocicat_vm=", directory))
        .args(["rdinit=/init", "quiet", "con=null"])
        .arg(format!("con0=null,fd:{console}"))
        .arg(format!("con1=null,fd:{out}"))
        .arg(format!("con2=null,fd:{err}"));
    command
}

fn qemu(args: &Vm, boot: &Boot, directory: &Path, shares: &[PathBuf]) -> Command {
    let [_, out, err] = FDS;
    let verbose = if args.verbose { "ignore_loglevel" } else { "quiet" };
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .args(["-M", "q35,usb=off,vmport=off,hpet=off", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max"])
        .args(["-smp", &args.cpus.to_string(), "-m", &args.memory.to_string()])
        .arg("-kernel")
        .arg(&boot.kernel)
        .arg("-initrd")
        .arg(&boot.ramdisk)
        .arg("-append")
        .arg(format!(
            "ocicat_vm=qemu console=ttyS0 {verbose} panic=-1 reboot=t mitigations=off nokaslr cryptomgr.notests \
             random.trust_cpu=on no_timer_check 8250.nr_uarts=1 i8042.noprobe"
        ))
        .arg("-chardev")
        .arg(joined("file,id=con,path=", &directory.join("console")))
        .args(["-serial", "chardev:con", "-device", "virtio-serial-pci"]);
    for (set, (name, fd)) in [("out", out), ("err", err)].into_iter().enumerate() {
        let set = set + 1;
        command
            .args(["-add-fd", &format!("fd={fd},set={set}")])
            .args(["-chardev", &format!("file,id={name},path=/dev/fdset/{set},append=on")])
            .args(["-device", &format!("virtserialport,chardev={name},name={name},nr={set}")]);
    }
    add_9p(&mut command, "host", Path::new("/"), ",readonly=on");
    add_9p(&mut command, "run", directory, "");
    for (number, share) in shares.iter().enumerate() {
        add_9p(&mut command, &format!("share{number}"), share, "");
    }
    command
}

fn add_9p(command: &mut Command, tag: &str, path: &Path, more: &str) {
    let mut device = joined(&format!("local,security_model=none,multidevs=remap,id={tag},path="), path);
    device.push(more);
    command
        .arg("-fsdev")
        .arg(device)
        .args(["-device", &format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}")]);
}

fn joined(text: &str, path: &Path) -> OsString {
    let mut joined = OsString::from(text);
    joined.push(path);
    joined
}

/// Hands descriptors to the child under the numbers that the machine's command line names.
fn pass_descriptors(command: &mut Command, sources: [BorrowedFd<'_>; 3]) -> io::Result<()> {
    // Copies above the target numbers, so that none is overwritten before it is used.
    let copies: Vec<OwnedFd> =
        sources.iter().map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 20)).collect::<Result<_, _>>()?;
    // SAFETY: between fork and exec only dup2 is called, which is async-signal-safe; the copies live in the closure.
    unsafe {
        command.pre_exec(move || {
            for (copy, target) in copies.iter().zip(FDS) {
                if libc::dup2(copy.as_raw_fd(), target) < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    Ok(())
}

/// The directory that host and guest share for one run; removed at its end.
struct RunDirectory(PathBuf);

impl RunDirectory {
    fn new() -> anyhow::Result<Self> {
        let base = std::env::temp_dir();
        for attempt in 0..100_u32 {
            let path = base.join(format!("ocicat-vm.{}.{attempt}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e).with_context(|| format!("make {}", path.display())),
            }
        }
        anyhow::bail!("{} is full of run directories", base.display())
    }

    fn fill(&self, args: &Vm, boot: &Boot) -> anyhow::Result<Vec<PathBuf>> {
        let shares: Vec<PathBuf> = args
            .share
            .iter()
            .map(|dir| fs::canonicalize(dir).with_context(|| format!("--share {}", dir.display())))
            .collect::<anyhow::Result<_>>()?;
        let mut list = Vec::new();
        for share in &shares {
            list.extend_from_slice(share.as_os_str().as_bytes());
            list.push(b'\n');
        }
        fs::write(self.0.join("shares"), list)?;
        fs::write(self.0.join("guest"), include_bytes!("vm/guest.sh"))?;
        let (engine, out, err) = match args.engine {
            Engine::Uml => ("uml", "/dev/tty1", "/dev/tty2"),
            Engine::Qemu => ("qemu", "/dev/vport0p1", "/dev/vport0p2"),
        };
        let mut conf = format!("ENGINE={engine} OUT={out} ERR={err} MODULES=").into_bytes();
        conf.extend(quoted(boot.modules.as_os_str()));
        conf.push(b'\n');
        fs::write(self.0.join("conf"), conf)?;
        fs::write(self.0.join("command"), script(&args.command)?)?;
        Ok(shares)
    }

    /// What the machine said on its console and what its process said.
    fn console(&self) -> String {
        let read = |name| fs::read(self.0.join(name)).unwrap_or_default();
        let mut text = String::from_utf8_lossy(&read("console")).into_owned();
        text.push_str(&String::from_utf8_lossy(&read("log")));
        text
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// A script that runs the command in this environment and directory; this very program can be named `lab`.
fn script(command: &[OsString]) -> anyhow::Result<Vec<u8>> {
    let mut text = Vec::new();
    for (name, value) in std::env::vars_os() {
        let name = name.as_bytes();
        let usual = name
            .iter()
            .enumerate()
            .all(|(i, b)| b.is_ascii_alphabetic() || *b == b'_' || i > 0 && b.is_ascii_digit());
        if usual && !name.is_empty() && name != b"PWD" {
            text.extend_from_slice(b"export ");
            text.extend_from_slice(name);
            text.push(b'=');
            text.extend(quoted(&value));
            text.push(b'\n');
        }
    }
    if let Some(own) = std::env::current_exe()?.parent() {
        text.extend_from_slice(b"PATH=\"$PATH\":");
        text.extend(quoted(own.as_os_str()));
        text.push(b'\n');
    }
    text.extend_from_slice(b"cd ");
    text.extend(quoted(std::env::current_dir()?.as_os_str()));
    text.extend_from_slice(b" || exit 125\nexec");
    for word in command {
        text.push(b' ');
        text.extend(quoted(word));
    }
    text.push(b'\n');
    Ok(text)
}

/// One word for the shell, whatever is in it.
fn quoted(word: &OsStr) -> Vec<u8> {
    let mut out = vec![b'\''];
    for &byte in word.as_bytes() {
        if byte == b'\'' {
            out.extend_from_slice(b"'\\''");
        } else {
            out.push(byte);
        }
    }
    out.push(b'\'');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_shell() {
        for word in ["", "a b", "it's", "$HOME `x` \"y\" \\", "line\nfeed", "-n"] {
            let mut line = b"printf %s ".to_vec();
            line.extend(quoted(OsStr::new(word)));
            let output =
                std::process::Command::new("sh").arg("-c").arg(OsStr::from_bytes(&line)).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
    }
}
