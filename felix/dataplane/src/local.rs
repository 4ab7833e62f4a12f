//! The local fact wins: what leads to a pod that nobody told us is gone stays.
//!
//! A pod interface that no endpoint of ours stands for may belong to a live pod: of another network that was
//! here before, of a state directory that was lost, or of an ADD that is just under way. Its routes and
//! neighbours are left alone; its traffic is dropped anyway, because no policy is known for it. When such a pod
//! really goes, the kernel removes them with the interface.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use kernel::{Driver, Failures, NeighbourKey, Route, RouteKey};
use model::HostInterface;

/// The interfaces that an entry uses; none when it uses no interface.
type Interfaces<K, V> = for<'a> fn(&'a K, &'a V) -> Vec<&'a str>;

/// A driver that does not see what is on interfaces for which no endpoint of ours ever stood.
pub(crate) struct LocalFact<D: Driver> {
    driver: D,
    interfaces: Interfaces<D::Key, D::Value>,
    known: BTreeSet<HostInterface>,
}

impl<D: Driver> LocalFact<D> {
    pub(crate) fn new(driver: D, interfaces: Interfaces<D::Key, D::Value>) -> Self {
        Self { driver, interfaces, known: BTreeSet::new() }
    }

    pub(crate) fn inner_mut(&mut self) -> &mut D {
        &mut self.driver
    }

    /// From now on, also what is unwanted on this interface is ours to remove.
    pub(crate) fn know(&mut self, interface: &str) {
        if !self.known.contains(interface) {
            self.known.insert(interface.to_owned());
        }
    }

    /// The interface is gone: whoever uses the name next is not known until we are told.
    pub(crate) fn forget(&mut self, interface: &str) {
        self.known.remove(interface);
    }
}

impl<D: Driver> Driver for LocalFact<D> {
    type Key = D::Key;
    type Value = D::Value;

    fn list(&mut self) -> io::Result<BTreeMap<D::Key, D::Value>> {
        let mut all = self.driver.list()?;
        all.retain(|key, value| {
            let interfaces = (self.interfaces)(key, value);
            interfaces.is_empty() || interfaces.iter().any(|interface| self.known.contains(*interface))
        });
        Ok(all)
    }

    fn apply(&mut self, puts: &[(D::Key, D::Value)], deletes: &[D::Key]) -> Failures<D::Key> {
        self.driver.apply(puts, deletes)
    }

    fn matches(desired: &D::Value, actual: &D::Value) -> bool {
        D::matches(desired, actual)
    }
}

/// The interfaces through which a route leaves.
pub(crate) fn of_route<'a>(_: &'a RouteKey, route: &'a Route) -> Vec<&'a str> {
    route.hops().iter().filter_map(|hop| hop.interface.as_deref()).collect()
}

/// The interface on which a neighbour is.
pub(crate) fn of_neighbour<'a, V>(key: &'a NeighbourKey, _: &'a V) -> Vec<&'a str> {
    vec![key.interface.as_str()]
}
