//! Addresses for one node: carries out the steps of the `ipam` crate against the API server.
//!
//! Decides nothing itself. Requests of one node go one after the other, so that they do not fight among
//! themselves; what other nodes do meanwhile shows as a conflict, and the step is decided anew.

mod admin;
mod evidence;
mod gc;
mod objects;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

pub use ::ipam::{AssignError, Request as AssignRequest};
use ::ipam::{Read, Snapshot, Step, Write, held_by};
use model::{Cidr, IpPool, IpamConfiguration, Labels, NodeName, Update};

use crate::watch::Retry;
use crate::{Datastore, Error};
use objects::Objects;

/// Why IPAM could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum IpamError {
    /// No address can be given; says which pools were looked at and why each was refused.
    #[error(transparent)]
    Assign(#[from] AssignError),
    #[error(transparent)]
    Datastore(#[from] Error),
    #[error(transparent)]
    BlockInUse(#[from] ::ipam::BlockInUse),
    /// Others wrote the same objects all the time.
    #[error("gave up after {0} attempts, other nodes write the same IPAM objects all the time")]
    Contended(u32),
}

/// Gives and takes addresses for one node. Cheap to clone; clones share one queue.
#[derive(Clone)]
pub struct IpamClient {
    shared: Arc<Shared>,
}

struct Shared {
    datastore: Datastore,
    settings: Mutex<Settings>,
    state: tokio::sync::Mutex<State>,
}

/// What pools there are, and so on.
#[derive(Clone, Debug, Default)]
struct Settings {
    pools: BTreeMap<String, IpPool>,
    configuration: IpamConfiguration,
    node_labels: Labels,
    /// Kept up to date by `observe`; otherwise read anew for each request.
    is_observed: bool,
}

struct State {
    node: NodeName,
    snapshot: Snapshot,
    objects: Objects,
}

impl IpamClient {
    /// For one node. Without [`observe`](Self::observe) every request reads pools and settings anew.
    pub fn new(datastore: &Datastore, node: NodeName) -> Self {
        let state =
            State { snapshot: Snapshot::new(node.clone()), objects: Objects::new(datastore.clone()), node };
        Self {
            shared: Arc::new(Shared {
                datastore: datastore.clone(),
                settings: Mutex::default(),
                state: tokio::sync::Mutex::new(state),
            }),
        }
    }

    /// Takes note of what a watch tells about pools, settings and the own node's labels. Once it was told
    /// [`Update::InSync`], requests read these no more.
    pub fn observe(&self, update: &Update, node: &NodeName) {
        let mut settings = self.settings();
        match update {
            Update::Pool(name, Some(pool)) => {
                settings.pools.insert(name.clone(), pool.clone());
            }
            Update::Pool(name, None) => {
                settings.pools.remove(name);
            }
            Update::IpamConfiguration(configuration) => {
                settings.configuration = configuration.clone().unwrap_or_default();
            }
            Update::Node(name, Some(found)) if name == node => settings.node_labels = found.labels.clone(),
            Update::InSync => settings.is_observed = true,
            _ => {}
        }
    }

    /// Gives addresses to a handle: those asked for by name first, then IPv4, then IPv6.
    ///
    /// Asking again for the same handle gives the same addresses. All or nothing: when one family has none left,
    /// the other's is taken back.
    ///
    /// # Errors
    /// [`IpamError::Assign`] when there is no address; [`IpamError::Datastore`] when the API server is away, in
    /// which case asking again later carries on from where it stopped.
    pub async fn assign(&self, request: &AssignRequest) -> Result<Vec<IpAddr>, IpamError> {
        let mut state = self.shared.state.lock().await;
        let is_current = self.prepare(&mut state, false).await?;
        let first = state.assign(request).await;
        let Err(IpamError::Assign(_)) = &first else { return first };
        let failed_new = state.snapshot.handle_is_new();
        let result = if is_current {
            first
        } else {
            // Somebody may have made a pool a moment ago: look once more before saying no.
            self.prepare(&mut state, true).await?;
            state.assign(request).await
        };
        if matches!(result, Err(IpamError::Assign(_))) && (failed_new || state.snapshot.handle_is_new()) {
            state.begin();
            state.release(&request.handle).await?;
        }
        result
    }

    /// Takes back all that a handle holds, and says what that was. A handle that holds nothing is no error.
    ///
    /// # Errors
    /// When the API server is away; asking again later carries on.
    pub async fn release_by_handle(&self, handle: &str) -> Result<Vec<IpAddr>, IpamError> {
        let mut state = self.shared.state.lock().await;
        state.begin();
        state.release(handle).await
    }

    /// Ends the node's claim on a block: one with addresses in use stays without an owner, or keeps its owner
    /// when it `must_be_empty`.
    ///
    /// # Errors
    /// [`IpamError::BlockInUse`] when it is not empty but must be.
    pub async fn release_affinity(&self, cidr: Cidr, must_be_empty: bool) -> Result<(), IpamError> {
        let mut state = self.shared.state.lock().await;
        state.begin();
        for retry in Attempts::new() {
            match ::ipam::release_affinity(&state.snapshot, cidr, must_be_empty) {
                Step::Done(()) => return Ok(()),
                Step::Failed(error) => return Err(error.into()),
                Step::Read(read) => state.read(&read).await?,
                Step::Write(write) => state.write(&write, retry).await?,
            }
        }
        Err(IpamError::Contended(Attempts::MOST))
    }

    /// Puts pools and settings into the snapshot; says whether they were read from the API server just now.
    async fn prepare(&self, state: &mut State, read: bool) -> Result<bool, Error> {
        let is_observed = self.settings().is_observed;
        let settings = if is_observed && !read {
            self.settings().clone()
        } else {
            let fresh = self.load(&state.node).await?;
            if !is_observed {
                *self.settings() = fresh.clone();
            }
            fresh
        };
        state.begin();
        state.snapshot.pools = settings.pools.into_values().collect();
        state.snapshot.configuration = settings.configuration;
        state.snapshot.node_labels = settings.node_labels;
        Ok(!is_observed || read)
    }

    async fn load(&self, node: &NodeName) -> Result<Settings, Error> {
        let datastore = &self.shared.datastore;
        let pools = objects::pools(datastore).await?;
        Ok(Settings {
            pools: pools.into_iter().map(|pool| (pool.name.clone(), pool)).collect(),
            configuration: objects::configuration(datastore).await?,
            node_labels: datastore.node(node).await?.map(|node| node.labels).unwrap_or_default(),
            is_observed: false,
        })
    }

    fn settings(&self) -> std::sync::MutexGuard<'_, Settings> {
        // A panic elsewhere leaves plain data that is whole.
        self.shared.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Before a new request.
    fn begin(&mut self) {
        self.snapshot.begin();
        self.objects.keep(&self.snapshot);
    }

    async fn assign(&mut self, request: &AssignRequest) -> Result<Vec<IpAddr>, IpamError> {
        if !self.objects.has_own {
            // Once: afterwards the own blocks are known from what is written.
            let own = self.objects.own(&self.node).await?;
            for (key, object, version) in own {
                self.snapshot.observed(key, Some((object, version)));
            }
            self.objects.has_own = true;
        }
        for retry in Attempts::new() {
            match ::ipam::assign(request, &self.snapshot, nanoseconds()) {
                Step::Done(addresses) => return Ok(addresses),
                Step::Failed(error) => return Err(error.into()),
                Step::Read(read) => self.read(&read).await?,
                Step::Write(write) => self.write(&write, retry).await?,
            }
        }
        Err(IpamError::Contended(Attempts::MOST))
    }

    async fn release(&mut self, handle: &str) -> Result<Vec<IpAddr>, IpamError> {
        let mut freed = BTreeSet::new();
        for retry in Attempts::new() {
            match ::ipam::release(handle, &self.snapshot, nanoseconds()) {
                Step::Done(()) => return Ok(freed.into_iter().collect()),
                Step::Failed(never) => match never {},
                Step::Read(read) => self.read(&read).await?,
                Step::Write(write) => {
                    let held = self.snapshot.blocks().flat_map(|block| held_by(&block.value, handle));
                    freed.extend(held);
                    self.write(&write, retry).await?;
                }
            }
        }
        Err(IpamError::Contended(Attempts::MOST))
    }

    async fn read(&mut self, read: &Read) -> Result<(), Error> {
        match read {
            Read::One(key) => {
                let found = self.objects.get(key).await?;
                self.snapshot.observed(key.clone(), found);
            }
            Read::All => {
                let all = self.objects.all().await?;
                self.snapshot.observed_all(all);
            }
        }
        Ok(())
    }

    /// A write that came too late makes us look again, after a moment when that happens often.
    async fn write(&mut self, write: &Write, retry: Option<std::time::Duration>) -> Result<(), Error> {
        match self.objects.write(write).await {
            Ok(version) => {
                self.snapshot.written(write, version);
                Ok(())
            }
            Err(Error::Conflict { .. } | Error::AlreadyExists { .. } | Error::NotFound { .. }) => {
                if let Some(wait) = retry {
                    tokio::time::sleep(wait).await;
                }
                self.read(&Read::One(write.key())).await
            }
            Err(error) => Err(error),
        }
    }
}

/// Counts steps, and says how long to wait after one that failed.
struct Attempts {
    count: u32,
    waits: Retry,
}

impl Attempts {
    const MOST: u32 = 300;
    /// Steps that an undisturbed request may need before conflicts cost a wait.
    const UNDISTURBED: u32 = 20;

    fn new() -> Self {
        Self { count: 0, waits: Retry::new() }
    }
}

impl Iterator for Attempts {
    type Item = Option<std::time::Duration>;

    fn next(&mut self) -> Option<Self::Item> {
        self.count += 1;
        if self.count > Self::MOST {
            return None;
        }
        Some(if self.count > Self::UNDISTURBED { self.waits.next().map(|wait| wait / 10) } else { None })
    }
}

fn nanoseconds() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
