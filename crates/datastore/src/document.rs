//! One object as it stands in a file, before the API server has seen it.

use std::fmt;

use kube::Resource;
use model::Update;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::convert::{self, Problem, Problems};
use crate::crd;
use crate::objects::{
    AdminNetworkPolicy, BaselineAdminNetworkPolicy, ClusterNetworkPolicy, ClusterPolicyObject, Custom,
    NamespaceObject, NetworkPolicyObject, PodObject, ServiceAccountObject,
};
use crate::watch::tracker::gone_of;

/// What an object would say.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// `NetworkPolicy default/deny`
    pub name: String,
    /// What the datastore would tell of it.
    pub update: Update,
    /// What it would tell if the object were gone.
    pub gone: Update,
    /// What makes sense and is not acted upon.
    pub warnings: Vec<Problem>,
}

/// Why a document is no object that policy depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidDocument {
    /// Kind and name, as far as they are there.
    pub name: String,
    /// Each names a field.
    pub reasons: Vec<String>,
}

impl fmt::Display for InvalidDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.reasons.join("; "))
    }
}

impl std::error::Error for InvalidDocument {}

/// Reads an object of any kind that policy depends on. Objects of a namespace that name none are of `default`.
///
/// # Errors
/// When the kind is another, or a field makes no sense; nothing is half understood.
pub fn document(value: &Value) -> Result<Document, InvalidDocument> {
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (version, kind) = (text("/apiVersion"), text("/kind"));
    let group = version.split_once('/').map_or("", |(group, _)| group);
    let namespace = text("/metadata/namespace");
    let scope = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
    let name =
        format!("{} {scope}{}", if kind.is_empty() { "object" } else { &kind }, text("/metadata/name"));
    let mut value = value.clone();
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut)
        && namespace.is_empty()
        && IN_NAMESPACES.contains(&kind.as_str())
    {
        metadata.insert("namespace".to_owned(), "default".into());
    }
    let mut problems = Problems::default();
    if text("/metadata/name").is_empty() {
        problems.add("metadata.name", "is missing");
    }
    let update = convert(group, &kind, value, &mut problems);
    let (warnings, errors): (Vec<_>, Vec<_>) = problems.0.into_iter().partition(|problem| problem.is_warning);
    match update {
        Some(update) if errors.is_empty() => Ok(Document { name, gone: gone_of(&update), update, warnings }),
        _ if errors.is_empty() => {
            let reason = format!("apiVersion {version:?}, kind {kind:?} is nothing that policy depends on");
            Err(InvalidDocument { name, reasons: vec![reason] })
        }
        _ => Err(InvalidDocument { name, reasons: errors.iter().map(Problem::to_string).collect() }),
    }
}

const IN_NAMESPACES: [&str; 7] = [
    "NetworkPolicy",
    "StagedNetworkPolicy",
    "StagedKubernetesNetworkPolicy",
    "NetworkSet",
    "Pod",
    "ServiceAccount",
    "EndpointSlice",
];

fn convert(group: &str, kind: &str, value: Value, problems: &mut Problems) -> Option<Update> {
    match group {
        "" => core(kind, value, problems),
        "networking.k8s.io" if kind == "NetworkPolicy" => {
            let object: NetworkPolicyObject = object(value, problems)?;
            convert::kubernetes_policy(&object, problems).map(policy)
        }
        "policy.networking.k8s.io" => cluster_policy(kind, value, problems),
        "projectcalico.org" => calico_policy(kind, value, problems),
        _ => None,
    }
}

fn policy(policy: model::Policy) -> Update {
    Update::Policy(policy.key.clone(), Some(Box::new(policy)))
}

fn object<T: DeserializeOwned>(value: Value, problems: &mut Problems) -> Option<T> {
    problems.take("object", serde_json::from_value(value))
}

/// A custom resource: its metadata and its spec. Fields that its schema does not know are errors, as `kubectl apply`
/// has them.
fn custom<K, S>(value: Value, problems: &mut Problems) -> Option<(Custom<K>, S)>
where
    K: Resource<DynamicType = ()>,
    S: DeserializeOwned + serde::Serialize,
{
    let object: Custom<K> = object(value, problems)?;
    let spec = if object.spec.is_null() { serde_json::json!({}) } else { object.spec.clone() };
    let parsed: S = problems.take("spec", serde_json::from_value(spec.clone()))?;
    let understood = problems.take("spec", serde_json::to_value(&parsed))?;
    unknown_fields("spec", &spec, &understood, problems);
    Some((object, parsed))
}

fn unknown_fields(path: &str, given: &Value, understood: &Value, problems: &mut Problems) {
    match (given, understood) {
        (Value::Object(given), Value::Object(understood)) => {
            for (key, value) in given.iter().filter(|(_, value)| !value.is_null()) {
                let path = format!("{path}.{key}");
                match understood.get(key) {
                    Some(known) => unknown_fields(&path, value, known, problems),
                    // What is empty may be left out.
                    None if value.as_array().is_some_and(Vec::is_empty) => {}
                    None if value.as_object().is_some_and(serde_json::Map::is_empty) => {}
                    None => problems.add(path, "unknown field"),
                }
            }
        }
        (Value::Array(given), Value::Array(understood)) => {
            for (index, (value, known)) in given.iter().zip(understood).enumerate() {
                unknown_fields(&format!("{path}[{index}]"), value, known, problems);
            }
        }
        _ => {}
    }
}

fn core(kind: &str, value: Value, problems: &mut Problems) -> Option<Update> {
    match kind {
        "Namespace" => {
            let namespace: NamespaceObject = object(value, problems)?;
            let labels = namespace.metadata.labels.unwrap_or_default();
            Some(Update::Namespace(namespace.metadata.name?, Some(labels)))
        }
        "ServiceAccount" => {
            let account: ServiceAccountObject = object(value, problems)?;
            let labels = account.metadata.labels.unwrap_or_default();
            Some(Update::ServiceAccount(account.metadata.namespace?, account.metadata.name?, Some(labels)))
        }
        "Pod" => {
            let pod: PodObject = object(value, problems)?;
            let pod = convert::pod(&pod, problems)?;
            Some(Update::Pod(pod.key.clone(), Some(pod)))
        }
        _ => None,
    }
}

fn cluster_policy(kind: &str, value: Value, problems: &mut Problems) -> Option<Update> {
    let converted = match kind {
        "ClusterNetworkPolicy" => {
            let o: ClusterPolicyObject<ClusterNetworkPolicy> = object(value, problems)?;
            convert::cluster_network_policy(&o.metadata, &o.spec, problems)
        }
        "AdminNetworkPolicy" => {
            let o: ClusterPolicyObject<AdminNetworkPolicy> = object(value, problems)?;
            convert::admin_network_policy(&o.metadata, &o.spec, problems)
        }
        "BaselineAdminNetworkPolicy" => {
            let o: ClusterPolicyObject<BaselineAdminNetworkPolicy> = object(value, problems)?;
            convert::baseline_admin_network_policy(&o.metadata, &o.spec, problems)
        }
        _ => None,
    };
    converted.map(policy)
}

fn calico_policy(kind: &str, value: Value, problems: &mut Problems) -> Option<Update> {
    let converted = match kind {
        "NetworkPolicy" => {
            let (o, spec) = custom::<crd::NetworkPolicy, _>(value, problems)?;
            convert::network_policy(&o.metadata, &spec, problems)
        }
        "GlobalNetworkPolicy" => {
            let (o, spec) = custom::<crd::GlobalNetworkPolicy, _>(value, problems)?;
            convert::global_network_policy(&o.metadata, &spec, problems)
        }
        "StagedNetworkPolicy" => {
            let (o, spec) = custom::<crd::StagedNetworkPolicy, _>(value, problems)?;
            convert::staged_network_policy(&o.metadata, &spec, problems)
        }
        "StagedGlobalNetworkPolicy" => {
            let (o, spec) = custom::<crd::StagedGlobalNetworkPolicy, _>(value, problems)?;
            convert::staged_global_network_policy(&o.metadata, &spec, problems)
        }
        "StagedKubernetesNetworkPolicy" => {
            let (o, spec) = custom::<crd::StagedKubernetesNetworkPolicy, _>(value, problems)?;
            convert::staged_kubernetes_policy(&o.metadata, &spec, problems)
        }
        _ => return calico_object(kind, value, problems),
    };
    converted.map(policy)
}

/// What policies refer to.
fn calico_object(kind: &str, value: Value, problems: &mut Problems) -> Option<Update> {
    match kind {
        "Tier" => {
            let (o, spec) = custom::<crd::Tier, _>(value, problems)?;
            let name = o.metadata.name?;
            let tier = convert::tier(&name, &spec, problems);
            Some(Update::Tier(name, Some(tier)))
        }
        "NetworkSet" => {
            let (o, spec) = custom::<crd::NetworkSet, _>(value, problems)?;
            let (key, set) = convert::network_set(&o.metadata, &spec, problems)?;
            Some(Update::NetworkSet(key, Some(set)))
        }
        "GlobalNetworkSet" => {
            let (o, spec) = custom::<crd::GlobalNetworkSet, _>(value, problems)?;
            let (key, set) = convert::global_network_set(&o.metadata, &spec, problems)?;
            Some(Update::NetworkSet(key, Some(set)))
        }
        "HostEndpoint" => {
            let (o, spec) = custom::<crd::HostEndpoint, _>(value, problems)?;
            let endpoint = convert::host_endpoint(&o.metadata, &spec, problems)?;
            Some(Update::HostEndpoint(endpoint.name.clone(), Some(Box::new(endpoint))))
        }
        "Profile" => {
            let (o, spec) = custom::<crd::Profile, _>(value, problems)?;
            let profile = convert::profile(&o.metadata, &spec, problems)?;
            Some(Update::Profile(profile.name.clone(), Some(Box::new(profile))))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reasons(value: &Value) -> String {
        document(value).unwrap_err().to_string()
    }

    #[test]
    fn an_object_of_a_file_is_what_the_datastore_would_tell() {
        let value = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "deny"}, "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
        });

        let document = document(&value).unwrap();

        let Update::Policy(key, Some(policy)) = &document.update else { panic!("{document:?}") };
        assert_eq!((key.to_string().as_str(), policy.applies_to_ingress), ("knp/default/deny", true));
        assert_eq!(document.gone, Update::Policy(key.clone(), None));
        assert_eq!(document.name, "NetworkPolicy deny");
    }

    #[test]
    fn nonsense_is_named_by_its_field() {
        let calico = |spec: Value| json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": {"name": "g"}, "spec": spec});

        assert!(reasons(&calico(json!({"selector": "a ==="}))).contains("spec.selector"));
        let typo = calico(json!({"ingress": [{"action": "Deny", "protocl": "TCP"}]}));
        assert!(reasons(&typo).contains("spec.ingress[0].protocl: unknown field"), "{}", reasons(&typo));
        assert!(
            reasons(&json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}}))
                .contains("Deployment")
        );
        assert!(reasons(&json!({})).contains("metadata.name"));
        assert!(document(&json!([1])).is_err() && document(&json!("x")).is_err());
    }
}
