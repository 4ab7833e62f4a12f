//! The cluster as the API server has it, read once. Owns where the kubeconfig is looked for.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use datastore::{Datastore, Interest};
use felix_evaluate::{Place, State};
use model::{Block, EndpointSlice, IpPool, Node, NodeName, ObjectKey, PodKey, Service, Update};

use crate::client::CallError;
use crate::reach::LABS;

/// How long the API server may take to tell everything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Which cluster is meant.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ClusterOptions {
    /// Kubeconfig of the API server; without it that of the only lab of this machine, ~/.kube/config, or the pod's own
    #[arg(long, global = true, env = "KUBECONFIG", value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig; without it the current one
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
}

/// What is asked of the cluster.
pub(crate) struct Cluster {
    pub(crate) state: State,
    /// As they came, for states that differ a little.
    pub(crate) updates: Vec<Update>,
    pub(crate) nodes: BTreeMap<NodeName, Node>,
    pub(crate) services: BTreeMap<ObjectKey, Service>,
    pub(crate) slices: Vec<EndpointSlice>,
    pub(crate) pools: Vec<IpPool>,
    pub(crate) blocks: Vec<Block>,
}

impl ClusterOptions {
    /// The kubeconfig that is used; `None` leaves it to the defaults of whoever connects.
    pub(crate) fn path(&self) -> Option<PathBuf> {
        let lab = || only_lab(Path::new(LABS)).filter(|_| self.context.is_none());
        self.named().or_else(lab).or_else(|| {
            let home = PathBuf::from(std::env::var_os("HOME")?);
            Some(home.join(".kube/config")).filter(|path| path.exists())
        })
    }

    fn named(&self) -> Option<PathBuf> {
        self.kubeconfig.clone().filter(|path| !path.as_os_str().is_empty())
    }

    /// The same choice for an `ocicat` that is started.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let named = |option: &str, value: &OsStr| [OsString::from(option), value.to_owned()];
        let kubeconfig = self.named().map(|path| named("--kubeconfig", path.as_os_str()));
        let context = self.context.as_ref().map(|context| named("--context", context.as_ref()));
        kubeconfig.into_iter().chain(context).flatten().collect()
    }

    /// A cluster was named.
    pub(crate) fn is_named(&self) -> bool {
        self.named().is_some() || self.context.is_some()
    }

    /// The directory of the lab that was named as the cluster.
    pub(crate) fn named_lab(&self) -> Option<PathBuf> {
        let path = self.named().filter(|path| path.starts_with(LABS))?;
        path.parent().map(Path::to_owned)
    }

    /// Reads everything that says how packets may go.
    pub(crate) fn read(&self) -> Result<Cluster, CallError> {
        let updates = runtime()?.block_on(async {
            let datastore = connect(self).await?;
            let snapshot = datastore.snapshot(Interest::policy(), PATIENCE).await;
            snapshot.map_err(|error| CallError::Cluster { reason: error.to_string() })
        });
        updates.map(Cluster::new)
    }
}

/// For questions to the API server, one after another.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, CallError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| CallError::Cluster { reason: error.to_string() })
}

/// The API server that is meant. Talks to nobody yet.
pub(crate) async fn connect(options: &ClusterOptions) -> Result<Datastore, CallError> {
    Datastore::connect_to(options.path().as_deref(), options.context.as_deref()).await.map_err(away)
}

/// Refusals are answers; everything else is that nobody answers.
pub(crate) fn away(error: datastore::Error) -> CallError {
    match error {
        datastore::Error::Refused { .. } | datastore::Error::NotFound { .. } => {
            CallError::Question { reason: error.to_string() }
        }
        error => CallError::Cluster { reason: error.to_string() },
    }
}

/// The kubeconfig of a lab, when there is exactly one.
fn only_lab(labs: &Path) -> Option<PathBuf> {
    let mut found = std::fs::read_dir(labs).ok()?.flatten().map(|entry| entry.path().join("kubeconfig"));
    let first = found.by_ref().find(|path| path.exists())?;
    found.all(|other| !other.exists()).then_some(first)
}

impl Cluster {
    pub(crate) fn new(updates: Vec<Update>) -> Self {
        let mut cluster = Self {
            state: State::default(),
            updates: Vec::new(),
            nodes: BTreeMap::new(),
            services: BTreeMap::new(),
            slices: Vec::new(),
            pools: Vec::new(),
            blocks: Vec::new(),
        };
        for update in updates {
            match &update {
                Update::Node(name, Some(node)) => _ = cluster.nodes.insert(name.clone(), node.clone()),
                Update::Service(key, Some(service)) => {
                    cluster.services.insert(key.clone(), service.clone());
                }
                Update::EndpointSlice(_, Some(slice)) => cluster.slices.push(slice.clone()),
                Update::Pool(_, Some(pool)) => cluster.pools.push(pool.clone()),
                Update::Block(_, Some(block)) => cluster.blocks.push((**block).clone()),
                _ => {}
            }
            cluster.state.apply(update.clone());
            cluster.updates.push(update);
        }
        cluster
    }

    /// Whose address this is.
    pub(crate) fn place(&self, address: IpAddr) -> Place {
        let mut pods = self.state.pods();
        if let Some(pod) = pods.find(|pod| !pod.host_network && pod.addresses.contains(&address)) {
            return Place::Pod(pod.key.clone());
        }
        match self.node_with(address) {
            Some(node) => Place::Node(node.clone()),
            None => Place::Outside,
        }
    }

    fn node_with(&self, address: IpAddr) -> Option<&NodeName> {
        let has = |node: &Node| {
            [node.ipv4, node.ipv6].into_iter().flatten().any(|own| own.address == address)
                || node.tunnels.addresses().any(|tunnel| tunnel == address)
        };
        self.nodes.iter().find(|(_, node)| has(node)).map(|(name, _)| name)
    }

    /// The node on which something is; `None` for what is outside.
    pub(crate) fn node_of(&self, place: &Place) -> Option<NodeName> {
        match place {
            Place::Node(node) => Some(node.clone()),
            Place::Pod(pod) => self.state.pod(pod)?.node.clone(),
            Place::Outside => None,
        }
    }

    /// The Service with this address.
    pub(crate) fn service_at(&self, address: IpAddr) -> Option<&Service> {
        let mut services = self.services.values();
        services.find(|service| {
            let own = [&service.cluster_ips, &service.external_ips, &service.load_balancer_ips];
            own.into_iter().flatten().any(|other| *other == address)
        })
    }

    /// The pool that an address is from.
    pub(crate) fn pool_of(&self, address: IpAddr) -> Option<&IpPool> {
        let holding = self.pools.iter().filter(|pool| pool.cidr.contains(address));
        holding.max_by_key(|pool| pool.cidr.length())
    }

    /// The block that an address is from.
    pub(crate) fn block_of(&self, address: IpAddr) -> Option<&Block> {
        self.blocks.iter().find(|block| block.cidr.contains(address))
    }

    /// `namespace/name`, `node <name>`, or nothing.
    pub(crate) fn name(&self, place: &Place) -> String {
        match place {
            Place::Pod(PodKey { namespace, name }) => format!("{namespace}/{name}"),
            Place::Node(node) => format!("node {node}"),
            Place::Outside => "outside".to_owned(),
        }
    }
}
