//! IPAM's objects in the API server.

use std::collections::BTreeMap;
use std::time::SystemTime;

use ::ipam::{Key, Object, Snapshot, Version, Write};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use kube::{Api, Resource, ResourceExt};
use model::{Cidr, IpPool, IpamConfiguration, NodeName};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::convert::{self, Problems};
use crate::crd;
use crate::{Datastore, Error, Result};

/// Reads and writes objects, and remembers of each what the model has no word for.
pub(super) struct Objects {
    datastore: Datastore,
    metadata: BTreeMap<Key, ObjectMeta>,
    blocks: BTreeMap<Key, crd::IPAMBlockSpec>,
    /// Were the node's own blocks read?
    pub(super) has_own: bool,
}

type Found = (Object, Version);

impl Objects {
    pub(super) fn new(datastore: Datastore) -> Self {
        Self { datastore, metadata: BTreeMap::new(), blocks: BTreeMap::new(), has_own: false }
    }

    /// Forgets all but what the snapshot still knows.
    pub(super) fn keep(&mut self, snapshot: &Snapshot) {
        let node = &snapshot.node;
        let is_known = |key: &Key| match key {
            Key::Block(cidr) => snapshot.block(*cidr).present().is_some(),
            Key::Affinity(owner, cidr) => owner == node && snapshot.own_affinity(*cidr).is_some(),
            Key::Handle(id) => snapshot.handle(id).present().is_some(),
        };
        self.metadata.retain(|key, _| is_known(key));
        self.blocks.retain(|key, _| is_known(key));
    }

    pub(super) async fn get(&mut self, key: &Key) -> Result<Option<Found>> {
        let name = name(key);
        let what = || describe(key);
        Ok(match key {
            Key::Block(_) => {
                let api: Api<crd::IPAMBlock> = self.api();
                match self.datastore.bounded(what, api.get_opt(&name)).await? {
                    Some(object) => Some(self.block(object)?),
                    None => None,
                }
            }
            Key::Affinity(..) => {
                let api: Api<crd::BlockAffinity> = self.api();
                match self.datastore.bounded(what, api.get_opt(&name)).await? {
                    Some(object) => Some(self.affinity(object)?),
                    None => None,
                }
            }
            Key::Handle(_) => {
                let api: Api<crd::IPAMHandle> = self.api();
                let found = self.datastore.bounded(what, api.get_opt(&name)).await?;
                found.map(|object| self.handle(key, object))
            }
        })
    }

    /// Every block and affinity that can be understood.
    pub(super) async fn all(&mut self) -> Result<Vec<Found>> {
        let mut all = Vec::new();
        for object in list::<crd::BlockAffinity>(&self.datastore, "block affinities").await? {
            all.extend(noted(self.affinity(object)));
        }
        for object in list::<crd::IPAMBlock>(&self.datastore, "IPAM blocks").await? {
            all.extend(noted(self.block(object)));
        }
        Ok(all)
    }

    /// Claims of a node, with their blocks.
    pub(super) async fn own(&mut self, node: &NodeName) -> Result<Vec<(Key, Object, Version)>> {
        let mut own = Vec::new();
        for object in list::<crd::BlockAffinity>(&self.datastore, "block affinities").await? {
            if object.spec.node != node.as_str() {
                continue;
            }
            let labels = object.metadata.labels.clone().unwrap_or_default();
            let Some((affinity, mut version)) = noted(self.affinity(object)) else { continue };
            if let Object::Affinity(claim) = &affinity
                && convert::affinity_labels(claim).iter().any(|(key, value)| labels.get(key) != Some(value))
            {
                // Older writers did not set the labels by which a node's claims are found.
                version = self.put(&affinity, Some(&version)).await?;
            }
            let Key::Affinity(_, cidr) = affinity.key() else { continue };
            own.push((affinity.key(), affinity, version));
            if let Some((block, version)) = self.get(&Key::Block(cidr)).await? {
                own.push((block.key(), block, version));
            }
        }
        Ok(own)
    }

    pub(super) async fn write(&mut self, write: &Write) -> Result<Option<Version>> {
        match write {
            Write::Delete(key, version) => self.delete(key, version).await.map(|()| None),
            Write::Create(object) => self.put(object, None).await.map(Some),
            Write::Update(object, version) => self.put(object, Some(version)).await.map(Some),
        }
    }

    async fn put(&mut self, object: &Object, version: Option<&Version>) -> Result<Version> {
        let key = object.key();
        let mut metadata = match version {
            Some(_) => self.metadata.get(&key).cloned().unwrap_or_default(),
            None => ObjectMeta::default(),
        };
        metadata.name = Some(name(&key));
        metadata.resource_version = version.map(|version| version.0.clone());
        let found = match object {
            Object::Block(block) => {
                let previous = version.and_then(|_| self.blocks.get(&key));
                let spec = convert::block_spec(block, previous, SystemTime::now());
                let written = self.send(&key, crd::IPAMBlock { metadata, spec }).await?;
                self.block(written)?
            }
            Object::Affinity(affinity) => {
                let labels = metadata.labels.get_or_insert_default();
                labels.extend(convert::affinity_labels(affinity));
                let spec = convert::affinity_spec(affinity);
                let written = self.send(&key, crd::BlockAffinity { metadata, spec }).await?;
                self.affinity(written)?
            }
            Object::Handle(handle) => {
                let spec = convert::handle_spec(handle);
                let written = self.send(&key, crd::IPAMHandle { metadata, spec }).await?;
                self.handle(&key, written)
            }
        };
        Ok(found.1)
    }

    /// Creates an object without a version, replaces one with.
    async fn send<K>(&self, key: &Key, object: K) -> Result<K>
    where
        K: Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + std::fmt::Debug,
    {
        let api: Api<K> = self.api();
        let what = || describe(key);
        let params = PostParams::default();
        match object.resource_version() {
            None => self.datastore.bounded(what, api.create(&params, &object)).await,
            Some(_) => self.datastore.bounded(what, api.replace(&name(key), &params, &object)).await,
        }
    }

    async fn delete(&mut self, key: &Key, version: &Version) -> Result<()> {
        let preconditions = Preconditions { resource_version: Some(version.0.clone()), uid: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let name = name(key);
        let what = || describe(key);
        match key {
            Key::Block(_) => {
                let api: Api<crd::IPAMBlock> = self.api();
                self.datastore.bounded(what, api.delete(&name, &params)).await.map(drop)?;
            }
            Key::Affinity(..) => {
                let api: Api<crd::BlockAffinity> = self.api();
                self.datastore.bounded(what, api.delete(&name, &params)).await.map(drop)?;
            }
            Key::Handle(_) => {
                let api: Api<crd::IPAMHandle> = self.api();
                self.datastore.bounded(what, api.delete(&name, &params)).await.map(drop)?;
            }
        }
        self.metadata.remove(key);
        self.blocks.remove(key);
        Ok(())
    }

    fn block(&mut self, object: crd::IPAMBlock) -> Result<Found> {
        let mut problems = Problems::default();
        let what = format!("IPAM block {}", object.name_any());
        let block = convert::block(&object.spec, &mut problems).ok_or_else(|| invalid(what, &problems))?;
        let key = Key::Block(block.cidr);
        let version = self.remember(&key, object.metadata);
        self.blocks.insert(key, object.spec);
        Ok((Object::Block(block), version))
    }

    fn affinity(&mut self, object: crd::BlockAffinity) -> Result<Found> {
        let mut problems = Problems::default();
        let what = format!("block affinity {}", object.name_any());
        let affinity =
            convert::affinity(&object.spec, &mut problems).ok_or_else(|| invalid(what, &problems))?;
        let affinity = Object::Affinity(affinity);
        let version = self.remember(&affinity.key(), object.metadata);
        Ok((affinity, version))
    }

    /// `key` is what was asked for: another handle may have taken its name.
    fn handle(&mut self, key: &Key, object: crd::IPAMHandle) -> Found {
        let handle = convert::handle(&object.spec, &mut Problems::default());
        let version = self.remember(key, object.metadata);
        (Object::Handle(handle), version)
    }

    fn remember(&mut self, key: &Key, mut metadata: ObjectMeta) -> Version {
        metadata.managed_fields = None;
        let version = Version(metadata.resource_version.clone().unwrap_or_default());
        self.metadata.insert(key.clone(), metadata);
        version
    }

    fn api<K: Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.datastore.client())
    }
}

/// Pools that can be understood.
pub(super) async fn pools(datastore: &Datastore) -> Result<Vec<IpPool>> {
    let mut pools = Vec::new();
    for object in list::<crd::IPPool>(datastore, "IP pools").await? {
        let (name, mut problems) = (object.name_any(), Problems::default());
        pools.extend(convert::pool(&object.metadata, &object.spec, &mut problems));
        for problem in problems.0 {
            tracing::warn!(pool = name, field = problem.field, reason = problem.reason, "not understood");
        }
    }
    Ok(pools)
}

/// Settings named `default`, or the built-in ones.
pub(super) async fn configuration(datastore: &Datastore) -> Result<IpamConfiguration> {
    let api: Api<crd::IPAMConfiguration> = Api::all(datastore.client());
    let what = || "IPAM configuration default".to_owned();
    let found = match datastore.bounded(what, api.get_opt("default")).await {
        Err(Error::NotFound { .. }) => None,
        found => found?,
    };
    Ok(found
        .map(|object| convert::ipam_configuration(&object.spec, &mut Problems::default()))
        .unwrap_or_default())
}

/// What IPReservations keep back.
pub(super) async fn reservations(datastore: &Datastore) -> Result<Vec<Cidr>> {
    let objects = match list::<crd::IPReservation>(datastore, "IP reservations").await {
        // A cluster may not have the kind.
        Err(Error::NotFound { .. }) => Vec::new(),
        objects => objects?,
    };
    let ranges = objects.iter().flat_map(|o| convert::ip_reservation(&o.spec, &mut Problems::default()));
    Ok(ranges.collect())
}

async fn list<K>(datastore: &Datastore, what: &str) -> Result<Vec<K>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let api: Api<K> = Api::all(datastore.client());
    let mut params = ListParams::default().limit(500);
    let mut all = Vec::new();
    loop {
        let page = datastore.bounded(|| what.to_owned(), api.list(&params)).await?;
        all.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(all),
        }
    }
}

/// An object that cannot be understood is not used; the others are.
fn noted(found: Result<Found>) -> Option<Found> {
    found.map_err(|error| tracing::warn!(%error, "IPAM object is not used")).ok()
}

fn invalid(what: String, problems: &Problems) -> Error {
    let reason = problems.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    Error::Refused { what, reason }
}

fn name(key: &Key) -> String {
    match key {
        Key::Block(cidr) => cidr.object_name(),
        Key::Affinity(node, cidr) => convert::affinity_name(node, *cidr),
        Key::Handle(id) => convert::handle_name(id),
    }
}

fn describe(key: &Key) -> String {
    match key {
        Key::Block(cidr) => format!("IPAM block {cidr}"),
        Key::Affinity(node, cidr) => format!("affinity of node {node} for block {cidr}"),
        Key::Handle(id) => format!("IPAM handle {id}"),
    }
}
