//! Next hops that something depends on. Owns how each is reached now, and says which changed.

use std::collections::BTreeMap;
use std::net::IpAddr;

use model::Cidr;

use crate::fib::{Fib, Resolved};

/// Watched next hops.
#[derive(Clone, Debug, Default)]
pub struct NextHops {
    ways: BTreeMap<IpAddr, Option<Resolved>>,
}

impl NextHops {
    /// Watches a next hop from now on; says how it is reached.
    pub fn watch(&mut self, fib: &Fib, next_hop: IpAddr) -> Option<&Resolved> {
        self.ways.entry(next_hop).or_insert_with(|| fib.resolve(next_hop)).as_ref()
    }

    /// Those that cannot be reached.
    pub fn unreachable(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.ways.iter().filter(|(_, way)| way.is_none()).map(|(next_hop, _)| *next_hop)
    }

    /// How a watched next hop is reached.
    pub fn way(&self, next_hop: IpAddr) -> Option<&Resolved> {
        self.ways.get(&next_hop)?.as_ref()
    }

    /// Watches it no longer.
    pub fn forget(&mut self, next_hop: IpAddr) {
        self.ways.remove(&next_hop);
    }

    /// Routes of the node to `within`, or any of its routes, have changed: says which next hops are reached in
    /// another way now, or not any more.
    pub fn changed(&mut self, fib: &Fib, within: Option<Cidr>) -> Vec<IpAddr> {
        let mut changed = Vec::new();
        let mut look = |next_hop: IpAddr, way: &mut Option<Resolved>| {
            let now = fib.resolve(next_hop);
            if *way != now {
                *way = now;
                changed.push(next_hop);
            }
        };
        match within {
            None => self.ways.iter_mut().for_each(|(next_hop, way)| look(*next_hop, way)),
            Some(within) => {
                let from = self.ways.range_mut(within.address()..);
                from.take_while(|(next_hop, _)| within.contains(**next_hop))
                    .for_each(|(next_hop, way)| look(*next_hop, way));
            }
        }
        changed
    }
}
