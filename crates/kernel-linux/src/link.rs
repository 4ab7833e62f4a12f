//! Links and their addresses.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use kernel::Link;
use model::Family;

use crate::nl::{Message, Writer, errno, named};
use crate::rtnl::*;
use crate::tunnel_link::IPV4_DUMMY;

/// The link group into which links are put that are to be deleted in the background.
pub const RETIRED_GROUP: u32 = 0xca11;

impl Rtnl {
    /// All links with their addresses.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        let mut links = self.bare_links()?;
        for (index, address, length) in self.addresses()? {
            if let Some(link) = links.get_mut(&index) {
                link.addresses.push((address, length));
            }
        }
        Ok(links.into_values().collect())
    }

    /// All links by index, without addresses.
    pub(crate) fn bare_links(&mut self) -> io::Result<BTreeMap<u32, Link>> {
        self.socket
            .dump(
                libc::RTM_GETLINK,
                |w| {
                    w.bytes(&ifinfo(0, 0, 0));
                    w.u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
                },
                |links: &mut BTreeMap<u32, Link>, message| {
                    links.extend(parse_link(message).map(|link| (link.index, link)));
                },
            )
            .map_err(|e| named("list links", e))
    }

    /// One link, without addresses; `None` when there is none of this name.
    pub fn link_by_name(&mut self, name: &str) -> io::Result<Option<Link>> {
        self.link(0, Some(name)).map_err(|e| named(format!("look up link {name}"), e))
    }

    /// One link, without addresses.
    pub fn link_by_index(&mut self, index: u32) -> io::Result<Option<Link>> {
        self.link(index, None).map_err(|e| named(format!("look up link {index}"), e))
    }

    fn link(&mut self, index: u32, name: Option<&str>) -> io::Result<Option<Link>> {
        if let Some(name) = name {
            check_name(name)?;
        }
        let mut found = None;
        let result = self.socket.request(
            libc::RTM_GETLINK,
            0,
            |w| {
                w.bytes(&ifinfo(index, 0, 0));
                w.u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
                if let Some(name) = name {
                    w.string(IFLA_IFNAME, name);
                }
            },
            |message| found = parse_link(message).or(found.take()),
        );
        match result {
            Ok(()) => Ok(found),
            Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The far end of a veth whose end in this namespace is `name`, without its addresses. `None` when there is no such
    /// link, or its far end is not in another namespace.
    ///
    /// The kernel tells of links in other namespaces by the number that it gave the namespace (`IFLA_TARGET_NETNSID`,
    /// since Linux 4.20), so nobody has to find the namespace's file.
    pub fn far_end(&mut self, name: &str) -> io::Result<Option<Link>> {
        let Some(link) = self.link_by_name(name)? else { return Ok(None) };
        match self.far_place(link.index)? {
            Some((index, namespace)) => self.link_elsewhere(index, namespace),
            None => Ok(None),
        }
    }

    /// Where the far end of a veth is: its index there, and the number of its namespace.
    pub(crate) fn far_place(&mut self, index: u32) -> io::Result<Option<(u32, u32)>> {
        let mut place = None;
        let near = |w: &mut Writer<'_>| w.bytes(&ifinfo(index, 0, 0));
        let read = |message: &Message<'_>| {
            let word = |kind: u16| message.attributes(IFINFO).find(|a| a.kind == kind).and_then(|a| a.u32());
            place = word(libc::IFLA_LINK).zip(word(libc::IFLA_LINK_NETNSID));
        };
        let what = || format!("look up the far end of link {index}");
        self.socket.request(libc::RTM_GETLINK, 0, near, read).map_err(|e| named(what(), e))?;
        Ok(place)
    }

    /// A link of the namespace with this number, without its addresses.
    pub(crate) fn link_elsewhere(&mut self, index: u32, namespace: u32) -> io::Result<Option<Link>> {
        let mut found = None;
        let far = |w: &mut Writer<'_>| {
            w.bytes(&ifinfo(index, 0, 0));
            w.u32(IFLA_TARGET_NETNSID, namespace);
        };
        let result = self.socket.request(libc::RTM_GETLINK, 0, far, |message| found = parse_link(message));
        match result {
            Ok(()) => Ok(found),
            Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(named(format!("look up link {index} of namespace {namespace}"), error)),
        }
    }

    /// Sets a link administratively up or down.
    pub fn set_up(&mut self, index: u32, up: bool) -> io::Result<()> {
        let flags = if up { IFF_UP } else { 0 };
        self.one(libc::RTM_SETLINK, 0, |w| w.bytes(&ifinfo(index, flags, IFF_UP)))
            .map_err(|e| named(format!("set link {index} {}", if up { "up" } else { "down" }), e))
    }

    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> io::Result<()> {
        self.one(libc::RTM_SETLINK, 0, |w| {
            w.bytes(&ifinfo(index, 0, 0));
            w.u32(IFLA_MTU, mtu);
        })
        .map_err(|e| named(format!("set MTU {mtu} on link {index}"), e))
    }

    pub fn set_mac(&mut self, index: u32, mac: [u8; 6]) -> io::Result<()> {
        self.one(libc::RTM_SETLINK, 0, |w| {
            w.bytes(&ifinfo(index, 0, 0));
            w.attribute(IFLA_ADDRESS, &mac);
        })
        .map_err(|e| named(format!("set the Ethernet address of link {index}"), e))
    }

    /// Sets the alias (`ip link set alias`), at most 255 bytes.
    pub fn set_alias(&mut self, index: u32, alias: &str) -> io::Result<()> {
        self.one(libc::RTM_SETLINK, 0, |w| {
            w.bytes(&ifinfo(index, 0, 0));
            w.attribute(IFLA_IFALIAS, alias.as_bytes());
        })
        .map_err(|e| named(format!("set alias {alias:?} on link {index}"), e))
    }

    /// Deletes a link and waits for it (some 40 ms); `retire_link` is for hot paths. `false`: there was none.
    pub fn delete_link(&mut self, name: &str) -> io::Result<bool> {
        check_name(name)?;
        let result = self.one(libc::RTM_DELLINK, 0, |w| {
            w.bytes(&ifinfo(0, 0, 0));
            w.string(IFLA_IFNAME, name);
        });
        match result {
            Ok(()) => Ok(true),
            Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(false),
            Err(error) => Err(named(format!("delete link {name}"), error)),
        }
    }

    /// Takes a link out of service at once (down, and into the group of links to be deleted) without waiting
    /// for its deletion, which is `reap_retired`'s. `false`: there was none.
    pub fn retire_link(&mut self, name: &str) -> io::Result<bool> {
        check_name(name)?;
        let result = self.one(libc::RTM_SETLINK, 0, |w| {
            w.bytes(&ifinfo(0, 0, IFF_UP));
            w.string(IFLA_IFNAME, name);
            w.u32(IFLA_GROUP, RETIRED_GROUP);
        });
        match result {
            Ok(()) => Ok(true),
            Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(false),
            Err(error) => Err(named(format!("retire link {name}"), error)),
        }
    }

    /// Deletes all retired links at once (some 20 ms however many they are). `false`: there were none.
    pub fn reap_retired(&mut self) -> io::Result<bool> {
        let result = self.one(libc::RTM_DELLINK, 0, |w| {
            w.bytes(&ifinfo(0, 0, 0));
            w.u32(IFLA_GROUP, RETIRED_GROUP);
        });
        match result {
            Ok(()) => Ok(true),
            Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(false),
            Err(error) => Err(named("delete retired links", error)),
        }
    }

    /// All addresses: link index, address, prefix length.
    pub fn addresses(&mut self) -> io::Result<Vec<(u32, IpAddr, u8)>> {
        self.socket
            .dump(
                libc::RTM_GETADDR,
                |w| w.bytes(&ifaddr(0, 0, 0, 0)),
                |addresses: &mut Vec<_>, message| addresses.extend(parse_address(message)),
            )
            .map_err(|e| named("list addresses", e))
    }

    /// Adds an address, or leaves it as it is. IPv6 addresses are usable at once (no duplicate detection); with
    /// [`IPV4_DUMMY`] as its source nothing leaves the machine.
    pub fn add_address(&mut self, index: u32, address: IpAddr, length: u8) -> io::Result<()> {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        self.one(libc::RTM_NEWADDR, flags, |w| write_address(w, index, address, length))
            .map_err(|e| named(format!("add address {address}/{length} to link {index}"), e))
    }

    /// Deletes an address; one that is not there counts as deleted.
    pub fn delete_address(&mut self, index: u32, address: IpAddr, length: u8) -> io::Result<()> {
        let result = self.one(libc::RTM_DELADDR, 0, |w| write_address(w, index, address, length));
        match result {
            Err(error) if errno(&error) != Some(libc::EADDRNOTAVAIL) => {
                Err(named(format!("delete address {address}/{length} from link {index}"), error))
            }
            _ => Ok(()),
        }
    }

    /// Addresses of one family on a link, without link-local ones.
    pub fn addresses_of(&mut self, index: u32, family: Family) -> io::Result<Vec<(IpAddr, u8)>> {
        let link_local = |address: IpAddr| matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        let all = self.addresses()?.into_iter();
        let of_link = all.filter(|(on, address, _)| {
            *on == index && Family::of(*address) == family && !link_local(*address)
        });
        Ok(of_link.map(|(_, address, length)| (address, length)).collect())
    }

    /// Makes `wanted` (as /32 or /128) the only address of its family on a link, beside link-local ones; `None`
    /// removes all. Returns whether anything changed.
    ///
    /// A new address comes before the old one goes: with its last address a link loses its routes.
    pub fn set_only_address(
        &mut self,
        index: u32,
        family: Family,
        wanted: Option<IpAddr>,
    ) -> io::Result<bool> {
        let wanted = wanted.map(|address| (address, family.bits()));
        let present = self.addresses_of(index, family)?;
        let missing = wanted.filter(|wanted| !present.contains(wanted));
        if let Some((address, length)) = missing {
            self.add_address(index, address, length)?;
        }
        let mut changed = missing.is_some();
        for (address, length) in present.into_iter().filter(|present| Some(*present) != wanted) {
            self.delete_address(index, address, length)?;
            changed = true;
        }
        Ok(changed)
    }

    /// Makes sure that the IPIP tunnel link exists (`tunl0` is the fallback device that the module makes).
    ///
    /// Fails with `Unsupported` naming the module when the kernel has none.
    pub fn ensure_ipip(&mut self, name: &str) -> io::Result<Link> {
        if let Some(link) = self.link_by_name(name)? {
            return Ok(link);
        }
        let result = self.one(libc::RTM_NEWLINK, libc::NLM_F_CREATE, |w| {
            w.bytes(&ifinfo(0, 0, 0));
            w.string(IFLA_IFNAME, name);
            w.group(IFLA_LINKINFO, |w| w.string(IFLA_INFO_KIND, "ipip"));
        });
        // Loading the module makes tunl0 by itself, and then creating it fails: look before judging.
        if let Some(link) = self.link_by_name(name)? {
            return Ok(link);
        }
        match result {
            Err(error) if matches!(errno(&error), Some(libc::EOPNOTSUPP | libc::ENOENT)) => {
                Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    format!("cannot create {name}: this kernel has no IPIP; load the module `ipip`"),
                ))
            }
            Err(error) => Err(named(format!("create IPIP link {name}"), error)),
            Ok(()) => Err(io::Error::new(io::ErrorKind::NotFound, format!("{name} vanished after creation"))),
        }
    }
}

/// Refuses names that the kernel would refuse, before they are cut or misread.
pub(crate) fn check_name(name: &str) -> io::Result<()> {
    let bad = name.is_empty() || name.len() > 15 || name.bytes().any(|b| b == b'/' || b <= b' ' || b == 0x7f);
    if bad || name == "." || name == ".." {
        let text = format!("{name:?} is no interface name (1 to 15 bytes, no slash or space)");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Ok(())
}

pub(crate) fn write_address(w: &mut crate::nl::Writer<'_>, index: u32, address: IpAddr, length: u8) {
    let scope = if address == IpAddr::V4(IPV4_DUMMY) { libc::RT_SCOPE_HOST } else { libc::RT_SCOPE_UNIVERSE };
    w.bytes(&ifaddr(family_number(Family::of(address)), length, scope, index));
    w.address(IFA_LOCAL, address);
    w.address(IFA_ADDRESS, address);
    if address.is_ipv6() {
        w.u32(IFA_FLAGS, IFA_F_NODAD);
    }
}

pub(crate) fn parse_link(message: &Message<'_>) -> Option<Link> {
    if message.kind != libc::RTM_NEWLINK && message.kind != libc::RTM_DELLINK {
        return None;
    }
    let word = |at: usize| Some(u32::from_ne_bytes(message.body.get(at..at + 4)?.try_into().ok()?));
    let mut link = Link {
        index: word(4)?,
        name: String::new(),
        up: word(8)? & IFF_UP != 0,
        mtu: 0,
        mac: None,
        alias: None,
        addresses: Vec::new(),
    };
    for attribute in message.attributes(IFINFO) {
        match attribute.kind {
            IFLA_IFNAME => link.name = attribute.string(),
            IFLA_MTU => link.mtu = attribute.u32()?,
            IFLA_ADDRESS => link.mac = attribute.payload.try_into().ok(),
            IFLA_IFALIAS => link.alias = Some(attribute.string()),
            _ => {}
        }
    }
    Some(link)
}

pub(crate) fn parse_address(message: &Message<'_>) -> Option<(u32, IpAddr, u8)> {
    if message.kind != libc::RTM_NEWADDR {
        return None;
    }
    let length = *message.body.get(1)?;
    let index = u32::from_ne_bytes(message.body.get(4..8)?.try_into().ok()?);
    let mut peer = None;
    let mut local = None;
    for attribute in message.attributes(IFADDR) {
        match attribute.kind {
            IFA_LOCAL => local = attribute.address(),
            IFA_ADDRESS => peer = attribute.address(),
            _ => {}
        }
    }
    Some((index, local.or(peer)?, length))
}
