//! Whose addresses these are, for people: pods and nodes by address.

use std::collections::HashMap;
use std::net::IpAddr;

use model::{NodeName, PodKey, Update};
use parking_lot::RwLock;

/// Names by address, as the datastore tells them.
#[derive(Debug, Default)]
pub struct AddressBook(RwLock<Book>);

#[derive(Debug, Default)]
struct Book {
    pods: HashMap<IpAddr, PodKey>,
    addresses: HashMap<PodKey, Vec<IpAddr>>,
    nodes: HashMap<NodeName, Vec<IpAddr>>,
}

impl AddressBook {
    /// Takes what an update says of addresses.
    pub fn observe(&self, update: &Update) {
        match update {
            Update::Pod(key, pod) => {
                let addresses = pod.as_ref().filter(|pod| !pod.host_network).map(|pod| pod.addresses.clone());
                self.0.write().set_pod(key, addresses.unwrap_or_default());
            }
            Update::Node(name, node) => {
                let addresses = node.iter().flat_map(|node| [node.ipv4, node.ipv6]).flatten();
                let addresses: Vec<_> = addresses.map(|address| address.address).collect();
                self.0.write().nodes.insert(name.clone(), addresses);
            }
            _ => {}
        }
    }

    /// `namespace/name` of a pod, or `node <name>`.
    pub fn name(&self, address: IpAddr) -> Option<String> {
        let book = self.0.read();
        let node = || book.nodes.iter().find(|(_, addresses)| addresses.contains(&address));
        let pod = book.pods.get(&address).map(PodKey::to_string);
        pod.or_else(|| node().map(|(name, _)| format!("node {name}")))
    }
}

impl Book {
    /// The pod has these addresses and no others; one that another pod got meanwhile stays that one's.
    fn set_pod(&mut self, key: &PodKey, addresses: Vec<IpAddr>) {
        for old in self.addresses.remove(key).into_iter().flatten() {
            if self.pods.get(&old) == Some(key) {
                self.pods.remove(&old);
            }
        }
        for address in &addresses {
            self.pods.insert(*address, key.clone());
        }
        if !addresses.is_empty() {
            self.addresses.insert(key.clone(), addresses);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_belongs_to_the_pod_that_got_it_last() {
        let mut book = Book::default();
        let (old, new) = (PodKey::new("default", "old"), PodKey::new("default", "new"));
        let address: IpAddr = [10, 65, 0, 1].into();

        book.set_pod(&old, vec![address]);
        book.set_pod(&new, vec![address]);
        book.set_pod(&old, Vec::new());
        assert_eq!(book.pods.get(&address), Some(&new));

        book.set_pod(&new, Vec::new());
        assert!(book.pods.is_empty() && book.addresses.is_empty());
    }
}
