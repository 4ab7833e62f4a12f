//! A process as in a container: a root of its own that is read-only, chosen paths of the node in it, few capabilities.
//! Network namespaces are `netns`'s business; what to run and with what is the caller's.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags};
use rustix::thread::UnshareFlags;

/// What a process sees of the machine, and may do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Confinement {
    /// An empty directory over which the root is built; on the machine it stays empty.
    pub root: PathBuf,
    /// Path on the machine, path inside, and whether it is read-only.
    pub mounts: Vec<(PathBuf, PathBuf, bool)>,
    /// Number of its user and group; 0 is root.
    pub user: u32,
    /// Numbers of the capabilities that are kept.
    pub capabilities: Vec<u8>,
}

/// The number of a capability by its name without `CAP_`, of those that a manifest may name.
pub fn capability(name: &str) -> Option<u8> {
    const NUMBERS: [(&str, u8); 8] = [
        ("CHOWN", 0),
        ("DAC_OVERRIDE", 1),
        ("FOWNER", 3),
        ("NET_BIND_SERVICE", 10),
        ("NET_ADMIN", 12),
        ("NET_RAW", 13),
        ("SYS_MODULE", 16),
        ("SYS_ADMIN", 21),
    ];
    NUMBERS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

impl Confinement {
    /// Moves the calling thread into mounts and a root of its own, for good; what it starts is there, too.
    pub fn enter(&self) -> io::Result<()> {
        // SAFETY: mounts and root of this thread alone are unshared; nothing else of the process depends on them.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
        let slave =
            rustix::mount::MountPropagationFlags::DOWNSTREAM | rustix::mount::MountPropagationFlags::REC;
        rustix::mount::mount_change("/", slave)?;
        let sources: Vec<OwnedFd> =
            self.mounts.iter().map(|(host, ..)| clone_of(host)).collect::<io::Result<_>>()?;
        rustix::mount::mount("tmpfs", &self.root, c"tmpfs", MountFlags::empty(), None)?;
        self.show_machine()?;
        for (host, inside, _) in &self.mounts {
            make_place(&self.inside(inside), host.is_dir())?;
        }
        make_read_only(&self.root, true)?;
        for ((_, inside, is_read_only), source) in self.mounts.iter().zip(&sources) {
            let place = self.inside(inside);
            rustix::mount::move_mount(
                source,
                "",
                rustix::fs::CWD,
                &place,
                MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
            )?;
            if *is_read_only {
                make_read_only(&place, false)?;
            }
        }
        rustix::process::chroot(&self.root)?;
        std::env::set_current_dir("/")
    }

    /// Everything of the machine's root but its state: programs and libraries, /proc, /sys, /dev.
    fn show_machine(&self) -> io::Result<()> {
        for entry in fs::read_dir("/")? {
            let entry = entry?;
            let (from, to) = (entry.path(), self.root.join(entry.file_name()));
            let kind = entry.file_type()?;
            if kind.is_symlink() {
                std::os::unix::fs::symlink(fs::read_link(&from)?, &to)?;
            } else if kind.is_dir() {
                fs::create_dir(&to)?;
                if entry.file_name() != "run" && entry.file_name() != "host" {
                    rustix::mount::mount_bind_recursive(&from, &to)?;
                }
            }
        }
        Ok(())
    }

    /// A path of the container on the machine; `/var/run` is `/run`.
    fn inside(&self, path: &Path) -> PathBuf {
        let path = path.strip_prefix("/var").ok().filter(|rest| rest.starts_with("run")).unwrap_or(path);
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Gives up all capabilities but those that are kept, and becomes the container's user. Async-signal-safe, for the moment before a program starts.
    pub fn drop_capabilities(&self) -> io::Result<()> {
        for number in 0..=63 {
            // SAFETY: prctl with these takes integers and touches no memory of ours.
            let dropped = self.capabilities.contains(&number)
                || unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number), 0, 0, 0) } == 0;
            if !dropped {
                let error = io::Error::last_os_error();
                // Beyond the kernel's last one.
                if error.raw_os_error() == Some(libc::EINVAL) {
                    break;
                }
                return Err(error);
            }
        }
        // SAFETY: as above.
        if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
        self.become_user()
    }

    /// What is not root loses all capabilities by that.
    fn become_user(&self) -> io::Result<()> {
        let id = libc::c_long::from(self.user);
        if self.user == 0 {
            return Ok(());
        }
        // The calls of the kernel concern this thread alone, which is all that there is before a program starts.
        // SAFETY: they take integers; the list of groups is empty.
        let done = unsafe {
            libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()) == 0
                && libc::syscall(libc::SYS_setresgid, id, id, id) == 0
                && libc::syscall(libc::SYS_setresuid, id, id, id) == 0
        };
        if done { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// A mount of a path that is nowhere yet.
fn clone_of(path: &Path) -> io::Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    rustix::mount::open_tree(rustix::fs::CWD, path, flags)
        .map_err(|e| io::Error::other(format!("mount {}: {e}", path.display())))
}

fn make_place(path: &Path, is_directory: bool) -> io::Result<()> {
    if is_directory {
        return fs::create_dir_all(path);
    }
    fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
    fs::OpenOptions::new().write(true).create(true).truncate(false).open(path).map(|_| ())
}

/// Makes a mount read-only, and with it what is mounted below it.
fn make_read_only(path: &Path, with_below: bool) -> io::Result<()> {
    #[repr(C)]
    struct MountAttr {
        set: u64,
        clear: u64,
        propagation: u64,
        userns: u64,
    }
    const READ_ONLY: u64 = 1;
    let attributes = MountAttr { set: READ_ONLY, clear: 0, propagation: 0, userns: 0 };
    let path = CString::new(path.as_os_str().as_encoded_bytes()).map_err(io::Error::other)?;
    let flags = if with_below { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: path and attributes live as long as the call, and the size is that of the attributes.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            rustix::fs::CWD.as_raw_fd(),
            path.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<MountAttr>(),
        )
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
