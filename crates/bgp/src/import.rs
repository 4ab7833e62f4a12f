//! Received routes. Owns what becomes of an UPDATE: checks, import policy, the way into the table.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use bgp_packet::{NextHop, Nlri, PathAttributes, Prefix, Update};

use crate::peer::Peer;
use crate::policy::{Edit, Facts};
use crate::rib::{Keep, Path, PeerIndex, Rejection, Source};
use crate::{Config, Event, SourceKind, Speaker, Verdict};

impl Speaker {
    /// Takes an UPDATE of an established session into the table.
    pub(crate) fn handle_update(&mut self, index: PeerIndex, update: &Update<'_>, now: Instant) {
        let Some(peer) = self.peer_mut(index) else { return };
        let Some(families) = peer.session.as_ref().map(|s| s.receives().collect::<Vec<_>>()) else { return };
        if let Some(problem) = update.problem {
            peer.problems += 1;
            let detail = problem.to_string();
            if peer.last_problem.as_ref() != Some(&detail) {
                peer.last_problem = Some(detail.clone());
                let key = peer.key;
                self.events.push_back(Event::Malformed { peer: key, detail });
            }
        }
        if let Some(family) = update.end_of_rib().filter(|f| families.contains(f)) {
            return self.handle_end_of_rib(index, family, now);
        }
        let spoken = |nlri: &Nlri<'_>| families.contains(&nlri.family());
        for nlri in [Some(update.withdrawn), update.mp_unreach].into_iter().flatten().filter(spoken) {
            nlri.iter().for_each(|prefix| self.rib.remove(prefix, Source::Peer(index)));
        }
        let classic = update.attributes.next_hop.map(|a| (NextHop::V4(a), update.nlri));
        let mp = update.mp_reach.map(|mp| (mp.next_hop, mp.nlri));
        let withdraw = update.is_treat_as_withdraw();
        let without_next_hop = (classic.is_none()).then_some(update.nlri);
        let lost = [without_next_hop, mp.map(|m| m.1), classic.map(|c| c.1)];
        if withdraw {
            for nlri in lost.into_iter().flatten().filter(spoken) {
                nlri.iter().for_each(|prefix| self.rib.remove(prefix, Source::Peer(index)));
            }
            return;
        }
        for (next_hop, nlri) in [classic, mp].into_iter().flatten() {
            if !nlri.is_empty() && spoken(&nlri) {
                let attributes = self.intern(update.attributes.to_path(next_hop));
                self.take(index, &attributes, nlri);
            }
        }
    }

    /// Takes the routes of one attribute set.
    fn take(&mut self, index: PeerIndex, attributes: &Arc<PathAttributes>, nlri: Nlri<'_>) {
        let Some(Some(peer)) = self.peers.get(index as usize) else { return };
        let refused = inadmissible(&self.config, peer, attributes);
        let external = peer.session.as_ref().is_some_and(|s| !s.internal);
        let policy = peer.config.import.clone();
        let source = Source::Peer(index);
        for prefix in nlri.iter() {
            let rejection = refused.or_else(|| judge(&policy, external, &prefix, attributes));
            let path = Path { source, attributes: attributes.clone(), rejection, stale: false };
            self.rib.insert(prefix, path);
        }
    }

    /// Judges all routes of a peer anew, after its import policy changed.
    pub(crate) fn import_again(&mut self, index: PeerIndex) {
        let Some(Some(peer)) = self.peers.get(index as usize) else { return };
        let external = self.rib.peer(index).is_some_and(|p| p.external);
        let config = &self.config;
        self.rib.visit_peer(index, |prefix, path| {
            path.rejection = inadmissible(config, peer, &path.attributes)
                .or_else(|| judge(&peer.config.import, external, prefix, &path.attributes));
            Keep::Keep
        });
    }
}

/// Asks the import policy. What it would change of the attributes is not kept: policy here only selects.
fn judge(
    policy: &crate::Policy,
    external: bool,
    prefix: &Prefix,
    attributes: &PathAttributes,
) -> Option<Rejection> {
    if policy.accepts_all() {
        return None;
    }
    let kind = if external { SourceKind::External } else { SourceKind::Internal };
    match policy.apply(Facts::new(prefix, kind), &mut Edit::Same(attributes)) {
        Verdict::Accept => None,
        Verdict::Reject(rule) => Some(Rejection::Policy(rule)),
    }
}

/// Loops and next hops that no policy can make acceptable.
fn inadmissible(config: &Config, peer: &Peer, attributes: &PathAttributes) -> Option<Rejection> {
    let own = peer.local_asn(config.asn);
    let allowed = peer.config.allow_own_as as usize;
    let own_count = if attributes.as_path.is_empty() { 0 } else { attributes.as_path.count(own) };
    if own_count > allowed {
        return Some(Rejection::AsLoop);
    }
    if attributes.originator_id == Some(config.router_id) {
        return Some(Rejection::OwnOriginator);
    }
    if config.cluster_id.is_some_and(|id| attributes.cluster_list.contains(&id)) {
        return Some(Rejection::ClusterLoop);
    }
    let next_hop = attributes.next_hop.address();
    let unusable = match next_hop {
        IpAddr::V4(a) => a.is_unspecified() || a.is_multicast() || a.is_broadcast() || a.is_loopback(),
        IpAddr::V6(a) => a.is_unspecified() || a.is_multicast() || a.is_loopback(),
    };
    let ours = peer.session.as_ref().is_some_and(|s| s.local == next_hop);
    let remote_is_loopback = peer.key.address().is_loopback();
    ((unusable && !(remote_is_loopback && next_hop.is_loopback())) || ours).then_some(Rejection::NextHop)
}
