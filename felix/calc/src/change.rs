//! What [`crate::Calc`] says: the present state of one thing, resolved for this node.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use kernel::{IpSetKind, IpSetMember};
use model::{
    Action, Cidr, Family, FelixConfiguration, HostInterface, IcmpMatch, LocalEndpoint, PolicyKey, PortRange,
    Protocol,
};

/// ID of an IP set without family and prefix: `s:` or `n:` and 38 characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetId(Arc<str>);

impl SetId {
    pub(crate) fn new(id: String) -> Self {
        Self(id.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One difference. The changes of one flush stand in an order in which nothing refers to what is not there.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    Configuration(FelixConfiguration),
    /// The whole set, or `None` when nothing refers to it any more.
    IpSet(SetId, Option<IpSet>),
    IpSetDelta {
        id: SetId,
        added: Vec<IpSetMember>,
        removed: Vec<IpSetMember>,
    },
    /// A policy that some local endpoint is subject to.
    Policy(PolicyKey, Option<Arc<ActivePolicy>>),
    /// The allow-all profile `kns.<namespace>` is or is no longer used by a local endpoint.
    Profile {
        namespace: Arc<str>,
        active: bool,
    },
    Endpoint(HostInterface, Option<Arc<ActiveEndpoint>>),
    /// Addresses of all nodes, this one among them.
    Hosts(Arc<BTreeSet<IpAddr>>),
    Pools(Arc<Pools>),
    /// This node's own IPIP tunnel address, once it has one.
    TunnelAddress(Option<Ipv4Addr>),
}

/// An IP set of both families; the renderer splits it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpSet {
    pub kind: IpSetKind,
    /// Each once, sorted.
    pub members: Vec<IpSetMember>,
}

/// A policy whose selectors and named ports have become IP sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActivePolicy {
    pub key: PolicyKey,
    pub tier: Arc<str>,
    /// Empty when it does not apply to the direction, too.
    pub ingress: Vec<ActiveRule>,
    pub egress: Vec<ActiveRule>,
}

/// As [`model::Rule`]: all that is set must match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveRule {
    pub action: Action,
    pub family: Option<Family>,
    pub protocol: Option<Protocol>,
    pub not_protocol: Option<Protocol>,
    pub icmp: Option<IcmpMatch>,
    pub not_icmp: Option<IcmpMatch>,
    pub source: ActiveEntity,
    pub destination: ActiveEntity,
}

/// One side of a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActiveEntity {
    /// Any of these prefixes; none means every address.
    pub nets: Vec<Cidr>,
    /// None of these.
    pub not_nets: Vec<Cidr>,
    /// In this set of addresses.
    pub set: Option<SetId>,
    /// Not in this set of addresses.
    pub not_set: Option<SetId>,
    /// Any of these ranges or, ORed, of `named_ports`.
    pub ports: Vec<PortRange>,
    /// Sets of (address, protocol, port).
    pub named_ports: Vec<SetId>,
    pub not_ports: Vec<PortRange>,
    pub not_named_ports: Vec<SetId>,
}

/// A pod's interface on this node with what it is subject to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveEndpoint {
    pub local: LocalEndpoint,
    pub policies: EndpointPolicies,
}

impl ActiveEndpoint {
    /// The namespace whose profile it uses.
    pub(crate) fn profile(&self) -> Option<&Arc<str>> {
        match &self.policies {
            EndpointPolicies::Closed(_) => None,
            EndpointPolicies::Open { namespace, .. } => Some(namespace),
        }
    }
}

/// May packets pass the endpoint, and past which policies?
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointPolicies {
    /// Every packet is dropped.
    Closed(ClosedReason),
    Open {
        /// Whose profile decides where no policy does.
        namespace: Arc<str>,
        /// In the order of evaluation; only tiers with a policy that selects the endpoint.
        tiers: Vec<ActiveTier>,
    },
}

/// Why an endpoint is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClosedReason {
    /// Labels are not known: the datastore has no such Pod (yet, or any more).
    PodUnknown,
    /// The labels that it inherits are not known.
    NamespaceUnknown,
}

impl fmt::Display for ClosedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ClosedReason::PodUnknown => "the Pod is not known",
            ClosedReason::NamespaceUnknown => "the Namespace is not known",
        })
    }
}

/// The policies of one tier that select an endpoint, in the order of evaluation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveTier {
    pub name: Arc<str>,
    /// Otherwise a packet that none of the policies decides on is dropped.
    pub default_action_is_pass: bool,
    pub ingress: Vec<PolicyKey>,
    pub egress: Vec<PolicyKey>,
}

/// What the node must know of the IP pools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pools {
    /// Pool network: pods and tunnels of all nodes, disabled pools too.
    pub network: BTreeSet<Cidr>,
    /// Whose traffic to elsewhere is masqueraded.
    pub masquerade: BTreeSet<Cidr>,
    /// Does any pool use IPIP?
    pub ipip: bool,
}
