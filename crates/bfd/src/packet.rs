//! BFD Control packets (RFC 5880 §4.1). Owns their bytes and the checks of §6.8.6 that need no session.

use std::time::Duration;

/// Length of a packet without authentication, which is the only kind that is sent and accepted.
pub const PACKET_LEN: usize = 24;

const VERSION: u8 = 1;
const POLL: u8 = 0x20;
const FINAL: u8 = 0x10;
const CONTROL_PLANE_INDEPENDENT: u8 = 0x08;
const AUTHENTICATION: u8 = 0x04;
const DEMAND: u8 = 0x02;
const MULTIPOINT: u8 = 0x01;

/// State of a session (RFC 5880 §4.1, field `Sta`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    /// Switched off: says nothing of the path.
    AdminDown = 0,
    /// Nothing is heard, or the other side hears nothing.
    #[default]
    Down = 1,
    /// The other side is heard, and does not hear us yet.
    Init = 2,
    /// Both hear each other.
    Up = 3,
}

/// Why a session left Up (RFC 5880 §4.1, field `Diag`). Others than ours are possible on receipt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Diagnostic(pub u8);

impl Diagnostic {
    /// No Diagnostic.
    pub const NONE: Self = Self(0);
    /// Control Detection Time Expired.
    pub const DETECTION_TIME_EXPIRED: Self = Self(1);
    /// Neighbor Signaled Session Down.
    pub const NEIGHBOUR_SIGNALED_DOWN: Self = Self(3);
    /// Administratively Down.
    pub const ADMIN_DOWN: Self = Self(7);
}

/// A BFD Control packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Why the sender left Up last.
    pub diagnostic: Diagnostic,
    /// State of the sender.
    pub state: State,
    /// The sender wants an answer (P).
    pub poll: bool,
    /// This is the answer (F).
    pub r#final: bool,
    /// The sender's BFD does not share the fate of its control plane (C).
    pub control_plane_independent: bool,
    /// The sender wants no periodic packets while both are Up (D).
    pub demand: bool,
    /// After how many missing packets the receiver may give up.
    pub detect_multiplier: u8,
    /// The sender's name for the session, never 0.
    pub my_discriminator: u32,
    /// The receiver's name for the session, 0 when not known.
    pub your_discriminator: u32,
    /// How often the sender would like to send, at most.
    pub desired_min_tx: Duration,
    /// How often the sender can receive; zero wants no periodic packets.
    pub required_min_rx: Duration,
}

/// Why a packet is thrown away (RFC 5880 §6.8.6, RFC 5881 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Discarded {
    /// Shorter than it says or than a packet is.
    #[error("bad length")]
    Length,
    /// Not version 1.
    #[error("not version 1")]
    Version,
    /// A detection multiplier of 0.
    #[error("detection multiplier is 0")]
    Multiplier,
    /// Multipoint, which is not for BFD between two.
    #[error("multipoint bit")]
    Multipoint,
    /// A discriminator that is 0 where it must not be, or that is nobody's.
    #[error("discriminator of no session")]
    Discriminator,
    /// Authentication, which no session uses.
    #[error("authentication is not in use")]
    Authentication,
    /// It came through a router, and the session is for one hop.
    #[error("TTL is not 255")]
    Ttl,
    /// No session is with this sender.
    #[error("no session with the sender")]
    Stranger,
}

impl Packet {
    /// Reads a packet.
    ///
    /// # Errors
    /// What makes a receiver discard it whatever the session.
    pub fn parse(bytes: &[u8]) -> Result<Self, Discarded> {
        let Some(head) = bytes.first_chunk::<PACKET_LEN>() else { return Err(Discarded::Length) };
        if head[0] >> 5 != VERSION {
            return Err(Discarded::Version);
        }
        let flags = head[1];
        let least = if flags & AUTHENTICATION == 0 { PACKET_LEN } else { PACKET_LEN + 2 };
        if usize::from(head[3]) < least || usize::from(head[3]) > bytes.len() {
            return Err(Discarded::Length);
        }
        if head[2] == 0 {
            return Err(Discarded::Multiplier);
        }
        if flags & MULTIPOINT != 0 {
            return Err(Discarded::Multipoint);
        }
        if flags & AUTHENTICATION != 0 {
            return Err(Discarded::Authentication);
        }
        let word = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let time = |at: usize| Duration::from_micros(word(at).into());
        let state = match flags >> 6 {
            0 => State::AdminDown,
            1 => State::Down,
            2 => State::Init,
            _ => State::Up,
        };
        let (mine, yours) = (word(4), word(8));
        if mine == 0 || (yours == 0 && state > State::Down) {
            return Err(Discarded::Discriminator);
        }
        Ok(Self {
            diagnostic: Diagnostic(head[0] & 0x1f),
            state,
            poll: flags & POLL != 0,
            r#final: flags & FINAL != 0,
            control_plane_independent: flags & CONTROL_PLANE_INDEPENDENT != 0,
            demand: flags & DEMAND != 0,
            detect_multiplier: head[2],
            my_discriminator: mine,
            your_discriminator: yours,
            desired_min_tx: time(12),
            required_min_rx: time(16),
        })
    }

    /// The bytes. Echo is never offered.
    pub fn encode(&self) -> [u8; PACKET_LEN] {
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        let mut bytes = [0; PACKET_LEN];
        bytes[0] = VERSION << 5 | self.diagnostic.0 & 0x1f;
        bytes[1] = (self.state as u8) << 6
            | flag(self.poll, POLL)
            | flag(self.r#final, FINAL)
            | flag(self.control_plane_independent, CONTROL_PLANE_INDEPENDENT)
            | flag(self.demand, DEMAND);
        bytes[2] = self.detect_multiplier;
        bytes[3] = PACKET_LEN as u8;
        let micros = |time: Duration| u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        let words = [
            self.my_discriminator,
            self.your_discriminator,
            micros(self.desired_min_tx),
            micros(self.required_min_rx),
        ];
        for (at, word) in bytes[4..20].chunks_exact_mut(4).zip(words) {
            at.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand from RFC 5880 §4.1: version 1, Up, Poll, multiplier 3, 50 ms and 300 ms.
    const UP: [u8; 24] =
        [0x20, 0xe0, 3, 24, 0, 0, 0, 9, 0, 0, 0, 7, 0, 0, 0xc3, 0x50, 0, 0x04, 0x93, 0xe0, 0, 0, 0, 0];

    #[test]
    fn a_packet_reads_as_the_rfc_draws_it_and_writes_the_same() {
        let packet = Packet::parse(&UP).unwrap();
        assert_eq!((packet.state, packet.poll, packet.r#final), (State::Up, true, false));
        assert_eq!((packet.my_discriminator, packet.your_discriminator), (9, 7));
        assert_eq!(packet.desired_min_tx, Duration::from_millis(50));
        assert_eq!(packet.required_min_rx, Duration::from_millis(300));
        assert_eq!(packet.encode(), UP);
    }

    #[test]
    fn what_the_rfc_discards_is_discarded() {
        let cases: [(usize, u8, Discarded); 8] = [
            (0, 0x40, Discarded::Version),
            (1, 0xc4, Discarded::Length),
            (1, 0xc1, Discarded::Multipoint),
            (2, 0, Discarded::Multiplier),
            (3, 23, Discarded::Length),
            (3, 25, Discarded::Length),
            (7, 0, Discarded::Discriminator),
            (11, 0, Discarded::Discriminator),
        ];
        for (at, value, why) in cases {
            let mut bytes = UP;
            bytes[at] = value;
            assert_eq!(Packet::parse(&bytes), Err(why), "byte {at} = {value:#x}");
        }
        let mut signed = [UP.as_slice(), &[1, 8, 0, 0, 0, 0, 0, 0]].concat();
        (signed[1], signed[3]) = (0xc4, 32);
        assert_eq!(Packet::parse(&signed), Err(Discarded::Authentication));
        for len in 0..24 {
            assert_eq!(Packet::parse(&UP[..len]), Err(Discarded::Length));
        }
    }
}
