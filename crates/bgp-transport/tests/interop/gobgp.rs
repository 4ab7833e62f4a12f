//! GoBGP 3.

use std::fmt::Write as _;
use std::time::Instant;

use crate::common::{DEADLINE, Lab};
use crate::daemon::{Daemon, Wish};

pub struct GoBgp;

const ROUTES: [(&str, &str, &str); 2] =
    [("ipv4", "192.0.2.0/24", "10.99.0.2"), ("ipv6", "2001:db8:1::/48", "fd99::2")];

impl Daemon for GoBgp {
    fn name(&self) -> &'static str {
        "gobgp"
    }

    fn program(&self) -> (&'static str, &'static str) {
        ("/usr/bin/gobgpd", "gobgpd")
    }

    fn start(&self, lab: &mut Lab, wish: Wish) -> Vec<usize> {
        let config = lab.file("gobgp.toml", &config(wish));
        let mut arguments = vec!["-f", &config, "--log-plain"];
        arguments.extend(wish.restarted.then_some("--graceful-restart"));
        let index = lab.spawn("gobgpd", "/usr/bin/gobgpd", &arguments);
        for (family, route, hop) in ROUTES {
            let mut add = vec!["global", "rib", "add", route, "nexthop", hop, "-a", family];
            if wish.communities {
                let marks = ["community", "64513:7", "large-community", "64513:1:2", "rt", "64513:9"];
                add.splice(4..4, marks);
            }
            insist(lab, &add);
        }
        if wish.two_paths {
            let [(_, route, hop), _] = ROUTES;
            insist(
                lab,
                &["global", "rib", "add", route, "identifier", "2", "nexthop", hop, "community", "64513:2"],
            );
        }
        vec![index]
    }

    fn route(&self, lab: &Lab, prefix: &str) -> String {
        let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
        let text = lab.query("gobgp", &["global", "rib", "-a", family]);
        text.lines().filter(|line| line.contains(prefix)).collect::<Vec<_>>().join("\n")
    }

    fn session(&self, lab: &Lab) -> String {
        lab.query("gobgp", &["neighbor", "10.99.0.1"])
    }

    fn up(&self) -> &'static str {
        "BGP state = ESTABLISHED"
    }

    fn stale(&self) -> &'static str {
        "llgr-stale"
    }

    fn withdraw_own(&self, lab: &Lab) {
        for (family, route, _) in ROUTES {
            lab.query("gobgp", &["global", "rib", "del", route, "-a", family]);
        }
    }

    /// It keeps what it was sent and never asks again.
    fn refresh(&self, _: &Lab) {}

    fn shut_down(&self, lab: &Lab, text: &str) {
        lab.query("gobgp", &["neighbor", "10.99.0.1", "shutdown", "--reason", text]);
    }
}

/// Says something until it is heard: the daemon takes a moment to start.
fn insist(lab: &Lab, words: &[&str]) {
    let end = Instant::now() + DEADLINE;
    let mut said = lab.query("gobgp", words);
    while !said.is_empty() {
        assert!(Instant::now() < end, "gobgpd does not answer: {said}");
        said = lab.query("gobgp", words);
    }
}

fn config(wish: Wish) -> String {
    let own = if wish.internal { 64512 } else { 64513 };
    let mut text = format!(
        "[global.config]\nas = {own}\nrouter-id = \"10.99.0.2\"\n\
         [[neighbors]]\n[neighbors.config]\nneighbor-address = \"10.99.0.1\"\npeer-as = 64512\n"
    );
    if let Some(password) = wish.password {
        let _ = writeln!(text, "auth-password = \"{password}\"");
    }
    text.push_str("[neighbors.timers.config]\nconnect-retry = 1\nidle-hold-time-after-reset = 1\n");
    if let Some(hold_time) = wish.hold_time {
        let _ = writeln!(text, "hold-time = {hold_time}");
    }
    if wish.ttl_security {
        text.push_str("[neighbors.ttl-security.config]\nenabled = true\nttl-min = 255\n");
    }
    let restart_time = if wish.long_lived { 3 } else { 60 };
    let _ =
        write!(text, "[neighbors.graceful-restart.config]\nenabled = true\nrestart-time = {restart_time}\n");
    if wish.long_lived {
        text.push_str("long-lived-enabled = true\n");
    }
    for family in ["ipv4", "ipv6"] {
        let _ = write!(
            text,
            "[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"{family}-unicast\"\n\
             [neighbors.afi-safis.mp-graceful-restart.config]\nenabled = true\n"
        );
        if wish.long_lived {
            text.push_str("[neighbors.afi-safis.long-lived-graceful-restart.config]\nenabled = true\nrestart-time = 3\n");
        }
        if wish.add_path {
            text.push_str("[neighbors.afi-safis.add-paths.config]\nreceive = true\nsend-max = 8\n");
        }
        if let Some(limit) = wish.limit {
            let _ = writeln!(text, "[neighbors.afi-safis.prefix-limit.config]\nmax-prefixes = {limit}");
        }
    }
    text
}
