//! Members of a set: one, and many, beside a bare netlink loop.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use kernel::{IpSetAction, IpSetKind, IpSetMember, IpSetName, IpSetPort, IpSetWrite};
use kernel_linux::{Backend, IpSetDriver, Netns};
use model::{Cidr, Family};

use crate::agent::{Agent, Way, new_netns};
use crate::cluster;
use crate::cost::Stopwatch;
use crate::report::{Report, median, ratio, show};

const MANY: u32 = 100_000;

pub fn measure(rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    bulk(rounds, report)?;
    one(rounds * 20, report)
}

fn bulk(rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let netns = new_netns()?;
    let name = IpSetName::new(Family::V4, "s:bench");
    let host = |n: u32| Cidr::host(std::net::Ipv4Addr::from(0x0a00_0000 + n).into());
    let members: BTreeSet<IpSetMember> = (0..MANY).map(|n| IpSetMember::Net(host(n))).collect();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        ours.push(in_netns(&netns, || {
            let mut driver = IpSetDriver::open()?;
            let stopwatch = Stopwatch::start();
            let action = IpSetAction::Create(&members);
            let write = IpSetWrite { name: &name, kind: IpSetKind::Net, family: Family::V4, action };
            let failures = driver.write(&[write]);
            let took = stopwatch.stop();
            failures.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))?;
            driver.destroy(std::slice::from_ref(&name));
            Ok(took)
        })?);
        theirs.push(in_netns(&netns, || {
            let mut raw = Raw::open()?;
            let stopwatch = Stopwatch::start();
            raw.create("bench")?;
            for first in (0..MANY).step_by(500) {
                raw.add("bench", first..first + 500)?;
            }
            let took = stopwatch.stop();
            raw.destroy("bench")?;
            Ok(took)
        })?);
    }
    let (ours, theirs) = (median(&ours), median(&theirs));
    let what = "set of 100 000 members";
    report.add(what, "bare netlink loop", show(theirs), None, "");
    report.add(what, "driver", show(ours), Some((ratio(ours, theirs), "bare netlink loop")), "≤ 1.3 ×");
    Ok(())
}

/// From the datastore's update to the kernel's answer: a pod comes into, or leaves, a set of some hundred.
fn one(rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    one_with(Way::Iptables(Backend::Legacy), "agent, iptables and IP sets", rounds, report)?;
    one_with(Way::Nftables, "agent, nftables", rounds, report)?;
    bare(rounds, report)
}

fn one_with(way: Way, subject: &'static str, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let mut agent = Agent::new(new_netns()?, way)?;
    agent.apply([cluster::namespace(), cluster::policy(0, 2, 1, 0)]);
    agent.add_local(cluster::local(0));
    agent.apply((0..1_000).map(|number| cluster::pod(number, 2)));
    agent.write()?;
    let mut took = Vec::new();
    for round in 0..rounds {
        agent.apply([cluster::pod(1, 2 + round % 2)]);
        took.push(agent.write()?);
    }
    let what = "one member of a set of 500, from the update on";
    report.add(what, subject, show(median(&took)), None, "≤ 5 µs");
    Ok(())
}

fn bare(rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let netns = new_netns()?;
    let raws = in_netns(&netns, || {
        let mut raw = Raw::open()?;
        raw.create("bench")?;
        let mut took = Vec::new();
        for n in 0..rounds as u32 {
            let stopwatch = Stopwatch::start();
            raw.add("bench", n..n + 1)?;
            took.push(stopwatch.stop());
        }
        raw.destroy("bench")?;
        Ok(took)
    })?;
    report.add("one member of a set", "bare netlink", show(median(&raws)), None, "");
    Ok(())
}

fn in_netns<T: Send>(netns: &Netns, work: impl FnOnce() -> io::Result<T> + Send) -> anyhow::Result<T> {
    Ok(netns.run(work)?)
}

/// The least that talks to ip_set: messages into a buffer, one send, one receive.
struct Raw {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

const NLM_F_REQUEST_ACK: u16 = 0x5;
const CREATE: u8 = 2;
const DESTROY: u8 = 3;
const ADD: u8 = 9;
const NESTED: u16 = 0x8000;
const NET_ORDER: u16 = 0x4000;

impl Raw {
    fn open() -> io::Result<Self> {
        // SAFETY: plain system call; the descriptor is owned from here on.
        let fd = unsafe {
            libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_NETFILTER)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made, and nobody else's.
        Ok(Self { socket: unsafe { OwnedFd::from_raw_fd(fd) }, buffer: Vec::with_capacity(1 << 16) })
    }

    fn begin(&mut self, command: u8, flags: u16, name: &str) {
        self.buffer.clear();
        self.buffer.extend(0_u32.to_ne_bytes());
        self.buffer.extend((u16::from(command) | (6 << 8)).to_ne_bytes());
        self.buffer.extend((NLM_F_REQUEST_ACK | flags).to_ne_bytes());
        self.buffer.extend([0; 8]);
        self.buffer.extend([libc::AF_INET as u8, 0, 0, 0]);
        self.attribute(1, &[6]);
        self.attribute(2, format!("{name}\0").as_bytes());
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.buffer.extend((value.len() as u16 + 4).to_ne_bytes());
        self.buffer.extend(kind.to_ne_bytes());
        self.buffer.extend(value);
        self.buffer.resize(self.buffer.len().next_multiple_of(4), 0);
    }

    fn open_nest(&mut self, kind: u16) -> usize {
        let at = self.buffer.len();
        self.attribute(kind | NESTED, &[]);
        at
    }

    fn close_nest(&mut self, at: usize) {
        let length = (self.buffer.len() - at) as u16;
        self.buffer[at..at + 2].copy_from_slice(&length.to_ne_bytes());
    }

    fn send(&mut self) -> io::Result<()> {
        let length = self.buffer.len() as u32;
        self.buffer[..4].copy_from_slice(&length.to_ne_bytes());
        let fd = self.socket.as_raw_fd();
        let mut answer = [0_u8; 4096];
        // SAFETY: both buffers live across the calls and have the lengths given.
        let (sent, received) = unsafe {
            let sent = libc::send(fd, self.buffer.as_ptr().cast(), self.buffer.len(), 0);
            (sent, libc::recv(fd, answer.as_mut_ptr().cast(), answer.len(), 0))
        };
        if sent < 0 || received < 20 {
            return Err(io::Error::last_os_error());
        }
        match i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]) {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(-error)),
        }
    }

    fn create(&mut self, name: &str) -> io::Result<()> {
        self.begin(CREATE, 0x600, name);
        self.attribute(3, b"hash:net\0");
        self.attribute(4, &[3]);
        self.attribute(5, &[libc::AF_INET as u8]);
        let data = self.open_nest(7);
        self.attribute(19 | NET_ORDER, &1_048_576_u32.to_be_bytes());
        self.close_nest(data);
        self.send()
    }

    fn destroy(&mut self, name: &str) -> io::Result<()> {
        self.begin(DESTROY, 0, name);
        self.send()
    }

    fn add(&mut self, name: &str, members: std::ops::Range<u32>) -> io::Result<()> {
        self.begin(ADD, 0, name);
        self.attribute(9 | NET_ORDER, &0_u32.to_be_bytes());
        let list = self.open_nest(8);
        for member in members {
            let data = self.open_nest(7);
            let ip = self.open_nest(1);
            self.attribute(1 | NET_ORDER, &(0x0a00_0000 + member).to_be_bytes());
            self.close_nest(ip);
            self.attribute(3, &[32]);
            self.attribute(9 | NET_ORDER, &0_u32.to_be_bytes());
            self.close_nest(data);
        }
        self.close_nest(list);
        self.send()
    }
}
