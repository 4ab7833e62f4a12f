//! Whether one place reaches another: TCP, UDP, SCTP and ICMP probes made from inside the source's namespace.
//! A source's probes share one thread and one poll loop, so that a thousand cost no more than the slowest.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto};
use serde::{Deserialize, Serialize};

use crate::netns;
use crate::responder::sctp_socket;

/// How often a datagram is sent again while no answer came.
const RESEND: Duration = Duration::from_millis(100);
/// Fresh connection attempts within one timeout: one lost SYN then changes no verdict.
const ATTEMPTS: u32 = 3;

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Proto {
    /// A connection; the answer is the responder's name.
    Tcp,
    /// A datagram; the answer is the responder's name.
    Udp,
    /// An echo request.
    Icmp,
    /// An association, where the kernel has SCTP.
    Sctp,
}

/// What came of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It was answered.
    Allowed,
    /// Nothing came back in time.
    Denied,
    /// It was turned down: a reset, or ICMP port unreachable.
    Refused,
    /// It could not be tried, or something on the way said why it cannot go.
    Error,
}

impl Verdict {
    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Refused => "refused",
            Self::Error => "error",
        }
    }
}

/// One probe to be made.
#[derive(Debug, Clone)]
pub struct Probe {
    /// The source as the user named it.
    pub from: String,
    /// The destination as the user named it.
    pub to: String,
    /// The destination's address; absent when it has none (yet).
    pub address: Option<IpAddr>,
    /// The port; 0 for ICMP.
    pub port: u16,
    /// What to send.
    pub proto: Proto,
}

/// A probe's result, as `-o json` prints it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeResult {
    /// `namespace/pod`, a node's name, or `tor`.
    pub from: String,
    /// The same, or an address.
    pub to: String,
    /// The address that was tried.
    pub address: Option<IpAddr>,
    /// The port.
    pub port: u16,
    /// What was sent.
    pub proto: Proto,
    /// What came of it.
    pub verdict: Verdict,
    /// Who answered, by its own words.
    pub answered_by: Option<String>,
    /// How long it took.
    pub milliseconds: f64,
    /// More, for people.
    pub detail: Option<String>,
}

/// Makes all probes of one source at the same time; results come in the order of the probes.
pub fn run(namespace: &Path, probes: Vec<Probe>, timeout: Duration) -> Vec<ProbeResult> {
    let names: Vec<Probe> = probes.clone();
    let done = netns::within(namespace, || Ok(Round::new(probes, timeout).finish()));
    done.unwrap_or_else(|e| {
        names.into_iter().map(|p| p.result(Verdict::Error, 0.0, None, Some(e.to_string()))).collect()
    })
}

/// Makes the probes of many sources, a few sources at a time.
pub fn run_all(groups: Vec<(PathBuf, Vec<Probe>)>, timeout: Duration, parallel: usize) -> Vec<ProbeResult> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let results: Vec<std::sync::Mutex<Vec<ProbeResult>>> =
        groups.iter().map(|_| std::sync::Mutex::default()).collect();
    std::thread::scope(|scope| {
        for _ in 0..parallel.min(groups.len()) {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some((namespace, probes)) = groups.get(i) else { return };
                    let done = run(namespace, probes.clone(), timeout);
                    *results[i].lock().unwrap_or_else(std::sync::PoisonError::into_inner) = done;
                }
            });
        }
    });
    results
        .into_iter()
        .flat_map(|r| r.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
        .collect()
}

impl Probe {
    fn result(
        self,
        verdict: Verdict,
        ms: f64,
        answered_by: Option<String>,
        detail: Option<String>,
    ) -> ProbeResult {
        let milliseconds = (ms * 1000.0).round() / 1000.0;
        ProbeResult {
            from: self.from,
            to: self.to,
            address: self.address,
            port: self.port,
            proto: self.proto,
            verdict,
            answered_by,
            milliseconds,
            detail,
        }
    }
}

/// All probes of one source under way.
struct Round {
    flights: Vec<Flight>,
    begun: Instant,
    timeout: Duration,
}

/// One probe under way: its sockets and, in the end, its verdict.
struct Flight {
    probe: Probe,
    sockets: Vec<Attempt>,
    sent: u32,
    next_send: Instant,
    begun: Instant,
    ended: Option<(Verdict, Duration, Option<String>, Option<String>)>,
}

struct Attempt {
    fd: OwnedFd,
    connected: bool,
    answer: Vec<u8>,
}

impl Round {
    fn new(probes: Vec<Probe>, timeout: Duration) -> Self {
        let begun = Instant::now();
        let flights = probes.into_iter().map(|probe| Flight::new(probe, begun)).collect();
        Self { flights, begun, timeout }
    }

    fn finish(mut self) -> Vec<ProbeResult> {
        let deadline = self.begun + self.timeout;
        loop {
            let now = Instant::now();
            for flight in self.flights.iter_mut().filter(|f| f.ended.is_none() && f.next_send <= now) {
                flight.send(now, self.timeout);
            }
            if now >= deadline || self.flights.iter().all(|f| f.ended.is_some()) {
                break;
            }
            self.wait(deadline);
        }
        self.flights.into_iter().map(Flight::into_result).collect()
    }

    /// Sleeps until something is readable, something must be sent again, or time is up.
    fn wait(&mut self, deadline: Instant) {
        let open = || self.flights.iter().enumerate().filter(|(_, f)| f.ended.is_none());
        let wake = open().map(|(_, f)| f.next_send).min().unwrap_or(deadline).min(deadline);
        let mut owners = Vec::new();
        let mut polled = Vec::new();
        for (i, flight) in open() {
            for (j, attempt) in flight.sockets.iter().enumerate() {
                owners.push((i, j));
                let interest = if attempt.connected { PollFlags::IN } else { PollFlags::OUT };
                polled.push(PollFd::new(&attempt.fd, interest));
            }
        }
        let pause = wake.saturating_duration_since(Instant::now());
        let pause = Timespec {
            tv_sec: i64::try_from(pause.as_secs()).unwrap_or(1),
            tv_nsec: i64::from(pause.subsec_nanos()),
        };
        if poll(&mut polled, Some(&pause)).is_err() {
            return;
        }
        let woken: Vec<(usize, usize)> = owners
            .iter()
            .zip(&polled)
            .filter(|(_, p)| !p.revents().is_empty())
            .map(|(&owner, _)| owner)
            .collect();
        drop(polled);
        for (i, j) in woken {
            if self.flights[i].ended.is_none() {
                self.flights[i].advance(j);
            }
        }
    }
}

impl Flight {
    fn new(probe: Probe, now: Instant) -> Self {
        Self { probe, sockets: Vec::new(), sent: 0, next_send: now, begun: now, ended: None }
    }

    fn end(&mut self, verdict: Verdict, answered_by: Option<String>, detail: Option<String>) {
        self.ended = Some((verdict, self.begun.elapsed(), answered_by, detail));
        self.sockets.clear();
    }

    fn send(&mut self, now: Instant, timeout: Duration) {
        if self.sent == 0 {
            self.begun = now;
        }
        self.sent += 1;
        let Some(address) = self.probe.address else {
            self.end(Verdict::Error, None, Some("the destination has no address".to_owned()));
            return;
        };
        let target = SocketAddr::new(address, self.probe.port);
        let stream = matches!(self.probe.proto, Proto::Tcp | Proto::Sctp);
        let done = match self.probe.proto {
            Proto::Tcp => self.connect(target, SocketType::STREAM, None),
            Proto::Sctp => self.connect_sctp(target),
            Proto::Udp => self.send_datagram(target),
            Proto::Icmp => self.send_echo(address),
        };
        let pause = if stream { timeout / ATTEMPTS } else { RESEND };
        let last = stream && self.sent >= ATTEMPTS;
        self.next_send = if last { now + timeout } else { now + pause };
        if let Err(e) = done {
            self.fail(&e);
        }
    }

    fn connect(
        &mut self,
        target: SocketAddr,
        kind: SocketType,
        proto: Option<rustix::net::Protocol>,
    ) -> io::Result<()> {
        // An attempt that got through waits for its answer; another would only ask twice.
        if self.sockets.iter().any(|s| s.connected) {
            return Ok(());
        }
        let fd = rustix::net::socket_with(family(target.ip()), kind, flags(), proto)?;
        self.begin_connect(fd, target)
    }

    fn connect_sctp(&mut self, target: SocketAddr) -> io::Result<()> {
        if self.sockets.iter().any(|s| s.connected) {
            return Ok(());
        }
        let fd = sctp_socket(family(target.ip()), SocketType::STREAM, flags())?;
        self.begin_connect(fd, target)
    }

    fn begin_connect(&mut self, fd: OwnedFd, target: SocketAddr) -> io::Result<()> {
        match rustix::net::connect(&fd, &target) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(e) => return Err(e.into()),
        }
        self.sockets.push(Attempt { fd, connected: false, answer: Vec::new() });
        Ok(())
    }

    fn send_datagram(&mut self, target: SocketAddr) -> io::Result<()> {
        if self.sockets.is_empty() {
            self.connect(target, SocketType::DGRAM, None)?;
        }
        self.send_bytes(b"who is there?\n")
    }

    fn send_echo(&mut self, address: IpAddr) -> io::Result<()> {
        if self.sockets.is_empty() {
            let proto = if address.is_ipv4() { ipproto::ICMP } else { ipproto::ICMPV6 };
            self.connect(SocketAddr::new(address, 0), SocketType::RAW, Some(proto))?;
        }
        self.send_bytes(&echo_request(address, self.identifier(), 1))
    }

    fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(attempt) = self.sockets.first_mut() else { return Ok(()) };
        attempt.connected = true;
        match rustix::net::send(&attempt.fd, bytes, SendFlags::empty()) {
            // A filter on the way out of this very machine: as silent as any other on the way.
            Err(rustix::io::Errno::PERM | rustix::io::Errno::AGAIN | rustix::io::Errno::NOBUFS) | Ok(_) => {
                Ok(())
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Tells this probe's echoes from all others of the machine.
    fn identifier(&self) -> u16 {
        let place = format!("{} {} {}", std::process::id(), self.probe.from, self.probe.to);
        (crate::names::fnv1a(place.as_bytes()) & 0xffff) as u16
    }

    /// Goes on with a socket that poll found something at.
    fn advance(&mut self, index: usize) {
        let Some(attempt) = self.sockets.get_mut(index) else { return };
        if !attempt.connected {
            match rustix::net::sockopt::socket_error(&attempt.fd) {
                Ok(Ok(())) => attempt.connected = true,
                Ok(Err(e)) | Err(e) => self.fail(&e.into()),
            }
            return;
        }
        let mut buffer = [0_u8; 2048];
        match rustix::net::recv(&attempt.fd, &mut buffer[..], RecvFlags::empty()) {
            Ok((length, _)) => self.take(index, &buffer[..length]),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(e) => self.fail(&e.into()),
        }
    }

    fn take(&mut self, index: usize, bytes: &[u8]) {
        match self.probe.proto {
            Proto::Icmp => {
                let Some(address) = self.probe.address else { return };
                if is_echo_reply(address, bytes, self.identifier()) {
                    self.end(Verdict::Allowed, None, None);
                }
            }
            Proto::Udp => self.end(Verdict::Allowed, Some(first_line(bytes)), None),
            Proto::Tcp | Proto::Sctp => {
                let answer = &mut self.sockets[index].answer;
                answer.extend_from_slice(bytes);
                if bytes.is_empty() && answer.is_empty() {
                    self.end(Verdict::Allowed, None, Some("connected; closed without a name".to_owned()));
                } else if bytes.is_empty() || answer.contains(&b'\n') || answer.len() > 1024 {
                    let name = first_line(answer);
                    self.end(Verdict::Allowed, Some(name), None);
                }
            }
        }
    }

    fn fail(&mut self, error: &io::Error) {
        let verdict = match error.raw_os_error() {
            Some(libc::ECONNREFUSED | libc::ECONNRESET | libc::EACCES) => Verdict::Refused,
            Some(libc::ETIMEDOUT) => Verdict::Denied,
            _ => Verdict::Error,
        };
        let detail = match error.raw_os_error() {
            Some(libc::EPROTONOSUPPORT) if self.probe.proto == Proto::Sctp => {
                "this kernel has no SCTP; try it in `lab vm`".to_owned()
            }
            _ => error.to_string(),
        };
        self.end(verdict, None, Some(detail));
    }

    fn into_result(self) -> ProbeResult {
        let connected =
            self.sockets.iter().any(|s| s.connected) && matches!(self.probe.proto, Proto::Tcp | Proto::Sctp);
        let (verdict, time, by, detail) = self.ended.unwrap_or_else(|| {
            let time = self.begun.elapsed();
            if connected {
                (Verdict::Allowed, time, None, Some("connected; no name was received".to_owned()))
            } else {
                (Verdict::Denied, time, None, Some("timeout".to_owned()))
            }
        });
        self.probe.result(verdict, time.as_secs_f64() * 1000.0, by, detail)
    }
}

fn flags() -> SocketFlags {
    SocketFlags::NONBLOCK | SocketFlags::CLOEXEC
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

fn first_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let line = text.lines().next().unwrap_or_default();
    line.chars().filter(|c| !c.is_control()).take(300).collect()
}

/// An ICMP or ICMPv6 echo request; the kernel fills in the checksum of ICMPv6.
fn echo_request(address: IpAddr, identifier: u16, sequence: u16) -> Vec<u8> {
    let kind = if address.is_ipv4() { 8 } else { 128 };
    let mut packet = vec![kind, 0, 0, 0];
    packet.extend_from_slice(&identifier.to_be_bytes());
    packet.extend_from_slice(&sequence.to_be_bytes());
    packet.extend_from_slice(b"ocicat lab probe");
    if address.is_ipv4() {
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// Whether `bytes`, as a raw socket gives them, is the answer to our echo.
fn is_echo_reply(address: IpAddr, bytes: &[u8], identifier: u16) -> bool {
    let (message, kind) = match address {
        // IPv4 raw sockets include the IP header.
        IpAddr::V4(_) => {
            let header = usize::from(bytes.first().copied().unwrap_or(0) & 0x0f) * 4;
            (bytes.get(header..).unwrap_or_default(), 0)
        }
        IpAddr::V6(_) => (bytes, 129),
    };
    message.first() == Some(&kind) && message.get(4..6) == Some(&identifier.to_be_bytes()[..])
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_request_sums_to_zero_and_its_reply_is_known() {
        let v4 = "10.0.0.1".parse().unwrap();
        let request = echo_request(v4, 0x1234, 1);
        assert_eq!(checksum(&request), 0);
        let mut reply = vec![0x45; 20];
        reply.extend_from_slice(&request);
        reply[20] = 0;
        assert!(is_echo_reply(v4, &reply, 0x1234));
        assert!(!is_echo_reply(v4, &reply, 0x1235));
        assert!(!is_echo_reply(v4, &[], 0x1234));
        assert!(!is_echo_reply(v4, &[0x4f], 0x1234));
    }

    #[test]
    fn a_result_has_the_keys_that_scripts_read() {
        let probe = Probe { from: "x/a".into(), to: "n1".into(), address: None, port: 80, proto: Proto::Tcp };
        let result = probe.result(Verdict::Denied, 1000.12345, None, None);
        assert_eq!(
            serde_json::to_value(result).unwrap(),
            serde_json::json!({"from": "x/a", "to": "n1", "address": null, "port": 80, "proto": "tcp",
                "verdict": "denied", "answeredBy": null, "milliseconds": 1000.123, "detail": null})
        );
    }

    #[test]
    fn an_answer_is_one_clean_line() {
        assert_eq!(first_line(b"x/a\nmore"), "x/a");
        assert_eq!(first_line(b"\x1b[31mred"), "[31mred");
        assert_eq!(first_line(b""), "");
    }
}
