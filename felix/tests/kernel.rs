//! Calculation, renderer, dataplane and the real kernel's drivers, in a network namespace of the test's own that
//! vanishes with the test's thread. Needs root, and the Debian packages iproute2 and iptables.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::BTreeSet;
use std::io;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use felix_calc::Calc;
use felix_dataplane::{ClusterDrivers, Dataplane, Drivers, EndpointState, Ports, WireguardDrivers};
use felix_render::{RenderSettings, Renderer};
use kernel::{IpSetPort as _, PROTO_FELIX};
use kernel_linux::{
    Backend, FdbDriver, IpSetDriver, IptablesTools, NeighbourDriver, NftablesDriver, RouteDriver, RouteOwner,
    Rtnl, SysctlDriver, TunnelDriver, VxlanDriver, WireguardDriver, WireguardPeerDriver,
};
use model::{
    Action, Cidr, Family, Labels, LocalEndpoint, NodeName, Pod, PodKey, Policy, PolicyKey, PolicyKind, Rule,
    Update,
};

const POD: &str = "cali00000000web";

#[test]
fn a_pod_is_programmed_and_what_others_destroy_is_repaired() {
    let mut node = Node::new();
    node.apply();
    assert_eq!(node.dataplane.endpoint(POD), EndpointState::Programmed);
    let before = node.picture();
    assert!(before.contains("10.65.0.1 dev cali00000000web"), "{before}");
    assert!(before.contains("--match-set cali40s:"), "{before}");

    run(&node.iptables, &["-F", "cali-FORWARD"]);
    run("ip", &["route", "del", "10.65.0.1"]);
    run("ip", &["neigh", "del", "10.65.0.1", "dev", POD]);
    node.flush_sets();
    node.dataplane.resync(node.now);
    node.apply();

    assert_eq!(node.picture(), before);
    assert_eq!(node.dataplane.endpoint(POD), EndpointState::Programmed);
    assert_eq!(node.dataplane.status().failing, []);
}

#[test]
fn a_restart_changes_nothing_and_a_deleted_pod_leaves_nothing() {
    let mut first = Node::new();
    first.calc.set_local_endpoint(POD.to_owned(), None);
    first.apply();
    let without = first.picture();
    first.add_endpoint();
    first.apply();
    let with = first.picture();
    assert_ne!(with, without);

    let mut second = first.restart();
    second.apply();
    assert_eq!(second.picture(), with);

    second.calc.set_local_endpoint(POD.to_owned(), None);
    second.apply();
    assert_eq!(second.picture(), without);
}

#[test]
fn a_kill_at_any_moment_of_an_apply_is_mended_by_the_next_run() {
    let mut node = Node::new();
    node.apply();
    let whole = node.picture();
    for milliseconds in [20, 45, 70, 100, 130, 170] {
        let mut applier = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "comes_and_goes_until_it_is_killed", "--ignored"])
            .env(APPLIER, "1")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Any moment will do.
        std::thread::sleep(Duration::from_millis(milliseconds));
        applier.kill().unwrap();
        applier.wait().unwrap();

        let mut next = Node::here();
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            // A program that it had started may still end its work.
            next.dataplane.resync(next.now);
            next.apply();
            let picture = next.picture();
            if picture == whole {
                break;
            }
            assert!(Instant::now() < deadline, "killed after {milliseconds} ms:\n{picture}\nnot\n{whole}");
        }
        assert_eq!(next.dataplane.endpoint(POD), EndpointState::Programmed);
    }
}

#[test]
#[ignore = "another test runs it in its own network namespace, and kills it"]
fn comes_and_goes_until_it_is_killed() {
    if std::env::var_os(APPLIER).is_none() {
        return;
    }
    let mut node = Node::here();
    for _ in 0..10_000 {
        node.calc.set_local_endpoint(POD.to_owned(), None);
        node.apply();
        node.add_endpoint();
        node.apply();
    }
}

const APPLIER: &str = "FELIX_TEST_APPLIER";

struct Linux;

impl Ports for Linux {
    type IpSets = IpSetDriver;
    type Iptables = IptablesTools;
    type Routes = RouteDriver;
    type Neighbours = NeighbourDriver;
    type Sysctls = SysctlDriver;
    type Tunnels = TunnelDriver;
    type Nftables = NftablesDriver;
    type Vxlans = VxlanDriver;
    type Fdb = FdbDriver;
    type WireguardLinks = WireguardDriver;
    type WireguardPeers = WireguardPeerDriver;

    fn routes_of_others(routes: &mut RouteDriver) -> io::Result<BTreeSet<Cidr>> {
        routes.of_others()
    }
}

/// A node with one pod and one policy, in a namespace of its own.
struct Node {
    calc: Calc,
    renderer: Renderer,
    dataplane: Dataplane<Linux>,
    iptables: String,
    now: Instant,
}

impl Node {
    fn new() -> Self {
        // SAFETY: a new network namespace for this thread alone; nothing else of the thread is shared anew.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
            .expect("tests of the kernel need root");
        run("ip", &["link", "set", "lo", "up"]);
        run("ip", &["link", "add", POD, "type", "veth", "peer", "name", "peer0"]);
        run("ip", &["link", "set", POD, "up"]);
        run("ip", &["link", "set", "peer0", "up"]);
        Self::here()
    }

    /// Over what the kernel holds.
    fn here() -> Self {
        let backend = Backend::detect().expect("iptables works; install the Debian package iptables");
        let interfaces = RouteOwner::Interface { prefix: "cali".to_owned(), except: Vec::new() };
        let drivers = Drivers {
            ip_sets: IpSetDriver::open().unwrap(),
            iptables: IptablesTools::new(backend, Family::V4).unwrap(),
            ip6tables: None,
            nftables: NftablesDriver::open(false).ok(),
            routes: RouteDriver::new(vec![interfaces]).unwrap(),
            neighbours: NeighbourDriver::new(vec!["cali".to_owned()]).unwrap(),
            sysctls: SysctlDriver::new(),
            tunnels: TunnelDriver::new("tunl0").unwrap(),
            cluster: ClusterDrivers {
                vxlans: VxlanDriver::new(&["vxlan.calico"]).unwrap(),
                fdb: FdbDriver::new(&["vxlan.calico"]).unwrap(),
                neighbours: NeighbourDriver::new(vec!["vxlan.calico".to_owned()]).unwrap(),
                routes: RouteDriver::new(vec![RouteOwner::ProtocolElsewhere {
                    protocol: PROTO_FELIX,
                    prefix: "cali".to_owned(),
                }])
                .unwrap(),
                wireguard: WireguardDrivers {
                    links: WireguardDriver::new().unwrap(),
                    peers: WireguardPeerDriver::new().unwrap(),
                },
            },
        };
        let now = Instant::now();
        let mut node = Self {
            calc: Calc::new(NodeName::from("n1")),
            renderer: Renderer::new(RenderSettings {
                ipv6: false,
                random_fully: true,
                ipip: false,
                ..RenderSettings::default()
            }),
            dataplane: Dataplane::new(drivers, now),
            iptables: format!("iptables-{backend}"),
            now,
        };
        node.calc.apply(Update::Namespace("default".to_owned(), Some(Labels::new())));
        node.calc.apply(Update::Pod(PodKey::new("default", "web"), Some(web())));
        let policy = policy();
        node.calc.apply(Update::Policy(policy.key.clone(), Some(Box::new(policy))));
        node.add_endpoint();
        node.calc.apply(Update::InSync);
        node
    }

    fn add_endpoint(&mut self) {
        let endpoint = LocalEndpoint {
            container_id: "c1".to_owned(),
            pod: PodKey::new("default", "web"),
            interface: POD.to_owned(),
            addresses: vec!["10.65.0.1".parse().unwrap()],
            mac: [2, 0, 0, 0, 0, 1],
        };
        self.calc.set_local_endpoint(POD.to_owned(), Some(endpoint));
    }

    fn restart(self) -> Self {
        drop(self);
        Self::here()
    }

    /// Applies until nothing is due within the next seconds.
    fn apply(&mut self) {
        for change in self.calc.flush() {
            self.renderer.apply(change);
        }
        self.dataplane.want(self.renderer.flush());
        for _ in 0..20 {
            self.dataplane.apply(self.now, |_| {});
            match self.dataplane.poll_timeout() {
                Some(due) if due <= self.now + Duration::from_secs(10) => self.now = self.now.max(due),
                _ => return,
            }
        }
        panic!("it never comes to rest: {:?}", self.dataplane.status());
    }

    fn flush_sets(&self) {
        let sets = IpSetDriver::open().unwrap().list().unwrap();
        assert!(!sets.is_empty());
        sets.keys().for_each(|name| _ = run("ipset", &["flush", name.as_str()]));
    }

    /// Rules, routes, neighbours and sets, without counters.
    fn picture(&self) -> String {
        let rules = ["raw", "mangle", "nat", "filter"].map(|table| run(&self.iptables, &["-t", table, "-S"]));
        let routes = run("ip", &["route"]);
        let neighbours = run("ip", &["neigh", "show", "nud", "permanent"]);
        let sets = IpSetDriver::open().unwrap().list().unwrap();
        let links: Vec<_> =
            Rtnl::open().unwrap().links().unwrap().into_iter().map(|link| link.name).collect();
        format!("{}\n{routes}\n{neighbours}\n{sets:#?}\n{links:?}", rules.join("\n"))
    }
}

fn web() -> Pod {
    Pod {
        key: PodKey::new("default", "web"),
        uid: "u".to_owned(),
        node: Some(NodeName::from("n1")),
        addresses: vec!["10.65.0.1".parse().unwrap()],
        labels: Labels::from([("app".to_owned(), "web".to_owned())]),
        ports: Vec::new(),
        service_account: None,
        host_network: false,
        annotations: Labels::new(),
    }
}

/// The pod takes nothing but what comes from pods like itself.
fn policy() -> Policy {
    let kind = PolicyKind::KubernetesNetworkPolicy;
    let selector = || "app == \"web\"".parse().unwrap();
    let mut rule = Rule::any(Action::Allow);
    rule.source.selector = Some(selector());
    Policy {
        tier: "default".into(),
        order: Some(1000.0),
        applies_to_ingress: true,
        applies_to_egress: false,
        ingress: vec![rule],
        egress: Vec::new(),
        ..Policy::new(PolicyKey { kind, namespace: Some("default".into()), name: "web".into() }, selector())
    }
}

/// Runs a program in the thread's namespace and returns what it prints.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| {
        panic!("{program}: {error}; install the Debian packages iproute2 and iptables")
    });
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}
