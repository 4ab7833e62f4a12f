//! The cost of a packet: one thread that sends bursts through the node and receives them again.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use kernel_linux::Netns;

use crate::cost::thread_cpu;

/// Packets in one system call.
const BURST: usize = 32;
/// Bytes of UDP payload.
const PAYLOAD: usize = 64;

/// One flow between two pods.
pub struct Flow {
    sender: UdpSocket,
    receiver: UdpSocket,
}

impl Flow {
    /// Established: both sides have sent before.
    pub fn open(from: (&Netns, IpAddr), to: (&Netns, IpAddr)) -> io::Result<Self> {
        let (a, b) = (SocketAddr::new(from.1, 5_000), SocketAddr::new(to.1, 6_000));
        let socket = |netns: &Netns, own: SocketAddr, other: SocketAddr| {
            netns.run(move || {
                let socket = UdpSocket::bind(own)?;
                socket.connect(other)?;
                Ok(socket)
            })
        };
        let flow = Self { sender: socket(from.0, a, b)?, receiver: socket(to.0, b, a)? };
        let limit = Some(Duration::from_secs(2));
        flow.sender.set_read_timeout(limit)?;
        flow.receiver.set_read_timeout(limit)?;
        let named = |what: &'static str| {
            move |error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"))
        };
        flow.sender.send(b"there")?;
        flow.receiver.recv(&mut [0; 8]).map_err(named("first packet"))?;
        flow.receiver.send(b"back")?;
        flow.sender.recv(&mut [0; 8]).map_err(named("its answer"))?;
        Ok(flow)
    }

    /// CPU time per packet over one window: all the way to the receiver is this thread's.
    pub fn window(&self, length: Duration) -> io::Result<Duration> {
        let mut payload = [0_u8; PAYLOAD];
        let mut inbox = [[0_u8; PAYLOAD]; BURST];
        let mut out = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: PAYLOAD };
        let mut into: Vec<libc::iovec> = inbox
            .iter_mut()
            .map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: PAYLOAD })
            .collect();
        // SAFETY: all zero is a valid header; the pointers are set below and live as long as the headers.
        let mut headers: [libc::mmsghdr; BURST] = unsafe { std::mem::zeroed() };
        let mut inboxes = headers;
        for header in &mut headers {
            header.msg_hdr.msg_iov = &raw mut out;
            header.msg_hdr.msg_iovlen = 1;
        }
        for (header, buffer) in inboxes.iter_mut().zip(&mut into) {
            header.msg_hdr.msg_iov = buffer;
            header.msg_hdr.msg_iovlen = 1;
        }
        let (begin, cpu, mut received) = (Instant::now(), thread_cpu(), 0_u32);
        while begin.elapsed() < length {
            // SAFETY: the headers point to live buffers of the lengths given, and BURST is their number.
            let (sent, got) = unsafe {
                let sent = libc::sendmmsg(self.sender.as_raw_fd(), headers.as_mut_ptr(), BURST as u32, 0);
                let fd = self.receiver.as_raw_fd();
                let flags = libc::MSG_DONTWAIT;
                (sent, libc::recvmmsg(fd, inboxes.as_mut_ptr(), BURST as u32, flags, std::ptr::null_mut()))
            };
            if sent < 0 {
                return Err(io::Error::last_os_error());
            }
            received += u32::try_from(got).unwrap_or(0);
        }
        if received == 0 {
            return Err(io::Error::other("no packet arrived"));
        }
        Ok(thread_cpu().saturating_sub(cpu) / received)
    }
}
