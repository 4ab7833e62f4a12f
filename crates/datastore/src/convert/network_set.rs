//! NetworkSets and GlobalNetworkSets.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use model::{Cidr, Labels, NetworkSet, NetworkSetKey};

use super::{Problems, net};
use crate::crd;

/// A NetworkSet; a net that is none is left out.
pub fn network_set(
    meta: &ObjectMeta,
    spec: &crd::NetworkSetSpec,
    problems: &mut Problems,
) -> Option<(NetworkSetKey, NetworkSet)> {
    let namespace = meta.namespace.as_deref()?;
    let mut labels = labels(meta, problems);
    labels.insert(NAMESPACE.to_owned(), namespace.to_owned());
    let key = NetworkSetKey::new(Some(namespace), meta.name.as_deref()?);
    Some((key, NetworkSet { labels, nets: nets(spec.members.nets.as_deref(), problems).into() }))
}

/// A GlobalNetworkSet; a net that is none is left out.
pub fn global_network_set(
    meta: &ObjectMeta,
    spec: &crd::GlobalNetworkSetSpec,
    problems: &mut Problems,
) -> Option<(NetworkSetKey, NetworkSet)> {
    let key = NetworkSetKey::new(None, meta.name.as_deref()?);
    let labels = labels(meta, problems);
    Some((key, NetworkSet { labels, nets: nets(spec.members.nets.as_deref(), problems).into() }))
}

const NAMESPACE: &str = "projectcalico.org/namespace";

/// The object's labels without those that say where it is, which are not its own to say.
pub(super) fn labels(meta: &ObjectMeta, problems: &mut Problems) -> Labels {
    let mut labels = meta.labels.clone().unwrap_or_default();
    labels.retain(|key, _| {
        let is_own = key != NAMESPACE && !key.starts_with("pcns.") && !key.starts_with("pcsa.");
        if !is_own {
            problems.add(format!("metadata.labels[{key}]"), "is not for people to set");
        }
        is_own
    });
    labels
}

fn nets(texts: Option<&[String]>, problems: &mut Problems) -> Vec<Cidr> {
    let all = texts.unwrap_or_default().iter().enumerate();
    let mut nets: Vec<Cidr> =
        all.filter_map(|(i, text)| problems.take(&format!("spec.nets[{i}]"), net(text))).collect();
    nets.sort_unstable();
    nets.dedup();
    nets
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn meta(namespace: Option<&str>, labels: Value) -> ObjectMeta {
        let object = json!({"name": "s", "namespace": namespace, "labels": labels});
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn nets_are_sorted_and_what_is_none_is_named() {
        let spec = serde_json::from_value(json!({"nets": ["10.1.0.0/16", "192.0.2.1", "10.1.2.3/16", "x"]}));
        let mut problems = Problems::default();

        let (key, set) =
            network_set(&meta(Some("dev"), json!({"a": "b"})), &spec.unwrap(), &mut problems).unwrap();

        assert_eq!(key.to_string(), "dev/s");
        assert_eq!(*set.nets, ["10.1.0.0/16", "192.0.2.1/32"].map(|net| net.parse().unwrap()));
        assert_eq!(set.labels[NAMESPACE], "dev");
        assert_eq!(problems.0.len(), 1);
        assert_eq!(problems.0[0].field, "spec.nets[3]");
    }

    /// `spec/control.md` §9.2, 54.
    #[test]
    fn nobody_labels_a_set_into_a_namespace() {
        let labels = json!({"projectcalico.org/namespace": "kube-system", "pcns.team": "x"});
        let mut problems = Problems::default();

        let (_, global) =
            global_network_set(&meta(None, labels), &Default::default(), &mut problems).unwrap();

        assert_eq!(global.labels, Labels::new());
        assert_eq!(problems.0.len(), 2);
    }
}
