//! BIRD 2.

use std::fmt::Write as _;

use crate::common::Lab;
use crate::daemon::{Daemon, Wish};

pub struct Bird;

fn ask(lab: &Lab, command: &str) -> String {
    let socket = lab.dir.join("bird.ctl");
    let mut arguments = vec!["-s", socket.to_str().unwrap()];
    arguments.extend(command.splitn(3, ' '));
    lab.query("birdc", &arguments)
}

impl Daemon for Bird {
    fn name(&self) -> &'static str {
        "bird"
    }

    fn program(&self) -> (&'static str, &'static str) {
        ("/usr/sbin/bird", "bird2")
    }

    fn start(&self, lab: &mut Lab, wish: Wish) -> Vec<usize> {
        let config = lab.file("bird.conf", &config(wish));
        let socket = lab.dir.join("bird.ctl");
        let mut arguments = vec!["-f", "-c", &config, "-s", socket.to_str().unwrap()];
        arguments.extend(wish.restarted.then_some("-R"));
        vec![lab.spawn("bird2", "/usr/sbin/bird", &arguments)]
    }

    fn route(&self, lab: &Lab, prefix: &str) -> String {
        let text = ask(lab, &format!("show route {prefix} all"));
        if text.contains("[ocicat") { text } else { String::new() }
    }

    fn session(&self, lab: &Lab) -> String {
        ask(lab, "show protocols all ocicat")
    }

    fn up(&self) -> &'static str {
        "BGP state:          Established"
    }

    fn withdraw_own(&self, lab: &Lab) {
        ask(lab, "disable own4");
        ask(lab, "disable own6");
    }

    fn refresh(&self, lab: &Lab) {
        ask(lab, "reload in ocicat");
    }

    fn shut_down(&self, lab: &Lab, text: &str) {
        ask(lab, &format!("disable ocicat \"{text}\""));
    }
}

fn config(wish: Wish) -> String {
    let own = if wish.internal { 64512 } else { 64513 };
    let marks = "{ bgp_community.add((64513,7)); bgp_large_community.add((64513,1,2)); \
                 bgp_ext_community.add((rt,64513,9)); }";
    let marks = if wish.communities { marks } else { "" };
    let mut session = String::new();
    let mut line = |on: bool, text: &str| {
        if on {
            let _ = writeln!(session, "  {text}");
        }
    };
    line(
        true,
        if wish.long_lived {
            "graceful restart on; graceful restart time 3;"
        } else {
            "graceful restart on;"
        },
    );
    line(true, "connect delay time 1; connect retry time 1; error wait time 1, 2;");
    if let Some(password) = wish.password {
        line(true, &format!("password \"{password}\";"));
    }
    if let Some(hold_time) = wish.hold_time {
        line(true, &format!("hold time {hold_time};"));
    }
    line(wish.ttl_security, "ttl security on;");
    line(wish.two_octets, "enable as4 off;");
    line(wish.extended_messages, "enable extended messages on;");
    line(wish.long_lived, "long lived graceful restart on; long lived stale time 3;");
    line(wish.role, "local role provider;");
    let mut channel = String::from("import all; export where source = RTS_STATIC;");
    if wish.add_path {
        channel.push_str(" add paths on;");
    }
    if let Some(limit) = wish.limit {
        let _ = write!(channel, " import limit {limit} action disable;");
    }
    let second = match wish.two_paths {
        true => {
            "protocol static second4 { ipv4; route 192.0.2.0/24 blackhole { bgp_community.add((64513,2)); }; }"
        }
        false => "",
    };
    let v4 = if wish.extended_next_hop { "extended next hop on;" } else { "" };
    format!(
        "router id 10.99.0.2;\n\
         protocol device {{ }}\n\
         protocol static own4 {{ ipv4; route 192.0.2.0/24 blackhole {marks}; }}\n\
         {second}\n\
         protocol static own6 {{ ipv6; route 2001:db8:1::/48 blackhole {marks}; }}\n\
         protocol bgp ocicat {{\n  local 10.99.0.2 as {own};\n  neighbor 10.99.0.1 as 64512;\n  direct;\n{session}\
           ipv4 {{ {channel} {v4} }};\n\
           ipv6 {{ {channel} next hop address fd99::2; }};\n\
         }}\n"
    )
}
