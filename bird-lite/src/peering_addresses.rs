//! Addresses that this node has towards pods that peer with it. Owns every address of pods' links but link-local
//! ones: nothing else has addresses there.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use crate::cluster::POD_INTERFACES;
use kernel_linux::Rtnl;

/// What the links of some pods are to have.
#[derive(Debug, Default)]
pub(crate) struct PeeringAddresses {
    links: BTreeSet<String>,
    addresses: Vec<IpAddr>,
    /// The kernel may hold something else.
    dirty: bool,
}

impl PeeringAddresses {
    /// Sets which links of pods have which addresses, each as a single one.
    pub(crate) fn set(&mut self, links: BTreeSet<String>, addresses: Vec<IpAddr>) {
        self.dirty |= (&self.links, &self.addresses) != (&links, &addresses);
        (self.links, self.addresses) = (links, addresses);
    }

    /// The link, or an address of it, has changed.
    pub(crate) fn link_changed(&mut self, name: &str) {
        self.dirty |= self.links.contains(name);
    }

    /// Nothing is known of what an earlier run left behind.
    pub(crate) fn look_again(&mut self) {
        self.dirty = true;
    }

    /// Writes what differs; what cannot be written is tried again when its link changes.
    pub(crate) fn work(&mut self, rtnl: &mut Rtnl) {
        if !std::mem::take(&mut self.dirty) {
            return;
        }
        if let Err(error) = self.reconcile(rtnl) {
            tracing::warn!(%error, "cannot read the addresses of pods' links");
        }
    }

    fn reconcile(&self, rtnl: &mut Rtnl) -> io::Result<()> {
        let links = rtnl.links()?;
        let pods = links.into_iter().filter(|link| link.name.starts_with(POD_INTERFACES));
        for link in pods {
            let wanted = self.links.contains(&link.name);
            let wanted: BTreeMap<IpAddr, u8> = self
                .addresses
                .iter()
                .filter(|_| wanted)
                .map(|a| (*a, if a.is_ipv4() { 32 } else { 128 }))
                .collect();
            let has: BTreeMap<IpAddr, u8> =
                link.addresses.iter().copied().filter(|(address, _)| !is_link_local(*address)).collect();
            for (address, length) in has.iter().filter(|(address, _)| !wanted.contains_key(address)) {
                report(&link.name, *address, rtnl.delete_address(link.index, *address, *length));
            }
            for (address, length) in wanted.iter().filter(|(address, _)| !has.contains_key(address)) {
                report(&link.name, *address, rtnl.add_address(link.index, *address, *length));
            }
        }
        Ok(())
    }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

fn report(link: &str, address: IpAddr, result: io::Result<()>) {
    match result {
        Ok(()) => tracing::info!(link, %address, "peering address"),
        Err(error) => tracing::warn!(link, %address, %error, "cannot change the peering address"),
    }
}
