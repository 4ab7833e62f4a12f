//! Annotations of this node's pods that ask for something and cannot be understood. Who is told is others' matter.

use std::collections::BTreeMap;

use felix_calc::Change;
use model::HostInterface;

/// Remembers which pods have one.
#[derive(Debug, Default)]
pub struct PodOptions {
    /// By interface: the pod and the annotation's key.
    invalid: BTreeMap<HostInterface, (String, &'static str)>,
}

impl PodOptions {
    /// Notes what the calculation says of a pod.
    pub fn change(&mut self, change: &Change) {
        let Change::Endpoint(interface, endpoint) = change else { return };
        let found = endpoint.as_ref().and_then(|endpoint| {
            let key = endpoint.options.invalid?;
            Some((endpoint.local.pod.to_string(), key))
        });
        match found {
            Some(found) => _ = self.invalid.insert(interface.clone(), found),
            None => _ = self.invalid.remove(interface),
        }
    }

    /// One sentence for each.
    pub fn problems(&self) -> impl Iterator<Item = String> {
        self.invalid
            .values()
            .map(|(pod, key)| format!("pod {pod}: annotation {key} makes no sense, it is not acted upon"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use felix_calc::{ActiveEndpoint, ClosedReason, EndpointPolicies};
    use model::{LocalEndpoint, PodKey};

    use super::*;

    fn endpoint(invalid: Option<&'static str>) -> Change {
        let local = LocalEndpoint {
            container_id: String::new(),
            pod: PodKey::new("x", "a"),
            interface: "cali1".to_owned(),
            addresses: Vec::new(),
            mac: [0; 6],
        };
        let options = felix_calc::PodOptions { invalid, ..Default::default() };
        let policies = EndpointPolicies::Closed(ClosedReason::PodUnknown);
        Change::Endpoint("cali1".to_owned(), Some(Arc::new(ActiveEndpoint { local, policies, options })))
    }

    #[test]
    fn a_pod_is_named_as_long_as_its_annotation_makes_no_sense() {
        let mut options = PodOptions::default();

        options.change(&endpoint(Some("qos.projectcalico.org/dscp")));
        let told: Vec<String> = options.problems().collect();
        assert_eq!(
            told,
            ["pod x/a: annotation qos.projectcalico.org/dscp makes no sense, it is not acted upon"]
        );

        options.change(&endpoint(None));
        assert_eq!(options.problems().count(), 0);
        options.change(&endpoint(Some("qos.projectcalico.org/dscp")));
        options.change(&Change::Endpoint("cali1".to_owned(), None));
        assert_eq!(options.problems().count(), 0);
    }
}
