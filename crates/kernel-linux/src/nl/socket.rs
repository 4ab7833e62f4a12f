//! One blocking netlink socket.
//!
//! Up to 512 messages go out in one send and only the last asks to be acknowledged: the kernel answers a
//! failed message in any case, so success costs no answer (measured 1.5 times faster than acknowledging all).

use std::collections::BTreeMap;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::error::{Error, errno};
use super::read::{Attributes, Message, messages, u32_at};
use super::write::{Batch, Writer};

const RECEIVE_BUFFER: usize = 64 * 1024;
/// Room for an error answer to each of 512 messages.
const KERNEL_BUFFER: libc::c_int = 4 << 20;
/// What the kernel sends at once on every system, and what it counts on top of a message.
const SEND_BUFFER: usize = 64 * 1024;
const SEND_OVERHEAD: usize = 4096;
/// A dump that was disturbed by a change is repeated this often; then it is good enough, since the change
/// itself is announced by an event.
const DUMP_TRIES: usize = 5;
/// No request takes this long; without a limit a lost answer would stop the caller for ever.
const TIMEOUT_SECONDS: i64 = 60;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// Which part of the kernel a socket talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Route,
    Netfilter,
    Generic,
}

/// A netlink socket of the network namespace in which it was opened, wherever it is used later.
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
    /// Bytes that go out in one send for certain.
    room: usize,
}

impl Socket {
    pub fn open(protocol: Protocol) -> io::Result<Self> {
        let protocol = match protocol {
            Protocol::Route => libc::NETLINK_ROUTE,
            Protocol::Netfilter => libc::NETLINK_NETFILTER,
            Protocol::Generic => libc::NETLINK_GENERIC,
        };
        // SAFETY: plain system call; a non-negative result is a descriptor that nobody else owns.
        let fd = unsafe {
            let fd = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        let socket = Self { fd, sequence: 1, buffer: vec![0; RECEIVE_BUFFER], room: SEND_BUFFER };
        socket.bind()?;
        // Each of these only improves answers; kernels that lack one still work.
        let _ = socket.set(libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, 1);
        let _ = socket.set(libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, 1);
        let _ = socket.set(libc::SOL_NETLINK, libc::NETLINK_GET_STRICT_CHK, 1);
        if socket.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, KERNEL_BUFFER).is_err() {
            let _ = socket.set(libc::SOL_SOCKET, libc::SO_RCVBUF, KERNEL_BUFFER);
        }
        socket.set_timeout(TIMEOUT_SECONDS)?;
        Ok(socket)
    }

    /// Subscribes to a multicast group (`RTNLGRP_*`).
    pub fn join(&self, group: u32) -> io::Result<()> {
        self.set(libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, group)
    }

    /// Lets the kernel choose our port.
    fn bind(&self) -> io::Result<()> {
        // SAFETY: all-zero is a valid sockaddr_nl.
        let mut address: libc::sockaddr_nl = unsafe { mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as u16;
        // SAFETY: the pointer and length describe `address`.
        let result = unsafe {
            libc::bind(
                self.fd.as_raw_fd(),
                (&raw const address).cast(),
                mem::size_of::<libc::sockaddr_nl>() as libc::socklen_t,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The port that the kernel has chosen: it stands in the messages that tell others of what this socket did.
    pub fn port(&self) -> io::Result<u32> {
        // SAFETY: all-zero is a valid sockaddr_nl.
        let mut address: libc::sockaddr_nl = unsafe { mem::zeroed() };
        let mut length = mem::size_of::<libc::sockaddr_nl>() as libc::socklen_t;
        // SAFETY: the pointers describe `address` and its length.
        let result =
            unsafe { libc::getsockname(self.fd.as_raw_fd(), (&raw mut address).cast(), &raw mut length) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(address.nl_pid) }
    }

    /// Lets `receive` wait for ever (`0`) or this many seconds.
    pub fn set_timeout(&self, seconds: i64) -> io::Result<()> {
        let time = libc::timeval { tv_sec: seconds, tv_usec: 0 };
        self.set(libc::SOL_SOCKET, libc::SO_RCVTIMEO, time)
    }

    /// Lets this many bytes go out in one send. Where that is not allowed, a send that is too long fails by itself.
    pub(crate) fn make_room(&mut self, bytes: usize) {
        // Without being asked the kernel gives about 200 KiB.
        let wanted = bytes.saturating_add(SEND_OVERHEAD);
        if wanted > self.room {
            let size = libc::c_int::try_from(wanted).unwrap_or(libc::c_int::MAX);
            if self.set(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, size).is_ok() {
                self.room = wanted;
            }
        }
    }

    fn set<T>(&self, level: libc::c_int, name: libc::c_int, value: T) -> io::Result<()> {
        // SAFETY: the pointer and length describe `value`.
        let result = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                level,
                name,
                (&raw const value).cast(),
                mem::size_of::<T>() as libc::socklen_t,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Sends all messages of `batch`; returns the errors by index. The others succeeded.
    ///
    /// When so many fail that the answers overflow the socket, all are sent again one by one; callers
    /// therefore use requests that may be repeated.
    pub fn execute(&mut self, batch: &mut Batch) -> io::Result<BTreeMap<usize, Error>> {
        if batch.is_empty() {
            return Ok(BTreeMap::new());
        }
        match self.execute_range(batch, 0..batch.len(), batch.len() - 1) {
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                self.drain();
                let mut errors = BTreeMap::new();
                for index in 0..batch.len() {
                    errors.extend(self.execute_range(batch, index..index + 1, index)?);
                }
                Ok(errors)
            }
            result => result,
        }
    }

    /// Sends all messages as one transaction of nfnetlink (the first and last are its brackets, which kernels
    /// before 6.10 do not acknowledge) and waits for the answer to the message `index`.
    ///
    /// Of a transaction with so many errors that they overflow the socket, the first ones are returned; `ENOBUFS`
    /// says that no answer came at all, so that nobody knows whether it was done.
    pub(crate) fn transact(&mut self, batch: &mut Batch, index: usize) -> io::Result<BTreeMap<usize, Error>> {
        let mut errors = BTreeMap::new();
        match self.exchange(batch, 0..batch.len(), index, &mut errors) {
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) && !errors.is_empty() => {
                self.drain();
                Ok(errors)
            }
            result => result.map(|()| errors),
        }
    }

    fn execute_range(
        &mut self,
        batch: &mut Batch,
        range: std::ops::Range<usize>,
        acked: usize,
    ) -> io::Result<BTreeMap<usize, Error>> {
        let mut errors = BTreeMap::new();
        self.exchange(batch, range, acked, &mut errors).map(|()| errors)
    }

    /// Sends a range, and gathers the errors; `acked` is the message whose answer ends the exchange.
    ///
    /// The kernel answers within the system call that sends: an answer that is not there then has found no room,
    /// which the kernel does not always tell. That is `ENOBUFS` here.
    fn exchange(
        &mut self,
        batch: &mut Batch,
        range: std::ops::Range<usize>,
        acked: usize,
        errors: &mut BTreeMap<usize, Error>,
    ) -> io::Result<()> {
        let first = self.sequence;
        for index in range.clone() {
            let at = batch.starts[index];
            let flags = u16::from_ne_bytes([batch.data[at + 6], batch.data[at + 7]]);
            let ack = libc::NLM_F_ACK as u16;
            let flags = if index == acked { flags | ack } else { flags & !ack };
            batch.data[at + 6..at + 8].copy_from_slice(&flags.to_ne_bytes());
            batch.data[at + 8..at + 12].copy_from_slice(&self.sequence.to_ne_bytes());
            self.sequence = self.sequence.wrapping_add(1);
        }
        let awaited = acked - range.start;
        let bytes = batch.starts[range.start]..batch.range(range.end - 1).end;
        self.send(&batch.data[bytes])?;

        let mut done = false;
        while !done {
            let length = match self.try_receive() {
                Ok(Some(length)) => length,
                Ok(None) => return Err(io::Error::from_raw_os_error(libc::ENOBUFS)),
                // Said once, before the answers that did find room.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => continue,
                Err(error) => return Err(error),
            };
            for message in messages(&self.buffer[..length]) {
                let offset = message.sequence.wrapping_sub(first) as usize;
                if message.kind != libc::NLMSG_ERROR as u16 || offset >= range.len() {
                    continue;
                }
                if let Some(error) = error_of(&message) {
                    // A transaction whose opening is refused goes no further.
                    done |= acked + 1 < range.end && offset == 0;
                    errors.insert(range.start + offset, error);
                }
                done |= offset == awaited;
            }
        }
        Ok(())
    }

    /// Sends one request and gives every message of its answer to `each`.
    pub fn request(
        &mut self,
        kind: u16,
        flags: u16,
        body: impl FnOnce(&mut Writer<'_>),
        mut each: impl FnMut(&Message<'_>),
    ) -> io::Result<()> {
        self.ask(kind, flags | libc::NLM_F_ACK as u16, body, &mut each).map(|_| ())
    }

    /// Dumps into a `T`, and starts over when the kernel says that the dump was disturbed by a change.
    pub fn dump<T: Default>(
        &mut self,
        kind: u16,
        body: impl Fn(&mut Writer<'_>),
        mut each: impl FnMut(&mut T, &Message<'_>),
    ) -> io::Result<T> {
        let mut tries = 0;
        loop {
            let mut result = T::default();
            let flags = libc::NLM_F_DUMP as u16;
            let dumped = self.ask(kind, flags, &body, &mut |message| each(&mut result, message));
            tries += 1;
            let disturbed = match dumped {
                // A part found no room, or an earlier dump still runs: that must end before the next may begin.
                Err(error) if tries < DUMP_TRIES && is_passing(&error) => {
                    self.drain();
                    continue;
                }
                dumped => dumped?,
            };
            if !disturbed || tries == DUMP_TRIES {
                return Ok(result);
            }
        }
    }

    fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        body: impl FnOnce(&mut Writer<'_>),
        each: &mut dyn FnMut(&Message<'_>),
    ) -> io::Result<bool> {
        let mut batch = Batch::new();
        batch.push(kind, flags, body);
        let sequence = self.sequence;
        self.sequence = self.sequence.wrapping_add(1);
        batch.data[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.send(&batch.data)?;

        let mut disturbed = false;
        loop {
            let length = self.receive()?;
            for message in messages(&self.buffer[..length]) {
                if message.sequence != sequence {
                    continue;
                }
                disturbed |= message.flags & libc::NLM_F_DUMP_INTR as u16 != 0;
                if message.kind == libc::NLMSG_ERROR as u16 {
                    return match error_of(&message) {
                        Some(error) => Err(error.into()),
                        None => Ok(disturbed),
                    };
                }
                if message.kind == libc::NLMSG_DONE as u16 {
                    return match u32_at(message.body, 0).map(|code| code as i32) {
                        Some(code) if code < 0 => Err(Error { errno: -code, text: None }.into()),
                        _ => Ok(disturbed),
                    };
                }
                each(&message);
            }
        }
    }

    fn send(&self, data: &[u8]) -> io::Result<()> {
        loop {
            // SAFETY: the pointer and length describe `data`.
            let sent = unsafe { libc::send(self.fd.as_raw_fd(), data.as_ptr().cast(), data.len(), 0) };
            if sent >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    /// Waits for one datagram; its bytes are `received(length)`.
    pub fn receive(&mut self) -> io::Result<usize> {
        self.receive_with(0)
    }

    /// Takes a datagram that is already there; `None` when there is none.
    pub fn try_receive(&mut self) -> io::Result<Option<usize>> {
        match self.receive_with(libc::MSG_DONTWAIT) {
            Ok(length) => Ok(Some(length)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The bytes of the last `receive`.
    pub fn received(&self, length: usize) -> &[u8] {
        &self.buffer[..length]
    }

    fn receive_with(&mut self, flags: libc::c_int) -> io::Result<usize> {
        loop {
            // SAFETY: all-zero is a valid sockaddr_nl.
            let mut sender: libc::sockaddr_nl = unsafe { mem::zeroed() };
            let mut sender_length = mem::size_of::<libc::sockaddr_nl>() as libc::socklen_t;
            // SAFETY: pointers and lengths describe `buffer` and `sender`.
            let length = unsafe {
                libc::recvfrom(
                    self.fd.as_raw_fd(),
                    self.buffer.as_mut_ptr().cast(),
                    self.buffer.len(),
                    flags | libc::MSG_TRUNC,
                    (&raw mut sender).cast(),
                    &raw mut sender_length,
                )
            };
            if length < 0 {
                let error = io::Error::last_os_error();
                match error.raw_os_error() {
                    Some(libc::EINTR) => continue,
                    Some(libc::EAGAIN) if flags & libc::MSG_DONTWAIT == 0 => {
                        return Err(io::Error::new(io::ErrorKind::TimedOut, "the kernel did not answer"));
                    }
                    _ => return Err(error),
                }
            }
            let length = length as usize;
            if length > self.buffer.len() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a netlink answer was cut"));
            }
            // Any process may send to our port; only the kernel's port is 0.
            if sender.nl_pid == 0 {
                return Ok(length);
            }
        }
    }

    fn drain(&mut self) {
        loop {
            match self.receive_with(libc::MSG_DONTWAIT) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(_) => return,
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Is it gone when what is waiting on the socket has been read?
fn is_passing(error: &io::Error) -> bool {
    matches!(errno(error), Some(libc::ENOBUFS | libc::EBUSY))
}

/// The error in an NLMSG_ERROR message; `None` for an acknowledgement.
fn error_of(message: &Message<'_>) -> Option<Error> {
    let code = u32_at(message.body, 0)? as i32;
    if code == 0 {
        return None;
    }
    // Behind the code stands the header of the refused message, and with NLM_F_CAPPED nothing more of it.
    let capped = message.flags & NLM_F_CAPPED != 0;
    let refused = if capped { 16 } else { u32_at(message.body, 4).unwrap_or(16) as usize };
    let rest = message.body.get(4 + super::align(refused)..).unwrap_or_default();
    let text = Attributes(rest).find(|attribute| attribute.kind == NLMSGERR_ATTR_MSG);
    Some(Error { errno: code.saturating_neg(), text: text.map(|attribute| attribute.string()) })
}

const NLM_F_CAPPED: u16 = 0x100;

#[cfg(test)]
mod tests {
    use super::*;

    /// In a network namespace of its own that ends with the thread; without root there is none, and nothing to test.
    fn in_netns(test: impl FnOnce() + Send + 'static) {
        let run = move || {
            // SAFETY: plain system call that changes this short-lived thread only.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0 {
                test();
            }
        };
        std::thread::spawn(run).join().expect("the test does not panic");
    }

    /// With room for one or two answers, as the kernel gives no less.
    fn narrow(protocol: Protocol) -> Socket {
        let socket = Socket::open(protocol).expect("netlink");
        socket.set(libc::SOL_SOCKET, libc::SO_RCVBUF, 1).expect("any size is taken");
        socket
    }

    #[test]
    fn answers_that_find_no_room_are_asked_for_again() {
        in_netns(|| {
            let mut socket = narrow(Protocol::Route);
            let mut batch = Batch::new();
            for _ in 0..200 {
                // A route that is not there: every message is answered with an error.
                batch.push(libc::RTM_DELROUTE, 0, |w| {
                    w.bytes(&[2, 32, 0, 0, 254, 0, 0, 0, 0, 0, 0, 0]);
                    w.attribute(libc::RTA_DST, &[192, 0, 2, 1]);
                });
            }

            let errors = socket.execute(&mut batch).expect("an exchange");

            assert_eq!(errors.len(), 200);
            assert!(errors.values().all(|error| error.errno == libc::ESRCH), "{errors:?}");
        });
    }

    #[test]
    fn a_dump_that_was_given_up_is_in_nobodys_way() {
        in_netns(|| {
            let mut socket = Socket::open(Protocol::Route).expect("netlink");
            let mut batch = Batch::new();
            for number in 0..4_000_u32 {
                batch.push(libc::RTM_NEWROUTE, libc::NLM_F_CREATE as u16, |w| {
                    w.bytes(&[2, 32, 0, 0, 254, 4, 0, 6, 0, 0, 0, 0]);
                    w.attribute(libc::RTA_DST, &(0x0a00_0000 + number).to_be_bytes());
                });
            }
            assert!(socket.execute(&mut batch).expect("an exchange").is_empty());
            let body = |w: &mut Writer<'_>| w.bytes(&[2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            let mut dump = Batch::new();
            dump.push(libc::RTM_GETROUTE, libc::NLM_F_DUMP as u16, body);
            socket.send(&dump.data).expect("the first part is made, and nobody reads it");

            let count = socket.dump(libc::RTM_GETROUTE, body, |count: &mut usize, _| *count += 1);

            assert!(count.expect("the second dump is whole") >= 4_000);
        });
    }

    #[test]
    fn a_transaction_with_too_many_errors_tells_the_first_ones() {
        const NFTABLES: u16 = 10;
        const DEL_CHAIN: u16 = 5;
        in_netns(|| {
            let mut socket = narrow(Protocol::Netfilter);
            let mut batch = Batch::new();
            let bracket = |w: &mut Writer<'_>| w.bytes(&[0, 0, 0, NFTABLES as u8]);
            batch.push(libc::NFNL_MSG_BATCH_BEGIN as u16, 0, bracket);
            for _ in 0..200 {
                batch.push(NFTABLES << 8 | DEL_CHAIN, 0, |w| {
                    w.bytes(&[2, 0, 0, 0]);
                    w.string(1, "nowhere");
                    w.string(3, "nothing");
                });
            }
            batch.push(libc::NFNL_MSG_BATCH_END as u16, 0, bracket);

            let errors = socket.transact(&mut batch, 200).expect("an exchange");

            assert!((1..200).contains(&errors.len()), "{} errors", errors.len());
            assert!(errors.values().all(|error| error.errno == libc::ENOENT), "{errors:?}");
        });
    }
}
