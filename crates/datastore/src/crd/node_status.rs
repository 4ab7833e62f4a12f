//! `CalicoNodeStatus`: what a node's speaker says of itself, on request.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which node is to tell what, and how often.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "CalicoNodeStatus",
    plural = "caliconodestatuses",
    shortname = "nodestatus",
    status = "CalicoNodeStatusStatus",
    derive = "PartialEq",
    doc = "What a node's speaker says of itself: the node fills the status again and again.",
    printcolumn(name = "NODE", type_ = "string", json_path = ".spec.node"),
    printcolumn(name = "UPDATED", type_ = "date", json_path = ".status.lastUpdated")
)]
#[serde(rename_all = "camelCase")]
pub struct CalicoNodeStatusSpec {
    /// Name of the node.
    #[schemars(length(max = 253))]
    pub node: String,
    /// What is told of.
    #[serde(default)]
    #[schemars(length(max = 3))]
    pub classes: Vec<NodeStatusClass>,
    /// Seconds between two updates; 0 stops them.
    #[serde(default = "default_period")]
    #[schemars(range(min = 0, max = 86_400))]
    pub update_period_seconds: i64,
}

fn default_period() -> i64 {
    10
}

/// A part of the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NodeStatusClass {
    /// State of the speaker.
    Agent,
    /// Its sessions.
    #[serde(rename = "BGP")]
    Bgp,
    /// Its routes.
    Routes,
}

/// What the node says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CalicoNodeStatusStatus {
    /// When it said so, RFC 3339.
    pub last_updated: Option<String>,
    /// With class Agent.
    pub agent: Option<NodeAgentStatus>,
    /// With class BGP.
    pub bgp: Option<NodeBgpStatus>,
    /// With class Routes.
    pub routes: Option<NodeRouteStatus>,
}

/// The speaker, by family as Calico has two daemons.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeAgentStatus {
    #[serde(rename = "birdV4")]
    pub bird_v4: Option<BirdStatus>,
    #[serde(rename = "birdV6")]
    pub bird_v6: Option<BirdStatus>,
}

/// State of a speaker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BirdStatus {
    /// Ready or NotReady.
    pub state: String,
    pub version: Option<String>,
    #[serde(rename = "routerID")]
    pub router_id: Option<String>,
    pub last_boot_time: Option<String>,
    pub last_reconfiguration_time: Option<String>,
}

/// Sessions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeBgpStatus {
    #[serde(rename = "numberEstablishedV4")]
    pub number_established_v4: i64,
    #[serde(rename = "numberNotEstablishedV4")]
    pub number_not_established_v4: i64,
    #[serde(rename = "numberEstablishedV6")]
    pub number_established_v6: i64,
    #[serde(rename = "numberNotEstablishedV6")]
    pub number_not_established_v6: i64,
    #[serde(rename = "peersV4")]
    pub peers_v4: Option<Vec<PeerStatusEntry>>,
    #[serde(rename = "peersV6")]
    pub peers_v6: Option<Vec<PeerStatusEntry>>,
}

/// One session.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PeerStatusEntry {
    #[serde(rename = "peerIP")]
    pub peer_ip: String,
    /// NodeMesh, NodePeer or GlobalPeer.
    #[serde(rename = "type")]
    pub kind: String,
    /// Idle, Connect, Active, OpenSent, OpenConfirm or Established.
    pub state: String,
    /// When that began.
    pub since: String,
    /// Why it is not Established, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Routes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeRouteStatus {
    #[serde(rename = "routesV4")]
    pub routes_v4: Option<Vec<RouteStatusEntry>>,
    #[serde(rename = "routesV6")]
    pub routes_v6: Option<Vec<RouteStatusEntry>>,
}

/// One route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteStatusEntry {
    /// FIB for the route in use, RIB for the others.
    #[serde(rename = "type")]
    pub kind: String,
    pub destination: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learned_from: Option<LearnedFrom>,
}

/// Where a route came from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LearnedFrom {
    /// Static, NodeMesh or BGPPeer.
    pub source_type: String,
    #[serde(rename = "peerIP", skip_serializing_if = "Option::is_none")]
    pub peer_ip: Option<String>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A merge patch takes a null at the top for "away with it", and inside a list for a value, which is refused.
    #[test]
    fn entries_of_lists_have_no_nulls() {
        let peer = serde_json::to_value(PeerStatusEntry::default()).unwrap();
        let learned_from = Some(LearnedFrom { source_type: "Static".into(), peer_ip: None });
        let route = RouteStatusEntry { learned_from, ..RouteStatusEntry::default() };

        assert_eq!(peer, json!({ "peerIP": "", "type": "", "state": "", "since": "" }));
        let route = serde_json::to_value(route).unwrap();
        let expected = json!({ "type": "", "destination": "", "learnedFrom": { "sourceType": "Static" } });
        assert_eq!(route, expected);
    }
}
