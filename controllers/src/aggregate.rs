//! From what nodes say to the status of policies, as an index: pure, time comes as an argument.
//!
//! A node names the policies that it needs. A policy is programmed when every node that names it has the present
//! generation. Nodes that have not heard of it yet name nothing, so a new generation has [`SETTLE`] before the
//! answer counts as final.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use datastore::NodeReport;
use datastore::crd::{NodePolicyEntry, PolicyCondition, PolicyStatus};
use model::{NodeName, Policy, PolicyKey, PolicyKind, Tier, Update};

/// How long nodes have to hear of a new generation and to say that they need it.
pub const SETTLE: Duration = Duration::from_secs(3);

/// See the module.
#[derive(Debug, Default)]
pub struct Aggregate {
    in_sync: bool,
    nodes: BTreeSet<NodeName>,
    /// Those that somebody made.
    tiers: BTreeSet<String>,
    policies: BTreeMap<PolicyKey, Known>,
    keys: HashMap<String, PolicyKey>,
    reports: BTreeMap<NodeName, NodeReport>,
    /// Nodes that said something and do not exist.
    vanished: BTreeSet<NodeName>,
    /// By policy ID: the nodes that name it.
    needing: HashMap<String, BTreeSet<NodeName>>,
    written: BTreeMap<PolicyKey, PolicyStatus>,
    dirty: BTreeSet<PolicyKey>,
}

#[derive(Debug)]
struct Known {
    generation: i64,
    uid: Arc<str>,
    tier: Arc<str>,
    /// From when on the answer about this generation is final.
    settled_at: Instant,
}

impl Aggregate {
    /// Begins with the statuses that an earlier run left behind.
    pub fn new(written: BTreeMap<PolicyKey, PolicyStatus>) -> Self {
        Self { written, ..Self::default() }
    }

    /// Takes what the datastore says of policies and nodes.
    pub fn apply(&mut self, update: Update, now: Instant) {
        match update {
            Update::Policy(key, Some(policy)) if has_status(&key) => self.set_policy(key, &policy, now),
            Update::Policy(key, None) => {
                self.policies.remove(&key);
                self.keys.remove(&key.to_string());
                self.written.remove(&key);
                self.dirty.remove(&key);
            }
            Update::Tier(name, tier) => self.set_tier(name, tier.is_some()),
            Update::Node(name, Some(_)) => {
                self.vanished.remove(&name);
                self.nodes.insert(name);
            }
            Update::Node(name, None) => {
                self.nodes.remove(&name);
                self.sweep();
            }
            Update::InSync => {
                self.in_sync = true;
                self.sweep();
            }
            _ => {}
        }
    }

    fn set_policy(&mut self, key: PolicyKey, policy: &Policy, now: Instant) {
        let known = self.policies.get(&key);
        if known.is_some_and(|known| known.generation == policy.generation && known.uid == policy.uid) {
            return;
        }
        // What an earlier run said of this generation was final.
        let said = self.written.get(&key).and_then(|status| condition(status).observed_generation);
        let was_settled = known.is_none() && said == Some(policy.generation);
        let settled_at = if was_settled { now } else { now + SETTLE };
        self.keys.insert(key.to_string(), key.clone());
        let (generation, uid, tier) = (policy.generation, policy.uid.clone(), policy.tier.clone());
        let known = Known { generation, uid, tier, settled_at };
        self.policies.insert(key.clone(), known);
        self.dirty.insert(key);
    }

    fn set_tier(&mut self, name: String, exists: bool) {
        let changed = match exists {
            true => self.tiers.insert(name.clone()),
            false => self.tiers.remove(&name),
        };
        if changed {
            let within = self.policies.iter().filter(|(_, known)| *known.tier == *name);
            self.dirty.extend(within.map(|(key, _)| key.clone()));
        }
    }

    /// Takes what a node says; `None` when it says nothing any more. Nodes that do not exist are not heard.
    pub fn report(&mut self, node: &NodeName, report: Option<NodeReport>) {
        let is_heard = !self.in_sync || self.nodes.contains(node);
        if report.is_some() && !is_heard {
            self.vanished.insert(node.clone());
        }
        let report = report.filter(|_| is_heard).unwrap_or_default();
        let before = self.reports.remove(node).unwrap_or_default();
        let changed = before.iter().filter(|(id, entry)| report.get(*id) != Some(entry));
        let new = report.iter().filter(|(id, _)| !before.contains_key(*id));
        for (id, _) in changed.chain(new) {
            if let Some(key) = self.keys.get(id) {
                self.dirty.insert(key.clone());
            }
            let nodes = self.needing.entry(id.clone()).or_default();
            match report.contains_key(id) {
                true => _ = nodes.insert(node.clone()),
                false => _ = nodes.remove(node),
            }
            if nodes.is_empty() {
                self.needing.remove(id);
            }
        }
        if !report.is_empty() {
            self.reports.insert(node.clone(), report);
        }
    }

    /// What nodes said that do not exist counts no more.
    fn sweep(&mut self) {
        let heard = self.reports.keys().filter(|node| self.in_sync && !self.nodes.contains(*node));
        for node in heard.cloned().collect::<Vec<_>>() {
            self.report(&node, None);
            self.vanished.insert(node);
        }
    }

    /// Nodes that said something and do not exist: their reports are to be deleted.
    pub fn vanished(&self) -> impl Iterator<Item = &NodeName> {
        self.vanished.iter()
    }

    /// The report of a node that does not exist was deleted.
    pub fn forgotten(&mut self, node: &NodeName) {
        self.vanished.remove(node);
    }

    /// What is to be written at `now`, which stands in conditions as the text `timestamp`. Each comes again until
    /// [`Self::wrote`] says that it was.
    pub fn due(&self, now: Instant, timestamp: &str) -> Vec<(PolicyKey, PolicyStatus)> {
        if !self.in_sync {
            return Vec::new();
        }
        let statuses =
            self.dirty.iter().filter_map(|key| Some((key.clone(), self.status(key, now, timestamp)?)));
        statuses.filter(|(key, status)| self.written.get(key) != Some(status)).collect()
    }

    /// A status was written.
    pub fn wrote(&mut self, key: PolicyKey, status: PolicyStatus) {
        self.written.insert(key, status);
    }

    /// Forgets what is final and written. When does something become final next?
    pub fn settle(&mut self, now: Instant, timestamp: &str) -> Option<Instant> {
        if !self.in_sync {
            return None;
        }
        let due: BTreeSet<PolicyKey> = self.due(now, timestamp).into_iter().map(|(key, _)| key).collect();
        let Self { dirty, policies, .. } = self;
        dirty
            .retain(|key| due.contains(key) || policies.get(key).is_some_and(|known| known.settled_at > now));
        dirty
            .iter()
            .filter_map(|key| policies.get(key))
            .map(|known| known.settled_at)
            .filter(|at| *at > now)
            .min()
    }

    /// Policies that not every node that needs them has, as last written.
    pub fn unprogrammed(&self) -> usize {
        self.written.values().filter(|status| condition(status).status != "True").count()
    }

    fn status(&self, key: &PolicyKey, now: Instant, timestamp: &str) -> Option<PolicyStatus> {
        let known = self.policies.get(key)?;
        let id = key.to_string();
        let nodes = self.needing.get(&id);
        let entries: Vec<(&NodeName, &NodePolicyEntry)> = nodes
            .into_iter()
            .flatten()
            .filter_map(|node| Some((node, self.reports.get(node)?.get(&id)?)))
            .collect();
        let has_it =
            |entry: &NodePolicyEntry| entry.generation == known.generation && entry.uid == *known.uid;
        let programmed = entries.iter().filter(|(_, entry)| has_it(entry)).count();
        let has_tier = self.tiers.contains(&*known.tier) || Tier::built_in(&known.tier).is_some();
        let mut said = verdict(&entries, programmed, known, now, has_it);
        // Whatever the nodes have, it is not what was asked for. A failure is told first: it is the graver one.
        if !has_tier && said.reason != FAILED {
            said = without_tier(&known.tier, programmed, entries.len());
        }
        said.observed_generation = Some(known.generation);
        let before = self.written.get(key).map(condition).filter(|before| before.status == said.status);
        said.last_transition_time =
            before.map_or_else(|| timestamp.to_owned(), |before| before.last_transition_time);
        let count = |count: usize| Some(i64::try_from(count).unwrap_or(i64::MAX));
        Some(PolicyStatus {
            nodes: count(entries.len()),
            programmed: count(programmed),
            conditions: Some(vec![said]),
        })
    }
}

/// The policy stands in no tier that somebody made.
fn without_tier(tier: &str, programmed: usize, needing: usize) -> PolicyCondition {
    let message = format!(
        "there is no Tier {tier}: the policy comes after all tiers, and what reaches it and is not allowed is dropped; \
         {programmed} of {needing} nodes have it"
    );
    PolicyCondition {
        type_: PROGRAMMED.to_owned(),
        status: "False".to_owned(),
        reason: "NoTier".to_owned(),
        message,
        ..PolicyCondition::default()
    }
}

fn verdict(
    entries: &[(&NodeName, &NodePolicyEntry)],
    programmed: usize,
    known: &Known,
    now: Instant,
    has_it: impl Fn(&NodePolicyEntry) -> bool,
) -> PolicyCondition {
    let said = |status: &str, reason: &str, message: String| PolicyCondition {
        type_: PROGRAMMED.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        ..PolicyCondition::default()
    };
    let failed = entries.iter().find(|(_, entry)| !has_it(entry) && entry.error.is_some());
    if let Some((node, entry)) = failed {
        let error = entry.error.as_deref().unwrap_or_default();
        return said(
            "False",
            FAILED,
            format!("{programmed} of {} nodes have it; {node}: {error}", entries.len()),
        );
    }
    if programmed < entries.len() {
        return said("False", "Pending", format!("{programmed} of {} nodes have it", entries.len()));
    }
    if now < known.settled_at {
        return said("Unknown", "Pending", "nodes that need it may not have said so yet".to_owned());
    }
    match entries.len() {
        0 => said("True", "NotNeeded", "no node has an endpoint that it applies to".to_owned()),
        count => said("True", "Programmed", format!("{count} of {count} nodes have it")),
    }
}

const PROGRAMMED: &str = "Programmed";
const FAILED: &str = "Failed";

fn condition(status: &PolicyStatus) -> PolicyCondition {
    let all = status.conditions.iter().flatten();
    all.into_iter().find(|condition| condition.type_ == PROGRAMMED).cloned().unwrap_or_default()
}

fn has_status(key: &PolicyKey) -> bool {
    matches!(key.kind, PolicyKind::NetworkPolicy | PolicyKind::GlobalNetworkPolicy)
}

#[cfg(test)]
mod tests {
    use model::Selector;

    use super::*;

    fn key() -> PolicyKey {
        PolicyKey::new(PolicyKind::GlobalNetworkPolicy, None, "p")
    }

    fn policy(generation: i64) -> Update {
        let policy = Policy { generation, uid: "u".into(), ..Policy::new(key(), Selector::all()) };
        Update::Policy(key(), Some(Box::new(policy)))
    }

    fn node(name: &str) -> Update {
        let node = model::Node::named(name);
        Update::Node(name.into(), Some(node))
    }

    fn has(generation: i64, error: Option<&str>) -> Option<NodeReport> {
        let entry = NodePolicyEntry { generation, uid: "u".to_owned(), error: error.map(str::to_owned) };
        Some(BTreeMap::from([("gnp/p".to_owned(), entry)]))
    }

    /// Status and reason of the condition, nodes, programmed.
    fn said(aggregate: &mut Aggregate, now: Instant) -> (String, String, i64, i64) {
        for (key, status) in aggregate.due(now, "now") {
            aggregate.wrote(key, status);
        }
        aggregate.settle(now, "now");
        let status = &aggregate.written[&key()];
        let condition = condition(status);
        (condition.status, condition.reason, status.nodes.unwrap(), status.programmed.unwrap())
    }

    fn cluster(now: Instant) -> Aggregate {
        let mut aggregate = Aggregate::default();
        aggregate.apply(node("n1"), now);
        aggregate.apply(node("n2"), now);
        aggregate.apply(policy(1), now);
        aggregate.apply(Update::InSync, now);
        aggregate
    }

    fn expected(status: &str, reason: &str, nodes: i64, programmed: i64) -> (String, String, i64, i64) {
        (status.to_owned(), reason.to_owned(), nodes, programmed)
    }

    #[test]
    fn a_policy_is_programmed_once_every_node_that_needs_it_has_it() {
        let start = Instant::now();
        let mut aggregate = cluster(start);
        let settled = start + SETTLE;

        aggregate.report(&"n1".into(), has(1, None));
        assert_eq!(said(&mut aggregate, start), expected("Unknown", "Pending", 1, 1));
        aggregate.report(&"n2".into(), has(0, None));
        assert_eq!(said(&mut aggregate, settled), expected("False", "Pending", 2, 1));
        aggregate.report(&"n2".into(), has(0, Some("no memory")));
        assert_eq!(said(&mut aggregate, settled), expected("False", "Failed", 2, 1));
        aggregate.report(&"n2".into(), has(1, None));
        assert_eq!(said(&mut aggregate, settled), expected("True", "Programmed", 2, 2));

        aggregate.apply(policy(2), settled);
        assert_eq!(said(&mut aggregate, settled), expected("False", "Pending", 2, 0));
        aggregate.report(&"n1".into(), None);
        aggregate.report(&"n2".into(), has(2, None));
        assert_eq!(said(&mut aggregate, settled + SETTLE), expected("True", "Programmed", 1, 1));
    }

    #[test]
    fn a_policy_in_no_tier_is_not_programmed_as_somebody_wants_it() {
        let start = Instant::now();
        let settled = start + SETTLE;
        let mut aggregate = cluster(start);
        let policy = Policy { generation: 1, uid: "v".into(), ..Policy::new(key(), Selector::all()) };
        let policy = Policy { tier: "platform".into(), ..policy };
        aggregate.apply(Update::Policy(key(), Some(Box::new(policy))), start);

        assert_eq!(said(&mut aggregate, settled), expected("False", "NoTier", 0, 0));
        let message = condition(&aggregate.written[&key()]).message;
        assert!(message.starts_with("there is no Tier platform: "), "{message}");

        let tier = Tier { name: "platform".into(), order: Some(5.0), default_action_is_pass: false };
        aggregate.apply(Update::Tier("platform".to_owned(), Some(tier)), settled);
        assert_eq!(said(&mut aggregate, settled), expected("True", "NotNeeded", 0, 0));
        aggregate.apply(Update::Tier("platform".to_owned(), None), settled);
        assert_eq!(said(&mut aggregate, settled), expected("False", "NoTier", 0, 0));
    }

    #[test]
    fn a_policy_that_no_node_needs_is_programmed_after_a_while() {
        let start = Instant::now();
        let mut aggregate = cluster(start);

        assert_eq!(said(&mut aggregate, start), expected("Unknown", "Pending", 0, 0));
        assert_eq!(aggregate.settle(start, "now"), Some(start + SETTLE));
        assert_eq!(said(&mut aggregate, start + SETTLE), expected("True", "NotNeeded", 0, 0));
        assert_eq!(aggregate.settle(start + SETTLE, "now"), None);
    }

    #[test]
    fn a_node_that_is_gone_is_waited_for_no_more() {
        let start = Instant::now();
        let mut aggregate = cluster(start);
        aggregate.report(&"n1".into(), has(0, None));
        aggregate.report(&"elsewhere".into(), has(0, None));

        aggregate.apply(Update::Node("n1".into(), None), start);

        let vanished: Vec<&str> = aggregate.vanished().map(NodeName::as_str).collect();
        assert_eq!(vanished, ["elsewhere", "n1"]);

        assert_eq!(said(&mut aggregate, start + SETTLE), expected("True", "NotNeeded", 0, 0));
    }

    #[test]
    fn nothing_is_written_twice_nor_before_everything_was_listed() {
        let start = Instant::now();
        let mut aggregate = Aggregate::default();
        aggregate.apply(policy(1), start);
        assert_eq!(aggregate.due(start, "now"), []);
        aggregate.apply(Update::InSync, start);
        assert_eq!(aggregate.due(start, "now").len(), 1);
        said(&mut aggregate, start);
        assert_eq!(aggregate.due(start, "later"), []);
    }

    #[test]
    fn a_restart_says_the_same_and_writes_nothing() {
        let start = Instant::now();
        let mut first = cluster(start);
        said(&mut first, start + SETTLE);

        let mut second = Aggregate::new(first.written.clone());
        second.apply(policy(1), start);
        second.apply(Update::InSync, start);

        assert_eq!(second.due(start, "later"), []);
    }

    #[test]
    fn the_time_of_a_condition_is_that_of_its_last_change() {
        let start = Instant::now();
        let mut aggregate = cluster(start);
        said(&mut aggregate, start + SETTLE);

        aggregate.report(&"n1".into(), has(1, None));
        let due = aggregate.due(start + SETTLE, "later");

        assert_eq!(condition(&due[0].1).last_transition_time, "now");
        assert_eq!(due[0].1.nodes, Some(1));
    }
}
