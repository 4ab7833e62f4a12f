//! The server's machine, shared by all tasks; wakes those for whom there is something.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use datastore::Kind;
use datastore::typha::FIELDS;
use fanout::{ClientId, Event, Limits, Server};
use parking_lot::Mutex;
use proto::typha::FromClient;
use tokio::sync::Notify;

/// Between two times at which changes go out.
const PAUSE: Duration = Duration::from_millis(10);
/// For each client, besides: with 2 000 of them a tenth of a second.
const PAUSE_FOR_CLIENT: Duration = Duration::from_micros(50);
/// Changes of so long go out with the first.
const GATHER: Duration = Duration::from_millis(2);

/// See the module.
pub struct Hub {
    state: Mutex<State>,
    /// The next deadline may be another one.
    timer: Notify,
    /// Kinds were asked for.
    asked: Notify,
    /// Events of the API server since the start.
    events: AtomicU64,
}

struct State {
    server: Server,
    wakers: BTreeMap<ClientId, Arc<Notify>>,
    /// When time was last told to the machine.
    ticked_at: Instant,
}

impl Hub {
    /// Offers every kind that is the same for all nodes; those that are not on demand are wanted at once.
    pub fn new(limits: Limits) -> Arc<Self> {
        let instance = RandomState::new().hash_one(std::process::id());
        let limits = Limits { gather: GATHER, ..limits };
        let names = Kind::SHARED.iter().map(|(_, name)| *name);
        let mut server = Server::new(instance, FIELDS, env!("CARGO_PKG_VERSION"), names, limits);
        for (_, name) in Kind::SHARED.iter().filter(|(kind, _)| !kind.is_on_demand()) {
            server.want(name);
        }
        let state = State { server, wakers: BTreeMap::new(), ticked_at: Instant::now() };
        Arc::new(Self {
            state: Mutex::new(state),
            timer: Notify::new(),
            asked: Notify::new(),
            events: AtomicU64::new(0),
        })
    }

    /// Takes in what the API server says.
    pub fn event(&self, kind: &str, event: Event) {
        self.events.fetch_add(1, Ordering::Relaxed);
        self.change(|server| server.handle_event(kind, event, Instant::now()));
        self.timer.notify_one();
    }

    /// Events of the API server since the start.
    pub fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    /// A new connection, and what wakes its task.
    pub fn connect(&self) -> (ClientId, Arc<Notify>) {
        let mut state = self.state.lock();
        let id = state.server.connect(Instant::now());
        let waker = Arc::new(Notify::new());
        state.wakers.insert(id, waker.clone());
        (id, waker)
    }

    /// The connection has ended.
    pub fn disconnect(&self, id: ClientId) {
        let mut state = self.state.lock();
        state.server.disconnect(id);
        state.wakers.remove(&id);
    }

    /// Takes in a client's message.
    pub fn message(&self, id: ClientId, message: FromClient) {
        self.change(|server| server.handle_message(id, message, Instant::now()));
        self.asked.notify_one();
    }

    /// What a client is to be sent now, about `burst` octets at most, and whether its connection then ends.
    pub fn poll(&self, id: ClientId, burst: usize) -> (Vec<Bytes>, bool) {
        let server = &mut self.state.lock().server;
        let (mut frames, mut size) = (Vec::new(), 0);
        while size < burst
            && let Some(frame) = server.poll_output(id)
        {
            size += frame.len();
            frames.push(frame);
        }
        (frames, server.is_over(id))
    }

    /// Ends a connection and says why.
    pub fn close(&self, id: ClientId, reason: &str) {
        self.change(|server| server.close(id, reason));
    }

    /// Asks the machine.
    pub fn look<T>(&self, look: impl FnOnce(&Server) -> T) -> T {
        look(&self.state.lock().server)
    }

    /// Kinds whose watch is to begin, as soon as there are any.
    pub async fn asked(&self) -> Vec<Arc<str>> {
        loop {
            let asked = self.state.lock().server.take_asked();
            if !asked.is_empty() {
                return asked;
            }
            self.asked.notified().await;
        }
    }

    /// Tells the machine the time, for ever. A change goes out at once, and those that follow it together: each time
    /// costs a write for every client.
    pub async fn keep_time(&self) {
        loop {
            let deadline = {
                let state = self.state.lock();
                let clients = u32::try_from(state.server.connections()).unwrap_or(u32::MAX);
                let pause = PAUSE + PAUSE_FOR_CLIENT.saturating_mul(clients);
                state.server.poll_timeout(Instant::now()).max(state.ticked_at + pause)
            };
            tokio::select! {
                () = tokio::time::sleep_until(deadline.into()) => {
                    let now = Instant::now();
                    self.change(|server| server.handle_timeout(now));
                    self.state.lock().ticked_at = now;
                }
                () = self.timer.notified() => {}
            }
        }
    }

    /// For how long time was not told to the machine.
    pub fn stalled(&self) -> Duration {
        self.state.lock().ticked_at.elapsed()
    }

    fn change(&self, change: impl FnOnce(&mut Server)) {
        let mut state = self.state.lock();
        change(&mut state.server);
        for id in state.server.take_ready() {
            if let Some(waker) = state.wakers.get(&id) {
                waker.notify_one();
            }
        }
    }
}
