//! What the first packet of a new pod waits for.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::node::{Node, within};
use crate::plugin::{Candidate, Sandbox};
use crate::report;

/// Packets of an old pod right before, so that the processor is as awake and its caches are as warm as later.
const AWAKE: usize = 20;
/// Later packets of the same flow that are measured.
const WARM: usize = 50;
const PORT: u16 = 9;

/// Sends from each new pod to one that stands already; one thread holds both sockets, so that no wake-up counts.
pub fn first(node: &Node, calico: &Candidate, pods: &[(String, String)], how: &str) -> Outcome<()> {
    let (target, pods) = pods.split_last().ok_or("no pods")?;
    let (old, pods) = pods.split_last().ok_or("no pods")?;
    let standing = Sandbox::new(&format!("target-{}", target.0), target)?;
    let to = connect(node, calico, &standing)?;
    let receiver = socket(&standing, PORT)?;
    let old = Sandbox::new(&format!("old-{}", old.0), old)?;
    connect(node, calico, &old)?;
    let waker = socket(&old, 0)?;
    waker.connect((to, PORT))?;
    let (mut first, mut flow, mut warm) = (Vec::new(), Vec::new(), Vec::new());
    for pod in pods {
        let sandbox = Sandbox::new(&format!("first-{}", pod.0), pod)?;
        connect(node, calico, &sandbox)?;
        let sender = socket(&sandbox, 0)?;
        sender.connect((to, PORT))?;
        let further = socket(&sandbox, 0)?;
        further.connect((to, PORT))?;
        for _ in 0..AWAKE {
            one_way(&waker, &receiver)?;
        }
        first.push(one_way(&sender, &receiver)?);
        flow.push(one_way(&further, &receiver)?);
        for _ in 0..WARM {
            warm.push(one_way(&sender, &receiver)?);
        }
        drop(sender);
        node.measure(calico, "DEL", &sandbox)?;
    }
    node.measure(calico, "DEL", &old)?;
    node.measure(calico, "DEL", &standing)?;
    report::first_packet(how, &first, &flow, &warm);
    Ok(())
}

fn connect(node: &Node, calico: &Candidate, sandbox: &Sandbox) -> Outcome<Ipv4Addr> {
    let result = node.inside(|| calico.call("ADD", sandbox))?;
    let address = result["ips"][0]["address"].as_str().and_then(|text| text.split('/').next());
    Ok(address.ok_or("no address")?.parse()?)
}

fn socket(sandbox: &Sandbox, port: u16) -> Outcome<UdpSocket> {
    within(&sandbox.netns, || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(socket)
    })
}

fn one_way(sender: &UdpSocket, receiver: &UdpSocket) -> Outcome<Duration> {
    let mut buffer = [0; 64];
    let start = Instant::now();
    sender.send(b"first packet")?;
    receiver.recv(&mut buffer)?;
    Ok(start.elapsed())
}
