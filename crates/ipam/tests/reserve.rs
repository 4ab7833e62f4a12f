//! What a node holds ready, one story each.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::net::IpAddr;

use common::{NOW, Store, finish, give_back, pool, request, snapshot};
use ipam::{
    AssignError, Draw, Key, Lost, Object, READY, Request, Reserve, Returned, Snapshot, Write, held_by,
};
use model::{AllowedUse, Block, Cidr, IpPool, Labels};

const SECOND: u64 = 1_000_000_000;

/// A node with a store of its own.
struct Node {
    store: Store,
    snapshot: Snapshot,
    reserve: Reserve,
}

impl Node {
    /// That has given one address to a pod named `first`, and has had its first upkeep.
    fn new(pools: &[IpPool]) -> Self {
        let mut node = Self {
            store: Store::default(),
            snapshot: snapshot("n1", pools),
            reserve: Reserve::new("n1".into()),
        };
        node.assign(&request("first")).unwrap();
        node.keep_up();
        node.store.writes.clear();
        node.store.reads = 0;
        node
    }

    fn assign(&mut self, request: &Request) -> Result<Vec<IpAddr>, AssignError> {
        self.snapshot.begin();
        let result = finish(&mut self.store, &mut self.snapshot, request, NOW);
        self.tell();
        result
    }

    fn tell(&mut self) {
        self.snapshot.blocks().for_each(|block| self.reserve.saw(&block.value));
    }

    fn draw(&mut self, request: &Request) -> Option<Draw> {
        let draw = self.reserve.draw(request, &self.snapshot.settings)?;
        self.reserve.stored(&draw.handle);
        Some(draw)
    }

    fn keep_up(&mut self) -> ipam::Settled {
        self.keep_up_at(NOW)
    }

    fn keep_up_at(&mut self, now: u64) -> ipam::Settled {
        let settled = self.store.keep_up(&mut self.snapshot, &mut self.reserve, now);
        self.tell();
        settled
    }

    /// The process dies, and another one reads what is on disk.
    fn restart(&mut self, journal: Vec<Draw>, endpoints: Vec<Draw>) {
        self.snapshot = snapshot("n1", &self.snapshot.settings.pools.clone());
        self.store.load_own(&mut self.snapshot);
        self.reserve = Reserve::new("n1".into());
        self.reserve.restore(journal);
        self.reserve.restore_endpoints(endpoints);
        self.tell();
    }

    fn block(&self, address: IpAddr) -> &Block {
        self.store.blocks().find(|block| block.cidr.contains(address)).unwrap()
    }
}

fn one_pool() -> Vec<IpPool> {
    vec![pool("a", "10.0.0.0/24", 26)]
}

#[test]
fn thirty_pods_at_once_ask_nobody_and_become_one_write_of_their_block_behind_one_that_fills_up() {
    let mut node = Node::new(&one_pool());
    assert_eq!(node.reserve.ready(), 31, "half of what is left");

    let draws: Vec<Draw> = (0..30).map(|i| node.draw(&request(&format!("net.{i}"))).unwrap()).collect();
    assert_eq!((node.store.writes.len(), node.store.reads), (0, 0));
    let settled = node.keep_up();

    assert_eq!(settled.draws.len(), 30);
    let blocks = node.store.writes.iter().filter(|w| matches!(w, Write::Update(Object::Block(_), _))).count();
    let handles = node.store.writes.iter().filter(|w| matches!(w, Write::Create(Object::Handle(_)))).count();
    assert_eq!((blocks, handles), (2, 30));
    let is_update = |w: &&Write| matches!(w, Write::Update(Object::Block(_), _) | Write::Create(_));
    let first = node.store.writes.iter().find(is_update);
    assert!(matches!(first, Some(Write::Update(Object::Block(_), _))), "pods that come wait for no handle");
    for draw in &draws {
        assert_eq!(held_by(node.block(draw.addresses[0]), &draw.handle), draw.addresses);
    }
    assert!(node.reserve.ready() > 0 && node.reserve.draws().next().is_none());
}

#[test]
fn a_reserve_that_runs_low_is_filled_up_without_a_word_of_the_draws() {
    let mut node = Node::new(&one_pool());
    node.assign(&Request { ipv4: 60, ..request("crowd") }).unwrap();
    node.keep_up();
    assert!(!node.reserve.is_low());
    let draws: Vec<Draw> = (0..20).map(|i| node.draw(&request(&format!("net.{i}"))).unwrap()).collect();
    assert!(node.reserve.is_low());
    node.store.writes.clear();

    node.store.keep_up_by(ipam::fill_up, &mut node.snapshot, &mut node.reserve, NOW);
    node.tell();

    assert!(!node.reserve.is_low());
    assert_eq!((node.reserve.draws().count(), node.store.writes.len() <= 4), (20, true));
    let drawn: Vec<_> = draws.iter().flat_map(|draw| &draw.addresses).collect();
    assert!(node.reserve.ready_addresses().all(|ready| !drawn.contains(&&ready)), "drawn twice");
    node.keep_up();
    assert!(draws.iter().all(|draw| held_by(node.block(draw.addresses[0]), &draw.handle) == draw.addresses));
}

#[test]
fn asking_again_gives_the_same_whether_its_block_heard_of_it_or_not() {
    let mut node = Node::new(&one_pool());
    let first = node.draw(&request("net.1")).unwrap();

    assert_eq!(node.draw(&request("net.1")).unwrap(), first);
    assert_eq!(node.draw(&Request { ipv6: 1, ..request("net.1") }), None);
    node.keep_up();
    let ready = node.reserve.ready();
    (node.store.writes, node.store.reads) = (Vec::new(), 0);

    assert_eq!(node.draw(&request("net.1")).unwrap(), first);
    assert_eq!(node.draw(&Request { ipv6: 1, ..request("net.1") }), None, "it never had one");
    node.keep_up();
    assert_eq!((node.store.writes.len(), node.store.reads, node.reserve.ready()), (0, 1, ready));
    assert!(!node.reserve.has_draw("net.1"));
    // A journal that cannot be written makes nothing ready of what the block shows as the pod's.
    node.reserve.draw(&request("net.1"), &node.snapshot.settings).unwrap();
    node.reserve.undo("net.1");
    assert_eq!(node.reserve.ready(), ready);
    assert_eq!(node.assign(&request("net.1")).unwrap(), first.addresses);
}

#[test]
fn asking_again_after_somebody_freed_the_address_takes_it_back() {
    let mut node = Node::new(&one_pool());
    let first = node.draw(&request("net.1")).unwrap();
    node.keep_up();
    give_back(&mut node.store, &mut snapshot("n1", &one_pool()), "net.1");

    assert_eq!(node.draw(&request("net.1")).unwrap(), first, "as the node last saw it");
    node.keep_up();

    assert_eq!(held_by(node.block(first.addresses[0]), "net.1"), first.addresses);
}

#[test]
fn the_first_pod_of_a_node_and_of_a_namespace_with_a_pool_of_its_own_asks_nobody() {
    let mut pools =
        vec![pool("a", "10.0.0.0/20", 26), pool("b", "10.1.0.0/20", 26), pool("c", "10.2.0.0/20", 26)];
    pools[0].namespace_selector = "env == 'prod'".parse().unwrap();
    let mut node = Node {
        store: Store::default(),
        snapshot: snapshot("n1", &pools),
        reserve: Reserve::new("n1".into()),
    };

    node.keep_up();

    let blocks: Vec<Cidr> = node.store.blocks().map(|block| block.cidr).collect();
    assert_eq!(blocks.len(), 2, "none of c, which is next when b is full: {blocks:?}");
    let prod = Labels::from([("env".to_owned(), "prod".to_owned())]);
    let drawn = node.draw(&Request { namespace_labels: prod, ..request("net.1") }).unwrap();
    assert!(pools[0].cidr.contains(drawn.addresses[0]));
    assert!(pools[1].cidr.contains(node.draw(&request("net.2")).unwrap().addresses[0]));
}

#[test]
fn the_last_half_of_a_pool_is_for_nodes_that_have_pods() {
    let pools = one_pool();
    let mut store = Store::default();
    for name in ["n1", "n2", "n3"] {
        let mut node = Node { store, snapshot: snapshot(name, &pools), reserve: Reserve::new(name.into()) };
        node.keep_up();
        store = node.store;
    }

    assert_eq!(store.blocks().count(), 2);
}

#[test]
fn a_draw_follows_the_rules_of_pools() {
    let mut pools = vec![pool("a", "10.0.0.0/24", 26), pool("b", "10.1.0.0/24", 26)];
    pools[0].namespace_selector = "env == 'prod'".parse().unwrap();
    let mut node = Node::new(&pools);
    let prod = Labels::from([("env".to_owned(), "prod".to_owned())]);
    node.assign(&Request {
        namespace_labels: prod.clone(),
        ipv4_pools: vec!["a".to_owned()],
        ..request("x")
    })
    .unwrap();
    node.keep_up();
    let from = |node: &mut Node, request: Request| {
        let drawn = node.draw(&request)?.addresses[0];
        pools.iter().find(|pool| pool.cidr.contains(drawn)).map(|pool| pool.name.clone())
    };

    let asked = |handle: &str, pool: &str| Request { ipv4_pools: vec![pool.to_owned()], ..request(handle) };
    assert_eq!(from(&mut node, request("1")).as_deref(), Some("b"));
    assert_eq!(from(&mut node, Request { namespace_labels: prod, ..request("2") }).as_deref(), Some("a"));
    assert_eq!(from(&mut node, asked("3", "a")).as_deref(), Some("a"), "asked for by name");
    assert_eq!(from(&mut node, asked("4", "nowhere")), None);
    assert_eq!(from(&mut node, Request { ipv6: 1, ..request("5") }), None, "both families or neither");
    let tunnel = Request { ipv4: 1, ..Request::new("6", AllowedUse::Tunnel) };
    assert!(from(&mut node, tunnel).is_some());
    node.snapshot.settings.node_labels = Labels::new();
    node.snapshot.settings.pools[1].node_selector = "rack == 'r1'".parse().unwrap();
    assert_eq!(from(&mut node, request("7")), None, "the pool is no longer for this node");
    node.snapshot.settings.pools[1].disabled = true;
    assert_eq!(from(&mut node, asked("8", "b")), None, "the pool is disabled");
}

#[test]
fn a_closed_pool_gets_back_what_was_held_ready() {
    let mut node = Node::new(&one_pool());
    let pod = node.draw(&request("net.1")).unwrap().addresses[0];
    node.snapshot.settings.pools[0].disabled = true;

    node.keep_up();

    let block = node.block(pod);
    assert_eq!((block.allocated().count(), node.reserve.ready()), (2, 0));
    assert_eq!(node.store.get(&Key::Handle("ocicat-reserved-n1".to_owned())), None);
}

#[test]
fn both_families_are_drawn_together() {
    let pools = [pool("a", "10.0.0.0/24", 26), pool("b", "fd00::/64", 122)];
    let mut node = Node::new(&pools);
    node.assign(&Request { ipv6: 1, ..request("both") }).unwrap();
    node.keep_up();

    let draw = node.draw(&Request { ipv6: 1, ..request("net.1") }).unwrap();

    assert!(matches!(draw.addresses[..], [IpAddr::V4(_), IpAddr::V6(_)]), "{draw:?}");
    node.keep_up();
    let counted = |key: &str| match node.store.get(&Key::Handle(key.to_owned())) {
        Some(Object::Handle(handle)) => handle.blocks.len(),
        _ => 0,
    };
    assert_eq!(counted("net.1"), 2);
}

#[test]
fn pods_start_without_the_api_server_as_long_as_addresses_are_ready() {
    let mut node = Node::new(&one_pool());

    let started = (0..READY).map_while(|i| node.draw(&request(&format!("net.{i}")))).count();

    assert_eq!((started, node.store.reads), (31, 0));
    node.keep_up();
    assert_eq!(node.reserve.draws().count(), 0);
}

#[test]
fn a_pod_that_went_before_its_block_heard_of_it_leaves_a_rest_and_no_handle() {
    let mut node = Node::new(&one_pool());
    node.snapshot.settings.configuration.cooldown = 60;
    let draw = node.draw(&request("net.1")).unwrap();
    let from = NOW / SECOND;

    let Returned::Draw(released) = node.reserve.release("net.1", from) else { panic!("it is a draw") };
    assert_eq!(released.released_at, Some(from));
    let settled = node.keep_up();

    let resting: Vec<IpAddr> = node.block(draw.addresses[0]).resting().map(|(address, _)| address).collect();
    assert_eq!(resting, draw.addresses);
    assert_eq!(settled.next, Some((from + 60) * SECOND));
    assert_eq!(node.store.get(&Key::Handle("net.1".to_owned())), None);
    assert_eq!(node.reserve.release("net.1", from), Returned::Elsewhere);
    node.keep_up_at(NOW + 59 * SECOND);
    assert_eq!(node.block(draw.addresses[0]).resting().count(), 1);
    node.keep_up_at(NOW + 60 * SECOND);
    assert_eq!(node.block(draw.addresses[0]).resting().count(), 0);
    assert_eq!(node.block(draw.addresses[0]).unallocated.last(), Some(&1));
}

#[test]
fn a_restart_believes_the_journal_then_the_endpoints_and_takes_the_rest_as_ready() {
    let mut node = Node::new(&one_pool());
    let (first, second) = (node.draw(&request("net.1")).unwrap(), node.draw(&request("net.2")).unwrap());
    let lost = node.draw(&request("net.3")).unwrap();

    // The third was never told of: its ADD died before anything was on disk.
    node.restart(vec![first.clone()], vec![second.clone()]);

    assert_eq!(node.reserve.ready(), 29);
    assert_eq!(node.draw(&request("net.4")).unwrap().addresses, lost.addresses);
    node.keep_up();
    for draw in [first, second] {
        assert_eq!(held_by(node.block(draw.addresses[0]), &draw.handle), draw.addresses);
    }
}

#[test]
fn the_reserve_gives_way_to_borrowers() {
    let pools = [pool("a", "10.0.0.0/28", 28)];
    let mut node = Node::new(&pools);
    let mut other = snapshot("n2", &pools);
    let mut borrowed = 0;
    for round in 0..8 {
        for i in 0..16 {
            other.begin();
            let result = finish(&mut node.store, &mut other, &request(&format!("other.{round}.{i}")), NOW);
            borrowed += usize::from(result.is_ok());
        }
        // What the node's watch tells it.
        let blocks: Vec<Block> = node.store.blocks().cloned().collect();
        blocks.iter().for_each(|block| node.reserve.saw(block));
        node.keep_up();
    }

    assert_eq!(borrowed, 15, "all but the node's first pod");
    assert_eq!(node.reserve.ready(), 0);
}

#[test]
fn a_further_block_is_claimed_before_the_last_one_is_full() {
    let mut node = Node::new(&one_pool());
    let many = Request { ipv4: 48, ..request("many") };
    node.assign(&Request { ipv4: 32, ..many }).unwrap();
    assert_eq!(node.store.blocks().count(), 1);
    let drawn = (0..17).filter_map(|i| node.draw(&request(&format!("net.{i}")))).count();

    node.keep_up();

    assert_eq!((drawn, node.store.blocks().count()), (17, 2));
    assert_eq!(node.reserve.ready(), READY);
}

#[test]
fn an_address_asked_for_by_number_may_be_one_that_is_ready() {
    let mut node = Node::new(&one_pool());
    let mut ready = node.reserve.ready_addresses();
    let (near, far) = (ready.next().unwrap(), ready.nth(3).unwrap());
    drop(ready);
    let asked = |handle: &str, address| Request { addresses: vec![address], ipv4: 0, ..request(handle) };

    assert_eq!(node.draw(&asked("net.1", near)).unwrap().addresses, [near]);
    assert_eq!(node.reserve.withdraw("net.2", &[near]).unwrap_err().handle, "net.1");
    // Through the block, when something else of the request is not ready.
    node.reserve.withdraw("net.2", &[far]).unwrap();
    assert_eq!(node.assign(&asked("net.2", far)).unwrap(), [far]);

    assert_eq!(held_by(node.block(far), "net.2"), [far]);
    assert!(node.reserve.ready_addresses().all(|address| address != far));
    let mut other = snapshot("n2", &one_pool());
    let taken = node.reserve.ready_addresses().next().unwrap();
    let error = finish(&mut node.store, &mut other, &asked("net.3", taken), NOW).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("address {taken} is in use by the reserve of node n1, for its next pods")
    );
}

#[test]
fn what_a_reservation_keeps_back_is_not_drawn_and_goes_back() {
    let mut node = Node::new(&one_pool());
    let kept_back: Vec<IpAddr> = node.reserve.ready_addresses().take(5).collect();
    node.snapshot.settings.reservations =
        kept_back.iter().map(|address| model::Cidr::host(*address)).collect();

    let drawn = node.draw(&request("net.1")).unwrap().addresses[0];
    node.keep_up();

    assert!(!kept_back.contains(&drawn));
    let block = node.block(drawn);
    assert!(kept_back.iter().all(|address| ipam::holder(block, *address).is_none()));
}

#[test]
fn an_address_that_somebody_freed_under_a_pod_is_taken_back_and_one_given_away_is_told_of() {
    let mut node = Node::new(&one_pool());
    let (freed, given) = (node.draw(&request("net.1")).unwrap(), node.draw(&request("net.2")).unwrap());
    // Somebody takes the node for dead.
    let block = ipam::release_handle(node.block(freed.addresses[0]), "ocicat-reserved-n1", None);
    let other = model::AllocationAttributes { handle: Some("net.x".to_owned()), ..Default::default() };
    node.store.put(Object::Block(ipam::allocate_address(&block, given.addresses[0], &other).unwrap()));

    let settled = node.keep_up();

    assert_eq!(held_by(node.block(freed.addresses[0]), "net.1"), freed.addresses);
    let (handle, holder) = ("net.2".to_owned(), "handle net.x".to_owned());
    assert_eq!(settled.lost, [Lost { handle, address: given.addresses[0], holder }]);
}

#[test]
fn an_api_server_that_shows_no_pools_changes_nothing() {
    let mut node = Node::new(&one_pool());
    node.snapshot.settings.pools.clear();

    node.keep_up();

    assert_eq!((node.reserve.ready(), node.store.writes.len()), (31, 0));
}

#[test]
fn a_release_in_anothers_block_is_looked_after_when_its_rest_is_over() {
    let pools = [pool("a", "10.0.0.0/30", 30)];
    let mut node = Node::new(&pools);
    let mut borrower = snapshot("n2", &pools);
    let mut reserve = Reserve::new("n2".into());
    borrower.settings.configuration.cooldown = 60;
    let borrowed = finish(&mut node.store, &mut borrower, &request("net.b"), NOW).unwrap();
    give_back(&mut node.store, &mut borrower, "net.b");
    borrower.blocks().for_each(|block| reserve.rests(&block.value, 60));

    let settled = node.store.keep_up(&mut borrower, &mut reserve, NOW);
    assert_eq!(settled.next, Some(NOW + 60 * SECOND));
    node.store.keep_up(&mut borrower, &mut reserve, NOW + 60 * SECOND);

    assert!(ipam::holder(node.block(borrowed[0]), borrowed[0]).is_none());
}
