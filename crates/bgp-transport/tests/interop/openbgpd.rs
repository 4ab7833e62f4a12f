//! OpenBGPD 7.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Instant;

use crate::common::{DEADLINE, Lab};
use crate::daemon::{Daemon, Wish};

pub struct OpenBgpd;

/// On a session over IPv4 it gives ::1 as the next hop of IPv6 routes, which we rightly do not take. GoBGP is told the
/// same: neither an address of the link, `local-address` nor `set nexthop` change it.
const ROUTES: [&str; 1] = ["192.0.2.0/24"];

fn ask(lab: &Lab, command: &str) -> String {
    let socket = lab.dir.join("bgpd.sock");
    let mut arguments = vec!["-s", socket.to_str().unwrap()];
    arguments.extend(command.split(' '));
    lab.query("bgpctl", &arguments)
}

impl Daemon for OpenBgpd {
    fn name(&self) -> &'static str {
        "openbgpd"
    }

    fn program(&self) -> (&'static str, &'static str) {
        ("/usr/sbin/bgpd", "openbgpd")
    }

    fn start(&self, lab: &mut Lab, wish: Wish) -> Vec<usize> {
        // Its processes lock themselves in there; the directory is usually made at boot.
        std::fs::create_dir_all("/run/openbgpd").unwrap();
        let socket = lab.dir.join("bgpd.sock");
        let path = lab.file("bgpd.conf", &config(wish, socket.to_str().unwrap()));
        // It refuses a file that others may write or read.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let index = lab.spawn("openbgpd", "/usr/sbin/bgpd", &["-d", "-f", &path]);
        let end = Instant::now() + DEADLINE;
        while !ask(lab, "show summary").contains(&lab.say("10.99.0.1")) {
            assert!(Instant::now() < end, "bgpd does not answer: {}", ask(lab, "show summary"));
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let marks = " community 64513:7 large-community 64513:1:2 ext-community rt 64513:9";
        for route in ROUTES {
            ask(lab, &format!("network add {route}{}", if wish.communities { marks } else { "" }));
        }
        vec![index]
    }

    fn announces(&self) -> &'static [&'static str] {
        &ROUTES
    }

    fn route(&self, lab: &Lab, prefix: &str) -> String {
        let text = ask(lab, &format!("show rib detail {prefix}"));
        if text.contains("entry for") { text } else { String::new() }
    }

    fn session(&self, lab: &Lab) -> String {
        ask(lab, "show neighbor 10.99.0.1")
    }

    fn up(&self) -> &'static str {
        "BGP state = Established"
    }

    fn withdraw_own(&self, lab: &Lab) {
        ROUTES.iter().for_each(|route| drop(ask(lab, &format!("network delete {route}"))));
    }

    fn refresh(&self, lab: &Lab) {
        ask(lab, "neighbor 10.99.0.1 refresh");
    }

    fn shut_down(&self, lab: &Lab, text: &str) {
        ask(lab, &format!("neighbor 10.99.0.1 down {text}"));
    }
}

fn config(wish: Wish, socket: &str) -> String {
    let own = if wish.internal { 64512 } else { 64513 };
    let mut text = format!(
        "AS {own}\nrouter-id 10.99.0.2\nlisten on 10.99.0.2\nsocket \"{socket}\"\nfib-update no\nlog updates\n\
         neighbor 10.99.0.1 {{\n  remote-as 64512\n  local-address 10.99.0.2\n  announce IPv4 unicast\n  \
         announce IPv6 unicast\n  announce restart yes\n"
    );
    if let Some(password) = wish.password {
        let _ = writeln!(text, "  tcp md5sig password \"{password}\"");
    }
    if let Some(limit) = wish.limit {
        let _ = writeln!(text, "  max-prefix {limit}");
    }
    if wish.ttl_security {
        text.push_str("  ttl-security yes\n");
    }
    if wish.two_octets {
        text.push_str("  announce as-4byte no\n");
    }
    if wish.add_path {
        text.push_str("  announce add-path recv yes\n  announce add-path send all\n");
    }
    text.push_str("}\nallow from any\nallow to any\n");
    text
}
