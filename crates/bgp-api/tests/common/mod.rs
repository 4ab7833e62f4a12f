//! Two speakers on loopback addresses, one of which is looked into by the programs that people use.

#![allow(dead_code)]

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bgp::{Config, PeerConfig, PeerKind, Speaker, Start};
use bgp_api::{BirdSocket, Owner, Subject, control_socket};
use bgp_packet::{Community, NextHop, PathAttributes, Prefix};
use bgp_transport::Driver;
use tokio::sync::oneshot;

pub const DEADLINE: Duration = Duration::from_secs(120);

/// A speaker that runs in a thread until this is dropped.
pub struct Running {
    pub socket: PathBuf,
    pub bird: PathBuf,
    directory: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    pub fn start(config: Config, listen: SocketAddr, routes: Vec<(Prefix, PathAttributes)>) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(format!("bgp-api-{id}"));
        fs::create_dir_all(&directory).unwrap();
        let (socket, bird) = (directory.join("api.sock"), directory.join("bird.ctl"));
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let paths = (socket.clone(), bird.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(run(config, listen, routes, &paths.0, &paths.1, ready, stopped));
        });
        is_ready.recv_timeout(DEADLINE).expect("the speaker starts");
        Self { socket, bird, directory, stop: Some(stop), thread: Some(thread) }
    }

    /// Runs the GoBGP client.
    pub fn gobgp(&self, arguments: &[&str]) -> Output {
        self.gobgp_command(arguments).output().unwrap()
    }

    fn gobgp_command(&self, arguments: &[&str]) -> Command {
        let target = format!("unix://{}", self.socket.display());
        let mut command = program("gobgpd", "/usr/bin/gobgp");
        command.args(["--target", &target]).args(arguments);
        command
    }

    /// Starts `gobgp monitor …`, which tells what happens until this is dropped.
    pub fn monitor(&self, arguments: &[&str]) -> Monitor {
        let path = self.directory.join(arguments.join("-").replace('/', "-"));
        let file = fs::File::create(&path).unwrap();
        let mut command = self.gobgp_command(&[&["monitor"], arguments].concat());
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        Monitor { path, child: command.spawn().unwrap() }
    }

    /// What the GoBGP client prints; it must succeed.
    pub fn gobgp_text(&self, arguments: &[&str]) -> String {
        let output = self.gobgp(arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "gobgp {arguments:?}: {text}{error}");
        text
    }

    /// What the GoBGP client prints as JSON.
    pub fn gobgp_json(&self, arguments: &[&str]) -> serde_json::Value {
        let text = self.gobgp_text(&[arguments, &["-j"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
    }

    /// What BIRD's client prints.
    pub fn birdc(&self, arguments: &[&str]) -> String {
        let output = program("bird2", "/usr/sbin/birdc").arg("-s").arg(&self.bird).args(arguments).output();
        let output = output.unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }
}

/// A client that watches.
pub struct Monitor {
    path: PathBuf,
    child: Child,
}

impl Monitor {
    /// What it has told until now.
    pub fn told(&self) -> String {
        fs::read_to_string(&self.path).unwrap()
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn program(package: &str, path: &str) -> Command {
    assert!(Path::new(path).exists(), "{path} is missing: apt-get install {package}");
    Command::new(path)
}

async fn run(
    config: Config,
    listen: SocketAddr,
    routes: Vec<(Prefix, PathAttributes)>,
    socket: &Path,
    bird: &Path,
    ready: std::sync::mpsc::Sender<()>,
    mut stopped: oneshot::Receiver<()>,
) {
    let start = Start { seed: 1, report_routes: true, ..Start::default() };
    let started = Instant::now();
    let (console, mut calls) = bgp_api::console();
    let mut speaker = Speaker::new(config, start, started);
    calls.observers().recording().start(&socket.with_file_name("record"), &mut speaker, started).unwrap();
    let mut driver = Driver::new(speaker).unwrap();
    driver.listen(&[listen]).unwrap_or_else(|errors| panic!("{}", errors[0]));
    for (prefix, attributes) in routes {
        driver.speaker_mut().originate(prefix, attributes);
    }
    let _control = control_socket(socket, console.clone()).unwrap();
    let _bird = BirdSocket::bind(bird, None, console).unwrap();
    ready.send(()).unwrap();
    loop {
        tokio::select! {
            () = driver.turn() => {}
            call = calls.next() => {
                let owner = Owner {
                    node: "node-1".to_owned(),
                    version: "1.2.3",
                    started: Some(started),
                    listening: driver.listening().collect(),
                    ..Owner::default()
                };
                call.run(Subject { speaker: Some(driver.speaker_mut()), owner, now: Instant::now() });
            }
            _ = &mut stopped => return,
        }
        calls.observers().look(driver.speaker_mut());
        while driver.speaker_mut().poll_event().is_some() {}
        while driver.speaker_mut().poll_route().is_some() {}
    }
}

/// Two speakers that peer with each other: ours in AS 64512, theirs in AS 65001 with routes of both families.
pub struct Pair {
    pub ours: Running,
    pub theirs: Running,
}

/// Address of our speaker, of theirs, and of a peer that is not there. Tests run at once: each has its own.
pub struct Addresses {
    pub ours: SocketAddr,
    pub theirs: SocketAddr,
    pub nobody: IpAddr,
}

impl Addresses {
    pub fn new(test: u8) -> Self {
        let free = |last| {
            let listener = TcpListener::bind((Ipv4Addr::new(127, 77, test, last), 0)).unwrap();
            listener.local_addr().unwrap()
        };
        Self { ours: free(1), theirs: free(2), nobody: IpAddr::from([127, 77, test, 3]) }
    }
}

impl Pair {
    pub fn start(at: &Addresses) -> Self {
        let IpAddr::V4(our_id) = at.ours.ip() else { unreachable!("IPv4") };
        let IpAddr::V4(their_id) = at.theirs.ip() else { unreachable!("IPv4") };
        let mut ours = Config::new(64512, our_id);
        ours.next_hop_v6 = Some("2001:db8::1".parse().unwrap());
        let peer = |asn, port, from: IpAddr, name: &str| PeerConfig {
            port,
            local_address: Some(from),
            description: name.to_owned(),
            ..PeerConfig::new(asn)
        };
        let tor = peer(65001, at.theirs.port(), at.ours.ip(), "tor");
        ours.peers.insert(at.theirs.ip().into(), tor);
        let mesh = peer(64512, at.theirs.port(), at.ours.ip(), "mesh node-9");
        ours.peers.insert(at.nobody.into(), PeerConfig { kind: PeerKind::Mesh, ..mesh });
        let mut theirs = Config::new(65001, their_id);
        theirs.next_hop_v6 = Some("2001:db8::2".parse().unwrap());
        // One side connects, so that no two connections collide and every session is one that a test asked for.
        let node = peer(64512, at.ours.port(), at.theirs.ip(), "node");
        theirs.peers.insert(at.ours.ip().into(), PeerConfig { passive: true, ..node });
        let local = |hop: IpAddr| PathAttributes::new(NextHop::from(hop));
        let none4 = || local(IpAddr::from([0; 4]));
        let none6 = || local(IpAddr::from([0; 16]));
        let mut marked = none4();
        marked.communities = vec![Community(65001 << 16 | 7)];
        marked.med = Some(50);
        let their_routes = vec![
            ("198.51.100.0/24".parse().unwrap(), marked),
            ("203.0.113.0/24".parse().unwrap(), none4()),
            ("2001:db8:51::/48".parse().unwrap(), none6()),
        ];
        let our_routes =
            vec![("10.65.0.0/26".parse().unwrap(), none4()), ("fd00:65::/122".parse().unwrap(), none6())];
        let theirs = Running::start(theirs, at.theirs, their_routes);
        let ours = Running::start(ours, at.ours, our_routes);
        Self { ours, theirs }
    }
}

/// Tries until `done` gives something; fails after a deadline with what was seen last.
pub fn until<T>(what: &str, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        match attempt() {
            Ok(found) => return found,
            Err(seen) if Instant::now() > end => panic!("{what} did not come: {seen}"),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Text that must contain all of `parts`.
pub fn wants(text: String, parts: &[&str]) -> Result<String, String> {
    if parts.iter().all(|part| text.contains(part)) { Ok(text) } else { Err(text) }
}
