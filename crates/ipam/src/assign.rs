//! Giving out addresses, one step at a time.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use model::{
    AffinityState, AllocationAttributes, AllowedUse, Block, Cidr, Family, Handle, IpPool, IpamConfiguration,
    NodeName,
};

use crate::affinity::{claim, complete, reclaim};
use crate::block::{allocate, allocate_address, end_rests, hand_over, held_by, holder, is_empty, to_give};
use crate::candidates;
use crate::pools::{Reason, Refusal, closed, usable};
use crate::snapshot::{Key, Known, Object, Read, Snapshot, Step, Stored, Write};
use crate::{AssignError, Next, Request, names, next_read, next_write};

/// The next step towards what is asked for; `now` is in nanoseconds since the epoch.
///
/// The order of writes is Calico's: the handle first, then the block. So an address in use always has a handle
/// by which it is found, and whoever dies between two writes leaves nothing that [`release`](crate::release)
/// does not clean.
pub fn assign(request: &Request, snapshot: &Snapshot, now: u64) -> Step<Vec<IpAddr>, AssignError> {
    let assignment = Assignment { request, snapshot, now };
    match assignment.all() {
        Ok(addresses) => Step::Done(addresses),
        Err(step) => *step,
    }
}

/// Blocks that one node may have in each family; an owner that is no node may have any number.
pub(crate) fn block_limit(configuration: &IpamConfiguration, owner: &NodeName) -> usize {
    if owner.as_str().starts_with("virtual:") {
        return usize::MAX;
    }
    match configuration.max_blocks_per_host {
        0 => DEFAULT_BLOCK_LIMIT,
        limit => usize::try_from(limit).unwrap_or(usize::MAX),
    }
}

/// Blocks of one node unless the configuration says otherwise.
const DEFAULT_BLOCK_LIMIT: usize = 20;

/// An empty block of another node may be taken when it was claimed this long ago.
const RECLAIM_AFTER: u64 = 60_000_000_000;

struct Assignment<'a> {
    request: &'a Request,
    snapshot: &'a Snapshot,
    now: u64,
}

/// What is still to be decided: an address of this type, or the step before it.
type Progress<T> = Next<T, AssignError>;

impl<'a> Assignment<'a> {
    fn all(&self) -> Progress<Vec<IpAddr>> {
        if let Some(handle) = self.snapshot.handle(&self.request.handle).present() {
            self.check_handle(handle)?;
        }
        let held = self.held()?;
        let mut addresses = Vec::new();
        for address in &self.request.addresses {
            if !held.contains(address) {
                self.explicit(*address)?;
            }
            addresses.push(*address);
        }
        for family in Family::ALL {
            let wanted = self.request.count(family);
            let is_free_choice = |address: &&IpAddr| {
                Family::of(**address) == family
                    && !self.request.addresses.contains(address)
                    && self.is_where_wanted(**address)
            };
            let found: Vec<IpAddr> = held.iter().filter(is_free_choice).copied().take(wanted).collect();
            if found.len() < wanted {
                self.automatic(family, wanted - found.len())?;
            }
            addresses.extend(found);
        }
        self.settle_handle()?;
        Ok(addresses)
    }

    fn check_handle(&self, handle: &Stored<Handle>) -> Progress<()> {
        if handle.value.id != self.request.handle {
            let (handle, other) = (self.request.handle.clone(), handle.value.id.clone());
            return Err(Box::new(Step::Failed(AssignError::HandleTaken { handle, other })));
        }
        if handle.value.deleted {
            return next_write(Write::Delete(Key::Handle(handle.value.id.clone()), handle.version.clone()));
        }
        if self.snapshot.handle_is_new(&self.request.handle) {
            return Ok(());
        }
        // An earlier attempt may have got its address: look before giving another.
        for cidr in handle.value.blocks.keys() {
            let is_known = match self.snapshot.block(*cidr) {
                Known::Unknown => false,
                Known::Absent => true,
                Known::Present(block) => block.is_fresh,
            };
            if !is_known {
                return next_read(Key::Block(*cidr));
            }
        }
        Ok(())
    }

    /// Addresses that the handle holds already.
    fn held(&self) -> Progress<Vec<IpAddr>> {
        let mut held = Vec::new();
        for block in self.snapshot.blocks() {
            let addresses = held_by(&block.value, &self.request.handle);
            // An old view may show an address that was taken back since.
            if !addresses.is_empty() && !block.is_fresh {
                return next_read(Key::Block(block.value.cidr));
            }
            held.extend(addresses);
        }
        Ok(held)
    }

    /// A tunnel moves when it is to have its address from other pools; a pod stays where it is.
    fn is_where_wanted(&self, address: IpAddr) -> bool {
        let pools = self.request.pools(Family::of(address));
        if self.request.usage != AllowedUse::Tunnel || pools.is_empty() {
            return true;
        }
        let pool = self.snapshot.settings.pool_of(address);
        pool.is_some_and(|pool| pools.iter().any(|name| *name == pool.name || *name == pool.cidr.to_string()))
    }

    /// Finds a block and takes `count` addresses, or as many as it has.
    fn automatic(&self, family: Family, count: usize) -> Progress<()> {
        if self.snapshot.settings.pools.is_empty() {
            return Err(Box::new(Step::Failed(AssignError::NoPools)));
        }
        let (pools, mut refusals) = usable(self.request, family, &self.snapshot.settings);
        for pool in &pools {
            self.use_own_blocks(pool, count)?;
        }
        let reason = self.claim_new_block(&pools, family)?;
        if !self.snapshot.settings.configuration.strict_affinity && !pools.is_empty() {
            self.borrow(&pools, count)?;
        }
        refusals.splice(
            0..0,
            pools.iter().map(|pool| Refusal { pool: pool.name.clone(), reason: reason.clone() }),
        );
        let handle = self.request.handle.clone();
        Err(Box::new(Step::Failed(AssignError::Exhausted { family, handle, refusals })))
    }

    fn use_own_blocks(&self, pool: &IpPool, count: usize) -> Progress<()> {
        for affinity in self.snapshot.own_affinities().filter(|a| pool.cidr.covers(a.value.cidr)) {
            let block = complete(self.snapshot, affinity, self.now)?;
            if self.has_room(block) {
                return self.take(block, count);
            }
        }
        // A block that names this node without a claim: make the claim, then use it.
        let node = &self.snapshot.node;
        let lost = self.snapshot.blocks().find(|block| {
            block.value.affinity.as_ref() == Some(node)
                && pool.cidr.covers(block.value.cidr)
                && self.snapshot.own_affinity(block.value.cidr).is_none()
        });
        match lost {
            Some(block) => claim(self.snapshot, block.value.cidr),
            None => Ok(()),
        }
    }

    /// Claims a block that does not exist yet, else one that has no owner, else an empty one of another node.
    ///
    /// Returns why there is none.
    fn claim_new_block(&self, pools: &[&IpPool], family: Family) -> Progress<Reason> {
        let configuration = &self.snapshot.settings.configuration;
        let full = Reason::Full { strict_affinity: configuration.strict_affinity };
        if pools.is_empty() {
            return Ok(full);
        }
        if !configuration.auto_allocate_blocks {
            return Ok(Reason::NoNewBlocks);
        }
        let limit = block_limit(configuration, &self.snapshot.node);
        let own = self.snapshot.own_affinities().filter(|a| a.value.cidr.family() == family).count();
        if own >= limit {
            return Ok(Reason::BlockLimit(limit));
        }
        if !self.snapshot.has_all() {
            return Err(Box::new(Step::Read(Read::All)));
        }
        for may_be_claimed in [false, true] {
            for pool in pools {
                self.claim_absent(pool, may_be_claimed)?;
            }
        }
        for pool in pools {
            self.claim_unowned(pool)?;
        }
        for pool in pools {
            self.reclaim_empty(pool)?;
        }
        Ok(full)
    }

    /// `may_be_claimed`: also one that another node began to claim and perhaps never will.
    fn claim_absent(&self, pool: &IpPool, may_be_claimed: bool) -> Progress<()> {
        let existing = self.snapshot.blocks().filter(|block| pool.cidr.overlaps(block.value.cidr)).count();
        if existing as u128 >= candidates::count(pool) {
            return Ok(());
        }
        for cidr in candidates::blocks(pool, &self.snapshot.node, candidates::MOST) {
            if self.snapshot.is_taken(cidr) || self.snapshot.settings.is_all_reserved(cidr) {
                continue;
            }
            let mut claims = self.snapshot.claims_of_others(cidr).peekable();
            if claims.peek().is_none() || may_be_claimed {
                return claim(self.snapshot, cidr);
            }
            // What somebody did not finish to give up is nobody's.
            if let Some(left) = claims.find(|claim| claim.value.state == AffinityState::PendingDeletion) {
                let key = Key::Affinity(left.value.node.clone(), cidr);
                return next_write(Write::Delete(key, left.version.clone()));
            }
        }
        Ok(())
    }

    fn claim_unowned(&self, pool: &IpPool) -> Progress<()> {
        let is_fit = |block: &&Stored<Block>| {
            block.value.affinity.is_none()
                && pool.cidr.covers(block.value.cidr)
                && self.has_room(block)
                && self.snapshot.own_affinity(block.value.cidr).is_none()
        };
        match self.snapshot.blocks().find(is_fit) {
            Some(block) => claim(self.snapshot, block.value.cidr),
            None => Ok(()),
        }
    }

    fn reclaim_empty(&self, pool: &IpPool) -> Progress<()> {
        for block in self.snapshot.blocks().filter(|block| pool.cidr.covers(block.value.cidr)) {
            let Some(owner) = &block.value.affinity else { continue };
            let is_old = block.value.sequence_number.saturating_add(RECLAIM_AFTER) <= self.now;
            let is_node = !owner.as_str().starts_with("virtual:");
            if is_old && is_node && *owner != self.snapshot.node && is_empty(&self.rested(block)) {
                return reclaim(self.snapshot, block, owner);
            }
        }
        Ok(())
    }

    /// Takes addresses from any block that has some, beginning at a place of the node's own.
    fn borrow(&self, pools: &[&IpPool], count: usize) -> Progress<()> {
        if !self.snapshot.has_all() {
            return Err(Box::new(Step::Read(Read::All)));
        }
        for pool in pools {
            let is_fit = |block: &&Stored<Block>| {
                pool.cidr.covers(block.value.cidr)
                    && self.has_room(block)
                    && !block.value.deleted
                    && !block
                        .value
                        .affinity
                        .as_ref()
                        .is_some_and(|owner| owner.as_str().starts_with("virtual:"))
            };
            let fit: Vec<_> = self.snapshot.blocks().filter(is_fit).collect();
            if !fit.is_empty() {
                let index = candidates::fnv(self.snapshot.node.as_str()) as usize % fit.len();
                return self.take(fit[index], count);
            }
        }
        Ok(())
    }

    /// Takes one given address.
    fn explicit(&self, address: IpAddr) -> Progress<()> {
        let fail = |error| Err(Box::new(Step::Failed(error)));
        let Some(pool) = self.snapshot.settings.pool_of(address) else {
            return fail(AssignError::OutsidePools(address));
        };
        let refuse = |reason| {
            let refusal = Refusal { pool: pool.name.clone(), reason };
            fail(AssignError::Refused { address, refusal })
        };
        if let Some(reason) = closed(&self.snapshot.settings, pool, self.request.usage) {
            return refuse(reason);
        }
        let Some(cidr) = Cidr::truncated(address, pool.block_size) else {
            return fail(AssignError::OutsidePools(address));
        };
        let block = match (self.snapshot.block(cidr), self.snapshot.own_affinity(cidr)) {
            (Known::Unknown, _) => return next_read(Key::Block(cidr)),
            (Known::Absent, None) => return claim(self.snapshot, cidr),
            (Known::Absent, Some(affinity)) => complete(self.snapshot, affinity, self.now)?,
            (Known::Present(block), Some(affinity))
                if block.value.affinity.as_ref() == Some(&self.snapshot.node) =>
            {
                complete(self.snapshot, affinity, self.now)?
            }
            (Known::Present(block), _) => block,
        };
        if block.value.deleted {
            return next_write(Write::Delete(Key::Block(cidr), block.version.clone()));
        }
        let is_own = block.value.affinity.as_ref() == Some(&self.snapshot.node);
        if self.snapshot.settings.configuration.strict_affinity && !is_own {
            let owner = block.value.affinity.as_ref().map_or("nobody".to_owned(), ToString::to_string);
            return fail(AssignError::OtherNodesBlock { address, owner });
        }
        let reserve = names::reserve_handle(&self.snapshot.node);
        let is_ready = |a: &AllocationAttributes| {
            a.handle.as_deref() == Some(reserve.as_str()) && a.released_at.is_none()
        };
        match allocate_address(&self.rested(block), address, &self.request.allocation()) {
            Some(after) => self.write(block, after),
            // The node holds it ready, and withdrew it before it asked: see `Reserve::withdraw`.
            None if holder(&block.value, address).is_some_and(is_ready) => {
                self.write(block, hand_over(&block.value, address, &self.request.allocation()))
            }
            None if !block.is_fresh => next_read(Key::Block(cidr)),
            None => fail(AssignError::InUse { address, holder: described(&block.value, address) }),
        }
    }

    fn take(&self, block: &Stored<Block>, count: usize) -> Progress<()> {
        self.write(
            block,
            allocate(&self.rested(block), count, &self.request.allocation(), &self.snapshot.settings),
        )
    }

    /// The block as it is once every rest that is over has ended; the next write makes it so.
    fn rested<'b>(&self, block: &'b Stored<Block>) -> Cow<'b, Block> {
        let after = end_rests(&block.value, self.now, self.snapshot.settings.configuration.cooldown);
        after.map_or(Cow::Borrowed(&block.value), Cow::Owned)
    }

    fn has_room(&self, block: &Stored<Block>) -> bool {
        to_give(&self.rested(block), &self.snapshot.settings).next().is_some()
    }

    /// The handle first, then the block.
    fn write(&self, before: &Stored<Block>, after: Block) -> Progress<()> {
        let cidr = after.cidr;
        let held = u32::try_from(held_by(&after, &self.request.handle).len()).unwrap_or(u32::MAX);
        let Some(handle) = self.snapshot.handle(&self.request.handle).present() else {
            let blocks = BTreeMap::from([(cidr, held)]);
            return next_write(Write::Create(Object::Handle(self.handle(blocks))));
        };
        if handle.value.blocks.get(&cidr).is_none_or(|counted| *counted < held) {
            let mut blocks = handle.value.blocks.clone();
            blocks.insert(cidr, held);
            return next_write(Write::Update(Object::Handle(self.handle(blocks)), handle.version.clone()));
        }
        next_write(Write::Update(Object::Block(after), before.version.clone()))
    }

    /// Makes the handle count what the blocks say, when an attempt went another way in between.
    fn settle_handle(&self) -> Progress<()> {
        let mut blocks = BTreeMap::new();
        for block in self.snapshot.blocks() {
            let held = held_by(&block.value, &self.request.handle).len();
            if held > 0 {
                blocks.insert(block.value.cidr, u32::try_from(held).unwrap_or(u32::MAX));
            }
        }
        match self.snapshot.handle(&self.request.handle) {
            Known::Present(handle) if handle.value.blocks == blocks => Ok(()),
            Known::Present(handle) => {
                next_write(Write::Update(Object::Handle(self.handle(blocks)), handle.version.clone()))
            }
            _ if blocks.is_empty() => Ok(()),
            _ => next_write(Write::Create(Object::Handle(self.handle(blocks)))),
        }
    }

    fn handle(&self, blocks: BTreeMap<Cidr, u32>) -> Handle {
        Handle { id: self.request.handle.clone(), blocks, deleted: false }
    }
}

/// Who holds an address, for people.
pub(crate) fn described(block: &Block, address: IpAddr) -> String {
    let Some(attributes) = holder(block, address) else { return "nobody known".to_owned() };
    let get = |key: &str| attributes.secondary.get(key);
    let holder = match (get(names::NAMESPACE), get(names::POD), get(names::TYPE), get(names::NODE)) {
        (Some(namespace), Some(pod), _, _) => format!("pod {namespace}/{pod}"),
        (_, _, Some(usage), Some(node)) if usage == names::TYPE_RESERVED => {
            format!("the reserve of node {node}, for its next pods")
        }
        (_, _, Some(usage), Some(node)) => format!("{usage} of node {node}"),
        _ => format!("handle {}", attributes.handle.as_deref().unwrap_or("none")),
    };
    match attributes.released_at {
        Some(_) => format!("nobody, but rests after its release by {holder}"),
        None => holder,
    }
}
