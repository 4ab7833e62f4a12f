//! Numbers of `linux/netfilter/nf_tables.h`.

#![allow(missing_docs, reason = "the names are the kernel's own")]

pub(super) const NFTABLES: u16 = 10;
pub(super) const BATCH_BEGIN: u16 = 0x10;
pub(super) const BATCH_END: u16 = 0x11;

pub(super) const NEW_TABLE: u16 = NFTABLES << 8;
pub(super) const DEL_TABLE: u16 = NFTABLES << 8 | 2;
pub(super) const NEW_CHAIN: u16 = NFTABLES << 8 | 3;
pub(super) const GET_CHAIN: u16 = NFTABLES << 8 | 4;
pub(super) const DEL_CHAIN: u16 = NFTABLES << 8 | 5;
pub(super) const NEW_RULE: u16 = NFTABLES << 8 | 6;
pub(super) const GET_RULE: u16 = NFTABLES << 8 | 7;
pub(super) const DEL_RULE: u16 = NFTABLES << 8 | 8;
pub(super) const NEW_SET: u16 = NFTABLES << 8 | 9;
pub(super) const GET_SET: u16 = NFTABLES << 8 | 10;
pub(super) const DEL_SET: u16 = NFTABLES << 8 | 11;
pub(super) const NEW_ELEMENT: u16 = NFTABLES << 8 | 12;
pub(super) const GET_ELEMENT: u16 = NFTABLES << 8 | 13;
pub(super) const DEL_ELEMENT: u16 = NFTABLES << 8 | 14;

pub(super) const TABLE_NAME: u16 = 1;

pub(super) const CHAIN_TABLE: u16 = 1;
pub(super) const CHAIN_NAME: u16 = 3;
pub(super) const CHAIN_HOOK: u16 = 4;
pub(super) const CHAIN_POLICY: u16 = 5;
pub(super) const CHAIN_TYPE: u16 = 7;
pub(super) const HOOK_NUMBER: u16 = 1;
pub(super) const HOOK_PRIORITY: u16 = 2;

pub(super) const RULE_TABLE: u16 = 1;
pub(super) const RULE_CHAIN: u16 = 2;
pub(super) const RULE_EXPRESSIONS: u16 = 4;
pub(super) const RULE_USERDATA: u16 = 7;

pub(super) const SET_TABLE: u16 = 1;
pub(super) const SET_NAME: u16 = 2;
pub(super) const SET_FLAGS: u16 = 3;
pub(super) const SET_KEY_TYPE: u16 = 4;
pub(super) const SET_KEY_LENGTH: u16 = 5;
pub(super) const SET_DATA_TYPE: u16 = 6;
pub(super) const SET_DATA_LENGTH: u16 = 7;
pub(super) const SET_DESCRIPTION: u16 = 9;
pub(super) const SET_ID: u16 = 10;
pub(super) const SET_USERDATA: u16 = 13;
pub(super) const DESCRIPTION_SIZE: u16 = 1;

pub(super) const FLAG_ANONYMOUS: u32 = 1;
pub(super) const FLAG_CONSTANT: u32 = 2;
pub(super) const FLAG_INTERVAL: u32 = 4;
pub(super) const FLAG_MAP: u32 = 8;
pub(super) const FLAG_CONCAT: u32 = 0x80;
pub(super) const DATA_VERDICT: u32 = 0xffff_ff00;

pub(super) const LIST_TABLE: u16 = 1;
pub(super) const LIST_SET: u16 = 2;
pub(super) const LIST_ELEMENTS: u16 = 3;
pub(super) const LIST_SET_ID: u16 = 4;
/// Also of expressions.
pub(super) const LIST_ELEMENT: u16 = 1;
pub(super) const ELEMENT_KEY: u16 = 1;
pub(super) const ELEMENT_DATA: u16 = 2;
pub(super) const ELEMENT_FLAGS: u16 = 3;
pub(super) const INTERVAL_END: u32 = 1;

pub(super) const DATA_VALUE: u16 = 1;
pub(super) const DATA_VERDICT_OF: u16 = 2;
pub(super) const VERDICT_CODE: u16 = 1;
pub(super) const VERDICT_CHAIN: u16 = 2;
pub(super) const CODE_DROP: i32 = 0;
pub(super) const CODE_ACCEPT: i32 = 1;
pub(super) const CODE_JUMP: i32 = -3;
pub(super) const CODE_GOTO: i32 = -4;
pub(super) const CODE_RETURN: i32 = -5;

pub(super) const EXPRESSION_NAME: u16 = 1;
pub(super) const EXPRESSION_DATA: u16 = 2;

/// Types of keys as `nft` numbers them, so that it can show them.
pub(super) const TYPE_IPV4: u32 = 7;
pub(super) const TYPE_IPV6: u32 = 8;
pub(super) const TYPE_PROTOCOL: u32 = 12;
pub(super) const TYPE_SERVICE: u32 = 13;
pub(super) const TYPE_INTERFACE: u32 = 41;
pub(super) const TYPE_BITS: u32 = 6;

/// User data of a rule: the comment as `nft` writes it, and our hash under a number that it passes over.
pub(super) const USERDATA_COMMENT: u8 = 0;
pub(super) const USERDATA_HASH: u8 = 0xca;
