//! Packets that rules log to a group of nfnetlink_log (iptables' NFLOG, nftables' `log group`).
//!
//! The kernel copies the head of each packet into a bounded queue; what does not fit is counted, never waited for.
//! A group belongs to one network namespace and one socket; unlike the `LOG` target it needs no permission of the
//! host (`net.netfilter.nf_log_all_netns` is about that one alone).

use std::io;

use kernel::{LoggedPacket, PacketHead};

use crate::nl::{Message, Protocol, Socket, Writer, errno, messages, named};

/// Bytes of each packet: IPv6 with an extension or two, and the ports.
const COPY: u32 = 96;
/// Packets that the kernel gathers before it wakes us.
const GATHER: u32 = 64;
/// How long it gathers at most, hundredths of a second.
const GATHER_TIME: u32 = 10;
/// Bytes in which it gathers.
const GATHER_BYTES: u32 = 32 << 10;

/// A socket that hears what is logged to one group in the network namespace in which it was opened.
pub struct Nflog {
    socket: Socket,
    group: u16,
    /// The number that the next packet has unless one was lost.
    next: Option<u32>,
}

/// What came in one go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    pub packets: Vec<LoggedPacket>,
    /// Packets that were logged and did not reach us: the queue was full.
    pub lost: u64,
}

impl Nflog {
    /// Takes the group.
    ///
    /// # Errors
    /// `ResourceBusy` when another program has it; `Unsupported` when the kernel has no nfnetlink_log.
    pub fn open(group: u16) -> io::Result<Self> {
        let socket = Socket::open(Protocol::Netfilter).map_err(|e| named("open nfnetlink_log", e))?;
        let mut nflog = Self { socket, group, next: None };
        nflog.configure("take", |w| w.u8(CFG_CMD, CMD_BIND))?;
        nflog.configure("copy the heads of packets of", |w| {
            let mut mode = [0; 6];
            mode[..4].copy_from_slice(&COPY.to_be_bytes());
            mode[4] = COPY_PACKET;
            w.attribute(CFG_MODE, &mode);
        })?;
        nflog.configure("set the queue of", |w| {
            w.attribute(CFG_NLBUFSIZ, &GATHER_BYTES.to_be_bytes());
            w.attribute(CFG_TIMEOUT, &GATHER_TIME.to_be_bytes());
            w.attribute(CFG_QTHRESH, &GATHER.to_be_bytes());
            w.attribute(CFG_FLAGS, &FLAG_SEQUENCE.to_be_bytes());
        })?;
        nflog.socket.set_timeout(0)?;
        Ok(nflog)
    }

    fn configure(&mut self, what: &str, wish: impl FnOnce(&mut Writer<'_>)) -> io::Result<()> {
        let [high, low] = self.group.to_be_bytes();
        let header = [libc::AF_UNSPEC as u8, 0, high, low];
        let asked = self.socket.request(
            ULOG | CONFIG,
            0,
            |w| {
                w.bytes(&header);
                wish(w);
            },
            |_| {},
        );
        asked.map_err(|error| refused(what, self.group, error))
    }

    /// Waits for packets.
    ///
    /// # Errors
    /// When the socket fails for good; a full queue is no failure.
    pub fn receive(&mut self) -> io::Result<Heard> {
        let mut heard = Heard::default();
        match self.socket.receive() {
            Ok(length) => {
                for message in messages(self.socket.received(length)) {
                    let Some((packet, number)) = parse(&message) else { continue };
                    if let (Some(number), Some(expected)) = (number, self.next) {
                        heard.lost += u64::from(number.wrapping_sub(expected));
                    }
                    self.next = number.map(|number| number.wrapping_add(1)).or(self.next);
                    heard.packets.push(packet);
                }
            }
            // How many did not fit, the number of the next packet says; or nobody if the queue itself is too short.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                heard.lost = u64::from(self.next.is_none());
            }
            Err(error) => return Err(named("receive logged packets", error)),
        }
        Ok(heard)
    }
}

fn refused(what: &str, group: u16, error: io::Error) -> io::Error {
    let what = format!("{what} NFLOG group {group}");
    match errno(&error) {
        Some(libc::EBUSY | libc::EPERM | libc::EEXIST) => {
            let text =
                format!("{what}: another program listens there, or CAP_NET_ADMIN is missing ({error})");
            io::Error::new(io::ErrorKind::ResourceBusy, text)
        }
        Some(libc::EINVAL | libc::EOPNOTSUPP) => {
            let text = format!("{what}: this kernel has no nfnetlink_log; load the module ({error})");
            io::Error::new(io::ErrorKind::Unsupported, text)
        }
        _ => named(what, error),
    }
}

/// A packet and its number in the group.
pub(crate) fn parse(message: &Message<'_>) -> Option<(LoggedPacket, Option<u32>)> {
    if message.kind != ULOG | PACKET {
        return None;
    }
    let mut packet = LoggedPacket { prefix: String::new(), in_link: None, out_link: None, head: None };
    let mut number = None;
    for attribute in message.attributes(4) {
        let big_endian = || attribute.u32().map(u32::from_be);
        match attribute.kind {
            PREFIX => packet.prefix = attribute.string(),
            IN_LINK => packet.in_link = big_endian(),
            OUT_LINK => packet.out_link = big_endian(),
            PAYLOAD => packet.head = PacketHead::parse(attribute.payload),
            SEQUENCE => number = big_endian(),
            _ => {}
        }
    }
    Some((packet, number))
}

const ULOG: u16 = 4 << 8;
const PACKET: u16 = 0;
const CONFIG: u16 = 1;
const CFG_CMD: u16 = 1;
const CFG_MODE: u16 = 2;
const CFG_NLBUFSIZ: u16 = 3;
const CFG_TIMEOUT: u16 = 4;
const CFG_QTHRESH: u16 = 5;
const CFG_FLAGS: u16 = 6;
const CMD_BIND: u8 = 1;
const COPY_PACKET: u8 = 2;
const FLAG_SEQUENCE: u16 = 1;
const IN_LINK: u16 = 4;
const OUT_LINK: u16 = 5;
const PAYLOAD: u16 = 9;
const PREFIX: u16 = 10;
const SEQUENCE: u16 = 12;
