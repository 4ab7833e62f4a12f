//! Ways to pods on other nodes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use model::{
    AllocationAttributes, AllowedUse, AssignmentMode, Block, Cidr, EncapMode, IpPool, Node, NodeAddress,
    Selector, Tunnels, Update,
};

use crate::state::{NODE, State, check_walk};

pub fn node(name: &str, address: &str, vxlan: Option<&str>) -> Update {
    let address: IpAddr = address.parse().unwrap();
    let tunnels = Tunnels { vxlan: vxlan.map(|text| text.parse().unwrap()), ..Tunnels::default() };
    let node = Node {
        ipv4: Some(NodeAddress { address, length: 24 }),
        internal_ips: vec![address],
        tunnels,
        ..Node::named(name)
    };
    Update::Node(node.name.clone(), Some(node))
}

pub fn pool(vxlan_mode: EncapMode) -> Update {
    let pool = IpPool {
        name: "a".to_owned(),
        cidr: "10.65.0.0/16".parse().unwrap(),
        ipip_mode: EncapMode::Never,
        vxlan_mode,
        nat_outgoing: false,
        disabled: false,
        disable_bgp_export: false,
        block_size: 26,
        node_selector: Selector::all(),
        namespace_selector: Selector::all(),
        allowed_uses: vec![AllowedUse::Workload],
        assignment_mode: AssignmentMode::Automatic,
        deleting: false,
        created: 0,
    };
    Update::Pool("a".to_owned(), Some(pool))
}

/// A block of `owner`, in which another node holds one address.
pub fn block(cidr: &str, owner: &str, borrower: Option<(usize, &str)>) -> Update {
    let cidr: Cidr = cidr.parse().unwrap();
    let holder = |name: &str| AllocationAttributes {
        handle: None,
        secondary: BTreeMap::from([("node".to_owned(), name.to_owned())]),
        released_at: None,
    };
    let mut allocations = vec![None; 64];
    borrower.iter().for_each(|(ordinal, _)| allocations[*ordinal] = Some(0));
    let block = Block {
        cidr,
        affinity: Some(owner.into()),
        allocations,
        unallocated: Vec::new(),
        attributes: borrower.iter().map(|(_, name)| holder(name)).collect(),
        sequence_number: 0,
        sequence_number_for_allocation: BTreeMap::new(),
        deleted: false,
    };
    Update::Block(cidr, Some(Box::new(block)))
}

fn three_nodes() -> State {
    State::default()
        .with(node(NODE, "192.0.2.1", Some("10.65.0.1")))
        .with(node("near", "192.0.2.2", Some("10.65.1.1")))
        .with(node("far", "198.51.100.3", Some("10.65.2.1")))
        .with(block("10.65.0.0/26", NODE, Some((9, "near"))))
        .with(block("10.65.1.0/26", "near", Some((5, NODE))))
        .with(block("10.65.2.0/26", "far", Some((7, "near"))))
}

#[test]
fn the_mode_of_the_pool_says_how_each_node_is_reached() {
    let ways = |mode| three_nodes().with(pool(mode)).ways();

    assert_eq!(
        ways(EncapMode::Always),
        [
            "10.65.0.0/26 blackhole",
            "10.65.0.9/32 vxlan via 10.65.1.1",
            "10.65.1.0/26 vxlan via 10.65.1.1",
            "10.65.2.0/26 vxlan via 10.65.2.1",
            "10.65.2.7/32 vxlan via 10.65.1.1",
        ]
    );
    assert_eq!(
        ways(EncapMode::CrossSubnet),
        [
            "10.65.0.0/26 blackhole",
            "10.65.0.9/32 direct via 192.0.2.2",
            "10.65.1.0/26 direct via 192.0.2.2",
            "10.65.2.0/26 vxlan via 10.65.2.1",
            "10.65.2.7/32 direct via 192.0.2.2",
        ]
    );
    assert_eq!(
        ways(EncapMode::Never),
        ["10.65.0.9/32 speaker", "10.65.1.0/26 speaker", "10.65.2.0/26 speaker", "10.65.2.7/32 speaker"]
    );
}

#[test]
fn a_node_that_has_announced_no_tunnel_is_not_sent_to() {
    let state = State::default()
        .with(node(NODE, "192.0.2.1", None))
        .with(node("far", "198.51.100.3", None))
        .with(block("10.65.2.0/26", "far", None))
        .with(pool(EncapMode::Always));

    assert_eq!(state.ways(), ["10.65.2.0/26 unreachable, NotReady(V4)"]);
}

#[test]
fn ways_do_not_depend_on_the_way() {
    check_walk(&[
        three_nodes(),
        three_nodes().with(pool(EncapMode::Always)),
        three_nodes().with(pool(EncapMode::CrossSubnet)),
        three_nodes().with(pool(EncapMode::Always)).with(node("far", "192.0.2.3", None)),
        three_nodes().with(pool(EncapMode::Always)).without("node near"),
        three_nodes().with(pool(EncapMode::CrossSubnet)).with(block("10.65.1.0/26", "far", None)),
        three_nodes().with(pool(EncapMode::Never)).without("block 10.65.1.0/26"),
        three_nodes().with(pool(EncapMode::Always)).without(&format!("node {NODE}")),
    ]);
}
