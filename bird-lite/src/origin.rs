//! What this node announces by itself. Owns which prefixes, and how preferred they are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bgp::Origin;
use bgp_packet::{Family, NextHop, PathAttributes, Prefix};

use crate::cluster::Cluster;
use crate::convert::cidr;

/// Kernel metric of a route that nothing says another one of, unless the settings have another.
pub const NORMAL_PRIORITY: u32 = 1024;
/// A kernel metric and LOCAL_PREF add up to this, so that they mirror each other.
pub const PREFERENCE_SUM: u32 = 2_147_483_647;

/// The routes that this node originates.
#[derive(Debug, Default)]
pub struct Origins {
    announced: BTreeMap<Prefix, Origin>,
}

impl Origins {
    /// Decides anew about `prefixes`, or about everything. Gives back what differs; `None` takes a route back.
    pub fn update(
        &mut self,
        cluster: &Cluster,
        prefixes: &BTreeSet<Prefix>,
        all: bool,
    ) -> Vec<(Prefix, Option<Origin>)> {
        let everything: BTreeSet<Prefix>;
        let prefixes = if all {
            everything = self.announced.keys().copied().chain(cluster.announceable()).collect();
            &everything
        } else {
            prefixes
        };
        let mut changes = Vec::new();
        for prefix in prefixes {
            let wanted = origin(cluster, *prefix);
            if self.announced.get(prefix) == wanted.as_ref() {
                continue;
            }
            match &wanted {
                Some(origin) => self.announced.insert(*prefix, origin.clone()),
                None => self.announced.remove(prefix),
            };
            changes.push((*prefix, wanted));
        }
        changes
    }
}

/// What this node originates for a prefix: its blocks go out whole, single addresses that its endpoints hold in
/// blocks of others one by one, and addresses of Services as these say.
pub fn origin(cluster: &Cluster, prefix: Prefix) -> Option<Origin> {
    let own_block = cluster.is_own_block(cidr(prefix));
    let held = cluster.own_address(prefix.address()).filter(|_| prefix.is_host());
    let borrowed = held.filter(|held| !cluster.is_own_block(held.block));
    let wanted = own_block || borrowed.is_some() || cluster.services.announces(prefix);
    wanted.then(|| Origin {
        attributes: attributes(cluster, prefix),
        interface: borrowed.filter(|_| !own_block).and_then(|held| held.interface.clone()),
    })
}

/// LOCAL_PREF that mirrors the normal metric of a family.
pub(crate) fn normal_preference(cluster: &Cluster, family: Family) -> u32 {
    let family = match family {
        Family::Ipv4 => model::Family::V4,
        Family::Ipv6 => model::Family::V6,
    };
    PREFERENCE_SUM - cluster.configuration.normal_priority(family)
}

fn attributes(cluster: &Cluster, prefix: Prefix) -> PathAttributes {
    let unspecified = match prefix.family() {
        Family::Ipv4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::Ipv6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let mut attributes = PathAttributes::new(NextHop::from(unspecified));
    attributes.local_pref = Some(normal_preference(cluster, prefix.family()));
    attributes
}
