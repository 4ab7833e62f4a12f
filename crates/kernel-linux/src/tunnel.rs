//! The IPIP tunnel link as an entry of a table.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use kernel::{CARRIES_PODS, Driver, Failures, Link, Tunnel};
use model::Family;

use crate::offload;
use crate::rtnl::Rtnl;
use crate::tunnel_link::{WriteLink, held_address, is_loose, loosen};

/// Writes `tunl0`: makes the link, its MTU, its only IPv4 address, whether it carries pods (its alias), loose
/// `rp_filter`, and sets it up.
///
/// Deleting takes the addresses away and sets the link down; the link itself belongs to the kernel's module.
pub struct TunnelDriver {
    rtnl: Rtnl,
    name: String,
}

impl TunnelDriver {
    /// For the link of this name, as `tunl0`.
    pub fn new(name: &str) -> io::Result<Self> {
        Ok(Self { rtnl: Rtnl::open()?, name: name.to_owned() })
    }

    /// Says, or takes back, that packets of pods may be sent through the link. Another's alias stays while nothing is said.
    fn tell(&mut self, link: &Link, carries_pods: bool) -> io::Result<()> {
        match carries_pods {
            is_told if is_told == has_told(link) => Ok(()),
            true => self.rtnl.set_alias(link.index, CARRIES_PODS),
            false => self.rtnl.set_alias(link.index, ""),
        }
    }
}

impl WriteLink for TunnelDriver {
    type Link = Tunnel;
    const KIND: &str = "tunnel";

    fn put(&mut self, name: &str, tunnel: &Tunnel) -> io::Result<()> {
        let link = self.rtnl.ensure_ipip(name)?;
        if let Some(mtu) = tunnel.mtu
            && mtu != link.mtu
        {
            self.rtnl.set_mtu(link.index, mtu)?;
        }
        self.rtnl.hold_address(link.index, Family::V4, tunnel.address.map(IpAddr::V4))?;
        self.tell(&link, tunnel.carries_pods)?;
        if tunnel.no_checksum_offload && offload::has_checksums(name) {
            offload::switch_off_checksums(name)?;
        }
        loosen(name)?;
        if !link.up {
            self.rtnl.set_up(link.index, true)?;
        }
        Ok(())
    }

    fn delete(&mut self, name: &str) -> io::Result<()> {
        let Some(link) = self.rtnl.link_by_name(name)? else { return Ok(()) };
        self.tell(&link, false)?;
        self.rtnl.set_only_address(link.index, Family::V4, None)?;
        self.rtnl.set_up(link.index, false)
    }
}

impl Driver for TunnelDriver {
    type Key = String;
    type Value = Tunnel;

    /// A link that is down, strict, or has another number of addresses than one, counts as one to be written again.
    fn list(&mut self) -> io::Result<BTreeMap<String, Tunnel>> {
        let Some(link) = self.rtnl.link_by_name(&self.name)? else { return Ok(BTreeMap::new()) };
        let present = self.rtnl.addresses_of(link.index, Family::V4)?;
        if present.is_empty() && !link.up && !has_told(&link) {
            return Ok(BTreeMap::new());
        }
        let held = held_address(Family::V4, &present).filter(|_| link.up && is_loose(&self.name));
        let address = held.map(|held| held.and_then(ipv4));
        let tunnel = Tunnel {
            // Nobody wishes for this address, so it differs from whatever is wanted.
            address: address.unwrap_or(Some(Ipv4Addr::UNSPECIFIED)),
            mtu: Some(link.mtu),
            no_checksum_offload: !offload::has_checksums(&self.name),
            carries_pods: has_told(&link),
        };
        Ok(BTreeMap::from([(self.name.clone(), tunnel)]))
    }

    fn apply(&mut self, puts: &[(String, Tunnel)], deletes: &[String]) -> Failures<String> {
        self.write_all(puts, deletes)
    }

    fn matches(desired: &Tunnel, actual: &Tunnel) -> bool {
        desired.is_realised_by(actual)
    }
}

fn ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

fn has_told(link: &Link) -> bool {
    link.alias.as_deref() == Some(CARRIES_PODS)
}
