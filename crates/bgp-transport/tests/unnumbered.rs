//! Two speakers on one link, neither of which knows an address of the other: ours twice, and ours with FRR. Needs root.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "common/mod.rs"]
mod common;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use bgp::{Config, PeerConfig, PeerKey, Speaker, Start};
use bgp_packet::{NextHop, PathAttributes};
use bgp_transport::{Driver, RouterDiscovery};
use common::node::Namespace;
use common::{DEADLINE, in_namespace, prefix};

/// Hears the other, peers with it, and waits until it has its route.
async fn peer(
    index: u32,
    number: u8,
    done: std::sync::mpsc::Sender<u8>,
    over: std::sync::mpsc::Receiver<()>,
) {
    let end = tokio::time::Instant::now() + DEADLINE;
    let mut discovery = RouterDiscovery::new().unwrap();
    discovery.set_links([index], Instant::now());
    tokio::time::timeout_at(end, discovery.changed()).await.expect("a router on the link");
    let router = PeerKey::new(IpAddr::V6(discovery.routers()[&index]), index);
    let mut config = Config::new(64512 + u32::from(number), Ipv4Addr::new(192, 0, 2, number));
    let other = PeerConfig { extended_next_hop: true, ..PeerConfig::new(64512 + u32::from(3 - number)) };
    config.peers.insert(router, other);
    let start = Start { seed: u64::from(number), report_routes: true, ..Start::default() };
    let mut driver = Driver::new(Speaker::new(config, start, Instant::now())).unwrap();
    let anywhere = SocketAddr::new("::".parse().unwrap(), 179);
    driver.listen(&[anywhere]).unwrap_or_else(|e| panic!("{}", e[0]));
    let own = PathAttributes::new(NextHop::V4(Ipv4Addr::UNSPECIFIED));
    driver.speaker_mut().originate(prefix(&format!("10.0.{number}.0/26")), own);
    let wanted = prefix(&format!("10.0.{}.0/26", 3 - number));
    let mut told = false;
    while over.try_recv().is_err() {
        assert!(tokio::time::Instant::now() < end, "no route: {:?}", driver.speaker().peers()[0].cause);
        tokio::select! {
            () = driver.turn() => {}
            () = discovery.changed() => {}
            () = tokio::time::sleep(std::time::Duration::from_millis(20)) => {}
        }
        while driver.speaker_mut().poll_event().is_some() {}
        if let Some(route) = driver.speaker().route(&wanted).filter(|_| !told) {
            assert_eq!(route.next_hops, [router], "IPv4 goes by way of the link");
            told = true;
            done.send(number).unwrap();
        }
    }
}

#[test]
fn routers_on_a_link_hear_one_another_and_exchange_ipv4_routes() {
    let (one, two) = (Namespace::new(), Namespace::new());
    one.join(&two, "l0");
    std::thread::scope(|scope| {
        let (done, is_done) = std::sync::mpsc::channel();
        let mut ends = Vec::new();
        for (namespace, number) in [(&one, 1), (&two, 2)] {
            let (index, name, done) = (namespace.index("l0"), namespace.name.clone(), done.clone());
            let (end, over) = std::sync::mpsc::channel();
            ends.push(end);
            scope.spawn(move || in_namespace(&name, || peer(index, number, done, over)));
        }
        drop(done);
        assert_eq!(is_done.iter().take(2).map(u32::from).sum::<u32>(), 3, "both have a route");
        for end in ends {
            let _ = end.send(());
        }
    });
}

/// FRR as the second router, with a directory of its own.
struct Frr<'a> {
    namespace: &'a str,
    directory: PathBuf,
    daemons: Vec<Child>,
}

/// It peers with whoever is on the link, by `neighbor … interface`.
const BGPD: &str = "
router bgp 64514
 bgp router-id 192.0.2.2
 no bgp ebgp-requires-policy
 no bgp network import-check
 neighbor l0 interface remote-as external
 neighbor l0 timers connect 1
 address-family ipv4 unicast
  network 10.0.2.0/26
";

impl<'a> Frr<'a> {
    /// zebra knows the links and tells routers on them of itself; bgpd peers.
    fn start(namespace: &'a str) -> Self {
        let directory = std::env::temp_dir().join(format!("unnumbered-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::set_permissions(&directory, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let mut frr = Self { namespace, directory, daemons: Vec::new() };
        frr.daemon("zebra", "interface l0\n ipv6 nd ra-interval 3\n no ipv6 nd suppress-ra\n");
        let socket = frr.directory.join("zserv.api");
        let end = Instant::now() + DEADLINE;
        while !socket.exists() {
            assert!(Instant::now() < end, "zebra does not start: {}", frr.log("zebra"));
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        frr.daemon("bgpd", BGPD);
        frr
    }

    fn daemon(&mut self, name: &str, config: &str) {
        let file = |ending: &str| self.directory.join(format!("{name}.{ending}"));
        std::fs::write(file("conf"), config).unwrap();
        let log = std::fs::File::create(file("log")).unwrap();
        let program = format!("/usr/lib/frr/{name}");
        assert!(Path::new(&program).exists(), "{program} is missing: apt-get install frr");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.namespace, &program, "-P", "0", "-z"]);
        command.arg(self.directory.join("zserv.api")).arg("-f").arg(file("conf")).arg("-i").arg(file("pid"));
        command.arg("--vty_socket").arg(&self.directory).stdin(Stdio::null());
        self.daemons.push(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    }

    fn log(&self, daemon: &str) -> String {
        std::fs::read_to_string(self.directory.join(format!("{daemon}.log"))).unwrap_or_default()
    }

    fn show(&self, what: &str) -> String {
        let mut command = Command::new("vtysh");
        command.arg("--vty_socket").arg(&self.directory).args(["-d", "bgpd", "-c", what]);
        let output = command.output().expect("vtysh starts (Debian package frr)");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Frr<'_> {
    fn drop(&mut self) {
        for daemon in &mut self.daemons {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[test]
fn frr_on_a_link_is_heard_and_exchanges_ipv4_routes_over_link_local_addresses() {
    let (one, two) = (Namespace::new(), Namespace::new());
    one.join(&two, "l0");
    let frr = Frr::start(&two.name);
    std::thread::scope(|scope| {
        let (done, is_done) = std::sync::mpsc::channel();
        let (end, over) = std::sync::mpsc::channel();
        let (index, name) = (one.index("l0"), one.name.clone());
        let ours = scope.spawn(move || in_namespace(&name, || peer(index, 1, done, over)));
        let had = is_done.recv();
        let deadline = Instant::now() + DEADLINE;
        let has_ours = || frr.show("show bgp ipv4 unicast 10.0.1.0/26 json").contains("\"fe80:");
        while had.is_ok() && !has_ours() && Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let told = frr.show("show bgp ipv4 unicast 10.0.1.0/26 json") + &frr.show("show bgp summary");
        let _ = end.send(());
        assert!(ours.join().is_ok() && had.is_ok(), "{told}{}{}", frr.log("zebra"), frr.log("bgpd"));
        assert!(told.contains("\"fe80:"), "FRR has no route by way of the link: {told}");
    });
}
