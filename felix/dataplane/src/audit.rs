//! What the kernel should hold against what it holds now, entry by entry, for people and scripts.
//!
//! Reads; never writes. What it finds is pending afterwards, and the next apply puts it right.

use std::collections::BTreeMap;

use kernel::{Driver, Neighbour, Route, RouteKind, Tunnel, VxlanLink, WireguardLink, WireguardPeer};

use crate::foreign::ForeignWriter;
use crate::stage::Stage;
use crate::status::Kind;

/// The answer, by kind of kernel state. Every kind is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    pub kinds: BTreeMap<Kind, KindAudit>,
}

impl Audit {
    /// Is everything as intended, and could everything be read?
    pub fn is_clean(&self) -> bool {
        self.kinds.values().all(|kind| kind.differences.is_empty() && kind.error.is_none())
    }
}

/// One kind of kernel state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KindAudit {
    /// Entries that are wanted.
    pub intended: usize,
    pub differences: Vec<Difference>,
    /// Why it could not be read; then nothing is known of it.
    pub error: Option<String>,
    /// Who else wrote here last. `None` where nobody did since we run, or where the kernel does not tell.
    pub writer: Option<ForeignWriter>,
}

/// One entry that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What it is about, as `10.65.0.1/32` or `table filter: chain cali-FORWARD`.
    pub what: String,
    /// `None`: it should not be there.
    pub intended: Option<String>,
    /// `None`: it is not there.
    pub actual: Option<String>,
}

/// Reads one kind and compares.
pub(crate) fn of_stage<D: Driver>(stage: &mut Stage<D>, show: fn(&D::Value) -> String) -> KindAudit {
    let result = stage.table.resync();
    let (desired, actual) = (stage.table.desired(), stage.table.actual());
    let mut audit = KindAudit { intended: desired.len(), ..KindAudit::default() };
    match result {
        Ok(_) => {
            let keys = desired.keys().chain(actual.keys().filter(|key| !desired.contains_key(*key)));
            let different = keys.filter(|key| stage.table.is_pending(key));
            audit.differences = different
                .map(|key| Difference {
                    what: (stage.describe)(key),
                    intended: desired.get(key).map(show),
                    actual: actual.get(key).map(show),
                })
                .collect();
        }
        Err(error) => audit.error = Some(error.to_string()),
    }
    audit
}

pub(crate) fn route(route: &Route) -> String {
    let mut text = match &route.kind {
        RouteKind::Blackhole => "blackhole".to_owned(),
        RouteKind::Unicast(hops) | RouteKind::Nexthop(_, hops) => {
            let hop = |hop: &kernel::NextHop| {
                let via = hop.gateway.map(|gateway| format!("via {gateway}"));
                let dev = hop.interface.as_ref().map(|interface| format!("dev {interface}"));
                let onlink = hop.onlink.then(|| "onlink".to_owned());
                via.into_iter().chain(dev).chain(onlink).collect::<Vec<_>>().join(" ")
            };
            hops.iter().map(hop).collect::<Vec<_>>().join(", ")
        }
    };
    text.push_str(&format!(" proto {}", route.protocol));
    text.extend(route.source.map(|source| format!(" src {source}")));
    text.extend(route.mtu.map(|mtu| format!(" mtu {mtu}")));
    text
}

pub(crate) fn neighbour(neighbour: &Neighbour) -> String {
    let octets: Vec<_> = neighbour.mac.iter().map(|octet| format!("{octet:02x}")).collect();
    format!("lladdr {} permanent", octets.join(":"))
}

pub(crate) fn tunnel(tunnel: &Tunnel) -> String {
    let address = tunnel.address.map_or("no address".to_owned(), |address| format!("{address}/32"));
    let mtu = tunnel.mtu.map(|mtu| format!(", mtu {mtu}")).unwrap_or_default();
    let carries = if tunnel.carries_pods { ", carries pods" } else { "" };
    format!("up, {address}{mtu}{carries}")
}

pub(crate) fn vxlan(link: &VxlanLink) -> String {
    let address = link.address.map_or("no address".to_owned(), |address| format!("address {address}"));
    let mtu = link.mtu.map(|mtu| format!(", mtu {mtu}")).unwrap_or_default();
    let VxlanLink { vni, port, local, parent, .. } = link;
    format!("up, vni {vni} port {port} local {local} dev {parent}, {address}{mtu}")
}

pub(crate) fn wireguard(link: &WireguardLink) -> String {
    let address = link.address.map_or("no address".to_owned(), |address| format!("address {address}"));
    let mtu = link.mtu.map(|mtu| format!(", mtu {mtu}")).unwrap_or_default();
    format!("up, port {}, {address}{mtu}", link.port)
}

pub(crate) fn wireguard_peer(peer: &WireguardPeer) -> String {
    let allowed: Vec<_> = peer.allowed.iter().map(ToString::to_string).collect();
    format!("at {}, allowed {}, keepalive {}", peer.endpoint, allowed.join(" "), peer.keep_alive)
}
