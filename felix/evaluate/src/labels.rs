//! The labels that selectors see (`spec/felix.md` §2.3, `spec/control.md` §1.13).

use model::{HostEndpoint, Labels, NetworkSet, Pod};

use crate::State;

/// A name that is longer is the value of no label.
const LONGEST_SERVICE_ACCOUNT: usize = 62;

/// A pod's own labels, those of its namespace and service account, and where it is.
pub(crate) fn of_pod(state: &State, pod: &Pod) -> Labels {
    let is_inherited = |key: &str| key.starts_with("pcns.") || key.starts_with("pcsa.");
    let mut labels = pod.labels.clone();
    labels.retain(|key, _| !is_inherited(key));
    labels.remove("projectcalico.org/serviceaccount");
    let namespace = &*pod.key.namespace;
    labels.insert("projectcalico.org/namespace".to_owned(), namespace.to_owned());
    labels.insert("projectcalico.org/orchestrator".to_owned(), "k8s".to_owned());
    if let Some(inherited) = state.namespaces.get(namespace) {
        inherit(&mut labels, "pcns.", inherited, namespace);
    }
    if let Some(account) = &pod.service_account {
        if account.len() <= LONGEST_SERVICE_ACCOUNT {
            labels.insert("projectcalico.org/serviceaccount".to_owned(), account.clone());
        }
        if let Some(inherited) = state.service_accounts.get(&(namespace.to_owned(), account.clone())) {
            inherit(&mut labels, "pcsa.", inherited, account);
        }
    }
    labels
}

/// A host endpoint's own labels, and those of its profiles where it has none of its own.
pub(crate) fn of_host_endpoint(state: &State, endpoint: &HostEndpoint) -> Labels {
    let mut labels = Labels::new();
    for profile in endpoint.profiles.iter().rev() {
        if let Some(name) = profile.strip_prefix("kns.") {
            if let Some(from) = state.namespaces.get(name) {
                inherit(&mut labels, "pcns.", from, name);
            }
        } else if let Some((namespace, name)) =
            profile.strip_prefix("ksa.").and_then(|rest| rest.split_once('.'))
        {
            let account = (namespace.to_owned(), name.to_owned());
            if let Some(from) = state.service_accounts.get(&account) {
                inherit(&mut labels, "pcsa.", from, name);
            }
        } else if let Some(profile) = state.profiles.get(profile) {
            labels.extend(profile.labels.clone());
        }
    }
    labels.extend(endpoint.labels.clone());
    labels
}

/// A network set's labels, and those of its namespace where it is in one.
pub(crate) fn of_network_set(state: &State, set: &NetworkSet) -> Labels {
    let mut labels = set.labels.clone();
    if let Some(namespace) = set.labels.get("projectcalico.org/namespace")
        && let Some(from) = state.namespaces.get(namespace)
    {
        inherit(&mut labels, "pcns.", from, namespace);
    }
    labels
}

fn inherit(labels: &mut Labels, prefix: &str, from: &Labels, name: &str) {
    for (key, value) in from {
        labels.insert(format!("{prefix}{key}"), value.clone());
    }
    labels.insert(format!("{prefix}projectcalico.org/name"), name.to_owned());
}
