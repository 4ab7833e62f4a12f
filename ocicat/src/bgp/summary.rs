//! A speaker and its peers as a table and as JSON.

use proto::speaker::{Peer, PendingRoute, Summary};
use serde_json::{Value, json};

use crate::table::{duration, or_dash, plain, table};

/// Is the session up?
pub(super) fn is_established(peer: &Peer) -> bool {
    peer.state == "Established"
}

/// Every session is up, nothing is pending and nothing is wrong.
pub(super) fn is_well(summary: &Summary) -> bool {
    summary.peers.iter().all(is_established) && summary.pending.is_empty() && summary.problems.is_empty()
}

/// For people.
pub(super) fn summary_table(summary: &Summary) -> String {
    let Summary { asn, routes, .. } = summary;
    let up = summary.peers.iter().filter(|peer| is_established(peer)).count();
    let mut out = format!("{}  AS {asn}  router ID {}", or_dash(&summary.node), or_dash(&summary.router_id));
    if !summary.cluster_id.is_empty() {
        out.push_str(&format!("  cluster ID {}", summary.cluster_id));
    }
    if !summary.recording.is_empty() {
        out.push_str(&format!("  recording into {}", plain(&summary.recording)));
    }
    if summary.restarting {
        out.push_str("  restarting gracefully");
    }
    out.push_str(&format!(
        "\nlistening on {}; {up} of {} peers up; {routes} prefixes",
        or_dash(&summary.listening.join(", ")),
        summary.peers.len()
    ));
    // Only the speaker of a node writes to the kernel.
    if !summary.node.is_empty() {
        out.push_str(&format!(", {} routes in the kernel", summary.kernel_routes));
    }
    out.push('\n');
    for problem in &summary.problems {
        out.push_str(&format!("problem: {}\n", plain(problem)));
    }
    for PendingRoute { prefix, reason } in &summary.pending {
        out.push_str(&format!("pending: {prefix}: {}\n", plain(reason)));
    }
    let rows: Vec<_> = summary.peers.iter().map(peer_row).collect();
    out.push('\n');
    out.push_str(&table(&PEER_COLUMNS, &rows));
    out
}

/// Said of a peer that is configured no more but is still needed.
const RETIRING: &str = "retiring: kept until its routes come another way";

const PEER_COLUMNS: [&str; 9] =
    ["PEER", "AS", "STATE", "SINCE", "RECEIVED", "ACCEPTED", "ADVERTISED", "DESCRIPTION", "CAUSE"];

fn peer_row(peer: &Peer) -> Vec<String> {
    let accepted = match peer.stale {
        0 => peer.accepted.to_string(),
        stale => format!("{} ({stale} stale)", peer.accepted),
    };
    // The end of a session before this one is history: the JSON has it.
    let cause = match peer {
        peer if peer.retiring => RETIRING.to_owned(),
        peer if is_established(peer) => String::new(),
        peer => plain(&peer.cause),
    };
    vec![
        peer.address.clone(),
        if peer.asn == 0 { "any".to_owned() } else { peer.asn.to_string() },
        peer.state.clone(),
        duration(peer.seconds),
        peer.received.to_string(),
        accepted,
        peer.advertised.to_string(),
        or_dash(&plain(&peer.description)),
        or_dash(&cause),
    ]
}

/// For programs.
pub(super) fn summary_json(summary: &Summary) -> Value {
    let pending = summary.pending.iter().map(|p| json!({ "prefix": p.prefix, "reason": p.reason }));
    json!({
        "node": summary.node,
        "asn": summary.asn,
        "routerId": summary.router_id,
        "clusterId": summary.cluster_id,
        "listening": summary.listening,
        "restarting": summary.restarting,
        "recording": summary.recording,
        "routes": summary.routes,
        "kernelRoutes": summary.kernel_routes,
        "problems": summary.problems,
        "pending": pending.collect::<Vec<_>>(),
        "peers": summary.peers.iter().map(peer_json).collect::<Vec<_>>(),
    })
}

/// A peer for programs.
pub(super) fn peer_json(peer: &Peer) -> Value {
    json!({
        "address": peer.address,
        "description": peer.description,
        "asn": peer.asn,
        "routerId": peer.router_id,
        "localAddress": peer.local_address,
        "state": peer.state,
        "seconds": peer.seconds,
        "received": peer.received,
        "accepted": peer.accepted,
        "advertised": peer.advertised,
        "stale": peer.stale,
        "cause": peer.cause,
        "sessions": peer.sessions,
        "internal": peer.internal,
        "reflectorClient": peer.reflector_client,
        "retiring": peer.retiring,
        "dynamic": peer.dynamic,
        "families": peer.families,
        "holdTime": peer.hold_time,
        "gracefulRestart": peer.graceful_restart,
        "malformed": peer.malformed,
        "lastMalformed": peer.last_malformed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Summary {
        let up = Peer {
            address: "192.0.2.2".into(),
            description: "mesh node-2".into(),
            asn: 64512,
            state: "Established".into(),
            seconds: 75,
            received: 2,
            accepted: 2,
            advertised: 1,
            cause: "hold timer expired".into(),
            ..Peer::default()
        };
        let down = Peer {
            address: "192.0.2.254".into(),
            description: "BGPPeer tor".into(),
            state: "Active".into(),
            seconds: 7_300,
            stale: 3,
            accepted: 3,
            cause: "connection refused\n".into(),
            ..Peer::default()
        };
        Summary {
            node: "node-1".into(),
            asn: 64512,
            router_id: "192.0.2.1".into(),
            listening: vec!["0.0.0.0:179".into()],
            peers: vec![up, down],
            routes: 3,
            kernel_routes: 2,
            ..Summary::default()
        }
    }

    #[test]
    fn a_summary_names_who_is_down_and_why() {
        let expected = "\
node-1  AS 64512  router ID 192.0.2.1
listening on 0.0.0.0:179; 1 of 2 peers up; 3 prefixes, 2 routes in the kernel

PEER         AS     STATE        SINCE  RECEIVED  ACCEPTED     ADVERTISED  DESCRIPTION  CAUSE
192.0.2.2    64512  Established  1m15s  2         2            1           mesh node-2  -
192.0.2.254  any    Active       2h01m  0         3 (3 stale)  0           BGPPeer tor  connection refused
";

        assert_eq!(summary_table(&node()), expected);
        assert!(!is_well(&node()));
    }

    #[test]
    fn a_speaker_is_well_when_every_peer_is_up_and_nothing_is_pending() {
        let mut summary = node();
        summary.peers.pop();
        assert!(is_well(&summary));

        summary.pending.push(PendingRoute { prefix: "10.0.0.0/26".into(), reason: "no tunl0".into() });
        assert!(!is_well(&summary));
        assert!(summary_table(&summary).contains("pending: 10.0.0.0/26: no tunl0\n"));
    }

    #[test]
    fn a_reflector_has_no_kernel_and_a_retiring_peer_says_so() {
        let mut summary = node();
        summary.node.clear();
        summary.peers[0].retiring = true;

        let table = summary_table(&summary);

        assert!(!table.contains("in the kernel"), "{table}");
        assert!(table.contains("Established  1m15s") && table.contains(RETIRING), "{table}");
    }

    #[test]
    fn json_has_the_cause_of_the_session_before_too() {
        let json = summary_json(&node());

        assert_eq!(json["peers"][0]["cause"], "hold timer expired");
        assert_eq!(json["routerId"], "192.0.2.1");
    }
}
