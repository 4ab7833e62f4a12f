//! `ocicat bgp`.

use std::path::Path;

use proto::speaker::request::{self, Call};
use proto::speaker::response::Answer;
use proto::speaker::{Peer, PendingRoute, Request, Response, Route, Routes, Summary};
use serde_json::{Value, json};

use crate::client::{CallError, call, call_many};
use crate::table::{duration, or_dash, plain, table};
use crate::{Format, Report};

const AGENT: &str = "the BGP speaker";

/// The speaker and its peers; not well when a peer is not Established, a route is pending, or there is a problem.
pub(crate) fn summary(socket: &Path, format: Format) -> Result<Report, CallError> {
    match ask(socket, Call::Summary(request::Summary::default()))? {
        Answer::Summary(summary) => {
            let text = match format {
                Format::Table => summary_table(&summary),
                Format::Json => format!("{:#}\n", summary_json(&summary)),
            };
            Ok(Report { text, is_well: is_well(&summary) })
        }
        other => Err(unexpected(other)),
    }
}

/// Paths of the table, or what a peer has from us.
pub(crate) fn routes(
    socket: &Path,
    format: Format,
    prefix: String,
    advertised_to: String,
) -> Result<Report, CallError> {
    let routes = ask_routes(socket, request::Routes { prefix, advertised_to, ..Default::default() })?;
    let text = match format {
        Format::Table => routes_table(&routes),
        Format::Json => format!("{:#}\n", Value::from_iter(routes.routes.iter().map(route_json))),
    };
    Ok(Report { text, is_well: true })
}

/// Puts the portions together in which routes come.
fn ask_routes(socket: &Path, wanted: request::Routes) -> Result<Routes, CallError> {
    let mut all = Routes::default();
    let mut refused = None;
    let request = Request { call: Some(Call::Routes(wanted)) };
    call_many(AGENT, socket, &request, |response: Response| match response.answer {
        Some(Answer::Routes(portion)) => {
            all.routes.extend(portion.routes);
            portion.more
        }
        other => {
            refused = Some(other);
            false
        }
    })?;
    match refused {
        None => Ok(all),
        Some(other) => {
            Err(unexpected(other.unwrap_or_else(|| Answer::Error("the answer is empty".to_owned()))))
        }
    }
}

/// Ends a peer's session.
pub(crate) fn reset(socket: &Path, format: Format, peer: String) -> Result<Report, CallError> {
    match ask(socket, Call::Steer(request::Steer { peer: peer.clone(), ..request::Steer::default() }))? {
        Answer::Done(_) => {
            let text = match format {
                Format::Table => format!("the session with {peer} begins anew\n"),
                Format::Json => format!("{:#}\n", json!({ "peer": peer, "reset": true })),
            };
            Ok(Report { text, is_well: true })
        }
        other => Err(unexpected(other)),
    }
}

fn ask(socket: &Path, request: Call) -> Result<Answer, CallError> {
    let response: Response = call(AGENT, socket, &Request { call: Some(request) })?;
    response
        .answer
        .ok_or_else(|| CallError::Refused { agent: AGENT, reason: "the answer is empty".to_owned() })
}

fn unexpected(answer: Answer) -> CallError {
    let reason = match answer {
        Answer::Error(reason) => plain(&reason),
        _ => "the answer is of another version".to_owned(),
    };
    CallError::Refused { agent: AGENT, reason }
}

fn is_established(peer: &Peer) -> bool {
    peer.state == "Established"
}

fn is_well(summary: &Summary) -> bool {
    summary.peers.iter().all(is_established) && summary.pending.is_empty() && summary.problems.is_empty()
}

fn summary_table(summary: &Summary) -> String {
    let Summary { asn, routes, kernel_routes, .. } = summary;
    let up = summary.peers.iter().filter(|peer| is_established(peer)).count();
    let mut out = format!("{}  AS {asn}  router ID {}", or_dash(&summary.node), or_dash(&summary.router_id));
    if !summary.cluster_id.is_empty() {
        out.push_str(&format!("  cluster ID {}", summary.cluster_id));
    }
    if summary.restarting {
        out.push_str("  restarting gracefully");
    }
    out.push_str(&format!(
        "\nlistening on {}; {up} of {} peers up; {routes} prefixes, {kernel_routes} routes in the kernel\n",
        or_dash(&summary.listening.join(", ")),
        summary.peers.len()
    ));
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

const PEER_COLUMNS: [&str; 9] =
    ["PEER", "AS", "STATE", "SINCE", "RECEIVED", "ACCEPTED", "ADVERTISED", "DESCRIPTION", "CAUSE"];

fn peer_row(peer: &Peer) -> Vec<String> {
    let accepted = match peer.stale {
        0 => peer.accepted.to_string(),
        stale => format!("{} ({stale} stale)", peer.accepted),
    };
    // The end of a session before this one is history: the JSON has it.
    let cause = if is_established(peer) { String::new() } else { plain(&peer.cause) };
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

fn routes_table(routes: &Routes) -> String {
    let rows: Vec<_> = routes.routes.iter().map(route_row).collect();
    table(&["", "PREFIX", "NEXT HOP", "FROM", "LOCAL PREF", "MED", "AS PATH", "WHY"], &rows)
}

fn route_row(route: &Route) -> Vec<String> {
    let mark = match (route.best, route.stale) {
        (true, true) => "*s",
        (true, false) => "*",
        (false, true) => "s",
        (false, false) => "",
    };
    let number = |value: Option<u32>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    let why = if route.rejected.is_empty() {
        or_dash(&route.reason)
    } else {
        format!("not used: {}", plain(&route.rejected))
    };
    vec![
        mark.to_owned(),
        route.prefix.clone(),
        or_dash(&route.next_hop),
        route.source.clone(),
        number(route.local_pref),
        number(route.med),
        or_dash(&route.as_path),
        why,
    ]
}

fn summary_json(summary: &Summary) -> Value {
    let pending = summary.pending.iter().map(|p| json!({ "prefix": p.prefix, "reason": p.reason }));
    json!({
        "node": summary.node,
        "asn": summary.asn,
        "routerId": summary.router_id,
        "clusterId": summary.cluster_id,
        "listening": summary.listening,
        "restarting": summary.restarting,
        "routes": summary.routes,
        "kernelRoutes": summary.kernel_routes,
        "problems": summary.problems,
        "pending": pending.collect::<Vec<_>>(),
        "peers": summary.peers.iter().map(peer_json).collect::<Vec<_>>(),
    })
}

fn peer_json(peer: &Peer) -> Value {
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
        "dynamic": peer.dynamic,
        "families": peer.families,
        "holdTime": peer.hold_time,
        "gracefulRestart": peer.graceful_restart,
        "malformed": peer.malformed,
        "lastMalformed": peer.last_malformed,
    })
}

fn route_json(route: &Route) -> Value {
    json!({
        "prefix": route.prefix,
        "nextHop": route.next_hop,
        "source": route.source,
        "asPath": route.as_path,
        "localPref": route.local_pref,
        "med": route.med,
        "best": route.best,
        "reason": route.reason,
        "rejected": route.rejected,
        "stale": route.stale,
        "communities": route.communities,
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
    fn json_has_the_cause_of_the_session_before_too() {
        let json = summary_json(&node());

        assert_eq!(json["peers"][0]["cause"], "hold timer expired");
        assert_eq!(json["routerId"], "192.0.2.1");
    }

    #[test]
    fn a_route_says_why_it_is_not_used() {
        let routes = Routes {
            routes: vec![
                Route {
                    prefix: "10.0.0.0/26".into(),
                    source: "local".into(),
                    best: true,
                    ..Route::default()
                },
                Route {
                    prefix: "10.0.0.64/26".into(),
                    source: "192.0.2.2".into(),
                    next_hop: "192.0.2.2".into(),
                    local_pref: Some(100),
                    rejected: "next hop unreachable".into(),
                    stale: true,
                    ..Route::default()
                },
            ],
            more: false,
        };
        let expected = "\
\x20  PREFIX        NEXT HOP   FROM       LOCAL PREF  MED  AS PATH  WHY
*  10.0.0.0/26   -          local      -           -    -        -
s  10.0.0.64/26  192.0.2.2  192.0.2.2  100         -    -        not used: next hop unreachable
";

        assert_eq!(routes_table(&routes), expected);
    }
}
