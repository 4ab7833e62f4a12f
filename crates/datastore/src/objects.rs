//! Objects as they are read: only what is used is kept, the rest is skipped while parsing.
//!
//! A Pod is several kilobytes on the wire and a few hundred bytes here; managed fields are never built.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use k8s_openapi::api::networking::v1::NetworkPolicySpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::{ByteString, NamespaceResourceScope};
use kube::Resource;
use serde::{Deserialize, Deserializer, Serialize};

/// Revision of what is read of objects: typha forwards no more than this, and a program never relies on a typha that
/// leaves a field out. It stands before the list of all fields, which a test compares with the types of this file.
pub const FIELDS: u32 = revision(include_bytes!("watch/fields.txt"));

/// Annotations that are read: those whose names have this in them.
pub(crate) const ANNOTATIONS: [&str; 2] = ["projectcalico.org/", "gress-bandwidth"];

/// The number at the beginning of a text.
const fn revision(text: &[u8]) -> u32 {
    let (mut number, mut at) = (0, 0);
    while at < text.len() && text[at].is_ascii_digit() {
        number = number * 10 + (text[at] - b'0') as u32;
        at += 1;
    }
    number
}

/// A Node.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct NodeObject {
    #[serde(deserialize_with = "lean")]
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub spec: NodeSpec,
    #[serde(default)]
    pub status: NodeStatus,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSpec {
    #[serde(rename = "podCIDRs")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_cidrs: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct NodeStatus {
    #[serde(default)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<NodeStatusAddress>>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct NodeStatusAddress {
    #[serde(rename = "type")]
    pub type_: String,
    pub address: String,
}

/// A Pod.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct PodObject {
    #[serde(deserialize_with = "lean")]
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub spec: PodSpec,
    #[serde(default)]
    pub status: PodStatus,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_network: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub containers: Option<Vec<Container>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_containers: Option<Vec<Container>>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Container {
    #[serde(default)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<ContainerPort>>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPort {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub container_port: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct PodStatus {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    #[serde(rename = "podIP")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_ips: Option<Vec<PodIp>>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct PodIp {
    #[serde(default)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
}

/// A Namespace.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct NamespaceObject {
    #[serde(deserialize_with = "lean")]
    pub metadata: ObjectMeta,
}

/// A ServiceAccount.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct ServiceAccountObject {
    #[serde(deserialize_with = "lean")]
    pub metadata: ObjectMeta,
}

/// A NetworkPolicy of `networking.k8s.io/v1`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct NetworkPolicyObject {
    #[serde(deserialize_with = "lean")]
    pub metadata: ObjectMeta,
    #[serde(default)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spec: Option<NetworkPolicySpec>,
}

/// A Service.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct ServiceObject {
    #[serde(deserialize_with = "lean")]
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub spec: ServiceSpec,
    #[serde(default)]
    pub status: ServiceStatus,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    #[serde(rename = "type")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub type_: Option<String>,
    #[serde(rename = "clusterIP")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_ips: Option<Vec<String>>,
    #[serde(rename = "externalIPs")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_ips: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_traffic_policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer_class: Option<String>,
    #[serde(rename = "loadBalancerIP", skip_serializing_if = "Option::is_none")]
    pub load_balancer_ip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_families: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_family_policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<PortEntry>>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceStatus {
    pub load_balancer: LoadBalancerStatus,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct LoadBalancerStatus {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Vec<LoadBalancerIngress>>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct LoadBalancerIngress {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
}

/// An EndpointSlice of `discovery.k8s.io/v1`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSliceObject {
    #[serde(deserialize_with = "lean")]
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub address_type: String,
    #[serde(default)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Vec<Endpoint>>,
    #[serde(default)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<PortEntry>>,
}

/// A port of a Service or of an EndpointSlice.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct PortEntry {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<i32>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    #[serde(deserialize_with = "or_default")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub conditions: EndpointConditions,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct EndpointConditions {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
}

/// A Secret; its content is never shown.
#[derive(Clone, Default, Deserialize)]
pub struct SecretObject {
    #[serde(deserialize_with = "lean")]
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub data: Option<BTreeMap<String, ByteString>>,
}

impl fmt::Debug for SecretObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretObject").field("name", &self.metadata.name).finish_non_exhaustive()
    }
}

/// A custom resource of type `K` whose spec is not understood yet, so that one that cannot be read does not
/// hide the others.
#[derive(Debug, Deserialize, Serialize)]
#[serde(bound = "")]
pub struct Custom<K> {
    #[serde(deserialize_with = "lean")]
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub spec: serde_json::Value,
    #[serde(skip)]
    kind: PhantomData<fn() -> K>,
}

impl<K> Clone for Custom<K> {
    fn clone(&self) -> Self {
        Self { metadata: self.metadata.clone(), spec: self.spec.clone(), kind: PhantomData }
    }
}

impl<K: Resource<DynamicType = ()>> Resource for Custom<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind(_: &()) -> Cow<'_, str> {
        K::kind(&())
    }

    fn group(_: &()) -> Cow<'_, str> {
        K::group(&())
    }

    fn version(_: &()) -> Cow<'_, str> {
        K::version(&())
    }

    fn plural(_: &()) -> Cow<'_, str> {
        K::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// A policy of `policy.networking.k8s.io`, whose spec is read rule by rule.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(bound = "")]
pub struct ClusterPolicyObject<K> {
    #[serde(deserialize_with = "lean")]
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub spec: serde_json::Value,
    #[serde(skip)]
    kind: PhantomData<fn() -> K>,
}

/// Marks of the three kinds.
#[derive(Clone, Debug)]
pub enum ClusterNetworkPolicy {}
#[derive(Clone, Debug)]
pub enum AdminNetworkPolicy {}
#[derive(Clone, Debug)]
pub enum BaselineAdminNetworkPolicy {}

macro_rules! built_in {
    ($type:ty, $scope:ty, $group:literal, $kind:literal, $plural:literal) => {
        built_in!($type, $scope, $group, "v1", $kind, $plural);
    };
    ($type:ty, $scope:ty, $group:literal, $version:literal, $kind:literal, $plural:literal) => {
        impl Resource for $type {
            type DynamicType = ();
            type Scope = $scope;

            fn kind(_: &()) -> Cow<'_, str> {
                $kind.into()
            }

            fn group(_: &()) -> Cow<'_, str> {
                $group.into()
            }

            fn version(_: &()) -> Cow<'_, str> {
                $version.into()
            }

            fn plural(_: &()) -> Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

built_in!(NodeObject, k8s_openapi::ClusterResourceScope, "", "Node", "nodes");
built_in!(PodObject, NamespaceResourceScope, "", "Pod", "pods");
built_in!(NamespaceObject, k8s_openapi::ClusterResourceScope, "", "Namespace", "namespaces");
built_in!(ServiceAccountObject, NamespaceResourceScope, "", "ServiceAccount", "serviceaccounts");
built_in!(ServiceObject, NamespaceResourceScope, "", "Service", "services");
built_in!(SecretObject, NamespaceResourceScope, "", "Secret", "secrets");
built_in!(EndpointSliceObject, NamespaceResourceScope, "discovery.k8s.io", "EndpointSlice", "endpointslices");
built_in!(
    NetworkPolicyObject,
    NamespaceResourceScope,
    "networking.k8s.io",
    "NetworkPolicy",
    "networkpolicies"
);

built_in!(
    ClusterPolicyObject<ClusterNetworkPolicy>,
    k8s_openapi::ClusterResourceScope,
    "policy.networking.k8s.io",
    "v1alpha2",
    "ClusterNetworkPolicy",
    "clusternetworkpolicies"
);
built_in!(
    ClusterPolicyObject<AdminNetworkPolicy>,
    k8s_openapi::ClusterResourceScope,
    "policy.networking.k8s.io",
    "v1alpha1",
    "AdminNetworkPolicy",
    "adminnetworkpolicies"
);
built_in!(
    ClusterPolicyObject<BaselineAdminNetworkPolicy>,
    k8s_openapi::ClusterResourceScope,
    "policy.networking.k8s.io",
    "v1alpha1",
    "BaselineAdminNetworkPolicy",
    "baselineadminnetworkpolicies"
);

/// Takes `null` for nothing said.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Metadata without managed fields, owners and finalizers.
fn lean<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Lean {
        name: Option<String>,
        namespace: Option<String>,
        uid: Option<String>,
        resource_version: Option<String>,
        generation: Option<i64>,
        creation_timestamp: Option<Time>,
        deletion_timestamp: Option<Time>,
        labels: Option<BTreeMap<String, String>>,
        annotations: Option<BTreeMap<String, String>>,
    }
    let lean = Lean::deserialize(deserializer)?;
    let annotations = lean.annotations.map(|mut annotations| {
        annotations.retain(|key, _| ANNOTATIONS.iter().any(|part| key.contains(part)));
        annotations
    });
    Ok(ObjectMeta {
        name: lean.name,
        namespace: lean.namespace,
        uid: lean.uid,
        resource_version: lean.resource_version,
        generation: lean.generation,
        creation_timestamp: lean.creation_timestamp,
        deletion_timestamp: lean.deletion_timestamp,
        labels: lean.labels,
        annotations,
        ..ObjectMeta::default()
    })
}
