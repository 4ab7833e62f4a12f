//! IP sets: what they should hold, what they hold, and the way there by single members.
//!
//! A change of members costs what it changes, however large the set is. Nothing remembers what the kernel holds
//! but as the difference to what is wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Instant;

use model::Family;

use crate::ipset::{IpSet, IpSetKind, IpSetMember, IpSetName};
use crate::pauses::Pauses;
use crate::table::Applied;

/// A set is made anew and swapped in when that is at least so many members cheaper than changing it.
const SWAP_COST: usize = 64;

/// One set to be written.
#[derive(Clone, Copy, Debug)]
pub struct IpSetWrite<'a> {
    pub name: &'a IpSetName,
    pub kind: IpSetKind,
    pub family: Family,
    pub action: IpSetAction<'a>,
}

#[derive(Clone, Copy, Debug)]
pub enum IpSetAction<'a> {
    /// There is none of this name.
    Create(&'a BTreeSet<IpSetMember>),
    /// Adding what is there, and removing what is not, succeeds.
    Change { add: &'a BTreeSet<IpSetMember>, remove: &'a BTreeSet<IpSetMember> },
    /// Makes another set of the same type and swaps them, so that no packet sees anything between.
    Swap(&'a BTreeSet<IpSetMember>),
    /// There is one of another type: it has to go first, which fails while a rule looks it up.
    Replace(&'a BTreeSet<IpSetMember>),
}

/// A member that should be in a set.
#[derive(Clone, Copy, Debug)]
pub struct IpSetProbe<'a> {
    pub name: &'a IpSetName,
    pub family: Family,
    pub member: &'a IpSetMember,
}

/// The port to the kernel's IP sets.
pub trait IpSetPort {
    /// The names of the sets of ours, of both families.
    fn names(&mut self) -> io::Result<BTreeSet<IpSetName>>;

    /// Which of these members are not in their sets (or the set is not there)? By index. Costs about a microsecond
    /// each, however large the sets are.
    fn absent(&mut self, members: &[IpSetProbe<'_>]) -> io::Result<Vec<usize>>;

    /// One set; `None` when there is none, or one of a type that we never make.
    fn read(&mut self, name: &IpSetName) -> io::Result<Option<IpSet>>;

    /// Writes all; returns those that failed by index. One that fails stops no other, and may be half done.
    fn write(&mut self, writes: &[IpSetWrite<'_>]) -> Vec<(usize, io::Error)>;

    /// Destroys sets; one that is not there counts as destroyed. Returns those that failed.
    fn destroy(&mut self, names: &[IpSetName]) -> Vec<(IpSetName, io::Error)>;

    /// Sets made from now on hold at most so many members.
    fn set_max_size(&mut self, members: u32) {
        let _ = members;
    }

    /// Every set of ours.
    fn list(&mut self) -> io::Result<BTreeMap<IpSetName, IpSet>> {
        let mut sets = BTreeMap::new();
        for name in self.names()? {
            if let Some(set) = self.read(&name)? {
                sets.insert(name, set);
            }
        }
        Ok(sets)
    }
}

/// What the kernel holds of a set that is wanted.
enum Held {
    Nothing,
    /// A set of another type.
    Other,
    /// Everything that is wanted, but for this.
    Except {
        add: BTreeSet<IpSetMember>,
        remove: BTreeSet<IpSetMember>,
    },
}

impl Held {
    fn is_right(&self) -> bool {
        matches!(self, Held::Except { add, remove } if add.is_empty() && remove.is_empty())
    }

    fn compared(wanted: &IpSetWanted, actual: Option<&IpSet>) -> Self {
        match actual {
            None => Held::Nothing,
            Some(set) if set.kind != wanted.kind || set.family != wanted.family => Held::Other,
            Some(set) => Held::Except {
                add: wanted.members.difference(&set.members).copied().collect(),
                remove: set.members.difference(&wanted.members).copied().collect(),
            },
        }
    }
}

/// A set that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpSetWanted {
    pub kind: IpSetKind,
    pub family: Family,
    pub members: BTreeSet<IpSetMember>,
}

struct State {
    wanted: IpSetWanted,
    held: Held,
}

impl State {
    /// What brings the kernel there; `None` when it is there.
    fn action(&self) -> Option<IpSetAction<'_>> {
        let members = &self.wanted.members;
        match &self.held {
            Held::Nothing => Some(IpSetAction::Create(members)),
            Held::Other => Some(IpSetAction::Replace(members)),
            Held::Except { add, remove } if add.is_empty() && remove.is_empty() => None,
            Held::Except { add, remove } if add.len() + remove.len() > members.len() + SWAP_COST => {
                Some(IpSetAction::Swap(members))
            }
            Held::Except { add, remove } => Some(IpSetAction::Change { add, remove }),
        }
    }

    fn change(&mut self, added: impl IntoIterator<Item = IpSetMember>, removed: &[IpSetMember]) {
        let mut held = match &mut self.held {
            Held::Except { add, remove } => Some((add, remove)),
            Held::Nothing | Held::Other => None,
        };
        for member in removed {
            if self.wanted.members.remove(member)
                && let Some((add, remove)) = &mut held
                && !add.remove(member)
            {
                remove.insert(*member);
            }
        }
        for member in added {
            if self.wanted.members.insert(member)
                && let Some((add, remove)) = &mut held
                && !remove.remove(&member)
            {
                add.insert(member);
            }
        }
    }
}

/// The IP sets of both families.
///
/// Before the first `resync` it writes what is wanted and destroys nothing.
pub struct IpSets<D> {
    driver: D,
    sets: BTreeMap<IpSetName, State>,
    /// Wanted, and not right in the kernel.
    open: BTreeSet<IpSetName>,
    /// In the kernel and not wanted.
    stale: BTreeSet<IpSetName>,
    pauses: Pauses<IpSetName>,
}

impl<D: IpSetPort> IpSets<D> {
    pub fn new(driver: D) -> Self {
        let (sets, open, stale) = Default::default();
        Self { driver, sets, open, stale, pauses: Pauses::default() }
    }

    /// Wants a set to hold exactly this.
    pub fn set(&mut self, name: IpSetName, set: &IpSet) {
        self.pauses.forget(&name);
        self.stale.remove(&name);
        let is_same = |state: &State| state.wanted.kind == set.kind && state.wanted.family == set.family;
        if let Some(state) = self.sets.get_mut(&name).filter(|state| is_same(state)) {
            let removed: Vec<_> = state.wanted.members.difference(&set.members).copied().collect();
            state.change(set.members.iter().copied(), &removed);
        } else {
            // Where one is there, making it is refused, and it is looked at.
            let wanted = IpSetWanted { kind: set.kind, family: set.family, members: (*set.members).clone() };
            self.sets.insert(name.clone(), State { wanted, held: Held::Nothing });
        }
        self.note(&name);
    }

    /// Wants other members in a set that is wanted already; nothing can be made of it where there is none.
    pub fn change(
        &mut self,
        name: &IpSetName,
        added: impl IntoIterator<Item = IpSetMember>,
        removed: &[IpSetMember],
    ) {
        let Some(state) = self.sets.get_mut(name) else { return };
        state.change(added, removed);
        self.pauses.forget(name);
        self.note(name);
    }

    /// Wants no such set.
    pub fn remove(&mut self, name: &IpSetName) {
        if let Some(state) = self.sets.remove(name) {
            self.pauses.forget(name);
            self.open.remove(name);
            if !matches!(state.held, Held::Nothing) {
                self.stale.insert(name.clone());
            }
        }
    }

    /// Reads everything and compares. Returns how many sets differ from what is wanted.
    pub fn resync(&mut self) -> io::Result<usize> {
        let names = self.driver.names()?;
        for (name, state) in &mut self.sets {
            let actual = if names.contains(name) { self.driver.read(name)? } else { None };
            state.held = match actual {
                None if names.contains(name) => Held::Other,
                actual => Held::compared(&state.wanted, actual.as_ref()),
            };
        }
        self.stale = names.into_iter().filter(|name| !self.sets.contains_key(name)).collect();
        let open = self.sets.iter().filter(|(_, state)| !state.held.is_right());
        self.open = open.map(|(name, _)| name.clone()).collect();
        self.prune();
        Ok(self.pending())
    }

    /// Asks for the first and the last member of each set, and reads the sets that lack one: cheap, and finds what
    /// somebody flushed or destroyed, but not what he added. Returns how many sets differ from what is wanted.
    pub fn check(&mut self) -> io::Result<usize> {
        let right = self.sets.iter().filter(|(_, state)| state.held.is_right());
        let probes: Vec<_> = right
            .flat_map(|(name, state)| {
                let IpSetWanted { family, members, .. } = &state.wanted;
                let last = members.last().filter(|_| members.len() > 1);
                let ends = members.first().into_iter().chain(last);
                ends.map(|member| IpSetProbe { name, family: *family, member })
            })
            .collect();
        let absent = self.driver.absent(&probes)?;
        let suspect: BTreeSet<_> = absent.into_iter().map(|index| probes[index].name.clone()).collect();
        suspect.iter().try_for_each(|name| self.look(name))?;
        Ok(self.pending())
    }

    /// Writes what is wanted and due at `now`: before others refer to it.
    pub fn apply_puts(&mut self, now: Instant) -> Applied<IpSetName> {
        let due: Vec<_> = self.open.iter().filter(|name| self.pauses.is_due(name, now)).cloned().collect();
        let mut applied = Applied::default();
        let failed = self.write(&due);
        applied.written = due.len() - failed.len();
        // Somebody may have made or destroyed one: look at what failed, and try once more.
        let again: Vec<_> = failed.iter().map(|(name, _)| name.clone()).collect();
        let again: Vec<_> = again.into_iter().filter(|name| self.look(name).is_ok()).collect();
        let mut errors: BTreeMap<_, _> = failed.into_iter().collect();
        again.iter().for_each(|name| _ = errors.remove(name));
        let refused = self.write(&again);
        applied.written += again.len() - refused.len();
        errors.extend(refused);
        for (name, error) in errors {
            // Whatever was done of it.
            let _ = self.look(&name);
            self.pauses.failed(name.clone(), error.to_string(), now);
            applied.failed.push((name, error));
        }
        applied
    }

    /// Writes these sets as far as they differ; returns what failed.
    fn write(&mut self, names: &[IpSetName]) -> Vec<(IpSetName, io::Error)> {
        let write = |name| {
            let state: &State = self.sets.get(name)?;
            let IpSetWanted { kind, family, .. } = state.wanted;
            state.action().map(|action| IpSetWrite { name, kind, family, action })
        };
        let writes: Vec<_> = names.iter().filter_map(write).collect();
        if writes.is_empty() {
            return Vec::new();
        }
        let failed = self.driver.write(&writes);
        let failed: Vec<_> =
            failed.into_iter().map(|(index, error)| (writes[index].name.clone(), error)).collect();
        let bad: BTreeSet<_> = failed.iter().map(|(name, _)| name).collect();
        for name in names.iter().filter(|name| !bad.contains(name)) {
            if let Some(state) = self.sets.get_mut(name) {
                state.held = Held::Except { add: BTreeSet::new(), remove: BTreeSet::new() };
            }
            self.open.remove(name);
            self.pauses.forget(name);
        }
        failed
    }

    /// Reads one set that is wanted.
    fn look(&mut self, name: &IpSetName) -> io::Result<()> {
        let actual = self.driver.read(name)?;
        if let Some(state) = self.sets.get_mut(name) {
            state.held = Held::compared(&state.wanted, actual.as_ref());
        }
        self.note(name);
        Ok(())
    }

    /// Destroys what nobody wants and, by now, nobody refers to.
    pub fn apply_deletes(&mut self, now: Instant) -> Applied<IpSetName> {
        let due: Vec<_> = self.stale.iter().filter(|name| self.pauses.is_due(name, now)).cloned().collect();
        if due.is_empty() {
            return Applied::default();
        }
        let failed = self.driver.destroy(&due);
        let deleted = due.len() - failed.len();
        for name in due.iter().filter(|name| !failed.iter().any(|(bad, _)| bad == *name)) {
            self.stale.remove(name);
            self.pauses.forget(name);
        }
        failed.iter().for_each(|(name, error)| self.pauses.failed(name.clone(), error.to_string(), now));
        Applied { written: 0, deleted, failed }
    }

    /// The set that is wanted.
    pub fn wanted(&self, name: &IpSetName) -> Option<&IpSetWanted> {
        self.sets.get(name).map(|state| &state.wanted)
    }

    /// Every set that is wanted.
    pub fn all_wanted(&self) -> impl ExactSizeIterator<Item = (&IpSetName, &IpSetWanted)> {
        self.sets.iter().map(|(name, state)| (name, &state.wanted))
    }

    /// How the kernel's sets differ from what is wanted, as far as is known: by name, what is wanted and what is
    /// there, in words.
    pub fn differences(&self) -> Vec<(IpSetName, Option<String>, Option<String>)> {
        let wanted = self.open.iter().filter_map(|name| {
            let state = self.sets.get(name)?;
            let actual = match &state.held {
                Held::Nothing => None,
                Held::Other => Some("a set of another type".to_owned()),
                Held::Except { add, remove } => Some(except(add, remove)),
            };
            Some((name.clone(), Some(format!("{} members", state.wanted.members.len())), actual))
        });
        let stale = self.stale.iter().map(|name| (name.clone(), None, Some("a set".to_owned())));
        wanted.chain(stale).collect()
    }

    /// Is it still to be written or destroyed?
    pub fn is_pending(&self, name: &IpSetName) -> bool {
        self.open.contains(name) || self.stale.contains(name)
    }

    /// How many sets are still to be written or destroyed.
    pub fn pending(&self) -> usize {
        self.open.len() + self.stale.len()
    }

    /// Sets whose last try failed, with its reason.
    pub fn failing(&self) -> impl Iterator<Item = (&IpSetName, &str)> {
        self.pauses.iter()
    }

    /// Why the last try of a set failed; `None` when it did not.
    pub fn error(&self, name: &IpSetName) -> Option<&str> {
        self.pauses.error(name)
    }

    /// When the next failed one is due again.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.pauses.next()
    }

    pub fn driver(&self) -> &D {
        &self.driver
    }

    pub fn driver_mut(&mut self) -> &mut D {
        &mut self.driver
    }

    fn note(&mut self, name: &IpSetName) {
        match self.sets.get(name) {
            Some(state) if !state.held.is_right() => self.open.insert(name.clone()),
            _ => self.open.remove(name),
        };
    }

    /// Drops the pauses of sets that turned out to be right.
    fn prune(&mut self) {
        let (open, stale) = (&self.open, &self.stale);
        self.pauses.retain(|name| open.contains(name) || stale.contains(name));
    }
}

/// A difference in words, with the first members.
fn except(add: &BTreeSet<IpSetMember>, remove: &BTreeSet<IpSetMember>) -> String {
    let list = |members: &BTreeSet<IpSetMember>| {
        let mut text: Vec<_> = members.iter().take(SHOWN).map(ToString::to_string).collect();
        if members.len() > SHOWN {
            text.push(format!("and {} more", members.len() - SHOWN));
        }
        text.join(" ")
    };
    let parts = [("without", add), ("also", remove)];
    let parts = parts.iter().filter(|(_, members)| !members.is_empty());
    parts.map(|(word, members)| format!("{word} {}", list(members))).collect::<Vec<_>>().join("; ")
}

/// Members that a difference names.
const SHOWN: usize = 5;
