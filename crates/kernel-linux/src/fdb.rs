//! Forwarding entries of VXLAN links: behind which node an Ethernet address is.

use std::collections::BTreeMap;
use std::io;

use kernel::{Driver, Failures, FdbEntry, FdbKey};

use crate::link_entries::LinkEntries;
use crate::nl::{Batch, Message, named};
use crate::rtnl::*;

/// The entry is of the link itself, not of a bridge that it is a port of.
const NTF_SELF: u8 = 2;

const ENTRIES: LinkEntries<FdbKey, FdbEntry> =
    LinkEntries { interface: |key| &key.interface, describe, write };

/// Writes permanent entries of the VXLAN links with given names. Every entry there is ours.
pub struct FdbDriver {
    rtnl: Rtnl,
    names: Vec<String>,
}

impl FdbDriver {
    /// Owns the entries of the links with these names.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(names: &[&str]) -> io::Result<Self> {
        Ok(Self { rtnl: Rtnl::open()?, names: names.iter().map(ToString::to_string).collect() })
    }
}

impl Driver for FdbDriver {
    type Key = FdbKey;
    type Value = FdbEntry;

    fn list(&mut self) -> io::Result<BTreeMap<FdbKey, FdbEntry>> {
        let mut entries = BTreeMap::new();
        for name in self.names.clone() {
            let Some(link) = self.rtnl.link_by_name(&name)? else { continue };
            let index = link.index;
            let dumped = self.rtnl.socket.dump(
                libc::RTM_GETNEIGH,
                |w| w.bytes(&ndmsg(libc::AF_BRIDGE as u8, index, 0)),
                // Without strict checking the kernel tells of all links.
                |found: &mut Vec<_>, message| found.extend(parse(message).filter(|(on, ..)| *on == index)),
            );
            let found: Vec<(u32, [u8; 6], FdbEntry)> =
                dumped.map_err(|e| named(format!("list forwarding entries of {name}"), e))?;
            let keyed =
                found.into_iter().map(|(_, mac, entry)| (FdbKey { interface: name.clone(), mac }, entry));
            entries.extend(keyed);
        }
        Ok(entries)
    }

    fn apply(&mut self, puts: &[(FdbKey, FdbEntry)], deletes: &[FdbKey]) -> Failures<FdbKey> {
        ENTRIES.apply(&mut self.rtnl, puts, deletes)
    }
}

fn describe(key: &FdbKey) -> String {
    let octets: Vec<_> = key.mac.iter().map(|octet| format!("{octet:02x}")).collect();
    format!("forwarding entry {} on {}", octets.join(":"), key.interface)
}

fn write(batch: &mut Batch, key: &FdbKey, index: u32, value: Option<&FdbEntry>) {
    let mut header = ndmsg(libc::AF_BRIDGE as u8, index, NUD_PERMANENT | NUD_NOARP);
    header[10] = NTF_SELF;
    let (kind, flags) = match value {
        Some(_) => (libc::RTM_NEWNEIGH, libc::NLM_F_CREATE | libc::NLM_F_REPLACE),
        None => (libc::RTM_DELNEIGH, 0),
    };
    batch.push(kind, flags as u16, |w| {
        w.bytes(&header);
        w.attribute(NDA_LLADDR, &key.mac);
        if let Some(entry) = value {
            w.address(NDA_DST, entry.destination);
        }
    });
}

fn parse(message: &Message<'_>) -> Option<(u32, [u8; 6], FdbEntry)> {
    if message.kind != libc::RTM_NEWNEIGH {
        return None;
    }
    let index = u32::from_ne_bytes(message.body.get(4..8)?.try_into().ok()?);
    let (mut mac, mut destination) = (None, None);
    for attribute in message.attributes(NDMSG) {
        match attribute.kind {
            NDA_LLADDR => mac = attribute.payload.try_into().ok(),
            NDA_DST => destination = attribute.address(),
            _ => {}
        }
    }
    Some((index, mac?, FdbEntry { destination: destination? }))
}
