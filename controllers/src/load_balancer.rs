//! Addresses of Services of type LoadBalancer: which Service should have which, as an index, and the loop that makes
//! it so while this replica leads.
//!
//! An address is given out in a block like a pod's, to a handle made of the Service's name and UID, and only then
//! written into the Service's status; it leaves the status before it is given back. So whoever dies in between
//! leaves something from which the next step follows.

pub mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipam::gc::{Allocation, User, allocations};
use model::{
    AllowedUse, AssignIps, Cidr, Family, IpPool, LoadBalancerRequest, LoadBalancerService, ObjectKey, Update,
};

/// What there should be and what there is. Pure.
#[derive(Debug, Default)]
pub struct Index {
    assign: Option<AssignIps>,
    services: BTreeMap<String, LoadBalancerService>,
    has_services: bool,
    pools: BTreeMap<String, IpPool>,
    blocks: BTreeMap<Cidr, Vec<Allocation>>,
    in_sync: bool,
}

/// A difference between what there should be and what there is.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Give it addresses: what it asks for, one of each of these families.
    Assign(LoadBalancerService, Vec<Family>),
    /// Its status should name these addresses.
    Show(LoadBalancerService, Vec<IpAddr>),
    /// Nobody has a use for what this handle holds.
    Release(String),
    /// The same, of a Service that is gone: the API server is asked for it by name before it is believed.
    ReleaseGone(String, ObjectKey),
    /// It asks for what cannot be.
    Complain(LoadBalancerService, String),
}

impl Index {
    /// Takes what the datastore says of pools and blocks.
    pub fn observe(&mut self, update: &Update) {
        match update {
            Update::Pool(name, Some(pool)) => _ = self.pools.insert(name.clone(), pool.clone()),
            Update::Pool(name, None) => _ = self.pools.remove(name),
            Update::Block(cidr, block) => {
                self.blocks.remove(cidr);
                let is_ours = |a: &Allocation| !a.is_cooling && matches!(a.user, User::Service(_));
                let ours: Vec<Allocation> =
                    block.iter().flat_map(|block| allocations(block)).filter(is_ours).collect();
                if !ours.is_empty() {
                    self.blocks.insert(*cidr, ours);
                }
            }
            Update::InSync => self.in_sync = true,
            _ => {}
        }
    }

    /// Takes the settings.
    pub fn assign(&mut self, assign: AssignIps) {
        self.assign = Some(assign);
    }

    /// Takes one Service as it is by now.
    pub fn service(&mut self, name: String, service: Option<LoadBalancerService>) {
        match service {
            Some(service) => _ = self.services.insert(name, service),
            None => _ = self.services.remove(&name),
        }
    }

    /// Every Service was told.
    pub fn has_services(&mut self) {
        self.has_services = true;
    }

    /// What is to be done, in the order of names; nothing before everything was read.
    pub fn steps(&self) -> Vec<Step> {
        let Some(assign) = self.assign.filter(|_| self.in_sync && self.has_services) else {
            return Vec::new();
        };
        // Every cluster has pools and Services: whoever shows none was told wrong.
        if self.pools.is_empty() || self.services.is_empty() {
            return Vec::new();
        }
        let mut held: BTreeMap<&str, Vec<&Allocation>> = BTreeMap::new();
        for allocation in self.blocks.values().flatten() {
            held.entry(allocation.handle.as_deref().unwrap_or_default()).or_default().push(allocation);
        }
        let mut steps = Vec::new();
        for service in self.services.values() {
            let given = held.remove(service.handle.as_str()).unwrap_or_default();
            let mut given: Vec<IpAddr> = given.iter().map(|allocation| allocation.address).collect();
            given.sort_unstable();
            steps.extend(self.step(service, assign, &given));
        }
        for (handle, given) in held.into_iter().filter(|(handle, _)| !handle.is_empty()) {
            if let Some(User::Service(key)) = given.first().map(|allocation| &allocation.user) {
                steps.push(Step::ReleaseGone(handle.to_owned(), key.clone()));
            }
        }
        steps
    }

    /// Is there a pool for Services, or a block with an address of one?
    pub fn is_needed(&self) -> bool {
        !self.blocks.is_empty() || self.pools.values().any(|pool| self.is_for_services(pool))
    }

    /// How many addresses Services hold.
    pub fn addresses(&self) -> usize {
        self.blocks.values().map(Vec::len).sum()
    }

    fn step(&self, service: &LoadBalancerService, assign: AssignIps, given: &[IpAddr]) -> Option<Step> {
        if !service.is_ours(assign) {
            return withdraw(service, given);
        }
        let asks = match &service.asks {
            Ok(asks) => asks,
            // What it has stays: it may be mended in a moment.
            Err(reason) => return Some(Step::Complain(service.clone(), reason.clone())),
        };
        if given.iter().any(|address| !self.is_fit(*address, asks)) {
            return withdraw(service, given);
        }
        let families = self.families(service, asks);
        let has = |family: &Family| given.iter().any(|address| Family::of(*address) == *family);
        if families.is_empty() && given.is_empty() {
            return None;
        }
        if !families.iter().all(has) {
            return Some(Step::Assign(service.clone(), families));
        }
        let mut shown = service.ingress.clone();
        shown.sort_unstable();
        (shown != given).then(|| Step::Show(service.clone(), given.to_vec()))
    }

    /// Families that a Service gets addresses of: all of its own, or those that there is a pool for when one is
    /// enough. None where no pool is for Services: then somebody else cares for them.
    fn families(&self, service: &LoadBalancerService, asks: &LoadBalancerRequest) -> Vec<Family> {
        let has_pool = |family: &&Family| {
            let is_for = |pool: &&IpPool| self.is_for_services(pool) && pool.cidr.family() == **family;
            self.pools.values().any(|pool| is_for(&pool))
        };
        if !asks.addresses.is_empty() {
            return asks.addresses.iter().map(|address| Family::of(*address)).collect();
        }
        let with_pool: Vec<Family> = service.families.iter().filter(has_pool).copied().collect();
        if with_pool.is_empty() || service.takes_either { with_pool } else { service.families.clone() }
    }

    fn is_for_services(&self, pool: &IpPool) -> bool {
        !pool.deleting && pool.allowed_uses.contains(&AllowedUse::LoadBalancer)
    }

    /// May a Service that asks for this keep the address that it has? A pool that was disabled takes nothing back.
    fn is_fit(&self, address: IpAddr, asks: &LoadBalancerRequest) -> bool {
        if !asks.addresses.is_empty() && !asks.addresses.contains(&address) {
            return false;
        }
        let wanted = asks.pools(Family::of(address));
        let is_wanted = |pool: &IpPool| {
            wanted.is_empty()
                || !asks.addresses.is_empty()
                || wanted.iter().any(|name| *name == pool.name || *name == pool.cidr.to_string())
        };
        let mut around = self.pools.values().filter(|pool| pool.cidr.contains(address));
        around.any(|pool| self.is_for_services(pool) && is_wanted(pool))
    }
}

/// The status first, then the address: nobody is sent to what is another's by then.
fn withdraw(service: &LoadBalancerService, given: &[IpAddr]) -> Option<Step> {
    if given.is_empty() {
        return None;
    }
    let others: BTreeSet<IpAddr> = service.ingress.iter().filter(|a| !given.contains(a)).copied().collect();
    if others.len() < service.ingress.len() {
        return Some(Step::Show(service.clone(), others.into_iter().collect()));
    }
    Some(Step::Release(service.handle.clone()))
}

#[cfg(test)]
mod tests {
    use ipam::{Settings, allocate, names, new_block};
    use model::{AllocationAttributes, EncapMode, Selector};

    use super::*;

    fn pool(name: &str, cidr: &str, usage: AllowedUse) -> IpPool {
        IpPool {
            name: name.to_owned(),
            cidr: cidr.parse().unwrap(),
            ipip_mode: EncapMode::Never,
            vxlan_mode: EncapMode::Never,
            nat_outgoing: false,
            disabled: false,
            disable_bgp_export: false,
            block_size: 29,
            node_selector: Selector::all(),
            namespace_selector: Selector::all(),
            allowed_uses: vec![usage],
            assignment_mode: model::AssignmentMode::Automatic,
            deleting: false,
            created: 0,
        }
    }

    fn service(name: &str) -> LoadBalancerService {
        LoadBalancerService {
            key: ObjectKey::new("dev", name),
            handle: format!("lb-{name}"),
            uid: name.to_owned(),
            is_load_balancer: true,
            class: None,
            families: vec![Family::V4],
            takes_either: false,
            asks: Ok(LoadBalancerRequest::default()),
            ingress: Vec::new(),
        }
    }

    /// With pools for pods and for Services, and an address that Service `web` has.
    fn index() -> Index {
        let mut index = Index::default();
        index.observe(&Update::Pool("p".to_owned(), Some(pool("p", "10.0.0.0/24", AllowedUse::Workload))));
        let lb = pool("lb", "198.51.100.0/28", AllowedUse::LoadBalancer);
        index.observe(&Update::Pool("lb".to_owned(), Some(lb)));
        let secondary = [("namespace", "dev"), ("service", "web"), ("type", names::TYPE_LOAD_BALANCER)];
        let attributes = AllocationAttributes {
            handle: Some("lb-web".to_owned()),
            secondary: secondary.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            released_at: None,
        };
        let block = new_block("198.51.100.0/29".parse().unwrap(), names::LOAD_BALANCER.into(), 1);
        let block = allocate(&block, 1, &attributes, &Settings::default());
        index.observe(&Update::Block(block.cidr, Some(Box::new(block))));
        index.observe(&Update::InSync);
        index.assign(AssignIps::AllServices);
        index
    }

    fn address() -> IpAddr {
        "198.51.100.0".parse().unwrap()
    }

    #[test]
    fn nothing_is_done_before_everything_was_read_or_by_an_empty_list() {
        let mut index = index();
        assert_eq!(index.steps(), []);
        index.has_services();
        assert_eq!(index.steps(), [], "a cluster has Services");

        index.service(
            "dev/other".to_owned(),
            Some(LoadBalancerService { class: Some("x".to_owned()), ..service("other") }),
        );

        assert_eq!(index.steps(), [Step::ReleaseGone("lb-web".to_owned(), ObjectKey::new("dev", "web"))]);
    }

    #[test]
    fn the_status_follows_what_is_held_and_goes_first() {
        let mut index = index();
        index.has_services();
        let mut web = service("web");
        let mut now = |service: &LoadBalancerService| {
            index.service("dev/web".to_owned(), Some(service.clone()));
            index.steps()
        };

        assert_eq!(now(&web), [Step::Show(web.clone(), vec![address()])]);
        web.ingress = vec![address()];
        assert_eq!(now(&web), []);
        web.asks = Err("nonsense".to_owned());
        assert_eq!(now(&web), [Step::Complain(web.clone(), "nonsense".to_owned())]);
        let pools = vec!["p".to_owned()];
        web.asks = Ok(LoadBalancerRequest { ipv4_pools: pools, ..LoadBalancerRequest::default() });
        assert_eq!(now(&web), [Step::Show(web.clone(), Vec::new())], "it is of another pool");
        web.ingress = Vec::new();
        assert_eq!(now(&web), [Step::Release("lb-web".to_owned())]);
        web.is_load_balancer = false;
        assert_eq!(now(&web), [Step::Release("lb-web".to_owned())]);
    }

    #[test]
    fn families_are_those_of_the_service_as_far_as_it_insists() {
        let mut index = index();
        index.has_services();
        let mut new = service("new");
        new.families = vec![Family::V4, Family::V6];
        let mut now = |service: &LoadBalancerService| {
            index.service(
                "dev/web".to_owned(),
                Some(LoadBalancerService { ingress: vec![address()], ..super::tests::service("web") }),
            );
            index.service("dev/new".to_owned(), Some(service.clone()));
            index.steps()
        };

        assert_eq!(now(&new), [Step::Assign(new.clone(), vec![Family::V4, Family::V6])]);
        new.takes_either = true;
        assert_eq!(now(&new), [Step::Assign(new.clone(), vec![Family::V4])]);
        new.families = vec![Family::V6];
        assert_eq!(now(&new), [], "no pool is for it");
    }
}
