//! Nodes and pools.

use std::net::Ipv4Addr;

use felix_calc::{Calc, Change};
use model::{
    AllowedUse, AssignmentMode, EncapMode, IpPool, Node, NodeAddress, NodeName, Selector, Tunnels, Update,
};

use crate::state::{NODE, State, check_walk, labels};

fn node(name: &str, address: [u8; 4]) -> Node {
    Node {
        ipv4: Some(NodeAddress { address: address.into(), length: 24 }),
        internal_ips: vec![address.into()],
        ..Node::named(name)
    }
}

fn at(ipip: Option<Ipv4Addr>) -> Tunnels {
    Tunnels { ipip, ..Tunnels::default() }
}

fn known(node: &Node) -> Update {
    Update::Node(node.name.clone(), Some(node.clone()))
}

fn pool(name: &str, cidr: &str, ipip_mode: EncapMode, nat_outgoing: bool) -> Update {
    let pool = IpPool {
        name: name.to_owned(),
        cidr: cidr.parse().unwrap(),
        ipip_mode,
        vxlan_mode: EncapMode::Never,
        nat_outgoing,
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
    Update::Pool(name.to_owned(), Some(pool))
}

#[test]
fn nodes_and_pools_do_not_depend_on_the_way() {
    let own = Node { tunnels: at(Some(Ipv4Addr::new(10, 65, 0, 1))), ..node(NODE, [172, 20, 0, 1]) };
    let base = State::default().with(known(&own));

    check_walk(&[
        base.clone(),
        base.clone().with(known(&node("n2", [172, 20, 0, 2]))),
        base.clone().with(known(&node("n2", [172, 20, 0, 3]))).with(pool(
            "a",
            "10.65.0.0/16",
            EncapMode::Always,
            true,
        )),
        base.clone().with(pool("a", "10.65.0.0/16", EncapMode::Never, false)),
        base.with(known(&node(NODE, [172, 20, 0, 9]))).with(pool(
            "b",
            "10.66.0.0/16",
            EncapMode::Never,
            true,
        )),
    ]);
}

#[test]
fn a_node_that_says_nothing_new_is_not_told_of() {
    let mut calc = Calc::new(NodeName::from(NODE));
    let own = node(NODE, [172, 20, 0, 1]);
    calc.apply(known(&own));
    calc.apply(Update::InSync);
    calc.flush();

    calc.apply(known(&Node { labels: labels(&[("zone", "b")]), ..own.clone() }));
    assert_eq!(calc.flush(), []);

    let tunnel = Some(Ipv4Addr::new(10, 65, 0, 1));
    calc.apply(known(&Node { tunnels: at(tunnel), ..own }));
    assert_eq!(calc.flush(), [Change::TunnelAddress(tunnel)]);
}
