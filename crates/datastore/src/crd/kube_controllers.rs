//! `KubeControllersConfiguration`.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ipam::Switch;
use super::text;

/// Settings of `controllers`; the one named default counts.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "KubeControllersConfiguration",
    plural = "kubecontrollersconfigurations",
    shortname = "kcconfig",
    status = "KubeControllersConfigurationStatus",
    derive = "PartialEq",
    doc = "Settings of `controllers`; the one named default counts.",
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct KubeControllersConfigurationSpec {
    /// Settings by controller. What else Calico has here is kept, and not acted upon.
    pub controllers: Option<ControllersSettings>,
}

/// Settings by controller. Controllers that copy objects into another store have nothing to do here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct ControllersSettings {
    /// What follows from nodes.
    pub node: Option<NodeControllerSettings>,
    /// Addresses of Services of type LoadBalancer.
    pub load_balancer: Option<LoadBalancerControllerSettings>,
}

/// Addresses of Services of type LoadBalancer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct LoadBalancerControllerSettings {
    /// Which Services without a class get addresses: all unless given, or those that ask for an address or a pool.
    #[serde(rename = "assignIPs")]
    pub assign_ips: Option<AssignIps>,
}

/// Which Services of type LoadBalancer without a class get addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AssignIps {
    /// All.
    AllServices,
    /// Those that ask for an address or a pool.
    RequestedServicesOnly,
}

/// What counts: the settings with their defaults, as the controllers act upon them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct KubeControllersConfigurationStatus {
    /// Settings that environment variables decide, whatever the object says.
    pub environment_vars: Option<BTreeMap<String, String>>,
    /// Settings that are in force.
    pub running_config: Option<KubeControllersConfigurationSpec>,
}

/// What follows from nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct NodeControllerSettings {
    /// How long an address that nobody seems to use is left alone, such as 15m; 0s switches its release off.
    #[schemars(regex(pattern = text::DURATION), length(max = 32))]
    pub leak_grace_period: Option<String>,
    /// Host endpoints that are made for every node.
    pub host_endpoint: Option<AutoHostEndpointSettings>,
}

/// Host endpoints that are made for every node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AutoHostEndpointSettings {
    /// Whether any are made; Disabled unless given.
    pub auto_create: Option<Switch>,
    /// Whether one for all interfaces of a node is made, beside those of templates; Enabled unless given.
    pub create_default_host_endpoint: Option<Switch>,
    /// Further ones, each for some nodes and the interfaces that it names.
    #[schemars(length(max = 32))]
    pub templates: Option<Vec<HostEndpointTemplate>>,
}

/// A host endpoint for some nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostEndpointTemplate {
    /// Its place in the name: node, this, and auto-hep with hyphens between.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub generate_name: String,
    /// Addresses of the node within these become expectedIPs.
    #[serde(rename = "interfaceCIDRs")]
    #[schemars(length(max = 64), inner(regex(pattern = text::NET), length(max = 49)))]
    pub interface_cidrs: Option<Vec<String>>,
    /// A regular expression: each interface of the node in whose name it is found has a host endpoint of its own, with
    /// the interface's addresses besides those of interfaceCIDRs. Interfaces of pods, tunnels and bridges are none.
    #[schemars(length(max = 1024))]
    pub interface_pattern: Option<String>,
    /// Labels on top of the node's.
    pub labels: Option<BTreeMap<String, String>>,
    /// Nodes that it is for; all unless given.
    #[schemars(length(max = 65536))]
    pub node_selector: Option<String>,
}
