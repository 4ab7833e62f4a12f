//! WireGuard links as entries of a table: the link, its private key and port, MTU and only address.

use std::collections::BTreeMap;
use std::io;

use kernel::{Driver, Failures, WireguardLink, WireguardLinks, wireguard_link_name};
use model::{Family, WireguardKey};

use crate::nl::{Message, errno, named};
use crate::rtnl::*;
use crate::tunnel_link::{WriteLink, held_address, is_loose, loosen};
use crate::wireguard_peers::{Device, Wireguard};

const KIND: &str = "wireguard";

/// Writes WireGuard links whole. A link that has no private key gets one; nobody ever reads it. Deleting deletes the
/// link with its key.
pub struct WireguardDriver {
    rtnl: Rtnl,
    wireguard: Wireguard,
    keys: BTreeMap<String, WireguardKey>,
}

/// A link as it is.
struct Found {
    index: u32,
    up: bool,
    mtu: u32,
    is_wireguard: bool,
}

impl WireguardDriver {
    /// Owns `wireguard.cali` and `wg-v6.cali`.
    ///
    /// # Errors
    /// What the system says.
    pub fn new() -> io::Result<Self> {
        Ok(Self { rtnl: Rtnl::open()?, wireguard: Wireguard::open()?, keys: BTreeMap::new() })
    }

    fn make(&mut self, name: &str) -> io::Result<()> {
        let result = self.rtnl.one(libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL, |w| {
            w.bytes(&ifinfo(0, 0, 0));
            w.string(IFLA_IFNAME, name);
            w.group(IFLA_LINKINFO, |w| w.string(IFLA_INFO_KIND, KIND));
        });
        match result {
            Err(error) if errno(&error) == Some(libc::EOPNOTSUPP) => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this kernel has no WireGuard; load the module `wireguard` (Linux 5.6 has it)",
            )),
            result => result.map_err(|e| named("create the link", e)),
        }
    }

    /// The link as it is, if it is there. One that is down, strict, keyless, of another kind, or has more than one
    /// address, counts as one to be written again.
    fn actual(&mut self, name: &str) -> io::Result<Option<WireguardLink>> {
        self.keys.remove(name);
        let Some(found) = self.rtnl.look_up(name, parse)? else { return Ok(None) };
        let broken = WireguardLink { port: 0, mtu: Some(found.mtu), address: None };
        if !found.is_wireguard {
            return Ok(Some(broken));
        }
        let Device { key, port } = self.wireguard.device(name)?;
        let family = family_of(name);
        let present = self.rtnl.addresses_of(found.index, family)?;
        let Some(address) = held_address(family, &present) else { return Ok(Some(broken)) };
        self.keys.extend(key.map(|key| (name.to_owned(), key)));
        let is_whole = found.up && key.is_some() && is_loose(name);
        Ok(Some(if is_whole { WireguardLink { port, mtu: Some(found.mtu), address } } else { broken }))
    }
}

impl WriteLink for WireguardDriver {
    type Link = WireguardLink;
    const KIND: &str = "WireGuard link";

    fn put(&mut self, name: &str, wanted: &WireguardLink) -> io::Result<()> {
        let mut found = self.rtnl.look_up(name, parse)?;
        if found.as_ref().is_none_or(|found| !found.is_wireguard) {
            self.keys.remove(name);
            self.rtnl.delete_link(name)?;
            self.make(name)?;
            found = self.rtnl.look_up(name, parse)?;
        }
        let vanished = || io::Error::new(io::ErrorKind::NotFound, format!("{name} vanished after creation"));
        let found = found.ok_or_else(vanished)?;
        let device = self.wireguard.device(name)?;
        let private = device.key.is_none().then(random_key).transpose()?;
        if private.is_some() || device.port != wanted.port {
            self.wireguard.set_device(name, private.as_ref(), wanted.port)?;
        }
        if let Some(mtu) = wanted.mtu.filter(|mtu| found.mtu != *mtu) {
            self.rtnl.set_mtu(found.index, mtu)?;
        }
        loosen(name)?;
        self.rtnl.set_up(found.index, true)?;
        self.rtnl.hold_address(found.index, family_of(name), wanted.address)?;
        let key = self.wireguard.device(name)?.key.ok_or_else(|| io::Error::other("the link has no key"))?;
        self.keys.insert(name.to_owned(), key);
        Ok(())
    }

    fn delete(&mut self, name: &str) -> io::Result<()> {
        self.keys.remove(name);
        self.rtnl.delete_link(name).map(drop)
    }
}

impl Driver for WireguardDriver {
    type Key = String;
    type Value = WireguardLink;

    fn list(&mut self) -> io::Result<BTreeMap<String, WireguardLink>> {
        let mut links = BTreeMap::new();
        for name in Family::ALL.map(wireguard_link_name) {
            links.extend(self.actual(name)?.map(|link| (name.to_owned(), link)));
        }
        Ok(links)
    }

    fn apply(&mut self, puts: &[(String, WireguardLink)], deletes: &[String]) -> Failures<String> {
        self.write_all(puts, deletes)
    }

    fn matches(desired: &WireguardLink, actual: &WireguardLink) -> bool {
        desired.is_realised_by(actual)
    }
}

impl WireguardLinks for WireguardDriver {
    fn keys(&self) -> BTreeMap<String, WireguardKey> {
        self.keys.clone()
    }
}

fn parse(message: &Message<'_>) -> Option<Found> {
    let link = crate::link::parse_link(message)?;
    let info = message.attributes(IFINFO).find(|attribute| attribute.kind == IFLA_LINKINFO);
    let mut kinds = info.into_iter().flat_map(|info| info.nested());
    let is_wireguard = kinds.any(|one| one.kind == IFLA_INFO_KIND && one.string() == KIND);
    Some(Found { index: link.index, up: link.up, mtu: link.mtu, is_wireguard })
}

/// A private key; the kernel sets the bits of it that Curve25519 wants (RFC 7748 §5).
fn random_key() -> io::Result<[u8; 32]> {
    let mut key = [0_u8; 32];
    // SAFETY: the pointer and length describe `key`.
    let got = unsafe { libc::getrandom(key.as_mut_ptr().cast(), key.len(), 0) };
    match usize::try_from(got) {
        Ok(length) if length == key.len() => Ok(key),
        _ => Err(named("make a key", io::Error::last_os_error())),
    }
}

fn family_of(name: &str) -> Family {
    if name == wireguard_link_name(Family::V6) { Family::V6 } else { Family::V4 }
}
