//! Why a peer is not Established. Owns the causes and their words; each names what an operator can do.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use bgp_packet::{Family, Notification, Role, code};

use crate::BfdFailure;

/// Why a connection could not be made, as the transport saw it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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
    /// The peer is switched off, or held down until it is enabled or reset.
    #[error("the peer is administratively down")]
    AdminDown,
    /// The limit of dynamic neighbours is reached.
    #[error("the limit of dynamic neighbours is reached")]
    TooMany,
    /// Too many dynamic neighbours have connected and not yet said who they are.
    #[error("the limit of half-open sessions is reached")]
    TooManyHalfOpen,
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
    /// Switched off by an operator at run time, with what they said.
    Disabled(String),
    /// A password is configured but could not be had: the session stays down rather than go without.
    /// Which password it is, and why it could not be had.
    PasswordMissing(Arc<str>),
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
    /// The peer took nothing of what was sent for so long (RFC 9687).
    SendHoldTimerExpired(Duration),
    /// The peer's OPEN has another AS than configured.
    WrongAs {
        /// The configured one.
        expected: u32,
        /// The one in the OPEN.
        got: u32,
    },
    /// The peer has our own BGP Identifier (RFC 6286 §2.2).
    SameIdentifier(Ipv4Addr),
    /// The roles of both sides do not fit (RFC 9234 §4.2).
    RoleMismatch {
        /// Ours.
        ours: Role,
        /// The peer's; `None` when it named none but the configuration demands one.
        theirs: Option<Role>,
    },
    /// No family is configured on both sides.
    NoCommonFamily,
    /// The peer sent more routes than it may.
    MaxPrefix {
        /// Of which family.
        family: Family,
        /// How many there were when the session was ended.
        received: usize,
        /// How many there may be.
        limit: usize,
        /// When it is tried again; `None` when an operator must enable or reset the peer.
        restart: Option<Duration>,
    },
    /// The peer's routes come another way now, and it is configured no more.
    Retired,
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
            Self::TimedOut => f.write_str(
                "TCP connect timed out: the host is down, a firewall drops, or the peer expects a password",
            ),
            Self::HostUnreachable => f.write_str("host unreachable: check the link and the neighbour"),
            Self::NoRoute => f.write_str("no route to the peer: check the routing table"),
            Self::SourceAddress(address) => {
                write!(f, "source address {address} is not on this host: check the node's address")
            }
            Self::Other(text) => f.write_str(text),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => f.write_str("not tried yet"),
            Self::WaitingForPeer => f.write_str("waiting for the peer to connect"),
            Self::AdminDown => f.write_str("administratively down: switched off in the configuration"),
            Self::Disabled(text) if text.is_empty() => f.write_str("disabled by the operator"),
            Self::Disabled(text) => write!(f, "disabled by the operator: \"{}\"", text.escape_debug()),
            Self::PasswordMissing(why) => write!(f, "the password is missing: {why}"),
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
            Self::OpenTimeout => {
                f.write_str("no OPEN came from the peer: is it a BGP speaker, or overloaded?")
            }
            Self::HoldTimerExpired(seconds) => {
                write!(f, "hold timer expired: nothing heard for {seconds} s")
            }
            Self::SendHoldTimerExpired(time) => {
                write!(f, "send hold timer expired: the peer read nothing for {} s", time.as_secs())
            }
            Self::WrongAs { expected, got } => write!(f, "wrong AS: expected {expected}, got {got}"),
            Self::SameIdentifier(id) => {
                write!(f, "the peer has our own identifier {id}: one router id must change")
            }
            Self::RoleMismatch { ours, theirs: Some(theirs) } => {
                write!(
                    f,
                    "role mismatch: we are {ours:?}, so it must be {:?}, got {theirs:?}",
                    ours.counterpart()
                )
            }
            Self::RoleMismatch { ours, theirs: None } => {
                write!(f, "role mismatch: the peer names no role and must be {:?}", ours.counterpart())
            }
            Self::NoCommonFamily => f.write_str("no address family is configured on both sides"),
            Self::MaxPrefix { family, received, limit, restart } => {
                write!(f, "max-prefix: {received} of {limit} {family} routes; ")?;
                match restart {
                    Some(after) => write!(f, "tried again after {} s", after.as_secs()),
                    None => f.write_str("raise the limit, or enable the peer when it sends fewer"),
                }
            }
            Self::Retired => f.write_str("replaced by other sessions"),
            Self::NotificationSent(n, detail) if detail.is_empty() => write!(f, "sent {n}"),
            Self::NotificationSent(n, detail) => write!(f, "sent {n}: {detail}"),
            Self::NotificationReceived(n) => {
                write!(f, "received {n}")?;
                remedy(n).map_or(Ok(()), |remedy| write!(f, ": {remedy}"))
            }
            Self::Bfd { failure, .. } => write!(f, "BFD: {failure}"),
            Self::ConfigurationChanged => f.write_str("configuration changed"),
            Self::AdministrativeReset => f.write_str("reset by the operator"),
        }
    }
}

/// What an operator can do about a NOTIFICATION that the peer sent.
fn remedy(n: &Notification) -> Option<&'static str> {
    Some(match (n.code, n.subcode) {
        (code::OPEN, 2) => "the peer expects another AS of us",
        (code::OPEN, 3) => "the peer does not take our router id; is it used twice?",
        (code::OPEN, 6) => "the peer does not take our hold time",
        (code::OPEN, 7) => "a capability or address family must be configured on both sides",
        (code::OPEN, 11) => "the roles of both sides do not fit",
        (code::HOLD_TIMER, _) => "the peer heard nothing from us within its hold time",
        (code::CEASE, 1) => "we sent more routes than the peer takes",
        (code::CEASE, 2) => "switched off on the peer",
        (code::CEASE, 3) => "the peer no longer has us in its configuration",
        (code::CEASE, 5) => "are we configured on the peer?",
        (code::CEASE, 8) => "the peer is out of resources",
        (code::CEASE, 9) => "the peer ended the session for good",
        (code::CEASE, 10) => "the peer's BFD lost us",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_name_numbers_and_remedies() {
        let cause = |c: Cause| c.to_string();
        let max = |restart| Cause::MaxPrefix { family: Family::Ipv4, received: 1001, limit: 1000, restart };
        let after = cause(max(Some(Duration::from_secs(60))));
        assert!(after.starts_with("max-prefix: 1001 of 1000 ") && after.ends_with("after 60 s"), "{after}");
        assert!(cause(max(None)).contains("raise the limit"));
        let roles = Cause::RoleMismatch { ours: Role::Provider, theirs: Some(Role::Peer) };
        assert_eq!(cause(roles), "role mismatch: we are Provider, so it must be Customer, got Peer");
        let rejected = cause(Cause::NotificationReceived(Notification::new(code::CEASE, 5)));
        assert!(rejected.ends_with("are we configured on the peer?"), "{rejected}");
        let timed_out = cause(Cause::Connect(ConnectFailure::TimedOut, true));
        assert!(timed_out.contains("MD5 mismatch suspected"), "{timed_out}");
        let missing = cause(Cause::PasswordMissing("there is no Secret x".into()));
        assert_eq!(missing, "the password is missing: there is no Secret x");
    }

    #[test]
    fn text_of_others_is_shown_without_control_characters() {
        let shown = Cause::Disabled("maintenance\n\x1b[31m".into()).to_string();
        assert!(!shown.contains(['\n', '\x1b']), "{shown}");
    }
}
