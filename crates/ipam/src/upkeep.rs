//! What a node does behind its pods: blocks learn of draws, the reserve is filled up, rests end.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::IpAddr;

use model::{AffinityState, AllowedUse, AssignmentMode, Block, BlockAffinity, Cidr, Family, Handle, IpPool};

use crate::affinity::{claim, complete, release_affinity};
use crate::assign::{block_limit, described};
use crate::block::{
    allocate, allocate_address, end_rests, hand_over, held_by, holder, is_empty, release_address, rest_ends,
    to_give,
};
use crate::candidates;
use crate::pools::closed;
use crate::release::release;
use crate::reserve::{Draw, Reserve};
use crate::snapshot::{Key, Known, Object, Read, Snapshot, Step, Stored, Write};
use crate::{Next, next_read, next_write};

/// Addresses that a node holds ready in a pool, as long as its blocks have twice as many.
pub const READY: usize = 32;

/// With fewer addresses left in its blocks of a pool a node claims a further block ahead.
const CLAIM_BELOW: usize = READY / 2;

/// Smaller blocks are claimed when somebody needs one: a reserve of many of them would cost a route each.
const SMALLEST_AHEAD: usize = 8;

/// How long after a look that found no block to claim the next look is, in nanoseconds.
const CLAIM_AGAIN: u64 = 300_000_000_000;

/// Everything is as it should be, for now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Draws that the blocks show from now on, or that are over: whoever kept them may forget them.
    pub draws: Vec<Draw>,
    /// Addresses that pods use and others hold.
    pub lost: Vec<Lost>,
    /// When there is something to do again, in nanoseconds since the epoch: the end of a rest.
    pub next: Option<u64>,
}

/// A pod of this node uses an address that is another's by now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    pub handle: String,
    pub address: IpAddr,
    /// Who holds it, for people.
    pub holder: String,
}

/// The next step behind the pods of a node; `now` is in nanoseconds since the epoch.
///
/// Order of writes, and so what a crash leaves: a handle counts an address before the block shows it, and no
/// longer only after the block does. Whoever executes a step tells the snapshot, and the reserve of every block
/// that was read or written ([`Reserve::saw`]), before the next.
pub fn upkeep(reserve: &mut Reserve, snapshot: &Snapshot, now: u64) -> Step<Settled, Infallible> {
    match Upkeep::new(reserve, snapshot, now, false).run() {
        Ok(settled) => Step::Done(settled),
        Err(step) => *step,
    }
}

/// The next step to fill the reserve up, and no more: two writes where [`upkeep`] has one for each draw. It settles
/// nothing.
pub fn fill_up(reserve: &mut Reserve, snapshot: &Snapshot, now: u64) -> Step<Settled, Infallible> {
    match Upkeep::new(reserve, snapshot, now, true).run() {
        Ok(nothing) => Step::Done(nothing),
        Err(step) => *step,
    }
}

struct Upkeep<'a> {
    reserve: &'a mut Reserve,
    snapshot: &'a Snapshot,
    now: u64,
    lost: Vec<Lost>,
    /// By pool.
    stocks: BTreeMap<String, Stock>,
    /// Draws are left for later.
    only_fills: bool,
}

type Progress<T> = Next<T, Infallible, Settled>;

/// One pool as far as this node's blocks go.
#[derive(Clone, Copy, Default)]
struct Stock {
    /// Addresses that are free in this node's blocks.
    free: usize,
    ready: usize,
    wanted: usize,
}

impl<'a> Upkeep<'a> {
    fn new(reserve: &'a mut Reserve, snapshot: &'a Snapshot, now: u64, only_fills: bool) -> Self {
        Self { reserve, snapshot, now, lost: Vec::new(), stocks: BTreeMap::new(), only_fills }
    }

    fn run(mut self) -> Progress<Settled> {
        self.reserve.heed(&self.snapshot.settings);
        self.complete_claims()?;
        let mut blocks: Vec<Cidr> = self.blocks_of_draws()?;
        let is_claimed = |a: &BlockAffinity| a.state == AffinityState::Confirmed && !a.deleted;
        let own = self.snapshot.own_affinities().filter(|affinity| is_claimed(&affinity.value));
        blocks.extend(own.map(|affinity| affinity.value.cidr));
        blocks.extend(self.reserve.blocks_in_use());
        blocks.extend(self.due_rests());
        blocks.sort();
        blocks.dedup();
        for cidr in blocks {
            match self.snapshot.block(cidr) {
                Known::Unknown => return next_read(Key::Block(cidr)),
                Known::Absent => self.without_block(cidr),
                // A watch told of a later state: what is decided on the old one may be nothing.
                Known::Present(block) if !block.is_fresh && self.reserve.must_read(&block.value) => {
                    return next_read(Key::Block(cidr));
                }
                Known::Present(block) => self.block(block)?,
            }
        }
        if !self.only_fills {
            self.leave_pools()?;
        }
        self.claim_ahead()?;
        if self.only_fills {
            return Ok(Settled::default());
        }
        self.settle_handle()?;
        // Last of all: what is finished here is told once.
        let draws = self.finish_draws()?;
        let own = self.own_blocks().filter_map(|block| rest_ends(&block.value, self.cooldown()));
        let next = own.chain(self.reserve.rests.values().copied()).min();
        Ok(Settled { draws, lost: self.lost, next })
    }

    fn cooldown(&self) -> u64 {
        self.snapshot.settings.configuration.cooldown
    }

    /// A claim ahead whose writer died in between is carried on; other half-done claims are for who needs them.
    fn complete_claims(&self) -> Progress<()> {
        let is_pending = |state| state == AffinityState::Pending;
        for affinity in self.snapshot.own_affinities().filter(|a| is_pending(a.value.state)) {
            complete(self.snapshot, affinity, self.now)?;
        }
        Ok(())
    }

    /// Blocks of addresses that were drawn.
    fn blocks_of_draws(&mut self) -> Progress<Vec<Cidr>> {
        let mut blocks = Vec::new();
        for entry in self.reserve.entries() {
            for address in &entry.draw.addresses {
                let known = self.snapshot.blocks().find(|block| block.value.cidr.contains(*address));
                let guess = || {
                    let pool = self.snapshot.settings.pool_of(*address)?;
                    Cidr::truncated(*address, pool.block_size)
                };
                match known.map(|block| block.value.cidr).or_else(guess) {
                    Some(cidr) => blocks.push(cidr),
                    None if entry.draw.released_at.is_none() => self.lost.push(Lost {
                        handle: entry.draw.handle.clone(),
                        address: *address,
                        holder: "nobody: it is in no block and no pool".to_owned(),
                    }),
                    None => {}
                }
            }
        }
        Ok(blocks)
    }

    /// Blocks of others where rests of this node's making are over.
    fn due_rests(&self) -> Vec<Cidr> {
        let due = self.reserve.rests.iter().filter(|(_, end)| **end <= self.now);
        due.map(|(cidr, _)| *cidr).collect()
    }

    fn without_block(&mut self, cidr: Cidr) {
        self.reserve.lost(cidr);
        self.reserve.rests.remove(&cidr);
        let lost = &mut self.lost;
        for entry in self.reserve.entries().filter(|entry| entry.draw.released_at.is_none()) {
            for address in entry.draw.addresses.iter().filter(|address| cidr.contains(**address)) {
                let holder = format!("nobody: block {cidr} is gone");
                lost.push(Lost { handle: entry.draw.handle.clone(), address: *address, holder });
            }
        }
    }

    /// Everything that is to change in one block, in one write.
    fn block(&mut self, stored: &Stored<Block>) -> Progress<()> {
        let before = &stored.value;
        if before.deleted {
            return Ok(());
        }
        if self.is_settled(before) {
            return Ok(());
        }
        self.fill_up(stored)?;
        if self.only_fills {
            return Ok(());
        }
        self.count_draws(before)?;
        let mut after = end_rests(before, self.now, self.cooldown()).unwrap_or_else(|| before.clone());
        let handles = self.show_draws(&mut after);
        self.balance(before, &mut after);
        for address in self.reserve.leaving(&after) {
            let reserve = self.reserve.handle();
            after = release_address(&after, address, Some(reserve), None, None).unwrap_or(after);
        }
        match rest_ends(&after, self.cooldown()) {
            Some(end) if self.reserve.rests.contains_key(&after.cidr) => {
                self.reserve.rests.insert(after.cidr, end);
            }
            _ => drop(self.reserve.rests.remove(&after.cidr)),
        }
        if after == *before {
            return Ok(());
        }
        if is_empty(&after) && after.affinity.is_none() {
            return next_write(Write::Delete(Key::Block(after.cidr), stored.version.clone()));
        }
        for handle in handles.iter().map(String::as_str).chain([self.reserve.handle()]) {
            self.count_handle(handle, &after)?;
        }
        next_write(Write::Update(Object::Block(after), stored.version.clone()))
    }

    /// Where much of the reserve was drawn, it is filled up before the block hears of the draws: each draw costs a
    /// handle, and pods that come meanwhile would have to wait for all of these.
    fn fill_up(&mut self, stored: &Stored<Block>) -> Progress<()> {
        let before = &stored.value;
        let mut after = before.clone();
        self.balance(before, &mut after);
        let reserve = self.reserve.handle();
        if held_by(&after, reserve).len() <= held_by(before, reserve).len() {
            return Ok(());
        }
        self.count_handle(reserve, &after)?;
        next_write(Write::Update(Object::Block(after), stored.version.clone()))
    }

    /// The handles of draws count what the block will show. It is made anew after that, and not for each of them.
    fn count_draws(&mut self, block: &Block) -> Progress<()> {
        let reserve = self.reserve.handle().to_owned();
        let is_drawn = |address: &&IpAddr| {
            block.cidr.contains(**address)
                && holder(block, **address)
                    .is_none_or(|held| held.handle.as_deref() == Some(reserve.as_str()))
        };
        let mut uncounted = None;
        for entry in self.reserve.entries().filter(|entry| entry.draw.released_at.is_none()) {
            let id = &entry.draw.handle;
            let drawn = entry.draw.addresses.iter().filter(is_drawn).count();
            let is_known = !matches!(self.snapshot.handle(id), Known::Unknown | Known::Absent);
            if drawn > 0 && !is_known {
                entry.may_have_handle = true;
                uncounted = Some((id.clone(), held_by(block, id).len() + drawn));
                break;
            }
        }
        uncounted.map_or(Ok(()), |(id, held)| self.count(&id, block.cidr, held))
    }

    /// Is there nothing to do in this block? Most blocks of a large node are full of pods that run.
    fn is_settled(&mut self, block: &Block) -> bool {
        let cidr = block.cidr;
        block.unallocated.is_empty()
            && self.reserve.ready_in(cidr) == 0
            && !self.reserve.rests.contains_key(&cidr)
            && block.resting().next().is_none()
            && self.reserve.leaving(block).is_empty()
            && !self.reserve.entries().any(|entry| entry.draw.addresses.iter().any(|a| cidr.contains(*a)))
    }

    /// Writes draws into a block; returns the handles that hold something of it from now on.
    fn show_draws(&mut self, block: &mut Block) -> Vec<String> {
        let cooldown = self.snapshot.settings.configuration.cooldown;
        let reserve = self.reserve.handle().to_owned();
        let mut handles = Vec::new();
        for entry in self.reserve.entries() {
            let cidr = block.cidr;
            for address in entry.draw.addresses.iter().filter(|address| cidr.contains(**address)) {
                match show(block, &entry.draw, *address, &reserve, cooldown) {
                    Shown::Already => {}
                    Shown::After(after) => {
                        *block = after;
                        if entry.draw.released_at.is_none() {
                            entry.may_have_handle = true;
                            handles.push(entry.draw.handle.clone());
                        }
                    }
                    Shown::Never(holder) => {
                        self.lost.push(Lost { handle: entry.draw.handle.clone(), address: *address, holder })
                    }
                }
            }
        }
        handles
    }

    /// Takes addresses of a block into the reserve, or gives some back.
    fn balance(&mut self, before: &Block, after: &mut Block) {
        let settings = &self.snapshot.settings;
        if settings.pools.is_empty() {
            // Nobody has a pool for a moment, or an API server lies: nothing is torn down for it.
            return;
        }
        let ready = self.reserve.ready_in(after.cidr);
        let pool = settings.pool_around(after.cidr).filter(|pool| self.keeps(pool));
        let Some(pool) = pool.filter(|_| after.affinity.as_ref() == Some(&self.snapshot.node)) else {
            return self.reserve.give_back(after.cidr, ready);
        };
        let stock = self.known_stock(pool);
        if stock.free == 0 && stock.ready > stock.wanted {
            let count = (stock.ready - stock.wanted).min(ready);
            let left = Stock { ready: stock.ready - count, ..stock };
            self.stocks.insert(pool.name.clone(), left);
            return self.reserve.give_back(after.cidr, count);
        }
        let missing = stock.wanted.saturating_sub(stock.ready);
        if after != before || stock.ready * 4 < stock.wanted * 3 {
            *after = match missing {
                0 => return,
                missing => allocate(after, missing, &self.reserve.allocation(), settings),
            };
        }
    }

    /// [`stock`](Self::stock), counted once for all blocks of a pool.
    fn known_stock(&mut self, pool: &IpPool) -> Stock {
        if let Some(stock) = self.stocks.get(&pool.name) {
            return *stock;
        }
        let stock = self.stock(pool);
        self.stocks.insert(pool.name.clone(), stock);
        stock
    }

    /// Does the node hold addresses of this pool ready?
    fn keeps(&self, pool: &IpPool) -> bool {
        let settings = &self.snapshot.settings;
        closed(settings, pool, AllowedUse::Workload).is_none()
            && pool.node_selector.matches(&settings.node_labels)
    }

    /// What this node's blocks have of a pool.
    ///
    /// Half of what is left is for others, who borrow when a pool runs full, and the reserve gives way to them.
    fn stock(&self, pool: &IpPool) -> Stock {
        let mut stock = Stock::default();
        for block in self.own_blocks().filter(|block| pool.cidr.covers(block.value.cidr)) {
            stock.free += to_give(&block.value, &self.snapshot.settings).count();
            stock.ready += self.reserve.ready_in(block.value.cidr);
        }
        let left = stock.free + stock.ready;
        let share = if self.snapshot.settings.configuration.strict_affinity { left } else { left / 2 };
        stock.wanted = share.min(READY);
        stock
    }

    fn own_blocks(&self) -> impl Iterator<Item = &Stored<Block>> {
        let is_own = |block: &&Stored<Block>| {
            block.value.affinity.as_ref() == Some(&self.snapshot.node)
                && !block.value.deleted
                && self.snapshot.own_affinity(block.value.cidr).is_some()
        };
        self.snapshot.blocks().filter(is_own)
    }

    /// Gives up empty blocks of pools that this node is not for any more, and claims that somebody did not finish
    /// to give up.
    fn leave_pools(&self) -> Progress<()> {
        let settings = &self.snapshot.settings;
        if settings.pools.is_empty() {
            return Ok(());
        }
        for affinity in self.snapshot.own_affinities() {
            let cidr = affinity.value.cidr;
            let is_left = affinity.value.state == AffinityState::PendingDeletion;
            let stays = settings
                .pool_around(cidr)
                .is_some_and(|pool| !pool.deleting && pool.node_selector.matches(&settings.node_labels));
            let may_go = match self.snapshot.block(cidr) {
                Known::Present(block) => is_empty(&block.value),
                Known::Absent => true,
                Known::Unknown => is_left,
            };
            if !may_go || (stays && !is_left) {
                continue;
            }
            match release_affinity(self.snapshot, cidr, true) {
                Step::Read(read) => return Err(Box::new(Step::Read(read))),
                Step::Write(write) => return next_write(write),
                Step::Done(()) | Step::Failed(_) => {}
            }
        }
        Ok(())
    }

    /// Claims a further block before the last one is full, and a first one where a pod's next addresses come from
    /// unless it asks for others, where there is one that nobody has.
    fn claim_ahead(&mut self) -> Progress<()> {
        let settings = &self.snapshot.settings;
        if !settings.configuration.auto_allocate_blocks {
            return Ok(());
        }
        let kept: Vec<&IpPool> = settings.pools.iter().filter(|pool| self.keeps(pool)).collect();
        // Families in which a pod of any namespace has addresses of this node's blocks.
        let mut served: BTreeSet<Family> = BTreeSet::new();
        for pool in kept {
            let family = pool.cidr.family();
            let stock = self.stock(pool);
            let has_block = self.snapshot.own_affinities().any(|a| pool.cidr.covers(a.value.cidr));
            let is_automatic = pool.assignment_mode == AssignmentMode::Automatic;
            let is_wanted = if has_block {
                stock.free + stock.ready < CLAIM_BELOW
            } else {
                is_automatic && !served.contains(&family)
            };
            if is_wanted && self.may_claim(pool) {
                if !self.snapshot.has_all() {
                    return Err(Box::new(Step::Read(Read::All)));
                }
                match self.unclaimed(pool).filter(|_| has_block || self.has_plenty(pool)) {
                    Some(cidr) => return claim(self.snapshot, cidr),
                    None => {
                        let later = self.now.saturating_add(CLAIM_AGAIN);
                        self.reserve.no_claim_before.insert(pool.name.clone(), later);
                    }
                }
            }
            if is_automatic && pool.namespace_selector.is_all() && stock.free + stock.ready > 0 {
                served.insert(family);
            }
        }
        Ok(())
    }

    /// Is it worth looking for a block of this pool to claim ahead?
    fn may_claim(&self, pool: &IpPool) -> bool {
        let family = pool.cidr.family();
        let size = 1_usize << (family.bits() - pool.block_size).min(16);
        let own = self.snapshot.own_affinities().filter(|a| a.value.cidr.family() == family).count();
        size >= SMALLEST_AHEAD
            && own < block_limit(&self.snapshot.settings.configuration, &self.snapshot.node)
            && self.reserve.no_claim_before.get(&pool.name).is_none_or(|before| self.now >= *before)
    }

    /// Has a pool blocks for nodes that have no pod yet? The last half is for those that have.
    fn has_plenty(&self, pool: &IpPool) -> bool {
        let taken = self.snapshot.blocks().filter(|block| pool.cidr.overlaps(block.value.cidr)).count();
        taken as u128 * 2 < candidates::count(pool)
    }

    fn unclaimed(&self, pool: &IpPool) -> Option<Cidr> {
        candidates::blocks(pool, &self.snapshot.node, candidates::MOST).find(|cidr| {
            !self.snapshot.is_taken(*cidr)
                && !self.snapshot.settings.is_all_reserved(*cidr)
                && self.snapshot.claims_of_others(*cidr).next().is_none()
        })
    }

    /// Handles of containers that are gone go too; returns every draw that is over.
    fn finish_draws(&mut self) -> Progress<Vec<Draw>> {
        let lost: Vec<&str> = self.lost.iter().map(|lost| lost.handle.as_str()).collect();
        let mut over = Vec::new();
        for entry in self.reserve.entries() {
            if entry.draw.released_at.is_some() && entry.may_have_handle {
                match release(&entry.draw.handle, self.snapshot, self.now) {
                    Step::Read(read) => return Err(Box::new(Step::Read(read))),
                    Step::Write(write) => return next_write(write),
                    Step::Done(()) => {}
                    Step::Failed(never) => match never {},
                }
            }
            if entry.draw.released_at.is_some() || !lost.contains(&entry.draw.handle.as_str()) {
                over.push(entry.draw.handle.clone());
            }
        }
        Ok(over.iter().filter_map(|handle| self.reserve.finish(handle)).collect())
    }

    /// Before a block shows it: the handle counts what it holds there.
    fn count_handle(&self, id: &str, block: &Block) -> Progress<()> {
        self.count(id, block.cidr, held_by(block, id).len())
    }

    /// The handle counts so many addresses of a block, or more.
    fn count(&self, id: &str, cidr: Cidr, held: usize) -> Progress<()> {
        let held = u32::try_from(held).unwrap_or(u32::MAX);
        if held == 0 {
            return Ok(());
        }
        let handle = |blocks| Object::Handle(Handle { id: id.to_owned(), blocks, deleted: false });
        match self.snapshot.handle(id) {
            // Another owner's handle has the name: the address is found by its block alone.
            Known::Present(stored) if stored.value.id != id => Ok(()),
            Known::Present(stored) if stored.value.deleted => {
                next_write(Write::Delete(Key::Handle(id.to_owned()), stored.version.clone()))
            }
            Known::Present(stored) if stored.value.blocks.get(&cidr).is_some_and(|n| *n >= held) => Ok(()),
            Known::Present(stored) => {
                let mut blocks = stored.value.blocks.clone();
                blocks.insert(cidr, held);
                next_write(Write::Update(handle(blocks), stored.version.clone()))
            }
            _ => next_write(Write::Create(handle(BTreeMap::from([(cidr, held)])))),
        }
    }

    /// Makes the reserve's handle count what the blocks say.
    fn settle_handle(&mut self) -> Progress<()> {
        self.reserve.knows_handle |= *self.snapshot.handle(self.reserve.handle()) != Known::Unknown;
        let id = self.reserve.handle();
        let mut blocks = BTreeMap::new();
        for block in self.snapshot.blocks() {
            let held = held_by(&block.value, id).len();
            if held > 0 {
                blocks.insert(block.value.cidr, u32::try_from(held).unwrap_or(u32::MAX));
            }
        }
        match self.snapshot.handle(id) {
            Known::Present(stored) if stored.value.id != id || stored.value.blocks == blocks => Ok(()),
            Known::Present(stored) if blocks.is_empty() => {
                next_write(Write::Delete(Key::Handle(id.to_owned()), stored.version.clone()))
            }
            Known::Present(stored) => {
                let handle = Handle { id: id.to_owned(), blocks, deleted: false };
                next_write(Write::Update(Object::Handle(handle), stored.version.clone()))
            }
            Known::Unknown if !blocks.is_empty() || !self.reserve.knows_handle => {
                next_read(Key::Handle(id.to_owned()))
            }
            Known::Absent if !blocks.is_empty() => {
                let handle = Handle { id: id.to_owned(), blocks, deleted: false };
                next_write(Write::Create(Object::Handle(handle)))
            }
            _ => Ok(()),
        }
    }
}

/// What a draw does to its block.
enum Shown {
    Already,
    After(Block),
    /// Somebody else holds the address.
    Never(String),
}

fn show(block: &Block, draw: &Draw, address: IpAddr, reserve: &str, cooldown: u64) -> Shown {
    let wanted = draw.allocation();
    let is_gone = wanted.released_at.is_some();
    let Some(present) = holder(block, address) else {
        // Nobody's: a pod that lives takes it back.
        return match (is_gone, allocate_address(block, address, &wanted)) {
            (false, Some(after)) => Shown::After(after),
            _ => Shown::Already,
        };
    };
    let is_ours = [reserve, &draw.handle].contains(&present.handle.as_deref().unwrap_or_default());
    match (is_ours, is_gone) {
        (false, true) => Shown::Already,
        (false, false) => Shown::Never(described(block, address)),
        (true, true) if present.released_at.is_some() => Shown::Already,
        (true, true) if cooldown == 0 => {
            release_address(block, address, None, None, None).map_or(Shown::Already, Shown::After)
        }
        (true, _) if *present == wanted => Shown::Already,
        (true, _) => Shown::After(hand_over(block, address, &wanted)),
    }
}
