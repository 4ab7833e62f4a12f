//! One peer with all that is known of it.

use std::fmt::Write;

use proto::speaker::{MessageCounts, Peer, PeerDetail};
use serde_json::{Value, json};

use super::summary::{is_established, peer_json};
use crate::table::{duration, or_dash, plain, table};

/// For people.
pub(super) fn neighbor_text(node: &str, peer: &Peer) -> String {
    let detail = peer.detail.clone().unwrap_or_default();
    let mut out = String::new();
    let mut say = |name: &str, value: String| {
        // A String takes whatever is written.
        let _ = writeln!(out, "{name:<15} {value}");
    };
    say("node", or_dash(node));
    say("peer", format!("{}  {}", peer.address, plain(&peer.description)));
    say("state", format!("{} for {}", peer.state, duration(peer.seconds)));
    if !is_established(peer) {
        say("why", or_dash(&plain(&peer.cause)));
    } else if !peer.cause.is_empty() {
        say("ended before", plain(&peer.cause));
    }
    let asn = if peer.asn == 0 { "any".to_owned() } else { peer.asn.to_string() };
    let kind = if peer.internal { "internal" } else { "external" };
    let client = if peer.reflector_client { ", client of this reflector" } else { "" };
    let dynamic = if peer.dynamic { ", by range" } else { "" };
    say("AS", format!("{asn}, {kind}{client}{dynamic}"));
    say("router ID", or_dash(&peer.router_id));
    say("own address", or_dash(&peer.local_address));
    say("transport", transport(&detail));
    say("families", or_dash(&peer.families.join(", ")));
    say("hold time", format!("{} s", peer.hold_time));
    say("timers", timers(&detail));
    let stale = if peer.stale > 0 { format!(", {} stale", peer.stale) } else { String::new() };
    let routes = format!("{} received, {} accepted{stale}", peer.received, peer.accepted);
    say("routes", format!("{routes}, {} advertised", peer.advertised));
    say("sessions", format!("{}, {} ended", peer.sessions, peer.flaps));
    if peer.malformed > 0 {
        say("malformed", format!("{}, the last: {}", peer.malformed, plain(&peer.last_malformed)));
    }
    out.push_str(&capabilities(&detail));
    out.push_str(&messages(&detail));
    out.push_str(&history(&detail));
    out
}

fn transport(detail: &PeerDetail) -> String {
    let mut parts = vec![if detail.passive { "waits for the peer" } else { "connects" }.to_owned()];
    if detail.password {
        parts.push("TCP MD5".to_owned());
    }
    if let Some(hops) = detail.ttl_security {
        parts.push(format!("TTL security, {hops} hops"));
    }
    if detail.queued > 0 {
        parts.push(format!("{} octets wait to be sent", detail.queued));
    }
    parts.join(", ")
}

fn timers(detail: &PeerDetail) -> String {
    let timers = [
        ("hold", detail.hold_timer_ms),
        ("keepalive", detail.keepalive_timer_ms),
        ("connect", detail.connect_retry_timer_ms),
        ("stale routes go", detail.stale_timer_ms),
    ];
    let running = timers.iter().filter_map(|(name, left)| Some((name, (*left)?)));
    let texts: Vec<String> =
        running.map(|(name, left)| format!("{name} in {}.{} s", left / 1000, left % 1000 / 100)).collect();
    or_dash(&texts.join(", "))
}

fn capabilities(detail: &PeerDetail) -> String {
    let (ours, theirs) = (&detail.capabilities_sent, &detail.capabilities_received);
    if ours.is_empty() && theirs.is_empty() {
        return String::new();
    }
    let all = ours.iter().chain(theirs.iter().filter(|text| !ours.contains(text)));
    let mark = |has: bool| if has { "yes" } else { "-" }.to_owned();
    let row = |text: &String| vec![plain(text), mark(ours.contains(text)), mark(theirs.contains(text))];
    let rows: Vec<_> = all.map(row).collect();
    format!("\n{}", table(&["CAPABILITY", "OURS", "PEER'S"], &rows))
}

fn messages(detail: &PeerDetail) -> String {
    let row = |name: &str, counts: Option<MessageCounts>| {
        let c = counts.unwrap_or_default();
        let numbers = [c.open, c.update, c.notification, c.keepalive, c.route_refresh];
        let mut row = vec![name.to_owned()];
        row.extend(numbers.iter().map(u64::to_string));
        row
    };
    let rows = [row("received", detail.messages_received), row("sent", detail.messages_sent)];
    format!("\n{}", table(&["MESSAGES", "OPEN", "UPDATE", "NOTIFICATION", "KEEPALIVE", "REFRESH"], &rows))
}

fn history(detail: &PeerDetail) -> String {
    let row = |turn: &proto::speaker::Turn| {
        let what = if turn.cause.is_empty() { "up".to_owned() } else { plain(&turn.cause) };
        vec![format!("{} ago", duration(turn.seconds_ago)), what]
    };
    let rows: Vec<_> = detail.history.iter().map(row).collect();
    if rows.is_empty() { String::new() } else { format!("\n{}", table(&["HISTORY", "WHAT"], &rows)) }
}

/// For programs: what a summary says of the peer, and more.
pub(super) fn neighbor_json(peer: &Peer) -> Value {
    let mut value = peer_json(peer);
    let Some(detail) = &peer.detail else { return value };
    let counts = |counts: Option<MessageCounts>| {
        let c = counts.unwrap_or_default();
        json!({
            "open": c.open, "update": c.update, "notification": c.notification,
            "keepalive": c.keepalive, "routeRefresh": c.route_refresh,
        })
    };
    let history = detail.history.iter().map(
        |turn| json!({ "secondsAgo": turn.seconds_ago, "up": turn.cause.is_empty(), "cause": turn.cause }),
    );
    let more = json!({
        "messagesReceived": counts(detail.messages_received),
        "messagesSent": counts(detail.messages_sent),
        "capabilitiesSent": detail.capabilities_sent,
        "capabilitiesReceived": detail.capabilities_received,
        "timersMs": {
            "hold": detail.hold_timer_ms, "keepalive": detail.keepalive_timer_ms,
            "connectRetry": detail.connect_retry_timer_ms, "stale": detail.stale_timer_ms,
        },
        "history": history.collect::<Vec<_>>(),
        "queued": detail.queued,
        "passive": detail.passive,
        "password": detail.password,
        "ttlSecurity": detail.ttl_security,
    });
    if let (Value::Object(value), Value::Object(more)) = (&mut value, more) {
        value.extend(more);
    }
    value
}

#[cfg(test)]
mod tests {
    use proto::speaker::Turn;

    use super::*;

    fn peer() -> Peer {
        let detail = PeerDetail {
            messages_received: Some(MessageCounts { open: 2, keepalive: 7, ..MessageCounts::default() }),
            capabilities_sent: vec!["route refresh".into(), "multiprotocol ipv4-unicast".into()],
            capabilities_received: vec!["multiprotocol ipv4-unicast".into()],
            hold_timer_ms: Some(88_450),
            history: vec![
                Turn { seconds_ago: 75, cause: String::new() },
                Turn { seconds_ago: 76, cause: "the peer restarted".into() },
            ],
            password: true,
            ..PeerDetail::default()
        };
        Peer {
            address: "192.0.2.254".into(),
            description: "BGPPeer tor".into(),
            asn: 65001,
            state: "Established".into(),
            seconds: 75,
            hold_time: 90,
            received: 3,
            accepted: 2,
            cause: "the peer restarted".into(),
            detail: Some(detail),
            ..Peer::default()
        }
    }

    #[test]
    fn a_neighbor_tells_what_was_negotiated_what_runs_and_what_was() {
        let expected = "\
node            n1
peer            192.0.2.254  BGPPeer tor
state           Established for 1m15s
ended before    the peer restarted
AS              65001, external
router ID       -
own address     -
transport       connects, TCP MD5
families        -
hold time       90 s
timers          hold in 88.4 s
routes          3 received, 2 accepted, 0 advertised
sessions        0, 0 ended

CAPABILITY                  OURS  PEER'S
route refresh               yes   -
multiprotocol ipv4-unicast  yes   yes

MESSAGES  OPEN  UPDATE  NOTIFICATION  KEEPALIVE  REFRESH
received  2     0       0             7          0
sent      0     0       0             0          0

HISTORY    WHAT
1m15s ago  up
1m16s ago  the peer restarted
";

        assert_eq!(neighbor_text("n1", &peer()), expected);
    }

    #[test]
    fn json_has_the_summary_and_the_details() {
        let json = neighbor_json(&peer());

        assert_eq!(json["asn"], 65001);
        assert_eq!(json["timersMs"]["hold"], 88_450);
        assert_eq!(json["history"][1]["cause"], "the peer restarted");
        assert_eq!(json["password"], true);
    }
}
