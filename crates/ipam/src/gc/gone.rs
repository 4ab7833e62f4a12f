//! Nodes that are gone, and what they leave behind.
//!
//! That no Node has the name proves little: a list may be old, empty or wrong. So the node is asked. The question
//! is an affinity of the node for a block that cannot be, marked for deletion; an agent that lives and has pods
//! deletes it, as it would any claim that is no good. Only when nobody has answered for the grace period is the
//! node gone, and a compare-and-swap on the question itself makes sure of that at the very end.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use model::{AffinityState, Block, BlockAffinity, Cidr, NodeName, PodKey};

use super::allocation::{User, allocations, grouped};
use super::take_back::{Leak, rests_over};
use super::truth::{PodAnswer, is_used_by};
use crate::affinity::release_affinity;
use crate::block::is_empty;
use crate::names;
use crate::snapshot::{Key, Known, Object, Read, Snapshot, Step, Version, Write};

/// What to do about a node next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Write the question, or find out its version when it stands already, and tell [`GoneNodes::asked`].
    Ask(NodeName),
    /// Rewrite the question of this version. When that succeeds and the API server says once more that there is
    /// no such Node, do what [`plan`] says; else tell [`GoneNodes::answered`].
    Release(NodeName, Version),
    /// The node is there: take the question back.
    Withdraw(NodeName),
}

#[derive(Clone, Debug)]
enum State {
    Asked {
        version: Version,
        since: Instant,
    },
    /// It lives although no Node has its name: it is asked again later.
    Answered {
        until: Instant,
        pause: Duration,
    },
}

/// Nodes that hold addresses or blocks although no Node has their name.
#[derive(Clone, Debug)]
pub struct GoneNodes {
    grace: Duration,
    known: BTreeMap<NodeName, State>,
}

/// Longest pause before a node that answers is asked again.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

impl GoneNodes {
    /// A node has `grace` to answer; zero asks nobody.
    pub fn new(grace: Duration) -> Self {
        Self { grace, known: BTreeMap::new() }
    }

    /// What to do now. `nodes` are those that there are, `holders` those that hold something.
    ///
    /// A list without any node proves nothing: whoever was waited for is waited for anew.
    pub fn look(
        &mut self,
        now: Instant,
        nodes: &BTreeSet<NodeName>,
        holders: &BTreeSet<NodeName>,
    ) -> Vec<Turn> {
        if nodes.is_empty() || self.grace.is_zero() {
            self.known.clear();
            return Vec::new();
        }
        let mut turns = Vec::new();
        for (name, state) in &self.known {
            if nodes.contains(name) && matches!(state, State::Asked { .. }) {
                turns.push(Turn::Withdraw(name.clone()));
            }
        }
        self.known.retain(|name, _| !nodes.contains(name) && holders.contains(name));
        for name in holders.iter().filter(|name| !nodes.contains(*name)) {
            match self.known.get(name) {
                None => turns.push(Turn::Ask(name.clone())),
                Some(State::Answered { until, .. }) if now >= *until => turns.push(Turn::Ask(name.clone())),
                Some(State::Asked { version, since })
                    if now.saturating_duration_since(*since) >= self.grace =>
                {
                    turns.push(Turn::Release(name.clone(), version.clone()));
                }
                Some(_) => {}
            }
        }
        turns
    }

    /// The question stands in this version since now at the latest.
    pub fn asked(&mut self, node: &NodeName, version: Version, now: Instant) {
        self.known.insert(node.clone(), State::Asked { version, since: now });
    }

    /// The question is gone or was touched, or a Node has the name after all.
    pub fn answered(&mut self, node: &NodeName, now: Instant) {
        let pause = match self.known.get(node) {
            Some(State::Answered { pause, .. }) => (*pause * 2).min(LONGEST_PAUSE),
            _ => self.grace,
        };
        self.known.insert(node.clone(), State::Answered { until: now + pause, pause });
    }

    /// Nodes that are waited for, and since when.
    pub fn waiting(&self) -> impl Iterator<Item = (&NodeName, Instant)> {
        self.known.iter().filter_map(|(node, state)| match state {
            State::Asked { since, .. } => Some((node, *since)),
            State::Answered { .. } => None,
        })
    }
}

/// The block that stands for the question: no pool holds it.
const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// The question whether a node lives.
pub fn question(node: &NodeName) -> BlockAffinity {
    let cidr = Cidr::host(NOWHERE);
    BlockAffinity { node: node.clone(), cidr, state: AffinityState::PendingDeletion, deleted: false }
}

/// Is this affinity no claim but the question whether the node lives?
pub fn is_question(cidr: Cidr) -> bool {
    cidr == Cidr::host(NOWHERE)
}

/// Everybody who holds an address or a block.
pub fn holders<'a>(
    blocks: impl IntoIterator<Item = &'a Block>,
    affinities: impl IntoIterator<Item = &'a BlockAffinity>,
) -> BTreeSet<NodeName> {
    let mut holders: BTreeSet<NodeName> = affinities.into_iter().map(|a| a.node.clone()).collect();
    for block in blocks {
        holders.extend(block.affinity.clone());
        // What rests is nobody's any more.
        let held = block.attributes.iter().filter(|attributes| attributes.released_at.is_none());
        let names = held.filter_map(|attributes| attributes.secondary.get(names::NODE));
        holders.extend(names.filter(|name| !name.is_empty()).map(|name| NodeName::from(name.as_str())));
    }
    holders.retain(|name| !name.as_str().starts_with("virtual:"));
    holders
}

/// What a node that is gone leaves, and what of it can be freed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub leaks: Vec<Leak>,
    /// Claims to end; a block with addresses of others in it stays without an owner.
    pub claims: Vec<Cidr>,
    /// Claims that stay, because their block has addresses of which nobody knows who has them.
    pub kept: Vec<Cidr>,
}

impl Plan {
    /// Will nothing be left of the node?
    pub fn is_whole(&self) -> bool {
        self.kept.is_empty()
    }
}

/// What to free of a node that is gone. `pods` are those that the API server still has on it: what they use stays.
pub fn plan<'a>(
    node: &NodeName,
    blocks: impl IntoIterator<Item = &'a Block>,
    affinities: impl IntoIterator<Item = &'a BlockAffinity>,
    pods: &BTreeMap<PodKey, PodAnswer>,
) -> Plan {
    let blocks: Vec<&Block> = blocks.into_iter().collect();
    let all: Vec<_> = blocks.iter().flat_map(|block| allocations(block)).collect();
    let is_used = |allocation: &super::Allocation| match &allocation.user {
        User::Pod { key, .. } => pods.get(key).is_some_and(|answer| is_used_by(allocation, answer).is_ok()),
        _ => false,
    };
    let is_own = |a: &&super::Allocation| a.node.as_ref() == Some(node) && !a.is_cooling;
    let own = all.iter().filter(is_own).cloned();
    let (used, leaked): (Vec<_>, Vec<_>) =
        grouped(own).into_values().partition(|group: &Vec<_>| group.iter().any(is_used));
    let mut plan = Plan { leaks: leaked.iter().flatten().map(Leak::of).collect(), ..Plan::default() };
    let is_held = |cidr: Cidr| {
        let is_unknown = |allocation: &&super::Allocation| {
            allocation.block == cidr && allocation.node.is_none() && !allocation.is_cooling
        };
        used.iter().flatten().any(|allocation| allocation.block == cidr) || all.iter().any(|a| is_unknown(&a))
    };
    let mut claims: BTreeSet<Cidr> =
        affinities.into_iter().filter(|a| a.node == *node && !is_question(a.cidr)).map(|a| a.cidr).collect();
    claims.extend(blocks.iter().filter(|b| b.affinity.as_ref() == Some(node)).map(|b| b.cidr));
    for cidr in claims {
        if is_held(cidr) { plan.kept.push(cidr) } else { plan.claims.push(cidr) }
    }
    plan
}

/// The next step to end a claim of a node that is gone, also one of which only the block is left. A block with
/// addresses in use stays without an owner. `now` in nanoseconds since the epoch.
pub fn end_claim(snapshot: &Snapshot, cidr: Cidr, now: u64) -> Step<(), Infallible> {
    if let Some(step) = rests_over(snapshot, cidr, now) {
        return step;
    }
    match release_affinity(snapshot, cidr, false) {
        Step::Read(read) => return Step::Read(read),
        Step::Write(write) => return Step::Write(write),
        Step::Done(()) | Step::Failed(_) => {}
    }
    let block = match snapshot.block(cidr) {
        Known::Absent => return Step::Done(()),
        Known::Present(block) if block.is_fresh => block,
        _ => return Step::Read(Read::One(Key::Block(cidr))),
    };
    if block.value.affinity.as_ref() != Some(&snapshot.node) {
        return Step::Done(());
    }
    if is_empty(&block.value) {
        return Step::Write(Write::Delete(Key::Block(cidr), block.version.clone()));
    }
    let sequence_number = block.value.sequence_number + 1;
    let unowned = Block { affinity: None, sequence_number, ..block.value.clone() };
    Step::Write(Write::Update(Object::Block(unowned), block.version.clone()))
}
