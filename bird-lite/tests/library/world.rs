//! A cluster to test with: node n1 is ours, nodes are 192.0.2.N/24, AS 64512, pool 10.0.0.0/16, and block
//! 10.0.1.0/26 is n1's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bgp::{Config, Origin};
use bgp_packet::Prefix;
use bird_lite::cluster::Cluster;
use bird_lite::origin::Origins;
use bird_lite::peers::{Plan, Planner};
use model::{
    AffinityState, AllocationAttributes, AllowedUse, AssignmentMode, BgpConfiguration, BgpFilter, BgpPeer,
    Block, BlockAffinity, Cidr, EncapMode, IpPool, Node, NodeAddress, NodeName, PeerTarget, Selector, Update,
};

pub(crate) const OWN_BLOCK: &str = "10.0.1.0/26";

pub(crate) fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn node_address(text: &str) -> NodeAddress {
    let (address, length) = text.split_once('/').unwrap();
    NodeAddress { address: address.parse().unwrap(), length: length.parse().unwrap() }
}

/// Node `nN` at 192.0.2.N, labelled `rack: rN`.
pub(crate) fn node(n: u8) -> Node {
    Node {
        uid: format!("uid-{n}"),
        labels: BTreeMap::from([("rack".to_owned(), format!("r{n}"))]),
        ipv4: Some(node_address(&format!("192.0.2.{n}/24"))),
        internal_ips: vec![address(&format!("192.0.2.{n}"))],
        ..Node::named(format!("n{n}").as_str())
    }
}

/// The same with an address of each family.
pub(crate) fn dual_stack(n: u8) -> Node {
    Node { ipv6: Some(node_address(&format!("2001:db8::{n:x}/64"))), ..node(n) }
}

pub(crate) fn pool(prefix: &str) -> IpPool {
    IpPool {
        name: format!("pool-{}", cidr(prefix).object_name()),
        cidr: cidr(prefix),
        ipip_mode: EncapMode::Never,
        vxlan_mode: EncapMode::Never,
        nat_outgoing: false,
        disabled: false,
        disable_bgp_export: false,
        block_size: if prefix.contains(':') { 122 } else { 26 },
        node_selector: Selector::all(),
        namespace_selector: Selector::all(),
        allowed_uses: vec![AllowedUse::Workload, AllowedUse::Tunnel],
        assignment_mode: AssignmentMode::Automatic,
        deleting: false,
        created: 0,
    }
}

/// A peering of all nodes with an address.
pub(crate) fn peering(name: &str, remote: &str, asn: u32) -> BgpPeer {
    BgpPeer::new(name, PeerTarget::Address(address(remote), None), Some(asn))
}

pub(crate) fn selector(text: &str) -> Selector {
    text.parse().unwrap()
}

/// Nodes n1 to `nodes`, one pool, and n1's block.
pub(crate) fn cluster(nodes: u8) -> Cluster {
    let mut cluster = Cluster::new(NodeName::from("n1"));
    (1..=nodes).for_each(|n| put_node(&mut cluster, node(n)));
    put_pool(&mut cluster, pool("10.0.0.0/16"));
    own(&mut cluster, OWN_BLOCK);
    cluster.apply(Update::InSync);
    cluster
}

pub(crate) fn put_node(cluster: &mut Cluster, node: Node) {
    cluster.apply(Update::Node(node.name.clone(), Some(node)));
}

pub(crate) fn put_pool(cluster: &mut Cluster, pool: IpPool) {
    cluster.apply(Update::Pool(pool.name.clone(), Some(pool)));
}

pub(crate) fn put_peering(cluster: &mut Cluster, peer: BgpPeer) {
    cluster.apply(Update::BgpPeer(peer.name.clone(), Some(Box::new(peer))));
}

pub(crate) fn put_filter(cluster: &mut Cluster, filter: BgpFilter) {
    cluster.apply(Update::BgpFilter(filter.name.clone(), Some(Box::new(filter))));
}

pub(crate) fn configure(cluster: &mut Cluster, configuration: BgpConfiguration) {
    cluster.apply(Update::BgpConfiguration(Some(Box::new(configuration))));
}

/// What the speaker of the node is to do.
pub(crate) fn plan(cluster: &Cluster) -> Plan {
    Planner::default().plan(cluster).unwrap()
}

pub(crate) fn config(cluster: &Cluster) -> Config {
    plan(cluster).config
}

/// What the node announces by itself.
pub(crate) fn origins(cluster: &Cluster) -> BTreeMap<Prefix, Origin> {
    let changes = Origins::default().update(cluster, &BTreeSet::new(), true);
    changes.into_iter().filter_map(|(prefix, route)| Some((prefix, route?))).collect()
}

/// Makes a block n1's.
pub(crate) fn own(cluster: &mut Cluster, block: &str) {
    claim(cluster, block, AffinityState::Confirmed);
}

pub(crate) fn claim(cluster: &mut Cluster, block: &str, state: AffinityState) {
    let node = cluster.node_name.clone();
    let affinity = BlockAffinity { node: node.clone(), cidr: cidr(block), state, deleted: false };
    cluster.apply(Update::BlockAffinity(node, cidr(block), Some(affinity)));
}

/// Gives an address of a block to an endpoint of a node.
pub(crate) fn give(cluster: &mut Cluster, block: &str, given: &str, node: &str) {
    let block = cidr(block);
    let ordinal = usize::try_from(block.offset(address(given)).unwrap()).unwrap();
    let mut allocations = vec![None; 64];
    allocations[ordinal] = Some(0);
    let secondary = BTreeMap::from([("node".to_owned(), node.to_owned())]);
    let attributes = AllocationAttributes { handle: None, secondary, released_at: None };
    let object = Block {
        cidr: block,
        affinity: None,
        allocations,
        unallocated: (0..64).filter(|o| *o != ordinal).collect(),
        attributes: vec![attributes],
        sequence_number: 1,
        sequence_number_for_allocation: BTreeMap::new(),
        deleted: false,
    };
    cluster.apply(Update::Block(block, Some(Box::new(object))));
}
