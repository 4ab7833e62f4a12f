//! The cluster's own words: what endpoints, policies, pools, nodes and BGP settings mean, apart from how any
//! API spells them.
//!
//! Owns the types that more than one part speaks about, and the stream of [`Update`]s that the datastore
//! door turns every change into. Never talks to an API, never serialises a custom resource: that is
//! `crates/datastore`.

mod bgp;
mod bgp_filter;
mod bgp_peer;
mod block;
mod cidr;
mod encapsulation;
mod endpoint;
mod felix_configuration;
mod host_endpoint;
mod kube_controllers;
mod load_balancer;
mod names;
mod network_set;
mod node;
mod pod_cidrs;
mod policy;
mod pool;
mod port;
mod profile;
mod protocol;
mod rule;
mod secret;
mod selector;
mod service;
mod tunnel;
mod update;

pub use bgp::{
    BgpCommunity, BgpConfiguration, InvalidBgpCommunity, PrefixAdvertisement, ProgramClusterRoutes,
    ServiceRanges, parse_as_number,
};
pub use bgp_filter::{BgpFilter, BgpFilterOperation, BgpFilterRule, BgpPeerType, MatchOperator};
pub use bgp_peer::{AddPath, BfdSettings, BgpPeer, BgpRole, NextHopMode, PeerSelection, PeerTarget};
pub use block::{
    AffinityState, AllocationAttributes, Block, BlockAffinity, DEFAULT_COOLDOWN, Handle, IpamConfiguration,
};
pub use cidr::{Cidr, Family, InvalidCidr};
pub use encapsulation::{Encapsulation, NodePath, Unreachable};
pub use endpoint::{EndpointPort, HostInterface, LocalEndpoint, Pod, host_interface_name};
pub use felix_configuration::{
    AllowAction, ChainInsertMode, DenyAction, DropLog, EndpointToHostAction, FailsafePort,
    FelixConfiguration, IptablesBackend, Listener, LogSeverity, NatOutgoingExclusions, NftablesMode,
    NftablesSettings, PodRoutes, RateLimit, RateUnit, ServiceLoopPrevention, SettingNote, SettingReason,
    SettingSource, TunnelMtus, WireguardSettings, parse_duration,
};
pub use host_endpoint::{HostEndpoint, HostEndpointInterface};
pub use kube_controllers::{AutoHostEndpoints, HostEndpointTemplate, KubeControllersConfiguration};
pub use load_balancer::{AssignIps, LoadBalancerRequest, LoadBalancerService};
pub use names::{Labels, NodeName, PodKey};
pub use network_set::{NetworkSet, NetworkSetKey};
pub use node::{Node, NodeAddress, NodeInterface};
pub use pod_cidrs::PodCidrBlocks;
pub use policy::{Direction, Policy, PolicyKey, PolicyKind, StagedAction, Tier};
pub use pool::{AllowedUse, AssignmentMode, EncapMode, IpPool};
pub use port::{InvalidPort, PortMatch, PortRange};
pub use profile::Profile;
pub use protocol::Protocol;
pub use rule::{Action, EntityRule, IcmpMatch, Rule};
pub use secret::{Password, Secret, SecretKey};
pub use selector::{InvalidSelector, LabelLookup, Restriction, Selector};
pub use service::{EndpointSlice, ObjectKey, Service, ServicePort};
pub use tunnel::{InvalidWireguardKey, Mac, TunnelKind, TunnelNeed, Tunnels, WireguardKey, vxlan_mac};
pub use update::Update;
