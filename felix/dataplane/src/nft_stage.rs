//! Policy in nf_tables' own objects: sets, maps and chains of both families in one transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use felix_render::IpSetChange;
use kernel::nft::{NftDriver, NftObject, NftVerdict, Nftables, nft_chain_name};
use kernel::{Chain, ChainName, Hook, HookName, IpSetMember, IpSetName, IptablesTable, PacketRule};
use model::Family;

use crate::audit::{Difference, KindAudit};
use crate::endpoint::CHAIN_PREFIXES;
use crate::status::{Failed, Kind, Report, Status};

const KIND: Kind = Kind::Nftables;
/// Others' writes lead to reading back at most so often.
const SELDOM: Duration = Duration::from_millis(200);

pub(crate) struct NftStage<D> {
    tables: Nftables<D>,
    /// Sets by their names elsewhere, so that they can be handed over.
    sets: BTreeSet<IpSetName>,
    /// Chains and hooks as they are meant.
    chains: BTreeMap<(Family, IptablesTable, ChainName), Chain>,
    hooks: BTreeMap<(Family, IptablesTable, HookName), Hook>,
    families: Vec<Family>,
    /// Is there something that the kernel was not told yet?
    is_unwritten: bool,
    /// Is policy somewhere else, so that nothing of ours may be here?
    is_retired: bool,
    resync_at: Option<Instant>,
    /// Somebody else has written since all was read.
    is_disturbed: bool,
    /// When all was read last because of that.
    disturbed_at: Option<Instant>,
    /// `None`: never by itself.
    refresh: Option<Duration>,
    was_read: bool,
}

impl<D: NftDriver> NftStage<D> {
    pub(crate) fn new(driver: D, families: Vec<Family>) -> Self {
        Self {
            tables: Nftables::new(driver),
            sets: BTreeSet::new(),
            chains: BTreeMap::new(),
            hooks: BTreeMap::new(),
            families,
            is_unwritten: false,
            is_retired: true,
            resync_at: None,
            is_disturbed: false,
            disturbed_at: None,
            refresh: None,
            was_read: false,
        }
    }

    /// Was a change with this writer our own?
    pub(crate) fn is_own(&self, writer: u32) -> bool {
        self.tables.driver().is_own(writer)
    }

    /// Takes the renderer's differences.
    pub(crate) fn want(
        &mut self,
        sets: BTreeMap<IpSetName, IpSetChange>,
        chains: BTreeMap<(Family, IptablesTable, ChainName), Option<Chain>>,
        hooks: BTreeMap<(Family, IptablesTable, HookName), Hook>,
    ) {
        sets.into_iter().for_each(|(name, change)| self.want_set(name, change));
        chains.into_iter().for_each(|(key, chain)| self.want_chain(key, chain.as_ref()));
        hooks.into_iter().for_each(|(key, hook)| self.want_hook(key, &hook));
    }

    /// Wants nothing, and so takes away what there is at the next `apply`.
    pub(crate) fn retire(&mut self, now: Instant) {
        self.tables.want_nothing();
        self.sets.clear();
        self.chains.clear();
        self.hooks.clear();
        self.is_retired = true;
        self.resync_at(now);
    }

    /// From now on policy is here.
    pub(crate) fn take_over(&mut self, now: Instant) {
        self.is_retired = false;
        self.resync_at(now);
    }

    /// Wants what a change leads to.
    pub(crate) fn want_set(&mut self, name: IpSetName, change: IpSetChange) {
        match change {
            IpSetChange::Full(set) => {
                self.tables.want_set(&name, Some(set));
                self.sets.insert(name);
            }
            IpSetChange::Delta { added, removed } => self.tables.want_members(&name, &added, &removed),
            IpSetChange::Gone => {
                self.tables.want_set(&name, None);
                self.sets.remove(&name);
            }
        }
        self.is_unwritten = true;
    }

    /// The sets that are wanted.
    pub(crate) fn wanted_sets(&self) -> Vec<(IpSetName, IpSetChange)> {
        let set =
            |name: &IpSetName| Some((name.clone(), IpSetChange::Full(self.tables.wanted_set(name)?.clone())));
        self.sets.iter().filter_map(set).collect()
    }

    fn want_chain(
        &mut self,
        (family, table, name): (Family, IptablesTable, ChainName),
        chain: Option<&Chain>,
    ) {
        if self.families.contains(&family) {
            self.tables.want_chain(family, table, &name, chain);
            match chain {
                Some(chain) => _ = self.chains.insert((family, table, name), chain.clone()),
                None => _ = self.chains.remove(&(family, table, name)),
            }
            self.is_unwritten = true;
        }
    }

    fn want_hook(&mut self, (family, table, name): (Family, IptablesTable, HookName), hook: &Hook) {
        if self.families.contains(&family) {
            self.tables.want_hook(family, table, name, hook);
            self.hooks.insert((family, table, name), hook.clone());
            self.is_unwritten = true;
        }
    }

    /// The rules that are wanted in a chain.
    pub(crate) fn rules(
        &self,
        family: Family,
        table: IptablesTable,
        name: &ChainName,
    ) -> Option<&[PacketRule]> {
        self.chains.get(&(family, table, name.clone())).map(|chain| &*chain.rules)
    }

    /// What is wanted where packets come by in the kernel.
    pub(crate) fn hook(&self, family: Family, table: IptablesTable, name: HookName) -> Option<&Hook> {
        self.hooks.get(&(family, table, name))
    }

    /// The members that are wanted in a set.
    pub(crate) fn members(&self, name: &IpSetName) -> Option<&BTreeSet<IpSetMember>> {
        self.tables.wanted_set(name).map(|set| &*set.members)
    }

    /// Why a chain of the filter table is not in the kernel as wanted; `None` when it is, or not wanted.
    pub(crate) fn missing_chain(&self, name: &ChainName) -> Option<String> {
        let name = nft_chain_name(IptablesTable::Filter, name.as_str());
        let of_family = |family: &Family| self.tables.missing(&NftObject::Chain(*family, name.clone()));
        let wanted = self.families.iter().filter(|family| self.tables.chain(**family, &name).is_some());
        wanted.into_iter().find_map(of_family)
    }

    /// Reads back at the first apply at or after `at`, or earlier when that was already asked for.
    pub(crate) fn resync_at(&mut self, at: Instant) {
        self.resync_at = Some(self.resync_at.map_or(at, |other| other.min(at)));
    }

    /// Somebody else wrote to our tables: reads back soon.
    pub(crate) fn disturbed(&mut self, now: Instant) {
        self.is_disturbed = true;
        self.resync_at(self.disturbed_at.map_or(now, |last| now.max(last + SELDOM)));
    }

    /// Reads back regularly from now on; zero means never.
    pub(crate) fn set_refresh(&mut self, interval: Duration, now: Instant) {
        let interval = (!interval.is_zero()).then_some(interval);
        if interval != self.refresh {
            self.refresh = interval;
            interval.into_iter().for_each(|interval| self.resync_at(now + interval));
        }
    }

    /// Reads back if that is due, and writes what differs and can be written.
    pub(crate) fn apply(&mut self, now: Instant, report: &mut Report) {
        let is_due = self.resync_at.is_some_and(|at| at <= now);
        let is_retry = self.tables.poll_timeout().is_some_and(|at| at <= now);
        if !is_due && !is_retry && !self.is_unwritten {
            return;
        }
        if is_due {
            self.read_back(now, report);
        }
        if self.tables.blocked().is_some() && self.tables.poll_timeout().is_some_and(|at| at > now) {
            return;
        }
        match self.tables.apply(now) {
            Ok(applied) => {
                self.was_read = true;
                self.is_unwritten = false;
                if applied.objects > 0 {
                    *report.changed.entry(KIND).or_default() += applied.objects;
                }
                report
                    .failed
                    .extend(applied.failed.into_iter().map(|(object, error)| failed(&object, error)));
            }
            Err(error) => report.failed.push(failed_all(&error.to_string())),
        }
    }

    fn read_back(&mut self, now: Instant, report: &mut Report) {
        if std::mem::take(&mut self.is_disturbed) {
            self.disturbed_at = Some(now);
        }
        self.resync_at = self.refresh.map(|interval| now + interval);
        let before = self.tables.pending();
        match self.tables.resync() {
            Ok(different) => {
                let found = if self.was_read { different.saturating_sub(before) } else { 0 };
                report.resynced.insert(KIND, found);
                self.was_read = true;
            }
            // `apply` reads again, and reports what happens.
            Err(_) => self.tables.invalidate(),
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        [self.tables.poll_timeout(), self.resync_at].into_iter().flatten().min()
    }

    /// Is everything in the kernel, as far as is known?
    pub(crate) fn is_settled(&self) -> bool {
        self.was_read && !self.is_unwritten && self.tables.blocked().is_none() && self.tables.pending() == 0
    }

    pub(crate) fn add_to(&self, status: &mut Status) {
        if self.is_retired && self.is_settled() {
            return;
        }
        status.wanted.insert(KIND, self.tables.wanted());
        status.pending.insert(KIND, self.tables.pending());
        status.failing.extend(self.tables.failing().map(|(object, error)| failed(object, error.to_owned())));
        status.failing.extend(self.tables.blocked().map(failed_all));
    }

    /// Reads and compares; what differs is written by the next `apply`.
    pub(crate) fn audit(&mut self) -> KindAudit {
        let mut audit = KindAudit { intended: self.tables.wanted(), ..KindAudit::default() };
        match self.tables.resync() {
            Ok(_) => {
                let differences = self.tables.differences().into_iter();
                let differences =
                    differences.map(|(what, intended, actual)| Difference { what, intended, actual });
                audit.differences = differences.collect();
                self.is_unwritten |= !audit.differences.is_empty();
            }
            Err(error) => audit.error = Some(error.to_string()),
        }
        audit
    }

    /// Looks at the chains of a pod's interface. `None`: none is wanted for it.
    pub(crate) fn missing_of(&self, interface: &str) -> Option<Vec<String>> {
        let of_families = self.families.iter().filter_map(|family| self.missing_in(*family, interface));
        of_families.reduce(|mut all, more| {
            all.extend(more);
            all
        })
    }

    fn missing_in(&self, family: Family, interface: &str) -> Option<Vec<String>> {
        let of_prefix = |prefix: &str| {
            let name = ChainName::limited(prefix, interface);
            nft_chain_name(IptablesTable::Filter, name.as_str())
        };
        let own = CHAIN_PREFIXES.map(of_prefix);
        own.iter().find_map(|chain| self.tables.chain(family, chain))?;
        let mut missing = Vec::new();
        let mut open = own.to_vec();
        let mut seen: BTreeSet<_> = open.iter().cloned().collect();
        while let Some(name) = open.pop() {
            missing.extend(self.tables.missing(&NftObject::Chain(family, name.clone())));
            let Some(chain) = self.tables.chain(family, &name) else {
                missing.push(format!("{family} chain {name} is not known"));
                continue;
            };
            for rule in chain.rules.iter() {
                for set in rule.references() {
                    missing.extend(self.tables.missing(&NftObject::Set(family, set.clone())));
                }
                open.extend(rule.target().filter(|target| seen.insert((*target).clone())).cloned());
            }
        }
        let lost = own.iter().filter(|chain| !self.is_dispatched(family, interface, chain));
        missing.extend(lost.map(|chain| format!("nothing leads to {family} chain {chain} yet")));
        Some(missing)
    }

    /// Does some map that is in the kernel lead from the interface to the chain?
    fn is_dispatched(&self, family: Family, interface: &str, chain: &str) -> bool {
        self.tables.maps(family).any(|(name, map)| {
            matches!(map.get(interface), Some(NftVerdict::Goto(to)) if **to == *chain)
                && self.tables.missing(&NftObject::Map(family, name.clone())).is_none()
        })
    }
}

fn failed(object: &NftObject, error: String) -> Failed {
    Failed { kind: KIND, what: object.to_string(), error }
}

fn failed_all(error: &str) -> Failed {
    Failed { kind: KIND, what: "everything".to_owned(), error: error.to_owned() }
}
