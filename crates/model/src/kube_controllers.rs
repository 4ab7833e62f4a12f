//! Settings of the cluster-wide controllers.

use std::time::Duration;

use crate::{AssignIps, Cidr, HostEndpoint, HostEndpointInterface, Labels, Node, Selector};

/// What a KubeControllersConfiguration says, as far as it is acted upon.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KubeControllersConfiguration {
    /// How long an address that nobody seems to use is left alone; `None` takes the default, zero never lets go.
    pub leak_grace_period: Option<Duration>,
    /// Host endpoints that every node gets; `None` when they are switched off.
    pub auto_host_endpoints: Option<AutoHostEndpoints>,
    /// Which Services get addresses.
    pub assign_ips: AssignIps,
}

/// Host endpoints that follow from nodes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AutoHostEndpoints {
    /// One for all interfaces of each node.
    pub with_default: bool,
    pub templates: Vec<HostEndpointTemplate>,
}

/// A host endpoint for the nodes that have certain addresses.
#[derive(Clone, Debug, PartialEq)]
pub struct HostEndpointTemplate {
    /// Its part of the host endpoint's name.
    pub name: String,
    /// Addresses of the node within these are the host endpoint's.
    pub cidrs: Vec<Cidr>,
    /// On top of the node's own.
    pub labels: Labels,
    /// `None` selects all.
    pub nodes: Option<Selector>,
}

impl AutoHostEndpoints {
    /// The label of a host endpoint that was made so, which nobody else gives.
    pub const CREATED_BY: (&str, &str) = ("projectcalico.org/created-by", "calico-kube-controllers");
    /// The profile that they have: what no policy is about stays open.
    pub const PROFILE: &str = "projectcalico-default-allow";

    /// What a node gets.
    pub fn of(&self, node: &Node) -> Vec<HostEndpoint> {
        let mut labels = node.labels.clone();
        labels.insert(Self::CREATED_BY.0.to_owned(), Self::CREATED_BY.1.to_owned());
        let addresses = node.addresses();
        let mut made = Vec::new();
        if self.with_default {
            made.push(HostEndpoint {
                name: format!("{}-auto-hep", node.name).into(),
                interface: Some(HostEndpointInterface::All),
                expected_ips: addresses.clone(),
                labels: labels.clone(),
                ..Self::blank(node)
            });
        }
        let chosen = |template: &&HostEndpointTemplate| {
            template.nodes.as_ref().is_none_or(|nodes| nodes.matches(&node.labels))
        };
        for template in self.templates.iter().filter(chosen) {
            let within = |address: &_| template.cidrs.iter().any(|cidr| cidr.contains(*address));
            let expected_ips: Vec<_> = addresses.iter().copied().filter(within).collect();
            if expected_ips.is_empty() {
                continue;
            }
            let mut labels = labels.clone();
            let own = template.labels.iter().filter(|(key, _)| *key != Self::CREATED_BY.0);
            labels.extend(own.map(|(key, value)| (key.clone(), value.clone())));
            made.push(HostEndpoint {
                name: format!("{}-{}-auto-hep", node.name, template.name).into(),
                expected_ips,
                labels,
                ..Self::blank(node)
            });
        }
        made
    }

    fn blank(node: &Node) -> HostEndpoint {
        HostEndpoint {
            name: "".into(),
            node: node.name.clone(),
            interface: None,
            expected_ips: Vec::new(),
            labels: Labels::new(),
            profiles: vec![Self::PROFILE.into()],
            ports: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tunnels;

    fn node() -> Node {
        Node {
            name: "n1".into(),
            uid: String::new(),
            labels: Labels::from([("zone".to_owned(), "a".to_owned())]),
            ipv4: Some(crate::NodeAddress { address: "192.0.2.11".parse().unwrap(), length: 24 }),
            ipv6: None,
            internal_ips: vec!["192.0.2.11".parse().unwrap(), "2001:db8::11".parse().unwrap()],
            as_number: None,
            route_reflector_cluster_id: None,
            tunnels: Tunnels { ipip: Some("10.65.0.1".parse().unwrap()), ..Tunnels::default() },
        }
    }

    #[test]
    fn every_node_gets_one_for_all_its_interfaces() {
        let settings = AutoHostEndpoints { with_default: true, templates: Vec::new() };

        let made = settings.of(&node());

        assert_eq!(made.len(), 1);
        assert_eq!(&*made[0].name, "n1-auto-hep");
        assert_eq!(made[0].interface, Some(HostEndpointInterface::All));
        let addresses: Vec<String> = made[0].expected_ips.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["192.0.2.11", "2001:db8::11", "10.65.0.1"]);
        let labels: Vec<_> = made[0].labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(labels, ["projectcalico.org/created-by=calico-kube-controllers", "zone=a"]);
        assert_eq!(made[0].profiles, [AutoHostEndpoints::PROFILE.into()]);
    }

    #[test]
    fn a_template_is_for_nodes_with_its_labels_and_addresses() {
        let template = |cidr: &str, nodes: &str| HostEndpointTemplate {
            name: "lan".to_owned(),
            cidrs: vec![cidr.parse().unwrap()],
            labels: Labels::from([("net".to_owned(), "lan".to_owned())]),
            nodes: Some(nodes.parse().unwrap()),
        };
        let made =
            |template| AutoHostEndpoints { with_default: false, templates: vec![template] }.of(&node());

        let fits = made(template("192.0.2.0/24", "zone == 'a'"));
        assert_eq!((&*fits[0].name, fits[0].interface.is_none()), ("n1-lan-auto-hep", true));
        assert_eq!(fits[0].expected_ips.len(), 1);
        assert_eq!(fits[0].labels["net"], "lan");
        assert_eq!(made(template("192.0.2.0/24", "zone == 'b'")), []);
        assert_eq!(made(template("198.51.100.0/24", "all()")), []);
    }
}
