//! `BGPFilter`.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::int_or_string::AsNumberValue;
use super::text;

/// Rules for routes from and to the peers that name this filter.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "BGPFilter",
    plural = "bgpfilters",
    derive = "PartialEq",
    doc = "Rules for routes from and to the peers that name this filter; the first that matches decides.",
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct BGPFilterSpec {
    /// For IPv4 routes that peers announce.
    #[schemars(length(max = 500))]
    pub import_v4: Option<Vec<BGPFilterRuleV4>>,
    /// For IPv6 routes that peers announce.
    #[schemars(length(max = 500))]
    pub import_v6: Option<Vec<BGPFilterRuleV6>>,
    /// For IPv4 routes on their way to peers.
    #[schemars(length(max = 500))]
    pub export_v4: Option<Vec<BGPFilterRuleV4>>,
    /// For IPv6 routes on their way to peers.
    #[schemars(length(max = 500))]
    pub export_v6: Option<Vec<BGPFilterRuleV6>>,
}

/// How the route's prefix is compared with cidr.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BGPFilterOperator {
    Equal,
    NotEqual,
    In,
    NotIn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BGPFilterSource {
    RemotePeers,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BGPFilterPeerType {
    #[serde(rename = "eBGP")]
    External,
    #[serde(rename = "iBGP")]
    Internal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BGPFilterAction {
    Accept,
    Reject,
}

/// Communities that the route must carry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BGPFilterCommunities {
    #[schemars(length(min = 1, max = 1), inner(regex(pattern = text::COMMUNITY), length(max = 32)))]
    pub values: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BGPFilterAddCommunity {
    #[schemars(regex(pattern = text::COMMUNITY), length(max = 32))]
    pub value: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BGPFilterPrependASPath {
    #[schemars(length(min = 1, max = 10))]
    pub prefix: Vec<AsNumberValue>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BGPFilterSetPriority {
    #[schemars(range(min = 1, max = 2147483646))]
    pub value: i32,
}

/// A change of an accepted route: exactly one of the fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "(has(self.addCommunity) ? 1 : 0) + (has(self.prependASPath) ? 1 : 0) + (has(self.setPriority) ? 1 : 0) == 1",
     "message": "give exactly one of addCommunity, prependASPath and setPriority"},
]))]
pub struct BGPFilterOperation {
    pub add_community: Option<BGPFilterAddCommunity>,
    /// The path begins with these afterwards.
    #[serde(rename = "prependASPath")]
    pub prepend_as_path: Option<BGPFilterPrependASPath>,
    /// Kernel metric, which LOCAL_PREF mirrors.
    pub set_priority: Option<BGPFilterSetPriority>,
}

/// Range of the length of a prefix.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!has(self.min) || !has(self.max) || self.min <= self.max", "message": "min is greater than max"},
]))]
pub struct BGPFilterPrefixLengthV4 {
    #[schemars(range(min = 0, max = 32))]
    pub min: Option<i32>,
    #[schemars(range(min = 0, max = 32))]
    pub max: Option<i32>,
}

/// Range of the length of a prefix.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!has(self.min) || !has(self.max) || self.min <= self.max", "message": "min is greater than max"},
]))]
pub struct BGPFilterPrefixLengthV6 {
    #[schemars(range(min = 0, max = 128))]
    pub min: Option<i32>,
    #[schemars(range(min = 0, max = 128))]
    pub max: Option<i32>,
}

/// Writes the rule of one family; they differ in the pattern of addresses and the lengths.
macro_rules! rule {
    ($name:ident, $lengths:ident, $cidr:expr) => {
        /// One rule: all that is given must match; nothing given matches every route.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "camelCase")]
        #[schemars(extend("x-kubernetes-validations" = [
                    {"rule": "has(self.cidr) == has(self.matchOperator)",
                     "message": "cidr and matchOperator go together", "fieldPath": ".matchOperator"},
                    {"rule": "!has(self.operations) || size(self.operations) == 0 || self.action == 'Accept'",
                     "message": "operations are for rules that accept", "fieldPath": ".operations"},
                ]))]
        pub struct $name {
            #[schemars(regex(pattern = $cidr), length(max = 49))]
            pub cidr: Option<String>,
            pub match_operator: Option<BGPFilterOperator>,
            /// With cidr and In or NotIn: from the length of cidr to the longest unless given.
            pub prefix_length: Option<$lengths>,
            /// RemotePeers: only routes that a peer announced.
            pub source: Option<BGPFilterSource>,
            /// Outgoing interface, `*` for any text; routes that peers announced have none.
            #[schemars(regex(pattern = text::INTERFACE), length(min = 1, max = 15))]
            pub interface: Option<String>,
            pub peer_type: Option<BGPFilterPeerType>,
            pub communities: Option<BGPFilterCommunities>,
            /// How the AS path begins.
            #[serde(rename = "asPathPrefix")]
            #[schemars(length(max = 10))]
            pub as_path_prefix: Option<Vec<AsNumberValue>>,
            /// Kernel metric, which LOCAL_PREF mirrors.
            #[schemars(range(min = 1, max = 2147483646))]
            pub priority: Option<i32>,
            pub action: BGPFilterAction,
            #[schemars(length(max = 10))]
            pub operations: Option<Vec<BGPFilterOperation>>,
        }
    };
}

rule!(BGPFilterRuleV4, BGPFilterPrefixLengthV4, text::CIDR_V4);
rule!(BGPFilterRuleV6, BGPFilterPrefixLengthV6, text::CIDR_V6);
