//! Pods that another agent connected, as Calico's plugin does: they are taken over as they are.
//!
//! Calico keeps no file about a pod and no container ID on its link. What it leaves is a Pod with addresses, a link
//! with the name of the Pod's interface, and a block that shows whose each address is: together they are an endpoint
//! as our own plugin would have reported it. A pod is looked at once everything has been listed, before the kernel is
//! touched, and again whenever its object changes.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use kernel_linux::Rtnl;
use model::{Block, Cidr, NodeName, Pod, PodKey, Update, host_interface_name};

use crate::addresses::{AddressError, AddressRequest, Addresses};
use crate::endpoint_store::{StoredEndpoint, handle};
use crate::service::{NodeService, Pods};
use crate::settings::Overrides;

/// The network's name in Calico's manifests, where no block tells another.
const NETWORK: &str = "k8s-pod-network";
/// What Calico's plugin notes of a Pod.
const CONTAINER_ID: &str = "cni.projectcalico.org/containerID";
/// Inside the pod, when the kernel does not tell.
const INTERFACE: &str = "eth0";

const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What the cluster says of this node's pods.
pub struct Adoption {
    node: NodeName,
    overrides: Overrides,
    prefix: String,
    pods: BTreeMap<PodKey, Pod>,
    /// Handles of addresses that this node's pods hold, by block.
    given: BTreeMap<Cidr, BTreeMap<IpAddr, Given>>,
    in_sync: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Given {
    handle: String,
    pod: PodKey,
}

/// What the kernel shows of a pod's link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub index: u32,
    /// For links of ours the container ID.
    pub alias: Option<String>,
    /// Name and MAC of the far end, when the kernel tells.
    pub far: Option<(String, [u8; 6])>,
}

/// A pod to take over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopted {
    pub endpoint: StoredEndpoint,
    /// Addresses that no block shows as this pod's.
    pub unknown: Vec<IpAddr>,
}

impl Adoption {
    pub fn new(node: NodeName, overrides: Overrides) -> Self {
        let prefix = overrides.apply(model::FelixConfiguration::default()).interface_prefix;
        Self { node, overrides, prefix, pods: BTreeMap::new(), given: BTreeMap::new(), in_sync: false }
    }

    /// Notes an update; returns the Pods that are to be looked at now.
    pub fn observe(&mut self, update: &Update) -> Vec<Pod> {
        match update {
            Update::Pod(key, pod) => {
                let is_own = |pod: &&Pod| pod.node.as_ref() == Some(&self.node) && !pod.host_network;
                match pod.as_ref().filter(is_own) {
                    Some(pod) if self.in_sync => return vec![pod.clone()],
                    Some(pod) => _ = self.pods.insert(key.clone(), pod.clone()),
                    None => _ = self.pods.remove(key),
                }
            }
            Update::Block(cidr, block) => {
                let given = block.as_deref().map(|block| self.given_in(block)).unwrap_or_default();
                if given.is_empty() {
                    self.given.remove(cidr);
                } else {
                    self.given.insert(*cidr, given);
                }
            }
            Update::FelixConfiguration(configuration) => {
                let configuration = configuration.as_deref().cloned().unwrap_or_default();
                self.prefix = self.overrides.apply(configuration).interface_prefix;
            }
            Update::InSync => {
                self.in_sync = true;
                return std::mem::take(&mut self.pods).into_values().collect();
            }
            _ => {}
        }
        Vec::new()
    }

    fn given_in(&self, block: &Block) -> BTreeMap<IpAddr, Given> {
        let of_a_pod = |(address, attributes): (IpAddr, &model::AllocationAttributes)| {
            let text = |key: &str| attributes.secondary.get(key).cloned();
            if text(ipam::names::NODE)? != self.node.as_str() {
                return None;
            }
            let pod = PodKey::new(&text(ipam::names::NAMESPACE)?, &text(ipam::names::POD)?);
            Some((address, Given { handle: attributes.handle.clone()?, pod }))
        };
        block.allocated().filter_map(of_a_pod).collect()
    }

    /// The name of a Pod's link.
    pub fn interface(&self, pod: &PodKey) -> String {
        host_interface_name(&self.prefix, pod)
    }

    /// What becomes of a Pod's link; `None` leaves it as it is: it is known, or it is not for us to judge.
    pub fn judge(&self, pod: &Pod, seen: &Seen, known: Option<&StoredEndpoint>) -> Option<Adopted> {
        if pod.addresses.is_empty() {
            return None;
        }
        let (network, container_id) = self.container(pod);
        let is_ours = |alias: &String| known.is_some_and(|known| known.container_id == *alias);
        match &seen.alias {
            // Our own files may have been lost; any other alias is of an ADD that is under way.
            Some(alias) if is_ours(alias) || *alias != container_id => return None,
            _ => {}
        }
        let far = seen.far.clone();
        let (interface, mac) = far.unwrap_or_else(|| (INTERFACE.to_owned(), [0; 6]));
        let has = |address: &IpAddr| self.holder(*address).is_some_and(|given| given.pod == pod.key);
        let unknown = pod.addresses.iter().copied().filter(|address| !has(address)).collect();
        let mut addresses = pod.addresses.clone();
        addresses.sort();
        let endpoint = StoredEndpoint {
            container_id,
            interface,
            network,
            namespace: pod.key.namespace.to_string(),
            pod: pod.key.name.to_string(),
            uid: pod.uid.clone(),
            host_interface: self.interface(&pod.key),
            addresses,
            mac,
        };
        Some(Adopted { endpoint, unknown })
    }

    /// Network and container ID: as the block has them, or as Calico's plugin noted them on the Pod. Where neither
    /// tells, the interface stands in: the endpoint then goes with its link and its Pod.
    fn container(&self, pod: &Pod) -> (String, String) {
        let mut holders = pod.addresses.iter().filter_map(|address| self.holder(*address));
        let of_block = holders.find(|given| given.pod == pod.key).and_then(|given| {
            let (network, container) = given.handle.rsplit_once('.')?;
            (!network.is_empty() && is_plain(container)).then(|| (network.to_owned(), container.to_owned()))
        });
        let noted = || pod.annotations.get(CONTAINER_ID).filter(|id| is_plain(id)).cloned();
        of_block.unwrap_or_else(|| {
            (NETWORK.to_owned(), noted().unwrap_or_else(|| format!("adopted-{}", self.interface(&pod.key))))
        })
    }

    fn holder(&self, address: IpAddr) -> Option<&Given> {
        self.given.values().find_map(|block| block.get(&address))
    }
}

/// Can it be a container ID, and the name of a file?
fn is_plain(id: &str) -> bool {
    let is_word = id.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
    is_word && id.starts_with(|c: char| c.is_ascii_alphanumeric()) && id.len() <= 128
}

/// Looks at a pod's link.
///
/// # Errors
/// When the kernel does not tell.
pub fn see(interface: &str) -> io::Result<Option<Seen>> {
    let mut rtnl = Rtnl::open()?;
    let Some(link) = rtnl.link_by_name(interface)? else { return Ok(None) };
    let far = rtnl.far_end(interface).unwrap_or_else(|error| {
        tracing::warn!(interface, %error, "the far end is not known; the kernel asks for its MAC address");
        None
    });
    let far = far.and_then(|far| Some((far.name, far.mac?)));
    Ok(Some(Seen { index: link.index, alias: link.alias.filter(|alias| !alias.is_empty()), far }))
}

/// Notes an update, and takes over whom it shows; what no block shows is claimed in the background.
pub fn observe<A: Addresses, P: Pods>(
    service: &Arc<NodeService<A, P>>,
    adoption: &mut Adoption,
    update: &Update,
) {
    let is_first = matches!(update, Update::InSync);
    for pod in adoption.observe(update) {
        let adopted = take_over(service, adoption, &pod, is_first);
        if let Some(adopted) = adopted.filter(|adopted| !adopted.unknown.is_empty()) {
            tokio::spawn(claim(service.clone(), adopted));
        }
    }
}

/// Takes a pod over: its endpoint is kept and known to the dataplane, its link gets the container ID. `is_first`: its
/// link may have been made anew while this agent was away.
fn take_over<A: Addresses, P: Pods>(
    service: &NodeService<A, P>,
    adoption: &Adoption,
    pod: &Pod,
    is_first: bool,
) -> Option<Adopted> {
    let interface = adoption.interface(&pod.key);
    let known = service.store.lock().iter().find(|known| known.host_interface == interface).cloned();
    let is_same = known.as_ref().is_some_and(|known| known.uid.is_empty() || known.uid == pod.uid);
    if pod.addresses.is_empty() || (is_same && !is_first) {
        return None;
    }
    let seen = match see(&interface) {
        Ok(seen) => seen?,
        Err(error) => {
            tracing::warn!(pod = %pod.key, interface, %error, "cannot see whether the pod is connected");
            return None;
        }
    };
    let adopted = adoption.judge(pod, &seen, known.as_ref())?;
    let endpoint = adopted.endpoint.clone();
    let alias = Rtnl::open().and_then(|mut rtnl| rtnl.set_alias(seen.index, &endpoint.container_id));
    if let Err(error) = alias {
        tracing::warn!(interface, %error, "the link of an adopted pod does not name its container");
    }
    let (container, addresses) = (&endpoint.container_id, &endpoint.addresses);
    tracing::info!(pod = %pod.key, interface, container, ?addresses, "pod of another agent adopted");
    if let Err(error) = service.adopt(endpoint) {
        tracing::error!(pod = %pod.key, interface, %error, "an adopted pod cannot be kept; it is until the agent ends");
    }
    Some(adopted)
}

/// Gives a pod the addresses that it uses.
async fn claim<A: Addresses, P: Pods>(service: Arc<NodeService<A, P>>, adopted: Adopted) {
    let StoredEndpoint { container_id, network, namespace, pod, uid, interface, .. } = adopted.endpoint;
    let request = AddressRequest {
        netns: String::new(),
        handle: handle(&network, &container_id),
        namespace,
        pod,
        uid,
        interface,
        ipv4: false,
        ipv6: false,
        exact: adopted.unknown,
        ipv4_pools: Vec::new(),
        ipv6_pools: Vec::new(),
    };
    let mut pause = SHORTEST_PAUSE;
    loop {
        let exclusive = service.locks.lock(&request.handle).await;
        if service.store.lock().get(&container_id).is_none() {
            return;
        }
        let (handle, addresses) = (&request.handle, &request.exact);
        match service.addresses.allocate(request.clone()).await {
            Ok(_) => return tracing::info!(handle, ?addresses, "an adopted pod's addresses are its own"),
            Err(AddressError::Invalid(reason)) => {
                return tracing::warn!(
                    handle,
                    ?addresses,
                    reason,
                    "an adopted pod keeps addresses that IPAM does not know"
                );
            }
            Err(AddressError::Unavailable(reason)) => {
                tracing::warn!(handle, ?addresses, reason, "addresses of an adopted pod are claimed again");
            }
        }
        drop(exclusive);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use model::{AllocationAttributes, Labels};

    use super::*;

    fn adoption() -> Adoption {
        Adoption::new(NodeName::from("n1"), Overrides::default())
    }

    fn web() -> Pod {
        Pod {
            key: PodKey::new("prod", "web"),
            uid: "u1".to_owned(),
            node: Some(NodeName::from("n1")),
            addresses: vec!["10.65.0.1".parse().unwrap()],
            labels: Labels::new(),
            ports: Vec::new(),
            service_account: None,
            host_network: false,
            annotations: Labels::from([(CONTAINER_ID.to_owned(), "noted".to_owned())]),
        }
    }

    fn block(handle: &str, node: &str) -> Update {
        let pairs = [("node", node), ("namespace", "prod"), ("pod", "web")];
        let secondary = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let attributes =
            vec![AllocationAttributes { handle: Some(handle.to_owned()), secondary, released_at: None }];
        let cidr: Cidr = "10.65.0.0/30".parse().unwrap();
        let block = Block {
            cidr,
            affinity: Some(NodeName::from("n1")),
            allocations: vec![None, Some(0), None, None],
            unallocated: vec![0, 2, 3],
            attributes,
            sequence_number: 1,
            sequence_number_for_allocation: BTreeMap::new(),
            deleted: false,
        };
        Update::Block(cidr, Some(Box::new(block)))
    }

    fn seen(alias: Option<&str>) -> Seen {
        let far = Some(("eth0".to_owned(), [2, 0, 0, 0, 0, 7]));
        Seen { index: 4, alias: alias.map(str::to_owned), far }
    }

    #[test]
    fn a_pod_of_calico_becomes_the_endpoint_that_our_plugin_would_have_reported() {
        let mut adoption = adoption();
        assert!(adoption.observe(&block("my-net.c1", "n1")).is_empty());
        let pod = web();
        assert!(adoption.observe(&Update::Pod(pod.key.clone(), Some(pod.clone()))).is_empty());

        assert_eq!(adoption.observe(&Update::InSync), std::slice::from_ref(&pod));
        let adopted = adoption.judge(&pod, &seen(None), None).unwrap();

        assert!(adopted.unknown.is_empty());
        let expected = StoredEndpoint {
            container_id: "c1".to_owned(),
            interface: "eth0".to_owned(),
            network: "my-net".to_owned(),
            namespace: "prod".to_owned(),
            pod: "web".to_owned(),
            uid: "u1".to_owned(),
            host_interface: host_interface_name("cali", &pod.key),
            addresses: pod.addresses,
            mac: [2, 0, 0, 0, 0, 7],
        };
        assert_eq!(adopted.endpoint, expected);
    }

    #[test]
    fn what_no_block_shows_is_claimed_for_the_container_that_calico_noted() {
        let mut adoption = adoption();
        adoption.observe(&block("k8s-pod-network.other", "n2"));

        let adopted = adoption.judge(&web(), &seen(None), None).unwrap();

        assert_eq!(
            (adopted.endpoint.container_id.as_str(), adopted.endpoint.network.as_str()),
            ("noted", NETWORK)
        );
        assert_eq!(adopted.unknown, web().addresses);
        let nameless =
            Pod { annotations: Labels::from([(CONTAINER_ID.to_owned(), "../x".to_owned())]), ..web() };
        let adopted = adoption.judge(&nameless, &seen(None), None).unwrap();
        assert!(adopted.endpoint.container_id.starts_with("adopted-cali"), "{adopted:?}");
    }

    #[test]
    fn what_is_known_or_under_way_is_left_alone() {
        let mut adoption = adoption();
        adoption.observe(&block("k8s-pod-network.c1", "n1"));
        let known = adoption.judge(&web(), &seen(None), None).unwrap().endpoint;

        assert_eq!(adoption.judge(&web(), &seen(Some("c1")), Some(&known)), None);
        assert_eq!(adoption.judge(&web(), &seen(Some("c2")), None), None, "an ADD is under way");
        assert_eq!(adoption.judge(&Pod { addresses: Vec::new(), ..web() }, &seen(None), None), None);
        // Our files were lost.
        assert_eq!(adoption.judge(&web(), &seen(Some("c1")), None).unwrap().endpoint, known);
        // Calico came back, made the pod's sandbox anew, and left again.
        let stale = StoredEndpoint { container_id: "old".to_owned(), ..known.clone() };
        assert_eq!(adoption.judge(&web(), &seen(None), Some(&stale)).unwrap().endpoint, known);
    }

    #[test]
    fn pods_of_other_nodes_and_of_the_host_are_nobodys_concern() {
        let mut adoption = adoption();
        adoption.observe(&Update::InSync);
        let away = Pod { node: Some(NodeName::from("n2")), ..web() };
        let host = Pod { host_network: true, ..web() };

        for pod in [away, host] {
            assert!(adoption.observe(&Update::Pod(pod.key.clone(), Some(pod))).is_empty());
        }
        assert_eq!(adoption.observe(&Update::Pod(web().key, Some(web()))), [web()]);
    }
}
