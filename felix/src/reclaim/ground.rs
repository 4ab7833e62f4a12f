//! The node itself: its links, endpoint store, DEL queue, ADDs under way, and the cluster's objects about them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use datastore::{Datastore, IpamClient};
use ipam::gc::{Leak, OwnTruth, PodAnswer};
use kernel_linux::Rtnl;
use model::{Cidr, PodKey};

use super::{Ground, View, handle_of};
use crate::addresses::Addresses;
use crate::endpoint_store::{StoredEndpoint, handle};
use crate::service::{NodeService, Pods};

/// See the module.
pub struct NodeGround<A, P> {
    pub service: Arc<NodeService<A, P>>,
    pub datastore: Datastore,
    pub ipam: IpamClient,
    /// Where endpoints are kept: also a file that cannot be read says which container it is about.
    pub endpoint_files: PathBuf,
}

impl<A: Addresses, P: Pods> NodeGround<A, P> {
    fn endpoints(&self) -> Vec<StoredEndpoint> {
        self.service.store.lock().iter().cloned().collect()
    }

    /// Handles of what is coming or going: it is not for us to judge.
    fn moving(&self) -> io::Result<Vec<String>> {
        let mut moving = self.service.adds.under_way(Instant::now());
        let (waiting, _) = self.service.queue.list()?;
        let attachments = waiting.into_iter().filter_map(|waiting| waiting.call.attachment);
        moving.extend(attachments.map(|a| handle(&a.network, &a.container_id)));
        Ok(moving)
    }

    fn containers_on_file(&self) -> io::Result<Vec<String>> {
        let mut containers = Vec::new();
        for entry in fs::read_dir(&self.endpoint_files)? {
            let path = entry?.path();
            containers.extend(path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned));
        }
        Ok(containers)
    }

    fn links(&self) -> io::Result<BTreeMap<String, String>> {
        let prefix = self.service.settings.read().interface_prefix.clone();
        let links = Rtnl::open()?.links()?.into_iter();
        let ours = links.filter(|link| link.name.starts_with(&prefix));
        Ok(ours.filter_map(|link| Some((link.name, link.alias?))).collect())
    }
}

impl<A: Addresses, P: Pods> Ground for NodeGround<A, P> {
    fn look(&self) -> io::Result<View> {
        // Links first: what an ADD makes meanwhile shows among the ADDs or the endpoints.
        let links = self.links()?;
        let mut truth = OwnTruth { handles: self.moving()?.into_iter().collect(), ..OwnTruth::default() };
        truth.containers = links.values().cloned().chain(self.containers_on_file()?).collect();
        let endpoints = self.endpoints();
        for endpoint in &endpoints {
            truth.handles.insert(handle_of(endpoint));
            truth.addresses.extend(&endpoint.addresses);
        }
        Ok(View { truth, endpoints, links })
    }

    fn is_netns(&self, netns: &str) -> bool {
        netns == ipam::names::NETNS_UNSEEN || Path::new(netns).exists()
    }

    async fn leak_grace(&self) -> Result<Option<Duration>> {
        Ok(self.datastore.kube_controllers_configuration().await?.leak_grace_period)
    }

    async fn pod(&self, key: &PodKey) -> Result<PodAnswer> {
        Ok(self.datastore.pod_answer(key).await?)
    }

    async fn is_ready(&self) -> Result<bool> {
        Ok(self.datastore.is_ready().await?)
    }

    async fn take_back(&self, handle: &str, leaks: &[Leak], idle: u64) -> Result<usize> {
        // From here on until the end no ADD gets these addresses.
        if !self.service.adds.take_back(handle) {
            return Ok(0);
        }
        let is_used = self.look().map(|view| {
            let truth = view.truth;
            let has = |leak: &Leak| truth.addresses.contains(&leak.address);
            truth.handles.contains(handle) || leaks.iter().any(has)
        });
        let (freed, is_gone) = match is_used {
            Ok(true) => (Ok(0), false),
            // Also when it failed half-way.
            Ok(false) => (self.ipam.take_back(leaks, idle).await.map_err(anyhow::Error::from), true),
            Err(error) => (Err(error.into()), false),
        };
        self.service.adds.took_back(handle, is_gone);
        freed
    }

    async fn release_block(&self, cidr: Cidr) -> Result<()> {
        Ok(self.ipam.release_spare(cidr).await?)
    }

    async fn answer(&self) -> Result<()> {
        Ok(self.ipam.answer().await?)
    }

    fn take_down(&self, endpoint: &StoredEndpoint) {
        self.service.take_down(endpoint);
    }

    fn retire(&self, link: &str) -> io::Result<()> {
        Rtnl::open()?.retire_link(link)?;
        // Whoever drains the queue deletes it.
        self.service.queued.notify_one();
        Ok(())
    }
}
