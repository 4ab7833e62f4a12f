//! What a packet of an established flow between two pods of a node pays, with 500 pods there.

use std::time::Duration;

use anyhow::Context;
use kernel_linux::pod::{HOST_MAC, PodInterface, PodLink, configure_pod};
use kernel_linux::{Backend, Netns, Rtnl};

use crate::agent::{Agent, Way, new_netns};
use crate::apply::run;
use crate::calico_tree;
use crate::cluster;
use crate::probe::Flow;
use crate::report::Report;

const PODS: usize = 500;
/// In the middle of the dispatch, not where it is cheapest.
const PROBED: [usize; 2] = [250, 251];
const WINDOW: Duration = Duration::from_millis(200);

/// The least that any policy that knows connections costs.
const FLOOR: &str = "table ip floor {
    chain forward {
        type filter hook forward priority 0; policy accept;
        ct state established,related accept
    }
}
";

/// A node of its own with a flow through it.
struct World {
    name: &'static str,
    flow: Flow,
    best: Duration,
    /// What keeps it alive.
    _node: Netns,
    _agent: Option<Agent>,
}

pub fn measure(rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let mut worlds = vec![
        World::new("no rules", |_| Ok(None))?,
        World::new("Calico's tree, iptables-legacy", |node| {
            let interfaces: Vec<String> = (0..PODS).map(|number| cluster::local(number).interface).collect();
            run(node, "iptables-legacy-restore", &[], &calico_tree::tree(&interfaces))?;
            Ok(None)
        })?,
        World::new("iptables-legacy", |node| ours(node, Way::Iptables(Backend::Legacy)))?,
        World::new("iptables-nft", |node| ours(node, Way::Iptables(Backend::Nft)))?,
        World::new("nftables", |node| ours(node, Way::Nftables))?,
        World::new("floor: conntrack and one rule", |node| {
            run(node, "nft", &["-f", "-"], FLOOR)?;
            Ok(None)
        })?,
    ];
    for _ in 0..rounds {
        for world in &mut worlds {
            world.best = world.best.min(world.flow.window(WINDOW)?);
        }
    }
    let plain = worlds[0].best;
    let added = |world: &World| world.best.saturating_sub(plain);
    let calico = added(&worlds[1]);
    let what = "packet of an established flow, 500 pods";
    report.add(what, worlds[0].name, format!("{} ns", plain.as_nanos()), None, "");
    for world in &worlds[1..] {
        let target = match world.name {
            "iptables-legacy" => "≤ 1.10 × Calico's tree",
            "nftables" => "≤ 350 ns",
            _ => "",
        };
        let value = format!("+{} ns", added(world).as_nanos());
        report.add(what, world.name, value, Some((compared(added(world), calico), "Calico's tree")), target);
    }
    Ok(())
}

/// Only CPU time is measured.
fn compared(own: Duration, peer: Duration) -> [f64; 2] {
    [own.as_secs_f64() / peer.as_secs_f64().max(1e-12); 2]
}

impl World {
    fn new(
        name: &'static str,
        rules: impl FnOnce(&Netns) -> anyhow::Result<Option<Agent>>,
    ) -> anyhow::Result<Self> {
        let node = new_netns()?;
        let pods = [new_netns()?, new_netns()?];
        node.run(|| {
            kernel_linux::sysctl::write("net/ipv4/ip_forward", "1")?;
            let mut rtnl = Rtnl::open()?;
            for (number, pod) in PROBED.into_iter().zip(&pods) {
                let local = cluster::local(number);
                let link = PodLink {
                    host_name: local.interface.clone(),
                    alias: local.container_id,
                    pod_name: "eth0".to_owned(),
                    pod_mac: Some(local.mac),
                    mtu: 1500,
                    queues: 1,
                    ipv6: false,
                };
                rtnl.create_pod_link(&link, pod)?;
                kernel_linux::sysctl::write(&format!("net/ipv4/conf/{}/forwarding", local.interface), "1")?;
            }
            Ok(())
        })?;
        for (number, pod) in PROBED.into_iter().zip(&pods) {
            let interface = PodInterface {
                name: "eth0".to_owned(),
                addresses: vec![cluster::address(number)],
                gateway_mac: HOST_MAC,
                forwarding: false,
            };
            configure_pod(pod, &interface)?;
            let local = cluster::local(number);
            let (address, link) = (local.addresses[0].to_string(), local.interface.clone());
            let mac = local.mac.map(|byte| format!("{byte:02x}")).join(":");
            run(&node, "ip", &["route", "replace", &address, "dev", &link], "")?;
            run(&node, "ip", &["neigh", "replace", &address, "dev", &link, "lladdr", &mac], "")?;
        }
        let agent = rules(&node).with_context(|| format!("program {name}"))?;
        let ends = PROBED.map(cluster::address);
        let flow = Flow::open((&pods[0], ends[0]), (&pods[1], ends[1]))
            .with_context(|| format!("a flow through {name}"))?;
        Ok(Self { name, flow, best: Duration::MAX, _node: node, _agent: agent })
    }
}

/// Our own rules for all pods; their namespace lets everything pass, as in the tree beside.
fn ours(node: &Netns, way: Way) -> anyhow::Result<Option<Agent>> {
    let mut agent = Agent::new(Netns::open(format!("/proc/self/fd/{}", node.raw_fd()))?, way)?;
    agent.apply([cluster::namespace()]);
    for number in 0..PODS {
        agent.add_local(cluster::local(number));
        agent.apply([cluster::pod(number, 10)]);
    }
    agent.write()?;
    Ok(Some(agent))
}
