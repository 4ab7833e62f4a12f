//! Rules of Calico's policies and profiles.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::int_or_string::{PortValue, ProtocolValue};
use super::text;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RuleAction {
    Allow,
    Deny,
    Log,
    Pass,
}

/// One rule: all that is set must match.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RuleSpec {
    pub action: RuleAction,
    /// 4 or 6.
    #[schemars(extend("enum" = [4, 6]))]
    pub ip_version: Option<i32>,
    pub protocol: Option<ProtocolValue>,
    pub not_protocol: Option<ProtocolValue>,
    pub icmp: Option<IcmpSpec>,
    #[serde(rename = "notICMP")]
    pub not_icmp: Option<IcmpSpec>,
    pub source: Option<EntityRuleSpec>,
    pub destination: Option<EntityRuleSpec>,
    /// Not acted upon: a rule with this allows nothing.
    pub http: Option<HttpSpec>,
    pub metadata: Option<RuleMetadata>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct IcmpSpec {
    #[serde(rename = "type")]
    #[schemars(range(min = 0, max = 254))]
    pub type_: Option<i32>,
    #[schemars(range(min = 0, max = 255))]
    pub code: Option<i32>,
}

/// One side of a packet; nothing set matches every address.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EntityRuleSpec {
    #[schemars(length(max = 256), inner(regex(pattern = text::NET)))]
    pub nets: Option<Vec<String>>,
    #[schemars(length(max = 256), inner(regex(pattern = text::NET)))]
    pub not_nets: Option<Vec<String>>,
    #[schemars(regex(pattern = text::SELECTOR), length(max = 1024))]
    pub selector: Option<String>,
    #[schemars(regex(pattern = text::SELECTOR), length(max = 1024))]
    pub not_selector: Option<String>,
    #[schemars(regex(pattern = text::SELECTOR), length(max = 1024))]
    pub namespace_selector: Option<String>,
    /// Endpoints of one Service, in place of all of the above.
    pub services: Option<ServiceMatch>,
    #[schemars(length(max = 50))]
    pub ports: Option<Vec<PortValue>>,
    #[schemars(length(max = 50))]
    pub not_ports: Option<Vec<PortValue>>,
    pub service_accounts: Option<ServiceAccountMatch>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceMatch {
    #[schemars(length(max = 63))]
    pub name: Option<String>,
    /// The policy's own unless given.
    #[schemars(length(max = 63))]
    pub namespace: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceAccountMatch {
    #[schemars(length(max = 256))]
    pub names: Option<Vec<String>>,
    #[schemars(regex(pattern = text::SELECTOR), length(max = 1024))]
    pub selector: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HttpSpec {
    #[schemars(length(max = 20))]
    pub methods: Option<Vec<String>>,
    #[schemars(length(max = 20))]
    pub paths: Option<Vec<HttpPath>>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HttpPath {
    pub exact: Option<String>,
    pub prefix: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RuleMetadata {
    /// Comments in the kernel.
    pub annotations: Option<BTreeMap<String, String>>,
}
