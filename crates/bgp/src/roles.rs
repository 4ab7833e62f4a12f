//! Roles of external peers (RFC 9234). Owns what ONLY_TO_CUSTOMER says of a route that comes in or goes out; which
//! roles fit one another is `open`'s.

use bgp_packet::Role;

/// Whether a route that came from a peer is a leak (RFC 9234 §5, ingress 1 and 2), by our own role towards it, its AS
/// and the attribute.
pub(crate) fn is_leak(role: Role, peer_asn: u32, only_to_customer: Option<u32>) -> bool {
    match role {
        Role::Provider | Role::RouteServer => only_to_customer.is_some(),
        Role::Peer => only_to_customer.is_some_and(|asn| asn != peer_asn),
        Role::Customer | Role::RouteServerClient => false,
    }
}

/// The attribute that a route has once it is here (RFC 9234 §5, ingress 3).
pub(crate) fn on_import(role: Role, peer_asn: u32, only_to_customer: Option<u32>) -> Option<u32> {
    match role {
        Role::Customer | Role::Peer | Role::RouteServerClient => Some(only_to_customer.unwrap_or(peer_asn)),
        Role::Provider | Role::RouteServer => only_to_customer,
    }
}

/// The attribute that a route goes out with (RFC 9234 §5, egress).
///
/// # Errors
/// When it must not go to the peer at all.
pub(crate) fn on_export(
    role: Role,
    own_asn: u32,
    only_to_customer: Option<u32>,
) -> Result<Option<u32>, MustNotGo> {
    match role {
        Role::Customer | Role::Peer | Role::RouteServerClient if only_to_customer.is_some() => Err(MustNotGo),
        Role::Provider | Role::Peer | Role::RouteServer => Ok(Some(only_to_customer.unwrap_or(own_asn))),
        Role::Customer | Role::RouteServerClient => Ok(None),
    }
}

/// The route would leak to somebody who is not a customer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MustNotGo;

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: u32 = 65_001;
    const OWN: u32 = 64_512;
    const OTHER: u32 = 65_099;

    /// Our role; then for a route without the attribute, with the peer's AS, with another AS: is it a leak, and what
    /// the attribute is here.
    #[test]
    fn what_comes_in_is_marked_or_recognised_as_a_leak() {
        let (marked, kept, other) = (Some(PEER), Some(PEER), Some(OTHER));
        let table = [
            (Role::Provider, [(false, None), (true, kept), (true, other)]),
            (Role::RouteServer, [(false, None), (true, kept), (true, other)]),
            (Role::Peer, [(false, marked), (false, kept), (true, other)]),
            (Role::Customer, [(false, marked), (false, kept), (false, other)]),
            (Role::RouteServerClient, [(false, marked), (false, kept), (false, other)]),
        ];
        for (role, rows) in table {
            for (otc, (leak, here)) in [None, Some(PEER), Some(OTHER)].into_iter().zip(rows) {
                assert_eq!(is_leak(role, PEER, otc), leak, "{role:?} {otc:?}");
                assert_eq!(on_import(role, PEER, otc), here, "{role:?} {otc:?}");
            }
        }
    }

    #[test]
    fn what_goes_out_is_marked_and_goes_back_up_to_nobody() {
        let up = [(None, Ok(None)), (Some(OTHER), Err(MustNotGo))];
        let down = [(None, Ok(Some(OWN))), (Some(OTHER), Ok(Some(OTHER)))];
        let across = [(None, Ok(Some(OWN))), (Some(OTHER), Err(MustNotGo))];
        let table = [
            (Role::Provider, down),
            (Role::RouteServer, down),
            (Role::Peer, across),
            (Role::Customer, up),
            (Role::RouteServerClient, up),
        ];
        for (role, rows) in table {
            for (otc, expected) in rows {
                assert_eq!(on_export(role, OWN, otc), expected, "{role:?} {otc:?}");
            }
        }
    }
}
