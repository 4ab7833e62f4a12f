//! A dataplane that keeps maps and refuses what the kernel would refuse: a rule that refers to a chain or set
//! that is not there, and the removal of what is still referred to.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use felix_render::{IpSetChange, Output, Sysctl, TunnelDevice};
use kernel::interpret::Ruleset;
use kernel::{
    Chain, ChainName, Hook, HookName, IpSetMember, IpSetName, IptablesTable, Neighbour, NeighbourKey,
    PacketRule, Route, RouteKey, rule_text,
};
use model::Family;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dataplane {
    pub sets: BTreeMap<IpSetName, BTreeSet<IpSetMember>>,
    pub chains: BTreeMap<(Family, IptablesTable, ChainName), Chain>,
    pub hooks: BTreeMap<(Family, IptablesTable, HookName), Hook>,
    pub routes: BTreeMap<RouteKey, Route>,
    pub neighbours: BTreeMap<NeighbourKey, Neighbour>,
    pub sysctls: BTreeMap<String, Vec<Sysctl>>,
    pub tunnel: TunnelDevice,
}

impl Dataplane {
    /// In the order that [`Output`] names.
    pub fn apply(&mut self, output: Output) {
        let (gone, come): (BTreeMap<_, _>, BTreeMap<_, _>) =
            output.ip_sets.into_iter().partition(|(_, change)| *change == IpSetChange::Gone);
        come.into_iter().for_each(|(name, change)| self.change_set(name, change));
        merge(&mut self.chains, output.chains);
        for (key, hook) in output.hooks {
            match hook == Hook::default() {
                true => _ = self.hooks.remove(&key),
                false => _ = self.hooks.insert(key, hook),
            }
        }
        self.check_references("before sets are destroyed");
        for name in gone.into_keys() {
            assert!(self.sets.remove(&name).is_some(), "{name} is destroyed but was never made");
        }
        self.check_references("after sets were destroyed");
        merge(&mut self.routes, output.routes);
        merge(&mut self.neighbours, output.neighbours);
        for (interface, sysctls) in output.sysctls {
            match sysctls {
                Some(sysctls) => _ = self.sysctls.insert(interface, sysctls.to_vec()),
                None => _ = self.sysctls.remove(&interface),
            }
        }
        self.tunnel = output.tunnel.unwrap_or(self.tunnel);
    }

    fn change_set(&mut self, name: IpSetName, change: IpSetChange) {
        match change {
            IpSetChange::Full(set) => _ = self.sets.insert(name, (*set.members).clone()),
            IpSetChange::Delta { added, removed } => {
                let members =
                    self.sets.get_mut(&name).unwrap_or_else(|| panic!("{name} is changed, not made"));
                for member in removed {
                    assert!(members.remove(&member), "{member:?} is removed from {name} but was not in it");
                }
                for member in added {
                    assert!(members.insert(member), "{member:?} is added to {name} a second time");
                }
            }
            IpSetChange::Gone => unreachable!("partitioned away"),
        }
    }

    fn check_references(&self, when: &str) {
        for ((family, table, _), chain) in &self.chains {
            chain.rules.iter().for_each(|rule| self.check_rule(*family, *table, rule, when));
        }
        for ((family, table, _), hook) in &self.hooks {
            hook.inserts.iter().chain(&hook.appends).for_each(|r| self.check_rule(*family, *table, r, when));
        }
    }

    fn check_rule(&self, family: Family, table: IptablesTable, rule: &PacketRule, when: &str) {
        for target in rule.targets() {
            let key = (family, table, target.clone());
            assert!(self.chains.contains_key(&key), "{when}: no chain for {rule:?} in {table:?}");
        }
        for set in rule.sets() {
            assert!(self.sets.contains_key(set), "{when}: no set for {rule:?}");
        }
    }

    /// The rules of a chain, one a line.
    pub fn text(&self, family: Family, table: IptablesTable, chain: &str) -> String {
        let key = (family, table, ChainName::from_kernel(chain));
        let chain = self.chains.get(&key).unwrap_or_else(|| panic!("no chain {chain} in {table:?}"));
        chain.rules.iter().fold(String::new(), |mut text, rule| {
            writeln!(text, "{}", rule_text(rule)).expect("a String takes everything");
            text
        })
    }
}

impl Ruleset for Dataplane {
    fn hook(&self, family: Family, table: IptablesTable, hook: HookName) -> Option<&Hook> {
        self.hooks.get(&(family, table, hook))
    }

    fn chain(&self, family: Family, table: IptablesTable, name: &ChainName) -> Option<&[PacketRule]> {
        self.chains.get(&(family, table, name.clone())).map(|chain| &*chain.rules)
    }

    fn set(&self, name: &IpSetName) -> Option<&BTreeSet<IpSetMember>> {
        self.sets.get(name)
    }
}

fn merge<K: Ord, V>(map: &mut BTreeMap<K, V>, changes: BTreeMap<K, Option<V>>) {
    for (key, value) in changes {
        match value {
            Some(value) => _ = map.insert(key, value),
            None => _ = map.remove(&key),
        }
    }
}
