//! Whether a link leaves checksums to the hardware, by the ioctl that `ethtool -K LINK tx off` uses.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use crate::link::check_name;
use crate::nl::named;

const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_GTXCSUM: u32 = 0x16;
const ETHTOOL_STXCSUM: u32 = 0x17;

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// Does the link leave checksums of what it sends to the hardware? One that does not tell counts as one that does not.
pub(crate) fn has_checksums(name: &str) -> bool {
    call(name, ETHTOOL_GTXCSUM, 0).is_ok_and(|value| value != 0)
}

/// From now on the kernel works out checksums of what the link sends.
pub(crate) fn switch_off_checksums(name: &str) -> io::Result<()> {
    call(name, ETHTOOL_STXCSUM, 0)
        .map(drop)
        .map_err(|e| named(format!("switch off checksum offload of {name}"), e))
}

fn call(name: &str, command: u32, data: u32) -> io::Result<u32> {
    check_name(name)?;
    // SAFETY: a plain system call; the descriptor is owned from here on.
    let socket = unsafe {
        match libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) {
            fd if fd < 0 => return Err(io::Error::last_os_error()),
            fd => OwnedFd::from_raw_fd(fd),
        }
    };
    let mut value = EthtoolValue { command, data };
    // SAFETY: `ifreq` is plain data, and all zeroes are a value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: request and value live until the call returns, and have the layout that it expects.
    if unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(value.data)
}
