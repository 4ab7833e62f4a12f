//! The nodes behind WireGuard links as entries of a table.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};

use kernel::{
    Driver, Failures, WireguardPeer, WireguardPeerKey, WireguardPeers, WireguardSession, wireguard_link_name,
};
use model::{Cidr, Family, WireguardKey};

use crate::genl::{GENL_HEADER, Generic};
use crate::nl::{Attribute, Message, Writer, errno, named};
use crate::rtnl::Rtnl;

const GET_DEVICE: u8 = 0;
const SET_DEVICE: u8 = 1;
const DEVICE_IFNAME: u16 = 2;
const DEVICE_PRIVATE_KEY: u16 = 3;
const DEVICE_PUBLIC_KEY: u16 = 4;
const DEVICE_LISTEN_PORT: u16 = 6;
const DEVICE_PEERS: u16 = 8;
const PEER_PUBLIC_KEY: u16 = 1;
const PEER_FLAGS: u16 = 3;
const PEER_ENDPOINT: u16 = 4;
const PEER_KEEPALIVE: u16 = 5;
const PEER_LAST_HANDSHAKE: u16 = 6;
const PEER_RX_BYTES: u16 = 7;
const PEER_TX_BYTES: u16 = 8;
const PEER_ALLOWED: u16 = 9;
const PEER_REMOVE_ME: u32 = 1;
const PEER_UPDATE_ONLY: u32 = 4;
const ALLOWED_FAMILY: u16 = 1;
const ALLOWED_ADDRESS: u16 = 2;
const ALLOWED_LENGTH: u16 = 3;
/// Ranges, or peers, that go out in one message: far from the 64 KiB of an attribute.
const CHUNK: usize = 256;
/// Takes ranges that a node does not have any more, and is removed with them: kernels before 6.16 can only replace all
/// of a node's ranges, and lose packets meanwhile.
const SINK: WireguardKey = WireguardKey([0x5c; 32]);
/// Seconds. Whenever this is switched on for a node, the kernel sends it something at once.
const ANY_KEEPALIVE: u16 = 25;

/// WireGuard's own messages.
pub(crate) struct Wireguard {
    generic: Generic,
}

/// What is said of a link itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Device {
    /// The public key; `None`: the link has no private key.
    pub(crate) key: Option<WireguardKey>,
    pub(crate) port: u16,
}

/// What is said of a node behind a link.
#[derive(Clone, Debug, Default)]
struct Told {
    endpoint: Option<SocketAddr>,
    allowed: BTreeSet<Cidr>,
    keep_alive: u16,
    session: WireguardSession,
}

/// One entry of a message.
struct Change<'a> {
    key: WireguardKey,
    flags: u32,
    endpoint: Option<SocketAddr>,
    keep_alive: Option<u16>,
    allowed: &'a [Cidr],
}

impl<'a> Change<'a> {
    fn of(key: WireguardKey, allowed: &'a [Cidr]) -> Self {
        Self { key, flags: 0, endpoint: None, keep_alive: None, allowed }
    }

    fn removal(key: WireguardKey) -> Self {
        Self { flags: PEER_REMOVE_ME | PEER_UPDATE_ONLY, ..Self::of(key, &[]) }
    }
}

impl Wireguard {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self { generic: Generic::open("wireguard")? })
    }

    pub(crate) fn device(&mut self, name: &str) -> io::Result<Device> {
        let read = |device: &mut Device, message: &Message<'_>| {
            for attribute in message.attributes(GENL_HEADER) {
                match attribute.kind {
                    DEVICE_PUBLIC_KEY => device.key = key_of(&attribute).or(device.key),
                    DEVICE_LISTEN_PORT => device.port = u16_of(&attribute).unwrap_or(device.port),
                    _ => {}
                }
            }
        };
        let device = self.generic.dump(GET_DEVICE, |w| w.string(DEVICE_IFNAME, name), read);
        device.map_err(|e| named(format!("read WireGuard link {name}"), e))
    }

    /// Gives a link its port and, where it is told, its private key.
    pub(crate) fn set_device(&mut self, name: &str, private: Option<&[u8; 32]>, port: u16) -> io::Result<()> {
        self.generic.set(SET_DEVICE, |w| {
            w.string(DEVICE_IFNAME, name);
            private.into_iter().for_each(|key| w.attribute(DEVICE_PRIVATE_KEY, key));
            w.attribute(DEVICE_LISTEN_PORT, &port.to_ne_bytes());
        })
    }

    /// A link that is not there has nobody behind it.
    fn peers(&mut self, name: &str) -> io::Result<BTreeMap<WireguardKey, Told>> {
        let read = |peers: &mut BTreeMap<WireguardKey, Told>, message: &Message<'_>| {
            let lists = message.attributes(GENL_HEADER).filter(|attribute| attribute.kind == DEVICE_PEERS);
            for peer in lists.flat_map(|list| list.nested()) {
                let mut of_peer = peer.nested();
                let Some(key) = of_peer.find(|one| one.kind == PEER_PUBLIC_KEY).and_then(|one| key_of(&one))
                else {
                    continue;
                };
                // One with many ranges comes in several parts.
                let told = peers.entry(key).or_default();
                peer.nested().for_each(|attribute| told.take(&attribute));
            }
        };
        match self.generic.dump(GET_DEVICE, |w| w.string(DEVICE_IFNAME, name), read) {
            Ok(peers) => Ok(peers),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(BTreeMap::new()),
            Err(error) if matches!(errno(&error), Some(libc::ENODEV | libc::EOPNOTSUPP)) => {
                Ok(BTreeMap::new())
            }
            Err(error) => Err(named(format!("list the nodes behind WireGuard link {name}"), error)),
        }
    }

    fn change(&mut self, name: &str, changes: &[Change<'_>]) -> io::Result<()> {
        self.generic.set(SET_DEVICE, |w| {
            w.string(DEVICE_IFNAME, name);
            w.nested(DEVICE_PEERS, |w| changes.iter().for_each(|change| write(w, change)));
        })
    }
}

/// Writes the nodes behind WireGuard links. A range is given to a node without taking others from it, and taken
/// from it without losing a packet of the others.
pub struct WireguardPeerDriver {
    rtnl: Rtnl,
    wireguard: Wireguard,
    /// What was written, or found.
    known: BTreeMap<WireguardPeerKey, WireguardPeer>,
}

impl WireguardPeerDriver {
    /// Owns everybody behind `wireguard.cali` and `wg-v6.cali`.
    ///
    /// # Errors
    /// What the system says.
    pub fn new() -> io::Result<Self> {
        Ok(Self { rtnl: Rtnl::open()?, wireguard: Wireguard::open()?, known: BTreeMap::new() })
    }

    /// Those behind one link. Without the link the kernel is not asked: it would load its module for that.
    fn behind(&mut self, interface: &str) -> io::Result<BTreeMap<WireguardKey, Told>> {
        match self.rtnl.link_by_name(interface)? {
            Some(_) => self.wireguard.peers(interface),
            None => Ok(BTreeMap::new()),
        }
    }

    /// Gives a node what it does not have yet.
    fn add(&mut self, key: &WireguardPeerKey, wanted: &WireguardPeer) -> io::Result<()> {
        let known = self.known.get(key);
        let had = known.map(|known| known.allowed.clone()).unwrap_or_default();
        let endpoint =
            (known.map(|known| known.endpoint) != Some(wanted.endpoint)).then_some(wanted.endpoint);
        // A new one is greeted: it may be waiting for us.
        let greeting = known.is_none().then_some(ANY_KEEPALIVE);
        let added: Vec<Cidr> = wanted.allowed.difference(&had).copied().collect();
        let mut first = Change { endpoint, keep_alive: greeting, ..Change::of(key.key, &[]) };
        for part in added.chunks(CHUNK) {
            let change = std::mem::replace(&mut first, Change::of(key.key, &[]));
            self.wireguard.change(&key.interface, &[Change { allowed: part, ..change }])?;
        }
        let last = Change { keep_alive: Some(wanted.keep_alive), ..Change::of(key.key, &[]) };
        self.wireguard.change(&key.interface, &[first, last])?;
        for (other, known) in &mut self.known {
            if other.interface == key.interface && other != key {
                known.allowed.retain(|range| !wanted.allowed.contains(range));
            }
        }
        let known = self.known.entry(key.clone()).or_insert_with(|| wanted.clone());
        known.endpoint = wanted.endpoint;
        known.keep_alive = wanted.keep_alive;
        known.allowed.extend(added);
        Ok(())
    }

    /// Takes from a node what it has and shall not have.
    fn trim(&mut self, key: &WireguardPeerKey, wanted: &WireguardPeer) -> io::Result<()> {
        let Some(known) = self.known.get_mut(key) else { return Ok(()) };
        let surplus: Vec<Cidr> = known.allowed.difference(&wanted.allowed).copied().collect();
        for part in surplus.chunks(CHUNK) {
            let changes = [Change::of(SINK, part), Change::removal(SINK)];
            self.wireguard.change(&key.interface, &changes)?;
        }
        known.allowed.retain(|range| wanted.allowed.contains(range));
        Ok(())
    }

    fn remove(&mut self, key: &WireguardPeerKey) -> io::Result<()> {
        let result = self.wireguard.change(&key.interface, &[Change::removal(key.key)]);
        self.known.remove(key);
        match result {
            Err(error) if is_gone(&error) => Ok(()),
            result => result,
        }
    }
}

impl Driver for WireguardPeerDriver {
    type Key = WireguardPeerKey;
    type Value = WireguardPeer;

    /// The kernel follows a node whose packets come from another address than was told: the one that was told counts.
    fn list(&mut self) -> io::Result<BTreeMap<WireguardPeerKey, WireguardPeer>> {
        let mut found = BTreeMap::new();
        for interface in Family::ALL.map(wireguard_link_name) {
            for (key, told) in self.behind(interface)? {
                let key = WireguardPeerKey { interface: interface.to_owned(), key };
                let of_us =
                    self.known.get(&key).filter(|_| told.endpoint.is_some()).map(|known| known.endpoint);
                let nowhere = SocketAddr::from(([0; 4], 0));
                let endpoint = of_us.or(told.endpoint).unwrap_or(nowhere);
                let Told { allowed, keep_alive, .. } = told;
                found.insert(key, WireguardPeer { endpoint, allowed, keep_alive });
            }
        }
        self.known.clone_from(&found);
        Ok(found)
    }

    fn apply(
        &mut self,
        puts: &[(WireguardPeerKey, WireguardPeer)],
        deletes: &[WireguardPeerKey],
    ) -> Failures<WireguardPeerKey> {
        let mut failures = Vec::new();
        let fail = |key: &WireguardPeerKey, error| {
            let what = format!("node with key {} behind {}", key.key, key.interface);
            (key.clone(), named(what, error))
        };
        // What moves from one node to another is taken by being given.
        let mut added = Vec::new();
        for (key, wanted) in puts {
            match self.add(key, wanted) {
                Ok(()) => added.push((key, wanted)),
                Err(error) => failures.push(fail(key, error)),
            }
        }
        for (key, wanted) in added {
            failures.extend(self.trim(key, wanted).err().map(|error| fail(key, error)));
        }
        for key in deletes {
            failures.extend(self.remove(key).err().map(|error| fail(key, error)));
        }
        failures
    }
}

impl WireguardPeers for WireguardPeerDriver {
    fn sessions(&mut self) -> io::Result<BTreeMap<WireguardPeerKey, WireguardSession>> {
        let mut sessions = BTreeMap::new();
        for interface in Family::ALL.map(wireguard_link_name) {
            for (key, told) in self.behind(interface)? {
                sessions.insert(WireguardPeerKey { interface: interface.to_owned(), key }, told.session);
            }
        }
        Ok(sessions)
    }

    fn greet(&mut self, peers: &[WireguardPeerKey]) -> io::Result<()> {
        for part in peers.chunks(CHUNK) {
            for interface in Family::ALL.map(wireguard_link_name) {
                let on_link = part.iter().filter(|peer| peer.interface == interface);
                let steps = on_link.flat_map(|peer| {
                    let keep_alive = self.known.get(peer).map_or(0, |known| known.keep_alive);
                    [0, ANY_KEEPALIVE, keep_alive].map(|seconds| Change {
                        flags: PEER_UPDATE_ONLY,
                        keep_alive: Some(seconds),
                        ..Change::of(peer.key, &[])
                    })
                });
                let steps: Vec<Change<'_>> = steps.collect();
                if steps.is_empty() {
                    continue;
                }
                match self.wireguard.change(interface, &steps) {
                    Err(error) if !is_gone(&error) => {
                        return Err(named(format!("greet behind {interface}"), error));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

impl Told {
    fn take(&mut self, attribute: &Attribute<'_>) {
        match attribute.kind {
            PEER_ENDPOINT => self.endpoint = endpoint_of(attribute.payload),
            PEER_KEEPALIVE => self.keep_alive = u16_of(attribute).unwrap_or_default(),
            PEER_LAST_HANDSHAKE => self.session.handshake = u64_of(attribute).filter(|seconds| *seconds > 0),
            PEER_RX_BYTES => self.session.received = u64_of(attribute).unwrap_or_default(),
            PEER_TX_BYTES => self.session.sent = u64_of(attribute).unwrap_or_default(),
            PEER_ALLOWED => self.allowed.extend(attribute.nested().filter_map(|one| allowed_of(&one))),
            _ => {}
        }
    }
}

fn write(w: &mut Writer<'_>, change: &Change<'_>) {
    w.nested(0, |w| {
        w.attribute(PEER_PUBLIC_KEY, &change.key.0);
        if change.flags != 0 {
            w.u32(PEER_FLAGS, change.flags);
        }
        if let Some(endpoint) = change.endpoint {
            w.attribute(PEER_ENDPOINT, &socket_address(endpoint));
        }
        if let Some(seconds) = change.keep_alive {
            w.attribute(PEER_KEEPALIVE, &seconds.to_ne_bytes());
        }
        if !change.allowed.is_empty() {
            w.nested(PEER_ALLOWED, |w| {
                for range in change.allowed {
                    w.nested(0, |w| {
                        let family = match range.family() {
                            Family::V4 => libc::AF_INET,
                            Family::V6 => libc::AF_INET6,
                        };
                        w.attribute(ALLOWED_FAMILY, &(family as u16).to_ne_bytes());
                        w.address(ALLOWED_ADDRESS, range.address());
                        w.u8(ALLOWED_LENGTH, range.length());
                    });
                }
            });
        }
    });
}

/// `struct sockaddr_in` or `sockaddr_in6`.
fn socket_address(address: SocketAddr) -> Vec<u8> {
    let port = address.port().to_be_bytes();
    match address.ip() {
        IpAddr::V4(v4) => {
            let family = (libc::AF_INET as u16).to_ne_bytes();
            [&family[..], &port, &v4.octets(), &[0; 8]].concat()
        }
        IpAddr::V6(v6) => {
            let family = (libc::AF_INET6 as u16).to_ne_bytes();
            [&family[..], &port, &[0; 4], &v6.octets(), &[0; 4]].concat()
        }
    }
}

fn endpoint_of(payload: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(payload.get(..2)?.try_into().ok()?);
    let port = u16::from_be_bytes(payload.get(2..4)?.try_into().ok()?);
    let address = match i32::from(family) {
        libc::AF_INET => crate::nl::address(payload.get(4..8)?)?,
        libc::AF_INET6 => crate::nl::address(payload.get(8..24)?)?,
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

fn allowed_of(attribute: &Attribute<'_>) -> Option<Cidr> {
    let (mut address, mut length) = (None, None);
    for one in attribute.nested() {
        match one.kind {
            ALLOWED_ADDRESS => address = one.address(),
            ALLOWED_LENGTH => length = one.u8(),
            _ => {}
        }
    }
    Cidr::truncated(address?, length?)
}

fn key_of(attribute: &Attribute<'_>) -> Option<WireguardKey> {
    attribute.payload.try_into().ok().map(WireguardKey)
}

fn u16_of(attribute: &Attribute<'_>) -> Option<u16> {
    Some(u16::from_ne_bytes(attribute.payload.get(..2)?.try_into().ok()?))
}

fn u64_of(attribute: &Attribute<'_>) -> Option<u64> {
    Some(u64::from_ne_bytes(attribute.payload.get(..8)?.try_into().ok()?))
}

/// With its link, or the module, everybody behind it is gone too.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Unsupported
        || matches!(errno(error), Some(libc::ENODEV | libc::ENOENT | libc::EOPNOTSUPP))
}
