//! One session in asynchronous mode (RFC 5880 §6.8). Owns its variables and timers; knows no addresses.

use std::time::{Duration, Instant};

use crate::packet::{Diagnostic, Packet, State};

/// While a session is not Up it sends no faster than this (RFC 5880 §6.8.3).
const SLOW: Duration = Duration::from_secs(1);

/// Settings of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How often we want to send while Up, at most; not zero.
    pub min_tx: Duration,
    /// How often we can receive; not zero.
    pub min_rx: Duration,
    /// After how many missing packets the other side may give up; not zero.
    pub detect_multiplier: u8,
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// State before.
    pub from: State,
    /// State now.
    pub to: State,
    /// State of the other side.
    pub remote: State,
    /// Why, when `to` is Down.
    pub failure: Option<Failure>,
    /// The other side's BFD does not share the fate of its control plane.
    pub control_plane_independent: bool,
}

/// Why a session went down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nothing was heard for this long.
    DetectionTimeExpired(Duration),
    /// The other side said so, for its own reason.
    NeighbourSignaledDown(Diagnostic),
    /// The other side was switched off: the path may work.
    NeighbourAdminDown,
}

/// The variables of RFC 5880 §6.8.1.
#[derive(Clone, Debug)]
pub struct Session {
    settings: Settings,
    state: State,
    remote_state: State,
    discriminator: u32,
    remote_discriminator: u32,
    diagnostic: Diagnostic,
    remote_min_rx: Duration,
    remote_min_tx: Duration,
    remote_multiplier: u8,
    remote_demand: bool,
    remote_independent: bool,
    /// A Poll Sequence is under way.
    polling: bool,
    /// Intervals in use until the Poll Sequence is over (§6.8.3).
    tx_in_use: Duration,
    rx_in_use: Duration,
    next_tx: Instant,
    /// When the other side counts as lost; `None` while it was never heard.
    detect_at: Option<Instant>,
    entropy: u64,
}

impl Session {
    /// A session that begins Down and sends at once. `discriminator` is its name here and not 0; `entropy` seeds
    /// the jitter.
    pub fn new(settings: Settings, discriminator: u32, entropy: u64, now: Instant) -> Self {
        Self {
            settings,
            state: State::Down,
            remote_state: State::Down,
            discriminator,
            remote_discriminator: 0,
            diagnostic: Diagnostic::NONE,
            remote_min_rx: Duration::from_micros(1),
            remote_min_tx: Duration::ZERO,
            remote_multiplier: 0,
            remote_demand: false,
            remote_independent: false,
            polling: false,
            tx_in_use: settings.min_tx.max(SLOW),
            rx_in_use: settings.min_rx,
            next_tx: now,
            detect_at: None,
            entropy,
        }
    }

    /// State of this side.
    pub fn state(&self) -> State {
        self.state
    }

    /// How long the other side may be silent (§6.8.4).
    pub fn detection_time(&self) -> Duration {
        self.rx_in_use.max(self.remote_min_tx) * u32::from(self.remote_multiplier)
    }

    /// Takes in a packet that is for this session. Gives back a packet to send at once and what changed.
    pub fn handle_packet(&mut self, packet: &Packet, now: Instant) -> (Option<Packet>, Option<Change>) {
        if self.state == State::AdminDown {
            return (None, None);
        }
        self.remote_discriminator = packet.my_discriminator;
        self.remote_state = packet.state;
        self.remote_demand = packet.demand;
        self.remote_independent = packet.control_plane_independent;
        self.remote_min_rx = packet.required_min_rx;
        self.remote_min_tx = packet.desired_min_tx;
        self.remote_multiplier = packet.detect_multiplier;
        if self.polling && packet.r#final {
            self.polling = false;
            self.tx_in_use = self.desired_min_tx();
            self.rx_in_use = self.settings.min_rx;
        }
        let change = self.receive_state(packet, now);
        self.detect_at = Some(now + self.detection_time());
        // Faster intervals are used at once.
        self.next_tx = self.next_tx.min(now + self.tx_interval());
        let answer = packet.poll.then(|| Packet { r#final: true, poll: false, ..self.packet() });
        (answer, change)
    }

    /// The state machine of §6.2.
    fn receive_state(&mut self, packet: &Packet, now: Instant) -> Option<Change> {
        let signaled = Failure::NeighbourSignaledDown(packet.diagnostic);
        match (self.state, packet.state) {
            (State::Init | State::Up, State::AdminDown) => {
                self.go(State::Down, Some(Failure::NeighbourAdminDown), now)
            }
            (State::Up, State::Down) => self.go(State::Down, Some(signaled), now),
            (State::Down, State::Down) => self.go(State::Init, None, now),
            (State::Down, State::Init) | (State::Init, State::Init | State::Up) => {
                self.go(State::Up, None, now)
            }
            _ => None,
        }
    }

    fn go(&mut self, to: State, failure: Option<Failure>, now: Instant) -> Option<Change> {
        let from = std::mem::replace(&mut self.state, to);
        self.diagnostic = match failure {
            Some(Failure::DetectionTimeExpired(_)) => Diagnostic::DETECTION_TIME_EXPIRED,
            Some(_) => Diagnostic::NEIGHBOUR_SIGNALED_DOWN,
            None if to == State::Up => Diagnostic::NONE,
            None => self.diagnostic,
        };
        self.retime();
        self.next_tx = now;
        Some(Change {
            from,
            to,
            remote: self.remote_state,
            failure,
            control_plane_independent: self.remote_independent,
        })
    }

    /// Goes over to intervals that the state or the settings ask for, by a Poll Sequence while Up (§6.8.3).
    fn retime(&mut self) {
        let (tx, rx) = (self.desired_min_tx(), self.settings.min_rx);
        if self.state != State::Up {
            (self.tx_in_use, self.rx_in_use, self.polling) = (tx, rx, false);
        } else if (tx, rx) != (self.tx_in_use, self.rx_in_use) {
            self.polling = true;
            self.tx_in_use = self.tx_in_use.min(tx);
            self.rx_in_use = self.rx_in_use.max(rx);
        }
    }

    /// Goes over to other settings without a change of state.
    pub fn change(&mut self, settings: Settings, now: Instant) {
        self.settings = settings;
        self.retime();
        self.next_tx = self.next_tx.min(now + self.tx_interval());
    }

    /// Switches the session off; it goes on telling the other side so (§6.8.16).
    pub fn shut_down(&mut self, now: Instant) {
        self.state = State::AdminDown;
        self.diagnostic = Diagnostic::ADMIN_DOWN;
        self.detect_at = None;
        self.polling = false;
        self.next_tx = now;
    }

    /// Fires what is due. Gives back a packet to send and what changed.
    pub fn handle_timeout(&mut self, now: Instant) -> (Option<Packet>, Option<Change>) {
        let change = self.detect(now);
        if self.next_tx > now {
            return (None, change);
        }
        let jittered = self.jitter(self.tx_interval());
        self.next_tx = now + jittered;
        (self.transmits().then(|| self.packet()), change)
    }

    fn detect(&mut self, now: Instant) -> Option<Change> {
        self.detect_at.filter(|at| *at <= now)?;
        let silence = self.detection_time();
        self.detect_at = None;
        self.remote_discriminator = 0;
        self.remote_min_rx = Duration::from_micros(1);
        let was = self.state;
        self.remote_state = State::Down;
        let failed = matches!(was, State::Init | State::Up);
        failed.then(|| self.go(State::Down, Some(Failure::DetectionTimeExpired(silence)), now)).flatten()
    }

    /// When `handle_timeout` is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let tx = self.transmits().then_some(self.next_tx);
        [tx, self.detect_at].into_iter().flatten().min()
    }

    /// Whether periodic packets are wanted by the other side (§6.8.7).
    fn transmits(&self) -> bool {
        let demand = self.remote_demand && self.state == State::Up && self.remote_state == State::Up;
        !self.remote_min_rx.is_zero() && (!demand || self.polling)
    }

    fn desired_min_tx(&self) -> Duration {
        if self.state == State::Up { self.settings.min_tx } else { self.settings.min_tx.max(SLOW) }
    }

    fn tx_interval(&self) -> Duration {
        self.tx_in_use.max(self.remote_min_rx)
    }

    /// Takes off up to a quarter; with a multiplier of 1, at least a tenth (§6.8.7).
    fn jitter(&mut self, whole: Duration) -> Duration {
        self.entropy = self.entropy.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.entropy ^ (self.entropy >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let (least, most) = if self.settings.detect_multiplier == 1 { (75, 90) } else { (75, 100) };
        let percent = least + (mixed >> 33) % (most - least + 1);
        whole * u32::try_from(percent).expect("at most a hundred") / 100
    }

    fn packet(&self) -> Packet {
        Packet {
            diagnostic: self.diagnostic,
            state: self.state,
            poll: self.polling,
            r#final: false,
            control_plane_independent: false,
            demand: false,
            detect_multiplier: self.settings.detect_multiplier,
            my_discriminator: self.discriminator,
            your_discriminator: self.remote_discriminator,
            desired_min_tx: self.desired_min_tx(),
            required_min_rx: self.settings.min_rx,
        }
    }
}
