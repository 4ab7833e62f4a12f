//! In which order nodes change hands, and when that stops.
//!
//! A label on the node says whose it is. Calico's DaemonSet keeps away from nodes that are not Calico's, ours runs on
//! nodes that are ours, and between the two nobody runs there: the kernel forwards as it stands, and the node's blocks are
//! copied. Everything follows from what is seen, so whoever begins again goes on where it stopped.

use serde_json::{Value, json};

/// The label that says whose a node is; without it a node is Calico's.
pub const LABEL: &str = "projectcalico.org/network-agent";

/// Whose a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Agent {
    #[default]
    Calico,
    /// Nobody's, until its blocks are copied.
    Moving,
    Ocicat,
}

impl Agent {
    /// As the label has it; what is not known is Calico's, as it is for its DaemonSet.
    pub fn of_label(label: Option<&str>) -> Self {
        match label {
            Some("moving") => Agent::Moving,
            Some("ocicat") => Agent::Ocicat,
            _ => Agent::Calico,
        }
    }

    /// The label's value.
    pub fn name(self) -> &'static str {
        match self {
            Agent::Calico => "calico",
            Agent::Moving => "moving",
            Agent::Ocicat => "ocicat",
        }
    }
}

/// Where nodes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From Calico to us.
    Over,
    /// To Calico again.
    Back,
}

impl Direction {
    /// Whose nodes are at the end.
    pub fn target(self) -> Agent {
        match self {
            Direction::Over => Agent::Ocicat,
            Direction::Back => Agent::Calico,
        }
    }
}

/// An agent's pod on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodView {
    pub is_ready: bool,
}

/// What is seen of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    pub name: String,
    pub agent: Agent,
    /// The kubelet says so.
    pub is_ready: bool,
    pub calico: Option<PodView>,
    pub ours: Option<PodView>,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing but to look again; whoever waits too long stops here.
    Wait { node: String, what: String },
    /// Let the node go: the label becomes `moving`.
    Leave { node: String },
    /// Nobody runs there: copy its blocks, then let the label name the target.
    Copy { node: String },
    /// All nodes are where they should be.
    Done,
    /// No further node may go before this is settled.
    Halt { node: String, why: String },
}

/// What comes next for `nodes`. Only those that are `named` go, also when they are not Ready; all that are Ready when none
/// is named. One node at a time, and none while another that has gone is not well.
pub fn next_step(nodes: &[NodeView], direction: Direction, named: &[String]) -> Step {
    let is_named = |node: &str| named.iter().any(|name| name == node);
    let may_go = |node: &str| named.is_empty() || is_named(node);
    let target = direction.target();
    let pods = |node: &NodeView| match direction {
        Direction::Over => (node.calico, node.ours),
        Direction::Back => (node.ours, node.calico),
    };
    if let Some(node) = nodes.iter().find(|node| node.agent == Agent::Moving) {
        let name = node.name.clone();
        return match pods(node).0 {
            Some(_) => Step::Wait { node: name, what: "the agent that leaves is still there".to_owned() },
            None => Step::Copy { node: name },
        };
    }
    for node in nodes.iter().filter(|node| node.agent == target && may_go(&node.name)) {
        let wait = |what: &str| Step::Wait { node: node.name.clone(), what: what.to_owned() };
        match pods(node).1 {
            None => return wait("the agent that comes has no pod there yet"),
            Some(PodView { is_ready: false }) => return wait("the agent that came is not ready"),
            Some(_) if !node.is_ready => return wait("the node is not Ready since it changed hands"),
            Some(_) => {}
        }
    }
    let mut waiting = nodes.iter().filter(|node| node.agent != target && may_go(&node.name));
    let Some(first) = waiting.clone().next() else { return Step::Done };
    match waiting.find(|node| node.is_ready || is_named(&node.name)) {
        Some(node) => Step::Leave { node: node.name.clone() },
        None => Step::Halt {
            node: first.name.clone(),
            why: "the node is not Ready: it stays as it is".to_owned(),
        },
    }
}

/// The affinity of a DaemonSet's pods that keep away from nodes that are not Calico's, whatever else they keep to.
pub fn kept_away(affinity: &Value) -> Value {
    let strangers = [Agent::Moving.name(), Agent::Ocicat.name()];
    let away = json!({"key": LABEL, "operator": "NotIn", "values": strangers});
    let required = "/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    let mut terms = affinity.pointer(required).and_then(Value::as_array).cloned().unwrap_or_default();
    terms.retain(Value::is_object);
    if terms.is_empty() {
        terms.push(json!({}));
    }
    for term in &mut terms {
        let mut all = term.get("matchExpressions").and_then(Value::as_array).cloned().unwrap_or_default();
        if !all.contains(&away) {
            all.push(away.clone());
        }
        term["matchExpressions"] = Value::Array(all);
    }
    let object =
        |value: Option<&Value>| value.filter(|value| value.is_object()).cloned().unwrap_or_else(|| json!({}));
    let mut kept = object(Some(affinity));
    let mut of_nodes = object(kept.get("nodeAffinity"));
    of_nodes["requiredDuringSchedulingIgnoredDuringExecution"] = json!({"nodeSelectorTerms": terms});
    kept["nodeAffinity"] = of_nodes;
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calicos_pods_keep_away_and_keep_to_what_they_kept_to() {
        let away = json!({"key": LABEL, "operator": "NotIn", "values": ["moving", "ocicat"]});
        let required = |term: Value| json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}});
        let linux = json!({"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]});
        let given =
            json!({"podAffinity": {}, "nodeAffinity": required(json!({"matchExpressions": [linux]}))});

        let kept = kept_away(&given);

        assert_eq!(kept["nodeAffinity"], required(json!({"matchExpressions": [linux, away]})));
        assert_eq!((kept_away(&kept), &kept["podAffinity"]), (kept.clone(), &json!({})));
        for nonsense in [json!(null), json!(3), json!({"nodeAffinity": []})] {
            assert_eq!(kept_away(&nonsense)["nodeAffinity"], required(json!({"matchExpressions": [away]})));
        }
    }

    const READY: Option<PodView> = Some(PodView { is_ready: true });
    const UNREADY: Option<PodView> = Some(PodView { is_ready: false });

    fn node(name: &str, agent: Agent, calico: Option<PodView>, ours: Option<PodView>) -> NodeView {
        NodeView { name: name.to_owned(), agent, is_ready: true, calico, ours }
    }

    fn over(nodes: &[NodeView]) -> Step {
        next_step(nodes, Direction::Over, &[])
    }

    #[test]
    fn a_cluster_goes_over_node_by_node_and_back() {
        for direction in [Direction::Over, Direction::Back] {
            let mut nodes = match direction {
                Direction::Over => ["a", "b"].map(|name| node(name, Agent::Calico, READY, None)),
                Direction::Back => ["a", "b"].map(|name| node(name, Agent::Ocicat, None, READY)),
            };
            let mut order = Vec::new();
            loop {
                match next_step(&nodes, direction, &[]) {
                    Step::Leave { node } => {
                        order.push(format!("leave {node}"));
                        let found = nodes.iter_mut().find(|of| of.name == node).unwrap();
                        (found.agent, found.calico, found.ours) = (Agent::Moving, None, None);
                    }
                    Step::Copy { node } => {
                        order.push(format!("copy {node}"));
                        let found = nodes.iter_mut().find(|of| of.name == node).unwrap();
                        found.agent = direction.target();
                        match direction {
                            Direction::Over => found.ours = READY,
                            Direction::Back => found.calico = READY,
                        }
                    }
                    step => break assert_eq!(step, Step::Done),
                }
                assert!(order.len() < 10, "{order:?}");
            }
            assert_eq!(order, ["leave a", "copy a", "leave b", "copy b"]);
        }
    }

    #[test]
    fn nobody_goes_while_one_that_has_gone_is_not_well() {
        let rest = node("b", Agent::Calico, READY, None);
        let waits = |gone: NodeView| match over(&[gone, rest.clone()]) {
            Step::Wait { node, what } if node == "a" => what,
            step => panic!("{step:?}"),
        };

        assert!(waits(node("a", Agent::Ocicat, None, UNREADY)).contains("not ready"));
        assert!(waits(node("a", Agent::Ocicat, None, None)).contains("no pod"));
        assert!(waits(node("a", Agent::Moving, READY, None)).contains("still there"));
        assert!(
            waits(NodeView { is_ready: false, ..node("a", Agent::Ocicat, None, READY) }).contains("Ready")
        );
    }

    #[test]
    fn a_node_that_is_not_ready_waits_for_the_others_and_then_stops_all() {
        let sick = NodeView { is_ready: false, ..node("a", Agent::Calico, READY, None) };
        let well = node("b", Agent::Calico, READY, None);

        assert_eq!(over(&[sick.clone(), well]), Step::Leave { node: "b".to_owned() });
        assert!(matches!(over(std::slice::from_ref(&sick)), Step::Halt { node, .. } if node == "a"));
        let named = |name: &str| next_step(std::slice::from_ref(&sick), Direction::Over, &[name.to_owned()]);
        assert_eq!(named("a"), Step::Leave { node: "a".to_owned() }, "somebody wants it so");
        assert_eq!(named("b"), Step::Done);
        assert_eq!(over(&[]), Step::Done);
    }

    #[test]
    fn an_unknown_label_is_calicos() {
        for (label, agent) in
            [(None, Agent::Calico), (Some("x"), Agent::Calico), (Some("moving"), Agent::Moving)]
        {
            assert_eq!(Agent::of_label(label), agent);
        }
        assert_eq!(Agent::of_label(Some(Agent::Ocicat.name())), Agent::Ocicat);
    }
}
