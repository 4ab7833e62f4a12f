//! Answers on a pod's declared ports with the pod's name: one set of sockets a pod, no process.
//! The sockets are made inside the pod's namespace and then served from the daemon's own tasks.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinHandle;

use crate::netns;

/// How long an accepted connection may stay open after its answer.
const LINGER: Duration = Duration::from_secs(5);

/// A transport protocol that the responder can speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP, where the kernel has it.
    Sctp,
}

/// The running responders of one pod; dropping it closes their sockets.
#[derive(Debug, Default)]
pub struct Responder {
    tasks: Vec<JoinHandle<()>>,
    /// Ports that could not be served, and why.
    pub failures: Vec<String>,
}

impl Drop for Responder {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

enum Socket {
    Stream(std::net::TcpListener),
    Datagram(std::net::UdpSocket),
}

impl Responder {
    /// Opens the ports inside the namespace and answers on them with `name` and a line feed.
    pub async fn start(namespace: &Path, ports: Vec<(Transport, u16)>, name: &str) -> io::Result<Self> {
        let mut responder = Self::default();
        if ports.is_empty() {
            return Ok(responder);
        }
        let opened = netns::enter(namespace, move || {
            Ok(ports
                .into_iter()
                .map(|(transport, port)| (transport, port, open(transport, port)))
                .collect::<Vec<_>>())
        })
        .await?;
        let answer: std::sync::Arc<[u8]> = format!("{name}\n").into_bytes().into();
        for (transport, port, socket) in opened {
            let served = socket.and_then(|socket| serve(socket, std::sync::Arc::clone(&answer)));
            match served {
                Ok(task) => responder.tasks.push(task),
                // Few kernels have SCTP; a pod that declares it is as ready as on such a cluster.
                Err(e) if transport == Transport::Sctp && e.raw_os_error() == Some(libc::EPROTONOSUPPORT) => {
                    tracing::info!(pod = name, port, "this kernel has no SCTP; port not served");
                }
                Err(e) => responder.failures.push(format!("cannot listen on {transport:?} port {port}: {e}")),
            }
        }
        Ok(responder)
    }
}

fn serve(socket: Socket, answer: std::sync::Arc<[u8]>) -> io::Result<JoinHandle<()>> {
    Ok(match socket {
        Socket::Stream(listener) => {
            listener.set_nonblocking(true)?;
            tokio::spawn(serve_stream(TcpListener::from_std(listener)?, answer))
        }
        Socket::Datagram(socket) => {
            socket.set_nonblocking(true)?;
            tokio::spawn(serve_datagrams(UdpSocket::from_std(socket)?, answer))
        }
    })
}

async fn serve_stream(listener: TcpListener, answer: std::sync::Arc<[u8]>) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely: others must close first.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let answer = std::sync::Arc::clone(&answer);
        tokio::spawn(async move {
            if stream.write_all(&answer).await.is_ok() && stream.shutdown().await.is_ok() {
                // Let the client close first, so that TIME_WAIT stays on its side and nothing is reset.
                let mut sink = [0_u8; 256];
                let drain = async {
                    while tokio::io::AsyncReadExt::read(&mut stream, &mut sink).await.is_ok_and(|n| n > 0) {}
                };
                tokio::time::timeout(LINGER, drain).await.ok();
            }
        });
    }
}

async fn serve_datagrams(socket: UdpSocket, answer: std::sync::Arc<[u8]>) {
    let mut buffer = [0_u8; 2048];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((_, from)) => {
                socket.send_to(&answer, from).await.ok();
            }
            // An ICMP error about an earlier answer; the socket itself is well.
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

fn open(transport: Transport, port: u16) -> io::Result<Socket> {
    let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    match open_at(transport, both) {
        // A kernel or namespace without IPv6.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) => {
            open_at(transport, v4)
        }
        other => other,
    }
}

fn open_at(transport: Transport, address: SocketAddr) -> io::Result<Socket> {
    match transport {
        Transport::Tcp => Ok(Socket::Stream(std::net::TcpListener::bind(address)?)),
        Transport::Udp => Ok(Socket::Datagram(std::net::UdpSocket::bind(address)?)),
        Transport::Sctp => sctp_listener(address).map(Socket::Stream),
    }
}

/// A one-to-one SCTP socket serves like a TCP listener.
fn sctp_listener(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let fd: OwnedFd = sctp_socket(family, SocketType::STREAM, SocketFlags::CLOEXEC)?;
    rustix::net::bind(&fd, &address)?;
    rustix::net::listen(&fd, 128)?;
    Ok(fd.into())
}

/// Opens an SCTP socket; the error is `EPROTONOSUPPORT` where the kernel has none.
pub fn sctp_socket(
    family: rustix::net::AddressFamily,
    kind: rustix::net::SocketType,
    flags: rustix::net::SocketFlags,
) -> io::Result<OwnedFd> {
    let family = i32::from(family.as_raw());
    let kind = i32::try_from(kind.as_raw() | flags.bits()).map_err(io::Error::other)?;
    // SAFETY: socket takes integers only; the result is checked before it is owned.
    let fd = unsafe { libc::socket(family, kind, libc::IPPROTO_SCTP) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` is a fresh descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
