//! Rules of policies and profiles: what they match and what they decide.

use std::sync::Arc;

use crate::{Cidr, Family, ObjectKey, PortMatch, Protocol, Selector};

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
    /// `metadata.annotations` of the rule, which become comments in the kernel.
    pub annotations: Vec<(Arc<str>, Arc<str>)>,
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
            annotations: Vec::new(),
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
    /// Endpoints of this Service: their addresses and ports on the destination's side, on the source's side
    /// their addresses alone. Stands by itself: with it, all of the above is unset.
    pub service: Option<ObjectKey>,
}

/// ICMP type and, optionally, code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IcmpMatch {
    pub kind: u8,
    pub code: Option<u8>,
}
