//! Who has got how far. Owns groups and the positions of their members, and gives out what each is to get
//! next; knows neither connections nor windows.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::sync::Arc;

use bgp_packet::Family;
use bytes::Bytes;

use crate::Config;
use crate::chunk::Chunks;
use crate::intern::Marks;
use crate::path::PeerIndex;
use crate::rib::Rib;
use crate::update_group::{GroupKey, Lane, UpdateGroup};

/// Routes of a member that came from another group are sent by so many at a time.
const BATCH: usize = if cfg!(test) { 3 } else { 1024 };

/// A family that a member asked for again (RFC 2918).
#[derive(Clone, Copy, Debug)]
struct Refresh {
    family: Family,
    /// The request is marked in the answer (RFC 7313).
    bracketed: bool,
    position: u32,
    until: u32,
}

/// What a member that came from another group has still to be told.
#[derive(Clone, Debug)]
struct Catchup {
    lanes: Arc<[Lane]>,
    done: usize,
}

/// One peer with a session.
#[derive(Debug)]
struct Member {
    group: usize,
    router_id: Ipv4Addr,
    position: u32,
    catchups: VecDeque<Catchup>,
    refreshes: VecDeque<Refresh>,
    /// Families whose End-of-RIB is owed, and from which position on.
    end_of_rib: Vec<Family>,
    end_of_rib_at: Option<u32>,
    queued: bool,
}

/// What a member is to get next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Routes.
    Routes(Vec<Bytes>),
    /// All that it had not of these families has been sent (RFC 4724 §2).
    EndOfRib(Vec<Family>),
    /// The answer to a refresh of this family begins, if the member asked for the mark (RFC 7313).
    BeginRefresh(Family),
    /// The answer ends.
    EndRefresh(Family),
}

/// All groups.
#[derive(Debug, Default)]
pub(crate) struct Members {
    groups: Vec<Option<UpdateGroup>>,
    members: Vec<Option<Member>>,
    /// Members that may have something to get.
    queue: VecDeque<PeerIndex>,
    /// Members whose settings may have changed, with the new ones.
    moving: BTreeMap<PeerIndex, GroupKey>,
    deferred: bool,
    /// Groups must be asked although the table has not changed.
    unsettled: bool,
    /// How many entries without a path the last collection left, and how far members were then.
    uncollected: (usize, u64),
}

impl Members {
    /// A session is up.
    pub(crate) fn join(&mut self, index: PeerIndex, router_id: Ipv4Addr, key: GroupKey) {
        self.leave(index);
        let at = index as usize;
        if self.members.len() <= at {
            self.members.resize_with(at + 1, || None);
        }
        let end_of_rib = Family::ALL.into_iter().filter(|f| key.families[f.index()]).collect();
        let group = self.group_of(key);
        if let Some(group) = &mut self.groups[group] {
            group.members.push(index);
        }
        self.members[at] = Some(Member {
            group,
            router_id,
            position: 0,
            catchups: VecDeque::new(),
            refreshes: VecDeque::new(),
            end_of_rib,
            end_of_rib_at: None,
            queued: false,
        });
        self.enqueue(index);
    }

    /// The session is gone.
    pub(crate) fn leave(&mut self, index: PeerIndex) {
        let Some(member) = self.members.get_mut(index as usize).and_then(Option::take) else { return };
        self.moving.remove(&index);
        self.leave_group(index, member.group);
        self.groups[member.group].take_if(|group| group.members.is_empty());
    }

    fn leave_group(&mut self, index: PeerIndex, at: usize) {
        let Some(group) = &mut self.groups[at] else { return };
        if let Some(place) = group.members.iter().position(|m| *m == index) {
            group.members.swap_remove(place);
        }
    }

    /// The group with these settings; a new one when there is none.
    fn group_of(&mut self, key: GroupKey) -> usize {
        let found = self.groups.iter().position(|g| g.as_ref().is_some_and(|g| g.key == key));
        found.unwrap_or_else(|| {
            let free = self.groups.iter().position(Option::is_none).unwrap_or(self.groups.len());
            if free == self.groups.len() {
                self.groups.push(None);
            }
            self.groups[free] = Some(UpdateGroup::new(key));
            self.unsettled = true;
            free
        })
    }

    /// The settings of a member, or what they are applied to, may be different now.
    pub(crate) fn look_again(&mut self, index: PeerIndex, key: GroupKey) {
        self.moving.insert(index, key);
        self.unsettled = true;
    }

    /// A member asks for all routes of a family again; `bracketed` marks begin and end of the answer.
    pub(crate) fn refresh(&mut self, index: PeerIndex, family: Family, bracketed: bool) {
        let Some(Some(member)) = self.members.get_mut(index as usize) else { return };
        // One that has not begun yet serves for both requests.
        member.refreshes.retain(|r| r.family != family || r.position > 0);
        member.refreshes.push_back(Refresh { family, bracketed, position: 0, until: u32::MAX });
        self.enqueue(index);
    }

    /// A member may have something to get, or room to get it.
    pub(crate) fn enqueue(&mut self, index: PeerIndex) {
        if let Some(Some(member)) = self.members.get_mut(index as usize)
            && !std::mem::replace(&mut member.queued, true)
        {
            self.queue.push_back(index);
        }
    }

    /// The next member to be served.
    pub(crate) fn dequeue(&mut self) -> Option<PeerIndex> {
        let index = self.queue.pop_front()?;
        if let Some(Some(member)) = self.members.get_mut(index as usize) {
            member.queued = false;
        }
        Some(index)
    }

    /// Takes over what has changed in the table and in the settings.
    pub(crate) fn evaluate(&mut self, rib: &mut Rib, config: &Config, deferring: bool) {
        if !rib.has_changed() && self.deferred == deferring && !std::mem::take(&mut self.unsettled) {
            return;
        }
        let moving = std::mem::take(&mut self.moving);
        let ended = self.deferred && !deferring;
        self.deferred = deferring;
        let mut moves = Vec::new();
        for (index, key) in moving {
            let Some(from) = self.members.get(index as usize).and_then(|m| Some(m.as_ref()?.group)) else {
                continue;
            };
            let to = self.group_of(key);
            if from != to {
                moves.push((index, to));
            } else if let Some(group) = &mut self.groups[to] {
                group.look_at_all = true;
            }
        }
        let changed = rib.take_changed();
        for group in self.groups.iter_mut().flatten() {
            group.look_at_all |= ended;
            let position = |index: &PeerIndex| self.members[*index as usize].as_ref().map(|m| m.position);
            let end = group.end();
            group
                .drop_chunks_unless(|members| members.iter().any(|m| position(m).is_some_and(|at| at < end)));
            if (group.look_at_all || !changed.is_empty()) && group.evaluate(rib, config, &changed, deferring)
            {
                for index in &group.members {
                    if let Some(Some(member)) = self.members.get_mut(*index as usize)
                        && !std::mem::replace(&mut member.queued, true)
                    {
                        self.queue.push_back(*index);
                    }
                }
            }
        }
        self.move_all(moves);
        if ended {
            self.end_deferral();
        }
        self.compact();
    }

    /// Nobody waits any more: End-of-RIB is due after what there is now.
    fn end_deferral(&mut self) {
        for member in self.members.iter_mut().flatten().filter(|m| !m.end_of_rib.is_empty()) {
            member.end_of_rib_at = self.groups[member.group].as_ref().map(UpdateGroup::end);
        }
        for index in 0..self.members.len() {
            self.enqueue(index as PeerIndex);
        }
    }

    fn move_all(&mut self, moves: Vec<(PeerIndex, usize)>) {
        let mut last: Option<(usize, usize, u32, Arc<[Lane]>)> = None;
        for (index, to) in moves {
            let Some(Some(member)) = self.members.get_mut(index as usize) else { continue };
            let from = member.group;
            if from == to {
                continue;
            }
            let Some(mut target) = self.groups[to].take() else { continue };
            let Some(old) = &self.groups[from] else {
                self.groups[to] = Some(target);
                continue;
            };
            // Members that stood at the same place have the same to be told.
            let lanes = match &last {
                Some((f, t, position, lanes)) if (*f, *t, *position) == (from, to, member.position) => {
                    lanes.clone()
                }
                _ => target.difference(old, member.position).into(),
            };
            last = Some((from, to, member.position, lanes.clone()));
            // What it had still to be told there is told here, too.
            let waiting = member.catchups.drain(..).flat_map(|c| c.lanes[c.done..].to_vec());
            let waiting: Vec<Lane> = waiting.filter_map(|lane| target.same_route(old, lane)).collect();
            member.catchups.push_back(Catchup { lanes, done: 0 });
            if !waiting.is_empty() {
                member.catchups.push_back(Catchup { lanes: waiting.into(), done: 0 });
            }
            let end = target.end();
            member.refreshes.iter_mut().for_each(|r| (r.position, r.until) = (0, u32::MAX));
            member.end_of_rib_at = member.end_of_rib_at.map(|_| end);
            member.position = end;
            member.group = to;
            target.members.push(index);
            self.groups[to] = Some(target);
            self.leave_group(index, from);
            self.enqueue(index);
        }
        // Only now: one that was left by all may have been joined by others since.
        for place in &mut self.groups {
            place.take_if(|group| group.members.is_empty());
        }
    }

    fn compact(&mut self) {
        for group in self.groups.iter_mut().flatten() {
            let Some(moved) = group.compact() else { continue };
            let to = |position: u32| moved[(position as usize).min(moved.len() - 1)];
            for index in &group.members {
                let Some(Some(member)) = self.members.get_mut(*index as usize) else { continue };
                member.position = to(member.position);
                member.end_of_rib_at = member.end_of_rib_at.map(to);
                for refresh in member.refreshes.iter_mut().filter(|r| r.until != u32::MAX) {
                    (refresh.position, refresh.until) = (to(refresh.position), to(refresh.until));
                }
            }
        }
    }

    /// What a member is to get now, if anything.
    pub(crate) fn next(&mut self, rib: &Rib, index: PeerIndex) -> Option<Next> {
        let member = self.members.get_mut(index as usize)?.as_mut()?;
        let group = self.groups[member.group].as_mut()?;
        if let Some(catchup) = member.catchups.front_mut() {
            let rest = &catchup.lanes[catchup.done..];
            let part = &rest[..rest.len().min(BATCH)];
            let parts = group.chunk_of(rib, part).parts(index, member.router_id);
            catchup.done += part.len();
            if catchup.done == catchup.lanes.len() {
                member.catchups.pop_front();
            }
            return Some(Next::Routes(parts));
        }
        if member.position < group.end() {
            let chunk = group.chunk(rib, member.position, Chunks::families(None));
            member.position = chunk.next;
            return Some(Next::Routes(chunk.parts(index, member.router_id)));
        }
        let due = *member.end_of_rib_at.get_or_insert(group.end());
        if !member.end_of_rib.is_empty() && !self.deferred && member.position >= due {
            return Some(Next::EndOfRib(std::mem::take(&mut member.end_of_rib)));
        }
        let refresh = member.refreshes.front_mut()?;
        let family = refresh.family;
        if refresh.until == u32::MAX {
            refresh.until = group.end();
            return Some(if refresh.bracketed {
                Next::BeginRefresh(family)
            } else {
                Next::Routes(Vec::new())
            });
        }
        if refresh.position < refresh.until {
            let chunk = group.chunk(rib, refresh.position, Chunks::families(Some(family)));
            refresh.position = chunk.next;
            return Some(Next::Routes(chunk.parts(index, member.router_id)));
        }
        let bracketed = refresh.bracketed;
        member.refreshes.pop_front();
        Some(if bracketed { Next::EndRefresh(family) } else { Next::Routes(Vec::new()) })
    }

    /// Lets the table drop entries without a path that all members have been told of.
    pub(crate) fn collect(&mut self, rib: &mut Rib) {
        if rib.gone.is_empty() || !rib.wants_collection() {
            return;
        }
        // `None`: a member that came from another group has routes of which this one may know nothing.
        let mut seen: Vec<Option<u32>> =
            self.groups.iter().map(|g| Some(g.as_ref().map_or(0, UpdateGroup::end))).collect();
        for member in self.members.iter().flatten() {
            let position = member.catchups.is_empty().then_some(member.position);
            seen[member.group] = seen[member.group].min(position);
        }
        // While a slow member holds everything up, there is no use in looking again and again.
        let progress = seen.iter().map(|position| position.map_or(0, u64::from)).sum();
        let (left, progress_then) = self.uncollected;
        if progress == progress_then && left > 0 && rib.gone.len() < 2 * left {
            return;
        }
        let groups = &mut self.groups;
        rib.collect(|slot| {
            let mut all = groups.iter_mut().zip(&seen).filter_map(|(g, seen)| Some((g.as_mut()?, *seen)));
            all.all(|(group, seen)| seen.is_some_and(|seen| group.forget(slot, seen)))
        });
        self.uncollected = (rib.gone.len(), progress);
    }

    /// Marks attributes that members have.
    pub(crate) fn mark(&mut self, marks: &mut Marks) {
        self.groups.iter_mut().flatten().for_each(|group| group.mark(marks));
    }

    /// The group of a peer with a session, and the identifier of the peer.
    pub(crate) fn group(&self, index: PeerIndex) -> Option<(&UpdateGroup, Ipv4Addr)> {
        let member = self.members.get(index as usize)?.as_ref()?;
        Some((self.groups[member.group].as_ref()?, member.router_id))
    }
}

#[cfg(test)]
mod tests;
