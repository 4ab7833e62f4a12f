//! What a speaker says of itself in a CalicoNodeStatus.

use std::time::Instant;

use bgp::{PeerConfig, PeerKind, Speaker, Start};
use bgp_api::{Owner, Subject};
use bird_lite::node_status::node_status;
use datastore::crd::NodeStatusClass;

use crate::net;

#[test]
fn sessions_are_counted_by_family_and_named_as_calico_does() {
    let now = Instant::now();
    let mut config = net::mesh(1, 3);
    config.peers.values_mut().for_each(|peer| peer.kind = PeerKind::Mesh);
    let tor = PeerConfig { kind: PeerKind::Global, ..PeerConfig::new(65001) };
    config.peers.insert("2001:db8::9".parse().unwrap(), tor);
    let mut speaker = Speaker::new(config, Start::default(), now);
    speaker.originate(net::prefix("10.0.1.0/26"), net::local());
    let owner = Owner { version: "1", started: Some(now), ..Owner::default() };
    let subject = Subject { speaker: Some(&mut speaker), owner, now };

    let all = node_status(&subject, &[NodeStatusClass::Agent, NodeStatusClass::Bgp, NodeStatusClass::Routes]);
    let none = node_status(&subject, &[]);

    let bgp = all.bgp.unwrap();
    assert_eq!((bgp.number_established_v4, bgp.number_not_established_v4), (0, 2));
    assert_eq!((bgp.number_not_established_v6, bgp.peers_v6.unwrap()[0].kind.as_str()), (1, "GlobalPeer"));
    let mesh = &bgp.peers_v4.unwrap()[0];
    assert_eq!((mesh.kind.as_str(), mesh.reason.as_deref()), ("NodeMesh", Some("not tried yet")));
    let agent = all.agent.unwrap().bird_v4.unwrap();
    assert_eq!((agent.state.as_str(), agent.router_id.as_deref()), ("Ready", Some("192.0.2.1")));
    let route = &all.routes.unwrap().routes_v4.unwrap()[0];
    assert_eq!(
        (route.kind.as_str(), route.destination.as_str(), &route.gateway),
        ("FIB", "10.0.1.0/26", &None)
    );
    assert!(none.agent.is_none() && none.bgp.is_none() && none.last_updated.is_some());
}
