//! Routes on their way out. Owns who may get a route and how its attributes change; keeps no state.

use std::net::{IpAddr, Ipv6Addr};

use bgp_packet::{Community, Family, NextHop, PathAttributes, Prefix};

use crate::peer::{Peer, Session};
use crate::policy::{Edit, Facts};
use crate::rib::{Path, PeerIndex, Rib, Source};
use crate::{Config, NextHopMode, SourceKind, Verdict};

/// MED of routes that other routers of our AS told us (RFC 4271 §5.1.4 leaves the value to us); our own
/// routes carry none, which counts as 0.
const PASSED_ON_MED: u32 = 100;

/// What the export of one route depends on.
#[derive(Clone, Copy)]
pub(crate) struct Exporter<'a> {
    pub(crate) config: &'a Config,
    pub(crate) index: PeerIndex,
    pub(crate) peer: &'a Peer,
    pub(crate) session: &'a Session,
    pub(crate) rib: &'a Rib,
}

impl Exporter<'_> {
    /// The attributes that the peer is to get for a route; `None` when it must not get it.
    pub(crate) fn export(&self, prefix: &Prefix, path: &Path) -> Option<PathAttributes> {
        let source = self.permitted(path)?;
        let mut edit = Edit::Same(&path.attributes);
        if self.peer.config.export.apply(Facts::new(prefix, source), &mut edit) != Verdict::Accept {
            return None;
        }
        let mut attributes = edit.current().clone();
        if self.session.internal {
            self.for_internal(path, &mut attributes);
        } else {
            self.for_external(path, &mut attributes);
        }
        self.set_next_hop(prefix.family(), path, &mut attributes)?;
        Some(attributes)
    }

    /// Whether the rules of BGP let the peer have the route, policy aside.
    fn permitted(&self, path: &Path) -> Option<SourceKind> {
        let communities = &path.attributes.communities;
        let has = |c: Community| communities.contains(&c);
        if has(Community::NO_ADVERTISE) {
            return None;
        }
        if !self.session.internal && (has(Community::NO_EXPORT) || has(Community::NO_EXPORT_SUBCONFED)) {
            return None;
        }
        let Source::Peer(from) = path.source else { return Some(SourceKind::Local) };
        if from == self.index {
            return None;
        }
        let from = self.rib.peer(from)?;
        if from.external {
            return Some(SourceKind::External);
        }
        if self.session.internal {
            let reflects = self.config.cluster_id.is_some() && self.reflects_between(from.client);
            let originator = path.attributes.originator_id.unwrap_or(from.router_id);
            if !reflects || Some(originator) == self.peer.router_id {
                return None;
            }
        }
        Some(SourceKind::Internal)
    }

    /// Whether a reflector passes on what a client, or a non-client, told it (RFC 4456 §6).
    fn reflects_between(&self, from_client: bool) -> bool {
        match (from_client, self.peer.config.reflector_client) {
            (true, true) => self.config.client_to_client,
            (from, to) => from || to,
        }
    }

    fn for_internal(&self, path: &Path, attributes: &mut PathAttributes) {
        attributes.local_pref.get_or_insert(self.config.default_local_pref);
        let Source::Peer(from) = path.source else { return };
        let Some(from) = self.rib.peer(from).filter(|from| !from.external) else { return };
        attributes.originator_id.get_or_insert(from.router_id);
        if let Some(cluster_id) = self.config.cluster_id {
            attributes.cluster_list.insert(0, cluster_id);
        }
    }

    fn for_external(&self, path: &Path, attributes: &mut PathAttributes) {
        attributes.as_path = attributes.as_path.prepended(self.peer.local_asn(self.config.asn));
        attributes.local_pref = None;
        attributes.originator_id = None;
        attributes.cluster_list.clear();
        // A neighbour that hears of a prefix from its owner and from us must not take the way through us.
        let passed_on = |from| self.rib.peer(from).is_some_and(|from| !from.external);
        match path.source {
            Source::Local => {}
            Source::Peer(from) => attributes.med = passed_on(from).then_some(PASSED_ON_MED),
        }
    }

    /// Puts in our own address where it belongs; `None` when we have none of the family.
    fn set_next_hop(&self, family: Family, path: &Path, attributes: &mut PathAttributes) -> Option<()> {
        let keep = match self.peer.config.next_hop {
            NextHopMode::Keep => true,
            NextHopMode::SelfAddress => false,
            NextHopMode::Auto => self.session.internal && path.source != Source::Local,
        };
        if keep && !attributes.next_hop.is_unspecified() {
            return Some(());
        }
        if path.source == Source::Local && !attributes.next_hop.is_unspecified() && self.session.internal {
            return Some(());
        }
        attributes.next_hop = match (family, self.session.local) {
            (Family::Ipv4, IpAddr::V4(a)) => NextHop::V4(a),
            (Family::Ipv4, IpAddr::V6(_)) => NextHop::V4(self.config.next_hop_v4?),
            (Family::Ipv6, IpAddr::V6(a)) if !is_link_local(a) => NextHop::V6(a, None),
            (Family::Ipv6, _) => NextHop::V6(self.config.next_hop_v6?, None),
        };
        Some(())
    }
}

fn is_link_local(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
}
