//! The kernel and its limits: forwarding, reverse path filter, features, connection tracking, descriptors, memory, clock.

use super::path::is_tunnel;
use crate::Severity::{Error, Info, Warning};
use crate::{Facts, Finding, Module, Severity};

pub(super) fn judge(facts: &Facts, found: &mut Vec<Finding>) {
    forwarding(facts, found);
    reverse_path(facts, found);
    features(facts, found);
    limits(facts, found);
    clock(facts, found);
    for unseen in &facts.unseen {
        found.push(Finding::new(Info, "not-seen", "something could not be looked at from here", unseen, ""));
    }
}

fn forwarding(facts: &Facts, found: &mut Vec<Finding>) {
    if facts.sysctls.ip_forward.as_deref().is_some_and(|value| value == "0") {
        let what = "the node does not forward IPv4: no pod reaches anything beyond the node";
        let mend = "sysctl -w net.ipv4.ip_forward=1";
        found.push(Finding::new(Error, "ip-forward", what, "net.ipv4.ip_forward = 0", mend));
    }
    // Every link has link-local addresses; those are not for forwarding.
    let is_v6 = |destination: &str| destination.contains(':') && !destination.starts_with("fe80:");
    let has_v6 =
        facts.routes.iter().any(|route| route.interface.starts_with("cali") && is_v6(&route.destination));
    if has_v6 && facts.sysctls.ipv6_forwarding.as_deref() == Some("0") {
        let what = "the node does not forward IPv6, and has pods with IPv6 addresses";
        let mend = "sysctl -w net.ipv6.conf.all.forwarding=1";
        found.push(Finding::new(Error, "ip-forward", what, "net.ipv6.conf.all.forwarding = 0", mend));
    }
}

const STRICT: u8 = 1;

/// The kernel takes the larger of a link's own value and that of `all`.
fn reverse_path(facts: &Facts, found: &mut Vec<Finding>) {
    let all = facts.sysctls.rp_filter.get("all").copied().unwrap_or(0);
    for (link, own) in &facts.sysctls.rp_filter {
        let is_strict = all.max(*own) == STRICT;
        let carries = facts.paths.iter().any(|path| path.interface == *link);
        if !is_strict || link.starts_with("cali") || !(carries || is_tunnel(link)) {
            continue;
        }
        let what = if is_tunnel(link) {
            format!(
                "{link} filters by strict reverse path: packets of pods that come through the tunnel and go back another way are \
                 dropped"
            )
        } else {
            format!(
                "{link} filters by strict reverse path: packets of pods are dropped where the way there and the way back differ \
                 (two uplinks, a switch of the encapsulation)"
            )
        };
        let severity: Severity = if is_tunnel(link) { Error } else { Warning };
        let evidence = format!("net.ipv4.conf.{link}.rp_filter = {own}, all = {all}");
        let mend = format!("sysctl -w net.ipv4.conf.{link}.rp_filter=2");
        found.push(Finding::new(severity, "rp-filter", what, evidence, mend));
    }
}

/// Name of a feature; package or module that brings it; what does not work without; how grave that is.
const FEATURES: [(&str, &str, Severity, &str); 8] = [
    ("nf_conntrack", "nf_conntrack", Error, "policy cannot let answers pass"),
    ("nf_tables", "nf_tables", Warning, "policy has to go through iptables-legacy"),
    ("ip_set", "ip_set", Warning, "policy has to go through nftables"),
    ("ipip", "ipip", Error, "pools with ipipMode Always or CrossSubnet do not work on this node"),
    ("nft_fib", "nft_fib_inet", Info, "rules that ask for a packet's route (fib) are not to be had"),
    ("nexthop", "", Info, "routes carry their next hop one by one: a switch costs one message a route"),
    ("vxlan", "vxlan", Error, "pools with vxlanMode Always or CrossSubnet do not work on this node"),
    ("wireguard", "wireguard", Error, "packets to and from this node are not encrypted"),
];

/// Those of them that only a cluster needs whose pools or settings ask for it.
const ENCAPSULATIONS: [&str; 3] = ["ipip", "vxlan", "wireguard"];

fn features(facts: &Facts, found: &mut Vec<Finding>) {
    for (name, module, severity, effect) in FEATURES {
        // What nobody asks for is no fault; it is good to know before somebody does.
        let is_idle = ENCAPSULATIONS.contains(&name) && facts.wants(name) != Some(true);
        let severity = if is_idle { Info } else { severity };
        let evidence = format!("kernel {}", facts.kernel);
        match facts.modules.get(name) {
            Some(Module::Missing) => {
                let mend = if module.is_empty() {
                    String::new()
                } else {
                    format!("apt-get install linux-modules-extra-{} # or a kernel that has it", facts.kernel)
                };
                // Both ways for policy missing is another matter than one.
                let severity = if is_only_way(facts, name) { Error } else { severity };
                found.push(Finding::new(
                    severity,
                    "kernel-feature",
                    format!("the kernel has no {name}: {effect}"),
                    evidence,
                    mend,
                ));
            }
            // Modules that the agents need are loaded when they are asked for, if they may be.
            Some(Module::Loadable) if severity > Info => {
                let what = format!("the kernel's module {module} is not loaded; until it is, {effect}");
                found.push(Finding::new(
                    Info,
                    "kernel-feature",
                    what,
                    evidence,
                    format!("modprobe {module}"),
                ));
            }
            _ => {}
        }
    }
}

fn is_only_way(facts: &Facts, name: &str) -> bool {
    let missing = |name: &str| facts.modules.get(name) == Some(&Module::Missing);
    matches!(name, "nf_tables" | "ip_set") && missing("nf_tables") && missing("ip_set")
}

fn limits(facts: &Facts, found: &mut Vec<Finding>) {
    if let Some(table) = facts.conntrack.filter(|table| table.max > 0 && table.count * 10 >= table.max * 8) {
        let severity = if table.count * 20 >= table.max * 19 { Error } else { Warning };
        let what = "the table of connections is nearly full: new connections are dropped when it is";
        let evidence = format!("{} of {} entries", table.count, table.max);
        let mend = format!("sysctl -w net.netfilter.nf_conntrack_max={}", table.max.saturating_mul(2));
        found.push(Finding::new(severity, "conntrack-full", what, evidence, mend));
    }
    for process in facts.descriptors.iter().filter(|p| p.limit > 0 && p.open * 10 >= p.limit * 8) {
        let what = format!("{} has nearly as many files open as it may", process.process);
        let evidence = format!("{} of {}", process.open, process.limit);
        let mend = format!(
            "prlimit --pid $(pidof {}) --nofile={2}:{2} # and LimitNOFILE of the runtime's service; now {1}",
            process.process,
            process.limit,
            process.limit * 4
        );
        found.push(Finding::new(Warning, "descriptors", what, evidence, mend));
    }
    let cgroup = &facts.cgroup;
    if let (Some(memory), Some(max)) = (cgroup.memory, cgroup.memory_max)
        && max > 0
        && memory / 9 >= max / 10
    {
        let evidence = format!("{} of {} MiB", memory >> 20, max >> 20);
        let mend = format!(
            "kubectl -n kube-system set resources daemonset/calico-node -c felix --limits=memory={}Mi",
            (max >> 20).saturating_mul(2).max(1)
        );
        found.push(Finding::new(
            Warning,
            "memory",
            "the agent is close to its limit of memory",
            evidence,
            mend,
        ));
    }
    if cgroup.oom_kills > 0 {
        let evidence = format!("{} processes were killed", cgroup.oom_kills);
        let mend =
            "kubectl -n kube-system set resources daemonset/calico-node -c felix --limits=memory=512Mi";
        found.push(Finding::new(
            Warning,
            "memory",
            "the kernel has killed for want of memory here",
            evidence,
            mend,
        ));
    }
    if let (Some(tasks), Some(max)) = (cgroup.tasks, cgroup.tasks_max)
        && max > 0
        && tasks * 10 >= max * 9
    {
        let what = "there are nearly as many tasks as the control group may have";
        found.push(Finding::new(
            Warning,
            "tasks",
            what,
            format!("{tasks} of {max}"),
            "grep -r podPidsLimit /var/lib/kubelet/config.yaml",
        ));
    }
}

/// Certificates, tokens and leases are judged by the clock.
const LARGEST_SKEW_MS: i64 = 5_000;

fn clock(facts: &Facts, found: &mut Vec<Finding>) {
    if let Some(ahead) = facts.clock_ahead_ms.filter(|ahead| ahead.abs() > LARGEST_SKEW_MS) {
        let what = "the node's clock differs: tokens and certificates are refused, leases end early";
        let direction = if ahead > 0 { "ahead" } else { "behind" };
        let evidence = format!("{}.{:03} s {direction}", ahead.abs() / 1000, ahead.abs() % 1000);
        let severity = if ahead.abs() > 60_000 { Error } else { Warning };
        found.push(Finding::new(
            severity,
            "clock",
            what,
            evidence,
            "chronyc makestep # or: systemctl restart systemd-timesyncd",
        ));
    }
    if facts.clock_synchronised == Some(false) {
        let what = "nobody keeps the node's clock";
        let mend = "systemctl enable --now chrony # or systemd-timesyncd";
        found.push(Finding::new(Info, "clock", what, "the kernel says: unsynchronised", mend));
    }
}
