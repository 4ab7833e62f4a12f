//! Two nodes with a pod each, a switch between them, all links and routes made by `ip`, and no rule anywhere.

use std::process::Command;

use crate::Outcome;
use crate::flow::Ends;

/// Goes with the value.
pub struct Hand {
    name: String,
}

impl Hand {
    /// Direct routes, as between nodes of one subnet.
    pub fn build(name: &str) -> Outcome<Self> {
        let hand = Self { name: format!("{name}-hand") };
        hand.ip("netns add {}-switch")?;
        hand.ip("-n {}-switch link add br0 up type bridge")?;
        for n in [1, 2] {
            let far = 3 - n;
            hand.ip(&format!("netns add {{}}-n{n}"))?;
            hand.ip(&format!("netns add {{}}-p{n}"))?;
            hand.ip(&format!("-n {{}}-n{n} link add eth0 up type veth peer name port{n} netns {{}}-switch"))?;
            hand.ip(&format!("-n {{}}-switch link set port{n} up master br0"))?;
            hand.ip(&format!("-n {{}}-n{n} address add 192.0.2.{n}/24 dev eth0"))?;
            hand.ip(&format!("-n {{}}-n{n} link add pod up type veth peer name eth0 netns {{}}-p{n}"))?;
            hand.ip(&format!("-n {{}}-n{n} address add 169.254.1.1/32 dev pod"))?;
            hand.ip(&format!("-n {{}}-n{n} route add 10.66.{n}.1/32 dev pod"))?;
            hand.ip(&format!("-n {{}}-n{n} route add 10.66.{far}.0/26 via 192.0.2.{far}"))?;
            hand.ip(&format!("-n {{}}-p{n} link set eth0 up"))?;
            hand.ip(&format!("-n {{}}-p{n} address add 10.66.{n}.1/32 dev eth0"))?;
            hand.ip(&format!("-n {{}}-p{n} route add 169.254.1.1 dev eth0"))?;
            hand.ip(&format!("-n {{}}-p{n} route add default via 169.254.1.1"))?;
            hand.ip(&format!("netns exec {{}}-n{n} sysctl -qw net.ipv4.ip_forward=1"))?;
        }
        Ok(hand)
    }

    pub fn ends(&self) -> Ends {
        let netns = |pod: &str| format!("{}-{pod}", self.name);
        Ends { from: netns("p1"), to: netns("p2"), address: [10, 66, 2, 1].into() }
    }

    /// `{}` is what the namespaces' names begin with.
    fn ip(&self, words: &str) -> Outcome<()> {
        let words = words.replace("{}", &self.name);
        let output = Command::new("ip").args(words.split_whitespace()).output()?;
        match output.status.success() {
            true => Ok(()),
            false => Err(format!("ip {words}: {}", String::from_utf8_lossy(&output.stderr)).into()),
        }
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        for place in ["switch", "n1", "n2", "p1", "p2"] {
            let _ = Command::new("ip").args(["netns", "del", &format!("{}-{place}", self.name)]).status();
        }
    }
}
