//! Which addresses of Services this node announces. Owns the index of Services and their endpoints; knows no
//! route and no peer.
//!
//! Ranges go out whole from every node. An address of its own goes out
//! - from nodes with an endpoint that is ready, when only these take traffic (`externalTrafficPolicy: Local`);
//! - from every node, when the range that it is in is this one address;
//! - from every node, when load balancer ranges are not announced whole and an endpoint is ready anywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use bgp_packet::Prefix;
use model::{Cidr, EndpointSlice, Family, NodeName, ObjectKey, Service, ServiceRanges};

use crate::convert::prefix;

/// Services, and what of them is announced.
#[derive(Clone, Debug)]
pub struct Services {
    node: NodeName,
    ranges: ServiceRanges,
    /// This node announces no Service.
    excluded: bool,
    services: BTreeMap<ObjectKey, Service>,
    /// Slices by Service, then by name.
    slices: BTreeMap<ObjectKey, BTreeMap<Arc<str>, Ready>>,
    /// Which Service a slice belongs to.
    service_of: BTreeMap<ObjectKey, ObjectKey>,
    /// Addresses that each Service has announced.
    announced: BTreeMap<ObjectKey, BTreeSet<IpAddr>>,
    /// How many Services have an address announced.
    holders: BTreeMap<IpAddr, usize>,
    changed: BTreeSet<Prefix>,
}

/// What a slice says to this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ready {
    family: Family,
    here: bool,
    anywhere: bool,
}

impl Services {
    /// Nothing is known yet.
    pub fn new(node: NodeName) -> Self {
        Self {
            node,
            ranges: ServiceRanges::default(),
            excluded: false,
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            service_of: BTreeMap::new(),
            announced: BTreeMap::new(),
            holders: BTreeMap::new(),
            changed: BTreeSet::new(),
        }
    }

    /// Sets the ranges whose addresses may be announced.
    pub fn configure(&mut self, ranges: ServiceRanges) {
        if self.ranges != ranges {
            self.touch_whole_ranges();
            self.ranges = ranges;
            self.touch_whole_ranges();
            self.update_all();
        }
    }

    /// Says whether this node is to announce no Service at all.
    pub fn exclude(&mut self, excluded: bool) {
        if self.excluded != excluded {
            self.touch_whole_ranges();
            self.excluded = excluded;
            self.touch_whole_ranges();
            self.update_all();
        }
    }

    /// Takes over a Service; `None`: it is gone.
    pub fn set_service(&mut self, key: ObjectKey, service: Option<Service>) {
        match service {
            Some(service) => self.services.insert(key.clone(), service),
            None => self.services.remove(&key),
        };
        self.update(&key);
    }

    /// Takes over a slice; `None`: it is gone.
    pub fn set_slice(&mut self, key: ObjectKey, slice: Option<EndpointSlice>) {
        let owner = slice
            .as_ref()
            .map(|slice| ObjectKey { namespace: key.namespace.clone(), name: slice.service.clone() });
        let old = match &owner {
            Some(owner) => self.service_of.insert(key.clone(), owner.clone()),
            None => self.service_of.remove(&key),
        };
        if let Some(old) = old.filter(|old| Some(old) != owner.as_ref()) {
            self.remove_slice(&old, &key.name);
            self.update(&old);
        }
        if let (Some(owner), Some(slice)) = (owner, slice) {
            let here = slice.ready_nodes.contains(&self.node);
            let ready = Ready { family: slice.family, here, anywhere: slice.any_ready };
            let slices = self.slices.entry(owner.clone()).or_default();
            if slices.insert(key.name, ready) != Some(ready) {
                self.update(&owner);
            }
        }
    }

    fn remove_slice(&mut self, owner: &ObjectKey, name: &Arc<str>) {
        if let Some(slices) = self.slices.get_mut(owner) {
            slices.remove(name);
            if slices.is_empty() {
                self.slices.remove(owner);
            }
        }
    }

    /// Prefixes whose announcement may have changed since this was called last.
    pub fn take_changed(&mut self) -> BTreeSet<Prefix> {
        std::mem::take(&mut self.changed)
    }

    /// Does this node announce the prefix?
    pub fn announces(&self, prefix: Prefix) -> bool {
        let single = prefix.is_host() && self.holders.contains_key(&prefix.address());
        single || self.whole_ranges().any(|range| crate::convert::prefix(range) == prefix)
    }

    /// All that this node announces.
    pub fn announced(&self) -> impl Iterator<Item = Prefix> + '_ {
        self.whole_ranges().map(prefix).chain(self.holders.keys().map(|address| Prefix::host(*address)))
    }

    /// The ranges that are announced whole.
    pub fn whole_ranges(&self) -> impl Iterator<Item = Cidr> + '_ {
        let ranges = &self.ranges;
        let external = ranges.external_ips.iter().filter(|range| !range.is_host());
        let balancers = ranges.load_balancer_ips.iter();
        let balancers = balancers.filter(|range| ranges.aggregate_load_balancers && !range.is_host());
        let all = ranges.cluster_ips.iter().chain(external).chain(balancers).copied();
        all.filter(|_| !self.excluded)
    }

    /// Ranges of external and load balancer addresses.
    pub fn external_ranges(&self) -> impl Iterator<Item = Cidr> + '_ {
        self.ranges.external_ips.iter().chain(&self.ranges.load_balancer_ips).copied()
    }

    /// Is the prefix in a range of Services? Each node answers for these itself, and has no route to them.
    pub fn covers(&self, cidr: Cidr) -> bool {
        self.ranges.all().any(|range| range.covers(cidr))
    }

    fn touch_whole_ranges(&mut self) {
        let whole: Vec<Prefix> = self.whole_ranges().map(prefix).collect();
        self.changed.extend(whole);
    }

    fn update_all(&mut self) {
        let keys: BTreeSet<ObjectKey> = self.services.keys().chain(self.announced.keys()).cloned().collect();
        keys.iter().for_each(|key| self.update(key));
    }

    /// Decides anew about one Service.
    fn update(&mut self, key: &ObjectKey) {
        let new = self.services.get(key).map(|service| self.addresses(service)).unwrap_or_default();
        let old = match new.is_empty() {
            true => self.announced.remove(key),
            false => self.announced.insert(key.clone(), new.clone()),
        };
        let old = old.unwrap_or_default();
        for gone in old.difference(&new) {
            let left = self.holders.get(gone).map_or(0, |count| count - 1);
            match left {
                0 => self.holders.remove(gone),
                left => self.holders.insert(*gone, left),
            };
        }
        for came in new.difference(&old) {
            *self.holders.entry(*came).or_default() += 1;
        }
        self.changed.extend(old.symmetric_difference(&new).map(|address| Prefix::host(*address)));
    }

    /// The addresses of a Service that this node announces one by one.
    fn addresses(&self, service: &Service) -> BTreeSet<IpAddr> {
        if self.excluded || self.ranges.is_empty() {
            return BTreeSet::new();
        }
        let eligible = self.eligible(service);
        let single = |address: &IpAddr| {
            let host = Cidr::host(*address);
            self.external_ranges().any(|range| range == host)
        };
        let listed = !service.local_traffic_only
            && service.external_ips.iter().chain(&service.load_balancer_ips).any(single);
        if listed {
            return eligible;
        }
        let slices = || self.slices.get(&service.key).into_iter().flat_map(BTreeMap::values);
        let wanted = |family: Family| match service.local_traffic_only {
            true => slices().any(|slice| slice.family == family && slice.here),
            false => {
                !self.ranges.aggregate_load_balancers
                    && slices().any(|slice| slice.family == family && slice.anywhere)
            }
        };
        let families: Vec<Family> = Family::ALL.into_iter().filter(|family| wanted(*family)).collect();
        eligible.into_iter().filter(|address| families.contains(&Family::of(*address))).collect()
    }

    /// The addresses that lie in the ranges of their kind.
    fn eligible(&self, service: &Service) -> BTreeSet<IpAddr> {
        let kinds = [
            (&service.cluster_ips, &self.ranges.cluster_ips),
            (&service.external_ips, &self.ranges.external_ips),
            (&service.load_balancer_ips, &self.ranges.load_balancer_ips),
        ];
        let all = kinds.into_iter().flat_map(|(addresses, ranges)| {
            addresses.iter().filter(|address| ranges.iter().any(|range| range.contains(**address)))
        });
        all.copied().collect()
    }
}
