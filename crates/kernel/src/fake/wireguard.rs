//! WireGuard in memory. Whether nodes came to terms is the test's to say.

use std::collections::BTreeMap;
use std::io;

use model::WireguardKey;

use super::{Entry, FakeKernel, State, no_link};
use crate::{
    Driver, Failures, WireguardLink, WireguardLinks, WireguardPeer, WireguardPeerKey, WireguardPeers,
    WireguardSession,
};

/// WireGuard links; putting one makes the link, with a key of its own.
#[derive(Clone, Debug)]
pub struct FakeWireguardLinks(pub(super) FakeKernel);

/// Nodes behind WireGuard links. A range that one of them gets is no other's any more.
#[derive(Clone, Debug)]
pub struct FakeWireguardPeers(pub(super) FakeKernel);

impl Driver for FakeWireguardLinks {
    type Key = String;
    type Value = WireguardLink;

    fn list(&mut self) -> io::Result<BTreeMap<String, WireguardLink>> {
        self.0.list(|state| state.wireguards.clone())
    }

    fn apply(&mut self, puts: &[(String, WireguardLink)], deletes: &[String]) -> Failures<String> {
        let put = |state: &mut State, name: &String, link: &WireguardLink| {
            state.links.insert(name.clone());
            state.wireguards.insert(name.clone(), link.clone());
            Ok(())
        };
        self.0.apply(
            puts,
            deletes,
            |name| Entry::Wireguard(name.clone()),
            put,
            |state, name| {
                state.drop_link(name);
                Ok(())
            },
        )
    }

    fn matches(desired: &WireguardLink, actual: &WireguardLink) -> bool {
        desired.is_realised_by(actual)
    }
}

impl WireguardLinks for FakeWireguardLinks {
    fn keys(&self) -> BTreeMap<String, WireguardKey> {
        let state = self.0.state();
        let key = |name: &String| WireguardKey([name.len() as u8; 32]);
        state.wireguards.keys().map(|name| (name.clone(), key(name))).collect()
    }
}

impl Driver for FakeWireguardPeers {
    type Key = WireguardPeerKey;
    type Value = WireguardPeer;

    fn list(&mut self) -> io::Result<BTreeMap<WireguardPeerKey, WireguardPeer>> {
        self.0.list(|state| state.wireguard_peers.clone())
    }

    fn apply(
        &mut self,
        puts: &[(WireguardPeerKey, WireguardPeer)],
        deletes: &[WireguardPeerKey],
    ) -> Failures<WireguardPeerKey> {
        let put = |state: &mut State, key: &WireguardPeerKey, peer: &WireguardPeer| {
            if !state.wireguards.contains_key(&key.interface) {
                return Err(no_link(&key.interface));
            }
            for (other, held) in &mut state.wireguard_peers {
                if other.interface == key.interface {
                    held.allowed.retain(|range| !peer.allowed.contains(range));
                }
            }
            state.wireguard_peers.insert(key.clone(), peer.clone());
            Ok(())
        };
        self.0.apply(
            puts,
            deletes,
            |key| Entry::WireguardPeer(key.clone()),
            put,
            |state, key| {
                state.wireguard_peers.remove(key);
                Ok(())
            },
        )
    }
}

impl WireguardPeers for FakeWireguardPeers {
    fn sessions(&mut self) -> io::Result<BTreeMap<WireguardPeerKey, WireguardSession>> {
        self.0.list(|state| {
            let session = |key: &WireguardPeerKey| {
                let handshake = state.wireguard_handshakes.contains(key).then_some(1);
                (key.clone(), WireguardSession { handshake, ..WireguardSession::default() })
            };
            state.wireguard_peers.keys().map(session).collect()
        })
    }

    fn greet(&mut self, _peers: &[WireguardPeerKey]) -> io::Result<()> {
        Ok(())
    }
}
