//! nf_tables: our tables in the kernel's own objects, one transaction a change.
//!
//! There is one table a family, `ip calico` and `ip6 calico`, as Calico has them, and none of family `inet`: the
//! rules that policy becomes are one family's anyhow, no packet is asked for its family, and the kernel, which checks
//! the whole graph of a table when one chain of it changes, checks half.

mod driver;
mod expression;
pub mod machine;
mod members;
mod objects;
mod plan;
mod spell;
mod tables;
mod wishes;

pub use driver::{NftChange, NftDriver, NftRefusal, SavedNft, SavedNftChain, SavedNftTable};
pub use expression::{
    ConntrackKey, Data, Expression, Fib, Header, MetaKey, NftVerdict, Per, Reject, SetReference, Word, state,
};
pub use objects::{
    AnonymousSet, NFT_TABLE, NftChain, NftChainType, NftHook, NftKey, NftMap, NftRule, NftSet, NftSetLayout,
    RuleHash, nft_chain_hashes, nft_set_name,
};
pub use plan::NftObject;
pub use spell::{SpelledChain, nft_chain_name, nft_hook, spell_chain, spell_hook};
pub use tables::{NftApplied, Nftables};
pub use wishes::nft_chain_object;
