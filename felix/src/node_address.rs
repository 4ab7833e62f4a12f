//! Finds out at which addresses other nodes reach this one, and publishes them in the Node's annotations.
//!
//! What was published stays until something better is known: an address that cannot be found any more, or that
//! another node has too, is told of and never taken away.

use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use datastore::NodeEvent;
use datastore::convert::{INTERFACES, interfaces_annotation};
use kernel::Link;
use model::{Family, Node, NodeAddress, NodeName};
use tokio::sync::{mpsc, watch};

use crate::autodetect::{Choice, Hints, Method, Undetermined, list, with_length};
use crate::cluster::OwnNode;
use crate::health::{Chosen, Component, Health};
use crate::interfaces::{self, Interfaces};
use crate::start_settings::{AddressSetting, Misfit, Networking, StartSettings};

/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(5);
/// Least time between two Events.
const EVENT_PAUSE: Duration = Duration::from_secs(60);

/// Writes annotations of this node's Node object; `None` removes one.
pub trait Annotate: Send + Sync + 'static {
    fn annotate(&self, annotations: &[(&str, Option<String>)]) -> impl Future<Output = Result<()>> + Send;
}

/// Keeps the addresses right; never returns.
pub struct NodeAddresses<A> {
    pub settings: StartSettings,
    pub own: watch::Receiver<OwnNode>,
    pub links: watch::Receiver<Arc<Vec<Link>>>,
    /// Other nodes that have an address.
    pub others: Box<dyn Fn(IpAddr) -> Vec<NodeName> + Send + Sync>,
    pub annotate: A,
    pub health: Health,
    /// For people who look at the Node.
    pub events: mpsc::Sender<NodeEvent>,
    /// What is told besides.
    pub interfaces: Interfaces,
}

/// Why there is no address of a family, or not the one that was found.
#[derive(Debug, thiserror::Error)]
enum NoAddress {
    #[error(transparent)]
    Undetermined(#[from] Undetermined),
    #[error("{0}")]
    Misfit(Misfit),
    #[error(
        "the address {address} of this node is that of node {} too; delete that Node if its machine is gone, give one \
         of them another address, or set DISABLE_NODE_IP_CHECK=true",
        names(others)
    )]
    Taken { address: IpAddr, others: Vec<NodeName> },
    #[error(
        "IP=none and IP6=none leave the node without an address; set one of them to autodetect or an address"
    )]
    Unwanted,
}

type Found = Result<Option<Choice>, NoAddress>;

impl<A: Annotate> NodeAddresses<A> {
    pub async fn run(mut self) {
        let mut last_error = String::new();
        let mut event_at: Option<Instant> = None;
        loop {
            let error = self.update().await.err().map(|error| format!("{error:#}"));
            if let Some(error) = error.as_ref().filter(|error| **error != last_error) {
                tracing::error!(%error, "node address");
                let now = Instant::now();
                if event_at.is_none_or(|at| now >= at + EVENT_PAUSE) {
                    event_at = Some(now);
                    let (reason, message) = ("NodeAddressUnknown".to_owned(), error.clone());
                    // What nobody can take in time is lost: the log has it.
                    let _ = self.events.try_send(NodeEvent { is_warning: true, reason, message });
                }
            }
            last_error = error.unwrap_or_default();
            let pause = if last_error.is_empty() { self.poll() } else { Some(RETRY) };
            let later = self.interfaces.waits().then_some(interfaces::PAUSE);
            let pause = pause.into_iter().chain(later).min();
            let retry = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.own.changed() => if changed.is_err() { return },
                changed = self.links.changed() => if changed.is_err() { return },
                () = retry => {}
            }
        }
    }

    /// The kernel tells of links and addresses, and the API server of the Node; of names and routes nobody does.
    fn poll(&self) -> Option<Duration> {
        let needs = |setting: &AddressSetting| {
            matches!(setting, AddressSetting::Detect { method: Method::CanReach(_), .. })
        };
        (needs(&self.settings.ipv4) || needs(&self.settings.ipv6)).then_some(self.settings.poll)
    }

    async fn update(&mut self) -> Result<()> {
        let own = self.own.borrow_and_update().clone();
        let links = self.links.borrow_and_update().clone();
        if !own.in_sync || links.is_empty() {
            return Ok(());
        }
        let Some(node) = own.node else {
            let reason = "the API server has no Node of this node's name";
            self.health.set_unready(Component::NodeAddress, reason);
            anyhow::bail!(
                "{reason}; register the node, or set NODENAME to the name that kubectl get nodes shows"
            );
        };
        let told = self.interfaces.news(&node.interfaces, &links, Instant::now());
        let mut changes: Vec<_> =
            told.iter().map(|told| (INTERFACES, Some(interfaces_annotation(told)))).collect();
        if self.settings.backend == Networking::None {
            self.health.set_ready(Component::NodeAddress);
            return if changes.is_empty() { Ok(()) } else { self.annotate.annotate(&changes).await };
        }
        let mut found = Vec::new();
        for (family, key) in [(Family::V4, IPV4), (Family::V6, IPV6)] {
            let of_family = self.find(family, &node, &links).await;
            if let Ok(Some(choice)) = &of_family {
                self.note(family, choice);
                if node.address(family) != Some(choice.address) {
                    changes.push((key, Some(text(choice.address))));
                }
            }
            found.push((family, of_family));
        }
        if let Some(number) = self.settings.as_number.filter(|number| node.as_number != Some(*number)) {
            changes.push((AS_NUMBER, Some(number.to_string())));
        }
        if !changes.is_empty() {
            self.annotate.annotate(&changes).await?;
            for choice in found.iter().filter_map(|(_, found)| found.as_ref().ok()?.as_ref()) {
                let (address, seen) = (text(choice.address), list(&choice.seen));
                if changes.iter().any(|(_, told)| told.as_ref() == Some(&address)) {
                    tracing::info!(address, seen, "node address published");
                }
            }
        }
        self.judge(&node, found)
    }

    /// The address of one family, unless another node has it.
    async fn find(&self, family: Family, node: &Node, links: &[Link]) -> Found {
        let setting = match family {
            Family::V4 => &self.settings.ipv4,
            Family::V6 => &self.settings.ipv6,
        };
        let Some(choice) = determine(setting, family, node, links).await? else { return Ok(None) };
        let address = choice.address.address;
        // What is published already was looked at when it was: who comes later yields.
        if published(node, family) != Some(choice.address) && !self.settings.allows_duplicates {
            let others = (self.others)(address);
            if !others.is_empty() {
                return Err(NoAddress::Taken { address, others });
            }
        }
        Ok(Some(choice))
    }

    fn note(&self, family: Family, choice: &Choice) {
        let seen = choice.seen.iter().map(ToString::to_string).collect();
        self.health.set_address(family, Chosen { address: text(choice.address), seen });
    }

    /// Ready when the node has an address of each family that it should have one of, be it one that was found earlier.
    fn judge(&self, node: &Node, found: Vec<(Family, Found)>) -> Result<()> {
        let has = |family, found: &Found| matches!(found, Ok(Some(_))) || published(node, family).is_some();
        let has_any = found.iter().any(|(family, found)| has(*family, found));
        let is_required = |family| match family {
            Family::V4 => self.settings.ipv4.is_required(),
            Family::V6 => self.settings.ipv6.is_required(),
        };
        let mut is_ready = true;
        let mut worst = None;
        for (family, of_family) in found {
            let has_this = has(family, &of_family);
            let counts = |error: &NoAddress| {
                let may_be_absent = matches!(error, NoAddress::Undetermined(_)) && !is_required(family);
                !may_be_absent || !has_any && family == Family::V4
            };
            if let Err(error) = of_family
                && counts(&error)
            {
                is_ready &= has_this;
                worst.get_or_insert(error);
            }
        }
        if worst.is_none() && !has_any {
            is_ready = false;
            worst = Some(NoAddress::Unwanted);
        }
        match &worst {
            Some(error) if !is_ready => self.health.set_unready(Component::NodeAddress, error.to_string()),
            _ => self.health.set_ready(Component::NodeAddress),
        }
        worst.map_or(Ok(()), |error| Err(error.into()))
    }
}

/// What an earlier start wrote; without it the Node's InternalIP stands in, as a host's address.
fn published(node: &Node, family: Family) -> Option<NodeAddress> {
    let stands_in = |at: &NodeAddress| at.length == family.bits() && node.internal_ips.contains(&at.address);
    node.address(family).filter(|at| !stands_in(at))
}

async fn determine(setting: &AddressSetting, family: Family, node: &Node, links: &[Link]) -> Found {
    match setting {
        AddressSetting::None => Ok(None),
        AddressSetting::Misfit(misfit) => Err(NoAddress::Misfit(misfit.clone())),
        AddressSetting::Fixed(address, length) => {
            Ok(Some(Choice { address: with_length(*address, *length, links), seen: Vec::new() }))
        }
        AddressSetting::Detect { method, .. } => {
            let source = match method {
                Method::CanReach(target) => source_towards(target, family).await,
                _ => None,
            };
            let stored = published(node, family).map(|at| at.address);
            let hints = Hints { internal_ips: &node.internal_ips, stored, source };
            Ok(Some(method.detect(family, links, &hints)?))
        }
    }
}

/// The address from which a packet to `target` would be sent. Nothing is sent: the kernel only looks up its route.
async fn source_towards(target: &str, family: Family) -> Option<IpAddr> {
    let mut addresses = tokio::net::lookup_host((target, 80)).await.ok()?;
    let target = addresses.find(|address| Family::of(address.ip()) == family)?;
    let any = match family {
        Family::V4 => "0.0.0.0:0",
        Family::V6 => "[::]:0",
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(target).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn text(NodeAddress { address, length }: NodeAddress) -> String {
    format!("{address}/{length}")
}

fn names(nodes: &[NodeName]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

const IPV4: &str = "projectcalico.org/IPv4Address";
const IPV6: &str = "projectcalico.org/IPv6Address";
const AS_NUMBER: &str = "projectcalico.org/ASNumber";

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use parking_lot::Mutex;

    use super::*;
    use crate::settings::Environment;

    /// Annotations by key.
    type Written = Arc<Mutex<BTreeMap<String, String>>>;

    impl Annotate for Written {
        async fn annotate(&self, annotations: &[(&str, Option<String>)]) -> Result<()> {
            for (key, value) in annotations {
                self.lock().insert((*key).to_owned(), value.clone().unwrap_or_default());
            }
            Ok(())
        }
    }

    struct Scene {
        addresses: NodeAddresses<Written>,
        written: Written,
        health: Health,
        _kept: (watch::Sender<OwnNode>, watch::Sender<Arc<Vec<Link>>>, mpsc::Receiver<NodeEvent>),
    }

    /// A node with `eth0 10.0.0.1/24`, its InternalIP, and `eth1 10.1.0.1/24`.
    fn scene(env: &[(&str, &str)], stored: Option<&str>, others: &'static [&str]) -> Scene {
        let env = env.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let internal: IpAddr = "10.0.0.1".parse().unwrap();
        let stored = stored.map(|text| NodeAddress { address: text.parse().unwrap(), length: 24 });
        let node = Node {
            ipv4: Some(stored.unwrap_or(NodeAddress { address: internal, length: 32 })),
            internal_ips: vec![internal],
            ..Node::named("n1")
        };
        let link = |index, name: &str, address: &str| {
            let addresses = vec![(address.parse().unwrap(), 24)];
            Link { index, name: name.to_owned(), up: true, mtu: 1500, mac: None, alias: None, addresses }
        };
        let own = watch::Sender::new(OwnNode { in_sync: true, node: Some(node) });
        let links = vec![link(1, "eth0", "10.0.0.1"), link(2, "eth1", "10.1.0.1")];
        let links = watch::Sender::new(Arc::new(links));
        let (events, received) = mpsc::channel(8);
        let (written, health) = (Written::default(), Health::new());
        let addresses = NodeAddresses {
            settings: StartSettings::read(&Environment::new(env)),
            own: own.subscribe(),
            links: links.subscribe(),
            others: Box::new(move |_| others.iter().map(|name| NodeName::from(*name)).collect()),
            annotate: written.clone(),
            health: health.clone(),
            events,
            interfaces: Interfaces::default(),
        };
        Scene { addresses, written, health, _kept: (own, links, received) }
    }

    /// What is published of IPv4, why it is not ready, and the error.
    async fn outcome(mut scene: Scene) -> (Option<String>, Option<String>, Option<String>) {
        let error = scene.addresses.update().await.err().map(|error| error.to_string());
        let published = scene.written.lock().get(IPV4).cloned();
        (published, scene.health.reason_against(&[Component::NodeAddress]), error)
    }

    #[tokio::test]
    async fn an_address_that_is_found_is_published() {
        let found = outcome(scene(&[], None, &[])).await;
        let given = outcome(scene(&[("IP", "10.1.0.1")], None, &[])).await;
        let known = outcome(scene(&[], Some("10.0.0.1"), &[])).await;

        assert_eq!(found, (Some("10.0.0.1/24".to_owned()), None, None));
        assert_eq!(given, (Some("10.1.0.1/24".to_owned()), None, None));
        assert_eq!(known, (None, None, None), "it stands there already");
    }

    #[tokio::test]
    async fn who_comes_later_does_not_take_an_address() {
        let (published, reason, error) = outcome(scene(&[], None, &["n9"])).await;
        assert_eq!(published, None);
        assert!(
            reason.unwrap().starts_with("the address 10.0.0.1 of this node is that of node n9 too; delete")
        );
        assert!(error.is_some());

        let earlier = outcome(scene(&[], Some("10.0.0.1"), &["n9"])).await;
        let allowed = outcome(scene(&[("DISABLE_NODE_IP_CHECK", "true")], None, &["n9"])).await;
        assert_eq!(earlier, (None, None, None));
        assert_eq!(allowed.0.as_deref(), Some("10.0.0.1/24"));
    }

    #[tokio::test]
    async fn nonsense_leaves_what_was_published_and_says_so() {
        for env in [
            ("IP", "10.0.0."),
            ("IP_AUTODETECTION_METHOD", "guess"),
            ("IP_AUTODETECTION_METHOD", "interface=bond0"),
        ] {
            let (published, reason, error) = outcome(scene(&[env], None, &[])).await;
            assert_eq!(published, None, "{env:?}");
            assert_eq!(reason, error, "{env:?}");
            assert!(error.as_ref().is_some_and(|error| error.contains(env.0)), "{env:?}: {error:?}");

            let (published, reason, error) = outcome(scene(&[env], Some("10.1.0.1"), &[])).await;
            assert_eq!((published, reason), (None, None), "{env:?}");
            assert!(error.is_some(), "{env:?}");
        }
    }

    #[tokio::test]
    async fn a_family_that_nobody_asked_for_may_be_absent() {
        let none = outcome(scene(&[("IP", "none")], None, &[])).await;
        let asked = outcome(scene(&[("IP6", "autodetect")], None, &[])).await;

        assert!(none.1.is_some_and(|reason| reason.starts_with("IP=none and IP6=none leave")));
        assert_eq!(asked.0.as_deref(), Some("10.0.0.1/24"), "one family does not wait for the other");
        assert!(asked.1.is_some_and(|reason| reason.contains("no IPv6 InternalIP")));
        assert_eq!(
            outcome(scene(&[("CALICO_NETWORKING_BACKEND", "none")], None, &[])).await,
            (None, None, None)
        );
    }

    #[tokio::test]
    async fn the_as_number_is_published_too() {
        let mut scene = scene(&[("AS", "64520")], Some("10.0.0.1"), &[]);

        scene.addresses.update().await.unwrap();

        assert_eq!(scene.written.lock().get(AS_NUMBER).map(String::as_str), Some("64520"));
    }
}
