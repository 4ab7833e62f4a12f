//! From what a table holds and what it should hold to the input of `iptables-restore --noflush`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use model::ChainInsertMode;

use crate::iptables::{ChainName, Hook, HookName, IptablesTable, chain_hashes};
use crate::iptables_chain::{Difference, HashedChain};
use crate::iptables_save::{SavedRule, SavedTable};
use crate::iptables_text::rule_text;
use crate::packet_rule::PacketRule;

/// What one table should hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct DesiredTable {
    pub(crate) chains: BTreeMap<ChainName, HashedChain>,
    pub(crate) hooks: BTreeMap<HookName, Hook>,
}

/// Chains and hooks to be written, chains to be deleted: one table's difference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) write: BTreeSet<ChainName>,
    /// Nothing that is wanted leads to them.
    pub(crate) delete: BTreeSet<ChainName>,
    /// Chains that hold all that is wanted, and rules at their front that are to go.
    pub(crate) trim: BTreeSet<ChainName>,
    /// Chains that are not ours and in which our rules are to be changed.
    pub(crate) hooks: BTreeSet<Box<str>>,
}

impl Plan {
    /// Compares everything.
    pub(crate) fn new(desired: &DesiredTable, saved: &SavedTable, mode: ChainInsertMode) -> Self {
        let mut plan = Self::default();
        for name in desired.chains.keys().chain(saved.ours.keys()) {
            plan.look_at_chain(name, desired, saved);
        }
        for name in saved.foreign.keys() {
            plan.look_at_hook(name, desired, saved, mode);
        }
        // The kernel's chains are always printed, unless the table was never used.
        for name in desired.hooks.keys().filter(|name| !saved.foreign.contains_key(**name)) {
            plan.look_at_hook(name, desired, saved, mode);
        }
        plan
    }

    /// Compares one chain anew.
    pub(crate) fn look_at_chain(&mut self, name: &ChainName, desired: &DesiredTable, saved: &SavedTable) {
        self.write.remove(name);
        self.delete.remove(name);
        self.trim.remove(name);
        let actual = saved.ours.get(name);
        let place = match desired.chains.get(name).map(|wanted| wanted.difference(actual)) {
            Some(Difference::Whole | Difference::Missing) => &mut self.write,
            Some(Difference::Former) => &mut self.trim,
            None if actual.is_some() => &mut self.delete,
            Some(Difference::None) | None => return,
        };
        place.insert(name.clone());
    }

    /// Compares our rules in one chain of others' anew.
    pub(crate) fn look_at_hook(
        &mut self,
        name: &str,
        desired: &DesiredTable,
        saved: &SavedTable,
        mode: ChainInsertMode,
    ) {
        let none = Hook::default();
        let hook = desired.hooks.get(name).unwrap_or(&none);
        let is_right = match saved.foreign.get(name) {
            Some(rules) => layout_is_right(name, hook, rules, mode),
            None => *hook == none,
        };
        if is_right {
            self.hooks.remove(name);
        } else {
            self.hooks.insert(name.into());
        }
    }

    /// Is there anything that should not wait?
    pub(crate) fn writes(&self) -> bool {
        !self.write.is_empty() || !self.hooks.is_empty()
    }

    /// Is there anything to take away that harms nobody?
    pub(crate) fn takes_away(&self) -> bool {
        !self.delete.is_empty() || !self.trim.is_empty()
    }

    /// Leaves for later what harms nobody.
    pub(crate) fn put_off(&mut self) {
        self.delete.clear();
        self.trim.clear();
    }

    /// How many chains and hooks it concerns, and how many of these may wait.
    pub(crate) fn count(&self) -> (usize, usize) {
        let later = self.delete.len() + self.trim.len();
        (self.write.len() + self.hooks.len() + later, later)
    }

    /// The transaction that writes chains and hooks.
    pub(crate) fn write_section(
        &self,
        table: IptablesTable,
        desired: &DesiredTable,
        saved: &SavedTable,
        mode: ChainInsertMode,
    ) -> Option<String> {
        self.writes().then(|| {
            transaction(table, |text| {
                // Declaring a chain makes it, or empties it.
                let is_whole = |name: &&ChainName| self.grows(name, desired, saved).is_none();
                self.write.iter().filter(is_whole).for_each(|name| push_declaration(text, name));
                for name in &self.write {
                    let hashed = &desired.chains[name];
                    match self.grows(name, desired, saved) {
                        // Each goes to the front, so the first comes last.
                        Some(actual) => hashed
                            .missing(actual)
                            .rev()
                            .for_each(|(hash, rule)| push_rule(text, "-I", name.as_str(), hash, rule)),
                        None => push_chain(text, hashed),
                    }
                }
                self.push_hooks(text, desired, saved, mode);
            })
        })
    }

    /// What a chain holds that only lacks rules at its front.
    fn grows<'a>(
        &self,
        name: &ChainName,
        desired: &DesiredTable,
        saved: &'a SavedTable,
    ) -> Option<&'a [Box<str>]> {
        let actual = saved.ours.get(name)?;
        (desired.chains.get(name)?.difference(Some(actual)) == Difference::Missing).then_some(actual)
    }

    /// What a chain of `write` holds when the plan is carried out.
    pub(crate) fn written(
        &self,
        name: &ChainName,
        desired: &DesiredTable,
        saved: &SavedTable,
    ) -> Vec<Box<str>> {
        let hashed = &desired.chains[name];
        match self.grows(name, desired, saved) {
            Some(actual) => hashed.missing(actual).map(|(hash, _)| hash).chain(actual).cloned().collect(),
            None => hashed.hashes.clone(),
        }
    }

    /// For a table that was refused as a whole: a transaction that makes the chains which do not exist yet, so
    /// that any other may refer to them. In the filter table they drop everything until they are written, but
    /// for those that hooks lead to: these see the node's own traffic too, and must not lock it out.
    pub(crate) fn declare_section(
        &self,
        table: IptablesTable,
        desired: &DesiredTable,
        saved: &SavedTable,
    ) -> String {
        let hooked = |rule: &PacketRule, name: &ChainName| rule.targets().any(|target| target == name);
        let rules = || desired.hooks.values().flat_map(|hook| hook.inserts.iter().chain(&hook.appends));
        transaction(table, |text| {
            for name in self.write.iter().filter(|name| !saved.ours.contains_key(*name)) {
                push_declaration(text, name);
                if table == IptablesTable::Filter && !rules().any(|rule| hooked(rule, name)) {
                    let _ = writeln!(text, "-A {name} --jump DROP");
                }
            }
        })
    }

    /// Each chain in a transaction of its own, then the hooks: what is refused stops nothing else.
    pub(crate) fn sections_apart(
        &self,
        table: IptablesTable,
        desired: &DesiredTable,
        saved: &SavedTable,
        mode: ChainInsertMode,
    ) -> Vec<String> {
        let chain = |name: &ChainName| {
            transaction(table, |text| {
                push_declaration(text, name);
                push_chain(text, &desired.chains[name]);
            })
        };
        let mut sections: Vec<String> = self.write.iter().map(chain).collect();
        sections.push(transaction(table, |text| self.push_hooks(text, desired, saved, mode)));
        sections
    }

    fn push_hooks(
        &self,
        text: &mut String,
        desired: &DesiredTable,
        saved: &SavedTable,
        mode: ChainInsertMode,
    ) {
        let none = Hook::default();
        for name in &self.hooks {
            for rule in saved.foreign.get(name).into_iter().flatten() {
                if let SavedRule::Ours { text: rule, .. } = rule {
                    let _ = writeln!(text, "-D {name} {rule}");
                }
            }
            push_hook(text, name, desired.hooks.get(&**name).unwrap_or(&none), mode);
        }
    }

    /// The transactions that take away what is not wanted: one that takes every reference from chains that go, one
    /// that deletes them. Separate, because nftables refuses to delete a chain in the transaction that takes away
    /// the last reference, and so that a foreign reference does not undo the rest.
    pub(crate) fn delete_sections(
        &self,
        table: IptablesTable,
        desired: &DesiredTable,
        saved: &SavedTable,
    ) -> Vec<String> {
        let mut sections = Vec::new();
        if self.takes_away() {
            sections.push(transaction(table, |text| {
                self.delete.iter().for_each(|name| push_declaration(text, name));
                for name in &self.trim {
                    let actual = saved.ours.get(name).map(Vec::as_slice).unwrap_or_default();
                    let former = desired.chains[name].former(actual);
                    former.for_each(|(hash, rule)| push_rule(text, "-D", name.as_str(), hash, rule));
                }
            }));
        }
        if !self.delete.is_empty() {
            sections.push(transaction(table, |text| {
                self.delete.iter().for_each(|name| {
                    let _ = writeln!(text, "-X {name}");
                });
            }));
        }
        sections
    }
}

/// Hashes of what a hook puts into a chain: at the front or end, and always at the end.
pub(crate) fn hook_hashes(name: &str, hook: &Hook) -> (Vec<String>, Vec<String>) {
    (chain_hashes(name, &hook.inserts), chain_hashes(&format!("{name}*appends*"), &hook.appends))
}

/// Are our rules where they belong, with nothing of ours elsewhere?
fn layout_is_right(name: &str, hook: &Hook, rules: &[SavedRule], mode: ChainInsertMode) -> bool {
    let (inserts, appends) = hook_hashes(name, hook);
    let (first, last) = match mode {
        ChainInsertMode::Insert => (inserts, appends),
        ChainInsertMode::Append => (Vec::new(), [inserts, appends].concat()),
    };
    let Some(foreign) = rules.len().checked_sub(first.len() + last.len()) else { return false };
    let (front, rest) = rules.split_at(first.len());
    let (middle, end) = rest.split_at(foreign);
    holds(front, &first) && middle.iter().all(|rule| *rule == SavedRule::Foreign) && holds(end, &last)
}

fn holds(rules: &[SavedRule], hashes: &[String]) -> bool {
    rules.iter().zip(hashes).all(|(rule, hash)| match rule {
        SavedRule::Ours { hash: has, .. } => **has == **hash,
        SavedRule::Foreign => false,
    })
}

fn push_hook(text: &mut String, name: &str, hook: &Hook, mode: ChainInsertMode) {
    let (inserts, appends) = hook_hashes(name, hook);
    let pairs = hook.inserts.iter().zip(&inserts);
    match mode {
        // Each goes to the front, so the first comes last.
        ChainInsertMode::Insert => pairs.rev().for_each(|(r, hash)| push_rule(text, "-I", name, hash, r)),
        ChainInsertMode::Append => pairs.for_each(|(r, hash)| push_rule(text, "-A", name, hash, r)),
    }
    hook.appends.iter().zip(&appends).for_each(|(rule, hash)| push_rule(text, "-A", name, hash, rule));
}

fn transaction(table: IptablesTable, body: impl FnOnce(&mut String)) -> String {
    let mut text = format!("*{}\n", table.name());
    body(&mut text);
    text.push_str("COMMIT\n");
    text
}

fn push_declaration(text: &mut String, name: &ChainName) {
    let _ = writeln!(text, ":{name} - [0:0]");
}

fn push_chain(text: &mut String, hashed: &HashedChain) {
    for (rule, hash) in hashed.chain.rules.iter().zip(&hashed.hashes) {
        push_rule(text, "-A", hashed.chain.name.as_str(), hash, rule);
    }
}

fn push_rule(text: &mut String, command: &str, chain: &str, hash: &str, rule: &PacketRule) {
    let _ = write!(text, "{command} {chain} -m comment --comment \"cali:{hash}\"");
    let rule = rule_text(rule);
    if !rule.is_empty() {
        let _ = write!(text, " {rule}");
    }
    text.push('\n');
}
