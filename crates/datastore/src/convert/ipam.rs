//! Blocks, affinities, handles and settings of IPAM, in both directions.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use data_encoding::BASE32_NOPAD;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use model::{
    AffinityState, AllocationAttributes, Block, BlockAffinity, Cidr, DEFAULT_COOLDOWN, Family, Handle,
    IpamConfiguration, NodeName,
};
use sha2::{Digest, Sha256};
use sha3::Sha3_256;

use super::Problems;
use crate::crd;

/// An IPAMBlock; `None` when it contradicts itself.
pub fn block(spec: &crd::IPAMBlockSpec, problems: &mut Problems) -> Option<Block> {
    let cidr: Cidr = problems.take("spec.cidr", spec.cidr.parse())?;
    let size = 1_u128 << (cidr.family().bits() - cidr.length()).min(127);
    if spec.allocations.len() as u128 != size {
        problems.add("spec.allocations", format!("{} entries for {size} addresses", spec.allocations.len()));
        return None;
    }
    let attribute = |index: i64| {
        usize::try_from(index)
            .ok()
            .filter(|index| *index < spec.attributes.len())
            .ok_or_else(|| format!("{index} is no index into spec.attributes"))
    };
    let allocations: Result<Vec<_>, _> =
        spec.allocations.iter().map(|a| a.map(attribute).transpose()).collect();
    let allocations = problems.take("spec.allocations", allocations)?;
    let ordinal = |number: i64| {
        usize::try_from(number)
            .ok()
            .filter(|ordinal| allocations.get(*ordinal).is_some_and(Option::is_none))
            .ok_or_else(|| format!("{number} is not the ordinal of a free address"))
    };
    let unallocated: Result<Vec<_>, _> = spec.unallocated.iter().map(|number| ordinal(*number)).collect();
    let unallocated = problems.take("spec.unallocated", unallocated)?;
    Some(Block {
        cidr,
        affinity: spec.affinity.as_deref().filter(|text| !text.is_empty()).map(affinity_owner),
        allocations,
        unallocated,
        attributes: spec.attributes.iter().map(attributes).collect(),
        sequence_number: u64::try_from(spec.sequence_number).unwrap_or_default(),
        sequence_number_for_allocation: spec
            .sequence_number_for_allocation
            .iter()
            .filter_map(|(ordinal, number)| Some((ordinal.parse().ok()?, u64::try_from(*number).ok()?)))
            .collect(),
        deleted: spec.deleted,
    })
}

/// The stored form of a block; what the model does not know is kept from `previous`.
pub fn block_spec(
    block: &Block,
    previous: Option<&crd::IPAMBlockSpec>,
    now: SystemTime,
) -> crd::IPAMBlockSpec {
    let affinity = block.affinity.as_ref().map(|owner| match owner.as_str() {
        virtual_owner if virtual_owner.starts_with("virtual:") => virtual_owner.to_owned(),
        node => format!("host:{node}"),
    });
    let claimed =
        previous.filter(|previous| previous.affinity == affinity && previous.affinity_claim_time.is_some());
    let index = |index: &usize| i64::try_from(*index).expect("a block has few addresses");
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    crd::IPAMBlockSpec {
        cidr: block.cidr.to_string(),
        affinity_claim_time: match claimed {
            Some(previous) => previous.affinity_claim_time.clone(),
            None => affinity.as_ref().map(|_| rfc3339(now)),
        },
        affinity,
        allocations: block.allocations.iter().map(|entry| entry.as_ref().map(index)).collect(),
        unallocated: block.unallocated.iter().map(index).collect(),
        attributes: block.attributes.iter().map(|attributes| attribute_spec(attributes, previous)).collect(),
        sequence_number: number(block.sequence_number),
        sequence_number_for_allocation: block
            .sequence_number_for_allocation
            .iter()
            .map(|(ordinal, value)| (ordinal.to_string(), number(*value)))
            .collect(),
        deleted: block.deleted,
        strict_affinity: false,
    }
}

/// A BlockAffinity; `None` when its CIDR cannot be understood.
pub fn affinity(spec: &crd::BlockAffinitySpec, problems: &mut Problems) -> Option<BlockAffinity> {
    let owner = if spec.type_ == "virtual" { format!("virtual:{}", spec.node) } else { spec.node.clone() };
    Some(BlockAffinity {
        node: owner.as_str().into(),
        cidr: problems.take("spec.cidr", spec.cidr.parse())?,
        state: match spec.state {
            crd::AffinityState::Confirmed => AffinityState::Confirmed,
            crd::AffinityState::Pending => AffinityState::Pending,
            crd::AffinityState::PendingDeletion => AffinityState::PendingDeletion,
        },
        deleted: spec.deleted,
    })
}

/// The stored form of an affinity.
pub fn affinity_spec(affinity: &BlockAffinity) -> crd::BlockAffinitySpec {
    let (type_, node) = match affinity.node.as_str().strip_prefix("virtual:") {
        Some(name) => ("virtual", name),
        None => ("host", affinity.node.as_str()),
    };
    crd::BlockAffinitySpec {
        cidr: affinity.cidr.to_string(),
        node: node.to_owned(),
        state: match affinity.state {
            AffinityState::Confirmed => crd::AffinityState::Confirmed,
            AffinityState::Pending => crd::AffinityState::Pending,
            AffinityState::PendingDeletion => crd::AffinityState::PendingDeletion,
        },
        type_: type_.to_owned(),
        deleted: affinity.deleted,
    }
}

/// Labels by which Calico's tools find affinities.
pub(crate) fn affinity_labels(affinity: &BlockAffinity) -> BTreeMap<String, String> {
    let version = if affinity.cidr.family() == Family::V4 { "4" } else { "6" };
    let (type_, name) = match affinity.node.as_str().strip_prefix("virtual:") {
        Some(name) => ("virtual", name),
        None => ("host", affinity.node.as_str()),
    };
    BTreeMap::from([
        (HOST_HASH.to_owned(), host_hash(name)),
        ("projectcalico.org/affinity-type".to_owned(), type_.to_owned()),
        ("projectcalico.org/ip-version".to_owned(), version.to_owned()),
    ])
}

/// Label by which a node's affinities are listed: names of nodes may be too long for a label.
const HOST_HASH: &str = "projectcalico.org/hostname-hash";

/// Value of [`HOST_HASH`]: base32 of SHA3-256, lower case, no padding.
fn host_hash(host: &str) -> String {
    BASE32_NOPAD.encode(&Sha3_256::digest(host)).to_ascii_lowercase()
}

/// Object name of an affinity: `<node>-<cidr>`, shortened with a hash where Kubernetes would refuse it.
pub fn affinity_name(node: &NodeName, cidr: Cidr) -> String {
    let node = node.as_str().strip_prefix("virtual:").unwrap_or(node.as_str());
    shortened(format!("{node}-{}", cidr.object_name()))
}

/// An IPAMHandle; blocks whose CIDR cannot be understood are left out.
pub fn handle(spec: &crd::IPAMHandleSpec, problems: &mut Problems) -> Handle {
    let blocks = spec.block.iter().filter_map(|(cidr, count)| {
        let cidr = problems.take("spec.block", cidr.parse())?;
        Some((cidr, u32::try_from(*count).unwrap_or_default()))
    });
    Handle { id: spec.handle_id.clone(), blocks: blocks.collect(), deleted: spec.deleted }
}

/// The stored form of a handle.
pub fn handle_spec(handle: &Handle) -> crd::IPAMHandleSpec {
    let count = |count: u32| i32::try_from(count).unwrap_or(i32::MAX);
    crd::IPAMHandleSpec {
        handle_id: handle.id.clone(),
        block: handle.blocks.iter().map(|(cidr, n)| (cidr.to_string(), count(*n))).collect(),
        deleted: handle.deleted,
    }
}

/// Object name of a handle: its ID in lower case; what Kubernetes would refuse becomes a hash.
pub fn handle_name(id: &str) -> String {
    let lower = id.to_ascii_lowercase();
    let is_fit = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let is_sound = lower.chars().all(is_fit)
        && lower
            .split('.')
            .all(|label| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-'));
    if is_sound { shortened(lower) } else { format!("handle-{}", &hex(id)[..40]) }
}

/// Settings of IPAM; what cannot be is noted, and the rest is used.
pub fn ipam_configuration(spec: &crd::IPAMConfigurationSpec, problems: &mut Problems) -> IpamConfiguration {
    if !spec.strict_affinity && !spec.auto_allocate_blocks {
        problems.add("spec.autoAllocateBlocks", "with strictAffinity false, too, no block is ever claimed");
    }
    if spec.kube_virt_vm_address_persistence.is_some() {
        let reason = "is not acted upon: virtual machines get an address for each of their pods";
        problems.warn("spec.kubeVirtVMAddressPersistence", reason);
    }
    if spec.ip_cooldown_seconds.is_some_and(|seconds| !(0..=1200).contains(&seconds)) {
        problems.add("spec.ipCooldownSeconds", "is not between 0 and 1200");
    }
    IpamConfiguration {
        strict_affinity: spec.strict_affinity,
        auto_allocate_blocks: spec.auto_allocate_blocks,
        max_blocks_per_host: u32::try_from(spec.max_blocks_per_host).unwrap_or_default(),
        cooldown: spec.ip_cooldown_seconds.map_or(DEFAULT_COOLDOWN, |s| u64::try_from(s).unwrap_or_default()),
    }
}

fn affinity_owner(text: &str) -> NodeName {
    text.strip_prefix("host:").unwrap_or(text).into()
}

fn attributes(attribute: &crd::AllocationAttribute) -> AllocationAttributes {
    AllocationAttributes {
        handle: attribute.handle_id.clone(),
        secondary: attribute.secondary.clone(),
        released_at: attribute.released_at.as_deref().and_then(seconds),
    }
}

fn attribute_spec(
    attributes: &AllocationAttributes,
    previous: Option<&crd::IPAMBlockSpec>,
) -> crd::AllocationAttribute {
    let same = previous.and_then(|previous| {
        previous
            .attributes
            .iter()
            .find(|a| a.handle_id == attributes.handle && a.secondary == attributes.secondary)
    });
    crd::AllocationAttribute {
        handle_id: attributes.handle.clone(),
        secondary: attributes.secondary.clone(),
        alternate_owner_attrs: same.map(|a| a.alternate_owner_attrs.clone()).unwrap_or_default(),
        released_at: attributes
            .released_at
            .map(|at| rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(at))),
    }
}

fn seconds(text: &str) -> Option<u64> {
    let time: Time = serde_json::from_value(text.into()).ok()?;
    u64::try_from(time.0.as_second()).ok()
}

/// RFC 3339 in UTC, to the second.
pub fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// Year, month and day of a number of days since 1970-01-01 in the Gregorian calendar.
fn date(days: u64) -> (u64, u64, u64) {
    // Years begin in March here, so that the leap day is a year's last.
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

fn shortened(name: String) -> String {
    if name.len() < 253 {
        return name;
    }
    let suffix = &hex(&name)[..11];
    let cut: String = name.chars().take(253 - 12).collect();
    format!("{}-{suffix}", cut.trim_end_matches(['-', '.']))
}

fn hex(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn stored() -> Value {
        json!({
            "cidr": "10.0.0.0/30", "affinity": "host:node-a", "affinityClaimTime": "2026-01-01T00:00:00Z",
            "strictAffinity": false, "deleted": false, "sequenceNumber": 1767225600000000007i64,
            "sequenceNumberForAllocation": {"0": 1767225600000000003i64, "1": 1767225600000000005i64},
            "allocations": [0, 1, null, null], "unallocated": [3, 2],
            "attributes": [
                {"handle_id": "k8s-pod-network.aaaa", "secondary": {"node": "node-a", "pod": "p1"}},
                {"handle_id": "k8s-pod-network.bbbb", "releasedAt": "2026-01-01T00:00:10Z",
                 "alternateOwnerAttrs": {"x": "y"}},
            ],
        })
    }

    #[test]
    fn calicos_block_is_read_and_written_back_as_it_was() {
        let spec: crd::IPAMBlockSpec = serde_json::from_value(stored()).unwrap();
        let mut problems = Problems::default();

        let block = block(&spec, &mut problems).unwrap();
        let written = block_spec(&block, Some(&spec), SystemTime::UNIX_EPOCH);

        assert_eq!(problems, Problems::default());
        assert_eq!(block.affinity, Some("node-a".into()));
        assert_eq!(block.attributes[1].released_at, Some(1_767_225_610));
        assert_eq!((block.allocated().count(), block.resting().count()), (1, 1));
        assert_eq!(serde_json::to_value(written).unwrap(), stored());
    }

    #[test]
    fn a_block_that_contradicts_itself_is_refused() {
        for (path, value) in [
            ("/cidr", json!("10.0.0.1/30")),
            ("/allocations", json!([null])),
            ("/allocations", json!([0, 7, null, null])),
            ("/unallocated", json!([0])),
            ("/unallocated", json!([4])),
            ("/unallocated", json!([-1])),
        ] {
            let mut object = stored();
            *object.pointer_mut(path).unwrap() = value;
            let mut problems = Problems::default();

            assert_eq!(block(&serde_json::from_value(object).unwrap(), &mut problems), None, "{path}");
            assert_eq!(problems.0[0].field, format!("spec{}", path.replace('/', ".")));
        }
    }

    #[test]
    fn names_fit_kubernetes() {
        let cidr = "10.0.0.0/30".parse().unwrap();

        assert_eq!(affinity_name(&"node-a".into(), cidr), "node-a-10-0-0-0-30");
        let long = affinity_name(&"n".repeat(300).as_str().into(), cidr);
        assert_eq!(long.len(), 253);
        let claim = BlockAffinity {
            node: "n".repeat(300).as_str().into(),
            cidr,
            state: AffinityState::Confirmed,
            deleted: false,
        };
        let labels = affinity_labels(&claim);
        assert!(labels.values().all(|value| value.len() <= 63), "{labels:?}");
        // SHA3-256 of "a" begins 80084bf2fba02475 (FIPS 202).
        assert!(host_hash("a").starts_with("qaeex4x3uash"), "{}", host_hash("a"));
        assert_eq!(labels[HOST_HASH].len(), 52);
        assert_eq!(handle_name("k8s-pod-network.AB12"), "k8s-pod-network.ab12");
        assert!(handle_name("my_net/1").starts_with("handle-"));
        assert_ne!(handle_name("my_net/1"), handle_name("my_net/2"));
    }

    #[test]
    fn times_are_rfc3339() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_868_799, "2000-02-29T23:59:59Z"),
            (1_767_225_610, "2026-01-01T00:00:10Z"),
        ] {
            assert_eq!(rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn affinities_and_handles_come_back_as_they_went() {
        let pending = BlockAffinity {
            node: "a".into(),
            cidr: "10.0.0.0/30".parse().unwrap(),
            state: AffinityState::Pending,
            deleted: false,
        };
        assert_eq!(affinity(&affinity_spec(&pending), &mut Problems::default()), Some(pending));
        let virtual_owner = BlockAffinity {
            node: "virtual:lb".into(),
            cidr: "10.0.0.0/30".parse().unwrap(),
            state: AffinityState::Confirmed,
            deleted: true,
        };
        assert_eq!(affinity(&affinity_spec(&virtual_owner), &mut Problems::default()), Some(virtual_owner));
        let two =
            Handle { id: "h".into(), blocks: [("10.0.0.0/30".parse().unwrap(), 2)].into(), deleted: false };
        assert_eq!(handle(&handle_spec(&two), &mut Problems::default()), two);
    }
}
