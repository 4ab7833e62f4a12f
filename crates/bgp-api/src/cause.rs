//! Short names of causes, for labels and reasons. Owns the names only; the words for people are in `bgp`.

use bgp::{Cause, Closed, ConnectFailure};
use bgp_packet::{Cease, Notification, code};

/// A name in CamelCase that does not change from case to case: fit for a label of a metric, or for the reason
/// of an Event.
pub fn cause_name(cause: &Cause) -> &'static str {
    match cause {
        Cause::Starting => "Starting",
        Cause::WaitingForPeer => "WaitingForPeer",
        Cause::AdminDown => "AdminDown",
        Cause::PasswordMissing(_) => "PasswordMissing",
        Cause::Disabled(_) => "Disabled",
        Cause::Connect(failure, with_password) => connect_name(failure, *with_password),
        Cause::ClosedBeforeOpen => "ClosedBeforeOpen",
        Cause::Closed(Closed::Eof) => "ClosedByPeer",
        Cause::Closed(Closed::Error(_)) => "ConnectionLost",
        Cause::PeerRestarted => "PeerRestarted",
        Cause::OpenTimeout => "OpenTimeout",
        Cause::HoldTimerExpired(_) => "HoldTimerExpired",
        Cause::SendHoldTimerExpired(_) => "SendHoldTimerExpired",
        Cause::WrongAs { .. } => "WrongAs",
        Cause::SameIdentifier(_) => "SameIdentifier",
        Cause::RoleMismatch { .. } => "RoleMismatch",
        Cause::NoCommonFamily => "NoCommonFamily",
        Cause::MaxPrefix { .. } => "MaxPrefixes",
        Cause::Retired => "Retired",
        Cause::Bfd { .. } => "BfdDown",
        Cause::NotificationSent(notification, _) => notification_name(notification, true),
        Cause::NotificationReceived(notification) => notification_name(notification, false),
        Cause::ConfigurationChanged => "ConfigurationChanged",
        Cause::AdministrativeReset => "AdministrativeReset",
    }
}

fn connect_name(failure: &ConnectFailure, with_password: bool) -> &'static str {
    match failure {
        ConnectFailure::Refused => "ConnectionRefused",
        ConnectFailure::TimedOut if with_password => "TimedOutPasswordSuspected",
        ConnectFailure::TimedOut => "TimedOut",
        ConnectFailure::HostUnreachable => "HostUnreachable",
        ConnectFailure::NoRoute => "NoRoute",
        ConnectFailure::SourceAddress(..) => "SourceAddressMissing",
        ConnectFailure::Other(_) => "ConnectFailed",
    }
}

fn notification_name(notification: &Notification, sent: bool) -> &'static str {
    let is = |cease: Cease| notification.code == code::CEASE && notification.subcode == cease as u8;
    let name: (&str, &str) = match notification.code {
        code::OPEN => ("RefusedOpen", "OpenRefusedByPeer"),
        code::HOLD_TIMER => ("HoldTimerExpired", "HoldTimerExpiredAtPeer"),
        code::CEASE if is(Cease::MaxPrefixes) => ("MaxPrefixes", "MaxPrefixesAtPeer"),
        code::CEASE if is(Cease::AdministrativeShutdown) => ("AdminDown", "ShutDownByPeer"),
        code::CEASE if is(Cease::AdministrativeReset) => ("AdministrativeReset", "ResetByPeer"),
        code::CEASE if is(Cease::PeerDeconfigured) => ("Deconfigured", "NotConfiguredOnPeer"),
        code::CEASE => ("Ceased", "CeasedByPeer"),
        _ => ("ProtocolError", "ProtocolErrorSeenByPeer"),
    };
    if sent { name.0 } else { name.1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_who_was_displeased() {
        let cease = Notification::cease(Cease::PeerDeconfigured);

        assert_eq!(cause_name(&Cause::NotificationReceived(cease.clone())), "NotConfiguredOnPeer");
        assert_eq!(cause_name(&Cause::NotificationSent(cease, String::new())), "Deconfigured");
        let silent = Cause::Connect(ConnectFailure::TimedOut, true);
        assert_eq!(cause_name(&silent), "TimedOutPasswordSuspected");
    }
}
