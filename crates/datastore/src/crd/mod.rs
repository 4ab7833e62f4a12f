//! Custom resources of `projectcalico.org/v3`: field names, defaults and validation.
//!
//! `manifests/crds.yaml` is written from these types by a test. Fields that this release does not act upon say
//! "not acted upon yet"; they are here because people's YAML has them.
#![allow(clippy::duplicated_attributes, reason = "every printcolumn has a name and a type")]

mod bgp;
mod bgp_filter;
mod bgp_peer;
mod cluster_information;
mod felix;
mod host_endpoint;
mod int_or_string;
mod ipam;
mod kube_controllers;
mod network_set;
mod node_policy_status;
mod node_status;
mod policy;
mod pool;
mod profile;
mod rule;
mod staged;
mod text;
mod tier;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Map, Value, json};

pub use bgp::{
    BGPConfiguration, BGPConfigurationSpec, BGPPassword, BindMode, CidrEntry, NamedCommunity,
    PrefixAdvertisement, ProgramClusterRoutes,
};
pub use bgp_filter::{
    BGPFilter, BGPFilterAction, BGPFilterOperation, BGPFilterOperator, BGPFilterPeerType, BGPFilterRuleV4,
    BGPFilterRuleV6, BGPFilterSpec,
};
pub use bgp_peer::{AddPath, BGPPeer, BGPPeerSpec, Bfd, NextHopMode, ReversePeering, Role, SourceAddress};
pub use cluster_information::{ClusterInformation, ClusterInformationSpec};
pub use felix::{ChainInsertMode, EndpointToHostAction, FelixConfiguration, FelixConfigurationSpec};
pub use host_endpoint::{HostEndpoint, HostEndpointPort, HostEndpointSpec};
pub use int_or_string::{AsNumberValue, PortValue, ProtocolValue};
pub use ipam::{
    AffinityState, AllocationAttribute, BlockAffinity, BlockAffinitySpec, IPAMBlock, IPAMBlockSpec,
    IPAMConfiguration, IPAMConfigurationSpec, IPAMHandle, IPAMHandleSpec, IPReservation, IPReservationSpec,
    Switch,
};
pub use kube_controllers::{
    AssignIps, AutoHostEndpointSettings, ControllersSettings, HostEndpointTemplate,
    KubeControllersConfiguration, KubeControllersConfigurationSpec, KubeControllersConfigurationStatus,
    LoadBalancerControllerSettings, NodeControllerSettings,
};
pub use network_set::{
    GlobalNetworkSet, GlobalNetworkSetSpec, NetworkSet, NetworkSetMembers, NetworkSetSpec,
};
pub use node_policy_status::{NodePolicyEntry, NodePolicyStatus, NodePolicyStatusSpec};
pub use node_status::{
    BirdStatus, CalicoNodeStatus, CalicoNodeStatusSpec, CalicoNodeStatusStatus, LearnedFrom, NodeAgentStatus,
    NodeBgpStatus, NodeRouteStatus, NodeStatusClass, PeerStatusEntry, RouteStatusEntry,
};
pub use policy::{
    GlobalNetworkPolicy, GlobalNetworkPolicySpec, NetworkPolicy, NetworkPolicySpec, PerformanceHint,
    PolicyCondition, PolicyStatus, PolicyType,
};
pub use pool::{AssignmentMode, EncapMode, IPPool, IPPoolAllowedUse, IPPoolSpec};
pub use profile::{Profile, ProfileSpec};
pub use rule::{
    EntityRuleSpec, HttpPath, HttpSpec, IcmpSpec, RuleAction, RuleMetadata, RuleSpec, ServiceAccountMatch,
    ServiceMatch,
};
pub use staged::{
    StagedAction, StagedGlobalNetworkPolicy, StagedGlobalNetworkPolicySpec, StagedKubernetesNetworkPolicy,
    StagedKubernetesNetworkPolicySpec, StagedNetworkPolicy, StagedNetworkPolicySpec,
};
pub use tier::{Tier, TierAction, TierSpec};

/// Group and version of all of them.
pub const API_VERSION: &str = "projectcalico.org/v3";

/// Every custom resource definition as JSON, sorted by name, ready to be applied.
pub fn definitions() -> Vec<Value> {
    let mut definitions: Vec<Value> = [
        BGPConfiguration::crd(),
        BGPFilter::crd(),
        BGPPeer::crd(),
        BlockAffinity::crd(),
        CalicoNodeStatus::crd(),
        ClusterInformation::crd(),
        FelixConfiguration::crd(),
        GlobalNetworkPolicy::crd(),
        GlobalNetworkSet::crd(),
        HostEndpoint::crd(),
        IPAMBlock::crd(),
        IPAMConfiguration::crd(),
        IPAMHandle::crd(),
        IPPool::crd(),
        IPReservation::crd(),
        KubeControllersConfiguration::crd(),
        NetworkPolicy::crd(),
        NetworkSet::crd(),
        NodePolicyStatus::crd(),
        Profile::crd(),
        StagedGlobalNetworkPolicy::crd(),
        StagedKubernetesNetworkPolicy::crd(),
        StagedNetworkPolicy::crd(),
        Tier::crd(),
    ]
    .iter()
    .map(definition)
    .collect();
    definitions.sort_by(|a, b| a["metadata"]["name"].as_str().cmp(&b["metadata"]["name"].as_str()));
    definitions
}

/// Rules about the name, which the spec cannot express.
const NAME_RULES: [(&str, &str, &str); 7] = [
    (
        "BGPConfiguration",
        "self.metadata.name == 'default' || self.metadata.name.startsWith('node.')",
        "the name must be default, or node. and the name of a node",
    ),
    (
        "BGPConfiguration",
        "self.metadata.name == 'default' || !(has(self.spec.nodeToNodeMeshEnabled) || has(self.spec.asNumber))",
        "asNumber and nodeToNodeMeshEnabled are for the configuration named default only",
    ),
    ("ClusterInformation", "self.metadata.name == 'default'", "the name must be default"),
    ("IPAMConfiguration", "self.metadata.name == 'default'", "the name must be default"),
    ("Tier", "!self.metadata.name.contains('.')", "the name of a tier has no dot"),
    ("Tier", "size(self.metadata.name) <= 63", "the name of a tier has at most 63 characters"),
    (
        "Profile",
        "!(self.metadata.name.startsWith('kns.') || self.metadata.name.startsWith('ksa.'))",
        "kns. and ksa. are the profiles of namespaces and service accounts",
    ),
];

fn definition(crd: &CustomResourceDefinition) -> Value {
    let mut value = serde_json::to_value(crd).expect("a definition is plain data");
    let kind = crd.spec.names.kind.clone();
    let version = &mut value["spec"]["versions"][0];
    let schema = &mut version["schema"]["openAPIV3Schema"];
    tidy(schema, false);
    // The same sentence stands above it.
    if let Some(Value::Object(spec)) = schema.pointer_mut("/properties/spec") {
        spec.remove("description");
        // Kubernetes describes its own fields at length.
        if kind == "StagedKubernetesNetworkPolicy" {
            spec.values_mut().for_each(undescribed);
        }
    }
    let rules: Vec<Value> = NAME_RULES
        .iter()
        .filter(|(of, _, _)| *of == kind)
        .map(|(_, rule, message)| json!({"rule": rule, "message": message}))
        .collect();
    if !rules.is_empty() {
        schema["x-kubernetes-validations"] = Value::Array(rules);
    }
    value
}

/// Takes out what Rust's types put into a schema and Kubernetes does not want: `nullable` of optional fields
/// (absent is enough; null would be another way to say it), formats that it does not know, titles.
fn tidy(schema: &mut Value, keep_nullable: bool) {
    let Value::Object(schema) = schema else { return };
    if !keep_nullable {
        schema.remove("nullable");
    }
    schema.remove("title");
    for key in ["minimum", "maximum"] {
        if let Some(limit) = schema.get(key).and_then(Value::as_f64) {
            schema.insert(key.to_owned(), json!(limit as i64));
        }
    }
    let known = |format: &str| matches!(format, "int32" | "int64" | "double" | "date-time");
    let bounded = schema.contains_key("minimum") && schema.contains_key("maximum");
    if schema.get("format").and_then(Value::as_str).is_some_and(|format| bounded || !known(format)) {
        schema.remove("format");
    }
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        tidy_all(properties);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get_mut(key) {
            tidy(inner, true);
        }
    }
}

/// Takes the descriptions out of a schema.
fn undescribed(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            members.retain(|key, value| key != "description" || !value.is_string());
            members.values_mut().for_each(undescribed);
        }
        Value::Array(items) => items.iter_mut().for_each(undescribed),
        _ => {}
    }
}

fn tidy_all(properties: &mut Map<String, Value>) {
    for property in properties.values_mut() {
        tidy(property, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_of_the_agent_has_its_field() {
        let definition = serde_json::to_value(FelixConfiguration::crd()).unwrap();
        let schema = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
        let properties = definition.pointer(schema).unwrap().as_object().unwrap();

        let known: std::collections::BTreeSet<&str> = model::FelixConfiguration::fields().collect();
        let missing: Vec<_> = known.iter().filter(|field| !properties.contains_key(**field)).collect();
        let unknown: Vec<_> = properties
            .keys()
            .filter(|field| !known.contains(field.as_str()) && *field != "nodeSelector")
            .collect();
        assert!(missing.is_empty() && unknown.is_empty(), "missing {missing:?}, unknown {unknown:?}");
    }

    #[test]
    fn checked_in_definitions_are_those_of_the_types() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../manifests/crds.yaml");
        let mut text = String::from(
            "# Written from the types in crates/datastore/src/crd by: UPDATE=1 cargo test -p datastore definitions\n",
        );
        for definition in definitions() {
            text.push_str("---\n");
            text.push_str(&serde_saphyr::to_string(&definition).unwrap());
        }
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, &text).unwrap();
        }

        let checked_in = std::fs::read_to_string(path).unwrap_or_default();

        assert!(text.len() < 320_000, "{} bytes", text.len());
        assert!(
            checked_in == text,
            "manifests/crds.yaml is stale: run UPDATE=1 cargo test -p datastore definitions"
        );
    }
}
