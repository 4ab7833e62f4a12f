//! The port to the kernel's nf_tables: what our tables hold, and one transaction that changes it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use model::Family;

use super::expression::NftVerdict;
use super::objects::{NftHook, NftMap, NftRule, NftSet, NftSetLayout, RuleHash};
use crate::ipset::IpSetMember;

/// One step of a transaction, in the table [`super::NFT_TABLE`] of one family.
#[derive(Clone, Debug, PartialEq)]
pub enum NftChange {
    AddTable(Family),
    /// With everything in it.
    DeleteTable(Family),
    AddChain {
        family: Family,
        name: Arc<str>,
        hook: Option<NftHook>,
    },
    /// Takes all rules out.
    FlushChain {
        family: Family,
        name: Arc<str>,
    },
    /// Empty, and nothing may lead to it.
    DeleteChain {
        family: Family,
        name: Arc<str>,
    },
    /// At the end of the chain.
    AddRule {
        family: Family,
        chain: Arc<str>,
        /// The rule's place in the chain's rules, and all of these.
        index: usize,
        rules: Arc<[NftRule]>,
        hash: RuleHash,
    },
    AddSet {
        family: Family,
        name: Arc<str>,
        layout: NftSetLayout,
    },
    /// No rule may look it up.
    DeleteSet {
        family: Family,
        name: Arc<str>,
    },
    AddMembers {
        family: Family,
        set: Arc<str>,
        layout: NftSetLayout,
        members: Vec<IpSetMember>,
    },
    DeleteMembers {
        family: Family,
        set: Arc<str>,
        layout: NftSetLayout,
        members: Vec<IpSetMember>,
    },
    /// A map from interfaces to verdicts.
    AddMap {
        family: Family,
        name: Arc<str>,
    },
    AddEntries {
        family: Family,
        map: Arc<str>,
        entries: Vec<(Arc<str>, NftVerdict)>,
    },
    /// With the verdicts that are there.
    DeleteEntries {
        family: Family,
        map: Arc<str>,
        entries: Vec<(Arc<str>, NftVerdict)>,
    },
}

/// A chain as the kernel has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedNftChain {
    pub hook: Option<NftHook>,
    /// `None`: a rule that carries no hash of ours.
    pub rules: Vec<Option<RuleHash>>,
}

/// Our table of one family as the kernel has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedNftTable {
    pub chains: BTreeMap<Arc<str>, SavedNftChain>,
    pub sets: BTreeMap<Arc<str>, NftSet>,
    pub maps: BTreeMap<Arc<str>, NftMap>,
    /// Named sets and maps that are none of those that we make.
    pub others: BTreeSet<Arc<str>>,
}

/// Our tables, by family; those that are not there are left out.
pub type SavedNft = BTreeMap<Family, SavedNftTable>;

/// A transaction of which nothing was done, as far as is known.
#[derive(Debug, Default)]
pub struct NftRefusal {
    /// The changes that the kernel named, by index; none where the transaction was refused as a whole.
    pub changes: Vec<(usize, io::Error)>,
    /// Why, where no change is named.
    pub error: Option<io::Error>,
    /// The kernel's answer is lost: perhaps all was done.
    pub is_unknown: bool,
}

impl NftRefusal {
    /// The first reason.
    pub fn into_error(self) -> io::Error {
        let mut errors = self.changes.into_iter().map(|(_, error)| error).chain(self.error);
        errors.next().unwrap_or_else(|| io::Error::other("refused"))
    }
}

/// One connection to nf_tables.
pub trait NftDriver {
    /// Reads our tables.
    fn list(&mut self) -> io::Result<SavedNft>;

    /// Makes all changes, or none.
    fn commit(&mut self, changes: &[NftChange]) -> Result<(), NftRefusal>;

    /// Was a change with this writer, as [`crate::RuleEvent`] names it, our own?
    fn is_own(&self, writer: u32) -> bool;
}
