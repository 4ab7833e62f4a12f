//! Addresses for one node: carries out the steps of the `ipam` crate against the API server.
//!
//! Decides nothing itself. Requests of one node go one after the other, so that they do not fight among
//! themselves; what other nodes do meanwhile shows as a conflict, and the step is decided anew.

mod admin;
mod evidence;
mod gc;
mod objects;
mod observed;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

pub use ::ipam::{AssignError, Draw, Request as AssignRequest, Returned, Settled};
use ::ipam::{Object, Read, Reserve, Settings, Snapshot, Step, Write, held_by, rest_from};
use model::{Cidr, NodeName, Update};

use crate::watch::Retry;
use crate::{Datastore, Error};
use objects::Objects;
use observed::Observed;

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
    node: NodeName,
    observed: Mutex<Observed>,
    reserve: Arc<Mutex<Reserve>>,
    state: tokio::sync::Mutex<State>,
}

struct State {
    node: NodeName,
    snapshot: Snapshot,
    objects: Objects,
    /// Told of every block that is read or written.
    reserve: Arc<Mutex<Reserve>>,
}

impl IpamClient {
    /// For one node. Without [`observe`](Self::observe) every request reads pools and settings anew.
    pub fn new(datastore: &Datastore, node: NodeName) -> Self {
        let reserve = Arc::new(Mutex::new(Reserve::new(node.clone())));
        let state = State {
            snapshot: Snapshot::new(node.clone()),
            objects: Objects::new(datastore.clone()),
            node: node.clone(),
            reserve: reserve.clone(),
        };
        Self {
            shared: Arc::new(Shared {
                datastore: datastore.clone(),
                node,
                observed: Mutex::default(),
                reserve,
                state: tokio::sync::Mutex::new(state),
            }),
        }
    }

    /// Takes note of what a watch tells about pools, settings, blocks and the own node's labels. Once it was told
    /// [`Update::InSync`], requests read these no more. Says whether [`upkeep`](Self::upkeep) may have something
    /// to do.
    pub fn observe(&self, update: &Update, node: &NodeName) -> bool {
        match update {
            Update::Block(_, Some(block)) => {
                locked(&self.shared.reserve).saw(block);
                // Others took the last of it: the reserve makes room.
                block.affinity.as_ref() == Some(node) && block.unallocated.is_empty()
            }
            Update::Block(cidr, None) => {
                locked(&self.shared.reserve).lost(*cidr);
                false
            }
            _ => locked(&self.shared.observed).observe(update, node),
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
        self.withdraw(request)?;
        let is_current = self.prepare(&mut state, false).await?;
        let first = state.assign(request).await;
        let Err(IpamError::Assign(_)) = &first else { return first };
        let failed_new = state.snapshot.handle_is_new(&request.handle);
        let result = if is_current {
            first
        } else {
            // Somebody may have made a pool a moment ago: look once more before saying no.
            self.prepare(&mut state, true).await?;
            state.assign(request).await
        };
        let is_new = failed_new || state.snapshot.handle_is_new(&request.handle);
        if matches!(result, Err(IpamError::Assign(_))) && is_new {
            state.begin();
            state.release_unused(&request.handle).await?;
        }
        result
    }

    /// An address that is asked for by number may be one that this node holds ready.
    fn withdraw(&self, request: &AssignRequest) -> Result<(), AssignError> {
        let withdrawn = locked(&self.shared.reserve).withdraw(&request.handle, &request.addresses);
        withdrawn.map_err(|draw| {
            let is_asked_for = |address: &&IpAddr| request.addresses.contains(*address);
            let address = draw.addresses.iter().find(is_asked_for).copied();
            AssignError::InUse {
                address: address.unwrap_or(request.addresses[0]),
                holder: format!("handle {}", draw.handle),
            }
        })
    }

    /// Takes back all that a handle holds, and says what that was. A handle that holds nothing is no error.
    ///
    /// With a cool-down the addresses rest before anybody gets them again.
    ///
    /// # Errors
    /// When the API server is away; asking again later carries on.
    pub async fn release_by_handle(&self, handle: &str) -> Result<Vec<IpAddr>, IpamError> {
        let mut state = self.shared.state.lock().await;
        let observed = self.observed_settings();
        let configuration = match observed {
            Some(settings) => settings.configuration,
            None => objects::configuration(&self.shared.datastore).await?,
        };
        state.snapshot.settings.configuration = configuration;
        state.begin();
        state.release(handle).await
    }

    /// Takes back all that a handle holds but one address; they rest as with
    /// [`release_by_handle`](Self::release_by_handle).
    ///
    /// # Errors
    /// When the API server is away; asking again later carries on.
    pub async fn release_others(&self, handle: &str, keep: IpAddr) -> Result<(), IpamError> {
        let mut state = self.shared.state.lock().await;
        self.prepare(&mut state, false).await?;
        state.finish(|snapshot, now| ::ipam::release_others(handle, keep, snapshot, now)).await.map(drop)
    }

    /// Takes back all that a handle holds, to be given out again at once; nothing held is no error.
    ///
    /// # Errors
    /// When the API server is away; asking again later carries on.
    pub async fn release_at_once(&self, handle: &str) -> Result<(), IpamError> {
        let mut state = self.shared.state.lock().await;
        state.begin();
        state.release_unused(handle).await
    }

    /// Takes over what an earlier run had drawn, and names the pods that it left; before anything is observed.
    pub fn restore(&self, draws: Vec<Draw>, endpoints: Vec<Draw>) {
        let mut reserve = locked(&self.shared.reserve);
        reserve.restore(draws);
        reserve.restore_endpoints(endpoints);
    }

    /// Draws addresses from what the node holds ready, without a word with the API server; `None` when that is
    /// not possible, and [`assign`](Self::assign) may be. Blocks hear of it once it was [`stored`](Self::stored).
    pub fn draw(&self, request: &AssignRequest) -> Option<Draw> {
        let observed = locked(&self.shared.observed);
        if !observed.is_kept {
            return None;
        }
        locked(&self.shared.reserve).draw(request, &observed.settings)
    }

    /// The draw outlives the process now.
    pub fn stored(&self, handle: &str) {
        locked(&self.shared.reserve).stored(handle);
    }

    /// The draw could not be kept, and nobody was told of its addresses.
    pub fn undo(&self, handle: &str) {
        locked(&self.shared.reserve).undo(handle);
    }

    /// A container is gone: its draw in its new state, to be kept, or nothing that blocks do not show.
    pub fn give_back(&self, handle: &str) -> Returned {
        let from = rest_from(nanoseconds(), 1).unwrap_or_default();
        locked(&self.shared.reserve).release(handle, from)
    }

    /// Does a draw of this handle wait for its block to show it?
    pub fn has_draw(&self, handle: &str) -> bool {
        locked(&self.shared.reserve).has_draw(handle)
    }

    /// How many addresses are held ready.
    pub fn ready(&self) -> usize {
        locked(&self.shared.reserve).ready()
    }

    /// Has so much been drawn that [`fill_up`](Self::fill_up) should not wait for more?
    pub fn is_low(&self) -> bool {
        locked(&self.shared.reserve).is_low()
    }

    /// Writes draws into their blocks, fills the reserve up, ends rests: everything that is due behind the pods.
    ///
    /// # Errors
    /// When the API server is away; asking again later carries on.
    pub async fn upkeep(&self) -> Result<Settled, IpamError> {
        self.keep_up(::ipam::upkeep).await
    }

    /// Fills the reserve up, and leaves everything else to [`upkeep`](Self::upkeep).
    ///
    /// # Errors
    /// When the API server is away; asking again later carries on.
    pub async fn fill_up(&self) -> Result<(), IpamError> {
        self.keep_up(::ipam::fill_up).await.map(drop)
    }

    async fn keep_up(
        &self,
        next: fn(&mut Reserve, &Snapshot, u64) -> Step<Settled, Infallible>,
    ) -> Result<Settled, IpamError> {
        let mut state = self.shared.state.lock().await;
        self.prepare(&mut state, false).await?;
        state.load_own().await?;
        let draws = locked(&self.shared.reserve).draws().count();
        // One handle a draw, and a little for its block.
        for retry in Attempts::of(Attempts::MOST.saturating_add(u32::try_from(draws * 4).unwrap_or(u32::MAX)))
        {
            let step = next(&mut locked(&self.shared.reserve), &state.snapshot, nanoseconds());
            match step {
                Step::Done(settled) => return Ok(settled),
                Step::Failed(never) => match never {},
                Step::Read(read) => state.read(&read).await?,
                Step::Write(write) => state.write(&write, retry).await?,
            }
        }
        Err(IpamError::Contended(Attempts::MOST))
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
        let observed = self.observed_settings().filter(|_| !read);
        let is_read = observed.is_none();
        let settings = match observed {
            Some(settings) => settings,
            None => self.load().await?,
        };
        state.begin();
        state.snapshot.settings = settings;
        Ok(is_read)
    }

    /// What a watch keeps up to date, when one does.
    fn observed_settings(&self) -> Option<Settings> {
        let observed = locked(&self.shared.observed);
        observed.is_kept.then(|| observed.settings.clone())
    }

    async fn load(&self) -> Result<Settings, Error> {
        let Shared { datastore, node, .. } = &*self.shared;
        Ok(Settings {
            pools: objects::pools(datastore).await?,
            configuration: objects::configuration(datastore).await?,
            node_labels: datastore.node(node).await?.map(|node| node.labels).unwrap_or_default(),
            reservations: objects::reservations(datastore).await?,
        })
    }
}

/// A panic elsewhere leaves plain data that is whole.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// Before a new request.
    fn begin(&mut self) {
        self.snapshot.begin();
        self.objects.keep(&self.snapshot);
    }

    /// Reads the node's own blocks, once: afterwards they are known from what is written.
    async fn load_own(&mut self) -> Result<(), Error> {
        if !self.objects.has_own {
            let own = self.objects.own(&self.node).await?;
            for (key, object, version) in own {
                self.snapshot.observed(key, Some((object, version)));
            }
            self.objects.has_own = true;
            self.tell_reserve();
        }
        Ok(())
    }

    fn tell_reserve_of(&self, object: Option<&Object>) {
        if let Some(Object::Block(block)) = object {
            locked(&self.reserve).saw(block);
        }
    }

    fn tell_reserve(&self) {
        let mut reserve = locked(&self.reserve);
        self.snapshot.blocks().for_each(|block| reserve.saw(&block.value));
    }

    async fn assign(&mut self, request: &AssignRequest) -> Result<Vec<IpAddr>, IpamError> {
        self.load_own().await?;
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

    /// Takes back what a failed request got, of which nobody was told.
    async fn release_unused(&mut self, handle: &str) -> Result<(), IpamError> {
        for retry in Attempts::new() {
            match ::ipam::release_unused(handle, &self.snapshot) {
                Step::Done(()) => return Ok(()),
                Step::Failed(never) => match never {},
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
                Step::Done(()) => {
                    let mut reserve = locked(&self.reserve);
                    let cooldown = self.snapshot.settings.configuration.cooldown;
                    self.snapshot.blocks().for_each(|block| reserve.rests(&block.value, cooldown));
                    return Ok(freed.into_iter().collect());
                }
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
                self.tell_reserve_of(found.as_ref().map(|(object, _)| object));
                self.snapshot.observed(key.clone(), found);
            }
            Read::All => {
                let all = self.objects.all().await?;
                self.snapshot.observed_all(all);
                self.tell_reserve();
            }
        }
        Ok(())
    }

    /// A write that came too late makes us look again, after a moment when that happens often.
    async fn write(&mut self, write: &Write, retry: Option<std::time::Duration>) -> Result<(), Error> {
        match self.objects.write(write).await {
            Ok(version) => {
                if let Write::Create(object) | Write::Update(object, _) = write {
                    self.tell_reserve_of(Some(object));
                }
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
    most: u32,
    waits: Retry,
}

impl Attempts {
    const MOST: u32 = 300;
    /// Steps that an undisturbed request may need before conflicts cost a wait.
    const UNDISTURBED: u32 = 20;

    fn new() -> Self {
        Self::of(Self::MOST)
    }

    fn of(most: u32) -> Self {
        Self { count: 0, most, waits: Retry::new() }
    }
}

impl Iterator for Attempts {
    type Item = Option<std::time::Duration>;

    fn next(&mut self) -> Option<Self::Item> {
        self.count += 1;
        if self.count > self.most {
            return None;
        }
        Some(if self.count > Self::UNDISTURBED { self.waits.next().map(|wait| wait / 10) } else { None })
    }
}

fn nanoseconds() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
