//! Nodes of a cluster as clients. Owns what the API server says of nodes, and which of them are clients.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bgp::{Config, PeerConfig, PeerKey};
use datastore::{Datastore, Interest, Kind};
use model::{Node, NodeName, Selector, Update};
use tokio::sync::mpsc;

/// Updates that are taken in before they are acted upon.
const BATCH: usize = 1024;

/// Which nodes are clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    /// Out of the cluster; a Pod needs none.
    pub(crate) kubeconfig: Option<PathBuf>,
    pub(crate) selector: Arc<Selector>,
    /// Settings of each.
    pub(crate) template: PeerConfig,
}

/// The nodes of the cluster as they are now. Without a cluster it is silent.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    updates: Option<mpsc::Receiver<Update>>,
    kubeconfig: Option<PathBuf>,
    nodes: BTreeMap<NodeName, Node>,
    /// AS of nodes that name none.
    as_number: u32,
    in_sync: bool,
}

impl Nodes {
    /// Watches a cluster, and waits for its first list so long.
    pub(crate) async fn watch(choice: &Choice, patience: Duration) -> datastore::Result<Self> {
        let cluster = Datastore::connect(choice.kubeconfig.as_deref()).await?;
        let interest = Interest {
            kinds: vec![Kind::Node, Kind::BgpConfiguration],
            ..Interest::speaker(NodeName::from("route-reflector"), Default::default())
        };
        let as_number = model::BgpConfiguration::default().as_number;
        let updates = Some(cluster.watch(interest));
        let kubeconfig = choice.kubeconfig.clone();
        let mut nodes = Self { updates, kubeconfig, as_number, ..Self::default() };
        let listed = tokio::time::timeout(patience, async {
            while !nodes.in_sync {
                nodes.changed().await;
            }
        });
        if listed.await.is_err() && !patience.is_zero() {
            tracing::error!("the API server does not list its nodes: going on with the clients of the file");
        }
        Ok(nodes)
    }

    /// Whether these are the nodes of the cluster that is asked for.
    pub(crate) fn is_of(&self, choice: &Choice) -> bool {
        self.updates.is_some() && self.kubeconfig == choice.kubeconfig
    }

    /// Waits until something has changed. May be dropped at any time without loss.
    pub(crate) async fn changed(&mut self) {
        let Some(updates) = &mut self.updates else { return std::future::pending().await };
        let mut next = updates.recv().await;
        for _ in 0..BATCH {
            let Some(update) = next else { return };
            match update {
                Update::Node(name, Some(node)) => drop(self.nodes.insert(name, node)),
                Update::Node(name, None) => drop(self.nodes.remove(&name)),
                Update::BgpConfiguration(configuration) => {
                    self.as_number = configuration.unwrap_or_default().as_number;
                }
                Update::InSync => self.in_sync = true,
                _ => {}
            }
            let Some(updates) = &mut self.updates else { return };
            next = updates.try_recv().ok();
        }
    }

    /// Adds the nodes that are chosen to the peers of a speaker. Peers that the file names stay as they are.
    pub(crate) fn add_clients(&self, choice: &Choice, config: &mut Config) {
        let chosen = self.nodes.values().filter(|node| choice.selector.matches(&node.labels));
        for node in chosen {
            // Only a node of our own AS can be a client.
            if node.as_number.unwrap_or(self.as_number) != config.asn {
                continue;
            }
            for address in [node.ipv4, node.ipv6].into_iter().flatten() {
                let key = PeerKey::from(address.address);
                let description = format!("node {}", node.name.as_str());
                let client = PeerConfig { description, ..choice.template.clone() };
                config.peers.entry(key).or_insert(client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use model::{Labels, NodeAddress};

    use super::*;

    fn node(name: &str, addresses: [&str; 2], as_number: Option<u32>) -> Node {
        let [ipv4, ipv6] = addresses.map(|a| Some(NodeAddress { address: a.parse().ok()?, length: 24 }));
        let labels: Labels = [("rack".to_owned(), name[..1].to_owned())].into_iter().collect();
        Node { labels, ipv4, ipv6, as_number, ..Node::named(name) }
    }

    #[test]
    fn chosen_nodes_of_our_as_are_clients_by_each_of_their_addresses() {
        let nodes = [
            node("a1", ["192.0.2.1", "2001:db8::1"], None),
            node("a2", ["192.0.2.2", ""], None),
            node("a3", ["192.0.2.3", ""], Some(65001)),
            node("b1", ["192.0.2.4", ""], None),
            node("a4", ["192.0.2.5", ""], None),
        ];
        let nodes = nodes.into_iter().map(|node| (node.name.clone(), node)).collect();
        let nodes = Nodes { nodes, as_number: 64512, ..Nodes::default() };
        let template = PeerConfig { reflector_client: true, passive: true, ..PeerConfig::new(64512) };
        let selector = Arc::new("rack == 'a'".parse().unwrap());
        let choice = Choice { kubeconfig: None, selector, template };
        let mut config = Config::new(64512, Ipv4Addr::new(192, 0, 2, 9));
        let named = PeerConfig { description: "named by the file".to_owned(), ..PeerConfig::new(64512) };
        let a4: std::net::IpAddr = "192.0.2.5".parse().unwrap();
        config.peers.insert(a4.into(), named);

        nodes.add_clients(&choice, &mut config);

        let peers: Vec<_> = config.peers.iter().map(|(k, c)| format!("{k} {}", c.description)).collect();
        assert_eq!(
            peers,
            ["192.0.2.1 node a1", "192.0.2.2 node a2", "192.0.2.5 named by the file", "2001:db8::1 node a1",]
        );
    }
}
