//! What the datastore tells: one object's present state, or that it is gone.

use std::sync::Arc;

use crate::{
    BgpConfiguration, BgpFilter, BgpPeer, Block, BlockAffinity, Cidr, EndpointSlice, FelixConfiguration,
    HostEndpoint, IpPool, IpamConfiguration, Labels, NetworkSet, NetworkSetKey, Node, NodeName, ObjectKey,
    Pod, PodKey, Policy, PolicyKey, Profile, Secret, Service, Tier,
};

/// One change. `None` means that the object is gone (or invalid, which counts as gone and is logged).
///
/// Updates are levels, not edges: applying one twice changes nothing, and only the last of a key counts.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    Node(NodeName, Option<Node>),
    Pod(PodKey, Option<Pod>),
    /// Labels of a namespace.
    Namespace(String, Option<Labels>),
    /// Labels of a service account, by namespace and name.
    ServiceAccount(String, String, Option<Labels>),
    Policy(PolicyKey, Option<Box<Policy>>),
    Tier(String, Option<Tier>),
    NetworkSet(NetworkSetKey, Option<NetworkSet>),
    HostEndpoint(Arc<str>, Option<Box<HostEndpoint>>),
    /// Own Profile objects only.
    Profile(Arc<str>, Option<Box<Profile>>),
    Pool(String, Option<IpPool>),
    Block(Cidr, Option<Box<Block>>),
    /// By node and block.
    BlockAffinity(NodeName, Cidr, Option<BlockAffinity>),
    BgpConfiguration(Option<Box<BgpConfiguration>>),
    BgpPeer(String, Option<Box<BgpPeer>>),
    BgpFilter(String, Option<Box<BgpFilter>>),
    /// Services with an address; the others count as gone.
    Service(ObjectKey, Option<Service>),
    EndpointSlice(ObjectKey, Option<EndpointSlice>),
    /// By name, of the speaker's own namespace; only those that were asked for. `None`: no longer asked for.
    Secret(String, Option<Secret>),
    IpamConfiguration(Option<IpamConfiguration>),
    /// By name: ranges that nobody gets who does not ask for them.
    IpReservation(String, Option<Vec<Cidr>>),
    FelixConfiguration(Option<Box<FelixConfiguration>>),
    /// What of an object makes no sense, by its kind and name, in words. What of it does has an update of its own.
    NotUnderstood(Arc<str>, Option<Arc<str>>),
    /// Every kind has been listed once; sent once, and only then may the kernel be touched.
    InSync,
}
