//! Endpoints of Services, as far as rules that name a Service need them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use kernel::IpSetMember;
use model::{Cidr, EndpointSlice, ObjectKey, Protocol};

/// What a rule sees of an EndpointSlice.
#[derive(PartialEq, Eq)]
struct Slice {
    service: ObjectKey,
    /// Sorted, each once.
    addresses: Box<[IpAddr]>,
    /// Sorted, each once.
    ports: Box<[(Protocol, u16)]>,
}

impl Slice {
    fn new(slice: EndpointSlice) -> Self {
        let service = ObjectKey { namespace: slice.key.namespace, name: slice.service };
        let addresses: BTreeSet<_> = slice.addresses.into_iter().collect();
        let ports: BTreeSet<_> = slice.ports.iter().map(|port| (port.protocol, port.port)).collect();
        let (addresses, ports) = (addresses.into_iter().collect(), ports.into_iter().collect());
        Self { service, addresses, ports }
    }

    fn contains(&self, member: &IpSetMember) -> bool {
        let has = |address: IpAddr| self.addresses.binary_search(&address).is_ok();
        match member {
            IpSetMember::Net(net) => net.is_host() && has(net.address()),
            IpSetMember::IpPort(address, protocol, port) => {
                has(*address) && self.ports.binary_search(&(*protocol, *port)).is_ok()
            }
        }
    }

    fn members(&self, ports: bool) -> Vec<IpSetMember> {
        let addresses = self.addresses.iter().copied();
        if !ports {
            return addresses.map(|address| IpSetMember::Net(Cidr::host(address))).collect();
        }
        let with_ports = |address: IpAddr| {
            self.ports.iter().map(move |(protocol, port)| IpSetMember::IpPort(address, *protocol, *port))
        };
        addresses.flat_map(with_ports).collect()
    }
}

/// Slices by their own name, and those of each Service.
#[derive(Default)]
pub(crate) struct Services {
    slices: HashMap<ObjectKey, Arc<Slice>>,
    by_service: HashMap<ObjectKey, BTreeMap<Arc<str>, Arc<Slice>>>,
}

impl Services {
    /// Is it a member of the Service's set?
    pub(crate) fn contains(&self, service: &ObjectKey, member: &IpSetMember) -> bool {
        self.of(service).any(|slice| slice.contains(member))
    }

    /// All members of a Service's set; some perhaps twice.
    pub(crate) fn members(&self, service: &ObjectKey, ports: bool) -> Vec<IpSetMember> {
        self.of(service).flat_map(|slice| slice.members(ports)).collect()
    }

    /// Stores a slice. Before that, `concerned` hears of each Service whose sets may change, with what may
    /// come or go, without ports or with them.
    pub(crate) fn set(
        &mut self,
        key: ObjectKey,
        slice: Option<EndpointSlice>,
        mut concerned: impl FnMut(&Self, &ObjectKey, bool, IpSetMember),
    ) {
        let new = slice.map(Slice::new);
        let old = self.slices.get(&key).cloned();
        if old.as_deref() == new.as_ref() {
            return;
        }
        let moved = |a: &Slice, b: Option<&Slice>| b.is_none_or(|b| b.service != a.service);
        for ports in [false, true] {
            let mut each = |slice: &Slice, other: Option<&Slice>| {
                let other = other.filter(|other| !moved(slice, Some(other)));
                for member in slice.members(ports) {
                    if !other.is_some_and(|other| other.contains(&member)) {
                        concerned(self, &slice.service, ports, member);
                    }
                }
            };
            old.iter().for_each(|old| each(old, new.as_ref()));
            new.iter().for_each(|new| each(new, old.as_deref()));
        }
        if let Some(old) = &old {
            self.slices.remove(&key);
            if let Some(slices) = self.by_service.get_mut(&old.service) {
                slices.remove(&key.name);
                if slices.is_empty() {
                    self.by_service.remove(&old.service);
                }
            }
        }
        if let Some(new) = new.map(Arc::new) {
            self.by_service.entry(new.service.clone()).or_default().insert(key.name.clone(), new.clone());
            self.slices.insert(key, new);
        }
    }

    fn of(&self, service: &ObjectKey) -> impl Iterator<Item = &Slice> {
        self.by_service.get(service).into_iter().flat_map(BTreeMap::values).map(|slice| &**slice)
    }
}
