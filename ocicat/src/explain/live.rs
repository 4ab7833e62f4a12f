//! What the nodes' own agents say: rules, connections and routes of felix, and who taught a route of the speaker.

use std::path::{Path, PathBuf};

use felix_evaluate::Packet;
use model::NodeName;
use proto::felix::request::{self, Call};
use proto::felix::response::Answer;
use proto::felix::{Explained, SOCKET};
use proto::speaker::{self, response};

use super::NodeView;
use crate::agents::{PLACE, ask};
use crate::client::call_many;

const SPEAKER_SOCKET: &str = "bird-lite.sock";

/// Where the agents of nodes can be reached from here.
pub(crate) struct Live {
    /// A lab's: the sockets of node `n` are in `n/`.
    lab: Option<PathBuf>,
}

/// Who taught a route.
pub(crate) struct LearnedFrom {
    pub(crate) prefix: String,
    /// Address of the peer.
    pub(crate) peer: String,
    pub(crate) next_hop: String,
    pub(crate) as_path: String,
    /// Why this path is the best.
    pub(crate) reason: String,
}

impl Live {
    /// `lab` is the directory of a lab's state, when the cluster is one.
    pub(crate) fn new(lab: Option<PathBuf>) -> Self {
        Self { lab }
    }

    fn directory(&self, node: &NodeName) -> PathBuf {
        self.lab.as_ref().map_or_else(|| PathBuf::from(PLACE), |lab| lab.join(node.as_str()))
    }

    /// Asks one node what it makes of a packet.
    pub(crate) fn ask(&self, node: &NodeName, packet: &Packet) -> NodeView {
        let directory = self.directory(node);
        let told = explained(&directory.join(SOCKET), node, packet);
        let prefix = told.as_ref().ok().and_then(|told| told.route.as_ref());
        let prefix = prefix.filter(|route| route.protocol == "bird").map(|route| route.prefix.clone());
        let learned_from = prefix.and_then(|prefix| learned_from(&directory.join(SPEAKER_SOCKET), &prefix));
        NodeView { node: node.clone(), told, learned_from }
    }
}

fn explained(socket: &Path, node: &NodeName, packet: &Packet) -> Result<Explained, String> {
    let (icmp_type, icmp_code) = packet.icmp.unwrap_or_default();
    let question = request::Explain {
        source: packet.from.address.to_string(),
        destination: packet.to.address.to_string(),
        protocol: packet.protocol.0.into(),
        source_port: 0,
        destination_port: packet.destination_port.into(),
        icmp_type: icmp_type.into(),
        icmp_code: icmp_code.into(),
    };
    match ask(socket, Call::Explain(question)) {
        // On a node of a cluster there is one agent, which need not be the one that is meant.
        Ok(Answer::Explained(told)) if told.node != node.as_str() => {
            Err(format!("its agent cannot be reached from node {}", told.node))
        }
        Ok(Answer::Explained(told)) => Ok(told),
        Ok(_) => Err("its agent is of another version".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// `None` when the speaker says nothing about the prefix.
fn learned_from(socket: &Path, prefix: &str) -> Option<LearnedFrom> {
    let wanted = speaker::request::Routes { prefix: prefix.to_owned(), ..Default::default() };
    let request = speaker::Request { call: Some(speaker::request::Call::Routes(wanted)) };
    let mut best = None;
    let asked = call_many("the BGP speaker", socket, &request, |answer: speaker::Response| {
        let Some(response::Answer::Routes(page)) = answer.answer else { return false };
        best = best.take().or(page.routes.into_iter().find(|route| route.best));
        page.more
    });
    let route = asked.ok().and(best)?;
    Some(LearnedFrom {
        prefix: route.prefix,
        peer: route.source,
        next_hop: route.next_hop,
        as_path: route.as_path,
        reason: route.reason,
    })
}
