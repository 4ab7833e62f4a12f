//! The names that the generator of the pure layer asks for; only the first node exists.

use std::collections::BTreeMap;

use model::{Pod, PodKey, Update};

pub const NODES: [&str; 2] = ["n1", "n2"];
/// A node's own interfaces and their addresses.
pub const LINKS: [[(&str, [&str; 2]); 2]; 2] = [
    [("eth0", ["172.20.0.1", "fd20::1"]), ("eth1", ["172.21.0.1", "fd21::1"])],
    [("eth0", ["172.20.0.2", "fd20::2"]), ("eth1", ["172.21.0.2", "fd21::2"])],
];

/// Not used here: pods are always the same ones.
pub fn pods_of(_: &[Update]) -> BTreeMap<PodKey, Pod> {
    BTreeMap::new()
}
