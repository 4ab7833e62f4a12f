//! IPAM and the Node's annotations over the datastore.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Result;
use datastore::convert::rfc3339;
use datastore::{AssignRequest, Datastore, IpamClient, IpamError};
use ipam::names;
use model::{AllowedUse, Family, Labels, NodeName, Update};
use parking_lot::Mutex;

use crate::addresses::{AddressError, AddressRequest, Addresses};
use crate::node_address::Annotate;

/// Gives out addresses of the cluster's pools to this node.
pub struct ClusterAddresses {
    datastore: Datastore,
    ipam: IpamClient,
    node: NodeName,
    /// For the pools' namespaceSelector.
    namespaces: Mutex<BTreeMap<String, Labels>>,
}

impl ClusterAddresses {
    pub fn new(datastore: &Datastore, node: NodeName) -> Self {
        Self {
            datastore: datastore.clone(),
            ipam: IpamClient::new(datastore, node.clone()),
            node,
            namespaces: Mutex::default(),
        }
    }

    /// What a block shows of a pod's address.
    fn attributes(&self, request: &AddressRequest) -> BTreeMap<String, String> {
        let interface = if request.interface == "eth0" { "" } else { &request.interface };
        let all = [
            (names::NODE, self.node.as_str()),
            (names::NAMESPACE, &request.namespace),
            (names::POD, &request.pod),
            (names::UID, &request.uid),
            (names::INTERFACE, interface),
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
        self.ipam.observe(update, &self.node);
        if let Update::Namespace(name, labels) = update {
            let mut namespaces = self.namespaces.lock();
            match labels {
                Some(labels) => namespaces.insert(name.clone(), labels.clone()),
                None => namespaces.remove(name),
            };
        }
    }
}

impl Addresses for Arc<ClusterAddresses> {
    async fn allocate(&self, request: AddressRequest) -> Result<Vec<IpAddr>, AddressError> {
        let is_given = |family| request.exact.iter().any(|address| Family::of(*address) == family);
        let count = |is_wanted: bool, family| u32::from(is_wanted && !is_given(family));
        let mut assign = AssignRequest::new(&request.handle, AllowedUse::Workload);
        assign.ipv4 = count(request.ipv4, Family::V4);
        assign.ipv6 = count(request.ipv6, Family::V6);
        assign.attributes = self.attributes(&request);
        assign.namespace_labels = self.namespaces.lock().get(&request.namespace).cloned().unwrap_or_default();
        assign.addresses = request.exact;
        assign.ipv4_pools = request.ipv4_pools;
        assign.ipv6_pools = request.ipv6_pools;
        self.ipam.assign(&assign).await.map_err(refused)
    }

    async fn allocate_tunnel(&self, handle: &str) -> Result<Ipv4Addr, AddressError> {
        let mut assign = AssignRequest::new(handle, AllowedUse::Tunnel);
        assign.ipv4 = 1;
        let attributes =
            [(names::NODE, self.node.to_string()), (names::TYPE, names::TYPE_IPIP_TUNNEL.to_owned())];
        assign.attributes = attributes.map(|(key, value)| (key.to_owned(), value)).into();
        let addresses = self.ipam.assign(&assign).await.map_err(refused)?;
        let ipv4 = addresses.iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        });
        ipv4.ok_or_else(|| AddressError::Unavailable(format!("{handle} holds no IPv4 address")))
    }

    async fn release(&self, handle: &str) -> Result<(), AddressError> {
        match self.ipam.release_by_handle(handle).await {
            Ok(freed) => {
                tracing::debug!(handle, ?freed, "addresses released");
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
