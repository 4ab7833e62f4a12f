//! Names and numbers that Calico's operators know: chains, IP sets, mark bits (`spec/felix.md` §1.1, §1.2, §2.1).

use kernel::{ChainName, ConntrackState, InterfaceMatch, InterfaceSide, IpSetName, Match, RuleAction};
use model::{Direction, Family, PolicyKey, Protocol};

/// Policy said allow; or the packet was forwarded past all of FORWARD.
pub(crate) const ACCEPT: u32 = 0x1_0000;
/// Policy said Pass: the rest of the tier is skipped.
pub(crate) const PASS: u32 = 0x2_0000;
/// In raw: from a pod. In policy chains: every match block so far passes.
pub(crate) const SCRATCH0: u32 = 0x8_0000;
/// In policy chains: the present match block passes.
pub(crate) const SCRATCH1: u32 = 0x10_0000;
/// Every bit of ours but the unused drop bit.
pub(crate) const ALL_MARKS: u32 = ACCEPT | PASS | SCRATCH0 | SCRATCH1;

pub(crate) const FROM_WORKLOAD_DISPATCH: &str = "cali-from-wl-dispatch";
pub(crate) const TO_WORKLOAD_DISPATCH: &str = "cali-to-wl-dispatch";

pub(crate) const NETWORK_POOLS: &str = "network-ip-pools";
pub(crate) const MASQUERADE_POOLS: &str = "masq-ipam-pools";
pub(crate) const ALL_HOSTS: &str = "all-hosts-net";
pub(crate) const THIS_HOST: &str = "this-host";

/// Chain of what a pod receives (ingress) or sends (egress).
pub(crate) fn endpoint_chain(direction: Direction, interface: &str) -> ChainName {
    let prefix = match direction {
        Direction::Ingress => "cali-tw-",
        Direction::Egress => "cali-fw-",
    };
    ChainName::limited(prefix, interface)
}

pub(crate) fn policy_chain(direction: Direction, key: &PolicyKey) -> ChainName {
    let prefix = match direction {
        Direction::Ingress => "cali-pi-",
        Direction::Egress => "cali-po-",
    };
    ChainName::limited(prefix, &key.to_string())
}

pub(crate) fn profile_chain(direction: Direction, profile: &str) -> ChainName {
    let prefix = match direction {
        Direction::Ingress => "cali-pri-",
        Direction::Egress => "cali-pro-",
    };
    ChainName::limited(prefix, profile)
}

pub(crate) fn direction_word(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

pub(crate) fn set_name(family: Family, id: &str) -> IpSetName {
    IpSetName::new(family, id)
}

/// All of `bits` are set (one bit, in Calico's spelling).
pub(crate) fn mark_set(bit: u32) -> Match {
    Match::Mark { value: bit, mask: bit, negated: false }
}

/// None of `bits` is set.
pub(crate) fn mark_clear(bits: u32) -> Match {
    Match::Mark { value: 0, mask: bits, negated: false }
}

pub(crate) fn set_mark(bits: u32) -> RuleAction {
    RuleAction::SetMark { value: bits, mask: bits }
}

pub(crate) fn clear_mark(bits: u32) -> RuleAction {
    RuleAction::SetMark { value: 0, mask: bits }
}

/// Of a connection that was let through before, or called for by one that was.
pub(crate) const ESTABLISHED: [ConntrackState; 2] = [ConntrackState::Related, ConntrackState::Established];
/// IP in IP.
pub(crate) const IPIP: Protocol = Protocol(4);

pub(crate) fn conntrack(states: &'static [ConntrackState]) -> Match {
    Match::Conntrack { states, negated: false }
}

pub(crate) fn protocol(protocol: Protocol) -> Match {
    Match::Protocol { protocol, negated: false }
}

/// Comes or goes through such an interface.
pub(crate) fn via(side: InterfaceSide, interface: InterfaceMatch) -> Match {
    match side {
        InterfaceSide::In => Match::InInterface(interface),
        InterfaceSide::Out => Match::OutInterface(interface),
    }
}
