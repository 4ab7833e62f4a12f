//! IPAM and the Node's annotations over the datastore.
//!
//! A pod's addresses come from what the node holds ready whenever that is possible: a file is written, the API
//! server is told later ([`keep_up`](ClusterAddresses::keep_up)).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use datastore::convert::rfc3339;
use datastore::{AssignRequest, Datastore, Draw, IpamClient, IpamError, Returned};
use ipam::names;
use model::{AllowedUse, Family, Labels, NodeName, TunnelKind, Update};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::addresses::{AddressError, AddressRequest, Addresses};
use crate::draw_journal::DrawJournal;
use crate::endpoint_store::{EndpointStore, StoredEndpoint, handle};
use crate::handle_locks::HandleLocks;
use crate::node_address::Annotate;

/// Gives out addresses of the cluster's pools to this node.
pub struct ClusterAddresses {
    datastore: Datastore,
    ipam: IpamClient,
    node: NodeName,
    /// For the pools' namespaceSelector.
    namespaces: Mutex<BTreeMap<String, Labels>>,
    journal: Mutex<DrawJournal>,
    /// An allocation and a release of one handle do not overlap.
    busy: HandleLocks,
    /// Wakes whoever keeps up.
    due: Notify,
    /// Tells whoever keeps up to wait for no more draws.
    low: Notify,
    /// Addresses that pods use and others hold; told of once.
    lost: Mutex<BTreeSet<(String, IpAddr)>>,
}

impl ClusterAddresses {
    /// Takes over what an earlier run had drawn and not written yet.
    ///
    /// # Errors
    /// When the state directory cannot be used.
    pub fn new(
        datastore: &Datastore,
        node: NodeName,
        state_dir: &Path,
        endpoints: &EndpointStore,
    ) -> Result<Self> {
        let (journal, draws, set_aside) = DrawJournal::open(state_dir)
            .with_context(|| format!("open journal of draws in {}", state_dir.display()))?;
        for path in set_aside {
            tracing::error!(path = %path.display(), "a file in the journal of draws makes no sense; set aside");
        }
        let addresses = Self {
            datastore: datastore.clone(),
            ipam: IpamClient::new(datastore, node.clone()),
            node,
            namespaces: Mutex::default(),
            journal: Mutex::new(journal),
            busy: HandleLocks::default(),
            due: Notify::new(),
            low: Notify::new(),
            lost: Mutex::default(),
        };
        let endpoints = endpoints.iter().map(|endpoint| addresses.draw_of(endpoint)).collect();
        addresses.ipam.restore(draws, endpoints);
        Ok(addresses)
    }

    /// What a pod of an earlier run would have drawn, should the journal have lost it.
    fn draw_of(&self, endpoint: &StoredEndpoint) -> Draw {
        Draw {
            handle: handle(&endpoint.network, &endpoint.container_id),
            addresses: endpoint.addresses.clone(),
            attributes: self.attributes(
                &endpoint.namespace,
                &endpoint.pod,
                &endpoint.uid,
                &endpoint.interface,
            ),
            released_at: None,
        }
    }

    /// What a block shows of a pod's address.
    fn attributes(&self, namespace: &str, pod: &str, uid: &str, interface: &str) -> BTreeMap<String, String> {
        let all = [
            (names::NODE, self.node.as_str()),
            (names::NAMESPACE, namespace),
            (names::POD, pod),
            (names::UID, uid),
            (names::INTERFACE, if interface == "eth0" { "" } else { interface }),
            (names::TIMESTAMP, &rfc3339(SystemTime::now())),
        ];
        let given = all.into_iter().filter(|(_, value)| !value.is_empty());
        given.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    /// For what is not about one pod.
    pub fn client(&self) -> IpamClient {
        self.ipam.clone()
    }

    /// Notes what the datastore says.
    pub fn observe(&self, update: &Update) {
        if self.ipam.observe(update, &self.node) {
            self.due.notify_one();
        }
        if let Update::Namespace(name, labels) = update {
            let mut namespaces = self.namespaces.lock();
            match labels {
                Some(labels) => namespaces.insert(name.clone(), labels.clone()),
                None => namespaces.remove(name),
            };
        }
    }

    /// Waits until there is something to write behind.
    pub async fn due(&self) {
        self.due.notified().await;
    }

    /// Waits until so much was drawn that the next pods may find nothing ready.
    pub async fn low(&self) {
        self.low.notified().await;
    }

    /// Fills up what is held ready, and nothing else.
    ///
    /// # Errors
    /// When the API server is away.
    pub async fn fill_up(&self) -> Result<(), IpamError> {
        self.ipam.fill_up().await
    }

    /// Writes behind what pods drew, fills up what is held ready, ends rests. Returns when there is something to
    /// do again, in nanoseconds since the epoch.
    ///
    /// # Errors
    /// When the API server is away; what is not written stays in the journal.
    pub async fn keep_up(&self) -> Result<Option<u64>, IpamError> {
        let settled = self.ipam.upkeep().await?;
        for draw in &settled.draws {
            let journal = self.journal.lock();
            // The container may have come back meanwhile, with another draw.
            if !self.ipam.has_draw(&draw.handle)
                && let Err(error) = journal.remove(&draw.handle)
            {
                tracing::warn!(%error, handle = draw.handle, "a file of the journal of draws stays");
            }
        }
        let lost: BTreeSet<_> = settled.lost.iter().map(|lost| (lost.handle.clone(), lost.address)).collect();
        let known = std::mem::replace(&mut *self.lost.lock(), lost);
        for lost in settled.lost.iter().filter(|lost| !known.contains(&(lost.handle.clone(), lost.address))) {
            let (handle, address, holder) = (&lost.handle, lost.address, &lost.holder);
            tracing::error!(%handle, %address, %holder, "a pod of this node uses an address that is not its own");
        }
        Ok(settled.next)
    }

    /// Takes addresses from what is held ready. `None`: not possible, the API server has to be asked.
    fn draw(&self, assign: &AssignRequest) -> Option<Vec<IpAddr>> {
        let journal = self.journal.lock();
        let draw = self.ipam.draw(assign)?;
        if let Err(error) = journal.put(&draw) {
            tracing::warn!(%error, "cannot keep a draw; the API server is asked instead");
            self.ipam.undo(&draw.handle);
            return None;
        }
        self.ipam.stored(&draw.handle);
        self.due.notify_one();
        if self.ipam.is_low() {
            self.low.notify_one();
        }
        Some(draw.addresses)
    }

    fn request(&self, request: AddressRequest) -> AssignRequest {
        let is_given = |family| request.exact.iter().any(|address| Family::of(*address) == family);
        let count = |is_wanted: bool, family| u32::from(is_wanted && !is_given(family));
        let mut assign = AssignRequest::new(&request.handle, AllowedUse::Workload);
        assign.ipv4 = count(request.ipv4, Family::V4);
        assign.ipv6 = count(request.ipv6, Family::V6);
        assign.attributes =
            self.attributes(&request.namespace, &request.pod, &request.uid, &request.interface);
        if !request.netns.is_empty() {
            // Whoever looks later has to look where this process does.
            let is_seen = Path::new(&request.netns).exists();
            let netns = if is_seen { request.netns } else { names::NETNS_UNSEEN.to_owned() };
            assign.attributes.insert(names::NETNS.to_owned(), netns);
        }
        assign.namespace_labels = self.namespaces.lock().get(&request.namespace).cloned().unwrap_or_default();
        assign.addresses = request.exact;
        assign.ipv4_pools = request.ipv4_pools;
        assign.ipv6_pools = request.ipv6_pools;
        assign
    }
}

impl Addresses for Arc<ClusterAddresses> {
    async fn allocate(&self, request: AddressRequest) -> Result<Vec<IpAddr>, AddressError> {
        let _busy = self.busy.lock(&request.handle).await;
        let assign = self.request(request);
        if let Some(addresses) = self.draw(&assign) {
            return Ok(addresses);
        }
        if self.ipam.has_draw(&assign.handle) {
            // An earlier draw of this container was for something else: its block has to know it first.
            self.keep_up().await.map_err(refused)?;
        }
        let addresses = self.ipam.assign(&assign).await.map_err(refused)?;
        // The next pod need not ask.
        self.due.notify_one();
        Ok(addresses)
    }

    async fn allocate_tunnel(
        &self,
        kind: TunnelKind,
        pools: &[String],
        wish: Option<IpAddr>,
    ) -> Result<IpAddr, AddressError> {
        let handle = names::tunnel_handle(kind, &self.node);
        let mut assign = AssignRequest::new(&handle, AllowedUse::Tunnel);
        let attributes = [(names::NODE, self.node.as_str()), (names::TYPE, names::tunnel_type(kind))];
        assign.attributes = attributes.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        if let Some(wish) = wish {
            let asked = self.ipam.assign(&AssignRequest { addresses: vec![wish], ..assign.clone() }).await;
            match asked {
                Ok(_) => return Ok(wish),
                Err(IpamError::Assign(error)) => {
                    tracing::warn!(address = %wish, %error, ?kind, "the tunnel's address is not its own");
                }
                Err(error) => return Err(refused(error)),
            }
        }
        match kind.family() {
            Family::V4 => (assign.ipv4, assign.ipv4_pools) = (1, pools.to_vec()),
            Family::V6 => (assign.ipv6, assign.ipv6_pools) = (1, pools.to_vec()),
        }
        let addresses = self.ipam.assign(&assign).await.map_err(refused)?;
        let first = addresses.first().copied();
        first.ok_or_else(|| AddressError::Unavailable(format!("{handle} holds no address")))
    }

    async fn release_others(&self, kind: TunnelKind, keep: IpAddr) -> Result<(), AddressError> {
        let handle = names::tunnel_handle(kind, &self.node);
        self.ipam.release_others(&handle, keep).await.map_err(refused)
    }

    async fn release_tunnel(&self, kind: TunnelKind) -> Result<(), AddressError> {
        self.release(&names::tunnel_handle(kind, &self.node)).await
    }

    async fn release(&self, handle: &str) -> Result<(), AddressError> {
        let _busy = self.busy.lock(handle).await;
        {
            let journal = self.journal.lock();
            if let Returned::Draw(draw) = self.ipam.give_back(handle) {
                let kept = journal.put(&draw);
                kept.map_err(|error| AddressError::Unavailable(format!("keep the release: {error}")))?;
                self.due.notify_one();
                return Ok(());
            }
        }
        match self.ipam.release_by_handle(handle).await {
            Ok(freed) => {
                tracing::debug!(handle, ?freed, "addresses released");
                self.due.notify_one();
                Ok(())
            }
            Err(error) => Err(AddressError::Unavailable(error.to_string())),
        }
    }
}

impl Annotate for Arc<ClusterAddresses> {
    async fn annotate(&self, annotations: &[(&str, Option<String>)]) -> Result<()> {
        let annotations = annotations.iter().cloned().collect();
        Ok(self.datastore.annotate_node(&self.node, &annotations).await?)
    }
}

/// Full pools may have room again later; what was asked for by name and cannot be had will not get better.
fn refused(error: IpamError) -> AddressError {
    use datastore::AssignError;
    match &error {
        IpamError::Assign(
            AssignError::OutsidePools(_) | AssignError::Refused { .. } | AssignError::OtherNodesBlock { .. },
        ) => AddressError::Invalid(error.to_string()),
        _ => AddressError::Unavailable(error.to_string()),
    }
}
