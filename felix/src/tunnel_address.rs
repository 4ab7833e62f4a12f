//! The addresses of the node's tunnels (`tunl0`, `vxlan.calico`, `wireguard.cali` and those of IPv6): taken by IPAM
//! while some pool's packets travel through the tunnel, published in the Node's annotations, given back when none do
//! any more.
//!
//! The annotation is what other parts go by: it is written after the address is taken and removed before the
//! address is given back, so that at no moment two nodes could use it. A tunnel that moves to another pool holds both
//! addresses until the new one is published.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use datastore::convert::{VXLAN_TUNNEL_MAC, VXLAN_TUNNEL_MAC_V6, tunnel_address_annotation};
use kernel::{Link, vxlan_link_name};
use model::{Family, IpPool, Mac, Node, TunnelKind, TunnelNeed};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::addresses::Addresses;
use crate::cluster::Cluster;
use crate::node_address::Annotate;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long an address that nothing needs any more stays: other nodes may hear of the pool later than of the Node,
/// and send through the tunnel until then, and a speaker that is to take routes over may just be starting.
const LINGER: Duration = Duration::from_secs(30);

/// Keeps the addresses right.
pub struct TunnelAddress<S, A> {
    cluster: Arc<Cluster>,
    addresses: S,
    annotate: A,
    /// What was wanted and published when IPAM was last seen to agree, by tunnel: whoever ended between two steps
    /// left the rest to the next.
    settled: BTreeMap<TunnelKind, Wanted>,
    /// When an address that is published and not needed may go.
    ends: BTreeMap<TunnelKind, Instant>,
    /// The node's own links: who announces a VXLAN tunnel must take its packets.
    links: Option<watch::Receiver<Arc<Vec<Link>>>>,
    /// [`LINGER`], but for tests.
    linger: Duration,
}

/// What an address follows from.
#[derive(Clone, PartialEq)]
struct Wanted {
    need: TunnelNeed,
    published: Option<IpAddr>,
}

impl<S: Addresses, A: Annotate> TunnelAddress<S, A> {
    pub fn new(cluster: Arc<Cluster>, addresses: S, annotate: A) -> Self {
        Self {
            cluster,
            addresses,
            annotate,
            settled: BTreeMap::new(),
            ends: BTreeMap::new(),
            links: None,
            linger: LINGER,
        }
    }

    /// Announces no VXLAN tunnel before its link is among these, and up.
    #[must_use]
    pub fn with_links(self, links: watch::Receiver<Arc<Vec<Link>>>) -> Self {
        Self { links: Some(links), ..self }
    }

    /// Never returns while the cluster is followed.
    pub async fn run(mut self) {
        let (mut own, mut pools) = (self.cluster.own(), self.cluster.pools_changed());
        let mut links = self.links.clone();
        let mut pause = FIRST_PAUSE;
        loop {
            let state = own.borrow_and_update().clone();
            pools.borrow_and_update();
            let mut failed = false;
            if let Some(node) = state.node.filter(|_| state.in_sync) {
                failed = !self.update(&node).await;
            }
            let retry = failed.then(|| Instant::now() + pause);
            let due = self.ends.values().copied().chain(retry).min();
            let again = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = own.changed() => if changed.is_err() { return },
                changed = pools.changed() => if changed.is_err() { return },
                () = changed(&mut links) => {}
                () = again => {}
            }
            pause = if failed { (pause * 2).min(LONGEST_PAUSE) } else { FIRST_PAUSE };
        }
    }

    /// One tunnel that fails stops no other; says whether all are right.
    async fn update(&mut self, node: &Node) -> bool {
        let pools = self.cluster.pools();
        let mut is_right = true;
        for kind in TunnelKind::ALL {
            let wanted = Wanted { need: kind.need(node, &pools), published: node.tunnels.address(kind) };
            if self.settled.get(&kind) == Some(&wanted)
                || self.lingers(kind, &wanted)
                || self.awaits_link(kind, &wanted)
            {
                continue;
            }
            match self.settle(kind, node, &pools, &wanted).await {
                Ok(published) => _ = self.settled.insert(kind, Wanted { published, ..wanted }),
                Err(error) => {
                    tracing::warn!(error = %format!("{error:#}"), ?kind, "tunnel address; will be retried");
                    self.settled.remove(&kind);
                    is_right = false;
                }
            }
        }
        is_right
    }

    /// Is the address not needed, and stays for a while yet?
    fn lingers(&mut self, kind: TunnelKind, wanted: &Wanted) -> bool {
        if wanted.need != TunnelNeed::None || wanted.published.is_none() {
            self.ends.remove(&kind);
            return false;
        }
        let now = Instant::now();
        let lingers = now < *self.ends.entry(kind).or_insert(now + self.linger);
        if !lingers {
            self.ends.remove(&kind);
        }
        lingers
    }

    /// Is the link of a tunnel that is to be announced still to come?
    fn awaits_link(&self, kind: TunnelKind, wanted: &Wanted) -> bool {
        let family = match kind {
            TunnelKind::Vxlan => Family::V4,
            TunnelKind::VxlanV6 => Family::V6,
            _ => return false,
        };
        let is_new = wanted.need != TunnelNeed::None && wanted.published.is_none();
        let is_up = |links: &watch::Receiver<Arc<Vec<Link>>>| {
            links.borrow().iter().any(|link| link.name == vxlan_link_name(family) && link.up)
        };
        is_new && self.links.as_ref().is_some_and(|links| !is_up(links))
    }

    /// Returns what is published then.
    async fn settle(
        &self,
        kind: TunnelKind,
        node: &Node,
        pools: &[IpPool],
        wanted: &Wanted,
    ) -> Result<Option<IpAddr>> {
        let annotation = tunnel_address_annotation(kind);
        let published = wanted.published;
        match &wanted.need {
            TunnelNeed::None => {
                if let Some(address) = published {
                    self.annotate.annotate(&[(annotation, None)]).await.context("take it out of the Node")?;
                    tracing::info!(%address, ?kind, "tunnel address withdrawn");
                }
                self.addresses.release_tunnel(kind).await.context("release")?;
                Ok(None)
            }
            TunnelNeed::From(names) if names.is_empty() => {
                if published.is_none() {
                    tracing::warn!(
                        ?kind,
                        "no address: none of its pools is enabled, selects this node and allows tunnels"
                    );
                }
                Ok(published)
            }
            TunnelNeed::From(names) => {
                let has = |address| {
                    pools.iter().any(|pool| names.contains(&pool.name) && pool.cidr.contains(address))
                };
                let wish = published.filter(|address| has(*address));
                let address = self.addresses.allocate_tunnel(kind, names, wish).await.context("allocate")?;
                if published != Some(address) {
                    let mut changes = vec![(annotation, Some(address.to_string()))];
                    changes.extend(mac_to_tell(kind, node));
                    self.annotate.annotate(&changes).await.context("publish")?;
                    tracing::info!(%address, ?kind, was = ?published, "tunnel address published");
                }
                self.addresses.release_others(kind, address).await.context("release what it had before")?;
                Ok(Some(address))
            }
        }
    }
}

/// Ends when the links have changed; never without links.
async fn changed(links: &mut Option<watch::Receiver<Arc<Vec<Link>>>>) {
    let gone = match links {
        Some(links) => links.changed().await.is_err(),
        None => true,
    };
    if gone {
        std::future::pending().await
    }
}

/// The Ethernet address of a VXLAN link, for who cannot work it out; one that the Node tells stays.
fn mac_to_tell(kind: TunnelKind, node: &Node) -> Option<(&'static str, Option<String>)> {
    let (annotation, told, family) = match kind {
        TunnelKind::Vxlan => (VXLAN_TUNNEL_MAC, node.tunnels.vxlan_mac, Family::V4),
        TunnelKind::VxlanV6 => (VXLAN_TUNNEL_MAC_V6, node.tunnels.vxlan_mac_v6, Family::V6),
        _ => return None,
    };
    told.is_none().then(|| (annotation, Some(text(node.vxlan_mac(family)))))
}

fn text(mac: Mac) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use model::{AllowedUse, AssignmentMode, EncapMode, NodeName, Selector, Tunnels, Update};
    use parking_lot::Mutex;

    use super::*;
    use crate::addresses::{AddressError, AddressRequest};

    const SHORT: Duration = Duration::from_millis(300);

    /// Pools `a` and `b`, and what was done, in its order.
    #[derive(Clone)]
    struct Scene {
        cluster: Arc<Cluster>,
        done: Arc<Mutex<Vec<String>>>,
        /// Fails when the Node is to be written.
        is_away: Arc<Mutex<bool>>,
    }

    impl Addresses for Scene {
        async fn allocate(&self, _: AddressRequest) -> Result<Vec<IpAddr>, AddressError> {
            Err(AddressError::Unavailable("no pods here".to_owned()))
        }

        async fn allocate_tunnel(
            &self,
            _: TunnelKind,
            pools: &[String],
            wish: Option<IpAddr>,
        ) -> Result<IpAddr, AddressError> {
            let second = if pools[0] == "a" { 65 } else { 66 };
            let address = wish.unwrap_or_else(|| IpAddr::from([10, second, 0, 1]));
            // However often it is tried again.
            let (took, mut done) = (format!("take {address}"), self.done.lock());
            if done.last() != Some(&took) {
                done.push(took);
            }
            Ok(address)
        }

        async fn release_others(&self, _: TunnelKind, keep: IpAddr) -> Result<(), AddressError> {
            self.done.lock().push(format!("keep {keep}"));
            Ok(())
        }

        async fn release_tunnel(&self, kind: TunnelKind) -> Result<(), AddressError> {
            if kind == TunnelKind::Vxlan {
                self.done.lock().push("release".to_owned());
            }
            Ok(())
        }

        async fn release(&self, _: &str) -> Result<(), AddressError> {
            Ok(())
        }
    }

    impl Annotate for Scene {
        async fn annotate(&self, annotations: &[(&str, Option<String>)]) -> Result<()> {
            anyhow::ensure!(!*self.is_away.lock(), "the API server is away");
            let (name, value) = &annotations[0];
            assert_eq!(*name, "projectcalico.org/IPv4VXLANTunnelAddr");
            self.done.lock().push(format!("tell {}", value.as_deref().unwrap_or("nothing")));
            let mac = annotations.get(1).and_then(|(_, value)| value.as_deref());
            assert!(mac.is_none_or(|mac| mac == "66:40:b3:ea:b6:3f"), "{mac:?}");
            self.tell_node(value.as_deref());
            Ok(())
        }
    }

    impl Scene {
        fn new(published: Option<&str>) -> Self {
            let cluster = Arc::new(Cluster::new(NodeName::from("n1")));
            let scene = Self { cluster, done: Arc::default(), is_away: Arc::default() };
            scene.tell_node(published);
            scene
        }

        fn tell_node(&self, published: Option<&str>) {
            let node = Node {
                tunnels: Tunnels { vxlan: published.map(|text| text.parse().unwrap()), ..Tunnels::default() },
                ..Node::named("n1")
            };
            self.cluster.observe(&Update::Node(node.name.clone(), Some(node)));
        }

        fn tell_pool(&self, name: &str, vxlan_mode: EncapMode) {
            let second = if name == "a" { 65 } else { 66 };
            let pool = IpPool {
                name: name.to_owned(),
                cidr: format!("10.{second}.0.0/16").parse().unwrap(),
                ipip_mode: EncapMode::Never,
                vxlan_mode,
                nat_outgoing: false,
                disabled: false,
                disable_bgp_export: false,
                block_size: 26,
                node_selector: Selector::all(),
                namespace_selector: Selector::all(),
                allowed_uses: vec![AllowedUse::Workload, AllowedUse::Tunnel],
                assignment_mode: AssignmentMode::Automatic,
                deleting: false,
                created: 0,
            };
            self.cluster.observe(&Update::Pool(name.to_owned(), Some(pool)));
        }

        fn start(&self) {
            self.start_with(|tunnels| tunnels);
        }

        fn start_with(&self, change: impl FnOnce(TunnelAddress<Self, Self>) -> TunnelAddress<Self, Self>) {
            self.cluster.observe(&Update::InSync);
            let tunnels = TunnelAddress::new(self.cluster.clone(), self.clone(), self.clone());
            tokio::spawn(change(TunnelAddress { linger: SHORT, ..tunnels }).run());
        }

        /// Waits until this was done, and takes it.
        async fn did(&self, what: &[&str]) {
            let deadline = Instant::now() + Duration::from_secs(60);
            while self.done.lock().len() < what.len() && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert_eq!(std::mem::take(&mut *self.done.lock()), what);
        }
    }

    #[tokio::test]
    async fn an_address_is_told_after_it_is_taken_and_given_back_after_it_is_withdrawn() {
        let scene = Scene::new(None);
        scene.tell_pool("a", EncapMode::CrossSubnet);
        scene.start();
        scene.did(&["take 10.65.0.1", "tell 10.65.0.1", "keep 10.65.0.1"]).await;

        let changed = Instant::now();
        scene.tell_pool("a", EncapMode::Never);

        scene.did(&["tell nothing", "release"]).await;
        assert!(changed.elapsed() >= SHORT, "others may still send through the tunnel");
    }

    #[tokio::test]
    async fn a_tunnel_is_not_announced_before_its_link_is_up() {
        let scene = Scene::new(None);
        scene.tell_pool("a", EncapMode::Always);
        let (links, told) = watch::channel(Arc::default());
        scene.start_with(|tunnels| tunnels.with_links(told));
        let link = |up| {
            let (name, addresses) = ("vxlan.calico".to_owned(), Vec::new());
            Arc::new(vec![Link { index: 9, name, up, mtu: 1450, mac: None, alias: None, addresses }])
        };

        links.send_replace(link(false));
        tokio::task::yield_now().await;
        assert_eq!(scene.done.lock().len(), 0);
        links.send_replace(link(true));

        scene.did(&["take 10.65.0.1", "tell 10.65.0.1", "keep 10.65.0.1"]).await;
    }

    #[tokio::test]
    async fn a_tunnel_that_moves_to_another_pool_always_has_an_address() {
        let scene = Scene::new(Some("10.65.0.7"));
        scene.tell_pool("a", EncapMode::Always);
        scene.start();
        scene.did(&["take 10.65.0.7", "keep 10.65.0.7"]).await;

        scene.tell_pool("b", EncapMode::Always);
        scene.did(&["take 10.65.0.7", "keep 10.65.0.7"]).await;
        scene.tell_pool("a", EncapMode::Never);

        scene.did(&["take 10.66.0.1", "tell 10.66.0.1", "keep 10.66.0.1"]).await;
    }

    #[tokio::test]
    async fn nothing_is_given_back_while_the_node_cannot_be_written() {
        let scene = Scene::new(Some("10.65.0.7"));
        *scene.is_away.lock() = true;
        scene.tell_pool("b", EncapMode::Always);
        scene.start();
        scene.did(&["take 10.66.0.1"]).await;

        *scene.is_away.lock() = false;

        scene.did(&["take 10.66.0.1", "tell 10.66.0.1", "keep 10.66.0.1"]).await;
    }

    #[tokio::test]
    async fn what_an_earlier_run_left_is_given_back() {
        let scene = Scene::new(None);
        scene.tell_pool("a", EncapMode::Never);

        scene.start();

        scene.did(&["release"]).await;
    }
}
