//! What the speakers of other nodes last told the cluster. Owns asking for it, by `kubectl` so that its credentials and
//! its choice of a cluster count, and how it looks.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::kubectl::Kubectl;
use crate::table::{or_dash, plain, table};

/// A node's speaker as its `CalicoNodeStatus` has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NodeStatus {
    pub(super) node: String,
    /// When the node said so; empty when it was never asked.
    as_of: String,
    state: String,
    router_id: String,
    peers: Vec<PeerStatus>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct PeerStatus {
    address: String,
    state: String,
    since: String,
    cause: String,
}

/// All nodes of the cluster that `kubectl` talks to, in order of name; none when it talks to none.
pub(super) fn node_statuses(kubectl: &Kubectl) -> Vec<NodeStatus> {
    let kinds = "nodes,caliconodestatuses.projectcalico.org";
    let said = kubectl.read(&["--request-timeout=5s", "get", kinds, "-o", "json"]);
    let list = said.ok().and_then(|said| serde_json::from_str(&said).ok());
    list.map_or_else(Vec::new, |list: Value| read(&list))
}

/// Reads a list of Nodes and statuses. Of several statuses of a node the newest with sessions counts.
fn read(list: &Value) -> Vec<NodeStatus> {
    let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut nodes = BTreeMap::new();
    for item in items.iter().filter(|item| item["kind"] == "Node") {
        let node = text(&item["metadata"]["name"]);
        nodes.insert(node.clone(), NodeStatus { node, ..NodeStatus::default() });
    }
    for item in items.iter().filter(|item| item["kind"] == "CalicoNodeStatus") {
        let status = node_status(item);
        let known = nodes.get(&status.node).map(|known: &NodeStatus| known.as_of.clone());
        // RFC 3339 in UTC: the order of texts is that of times.
        if item["status"]["bgp"].is_object() && known.is_some_and(|known| known < status.as_of) {
            nodes.insert(status.node.clone(), status);
        }
    }
    nodes.into_values().collect()
}

fn node_status(item: &Value) -> NodeStatus {
    let status = &item["status"];
    let peers = ["peersV4", "peersV6"].iter().filter_map(|family| status["bgp"][*family].as_array());
    NodeStatus {
        node: text(&item["spec"]["node"]),
        as_of: text(&status["lastUpdated"]),
        state: text(&status["agent"]["birdV4"]["state"]),
        router_id: text(&status["agent"]["birdV4"]["routerID"]),
        peers: peers.flatten().map(peer).collect(),
    }
}

fn peer(entry: &Value) -> PeerStatus {
    PeerStatus {
        address: text(&entry["peerIP"]),
        state: text(&entry["state"]),
        since: text(&entry["since"]),
        cause: text(&entry["reason"]),
    }
}

/// Whatever others wrote, without control characters.
fn text(value: &Value) -> String {
    plain(value.as_str().unwrap_or_default())
}

impl NodeStatus {
    fn down(&self) -> impl Iterator<Item = &PeerStatus> {
        self.peers.iter().filter(|peer| peer.state != "Established")
    }

    /// Every session is up, as far as the node has said anything.
    pub(super) fn is_well(&self) -> bool {
        self.down().next().is_none()
    }

    fn row(&self) -> Vec<String> {
        if self.as_of.is_empty() {
            let hint = "no CalicoNodeStatus with class BGP asks it".to_owned();
            return vec![self.node.clone(), "-".to_owned(), "-".to_owned(), "never".to_owned(), hint];
        }
        let down: Vec<String> =
            self.down().map(|p| format!("{} {}: {}", p.address, p.state, p.cause)).collect();
        vec![
            self.node.clone(),
            or_dash(&self.state),
            format!("{}/{}", self.peers.len() - down.len(), self.peers.len()),
            self.as_of.clone(),
            or_dash(&down.join("; ")),
        ]
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let peers = self
            .peers
            .iter()
            .map(|p| json!({ "address": p.address, "state": p.state, "since": p.since, "cause": p.cause }));
        json!({
            "node": self.node,
            "asOf": self.as_of,
            "state": self.state,
            "routerId": self.router_id,
            "peers": peers.collect::<Vec<_>>(),
        })
    }
}

/// For people.
pub(super) fn statuses_table(statuses: &[NodeStatus]) -> String {
    let rows: Vec<_> = statuses.iter().map(NodeStatus::row).collect();
    let header = ["NODE", "STATE", "PEERS UP", "AS OF", "DOWN"];
    format!("other nodes, as each last told the cluster:\n\n{}", table(&header, &rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> Value {
        let status = |name: &str, node: &str, at: &str, state: &str| {
            json!({
                "kind": "CalicoNodeStatus", "metadata": {"name": name}, "spec": {"node": node},
                "status": {
                    "lastUpdated": at,
                    "agent": {"birdV4": {"state": "Ready", "routerID": "192.0.2.2"}},
                    "bgp": {"peersV4": [
                        {"peerIP": "192.0.2.1", "state": "Established", "since": "x"},
                        {"peerIP": "192.0.2.9", "state": state, "since": "x", "reason": "TCP\u{1b} refused"},
                    ]},
                },
            })
        };
        let node = |name: &str| json!({"kind": "Node", "metadata": {"name": name}});
        json!({"items": [
            node("n3"), node("n2"),
            status("new", "n2", "2026-01-02T00:00:00Z", "Active"),
            status("old", "n2", "2026-01-01T00:00:00Z", "Established"),
            status("of no node", "gone", "2026-01-01T00:00:00Z", "Established"),
        ]})
    }

    #[test]
    fn the_newest_word_of_each_node_counts_and_silence_is_named() {
        let statuses = read(&list());

        let expected = "\
other nodes, as each last told the cluster:

NODE  STATE  PEERS UP  AS OF                 DOWN
n2    Ready  1/2       2026-01-02T00:00:00Z  192.0.2.9 Active: TCP  refused
n3    -      -         never                 no CalicoNodeStatus with class BGP asks it
";
        assert_eq!(statuses_table(&statuses), expected);
        assert!(!statuses[0].is_well() && statuses[1].is_well());
        assert_eq!(statuses[0].json()["peers"][1]["state"], "Active");
    }

    #[test]
    fn what_is_no_list_says_nothing() {
        assert_eq!(read(&json!({"items": 7})), []);
        assert_eq!(read(&json!([])), []);
    }
}
