//! A node with five pods and a host outside, each a network namespace.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use felix_evaluate::{Packet, Place, Side, State};
use kernel_linux::pod::{HOST_MAC, PodInterface, PodLink, configure_pod};
use kernel_linux::{Conntrack, Netns, Rtnl};
use model::{EndpointPort, Labels, LocalEndpoint, Pod, PodKey, Protocol, Update, host_interface_name};

use crate::agent::{Agent, Way, new_netns};
use crate::cluster::NODE;
use crate::generate::{self, Themes};
use crate::random::Random;
use crate::wire::{PROTOCOLS, Wire};

const PODS: [&str; 5] = ["x/a", "x/b", "y/a", "y/b", "z/a"];
const NODE_ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 20, 0, 1);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// Host endpoints among them: what they forbid the node itself is tried, too.
const ALL: Themes = Themes { sets: true, services: true, hosts: true, staged: true };

pub struct Topology {
    pub agent: Agent,
    wires: BTreeMap<Ipv4Addr, Wire>,
    node: Netns,
    /// Index of each packet that is under way, by the number that it carries.
    under_way: HashMap<u32, usize>,
    next: u32,
    seen: BTreeSet<usize>,
}

fn address(pod: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 65, 0, 2 + pod as u8)
}

fn key(pod: usize) -> PodKey {
    generate::key(PODS[pod])
}

fn local(pod: usize) -> LocalEndpoint {
    LocalEndpoint {
        container_id: format!("container-{pod}"),
        interface: host_interface_name("cali", &key(pod)),
        pod: key(pod),
        addresses: vec![address(pod).into()],
        mac: [2, 0, 0, 0, 0, pod as u8],
    }
}

impl Topology {
    pub fn new(way: Way) -> Self {
        let (node, outside) = (new_netns().unwrap(), new_netns().unwrap());
        let mut wires = BTreeMap::new();
        wires.insert(OUTSIDE, outside);
        node.run(|| {
            ip("link set lo up");
            kernel_linux::sysctl::write("net/ipv4/ip_forward", "1")
        })
        .unwrap();
        uplink(&node, &wires[&OUTSIDE]);
        for number in 0..PODS.len() {
            wires.insert(address(number), pod_namespace(&node, number));
        }
        let mut agent = Agent::new(same(&node), way).unwrap();
        agent.set_host_links([("eth0".to_owned(), BTreeSet::from([IpAddr::V4(NODE_ADDRESS)]))].into());
        (0..PODS.len()).for_each(|number| agent.add_local(local(number)));
        wires.insert(NODE_ADDRESS, same(&node));
        let wires = wires.into_iter().map(|(own, netns)| (own, Wire::open(&netns, own).unwrap())).collect();
        Self { agent, wires, node, under_way: HashMap::new(), next: 1, seen: BTreeSet::new() }
    }

    /// What a host endpoint finds its interface by.
    pub fn links(state: &mut State) {
        let own = vec![IpAddr::V4(NODE_ADDRESS)];
        state.set_links(NODE.into(), [("eth0".to_owned(), own)].into());
    }

    pub fn first_updates(&self) -> Vec<Update> {
        let mut random = Random::new(0);
        let namespaces = ["x", "y", "z"];
        let mut updates: Vec<Update> = namespaces
            .iter()
            .map(|name| Update::Namespace((*name).to_owned(), Some(Labels::new())))
            .collect();
        updates.extend((0..PODS.len()).map(|number| pod(&mut random, number)));
        updates
    }

    /// What differs in the next state.
    pub fn changes(&self, random: &mut Random) -> Vec<Update> {
        let mut changes = Vec::new();
        for _ in 0..1 + random.below(4) {
            changes.push(match random.below(12) {
                0 | 1 => {
                    let number = random.below(PODS.len());
                    pod(random, number)
                }
                2 => {
                    let labels = (!random.once_in(6)).then(|| generate::labels(random));
                    Update::Namespace(random.pick(&["x", "y", "z"]).to_owned(), labels)
                }
                3 => generate::tier(random),
                4 | 5 => Update::Policy(generate::policy_key(random, ALL), None),
                6..=8 => generate::special(random, ALL).unwrap_or_else(|| generate::policy(random, ALL)),
                _ => generate::policy(random, ALL),
            });
        }
        changes
    }

    /// Packets of different connections.
    pub fn packets(&self, random: &mut Random, count: usize) -> Vec<Packet> {
        let mut connections = HashSet::new();
        let mut packets = Vec::new();
        while packets.len() < count {
            let (from, to) = (side(random), side(random));
            let is_pod = |side: &Side| matches!(side.place, Place::Pod(_));
            if from.place == to.place || !(is_pod(&from) || is_pod(&to) || random.once_in(2)) {
                continue;
            }
            let protocol = random.pick(&PROTOCOLS);
            let has_ports = matches!(protocol, Protocol::TCP | Protocol::UDP);
            let port = if has_ports { random.pick(&[53, 80, 80, 81, 200, 1000, 4789]) } else { 0 };
            let source_port = if has_ports { random.pick(&[80, 53, 40_000, 40_001]) } else { 0 };
            let icmp = (protocol == Protocol::ICMP).then(|| (8, random.pick(&[0, 1])));
            let (a, b) = ((from.address, source_port), (to.address, port));
            // Neither the same connection again, nor what looks like its answer.
            if protocol != Protocol::ICMP
                && (connections.contains(&(protocol, b, a)) || !connections.insert((protocol, a, b)))
            {
                continue;
            }
            packets.push(Packet { source_port, icmp, ..Packet::new(from, to, protocol, port) });
        }
        packets
    }

    pub fn send(&mut self, packets: &[Packet]) {
        for (index, packet) in packets.iter().enumerate() {
            let IpAddr::V4(from) = packet.from.address else { panic!("only IPv4 is sent") };
            self.under_way.insert(self.next, index);
            self.wires[&from].send(packet, self.next);
            self.next += 1;
        }
    }

    /// The packets that arrived where they were sent to.
    pub fn arrived(&mut self) -> &BTreeSet<usize> {
        for wire in self.wires.values() {
            let numbers = wire.receive();
            self.seen.extend(numbers.iter().filter_map(|number| self.under_way.get(number)));
        }
        &self.seen
    }

    pub fn clear(&mut self) {
        self.under_way.clear();
        self.seen.clear();
    }

    /// Every packet is the first of its connection.
    pub fn forget_connections(&self) {
        let addresses: BTreeSet<IpAddr> = self.wires.keys().copied().map(IpAddr::V4).collect();
        self.node.run(|| Conntrack::open()?.flush(&addresses)).unwrap();
    }
}

fn same(netns: &Netns) -> Netns {
    use std::os::fd::{AsFd, AsRawFd};
    let copy = netns.as_fd().try_clone_to_owned().unwrap();
    Netns::open(format!("/proc/self/fd/{}", copy.as_raw_fd())).unwrap()
}

fn side(random: &mut Random) -> Side {
    let (place, address) = match random.below(8) {
        0 => (Place::Outside, OUTSIDE),
        1 => (Place::Node(NODE.into()), NODE_ADDRESS),
        _ => {
            let number = random.below(PODS.len());
            (Place::Pod(key(number)), address(number))
        }
    };
    Side { link: Some("eth0".into()), ..Side::new(place, address.into()) }
}

fn pod(random: &mut Random, number: usize) -> Update {
    let port = |name: &str, protocol, port| EndpointPort { name: name.to_owned(), protocol, port };
    let ports = vec![port("web", Protocol::TCP, random.pick(&[80, 81])), port("dns", Protocol::UDP, 53)];
    let pod = Pod {
        key: key(number),
        uid: PODS[number].to_owned(),
        node: Some(NODE.into()),
        addresses: vec![address(number).into()],
        labels: generate::labels(random),
        ports,
        service_account: Some(random.pick(&["default", "robot"]).to_owned()),
        host_network: false,
        annotations: Labels::new(),
    };
    Update::Pod(key(number), Some(pod))
}

/// `eth0` of the node and, at its other end, a host with an address that nobody in the cluster has.
fn uplink(node: &Netns, outside: &Netns) {
    let link = PodLink {
        host_name: "eth0".to_owned(),
        alias: "uplink".to_owned(),
        pod_name: "eth0".to_owned(),
        pod_mac: None,
        mtu: 1500,
        queues: 1,
        ipv6: false,
    };
    node.run(|| {
        Rtnl::open()?.create_pod_link(&link, outside)?;
        ip("addr add 172.20.0.1/24 dev eth0");
        ip("route add default via 172.20.0.254");
        Ok(())
    })
    .unwrap();
    outside
        .run(|| {
            ip("link set lo up");
            ip("addr add 172.20.0.254/24 dev eth0");
            ip("addr add 198.51.100.7/32 dev lo");
            ip("link set eth0 up");
            ip("route add 10.65.0.0/16 via 172.20.0.1");
            Ok(())
        })
        .unwrap();
}

fn pod_namespace(node: &Netns, number: usize) -> Netns {
    let netns = new_netns().unwrap();
    let local = local(number);
    let link = PodLink {
        host_name: local.interface.clone(),
        alias: local.container_id.clone(),
        pod_name: "eth0".to_owned(),
        pod_mac: Some(local.mac),
        mtu: 1500,
        queues: 1,
        ipv6: false,
    };
    node.run(|| {
        Rtnl::open()?.create_pod_link(&link, &netns)?;
        let forwarding = format!("net/ipv4/conf/{}/forwarding", local.interface);
        kernel_linux::sysctl::write(&forwarding, "1")
    })
    .unwrap();
    let interface = PodInterface {
        name: "eth0".to_owned(),
        addresses: local.addresses.clone(),
        gateway_mac: HOST_MAC,
        forwarding: false,
    };
    configure_pod(&netns, &interface).unwrap();
    node.run(|| {
        let (own, link) = (local.addresses[0], &local.interface);
        ip(&format!("route replace {own} dev {link} metric 1024"));
        let mac = local.mac.map(|byte| format!("{byte:02x}")).join(":");
        ip(&format!("neigh replace {own} dev {link} lladdr {mac}"));
        Ok(())
    })
    .unwrap();
    netns
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("the Debian package iproute2");
    assert!(status.success(), "ip {arguments}");
}
