//! Legs of the routes of the Loc-RIB. Owns how each is reached now, and which prefixes go by it.

use std::collections::{BTreeMap, BTreeSet};

use bgp::PeerKey;
use bgp_packet::Prefix;
use kernel::NextHop;
use model::Cidr;

use crate::kernel_routes::{Context, Leg, Way};

/// The legs that some route has.
#[derive(Clone, Debug, Default)]
pub struct Legs {
    known: BTreeMap<Leg, Known>,
}

#[derive(Clone, Debug)]
struct Known {
    way: Way,
    prefixes: BTreeSet<Prefix>,
}

/// A leg that is reached in another way than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It leads another way.
    Moved(NextHop),
    /// There is a way now and was none, or the other way round.
    Other,
}

impl Legs {
    /// A prefix goes by a leg from now on.
    pub fn add(&mut self, context: Context<'_>, leg: Leg, prefix: Prefix) {
        let known = self.known.entry(leg);
        let known = known.or_insert_with(|| Known { way: context.way(leg), prefixes: BTreeSet::new() });
        known.prefixes.insert(prefix);
    }

    /// A prefix goes by a leg no longer. Gives back whether it was the last one.
    pub fn remove(&mut self, leg: Leg, prefix: Prefix) -> bool {
        let Some(known) = self.known.get_mut(&leg) else { return false };
        known.prefixes.remove(&prefix);
        let is_last = known.prefixes.is_empty();
        if is_last {
            self.known.remove(&leg);
        }
        is_last
    }

    /// How a leg is reached; `None` when no route has it.
    pub fn way(&self, leg: Leg) -> Option<&Way> {
        self.known.get(&leg).map(|known| &known.way)
    }

    /// Prefixes that go by a leg.
    pub fn prefixes(&self, leg: Leg) -> impl Iterator<Item = Prefix> + '_ {
        self.known.get(&leg).into_iter().flat_map(|known| known.prefixes.iter().copied())
    }

    /// What the ways to next hops in `within`, or to any, depend on has changed: says which turn.
    pub fn refresh(&mut self, context: Context<'_>, within: Option<Cidr>) -> Vec<(Leg, Turn)> {
        let first = within.map(|within| Leg { next_hop: PeerKey::from(within.address()), pool: None });
        let legs: &mut dyn Iterator<Item = (&Leg, &mut Known)> = match first {
            Some(first) => &mut self.known.range_mut(first..),
            None => &mut self.known.iter_mut(),
        };
        let concerned =
            legs.take_while(|(leg, _)| within.is_none_or(|within| within.contains(leg.next_hop.address())));
        let turn = |(leg, known): (&Leg, &mut Known)| {
            let way = context.way(*leg);
            if way == known.way {
                return None;
            }
            let turn = match (&known.way, &way) {
                (Way::Hop(_), Way::Hop(hop)) => Turn::Moved(hop.clone()),
                _ => Turn::Other,
            };
            known.way = way;
            Some((*leg, turn))
        };
        concerned.filter_map(turn).collect()
    }
}
