//! VXLAN links as entries of a table.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use kernel::{Driver, Failures, VxlanLink};
use model::Family;

use crate::nl::{Attribute, Message, errno, named};
use crate::offload;
use crate::rtnl::*;
use crate::tunnel_link::{WriteLink, held_address, is_loose, loosen};

const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_LINK: u16 = 3;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_LOCAL6: u16 = 17;
/// Writes VXLAN links whole: the link, its outer header, MTU, only address and loose `rp_filter`. A link whose outer
/// header must change is made anew, and loses what stood on it. Deleting deletes the link.
pub struct VxlanDriver {
    rtnl: Rtnl,
    names: Vec<String>,
}

/// A link as it is, and what of it has no place among what is wanted.
struct Found {
    index: u32,
    link: VxlanLink,
    learns: bool,
    /// Up, loose, no learning, no address too many.
    is_whole: bool,
}

impl VxlanDriver {
    /// Owns the links of these names, as `vxlan.calico`.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(names: &[&str]) -> io::Result<Self> {
        Ok(Self { rtnl: Rtnl::open()?, names: names.iter().map(ToString::to_string).collect() })
    }

    fn make(&mut self, name: &str, wanted: &VxlanLink) -> io::Result<()> {
        let parent = self.rtnl.link_by_name(&wanted.parent)?;
        let parent = parent.ok_or_else(|| crate::neighbour::no_link(&wanted.parent))?.index;
        let result = self.rtnl.one(libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL, |w| {
            w.bytes(&ifinfo(0, 0, 0));
            w.string(IFLA_IFNAME, name);
            w.attribute(IFLA_ADDRESS, &wanted.mac);
            wanted.mtu.into_iter().for_each(|mtu| w.u32(IFLA_MTU, mtu));
            w.group(IFLA_LINKINFO, |w| {
                w.string(IFLA_INFO_KIND, "vxlan");
                w.group(IFLA_INFO_DATA, |w| {
                    w.u32(IFLA_VXLAN_ID, wanted.vni);
                    w.u32(IFLA_VXLAN_LINK, parent);
                    let local = if wanted.local.is_ipv4() { IFLA_VXLAN_LOCAL } else { IFLA_VXLAN_LOCAL6 };
                    w.address(local, wanted.local);
                    w.u8(IFLA_VXLAN_LEARNING, 0);
                    w.attribute(IFLA_VXLAN_PORT, &wanted.port.to_be_bytes());
                });
            });
        });
        match result {
            Err(error) if errno(&error) == Some(libc::EOPNOTSUPP) => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("cannot create {name}: this kernel has no VXLAN; load the module `vxlan`"),
            )),
            // Another link has this network identifier and port.
            Err(error) if errno(&error) == Some(libc::EEXIST) => Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!(
                    "cannot create {name}: another link has VNI {} on port {}; `ip -d link show type vxlan` names it",
                    wanted.vni, wanted.port
                ),
            )),
            result => result.map_err(|e| named(format!("create VXLAN link {name}"), e)),
        }
    }

    /// Brings a link with the right outer header to what is wanted.
    fn complete(&mut self, name: &str, wanted: &VxlanLink, found: &Found) -> io::Result<()> {
        let Found { index, link, .. } = found;
        if link.mac != wanted.mac {
            self.rtnl.set_mac(*index, wanted.mac)?;
        }
        if let Some(mtu) = wanted.mtu.filter(|mtu| link.mtu != Some(*mtu)) {
            self.rtnl.set_mtu(*index, mtu)?;
        }
        loosen(name)?;
        if wanted.no_checksum_offload && !link.no_checksum_offload {
            offload::switch_off_checksums(name)?;
        }
        self.rtnl.set_up(*index, true)?;
        self.rtnl.hold_address(*index, Family::of(wanted.local), wanted.address)
    }

    /// The link of this name as it is. One of another kind counts as a VXLAN link that is wrong in everything.
    fn look(&mut self, name: &str) -> io::Result<Option<Found>> {
        let Some(told) = self.rtnl.look_up(name, Told::parse)? else { return Ok(None) };
        let family = told.local.map_or(Family::V4, Family::of);
        let held = held_address(family, &self.rtnl.addresses_of(told.index, family)?);
        let parent = match told.parent {
            0 => None,
            index => self.rtnl.link_by_index(index)?.map(|link| link.name),
        };
        let link = VxlanLink {
            vni: told.vni,
            port: told.port,
            local: told.local.unwrap_or(IpAddr::from([0; 4])),
            parent: parent.unwrap_or_default(),
            mac: told.mac,
            mtu: Some(told.mtu),
            address: held.flatten(),
            no_checksum_offload: !offload::has_checksums(name),
        };
        let is_whole = told.up && !told.learning && held.is_some() && is_loose(name);
        Ok(Some(Found { index: told.index, link, learns: told.learning, is_whole }))
    }
}

impl WriteLink for VxlanDriver {
    type Link = VxlanLink;
    const KIND: &str = "VXLAN link";

    fn put(&mut self, name: &str, wanted: &VxlanLink) -> io::Result<()> {
        let found = self.look(name)?;
        let kept = found.filter(|found| !found.learns && wanted.can_be_made_of(&found.link));
        let found = match kept {
            Some(found) => found,
            None => {
                self.rtnl.delete_link(name)?;
                self.make(name, wanted)?;
                let vanished =
                    || io::Error::new(io::ErrorKind::NotFound, format!("{name} vanished after creation"));
                self.look(name)?.ok_or_else(vanished)?
            }
        };
        self.complete(name, wanted, &found)
    }

    fn delete(&mut self, name: &str) -> io::Result<()> {
        self.rtnl.delete_link(name).map(drop)
    }
}

impl Driver for VxlanDriver {
    type Key = String;
    type Value = VxlanLink;

    /// A link that is down, strict, or has more than one address, counts as one to be written again.
    fn list(&mut self) -> io::Result<BTreeMap<String, VxlanLink>> {
        let mut links = BTreeMap::new();
        for name in self.names.clone() {
            if let Some(found) = self.look(&name)? {
                // Nobody wishes for this number, so it differs from whatever is wanted.
                let vni = if found.is_whole { found.link.vni } else { u32::MAX };
                links.insert(name, VxlanLink { vni, ..found.link });
            }
        }
        Ok(links)
    }

    fn apply(&mut self, puts: &[(String, VxlanLink)], deletes: &[String]) -> Failures<String> {
        self.write_all(puts, deletes)
    }

    fn matches(desired: &VxlanLink, actual: &VxlanLink) -> bool {
        desired.is_realised_by(actual)
    }
}

/// What one message says of a link.
#[derive(Default)]
struct Told {
    index: u32,
    up: bool,
    mtu: u32,
    mac: [u8; 6],
    vni: u32,
    port: u16,
    parent: u32,
    local: Option<IpAddr>,
    learning: bool,
}

impl Told {
    fn parse(message: &Message<'_>) -> Option<Self> {
        let link = crate::link::parse_link(message)?;
        let (index, up, mtu) = (link.index, link.up, link.mtu);
        let mut told = Self { index, up, mtu, mac: link.mac.unwrap_or_default(), ..Self::default() };
        let info = message.attributes(IFINFO).find(|attribute| attribute.kind == IFLA_LINKINFO);
        let mut is_vxlan = false;
        for attribute in info.into_iter().flat_map(|info| info.nested()) {
            match attribute.kind {
                IFLA_INFO_KIND => is_vxlan = attribute.string() == "vxlan",
                IFLA_INFO_DATA if is_vxlan => attribute.nested().for_each(|one| told.take(&one)),
                _ => {}
            }
        }
        Some(told)
    }

    fn take(&mut self, attribute: &Attribute<'_>) {
        match attribute.kind {
            IFLA_VXLAN_ID => self.vni = attribute.u32().unwrap_or_default(),
            IFLA_VXLAN_LINK => self.parent = attribute.u32().unwrap_or_default(),
            IFLA_VXLAN_LOCAL | IFLA_VXLAN_LOCAL6 => self.local = attribute.address(),
            IFLA_VXLAN_LEARNING => self.learning = attribute.u8() != Some(0),
            IFLA_VXLAN_PORT => self.port = attribute.be16().unwrap_or_default(),
            _ => {}
        }
    }
}
