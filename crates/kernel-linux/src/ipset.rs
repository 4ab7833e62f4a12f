//! IP sets by nfnetlink: thousands of members a message, no `ipset` process (`spec/kernel.md` §2d).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use kernel::{Driver, Failures, IpSet, IpSetKind, IpSetMember, IpSetName};
use model::{Cidr, Family, Protocol};

use crate::nl::{self, Attribute, Batch, Message, Socket, Writer, errno, named};

/// Members in one message, at most 44 bytes each: an attribute holds less than 64 KiB.
const MEMBERS: usize = 500;
/// What Calico creates its sets with.
const MAX_ELEMENTS: u32 = 1_048_576;

/// Sets of ours in one family; others' are left alone.
///
/// Remembers the members that the kernel holds, so that a change costs only what differs. The copy is shared with
/// the table that it was listed for.
pub struct IpSetDriver {
    socket: Socket,
    protocol: u8,
    family: Family,
    known: BTreeMap<IpSetName, IpSet>,
}

impl IpSetDriver {
    /// Fails with `Unsupported` when the kernel has no IP sets.
    pub fn new(family: Family) -> io::Result<Self> {
        let mut socket = Socket::open(nl::Protocol::Netfilter).map_err(|e| named("open nfnetlink", e))?;
        let protocol = negotiate(&mut socket)?;
        Ok(Self { socket, protocol, family, known: BTreeMap::new() })
    }

    fn header(&self, w: &mut Writer<'_>, name: Option<&str>) {
        w.bytes(&nfgenmsg(self.family));
        w.u8(ATTR_PROTOCOL, self.protocol);
        if let Some(name) = name {
            w.string(ATTR_SETNAME, name);
        }
    }

    fn create(&mut self, name: &str, kind: IpSetKind) -> io::Result<()> {
        let mut batch = Batch::new();
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        batch.push(IPSET | CMD_CREATE, flags as u16, |w| {
            self.header(w, Some(name));
            w.string(ATTR_TYPENAME, type_name(kind));
            w.u8(ATTR_REVISION, revision(kind));
            w.u8(ATTR_FAMILY, family_number(self.family));
            w.nested(ATTR_DATA, |w| {
                w.attribute(ATTR_MAXELEM | NET_ORDER, &MAX_ELEMENTS.to_be_bytes());
            });
        });
        match self.socket.execute(&mut batch)?.remove(&0) {
            Some(error) => Err(named(format!("create set {name}"), explain(error))),
            None => Ok(()),
        }
    }

    fn destroy(&mut self, name: &str) -> io::Result<()> {
        let mut batch = Batch::new();
        batch.push(IPSET | CMD_DESTROY, 0, |w| self.header(w, Some(name)));
        match self.socket.execute(&mut batch)?.remove(&0) {
            Some(error) if error.errno != libc::ENOENT => {
                Err(named(format!("destroy set {name}"), explain(error)))
            }
            _ => Ok(()),
        }
    }

    /// Adds or deletes members, many a message.
    fn change<'m>(
        &mut self,
        command: u16,
        name: &str,
        members: impl Iterator<Item = &'m IpSetMember>,
    ) -> io::Result<()> {
        let members: Vec<_> = members.collect();
        for chunk in members.chunks(MEMBERS) {
            let mut batch = Batch::new();
            // Without NLM_F_EXCL adding what is there, or deleting what is not, succeeds.
            batch.push(IPSET | command, 0, |w| {
                self.header(w, Some(name));
                w.attribute(ATTR_LINENO | NET_ORDER, &0_u32.to_be_bytes());
                w.nested(ATTR_ADT, |w| {
                    for (line, member) in chunk.iter().enumerate() {
                        w.nested(ATTR_DATA, |w| write_member(w, member, line as u32));
                    }
                });
            });
            if let Some(error) = self.socket.execute(&mut batch)?.remove(&0) {
                let what = if command == CMD_ADD { "add to" } else { "delete from" };
                return Err(named(format!("{what} set {name}"), explain(error)));
            }
        }
        Ok(())
    }

    fn put(&mut self, name: &IpSetName, set: &IpSet) -> io::Result<()> {
        if set.family != self.family {
            let text = format!("set {name} is {}, this driver writes {} sets", set.family, self.family);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        check_name(name.as_str())?;
        let result = match self.known.get(name).cloned() {
            Some(known) if known.kind == set.kind => self.update(name, &known, set),
            Some(_) => self.replace(name, set),
            None => self.create_full(name, set),
        };
        match result {
            Ok(()) => {
                self.known.insert(name.clone(), set.clone());
                Ok(())
            }
            // Whatever was done of it: look before the next try.
            Err(error) => {
                match self.read(name) {
                    Ok(Some(actual)) => self.known.insert(name.clone(), actual),
                    _ => self.known.remove(name),
                };
                Err(error)
            }
        }
    }

    fn update(&mut self, name: &IpSetName, known: &IpSet, set: &IpSet) -> io::Result<()> {
        if Arc::ptr_eq(&known.members, &set.members) {
            return Ok(());
        }
        self.change(CMD_DEL, name.as_str(), known.members.difference(&set.members))?;
        self.change(CMD_ADD, name.as_str(), set.members.difference(&known.members))
    }

    fn create_full(&mut self, name: &IpSetName, set: &IpSet) -> io::Result<()> {
        match self.create(name.as_str(), set.kind) {
            Ok(()) => self.change(CMD_ADD, name.as_str(), set.members.iter()),
            // Somebody made one: take it as it is where its type is right.
            Err(error) if errno(&error) == Some(libc::EEXIST) => match self.read(name)? {
                Some(actual) if actual.kind == set.kind => self.update(name, &actual, set),
                _ => self.replace(name, set),
            },
            Err(error) => Err(error),
        }
    }

    /// Makes the set anew; the kernel swaps no sets of different types. Fails while a rule uses the old one.
    fn replace(&mut self, name: &IpSetName, set: &IpSet) -> io::Result<()> {
        self.destroy(name.as_str())?;
        self.create(name.as_str(), set.kind)?;
        self.change(CMD_ADD, name.as_str(), set.members.iter())
    }

    /// One set with its members; `None` when there is none.
    fn read(&mut self, name: &IpSetName) -> io::Result<Option<IpSet>> {
        let (protocol, family) = (self.protocol, self.family);
        let dumped = self.socket.dump(
            IPSET | CMD_LIST,
            |w| {
                w.bytes(&nfgenmsg(family));
                w.u8(ATTR_PROTOCOL, protocol);
                w.string(ATTR_SETNAME, name.as_str());
            },
            |found: &mut BTreeMap<IpSetName, Parsed>, message| parse_set(found, message),
        );
        match dumped {
            Ok(mut found) => Ok(found.remove(name).and_then(|parsed| parsed.finish(family))),
            Err(error) if errno(&error) == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(named(format!("list set {name}"), error)),
        }
    }

    /// Names of all sets, of any family and owner.
    fn names(&mut self) -> io::Result<Vec<String>> {
        let (protocol, family) = (self.protocol, self.family);
        self.socket
            .dump(
                IPSET | CMD_LIST,
                |w| {
                    w.bytes(&nfgenmsg(family));
                    w.u8(ATTR_PROTOCOL, protocol);
                    w.attribute(ATTR_FLAGS | NET_ORDER, &FLAG_LIST_SETNAME.to_be_bytes());
                },
                |names: &mut Vec<String>, message| {
                    let attributes = message.attributes(NFGENMSG);
                    names.extend(attributes.filter(|a| a.kind == ATTR_SETNAME).map(|a| a.string()));
                },
            )
            .map_err(|e| named("list sets", e))
    }
}

impl Driver for IpSetDriver {
    type Key = IpSetName;
    type Value = IpSet;

    /// A set of ours whose type is none that we make is left out; putting one of its name replaces it.
    fn list(&mut self) -> io::Result<BTreeMap<IpSetName, IpSet>> {
        let family = if self.family == Family::V4 { "4" } else { "6" };
        let is_ours = |name: &String| {
            ["cali", "felix-"].iter().any(|p| name.strip_prefix(p).is_some_and(|r| r.starts_with(family)))
        };
        let names = self.names()?;
        let mut sets = BTreeMap::new();
        // One by one: a foreign set of a newer type must not spoil the listing of ours.
        for name in names.into_iter().filter(is_ours) {
            let name = IpSetName::from_kernel(&name);
            if let Some(set) = self.read(&name)? {
                sets.insert(name, set);
            }
        }
        self.known = sets.clone();
        Ok(sets)
    }

    fn apply(&mut self, puts: &[(IpSetName, IpSet)], deletes: &[IpSetName]) -> Failures<IpSetName> {
        let mut failures = Vec::new();
        for (name, set) in puts {
            if let Err(error) = self.put(name, set) {
                failures.push((name.clone(), error));
            }
        }
        for name in deletes {
            match self.destroy(name.as_str()) {
                Ok(()) => drop(self.known.remove(name)),
                Err(error) => failures.push((name.clone(), error)),
            }
        }
        failures
    }
}

/// The highest protocol version that both the kernel and we speak: 6 or 7.
fn negotiate(socket: &mut Socket) -> io::Result<u8> {
    let mut versions = (None, None);
    let result = socket.request(
        IPSET | CMD_PROTOCOL,
        0,
        |w| {
            w.bytes(&nfgenmsg(Family::V4));
            w.u8(ATTR_PROTOCOL, PROTOCOL_MAX);
        },
        |message| {
            for attribute in message.attributes(NFGENMSG) {
                match attribute.kind {
                    ATTR_PROTOCOL => versions.0 = attribute.u8(),
                    ATTR_PROTOCOL_MIN => versions.1 = attribute.u8(),
                    _ => {}
                }
            }
        },
    );
    let unsupported = |text: String| Err(io::Error::new(io::ErrorKind::Unsupported, text));
    if let Err(error) = result {
        return unsupported(format!("this kernel has no IP sets ({error}); load the module `ip_set`"));
    }
    let (newest, oldest) = (versions.0.unwrap_or(PROTOCOL_MIN), versions.1.or(versions.0).unwrap_or(0));
    if newest < PROTOCOL_MIN || oldest > PROTOCOL_MAX {
        return unsupported(format!("the kernel speaks ipset protocol {oldest} to {newest}, not 6 or 7"));
    }
    Ok(newest.min(PROTOCOL_MAX))
}

fn check_name(name: &str) -> io::Result<()> {
    if name.is_empty() || name.len() > IpSetName::MAX || name.contains('\0') {
        let text = format!("{name:?} is no set name (1 to {} bytes)", IpSetName::MAX);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Ok(())
}

fn type_name(kind: IpSetKind) -> &'static str {
    match kind {
        IpSetKind::Net => "hash:net",
        IpSetKind::IpPort => "hash:ip,port",
    }
}

/// A revision of the set type that every kernel since 3.13 has and that we need nothing beyond.
fn revision(kind: IpSetKind) -> u8 {
    match kind {
        IpSetKind::Net => 3,
        IpSetKind::IpPort => 2,
    }
}

fn write_address(w: &mut Writer<'_>, address: IpAddr) {
    w.nested(ATTR_IP, |w| match address {
        IpAddr::V4(v4) => w.attribute(ATTR_IPADDR_IPV4 | NET_ORDER, &v4.octets()),
        IpAddr::V6(v6) => w.attribute(ATTR_IPADDR_IPV6 | NET_ORDER, &v6.octets()),
    });
}

fn write_member(w: &mut Writer<'_>, member: &IpSetMember, line: u32) {
    match member {
        IpSetMember::Net(cidr) => {
            write_address(w, cidr.address());
            w.u8(ATTR_CIDR, cidr.length());
        }
        IpSetMember::IpPort(address, protocol, port) => {
            write_address(w, *address);
            w.u8(ATTR_PROTO, protocol.0);
            w.attribute(ATTR_PORT | NET_ORDER, &port.to_be_bytes());
        }
    }
    w.attribute(ATTR_LINENO | NET_ORDER, &line.to_be_bytes());
}

/// A set as it comes together from the messages of a dump.
#[derive(Default)]
struct Parsed {
    kind: Option<IpSetKind>,
    family: u8,
    members: BTreeSet<IpSetMember>,
}

impl Parsed {
    fn finish(self, family: Family) -> Option<IpSet> {
        let is_right = self.family == family_number(family);
        let kind = self.kind.filter(|_| is_right)?;
        Some(IpSet { kind, family, members: Arc::new(self.members) })
    }
}

fn parse_set(found: &mut BTreeMap<IpSetName, Parsed>, message: &Message<'_>) {
    let Some(name) = message.attributes(NFGENMSG).find(|a| a.kind == ATTR_SETNAME) else { return };
    let set = found.entry(IpSetName::from_kernel(&name.string())).or_default();
    for attribute in message.attributes(NFGENMSG) {
        match attribute.kind {
            ATTR_TYPENAME => {
                set.kind = match attribute.string().as_str() {
                    "hash:net" => Some(IpSetKind::Net),
                    "hash:ip,port" => Some(IpSetKind::IpPort),
                    _ => None,
                };
            }
            ATTR_FAMILY => set.family = attribute.u8().unwrap_or(0),
            ATTR_ADT => {
                let members = attribute.nested().filter(|a| a.kind == ATTR_DATA);
                set.members.extend(members.filter_map(|member| parse_member(&member)));
            }
            _ => {}
        }
    }
}

fn parse_member(data: &Attribute<'_>) -> Option<IpSetMember> {
    let (mut address, mut length, mut protocol, mut port) = (None, None, None, None);
    for attribute in data.nested() {
        match attribute.kind {
            ATTR_IP => address = attribute.nested().next().and_then(|a| a.address()),
            ATTR_CIDR => length = attribute.u8(),
            ATTR_PROTO => protocol = attribute.u8().map(Protocol),
            ATTR_PORT => port = attribute.be16(),
            _ => {}
        }
    }
    let address = address?;
    match (protocol, port) {
        (Some(protocol), Some(port)) => Some(IpSetMember::IpPort(address, protocol, port)),
        _ => {
            let length = length.unwrap_or(Family::of(address).bits());
            Cidr::truncated(address, length).map(IpSetMember::Net)
        }
    }
}

/// Gives ipset's own error numbers their meaning.
fn explain(mut error: nl::Error) -> io::Error {
    let meaning = match error.errno {
        4097 => "protocol error",
        4098 => "the kernel does not know this set type",
        4099 => "no more sets can be made",
        4100 => "the set is in use by a rule or another set",
        4101 => "a set of the second name exists",
        4102 => "the types of the sets differ",
        4103 => "an element exists already",
        4104 => "the prefix length is not allowed",
        4106 => "the address family does not fit the set",
        4109 => "the set is in use by a rule or another set",
        4352 => "the set is full",
        _ => return error.into(),
    };
    let number = error.errno;
    error.text = Some(format!("{meaning} (ipset error {number})"));
    // The code means nothing to the system, so that its text would mislead.
    let kind = if matches!(number, 4100 | 4109) { io::ErrorKind::ResourceBusy } else { io::ErrorKind::Other };
    io::Error::new(kind, error.text.unwrap_or_default())
}

fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => libc::AF_INET as u8,
        Family::V6 => libc::AF_INET6 as u8,
    }
}

/// `struct nfgenmsg`.
fn nfgenmsg(family: Family) -> [u8; NFGENMSG] {
    [family_number(family), 0, 0, 0]
}

const IPSET: u16 = 6 << 8;
const NFGENMSG: usize = 4;
const NET_ORDER: u16 = 0x4000;
const PROTOCOL_MIN: u8 = 6;
const PROTOCOL_MAX: u8 = 7;
const FLAG_LIST_SETNAME: u32 = 2;

const CMD_PROTOCOL: u16 = 1;
const CMD_CREATE: u16 = 2;
const CMD_DESTROY: u16 = 3;
const CMD_LIST: u16 = 7;
const CMD_ADD: u16 = 9;
const CMD_DEL: u16 = 10;

const ATTR_PROTOCOL: u16 = 1;
const ATTR_SETNAME: u16 = 2;
const ATTR_TYPENAME: u16 = 3;
const ATTR_REVISION: u16 = 4;
const ATTR_FAMILY: u16 = 5;
const ATTR_FLAGS: u16 = 6;
const ATTR_DATA: u16 = 7;
const ATTR_ADT: u16 = 8;
const ATTR_LINENO: u16 = 9;
const ATTR_PROTOCOL_MIN: u16 = 10;
const ATTR_IP: u16 = 1;
const ATTR_CIDR: u16 = 3;
const ATTR_PORT: u16 = 4;
const ATTR_PROTO: u16 = 7;
const ATTR_MAXELEM: u16 = 19;
const ATTR_IPADDR_IPV4: u16 = 1;
const ATTR_IPADDR_IPV6: u16 = 2;
