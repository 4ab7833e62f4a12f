//! What is taken back, and what is not, over a node and a cluster that are told what to say.

use std::collections::BTreeSet;

use ipam::{Settings, allocate, new_block};
use model::{AllocationAttributes, Block, BlockAffinity, NodeName, Pod};
use parking_lot::Mutex;

use super::*;

const GRACE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn an_address_that_nobody_uses_is_taken_back_after_the_grace_period() {
    let mut node = Node::new();
    node.give("net.lost", "gone", "u1");

    node.turns().await;

    assert_eq!(node.ground().taken, ["net.lost"]);
    assert_eq!(node.reclaimer.metrics.ipam_reclaimed.get(), 1);
}

#[tokio::test]
async fn any_evidence_keeps_an_address() {
    let mut node = Node::new();
    for handle in ["net.link", "net.add", "net.pod", "net.new"] {
        node.give(handle, handle.trim_start_matches("net."), "u1");
    }
    node.ground().links.insert("cali1".to_owned(), "link".to_owned());
    node.ground().moving.insert("net.add".to_owned());
    let address = node.address_of("net.pod");
    node.watch(&Update::Pod(key("pod"), Some(pod("pod", "u1", vec![address]))));
    // The watch has not told of it, the API server does; it has no address yet.
    node.ground().pods.insert(key("new"), present("u1", &[]));

    node.turns().await;

    assert_eq!(node.ground().taken, [""; 0]);
}

#[tokio::test]
async fn a_container_of_another_plugin_is_there_as_long_as_its_network_namespace() {
    let mut node = Node::new();
    node.ground().namespaces.insert("/run/netns/c1".to_owned());
    node.give_in("net.c1", "", "", "/run/netns/c1");
    node.give_in("net.c2", "", "", "/run/netns/c2");

    node.turns().await;

    assert_eq!(node.ground().taken, ["net.c2"]);
}

#[tokio::test]
async fn the_clusters_settings_say_how_long_where_this_node_does_not() {
    let mut node = Node::new();
    (node.reclaimer.asks_grace, node.reclaimer.grace) = (true, super::GRACE);
    node.give("net.lost", "gone", "u1");
    node.ground().said = Some(Duration::ZERO);

    for hours in 0..5 {
        node.reclaimer.turn(node.start + hours * Duration::from_secs(3600)).await;
    }
    assert_eq!(node.ground().taken, [""; 0], "switched off");
    node.ground().said = Some(Duration::from_secs(900));
    node.reclaimer.turn(node.start + Duration::from_secs(5 * 3600)).await;

    assert_eq!(node.ground().taken, ["net.lost"]);
}

#[tokio::test]
async fn nothing_is_taken_back_while_nothing_can_be_seen_or_the_datastore_is_not_ready() {
    let mut node = Node::new();
    node.give("net.lost", "gone", "u1");
    node.ground().is_blind = true;
    node.turns().await;
    node.ground().is_blind = false;
    node.ground().is_locked = true;
    node.turns().await;
    assert_eq!(node.ground().taken, [""; 0]);

    node.ground().is_locked = false;
    node.turns().await;

    assert_eq!(node.ground().taken, ["net.lost"]);
}

#[tokio::test]
async fn an_endpoint_without_interface_and_pod_is_dropped_and_a_link_without_endpoint_too() {
    let mut node = Node::new();
    node.ground().endpoints = vec![endpoint("c1", "cali1"), endpoint("c2", "cali2"), endpoint("c3", "cali3")];
    node.ground().links.insert("cali2".to_owned(), "c2".to_owned());
    node.ground().links.insert("cali9".to_owned(), "c9".to_owned());
    node.ground().pods.insert(key("c3"), present("u", &[]));

    node.turns().await;

    assert_eq!(node.ground().dropped, ["c1"]);
    assert_eq!(node.ground().retired, ["cali9"]);
}

#[tokio::test]
async fn a_link_whose_pod_is_still_starting_stays() {
    let mut node = Node::new();
    node.give("net.c9", "slow", "u1");
    node.ground().links.insert("cali9".to_owned(), "c9".to_owned());
    node.ground().pods.insert(key("slow"), present("u1", &[]));

    node.turns().await;

    assert_eq!(node.ground().retired, [""; 0]);
}

#[tokio::test]
async fn an_empty_block_goes_when_there_is_another() {
    let mut node = Node::new();
    node.give("net.used", "used", "u1");
    node.ground().moving.insert("net.used".to_owned());
    let empty = new_block("10.0.0.64/26".parse().unwrap(), "n1".into(), 1);
    node.watch(&Update::Block(empty.cidr, Some(Box::new(empty.clone()))));

    node.turns().await;

    assert_eq!(node.ground().given_up, [empty.cidr]);
}

#[tokio::test]
async fn a_node_that_is_asked_says_that_it_lives_unless_there_is_nothing_to_say_it_for() {
    let mut node = Node::new();
    let question = ipam::gc::question(&"n1".into());
    let ask = Update::BlockAffinity("n1".into(), question.cidr, Some(question.clone()));
    assert!(observe(&node.reclaimer.watched, &ask));

    node.reclaimer.turn(node.start).await;
    assert_eq!(node.ground().answers, 0, "no Node, no pod");
    node.ground().links.insert("cali1".to_owned(), "c1".to_owned());
    node.reclaimer.turn(node.start).await;

    assert_eq!(node.ground().answers, 1);
    let others = BlockAffinity { node: "n2".into(), ..question };
    let mut other = Node::new();
    other.watch(&Update::BlockAffinity("n2".into(), others.cidr, Some(others)));
    other.ground().links.insert("cali1".to_owned(), "c1".to_owned());
    other.reclaimer.turn(other.start).await;
    assert_eq!(other.ground().answers, 0);
}

#[derive(Default)]
struct Script {
    moving: BTreeSet<String>,
    links: BTreeMap<String, String>,
    endpoints: Vec<StoredEndpoint>,
    pods: BTreeMap<PodKey, PodAnswer>,
    namespaces: BTreeSet<String>,
    /// What the cluster's settings say.
    said: Option<Duration>,
    is_blind: bool,
    is_locked: bool,
    taken: Vec<String>,
    given_up: Vec<Cidr>,
    answers: usize,
    dropped: Vec<String>,
    retired: Vec<String>,
}

struct Fake(Mutex<Script>);

impl Ground for Fake {
    fn look(&self) -> io::Result<View> {
        let script = self.0.lock();
        if script.is_blind {
            return Err(io::Error::other("no netlink"));
        }
        let mut truth = OwnTruth { handles: script.moving.clone(), ..OwnTruth::default() };
        truth.containers = script.links.values().cloned().collect();
        truth.handles.extend(script.endpoints.iter().map(handle_of));
        Ok(View { truth, endpoints: script.endpoints.clone(), links: script.links.clone() })
    }

    fn is_netns(&self, netns: &str) -> bool {
        self.0.lock().namespaces.contains(netns)
    }

    async fn leak_grace(&self) -> Result<Option<Duration>> {
        Ok(self.0.lock().said)
    }

    async fn pod(&self, key: &PodKey) -> Result<PodAnswer> {
        Ok(self.0.lock().pods.get(key).cloned().unwrap_or(PodAnswer::Absent))
    }

    async fn is_ready(&self) -> Result<bool> {
        Ok(!self.0.lock().is_locked)
    }

    async fn take_back(&self, handle: &str, leaks: &[Leak], _: u64) -> Result<usize> {
        self.0.lock().taken.push(handle.to_owned());
        Ok(leaks.len())
    }

    async fn release_block(&self, cidr: Cidr) -> Result<()> {
        self.0.lock().given_up.push(cidr);
        Ok(())
    }

    async fn answer(&self) -> Result<()> {
        self.0.lock().answers += 1;
        Ok(())
    }

    fn take_down(&self, endpoint: &StoredEndpoint) {
        self.0.lock().dropped.push(endpoint.container_id.clone());
    }

    fn retire(&self, link: &str) -> io::Result<()> {
        self.0.lock().retired.push(link.to_owned());
        Ok(())
    }
}

struct Node {
    reclaimer: Reclaimer<Fake>,
    block: Block,
    start: Instant,
}

impl Node {
    fn new() -> Self {
        let watched = Arc::new(Mutex::new(Watched::new(NodeName::from("n1"))));
        let metrics = Arc::new(Metrics::new("n1"));
        let reclaimer = Reclaimer::new(Fake(Mutex::default()), watched, metrics, Some(GRACE));
        let block = new_block("10.0.0.0/26".parse().unwrap(), "n1".into(), 1);
        Self { reclaimer, block, start: Instant::now() }
    }

    fn ground(&self) -> parking_lot::MutexGuard<'_, Script> {
        self.reclaimer.ground.0.lock()
    }

    fn watch(&self, update: &Update) {
        observe(&self.reclaimer.watched, update);
    }

    fn give(&mut self, handle: &str, pod: &str, uid: &str) {
        self.give_in(handle, pod, uid, "");
    }

    fn give_in(&mut self, handle: &str, pod: &str, uid: &str, netns: &str) {
        let secondary =
            [("node", "n1"), ("namespace", "default"), ("pod", pod), ("uid", uid), ("netns", netns)];
        let secondary = secondary.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let handle = Some(handle.to_owned());
        let attributes = AllocationAttributes { handle, secondary, released_at: None };
        self.block = allocate(&self.block, 1, &attributes, &Settings::default());
        self.watch(&Update::Block(self.block.cidr, Some(Box::new(self.block.clone()))));
    }

    fn address_of(&self, handle: &str) -> std::net::IpAddr {
        ipam::held_by(&self.block, handle)[0]
    }

    /// Looks until the grace period is over.
    async fn turns(&mut self) {
        for part in 0..3 {
            self.reclaimer.turn(self.start + part * GRACE / 2).await;
        }
        self.start += 2 * GRACE;
    }
}

fn key(name: &str) -> PodKey {
    PodKey::new("default", name)
}

fn present(uid: &str, addresses: &[std::net::IpAddr]) -> PodAnswer {
    PodAnswer::Present {
        uid: uid.to_owned(),
        node: Some("n1".into()),
        addresses: addresses.to_vec(),
        is_finished: false,
    }
}

fn pod(name: &str, uid: &str, addresses: Vec<std::net::IpAddr>) -> Pod {
    Pod {
        key: key(name),
        uid: uid.to_owned(),
        node: Some("n1".into()),
        addresses,
        labels: model::Labels::new(),
        ports: Vec::new(),
        service_account: None,
        host_network: false,
        annotations: model::Labels::new(),
    }
}

fn endpoint(container: &str, link: &str) -> StoredEndpoint {
    StoredEndpoint {
        container_id: container.to_owned(),
        interface: "eth0".to_owned(),
        network: "net".to_owned(),
        namespace: "default".to_owned(),
        pod: container.to_owned(),
        uid: "u".to_owned(),
        host_interface: link.to_owned(),
        addresses: Vec::new(),
        mac: [2, 0, 0, 0, 0, 1],
    }
}
