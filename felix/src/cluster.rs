//! What the datastore says, on its way to the dataplane's thread; keeps the little that ADD and the node's own
//! addresses need.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use model::{IpPool, Labels, Node, NodeName, PodCidrBlocks, PodKey, Update};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use crate::command::{Command, Dataplane};

/// Updates that are handed on at once.
const BATCH: usize = 1024;

/// What concerns this node itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnNode {
    /// Every kind has been listed.
    pub in_sync: bool,
    pub node: Option<Node>,
}

/// The part of the cluster that is remembered here.
pub struct Cluster {
    node: NodeName,
    pods: Mutex<BTreeMap<PodKey, LocalPod>>,
    pools: Mutex<BTreeMap<String, IpPool>>,
    /// Where other nodes are reached, by node.
    others: Mutex<BTreeMap<NodeName, Vec<IpAddr>>>,
    own: watch::Sender<OwnNode>,
    /// Changes whenever a pool came, changed or went.
    pools_changed: watch::Sender<u64>,
    /// Changes whenever a pod of this node came, changed or went.
    pods_changed: watch::Sender<u64>,
}

struct LocalPod {
    uid: String,
    annotations: Labels,
}

impl Cluster {
    pub fn new(node: NodeName) -> Self {
        Self {
            node,
            pods: Mutex::default(),
            pools: Mutex::default(),
            others: Mutex::default(),
            own: watch::Sender::default(),
            pools_changed: watch::Sender::default(),
            pods_changed: watch::Sender::default(),
        }
    }

    /// Follows this node's own Node object.
    pub fn own(&self) -> watch::Receiver<OwnNode> {
        self.own.subscribe()
    }

    /// Every pool as it is now.
    pub fn pools(&self) -> Vec<IpPool> {
        self.pools.lock().values().cloned().collect()
    }

    /// Tells of every change of a pool.
    pub fn pools_changed(&self) -> watch::Receiver<u64> {
        self.pools_changed.subscribe()
    }

    /// Other nodes that are reached at an address.
    pub fn others_at(&self, address: IpAddr) -> Vec<NodeName> {
        let others = self.others.lock();
        let at = others.iter().filter(|(_, addresses)| addresses.contains(&address));
        at.map(|(name, _)| name.clone()).collect()
    }

    /// Is a Pod with this UID on this node? An empty UID means any.
    pub fn has_pod(&self, pod: &PodKey, uid: &str) -> bool {
        self.pods.lock().get(pod).is_some_and(|local| uid.is_empty() || local.uid == uid)
    }

    /// Hands every update to the dataplane, many at a time; ends when the datastore does. The dataplane alone hears of the
    /// blocks that `pod_cidrs` adds: they are no objects that anybody could change.
    pub async fn follow(
        &self,
        mut updates: mpsc::Receiver<Update>,
        mut pod_cidrs: Option<PodCidrBlocks>,
        dataplane: &Dataplane,
        also: impl Fn(&Update),
    ) {
        let mut batch = Vec::new();
        while updates.recv_many(&mut batch, BATCH).await > 0 {
            for update in &batch {
                self.observe(update);
                also(update);
            }
            let mut updates = std::mem::take(&mut batch);
            if let Some(blocks) = &mut pod_cidrs {
                updates = updates.into_iter().flat_map(|update| blocks.apply(update)).collect();
            }
            dataplane.send(Command::Updates(updates, Instant::now()));
        }
    }

    /// Remembers what an update says.
    pub fn observe(&self, update: &Update) {
        match update {
            Update::Pod(key, pod) => {
                let local = pod.as_ref().filter(|pod| pod.node.as_ref() == Some(&self.node));
                let mut pods = self.pods.lock();
                let changed = match local {
                    Some(pod) => {
                        let (uid, annotations) = (pod.uid.clone(), pod.annotations.clone());
                        pods.insert(key.clone(), LocalPod { uid, annotations });
                        true
                    }
                    None => pods.remove(key).is_some(),
                };
                drop(pods);
                if changed {
                    self.pods_changed.send_modify(|count| *count += 1);
                }
            }
            Update::Node(name, node) if *name == self.node => {
                self.own.send_modify(|own| own.node = node.clone());
            }
            Update::Node(name, node) => {
                let mut others = self.others.lock();
                match node {
                    Some(node) => {
                        let addresses = [node.ipv4, node.ipv6].into_iter().flatten().map(|at| at.address);
                        others.insert(name.clone(), addresses.collect())
                    }
                    None => others.remove(name),
                };
            }
            Update::Pool(name, pool) => {
                let mut pools = self.pools.lock();
                match pool {
                    Some(pool) => pools.insert(name.clone(), pool.clone()),
                    None => pools.remove(name),
                };
                drop(pools);
                self.pools_changed.send_modify(|count| *count += 1);
            }
            Update::InSync => self.own.send_modify(|own| own.in_sync = true),
            _ => {}
        }
    }

    fn annotations_of(&self, pod: &PodKey, uid: &str) -> Option<Labels> {
        let pods = self.pods.lock();
        let local = pods.get(pod).filter(|local| uid.is_empty() || local.uid == uid)?;
        Some(local.annotations.clone())
    }

    /// Waits until the watch has told of a Pod of this node with this UID, and returns its annotations.
    pub async fn wait_for_pod(&self, pod: &PodKey, uid: &str) -> Labels {
        let mut changes = self.pods_changed.subscribe();
        loop {
            if let Some(annotations) = self.annotations_of(pod, uid) {
                return annotations;
            }
            changes.changed().await.expect("the sender lives as long as self");
        }
    }
}
