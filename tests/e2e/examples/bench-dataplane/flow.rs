//! One sender, one receiver, and what passes between them.
//!
//! Each end has a processor of its own where there are two, as nodes have, and goes before everything else on it:
//! what the machine does besides is not measured.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, LinkNameSpaceType, gettid, move_into_link_name_space, sched_setaffinity};

use crate::{Outcome, median};

const TCP_PORT: u16 = 7001;
const UDP_PORT: u16 = 7002;
const STREAM: Duration = Duration::from_millis(500);
const ECHOES: usize = 4_000;
/// A packet that takes longer is lost, and the figure with it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Names of network namespaces, and the receiver's address.
pub struct Ends {
    pub from: String,
    pub to: String,
    pub address: IpAddr,
}

/// Gbit/s of one connection.
pub fn throughput(ends: &Ends) -> Outcome<f64> {
    let listener = within(&ends.to, || TcpListener::bind((ends.address, TCP_PORT)))?;
    let mut sender = within(&ends.from, || TcpStream::connect((ends.address, TCP_PORT)))?;
    let (mut receiver, _) = listener.accept()?;
    let sending = std::thread::spawn(move || {
        go_first(0)?;
        let (chunk, start) = (vec![0; 256 * 1024], Instant::now());
        while start.elapsed() < STREAM {
            sender.write_all(&chunk)?;
        }
        Ok::<(), std::io::Error>(())
    });
    let receiving = std::thread::spawn(move || {
        go_first(1)?;
        let (mut chunk, mut bytes, start) = (vec![0; 256 * 1024], 0, Instant::now());
        loop {
            match receiver.read(&mut chunk)? {
                0 => return Ok::<_, std::io::Error>((bytes, start.elapsed().as_secs_f64())),
                read => bytes += read,
            }
        }
    });
    sending.join().expect("the sender does not panic")?;
    let (bytes, elapsed) = receiving.join().expect("the receiver does not panic")?;
    Ok(bytes as f64 * 8.0 / elapsed / 1e9)
}

/// Microseconds until a packet's answer is there, the median.
pub fn latency(ends: &Ends) -> Outcome<f64> {
    let server = within(&ends.to, || UdpSocket::bind((ends.address, UDP_PORT)))?;
    let client = within(&ends.from, || {
        let any: IpAddr = if ends.address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let client = UdpSocket::bind((any, 0))?;
        client.connect((ends.address, UDP_PORT))?;
        Ok(client)
    })?;
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(PATIENCE))?;
    }
    let echo = std::thread::spawn(move || {
        go_first(1)?;
        let mut packet = [0; 64];
        for _ in 0..ECHOES {
            let (length, from) = server.recv_from(&mut packet)?;
            server.send_to(&packet[..length], from)?;
        }
        Ok::<(), std::io::Error>(())
    });
    let asking = std::thread::spawn(move || {
        go_first(0)?;
        let mut times = Vec::with_capacity(ECHOES);
        let mut packet = [0; 64];
        for _ in 0..ECHOES {
            let start = Instant::now();
            client.send(&packet)?;
            client.recv(&mut packet)?;
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
        Ok::<_, std::io::Error>(times)
    });
    let times = asking.join().expect("who asks does not panic")?;
    echo.join().expect("the echo does not panic")?;
    Ok(median(times))
}

/// This thread goes before all others of a processor.
fn go_first(processor: usize) -> std::io::Result<()> {
    let mut processors = CpuSet::new();
    processors.set(processor);
    // A machine with one processor has no second one.
    let _ = sched_setaffinity(None, &processors);
    let thread = gettid().as_raw_nonzero().to_string();
    let status = Command::new("chrt").args(["--fifo", "--pid", "10", &thread]).status()?;
    match status.success() {
        true => Ok(()),
        false => Err(std::io::Error::other("chrt gave no priority (root is needed)")),
    }
}

/// Runs `work` on a thread inside; sockets that it opens stay there.
fn within<T: Send>(netns: &str, work: impl FnOnce() -> std::io::Result<T> + Send) -> std::io::Result<T> {
    let namespace = File::open(format!("/run/netns/{netns}"))?;
    let inside = move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        work()
    };
    std::thread::scope(|scope| scope.spawn(inside).join().expect("work does not panic"))
}
