//! What a table of nf_tables holds: chains of rules, sets, verdict maps.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use model::Family;
use sha2::{Digest, Sha224};

use super::expression::{Data, Expression, NftVerdict, SetReference};
use crate::ipset::{IpSet, IpSetKind, IpSetMember, IpSetName};

/// The name of our table in each family: Calico's, so that who knows that finds this.
pub const NFT_TABLE: &str = "calico";

/// Which packets a base chain sees, and what may stand in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NftChainType {
    Filter,
    Nat,
}

impl NftChainType {
    /// As the kernel spells it.
    pub fn name(self) -> &'static str {
        match self {
            NftChainType::Filter => "filter",
            NftChainType::Nat => "nat",
        }
    }
}

/// Where packets enter a chain by themselves. Its policy is to accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NftHook {
    pub kind: NftChainType,
    /// `NF_INET_*`: 0 prerouting, 1 input, 2 forward, 3 output, 4 postrouting.
    pub number: u32,
    pub priority: i32,
}

/// A chain with every rule, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NftChain {
    /// `None`: reached by jumps alone.
    pub hook: Option<NftHook>,
    pub rules: Arc<[NftRule]>,
    /// Policy is decided here: where the kernel refuses the chain, the one before stays, and a new one lets nothing
    /// pass. Of any other chain only the refused rules are left out.
    pub decides: bool,
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NftRule {
    pub expressions: Vec<Expression>,
    /// Sets that live and die with the rule.
    pub sets: Vec<AnonymousSet>,
    /// As `nft list` shows it; at most [`NftRule::COMMENT`] bytes.
    pub comment: Option<Arc<str>>,
}

impl NftRule {
    /// Longest comment that `nft` takes, in bytes.
    pub const COMMENT: usize = 127;

    /// The sets and maps of the table that it asks.
    pub fn references(&self) -> impl Iterator<Item = &Arc<str>> {
        self.expressions.iter().filter_map(|expression| match expression {
            Expression::Lookup { set: SetReference::Named(name), .. }
            | Expression::VerdictMap { map: name, .. } => Some(name),
            _ => None,
        })
    }

    /// The chain that it leads to by itself.
    pub fn target(&self) -> Option<&Arc<str>> {
        self.expressions.iter().find_map(|expression| match expression {
            Expression::Verdict(verdict) => verdict.target(),
            _ => None,
        })
    }
}

/// What the octets of a set's key are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NftKey {
    Address(Family),
    Port,
    /// Address, protocol and port, each filled up to whole words.
    AddressProtocolPort(Family),
    /// Name of an interface, sixteen octets.
    Interface,
}

/// A set that stands in a rule. The ranges are in order, overlap nowhere and include both ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AnonymousSet {
    pub key: NftKey,
    pub ranges: Vec<(Data, Data)>,
}

impl AnonymousSet {
    /// Is there more than single values in it?
    pub fn is_interval(&self) -> bool {
        self.ranges.iter().any(|(first, last)| first != last)
    }
}

/// How a set is laid out in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NftSetLayout {
    /// A hash of single addresses: found in a seventh of the time that intervals take.
    Addresses(Family),
    /// Prefixes, none within another.
    Prefixes(Family),
    /// A hash of address, protocol and port.
    Ports(Family),
}

impl NftSetLayout {
    /// The layout that these members ask for.
    pub fn of(set: &IpSet) -> Self {
        let is_host = |member: &IpSetMember| match member {
            IpSetMember::Net(cidr) => cidr.length() == cidr.family().bits(),
            IpSetMember::IpPort(..) => true,
        };
        match set.kind {
            IpSetKind::IpPort => NftSetLayout::Ports(set.family),
            IpSetKind::Net if set.members.iter().all(is_host) => NftSetLayout::Addresses(set.family),
            IpSetKind::Net => NftSetLayout::Prefixes(set.family),
        }
    }

    pub fn key(self) -> NftKey {
        match self {
            NftSetLayout::Addresses(family) | NftSetLayout::Prefixes(family) => NftKey::Address(family),
            NftSetLayout::Ports(family) => NftKey::AddressProtocolPort(family),
        }
    }
}

/// A set as the kernel holds it; prefixes within others are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NftSet {
    pub layout: NftSetLayout,
    pub members: BTreeSet<IpSetMember>,
}

/// The name of an IP set within the table: `cali40s-5y5I3…` for `cali40s:5y5I3…`, since `nft` knows no colons in
/// names.
pub fn nft_set_name(name: &IpSetName) -> Arc<str> {
    name.as_str().replace(':', "-").into()
}

/// By interface: where its packets go.
pub type NftMap = std::collections::BTreeMap<Arc<str>, NftVerdict>;

/// Identifies a rule with everything before it in its chain.
pub type RuleHash = u64;

/// The hash of each rule, which covers the rule's place and all rules before it, so that equal hashes mean an
/// equal chain.
pub fn nft_chain_hashes(name: &str, rules: &[NftRule]) -> Vec<RuleHash> {
    let mut digest = Digester(Sha224::new_with_prefix(SPELLING));
    name.hash(&mut digest);
    let hash_next = |rule: &NftRule| {
        rule.hash(&mut digest);
        digest.finish()
    };
    rules.iter().map(hash_next).collect()
}

/// To be changed when the same rule is to be encoded otherwise than by an earlier release.
const SPELLING: &str = "1";

/// The standard library's hasher may change with the compiler, and then every rule would be written anew.
struct Digester(Sha224);

impl Hasher for Digester {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest = self.0.clone().finalize();
        u64::from_be_bytes(digest[..8].try_into().expect("a digest has 28 octets"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verdict: NftVerdict) -> NftRule {
        NftRule { expressions: vec![Expression::Verdict(verdict)], ..NftRule::default() }
    }

    #[test]
    fn a_hash_covers_name_place_and_all_before() {
        let (accept, drop) = (rule(NftVerdict::Accept), rule(NftVerdict::Drop));

        let hashes = nft_chain_hashes("a", &[accept.clone(), drop.clone()]);

        assert_eq!(hashes[..1], nft_chain_hashes("a", std::slice::from_ref(&accept)));
        assert_ne!(hashes, nft_chain_hashes("b", &[accept.clone(), drop.clone()]));
        assert_ne!(hashes[1], nft_chain_hashes("a", &[drop.clone(), drop])[1]);
    }

    #[test]
    fn hosts_are_hashed_and_prefixes_are_intervals() {
        let set = |members: &[&str]| IpSet {
            kind: IpSetKind::Net,
            family: Family::V4,
            members: Arc::new(members.iter().map(|m| IpSetMember::Net(m.parse().unwrap())).collect()),
        };

        assert_eq!(NftSetLayout::of(&set(&["10.0.0.1/32"])), NftSetLayout::Addresses(Family::V4));
        assert_eq!(
            NftSetLayout::of(&set(&["10.0.0.1/32", "10.1.0.0/16"])),
            NftSetLayout::Prefixes(Family::V4)
        );
    }
}
