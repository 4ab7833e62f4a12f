//! Own Profiles.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use model::Profile;

use super::Problems;
use super::policy::Rules;
use crate::crd;

/// A Profile; `None` for those of namespaces and service accounts, which are derived from their objects.
pub fn profile(meta: &ObjectMeta, spec: &crd::ProfileSpec, problems: &mut Problems) -> Option<Profile> {
    let name = meta.name.as_deref()?;
    if name.starts_with("kns.") || name.starts_with("ksa.") {
        problems.add("metadata.name", "kns. and ksa. are the profiles of namespaces and service accounts");
        return None;
    }
    let rules = Rules { own_namespace: None };
    Some(Profile {
        name: name.into(),
        ingress: rules.ingress("spec.ingress", spec.ingress.as_deref(), problems),
        egress: rules.egress("spec.egress", spec.egress.as_deref(), problems),
        labels: spec.labels_to_apply.clone().unwrap_or_default(),
    })
}
