//! Sizes of iptables-legacy's tables, by one system call each: they differ when somebody has added or removed a
//! rule.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use kernel::IptablesTable;
use model::Family;

use crate::nl::named;

/// A socket by which the kernel tells of its tables in the network namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct TableInfo {
    socket: OwnedFd,
    level: libc::c_int,
}

/// `struct ipt_getinfo`, which `struct ip6t_getinfo` equals.
#[repr(C)]
struct GetInfo {
    name: [u8; 32],
    valid_hooks: u32,
    hook_entry: [u32; 5],
    underflow: [u32; 5],
    num_entries: u32,
    size: u32,
}

impl TableInfo {
    pub(crate) fn open(family: Family) -> io::Result<Self> {
        let (domain, level) = match family {
            Family::V4 => (libc::AF_INET, libc::IPPROTO_IP),
            Family::V6 => (libc::AF_INET6, libc::IPPROTO_IPV6),
        };
        // SAFETY: plain system call; a non-negative result is a descriptor that nobody else owns.
        let socket = unsafe {
            let socket = libc::socket(domain, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_RAW);
            if socket < 0 {
                return Err(named("open a raw socket", io::Error::last_os_error()));
            }
            OwnedFd::from_raw_fd(socket)
        };
        Ok(Self { socket, level })
    }

    /// Numbers of entries, sizes and places of the hooks of all four tables as one number.
    pub(crate) fn fingerprint(&self) -> io::Result<u64> {
        let mut hasher = DefaultHasher::new();
        for table in IptablesTable::ALL {
            let info = self.get(table)?;
            (info.num_entries, info.size, info.hook_entry, info.underflow).hash(&mut hasher);
        }
        Ok(hasher.finish())
    }

    fn get(&self, table: IptablesTable) -> io::Result<GetInfo> {
        // SAFETY: all-zero is a valid GetInfo.
        let mut info: GetInfo = unsafe { mem::zeroed() };
        let name = table.name().as_bytes();
        info.name[..name.len()].copy_from_slice(name);
        let mut length = mem::size_of::<GetInfo>() as libc::socklen_t;
        // SAFETY: the pointers describe `info` and its length.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                self.level,
                SO_GET_INFO,
                (&raw mut info).cast(),
                &raw mut length,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(info) }
    }
}

/// `IPT_SO_GET_INFO` and `IP6T_SO_GET_INFO`.
const SO_GET_INFO: libc::c_int = 64;
