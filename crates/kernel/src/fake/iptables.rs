//! `iptables-restore --noflush` and `iptables-save` over a map.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;

use model::Family;

use super::{Entry, FakeKernel, State};
use crate::iptables::IptablesTable;
use crate::iptables_tables::{IptablesDriver, RestoreSection};

/// One table of one family: chains by name, each with its rules as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chains {
    pub rules: BTreeMap<String, Vec<String>>,
}

impl Chains {
    /// The kernel's own chains, empty.
    pub(super) fn of_table(table: IptablesTable) -> Self {
        let rules = built_in(table).iter().map(|name| ((*name).to_owned(), Vec::new())).collect();
        Self { rules }
    }

    pub(super) fn refers_to_set(&self, set: &str) -> bool {
        self.rules.values().flatten().any(|rule| sets(rule).any(|name| name == set))
    }

    /// One line between `*table` and `COMMIT`.
    fn command(&mut self, line: &str, table: IptablesTable) -> io::Result<()> {
        if let Some(rest) = line.strip_prefix(':') {
            let name = rest.split(' ').next().unwrap_or(rest);
            if name.len() > 28 {
                return refuse(format!("chain name `{name}' too long"));
            }
            // The policy of a kernel chain would be set, its rules kept.
            if !built_in(table).contains(&name) {
                self.rules.insert(name.to_owned(), Vec::new());
            }
            return Ok(());
        }
        let mut words = line.splitn(3, ' ');
        let (command, chain, rule) = (words.next(), words.next().unwrap_or(""), words.next().unwrap_or(""));
        let Some(rules) = self.rules.get_mut(chain) else {
            return refuse(format!("no chain {chain}"));
        };
        match command {
            Some("-A") => rules.push(rule.to_owned()),
            Some("-I") => rules.insert(0, rule.to_owned()),
            Some("-D") => {
                let at = rules.iter().position(|has| has == rule);
                let Some(at) = at else { return refuse(format!("no such rule in {chain}: {rule}")) };
                rules.remove(at);
            }
            Some("-X") if built_in(table).contains(&chain) => return refuse(format!("{chain} is built in")),
            Some("-X") if !rules.is_empty() => return refuse(format!("chain {chain} is not empty")),
            Some("-X") if self.rules.values().flatten().any(|rule| target(rule) == Some(chain)) => {
                return refuse(format!("chain {chain} is in use"));
            }
            Some("-X") => {
                self.rules.remove(chain);
            }
            _ => return refuse(format!("not understood: {line}")),
        }
        Ok(())
    }

    /// Refuses rules that refer to chains or sets that do not exist.
    fn check(&self, state: &State) -> io::Result<()> {
        for rule in self.rules.values().flatten() {
            if let Some(target) = target(rule)
                && !TARGETS.contains(&target)
                && !self.rules.contains_key(target)
            {
                return refuse(format!("no chain or target {target} for: {rule}"));
            }
            for set in sets(rule) {
                if !state.ip_sets.keys().any(|name| name.as_str() == set) {
                    return refuse(format!("no set {set} for: {rule}"));
                }
            }
        }
        Ok(())
    }
}

const TARGETS: [&str; 16] = [
    "ACCEPT",
    "DROP",
    "RETURN",
    "REJECT",
    "MARK",
    "NOTRACK",
    "LOG",
    "NFLOG",
    "MASQUERADE",
    "SNAT",
    "DNAT",
    "CT",
    "DSCP",
    "TCPMSS",
    "CONNMARK",
    "REDIRECT",
];

fn refuse<T>(text: String) -> io::Result<T> {
    Err(io::Error::other(text))
}

fn built_in(table: IptablesTable) -> &'static [&'static str] {
    match table {
        IptablesTable::Raw => &["PREROUTING", "OUTPUT"],
        IptablesTable::Mangle => &["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"],
        IptablesTable::Nat => &["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"],
        IptablesTable::Filter => &["INPUT", "FORWARD", "OUTPUT"],
    }
}

fn after<'a>(rule: &'a str, options: &'static [&'static str]) -> impl Iterator<Item = &'a str> {
    let mut words = rule.split(' ');
    std::iter::from_fn(move || words.find(|word| options.contains(word)).and_then(|_| words.next()))
}

fn target(rule: &str) -> Option<&str> {
    after(rule, &["-j", "-g", "--jump", "--goto"]).next()
}

fn sets(rule: &str) -> impl Iterator<Item = &str> {
    after(rule, &["--match-set"])
}

/// One family's `iptables-save` and `iptables-restore`.
#[derive(Clone, Debug)]
pub struct FakeIptables {
    kernel: FakeKernel,
    family: Family,
}

impl FakeIptables {
    pub(super) fn new(kernel: FakeKernel, family: Family) -> Self {
        Self { kernel, family }
    }

    fn commit(&self, section: &RestoreSection) -> io::Result<()> {
        let key = (self.family, section.table);
        let mut state = self.kernel.state();
        state.restores.push(section.text.clone());
        if state.refused.contains(&Entry::Table(self.family, section.table)) {
            return refuse(format!("told to refuse table {}", section.table.name()));
        }
        let mut chains = state.chains.get(&key).cloned().unwrap_or_default();
        let mut lines = section.text.lines();
        if lines.next() != Some(&format!("*{}", section.table.name())) || lines.next_back() != Some("COMMIT")
        {
            return refuse("a section goes from *table to COMMIT".to_owned());
        }
        lines.try_for_each(|line| chains.command(line, section.table))?;
        chains.check(&state)?;
        state.chains.insert(key, chains);
        state.writes += 1;
        Ok(())
    }
}

impl IptablesDriver for FakeIptables {
    fn save(&mut self) -> io::Result<String> {
        self.kernel.list(|state| {
            let mut text = String::new();
            for table in IptablesTable::ALL {
                let Some(chains) = state.chains.get(&(self.family, table)) else { continue };
                let _ = writeln!(text, "*{}", table.name());
                for name in chains.rules.keys() {
                    let policy = if built_in(table).contains(&name.as_str()) { "ACCEPT" } else { "-" };
                    let _ = writeln!(text, ":{name} {policy} [0:0]");
                }
                for (name, rules) in &chains.rules {
                    rules.iter().for_each(|rule| {
                        let _ = writeln!(text, "-A {name} {rule}");
                    });
                }
                text.push_str("COMMIT\n");
            }
            text
        })
    }

    fn restore(&mut self, sections: &[RestoreSection]) -> Vec<(usize, io::Error)> {
        let results = sections.iter().map(|section| self.commit(section)).enumerate();
        results.filter_map(|(index, result)| result.err().map(|error| (index, error))).collect()
    }
}
