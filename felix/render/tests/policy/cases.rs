//! The NetworkPolicy cases of `tests/e2e/data/netpol-cases.json`: topologies, steps, truth tables.
//!
//! Needs serde alone, so that a lab can take this file as it is and run the same cases on real pods.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;

pub type Labels = BTreeMap<String, String>;

#[derive(Clone, Debug, Deserialize)]
pub struct Cases {
    pub topologies: BTreeMap<String, Topology>,
    pub cases: Vec<Case>,
}

/// What is there before the first step of a case.
#[derive(Clone, Debug, Deserialize)]
pub struct Topology {
    /// Labels by name.
    pub namespaces: BTreeMap<String, Labels>,
    /// By `namespace/name`.
    pub pods: BTreeMap<String, CasePod>,
    /// Node addresses by name.
    pub nodes: BTreeMap<String, IpAddr>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct CasePod {
    pub labels: Labels,
    pub ip: IpAddr,
    pub node: String,
    pub ports: Vec<CasePort>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct CasePort {
    pub name: String,
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Case {
    pub id: String,
    pub title: String,
    pub topology: String,
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Step {
    pub actions: Vec<CaseAction>,
    /// Port and protocol.
    pub probes: Vec<(u16, String)>,
    /// The pods in the order of rows (sources) and columns (destinations).
    pub order: Vec<String>,
    /// Rows by `port/protocol`: `.` allowed, `X` denied, `#` not asserted.
    pub expected: BTreeMap<String, Vec<String>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CaseAction {
    /// A whole `networking.k8s.io/v1` NetworkPolicy.
    CreatePolicy(Value),
    UpdatePolicy(Value),
    DeletePolicy {
        namespace: String,
        name: String,
    },
    CreatePod {
        /// `namespace/name`.
        pod: String,
        #[serde(flatten)]
        spec: CasePod,
    },
    DeletePod {
        pod: String,
    },
    CreateNamespace {
        name: String,
        labels: Labels,
    },
    DeleteNamespace {
        name: String,
    },
    SetNamespaceLabels {
        name: String,
        labels: Labels,
    },
    SetPodLabels {
        pod: String,
        labels: Labels,
    },
}

impl Cases {
    /// The cases of the repository.
    pub fn load() -> Self {
        let text =
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/e2e/data/netpol-cases.json"));
        serde_json::from_str(text).unwrap_or_else(|error| panic!("netpol-cases.json: {error}"))
    }
}

/// `namespace/name` in two.
pub fn split(pod: &str) -> (&str, &str) {
    pod.split_once('/').unwrap_or_else(|| panic!("{pod:?} is not namespace/name"))
}
