//! The whole session under fire: bytes in, through states, table and policy, to bytes out. An input is a list of
//! steps, so that a mutation makes another story and not only another broken message.
//!
//! What must hold, whatever one peer does: no panic; what is sent is well-formed; a bystander keeps its session and
//! has exactly the routes that the speaker says it has; what waits for a peer is bounded; and when the peer is gone
//! for good, nothing of it is left.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bgp::{
    Action, Closed, Condition, Config, ConnId, MaxPrefix, MaxPrefixAction, Operation, Output, PeerConfig,
    PeerKey, PeerState, Policy, Rule, Speaker, Start,
};
use bgp_packet::*;

const OWN: u32 = 64512;
/// Octets that may wait for one peer: the speaker's window and one batch beyond.
const MOST_WAITING: usize = 2 << 20;

/// The steps of an input, octet by octet; zeros when it is over.
struct Steps<'a>(&'a [u8]);

impl<'a> Steps<'a> {
    fn octet(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn octets(&mut self) -> &'a [u8] {
        let wanted = usize::from(self.octet());
        let (taken, rest) = self.0.split_at(wanted.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

struct Fire {
    speaker: Speaker,
    now: Instant,
    /// The connection that is fired on.
    conn: Option<ConnId>,
    bystander: ConnId,
    /// What the bystander was told.
    told: BTreeSet<Prefix>,
    /// Whether the kernel takes what is sent to the peer that fires.
    reads: bool,
    waiting: usize,
    /// What the last OPEN of the peer said.
    said: u8,
}

fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n], 40000))
}

fn own() -> SocketAddr {
    address(1)
}

/// The speaker's settings of the peer that fires, by bits.
fn settings(bits: u8, more: u8) -> PeerConfig {
    let on = |bit: u8| bits >> bit & 1 == 1;
    let external = on(0);
    let mut peer = PeerConfig::new(if external { 65001 } else { OWN });
    peer.passive = true;
    peer.reflector_client = on(1);
    peer.add_path_receive = on(2);
    peer.add_path_send_max = on(3).then_some(3);
    peer.extended_messages = on(4);
    peer.extended_next_hop = on(5);
    peer.restart_time = if on(6) { 120 } else { 0 };
    peer.long_lived_stale_time = on(7).then_some(300);
    let on = |bit: u8| more >> bit & 1 == 1;
    peer.role = on(0).then_some(Role::Customer);
    peer.delay_open = Duration::from_secs(if on(1) { 5 } else { 0 });
    let limit = MaxPrefix { action: MaxPrefixAction::Restart(Duration::from_secs(30)), ..MaxPrefix::new(6) };
    peer.max_prefix = [on(2).then_some(limit); 2];
    peer.graceful_shutdown = on(3);
    if on(4) {
        let rule = |name: &str, when, then| Rule { name: name.to_owned(), when, then };
        let tag = Operation::AddCommunity(Community(0xfde8_0001));
        let short = Condition::Length(0, 8);
        let rules = vec![
            rule("short", vec![short], Action::Reject),
            rule("tag", vec![], Action::Modify(vec![tag, Operation::SetLocalPref(7)])),
        ];
        peer.import = Arc::new(Policy::new(rules, true));
    }
    peer.allow_own_as = u32::from(on(5));
    peer
}

fn config(bits: u8, more: u8) -> Config {
    let mut config = Config::new(OWN, Ipv4Addr::new(192, 0, 2, 1));
    config.cluster_id = Some(Ipv4Addr::new(244, 0, 0, 1));
    config.next_hop_v6 = "2001:db8::1".parse().ok();
    config.ebgp_requires_policy = more >> 6 & 1 == 1;
    config.max_paths = if more >> 7 & 1 == 1 { 4 } else { 1 };
    config.peers.insert(address(2).into(), settings(bits, more));
    let bystander = PeerConfig { passive: true, reflector_client: true, ..PeerConfig::new(OWN) };
    config.peers.insert(address(3).into(), bystander);
    config
}

/// An OPEN of the peer, by bits.
fn open(bits: u8, asn: u32) -> Open {
    let on = |bit: u8| bits >> bit & 1 == 1;
    let (v4, v6) = (Family::Ipv4.into(), Family::Ipv6.into());
    let restart = GracefulRestart {
        restarting: on(6),
        notification: on(7),
        restart_time: 90,
        families: vec![(v4, true), (v6, on(6))],
    };
    let listed = [
        (true, Capability::Multiprotocol(v4)),
        (!on(0), Capability::Multiprotocol(v6)),
        (!on(1), Capability::FourOctetAs(asn)),
        (on(2), Capability::AddPath(vec![(v4, AddPathMode::Both), (v6, AddPathMode::Both)])),
        (on(3), Capability::ExtendedMessage),
        (on(3), Capability::ExtendedNextHop(vec![(v4, 2)])),
        (on(4), Capability::EnhancedRouteRefresh),
        (true, Capability::RouteRefresh),
        (on(5), Capability::GracefulRestart(restart)),
        (on(5), Capability::LongLivedGracefulRestart(vec![(v4, true, 200), (v6, true, 200)])),
    ];
    let capabilities = listed.into_iter().filter(|(there, _)| *there).map(|(_, c)| c).collect();
    Open { asn, hold_time: 90, router_id: Ipv4Addr::new(192, 0, 2, 2), capabilities }
}

fn bytes_of(build: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    build(&mut bytes);
    bytes
}

/// Plays an input.
#[allow(clippy::disallowed_methods)]
pub fn play(input: &[u8]) {
    let mut steps = Steps(input);
    let (bits, more) = (steps.octet(), steps.octet());
    let now = Instant::now();
    let mut speaker = Speaker::new(config(bits, more), Start::default(), now);
    let local = PathAttributes::new(NextHop::V4(Ipv4Addr::UNSPECIFIED));
    speaker.originate("10.0.1.0/26".parse().expect("a prefix"), local);
    let bystander = speaker.handle_incoming(address(3), own(), now).expect("it is configured");
    let said = open(0x10, OWN);
    let said = Open { router_id: Ipv4Addr::new(192, 0, 2, 3), ..said };
    speaker.handle_data(bystander, &bytes_of(|out| said.encode(out)), now);
    speaker.handle_data(bystander, &bytes_of(encode_keepalive), now);
    let mut fire =
        Fire { speaker, now, conn: None, bystander, told: BTreeSet::new(), reads: true, waiting: 0, said: 0 };
    let mut left = 200;
    while !steps.0.is_empty() && left > 0 {
        left -= 1;
        fire.step(&mut steps);
        fire.check();
    }
    fire.end();
}

impl Fire {
    fn peer() -> PeerKey {
        address(2).into()
    }

    fn asn(&self) -> u32 {
        self.speaker.peer_config(Self::peer()).and_then(|c| c.asn).unwrap_or(OWN)
    }

    fn step(&mut self, steps: &mut Steps<'_>) {
        match steps.octet() % 20 {
            0 => self.connect(),
            1 => {
                self.said = steps.octet();
                let open = open(self.said, self.asn());
                self.say(&bytes_of(|out| open.encode(out)));
            }
            2 => self.say(&bytes_of(encode_keepalive)),
            3..=6 => {
                let update = self.update(steps);
                self.say(&update);
            }
            7 => {
                let gone = prefixes(steps);
                let options = self.options();
                self.say(&bytes_of(|out| encode_unreach(out, &gone, options)));
            }
            8 => {
                let family = family(steps);
                self.say(&bytes_of(|out| encode_end_of_rib(out, family)));
            }
            9 => {
                let refresh = RouteRefresh { family: family(steps).into(), subtype: steps.octet() % 4 };
                self.say(&bytes_of(|out| refresh.encode(out)));
            }
            10 => {
                let (code, subcode) = (steps.octet() % 9, steps.octet() % 12);
                let data = steps.octets().to_vec();
                self.say(&bytes_of(|out| Notification { code, subcode, data }.encode(out)));
            }
            11 | 12 => {
                let (kind, body) = (steps.octet() % 7, steps.octets());
                let len = (HEADER_LEN + body.len()) as u16;
                self.say(&[&[0xff; 16][..], &len.to_be_bytes(), &[kind], body].concat());
            }
            13 => self.say(steps.octets()),
            14 => self.pass(u64::from(steps.octet())),
            15 => {
                if let Some(conn) = self.conn.take() {
                    self.speaker.handle_closed(conn, Closed::Eof, self.now);
                }
            }
            16 => self.reads = !self.reads,
            17 => {
                let new = config(steps.octet(), steps.octet());
                self.speaker.reconfigure(new, self.now);
            }
            18 => self.operate(steps.octet()),
            _ => {
                // A whole session at once: most stories begin so.
                self.connect();
                self.said = steps.octet();
                let open = open(self.said, self.asn());
                self.say(&bytes_of(|out| open.encode(out)));
                self.say(&bytes_of(encode_keepalive));
            }
        }
    }

    fn connect(&mut self) {
        self.conn = self.speaker.handle_incoming(address(2), own(), self.now).ok();
        self.waiting = 0;
    }

    fn operate(&mut self, what: u8) {
        let (peer, now) = (Self::peer(), self.now);
        match what % 6 {
            0 => self.speaker.disable(peer, "fuzz", now),
            1 => self.speaker.enable(peer, now),
            2 => self.speaker.reset(peer, "", now),
            3 => self.speaker.refresh_out(peer),
            4 => drop(self.speaker.refresh_in(peer)),
            _ => self.speaker.handle_timeout(now),
        }
    }

    fn options(&self) -> EncodeOptions {
        let on = |bit: u8| self.said >> bit & 1 == 1;
        EncodeOptions { as4: !on(1), extended: on(3), add_path: [on(2); 2] }
    }

    /// An UPDATE that is sound but for what was chosen otherwise.
    fn update(&self, steps: &mut Steps<'_>) -> Vec<u8> {
        let (bits, value) = (steps.octet(), steps.octet());
        let on = |bit: u8| bits >> bit & 1 == 1;
        let prefixes = prefixes(steps);
        let family = prefixes.first().map_or(Family::Ipv4, Prefix::family);
        let v6 = NextHop::V6("2001:db8::2".parse().expect("an address"), None);
        let v4 = NextHop::V4(Ipv4Addr::new(192, 0, 2, if on(0) { value } else { 2 }));
        let mut a = PathAttributes::new(if family == Family::Ipv6 || on(1) { v6 } else { v4 });
        let hops = if on(2) { usize::from(value) * 8 } else { 1 };
        let external = self.asn() != OWN;
        let first = if on(3) { OWN } else { self.asn() };
        if external || on(2) {
            a.as_path =
                (0..hops).fold(a.as_path, |path, n| path.prepended(65100 + n as u32)).prepended(first);
        }
        a.local_pref = (!external).then_some(u32::from(value));
        a.med = on(4).then_some(u32::from(value));
        if on(5) {
            let known = [Community::GRACEFUL_SHUTDOWN, Community::NO_LLGR, Community::LLGR_STALE];
            a.communities = vec![known.get(usize::from(value)).copied().unwrap_or(Community::NO_EXPORT)];
        }
        a.only_to_customer = on(6).then_some(u32::from(value));
        if on(7) {
            a.originator_id = Some(Ipv4Addr::new(192, 0, 2, value));
            a.cluster_list = vec![Ipv4Addr::new(244, 0, 0, value)];
        }
        let mut bytes = Vec::new();
        let _ = encode_reach(&mut bytes, &a, &prefixes, self.options());
        let damage = usize::from(steps.octet());
        if damage > 40 && damage < bytes.len() {
            bytes[damage] ^= value;
        }
        bytes
    }

    fn say(&mut self, bytes: &[u8]) {
        if let Some(conn) = self.conn {
            self.speaker.handle_data(conn, bytes, self.now);
        }
    }

    /// Time passes; the bystander lives.
    fn pass(&mut self, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        while self.now < end {
            let next = self.speaker.poll_timeout().unwrap_or(end);
            self.now = next
                .max(self.now + Duration::from_millis(1))
                .min(end)
                .min(self.now + Duration::from_secs(20));
            self.speaker.handle_data(self.bystander, &bytes_of(encode_keepalive), self.now);
            self.speaker.handle_timeout(self.now);
            self.drain();
        }
    }

    /// What the speaker wants done; what it says must be sound.
    fn drain(&mut self) {
        while let Some(output) = self.speaker.poll_output() {
            let Output::Send { conn, bytes } = output else { continue };
            if conn == self.bystander {
                self.speaker.handle_sent(conn, bytes.len());
                self.tell(&bytes);
            } else if Some(conn) == self.conn {
                self.read(&bytes);
                if self.reads {
                    self.speaker.handle_sent(conn, bytes.len() + std::mem::take(&mut self.waiting));
                } else {
                    self.waiting += bytes.len();
                    assert!(self.waiting < MOST_WAITING, "{} octets wait", self.waiting);
                }
            }
        }
    }

    /// Reads what is sent to the peer that fires, as the two OPENs say.
    fn read(&self, bytes: &[u8]) {
        let Some(status) = self.speaker.peer_at(Self::peer()) else { return };
        let add_path = |list: &[Capability], family: Family, wanted: fn(AddPathMode) -> bool| {
            let open = Open { capabilities: list.to_vec(), ..open(0, OWN) };
            open.add_path(family).is_some_and(wanted)
        };
        let context = UpdateContext {
            as4: status.capabilities_received.iter().any(|c| matches!(c, Capability::FourOctetAs(_))),
            internal: status.internal,
            add_path: Family::ALL.map(|f| {
                add_path(&status.capabilities_sent, f, AddPathMode::sends)
                    && add_path(&status.capabilities_received, f, AddPathMode::receives)
            }),
            v4_over_v6: true,
        };
        if status.state == PeerState::Established {
            sound(bytes, context, |_| {});
        }
    }

    /// Takes over what the bystander is told.
    fn tell(&mut self, bytes: &[u8]) {
        let context = UpdateContext { as4: true, internal: true, ..UpdateContext::default() };
        let told = &mut self.told;
        sound(bytes, context, |update| {
            let gone = update.withdrawn.iter().chain(update.mp_unreach.iter().flat_map(|n| n.iter()));
            gone.for_each(|prefix| {
                told.remove(&prefix);
            });
            let there = update.nlri.iter().chain(update.mp_reach.iter().flat_map(|mp| mp.nlri.iter()));
            told.extend(there);
        });
    }

    fn check(&mut self) {
        self.drain();
        while self.speaker.poll_event().is_some() {}
        let bystander = self.speaker.peer_at(PeerKey::from(address(3))).expect("it is configured");
        assert_eq!((bystander.state, bystander.sessions), (PeerState::Established, 1));
        let advertised = self.speaker.advertised(PeerKey::from(address(3)));
        let advertised: BTreeSet<Prefix> = advertised.iter().map(|route| route.prefix).collect();
        assert_eq!(advertised, self.told, "what the bystander has, as the speaker and as it sees it");
        let status = self.speaker.peer_at(Self::peer()).expect("it is configured");
        assert!(status.history.len() <= 16 && status.accepted <= status.received);
    }

    /// The peer goes for good: nothing of it may stay.
    fn end(mut self) {
        if let Some(conn) = self.conn.take() {
            self.speaker.handle_closed(conn, Closed::Eof, self.now);
        }
        self.pass(900);
        self.check();
        let status = self.speaker.peer_at(Self::peer()).expect("it is configured");
        assert_eq!((status.received, status.stale), (0, 0), "routes of a peer that is gone");
        assert_eq!(self.speaker.routes_count(), 1);
        assert_eq!(self.told.len(), 1, "only our own route is left");
    }
}

fn family(steps: &mut Steps<'_>) -> Family {
    if steps.octet() & 1 == 0 { Family::Ipv4 } else { Family::Ipv6 }
}

/// A few prefixes of one family, out of a small world, so that routes meet.
fn prefixes(steps: &mut Steps<'_>) -> Vec<Prefix> {
    let (family, count) = (family(steps), steps.octet() % 12);
    let one = |steps: &mut Steps<'_>| {
        let n = steps.octet();
        let text = match (family, n % 16) {
            (Family::Ipv4, 0) => "0.0.0.0/0".to_owned(),
            (Family::Ipv4, 1) => "10.0.1.0/26".to_owned(),
            (Family::Ipv4, _) => format!("10.0.{n}.0/26"),
            (Family::Ipv6, _) => format!("2001:db8:{n:x}::/64"),
        };
        text.parse().expect("a prefix")
    };
    (0..count).map(|_| one(steps)).collect()
}

/// Whatever is sent must be whole messages that our own decoder finds nothing wrong with.
fn sound(mut bytes: &[u8], context: UpdateContext, mut on_update: impl FnMut(&Update<'_>)) {
    while !bytes.is_empty() {
        let found = frame(bytes, MAX_EXTENDED_LEN).expect("a header").expect("a whole message");
        bytes = &bytes[found.len..];
        if let Message::Update(update) = found.parse(context).expect("a sound message") {
            assert_eq!(update.problem, None, "we sent it");
            on_update(&update);
        }
    }
}
