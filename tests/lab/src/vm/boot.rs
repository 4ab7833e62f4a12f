//! What a machine boots from: kernel, modules, ramdisk; built once and kept in the user's cache.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};

use super::cpio::Cpio;
use crate::cli::Engine;
use crate::tor::find_program;

/// Where Debian's user-mode-linux keeps its modules.
pub(crate) const UML_MODULES: &str = "/usr/lib/uml/modules";
/// Raised whenever what is built here changes, so that no old cache is used.
const FORMAT: u32 = 1;
/// What the QEMU guest finds below /lib/modules: directories and files below `kernel/`.
const QEMU_MODULES: &[&str] = &[
    "net",
    "drivers/net/veth.ko",
    "drivers/net/dummy.ko",
    "drivers/net/ifb.ko",
    "drivers/net/tun.ko",
    "drivers/net/vrf.ko",
    "drivers/net/macvlan.ko",
    "drivers/net/geneve.ko",
    "drivers/net/nlmon.ko",
    "drivers/net/virtio_net.ko",
    "drivers/net/net_failover.ko",
    "drivers/net/ipvlan",
    "drivers/net/vxlan",
    "drivers/net/wireguard",
    "drivers/net/bonding",
    "drivers/virtio",
    "drivers/char/virtio_console.ko",
    "drivers/block/virtio_blk.ko",
    "drivers/block/loop.ko",
    "fs/9p",
    "fs/overlayfs",
    "fs/netfs",
    "fs/fscache",
    "fs/fuse",
    "crypto",
    "lib",
    "arch/x86/crypto",
];

/// Files to boot from.
#[derive(Debug, Clone)]
pub(crate) struct Boot {
    /// The ramdisk.
    pub(crate) ramdisk: PathBuf,
    /// The directory whose `<release>` subdirectory is bound to /lib/modules/<release>.
    pub(crate) modules: PathBuf,
    /// The kernel, for QEMU.
    pub(crate) kernel: PathBuf,
}

/// Finds the boot files in the cache or builds them there; only one process builds at a time.
pub(crate) fn prepare(engine: Engine) -> anyhow::Result<Boot> {
    check_programs(engine)?;
    let base = cache_dir()?;
    fs::create_dir_all(&base).with_context(|| format!("make {}", base.display()))?;
    let name = match engine {
        Engine::Uml => format!("uml-{}-{FORMAT}", uml_release()?),
        Engine::Qemu => format!("qemu-{FORMAT}"),
    };
    let directory = base.join(&name);
    let boot = Boot {
        ramdisk: directory.join("ramdisk.cpio"),
        modules: match engine {
            Engine::Uml => PathBuf::from(UML_MODULES),
            Engine::Qemu => directory.join("lib/modules"),
        },
        kernel: directory.join("vmlinux"),
    };
    if boot.ramdisk.is_file() {
        return Ok(boot);
    }
    let lock = File::create(base.join(format!("{name}.lock")))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
    if !boot.ramdisk.is_file() {
        build(engine, &base, &directory)?;
    }
    Ok(boot)
}

fn build(engine: Engine, base: &Path, directory: &Path) -> anyhow::Result<()> {
    let work = base.join(format!("new.{}", std::process::id()));
    fs::create_dir_all(&work)?;
    let built = match engine {
        Engine::Uml => build_uml(&work),
        Engine::Qemu => build_qemu(&work),
    };
    if let Err(e) = built {
        fs::remove_dir_all(&work).ok();
        return Err(e);
    }
    fs::remove_dir_all(directory).ok();
    fs::rename(&work, directory).with_context(|| format!("move the boot files to {}", directory.display()))
}

fn build_uml(work: &Path) -> anyhow::Result<()> {
    let release = uml_release()?;
    fs::create_dir_all(work.join("lib"))?;
    std::os::unix::fs::symlink(UML_MODULES, work.join("lib/modules"))?;
    write_ramdisk(work, &release, &["overlay"])
}

fn build_qemu(work: &Path) -> anyhow::Result<()> {
    let package = kernel_package()?;
    crate::commands::remark(&format!("fetching {package} (about 70 MB) for the machine's kernel"));
    let debs = work.join("deb");
    fs::create_dir_all(&debs)?;
    let fetched = Command::new("apt-get").args(["-qq", "download", &package]).current_dir(&debs).status()?;
    ensure!(
        fetched.success(),
        "apt-get download {package} failed; is there a Debian mirror and an `apt-get update`?"
    );
    let deb = fs::read_dir(&debs)?.flatten().next().context("apt-get downloaded nothing")?.path();
    unpack(&deb, work)?;
    let release = only_entry(&work.join("lib/modules"))?;
    let image = fs::read(work.join(format!("boot/vmlinuz-{release}"))).context("read the kernel image")?;
    uncompress_kernel(&image, &work.join("vmlinux"))?;
    run(Command::new("strip").arg("-s").arg(work.join("vmlinux")))?;
    run(Command::new("depmod").arg("-b").arg(work).arg(&release))?;
    write_ramdisk(work, &release, &["virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_console"])?;
    fs::remove_dir_all(&debs)?;
    fs::remove_dir_all(work.join("boot"))?;
    Ok(())
}

/// The newest kernel package that `linux-image-amd64` stands for.
fn kernel_package() -> anyhow::Result<String> {
    let output = Command::new("apt-cache").args(["depends", "linux-image-amd64"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let depends = text.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    depends
        .map(str::to_owned)
        .context("apt knows no linux-image-amd64; is this Debian, and was `apt-get update` run?")
}

fn unpack(deb: &Path, into: &Path) -> anyhow::Result<()> {
    let mut archive =
        Command::new("dpkg-deb").arg("--fsys-tarfile").arg(deb).stdout(Stdio::piped()).spawn()?;
    let stream = archive.stdout.take().context("no pipe from dpkg-deb")?;
    let mut tar = Command::new("tar");
    tar.arg("x").arg("-C").arg(into).args(["--wildcards", "./boot/vmlinuz-*"]);
    for file in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
        tar.arg(format!("./lib/modules/*/{file}"));
    }
    for module in QEMU_MODULES {
        tar.arg(format!("./lib/modules/*/kernel/{module}"));
    }
    // tar complains about patterns that this kernel has no file for; what is missing shows below.
    tar.stdin(stream).stderr(Stdio::null()).status()?;
    archive.wait()?;
    ensure!(into.join("lib/modules").is_dir(), "{} has no modules", deb.display());
    Ok(())
}

/// Takes the ELF kernel out of a bzImage: it boots directly (PVH), which saves the decompression under emulation.
/// Offsets as in Documentation/arch/x86/boot.rst.
fn uncompress_kernel(image: &[u8], to: &Path) -> anyhow::Result<()> {
    let word = |at: usize| -> anyhow::Result<usize> {
        let bytes = image.get(at..at + 4).context("the kernel image is too short")?;
        Ok(u32::from_le_bytes(bytes.try_into().expect("four bytes were taken")) as usize)
    };
    let setup_sectors = usize::from(*image.get(0x1f1).context("the kernel image is too short")?);
    let start = (setup_sectors + 1) * 512 + word(0x248)?;
    let payload =
        image.get(start..start + word(0x24c)?).context("the kernel's payload is outside of its image")?;
    ensure!(payload.starts_with(b"\xfd7zXZ\0"), "the kernel is not compressed with xz as Debian's is");
    let mut xz = Command::new("xz")
        .args(["-dc", "--single-stream"])
        .stdin(Stdio::piped())
        .stdout(File::create(to)?)
        .stderr(Stdio::null())
        .spawn()?;
    let mut pipe = xz.stdin.take().context("no pipe to xz")?;
    // The payload ends with its length, which xz takes for rubbish at the end.
    pipe.write_all(payload).ok();
    drop(pipe);
    xz.wait()?;
    let mut magic = [0; 4];
    io::Read::read_exact(&mut File::open(to)?, &mut magic)?;
    ensure!(&magic == b"\x7fELF", "what came out of the kernel image is not ELF");
    Ok(())
}

fn write_ramdisk(work: &Path, release: &str, modules: &[&str]) -> anyhow::Result<()> {
    let mut cpio = Cpio::default();
    for directory in ["bin", "modules", "proc", "dev", "host", "upper", "new"] {
        cpio.directory(directory);
    }
    let mut list = String::new();
    for path in module_files(work, release, modules)? {
        let name = path.file_name().and_then(|n| n.to_str()).context("a module has an odd name")?.to_owned();
        let content = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        cpio.file(&format!("modules/{name}"), 0o644, &content);
        list.push_str(&name);
        list.push('\n');
    }
    cpio.file("modules/list", 0o644, list.as_bytes());
    let busybox = find_program("busybox", &["/bin/busybox"], "busybox-static").map_err(anyhow::Error::msg)?;
    cpio.file("bin/busybox", 0o755, &fs::read(busybox)?);
    cpio.file("init", 0o755, include_bytes!("init.sh"));
    let ramdisk = work.join("ramdisk.cpio");
    fs::write(&ramdisk, cpio.finish()).with_context(|| format!("write {}", ramdisk.display()))
}

/// The modules and what they need, in loading order.
fn module_files(work: &Path, release: &str, modules: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = Vec::new();
    for module in modules {
        let output = Command::new(modprobe()?)
            .arg("-d")
            .arg(work)
            .args(["-S", release, "--show-depends", module])
            .output()
            .context("run modprobe")?;
        ensure!(output.status.success(), "kernel {release} has no module {module}");
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let Some(path) = line.trim().strip_prefix("insmod ") else { continue };
            let path = PathBuf::from(path.split(' ').next().unwrap_or(path));
            if !files.contains(&path) {
                files.push(path);
            }
        }
    }
    Ok(files)
}

fn modprobe() -> anyhow::Result<PathBuf> {
    find_program("modprobe", &["/sbin/modprobe", "/usr/sbin/modprobe"], "kmod").map_err(anyhow::Error::msg)
}

/// Names every Debian package that is missing, not only the first.
fn check_programs(engine: Engine) -> anyhow::Result<()> {
    let mut wanted = vec![("busybox", "busybox-static"), ("modprobe", "kmod")];
    match engine {
        Engine::Uml => wanted.push(("linux.uml", "user-mode-linux")),
        Engine::Qemu => {
            wanted.extend([
                ("qemu-system-x86_64", "qemu-system-x86"),
                ("xz", "xz-utils"),
                ("strip", "binutils"),
            ]);
            wanted.extend([("dpkg-deb", "dpkg"), ("apt-get", "apt")]);
        }
    }
    let places = |name: &str| vec![format!("/usr/sbin/{name}"), format!("/sbin/{name}")];
    let missing: Vec<&str> = wanted
        .into_iter()
        .filter(|(name, package)| {
            let usual = places(name);
            let usual: Vec<&str> = usual.iter().map(String::as_str).collect();
            find_program(name, &usual, package).is_err()
        })
        .map(|(_, package)| package)
        .collect();
    if !missing.is_empty() {
        bail!("missing Debian packages: apt-get install {}", missing.join(" "));
    }
    Ok(())
}

fn uml_release() -> anyhow::Result<String> {
    only_entry(Path::new(UML_MODULES))
}

fn only_entry(directory: &Path) -> anyhow::Result<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .with_context(|| format!("read {}", directory.display()))?
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .collect();
    names.sort();
    names.pop().with_context(|| format!("{} is empty", directory.display()))
}

fn cache_dir() -> anyhow::Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    Ok(base.context("neither XDG_CACHE_HOME nor HOME is set")?.join("ocicat-lab"))
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("run {name}"))?;
    ensure!(status.success(), "{name} failed ({status})");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_kernel_is_refused_without_panic() {
        let nowhere = Path::new("/nonexistent/vmlinux");
        for image in [vec![], vec![0; 600], vec![0xff; 2000]] {
            assert!(uncompress_kernel(&image, nowhere).is_err());
        }
    }
}
