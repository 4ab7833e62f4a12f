//! The four tables of one family: what they should hold, and how they get there.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::{Duration, Instant};

use model::ChainInsertMode;

use crate::iptables::{Chain, ChainName, Hook, HookName, IptablesTable};
use crate::iptables_chain::HashedChain;
use crate::iptables_plan::{DesiredTable, Plan, hook_hashes};
use crate::iptables_retries::{Part, Refused, Retries, pause};
use crate::iptables_save::{Saved, SavedRule, SavedTable, parse_save};

/// Input for one transaction: from `*table` to `COMMIT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreSection {
    pub table: IptablesTable,
    pub text: String,
}

/// The port to `iptables-save` and `iptables-restore` of one family and backend.
pub trait IptablesDriver {
    /// All tables in the format of `iptables-save`.
    fn save(&mut self) -> io::Result<String>;

    /// Commits the sections in order; returns those that failed by index. One that fails stops no other, but
    /// for `ResourceBusy`: others hold the tables, and nothing was tried.
    fn restore(&mut self, sections: &[RestoreSection]) -> Vec<(usize, io::Error)>;

    /// A number that differs after somebody has written, found out in microseconds; `None` where there is no
    /// such thing. It may stay the same when one rule takes the place of another of the same size.
    fn fingerprint(&mut self) -> Option<u64> {
        None
    }

    /// Was it this driver's own program that wrote, by the port of [`crate::RuleEvent`]?
    fn has_written(&self, writer: u32) -> bool {
        let _ = writer;
        false
    }

    /// How long the last `restore` waited for others and ran, and forgets it; `None` when none ran.
    fn take_times(&mut self) -> Option<RestoreTimes> {
        None
    }
}

/// What `iptables-restore` cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestoreTimes {
    /// Until nobody else held the lock of the tables.
    pub lock_wait: Duration,
    pub run: Duration,
}

/// What one `apply` did.
#[derive(Debug, Default)]
pub struct IptablesApplied {
    pub chains_written: usize,
    pub chains_deleted: usize,
    /// Kernel chains whose jumps were put right.
    pub hooks_written: usize,
    /// Lines given to `iptables-restore`; 0 when it did not run.
    pub lines: usize,
    /// What was refused; everything else is written.
    pub failed: Vec<Refused>,
}

/// Chains and hooks of one family.
///
/// What the kernel holds is read once, and again at `resync`, after a failure, and before hooks are changed
/// (others write to those chains too). The first `apply` also sweeps what an earlier run left behind, so it must
/// wait until everything wanted has been set.
pub struct Iptables<D> {
    driver: D,
    mode: ChainInsertMode,
    desired: BTreeMap<IptablesTable, DesiredTable>,
    saved: Option<Saved>,
    /// The driver's fingerprint when `saved` was true.
    fingerprint: Option<u64>,
    /// What `saved` lacks of `desired`, kept as both change: an apply costs what it changes.
    plans: BTreeMap<IptablesTable, Plan>,
    retries: Retries,
    /// How long what is to go, and harms nobody, is gathered; and when that is over.
    patience: Duration,
    take_away_at: Option<Instant>,
    /// Goes at once what is to go: at the first write, and when nothing is wanted any more.
    is_hasty: bool,
    /// How often in a row nothing could be read, and when that is tried again.
    unreadable: Option<(u32, Instant)>,
}

impl<D: IptablesDriver> Iptables<D> {
    pub fn new(driver: D, mode: ChainInsertMode) -> Self {
        let desired = IptablesTable::ALL.into_iter().map(|table| (table, DesiredTable::default())).collect();
        Self {
            driver,
            mode,
            desired,
            saved: None,
            fingerprint: None,
            plans: BTreeMap::new(),
            retries: Retries::default(),
            patience: Duration::ZERO,
            take_away_at: None,
            is_hasty: true,
            unreadable: None,
        }
    }

    /// Gathers for so long what is to go: chains that nothing leads to, and rules that lead to these. With
    /// iptables-nft whoever writes next waits for what was taken away before.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// What is to go goes at the next write, and waits for no more.
    pub fn take_away_at_once(&mut self) {
        self.is_hasty = true;
    }

    /// Where jumps go in the kernel's chains.
    pub fn set_insert_mode(&mut self, mode: ChainInsertMode) {
        if mode != self.mode {
            self.mode = mode;
            IptablesTable::ALL.into_iter().for_each(|table| self.retries.wish_changed(table, Part::Hooks));
            self.plan_all();
        }
    }

    /// Wants a chain, or wants it gone.
    pub fn set_chain(&mut self, table: IptablesTable, name: ChainName, chain: Option<Chain>) {
        let chains = &mut self.desired.entry(table).or_default().chains;
        match chain {
            Some(chain) if chains.get(&name).is_some_and(|has| has.chain == chain) => {}
            Some(chain) => {
                debug_assert_eq!(chain.name, name);
                self.retries.wish_changed(table, Part::Chain(name.clone()));
                let mut hashed = HashedChain::new(chain);
                if let Some(before) = chains.remove(&name) {
                    let saved = self.saved.as_ref().and_then(|saved| saved.get(&table));
                    hashed = hashed.in_place_of(before, saved.and_then(|saved| saved.ours.get(&name)));
                }
                chains.insert(name.clone(), hashed);
                self.plan_chain(table, &name);
            }
            None => {
                if chains.remove(&name).is_some() {
                    self.retries.wish_changed(table, Part::Stale);
                    self.plan_chain(table, &name);
                }
            }
        }
    }

    /// Wants these rules of ours in a chain of the kernel; the default takes all away.
    pub fn set_hook(&mut self, table: IptablesTable, name: HookName, hook: Hook) {
        let hooks = &mut self.desired.entry(table).or_default().hooks;
        if hooks.get(name) != Some(&hook) {
            hooks.insert(name, hook);
            self.retries.wish_changed(table, Part::Hooks);
            self.plan_hook(table, name);
        }
    }

    /// What is wanted in a chain of the kernel.
    pub fn hook(&self, table: IptablesTable, name: HookName) -> Option<&Hook> {
        self.desired.get(&table)?.hooks.get(name)
    }

    /// Wants nothing of ours in the kernel's chains.
    pub fn clear_hooks(&mut self) {
        for (table, desired) in &mut self.desired {
            if !std::mem::take(&mut desired.hooks).is_empty() {
                self.retries.wish_changed(*table, Part::Hooks);
            }
        }
    }

    /// Reads the kernel's state again. Returns how many chains and hooks differ from what is wanted.
    pub fn resync(&mut self) -> io::Result<usize> {
        // Before reading: who writes meanwhile makes a difference later.
        self.fingerprint = self.driver.fingerprint();
        self.saved = Some(parse_save(&self.driver.save()?));
        self.plan_all();
        Ok(self.pending())
    }

    /// Does the driver tell cheaply that somebody else has written since the last look?
    pub fn is_disturbed(&mut self) -> bool {
        self.saved.is_some() && self.driver.fingerprint() != self.fingerprint
    }

    /// Has the driver a way to tell that somebody else has written?
    pub fn tells_disturbance(&self) -> bool {
        self.fingerprint.is_some()
    }

    /// Goes on with another driver, over what that one's kernel holds; what is wanted stays.
    pub fn replace_driver(&mut self, driver: D) -> D {
        (self.fingerprint, self.unreadable) = (None, None);
        self.is_hasty = true;
        self.forget_saved();
        self.retries = Retries::default();
        std::mem::replace(&mut self.driver, driver)
    }

    /// Makes the next `apply` read the kernel's state first.
    pub fn invalidate(&mut self) {
        self.forget_saved();
    }

    /// Writes what differs, but for what was refused and has to wait until after `now`; a new wish for it is
    /// written at once. Fails only when nothing could be read; then everything waits.
    pub fn apply(&mut self, now: Instant) -> io::Result<IptablesApplied> {
        if self.unreadable.is_some_and(|(_, at)| now < at) {
            return Ok(IptablesApplied::default());
        }
        let result = self.apply_now(now);
        match &result {
            Ok(applied) => {
                self.unreadable = None;
                if !applied.failed.is_empty() {
                    self.forget_saved();
                }
            }
            Err(_) => {
                let failures = self.unreadable.map_or(0, |(failures, _)| failures);
                self.unreadable = Some((failures.saturating_add(1), now + pause(failures)));
                self.forget_saved();
            }
        }
        result
    }

    /// When the next try after a failure is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let unreadable = self.unreadable.map(|(_, at)| at);
        let others = [self.retries.poll_timeout(), self.take_away_at];
        unreadable.or_else(|| others.into_iter().flatten().min())
    }

    /// Is there something that goes a little later?
    pub fn gathers(&self) -> bool {
        self.take_away_at.is_some()
    }

    /// Does everything wait because nothing could be read?
    pub fn is_unreadable(&self) -> bool {
        self.unreadable.is_some()
    }

    /// What was refused and is still wanted, with the reason.
    pub fn refused(&self) -> impl Iterator<Item = (IptablesTable, &Part, &str)> {
        self.retries.iter()
    }

    /// Does the kernel hold what is wanted, as far as is known?
    pub fn is_settled(&self) -> bool {
        self.saved.is_some() && self.pending() == 0
    }

    /// How the kernel's chains and jumps differ from what is wanted, as of the last `resync`: what, what is wanted,
    /// and what is there, in words.
    pub fn differences(&self) -> Vec<(String, Option<String>, Option<String>)> {
        let none = SavedTable::default();
        let mut all = Vec::new();
        for (table, plan) in &self.plans {
            let desired = &self.desired[table];
            let saved = self.saved.as_ref().and_then(|saved| saved.get(table)).unwrap_or(&none);
            let label = |name: &str| format!("table {}: chain {name}", table.name());
            for name in &plan.write {
                let (intended, actual) = desired.chains[name].compared(saved.ours.get(name));
                all.push((label(name.as_str()), Some(intended), actual));
            }
            // What goes a little later is as it is meant to be.
            for name in plan.delete.iter().filter(|_| !self.gathers()) {
                let rules = saved.ours.get(name).map_or(0, Vec::len);
                all.push((label(name.as_str()), None, Some(format!("{rules} rules"))));
            }
            for name in plan.trim.iter().filter(|_| !self.gathers()) {
                let (intended, actual) = desired.chains[name].compared(saved.ours.get(name));
                all.push((label(name.as_str()), Some(intended), actual));
            }
            for name in &plan.hooks {
                let is_wanted = desired.hooks.contains_key(&**name);
                let intended = is_wanted.then(|| "our rules, in their places".to_owned());
                let actual = "our rules are missing, changed or elsewhere".to_owned();
                all.push((label(name), intended, Some(actual)));
            }
        }
        all
    }

    /// How many chains and hooks differ from what is wanted, but for what is meant to go a little later.
    pub fn pending(&self) -> usize {
        let gathers = self.gathers();
        let counts = self.plans.values().map(Plan::count);
        counts.map(|(all, later)| if gathers { all - later } else { all }).sum()
    }

    pub fn driver(&self) -> &D {
        &self.driver
    }

    pub fn driver_mut(&mut self) -> &mut D {
        &mut self.driver
    }

    /// Compares everything.
    fn plan_all(&mut self) {
        let none = SavedTable::default();
        for (table, desired) in &self.desired {
            let saved = self.saved.as_ref().and_then(|saved| saved.get(table)).unwrap_or(&none);
            self.plans.insert(*table, Plan::new(desired, saved, self.mode));
        }
    }

    /// Compares one chain.
    fn plan_chain(&mut self, table: IptablesTable, name: &ChainName) {
        let none = SavedTable::default();
        let saved = self.saved.as_ref().and_then(|saved| saved.get(&table)).unwrap_or(&none);
        let desired = self.desired.entry(table).or_default();
        self.plans.entry(table).or_default().look_at_chain(name, desired, saved);
    }

    /// Compares our rules in one chain of others'.
    fn plan_hook(&mut self, table: IptablesTable, name: &str) {
        let none = SavedTable::default();
        let saved = self.saved.as_ref().and_then(|saved| saved.get(&table)).unwrap_or(&none);
        let desired = self.desired.entry(table).or_default();
        self.plans.entry(table).or_default().look_at_hook(name, desired, saved, self.mode);
    }

    /// Knows no more what the kernel holds.
    fn forget_saved(&mut self) {
        self.saved = None;
        self.plan_all();
    }

    /// The plans without what has to wait, and what that is.
    fn due_plans(&self, now: Instant) -> (BTreeMap<IptablesTable, Plan>, BTreeSet<(IptablesTable, Part)>) {
        let none = SavedTable::default();
        let mut plans = self.plans.clone();
        let mut held = BTreeSet::new();
        plans.retain(|table, plan| {
            let saved = self.saved.as_ref().and_then(|saved| saved.get(table)).unwrap_or(&none);
            held.append(&mut self.retries.hold_back(*table, plan, saved, now));
            if self.take_away_at.is_some_and(|at| now < at) {
                plan.put_off();
            }
            plan.writes() || plan.takes_away()
        });
        (plans, held)
    }

    /// Notes when what is to go goes.
    fn gather(&mut self, now: Instant) {
        let is_hasty = std::mem::take(&mut self.is_hasty);
        let due = if is_hasty { now } else { now + self.patience };
        let is_any = self.plans.values().any(Plan::takes_away);
        self.take_away_at = Some(self.take_away_at.map_or(due, |at| at.min(due))).filter(|_| is_any);
    }

    fn apply_now(&mut self, now: Instant) -> io::Result<IptablesApplied> {
        let mut fresh = self.saved.is_none();
        if fresh {
            self.resync()?;
        }
        self.gather(now);
        let (mut plans, mut held) = self.due_plans(now);
        if !fresh && plans.values().any(|plan| !plan.hooks.is_empty()) {
            fresh = true;
            self.resync()?;
            (plans, held) = self.due_plans(now);
        }
        let mut applied = self.restore(&plans);
        // Others hold the tables: nothing is wrong with ours, and to wait once is enough.
        let is_busy = |refused: &Refused| refused.error.kind() == io::ErrorKind::ResourceBusy;
        if applied.failed.iter().any(is_busy) {
            self.retries.note(&applied.failed, &held, now);
            return Ok(applied);
        }
        if !applied.failed.is_empty() && !fresh {
            // Perhaps somebody had taken away what the plan relied on: look and try once more.
            self.resync()?;
            (plans, held) = self.due_plans(now);
            applied = self.restore(&plans);
        }
        let is_apart = applied.failed.iter().any(|whole| whole.part == Part::Table);
        for whole in std::mem::take(&mut applied.failed) {
            let apart = match whole.part {
                Part::Table => self.restore_apart(whole.table, &plans[&whole.table], &mut applied),
                _ => None,
            };
            match apart {
                Some(refused) => applied.failed.extend(refused),
                None => applied.failed.push(whole),
            }
        }
        self.retries.note(&applied.failed, &held, now);
        if self.take_away_at.is_some_and(|at| at <= now) {
            self.take_away_at = None;
        }
        // What was written in the end is not what the plan said.
        if is_apart && applied.failed.is_empty() {
            self.resync()?;
        }
        Ok(applied)
    }

    /// Writes a refused table chain by chain, so that one bad chain stops no other: it stays as it was, and one
    /// that is new drops what it gets (unless a hook leads to it). Returns what is still refused; `None` when
    /// not even a chain can be made.
    fn restore_apart(
        &mut self,
        table: IptablesTable,
        plan: &Plan,
        applied: &mut IptablesApplied,
    ) -> Option<Vec<Refused>> {
        let none = SavedTable::default();
        let saved = self.saved.as_ref().and_then(|saved| saved.get(&table)).unwrap_or(&none);
        let declare =
            RestoreSection { table, text: plan.declare_section(table, &self.desired[&table], saved) };
        let mut texts = plan.sections_apart(table, &self.desired[&table], saved, self.mode);
        texts.extend(plan.delete_sections(table, &self.desired[&table], saved));
        if !self.driver.restore(&[declare]).is_empty() {
            return None;
        }
        let sections: Vec<_> = texts.into_iter().map(|text| RestoreSection { table, text }).collect();
        let failed = self.driver.restore(&sections);
        self.fingerprint = self.driver.fingerprint();
        let part = |index: usize| match plan.write.iter().nth(index) {
            Some(name) => Part::Chain(name.clone()),
            None if index == plan.write.len() => Part::Hooks,
            None => Part::Stale,
        };
        let refused = failed.into_iter().map(|(index, error)| Refused { table, part: part(index), error });
        let refused: Vec<_> = refused.collect();
        let chains = refused.iter().filter(|refused| matches!(refused.part, Part::Chain(_))).count();
        applied.chains_written += plan.write.len() - chains;
        Some(refused)
    }

    fn restore(&mut self, plans: &BTreeMap<IptablesTable, Plan>) -> IptablesApplied {
        let none = SavedTable::default();
        let mut applied = IptablesApplied::default();
        let (mut sections, mut parts) = (Vec::new(), Vec::new());
        let saved = |table| self.saved.as_ref().and_then(|saved| saved.get(table)).unwrap_or(&none);
        for (table, plan) in plans {
            let text = plan.write_section(*table, &self.desired[table], saved(table), self.mode);
            sections.extend(text.map(|text| RestoreSection { table: *table, text }));
            parts.resize(sections.len(), Part::Table);
        }
        for (table, plan) in plans {
            let texts = plan.delete_sections(*table, &self.desired[table], saved(table));
            sections.extend(texts.into_iter().map(|text| RestoreSection { table: *table, text }));
            parts.resize(sections.len(), Part::Stale);
        }
        if sections.is_empty() {
            return applied;
        }
        applied.lines = sections.iter().map(|section| section.text.lines().count()).sum();
        // Behind the tables' writes stand the deletions. Where both are refused, the write's reason counts.
        let failed = self.driver.restore(&sections);
        self.fingerprint = self.driver.fingerprint();
        for (index, error) in failed {
            let (table, part) = (sections[index].table, parts[index].clone());
            if !applied.failed.iter().any(|refused| refused.table == table) {
                applied.failed.push(Refused { table, part, error });
            }
        }
        for (table, plan) in plans {
            if !applied.failed.iter().any(|refused| refused.table == *table) {
                applied.chains_written += plan.write.len();
                applied.chains_deleted += plan.delete.len();
                applied.chains_written += plan.trim.len();
                applied.hooks_written += plan.hooks.len();
                self.note(*table, plan);
            }
        }
        applied
    }

    /// Notes that the kernel now holds what the plan said.
    fn note(&mut self, table: IptablesTable, plan: &Plan) {
        let desired = &self.desired[&table];
        let Some(saved) = self.saved.as_mut() else { return };
        let saved = saved.entry(table).or_default();
        for name in &plan.write {
            let written = plan.written(name, desired, saved);
            saved.ours.insert(name.clone(), written);
        }
        for name in &plan.delete {
            saved.ours.remove(name);
        }
        for name in &plan.trim {
            saved.ours.insert(name.clone(), desired.chains[name].hashes.clone());
        }
        let none = Hook::default();
        for name in &plan.hooks {
            let (inserts, appends) = hook_hashes(name, desired.hooks.get(&**name).unwrap_or(&none));
            let ours = |hash: String| SavedRule::Ours { hash: hash.into(), text: "".into() };
            let rules = saved.foreign.entry(name.clone()).or_default();
            rules.retain(|rule| *rule == SavedRule::Foreign);
            let at = if self.mode == ChainInsertMode::Insert { 0 } else { rules.len() };
            rules.splice(at..at, inserts.into_iter().map(ours));
            rules.extend(appends.into_iter().map(ours));
        }
        let chains = plan.write.iter().chain(&plan.delete).chain(&plan.trim);
        chains.for_each(|name| self.plan_chain(table, name));
        plan.hooks.iter().for_each(|name| self.plan_hook(table, name));
    }
}
