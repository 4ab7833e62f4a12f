//! One speaker and a peer that follows a script: bytes and times exactly as a test wants them.

#![allow(dead_code)]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bgp::{
    Closed, Config, ConnId, ConnectFailure, Event, Output, PeerConfig, PeerState, PeerStatus, Speaker, Start,
};
use bgp_packet::{
    Capability, EncodeOptions, Family, GracefulRestart, HEADER_LEN, MAX_EXTENDED_LEN, Message, NextHop,
    Notification, Open, PathAttributes, Prefix, RouteRefresh, UpdateContext, encode_end_of_rib,
    encode_keepalive, encode_reach, encode_unreach, frame,
};

/// The speaker's own AS.
pub const OWN: u32 = 64512;

/// What the speaker wants done, in words.
#[derive(Clone, Debug, PartialEq)]
pub enum Did {
    Connect(ConnId),
    Open(Open),
    Keepalive,
    Notification(Notification),
    Reach(Vec<Prefix>, PathAttributes),
    Unreach(Vec<Prefix>),
    EndOfRib(Family),
    Refresh(RouteRefresh),
    Close(ConnId),
    Other,
}

pub struct Script {
    pub speaker: Speaker,
    pub now: Instant,
    /// What the last connection's peer and the speaker understand of one another.
    pub context: UpdateContext,
}

pub fn peer_address() -> SocketAddr {
    "192.0.2.2:40000".parse().unwrap()
}

pub fn own_address() -> SocketAddr {
    "192.0.2.1:179".parse().unwrap()
}

/// A speaker of AS 64512 with one peer at 192.0.2.2.
pub fn with_peer(peer: PeerConfig) -> Config {
    let mut config = Config::new(OWN, Ipv4Addr::new(192, 0, 2, 1));
    config.peers.insert(peer_address().ip().into(), peer);
    config
}

/// What a plain internal peer says of itself.
pub fn open() -> Open {
    open_of(OWN)
}

pub fn open_of(asn: u32) -> Open {
    let capabilities = vec![
        Capability::Multiprotocol(Family::Ipv4.into()),
        Capability::Multiprotocol(Family::Ipv6.into()),
        Capability::RouteRefresh,
        Capability::FourOctetAs(asn),
        Capability::GracefulRestart(GracefulRestart {
            restarting: false,
            notification: true,
            restart_time: 120,
            families: vec![(Family::Ipv4.into(), true), (Family::Ipv6.into(), true)],
        }),
    ];
    Open { asn, hold_time: 90, router_id: Ipv4Addr::new(192, 0, 2, 2), capabilities }
}

pub fn bytes_of(build: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    build(&mut bytes);
    bytes
}

pub fn keepalive() -> Vec<u8> {
    bytes_of(encode_keepalive)
}

pub fn attributes() -> PathAttributes {
    PathAttributes { local_pref: Some(100), ..PathAttributes::new(NextHop::V4(Ipv4Addr::new(192, 0, 2, 2))) }
}

/// An UPDATE with routes; all sessions here have four-octet AS numbers.
pub fn announce(attributes: &PathAttributes, prefixes: &[&str]) -> Vec<u8> {
    let prefixes: Vec<Prefix> = prefixes.iter().map(|p| p.parse().unwrap()).collect();
    let options = EncodeOptions { as4: true, extended: true, ..EncodeOptions::default() };
    bytes_of(|out| encode_reach(out, attributes, &prefixes, options).unwrap())
}

pub fn withdraw(prefixes: &[&str]) -> Vec<u8> {
    let prefixes: Vec<Prefix> = prefixes.iter().map(|p| p.parse().unwrap()).collect();
    bytes_of(|out| encode_unreach(out, &prefixes, EncodeOptions::default()))
}

pub fn end_of_rib(family: Family) -> Vec<u8> {
    bytes_of(|out| encode_end_of_rib(out, family))
}

pub fn refresh(family: Family, subtype: u8) -> Vec<u8> {
    bytes_of(|out| RouteRefresh { family: family.into(), subtype }.encode(out))
}

impl Script {
    pub fn new(config: Config) -> Self {
        Self::starting(config, false)
    }

    /// A speaker that has restarted when `forwarding_kept`.
    #[allow(clippy::disallowed_methods)]
    pub fn starting(config: Config, forwarding_kept: bool) -> Self {
        let now = Instant::now();
        let context = UpdateContext { as4: true, internal: true, ..UpdateContext::default() };
        let start = Start { forwarding_kept, ..Start::default() };
        Self { speaker: Speaker::new(config, start, now), now, context }
    }

    pub fn pass(&mut self, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        while let Some(at) = self.speaker.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.speaker.handle_timeout(self.now);
        }
        self.now = end;
    }

    /// The peer connects.
    pub fn accept(&mut self) -> ConnId {
        self.speaker.handle_incoming(peer_address(), own_address(), self.now).unwrap()
    }

    pub fn say(&mut self, conn: ConnId, bytes: &[u8]) {
        self.speaker.handle_data(conn, bytes, self.now);
    }

    pub fn say_open(&mut self, conn: ConnId, open: &Open) {
        self.say(conn, &bytes_of(|out| open.encode(out)));
    }

    pub fn lose(&mut self, conn: ConnId) {
        self.speaker.handle_closed(conn, Closed::Eof, self.now);
    }

    pub fn refuse(&mut self, conn: ConnId) {
        self.speaker.handle_connect_failed(conn, ConnectFailure::Refused, self.now);
    }

    /// A session with a peer that says `open`.
    pub fn establish(&mut self, open: &Open) -> ConnId {
        let conn = self.accept();
        self.say_open(conn, open);
        self.say(conn, &keepalive());
        assert_eq!(self.status().state, PeerState::Established, "{:?}", self.status().cause);
        conn
    }

    pub fn status(&self) -> PeerStatus {
        self.speaker.peer_at(peer_address().ip()).unwrap()
    }

    pub fn state(&self) -> PeerState {
        self.status().state
    }

    pub fn has(&self, prefix: &str) -> bool {
        self.speaker.route(&prefix.parse().unwrap()).is_some()
    }

    pub fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.speaker.poll_event()).collect()
    }

    /// What the speaker wants done; the kernel takes everything at once.
    pub fn did(&mut self) -> Vec<Did> {
        let mut did = Vec::new();
        while let Some(output) = self.speaker.poll_output() {
            match output {
                Output::Connect { conn, .. } => did.push(Did::Connect(conn)),
                Output::Close { conn } => did.push(Did::Close(conn)),
                Output::Send { conn, bytes } => {
                    self.speaker.handle_sent(conn, bytes.len());
                    did.extend(messages(&bytes, self.context));
                }
                _ => did.push(Did::Other),
            }
        }
        did.retain(|d| *d != Did::Other);
        did
    }

    /// The NOTIFICATIONs among what the speaker wants done, as code and subcode.
    pub fn notified(&mut self) -> Vec<(u8, u8)> {
        let code = |did: &Did| match did {
            Did::Notification(n) => Some((n.code, n.subcode)),
            _ => None,
        };
        self.did().iter().filter_map(code).collect()
    }
}

/// Reads what the speaker sent.
pub fn messages(mut bytes: &[u8], context: UpdateContext) -> Vec<Did> {
    let mut did = Vec::new();
    while bytes.len() >= HEADER_LEN {
        let found = frame(bytes, MAX_EXTENDED_LEN).unwrap().expect("whole messages are sent");
        bytes = &bytes[found.len..];
        match found.parse(context).unwrap() {
            Message::Open(open) => did.push(Did::Open(open)),
            Message::Keepalive => did.push(Did::Keepalive),
            Message::Notification(n) => did.push(Did::Notification(n)),
            Message::RouteRefresh(refresh) => did.push(Did::Refresh(refresh)),
            Message::Update(update) => {
                if let Some(family) = update.end_of_rib() {
                    did.push(Did::EndOfRib(family));
                    continue;
                }
                let gone: Vec<Prefix> =
                    update.withdrawn.iter().chain(update.mp_unreach.iter().flat_map(|n| n.iter())).collect();
                if !gone.is_empty() {
                    did.push(Did::Unreach(gone));
                }
                let classic = update.attributes.next_hop.map(|a| (NextHop::V4(a), update.nlri));
                let mp = update.mp_reach.map(|mp| (mp.next_hop, mp.nlri));
                for (next_hop, nlri) in [classic, mp].into_iter().flatten().filter(|(_, n)| !n.is_empty()) {
                    did.push(Did::Reach(nlri.iter().collect(), update.attributes.to_path(next_hop)));
                }
            }
        }
    }
    assert!(bytes.is_empty(), "whole messages are sent");
    did
}
