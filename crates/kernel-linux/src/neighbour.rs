//! Permanent neighbour entries on interfaces of ours.

use std::collections::{BTreeMap, HashMap};
use std::io;

use kernel::{Driver, Failures, Neighbour, NeighbourKey};
use model::Family;

use crate::link_entries::LinkEntries;
use crate::nl::{Batch, Message, named};
use crate::rtnl::*;

const ENTRIES: LinkEntries<NeighbourKey, Neighbour> = LinkEntries {
    interface: |key| &key.interface,
    describe: |key| format!("neighbour {} on {}", key.address, key.interface),
    write,
};

/// Writes permanent neighbours on links whose name begins with a given prefix; others' are left alone.
pub struct NeighbourDriver {
    rtnl: Rtnl,
    prefixes: Vec<String>,
}

impl NeighbourDriver {
    /// Owns the permanent entries of links whose name begins with one of `prefixes`, as `cali`.
    pub fn new(prefixes: Vec<String>) -> io::Result<Self> {
        Ok(Self { rtnl: Rtnl::open()?, prefixes })
    }

    /// The port of its socket, by which [`crate::events::Events`] knows what it did.
    ///
    /// # Errors
    /// What the system says.
    pub fn port(&self) -> io::Result<u32> {
        self.rtnl.socket.port()
    }

    /// From now on entries of links whose name begins with one of these are ours.
    pub fn set_prefixes(&mut self, prefixes: Vec<String>) {
        self.prefixes = prefixes;
    }
}

impl Driver for NeighbourDriver {
    type Key = NeighbourKey;
    type Value = Neighbour;

    fn list(&mut self) -> io::Result<BTreeMap<NeighbourKey, Neighbour>> {
        let links = self.rtnl.bare_links()?;
        let prefixes = &self.prefixes;
        let names: HashMap<u32, &str> = links
            .values()
            .filter(|link| prefixes.iter().any(|prefix| link.name.starts_with(prefix.as_str())))
            .map(|link| (link.index, link.name.as_str()))
            .collect();
        self.rtnl
            .socket
            .dump(
                libc::RTM_GETNEIGH,
                |w| w.bytes(&ndmsg(0, 0, 0)),
                |found: &mut BTreeMap<_, _>, message| {
                    if let Some((index, address, neighbour)) = parse(message)
                        && let Some(name) = names.get(&index)
                    {
                        let key = NeighbourKey { interface: (*name).to_owned(), address };
                        found.insert(key, neighbour);
                    }
                },
            )
            .map_err(|e| named("list neighbours", e))
    }

    fn apply(
        &mut self,
        puts: &[(NeighbourKey, Neighbour)],
        deletes: &[NeighbourKey],
    ) -> Failures<NeighbourKey> {
        ENTRIES.apply(&mut self.rtnl, puts, deletes)
    }
}

/// The link that an entry stands on does not exist.
pub(crate) fn no_link(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("there is no link {name}"))
}

/// Nothing could be done: every entry gets a copy of the error.
pub(crate) fn fail_all<'a, K: Clone + 'a>(
    keys: impl Iterator<Item = &'a K>,
    error: &io::Error,
) -> Failures<K> {
    keys.map(|key| (key.clone(), io::Error::new(error.kind(), error.to_string()))).collect()
}

fn write(batch: &mut Batch, key: &NeighbourKey, index: u32, value: Option<&Neighbour>) {
    let header = ndmsg(family_number(Family::of(key.address)), index, NUD_PERMANENT);
    let (kind, flags) = match value {
        Some(_) => (libc::RTM_NEWNEIGH, libc::NLM_F_CREATE | libc::NLM_F_REPLACE),
        None => (libc::RTM_DELNEIGH, 0),
    };
    batch.push(kind, flags as u16, |w| {
        w.bytes(&header);
        w.address(NDA_DST, key.address);
        if let Some(neighbour) = value {
            w.attribute(NDA_LLADDR, &neighbour.mac);
        }
    });
}

fn parse(message: &Message<'_>) -> Option<(u32, std::net::IpAddr, Neighbour)> {
    if message.kind != libc::RTM_NEWNEIGH {
        return None;
    }
    let index = u32::from_ne_bytes(message.body.get(4..8)?.try_into().ok()?);
    let state = u16::from_ne_bytes(message.body.get(8..10)?.try_into().ok()?);
    if state & NUD_PERMANENT == 0 {
        return None;
    }
    let mut address = None;
    let mut mac = None;
    for attribute in message.attributes(NDMSG) {
        match attribute.kind {
            NDA_DST => address = attribute.address(),
            NDA_LLADDR => mac = attribute.payload.try_into().ok(),
            _ => {}
        }
    }
    Some((index, address?, Neighbour { mac: mac? }))
}
