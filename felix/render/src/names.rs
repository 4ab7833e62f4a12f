//! Names that Calico's operators know, of chains and IP sets, and matches that many rules share
//! (`spec/felix.md` §1.2, §1.4, §2.1).

use kernel::{
    ChainName, ConntrackState, InterfaceMatch, InterfaceSide, IpSetName, Match, PacketRule, PacketSide,
    RuleAction,
};
use model::{Direction, Family, PolicyKey, Protocol};

pub(crate) const FROM_WORKLOAD_DISPATCH: &str = "cali-from-wl-dispatch";
pub(crate) const TO_WORKLOAD_DISPATCH: &str = "cali-to-wl-dispatch";
pub(crate) const FROM_HOST_ENDPOINT: &str = "cali-from-host-endpoint";
pub(crate) const TO_HOST_ENDPOINT: &str = "cali-to-host-endpoint";
pub(crate) const FROM_HOST_ENDPOINT_FORWARD: &str = "cali-from-hep-forward";
pub(crate) const TO_HOST_ENDPOINT_FORWARD: &str = "cali-to-hep-forward";
/// Stands for the interface in the chains of a host endpoint `*`.
pub(crate) const ANY_INTERFACE: &str = "any-interface-at-all";

pub(crate) const NETWORK_POOLS: &str = "network-ip-pools";
pub(crate) const MASQUERADE_POOLS: &str = "masq-ipam-pools";
pub(crate) const ALL_HOSTS: &str = "all-hosts-net";
pub(crate) const ALL_VXLAN: &str = "all-vxlan-net";
pub(crate) const DSCP_SOURCES: &str = "dscp-src-net";
pub(crate) const THIS_HOST: &str = "this-host";

/// Of a connection that was let through before, or called for by one that was.
pub(crate) const ESTABLISHED: [ConntrackState; 2] = [ConntrackState::Related, ConntrackState::Established];
/// IP in IP.
pub(crate) const IPIP: Protocol = Protocol(4);

pub(crate) fn by_direction<T>(direction: Direction, ingress: T, egress: T) -> T {
    match direction {
        Direction::Ingress => ingress,
        Direction::Egress => egress,
    }
}

/// The chains of a policy in the filter table: for what comes to pods, and for what leaves them.
pub fn policy_chains(key: &PolicyKey) -> [ChainName; 2] {
    [Direction::Ingress, Direction::Egress].map(|direction| policy_chain(direction, key))
}

pub(crate) fn policy_chain(direction: Direction, key: &PolicyKey) -> ChainName {
    ChainName::limited(by_direction(direction, "cali-pi-", "cali-po-"), &key.to_string())
}

pub(crate) fn profile_chain(direction: Direction, profile: &str) -> ChainName {
    ChainName::limited(by_direction(direction, "cali-pri-", "cali-pro-"), profile)
}

pub(crate) fn direction_word(direction: Direction) -> &'static str {
    by_direction(direction, "ingress", "egress")
}

pub(crate) fn set_name(family: Family, id: &str) -> IpSetName {
    IpSetName::new(family, id)
}

/// The address of one side is in a set of addresses.
pub(crate) fn in_set(family: Family, id: &str, side: PacketSide, negated: bool) -> Match {
    Match::Set { name: set_name(family, id), side, with_port: false, negated }
}

pub(crate) fn conntrack(states: &'static [ConntrackState]) -> Match {
    Match::Conntrack { states, negated: false }
}

pub(crate) fn protocol(protocol: Protocol) -> Match {
    Match::Protocol { protocol, negated: false }
}

/// The address of one side is one of this host's.
pub(crate) fn local(side: PacketSide) -> Match {
    Match::LocalAddress { side, negated: false, of_out_interface: false }
}

/// Comes or goes through such an interface.
pub(crate) fn via(side: InterfaceSide, interface: InterfaceMatch) -> Match {
    match side {
        InterfaceSide::In => Match::InInterface(interface),
        InterfaceSide::Out => Match::OutInterface(interface),
    }
}

pub(crate) fn returns(comment: &str) -> PacketRule {
    PacketRule::new(RuleAction::Return).comment(comment)
}
