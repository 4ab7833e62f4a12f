//! Raw packets out of and into one network namespace; each carries a number by which it is known again.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use felix_evaluate::Packet;
use kernel_linux::Netns;
use model::Protocol;

/// What is sent and listened for. SCTP is left out: conntrack wants whole handshakes of it.
pub const PROTOCOLS: [Protocol; 5] =
    [Protocol::TCP, Protocol::TCP, Protocol::UDP, Protocol::ICMP, Protocol(253)];
const MAGIC: [u8; 4] = *b"oci!";

/// The raw sockets of one namespace.
pub struct Wire {
    sockets: Vec<(Protocol, OwnedFd)>,
    own: Ipv4Addr,
}

impl Wire {
    pub fn open(netns: &Netns, own: Ipv4Addr) -> io::Result<Self> {
        let distinct = [Protocol::TCP, Protocol::UDP, Protocol::ICMP, Protocol(253)];
        let sockets = netns.run(|| {
            let open = |protocol: Protocol| Ok((protocol, raw_socket(protocol, own)?));
            distinct.into_iter().map(open).collect::<io::Result<Vec<_>>>()
        })?;
        Ok(Self { sockets, own })
    }

    /// A packet that the kernel refuses to send was dropped, too.
    pub fn send(&self, packet: &Packet, number: u32) {
        let IpAddr::V4(to) = packet.to.address else { panic!("only IPv4 is sent") };
        let payload = [MAGIC, number.to_be_bytes()].concat();
        let bytes = match packet.protocol {
            Protocol::TCP => tcp(self.own, to, packet, &payload),
            Protocol::UDP => udp(self.own, to, packet, &payload),
            Protocol::ICMP => echo(packet, number, &payload),
            _ => payload,
        };
        let (_, socket) = self.sockets.iter().find(|(p, _)| *p == packet.protocol).unwrap();
        let address = socket_address(to);
        // SAFETY: the buffer and the address live across the call and have the lengths given.
        unsafe {
            libc::sendto(
                socket.as_raw_fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                libc::MSG_DONTWAIT,
                (&raw const address).cast(),
                size_of::<libc::sockaddr_in>() as libc::socklen_t,
            )
        };
    }

    /// The numbers of packets that came since the last look.
    pub fn receive(&self) -> Vec<u32> {
        let mut numbers = Vec::new();
        for (protocol, socket) in &self.sockets {
            let mut buffer = [0_u8; 256];
            loop {
                // SAFETY: the buffer lives across the call and has the length given.
                let length = unsafe {
                    let buffer = buffer.as_mut_ptr().cast();
                    libc::recv(socket.as_raw_fd(), buffer, 256, libc::MSG_DONTWAIT)
                };
                let Ok(length) = usize::try_from(length) else { break };
                numbers.extend(number_of(*protocol, &buffer[..length.min(256)]));
            }
        }
        numbers
    }
}

/// Behind the IP header and that of the protocol; answers to an echo carry the number as well and do not count.
fn number_of(protocol: Protocol, bytes: &[u8]) -> Option<u32> {
    let header = usize::from(bytes.first()? & 0xf) * 4;
    let inner = bytes.get(header..)?;
    let offset = match protocol {
        Protocol::TCP => 20,
        Protocol::UDP => 8,
        Protocol::ICMP if inner.first() == Some(&8) => 8,
        Protocol::ICMP => return None,
        _ => 0,
    };
    let payload = inner.get(offset..offset + 8)?;
    let number = payload.strip_prefix(&MAGIC)?;
    Some(u32::from_be_bytes(number.try_into().ok()?))
}

fn raw_socket(protocol: Protocol, own: Ipv4Addr) -> io::Result<OwnedFd> {
    // SAFETY: plain system call; the descriptor is owned from here on.
    let fd =
        unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(protocol.0)) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let address = socket_address(own);
    let length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    // SAFETY: the address lives across the call and has the length given.
    if unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr_in {
    // SAFETY: all zero is a valid address.
    let mut raw: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    raw.sin_family = libc::AF_INET as libc::sa_family_t;
    raw.sin_addr.s_addr = u32::from(address).to_be();
    raw
}

/// A SYN.
fn tcp(from: Ipv4Addr, to: Ipv4Addr, packet: &Packet, payload: &[u8]) -> Vec<u8> {
    let mut bytes = ports(packet);
    bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    bytes.extend(payload);
    finish(bytes, 16, pseudo(from, to, Protocol::TCP, 20 + payload.len()))
}

fn udp(from: Ipv4Addr, to: Ipv4Addr, packet: &Packet, payload: &[u8]) -> Vec<u8> {
    let mut bytes = ports(packet);
    bytes.extend((8 + payload.len() as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    finish(bytes, 6, pseudo(from, to, Protocol::UDP, 8 + payload.len()))
}

/// Each with an identifier of its own, so that it is a connection of its own.
fn echo(packet: &Packet, number: u32, payload: &[u8]) -> Vec<u8> {
    let (kind, code) = packet.icmp.unwrap_or((8, 0));
    let mut bytes = vec![kind, code, 0, 0];
    bytes.extend((number as u16).to_be_bytes());
    bytes.extend([0, 1]);
    bytes.extend(payload);
    finish(bytes, 2, 0)
}

fn ports(packet: &Packet) -> Vec<u8> {
    [packet.source_port.to_be_bytes(), packet.destination_port.to_be_bytes()].concat()
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum()
}

fn pseudo(from: Ipv4Addr, to: Ipv4Addr, protocol: Protocol, length: usize) -> u32 {
    sum(&from.octets()) + sum(&to.octets()) + u32::from(protocol.0) + length as u32
}

/// Puts the checksum where it belongs.
fn finish(mut bytes: Vec<u8>, at: usize, start: u32) -> Vec<u8> {
    let mut total = start + sum(&bytes);
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    bytes[at..at + 2].copy_from_slice(&(!(total as u16)).to_be_bytes());
    bytes
}
