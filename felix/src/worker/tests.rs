//! The dataplane's thread over a kernel in memory: what it takes from the cluster while it runs.

use clap::Parser;
use felix_dataplane::{ClusterDrivers, Drivers, WireguardDrivers};
use felix_render::RenderSettings;
use kernel::fake::{
    FakeFdb, FakeIpSets, FakeIptables, FakeKernel, FakeNeighbours, FakeNft, FakeRoutes, FakeSysctls,
    FakeTunnels, FakeVxlans, FakeWireguardLinks, FakeWireguardPeers,
};
use kernel::{IptablesTable, PROTO_BIRD, PROTO_FELIX, Route};
use kernel_linux::Backend;
use model::{ChainInsertMode, Cidr, EndpointToHostAction, Family, NftablesMode};

use super::*;
use crate::metrics::{Level, Metrics};
use crate::rule_mode::RuleMode;
use crate::settings::{Arguments, Settings};

#[test]
fn a_changed_configuration_is_in_force_at_once() {
    let mut node = Node::new(Overrides::default());
    node.update(Update::InSync);
    assert_eq!(node.at_front("FORWARD"), "--jump cali-FORWARD");
    assert_eq!(node.to_host(), "--jump ACCEPT");

    node.update(Update::FelixConfiguration(Some(Box::new(FelixConfiguration {
        chain_insert_mode: ChainInsertMode::Append,
        endpoint_to_host_action: EndpointToHostAction::Drop,
        ..FelixConfiguration::default()
    }))));

    assert_eq!(node.at_front("FORWARD"), "-s 192.0.2.7 -j DROP");
    assert_eq!(node.to_host(), "--jump DROP");
    assert_eq!(node.configurations.borrow().chain_insert_mode, ChainInsertMode::Append);

    node.update(Update::FelixConfiguration(None));
    assert_eq!(node.at_front("FORWARD"), "--jump cali-FORWARD");
    assert_eq!(node.to_host(), "--jump ACCEPT");
}

#[test]
fn the_environment_stays_above_a_changed_configuration() {
    let environment = [("FELIX_CHAININSERTMODE".to_owned(), "append".to_owned())];
    let (settings, _) = Settings::new(Arguments::parse_from(["felix"]), environment, "", "n1");
    let mut node = Node::new(settings.overrides);
    node.update(Update::InSync);

    node.update(Update::FelixConfiguration(Some(Box::new(FelixConfiguration {
        chain_insert_mode: ChainInsertMode::Insert,
        ..FelixConfiguration::default()
    }))));

    assert_eq!(node.at_front("FORWARD"), "-s 192.0.2.7 -j DROP");
}

#[test]
fn policy_moves_to_nftables_with_kube_proxy_and_back_with_the_setting() {
    let mut node = Node::new(Overrides::default());
    node.update(Update::InSync);
    let is_in_iptables =
        |node: &Node| node.kernel.chain(Family::V4, IptablesTable::Filter, "cali-FORWARD").is_some();
    let is_in_nftables = |node: &Node| node.kernel.state().nft.contains_key(&Family::V4);
    assert!(is_in_iptables(&node) && !is_in_nftables(&node));

    node.worker.handle(Command::KubeProxy { nftables: true }, Instant::now());
    node.worker.apply();
    assert!(is_in_nftables(&node) && !is_in_iptables(&node));

    node.update(Update::FelixConfiguration(Some(Box::new(FelixConfiguration {
        nftables_mode: NftablesMode::Disabled,
        ..FelixConfiguration::default()
    }))));
    assert!(is_in_iptables(&node) && !is_in_nftables(&node));
}

fn is_of_pod(route: &Route) -> bool {
    ![PROTO_FELIX, PROTO_BIRD].contains(&route.protocol)
}

fn is_vxlan(interface: &str) -> bool {
    interface.starts_with("vxlan")
}

pub(crate) struct Fake;

impl Ports for Fake {
    type IpSets = FakeIpSets;
    type Iptables = FakeIptables;
    type Routes = FakeRoutes;
    type Neighbours = FakeNeighbours;
    type Sysctls = FakeSysctls;
    type Tunnels = FakeTunnels;
    type Nftables = FakeNft;
    type Vxlans = FakeVxlans;
    type Fdb = FakeFdb;
    type WireguardLinks = FakeWireguardLinks;
    type WireguardPeers = FakeWireguardPeers;

    fn routes_of_others(routes: &mut FakeRoutes) -> io::Result<BTreeSet<Cidr>> {
        routes.of_others()
    }
}

/// A node on which somebody else has a rule in FORWARD.
pub(crate) struct Node {
    pub(crate) kernel: FakeKernel,
    pub(crate) worker: Worker<Fake>,
    configurations: watch::Receiver<Arc<FelixConfiguration>>,
}

impl Node {
    pub(crate) fn new(overrides: Overrides) -> Self {
        let kernel = FakeKernel::new();
        let foreign = "-s 192.0.2.7 -j DROP".to_owned();
        let filter = (Family::V4, IptablesTable::Filter);
        let mut state = kernel.state();
        let rules = &mut state.chains.get_mut(&filter).unwrap().rules;
        rules.entry("FORWARD".to_owned()).or_default().push(foreign);
        drop(state);
        let drivers = Drivers {
            ip_sets: kernel.ip_sets(),
            iptables: kernel.iptables(Family::V4),
            ip6tables: None,
            nftables: Some(kernel.nft()),
            routes: kernel.routes_where(is_of_pod),
            neighbours: kernel.neighbours_of(|name| !is_vxlan(name)),
            sysctls: kernel.sysctls(),
            tunnels: kernel.tunnels(),
            cluster: ClusterDrivers {
                vxlans: kernel.vxlans(),
                fdb: kernel.fdb(),
                neighbours: kernel.neighbours_of(is_vxlan),
                routes: kernel.routes_where(|route| route.protocol == PROTO_FELIX),
                wireguard: WireguardDrivers {
                    links: kernel.wireguard_links(),
                    peers: kernel.wireguard_peers(),
                },
            },
        };
        let (configuration, configurations) = watch::channel(Arc::default());
        let settings =
            RenderSettings { ipv6: false, random_fully: true, ipip: false, ..RenderSettings::default() };
        let backends = {
            let kernel = kernel.clone();
            let open = move |_, family| Ok(kernel.iptables(family));
            Backends::new(Backend::Nft, vec![Family::V4], Box::new(open))
        };
        let worker = Worker::new(Parts {
            node: NodeName::from("n1"),
            renderer: Renderer::new(settings),
            dataplane: Dataplane::new(drivers, Instant::now()),
            overrides,
            endpoints: Vec::new(),
            links: Box::new(|| Ok(Vec::new())),
            connections: Connections::new().0,
            backends,
            strict: Strict::new().0,
            shaper: Shaper::new(Box::new(|_, _| Ok(Some(1)))),
            pod_mtus: PodMtus::new(
                Box::new(|_, _, _| Vec::new()),
                Box::new(|_| {}),
                BTreeSet::new(),
                Level::default(),
            ),
            policies: PolicyStatus::new().0,
            rule_mode: RuleMode::new(false, true),
            health: Health::new(),
            journal: Journal::new(Arc::new(Metrics::new("n1"))),
            published: Published {
                links: watch::Sender::default(),
                configuration,
                pod_settings: Box::new(|_| {}),
                wireguard_keys: watch::Sender::default(),
            },
        });
        Self { kernel, worker, configurations }
    }

    pub(crate) fn update(&mut self, update: Update) {
        let now = Instant::now();
        self.worker.handle(Command::Updates(vec![update], now), now);
        if self.worker.in_sync {
            self.worker.apply();
        }
    }

    /// The first rule of a chain of the filter table, without our hash.
    fn at_front(&self, chain: &str) -> String {
        let rules = self.kernel.chain(Family::V4, IptablesTable::Filter, chain).unwrap();
        rules[0].rsplit_once("\" ").map_or(rules[0].clone(), |(_, rule)| rule.to_owned())
    }

    /// What becomes of a packet from a pod to this node that policy lets pass.
    fn to_host(&self) -> String {
        let chain = "cali-wl-to-host";
        let rules = self.kernel.chain(Family::V4, IptablesTable::Filter, chain).unwrap();
        let last = rules.last().unwrap();
        last.rsplit_once("\" ").map_or(last.clone(), |(_, rule)| rule.to_owned())
    }
}
