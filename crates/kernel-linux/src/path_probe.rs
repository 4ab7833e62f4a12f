//! Echo requests that must not be cut, to find out how large packets a path carries (RFC 792, RFC 4443).
//!
//! Sends what it is told and says what was answered; which sizes are worth asking is the caller's.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use model::Family;

use crate::nl::named;

/// Most requests of one call: the sequence number tells them apart.
const MOST: usize = u16::MAX as usize;
/// Largest packet that is sent, bytes.
const LARGEST: u32 = 65_535;
/// Type, code, checksum, identifier, sequence.
const HEADER: usize = 8;

/// Sends one request for each address and size (bytes of the whole packet) in the network namespace of the calling
/// thread, and waits until all are answered or the time is over. Gives those that were answered.
///
/// # Errors
/// When no raw socket can be had (needs NET_RAW). A packet that the own link does not take counts as unanswered.
pub fn probe_paths(wanted: &[(IpAddr, u32)], limit: Duration) -> io::Result<BTreeSet<(IpAddr, u32)>> {
    let wanted = wanted.get(..wanted.len().min(MOST)).unwrap_or_default();
    let mut answered = BTreeSet::new();
    let mut sockets = Vec::new();
    for family in Family::ALL {
        if wanted.iter().any(|(address, _)| Family::of(*address) == family) {
            sockets.push((family, open(family).map_err(|e| named(format!("open raw {family} socket"), e))?));
        }
    }
    static CALLS: AtomicU16 = AtomicU16::new(0);
    let identifier = (std::process::id() as u16) ^ CALLS.fetch_add(1, Ordering::Relaxed).rotate_left(8);
    for (sequence, (address, size)) in wanted.iter().enumerate() {
        let socket = sockets.iter().find(|(family, _)| *family == Family::of(*address));
        if let Some((family, socket)) = socket {
            // Refused here is unanswered like lost on the way.
            let _ = send(socket, *address, &request(*family, identifier, sequence as u16, *size));
        }
    }
    let end = Instant::now() + limit;
    while answered.len() < wanted.len() && wait(&sockets, end)? {
        for (family, socket) in &sockets {
            while let Some((from, sequence)) = receive(socket, *family, identifier)? {
                let asked = wanted.get(usize::from(sequence)).filter(|(address, _)| *address == from);
                answered.extend(asked.copied());
            }
        }
    }
    Ok(answered)
}

fn open(family: Family) -> io::Result<OwnedFd> {
    let (domain, protocol) = match family {
        Family::V4 => (libc::AF_INET, libc::IPPROTO_ICMP),
        Family::V6 => (libc::AF_INET6, libc::IPPROTO_ICMPV6),
    };
    // SAFETY: plain system call; a non-negative result is a descriptor that nobody else owns.
    let socket = unsafe {
        let fd = libc::socket(domain, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, protocol);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    let (level, option, probe) = match family {
        Family::V4 => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE),
        Family::V6 => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE),
    };
    set(&socket, level, option, probe)?;
    set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, 4 << 20)?;
    set(&socket, libc::SOL_SOCKET, libc::SO_SNDBUF, 4 << 20)?;
    Ok(socket)
}

fn set(socket: &OwnedFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: pointer and length describe `value`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(&value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// An echo request that makes a packet of `size` bytes.
fn request(family: Family, identifier: u16, sequence: u16, size: u32) -> Vec<u8> {
    let (kind, header) = match family {
        Family::V4 => (8, 20),
        Family::V6 => (128, 40),
    };
    let length = (size.min(LARGEST) as usize).saturating_sub(header).max(HEADER);
    let mut packet = vec![0; length];
    packet[0] = kind;
    packet[4..6].copy_from_slice(&identifier.to_be_bytes());
    packet[6..8].copy_from_slice(&sequence.to_be_bytes());
    // The kernel fills in that of ICMPv6.
    if family == Family::V4 {
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// RFC 1071.
fn checksum(packet: &[u8]) -> u16 {
    let words =
        packet.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum = words.sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn send(socket: &OwnedFd, to: IpAddr, packet: &[u8]) -> io::Result<()> {
    // SAFETY: an address of zeros is one; the fields that matter are filled in below.
    let mut address: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let place = std::ptr::from_mut(&mut address);
    let length = match to {
        IpAddr::V4(v4) => {
            // SAFETY: the storage has room and alignment for every kind of address.
            let v4_address = unsafe { &mut *place.cast::<libc::sockaddr_in>() };
            v4_address.sin_family = libc::AF_INET as libc::sa_family_t;
            v4_address.sin_addr.s_addr = u32::from_ne_bytes(v4.octets());
            size_of::<libc::sockaddr_in>()
        }
        IpAddr::V6(v6) => {
            // SAFETY: as above.
            let v6_address = unsafe { &mut *place.cast::<libc::sockaddr_in6>() };
            v6_address.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            v6_address.sin6_addr.s6_addr = v6.octets();
            size_of::<libc::sockaddr_in6>()
        }
    };
    // SAFETY: pointers and lengths describe `packet` and `address`.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            packet.as_ptr().cast(),
            packet.len(),
            0,
            std::ptr::from_ref(&address).cast(),
            length as libc::socklen_t,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `false`: the time is over.
fn wait(sockets: &[(Family, OwnedFd)], end: Instant) -> io::Result<bool> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Ok(false);
    }
    let mut polled: Vec<libc::pollfd> = sockets
        .iter()
        .map(|(_, socket)| libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 })
        .collect();
    let milliseconds = i32::try_from(left.as_millis()).unwrap_or(i32::MAX).max(1);
    // SAFETY: pointer and length describe `polled`.
    let ready = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, milliseconds) };
    if ready >= 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::Interrupted { Ok(true) } else { Err(error) }
}

/// Who answered which request; `None` when nothing more is there. What is no answer to us is skipped.
fn receive(socket: &OwnedFd, family: Family, identifier: u16) -> io::Result<Option<(IpAddr, u16)>> {
    // Only the beginning is of interest.
    let mut buffer = [0_u8; 128];
    loop {
        // SAFETY: an address of zeros is one.
        let mut from: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        // SAFETY: pointers and lengths describe `buffer` and `from`.
        let received = unsafe {
            libc::recvfrom(
                socket.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                libc::MSG_DONTWAIT,
                std::ptr::from_mut(&mut from).cast(),
                &mut length,
            )
        };
        if received < 0 {
            let error = io::Error::last_os_error();
            // An error that came by ICMP belongs to one request, which stays unanswered.
            return match error.kind() {
                io::ErrorKind::WouldBlock => Ok(None),
                io::ErrorKind::Interrupted => continue,
                _ => Ok(None),
            };
        }
        let packet = buffer.get(..received as usize).unwrap_or_default();
        let sender = match family {
            Family::V4 => packet.get(12..16).and_then(crate::nl::address),
            Family::V6 => {
                // SAFETY: the kernel filled in an address of this family.
                let from = unsafe { &*std::ptr::from_ref(&from).cast::<libc::sockaddr_in6>() };
                Some(IpAddr::from(from.sin6_addr.s6_addr))
            }
        };
        if let Some(found) = sender.zip(answer(packet, family, identifier)) {
            return Ok(Some(found));
        }
    }
}

/// The sequence number of an echo reply to us.
fn answer(packet: &[u8], family: Family, identifier: u16) -> Option<u16> {
    let (start, kind) = match family {
        Family::V4 => (usize::from(packet.first()? & 0xf) * 4, 0),
        Family::V6 => (0, 129),
    };
    let reply = packet.get(start..start + HEADER)?;
    let is_ours = reply[0] == kind && reply[4..6] == identifier.to_be_bytes();
    is_ours.then(|| u16::from_be_bytes([reply[6], reply[7]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_told_from_anything_else() {
        let mut reply = vec![0x45; 20];
        let mut echo = request(Family::V4, 7, 3, 60);
        echo[0] = 0;
        reply.extend(&echo);

        assert_eq!(answer(&reply, Family::V4, 7), Some(3));
        assert_eq!(answer(&reply, Family::V4, 8), None);
        assert_eq!(checksum(&request(Family::V4, 7, 3, 60)), 0);
        for end in 0..27 {
            assert_eq!(answer(&reply[..end], Family::V4, 7), None);
        }
        assert_eq!(
            (request(Family::V4, 1, 1, 1500).len(), request(Family::V6, 1, 1, 1500).len()),
            (1480, 1460)
        );
        assert_eq!(request(Family::V4, 1, 1, 0).len(), HEADER);
    }

    #[test]
    fn this_machine_answers_itself_whatever_the_size() {
        let own = IpAddr::from([127, 0, 0, 1]);

        let answered = match probe_paths(&[(own, 100), (own, 9000)], Duration::from_secs(20)) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return,
            answered => answered.unwrap(),
        };

        assert_eq!(answered, [(own, 100), (own, 9000)].into());
    }
}
