//! What an operator can see of routes. Owns snapshots of paths and of what peers get; changes nothing.

use std::sync::Arc;

use bgp_packet::{PathAttributes, Prefix};

use crate::export::{Exporter, Withheld};
use crate::path::{PeerIndex, Rejection, Source};
use crate::rib::RouteSource;
use crate::sent::SentId;
use crate::table::Slot;
use crate::{Config, PeerKey, Reason, Speaker};

/// One path to a prefix as it is now.
#[derive(Clone, Debug)]
pub struct RouteStatus {
    /// Destination.
    pub prefix: Prefix,
    /// Who it came from.
    pub source: RouteSource,
    /// Identifier that the peer gave the path (RFC 7911); 0 without ADD-PATH.
    pub path_id: u32,
    /// Attributes that are used: what import policy made of the received ones.
    pub attributes: Arc<PathAttributes>,
    /// Attributes as they were received.
    pub received: Arc<PathAttributes>,
    /// Whether it is the best, and by which step.
    pub best: Option<Reason>,
    /// Why it is not used at all.
    pub rejection: Option<Rejection>,
    /// Name of the rule of import policy that rejected it.
    pub rejected_by: Option<String>,
    /// Kept from before its peer went away.
    pub stale: bool,
}

/// A route that a peer has from us, or is about to get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdvertisedRoute {
    /// Destination.
    pub prefix: Prefix,
    /// Identifier that it is sent with (RFC 7911); 0 without ADD-PATH.
    pub path_id: u32,
    /// Attributes as they are sent.
    pub attributes: Arc<PathAttributes>,
}

impl Speaker {
    /// All paths of the table, in order of prefix.
    pub fn routes(&self) -> Vec<RouteStatus> {
        let mut prefixes: Vec<Prefix> = self.prefixes().collect();
        prefixes.sort();
        prefixes.iter().flat_map(|prefix| self.routes_to(prefix)).collect()
    }

    /// Prefixes that have a path, in no order.
    pub fn prefixes(&self) -> impl Iterator<Item = Prefix> + '_ {
        self.rib.used_slots().map(|slot| self.rib.prefix(slot))
    }

    /// How many prefixes have a path.
    pub fn routes_count(&self) -> usize {
        self.rib.used_slots().count()
    }

    /// All paths to one prefix.
    pub fn routes_to(&self, prefix: &Prefix) -> Vec<RouteStatus> {
        self.rib.slot(prefix).map_or_else(Vec::new, |slot| self.routes_at(slot))
    }

    fn routes_at(&self, slot: Slot) -> Vec<RouteStatus> {
        let (paths, best) = self.rib.paths(slot);
        let statuses = paths.iter().enumerate().filter_map(|(i, path)| {
            let source = match path.source.as_peer() {
                None => RouteSource::Local,
                Some(index) => RouteSource::Peer(self.rib.peer(index)?.key),
            };
            let rejection = self.rib.rejection(path);
            let rejected_by = match (rejection, path.source.as_peer()) {
                (Some(Rejection::Policy(rule)), Some(index)) => self.import_rule(index, rule),
                _ => None,
            };
            Some(RouteStatus {
                prefix: self.rib.prefix(slot),
                source,
                path_id: path.id,
                attributes: self.rib.attributes.get(path.attributes).clone(),
                received: self.rib.attributes.get(path.received).clone(),
                best: best.filter(|(at, _)| *at == i).map(|(_, reason)| reason),
                rejection,
                rejected_by,
                stale: path.stale,
            })
        });
        statuses.collect()
    }

    fn import_rule(&self, index: PeerIndex, rule: Option<u16>) -> Option<String> {
        Some(self.peer(index)?.config.import.rule_name(rule).to_owned())
    }

    /// What a peer has from us, in order of prefix; while it is slow or new, part of it is on its way still.
    pub fn advertised(&self, peer: impl Into<PeerKey>) -> Vec<AdvertisedRoute> {
        let Some(index) = self.by_key.get(&peer.into()) else { return Vec::new() };
        let Some((group, router_id)) = self.members.group(*index) else { return Vec::new() };
        let mut last: Option<(SentId, Arc<PathAttributes>)> = None;
        let routes = group.adverts_for(&self.rib, *index, router_id);
        let mut routes: Vec<AdvertisedRoute> = routes
            .filter_map(|(prefix, path_id, id)| {
                let attributes = match &last {
                    Some((known, attributes)) if *known == id => Arc::clone(attributes),
                    _ => Arc::new(self.rib.sent.wire(id).to_path(group.key.options, group.key.internal)?),
                };
                last = Some((id, attributes.clone()));
                Some(AdvertisedRoute { prefix, path_id, attributes })
            })
            .collect();
        routes.sort_by_key(|route| (route.prefix, route.path_id));
        routes
    }

    /// The attributes with which a peer gets the best route to a prefix.
    ///
    /// # Errors
    /// Why it does not get the route.
    pub fn advertisement(
        &self,
        peer: impl Into<PeerKey>,
        prefix: &Prefix,
    ) -> Result<PathAttributes, Withheld> {
        let index = *self.by_key.get(&peer.into()).ok_or(Withheld::NoRoute)?;
        let (group, router_id) = self.members.group(index).ok_or(Withheld::NoRoute)?;
        let best = self.rib.slot(prefix).and_then(|slot| self.rib.best(slot)).ok_or(Withheld::NoRoute)?;
        if !group.speaks(prefix.family()) {
            return Err(Withheld::Family);
        }
        if best.source == Source::peer(index) {
            return Err(Withheld::OwnRoute);
        }
        if self.deferral.is_some() && best.source != Source::LOCAL {
            return Err(Withheld::Restarting);
        }
        let config: &Config = &self.config;
        let attributes = Exporter { config, key: &group.key }.explain(&self.rib, prefix, best)?;
        let own = group.key.internal && attributes.originator_id == Some(router_id);
        if own { Err(Withheld::Originator) } else { Ok(attributes) }
    }
}
