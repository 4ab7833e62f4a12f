//! Policies of sessions. Owns those that many sessions share, also from one plan to the next.

use std::collections::BTreeMap;
use std::sync::Arc;

use bgp::Policy;

use crate::cluster::Cluster;
use crate::export::{export_policy, import_policy};

/// Filters in order, and whether the session is internal.
pub(crate) type PolicyKey = (Vec<String>, bool);

/// What a session takes and gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Policies {
    pub(crate) import: Arc<Policy>,
    pub(crate) export: Arc<Policy>,
}

/// Policies of all sessions.
#[derive(Debug, Default)]
pub(crate) struct SharedPolicies {
    current: BTreeMap<PolicyKey, Policies>,
    /// Those of the plan before.
    former: BTreeMap<PolicyKey, Policies>,
}

impl SharedPolicies {
    /// What policies are made of may be different: they are made anew when they are asked for.
    pub(crate) fn renew(&mut self) {
        self.former = std::mem::take(&mut self.current);
    }

    /// The policies of sessions with these filters. Those that are as they were stay the same objects, so that
    /// comparing them costs nothing.
    pub(crate) fn get(&mut self, cluster: &Cluster, key: PolicyKey) -> Policies {
        if let Some(policies) = self.current.get(&key) {
            return policies.clone();
        }
        let filters: Vec<_> = key.0.iter().filter_map(|name| cluster.filters.get(name)).collect();
        let new = Policies {
            import: Arc::new(import_policy(&filters, key.1)),
            export: Arc::new(export_policy(cluster, &filters, key.1)),
        };
        let former = self.former.remove(&key);
        let keep = |old: Option<&Arc<Policy>>, new: Arc<Policy>| match old {
            Some(old) if **old == *new => old.clone(),
            _ => new,
        };
        let policies = Policies {
            import: keep(former.as_ref().map(|k| &k.import), new.import),
            export: keep(former.as_ref().map(|k| &k.export), new.export),
        };
        self.current.insert(key, policies.clone());
        policies
    }
}
