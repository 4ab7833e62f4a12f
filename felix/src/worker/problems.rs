//! What keeps pods of other nodes from being reached as somebody wants it, in words for people.

use felix_dataplane::Ports;
use felix_render::Hold;

use super::Worker;

impl<P: Ports> Worker<P> {
    /// Nodes whose pods are not reached as their pool asks for, and routes that wait for the speaker's.
    pub(super) fn cluster_problems(&self) -> Vec<String> {
        let unreachable = self.calc.unreachable_nodes();
        let mut problems: Vec<String> = unreachable
            .iter()
            .map(|(node, reason)| {
                format!("pods on node {node} are not reached as their IPPool asks for: {reason}")
            })
            .collect();
        let mut waiting = self.dataplane.held_routes().filter(|(_, hold)| *hold == Hold::UntilAnother);
        if let Some((first, _)) = waiting.next() {
            problems.push(format!(
                "{} routes to other nodes stay as they were, {first} first: their IPPool has no VXLAN any more, and \
                 bird-lite has not written its own yet; see `ocicat bgp`",
                waiting.count() + 1
            ));
        }
        problems.extend(self.wireguard_problems());
        problems
    }

    /// Why what pods send to other nodes is not encrypted although it is to be.
    fn wireguard_problems(&self) -> Vec<String> {
        let mut problems: Vec<String> = self
            .dataplane
            .wireguard_errors()
            .map(|error| format!("what pods send to other nodes is not encrypted: {error}"))
            .collect();
        for (key, nodes) in self.calc.shared_wireguard_keys() {
            let nodes: Vec<String> = nodes.iter().map(ToString::to_string).collect();
            problems.push(format!(
                "nodes {} tell the same WireGuard key {key}: what pods send there is not encrypted; on all but one \
                 of them delete the link, felix makes it anew with a key of its own",
                nodes.join(", ")
            ));
        }
        for (family, mut keyless) in self.calc.keyless_nodes() {
            if let Some(first) = keyless.next() {
                problems.push(format!(
                    "what pods send over {family} to node {first} and {} others is not encrypted: these tell no \
                     WireGuard key; felix there says why",
                    keyless.count()
                ));
            }
        }
        let silent = self.dataplane.silent_wireguard_peers();
        let nodes = silent.iter().filter_map(|peer| self.calc.wireguard_node(&peer.key));
        problems.extend(nodes.map(|node| {
            format!(
                "node {node} does not answer by WireGuard: what pods send there is not encrypted, unless there is no \
                 other way; between nodes UDP port {} must be open, and {} for IPv6",
                self.configuration.wireguard.port, self.configuration.wireguard.port_v6
            )
        }));
        problems
    }
}
