//! Reading our tables back.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use kernel::IpSetMember;
use kernel::nft::{
    Data, NFT_TABLE, NftChainType, NftHook, NftKey, NftSet, NftSetLayout, NftVerdict, RuleHash,
    SavedNftChain, SavedNftTable,
};
use model::{Cidr, Family, Protocol};

use super::messages::key_type;
use super::numbers::*;
use crate::nl::{Attribute, Message, Socket, named};
use crate::rtnl::family_number;

const HEADER: usize = 4;

/// Our table of one family; `None` where it is not there.
pub(super) fn table(socket: &mut Socket, family: Family) -> io::Result<Option<SavedNftTable>> {
    let chains = chains(socket, family, NFT_TABLE)?;
    let mut table = SavedNftTable { chains, ..SavedNftTable::default() };
    let sets = match dump_sets(socket, family) {
        Ok(sets) => sets,
        // Without the table its sets cannot be asked for.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(named(format!("list nftables sets for {family}"), error)),
    };
    read_rules(socket, family, &mut table.chains)?;
    for (name, shape) in sets {
        match shape {
            Shape::Set(layout) => match members(elements(socket, family, &name)?, layout) {
                Some(members) => _ = table.sets.insert(name, NftSet { layout, members }),
                None => _ = table.others.insert(name),
            },
            Shape::Map => {
                let entries = elements(socket, family, &name)?;
                let entries = entries.into_iter().filter_map(|e| Some((interface(&e.key)?, e.verdict?)));
                table.maps.insert(name, entries.collect());
            }
            Shape::Other => _ = table.others.insert(name),
        }
    }
    Ok(Some(table))
}

/// The chains of any table, without their rules.
pub(super) fn chains(
    socket: &mut Socket,
    family: Family,
    table: &str,
) -> io::Result<BTreeMap<Arc<str>, SavedNftChain>> {
    let dumped = socket.dump(
        GET_CHAIN,
        |w| w.bytes(&[family_number(family), 0, 0, 0]),
        |found: &mut BTreeMap<Arc<str>, SavedNftChain>, message| {
            found.extend(parse_chain(message, table));
        },
    );
    match dumped {
        Ok(chains) => Ok(chains),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(named(format!("list nftables chains for {family}"), error)),
    }
}

fn parse_chain(message: &Message<'_>, table: &str) -> Option<(Arc<str>, SavedNftChain)> {
    let (mut is_ours, mut name, mut hook, mut kind, mut policy) = (false, None, None, None, 1);
    for attribute in message.attributes(HEADER) {
        match attribute.kind {
            CHAIN_TABLE => is_ours = attribute.string() == table,
            CHAIN_NAME => name = Some(attribute.string()),
            CHAIN_HOOK => hook = Some(attribute),
            CHAIN_POLICY => policy = be32(&attribute)?,
            CHAIN_TYPE => kind = Some(attribute.string()),
            _ => {}
        }
    }
    let hook = match hook {
        None => None,
        Some(hook) => {
            let find = |kind| hook.nested().find(|a| a.kind == kind).and_then(|a| be32(&a));
            // What is no hook of ours compares unequal to all of these.
            let priority = if policy == 1 { find(HOOK_PRIORITY)? as i32 } else { i32::MIN };
            let kind = match kind.as_deref() {
                Some("nat") => NftChainType::Nat,
                _ => NftChainType::Filter,
            };
            Some(NftHook { kind, number: find(HOOK_NUMBER)?, priority })
        }
    };
    is_ours.then_some((name?.into(), SavedNftChain { hook, rules: Vec::new() }))
}

fn read_rules(
    socket: &mut Socket,
    family: Family,
    chains: &mut BTreeMap<Arc<str>, SavedNftChain>,
) -> io::Result<()> {
    let rules = socket
        .dump(
            GET_RULE,
            |w| {
                w.bytes(&[family_number(family), 0, 0, 0]);
                w.string(RULE_TABLE, NFT_TABLE);
            },
            |found: &mut BTreeMap<String, Vec<Option<RuleHash>>>, message| {
                let (mut is_ours, mut chain, mut hash) = (false, None, None);
                for attribute in message.attributes(HEADER) {
                    match attribute.kind {
                        RULE_TABLE => is_ours = attribute.string() == NFT_TABLE,
                        RULE_CHAIN => chain = Some(attribute.string()),
                        RULE_USERDATA => hash = hash_of(attribute.payload),
                        _ => {}
                    }
                }
                if let Some(chain) = chain.filter(|_| is_ours) {
                    found.entry(chain).or_default().push(hash);
                }
            },
        )
        .map_err(|e| named(format!("list nftables rules for {family}"), e))?;
    for (chain, hashes) in rules {
        if let Some(chain) = chains.get_mut(chain.as_str()) {
            chain.rules = hashes;
        }
    }
    Ok(())
}

/// Our hash among a rule's user data.
fn hash_of(mut data: &[u8]) -> Option<RuleHash> {
    while let [kind, length, rest @ ..] = data {
        let value = rest.get(..usize::from(*length))?;
        if *kind == USERDATA_HASH {
            return value.try_into().ok().map(u64::from_be_bytes);
        }
        data = &rest[usize::from(*length)..];
    }
    None
}

#[derive(Clone, Copy)]
enum Shape {
    Set(NftSetLayout),
    Map,
    Other,
}

fn dump_sets(socket: &mut Socket, family: Family) -> io::Result<Vec<(Arc<str>, Shape)>> {
    socket.dump(
        GET_SET,
        |w| {
            w.bytes(&[family_number(family), 0, 0, 0]);
            w.string(SET_TABLE, NFT_TABLE);
        },
        |found: &mut Vec<(Arc<str>, Shape)>, message| found.extend(parse_set(message, family)),
    )
}

fn parse_set(message: &Message<'_>, family: Family) -> Option<(Arc<str>, Shape)> {
    let (mut is_ours, mut name, mut flags, mut key, mut data) = (false, None, 0, None, None);
    for attribute in message.attributes(HEADER) {
        match attribute.kind {
            SET_TABLE => is_ours = attribute.string() == NFT_TABLE,
            SET_NAME => name = Some(attribute.string()),
            SET_FLAGS => flags = be32(&attribute)?,
            SET_KEY_TYPE => key = be32(&attribute),
            SET_DATA_TYPE => data = be32(&attribute),
            _ => {}
        }
    }
    if !is_ours || flags & FLAG_ANONYMOUS != 0 {
        return None;
    }
    let is_key = |of: NftKey| key == Some(key_type(of).0);
    let layouts = [
        (NftSetLayout::Addresses(family), 0),
        (NftSetLayout::Prefixes(family), FLAG_INTERVAL),
        (NftSetLayout::Ports(family), 0),
    ];
    let mut layouts = layouts.into_iter();
    let layout = layouts.find(|(layout, wanted)| is_key(layout.key()) && flags & !FLAG_CONCAT == *wanted);
    let is_map = is_key(NftKey::Interface) && flags == FLAG_MAP && data == Some(DATA_VERDICT);
    let shape = match layout {
        Some((layout, _)) => Shape::Set(layout),
        None if is_map => Shape::Map,
        None => Shape::Other,
    };
    Some((name?.into(), shape))
}

/// An element as it comes.
struct Element {
    key: Vec<u8>,
    is_end: bool,
    verdict: Option<NftVerdict>,
}

fn elements(socket: &mut Socket, family: Family, set: &str) -> io::Result<Vec<Element>> {
    socket
        .dump(
            GET_ELEMENT,
            |w| {
                w.bytes(&[family_number(family), 0, 0, 0]);
                w.string(LIST_TABLE, NFT_TABLE);
                w.string(LIST_SET, set);
            },
            |found: &mut Vec<Element>, message| {
                let lists = message.attributes(HEADER).filter(|a| a.kind == LIST_ELEMENTS);
                for element in lists.flat_map(|list| list.nested()) {
                    found.extend(parse_element(&element));
                }
            },
        )
        .map_err(|e| named(format!("list nftables set {set} for {family}"), e))
}

fn parse_element(element: &Attribute<'_>) -> Option<Element> {
    let (mut key, mut is_end, mut verdict) = (None, false, None);
    for attribute in element.nested() {
        match attribute.kind {
            ELEMENT_KEY => {
                key = attribute.nested().find(|a| a.kind == DATA_VALUE).map(|a| a.payload.to_vec());
            }
            ELEMENT_FLAGS => is_end = be32(&attribute)? & INTERVAL_END != 0,
            ELEMENT_DATA => verdict = parse_verdict(&attribute),
            _ => {}
        }
    }
    Some(Element { key: key?, is_end, verdict })
}

fn parse_verdict(data: &Attribute<'_>) -> Option<NftVerdict> {
    let verdict = data.nested().find(|a| a.kind == DATA_VERDICT_OF)?;
    let find = |kind| verdict.nested().find(|a| a.kind == kind);
    let chain = || find(VERDICT_CHAIN).map(|chain| Arc::from(chain.string()));
    match be32(&find(VERDICT_CODE)?)? as i32 {
        CODE_ACCEPT => Some(NftVerdict::Accept),
        CODE_DROP => Some(NftVerdict::Drop),
        CODE_RETURN => Some(NftVerdict::Return),
        CODE_JUMP => Some(NftVerdict::Jump(chain()?)),
        CODE_GOTO => Some(NftVerdict::Goto(chain()?)),
        _ => None,
    }
}

/// `None` where some element is none that we could have made.
fn members(elements: Vec<Element>, layout: NftSetLayout) -> Option<BTreeSet<IpSetMember>> {
    match layout {
        NftSetLayout::Addresses(_) => {
            let host = |element: Element| address(&element.key).map(|a| IpSetMember::Net(Cidr::host(a)));
            elements.into_iter().map(host).collect()
        }
        NftSetLayout::Prefixes(family) => prefixes(elements, family),
        NftSetLayout::Ports(family) => {
            let width = usize::from(family.bits() / 8);
            let member = |element: Element| {
                let key = &element.key;
                let port = key.get(width + 4..width + 6)?.try_into().ok().map(u16::from_be_bytes)?;
                Some(IpSetMember::IpPort(address(key.get(..width)?)?, Protocol(*key.get(width)?), port))
            };
            elements.into_iter().map(member).collect()
        }
    }
}

fn address(key: &[u8]) -> Option<IpAddr> {
    crate::nl::address(key)
}

/// Puts beginnings and ends together. What stands before the first beginning is an end of nothing, as `nft` makes.
fn prefixes(elements: Vec<Element>, family: Family) -> Option<BTreeSet<IpSetMember>> {
    let mut bounds: Vec<(Vec<u8>, bool)> = elements.into_iter().map(|e| (e.key, !e.is_end)).collect();
    // An end before the beginning that has the same value.
    bounds.sort();
    let mut members = BTreeSet::new();
    let mut open: Option<Vec<u8>> = None;
    let mut close = |first: Vec<u8>, end: Option<&[u8]>| -> Option<()> {
        let address = address(&first)?;
        let (first, end) = (Data::new(&first), end.map(Data::new));
        let lengths = 1..=family.bits();
        let cidr = lengths.filter_map(|length| Cidr::truncated(address, length)).find(|cidr| {
            let (from, to) = Data::range(*cidr);
            from == first && to.next() == end
        })?;
        members.insert(IpSetMember::Net(cidr));
        Some(())
    };
    for (key, is_start) in bounds {
        match (open.take(), is_start) {
            (None, true) => open = Some(key),
            (None, false) => {}
            (Some(first), false) => close(first, Some(&key))?,
            (Some(_), true) => return None,
        }
    }
    if let Some(first) = open {
        close(first, None)?;
    }
    Some(members)
}

fn interface(key: &[u8]) -> Option<Arc<str>> {
    let end = key.iter().position(|byte| *byte == 0).unwrap_or(key.len());
    std::str::from_utf8(&key[..end]).ok().map(Arc::from)
}

pub(super) fn be32(attribute: &Attribute<'_>) -> Option<u32> {
    attribute.payload.try_into().ok().map(u32::from_be_bytes)
}
