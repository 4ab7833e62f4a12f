//! UPDATEs on their way out. Owns when and how much each session gets of what its group has for it.
//!
//! Bytes are made only as fast as the transport takes them: a slow peer stays behind in its group's log,
//! costs no more than the window, and delays nobody.

use bgp_packet::{Family, RouteRefresh, encode_end_of_rib};
use bytes::Bytes;

use crate::members::Next;
use crate::path::PeerIndex;
use crate::update_group::GroupKey;
use crate::{ConnId, Output, Policy, Speaker, shutdown};

/// Octets that may wait in the transport for one peer before no more are made.
const WINDOW: usize = 256 * 1024;

impl Speaker {
    /// Makes output for peers that have changes to get and room to get them.
    pub(crate) fn flush(&mut self) {
        self.members.evaluate(&mut self.rib, &self.config, self.deferral.is_some());
        self.sweep_attributes();
        while self.outputs.is_empty() {
            let Some(index) = self.members.dequeue() else {
                self.members.collect(&mut self.rib);
                return;
            };
            self.flush_peer(index);
        }
    }

    /// Drops attributes that nobody refers to any more, when enough new ones have come.
    pub(crate) fn sweep_attributes(&mut self) {
        let members = &mut self.members;
        if self.rib.sweep(|marks| members.mark(marks)) {
            self.last_import.forget();
        }
    }

    /// Sends a peer what it is to get, as far as its window goes.
    fn flush_peer(&mut self, index: PeerIndex) {
        let Some(Some(peer)) = self.peers.get_mut(index as usize) else { return };
        let Some(session) = &mut peer.session else { return };
        while session.in_flight < WINDOW {
            let Some(next) = self.members.next(&self.rib, index) else { return };
            let parts = match next {
                Next::Routes(parts) => parts,
                Next::EndOfRib(families) => {
                    let mut bytes = Vec::new();
                    families.iter().for_each(|family| encode_end_of_rib(&mut bytes, *family));
                    vec![bytes.into()]
                }
                Next::BeginRefresh(family) => vec![refresh_mark(family, 1)],
                Next::EndRefresh(family) => vec![refresh_mark(family, 2)],
            };
            let conn: ConnId = session.conn;
            for bytes in parts {
                session.in_flight += bytes.len();
                self.outputs.push_back(Output::Send { conn, bytes });
            }
        }
    }

    /// Makes a peer with a session get routes.
    pub(crate) fn begin_advertising(&mut self, index: PeerIndex) {
        let Some(key) = self.group_key(index) else { return };
        let Some(router_id) = self.peer(index).and_then(|p| p.router_id) else { return };
        self.members.join(index, router_id, key);
    }

    /// The session is gone: the peer has nothing from us any more.
    pub(crate) fn end_advertising(&mut self, index: PeerIndex) {
        self.members.leave(index);
    }

    /// Sends a peer all routes of a family again (RFC 2918); begin and end of the answer are marked when
    /// that was negotiated (RFC 7313).
    pub(crate) fn send_again(&mut self, index: PeerIndex, family: Family, marked: bool) {
        self.members.refresh(index, family, marked);
    }

    /// Looks at everything again for a peer, and sends what differs (after a change of settings).
    pub(crate) fn export_again(&mut self, index: PeerIndex) {
        if let Some(key) = self.group_key(index) {
            self.members.look_again(index, key);
        }
    }

    /// What the peer's export depends on.
    fn group_key(&self, index: PeerIndex) -> Option<GroupKey> {
        let peer = self.peer(index)?;
        let session = peer.session.as_ref()?;
        let lacks = shutdown::lacks_policy(&self.config, !session.internal, &peer.config.export);
        let policy = if lacks { Policy::reject().into() } else { peer.config.export.clone() };
        Some(GroupKey {
            internal: session.internal,
            client: peer.config.reflector_client,
            local_asn: peer.local_asn(self.config.asn),
            local: session.local,
            next_hop: peer.config.next_hop,
            v4_over_v6: session.context.v4_over_v6,
            role: session.role,
            long_lived: session.long_lived,
            graceful_shutdown: peer.config.graceful_shutdown,
            families: Family::ALL.map(|family| session.families.contains(&family)),
            options: session.options,
            add_path_max: peer.config.add_path_send_max.map_or(1, usize::from),
            policy,
        })
    }
}

fn refresh_mark(family: Family, subtype: u8) -> Bytes {
    let mut bytes = Vec::new();
    RouteRefresh { family: family.into(), subtype }.encode(&mut bytes);
    bytes.into()
}
