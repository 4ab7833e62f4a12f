//! Garbage collection, one story each.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(clippy::disallowed_methods, reason = "a beginning of time for tests")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use common::{Store, finish, pool, snapshot};
use ipam::gc::{
    Allocation, GoneNodes, Inventory, Leak, OwnTruth, PodAnswer, Problem, Suspects, Turn, Why, allocations,
    audit, end_claim, holders, is_used_by, own_suspects, plan, question, settle_handle, spare_blocks,
    take_back, usage,
};
use ipam::{Key, Object, Request, Step, Version, is_empty, new_block};
use model::{
    AffinityState, AllocationAttributes, AllowedUse, Block, BlockAffinity, Handle, NodeName, PodKey,
};

const NOW: u64 = 1_767_225_600_000_000_000;
const GRACE: Duration = Duration::from_secs(5);

/// Gives addresses to a pod of a node; `uid` as the agent writes it.
fn give(store: &mut Store, node: &str, pod: &str, uid: &str, count: u32) -> Vec<IpAddr> {
    let attributes = [("node", node), ("namespace", "default"), ("pod", pod), ("uid", uid)];
    give_with(store, node, &format!("net.{uid}"), count, &attributes)
}

fn give_with(
    store: &mut Store,
    node: &str,
    handle: &str,
    count: u32,
    attributes: &[(&str, &str)],
) -> Vec<IpAddr> {
    let mut view = snapshot(node, &[pool("a", "10.0.0.0/28", 30)]);
    let attributes = attributes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let request = Request { ipv4: count, attributes, ..Request::new(handle, AllowedUse::Workload) };
    finish(store, &mut view, &request, NOW).unwrap()
}

fn all(store: &Store) -> Vec<Allocation> {
    store.blocks().flat_map(allocations).collect()
}

fn of_node(store: &Store, node: &str) -> Vec<Allocation> {
    all(store).into_iter().filter(|a| a.node == Some(node.into())).collect()
}

fn key(name: &str) -> PodKey {
    PodKey::new("default", name)
}

fn present(uid: &str, node: &str, addresses: &[IpAddr]) -> PodAnswer {
    PodAnswer::Present {
        uid: uid.to_owned(),
        node: Some(node.into()),
        addresses: addresses.to_vec(),
        is_finished: false,
    }
}

fn free(store: &mut Store, leaks: &[Leak]) {
    let mut view = snapshot("gc", &[]);
    loop {
        match take_back(leaks, &view, None) {
            Step::Done(()) => break,
            step => store.execute(&mut view, &step),
        }
    }
    for handle in leaks.iter().filter_map(|leak| leak.handle.clone()) {
        view.begin();
        loop {
            match settle_handle(&handle, &view) {
                Step::Done(()) => break,
                step => store.execute(&mut view, &step),
            }
        }
    }
}

fn handles(store: &Store) -> usize {
    store.objects().filter(|object| matches!(object, Object::Handle(_))).count()
}

fn affinities(store: &Store) -> Vec<BlockAffinity> {
    let affinity = |object: &Object| match object {
        Object::Affinity(affinity) => Some(affinity.clone()),
        _ => None,
    };
    store.objects().filter_map(affinity).collect()
}

#[test]
fn scenario_86_a_deleted_pods_address_is_freed_after_the_grace_period() {
    let mut store = Store::default();
    give(&mut store, "n1", "web", "u1", 1);
    let found = || own_suspects(of_node(&store, "n1"), &OwnTruth::default(), |_| false);
    let start = Instant::now();
    let (mut suspects, mut never) = (Suspects::new(GRACE), Suspects::new(Duration::ZERO));

    assert_eq!(suspects.look(start, found()), []);
    assert_eq!(suspects.look(start + GRACE / 2, found()), []);
    let confirmed = suspects.look(start + GRACE, found());
    never.look(start, found());
    assert_eq!(never.look(start + 1000 * GRACE, found()), []);

    assert_eq!(confirmed.len(), 1);
    free(&mut store, &confirmed[0].1);
    assert!(store.blocks().all(is_empty));
    assert_eq!(handles(&store), 0);
}

#[test]
fn what_the_node_itself_sees_keeps_an_address_whatever_others_say() {
    let mut store = Store::default();
    let addresses = give(&mut store, "n1", "web", "u1", 1);
    let evidence = [
        OwnTruth { handles: BTreeSet::from(["net.u1".to_owned()]), ..OwnTruth::default() },
        OwnTruth { containers: BTreeSet::from(["u1".to_owned()]), ..OwnTruth::default() },
        OwnTruth { addresses: addresses.iter().copied().collect(), ..OwnTruth::default() },
    ];

    for truth in evidence {
        assert_eq!(own_suspects(of_node(&store, "n1"), &truth, |_| false), [], "{truth:?}");
    }
    assert_eq!(own_suspects(of_node(&store, "n1"), &OwnTruth::default(), |_| true), []);
    assert_eq!(own_suspects(of_node(&store, "n1"), &OwnTruth::default(), |_| false).len(), 1);
}

#[test]
fn tunnels_reserved_and_unknown_addresses_are_never_suspects() {
    let mut store = Store::default();
    let of = [("node", "n1"), ("type", "ipipTunnelAddress")];
    give_with(&mut store, "n1", "ipip-tunnel-addr-n1", 1, &of);
    give_with(&mut store, "n1", "ocicat-reserved-n1", 1, &[("node", "n1"), ("type", "reserved")]);
    give_with(&mut store, "n1", "by-hand", 1, &[("node", "n1")]);

    assert_eq!(own_suspects(of_node(&store, "n1"), &OwnTruth::default(), |_| false), []);
}

#[test]
fn scenario_87_of_two_addresses_of_a_handle_one_valid_keeps_both() {
    let mut store = Store::default();
    let addresses = give(&mut store, "n1", "web", "u1", 2);
    let truth = OwnTruth { addresses: BTreeSet::from([addresses[1]]), ..OwnTruth::default() };

    assert_eq!(own_suspects(of_node(&store, "n1"), &truth, |_| false), []);
    // And when only one was judged a leak, the handle's other one keeps it.
    let one = Leak::of(&all(&store)[0]);
    free(&mut store, &[one]);
    assert_eq!(all(&store).len(), 2);
}

#[test]
fn scenario_88_what_a_pods_object_says() {
    let mut store = Store::default();
    let addresses = give(&mut store, "n1", "web", "u1", 1);
    let other = "10.9.9.9".parse().unwrap();
    let allocation = &all(&store)[0];
    let evicted = PodAnswer::Present {
        uid: "u1".to_owned(),
        node: Some("n1".into()),
        addresses: addresses.clone(),
        is_finished: true,
    };

    assert_eq!(is_used_by(allocation, &present("u1", "n1", &addresses)), Ok(()));
    assert_eq!(is_used_by(allocation, &present("u1", "n1", &[])), Ok(()), "no address yet");
    assert_eq!(is_used_by(allocation, &present("u1", "n1", &[other])), Err(Why::PodHasOtherAddress));
    assert_eq!(is_used_by(allocation, &present("u1", "n2", &addresses)), Err(Why::PodElsewhere));
    assert_eq!(is_used_by(allocation, &evicted), Err(Why::PodFinished));
    assert_eq!(is_used_by(allocation, &present("u2", "n1", &addresses)), Err(Why::PodReplaced));
    assert_eq!(is_used_by(allocation, &PodAnswer::Absent), Err(Why::PodGone));
}

#[test]
fn scenario_89_a_node_that_is_gone_leaves_nothing() {
    let mut store = Store::default();
    give(&mut store, "n1", "a", "u1", 2);
    give(&mut store, "n1", "b", "u2", 2);
    let of = [("node", "n1"), ("type", "ipipTunnelAddress")];
    give_with(&mut store, "n1", "ipip-tunnel-addr-n1", 1, &of);
    give_with(&mut store, "n1", "ocicat-reserved-n1", 2, &[("node", "n1"), ("type", "reserved")]);
    give(&mut store, "n2", "c", "u3", 1);
    let left = give_with(&mut store, "n1", "by-hand", 1, &[]);

    let claims = affinities(&store);
    let made = plan(&"n1".into(), store.blocks(), &claims, &BTreeMap::new());
    free(&mut store, &made.leaks);
    for cidr in &made.claims {
        let mut view = snapshot("n1", &[]);
        loop {
            match end_claim(&view, *cidr, NOW) {
                Step::Done(()) => break,
                step => store.execute(&mut view, &step),
            }
        }
    }

    // What belongs to nobody known keeps its block, and the block its owner.
    assert_eq!((made.leaks.len(), made.claims.len(), made.kept.len()), (7, 1, 1));
    assert!(!made.is_whole());
    let owners: Vec<_> =
        store.blocks().map(|b| (b.cidr.contains(left[0]), b.affinity.clone().unwrap())).collect();
    assert_eq!(owners.iter().filter(|(_, owner)| *owner == "n1".into()).count(), 1);
    assert!(owners.contains(&(true, "n1".into())) && owners.contains(&(false, "n2".into())));
    assert_eq!(of_node(&store, "n1"), []);
    assert_eq!(handles(&store), 2);
}

#[test]
fn pods_that_the_api_server_still_has_on_a_gone_node_keep_their_addresses() {
    let mut store = Store::default();
    let addresses = give(&mut store, "n1", "a", "u1", 1);
    give(&mut store, "n1", "b", "u2", 1);
    let pods = BTreeMap::from([(key("a"), present("u1", "n1", &addresses))]);

    let made = plan(&"n1".into(), store.blocks(), &affinities(&store), &pods);

    assert_eq!(made.leaks.len(), 1);
    assert_eq!(made.leaks[0].handle.as_deref(), Some("net.u2"));
    assert_eq!(made.kept.len(), 1);
}

#[test]
fn a_node_is_asked_and_waited_for_before_it_is_gone() {
    let (start, version) = (Instant::now(), Version("1".to_owned()));
    let names = |names: &[&str]| names.iter().map(|name| NodeName::from(*name)).collect::<BTreeSet<_>>();
    let (there, holders) = (names(&["n2"]), names(&["n1", "n2"]));
    let mut gone = GoneNodes::new(GRACE);

    assert_eq!(gone.look(start, &names(&[]), &holders), [], "an empty list proves nothing");
    assert_eq!(gone.look(start, &there, &holders), [Turn::Ask("n1".into())]);
    gone.asked(&"n1".into(), version.clone(), start);
    assert_eq!(gone.look(start + GRACE / 2, &there, &holders), []);
    assert_eq!(gone.look(start + GRACE, &there, &holders), [Turn::Release("n1".into(), version.clone())]);

    // It answers: it is asked again later, not at once.
    gone.answered(&"n1".into(), start + GRACE);
    assert_eq!(gone.look(start + GRACE, &there, &holders), []);
    assert_eq!(gone.look(start + 2 * GRACE, &there, &holders), [Turn::Ask("n1".into())]);

    // A Node of that name is there again, whichever machine it is.
    gone.asked(&"n1".into(), version, start + 2 * GRACE);
    let turns = gone.look(start + 9 * GRACE, &names(&["n1", "n2"]), &holders);
    assert_eq!(turns, [Turn::Withdraw("n1".into())]);
    assert_eq!(gone.look(start + 9 * GRACE, &there, &holders), [Turn::Ask("n1".into())]);
}

#[test]
fn scenario_90_an_empty_block_goes_when_the_node_has_another() {
    let pools = [pool("a", "10.0.0.0/28", 30)];
    let block = |cidr: &str| new_block(cidr.parse().unwrap(), "n1".into(), 7);
    let full = |cidr: &str| {
        ipam::allocate(&block(cidr), 1, &AllocationAttributes::default(), &ipam::Settings::default())
    };
    let spare = |blocks: &[Block]| {
        spare_blocks(&"n1".into(), blocks, &pools, is_empty)
            .iter()
            .map(|s| s.cidr.to_string())
            .collect::<Vec<_>>()
    };

    assert_eq!(spare(&[full("10.0.0.0/30"), block("10.0.0.4/30")]), ["10.0.0.4/30"]);
    assert_eq!(spare(&[block("10.0.0.0/30"), block("10.0.0.4/30")]), ["10.0.0.4/30"]);
    assert_eq!(spare(&[block("10.0.0.0/30")]), [""; 0]);
    assert_eq!(spare(&[block("10.7.0.0/30")]), ["10.7.0.0/30"], "its pool is gone");
    assert_eq!(spare_blocks(&"n2".into(), &[block("10.7.0.0/30")], &pools, is_empty), []);
}

#[test]
fn an_address_that_was_given_out_anew_is_not_freed() {
    let mut store = Store::default();
    give(&mut store, "n1", "web", "u1", 1);
    let old = Leak { sequence_number: Some(1), ..Leak::of(&all(&store)[0]) };

    free(&mut store, &[old]);

    assert_eq!(all(&store).len(), 1);
    assert_eq!(handles(&store), 1);
}

#[test]
fn a_handle_is_made_to_count_what_there_is() {
    let mut store = Store::default();
    give(&mut store, "n1", "web", "u1", 1);
    let cidr = store.blocks().next().unwrap().cidr;
    let wrong = Handle { id: "net.u1".to_owned(), blocks: [(cidr, 7)].into(), deleted: false };
    store.put(Object::Handle(wrong));
    let lost = Handle { id: "net.lost".to_owned(), blocks: [(cidr, 1)].into(), deleted: false };
    store.put(Object::Handle(lost));

    for handle in ["net.u1", "net.lost", "net.unknown"] {
        let mut view = snapshot("gc", &[]);
        loop {
            match settle_handle(handle, &view) {
                Step::Done(()) => break,
                step => store.execute(&mut view, &step),
            }
        }
    }

    let Some(Object::Handle(settled)) = store.get(&Key::Handle("net.u1".to_owned())) else { panic!() };
    assert_eq!(settled.blocks, [(cidr, 1)].into());
    assert_eq!(handles(&store), 1);
}

#[test]
fn the_audit_finds_each_kind_of_disagreement() {
    let mut store = Store::default();
    let pools = vec![pool("a", "10.0.0.0/28", 30)];
    give(&mut store, "n1", "gone", "u1", 1);
    let used = give(&mut store, "n1", "used", "u2", 1);
    give_with(&mut store, "n1", "by-hand", 1, &[]);
    let mut handles: Vec<Handle> = Vec::new();
    let mut blocks: Vec<Block> = store.blocks().cloned().collect();
    for object in store.objects() {
        if let Object::Handle(handle) = object
            && handle.id != "by-hand"
        {
            let blocks = handle.blocks.iter().map(|(cidr, count)| (*cidr, count + 1)).collect();
            handles.push(Handle { blocks, ..handle.clone() });
        }
    }
    handles.push(Handle { id: "net.empty".to_owned(), blocks: BTreeMap::new(), deleted: false });
    let mut outside = new_block("10.9.0.0/30".parse().unwrap(), "n1".into(), 1);
    outside = ipam::allocate(&outside, 1, &all_of(&blocks, used[0]), &ipam::Settings::default());
    blocks.push(outside);
    let claim = |node: &str, cidr: &str, state| BlockAffinity {
        node: node.into(),
        cidr: cidr.parse().unwrap(),
        state,
        deleted: false,
    };
    let mut claims = affinities(&store);
    claims.push(claim("n1", "10.3.0.0/30", AffinityState::Confirmed));
    claims.push(claim("n1", "10.3.0.4/30", AffinityState::Pending));
    claims.push(claim("n9", "10.3.0.8/30", AffinityState::Confirmed));
    claims.push(question(&"n9".into()));
    let is_free = |address: &IpAddr| all(&store).iter().all(|a| a.address != *address);
    let stranger = (0..16).map(|last| IpAddr::from([10, 0, 0, last])).find(is_free).unwrap();
    let inventory = Inventory {
        reservations: Vec::new(),
        services: None,
        blocks,
        affinities: claims,
        handles,
        pools,
        nodes: BTreeMap::from([("n1".into(), Default::default())]),
        pods: BTreeMap::from([
            (key("used"), present("u2", "n1", &used)),
            (key("stranger"), present("u3", "n1", &[stranger])),
            (key("thief"), present("u4", "n1", &used)),
        ]),
    };

    let mut found: Vec<&str> = Vec::new();
    let findings = audit(&inventory);
    found.extend(findings.iter().map(|finding| finding.problem.name()));
    found.sort();
    found.dedup();

    let expected = [
        "block-without-claim",
        "claim-of-gone-node",
        "claim-unfinished",
        "claim-without-block",
        "handle-count",
        "handle-empty",
        "handle-missing",
        "not-allocated",
        "not-in-use",
        "other-holder",
        "outside-pools",
        "unknown-owner",
    ];
    assert_eq!(found, expected);
    let leak = findings.iter().find(|f| f.problem == Problem::NotInUse(Why::PodGone)).unwrap();
    assert_eq!(leak.pod, Some(key("gone")));
    assert_eq!(leak.handle.as_deref(), Some("net.u1"));
}

fn all_of(blocks: &[Block], address: IpAddr) -> AllocationAttributes {
    blocks.iter().find_map(|block| ipam::holder(block, address)).unwrap().clone()
}

#[test]
fn what_is_sound_has_no_finding() {
    let mut store = Store::default();
    let addresses = give(&mut store, "n1", "web", "u1", 2);
    let handle = |object: &Object| match object {
        Object::Handle(handle) => Some(handle.clone()),
        _ => None,
    };
    let inventory = Inventory {
        reservations: Vec::new(),
        services: None,
        blocks: store.blocks().cloned().collect(),
        affinities: affinities(&store),
        handles: store.objects().filter_map(handle).collect(),
        pools: vec![pool("a", "10.0.0.0/28", 30)],
        nodes: BTreeMap::from([("n1".into(), Default::default())]),
        pods: BTreeMap::from([(key("web"), present("u1", "n1", &addresses))]),
    };

    assert_eq!(audit(&inventory), []);
    assert_eq!(holders(&inventory.blocks, &inventory.affinities), BTreeSet::from(["n1".into()]));

    // An address that rests is nobody's, whatever stands beside it.
    let resting = ipam::release_handle(&inventory.blocks[0], "net.u1", Some(NOW));
    let resting = Block { affinity: None, ..resting };
    assert_eq!(holders(&[resting], &[]), BTreeSet::new());
}

#[test]
fn scenario_85_blocks_of_a_deleted_pool_are_shown_apart() {
    let mut store = Store::default();
    give(&mut store, "n1", "web", "u1", 3);
    give_with(&mut store, "n1", "ocicat-reserved-n1", 1, &[("node", "n1"), ("type", "reserved")]);
    let mut orphan = new_block("10.9.0.0/30".parse().unwrap(), "n2".into(), 1);
    let borrower = [("node".to_owned(), "n1".to_owned())].into();
    let attributes = AllocationAttributes { secondary: borrower, ..AllocationAttributes::default() };
    orphan = ipam::allocate(&orphan, 1, &attributes, &ipam::Settings::default());
    let blocks: Vec<Block> = store.blocks().cloned().chain([orphan]).collect();

    let pools = [pool("a", "10.0.0.0/28", 30), pool("b", "10.1.0.0/28", 30)];
    let usage = usage(&pools, &blocks);

    let of = |index: usize| (usage[index].usage.total, usage[index].usage.in_use, usage[index].usage.free());
    assert_eq!(usage.len(), 3);
    assert_eq!(of(0), (16, 3, 12));
    assert_eq!(usage[0].usage.reserved, 1);
    assert_eq!(of(1), (16, 0, 16));
    assert_eq!((usage[2].pool.clone(), of(2)), (None, (4, 1, 3)));
    assert_eq!(usage[2].usage.borrowed, 1);
    assert!((usage[0].usage.percent_used() - 25.0).abs() < 0.01);
}
