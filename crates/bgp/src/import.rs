//! Received routes. Owns what becomes of an UPDATE: checks, import policy, the way into the table.

use std::net::IpAddr;
use std::time::Instant;

use bgp_packet::{NextHop, Nlri, PathAttributes, Prefix, Update, UpdateContext};

use crate::intern::{AttrId, AttributeTable};
use crate::path::{Path, PeerIndex, Rejection, Source};
use crate::peer::Peer;
use crate::policy::{Edit, Facts};
use crate::rib::Keep;
use crate::{Config, Event, Policy, SourceKind, Speaker, Verdict, admission};

/// The attributes that came last, as octets and by name.
#[derive(Debug, Default)]
pub(crate) struct LastImport {
    octets: Vec<u8>,
    /// Width of AS numbers, and whether the peer is internal: these change what the octets mean.
    context: (bool, bool),
    id: Option<AttrId>,
    scratch: Vec<u8>,
}

impl LastImport {
    /// Names are no longer valid.
    pub(crate) fn forget(&mut self) {
        self.id = None;
    }
}

/// What becomes of routes of a peer.
struct Judge<'a> {
    policy: &'a Policy,
    kind: SourceKind,
}

impl Speaker {
    /// Takes an UPDATE of an established session into the table.
    pub(crate) fn handle_update(&mut self, index: PeerIndex, update: &Update<'_>, now: Instant) {
        self.sweep_attributes();
        let Some(peer) = self.peer_mut(index) else { return };
        if let Some(problem) = update.problem {
            peer.problems += 1;
            let detail = problem.to_string();
            if peer.last_problem.as_ref() != Some(&detail) {
                peer.last_problem = Some(detail.clone());
                let key = peer.key;
                self.events.push_back(Event::Malformed { peer: key, detail });
            }
        }
        let Some(session) = self.peer(index).and_then(|p| p.session.as_ref()) else { return };
        let (context, mut families) = (session.context, [false; 2]);
        session.receives().for_each(|family| families[family.index()] = true);
        let spoken = |nlri: &Nlri<'_>| !nlri.is_empty() && families[nlri.family().index()];
        if let Some(family) = update.end_of_rib().filter(|f| families[f.index()]) {
            return self.handle_end_of_rib(index, family, now);
        }
        for nlri in [Some(update.withdrawn), update.mp_unreach].into_iter().flatten().filter(spoken) {
            self.take_back(index, nlri);
        }
        let next_hop = update.attributes.next_hop.filter(|_| !update.is_treat_as_withdraw());
        let link_local = self.peer(index).is_some_and(|p| p.key.is_link_local());
        let mp = update.mp_reach.map(|mp| (on_link(mp.next_hop, link_local), mp.nlri));
        let reach = [(next_hop.map(NextHop::V4), Some(update.nlri)), (mp.map(|m| m.0), mp.map(|m| m.1))];
        for (next_hop, nlri) in reach {
            let Some(nlri) = nlri.filter(spoken) else { continue };
            match next_hop.filter(|_| !update.is_treat_as_withdraw()) {
                Some(next_hop) => {
                    let attributes = self.received_attributes(update, next_hop, context);
                    self.take(index, attributes, nlri);
                }
                None => self.take_back(index, nlri),
            }
        }
    }

    /// The attributes of an UPDATE, interned. Consecutive UPDATEs often carry the same octets: then nothing
    /// is copied or hashed.
    fn received_attributes(
        &mut self,
        update: &Update<'_>,
        next_hop: NextHop,
        context: UpdateContext,
    ) -> AttrId {
        let last = &mut self.last_import;
        let octets = update.attributes.key(next_hop, &mut last.scratch);
        let context = (context.as4, context.internal);
        if let Some(id) = last.id.filter(|_| last.context == context && last.octets == octets) {
            return id;
        }
        last.octets.clear();
        last.octets.extend_from_slice(octets);
        last.context = context;
        let id = self.rib.attributes.intern(update.attributes.to_path(next_hop));
        last.id = Some(id);
        id
    }

    fn take_back(&mut self, index: PeerIndex, nlri: Nlri<'_>) {
        let source = Source::peer(index);
        nlri.paths().for_each(|(id, prefix)| self.rib.remove(&prefix, source, id));
    }

    /// Takes the routes of one attribute set.
    fn take(&mut self, index: PeerIndex, received: AttrId, nlri: Nlri<'_>) {
        let Some(Some(peer)) = self.peers.get(index as usize) else { return };
        let attributes = self.rib.attributes.get(received);
        let refused = inadmissible(&self.config, peer, attributes);
        let admitted = admission::admit(&self.config, peer, received, &mut self.rib.attributes);
        let refused = refused.or(admitted.err());
        let attributes = admitted.unwrap_or(received);
        let plain = Path { rejection: refused, attributes, ..Path::new(Source::peer(index), received) };
        let judge = Judge::of(peer);
        for (id, prefix) in nlri.paths() {
            let mut path = Path { id, ..plain };
            if refused.is_none() {
                judge.judge(&prefix, &mut path, &mut self.rib.attributes);
            }
            self.rib.insert(&prefix, path);
        }
    }

    /// Judges all routes of a peer anew, after its import policy changed.
    pub(crate) fn import_again(&mut self, index: PeerIndex) {
        let Some(Some(peer)) = self.peers.get(index as usize) else { return };
        let judge = Judge::of(peer);
        let config = &self.config;
        self.rib.visit_peer(index, |prefix, path, attributes| {
            let admitted = admission::admit(config, peer, path.received, attributes);
            path.attributes = admitted.unwrap_or(path.received);
            path.rejection = inadmissible(config, peer, attributes.get(path.received)).or(admitted.err());
            if path.rejection.is_none() {
                judge.judge(prefix, path, attributes);
            }
            Keep::Keep
        });
    }
}

impl<'a> Judge<'a> {
    fn of(peer: &'a Peer) -> Self {
        let external = peer.terms.is_some_and(|t| t.external);
        let kind = if external { SourceKind::External } else { SourceKind::Internal };
        Self { policy: &peer.config.import, kind }
    }

    /// Asks the import policy about a path, and takes over what it changes.
    fn judge(&self, prefix: &Prefix, path: &mut Path, table: &mut AttributeTable) {
        if self.policy.accepts_all() {
            return;
        }
        let admitted = table.get(path.attributes).clone();
        let mut edit = Edit::Same(&admitted);
        match self.policy.apply(Facts::new(prefix, self.kind), &mut edit) {
            Verdict::Accept => {}
            Verdict::Reject(rule) => path.rejection = Some(Rejection::Policy(rule)),
        }
        if let Edit::Changed(changed) = edit {
            path.attributes = table.intern(*changed);
        }
    }
}

/// The next hop that a neighbour by its link-local address gives: packets go to that one, whatever global address
/// stands beside it (RFC 2545 §2).
fn on_link(next_hop: NextHop, link_local: bool) -> NextHop {
    match next_hop {
        NextHop::V6(_, Some(link)) if link_local => NextHop::V6(link, None),
        next_hop => next_hop,
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
