//! What each client is sent next: a machine that knows clients by number and time as an argument.

mod client;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::typha::{FromClient, Goodbye, Hello, PROTOCOL, Wanted, Welcome, from_client, from_server};

use self::client::Client;
use crate::Event;
use crate::chunk::encode;
use crate::log::{Log, State};

/// Number of a connection; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

/// How patient a server is.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Changes of so long go out together.
    pub gather: Duration,
    /// From the connection to its Hello.
    pub hello: Duration,
    /// Between pings.
    pub ping: Duration,
    /// A client that says nothing for so long is dropped.
    pub silence: Duration,
    /// A client that has always had something left to read for so long is dropped.
    pub behind: Duration,
    /// Objects of each kind that are gone and still remembered, at least.
    pub keep_gone: usize,
    /// Kinds that one client may ask for.
    pub kinds: usize,
}

impl Default for Limits {
    /// Calico's times: a ping every 10 s, an answer within 60 s, 300 s behind at most.
    fn default() -> Self {
        Self {
            gather: Duration::from_millis(20),
            hello: Duration::from_secs(10),
            ping: Duration::from_secs(10),
            silence: Duration::from_secs(60),
            behind: Duration::from_secs(300),
            keep_gone: 10_000,
            kinds: 64,
        }
    }
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Lists that were begun for clients.
    pub lists: u64,
    /// Kinds that a client which came back went on with, without a list.
    pub resumed: u64,
    /// Lists that were begun again because a client was too slow.
    pub lists_again: u64,
    /// Chunks sent to clients.
    pub chunks: u64,
    /// Octets sent to clients, before TLS.
    pub octets: u64,
    /// Clients that were dropped: silent, behind, or not understood.
    pub dropped: u64,
}

/// A client, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientView {
    pub id: ClientId,
    pub node: String,
    pub program: String,
    pub version: String,
}

/// See the module.
#[derive(Debug)]
pub struct Server {
    limits: Limits,
    /// Another number after each start.
    instance: u64,
    fields: u32,
    version: String,
    logs: BTreeMap<Arc<str>, Log>,
    clients: BTreeMap<ClientId, Client>,
    next: u64,
    flush_at: Option<Instant>,
    /// Clients who may have something to read by now.
    ready: BTreeSet<ClientId>,
    counters: Counters,
    /// Kinds that may be asked for and are not watched yet.
    offered: BTreeSet<Arc<str>>,
    asked: Vec<Arc<str>>,
}

impl Server {
    /// Offers `kinds`. `instance` must differ from one start to the next; `fields` is the revision of what objects
    /// are forwarded with, `version` the program's.
    pub fn new<'a>(
        instance: u64,
        fields: u32,
        version: &str,
        kinds: impl IntoIterator<Item = &'a str>,
        limits: Limits,
    ) -> Self {
        Self {
            limits,
            instance: instance.max(1),
            fields,
            version: version.to_owned(),
            logs: BTreeMap::new(),
            clients: BTreeMap::new(),
            next: 1,
            flush_at: None,
            ready: BTreeSet::new(),
            counters: Counters::default(),
            offered: kinds.into_iter().map(Arc::from).collect(),
            asked: Vec::new(),
        }
    }

    /// Has a kind watched from now on, before anybody asks for it.
    pub fn want(&mut self, kind: &str) {
        if let Some(kind) = self.offered.take(kind) {
            self.logs.insert(kind.clone(), Log::new(kind.clone(), self.limits.keep_gone));
            self.asked.push(kind);
        }
    }

    /// Kinds whose watch is to begin now.
    pub fn take_asked(&mut self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.asked)
    }

    /// Takes in what the API server says about a kind.
    pub fn handle_event(&mut self, kind: &str, event: Event, now: Instant) {
        let Some(log) = self.logs.get_mut(kind) else { return };
        let (position, state) = (log.last(), log.state());
        log.handle(event);
        if log.is_pending() {
            self.flush_at.get_or_insert(now + self.limits.gather);
        }
        if (log.last(), log.state()) != (position, state) && log.state() != State::Unlisted {
            self.tell(kind, now);
        }
    }

    /// There is news of a kind.
    fn tell(&mut self, kind: &str, now: Instant) {
        for (id, client) in &mut self.clients {
            if client.wants(kind) {
                client.note_news(now);
                self.ready.insert(*id);
            }
        }
    }

    /// Somebody has connected.
    pub fn connect(&mut self, now: Instant) -> ClientId {
        let id = ClientId(self.next);
        self.next += 1;
        self.clients.insert(id, Client::new(now));
        id
    }

    /// The connection has ended.
    pub fn disconnect(&mut self, id: ClientId) {
        self.clients.remove(&id);
        self.ready.remove(&id);
    }

    /// Takes in a message.
    pub fn handle_message(&mut self, id: ClientId, message: FromClient, now: Instant) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.heard_at = now;
        match (message.message, client.hello.is_some()) {
            (Some(from_client::Message::Hello(hello)), false) => self.hello(id, hello, now),
            (Some(from_client::Message::Subscribe(subscribe)), true) => {
                self.subscribe(id, subscribe.wanted, true, now);
            }
            (Some(from_client::Message::Pong(pong)), true) => client.pong(pong.number),
            // Of a later version; it knows that we do not.
            (None, true) => {}
            _ => self.drop_client(id, "the first message is a Hello, and only that"),
        }
    }

    fn hello(&mut self, id: ClientId, mut hello: Hello, now: Instant) {
        let welcome = Welcome {
            protocol: PROTOCOL,
            fields: self.fields,
            version: self.version.clone(),
            instance: self.instance,
        };
        let is_same = hello.instance == self.instance;
        let wanted = std::mem::take(&mut hello.wanted);
        let protocol = hello.protocol;
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.queue.push_back(encode(from_server::Message::Welcome(welcome)));
        client.hello = Some(hello);
        if protocol == 0 {
            return self.drop_client(id, "this protocol is not spoken here");
        }
        self.ready.insert(id);
        self.subscribe(id, wanted, is_same, now);
    }

    fn subscribe(&mut self, id: ClientId, wanted: Vec<Wanted>, is_same: bool, now: Instant) {
        for wanted in wanted {
            self.want(&wanted.kind);
            let Some(client) = self.clients.get_mut(&id) else { return };
            if client.kinds() >= self.limits.kinds {
                return self.drop_client(id, "too many kinds");
            }
            let Some((kind, log)) = self.logs.get_key_value(wanted.kind.as_str()) else {
                client.missing(&wanted.kind);
                self.ready.insert(id);
                continue;
            };
            let resumes = is_same
                && (1..=log.last()).contains(&wanted.position)
                && wanted.position >= log.horizon()
                && log.state() == State::Listed;
            self.counters.resumed += u64::from(resumes);
            client.subscribe(kind.clone(), if resumes { wanted.position } else { 0 });
            client.note_news(now);
            self.ready.insert(id);
        }
    }

    /// The next octets for a client, a whole message; call it again once they are written. `None`: nothing now.
    pub fn poll_output(&mut self, id: ClientId) -> Option<Bytes> {
        let client = self.clients.get_mut(&id)?;
        let output = client.poll(&mut self.logs, &mut self.counters);
        match &output {
            Some(frame) => self.counters.octets += frame.len() as u64,
            None => {
                client.is_current();
                self.ready.remove(&id);
            }
        }
        output
    }

    /// Is the connection to be closed? Then everything that it is to be told was polled.
    pub fn is_over(&self, id: ClientId) -> bool {
        self.clients.get(&id).is_none_or(|client| client.is_over && client.queue.is_empty())
    }

    /// Clients that may have something to be polled, each once.
    pub fn take_ready(&mut self) -> BTreeSet<ClientId> {
        std::mem::take(&mut self.ready)
    }

    /// Ends a connection and says why.
    pub fn close(&mut self, id: ClientId, reason: &str) {
        if let Some(client) = self.clients.get_mut(&id).filter(|client| !client.is_over) {
            client
                .queue
                .push_back(encode(from_server::Message::Goodbye(Goodbye { reason: reason.to_owned() })));
            client.is_over = true;
            self.ready.insert(id);
        }
    }

    fn drop_client(&mut self, id: ClientId, reason: &str) {
        self.counters.dropped += 1;
        self.close(id, reason);
    }

    /// Fires what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.flush_at.is_some_and(|at| at <= now) {
            self.flush_at = None;
            let pending = self.logs.iter_mut().filter(|(_, log)| log.is_pending());
            let flushed: Vec<(Arc<str>, State)> = pending
                .map(|(kind, log)| {
                    log.flush();
                    (kind.clone(), log.state())
                })
                .collect();
            for (kind, _) in flushed.iter().filter(|(_, state)| *state == State::Listed) {
                self.tell(kind, now);
            }
        }
        let mut late = Vec::new();
        for (id, client) in &mut self.clients {
            match client.lateness(&self.limits, now) {
                Some(reason) => late.push((*id, reason)),
                None if client.ping(&self.limits, now) => drop(self.ready.insert(*id)),
                None => {}
            }
        }
        for (id, reason) in late {
            self.drop_client(id, reason);
        }
    }

    /// When [`Server::handle_timeout`] is due next for changes that wait; clients are looked at every second.
    pub fn poll_timeout(&self, now: Instant) -> Instant {
        let clients = now + Duration::from_secs(1);
        self.flush_at.map_or(clients, |at| at.min(clients))
    }

    /// Kinds whose objects are not all known yet.
    pub fn unlisted(&self) -> Vec<Arc<str>> {
        let unlisted = self.logs.iter().filter(|(_, log)| log.state() == State::Unlisted);
        unlisted.map(|(kind, _)| kind.clone()).collect()
    }

    /// Objects of a kind that there are.
    pub fn len(&self, kind: &str) -> usize {
        self.logs.get(kind).map_or(0, Log::len)
    }

    /// Is there nothing of this kind?
    pub fn is_empty(&self, kind: &str) -> bool {
        self.len(kind) == 0
    }

    /// Of each kind that is watched: its name, objects, entries of its log, octets of its log.
    pub fn sizes(&self) -> impl Iterator<Item = (&str, usize, usize, usize)> {
        self.logs.iter().map(|(kind, log)| (&**kind, log.len(), log.entries(), log.size()))
    }

    /// Those that have said Hello and are not being closed.
    pub fn clients(&self) -> impl Iterator<Item = ClientView> {
        self.clients.iter().filter(|(_, client)| !client.is_over).filter_map(|(id, client)| {
            let hello = client.hello.as_ref()?;
            let (node, program, version) = (hello.node.clone(), hello.program.clone(), hello.version.clone());
            Some(ClientView { id: *id, node, program, version })
        })
    }

    /// Connections that are not being closed.
    pub fn connections(&self) -> usize {
        self.clients.values().filter(|client| !client.is_over).count()
    }

    /// Counts since the start.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// How long the client that is furthest behind has been so.
    pub fn longest_behind(&self, now: Instant) -> Duration {
        let behind = self.clients.values().filter_map(|client| client.behind_since);
        behind.map(|since| now.saturating_duration_since(since)).max().unwrap_or_default()
    }
}
