//! IPAM while two agents run: whose blocks count, and how they change hands without an address that has two owners.
//!
//! A block counts where its node's agent is. When a node changes hands its blocks are copied, and what they leave behind is
//! sealed: every free address there is given to nobody, so that the agents that stay can neither borrow from the block
//! nor take it for an empty one.

use std::collections::{BTreeMap, BTreeSet};

use model::{Cidr, Family};
use serde_json::{Value, json};

use crate::{Effect, Note};

/// Number of addresses by block, as a handle keeps them.
pub type Counts = BTreeMap<String, u64>;

/// Blocks of IPv6 have as many addresses at most, by the API's rules.
const MOST_ADDRESSES: usize = 1 << 12;
/// Begins the handle of what a seal holds.
const SEAL: &str = "ocicat-moved-";
/// Held ready by a node of ours for its next pods.
const RESERVED: &str = "ocicat-reserved-";

/// The node that a block is of.
pub fn owner(spec: &Value) -> Option<&str> {
    spec.get("affinity")?.as_str()?.strip_prefix("host:").filter(|node| !node.is_empty())
}

/// What is wrong with a block: nothing, or why its addresses cannot be known.
pub fn block_notes(spec: &Value) -> Vec<Note> {
    let blocks = |field: &str, reason: String| Note::new(Effect::Blocks, format!("spec.{field}"), reason);
    let cidr = spec.get("cidr").and_then(Value::as_str).unwrap_or_default();
    let Ok(parsed) = cidr.parse::<Cidr>() else {
        return vec![blocks("cidr", format!("{cidr:?} is no CIDR"))];
    };
    let bits = if parsed.family() == Family::V4 { 32 } else { 128 } - u32::from(parsed.length());
    let size = 1usize.checked_shl(bits).filter(|size| *size <= MOST_ADDRESSES);
    let Some(size) = size else { return vec![blocks("cidr", format!("{cidr} is larger than any block"))] };
    let Some(allocations) = spec.get("allocations").and_then(Value::as_array) else {
        return vec![blocks("allocations", "is missing: who has its addresses is not known".to_owned())];
    };
    let mut notes = Vec::new();
    if allocations.len() != size {
        notes.push(blocks("allocations", format!("has {} entries for {size} addresses", allocations.len())));
    }
    let attributes = spec.get("attributes").and_then(Value::as_array).map_or(0, Vec::len);
    for (ordinal, entry) in allocations.iter().enumerate() {
        let is_known = entry.as_u64().is_some_and(|index| index < attributes as u64);
        if !entry.is_null() && !is_known {
            let reason = format!("{entry} is the place of no attributes: whose the address is, is not known");
            notes.push(blocks(&format!("allocations[{ordinal}]"), reason));
        }
    }
    let mut free = BTreeSet::new();
    for entry in spec.get("unallocated").and_then(Value::as_array).into_iter().flatten() {
        let ordinal = entry.as_u64().and_then(|ordinal| usize::try_from(ordinal).ok());
        let is_free = ordinal.and_then(|ordinal| allocations.get(ordinal)).is_some_and(Value::is_null);
        if !is_free || !free.insert(ordinal) {
            notes
                .push(blocks("unallocated", format!("{entry} is not a free address, or stands there twice")));
        }
    }
    notes
}

/// How many addresses a node can still give from a block.
pub fn free_addresses(spec: &Value) -> usize {
    spec.get("unallocated").and_then(Value::as_array).map_or(0, Vec::len)
}

/// Handles of a block's addresses with how many each has.
fn holders(spec: &Value) -> BTreeMap<String, u64> {
    let attributes = spec.get("attributes").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut counts = BTreeMap::new();
    for entry in spec.get("allocations").and_then(Value::as_array).into_iter().flatten() {
        let index = entry.as_u64().and_then(|index| usize::try_from(index).ok());
        let attribute = index.and_then(|index| attributes.get(index));
        if let Some(handle) = attribute.and_then(|of| of.get("handle_id")).and_then(Value::as_str) {
            *counts.entry(handle.to_owned()).or_default() += 1;
        }
    }
    counts
}

/// What handles have to say once `blocks` stand as given; `present` is what they say now. Only those that change, and
/// `None` for one that holds nothing any more.
pub fn handle_changes(
    present: &BTreeMap<String, Counts>,
    blocks: &[&Value],
) -> BTreeMap<String, Option<Counts>> {
    let cidr = |spec: &Value| spec.get("cidr").and_then(Value::as_str).unwrap_or_default().to_owned();
    let copied: BTreeSet<String> = blocks.iter().map(|spec| cidr(spec)).collect();
    let mut wanted: BTreeMap<String, Counts> = BTreeMap::new();
    for (handle, counts) in present {
        let elsewhere = counts.iter().filter(|(block, _)| !copied.contains(*block));
        wanted.insert(handle.clone(), elsewhere.map(|(block, count)| (block.clone(), *count)).collect());
    }
    for spec in blocks {
        for (handle, count) in holders(spec).into_iter().filter(|(handle, _)| !handle.starts_with(SEAL)) {
            wanted.entry(handle).or_default().insert(cidr(spec), count);
        }
    }
    let differs = |(handle, counts): &(String, Counts)| present.get(handle) != Some(counts);
    wanted
        .into_iter()
        .filter(differs)
        .map(|(handle, counts)| (handle, Some(counts).filter(|counts| !counts.is_empty())))
        .collect()
}

/// Is this what a block left behind?
pub fn is_sealed(spec: &Value) -> bool {
    holders(spec).keys().any(|handle| handle.starts_with(SEAL))
}

/// The block with every free address held by nobody.
pub fn seal(spec: &Value, node: &str) -> Value {
    let mut sealed = spec.clone();
    if !spec.is_object() {
        return sealed;
    }
    let attributes = spec.get("attributes").and_then(Value::as_array).cloned().unwrap_or_default();
    let place = attributes.len();
    let mut is_any = false;
    if let Some(allocations) = sealed.get_mut("allocations").and_then(Value::as_array_mut) {
        for entry in allocations.iter_mut().filter(|entry| entry.is_null()) {
            *entry = json!(place);
            is_any = true;
        }
    }
    if is_any {
        let attribute = json!({
            "handle_id": format!("{SEAL}{node}"), "secondary": {"node": node, "type": "ocicat-moved"},
        });
        sealed["attributes"] = Value::Array(attributes.into_iter().chain([attribute]).collect());
        sealed["unallocated"] = json!([]);
    }
    grown(&mut sealed, spec);
    sealed
}

/// The block without its seal.
pub fn unsealed(spec: &Value) -> Value {
    if is_sealed(spec) { without(spec, |handle, _| handle.starts_with(SEAL)) } else { spec.clone() }
}

/// The block as the agent that returns wants it: without what only ours has, and numbered after what it left.
pub fn returned(spec: &Value, left: Option<&Value>) -> Value {
    let is_ours = |handle: &str, attribute: &Value| {
        let is_resting = attribute.get("releasedAt").is_some_and(|at| !at.is_null());
        is_resting || handle.starts_with(RESERVED) || handle.starts_with(SEAL)
    };
    let mut back = without(spec, is_ours);
    if let Some(left) = left.filter(|_| back.is_object()) {
        grown(&mut back, left);
    }
    back
}

/// The block with the addresses free whose handle and attributes `goes` names.
fn without(spec: &Value, goes: impl Fn(&str, &Value) -> bool) -> Value {
    let mut block = spec.clone();
    if !spec.is_object() {
        return block;
    }
    let attributes = spec.get("attributes").and_then(Value::as_array).cloned().unwrap_or_default();
    let handle =
        |attribute: &Value| attribute.get("handle_id").and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut places = BTreeMap::new();
    let mut kept = Vec::new();
    for (index, attribute) in attributes.iter().enumerate().filter(|(_, one)| !goes(&handle(one), one)) {
        places.insert(index as u64, kept.len());
        kept.push(attribute.clone());
    }
    let mut freed = Vec::new();
    if let Some(allocations) = block.get_mut("allocations").and_then(Value::as_array_mut) {
        for (ordinal, entry) in allocations.iter_mut().enumerate() {
            let Some(index) = entry.as_u64() else { continue };
            *entry = places.get(&index).map_or(Value::Null, |place| json!(place));
            if entry.is_null() {
                freed.push(json!(ordinal));
            }
        }
    }
    if let Some(numbers) = block.get_mut("sequenceNumberForAllocation").and_then(Value::as_object_mut) {
        freed.iter().for_each(|ordinal| _ = numbers.remove(&ordinal.to_string()));
    }
    block["attributes"] = Value::Array(kept);
    let free = spec.get("unallocated").and_then(Value::as_array).cloned().unwrap_or_default();
    block["unallocated"] = Value::Array(free.into_iter().chain(freed).collect());
    block
}

/// A write grows the number of the block: whoever has read it before must see that.
fn grown(spec: &mut Value, before: &Value) {
    let number = |spec: &Value| spec.get("sequenceNumber").and_then(Value::as_i64).unwrap_or_default();
    let next = number(spec).max(number(before).saturating_add(1));
    spec["sequenceNumber"] = json!(next);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two pods on node-a, the third address free since long, the last one freed a moment ago.
    fn block() -> Value {
        json!({
            "cidr": "10.0.0.0/30", "affinity": "host:node-a", "strictAffinity": false, "deleted": false,
            "sequenceNumber": 7, "sequenceNumberForAllocation": {"0": 3, "1": 5},
            "allocations": [0, 1, null, null], "unallocated": [3, 2],
            "attributes": [
                {"handle_id": "k8s-pod-network.aaaa", "secondary": {"node": "node-a", "namespace": "dev", "pod": "p1"}},
                {"handle_id": "k8s-pod-network.bbbb", "secondary": {"node": "node-a", "namespace": "dev", "pod": "p2"}},
            ],
        })
    }

    #[test]
    fn a_sealed_block_gives_nothing_and_returns_as_it_was() {
        let sealed = seal(&block(), "node-a");

        assert_eq!((free_addresses(&sealed), is_sealed(&sealed), is_sealed(&block())), (0, true, false));
        assert_eq!(sealed["allocations"], json!([0, 1, 2, 2]));
        assert_eq!((&sealed["sequenceNumber"], block_notes(&sealed)), (&json!(8), Vec::new()));
        let back = returned(&block(), Some(&sealed));
        assert_eq!(back, {
            let mut wanted = block();
            wanted["sequenceNumber"] = json!(9);
            wanted
        });
        let open = unsealed(&sealed);
        assert_eq!(
            (&open["allocations"], &open["attributes"]),
            (&block()["allocations"], &block()["attributes"])
        );
        assert_eq!(unsealed(&block()), block());
        // Sealing twice changes no address.
        assert_eq!(seal(&sealed, "node-a")["allocations"], sealed["allocations"]);
    }

    #[test]
    fn what_only_our_ipam_has_is_free_when_calico_returns() {
        let mut ours = block();
        ours["attributes"] = json!([
            {"handle_id": "ocicat-reserved-node-a", "secondary": {"node": "node-a", "type": "reserved"}},
            {"handle_id": "k8s-pod-network.cccc", "secondary": {"node": "node-a"}},
            {"handle_id": "k8s-pod-network.dddd", "releasedAt": "2026-01-01T00:00:00Z"},
        ]);
        ours["allocations"] = json!([0, 1, 2, null]);
        ours["unallocated"] = json!([3]);

        let back = returned(&ours, None);

        assert_eq!(back["allocations"], json!([null, 0, null, null]));
        assert_eq!((&back["unallocated"], block_notes(&back)), (&json!([3, 0, 2]), Vec::new()));
        assert_eq!(back["sequenceNumberForAllocation"], json!({"1": 5}));
    }

    #[test]
    fn handles_follow_the_blocks_that_are_copied_and_keep_what_they_hold_elsewhere() {
        let counts =
            |all: &[(&str, u64)]| -> Counts { all.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect() };
        let present = BTreeMap::from([
            ("k8s-pod-network.aaaa".to_owned(), counts(&[("10.0.0.0/30", 1), ("10.0.9.0/30", 1)])),
            ("k8s-pod-network.gone".to_owned(), counts(&[("10.0.0.0/30", 1)])),
            ("k8s-pod-network.else".to_owned(), counts(&[("10.0.9.0/30", 2)])),
        ]);

        let changes = handle_changes(&present, &[&seal(&block(), "node-a")]);

        let expected = BTreeMap::from([
            ("k8s-pod-network.bbbb".to_owned(), Some(counts(&[("10.0.0.0/30", 1)]))),
            ("k8s-pod-network.gone".to_owned(), None),
        ]);
        assert_eq!(changes, expected);
    }

    #[test]
    fn a_block_that_makes_no_sense_is_named_by_its_field() {
        let fields = |spec: &Value| block_notes(spec).into_iter().map(|note| note.field).collect::<Vec<_>>();
        let with = |key: &str, value: Value| {
            let mut spec = block();
            spec[key] = value;
            spec
        };

        assert_eq!(fields(&block()), [""; 0]);
        assert_eq!(fields(&with("cidr", json!("x"))), ["spec.cidr"]);
        assert_eq!(fields(&with("cidr", json!("10.0.0.0/8"))), ["spec.cidr"]);
        assert_eq!(fields(&with("allocations", json!(null))), ["spec.allocations"]);
        assert_eq!(fields(&with("allocations", json!([0, 9, null, null]))), ["spec.allocations[1]"]);
        assert_eq!(fields(&with("unallocated", json!([3, 3, 1, "x"]))).len(), 3);
        for nonsense in [json!(null), json!([]), json!("x"), json!({"attributes": 3})] {
            assert_eq!(block_notes(&nonsense).len(), 1);
            handle_changes(&BTreeMap::new(), &[&nonsense]);
            block_notes(&returned(&seal(&nonsense, "n"), Some(&nonsense)));
            assert_eq!((free_addresses(&nonsense), owner(&nonsense)), (0, None));
        }
    }
}
