//! What is wrong with an object that somebody wants to write, by the same functions that convert it later.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use model::Tier;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::convert::{self, Problem, Problems};
use crate::crd;

/// Kinds that [`check`] knows, in plural as the API spells them; all of `projectcalico.org/v3`.
pub const CHECKED: [&str; 17] = [
    "bgpfilters",
    "bgppeers",
    "felixconfigurations",
    "globalnetworkpolicies",
    "globalnetworksets",
    "hostendpoints",
    "ipamconfigurations",
    "ippools",
    "ipreservations",
    "kubecontrollersconfigurations",
    "networkpolicies",
    "networksets",
    "profiles",
    "stagedglobalnetworkpolicies",
    "stagedkubernetesnetworkpolicies",
    "stagednetworkpolicies",
    "tiers",
];

/// Everything that is wrong with an object of `projectcalico.org/v3`; nothing about kinds that it does not
/// know. Never panics, whatever the object is.
pub fn check(object: &Value) -> Vec<Problem> {
    let mut problems = Problems::default();
    let Some(meta) = problems.take("metadata", read::<ObjectMeta>(&object["metadata"])) else {
        return problems.0;
    };
    let kind = object["kind"].as_str().unwrap_or_default();
    let tier = object["spec"]["tier"].as_str().filter(|tier| !tier.is_empty()).unwrap_or(Tier::DEFAULT);
    check_name(kind, meta.name.as_deref().unwrap_or_default(), tier, &mut problems);
    check_spec(kind, &meta, &object["spec"], &mut problems);
    problems.0
}

/// What names of policies may look like (`spec/control.md` §1.4): a dot stands behind the name of a tier, as names of
/// policies had it once, and then it is the policy's own.
fn check_name(kind: &str, name: &str, tier: &str, problems: &mut Problems) {
    let is_namespaced = match kind {
        "NetworkPolicy" | "StagedNetworkPolicy" => true,
        "GlobalNetworkPolicy" | "StagedGlobalNetworkPolicy" => false,
        _ => return,
    };
    // Those of Kubernetes and of OpenStack, as Calico's own tools show them.
    if is_namespaced && OF_OTHERS.iter().any(|prefix| name.len() > prefix.len() && name.starts_with(prefix)) {
        return;
    }
    let Some((prefix, rest)) = name.split_once('.') else { return };
    if rest.contains('.') {
        problems.add("metadata.name", "has more than one dot: it is a name, or a tier, a dot and a name");
    } else if prefix != tier {
        let reason = format!("begins with {prefix}. as if it were in tier {prefix}, but its tier is {tier}");
        problems.add("metadata.name", reason);
    }
}

const OF_OTHERS: [&str; 2] = ["knp.default.", "ossg.default."];

fn check_spec(kind: &str, meta: &ObjectMeta, spec: &Value, problems: &mut Problems) {
    let name = meta.name.as_deref().unwrap_or_default();
    match kind {
        "NetworkPolicy" => with(spec, problems, |spec, problems| {
            drop(convert::network_policy(meta, spec, problems));
        }),
        "GlobalNetworkPolicy" => with(spec, problems, |spec, problems| {
            drop(convert::global_network_policy(meta, spec, problems));
        }),
        "StagedNetworkPolicy" => with(spec, problems, |spec, problems| {
            drop(convert::staged_network_policy(meta, spec, problems));
        }),
        "StagedGlobalNetworkPolicy" => with(spec, problems, |spec, problems| {
            drop(convert::staged_global_network_policy(meta, spec, problems));
        }),
        "StagedKubernetesNetworkPolicy" => with(spec, problems, |spec, problems| {
            drop(convert::staged_kubernetes_policy(meta, spec, problems));
        }),
        "Tier" => with(spec, problems, |spec: &crd::TierSpec, problems| {
            drop(convert::tier(name, spec, problems));
        }),
        "NetworkSet" => {
            with(spec, problems, |spec, problems| drop(convert::network_set(meta, spec, problems)));
        }
        "GlobalNetworkSet" => {
            with(spec, problems, |spec, problems| drop(convert::global_network_set(meta, spec, problems)));
        }
        "HostEndpoint" => {
            with(spec, problems, |spec, problems| drop(convert::host_endpoint(meta, spec, problems)));
        }
        "Profile" => with(spec, problems, |spec, problems| drop(convert::profile(meta, spec, problems))),
        "KubeControllersConfiguration" => with(spec, problems, |spec, problems| {
            drop(convert::kube_controllers_configuration(spec, problems));
        }),
        "IPPool" => with(spec, problems, |spec, problems| drop(convert::pool(meta, spec, problems))),
        "IPReservation" => {
            with(spec, problems, |spec, problems| drop(convert::ip_reservation(spec, problems)));
        }
        "IPAMConfiguration" => {
            with(spec, problems, |spec, problems| _ = convert::ipam_configuration(spec, problems));
        }
        "FelixConfiguration" => convert::check_felix_configuration(meta, spec, problems),
        "BGPPeer" => with(spec, problems, |spec: &crd::BGPPeerSpec, problems| {
            drop(convert::bgp_peer(name, spec, problems));
        }),
        "BGPFilter" => with(spec, problems, |spec: &crd::BGPFilterSpec, problems| {
            drop(convert::bgp_filter(name, spec, problems));
        }),
        _ => {}
    }
}

fn with<S: DeserializeOwned>(spec: &Value, problems: &mut Problems, check: impl FnOnce(&S, &mut Problems)) {
    if let Some(spec) = problems.take("spec", read::<S>(spec)) {
        check(&spec, problems);
    }
}

/// Absent and null are the empty object.
fn read<T: DeserializeOwned>(value: &Value) -> Result<T, serde_json::Error> {
    let value = if value.is_null() { Value::Object(serde_json::Map::new()) } else { value.clone() };
    serde_json::from_value(value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(kind: &str, spec: Value) -> Vec<String> {
        let meta = json!({"name": "x", "namespace": "dev"});
        let object = json!({"kind": kind, "metadata": meta, "spec": spec});
        check(&object).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn problems_name_field_and_place() {
        let rule = json!({"action": "Allow", "source": {"selector": "role == 'db"}});
        let problems = said("GlobalNetworkPolicy", json!({"ingress": [rule]}));

        assert_eq!(problems.len(), 1);
        assert!(problems[0].starts_with("spec.ingress[0].source.selector: "), "{problems:?}");
        assert!(problems[0].contains("at position 8"), "{problems:?}");
    }

    #[test]
    fn a_dot_in_the_name_of_a_policy_stands_behind_its_tier() {
        let said = |kind: &str, name: &str, tier: Option<&str>| {
            let spec = tier.map_or(json!({}), |tier| json!({"tier": tier}));
            let meta = json!({"name": name, "namespace": "dev"});
            let problems = check(&json!({"kind": kind, "metadata": meta, "spec": spec}));
            problems.iter().map(|problem| problem.field.clone()).collect::<Vec<_>>()
        };

        for (kind, name, tier) in [
            ("GlobalNetworkPolicy", "web", Some("security")),
            ("GlobalNetworkPolicy", "security.web", Some("security")),
            ("StagedGlobalNetworkPolicy", "default.web", None),
            ("NetworkPolicy", "default.web", Some("default")),
            ("NetworkPolicy", "knp.default.a.b.c", None),
            ("GlobalNetworkSet", "a.b.c", None),
        ] {
            assert_eq!(said(kind, name, tier), [""; 0], "{kind} {name}");
        }
        for (kind, name, tier) in [
            ("GlobalNetworkPolicy", "security.web", None),
            ("GlobalNetworkPolicy", "knp.default.web", None),
            ("NetworkPolicy", "a.b.c", Some("a")),
            ("StagedNetworkPolicy", "default.web", Some("security")),
        ] {
            assert_eq!(said(kind, name, tier), ["metadata.name"], "{kind} {name}");
        }
    }

    #[test]
    fn nothing_that_anybody_sends_panics() {
        let kinds = [
            "Tier",
            "NetworkPolicy",
            "HostEndpoint",
            "KubeControllersConfiguration",
            "FelixConfiguration",
            "BGPPeer",
            "Profile",
            "NetworkSet",
        ];
        for kind in kinds {
            for spec in
                [json!(null), json!(3), json!([]), json!("x"), json!({"ingress": 3, "node": [], "nets": {}})]
            {
                said(kind, spec);
            }
        }
        assert_eq!(check(&json!(null)), []);
        assert_eq!(said("Pod", json!({})), [""; 0]);
        let long = format!("{}a == 'b'", "(".repeat(64 << 10));
        assert_eq!(said("NetworkPolicy", json!({"selector": long})).len(), 1);
    }
}
