//! What `iptables-restore` refused, and when each is tried again: a bad chain delays no other.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use crate::iptables::{ChainName, IptablesTable};
use crate::iptables_plan::Plan;
use crate::iptables_save::SavedTable;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The pause after so many failures in a row.
pub(crate) fn pause(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failures.min(16)).min(LONGEST_PAUSE)
}

/// What of a table can be refused by itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Everything: not even an empty chain can be made.
    Table,
    Chain(ChainName),
    /// Our rules in the kernel's chains.
    Hooks,
    /// Chains that are to go; somebody else may refer to them.
    Stale,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Table => f.write_str("everything"),
            Part::Chain(name) => write!(f, "chain {name}"),
            Part::Hooks => f.write_str("jumps from the kernel's chains"),
            Part::Stale => f.write_str("chains that are to go"),
        }
    }
}

/// One part that was refused.
#[derive(Debug)]
pub struct Refused {
    pub table: IptablesTable,
    pub part: Part,
    pub error: io::Error,
}

pub(crate) struct Retry {
    failures: u32,
    /// `None`: at once, because what is wanted has changed.
    at: Option<Instant>,
    error: String,
}

/// Parts that were refused and are still wanted.
#[derive(Default)]
pub(crate) struct Retries(BTreeMap<(IptablesTable, Part), Retry>);

impl Retries {
    /// Another wish for this part: no reason to wait. Nor for the table, whose refusal it may end.
    pub(crate) fn wish_changed(&mut self, table: IptablesTable, part: Part) {
        for part in [part, Part::Table] {
            if let Some(retry) = self.0.get_mut(&(table, part)) {
                retry.at = None;
            }
        }
    }

    /// Takes out of a plan what has to wait until after `now`. Returns the parts taken out.
    ///
    /// A chain that does not exist never waits: others may refer to it.
    pub(crate) fn hold_back(
        &self,
        table: IptablesTable,
        plan: &mut Plan,
        saved: &SavedTable,
        now: Instant,
    ) -> BTreeSet<(IptablesTable, Part)> {
        let waits = |part: Part| {
            let retry = self.0.get(&(table, part));
            retry.and_then(|retry| retry.at).is_some_and(|at| now < at)
        };
        let mut held = BTreeSet::new();
        if waits(Part::Table) {
            *plan = Plan::default();
            held.insert((table, Part::Table));
            return held;
        }
        plan.write.retain(|name| {
            let waits = saved.ours.contains_key(name) && waits(Part::Chain(name.clone()));
            if waits {
                held.insert((table, Part::Chain(name.clone())));
            }
            !waits
        });
        if !plan.hooks.is_empty() && waits(Part::Hooks) {
            plan.hooks.clear();
            held.insert((table, Part::Hooks));
        }
        if plan.takes_away() && waits(Part::Stale) {
            plan.put_off();
            held.insert((table, Part::Stale));
        }
        held
    }

    /// Notes what was refused at `now`; what was neither refused nor held back is in order.
    pub(crate) fn note(&mut self, refused: &[Refused], held: &BTreeSet<(IptablesTable, Part)>, now: Instant) {
        let mut old = std::mem::take(&mut self.0);
        for refusal in refused {
            let key = (refusal.table, refusal.part.clone());
            let failures = old.remove(&key).map_or(0, |retry| retry.failures);
            let error = refusal.error.to_string();
            let at = Some(now + pause(failures));
            self.0.insert(key, Retry { failures: failures.saturating_add(1), at, error });
        }
        self.0.extend(old.into_iter().filter(|(key, _)| held.contains(key)));
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.0.values().filter_map(|retry| retry.at).min()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (IptablesTable, &Part, &str)> {
        self.0.iter().map(|((table, part), retry)| (*table, part, retry.error.as_str()))
    }
}
