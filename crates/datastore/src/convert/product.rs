//! Rules of the Kubernetes APIs, which name peers and ports apart, as rules of ours, which have one of each.

use model::{Direction, EntityRule, PortMatch, Protocol, Rule};

/// A protocol, and its ports; none means all of them.
pub(super) type Resolved = (Option<Protocol>, Vec<PortMatch>);

/// Every peer with every protocol; everything else is `template`'s.
pub(super) fn product(
    direction: Direction,
    template: &Rule,
    peers: &[EntityRule],
    matches: &[Resolved],
) -> impl Iterator<Item = Rule> {
    let of_peer = move |peer: &EntityRule| {
        let of_match = |(protocol, ports): &Resolved| {
            let mut rule = Rule { protocol: *protocol, ..template.clone() };
            match direction {
                Direction::Ingress => {
                    rule.source = peer.clone();
                    rule.destination.ports = ports.clone();
                }
                Direction::Egress => {
                    rule.destination = EntityRule { ports: ports.clone(), ..peer.clone() };
                }
            }
            rule
        };
        matches.iter().map(of_match).collect::<Vec<_>>()
    };
    peers.iter().flat_map(of_peer)
}
