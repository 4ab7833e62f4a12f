//! Is a pod's interface programmed: are route, neighbour, sysctls, chains, dispatch and sets in the kernel?

use std::collections::BTreeSet;

use kernel::{ChainName, IpSetName, IptablesDriver, PacketRule};

use crate::chains::Chains;

/// How far a pod's interface has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointState {
    /// Nothing is wanted for an interface of this name.
    Unknown,
    /// Everything is in the kernel.
    Programmed,
    /// What is not, as sentences for a person.
    Missing(Vec<String>),
}

/// Chain of what a pod receives and of what it sends.
pub(crate) const CHAIN_PREFIXES: [&str; 2] = ["cali-tw-", "cali-fw-"];

/// Looks at the chains of one family. `None`: no chain is wanted for the interface.
pub(crate) fn missing_chains<D: IptablesDriver>(
    interface: &str,
    chains: &Chains<D>,
    missing_set: impl Fn(&IpSetName) -> Option<String>,
) -> Option<Vec<String>> {
    let own = CHAIN_PREFIXES.map(|prefix| ChainName::limited(prefix, interface));
    own.iter().find_map(|chain| chains.filter_rules(chain))?;
    let mut missing = Vec::new();
    let mut open: Vec<ChainName> = own.to_vec();
    let mut seen: BTreeSet<ChainName> = open.iter().cloned().collect();
    while let Some(chain) = open.pop() {
        missing.extend(chains.missing(&chain));
        let Some(rules) = chains.filter_rules(&chain) else {
            missing.push(format!("{} chain {chain} is not known", chains.kind()));
            continue;
        };
        missing.extend(rules.iter().flat_map(PacketRule::sets).filter_map(&missing_set));
        for target in rules.iter().flat_map(PacketRule::targets) {
            if seen.insert(target.clone()) {
                open.push(target.clone());
            }
        }
    }
    let lost = own.iter().filter(|chain| !chains.is_referred_to(chain));
    missing.extend(lost.map(|chain| format!("{}: nothing leads to chain {chain} yet", chains.kind())));
    Some(missing)
}
