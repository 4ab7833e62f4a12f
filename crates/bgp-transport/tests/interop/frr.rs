//! FRR 8.

use std::fmt::Write as _;

use crate::common::Lab;
use crate::daemon::{Daemon, Wish};

pub struct Frr;

fn vtysh(lab: &Lab, commands: &[&str]) -> String {
    let dir = lab.dir.to_str().unwrap();
    let mut arguments = vec!["--vty_socket", dir, "-d", "bgpd"];
    commands.iter().for_each(|c| arguments.extend(["-c", c]));
    lab.query("vtysh", &arguments)
}

impl Daemon for Frr {
    fn name(&self) -> &'static str {
        "frr"
    }

    fn program(&self) -> (&'static str, &'static str) {
        ("/usr/lib/frr/bgpd", "frr")
    }

    fn start(&self, lab: &mut Lab, wish: Wish) -> Vec<usize> {
        let config = lab.file("bgpd.conf", &config(wish));
        let dir = lab.dir.to_str().unwrap().to_owned();
        let pid = lab.dir.join("bgpd.pid");
        let _ = std::fs::remove_file(&pid);
        let arguments =
            ["-Z", "-S", "-n", "-f", &config, "-i", pid.to_str().unwrap(), "--vty_socket", &dir, "-P", "0"];
        vec![lab.spawn("frr", "/usr/lib/frr/bgpd", &arguments)]
    }

    fn route(&self, lab: &Lab, prefix: &str) -> String {
        let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
        let text = vtysh(lab, &[&format!("show bgp {family} unicast {prefix} json")]);
        if text.contains("\"paths\"") { text } else { String::new() }
    }

    fn session(&self, lab: &Lab) -> String {
        vtysh(lab, &["show bgp neighbors 10.99.0.1 json"])
    }

    fn up(&self) -> &'static str {
        "\"bgpState\":\"Established\""
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

    fn refresh(&self, lab: &Lab) {
        vtysh(lab, &["clear bgp ipv4 unicast 10.99.0.1 soft in", "clear bgp ipv6 unicast 10.99.0.1 soft in"]);
    }

    fn shut_down(&self, lab: &Lab, text: &str) {
        let shutdown = format!("neighbor 10.99.0.1 shutdown message {text}");
        vtysh(lab, &["configure terminal", "router bgp 64513", &shutdown]);
    }
}

fn config(wish: Wish) -> String {
    let own = if wish.internal { 64512 } else { 64513 };
    let mut text = format!(
        "router bgp {own}\n bgp router-id 10.99.0.2\n no bgp ebgp-requires-policy\n no bgp network import-check\n \
         bgp graceful-restart\n bgp graceful-restart preserve-fw-state\n coalesce-time 0\n"
    );
    let mut family = String::new();
    let neighbour = |text: &mut String, line: &str| {
        let _ = writeln!(text, " neighbor 10.99.0.1 {line}");
    };
    neighbour(&mut text, "remote-as 64512");
    neighbour(&mut text, "timers connect 1");
    neighbour(&mut text, "advertisement-interval 0");
    if let Some(password) = wish.password {
        neighbour(&mut text, &format!("password {password}"));
    }
    if let Some(hold_time) = wish.hold_time {
        neighbour(&mut text, &format!("timers {} {hold_time}", hold_time / 3));
    }
    if wish.ttl_security {
        neighbour(&mut text, "ttl-security hops 1");
    }
    if wish.role {
        neighbour(&mut text, "local-role provider");
    }
    if wish.add_path {
        neighbour(&mut family, "addpath-tx-all-paths");
    }
    if let Some(limit) = wish.limit {
        neighbour(&mut family, &format!("maximum-prefix {limit}"));
    }
    if wish.communities {
        neighbour(&mut family, "route-map marks out");
        neighbour(&mut family, "send-community all");
    }
    let _ = write!(
        text,
        " address-family ipv4 unicast\n  network 192.0.2.0/24\n {family} exit-address-family\n \
         address-family ipv6 unicast\n  network 2001:db8:1::/48\n  neighbor 10.99.0.1 activate\n {family} \
         exit-address-family\n!\n\
         route-map marks permit 10\n set community 64513:7\n set large-community 64513:1:2\n \
         set extcommunity rt 64513:9\n!\n"
    );
    text
}
