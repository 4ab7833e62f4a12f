//! Two network namespaces joined by a link: our speaker in one, a foreign daemon in the other.

#![allow(dead_code)]

pub mod node;

use std::fs;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bgp::{Config, PeerConfig, Speaker, Start};
use bgp_packet::{NextHop, PathAttributes, Prefix};
use bgp_transport::Driver;

pub const US: &str = "10.99.0.1";
pub const THEM: &str = "10.99.0.2";
pub const DEADLINE: Duration = Duration::from_secs(120);

/// Two namespaces; both go away with it, and so do the processes inside.
pub struct Lab {
    pub ours: String,
    pub theirs: String,
    pub dir: PathBuf,
    children: Vec<Child>,
    /// What their side says in place of what it is told to.
    other_words: &'static [(&'static str, &'static str)],
}

/// The second of two foreign daemons has addresses and routes of its own.
pub const SECOND: [(&str, &str); 4] = [
    ("10.99.0.", "10.99.1."),
    ("fd99::", "fd99:1::"),
    ("192.0.2.0/24", "198.51.100.0/24"),
    ("2001:db8:1::/48", "2001:db8:2::/48"),
];

impl Lab {
    pub fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(format!("ocicat-{name}-{id}"));
        fs::create_dir_all(&dir).unwrap();
        fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let (ours, theirs) = (format!("bgpa-{id}"), format!("bgpb-{id}"));
        let lab = Self { ours, theirs, dir, children: vec![], other_words: &[] };
        run(&format!("ip netns add {}", lab.ours));
        run(&format!("ip -n {} link set lo up", lab.ours));
        lab.join("l0");
        lab
    }

    /// A second foreign side, joined to our side of the first.
    pub fn beside(first: &Self, name: &str) -> Self {
        let mut lab = Self::new(name);
        let _ = Command::new("ip").args(["netns", "del", &lab.ours]).status();
        let _ = Command::new("ip").args(["netns", "del", &lab.theirs]).status();
        (lab.ours, lab.other_words) = (first.ours.clone(), &SECOND);
        lab.join("l1");
        lab
    }

    /// Makes their namespace, and the link between both.
    fn join(&self, link: &str) {
        let (a, b) = (&self.ours, &self.theirs);
        run(&format!("ip netns add {b}"));
        run(&format!("ip -n {b} link set lo up"));
        run(&format!("ip -n {a} link add {link} type veth peer name {link} netns {b}"));
        for (ns, last) in [(a, 1), (b, 2)] {
            let (v4, v6) = (self.say(&format!("10.99.0.{last}/24")), self.say(&format!("fd99::{last}/64")));
            run(&format!("ip -n {ns} addr add {v4} dev {link}"));
            run(&format!("ip -n {ns} addr add {v6} dev {link} nodad"));
            run(&format!("ip -n {ns} link set {link} up"));
        }
    }

    /// A text in the words of their side.
    pub fn say(&self, text: &str) -> String {
        self.other_words.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
    }

    /// Writes a file into the lab's directory and gives back its path.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.join(name);
        fs::write(&path, self.say(text)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Starts a program in their namespace; `package` is what to install when it is missing.
    pub fn spawn(&mut self, package: &str, program: &str, args: &[&str]) -> usize {
        assert!(Path::new(program).exists(), "{program} is missing: apt-get install {package}");
        let log = fs::File::create(self.dir.join(format!("log{}", self.children.len()))).unwrap();
        let child = Command::new("ip")
            .args(["netns", "exec", &self.theirs, program])
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.children.push(child);
        self.children.len() - 1
    }

    /// Ends a program without giving it a chance to say goodbye.
    pub fn kill(&mut self, index: usize) {
        let _ = self.children[index].kill();
        let _ = self.children[index].wait();
    }

    /// Output of a program in their namespace.
    pub fn query(&self, program: &str, args: &[&str]) -> String {
        let output = Command::new("ip")
            .args(["netns", "exec", &self.theirs, program])
            .args(args.iter().map(|a| self.say(a)))
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }

    /// Runs our side in our namespace.
    pub fn run<F: Future<Output = ()>>(&self, work: impl FnOnce() -> F + Send) {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| in_namespace(&self.ours, work));
            if let Err(panic) = thread.join() {
                for (i, _) in self.children.iter().enumerate() {
                    let log = fs::read_to_string(self.dir.join(format!("log{i}"))).unwrap_or_default();
                    eprintln!("--- log of process {i}:\n{log}");
                }
                std::panic::resume_unwind(panic);
            }
        });
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        for ns in [&self.ours, &self.theirs] {
            let _ = Command::new("ip").args(["netns", "del", ns]).status();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Runs async work on this thread inside a network namespace.
pub fn in_namespace<F: Future<Output = ()>>(name: &str, work: impl FnOnce() -> F) {
    let ns = fs::File::open(format!("/run/netns/{name}")).unwrap();
    rustix::thread::move_into_link_name_space(
        std::os::fd::AsFd::as_fd(&ns),
        Some(rustix::thread::LinkNameSpaceType::Network),
    )
    .unwrap();
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work());
}

pub fn run(command: &str) {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

pub fn prefix(s: &str) -> Prefix {
    s.parse().unwrap()
}

/// Settings of our side: AS 64512, one peer.
pub fn config(peer: PeerConfig) -> Config {
    let mut config = Config::new(64512, Ipv4Addr::new(10, 99, 0, 1));
    config.next_hop_v6 = Some("fd99::1".parse().unwrap());
    config.peers.insert(THEM.parse().unwrap(), peer);
    config
}

/// A speaker that listens and announces one block of each family.
pub fn start(config: Config, forwarding_kept: bool) -> Driver {
    let start = Start { seed: 1, forwarding_kept, report_routes: true, ..Start::default() };
    let mut driver = Driver::new(Speaker::new(config, start, Instant::now())).unwrap();
    let address = SocketAddr::new(US.parse().unwrap(), 179);
    driver.listen(&[address]).unwrap_or_else(|e| panic!("{}", e[0]));
    let none = |a: &str| PathAttributes::new(NextHop::from(a.parse::<IpAddr>().unwrap()));
    driver.speaker_mut().originate(prefix("10.0.1.0/26"), none("0.0.0.0"));
    driver.speaker_mut().originate(prefix("fd00:1::/122"), none("::"));
    driver
}

/// Runs the speaker until `done`, and fails after a deadline.
pub async fn until(driver: &mut Driver, what: &str, mut done: impl FnMut(&Speaker) -> bool) {
    let end = tokio::time::Instant::now() + DEADLINE;
    while !done(driver.speaker()) {
        let state = |d: &Driver| {
            d.speaker()
                .peers()
                .iter()
                .map(|p| format!("{} {:?}: {}", p.peer, p.state, p.cause))
                .collect::<Vec<_>>()
                .join("\n")
        };
        tokio::select! {
            () = driver.turn() => {}
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
        while let Some(event) = driver.speaker_mut().poll_event() {
            eprintln!("{event:?}");
        }
        while driver.speaker_mut().poll_route().is_some() {}
        assert!(tokio::time::Instant::now() < end, "timed out: {what}\n{}", state(driver));
    }
}

pub fn is_up(speaker: &Speaker) -> bool {
    speaker.peers().iter().all(|p| p.state == bgp::PeerState::Established)
}

pub fn has(speaker: &Speaker, s: &str) -> bool {
    speaker.route(&prefix(s)).is_some()
}
