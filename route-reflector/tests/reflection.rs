//! The reflector and BIRD clients as processes, each in a network namespace of its own. Needs root, and the
//! Debian packages iproute2 and bird2.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const DEADLINE: Duration = Duration::from_secs(120);

/// A namespace of the reflector with a link to that of each client; all go away with it, and so do the
/// processes inside.
struct Lab {
    id: u32,
    dir: PathBuf,
    clients: u8,
    reflector: Option<Child>,
    birds: Vec<Child>,
}

impl Lab {
    /// Client `n` has 10.99.N.2 and announces 198.51.N.0/24; the reflector has 10.99.N.1.
    fn new(clients: u8) -> Self {
        let id = std::process::id();
        let dir = std::env::temp_dir().join(format!("reflector-{id}"));
        fs::create_dir_all(&dir).unwrap();
        let mut lab = Self { id, dir, clients, reflector: None, birds: Vec::new() };
        run(&format!("ip netns add rr{id}"));
        run(&format!("ip -n rr{id} link set lo up"));
        for n in 1..=clients {
            run(&format!("ip netns add rc{n}-{id}"));
            run(&format!("ip -n rr{id} link add l{n} type veth peer name l0 netns rc{n}-{id}"));
            run(&format!("ip -n rr{id} addr add 10.99.{n}.1/24 dev l{n}"));
            run(&format!("ip -n rr{id} link set l{n} up"));
            run(&format!("ip -n rc{n}-{id} addr add 10.99.{n}.2/24 dev l0"));
            run(&format!("ip -n rc{n}-{id} link set l0 up"));
        }
        for n in 1..=clients {
            lab.start_bird(n);
        }
        lab
    }

    fn start_bird(&mut self, n: u8) {
        assert!(fs::exists("/usr/sbin/bird").unwrap(), "bird is missing: apt-get install bird2");
        let config = self.dir.join(format!("bird{n}.conf"));
        fs::write(&config, BIRD.replace("NN", &n.to_string())).unwrap();
        let socket = self.dir.join(format!("bird{n}.ctl"));
        let log = fs::File::create(self.dir.join(format!("bird{n}.log"))).unwrap();
        let child = Command::new("ip")
            .args(["netns", "exec", &format!("rc{n}-{}", self.id), "/usr/sbin/bird", "-f", "-c"])
            .args([config.as_os_str(), "-s".as_ref(), socket.as_os_str()])
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.birds.push(child);
    }

    /// Writes the reflector's file.
    fn configure(&self, text: &str) {
        fs::write(self.dir.join("rr.yaml"), text).unwrap();
    }

    fn start_reflector(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.dir.join("rr.log")).unwrap();
        let child = Command::new("ip")
            .args(["netns", "exec", &format!("rr{}", self.id), env!("CARGO_BIN_EXE_route-reflector")])
            .args(["--config".as_ref(), self.dir.join("rr.yaml").as_os_str()])
            .args(["--socket".as_ref(), self.dir.join("rr.sock").as_os_str()])
            .args(["--http", "127.0.0.1:9179"])
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.reflector = Some(child);
    }

    /// Asks the reflector to stop, as systemd and Kubernetes do.
    fn stop_reflector(&mut self) {
        let mut child = self.reflector.take().unwrap();
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        assert!(child.wait().unwrap().success(), "{}", self.log());
    }

    /// What the reflector answers to a probe.
    fn get(&self, path: &str) -> String {
        let (namespace, path) = (format!("/run/netns/rr{}", self.id), path.to_owned());
        let asked = std::thread::spawn(move || {
            let namespace = fs::File::open(namespace).unwrap();
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(namespace.as_fd(), kind).unwrap();
            let mut stream = TcpStream::connect("127.0.0.1:9179").unwrap();
            stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        });
        asked.join().unwrap()
    }

    fn hang_up(&mut self) {
        let child = self.reflector.as_mut().unwrap();
        assert!(child.try_wait().unwrap().is_none(), "the reflector has ended: {}", self.log());
        kill_process(Pid::from_child(child), Signal::HUP).unwrap();
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("rr.log")).unwrap_or_default()
    }

    fn birdc(&self, n: u8, words: &str) -> String {
        let socket = self.dir.join(format!("bird{n}.ctl"));
        let output = Command::new("birdc").arg("-s").arg(socket).args(words.split(' ')).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What client `n` knows of the route of client `of`, as BIRD tells it.
    fn route(&self, n: u8, of: u8) -> String {
        self.birdc(n, &format!("show route 198.51.{of}.0/24 all"))
    }

    fn has(&self, n: u8, of: u8) -> bool {
        self.route(n, of).contains("[reflector")
    }

    fn sessions(&self, n: u8) -> usize {
        self.log().lines().filter(|l| l.contains("session up") && l.contains(&format!("10.99.{n}.2"))).count()
    }

    fn until(&self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + DEADLINE;
        while !done(self) {
            let protocols: Vec<_> = (1..=self.clients).map(|n| self.birdc(n, "show protocols")).collect();
            assert!(Instant::now() < end, "timed out: {what}\n{}\n{}", protocols.join("\n"), self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for child in self.birds.iter_mut().chain(&mut self.reflector) {
            let _ = child.kill();
            let _ = child.wait();
        }
        let names = (1..=self.clients).map(|n| format!("rc{n}-{}", self.id));
        for name in names.chain([format!("rr{}", self.id)]) {
            let _ = Command::new("ip").args(["netns", "del", &name]).status();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn run(command: &str) {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap_or_else(|error| panic!("{command}: {error}: apt-get install iproute2"));
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

const BIRD: &str = "
router id 10.99.NN.2;
protocol device { }
protocol static own { ipv4; route 198.51.NN.0/24 blackhole; }
protocol static way { ipv4; route 0.0.0.0/0 via 10.99.NN.1; }
protocol bgp reflector {
  local 10.99.NN.2 as 64512;
  neighbor 10.99.NN.1 as 64512;
  connect delay time 1; connect retry time 1; error wait time 1, 2;
  ipv4 { import all; export where proto = \"own\"; };
}
";

const TWO: &str = "
routerId: 10.99.1.1
asNumber: 64512
clusterId: 244.0.0.1
listen: ['0.0.0.0:179']
clients: [10.99.1.0/24, 10.99.2.2]
";

#[test]
fn clients_learn_each_others_routes_and_configuration_is_live() {
    let mut lab = Lab::new(3);
    lab.configure(TWO);
    lab.start_reflector();

    // Two clients learn each other's route; the third is a stranger.
    lab.until("two clients", |lab| lab.has(1, 2) && lab.has(2, 1));
    let route = lab.route(2, 1);
    for attribute in
        ["BGP.next_hop: 10.99.1.2", "BGP.originator_id: 10.99.1.2", "BGP.cluster_list: 244.0.0.1"]
    {
        assert!(route.contains(attribute), "{attribute} is not in {route}");
    }
    assert!(!lab.has(3, 1) && !lab.has(1, 3));

    // A file with an error changes nothing, and the log names the key.
    lab.configure(&TWO.replace("clients:", "holdtime: 30\nclients:"));
    lab.hang_up();
    lab.until("the error", |lab| lab.log().contains("holdtime"));
    assert!(lab.has(1, 2) && lab.has(2, 1));

    // The third becomes a client live, without a signal; the sessions of the others stay.
    let before = [1, 2].map(|n| lab.sessions(n));
    lab.configure(&TWO.replace("10.99.2.2]", "10.99.2.2, 10.99.3.0/24]"));
    lab.until("a third client", |lab| lab.has(3, 1) && lab.has(3, 2) && lab.has(1, 3) && lab.has(2, 3));
    assert_eq!([1, 2].map(|n| lab.sessions(n)), before, "{}", lab.log());

    // What a client takes back goes from the others.
    lab.birdc(1, "disable own");
    lab.until("a withdrawal", |lab| !lab.has(2, 1) && !lab.has(3, 1));

    // Probes and figures.
    assert!(lab.get("/healthz").starts_with("HTTP/1.1 200"));
    assert!(lab.get("/readyz").contains("{\"ready\":true,\"reasons\":[]}"), "{}", lab.get("/readyz"));
    let figures = lab.get("/metrics");
    assert!(figures.contains("bgp_peers{kind=\"client\",state=\"Established\"} 3"), "{figures}");

    // The reflector stops and comes back: clients have their routes all the time, also when it has said that it
    // has no more to say, which goes out before any later change.
    lab.stop_reflector();
    let before = [1, 2, 3].map(|n| lab.sessions(n));
    lab.start_reflector();
    let kept = |lab: &Lab, stage: &str| {
        assert!(lab.has(3, 2) && lab.has(2, 3), "routes were lost {stage}: {}", lab.log());
    };
    lab.until("restart", |lab| {
        kept(lab, "while it restarts");
        (1..=3).zip(before).all(|(n, before)| lab.sessions(n) > before)
            && lab.log().contains("restart complete")
    });
    lab.birdc(1, "enable own");
    lab.until("a change after the restart", |lab| {
        kept(lab, "after it restarted");
        lab.has(2, 1) && lab.has(3, 1)
    });
}
