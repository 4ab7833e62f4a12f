//! Pools and settings as a watch tells them.

use std::collections::BTreeMap;

use ::ipam::Settings;
use model::{Cidr, IpPool, NodeName, Update};

/// What is known of pools, reservations, settings and the own node's labels.
#[derive(Debug, Default)]
pub(super) struct Observed {
    pub(super) settings: Settings,
    pools: BTreeMap<String, IpPool>,
    reservations: BTreeMap<String, Vec<Cidr>>,
    /// A watch keeps it up to date; otherwise it is read anew for each request.
    pub(super) is_kept: bool,
}

impl Observed {
    /// Takes note of an update; says whether the settings may have changed.
    pub(super) fn observe(&mut self, update: &Update, node: &NodeName) -> bool {
        match update {
            Update::Pool(name, pool) => {
                match pool {
                    Some(pool) => self.pools.insert(name.clone(), pool.clone()),
                    None => self.pools.remove(name),
                };
                self.settings.pools = self.pools.values().cloned().collect();
            }
            Update::IpReservation(name, ranges) => {
                match ranges {
                    Some(ranges) => self.reservations.insert(name.clone(), ranges.clone()),
                    None => self.reservations.remove(name),
                };
                self.settings.reservations = self.reservations.values().flatten().copied().collect();
            }
            Update::IpamConfiguration(configuration) => {
                self.settings.configuration = configuration.clone().unwrap_or_default();
            }
            Update::Node(name, Some(found)) if name == node => {
                self.settings.node_labels = found.labels.clone();
            }
            Update::InSync => self.is_kept = true,
            _ => return false,
        }
        true
    }
}
