//! iptables chains and how ours are told from others' (`spec/felix.md` §1.2, §1.3).

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha224, Sha256};

use crate::iptables_chain::dispatch_front;
use crate::iptables_text::rule_text;
use crate::packet_rule::PacketRule;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IptablesTable {
    Raw,
    Mangle,
    Nat,
    Filter,
}

impl IptablesTable {
    pub const ALL: [IptablesTable; 4] =
        [IptablesTable::Raw, IptablesTable::Mangle, IptablesTable::Nat, IptablesTable::Filter];

    /// As `iptables -t` takes it.
    pub fn name(self) -> &'static str {
        match self {
            IptablesTable::Raw => "raw",
            IptablesTable::Mangle => "mangle",
            IptablesTable::Nat => "nat",
            IptablesTable::Filter => "filter",
        }
    }
}

/// Name of a chain of ours: begins with `cali-`, at most 28 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainName(Arc<str>);

impl ChainName {
    /// Longest name that iptables takes, in bytes.
    pub const MAX: usize = 28;
    const PREFIXES: [&'static str; 8] =
        ["cali-", "califw-", "calitw-", "califh-", "calith-", "calipi-", "calipo-", "felix-"];

    /// A fixed name such as `cali-FORWARD`.
    pub fn fixed(name: &str) -> Self {
        debug_assert!(name.len() <= Self::MAX, "{name} is too long for a chain");
        Self(name.into())
    }

    /// `prefix` and `suffix`, or `prefix`, `_` and a hash of the suffix where that would be too long, or where
    /// the suffix could not stand in a rule as it is (the API gives no such names).
    pub fn limited(prefix: &str, suffix: &str) -> Self {
        if suffix.is_empty() {
            return Self(format!("{prefix}_").into());
        }
        let length = prefix.len() + suffix.len();
        let is_plain = suffix.chars().all(|c| c.is_ascii_alphanumeric() || "_./-".contains(c));
        if !is_plain {
            return Self::hashed(prefix, suffix);
        }
        if length < Self::MAX || (length == Self::MAX && !suffix.starts_with('_')) {
            return Self(format!("{prefix}{suffix}").into());
        }
        Self::hashed(prefix, suffix)
    }

    fn hashed(prefix: &str, suffix: &str) -> Self {
        let hash = URL_SAFE_NO_PAD.encode(Sha256::digest(suffix));
        Self(format!("{prefix}_{}", &hash[..Self::MAX - 1 - prefix.len()]).into())
    }

    /// Takes a name that iptables reported.
    pub fn from_kernel(name: &str) -> Self {
        Self(name.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Was a chain of this name made by us (or an earlier release or Calico)?
    pub fn is_ours(name: &str) -> bool {
        Self::PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    }
}

impl fmt::Display for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A chain of ours: every rule, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    pub name: ChainName,
    pub rules: Arc<[PacketRule]>,
}

/// A chain of the kernel, as `FORWARD`.
pub type HookName = &'static str;

/// What we put into one of the kernel's chains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hook {
    /// At the front (or the end, by ChainInsertMode).
    pub inserts: Vec<PacketRule>,
    /// Always at the end.
    pub appends: Vec<PacketRule>,
}

/// The hash comment of each rule: 16 characters that cover the chain's name, the rule's place and all rules
/// before it, so that equal hashes mean an equal chain. For rules that are always appended to a kernel chain,
/// `chain` is `<CHAIN>*appends*`. In a chain that leads to pods the rules at the front have no place: neither their
/// own hashes nor those behind them cover the others at the front, so that one more changes none.
pub fn chain_hashes(chain: &str, rules: &[PacketRule]) -> Vec<String> {
    let front = dispatch_front(chain, rules);
    let start = Sha224::digest(chain);
    let mut hash = start;
    let mut hashes = Vec::with_capacity(rules.len());
    for (place, rule) in rules.iter().enumerate() {
        if place <= front {
            hash = start;
        }
        let mut next = Sha224::new();
        let rule = rule_text(rule);
        next.update(hash);
        next.update(format!("-A {chain} HASH{}{rule}", if rule.is_empty() { "" } else { " " }));
        hash = next.finalize();
        let mut text = URL_SAFE_NO_PAD.encode(hash);
        text.truncate(16);
        hashes.push(text);
    }
    hashes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_calicos() {
        let jump = |to: &str| vec![PacketRule::jump(to)];

        assert_eq!(chain_hashes("PREROUTING", &jump("cali-PREROUTING")), ["6gwbT8clXdHdC1b1"]);
        assert_eq!(chain_hashes("FORWARD", &jump("cali-FORWARD")), ["wUHhoiAYhphO9Mso"]);
        assert_eq!(chain_hashes("POSTROUTING*appends*", &jump("cali-POSTROUTING")), ["0i8pjzKKPyA34aQD"]);
    }

    #[test]
    fn long_names_are_hashed_as_calico_does() {
        assert_eq!(ChainName::limited("cali-pri-", "kns.default").as_str(), "cali-pri-kns.default");
        assert_eq!(
            ChainName::limited("cali-pri-", "ksa.kube-system.coredns").as_str(),
            "cali-pri-_u2Tn2rSoAPffvE7JO6"
        );
        assert_eq!(
            ChainName::limited("cali-pi-", "knp/default/allow-web").as_str(),
            "cali-pi-_l7X9Omtz7dibbh9L3Lp"
        );
        assert_eq!(
            ChainName::limited("cali-pi-", "gnp/default.deny-all").as_str(),
            "cali-pi-gnp/default.deny-all"
        );
    }
}
