//! Speakers of ours on threads, each in a network namespace: to be asked and changed while they run.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bgp::{Config, PeerKey, PeerState, PeerStatus, Speaker, Start};
use bgp_transport::Driver;

use super::{in_namespace, run};

/// How long anything may take on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A network namespace that goes away with it.
pub struct Namespace {
    pub name: String,
}

impl Namespace {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("bgpt-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        run(&format!("ip netns add {name}"));
        run(&format!("ip -n {name} link set lo up"));
        Self { name }
    }

    /// `ip -n NAME …`
    pub fn ip(&self, words: &str) {
        run(&format!("ip -n {} {words}", self.name));
    }

    /// A program inside.
    pub fn exec(&self, words: &str) {
        run(&format!("ip netns exec {} {words}", self.name));
    }

    /// A link to another namespace, up on both sides, by the same name.
    pub fn join(&self, other: &Self, link: &str) {
        self.ip(&format!("link add {link} type veth peer name {link} netns {}", other.name));
        for side in [self, other] {
            side.ip(&format!("link set {link} up"));
        }
    }

    /// Index of a link.
    pub fn index(&self, link: &str) -> u32 {
        let args = ["-n", &self.name, "-o", "link", "show", link];
        let output = Command::new("ip").args(args).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.split(':').next().unwrap().parse().unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

type Order = Box<dyn FnOnce(&mut Driver) + Send>;

/// A speaker that runs until it is dropped.
pub struct Node {
    orders: Option<tokio::sync::mpsc::UnboundedSender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Node {
    pub fn start(namespace: &Namespace, config: Config, listen: &[SocketAddr]) -> Self {
        let (orders, mut inbox) = tokio::sync::mpsc::unbounded_channel::<Order>();
        let (name, listen) = (namespace.name.clone(), listen.to_vec());
        let (ready, is_ready) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            in_namespace(&name, || async move {
                let start = Start { seed: 7, ..Start::default() };
                let mut driver = Driver::new(Speaker::new(config, start, Instant::now())).unwrap();
                driver.listen(&listen).unwrap_or_else(|e| panic!("{}", e[0]));
                ready.send(()).unwrap();
                loop {
                    tokio::select! {
                        () = driver.turn() => {}
                        order = inbox.recv() => match order {
                            Some(order) => order(&mut driver),
                            None => return,
                        },
                    }
                    while driver.speaker_mut().poll_event().is_some() {}
                }
            });
        });
        is_ready.recv().expect("the speaker starts");
        Self { orders: Some(orders), thread: Some(thread) }
    }

    /// Asks or changes the speaker between two of its turns.
    pub fn ask<T: Send + 'static>(&self, order: impl FnOnce(&mut Driver) -> T + Send + 'static) -> T {
        let (reply, answer) = mpsc::channel();
        let order: Order = Box::new(move |driver| reply.send(order(driver)).unwrap());
        self.orders.as_ref().unwrap().send(order).unwrap_or_else(|_| panic!("the speaker runs"));
        answer.recv_timeout(PATIENCE).expect("the speaker answers")
    }

    pub fn reconfigure(&self, change: impl FnOnce(&mut Config) + Send + 'static) {
        self.ask(|driver| {
            let mut config = driver.speaker().config().clone();
            change(&mut config);
            driver.speaker_mut().reconfigure(config, Instant::now());
        });
    }

    pub fn peer(&self, peer: impl Into<PeerKey>) -> Option<PeerStatus> {
        let peer = peer.into();
        self.ask(move |driver| driver.speaker().peer_at(peer))
    }

    pub fn is_up(&self, peer: impl Into<PeerKey>) -> bool {
        self.peer(peer).is_some_and(|p| p.state == PeerState::Established)
    }

    pub fn until(&self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done(self) {
            let peers = |d: &mut Driver| d.speaker().peers();
            let describe = |p: &PeerStatus| format!("{} {:?}: {}\n", p.peer, p.state, p.cause);
            if Instant::now() > end {
                panic!("timed out: {what}\n{}", self.ask(peers).iter().map(describe).collect::<String>());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.orders.take());
        let result = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            result.unwrap();
        }
    }
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(address), port)
}
