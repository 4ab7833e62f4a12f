//! Nexthop objects in memory. A route that refers to none is refused, and one goes with its object.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::{Entry, FakeKernel, State, no_link};
use crate::{Driver, Failures, NextHop, NexthopId, NexthopObject, Route, RouteKind};

/// All objects count as ours.
#[derive(Clone, Debug)]
pub struct FakeNexthops(pub(super) FakeKernel);

impl State {
    /// The ways that an object stands for.
    pub fn ways(&self, id: NexthopId) -> Vec<NextHop> {
        match self.nexthops.get(&id) {
            Some(NexthopObject::Way(hop)) => vec![hop.clone()],
            Some(NexthopObject::Group(members)) => members.iter().flat_map(|id| self.ways(*id)).collect(),
            None => Vec::new(),
        }
    }

    /// A route as the kernel lists it, with the ways that its object stands for.
    pub fn told(&self, route: &Route) -> Route {
        match route.nexthop() {
            Some(id) => Route { kind: RouteKind::Nexthop(id, self.ways(id)), ..route.clone() },
            None => route.clone(),
        }
    }

    /// Removes some ways, groups without any, and the routes of both.
    pub(super) fn remove_nexthops(&mut self, gone: impl Fn(&NextHop) -> bool) {
        let is_gone = |object: &NexthopObject| matches!(object, NexthopObject::Way(hop) if gone(hop));
        let ids = self.nexthops.iter().filter(|(_, object)| is_gone(object)).map(|(id, _)| *id);
        ids.collect::<Vec<_>>().into_iter().for_each(|id| self.remove_nexthop(id));
    }

    /// Removes an object as the kernel does: with its routes, from its groups, and these when they have no other.
    pub fn remove_nexthop(&mut self, id: NexthopId) {
        self.nexthops.remove(&id);
        self.routes.retain(|_, route| route.nexthop() != Some(id));
        let mut empty = BTreeSet::new();
        for (group, object) in &mut self.nexthops {
            if let NexthopObject::Group(members) = object
                && members.remove(&id)
                && members.is_empty()
            {
                empty.insert(*group);
            }
        }
        empty.into_iter().for_each(|group| self.remove_nexthop(group));
    }
}

impl Driver for FakeNexthops {
    type Key = NexthopId;
    type Value = NexthopObject;

    fn list(&mut self) -> io::Result<BTreeMap<NexthopId, NexthopObject>> {
        if self.0.state().refused.contains(&Entry::Nexthops) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.0.list(|state| state.nexthops.clone())
    }

    fn apply(&mut self, puts: &[(NexthopId, NexthopObject)], deletes: &[NexthopId]) -> Failures<NexthopId> {
        let put = |state: &mut State, id: &NexthopId, object: &NexthopObject| {
            let refuse = |text: &str| Err(io::Error::other(text.to_owned()));
            match object {
                _ if state.refused.contains(&Entry::Nexthops) => {
                    return refuse("there are no nexthop objects");
                }
                NexthopObject::Way(hop) => {
                    let missing = hop.interface.as_ref().filter(|name| !state.links.contains(*name));
                    if let Some(missing) = missing {
                        return Err(no_link(missing));
                    }
                }
                NexthopObject::Group(members) if members.is_empty() => return refuse("a group is empty"),
                NexthopObject::Group(members) => {
                    let is_way = |id| matches!(state.nexthops.get(id), Some(NexthopObject::Way(_)));
                    if !members.iter().all(is_way) {
                        return refuse("a member of a group does not exist");
                    }
                }
            }
            let is_group = |object: &NexthopObject| matches!(object, NexthopObject::Group(_));
            if state.nexthops.get(id).is_some_and(|old| is_group(old) != is_group(object)) {
                return refuse("a group does not become a single way, nor the other way round");
            }
            state.nexthops.insert(*id, object.clone());
            Ok(())
        };
        let delete = |state: &mut State, id: &NexthopId| {
            state.remove_nexthop(*id);
            Ok(())
        };
        self.0.apply(puts, deletes, |id| Entry::Nexthop(*id), put, delete)
    }

    fn matches(desired: &NexthopObject, actual: &NexthopObject) -> bool {
        desired.is_realised_by(actual)
    }
}
