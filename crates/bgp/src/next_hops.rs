//! Next hops that the owner of the speaker watches. Owns which ones matter and what they cost.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

/// What the speaker asks of whoever knows the way to next hops (RFC 4271 §9.1.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextHopInterest {
    /// Say what the way to this address costs, now and whenever it changes.
    Watch(IpAddr),
    /// The address does not matter any more.
    Forget(IpAddr),
}

#[derive(Debug)]
struct Hop {
    address: IpAddr,
    cost: Option<u32>,
}

/// The next hops of all paths, when they are tracked.
#[derive(Debug, Default)]
pub(crate) struct NextHops {
    tracked: bool,
    /// Names count from 1; 0 is no tracked hop.
    hops: Vec<Option<Hop>>,
    free: Vec<u32>,
    by_address: HashMap<IpAddr, u32>,
    interests: VecDeque<NextHopInterest>,
    changed: bool,
}

impl NextHops {
    pub(crate) fn new(tracked: bool) -> Self {
        Self { tracked, ..Self::default() }
    }

    pub(crate) fn is_tracked(&self) -> bool {
        self.tracked
    }

    /// The name of a next hop; the owner is asked about one that is new.
    pub(crate) fn watch(&mut self, address: IpAddr) -> u32 {
        if let Some(name) = self.by_address.get(&address) {
            return *name;
        }
        let name = self.free.pop().unwrap_or(self.hops.len() as u32 + 1);
        let hop = Some(Hop { address, cost: None });
        match self.hops.get_mut(name as usize - 1) {
            Some(place) => *place = hop,
            None => self.hops.push(hop),
        }
        self.by_address.insert(address, name);
        self.interests.push_back(NextHopInterest::Watch(address));
        name
    }

    /// The cost of the way; `None` when there is none, or none is known yet.
    pub(crate) fn cost(&self, name: u32) -> Option<u32> {
        match name.checked_sub(1) {
            Some(at) => self.hops.get(at as usize)?.as_ref()?.cost,
            None => Some(0),
        }
    }

    /// Takes an answer of the owner.
    pub(crate) fn answer(&mut self, address: IpAddr, cost: Option<u32>) {
        let hop = self.by_address.get(&address).and_then(|name| self.hops[*name as usize - 1].as_mut());
        if let Some(hop) = hop.filter(|hop| hop.cost != cost) {
            hop.cost = cost;
            self.changed = true;
        }
    }

    /// Whether a cost has changed since this was asked last.
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Drops all that are not in `used`.
    pub(crate) fn retain(&mut self, used: &[u32]) {
        let mut keep = vec![false; self.hops.len() + 1];
        used.iter().for_each(|name| keep[*name as usize] = true);
        for (name, place) in (1..).zip(&mut self.hops) {
            if let Some(hop) = place.take_if(|_| !keep[name as usize]) {
                self.by_address.remove(&hop.address);
                self.free.push(name);
                self.interests.push_back(NextHopInterest::Forget(hop.address));
            }
        }
    }

    pub(crate) fn poll(&mut self) -> Option<NextHopInterest> {
        self.interests.pop_front()
    }
}
