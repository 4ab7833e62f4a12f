//! IP sets by nfnetlink: thousands of members a message, no `ipset` process (`spec/kernel.md` §2d).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use kernel::{IpSet, IpSetAction, IpSetKind, IpSetMember, IpSetName, IpSetPort, IpSetProbe, IpSetWrite};
use model::{Cidr, Family, Protocol};

use crate::nl::{self, Attribute, Batch, Message, Socket, Writer, errno, named};

/// Members in one message, at most 44 bytes each: an attribute holds less than 64 KiB.
const MEMBERS: usize = 500;
/// What goes out in one send: well below the least buffer that the kernel gives a socket.
const BATCH_MESSAGES: usize = 256;
const BATCH_BYTES: usize = 64 << 10;
/// What Calico creates its sets with, unless told otherwise.
const MAX_ELEMENTS: u32 = 1_048_576;

/// So often a set that is still in use is tried again, and after this.
const GRACE_TRIES: usize = 12;
const GRACE_PAUSE: Duration = Duration::from_millis(5);

/// Sets of ours, of both families; others' are left alone. Keeps no copy of members.
pub struct IpSetDriver {
    socket: Socket,
    protocol: u8,
    max_elements: u32,
    /// For names of sets that exist for a moment only.
    temporary: u32,
}

impl IpSetDriver {
    /// Fails with `Unsupported` when the kernel has no IP sets.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::open(nl::Protocol::Netfilter).map_err(|e| named("open nfnetlink", e))?;
        let protocol = negotiate(&mut socket)?;
        Ok(Self { socket, protocol, max_elements: MAX_ELEMENTS, temporary: 0 })
    }

    /// Queues what brings one set there.
    fn queue(&mut self, outbox: &mut Outbox, write: &IpSetWrite<'_>) -> io::Result<()> {
        check_name(write.name.as_str())?;
        let target = Target {
            protocol: self.protocol,
            family: write.family,
            name: write.name.as_str(),
            max_elements: self.max_elements,
        };
        match write.action {
            IpSetAction::Create(members) => {
                outbox.push(&mut self.socket, "create", |batch| target.create(batch, write.kind));
                target.change(outbox, &mut self.socket, CMD_ADD, members);
            }
            IpSetAction::Change { add, remove } => {
                target.change(outbox, &mut self.socket, CMD_DEL, remove);
                target.change(outbox, &mut self.socket, CMD_ADD, add);
            }
            // The kernel swaps no sets of different types.
            IpSetAction::Replace(members) => {
                outbox.push(&mut self.socket, "destroy", |batch| target.destroy(batch));
                outbox.push(&mut self.socket, "create", |batch| target.create(batch, write.kind));
                target.change(outbox, &mut self.socket, CMD_ADD, members);
            }
            IpSetAction::Swap(members) => return self.swap(&target, write.kind, members),
        }
        Ok(())
    }

    /// Fills another set and swaps it in; a half-filled one never is.
    fn swap(
        &mut self,
        target: &Target<'_>,
        kind: IpSetKind,
        members: &BTreeSet<IpSetMember>,
    ) -> io::Result<()> {
        self.temporary = self.temporary.wrapping_add(1);
        let prefix = if target.family == Family::V4 { "cali4t" } else { "cali6t" };
        let name = format!("{prefix}{}", self.temporary);
        let other = Target { name: &name, ..*target };
        let mut outbox = Outbox::default();
        // One of the name may be left of an earlier run.
        outbox.push(&mut self.socket, "destroy", |batch| other.destroy(batch));
        outbox.push(&mut self.socket, "create", |batch| other.create(batch, kind));
        other.change(&mut outbox, &mut self.socket, CMD_ADD, members);
        let mut result = outbox.finish(&mut self.socket);
        if result.is_empty() {
            let mut outbox = Outbox::default();
            outbox.push(&mut self.socket, "swap", |batch| target.swap(batch, &name));
            result = outbox.finish(&mut self.socket);
        }
        let mut outbox = Outbox::default();
        outbox.push(&mut self.socket, "destroy", |batch| other.destroy(batch));
        result.append(&mut outbox.finish(&mut self.socket));
        match result.into_values().next() {
            Some(error) => Err(named(format!("exchange set {}", target.name), error)),
            None => Ok(()),
        }
    }

    fn list_with<T: Default>(
        &mut self,
        name: Option<&str>,
        flags: u32,
        each: impl FnMut(&mut T, &Message<'_>),
    ) -> io::Result<T> {
        let protocol = self.protocol;
        self.socket.dump(
            IPSET | CMD_LIST,
            |w| {
                w.bytes(&nfgenmsg(Family::V4));
                w.u8(ATTR_PROTOCOL, protocol);
                if let Some(name) = name {
                    w.string(ATTR_SETNAME, name);
                }
                if flags != 0 {
                    w.attribute(ATTR_FLAGS | NET_ORDER, &flags.to_be_bytes());
                }
            },
            each,
        )
    }
}

impl IpSetPort for IpSetDriver {
    fn names(&mut self) -> io::Result<BTreeSet<IpSetName>> {
        let each = |names: &mut BTreeSet<IpSetName>, message: &Message<'_>| {
            let name = message.attributes(NFGENMSG).find(|a| a.kind == ATTR_SETNAME).map(|a| a.string());
            names.extend(name.filter(|name| IpSetName::is_ours(name)).map(|n| IpSetName::from_kernel(&n)));
        };
        self.list_with(None, FLAG_LIST_SETNAME, each).map_err(|e| named("list sets", e))
    }

    fn absent(&mut self, members: &[IpSetProbe<'_>]) -> io::Result<Vec<usize>> {
        let mut absent = Vec::new();
        for (chunk, probes) in members.chunks(BATCH_MESSAGES).enumerate() {
            let mut batch = Batch::new();
            for probe in probes {
                let (protocol, max_elements) = (self.protocol, self.max_elements);
                let (family, name) = (probe.family, probe.name.as_str());
                Target { protocol, family, name, max_elements }.test(&mut batch, probe.member);
            }
            let errors = self.socket.execute(&mut batch).map_err(|e| named("test members of sets", e))?;
            absent.extend(errors.into_keys().map(|index| chunk * BATCH_MESSAGES + index));
        }
        Ok(absent)
    }

    /// A set of ours whose type is none that we make counts as none; writing one of its name replaces it.
    fn read(&mut self, name: &IpSetName) -> io::Result<Option<IpSet>> {
        let each = |found: &mut BTreeMap<IpSetName, Parsed>, message: &Message<'_>| parse_set(found, message);
        match self.list_with(Some(name.as_str()), 0, each) {
            Ok(mut found) => Ok(found.remove(name).and_then(Parsed::finish)),
            Err(error) if errno(&error) == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(named(format!("list set {name}"), error)),
        }
    }

    fn write(&mut self, writes: &[IpSetWrite<'_>]) -> Vec<(usize, io::Error)> {
        let mut outbox = Outbox::default();
        for (index, write) in writes.iter().enumerate() {
            outbox.owner = index;
            if let Err(error) = self.queue(&mut outbox, write) {
                outbox.fail(index, error);
            }
        }
        let failed = outbox.finish(&mut self.socket);
        let label = |(index, error): (usize, _)| (index, named(format!("set {}", writes[index].name), error));
        failed.into_iter().map(label).collect()
    }

    fn set_max_size(&mut self, members: u32) {
        self.max_elements = members;
    }

    /// A rule that is gone keeps its sets until a grace period of RCU is over, some twenty milliseconds.
    fn destroy(&mut self, names: &[IpSetName]) -> Vec<(IpSetName, io::Error)> {
        let mut failed = self.destroy_once(names);
        for _ in 0..GRACE_TRIES {
            let is_busy = |(_, error): &(_, io::Error)| error.kind() == io::ErrorKind::ResourceBusy;
            let (busy, others): (Vec<_>, Vec<_>) = failed.into_iter().partition(is_busy);
            failed = others;
            if busy.is_empty() {
                break;
            }
            thread::sleep(GRACE_PAUSE);
            let busy: Vec<IpSetName> = busy.into_iter().map(|(name, _)| name).collect();
            failed.extend(self.destroy_once(&busy));
        }
        failed
    }
}

impl IpSetDriver {
    fn destroy_once(&mut self, names: &[IpSetName]) -> Vec<(IpSetName, io::Error)> {
        let mut outbox = Outbox::default();
        for (index, name) in names.iter().enumerate() {
            outbox.owner = index;
            let (protocol, max_elements) = (self.protocol, self.max_elements);
            let target = Target { protocol, family: Family::V4, name: name.as_str(), max_elements };
            outbox.push(&mut self.socket, "destroy", |batch| target.destroy(batch));
        }
        let failed = outbox.finish(&mut self.socket);
        let label = |(index, error): (usize, _)| {
            let name: &IpSetName = &names[index];
            (name.clone(), named(format!("set {name}"), error))
        };
        failed.into_iter().map(label).collect()
    }
}

/// Messages that wait to be sent, and whose they are.
#[derive(Default)]
struct Outbox {
    batch: Batch,
    /// Who is to blame for each message, and what it does.
    labels: Vec<(usize, &'static str)>,
    owner: usize,
    failed: BTreeMap<usize, io::Error>,
}

impl Outbox {
    fn push(&mut self, socket: &mut Socket, what: &'static str, write: impl FnOnce(&mut Batch)) {
        if self.batch.len() >= BATCH_MESSAGES || self.batch.bytes() >= BATCH_BYTES {
            self.send(socket);
        }
        write(&mut self.batch);
        self.labels.push((self.owner, what));
    }

    fn send(&mut self, socket: &mut Socket) {
        let labels = std::mem::take(&mut self.labels);
        let result = socket.execute(&mut self.batch);
        self.batch.clear();
        match result {
            Ok(errors) => {
                for (index, error) in errors {
                    let (owner, what) = labels[index];
                    if !(what == "destroy" && error.errno == libc::ENOENT) {
                        self.fail(owner, named(what, explain(error)));
                    }
                }
            }
            Err(error) => {
                let text = error.to_string();
                labels.iter().for_each(|(owner, what)| {
                    self.fail(*owner, named(*what, io::Error::other(text.clone())))
                });
            }
        }
    }

    /// The first reason counts: those behind it follow from it.
    fn fail(&mut self, owner: usize, error: io::Error) {
        self.failed.entry(owner).or_insert(error);
    }

    /// Sends what is left; returns what failed by owner.
    fn finish(mut self, socket: &mut Socket) -> BTreeMap<usize, io::Error> {
        if !self.batch.is_empty() {
            self.send(socket);
        }
        self.failed
    }
}

/// A set that messages are about.
#[derive(Clone, Copy)]
struct Target<'a> {
    protocol: u8,
    family: Family,
    name: &'a str,
    max_elements: u32,
}

impl Target<'_> {
    fn header(&self, w: &mut Writer<'_>) {
        w.bytes(&nfgenmsg(self.family));
        w.u8(ATTR_PROTOCOL, self.protocol);
        w.string(ATTR_SETNAME, self.name);
    }

    fn create(&self, batch: &mut Batch, kind: IpSetKind) {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        batch.push(IPSET | CMD_CREATE, flags as u16, |w| {
            self.header(w);
            w.string(ATTR_TYPENAME, type_name(kind));
            w.u8(ATTR_REVISION, revision(kind));
            w.u8(ATTR_FAMILY, family_number(self.family));
            w.nested(ATTR_DATA, |w| {
                w.attribute(ATTR_MAXELEM | NET_ORDER, &self.max_elements.to_be_bytes());
            });
        });
    }

    fn destroy(&self, batch: &mut Batch) {
        batch.push(IPSET | CMD_DESTROY, 0, |w| self.header(w));
    }

    /// Fails unless it is a member.
    fn test(&self, batch: &mut Batch, member: &IpSetMember) {
        batch.push(IPSET | CMD_TEST, 0, |w| {
            self.header(w);
            w.nested(ATTR_DATA, |w| write_member(w, member, 0));
        });
    }

    /// Exchanges the content with another set of the same type.
    fn swap(&self, batch: &mut Batch, other: &str) {
        batch.push(IPSET | CMD_SWAP, 0, |w| {
            self.header(w);
            w.string(ATTR_SETNAME2, other);
        });
    }

    /// Adds or deletes members, many a message. Without NLM_F_EXCL adding what is there, or deleting what is not,
    /// succeeds.
    fn change(
        &self,
        outbox: &mut Outbox,
        socket: &mut Socket,
        command: u16,
        members: &BTreeSet<IpSetMember>,
    ) {
        let what = if command == CMD_ADD { "add members" } else { "delete members" };
        let mut members = members.iter().peekable();
        while members.peek().is_some() {
            outbox.push(socket, what, |batch| {
                batch.push(IPSET | command, 0, |w| {
                    self.header(w);
                    w.attribute(ATTR_LINENO | NET_ORDER, &0_u32.to_be_bytes());
                    w.nested(ATTR_ADT, |w| {
                        for (line, member) in members.by_ref().take(MEMBERS).enumerate() {
                            w.nested(ATTR_DATA, |w| write_member(w, member, line as u32));
                        }
                    });
                });
            });
        }
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
    fn finish(self) -> Option<IpSet> {
        let family = Family::ALL.into_iter().find(|family| family_number(*family) == self.family)?;
        Some(IpSet { kind: self.kind?, family, members: Arc::new(self.members) })
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
const CMD_SWAP: u16 = 6;
const CMD_LIST: u16 = 7;
const CMD_ADD: u16 = 9;
const CMD_DEL: u16 = 10;
const CMD_TEST: u16 = 11;

const ATTR_PROTOCOL: u16 = 1;
const ATTR_SETNAME: u16 = 2;
const ATTR_TYPENAME: u16 = 3;
/// The second name of a swap stands where else the type does.
const ATTR_SETNAME2: u16 = ATTR_TYPENAME;
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
