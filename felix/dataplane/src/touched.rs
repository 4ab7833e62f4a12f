//! Which pods a change of rules and sets concerns.

use std::collections::BTreeSet;

use felix_render::Output;
use kernel::interpret::Ruleset;
use kernel::{ChainName, IpSetName, IptablesTable, PacketRule};
use model::{Family, HostInterface};

use crate::dataplane::Dataplane;
use crate::endpoint::CHAIN_PREFIXES;
use crate::ports::Ports;

/// Chains of the filter table and sets that an output of the renderer is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    chains: BTreeSet<ChainName>,
    sets: BTreeSet<IpSetName>,
}

impl From<&Output> for Touched {
    fn from(output: &Output) -> Self {
        let chains = output.chains.keys().filter(|(_, table, _)| *table == IptablesTable::Filter);
        Self {
            chains: chains.map(|(_, _, name)| name.clone()).collect(),
            sets: output.ip_sets.keys().cloned().collect(),
        }
    }
}

impl Touched {
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.sets.is_empty()
    }

    fn concerns(&self, interface: &str, family: Family, rules: &impl Ruleset) -> bool {
        let mut open: Vec<_> = CHAIN_PREFIXES.map(|prefix| ChainName::limited(prefix, interface)).into();
        let mut seen: BTreeSet<ChainName> = open.iter().cloned().collect();
        while let Some(name) = open.pop() {
            if self.chains.contains(&name) {
                return true;
            }
            let chain = rules.chain(family, IptablesTable::Filter, &name).unwrap_or_default();
            if chain.iter().flat_map(PacketRule::sets).any(|set| self.sets.contains(set)) {
                return true;
            }
            let new =
                chain.iter().flat_map(PacketRule::targets).filter(|target| seen.insert((*target).clone()));
            open.extend(new.cloned());
        }
        false
    }
}

impl<P: Ports> Dataplane<P> {
    /// The interfaces of pods to whose packets something else may happen since then.
    pub fn touched_pods(&self, touched: &Touched) -> Vec<HostInterface> {
        let addresses = BTreeSet::new();
        let rules = self.wanted_rules(&addresses);
        let concerns = |interface: &&HostInterface| {
            Family::ALL.into_iter().any(|family| touched.concerns(interface, family, &rules))
        };
        self.pod_interfaces().filter(concerns).cloned().collect()
    }
}
