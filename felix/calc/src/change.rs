//! What [`crate::Calc`] says: the present state of one thing, resolved for this node.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use kernel::{Bandwidth, IpSetKind, IpSetMember};
use model::{
    Action, Cidr, Family, FelixConfiguration, HostEndpoint, HostInterface, IcmpMatch, LocalEndpoint, Mac,
    NodeName, PolicyKey, PortRange, Protocol, RateLimit, Selector, Unreachable, WireguardKey,
};

/// ID of an IP set without family and prefix: `s:`, `n:`, `svc:` or `svcnoport:` and 38 characters.
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
    Configuration(Box<FelixConfiguration>),
    /// The whole set, or `None` when nothing refers to it any more.
    IpSet(SetId, Option<IpSet>),
    IpSetDelta {
        id: SetId,
        added: Vec<IpSetMember>,
        removed: Vec<IpSetMember>,
    },
    /// A policy that some local endpoint is subject to, or that every node needs.
    Policy(PolicyKey, Option<Arc<ActivePolicy>>),
    /// A profile that some local endpoint uses: `kns.<namespace>`, or a Profile object by its name. One that
    /// there is no object for denies everything.
    Profile(Arc<str>, Option<Arc<ActiveProfile>>),
    Endpoint(HostInterface, Option<Arc<ActiveEndpoint>>),
    /// A HostEndpoint of this node, by its name.
    HostEndpoint(Arc<str>, Option<Arc<ActiveHostEndpoint>>),
    /// Addresses of all nodes, this one among them.
    Hosts(Arc<BTreeSet<IpAddr>>),
    Pools(Arc<Pools>),
    /// This node's own IPIP tunnel address, once it has one.
    TunnelAddress(Option<Ipv4Addr>),
    /// Ranges of Service addresses that are announced, so that packets to them come to nodes. Sorted, each once.
    ServiceRanges(Arc<[Cidr]>),
    /// The way to a block, or an address, of some node. `None`: nobody has it any more.
    ClusterRoute(Cidr, Option<ClusterRoute>),
    /// This node's own end of VXLAN of a family.
    VxlanEnd(Family, Option<VxlanEnd>),
    /// Another node's end.
    VxlanPeer(Family, NodeName, Option<VxlanPeer>),
    /// This node's own end of WireGuard of a family.
    WireguardEnd(Family, Option<WireguardEnd>),
    /// Another node that takes WireGuard.
    WireguardPeer(Family, NodeName, Option<WireguardPeer>),
}

/// The way to a block, or an address, of some node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterRoute {
    /// Through the LAN to the node's address.
    Direct { gateway: IpAddr },
    /// Through the VXLAN link to the address of the node's tunnel.
    Vxlan { gateway: IpAddr, mac: Mac },
    /// A block of this node: what is not more specifically routed ends here.
    Blackhole,
    /// The speaker's to route. A route of ours goes as soon as its is there.
    OfSpeaker,
    /// Ours to route, and there is no way yet. What does not need the missing tunnel stays.
    Unreachable(Unreachable),
}

/// This node's own end of VXLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VxlanEnd {
    /// The node's address in the outer header.
    pub local: IpAddr,
    /// The address of the link, once it has one.
    pub address: Option<IpAddr>,
    pub mac: Mac,
}

/// Another node's end of VXLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VxlanPeer {
    /// The address of its link.
    pub tunnel: IpAddr,
    pub mac: Mac,
    /// The node's address in the outer header.
    pub address: IpAddr,
}

/// This node's own end of WireGuard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireguardEnd {
    /// UDP port.
    pub port: u16,
    /// The address of the link, once it has one.
    pub address: Option<IpAddr>,
}

/// Another node that takes WireGuard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireguardPeer {
    pub key: WireguardKey,
    /// Where it listens.
    pub endpoint: SocketAddr,
    /// The blocks and addresses of pods that are there.
    pub destinations: Arc<BTreeSet<Cidr>>,
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
    /// Which endpoints it applies to.
    pub selector: Selector,
    /// Empty when it does not apply to the direction, too.
    pub ingress: Vec<ActiveRule>,
    pub egress: Vec<ActiveRule>,
    /// Stands in a host endpoint's untracked tiers only.
    pub do_not_track: bool,
    /// Stands in a host endpoint's tiers before destination NAT only.
    pub pre_dnat: bool,
    /// Of which version of the object this is, and of which object.
    pub generation: i64,
    pub uid: Arc<str>,
}

/// What decides where no policy did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveProfile {
    pub name: Arc<str>,
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
    /// To be seen in the kernel.
    pub annotations: Vec<(Arc<str>, Arc<str>)>,
}

impl ActiveRule {
    /// A rule that matches every packet.
    pub fn any(action: Action) -> Self {
        Self {
            action,
            family: None,
            protocol: None,
            not_protocol: None,
            icmp: None,
            not_icmp: None,
            source: ActiveEntity::default(),
            destination: ActiveEntity::default(),
            annotations: Vec::new(),
        }
    }
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
    /// In this set of (address, protocol, port): endpoints of a Service. Nothing else is set then.
    pub service: Option<SetId>,
}

/// A pod's interface on this node with what it is subject to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveEndpoint {
    pub local: LocalEndpoint,
    pub policies: EndpointPolicies,
    pub options: PodOptions,
}

/// What annotations of a Pod ask of its node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodOptions {
    /// `cni.projectcalico.org/floatingIPs`: addresses that lead to the pod, too.
    pub floating: Vec<IpAddr>,
    /// `cni.projectcalico.org/allowedSourcePrefixes`: what it may send from beside its own addresses.
    pub allowed_sources: Vec<Cidr>,
    /// `qos.projectcalico.org/ingressPacketRate` and the like: limits of what the pod receives.
    pub ingress: PodLimits,
    /// And of what it sends.
    pub egress: PodLimits,
    /// `qos.projectcalico.org/dscp`: mark of what it sends out of the cluster.
    pub dscp: Option<u8>,
    /// A bandwidth was asked for in words that a plugin behind ours acts upon as well, where there is one.
    pub shared_bandwidth: bool,
    /// An annotation that makes no sense, by its key.
    pub invalid: Option<&'static str>,
}

/// Limits of a pod's traffic in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodLimits {
    /// Packets a second.
    pub packets: Option<RateLimit>,
    /// TCP connections at a time.
    pub connections: Option<u32>,
    /// Bits a second.
    pub bandwidth: Option<Bandwidth>,
}

/// A HostEndpoint of this node with what it is subject to. Which interface it governs is not decided here.
///
/// Each list of tiers is in the order of evaluation and has only tiers with a policy that selects the endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveHostEndpoint {
    pub endpoint: HostEndpoint,
    /// Before connection tracking (`doNotTrack`).
    pub untracked: Vec<ActiveTier>,
    /// Before destination NAT (`preDNAT`); ingress alone.
    pub pre_dnat: Vec<ActiveTier>,
    /// What is forwarded (`applyOnForward`).
    pub forward: Vec<ActiveTier>,
    /// What local processes send and receive.
    pub normal: Vec<ActiveTier>,
    /// Decide where no normal policy does, in this order; after the last one packets are dropped.
    pub profiles: Vec<Arc<str>>,
}

/// May packets pass the endpoint, and past which policies?
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointPolicies {
    /// Every packet is dropped.
    Closed(ClosedReason),
    Open {
        /// Decide where no policy does, in this order; after the last one packets are dropped.
        profiles: Vec<Arc<str>>,
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
    /// Families whose VXLAN this node takes: pools use it, or did until just now.
    pub vxlan: BTreeSet<Family>,
    /// Families that travel through WireGuard, to nodes that take it.
    pub wireguard: BTreeSet<Family>,
}
