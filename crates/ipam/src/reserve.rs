//! Addresses that a node holds ready, so that its next pods need no word with the API server.
//!
//! They stand in the node's own blocks under a handle of the node, so that nobody else takes them. A pod *draws*
//! from memory; the block is told later ([`upkeep`](crate::upkeep)). Only what a block was seen to hold for the
//! node is ever drawn, and what was drawn is never ready again: it goes back through the block.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use model::{AllocationAttributes, Block, Cidr, Family, NodeName};

use crate::block::{given_at, held_by, holder, rest_ends};
use crate::pools::{closed, usable};
use crate::{READY, Request, Settings, names};

/// Addresses that a pod got from the node's reserve, as long as the block does not say so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Who has them: `<network>.<container ID>`.
    pub handle: String,
    pub addresses: Vec<IpAddr>,
    /// What the block is to show beside each.
    pub attributes: BTreeMap<String, String>,
    /// The container is gone, and its addresses rest since then: seconds since the epoch ([`rest_from`]).
    ///
    /// [`rest_from`]: crate::rest_from
    pub released_at: Option<u64>,
}

impl Draw {
    pub(crate) fn allocation(&self) -> AllocationAttributes {
        AllocationAttributes {
            handle: Some(self.handle.clone()),
            secondary: self.attributes.clone(),
            released_at: self.released_at,
        }
    }
}

/// What one node holds ready, and what was drawn from it.
#[derive(Clone, Debug)]
pub struct Reserve {
    node: NodeName,
    handle: String,
    blocks: BTreeMap<Cidr, Seen>,
    draws: BTreeMap<String, Entry>,
    /// Pods that an earlier run of the agent left, by handle: what of theirs a block shows as ready is theirs.
    endpoints: BTreeMap<String, Draw>,
    /// On their way back to the block: never drawn again.
    leaving: BTreeSet<IpAddr>,
    /// The handle's object was looked at once: an earlier run may have died before a block followed it.
    pub(crate) knows_handle: bool,
    /// Blocks of others where addresses that this node released rest, and until when.
    pub(crate) rests: BTreeMap<Cidr, u64>,
    /// By pool: no block is claimed ahead before this time, in nanoseconds since the epoch: there was none to claim.
    pub(crate) no_claim_before: BTreeMap<String, u64>,
}

/// What was seen of a block last.
#[derive(Clone, Debug, Default)]
struct Seen {
    sequence_number: u64,
    ready: VecDeque<IpAddr>,
    /// What handles of this node hold of it, with what stands beside it.
    handles: BTreeMap<String, Held>,
}

/// What one handle holds of one block.
#[derive(Clone, Debug, Default)]
struct Held {
    addresses: Vec<IpAddr>,
    attributes: BTreeMap<String, String>,
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) draw: Draw,
    /// It outlives the process: only then may a block hear of it.
    pub(crate) is_stored: bool,
    /// A handle object may stand for it in the datastore.
    pub(crate) may_have_handle: bool,
    /// It was given again because of what was seen of its blocks: they are read before that is believed for good.
    pub(crate) is_again: bool,
}

/// What became of a request to release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Returned {
    /// It was a draw that no block shows yet: to be kept in this state, then it is done.
    Draw(Draw),
    /// Blocks show it, or nobody knows of it: it is released there.
    Elsewhere,
}

impl Reserve {
    /// Nothing held ready yet.
    pub fn new(node: NodeName) -> Self {
        Self {
            handle: names::reserve_handle(&node),
            node,
            blocks: BTreeMap::new(),
            draws: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            leaving: BTreeSet::new(),
            knows_handle: false,
            rests: BTreeMap::new(),
            no_claim_before: BTreeMap::new(),
        }
    }

    /// Takes over what an earlier run of the agent had drawn, before anything else.
    ///
    /// What a block shows as ready and stands in one of these is a pod's; everything else ready is ready again.
    pub fn restore(&mut self, draws: impl IntoIterator<Item = Draw>) {
        for draw in draws {
            for seen in self.blocks.values_mut() {
                seen.ready.retain(|address| !draw.addresses.contains(address));
            }
            let entry = Entry { is_stored: true, may_have_handle: true, is_again: false, draw };
            self.draws.insert(entry.draw.handle.clone(), entry);
        }
    }

    /// Names the pods that an earlier run of the agent left; a draw that was forgotten becomes theirs again.
    pub fn restore_endpoints(&mut self, endpoints: impl IntoIterator<Item = Draw>) {
        self.endpoints.extend(endpoints.into_iter().map(|draw| (draw.handle.clone(), draw)));
    }

    /// Draws what is asked for, or nothing: when not all of it is ready in a pool that the request may use, or
    /// when its handle holds something else already. A handle that holds just this, as its blocks were seen, gets
    /// it again, and the blocks are looked at afterwards as after any draw.
    ///
    /// The draw counts from now on; blocks hear of it once it was [`stored`](Self::stored).
    pub fn draw(&mut self, request: &Request, settings: &Settings) -> Option<Draw> {
        if let Some(entry) = self.draws.get(&request.handle) {
            let is_same = entry.draw.released_at.is_none() && fulfils(&entry.draw.addresses, request);
            return is_same.then(|| entry.draw.clone());
        }
        if let Some(draw) = self.held(&request.handle) {
            if !is_just(&draw.addresses, request) {
                return None;
            }
            let entry = Entry { draw: draw.clone(), is_stored: false, may_have_handle: true, is_again: true };
            self.draws.insert(draw.handle.clone(), entry);
            return Some(draw);
        }
        let mut addresses = Vec::new();
        for address in &request.addresses {
            let pool = settings.pool_of(*address)?;
            let is_ready = self.blocks.values().any(|seen| seen.ready.contains(address));
            if !is_ready || closed(settings, pool, request.usage).is_some() {
                return None;
            }
            addresses.push(*address);
        }
        for family in Family::ALL {
            addresses.extend(self.choose(request, family, settings, &addresses)?);
        }
        if addresses.is_empty() {
            return None;
        }
        for seen in self.blocks.values_mut() {
            seen.ready.retain(|address| !addresses.contains(address));
        }
        let draw = Draw {
            handle: request.handle.clone(),
            addresses,
            attributes: request.attributes.clone(),
            released_at: None,
        };
        let entry = Entry { draw: draw.clone(), is_stored: false, may_have_handle: false, is_again: false };
        self.draws.insert(draw.handle.clone(), entry);
        Some(draw)
    }

    /// What a handle holds, as the blocks were seen.
    fn held(&self, handle: &str) -> Option<Draw> {
        let mut parts = self.blocks.values().filter_map(|seen| seen.handles.get(handle)).peekable();
        let attributes = parts.peek()?.attributes.clone();
        let addresses = parts.flat_map(|held| held.addresses.iter().copied()).collect();
        Some(Draw { handle: handle.to_owned(), addresses, attributes, released_at: None })
    }

    /// Ready addresses of one pool, the first that has enough.
    fn choose(
        &self,
        request: &Request,
        family: Family,
        settings: &Settings,
        chosen: &[IpAddr],
    ) -> Option<Vec<IpAddr>> {
        let wanted = request.count(family);
        if wanted == 0 {
            return Some(Vec::new());
        }
        let (pools, _) = usable(request, family, settings);
        pools.into_iter().find_map(|pool| {
            let blocks = self.blocks.iter().filter(|(cidr, _)| pool.cidr.covers(**cidr));
            let ready = blocks.flat_map(|(_, seen)| &seen.ready).copied();
            let is_fit = |address: &IpAddr| !settings.is_reserved(*address) && !chosen.contains(address);
            let found: Vec<IpAddr> = ready.filter(is_fit).take(wanted).collect();
            (found.len() == wanted).then_some(found)
        })
    }

    /// The draw outlives the process now.
    pub fn stored(&mut self, handle: &str) {
        if let Some(entry) = self.draws.get_mut(handle) {
            entry.is_stored = true;
        }
    }

    /// The draw could not be kept, and nobody was told of its addresses: they are ready again.
    pub fn undo(&mut self, handle: &str) {
        if self.draws.get(handle).is_none_or(|entry| entry.is_stored) {
            return;
        }
        // What its block shows as the handle's own was never ready.
        let Some(entry) = self.draws.remove(handle).filter(|entry| !entry.is_again) else { return };
        for address in entry.draw.addresses.into_iter().rev() {
            if let Some((_, seen)) = self.blocks.iter_mut().find(|(cidr, _)| cidr.contains(address)) {
                seen.ready.push_front(address);
            }
        }
    }

    /// The container of a handle is gone; `from` as [`rest_from`](crate::rest_from) says.
    pub fn release(&mut self, handle: &str, from: u64) -> Returned {
        self.endpoints.remove(handle);
        let Some(entry) = self.draws.get_mut(handle) else { return Returned::Elsewhere };
        entry.draw.released_at.get_or_insert(from);
        Returned::Draw(entry.draw.clone())
    }

    /// Does a draw of this handle wait for its block to show it?
    pub fn has_draw(&self, handle: &str) -> bool {
        self.draws.contains_key(handle)
    }

    /// Draws that no block shows yet.
    pub fn draws(&self) -> impl Iterator<Item = &Draw> {
        self.draws.values().map(|entry| &entry.draw)
    }

    /// How many addresses are ready.
    pub fn ready(&self) -> usize {
        self.blocks.values().map(|seen| seen.ready.len()).sum()
    }

    /// Has so much been drawn that pods may soon find nothing ready? Then it should be [filled up](crate::fill_up).
    pub fn is_low(&self) -> bool {
        let is_low = |family| {
            let ready = |(cidr, seen): (&Cidr, &Seen)| (cidr.family() == family).then_some(seen.ready.len());
            let ready: Vec<usize> = self.blocks.iter().filter_map(ready).collect();
            !ready.is_empty() && ready.iter().sum::<usize>() < READY / 2
        };
        Family::ALL.into_iter().any(is_low)
    }

    /// Addresses that are ready, block by block, the next to be drawn first.
    pub fn ready_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.blocks.values().flat_map(|seen| &seen.ready).copied()
    }

    /// Takes these addresses out of what is ready, for a pod that asks for them by number and takes them through
    /// the block.
    ///
    /// # Errors
    /// The draw of another pod that has one of them.
    pub fn withdraw(&mut self, handle: &str, addresses: &[IpAddr]) -> Result<(), Draw> {
        let of_another = |draw: &&Draw| {
            draw.handle != handle && draw.addresses.iter().any(|drawn| addresses.contains(drawn))
        };
        if let Some(draw) = self.draws().find(of_another) {
            return Err(draw.clone());
        }
        for seen in self.blocks.values_mut() {
            for address in addresses {
                if let Some(position) = seen.ready.iter().position(|ready| ready == address) {
                    seen.ready.remove(position);
                    self.leaving.insert(*address);
                }
            }
        }
        Ok(())
    }

    /// Addresses that this node released rest in a block, which may be another's: it is looked at when they end.
    pub fn rests(&mut self, block: &Block, cooldown: u64) {
        if let Some(end) = rest_ends(block, cooldown) {
            self.rests.insert(block.cidr, end);
        }
    }

    /// Takes note of a block as it was read, written or watched. One older than what was seen says nothing.
    pub fn saw(&mut self, block: &Block) {
        if !self.endpoints.is_empty() && !block.deleted {
            self.adopt(&held_by(block, &self.handle));
        }
        let drawn: BTreeSet<IpAddr> = self.draws().flat_map(|draw| draw.addresses.iter().copied()).collect();
        let seen = self.blocks.entry(block.cidr).or_default();
        if block.sequence_number < seen.sequence_number {
            return;
        }
        seen.sequence_number = block.sequence_number;
        let held: Vec<IpAddr> = if block.deleted { Vec::new() } else { held_by(block, &self.handle) };
        self.leaving.retain(|address| !block.cidr.contains(*address) || held.contains(address));
        let is_free = |address: &IpAddr| {
            held.contains(address) && !drawn.contains(address) && !self.leaving.contains(address)
        };
        seen.ready.retain(is_free);
        let mut fresh: Vec<IpAddr> =
            held.iter().copied().filter(|a| is_free(a) && !seen.ready.contains(a)).collect();
        fresh.sort_by_key(|address| given_at(block, *address));
        seen.ready.extend(fresh);
        let own = block.allocated().filter(|(_, attributes)| {
            attributes.secondary.get(names::NODE).is_none_or(|node| node == self.node.as_str())
        });
        seen.handles = BTreeMap::new();
        for (address, attributes) in own {
            let Some(handle) = attributes.handle.as_ref().filter(|handle| **handle != self.handle) else {
                continue;
            };
            let held = seen.handles.entry(handle.clone()).or_default();
            held.addresses.push(address);
            held.attributes.clone_from(&attributes.secondary);
        }
        let is_own = block.affinity.as_ref() == Some(&self.node);
        if !is_own && seen.ready.is_empty() && seen.handles.is_empty() {
            self.blocks.remove(&block.cidr);
        }
    }

    /// Addresses that a block shows as ready and that pods of an earlier run have are draws.
    fn adopt(&mut self, held: &[IpAddr]) {
        let is_held = |draw: &Draw| draw.addresses.iter().any(|address| held.contains(address));
        let found = self.endpoints.values().filter(|draw| is_held(draw)).cloned();
        let found: Vec<Draw> = found.filter(|draw| !self.draws.contains_key(&draw.handle)).collect();
        self.restore(found);
    }

    /// Is what the node knows of this block not enough? A later state of it was seen, or a draw was given again by it.
    pub(crate) fn must_read(&self, block: &Block) -> bool {
        let is_again = |entry: &Entry| {
            entry.is_again && entry.draw.addresses.iter().any(|address| block.cidr.contains(*address))
        };
        self.blocks.get(&block.cidr).is_some_and(|seen| seen.sequence_number > block.sequence_number)
            || self.draws.values().any(is_again)
    }

    /// The block is gone: nothing of it is ready.
    pub fn lost(&mut self, cidr: Cidr) {
        self.blocks.remove(&cidr);
        self.leaving.retain(|address| !cidr.contains(*address));
    }

    pub(crate) fn handle(&self) -> &str {
        &self.handle
    }

    /// What stands beside addresses that are ready.
    pub(crate) fn allocation(&self) -> AllocationAttributes {
        let secondary = [(names::NODE, self.node.as_str()), (names::TYPE, names::TYPE_RESERVED)];
        AllocationAttributes {
            handle: Some(self.handle.clone()),
            secondary: secondary.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            released_at: None,
        }
    }

    /// Entries that blocks may hear of.
    pub(crate) fn entries(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.draws.values_mut().filter(|entry| entry.is_stored)
    }

    /// Withdraws what an IPReservation keeps back by now.
    pub(crate) fn heed(&mut self, settings: &Settings) {
        if settings.reservations.is_empty() {
            return;
        }
        for seen in self.blocks.values_mut() {
            let (kept_back, ready): (Vec<IpAddr>, Vec<IpAddr>) =
                seen.ready.drain(..).partition(|address| settings.is_reserved(*address));
            seen.ready = ready.into();
            self.leaving.extend(kept_back);
        }
    }

    /// Blocks that something is ready in or leaves.
    pub(crate) fn blocks_in_use(&self) -> impl Iterator<Item = Cidr> {
        let is_in_use = |(cidr, seen): &(&Cidr, &Seen)| {
            !seen.ready.is_empty() || self.leaving.iter().any(|address| cidr.contains(*address))
        };
        self.blocks.iter().filter(is_in_use).map(|(cidr, _)| *cidr)
    }

    pub(crate) fn ready_in(&self, cidr: Cidr) -> usize {
        self.blocks.get(&cidr).map_or(0, |seen| seen.ready.len())
    }

    /// Withdraws as many ready addresses of a block, those that would be drawn last.
    pub(crate) fn give_back(&mut self, cidr: Cidr, count: usize) {
        let Some(seen) = self.blocks.get_mut(&cidr) else { return };
        let kept = seen.ready.len().saturating_sub(count);
        self.leaving.extend(seen.ready.drain(kept..));
    }

    /// Addresses of a block that are on their way back to it, while it shows them as the node's.
    pub(crate) fn leaving(&self, block: &Block) -> Vec<IpAddr> {
        let is_held = |address: &&IpAddr| {
            holder(block, **address).is_some_and(|a| a.handle.as_deref() == Some(self.handle.as_str()))
        };
        self.leaving
            .iter()
            .filter(|address| block.cidr.contains(**address))
            .filter(is_held)
            .copied()
            .collect()
    }

    pub(crate) fn finish(&mut self, handle: &str) -> Option<Draw> {
        self.draws.remove(handle).map(|entry| entry.draw)
    }
}

/// Are these addresses what the request asks for, and nothing besides?
fn is_just(addresses: &[IpAddr], request: &Request) -> bool {
    let count = request.addresses.len() + request.count(Family::V4) + request.count(Family::V6);
    addresses.len() == count && fulfils(addresses, request)
}

/// Are these addresses what the request asks for?
fn fulfils(addresses: &[IpAddr], request: &Request) -> bool {
    let is_there = |address: &IpAddr| addresses.contains(address);
    let chosen = |family| {
        let is_chosen = |a: &&IpAddr| Family::of(**a) == family && !request.addresses.contains(a);
        addresses.iter().filter(is_chosen).count()
    };
    request.addresses.iter().all(is_there)
        && Family::ALL.into_iter().all(|family| chosen(family) >= request.count(family))
}
