//! Why a peer is not Established. Owns the causes and their words; each names what an operator can do.

use std::fmt;
use std::net::IpAddr;

use bgp_packet::Notification;

use crate::BfdFailure;

/// Why a connection could not be made, as the transport saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectFailure {
    /// The peer's host answered that nobody listens there.
    Refused,
    /// Nothing answered.
    TimedOut,
    /// A router or the neighbour table says that the host cannot be reached.
    HostUnreachable,
    /// There is no route to the peer.
    NoRoute,
    /// The source address is not (or no longer) on this host.
    SourceAddress(IpAddr),
    /// Anything else, in the system's words.
    Other(String),
}

/// How a connection ended, as the transport saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The peer closed it.
    Eof,
    /// It broke, in the system's words.
    Error(String),
}

/// Why an incoming connection is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No peer and no range of dynamic neighbours has the address.
    #[error("no peer is configured with this address")]
    NotConfigured,
    /// The peer is switched off.
    #[error("the peer is administratively down")]
    AdminDown,
    /// The limit of dynamic neighbours is reached.
    #[error("the limit of dynamic neighbours is reached")]
    TooMany,
}

/// Why a peer is not Established, or why its last session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Nothing was tried yet.
    Starting,
    /// The peer must connect to us and has not.
    WaitingForPeer,
    /// Switched off by configuration.
    AdminDown,
    /// A password is configured but could not be had: the session stays down rather than go without.
    PasswordMissing,
    /// The connection could not be made; whether a password is in use changes the advice.
    Connect(ConnectFailure, bool),
    /// The peer closed the connection before it sent an OPEN.
    ClosedBeforeOpen,
    /// The connection ended without a NOTIFICATION.
    Closed(Closed),
    /// The peer connected anew while the session was up: it has restarted.
    PeerRestarted,
    /// No OPEN came in time.
    OpenTimeout,
    /// No message came within the hold time, in seconds.
    HoldTimerExpired(u16),
    /// The peer's OPEN has another AS than configured.
    WrongAs {
        /// The configured one.
        expected: u32,
        /// The one in the OPEN.
        got: u32,
    },
    /// We ended the session, with what was wrong.
    NotificationSent(Notification, String),
    /// The peer ended the session.
    NotificationReceived(Notification),
    /// BFD says that the path to the peer does not work.
    Bfd {
        /// What it saw.
        failure: BfdFailure,
        /// Its word covers forwarding itself, and no restart explains it (RFC 5882 §4.3.1).
        forwarding_lost: bool,
    },
    /// A setting changed that needs a new session.
    ConfigurationChanged,
    /// An operator asked for a new session.
    AdministrativeReset,
}

impl fmt::Display for ConnectFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("TCP connection refused: no BGP speaker listens there"),
            Self::TimedOut => f.write_str("TCP connect timed out: the host is down or a firewall drops"),
            Self::HostUnreachable => f.write_str("host unreachable: check the link and the neighbour"),
            Self::NoRoute => f.write_str("no route to the peer: check the routing table"),
            Self::SourceAddress(address) => write!(f, "source address {address} is not on this host"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => f.write_str("not tried yet"),
            Self::WaitingForPeer => f.write_str("waiting for the peer to connect"),
            Self::AdminDown => f.write_str("administratively down"),
            Self::PasswordMissing => f.write_str("the password is missing: check the Secret"),
            Self::Connect(ConnectFailure::TimedOut, true) => {
                f.write_str("TCP connect timed out: MD5 mismatch suspected, or host down, or firewall")
            }
            Self::Connect(failure, _) => failure.fmt(f),
            Self::ClosedBeforeOpen => {
                f.write_str("the peer closed the connection before OPEN: are we configured on it?")
            }
            Self::Closed(Closed::Eof) => f.write_str("the peer closed the connection"),
            Self::Closed(Closed::Error(text)) => write!(f, "connection lost: {text}"),
            Self::PeerRestarted => f.write_str("the peer restarted"),
            Self::OpenTimeout => f.write_str("no OPEN came from the peer"),
            Self::HoldTimerExpired(seconds) => {
                write!(f, "hold timer expired: nothing heard for {seconds} s")
            }
            Self::WrongAs { expected, got } => write!(f, "wrong AS: expected {expected}, got {got}"),
            Self::NotificationSent(n, detail) if detail.is_empty() => write!(f, "sent {n}"),
            Self::NotificationSent(n, detail) => write!(f, "sent {n}: {detail}"),
            Self::NotificationReceived(n) => write!(f, "received {n}"),
            Self::Bfd { failure, .. } => write!(f, "BFD: {failure}"),
            Self::ConfigurationChanged => f.write_str("configuration changed"),
            Self::AdministrativeReset => f.write_str("reset by the operator"),
        }
    }
}
