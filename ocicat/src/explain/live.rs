//! What the nodes' own agents say: rules, connections and routes of felix, and who taught a route of the speaker.

use felix_evaluate::Packet;
use model::NodeName;
use proto::felix::Explained;
use proto::felix::request::{self, Call};
use proto::felix::response::Answer;
use proto::speaker::{self, response};

use super::NodeView;
use crate::client::call_many;
use crate::felix::ask;
use crate::reach::{Agent, Kind, Reach};

/// Agents that can be asked from here.
pub(crate) struct Live {
    felix: Result<Vec<Agent>, String>,
    speakers: Vec<Agent>,
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
    pub(crate) fn new(reach: &Reach) -> Self {
        let places = reach.places();
        let felix = places.agents(Kind::Felix).map_err(|error| error.to_string());
        Self { felix, speakers: places.agents(Kind::BirdLite).unwrap_or_default() }
    }

    /// Asks one node what it makes of a packet.
    pub(crate) fn ask(&self, node: &NodeName, packet: &Packet) -> NodeView {
        let told = match &self.felix {
            Err(reason) => Err(reason.clone()),
            Ok(agents) => match of_node(agents, node) {
                Some(agent) => explained(agent, node, packet),
                None => Err("its agent cannot be reached from here".to_owned()),
            },
        };
        let prefix = told.as_ref().ok().and_then(|told| told.route.as_ref());
        let prefix = prefix.filter(|route| route.protocol == "bird").map(|route| route.prefix.clone());
        let learned_from = prefix
            .zip(of_node(&self.speakers, node))
            .and_then(|(prefix, agent)| learned_from(agent, &prefix));
        NodeView { node: node.clone(), told, learned_from }
    }
}

/// The agent of a node, else this machine's, of which it is not known whose it is.
fn of_node<'a>(agents: &'a [Agent], node: &NodeName) -> Option<&'a Agent> {
    let named = agents.iter().find(|agent| agent.node.as_deref() == Some(node.as_str()));
    named.or_else(|| agents.first().filter(|agent| agent.node.is_none()))
}

fn explained(agent: &Agent, node: &NodeName, packet: &Packet) -> Result<Explained, String> {
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
    match ask(agent, Call::Explain(question)) {
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
fn learned_from(agent: &Agent, prefix: &str) -> Option<LearnedFrom> {
    let wanted = speaker::request::Routes { prefix: prefix.to_owned(), ..Default::default() };
    let request = speaker::Request { call: Some(speaker::request::Call::Routes(wanted)) };
    let mut best = None;
    let asked = call_many(agent, &request, |answer: speaker::Response| {
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
