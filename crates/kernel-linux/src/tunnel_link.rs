//! What the links of all tunnels have in common: they are looked up by name, hold one address of a family, filter the
//! reverse path loosely, and are written one by one.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use kernel::Failures;
use model::Family;

use crate::nl::{Message, errno, named};
use crate::rtnl::*;
use crate::sysctl;

/// `rp_filter` in loose mode (RFC 3704 §2.4): while the way to other nodes is switched, the two directions of a flow
/// take different ways, and strict mode would drop one.
const LOOSE: &str = "2";

/// The IPv4 dummy address (RFC 7600 §5.1), of scope host: nothing leaves the machine with it as its source.
pub(crate) const IPV4_DUMMY: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);

/// Sets the link's `rp_filter` to loose mode, unless it is.
pub(crate) fn loosen(name: &str) -> io::Result<()> {
    if is_loose(name) { Ok(()) } else { sysctl::write(&rp_filter(name), LOOSE) }
}

/// Is the link's `rp_filter` in loose mode?
pub(crate) fn is_loose(name: &str) -> bool {
    sysctl::read(&rp_filter(name)).is_ok_and(|value| value == LOOSE)
}

fn rp_filter(name: &str) -> String {
    format!("net/ipv4/conf/{name}/rp_filter")
}

/// What a link that has these addresses of a family holds: its own, or none yet. `None`: it is to be written again.
pub(crate) fn held_address(family: Family, present: &[(IpAddr, u8)]) -> Option<Option<IpAddr>> {
    match present {
        [] if family == Family::V6 => Some(None),
        [(IpAddr::V4(IPV4_DUMMY), 32)] => Some(None),
        [(address, length)] if *length == family.bits() => Some(Some(*address)),
        _ => None,
    }
}

impl Rtnl {
    /// As [`Rtnl::set_only_address`], with [`IPV4_DUMMY`] where a link has no IPv4 address yet: the kernel's loose
    /// reverse path check refuses what comes in by a link without any, and others may send before this node does.
    pub(crate) fn hold_address(
        &mut self,
        index: u32,
        family: Family,
        wanted: Option<IpAddr>,
    ) -> io::Result<()> {
        let dummy = (family == Family::V4).then_some(IpAddr::V4(IPV4_DUMMY));
        self.set_only_address(index, family, wanted.or(dummy)).map(drop)
    }

    /// What `parse` makes of the link of this name; `None` when there is no such link.
    pub(crate) fn look_up<T>(
        &mut self,
        name: &str,
        parse: impl Fn(&Message<'_>) -> Option<T>,
    ) -> io::Result<Option<T>> {
        let mut found = None;
        let result = self.socket.request(
            libc::RTM_GETLINK,
            0,
            |w| {
                w.bytes(&ifinfo(0, 0, 0));
                w.u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
                w.string(IFLA_IFNAME, name);
            },
            |message| found = parse(message).or(found.take()),
        );
        match result {
            Ok(()) => Ok(found),
            Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(named(format!("look up link {name}"), error)),
        }
    }
}

/// Writes links of one kind, each by its name.
pub(crate) trait WriteLink {
    type Link;
    /// As it stands in errors before the name.
    const KIND: &'static str;

    fn put(&mut self, name: &str, wanted: &Self::Link) -> io::Result<()>;
    fn delete(&mut self, name: &str) -> io::Result<()>;

    /// Writes all; one that fails stops no other.
    fn write_all(&mut self, puts: &[(String, Self::Link)], deletes: &[String]) -> Failures<String> {
        let mut failures = Vec::new();
        let mut note = |name: &String, result: io::Result<()>| {
            if let Err(error) = result {
                failures.push((name.clone(), named(format!("{} {name}", Self::KIND), error)));
            }
        };
        puts.iter().for_each(|(name, wanted)| note(name, self.put(name, wanted)));
        deletes.iter().for_each(|name| note(name, self.delete(name)));
        failures
    }
}
