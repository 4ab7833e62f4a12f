//! Settings of the cluster-wide controllers.

use std::time::Duration;

use crate::{AssignIps, Cidr, HostEndpoint, HostEndpointInterface, Labels, Node, NodeInterface, Selector};

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

/// Host endpoints for the nodes that have certain addresses, or certain interfaces.
#[derive(Clone, Debug, PartialEq)]
pub struct HostEndpointTemplate {
    /// Its part of the host endpoint's name.
    pub name: String,
    /// Addresses of the node within these are the host endpoint's.
    pub cidrs: Vec<Cidr>,
    /// A regular expression: each interface of the node that it is found in has a host endpoint of its own.
    pub interfaces: Option<String>,
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

    /// What a node gets. `finds` says whether a regular expression is found in the name of an interface.
    pub fn of(&self, node: &Node, finds: impl Fn(&str, &str) -> bool) -> Vec<HostEndpoint> {
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
            let mut labels = labels.clone();
            let own = template.labels.iter().filter(|(key, _)| *key != Self::CREATED_BY.0);
            labels.extend(own.map(|(key, value)| (key.clone(), value.clone())));
            let made_of = HostEndpoint {
                name: format!("{}-{}-auto-hep", node.name, template.name).into(),
                expected_ips,
                labels,
                ..Self::blank(node)
            };
            match &template.interfaces {
                // Without an interface, a host endpoint is where its addresses are.
                None if made_of.expected_ips.is_empty() => {}
                None => made.push(made_of),
                Some(expression) => {
                    let found = node.interfaces.iter().filter(|interface| finds(expression, &interface.name));
                    made.extend(found.map(|interface| Self::on(interface, template, made_of.clone())));
                }
            }
        }
        made
    }

    /// The host endpoint of one interface.
    fn on(
        interface: &NodeInterface,
        template: &HostEndpointTemplate,
        mut made: HostEndpoint,
    ) -> HostEndpoint {
        let name = object_name(&interface.name);
        made.name = format!("{}-{}-{name}-auto-hep", made.node, template.name).into();
        made.interface = Some(HostEndpointInterface::Named(interface.name.as_str().into()));
        for address in &interface.addresses {
            if !made.expected_ips.contains(address) {
                made.expected_ips.push(*address);
            }
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

/// An interface's name in that of an object, where other characters are not allowed: each stands as its number, so that no
/// two interfaces share a name.
fn object_name(interface: &str) -> String {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let (first, last) = (0, interface.len().saturating_sub(1));
    let mut name = String::new();
    for (at, c) in interface.char_indices() {
        let is_end = at == first || at == last;
        match allowed(c) && (!is_end || c.is_ascii_alphanumeric()) {
            true => name.push(c),
            false => name.push_str(&format!("x{:02x}", u32::from(c))),
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tunnels;

    fn node() -> Node {
        Node {
            labels: Labels::from([("zone".to_owned(), "a".to_owned())]),
            ipv4: Some(crate::NodeAddress { address: "192.0.2.11".parse().unwrap(), length: 24 }),
            internal_ips: vec!["192.0.2.11".parse().unwrap(), "2001:db8::11".parse().unwrap()],
            tunnels: Tunnels { ipip: Some("10.65.0.1".parse().unwrap()), ..Tunnels::default() },
            interfaces: vec![
                NodeInterface { name: "eth0".to_owned(), addresses: vec!["192.0.2.11".parse().unwrap()] },
                NodeInterface { name: "Lan_1".to_owned(), addresses: vec!["203.0.113.1".parse().unwrap()] },
            ],
            ..Node::named("n1")
        }
    }

    #[test]
    fn every_node_gets_one_for_all_its_interfaces() {
        let settings = AutoHostEndpoints { with_default: true, templates: Vec::new() };

        let made = settings.of(&node(), |_, _| false);

        assert_eq!(made.len(), 1);
        assert_eq!(&*made[0].name, "n1-auto-hep");
        assert_eq!(made[0].interface, Some(HostEndpointInterface::All));
        let addresses: Vec<String> = made[0].expected_ips.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["192.0.2.11", "2001:db8::11", "10.65.0.1", "203.0.113.1"]);
        let labels: Vec<_> = made[0].labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(labels, ["projectcalico.org/created-by=calico-kube-controllers", "zone=a"]);
        assert_eq!(made[0].profiles, [AutoHostEndpoints::PROFILE.into()]);
    }

    #[test]
    fn a_template_is_for_nodes_with_its_labels_and_addresses() {
        let template = |cidr: &str, nodes: &str| HostEndpointTemplate {
            name: "lan".to_owned(),
            cidrs: vec![cidr.parse().unwrap()],
            interfaces: None,
            labels: Labels::from([("net".to_owned(), "lan".to_owned())]),
            nodes: Some(nodes.parse().unwrap()),
        };
        let made = |template| {
            let settings = AutoHostEndpoints { with_default: false, templates: vec![template] };
            settings.of(&node(), |_, _| false)
        };

        let fits = made(template("192.0.2.0/24", "zone == 'a'"));
        assert_eq!((&*fits[0].name, fits[0].interface.is_none()), ("n1-lan-auto-hep", true));
        assert_eq!(fits[0].expected_ips.len(), 1);
        assert_eq!(fits[0].labels["net"], "lan");
        assert_eq!(made(template("192.0.2.0/24", "zone == 'b'")), []);
        assert_eq!(made(template("198.51.100.0/24", "all()")), []);
    }

    #[test]
    fn each_interface_that_an_expression_is_found_in_has_its_own() {
        let template = HostEndpointTemplate {
            name: "wan".to_owned(),
            cidrs: vec!["2001:db8::/64".parse().unwrap()],
            interfaces: Some("n".to_owned()),
            labels: Labels::new(),
            nodes: None,
        };
        let settings = AutoHostEndpoints { with_default: false, templates: vec![template] };

        let made = settings.of(&node(), |expression, name| name.contains(expression));

        let named = |name: &str| Some(HostEndpointInterface::Named(name.into()));
        assert_eq!(made.len(), 1);
        assert_eq!(&*made[0].name, "n1-wan-x4canx5f1-auto-hep");
        assert_eq!(made[0].interface, named("Lan_1"));
        let addresses: Vec<String> = made[0].expected_ips.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["2001:db8::11", "203.0.113.1"]);
        assert_eq!(settings.of(&node(), |_, name| name == "eth0")[0].interface, named("eth0"));
    }
}
