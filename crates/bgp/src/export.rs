//! Routes on their way out. Owns who may get a route and how its attributes change; keeps no state but a memo.

use std::net::{IpAddr, Ipv6Addr};

use bgp_packet::{Community, Family, NextHop, PathAttributes, Prefix, WireAttributes};

use crate::intern::AttrId;
use crate::path::{Path, Source};
use crate::policy::{Edit, Facts};
use crate::rib::Rib;
use crate::sent::SentId;
use crate::table::Slot;
use crate::update_group::GroupKey;
use crate::{Config, NextHopMode, SourceKind, Verdict, admission};

/// MED of routes that other routers of our AS told us (RFC 4271 §5.1.4 leaves the value to us); our own
/// routes carry none, which counts as 0.
const PASSED_ON_MED: u32 = 100;
/// Why a peer does not get the best route to a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withheld {
    /// There is no usable route, or the peer is not Established.
    NoRoute,
    /// The family was not negotiated with the peer.
    Family,
    /// After a restart, only own routes go out until all peers have been heard (RFC 4724 §4.1).
    Restarting,
    /// The route came from this peer.
    OwnRoute,
    /// The peer originated the route (RFC 4456 §8).
    Originator,
    /// A well-known community forbids it (RFC 1997).
    Community(Community),
    /// Both this peer and the one that the route came from are internal, and we do not reflect between
    /// them (RFC 4271 §9.2, RFC 4456 §6).
    NotReflected,
    /// Export policy; the index of the rule, or the default.
    Policy(Option<u16>),
    /// The route would leak: the peer is no customer of ours (RFC 9234 §5).
    OnlyToCustomer,
    /// Its peer is away for long, and this one does not know what that means (RFC 9494 §4.3).
    LongLivedStale,
    /// There is no next hop that the peer could use.
    NextHop,
    /// The attributes fill more than a message.
    TooLong,
}

/// What the export of one route depends on.
#[derive(Clone, Copy)]
pub(crate) struct Exporter<'a> {
    pub(crate) config: &'a Config,
    pub(crate) key: &'a GroupKey,
}

/// What an export comes to depends on this alone, unless policy looks at the prefix or changes attributes.
type MemoKey = (AttrId, Source, bool, Family);

/// Places of a [`Memo`].
const PLACES: usize = 256;

/// Exports of the batch at hand: routes with the same attributes are worked out once. Each attribute set has one
/// place, which the next one that comes there takes over.
#[derive(Debug, Default)]
pub(crate) struct Memo {
    known: Vec<Option<(MemoKey, Option<SentId>)>>,
    /// Octets being made.
    scratch: Vec<u8>,
}

impl Memo {
    pub(crate) fn forget(&mut self) {
        self.known.clear();
    }

    fn place(&mut self, key: &MemoKey) -> &mut Option<(MemoKey, Option<SentId>)> {
        if self.known.is_empty() {
            self.known.resize(PLACES, None);
        }
        &mut self.known[key.0.at() % PLACES]
    }
}

impl Exporter<'_> {
    /// The attributes that the group's members are to get for a route; `None` when they must not get it.
    pub(crate) fn exported(&self, rib: &mut Rib, memo: &mut Memo, slot: Slot, path: &Path) -> Option<SentId> {
        let key = (path.attributes, path.source, path.long_stale, rib.family(slot));
        let policy = &self.key.policy;
        if !policy.accepts_all() {
            let prefix = rib.prefix(slot);
            let attributes = rib.attributes.get(path.attributes).clone();
            let mut edit = Edit::Same(&attributes);
            let source = self.permitted(rib, path, &attributes).ok()?;
            if policy.apply(facts(rib, &prefix, source), &mut edit) != Verdict::Accept {
                return None;
            }
            if let Edit::Changed(changed) = edit {
                let attributes = self.finish(rib, path, key.3, *changed).ok()?;
                return self.intern(rib, &mut memo.scratch, key.3, &attributes);
            }
        }
        if let Some((_, known)) = memo.place(&key).filter(|(known, _)| *known == key) {
            return known;
        }
        let attributes = rib.attributes.get(path.attributes);
        let permitted = self.permitted(rib, path, attributes);
        let finished = permitted.and_then(|_| self.finish(rib, path, key.3, (**attributes).clone()));
        let exported = finished.ok().and_then(|a| self.intern(rib, &mut memo.scratch, key.3, &a));
        *memo.place(&key) = Some((key, exported));
        exported
    }

    fn intern(
        &self,
        rib: &mut Rib,
        scratch: &mut Vec<u8>,
        family: Family,
        attributes: &PathAttributes,
    ) -> Option<SentId> {
        let wire = WireAttributes::write(scratch, attributes, family, self.key.options).ok()?;
        Some(rib.sent.intern(wire, attributes.originator_id))
    }

    /// The attributes that the group's members get for a route, or why they do not get it.
    pub(crate) fn explain(
        &self,
        rib: &Rib,
        prefix: &Prefix,
        path: &Path,
    ) -> Result<PathAttributes, Withheld> {
        let attributes = rib.attributes.get(path.attributes);
        let source = self.permitted(rib, path, attributes)?;
        let mut edit = Edit::Same(attributes);
        if let Verdict::Reject(rule) = self.key.policy.apply(facts(rib, prefix, source), &mut edit) {
            return Err(Withheld::Policy(rule));
        }
        let attributes = self.finish(rib, path, prefix.family(), edit.current().clone())?;
        match WireAttributes::write(&mut Vec::new(), &attributes, prefix.family(), self.key.options) {
            Ok(_) => Ok(attributes),
            Err(_) => Err(Withheld::TooLong),
        }
    }

    /// Whether the rules of BGP let members have the route, policy aside.
    fn permitted(&self, rib: &Rib, path: &Path, attributes: &PathAttributes) -> Result<SourceKind, Withheld> {
        let forbidding: &[Community] = match self.key.internal {
            true => &[Community::NO_ADVERTISE],
            false => &[Community::NO_ADVERTISE, Community::NO_EXPORT, Community::NO_EXPORT_SUBCONFED],
        };
        if let Some(community) = forbidding.iter().find(|c| attributes.communities.contains(c)) {
            return Err(Withheld::Community(*community));
        }
        if path.source == Source::LOCAL {
            return Ok(SourceKind::Local);
        }
        let from = rib.source(path.source).ok_or(Withheld::NoRoute)?;
        if from.external {
            return Ok(SourceKind::External);
        }
        let reflects = self.config.cluster_id.is_some() && self.reflects_between(from.client);
        if self.key.internal && !reflects {
            return Err(Withheld::NotReflected);
        }
        Ok(SourceKind::Internal)
    }

    /// Whether a reflector passes on what a client, or a non-client, told it (RFC 4456 §6).
    fn reflects_between(&self, from_client: bool) -> bool {
        match (from_client, self.key.client) {
            (true, true) => self.config.client_to_client,
            (from, to) => from || to,
        }
    }

    /// Makes attributes that policy has let through into those that members get.
    fn finish(
        &self,
        rib: &Rib,
        path: &Path,
        family: Family,
        mut attributes: PathAttributes,
    ) -> Result<PathAttributes, Withheld> {
        if self.key.internal {
            self.for_internal(rib, path, &mut attributes);
        } else {
            self.for_external(rib, path, &mut attributes);
        }
        admission::let_out(self.config, self.key, path, &mut attributes)?;
        self.set_next_hop(rib, family, path, &mut attributes).ok_or(Withheld::NextHop)?;
        Ok(attributes)
    }

    fn for_internal(&self, rib: &Rib, path: &Path, attributes: &mut PathAttributes) {
        attributes.local_pref.get_or_insert(self.config.default_local_pref);
        let Some(from) = rib.source(path.source).filter(|from| !from.external) else { return };
        attributes.originator_id.get_or_insert(from.router_id);
        if let Some(cluster_id) = self.config.cluster_id {
            attributes.cluster_list.insert(0, cluster_id);
        }
    }

    fn for_external(&self, rib: &Rib, path: &Path, attributes: &mut PathAttributes) {
        attributes.as_path = attributes.as_path.prepended(self.key.local_asn);
        attributes.local_pref = None;
        attributes.originator_id = None;
        attributes.cluster_list.clear();
        // A neighbour that hears of a prefix from its owner and from us must not take the way through us.
        if let Some(from) = rib.source(path.source) {
            attributes.med = (!from.external).then_some(PASSED_ON_MED);
        }
    }

    /// Puts in our own address where it belongs; `None` when we have none of the family.
    fn set_next_hop(
        &self,
        rib: &Rib,
        family: Family,
        path: &Path,
        attributes: &mut PathAttributes,
    ) -> Option<()> {
        let local = path.source == Source::LOCAL;
        let foreign = rib.source(path.source).is_some_and(|from| from.only_here);
        let keep = match self.key.next_hop {
            NextHopMode::Keep => true,
            NextHopMode::SelfAddress => local && self.key.internal,
            NextHopMode::Auto => self.key.internal,
        };
        if keep && !foreign && !attributes.next_hop.is_unspecified() {
            // IPv4 by way of IPv6 only where the peer understands it (RFC 8950 §4).
            let odd = family == Family::Ipv4 && matches!(attributes.next_hop, NextHop::V6(..));
            return (!odd || self.key.v4_over_v6).then_some(());
        }
        attributes.next_hop = match (family, self.key.local) {
            (Family::Ipv4, IpAddr::V4(a)) => NextHop::V4(a),
            (Family::Ipv4, IpAddr::V6(a)) if self.key.v4_over_v6 => self.own_v6(a)?,
            (Family::Ipv4, IpAddr::V6(_)) => NextHop::V4(self.config.next_hop_v4?),
            (Family::Ipv6, IpAddr::V6(a)) => self.own_v6(a)?,
            (Family::Ipv6, IpAddr::V4(_)) => NextHop::V6(self.config.next_hop_v6?, None),
        };
        Some(())
    }

    /// Our own IPv6 next hop on a session from `local`; a link-local address goes beside a global one
    /// (RFC 2545 §3), and alone to external peers when we have no other.
    fn own_v6(&self, local: Ipv6Addr) -> Option<NextHop> {
        if !local.is_unicast_link_local() {
            return Some(NextHop::V6(local, None));
        }
        match self.config.next_hop_v6 {
            Some(global) => Some(NextHop::V6(global, (!self.key.internal).then_some(local))),
            None => (!self.key.internal).then_some(NextHop::V6(local, None)),
        }
    }
}

/// What policy looks at; only routes that are originated here know their interface.
fn facts<'a>(rib: &'a Rib, prefix: &'a Prefix, source: SourceKind) -> Facts<'a> {
    let interface = if source == SourceKind::Local { rib.interfaces.get(prefix) } else { None };
    Facts { interface: interface.map(|interface| &**interface), ..Facts::new(prefix, source) }
}
