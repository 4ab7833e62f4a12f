//! Changes as messages of one transaction.

use std::sync::Arc;

use kernel::IpSetMember;
use kernel::nft::{
    AnonymousSet, Data, NFT_TABLE, NftChange, NftHook, NftKey, NftRule, NftSetLayout, NftVerdict, RuleHash,
};
use model::Family;

use super::expressions::{self, ANONYMOUS_NAME, Context};
use super::numbers::*;
use crate::nl::{Batch, Writer};
use crate::rtnl::family_number;

/// Elements in one message: a list holds less than 64 KiB, and one element with its end at most 100 octets.
const ELEMENTS: usize = 600;
const CREATE: u16 = libc::NLM_F_CREATE as u16;
const EXCLUSIVE: u16 = libc::NLM_F_EXCL as u16;
const APPEND: u16 = libc::NLM_F_APPEND as u16;

/// A transaction with the number of the change that each of its messages is about.
pub(super) struct Transaction {
    pub(super) batch: Batch,
    /// `None` for the brackets.
    pub(super) changes: Vec<Option<usize>>,
    /// Anonymous sets so far.
    sets: u32,
    present: usize,
}

impl Transaction {
    pub(super) fn new(changes: &[NftChange]) -> Self {
        let mut transaction = Self { batch: Batch::new(), changes: vec![None], sets: 0, present: 0 };
        let bracket = |w: &mut Writer<'_>| w.bytes(&[0, 0, 0, NFTABLES as u8]);
        transaction.batch.push(BATCH_BEGIN, 0, bracket);
        for (index, change) in changes.iter().enumerate() {
            transaction.present = index;
            transaction.change(change);
        }
        transaction.batch.push(BATCH_END, 0, bracket);
        transaction.changes.push(None);
        transaction
    }

    /// The message whose answer tells of the end: the last one before the closing bracket.
    pub(super) fn last(&self) -> usize {
        self.batch.len().saturating_sub(2)
    }

    fn push(&mut self, kind: u16, flags: u16, family: Family, body: impl FnOnce(&mut Writer<'_>)) {
        self.changes.push(Some(self.present));
        self.batch.push(kind, flags, |w| {
            w.bytes(&[family_number(family), 0, 0, 0]);
            body(w);
        });
    }

    fn change(&mut self, change: &NftChange) {
        match change {
            NftChange::AddTable(family) => self.push(NEW_TABLE, CREATE, *family, table),
            NftChange::DeleteTable(family) => self.push(DEL_TABLE, 0, *family, table),
            NftChange::AddChain { family, name, hook } => self.push(NEW_CHAIN, CREATE, *family, |w| {
                table(w);
                w.string(CHAIN_NAME, name);
                if let Some(hook) = hook {
                    write_hook(w, hook);
                }
            }),
            NftChange::FlushChain { family, name } => self.push(DEL_RULE, 0, *family, |w| {
                table(w);
                w.string(RULE_CHAIN, name);
            }),
            NftChange::DeleteChain { family, name } => self.push(DEL_CHAIN, 0, *family, |w| {
                table(w);
                w.string(CHAIN_NAME, name);
            }),
            NftChange::AddRule { family, chain, index, rules, hash } => {
                if let Some(rule) = rules.get(*index) {
                    self.add_rule(*family, chain, rule, *hash);
                }
            }
            NftChange::AddSet { family, name, layout } => self.add_set(*family, name, *layout),
            NftChange::DeleteSet { family, name } => self.push(DEL_SET, 0, *family, |w| {
                table(w);
                w.string(SET_NAME, name);
            }),
            NftChange::AddMembers { family, set, layout, members } => {
                self.members(NEW_ELEMENT, *family, set, *layout, members);
            }
            NftChange::DeleteMembers { family, set, layout, members } => {
                self.members(DEL_ELEMENT, *family, set, *layout, members);
            }
            NftChange::AddMap { family, name } => self.add_map(*family, name),
            NftChange::AddEntries { family, map, entries } => {
                self.entries(NEW_ELEMENT, *family, map, entries);
            }
            NftChange::DeleteEntries { family, map, entries } => {
                self.entries(DEL_ELEMENT, *family, map, entries);
            }
        }
    }

    fn add_rule(&mut self, family: Family, chain: &str, rule: &NftRule, hash: RuleHash) {
        let set_ids: Vec<u32> = rule.sets.iter().map(|set| self.add_anonymous(family, set)).collect();
        self.push(NEW_RULE, CREATE | APPEND, family, |w| {
            table(w);
            w.string(RULE_CHAIN, chain);
            let context = Context { family, set_ids: &set_ids };
            w.nested(RULE_EXPRESSIONS, |w| {
                rule.expressions.iter().for_each(|expression| expressions::write(w, expression, &context));
            });
            w.attribute(RULE_USERDATA, &userdata(rule.comment.as_deref(), hash));
        });
    }

    fn add_anonymous(&mut self, family: Family, set: &AnonymousSet) -> u32 {
        self.sets += 1;
        let id = self.sets;
        let is_interval = set.is_interval();
        let interval = if is_interval { FLAG_INTERVAL } else { 0 };
        self.push(NEW_SET, CREATE, family, |w| {
            table(w);
            w.string(SET_NAME, ANONYMOUS_NAME);
            number(w, SET_ID, id);
            number(w, SET_FLAGS, FLAG_ANONYMOUS | FLAG_CONSTANT | interval);
            write_key(w, set.key);
            let size = set.ranges.len() as u32 * if is_interval { 2 } else { 1 };
            w.nested(SET_DESCRIPTION, |w| number(w, DESCRIPTION_SIZE, size));
        });
        for ranges in set.ranges.chunks(ELEMENTS) {
            self.push(NEW_ELEMENT, CREATE, family, |w| {
                table(w);
                w.string(LIST_SET, ANONYMOUS_NAME);
                number(w, LIST_SET_ID, id);
                w.nested(LIST_ELEMENTS, |w| {
                    for (first, last) in ranges {
                        if is_interval {
                            write_range(w, first, last)
                        } else {
                            write_element(w, first.as_bytes(), 0)
                        }
                    }
                });
            });
        }
        id
    }

    fn add_set(&mut self, family: Family, name: &str, layout: NftSetLayout) {
        let flags = match layout {
            NftSetLayout::Addresses(_) => 0,
            NftSetLayout::Prefixes(_) => FLAG_INTERVAL,
            NftSetLayout::Ports(_) => 0,
        };
        self.sets += 1;
        let id = self.sets;
        self.push(NEW_SET, CREATE | EXCLUSIVE, family, |w| {
            table(w);
            w.string(SET_NAME, name);
            number(w, SET_ID, id);
            number(w, SET_FLAGS, flags);
            write_key(w, layout.key());
        });
    }

    fn add_map(&mut self, family: Family, name: &str) {
        self.sets += 1;
        let id = self.sets;
        self.push(NEW_SET, CREATE | EXCLUSIVE, family, |w| {
            table(w);
            w.string(SET_NAME, name);
            number(w, SET_ID, id);
            number(w, SET_FLAGS, FLAG_MAP);
            write_key(w, NftKey::Interface);
            number(w, SET_DATA_TYPE, DATA_VERDICT);
            number(w, SET_DATA_LENGTH, 0);
            w.attribute(SET_USERDATA, &host_order());
        });
    }

    fn members(
        &mut self,
        kind: u16,
        family: Family,
        set: &str,
        layout: NftSetLayout,
        members: &[IpSetMember],
    ) {
        let flags = if kind == NEW_ELEMENT { CREATE } else { 0 };
        for members in members.chunks(ELEMENTS) {
            self.push(kind, flags, family, |w| {
                table(w);
                w.string(LIST_SET, set);
                w.nested(LIST_ELEMENTS, |w| {
                    members.iter().for_each(|member| write_member(w, layout, member))
                });
            });
        }
    }

    fn entries(&mut self, kind: u16, family: Family, map: &str, entries: &[(Arc<str>, NftVerdict)]) {
        let flags = if kind == NEW_ELEMENT { CREATE } else { 0 };
        for entries in entries.chunks(ELEMENTS / 2) {
            self.push(kind, flags, family, |w| {
                table(w);
                w.string(LIST_SET, map);
                w.nested(LIST_ELEMENTS, |w| {
                    for (interface, verdict) in entries {
                        w.nested(LIST_ELEMENT, |w| {
                            w.nested(ELEMENT_KEY, |w| w.attribute(DATA_VALUE, &interface_key(interface)));
                            if kind == NEW_ELEMENT {
                                expressions::verdict(w, ELEMENT_DATA, verdict);
                            }
                        });
                    }
                });
            });
        }
    }
}

fn number(w: &mut Writer<'_>, kind: u16, value: u32) {
    w.attribute(kind, &value.to_be_bytes());
}

/// Every message names the table by its attribute number 1.
fn table(w: &mut Writer<'_>) {
    const { assert!(TABLE_NAME == 1 && CHAIN_TABLE == 1 && RULE_TABLE == 1 && SET_TABLE == 1 && LIST_TABLE == 1) };
    w.string(TABLE_NAME, NFT_TABLE);
}

fn write_hook(w: &mut Writer<'_>, hook: &NftHook) {
    w.nested(CHAIN_HOOK, |w| {
        number(w, HOOK_NUMBER, hook.number);
        w.attribute(HOOK_PRIORITY, &hook.priority.to_be_bytes());
    });
    number(w, CHAIN_POLICY, 1);
    w.string(CHAIN_TYPE, hook.kind.name());
}

/// The type of a key as `nft` shows it, and its length in octets.
pub(super) fn key_type(key: NftKey) -> (u32, u32) {
    let address = |family| match family {
        Family::V4 => (TYPE_IPV4, 4),
        Family::V6 => (TYPE_IPV6, 16),
    };
    match key {
        NftKey::Address(family) => address(family),
        NftKey::Port => (TYPE_SERVICE, 2),
        NftKey::AddressProtocolPort(family) => {
            let (kind, length) = address(family);
            (kind << (2 * TYPE_BITS) | TYPE_PROTOCOL << TYPE_BITS | TYPE_SERVICE, length + 8)
        }
        NftKey::Interface => (TYPE_INTERFACE, 16),
    }
}

fn write_key(w: &mut Writer<'_>, key: NftKey) {
    let (kind, length) = key_type(key);
    number(w, SET_KEY_TYPE, kind);
    number(w, SET_KEY_LENGTH, length);
}

fn write_element(w: &mut Writer<'_>, key: &[u8], flags: u32) {
    w.nested(LIST_ELEMENT, |w| {
        w.nested(ELEMENT_KEY, |w| w.attribute(DATA_VALUE, key));
        if flags != 0 {
            number(w, ELEMENT_FLAGS, flags);
        }
    });
}

/// An interval is its first value and, marked as an end, the value behind its last; the last of all has no end.
fn write_range(w: &mut Writer<'_>, first: &Data, last: &Data) {
    write_element(w, first.as_bytes(), 0);
    if let Some(end) = last.next() {
        write_element(w, end.as_bytes(), INTERVAL_END);
    }
}

fn write_member(w: &mut Writer<'_>, layout: NftSetLayout, member: &IpSetMember) {
    match (layout, member) {
        (NftSetLayout::Prefixes(_), IpSetMember::Net(cidr)) => {
            let (first, last) = Data::range(*cidr);
            write_range(w, &first, &last);
        }
        (_, IpSetMember::Net(cidr)) => write_element(w, Data::address(cidr.address()).as_bytes(), 0),
        (_, IpSetMember::IpPort(address, protocol, port)) => {
            let mut key = Data::address(*address).as_bytes().to_vec();
            key.extend([protocol.0, 0, 0, 0]);
            key.extend(port.to_be_bytes());
            key.extend([0, 0]);
            write_element(w, &key, 0);
        }
    }
}

/// Tells `nft` that the key of a set is in the host's order; without it, names of interfaces are shown as nothing.
fn host_order() -> [u8; 6] {
    const KEY_BYTE_ORDER: u8 = 0;
    let order = 1_u32.to_ne_bytes();
    [KEY_BYTE_ORDER, 4, order[0], order[1], order[2], order[3]]
}

pub(super) fn interface_key(interface: &str) -> [u8; 16] {
    let mut key = [0; 16];
    let length = interface.len().min(15);
    key[..length].copy_from_slice(&interface.as_bytes()[..length]);
    key
}

fn userdata(comment: Option<&str>, hash: RuleHash) -> Vec<u8> {
    let mut data = Vec::with_capacity(2 + NftRule::COMMENT + 1 + 10);
    if let Some(comment) = comment {
        let mut end = comment.len().min(NftRule::COMMENT);
        while !comment.is_char_boundary(end) {
            end -= 1;
        }
        let text = &comment.as_bytes()[..end];
        data.extend([USERDATA_COMMENT, text.len() as u8 + 1]);
        data.extend_from_slice(text);
        data.push(0);
    }
    data.extend([USERDATA_HASH, 8]);
    data.extend(hash.to_be_bytes());
    data
}
