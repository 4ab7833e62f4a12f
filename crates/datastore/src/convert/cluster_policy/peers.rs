//! Subjects and peers as selectors and prefixes. Pods of the host's own network are no endpoints, and so never
//! among them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use model::{Direction, EntityRule, InvalidSelector, Selector};

use super::super::label_selector::{namespaces, pods_of};
use super::super::net;
use super::spec::{NamespacedPods, Peer, Subject};

/// The pods that a policy is for.
pub(super) fn subject(subject: &Subject) -> Result<Selector, String> {
    match (&subject.namespaces, &subject.pods) {
        (Some(namespaces), None) => of_namespaces(namespaces),
        (None, Some(pods)) => of_pods(pods),
        _ => Err("says not exactly one of namespaces and pods".to_owned()),
    }
}

/// The other side of a rule.
pub(super) fn entity(peer: &Peer, direction: Direction) -> Result<EntityRule, String> {
    let Peer { namespaces, pods, networks, nodes, domain_names } = peer;
    let given = [namespaces.is_some(), pods.is_some(), networks.is_some(), nodes.is_some()];
    if domain_names.is_some() {
        return Err("domainNames peers are not supported".to_owned());
    }
    if given.into_iter().filter(|is_given| *is_given).count() != 1 {
        return Err("a peer says not exactly one of namespaces, pods and networks".to_owned());
    }
    let selecting = |selector| EntityRule { selector: Some(selector), ..EntityRule::default() };
    match (namespaces, pods, networks) {
        (Some(namespaces), _, _) => of_namespaces(namespaces).map(selecting),
        (_, Some(pods), _) => of_pods(pods).map(selecting),
        (_, _, Some(networks)) if direction == Direction::Egress && !networks.is_empty() => {
            let nets = networks.iter().map(|text| net(text)).collect::<Result<_, _>>()?;
            Ok(EntityRule { nets, ..EntityRule::default() })
        }
        (_, _, Some(_)) => Err("networks peers are for egress, and name a network".to_owned()),
        _ => Err("nodes peers are not supported".to_owned()),
    }
}

fn of_namespaces(labels: &LabelSelector) -> Result<Selector, String> {
    selected(labels, &LabelSelector::default())
}

fn of_pods(pods: &NamespacedPods) -> Result<Selector, String> {
    selected(&pods.namespace_selector, &pods.pod_selector)
}

fn selected(of: &LabelSelector, pods: &LabelSelector) -> Result<Selector, String> {
    pods_of(&namespaces(of), pods).map_err(|error: InvalidSelector| error.to_string())
}
