//! Nexthop objects that carry our protocol number and a number of our range.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;

use kernel::{Driver, Failures, NextHop, NexthopId, NexthopObject};
use model::Family;

use crate::neighbour::{fail_all, no_link};
use crate::nl::{Batch, Message, Writer, errno, named};
use crate::rtnl::*;

/// Objects that go out in one send.
const BATCH: usize = 512;

/// Writes nexthop objects.
pub struct NexthopDriver {
    rtnl: Rtnl,
    protocol: u8,
}

impl NexthopDriver {
    /// Objects are ours when they carry this protocol number, as `PROTO_BIRD`.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(protocol: u8) -> io::Result<Self> {
        Ok(Self { rtnl: Rtnl::open()?, protocol })
    }

    /// The port of its socket, by which [`crate::RouteEvents`] knows what it did.
    ///
    /// # Errors
    /// What the system says.
    pub fn port(&self) -> io::Result<u32> {
        self.rtnl.socket.port()
    }

    fn try_apply(
        &mut self,
        puts: &[(NexthopId, NexthopObject)],
        deletes: &[NexthopId],
    ) -> io::Result<Failures<NexthopId>> {
        let interfaces = puts.iter().filter_map(|(_, object)| match object {
            NexthopObject::Way(hop) => hop.interface.as_deref(),
            NexthopObject::Group(_) => None,
        });
        let indexes = self.rtnl.indexes(interfaces)?;
        let mut failures = Vec::new();
        for chunk in puts.chunks(BATCH) {
            let mut batch = Batch::new();
            let mut ids = Vec::with_capacity(chunk.len());
            for (id, object) in chunk {
                if let Err(error) = check(object, &indexes) {
                    failures.push((*id, named(format!("nexthop {id}"), error)));
                    continue;
                }
                let flags = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
                batch.push(RTM_NEWNEXTHOP, flags, |w| write_put(w, *id, object, self.protocol, &indexes));
                ids.push(*id);
            }
            for (index, error) in self.rtnl.socket.execute(&mut batch)? {
                failures.push((ids[index], named(format!("nexthop {}", ids[index]), error)));
            }
        }
        // Groups have the greater numbers, and go before what they are made of.
        let deletes: Vec<NexthopId> = deletes.iter().rev().copied().collect();
        for chunk in deletes.chunks(BATCH) {
            let mut batch = Batch::new();
            for id in chunk {
                batch.push(RTM_DELNEXTHOP, 0, |w| write_id(w, *id));
            }
            for (index, error) in self.rtnl.socket.execute(&mut batch)? {
                if !is_absent(&error) {
                    failures.push((chunk[index], named(format!("delete nexthop {}", chunk[index]), error)));
                }
            }
        }
        Ok(failures)
    }
}

impl Driver for NexthopDriver {
    type Key = NexthopId;
    type Value = NexthopObject;

    /// Fails with [`io::ErrorKind::Unsupported`] where the kernel has no such objects.
    fn list(&mut self) -> io::Result<BTreeMap<NexthopId, NexthopObject>> {
        let protocol = self.protocol;
        let told = self.rtnl.nexthops()?;
        let ours = told.into_iter().filter(|told| told.protocol == protocol);
        Ok(ours.filter_map(|told| Some((NexthopId::ours(told.id)?, told.object))).collect())
    }

    fn apply(&mut self, puts: &[(NexthopId, NexthopObject)], deletes: &[NexthopId]) -> Failures<NexthopId> {
        self.try_apply(puts, deletes)
            .unwrap_or_else(|error| fail_all(puts.iter().map(|(id, _)| id).chain(deletes), &error))
    }

    fn matches(desired: &NexthopObject, actual: &NexthopObject) -> bool {
        desired.is_realised_by(actual)
    }
}

/// An object as the kernel tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub id: u32,
    pub protocol: u8,
    pub object: NexthopObject,
}

impl Rtnl {
    /// All objects but those that stand for neither ways nor groups of ways.
    pub(crate) fn nexthops(&mut self) -> io::Result<Vec<Told>> {
        let links = self.bare_links()?;
        let name = |index: u32| links.get(&index).map(|link| link.name.as_str());
        let listed = self.socket.dump(
            RTM_GETNEXTHOP,
            |w| w.bytes(&nhmsg(libc::AF_UNSPEC as u8, 0, 0)),
            |objects: &mut Vec<Told>, message| objects.extend(parse(message, &name)),
        );
        listed.map_err(|error| match errno(&error) {
            // Linux before 5.3 does not know the message, others may not allow it.
            Some(libc::EOPNOTSUPP | libc::EINVAL) => {
                io::Error::new(io::ErrorKind::Unsupported, "the kernel has no nexthop objects")
            }
            _ => named("list nexthop objects", error),
        })
    }

    /// The ways that each object stands for.
    pub(crate) fn nexthop_ways(&mut self) -> io::Result<HashMap<u32, Vec<NextHop>>> {
        let told = self.nexthops()?;
        let way = |told: &Told| match &told.object {
            NexthopObject::Way(hop) => Some((told.id, vec![hop.clone()])),
            NexthopObject::Group(_) => None,
        };
        let mut ways: HashMap<u32, Vec<NextHop>> = told.iter().filter_map(way).collect();
        for group in &told {
            let NexthopObject::Group(members) = &group.object else { continue };
            let of_members = members.iter().filter_map(|id| ways.get(&id.number())).flatten().cloned();
            let of_members = of_members.collect();
            ways.insert(group.id, of_members);
        }
        Ok(ways)
    }
}

/// `struct nhmsg`.
fn nhmsg(family: u8, protocol: u8, flags: u8) -> [u8; NHMSG] {
    [family, 0, protocol, 0, flags, 0, 0, 0]
}

/// Refuses what cannot be said to the kernel, before it says something less clear.
fn check(object: &NexthopObject, indexes: &HashMap<String, u32>) -> io::Result<()> {
    let invalid = |text: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, text.to_owned()));
    match object {
        NexthopObject::Way(NextHop { gateway: None, .. }) => invalid("has no gateway"),
        NexthopObject::Way(NextHop { interface: None, .. }) => invalid("has no interface"),
        NexthopObject::Way(NextHop { interface: Some(name), .. }) if !indexes.contains_key(name) => {
            Err(no_link(name))
        }
        NexthopObject::Group(members) if members.is_empty() => invalid("is a group of none"),
        NexthopObject::Group(members) if members.len() > 256 => invalid("has more than 256 members"),
        _ => Ok(()),
    }
}

fn write_put(
    w: &mut Writer<'_>,
    id: NexthopId,
    object: &NexthopObject,
    protocol: u8,
    indexes: &HashMap<String, u32>,
) {
    match object {
        NexthopObject::Way(hop) => {
            let family = hop.gateway.map_or(libc::AF_UNSPEC as u8, |a| family_number(Family::of(a)));
            w.bytes(&nhmsg(family, protocol, if hop.onlink { RTNH_F_ONLINK } else { 0 }));
            w.u32(NHA_ID, id.number());
            if let Some(gateway) = hop.gateway {
                w.address(NHA_GATEWAY, gateway);
            }
            if let Some(index) = hop.interface.as_ref().and_then(|name| indexes.get(name)) {
                w.u32(NHA_OIF, *index);
            }
        }
        NexthopObject::Group(members) => {
            w.bytes(&nhmsg(libc::AF_UNSPEC as u8, protocol, 0));
            w.u32(NHA_ID, id.number());
            // `struct nexthop_grp`: a weight of zero means one.
            let entry = |id: &NexthopId| {
                let mut entry = [0; 8];
                entry[..4].copy_from_slice(&id.number().to_ne_bytes());
                entry
            };
            w.attribute(NHA_GROUP, &members.iter().flat_map(entry).collect::<Vec<u8>>());
        }
    }
}

fn write_id(w: &mut Writer<'_>, id: NexthopId) {
    w.bytes(&nhmsg(libc::AF_UNSPEC as u8, 0, 0));
    w.u32(NHA_ID, id.number());
}

/// An object of a message that tells of one, also of its end; `None` for what stands for neither ways nor groups.
pub(crate) fn parse<'n>(message: &Message<'_>, name: &impl Fn(u32) -> Option<&'n str>) -> Option<Told> {
    if message.kind != RTM_NEWNEXTHOP && message.kind != RTM_DELNEXTHOP {
        return None;
    }
    let header = message.body.get(..NHMSG)?;
    let mut hop = NextHop { gateway: None, interface: None, onlink: header[4] & RTNH_F_ONLINK != 0 };
    let (mut id, mut group) = (None, None);
    for attribute in message.attributes(NHMSG) {
        match attribute.kind {
            NHA_ID => id = attribute.u32(),
            NHA_GROUP => group = Some(members(attribute.payload)),
            NHA_OIF => hop.interface = name(attribute.u32()?).map(str::to_owned),
            NHA_GATEWAY => hop.gateway = attribute.address(),
            NHA_BLACKHOLE | NHA_FDB => return None,
            _ => {}
        }
    }
    let object = group.map_or(NexthopObject::Way(hop), NexthopObject::Group);
    Some(Told { id: id?, protocol: header[2], object })
}

fn members(payload: &[u8]) -> BTreeSet<NexthopId> {
    let entries = payload.chunks_exact(8);
    entries.map(|entry| NexthopId::of(u32::from_ne_bytes([entry[0], entry[1], entry[2], entry[3]]))).collect()
}
