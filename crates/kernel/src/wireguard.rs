//! WireGuard links between nodes, and the nodes behind them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};

use model::{Cidr, Family, WireguardKey};

use crate::Driver;

/// Name of the node's WireGuard link that carries pods of one family.
pub fn wireguard_link_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "wireguard.cali",
        Family::V6 => "wg-v6.cali",
    }
}

/// A WireGuard link that is up. The key is its name, as `wireguard.cali`. Its private key is the kernel's: made with the
/// link, never read, and gone with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireguardLink {
    /// UDP port that it listens on.
    pub port: u16,
    /// `None` leaves it as it is.
    pub mtu: Option<u32>,
    /// Its only address of its family, alone in its subnet. Link-local ones are the kernel's.
    pub address: Option<IpAddr>,
}

impl WireguardLink {
    /// Is `actual` as good as this?
    pub fn is_realised_by(&self, actual: &WireguardLink) -> bool {
        Self { mtu: self.mtu.or(actual.mtu), ..self.clone() } == *actual
    }
}

/// A node behind a WireGuard link, by its public key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WireguardPeerKey {
    pub interface: String,
    pub key: WireguardKey,
}

/// What is known of such a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireguardPeer {
    /// Where it listens. The kernel itself follows a node whose packets come from elsewhere.
    pub endpoint: SocketAddr,
    /// What may come from it, and goes to it once a route leads into the link. Each range is behind one node of a link:
    /// the one that it was given to last.
    pub allowed: BTreeSet<Cidr>,
    /// Seconds; 0: it hears of us only when there is something to say.
    pub keep_alive: u16,
}

/// How it goes with such a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WireguardSession {
    /// Seconds since the epoch; `None`: we never came to terms, and what is sent waits or is lost.
    pub handshake: Option<u64>,
    /// Bytes, with all that WireGuard adds.
    pub received: u64,
    pub sent: u64,
}

/// The port to WireGuard links.
pub trait WireguardLinks: Driver<Key = String, Value = WireguardLink> {
    /// The public keys of the links that are there, as of the last list or write.
    fn keys(&self) -> BTreeMap<String, WireguardKey>;
}

/// The port to the nodes behind WireGuard links.
pub trait WireguardPeers: Driver<Key = WireguardPeerKey, Value = WireguardPeer> {
    /// How it goes with every node.
    ///
    /// # Errors
    /// What the kernel says.
    fn sessions(&mut self) -> io::Result<BTreeMap<WireguardPeerKey, WireguardSession>>;

    /// Begins to come to terms with these nodes, without a packet that waits for that.
    ///
    /// # Errors
    /// What the kernel says.
    fn greet(&mut self, peers: &[WireguardPeerKey]) -> io::Result<()>;
}
