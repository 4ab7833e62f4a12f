//! From the mesh to route reflectors and back, by plain resources, while pods talk.

use e2e::{Cluster, Options, within};

const NODES: usize = 4;

const PEERS: &str = "\
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: reflectors}
spec: {nodeSelector: all(), peerSelector: role == 'reflector'}
";

fn mesh(enabled: bool) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata: {{name: default}}\n\
         spec: {{nodeToNodeMeshEnabled: {enabled}, asNumber: 64512}}\n"
    )
}

/// Waits until a node has exactly these peers, all of them Established.
#[track_caller]
fn expect_peers(cluster: &Cluster, node: usize, peers: &[usize]) {
    let expected: Vec<_> =
        peers.iter().map(|n| (format!("172.20.0.{}", 10 + n), "Established".to_owned())).collect();
    let look = || cluster.bgp_peers(&format!("n{node}")).into_iter().collect::<Vec<_>>();
    within(90, &format!("n{node} has the peers {peers:?}"), look, |seen| *seen == expected);
}

#[test]
fn the_way_to_reflectors_and_back_loses_no_packet() {
    let options = Options { nodes: NODES, subnets: 1, tor: "none", ..Options::default() };
    let cluster = Cluster::up("reflector", &options);
    for node in 1..=NODES {
        cluster.pod(&format!("p{node}"), &format!("n{node}"));
    }
    cluster.pods_ready();
    let pairs = [(1, 4), (2, 3), (3, 1)];
    for (from, to) in pairs {
        cluster.expect_probe(&format!("default/p{from}"), &format!("default/p{to}"), 80, "allowed");
    }
    let pings = pairs
        .map(|(from, to)| cluster.ping(&format!("default/p{from}"), &cluster.address(&format!("p{to}"))));

    for reflector in ["n1", "n4"] {
        cluster.kubectl_ok(&["label", "node", reflector, "role=reflector"]);
        let id = "projectcalico.org/RouteReflectorClusterID=244.0.0.1";
        cluster.kubectl_ok(&["annotate", "node", reflector, id]);
    }
    cluster.apply(PEERS);
    cluster.apply(&mesh(false));
    for (node, peers) in [(1, &[2, 3, 4][..]), (2, &[1, 4]), (3, &[1, 4]), (4, &[1, 2, 3])] {
        expect_peers(&cluster, node, peers);
    }

    cluster.apply(&mesh(true));
    for reflector in ["n1", "n4"] {
        cluster.kubectl_ok(&["annotate", "node", reflector, "projectcalico.org/RouteReflectorClusterID-"]);
    }
    cluster.kubectl_ok(&["delete", "bgppeer", "reflectors"]);
    for node in 1..=NODES {
        let others: Vec<usize> = (1..=NODES).filter(|other| *other != node).collect();
        expect_peers(&cluster, node, &others);
    }

    for (ping, pair) in pings.into_iter().zip(pairs) {
        let tally = ping.stop().expect("ping ran");
        assert_eq!(tally.lost(), 0, "{pair:?}: {tally}");
        assert!(tally.sent > 0, "{pair:?}: the ping did not run");
    }
}
