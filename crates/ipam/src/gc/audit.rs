//! Whether all that IPAM keeps agrees with itself and with what there is.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use model::{
    AffinityState, Block, BlockAffinity, Cidr, Handle, IpPool, NodeName, PodKey, TunnelKind, Tunnels,
};

use super::allocation::{Allocation, User, allocations};
use super::gone::is_question;
use super::truth::{PodAnswer, Why, is_used_by};
use crate::names;

/// All that is compared.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    pub blocks: Vec<Block>,
    pub affinities: Vec<BlockAffinity>,
    pub handles: Vec<Handle>,
    pub pools: Vec<IpPool>,
    /// What IPReservations keep back.
    pub reservations: Vec<Cidr>,
    /// Each node with what it tells of its tunnels.
    pub nodes: BTreeMap<NodeName, Tunnels>,
    /// Pods with a network of their own.
    pub pods: BTreeMap<PodKey, PodAnswer>,
    /// Handles under which Services hold addresses; `None` when that is not known.
    pub services: Option<BTreeSet<String>>,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Problem {
    /// Given out, and nobody seems to use it.
    NotInUse(Why),
    /// A Pod uses an address that is not given out.
    NotAllocated,
    /// A Pod uses an address that is given out to somebody else.
    OtherHolder,
    /// Given out, and no pool has it.
    OutsidePools,
    /// Nothing says which node an address belongs to.
    UnknownOwner,
    /// A handle counts other numbers than the blocks say.
    HandleCount { counted: u32, found: u32 },
    /// A block names a handle that does not exist.
    HandleMissing,
    /// A handle holds nothing.
    HandleEmpty,
    /// A claim on a block that is not there, or another node's.
    ClaimWithoutBlock,
    /// A block names a node that has no claim on it.
    BlockWithoutClaim,
    /// A claim of a node that is not there.
    ClaimOfGoneNode,
    /// A claim that was begun or ended only by half.
    ClaimUnfinished,
}

impl Problem {
    /// Short and stable, for programs.
    pub fn name(&self) -> &'static str {
        match self {
            Problem::NotInUse(_) => "not-in-use",
            Problem::NotAllocated => "not-allocated",
            Problem::OtherHolder => "other-holder",
            Problem::OutsidePools => "outside-pools",
            Problem::UnknownOwner => "unknown-owner",
            Problem::HandleCount { .. } => "handle-count",
            Problem::HandleMissing => "handle-missing",
            Problem::HandleEmpty => "handle-empty",
            Problem::ClaimWithoutBlock => "claim-without-block",
            Problem::BlockWithoutClaim => "block-without-claim",
            Problem::ClaimOfGoneNode => "claim-of-gone-node",
            Problem::ClaimUnfinished => "claim-unfinished",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::NotInUse(why) => write!(f, "allocated, not in use: {why}"),
            Problem::NotAllocated => f.write_str("used by a Pod, not allocated"),
            Problem::OtherHolder => f.write_str("used by a Pod, allocated to somebody else"),
            Problem::OutsidePools => f.write_str("allocated, in no IPPool"),
            Problem::UnknownOwner => f.write_str("allocated, nothing says to which node"),
            Problem::HandleCount { counted, found } => {
                write!(f, "the handle counts {counted}, the block has {found}")
            }
            Problem::HandleMissing => f.write_str("allocated to a handle that does not exist"),
            Problem::HandleEmpty => f.write_str("the handle holds no address"),
            Problem::ClaimWithoutBlock => f.write_str("affinity for a block that is not the node's"),
            Problem::BlockWithoutClaim => f.write_str("block of a node that has no affinity for it"),
            Problem::ClaimOfGoneNode => f.write_str("affinity of a node that is gone"),
            Problem::ClaimUnfinished => f.write_str("affinity that is not confirmed"),
        }
    }
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub problem: Problem,
    pub address: Option<IpAddr>,
    pub block: Option<Cidr>,
    pub handle: Option<String>,
    pub node: Option<NodeName>,
    pub pod: Option<PodKey>,
    pub sequence_number: Option<u64>,
}

impl Finding {
    fn new(problem: Problem) -> Self {
        Self {
            problem,
            address: None,
            block: None,
            handle: None,
            node: None,
            pod: None,
            sequence_number: None,
        }
    }

    fn of(problem: Problem, allocation: &Allocation) -> Self {
        let pod = match &allocation.user {
            User::Pod { key, .. } => Some(key.clone()),
            _ => None,
        };
        Self {
            problem,
            address: Some(allocation.address),
            block: Some(allocation.block),
            handle: allocation.handle.clone(),
            node: allocation.node.clone(),
            pod,
            sequence_number: allocation.sequence_number,
        }
    }

    fn of_claim(problem: Problem, node: &NodeName, block: Cidr) -> Self {
        Self { node: Some(node.clone()), block: Some(block), ..Self::new(problem) }
    }
}

/// Everything that is wrong.
pub fn audit(inventory: &Inventory) -> Vec<Finding> {
    let all: Vec<Allocation> = inventory.blocks.iter().flat_map(allocations).collect();
    let mut findings = of_allocations(inventory, &all);
    findings.extend(of_pods(inventory, &all));
    findings.extend(of_handles(inventory, &all));
    findings.extend(of_claims(inventory));
    findings
}

/// Why nobody seems to use an address, by what the API server says alone.
fn unused(inventory: &Inventory, allocation: &Allocation) -> Option<Why> {
    if let (User::Service(_), Some(services)) = (&allocation.user, &inventory.services) {
        let is_held = allocation.handle.as_ref().is_some_and(|handle| services.contains(handle));
        return (!is_held).then_some(Why::ServiceGone);
    }
    let node = allocation.node.as_ref()?;
    let tunnels = inventory.nodes.get(node);
    match &allocation.user {
        User::Pod { key, .. } => {
            let answer = inventory.pods.get(key).unwrap_or(&PodAnswer::Absent);
            is_used_by(allocation, answer).err()
        }
        _ if tunnels.is_none() => Some(Why::NodeGone),
        // Of a kind that is not known the node does not say which it uses.
        User::Tunnel(name) => {
            let kind = TunnelKind::ALL.into_iter().find(|kind| names::tunnel_type(*kind) == name)?;
            (tunnels?.address(kind) != Some(allocation.address)).then_some(Why::NotTheTunnel)
        }
        _ => None,
    }
}

fn of_allocations(inventory: &Inventory, all: &[Allocation]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for allocation in all.iter().filter(|allocation| !allocation.is_cooling) {
        if let Some(why) = unused(inventory, allocation) {
            findings.push(Finding::of(Problem::NotInUse(why), allocation));
        }
        if !inventory.pools.iter().any(|pool| pool.cidr.contains(allocation.address)) {
            findings.push(Finding::of(Problem::OutsidePools, allocation));
        }
        if allocation.node.is_none() && allocation.user == User::Unknown {
            findings.push(Finding::of(Problem::UnknownOwner, allocation));
        }
    }
    findings
}

fn of_pods(inventory: &Inventory, all: &[Allocation]) -> Vec<Finding> {
    let holders: BTreeMap<IpAddr, &Allocation> = all.iter().map(|a| (a.address, a)).collect();
    let mut findings = Vec::new();
    for (key, answer) in &inventory.pods {
        let PodAnswer::Present { node, addresses, is_finished: false, .. } = answer else { continue };
        // Addresses of no pool come from another IPAM, or were given without any.
        let ours = addresses.iter().filter(|a| inventory.pools.iter().any(|pool| pool.cidr.contains(**a)));
        for address in ours {
            let problem = match holders.get(address) {
                None => Problem::NotAllocated,
                Some(a) if matches!(&a.user, User::Pod { key: other, .. } if other != key) => {
                    Problem::OtherHolder
                }
                Some(_) => continue,
            };
            let handle = holders.get(address).and_then(|a| a.handle.clone());
            let (node, pod, address) = (node.clone(), Some(key.clone()), Some(*address));
            findings.push(Finding { address, node, pod, handle, ..Finding::new(problem) });
        }
    }
    findings
}

fn of_handles(inventory: &Inventory, all: &[Allocation]) -> Vec<Finding> {
    let mut found: BTreeMap<&str, BTreeMap<Cidr, u32>> = BTreeMap::new();
    for allocation in all.iter().filter(|allocation| !allocation.is_cooling) {
        if let Some(handle) = &allocation.handle {
            *found.entry(handle).or_default().entry(allocation.block).or_default() += 1;
        }
    }
    let known: BTreeSet<&str> = inventory.handles.iter().map(|handle| handle.id.as_str()).collect();
    let mut findings = Vec::new();
    let of = |handle: &str, problem| Finding { handle: Some(handle.to_owned()), ..Finding::new(problem) };
    for handle in &inventory.handles {
        let Some(blocks) = found.get(handle.id.as_str()) else {
            findings.push(of(&handle.id, Problem::HandleEmpty));
            continue;
        };
        let all: BTreeSet<Cidr> = blocks.keys().chain(handle.blocks.keys()).copied().collect();
        for cidr in all {
            let count = |counts: &BTreeMap<Cidr, u32>| counts.get(&cidr).copied().unwrap_or_default();
            let (counted, found) = (count(&handle.blocks), count(blocks));
            if counted != found {
                let problem = Problem::HandleCount { counted, found };
                findings.push(Finding { block: Some(cidr), ..of(&handle.id, problem) });
            }
        }
    }
    let is_missing = |a: &&Allocation| a.handle.as_deref().is_some_and(|handle| !known.contains(handle));
    let missing = all.iter().filter(|a| !a.is_cooling).filter(is_missing);
    findings.extend(missing.map(|allocation| Finding::of(Problem::HandleMissing, allocation)));
    findings
}

fn of_claims(inventory: &Inventory) -> Vec<Finding> {
    let owners: BTreeMap<Cidr, Option<&NodeName>> =
        inventory.blocks.iter().map(|block| (block.cidr, block.affinity.as_ref())).collect();
    let mut findings = Vec::new();
    let is_node = |name: &NodeName| !name.as_str().starts_with("virtual:");
    for claim in inventory.affinities.iter().filter(|claim| !is_question(claim.cidr)) {
        let finding = |problem| Finding::of_claim(problem, &claim.node, claim.cidr);
        if is_node(&claim.node) && !inventory.nodes.contains_key(&claim.node) {
            findings.push(finding(Problem::ClaimOfGoneNode));
        } else if claim.state != AffinityState::Confirmed {
            findings.push(finding(Problem::ClaimUnfinished));
        } else if owners.get(&claim.cidr).copied().flatten() != Some(&claim.node) {
            findings.push(finding(Problem::ClaimWithoutBlock));
        }
    }
    let claims: BTreeSet<(&NodeName, Cidr)> =
        inventory.affinities.iter().map(|claim| (&claim.node, claim.cidr)).collect();
    for (cidr, owner) in owners.iter().filter_map(|(cidr, owner)| Some((cidr, (*owner)?))) {
        if !claims.contains(&(owner, *cidr)) {
            findings.push(Finding::of_claim(Problem::BlockWithoutClaim, owner, *cidr));
        }
    }
    findings
}
