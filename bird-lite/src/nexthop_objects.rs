//! Nexthop objects in the kernel that learned routes refer to. Owns which object stands for which legs, and which
//! are not to be had, so that their routes name the ways themselves.
//!
//! There is one object for a leg, and one for all legs of a route with several. So a leg that turns costs one
//! message, however many routes go by it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Instant;

use kernel::{Applied, Driver, NextHop, NexthopId, NexthopObject, RouteKind, Table};

use crate::kernel_routes::{Leg, Way};

/// Objects and what they stand for.
pub struct NexthopObjects<N: Driver<Key = NexthopId, Value = NexthopObject>> {
    table: Table<N>,
    /// Routes are to refer to objects, and the kernel has such.
    enabled: bool,
    of_legs: BTreeMap<Leg, NexthopId>,
    groups: BTreeMap<Vec<Leg>, Group>,
    /// Whose each object is.
    owners: BTreeMap<NexthopId, Vec<Leg>>,
    /// Objects that the kernel refused.
    refused: BTreeSet<NexthopId>,
    /// Where the search for a free number begins.
    next_way: NexthopId,
    next_group: NexthopId,
}

struct Group {
    id: Option<NexthopId>,
    /// How many prefixes have these legs.
    users: usize,
}

impl<N: Driver<Key = NexthopId, Value = NexthopObject>> NexthopObjects<N> {
    /// Reads what an earlier run left behind. Unless `enabled` no route refers to an object, and those left are swept.
    ///
    /// # Errors
    /// What the kernel says, but for that it has no such objects.
    pub fn adopt(driver: N, enabled: bool) -> io::Result<Self> {
        let mut objects = Self {
            table: Table::new(driver),
            enabled,
            of_legs: BTreeMap::new(),
            groups: BTreeMap::new(),
            owners: BTreeMap::new(),
            refused: BTreeSet::new(),
            next_way: NexthopId::FIRST_WAY,
            next_group: NexthopId::GROUPS,
        };
        objects.resync()?;
        Ok(objects)
    }

    /// Reads the kernel's objects anew.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn resync(&mut self) -> io::Result<()> {
        match self.table.resync() {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => self.enabled = false,
            result => return result.map(drop),
        }
        Ok(())
    }

    /// Whether routes are to refer to objects.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// A prefix has these legs from now on.
    pub fn enter(&mut self, legs: &[Leg]) {
        if legs.len() > 1 {
            let group = self.groups.entry(legs.to_vec()).or_insert(Group { id: None, users: 0 });
            group.users += 1;
        }
    }

    /// A prefix has these legs no longer; nobody has those of `unused`.
    pub fn leave(&mut self, legs: &[Leg], unused: &[Leg]) {
        if let Some(group) = self.groups.get_mut(legs) {
            group.users -= 1;
            if group.users == 0 {
                let id = self.groups.remove(legs).and_then(|group| group.id);
                self.drop_object(id);
            }
        }
        for leg in unused {
            let id = self.of_legs.remove(leg);
            self.drop_object(id);
        }
    }

    fn drop_object(&mut self, id: Option<NexthopId>) {
        let Some(id) = id else { return };
        self.owners.remove(&id);
        self.refused.remove(&id);
        self.table.set(id, None);
    }

    /// What a route by these legs refers to; `None` when it is to name the ways itself. `standing` is the object that
    /// the route in its place refers to now: it is taken over when it stands for the same.
    pub fn kind(&mut self, legs: &[(Leg, &Way)], standing: Option<NexthopId>) -> Option<RouteKind> {
        if !self.enabled {
            return None;
        }
        let candidates = match standing.and_then(|id| self.table.actual().get(&id)) {
            Some(NexthopObject::Group(members)) => members.iter().copied().collect(),
            Some(NexthopObject::Way(_)) => Vec::from_iter(standing),
            None => Vec::new(),
        };
        let mut members = BTreeSet::new();
        for (leg, way) in legs {
            if let Way::Hop(hop) = way {
                members.insert(self.way(*leg, hop, &candidates));
            }
        }
        if members.iter().any(|id| self.refused.contains(id)) {
            return None;
        }
        let id = match legs {
            [_] => members.pop_first()?,
            legs => self.group(legs.iter().map(|(leg, _)| *leg).collect(), members, standing)?,
        };
        (!self.refused.contains(&id)).then_some(RouteKind::Nexthop(id, Vec::new()))
    }

    /// The object of a leg, which leads this way from now on.
    fn way(&mut self, leg: Leg, hop: &NextHop, candidates: &[NexthopId]) -> NexthopId {
        let object = NexthopObject::Way(hop.clone());
        let id = self.of_legs.get(&leg).copied().unwrap_or_else(|| {
            let left = candidates.iter().copied().find(|id| self.is_left_of(*id, &object));
            let id = left.unwrap_or_else(|| self.free(self.next_way));
            self.next_way = if left.is_none() { id.next() } else { self.next_way };
            self.of_legs.insert(leg, id);
            self.owners.insert(id, vec![leg]);
            id
        });
        self.table.set(id, Some(object));
        id
    }

    /// The object of several legs, which spreads over these members from now on.
    fn group(
        &mut self,
        legs: Vec<Leg>,
        members: BTreeSet<NexthopId>,
        standing: Option<NexthopId>,
    ) -> Option<NexthopId> {
        let object = NexthopObject::Group(members);
        let id = self.groups.get(&legs)?.id.unwrap_or_else(|| {
            let left = standing.filter(|id| self.is_left_of(*id, &object));
            let id = left.unwrap_or_else(|| self.free(self.next_group));
            self.next_group = if left.is_none() { id.next() } else { self.next_group };
            id
        });
        self.groups.get_mut(&legs)?.id = Some(id);
        self.owners.insert(id, legs);
        self.table.set(id, Some(object));
        Some(id)
    }

    /// Is it nobody's, and stands for this already?
    fn is_left_of(&self, id: NexthopId, object: &NexthopObject) -> bool {
        !self.owners.contains_key(&id)
            && self.table.actual().get(&id).is_some_and(|actual| N::matches(object, actual))
    }

    /// A number that neither we nor the kernel use. There are more than routes.
    fn free(&self, first: NexthopId) -> NexthopId {
        let is_free = |id: &NexthopId| !self.owners.contains_key(id) && !self.table.actual().contains_key(id);
        std::iter::successors(Some(first), |id| Some(id.next())).find(is_free).unwrap_or(first)
    }

    /// A leg leads another way. Gives back whether that is all that there is to do: its routes follow.
    pub fn turn(&mut self, leg: Leg, hop: &NextHop) -> bool {
        // Routes by what was refused name the ways themselves.
        let id = self.of_legs.get(&leg).copied().filter(|_| self.refused.is_empty());
        if let Some(id) = id {
            self.table.set(id, Some(NexthopObject::Way(hop.clone())));
        }
        id.is_some()
    }

    /// Somebody else made an object stand for something, or deleted it.
    pub fn observe(&mut self, id: NexthopId, object: Option<NexthopObject>) {
        self.table.observe(id, object);
    }

    /// Writes what routes are to refer to. Gives back the legs whose objects are to be had now and were not, or the
    /// other way round.
    pub fn write(&mut self, now: Instant) -> (BTreeSet<Leg>, Applied<NexthopId>) {
        let applied = self.table.apply_puts(now);
        let failed: BTreeSet<NexthopId> = applied.failed.iter().map(|(id, _)| *id).collect();
        let healed = self.refused.iter().filter(|id| !self.table.is_pending(id));
        let turned: BTreeSet<NexthopId> = failed.difference(&self.refused).chain(healed).copied().collect();
        self.refused.retain(|id| !turned.contains(id));
        self.refused.extend(failed);
        let legs = turned.iter().flat_map(|id| self.owners.get(id)).flatten().copied();
        (legs.collect(), applied)
    }

    /// Deletes what is not wanted and to which no route refers: the kernel deletes an object's routes with it.
    pub fn sweep(&mut self, now: Instant, used: impl FnOnce() -> BTreeSet<NexthopId>) -> Applied<NexthopId> {
        if !self.table.has_deletes() {
            return Applied::default();
        }
        let used = used();
        let of_groups = self.table.actual().iter().filter(|(id, _)| used.contains(id));
        let of_groups = of_groups.filter_map(|(_, object)| match object {
            NexthopObject::Group(members) => Some(members),
            NexthopObject::Way(_) => None,
        });
        let members: BTreeSet<NexthopId> = of_groups.flatten().copied().collect();
        self.table.apply_deletes_but(now, |id| used.contains(id) || members.contains(id))
    }

    /// When `write` is due again for what failed.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.table.poll_timeout()
    }

    /// Failed objects are tried at the next `write`.
    pub fn retry_now(&mut self, now: Instant) {
        self.table.retry_now(now);
    }

    /// How many objects of ours the kernel has.
    pub fn count(&self) -> usize {
        self.table.actual().len()
    }
}
