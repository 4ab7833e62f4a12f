//! Real sessions with BIRD 2, GoBGP 3 and FRR 8: up, routes both ways in both families, withdrawal, and
//! routes kept over a restart of either side. Needs root.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use bgp::PeerConfig;
use common::*;

/// A foreign daemon: how it is started and asked.
trait Daemon: Sync {
    /// Starts it; its AS is 64513, ours 64512; it announces 192.0.2.0/24 and 2001:db8:1::/48.
    fn start(&self, lab: &mut Lab) -> Vec<usize>;
    /// Whether it has a route.
    fn has(&self, lab: &Lab, prefix: &str) -> bool;
    /// Takes back what it announces.
    fn withdraw_own(&self, lab: &Lab);
}

struct Bird;

impl Daemon for Bird {
    fn start(&self, lab: &mut Lab) -> Vec<usize> {
        let config = lab.file("bird.conf", BIRD);
        let socket = lab.dir.join("bird.ctl");
        let args = ["-f", "-c", &config, "-s", socket.to_str().unwrap()];
        vec![lab.spawn("bird2", "/usr/sbin/bird", &args)]
    }

    fn has(&self, lab: &Lab, prefix: &str) -> bool {
        let socket = lab.dir.join("bird.ctl");
        lab.query("birdc", &["-s", socket.to_str().unwrap(), "show", "route", prefix]).contains("[ocicat")
    }

    fn withdraw_own(&self, lab: &Lab) {
        let socket = lab.dir.join("bird.ctl");
        for protocol in ["own4", "own6"] {
            lab.query("birdc", &["-s", socket.to_str().unwrap(), "disable", protocol]);
        }
    }
}

const BIRD: &str = r#"
router id 10.99.0.2;
protocol device { }
protocol static own4 { ipv4; route 192.0.2.0/24 blackhole; }
protocol static own6 { ipv6; route 2001:db8:1::/48 blackhole; }
protocol bgp ocicat {
  local 10.99.0.2 as 64513;
  neighbor 10.99.0.1 as 64512;
  graceful restart on;
  connect delay time 1; connect retry time 1; error wait time 1, 2;
  ipv4 { import all; export where source = RTS_STATIC; };
  ipv6 { import all; export where source = RTS_STATIC; next hop address fd99::2; };
}
"#;

struct GoBgp;

impl Daemon for GoBgp {
    fn start(&self, lab: &mut Lab) -> Vec<usize> {
        let config = lab.file("gobgp.toml", GOBGP);
        let index = lab.spawn("gobgpd", "/usr/bin/gobgpd", &["-f", &config, "--log-plain"]);
        for (family, route, hop) in
            [("ipv4", "192.0.2.0/24", "10.99.0.2"), ("ipv6", "2001:db8:1::/48", "fd99::2")]
        {
            let add = ["global", "rib", "add", route, "nexthop", hop, "-a", family];
            let end = std::time::Instant::now() + DEADLINE;
            while !lab.query("gobgp", &add).is_empty() {
                assert!(std::time::Instant::now() < end, "gobgpd does not answer");
                std::thread::yield_now();
            }
        }
        vec![index]
    }

    fn has(&self, lab: &Lab, prefix: &str) -> bool {
        let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
        let text = lab.query("gobgp", &["global", "rib", "-a", family]);
        text.lines().any(|line| line.contains(prefix))
    }

    fn withdraw_own(&self, lab: &Lab) {
        for (family, route) in [("ipv4", "192.0.2.0/24"), ("ipv6", "2001:db8:1::/48")] {
            lab.query("gobgp", &["global", "rib", "del", route, "-a", family]);
        }
    }
}

const GOBGP: &str = r#"
[global.config]
  as = 64513
  router-id = "10.99.0.2"
[[neighbors]]
  [neighbors.config]
    neighbor-address = "10.99.0.1"
    peer-as = 64512
  [neighbors.timers.config]
    connect-retry = 1
    idle-hold-time-after-reset = 1
  [neighbors.graceful-restart.config]
    enabled = true
    restart-time = 60
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv4-unicast"
    [neighbors.afi-safis.mp-graceful-restart.config]
      enabled = true
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv6-unicast"
    [neighbors.afi-safis.mp-graceful-restart.config]
      enabled = true
"#;

struct Frr;

impl Daemon for Frr {
    fn start(&self, lab: &mut Lab) -> Vec<usize> {
        let config = lab.file("bgpd.conf", FRR);
        let dir = lab.dir.to_str().unwrap().to_owned();
        let pid = lab.dir.join("bgpd.pid");
        let _ = std::fs::remove_file(&pid);
        let args =
            ["-Z", "-S", "-n", "-f", &config, "-i", pid.to_str().unwrap(), "--vty_socket", &dir, "-P", "0"];
        vec![lab.spawn("frr", "/usr/lib/frr/bgpd", &args)]
    }

    fn has(&self, lab: &Lab, prefix: &str) -> bool {
        let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
        let text = vtysh(lab, &[&format!("show bgp {family} unicast {prefix} json")]);
        text.contains("\"paths\"")
    }

    fn withdraw_own(&self, lab: &Lab) {
        let commands = [
            "configure terminal",
            "router bgp 64513",
            "address-family ipv4 unicast",
            "no network 192.0.2.0/24",
            "exit-address-family",
            "address-family ipv6 unicast",
            "no network 2001:db8:1::/48",
        ];
        vtysh(lab, &commands);
    }
}

fn vtysh(lab: &Lab, commands: &[&str]) -> String {
    let dir = lab.dir.to_str().unwrap();
    let mut args = vec!["--vty_socket", dir, "-d", "bgpd"];
    commands.iter().for_each(|c| args.extend(["-c", c]));
    lab.query("vtysh", &args)
}

const FRR: &str = r#"
router bgp 64513
 bgp router-id 10.99.0.2
 no bgp ebgp-requires-policy
 no bgp network import-check
 bgp graceful-restart
 bgp graceful-restart preserve-fw-state
 coalesce-time 0
 neighbor 10.99.0.1 remote-as 64512
 neighbor 10.99.0.1 timers connect 1
 neighbor 10.99.0.1 advertisement-interval 0
 address-family ipv4 unicast
  network 192.0.2.0/24
 exit-address-family
 address-family ipv6 unicast
  network 2001:db8:1::/48
  neighbor 10.99.0.1 activate
 exit-address-family
"#;

fn peer() -> PeerConfig {
    PeerConfig { local_address: Some(US.parse().unwrap()), ..PeerConfig::new(64513) }
}

const OURS: [&str; 2] = ["10.0.1.0/26", "fd00:1::/122"];
const THEIRS: [&str; 2] = ["192.0.2.0/24", "2001:db8:1::/48"];

fn exchanges_and_withdraws(daemon: &impl Daemon, name: &str) {
    let mut lab = Lab::new(name);
    daemon.start(&mut lab);
    lab.run(|| async {
        let mut driver = start(config(peer()), false);
        until(&mut driver, "session up", is_up).await;
        for theirs in THEIRS {
            until(&mut driver, theirs, |s| has(s, theirs)).await;
        }
        for ours in OURS {
            until(&mut driver, ours, |_| daemon.has(&lab, ours)).await;
        }
        for ours in OURS {
            driver.speaker_mut().withdraw(prefix(ours));
            until(&mut driver, "our withdrawal", |_| !daemon.has(&lab, ours)).await;
        }
        daemon.withdraw_own(&lab);
        for theirs in THEIRS {
            until(&mut driver, "their withdrawal", |s| !has(s, theirs)).await;
        }
    });
}

/// We die without a word and come back: the peer keeps our routes all the time.
fn survives_our_restart(daemon: &impl Daemon, name: &str) {
    let mut lab = Lab::new(name);
    daemon.start(&mut lab);
    lab.run(|| async {
        let mut driver = start(config(peer()), false);
        until(&mut driver, "session up", is_up).await;
        for ours in OURS {
            until(&mut driver, ours, |_| daemon.has(&lab, ours)).await;
        }
        drop(driver);
        // The sockets close when their tasks are gone.
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        let kept = |stage: &str| {
            OURS.iter().for_each(|ours| assert!(daemon.has(&lab, ours), "{ours} is gone {stage}"));
        };
        kept("while we are away");
        let mut driver = start(config(peer()), true);
        until(&mut driver, "session up again", is_up).await;
        until(&mut driver, "restart complete", |s| !s.is_restarting()).await;
        until(&mut driver, "their routes", |s| THEIRS.iter().all(|r| has(s, r))).await;
        kept("after we came back");
    });
}

/// The peer dies without a word: its routes stay here, and go when it comes back without them.
fn keeps_their_routes(daemon: &impl Daemon, name: &str) {
    let mut lab = Lab::new(name);
    let processes = daemon.start(&mut lab);
    let ours = lab.ours.clone();
    let (died, told) = (std::sync::mpsc::channel(), std::sync::mpsc::channel());
    std::thread::scope(|scope| {
        let (up_tx, up_rx) = died;
        let (gone_tx, gone_rx): (std::sync::mpsc::Sender<()>, _) = told;
        let thread = scope.spawn(move || {
            in_namespace(&ours, || async move {
                let mut driver = start(config(peer()), false);
                until(&mut driver, "routes", |s| is_up(s) && THEIRS.iter().all(|r| has(s, r))).await;
                up_tx.send(()).unwrap();
                until(&mut driver, "session down", |s| !is_up(s)).await;
                THEIRS.iter().for_each(|r| assert!(has(driver.speaker(), r), "{r} was not kept"));
                gone_rx.recv().unwrap();
                until(&mut driver, "session up again", is_up).await;
                until(&mut driver, "no stale routes", |s| s.peers()[0].stale == 0).await;
                until(&mut driver, "routes again", |s| THEIRS.iter().all(|r| has(s, r))).await;
            });
        });
        up_rx.recv().unwrap();
        processes.iter().for_each(|p| lab.kill(*p));
        daemon.start(&mut lab);
        gone_tx.send(()).unwrap();
        thread.join().unwrap();
    });
}

#[test]
fn bird_exchanges_and_withdraws() {
    exchanges_and_withdraws(&Bird, "bird");
}

#[test]
fn gobgp_exchanges_and_withdraws() {
    exchanges_and_withdraws(&GoBgp, "gobgp");
}

#[test]
fn frr_exchanges_and_withdraws() {
    exchanges_and_withdraws(&Frr, "frr");
}

#[test]
fn bird_keeps_our_routes_over_our_restart() {
    survives_our_restart(&Bird, "bird-r");
}

#[test]
fn gobgp_keeps_our_routes_over_our_restart() {
    survives_our_restart(&GoBgp, "gobgp-r");
}

#[test]
fn frr_keeps_our_routes_over_our_restart() {
    survives_our_restart(&Frr, "frr-r");
}

#[test]
fn we_keep_routes_of_bird_over_its_restart() {
    keeps_their_routes(&Bird, "bird-h");
}
