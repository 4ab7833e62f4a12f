//! Policies in one shape, whichever API they came through.
//!
//! A Kubernetes NetworkPolicy becomes a [`Policy`] of kind `KubernetesNetworkPolicy` in tier `default` with
//! order 1000; its selectors are already scoped to their namespace (`spec/control.md` §1.13, §2.3).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::{Cidr, Family, Selector};

/// Seen from the endpoint that the policy applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    Ingress,
    Egress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyKind {
    KubernetesNetworkPolicy,
    NetworkPolicy,
    GlobalNetworkPolicy,
}

impl PolicyKind {
    /// The abbreviation in chain names: `knp`, `np`, `gnp`.
    pub fn short(self) -> &'static str {
        match self {
            PolicyKind::KubernetesNetworkPolicy => "knp",
            PolicyKind::NetworkPolicy => "np",
            PolicyKind::GlobalNetworkPolicy => "gnp",
        }
    }
}

/// Displays as Calico's policy ID: `knp/default/allow-web`, `gnp/deny-all`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyKey {
    pub kind: PolicyKind,
    /// `None` for a GlobalNetworkPolicy.
    pub namespace: Option<Arc<str>>,
    pub name: Arc<str>,
}

impl fmt::Display for PolicyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{}/{}/{}", self.kind.short(), namespace, self.name),
            None => write!(f, "{}/{}", self.kind.short(), self.name),
        }
    }
}

/// A named step in the evaluation of policies.
#[derive(Clone, Debug, PartialEq)]
pub struct Tier {
    pub name: Arc<str>,
    /// Ascending; `None` is last.
    pub order: Option<f64>,
    /// Otherwise packets that no policy of the tier decides on are dropped.
    pub default_action_is_pass: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    pub key: PolicyKey,
    pub tier: Arc<str>,
    /// Ascending, then by name; `None` is last.
    pub order: Option<f64>,
    /// Endpoints it applies to, matched on pod labels plus `projectcalico.org/namespace`,
    /// `projectcalico.org/orchestrator`, `projectcalico.org/serviceaccount`, `pcns.*` and `pcsa.*`.
    pub selector: Selector,
    /// Does it police this direction, even without a rule for it?
    pub applies_to_ingress: bool,
    pub applies_to_egress: bool,
    pub ingress: Vec<Rule>,
    pub egress: Vec<Rule>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Allow,
    Deny,
    Log,
    Pass,
}

/// All that is set must match; lists are ORed inside, `not_*` negate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub action: Action,
    pub family: Option<Family>,
    pub protocol: Option<Protocol>,
    pub not_protocol: Option<Protocol>,
    pub icmp: Option<IcmpMatch>,
    pub not_icmp: Option<IcmpMatch>,
    pub source: EntityRule,
    pub destination: EntityRule,
}

impl Rule {
    /// A rule that matches every packet.
    pub fn any(action: Action) -> Self {
        Self {
            action,
            family: None,
            protocol: None,
            not_protocol: None,
            icmp: None,
            not_icmp: None,
            source: EntityRule::default(),
            destination: EntityRule::default(),
        }
    }
}

/// One side of a packet; nothing set matches every address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntityRule {
    /// Any of these prefixes.
    pub nets: Vec<Cidr>,
    /// None of these.
    pub not_nets: Vec<Cidr>,
    /// Addresses of endpoints and network sets that match; namespace terms are already part of it.
    pub selector: Option<Selector>,
    pub not_selector: Option<Selector>,
    /// Numeric ranges and named ports, ORed.
    pub ports: Vec<PortMatch>,
    pub not_ports: Vec<PortMatch>,
}

/// ICMP type and, optionally, code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IcmpMatch {
    pub kind: u8,
    pub code: Option<u8>,
}

/// An IP protocol number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Protocol(pub u8);

impl Protocol {
    pub const ICMP: Protocol = Protocol(1);
    pub const TCP: Protocol = Protocol(6);
    pub const UDP: Protocol = Protocol(17);
    pub const ICMPV6: Protocol = Protocol(58);
    pub const SCTP: Protocol = Protocol(132);
    pub const UDPLITE: Protocol = Protocol(136);

    const NAMES: [(Protocol, &'static str); 6] = [
        (Protocol::ICMP, "ICMP"),
        (Protocol::TCP, "TCP"),
        (Protocol::UDP, "UDP"),
        (Protocol::ICMPV6, "ICMPv6"),
        (Protocol::SCTP, "SCTP"),
        (Protocol::UDPLITE, "UDPLite"),
    ];

    /// Does it have ports?
    pub fn has_ports(self) -> bool {
        matches!(self, Protocol::TCP | Protocol::UDP | Protocol::SCTP)
    }
}

impl FromStr for Protocol {
    type Err = String;

    /// Takes a name (`TCP`, any case) or a number from 1 to 255.
    fn from_str(text: &str) -> Result<Self, String> {
        let by_name = Self::NAMES.iter().find(|(_, name)| name.eq_ignore_ascii_case(text));
        match (by_name, text.parse()) {
            (Some((protocol, _)), _) => Ok(*protocol),
            (None, Ok(number)) if number > 0 => Ok(Protocol(number)),
            _ => {
                Err(format!("{text:?} is not a protocol: TCP, UDP, SCTP, ICMP, ICMPv6, UDPLite or 1 to 255"))
            }
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMES.iter().find(|(protocol, _)| protocol == self) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

impl fmt::Debug for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// First and last port of a range, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

impl PortRange {
    pub fn single(port: u16) -> Self {
        Self { first: port, last: port }
    }

    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a port, a range such as 80:90, or the name of a port")]
pub struct InvalidPort(pub String);

/// One entry of a list of ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortMatch {
    Range(PortRange),
    /// Resolved per endpoint: (address, protocol, port) of those that declare a port of this name.
    Named(String),
}

impl FromStr for PortMatch {
    type Err = InvalidPort;

    fn from_str(text: &str) -> Result<Self, InvalidPort> {
        let invalid = || InvalidPort(text.to_owned());
        if text.starts_with(|c: char| c.is_ascii_digit())
            && text.chars().all(|c| c.is_ascii_digit() || c == ':')
        {
            let (first, last) = text.split_once(':').unwrap_or((text, text));
            return match (first.parse(), last.parse()) {
                (Ok(first), Ok(last)) if first <= last => Ok(PortMatch::Range(PortRange { first, last })),
                _ => Err(invalid()),
            };
        }
        let is_name = !text.is_empty()
            && text.len() <= 63
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
        if is_name { Ok(PortMatch::Named(text.to_owned())) } else { Err(invalid()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_numbers_ranges_or_names() {
        assert_eq!("80".parse(), Ok(PortMatch::Range(PortRange::single(80))));
        assert_eq!("80:90".parse(), Ok(PortMatch::Range(PortRange { first: 80, last: 90 })));
        assert_eq!("http".parse(), Ok(PortMatch::Named("http".to_owned())));
        for text in ["", "90:80", "65536", "80:", "80:90:100", "a b", "-1:"] {
            assert!(text.parse::<PortMatch>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn protocols_are_names_or_numbers() {
        assert_eq!("tcp".parse(), Ok(Protocol::TCP));
        assert_eq!("132".parse(), Ok(Protocol::SCTP));
        assert_eq!(Protocol(4).to_string(), "4");
        for text in ["", "0", "256", "TCPP"] {
            assert!(text.parse::<Protocol>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn policy_ids_are_calicos() {
        let kind = PolicyKind::KubernetesNetworkPolicy;
        let key = PolicyKey { kind, namespace: Some("default".into()), name: "allow-web".into() };

        assert_eq!(key.to_string(), "knp/default/allow-web");
    }
}
