//! What a user of IPAM sees, one story each.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::net::IpAddr;

use common::{NOW, Store, finish, give_back, pool, request, snapshot};
use ipam::{AssignError, Key, Object, Request, Snapshot, Step, Write, release_affinity};
use model::{AffinityState, AllowedUse, AssignmentMode, Block, BlockAffinity, Cidr, IpPool, Labels};

fn ask(store: &mut Store, snapshot: &mut Snapshot, request: &Request) -> Result<Vec<IpAddr>, AssignError> {
    snapshot.begin();
    finish(store, snapshot, request, NOW)
}

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

fn many(handle: &str, ipv4: u32) -> Request {
    Request { ipv4, ..request(handle) }
}

fn block_of(store: &Store, address: IpAddr) -> &Block {
    store.blocks().find(|block| block.cidr.contains(address)).unwrap()
}

fn one_pool() -> Vec<IpPool> {
    vec![pool("a", "10.0.0.0/24", 26)]
}

#[test]
fn the_first_pool_by_name_gives_and_the_node_stays_in_its_block() {
    let pools = [pool("a", "10.1.0.0/16", 26), pool("b", "10.0.0.0/16", 26)];
    let (mut store, mut node) = (Store::default(), snapshot("n1", &pools));

    let first = ask(&mut store, &mut node, &request("x")).unwrap();
    let second = ask(&mut store, &mut node, &request("y")).unwrap();

    assert!(pools[0].cidr.contains(first[0]));
    assert_eq!(block_of(&store, first[0]).cidr, block_of(&store, second[0]).cidr);
    assert_eq!(store.blocks().count(), 1);
}

#[test]
fn a_second_address_costs_two_writes_and_no_read() {
    let (mut store, mut node) = (Store::default(), snapshot("n1", &one_pool()));
    ask(&mut store, &mut node, &request("x")).unwrap();
    store.writes.clear();
    store.reads = 0;

    ask(&mut store, &mut node, &request("y")).unwrap();

    assert!(
        matches!(&store.writes[..], [Write::Create(Object::Handle(_)), Write::Update(Object::Block(_), _)]),
        "{:?}",
        store.writes
    );
    assert_eq!(store.reads, 0);
}

#[test]
fn a_claim_is_written_in_calicos_order() {
    let (mut store, mut node) = (Store::default(), snapshot("n1", &one_pool()));

    ask(&mut store, &mut node, &request("x")).unwrap();

    let pending = |object: &Object, wanted| matches!(object, Object::Affinity(BlockAffinity { state, .. }) if *state == wanted);
    match &store.writes[..] {
        [
            Write::Create(first),
            Write::Create(Object::Block(_)),
            Write::Update(second, _),
            Write::Create(Object::Handle(_)),
            Write::Update(Object::Block(_), _),
        ] => assert!(pending(first, AffinityState::Pending) && pending(second, AffinityState::Confirmed)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_whole_pool_is_given_out_and_then_the_error_names_it() {
    let (mut store, mut node) = (Store::default(), snapshot("n1", &one_pool()));

    let all = ask(&mut store, &mut node, &many("x", 256)).unwrap();
    let error = ask(&mut store, &mut node, &request("y")).unwrap_err();

    assert_eq!(all.len(), 256);
    assert_eq!(store.blocks().count(), 4);
    assert_eq!(error.to_string(), "no IPv4 address for y: pool a has no free address");
}

#[test]
fn the_limit_of_blocks_holds_and_is_named() {
    let (mut store, mut node) = (Store::default(), snapshot("n1", &one_pool()));
    node.settings.configuration.max_blocks_per_host = 2;
    node.settings.configuration.strict_affinity = true;

    assert_eq!(ask(&mut store, &mut node, &many("x", 128)).unwrap().len(), 128);
    let error = ask(&mut store, &mut node, &request("y")).unwrap_err().to_string();

    assert!(error.contains("limit of 2 blocks is reached for this node"), "{error}");
}

#[test]
fn strict_affinity_keeps_off_others_blocks_and_borrowing_returns_what_it_took() {
    let pools = [pool("a", "10.0.0.0/26", 26)];
    let mut store = Store::default();
    let (mut a, mut b) = (snapshot("a", &pools), snapshot("b", &pools));
    ask(&mut store, &mut a, &request("x")).unwrap();

    b.settings.configuration.strict_affinity = true;
    let error = ask(&mut store, &mut b, &request("y")).unwrap_err().to_string();
    assert!(error.contains("strict affinity"), "{error}");
    b.settings.configuration.strict_affinity = false;
    let borrowed = ask(&mut store, &mut b, &request("y")).unwrap();

    assert_eq!(block_of(&store, borrowed[0]).affinity, Some("a".into()));
    give_back(&mut store, &mut b, "y");
    assert_eq!(block_of(&store, borrowed[0]).unallocated.last(), Some(&1));
    assert_eq!(block_of(&store, borrowed[0]).affinity, Some("a".into()));
}

#[test]
fn pools_are_refused_for_a_reason() {
    let mut pools = vec![pool("disabled", "10.0.0.0/24", 26), pool("manual", "10.1.0.0/24", 26)];
    pools.extend([
        pool("nodes", "10.2.0.0/24", 26),
        pool("spaces", "10.3.0.0/24", 26),
        pool("tunnels", "10.4.0.0/24", 26),
    ]);
    pools.push(pool("v6", "fd00::/64", 122));
    pools[0].disabled = true;
    pools[1].assignment_mode = AssignmentMode::Manual;
    pools[2].node_selector = "rack == 'r1'".parse().unwrap();
    pools[3].namespace_selector = "env == 'prod'".parse().unwrap();
    pools[4].allowed_uses = vec![AllowedUse::Tunnel];
    let (mut store, mut node) = (Store::default(), snapshot("n1", &pools));

    let error = ask(&mut store, &mut node, &request("x")).unwrap_err().to_string();
    assert_eq!(
        error,
        "no IPv4 address for x: pool disabled is disabled; \
         pool manual is used only when asked for by name (assignmentMode Manual); \
         pool nodes does not select this node (nodeSelector); \
         pool spaces does not select the namespace (namespaceSelector); \
         pool tunnels does not allow use Workload; pool v6 is of the other address family"
    );

    // Asked for by name or CIDR, selectors and mode do not count.
    for (name, expected) in [("manual", 1), ("10.2.0.0/24", 2), ("spaces", 3)] {
        let asked = Request { ipv4_pools: vec![name.to_owned()], ..request(name) };
        let found = ask(&mut store, &mut node, &asked).unwrap();
        assert!(pools[expected].cidr.contains(found[0]), "{name}");
    }
    for (name, reason) in
        [("disabled", "is disabled"), ("nowhere", "does not exist"), ("v6", "other address family")]
    {
        let asked = Request { ipv4_pools: vec![name.to_owned()], ..request("y") };
        let error = ask(&mut store, &mut node, &asked).unwrap_err().to_string();
        assert!(error.contains(&format!("pool {name} ")) && error.contains(reason), "{error}");
    }
    let prod = Labels::from([("env".to_owned(), "prod".to_owned())]);
    let asked = Request { namespace_labels: prod, ..request("z") };
    assert!(pools[3].cidr.contains(ask(&mut store, &mut node, &asked).unwrap()[0]));
    let tunnel = Request { ipv4: 1, ..Request::new("t", AllowedUse::Tunnel) };
    assert!(pools[4].cidr.contains(ask(&mut store, &mut node, &tunnel).unwrap()[0]));
}

#[test]
fn a_tunnel_moves_to_other_pools_and_holds_both_addresses_until_it_leaves_the_old_one() {
    let pools = [pool("a", "10.0.0.0/24", 26), pool("b", "10.1.0.0/24", 26)];
    let (mut store, mut node) = (Store::default(), snapshot("n1", &pools));
    let from = |pool: &str| Request {
        ipv4: 1,
        ipv4_pools: vec![pool.to_owned()],
        ..Request::new("t", AllowedUse::Tunnel)
    };
    let old = ask(&mut store, &mut node, &from("a")).unwrap();
    assert_eq!(ask(&mut store, &mut node, &from("a")).unwrap(), old);

    let new = ask(&mut store, &mut node, &from("b")).unwrap();
    let holds = |store: &Store, address| ipam::held_by(block_of(store, address), "t").contains(&address);
    assert!(pools[1].cidr.contains(new[0]));
    assert!(holds(&store, old[0]) && holds(&store, new[0]));

    node.begin();
    loop {
        match ipam::release_others("t", new[0], &node, NOW) {
            Step::Done(()) => break,
            step => store.execute(&mut node, &step),
        }
    }
    assert!(!holds(&store, old[0]) && holds(&store, new[0]));
    let Some(Object::Handle(handle)) = store.get(&Key::Handle("t".to_owned())) else { panic!("no handle") };
    assert_eq!(handle.blocks.values().sum::<u32>(), 1);
}

#[test]
fn the_second_of_two_requested_pools_is_used_when_the_first_is_full() {
    let pools = [pool("a", "10.0.0.0/31", 31), pool("b", "10.1.0.0/24", 26)];
    let (mut store, mut node) = (Store::default(), snapshot("n1", &pools));
    let asked =
        |handle: &str| Request { ipv4_pools: vec!["a".to_owned(), "b".to_owned()], ..request(handle) };

    let found: Vec<_> = ["x", "y", "z"]
        .map(|handle| ask(&mut store, &mut node, &asked(handle)).unwrap()[0])
        .into_iter()
        .collect();

    assert!(
        pools[0].cidr.contains(found[0])
            && pools[0].cidr.contains(found[1])
            && pools[1].cidr.contains(found[2])
    );
}

#[test]
fn both_families_come_together() {
    let pools = [pool("a", "10.0.0.0/24", 26), pool("b", "fd00::/64", 122)];
    let (mut store, mut node) = (Store::default(), snapshot("n1", &pools));

    let both = ask(&mut store, &mut node, &Request { ipv6: 1, ..request("x") }).unwrap();

    assert!(matches!(both[..], [IpAddr::V4(_), IpAddr::V6(_)]), "{both:?}");
    assert_eq!(ask(&mut store, &mut node, &Request { ipv6: 1, ..request("x") }).unwrap(), both);
}

#[test]
fn a_given_address_is_taken_whoever_owns_the_block() {
    let (mut store, pools) = (Store::default(), one_pool());
    let (mut a, mut b) = (snapshot("a", &pools), snapshot("b", &pools));
    let asked = |handle: &str, address: &str| {
        let mut request = Request::new(handle, AllowedUse::Workload);
        request.addresses = vec![address.parse().unwrap()];
        request.attributes =
            [("namespace", "dev"), ("pod", handle)].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        request
    };

    assert_eq!(
        ask(&mut store, &mut a, &asked("x", "10.0.0.9")).unwrap(),
        ["10.0.0.9".parse::<IpAddr>().unwrap()]
    );
    assert_eq!(ask(&mut store, &mut a, &asked("x", "10.0.0.9")).unwrap().len(), 1);
    assert_eq!(ask(&mut store, &mut b, &asked("y", "10.0.0.10")).unwrap().len(), 1);
    let error = |result: Result<Vec<IpAddr>, AssignError>| result.unwrap_err().to_string();
    assert_eq!(
        error(ask(&mut store, &mut b, &asked("z", "10.0.0.9"))),
        "address 10.0.0.9 is in use by pod dev/x"
    );
    assert_eq!(error(ask(&mut store, &mut b, &asked("z", "10.9.0.9"))), "address 10.9.0.9 is in no IPPool");
    b.settings.configuration.strict_affinity = true;
    let strict = error(ask(&mut store, &mut b, &asked("z", "10.0.0.11")));
    assert!(strict.contains("block of a"), "{strict}");
    assert_eq!(block_of(&store, "10.0.0.9".parse().unwrap()).affinity, Some("a".into()));
}

#[test]
fn two_nodes_that_claim_one_block_at_once_end_with_a_block_each() {
    let (mut store, pools) = (Store::default(), one_pool());
    let (mut a, mut b) = (snapshot("a", &pools), snapshot("b", &pools));
    // Node b has decided on the very block that node a then claims.
    let wanted = Object::Affinity(BlockAffinity {
        node: "b".into(),
        cidr: cidr("10.0.0.0/26"),
        state: AffinityState::Pending,
        deleted: false,
    });
    store.put(wanted);
    store.put(Object::Block(ipam::new_block(cidr("10.0.0.0/26"), "a".into(), NOW)));
    ask(&mut store, &mut a, &request("x")).unwrap();
    b.observed(
        Key::Affinity("b".into(), cidr("10.0.0.0/26")),
        store
            .get(&Key::Affinity("b".into(), cidr("10.0.0.0/26")))
            .cloned()
            .map(|object| (object, ipam::Version("1".to_owned()))),
    );

    let found = ask(&mut store, &mut b, &request("y")).unwrap();

    assert_eq!(block_of(&store, found[0]).affinity, Some("b".into()));
    assert_eq!(store.get(&Key::Affinity("b".into(), cidr("10.0.0.0/26"))), None);
}

#[test]
fn an_empty_block_of_another_node_is_taken_when_it_is_old() {
    let pools = [pool("a", "10.0.0.0/26", 26)];
    let mut store = Store::default();
    let mut dead = snapshot("dead", &pools);
    ask(&mut store, &mut dead, &request("x")).unwrap();
    give_back(&mut store, &mut dead, "x");
    let mut node = snapshot("b", &pools);
    node.settings.configuration.strict_affinity = true;

    assert!(finish(&mut store, &mut node, &request("y"), NOW + 59_000_000_000).is_err());
    node.begin();
    let found = finish(&mut store, &mut node, &request("y"), NOW + 61_000_000_000).unwrap();

    assert_eq!(block_of(&store, found[0]).affinity, Some("b".into()));
    assert_eq!(store.get(&Key::Affinity("dead".into(), cidr("10.0.0.0/26"))), None);
}

#[test]
fn a_claim_is_given_up_only_when_the_block_is_empty_if_it_must_be() {
    let (mut store, mut node) = (Store::default(), snapshot("n1", &one_pool()));
    let address = ask(&mut store, &mut node, &request("x")).unwrap()[0];
    let block = block_of(&store, address).cidr;
    let mut give_up = |store: &mut Store, must_be_empty| loop {
        match release_affinity(&node, block, must_be_empty) {
            Step::Done(()) => return Ok(()),
            Step::Failed(error) => return Err(error),
            step => store.execute(&mut node, &step),
        }
    };

    assert_eq!(give_up(&mut store, true), Err(ipam::BlockInUse(block)));
    assert_eq!(give_up(&mut store, false), Ok(()));

    assert_eq!(block_of(&store, address).affinity, None);
    assert_eq!(store.get(&Key::Affinity("n1".into(), block)), None);
    // The last address takes the ownerless block with it.
    give_back(&mut store, &mut snapshot("n2", &one_pool()), "x");
    assert_eq!(store.blocks().count(), 0);
}

#[test]
fn releasing_twice_and_releasing_nothing_are_no_errors() {
    let (mut store, mut node) = (Store::default(), snapshot("n1", &one_pool()));
    ask(&mut store, &mut node, &many("x", 3)).unwrap();

    give_back(&mut store, &mut node, "x");
    give_back(&mut store, &mut node, "x");
    give_back(&mut store, &mut node, "never seen");

    assert!(store.blocks().all(ipam::is_empty));
    assert_eq!(store.objects().filter(|object| matches!(object, Object::Handle(_))).count(), 0);
}

#[test]
fn without_pools_the_error_says_so() {
    let (mut store, mut node) = (Store::default(), snapshot("n1", &[]));

    assert_eq!(ask(&mut store, &mut node, &request("x")), Err(AssignError::NoPools));
}
