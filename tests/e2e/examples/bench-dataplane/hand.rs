//! Two nodes with a pod each, a switch between them, and all links and routes made by `ip`.

use std::process::Command;

use crate::Outcome;
use crate::flow::Ends;

/// What the nodes put around packets of pods.
#[derive(Clone, Copy, PartialEq)]
pub enum Mode {
    Direct,
    Vxlan,
    Ipip,
}

impl Mode {
    /// What it takes of a packet, bytes.
    fn overhead(self) -> u32 {
        match self {
            Self::Direct => 0,
            Self::Vxlan => 50,
            Self::Ipip => 20,
        }
    }
}

/// Goes with the value.
pub struct Hand {
    name: String,
}

impl Hand {
    /// With the hooks of kube-proxy, which every node of a cluster has, and no policy; or with no hook anywhere.
    pub fn build(name: &str, mode: Mode, with_hooks: bool) -> Outcome<Self> {
        let hand = Self { name: name.to_owned() };
        hand.ip("netns add {}-switch")?;
        hand.ip("-n {}-switch link add br0 up type bridge")?;
        for n in [1, 2] {
            hand.node(n, mode)?;
            if with_hooks {
                hand.ip(&format!("netns exec {{}}-n{n} nft {}", HOOKS.replace('\n', " ")))?;
            }
        }
        Ok(hand)
    }

    fn node(&self, n: u8, mode: Mode) -> Outcome<()> {
        let (far, mtu) = (3 - n, 1500 - mode.overhead());
        self.ip(&format!("netns add {{}}-n{n}"))?;
        self.ip(&format!("netns add {{}}-p{n}"))?;
        self.ip(&format!("-n {{}}-n{n} link add eth0 up type veth peer name port{n} netns {{}}-switch"))?;
        self.ip(&format!("-n {{}}-switch link set port{n} up master br0"))?;
        self.ip(&format!("-n {{}}-n{n} address add 192.0.2.{n}/24 dev eth0"))?;
        self.ip(&format!("-n {{}}-n{n} link add pod up mtu {mtu} type veth peer name eth0 netns {{}}-p{n}"))?;
        self.ip(&format!("-n {{}}-n{n} address add 169.254.1.1/32 dev pod"))?;
        self.ip(&format!("-n {{}}-n{n} route add 10.66.{n}.1/32 dev pod"))?;
        self.ip(&format!("-n {{}}-p{n} link set eth0 up mtu {mtu}"))?;
        self.ip(&format!("-n {{}}-p{n} address add 10.66.{n}.1/32 dev eth0"))?;
        self.ip(&format!("-n {{}}-p{n} route add 169.254.1.1 dev eth0"))?;
        self.ip(&format!("-n {{}}-p{n} route add default via 169.254.1.1"))?;
        self.ip(&format!("netns exec {{}}-n{n} sysctl -qw net.ipv4.ip_forward=1"))?;
        let block = format!("-n {{}}-n{n} route add 10.66.{far}.0/26 via");
        match mode {
            Mode::Direct => self.ip(&format!("{block} 192.0.2.{far}")),
            Mode::Vxlan => {
                let mac = |n: u8| format!("66:00:00:00:00:0{n}");
                self.ip(&format!(
                    "-n {{}}-n{n} link add tunnel up address {} mtu {mtu} type vxlan id 4096 dstport 4789 \
                     local 192.0.2.{n} dev eth0 nolearning",
                    mac(n)
                ))?;
                self.ip(&format!("-n {{}}-n{n} address add 10.66.{n}.0/32 dev tunnel"))?;
                self.ip(&format!(
                    "netns exec {{}}-n{n} bridge fdb add {} dev tunnel dst 192.0.2.{far} self permanent",
                    mac(far)
                ))?;
                self.ip(&format!(
                    "-n {{}}-n{n} neighbour add 10.66.{far}.0 lladdr {} dev tunnel nud permanent",
                    mac(far)
                ))?;
                self.ip(&format!("{block} 10.66.{far}.0 dev tunnel onlink"))
            }
            Mode::Ipip => {
                self.ip(&format!("-n {{}}-n{n} link add tunnel type ipip local 192.0.2.{n}"))?;
                self.ip(&format!("-n {{}}-n{n} link set tunnel up mtu {mtu}"))?;
                self.ip(&format!("-n {{}}-n{n} address add 10.66.{n}.0/32 dev tunnel"))?;
                self.ip(&format!("{block} 192.0.2.{far} dev tunnel onlink"))
            }
        }
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

/// The least of what kube-proxy has where packets that are forwarded come by: connections, and the translation of the
/// first packet of each.
const HOOKS: &str = "table ip kube {
chain prerouting { type nat hook prerouting priority -100 ; fib daddr type local counter ; } ;
chain postrouting { type nat hook postrouting priority 100 ; meta mark and 0x4000 != 0 masquerade ; } ;
chain forward { type filter hook forward priority 0 ; ct state invalid drop ; ct state new counter ; } ;
}";
