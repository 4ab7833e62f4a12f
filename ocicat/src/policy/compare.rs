//! Two states, packet class by packet class: which connections are allowed in one and not in the other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use felix_evaluate::{Evaluator, Packet, Side, State};
use model::{Family, Protocol};

use super::classes::{Class, Sample};
use super::ports::{PacketClass, PortNames};

/// Connections of one kind from one workload to another that would change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ChangeKey {
    pub(super) from: String,
    pub(super) to: String,
    /// Would they be allowed, or denied?
    pub(super) allowed: bool,
}

/// What of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changed {
    pub(super) packets: BTreeSet<PacketClass>,
    /// Pairs of pods, or pods where the other end is outside.
    pub(super) pairs: usize,
    /// Two that this is about.
    pub(super) example: (String, String),
    /// What decides: before and after, in words.
    pub(super) decided: (String, String),
}

/// What came of a comparison.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    pub(super) changes: BTreeMap<ChangeKey, Changed>,
    /// Pairs of classes that were not looked at, as the time was up.
    pub(super) unseen: usize,
    /// Changes beyond the first [`MOST_CHANGES`] pairs of workloads: counted, not kept.
    pub(super) uncounted: usize,
}

/// Pairs of workloads of which it is kept what changes.
const MOST_CHANGES: usize = 100_000;

/// Compares on all processors until `limit` is up; `progress` gets how many of how many pairs are done.
pub(super) fn compare(
    states: (&State, &State),
    classes: &[Class],
    ports: &PortNames,
    limit: Duration,
    progress: impl Fn(usize, usize) + Sync,
) -> Comparison {
    let deadline = Instant::now() + limit;
    let total = classes.len() * classes.len();
    let (next, seen, late) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let found = Mutex::new(Comparison::default());
    let work = || {
        let evaluators = (Evaluator::new(states.0), Evaluator::new(states.1));
        loop {
            let pair = next.fetch_add(1, Ordering::Relaxed);
            if pair >= total || late.load(Ordering::Relaxed) {
                return;
            }
            let (from, to) = (&classes[pair / classes.len()], &classes[pair % classes.len()]);
            let changes = compare_pair(
                (&evaluators.0, &evaluators.1),
                from,
                to,
                ports,
                pair / classes.len() == pair % classes.len(),
            );
            let mut found = found.lock().expect("nobody panics while holding it");
            changes.into_iter().for_each(|(key, changed)| found.add(key, changed));
            drop(found);
            progress(seen.fetch_add(1, Ordering::Relaxed) + 1, total);
            late.fetch_or(Instant::now() >= deadline, Ordering::Relaxed);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(16);
    std::thread::scope(|scope| {
        (0..threads).for_each(|_| _ = scope.spawn(work));
    });
    let mut found = found.into_inner().expect("nobody panics while holding it");
    found.unseen = total - seen.into_inner();
    found
}

impl Comparison {
    fn add(&mut self, key: ChangeKey, changed: Changed) {
        let is_full = self.changes.len() >= MOST_CHANGES;
        match self.changes.get_mut(&key) {
            Some(known) => {
                known.packets.extend(changed.packets);
                known.pairs += changed.pairs;
            }
            None if is_full => self.uncounted += 1,
            None => _ = self.changes.insert(key, changed),
        }
    }
}

fn compare_pair(
    evaluators: (&Evaluator<'_>, &Evaluator<'_>),
    from: &Class,
    to: &Class,
    ports: &PortNames,
    is_same: bool,
) -> BTreeMap<ChangeKey, Changed> {
    let mut changes: BTreeMap<ChangeKey, Changed> = BTreeMap::new();
    // A pod's packets to itself never meet a policy, and those between places outside are not ours.
    let target = if is_same { to.samples.get(1) } else { to.samples.first() };
    let (Some(source), Some(target)) = (from.samples.first(), target) else { return changes };
    if from.pods == 0 && to.pods == 0 {
        return changes;
    }
    let pairs = match (from.pods, to.pods) {
        (0, many) | (many, 0) => many,
        (from, to) => {
            if is_same {
                from * (from - 1)
            } else {
                from * to
            }
        }
    };
    for family in Family::ALL {
        let of =
            |sample: &Sample| sample.addresses.iter().copied().find(|address| Family::of(*address) == family);
        let (Some(from_address), Some(to_address)) = (of(source), of(target)) else { continue };
        for class in ports.classes(family) {
            let ends =
                (Side::new(source.place.clone(), from_address), Side::new(target.place.clone(), to_address));
            let packet = packet(ends, class, family);
            let (before, after) = (evaluators.0.evaluate(&packet), evaluators.1.evaluate(&packet));
            if before.allowed == after.allowed {
                continue;
            }
            let key =
                ChangeKey { from: from.workload.clone(), to: to.workload.clone(), allowed: after.allowed };
            let changed = changes.entry(key).or_insert_with(|| Changed {
                packets: BTreeSet::new(),
                pairs,
                example: (name(source), name(target)),
                decided: (decided(&before), decided(&after)),
            });
            changed.packets.insert(class);
        }
    }
    changes
}

fn packet((from, to): (Side, Side), class: PacketClass, family: Family) -> Packet {
    match class {
        PacketClass::Ports(protocol, range) => Packet::new(from, to, protocol, range.first),
        PacketClass::Icmp(kind, code) => {
            let protocol = if family == Family::V4 { Protocol::ICMP } else { Protocol::ICMPV6 };
            Packet { icmp: Some((kind, code)), ..Packet::new(from, to, protocol, 0) }
        }
        PacketClass::Other(protocol) => Packet::new(from, to, protocol, 0),
    }
}

fn name(sample: &Sample) -> String {
    match &sample.place {
        felix_evaluate::Place::Pod(pod) => pod.to_string(),
        _ => sample.addresses.first().map(ToString::to_string).unwrap_or_default(),
    }
}

fn decided(verdict: &felix_evaluate::Verdict) -> String {
    let deny = verdict.steps.iter().find(|step| step.action == model::Action::Deny);
    deny.or(verdict.steps.last()).map(ToString::to_string).unwrap_or_default()
}
