//! The sessions of a node as `calicoctl node status` shows them. Owns how they look.

use std::path::Path;

use proto::speaker::request::{self, Call};
use proto::speaker::response::Answer;
use proto::speaker::{Peer, Request, Response};
use serde_json::{Value, json};

use crate::client::call;
use crate::reach::{Agent, Kind};
use crate::table::{duration, or_dash, plain};

/// The peers of the speaker beside the agent whose socket this is; or why they are not known.
pub(crate) fn peers_beside(felix: &Path) -> Result<Vec<Peer>, String> {
    let socket = felix.with_file_name(Kind::BirdLite.socket());
    let agent = Agent::at(Kind::BirdLite, &socket);
    let request = Request { call: Some(Call::Summary(request::Summary::default())) };
    let response: Response = call(&agent, &request).map_err(|error| error.to_string())?;
    match response.answer {
        Some(Answer::Summary(summary)) => Ok(summary.peers),
        _ => Err("the speaker is of another version".to_owned()),
    }
}

/// Both families, each under its heading.
pub(crate) fn tables(peers: &[Peer]) -> String {
    let is_v6 = |peer: &&Peer| peer.address.contains(':');
    let (v6, v4): (Vec<&Peer>, Vec<&Peer>) = peers.iter().partition(is_v6);
    let family = |name: &str, peers: &[&Peer]| match peers {
        [] => format!("\n{name} BGP status\nNo {name} peers found.\n"),
        _ => format!(
            "\n{name} BGP status\n{}",
            boxed(&HEADER, &peers.iter().map(|peer| row(peer)).collect::<Vec<_>>())
        ),
    };
    family("IPv4", &v4) + &family("IPv6", &v6)
}

const HEADER: [&str; 5] = ["PEER ADDRESS", "PEER TYPE", "STATE", "SINCE", "INFO"];

fn row(peer: &Peer) -> Vec<String> {
    let is_up = peer.state == "Established";
    let info =
        if is_up { peer.state.clone() } else { format!("{}: {}", peer.state, or_dash(&plain(&peer.cause))) };
    let state = if is_up { "up" } else { "start" };
    vec![peer.address.clone(), kind(peer).to_owned(), state.to_owned(), duration(peer.seconds), info]
}

/// In calicoctl's words.
fn kind(peer: &Peer) -> &'static str {
    if peer.description.starts_with("mesh") {
        "node-to-node mesh"
    } else if peer.description.starts_with("BGPPeer") {
        "configured peer"
    } else {
        "other"
    }
}

/// A table in a box, as calicoctl draws it.
fn boxed(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|text| text.chars().count()).collect();
    for row in rows {
        for (width, text) in widths.iter_mut().zip(row) {
            *width = (*width).max(text.chars().count());
        }
    }
    let rule: String =
        widths.iter().map(|width| format!("+{}", "-".repeat(width + 2))).collect::<String>() + "+\n";
    let line = |cells: &[String]| {
        let cells = cells.iter().zip(&widths).map(|(text, width)| format!("| {text:<width$} "));
        cells.collect::<String>() + "|\n"
    };
    let header: Vec<String> = header.iter().map(|text| (*text).to_owned()).collect();
    format!("{rule}{}{rule}{}{rule}", line(&header), rows.iter().map(|row| line(row)).collect::<String>())
}

/// For programs.
pub(crate) fn peers_json(peers: &[Peer]) -> Vec<Value> {
    let one = |peer: &Peer| {
        json!({
            "address": peer.address, "type": kind(peer), "description": peer.description, "state": peer.state,
            "seconds": peer.seconds, "cause": peer.cause,
        })
    };
    peers.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_stand_in_calicoctls_box() {
        let peer = |address: &str, description: &str, state: &str| Peer {
            address: address.into(),
            description: description.into(),
            state: state.into(),
            cause: "TCP refused".into(),
            seconds: 65,
            ..Peer::default()
        };

        let text = tables(&[
            peer("192.0.2.2", "mesh n2", "Established"),
            peer("192.0.2.9", "BGPPeer tor", "Active"),
        ]);

        let expected = "
IPv4 BGP status
+--------------+-------------------+-------+-------+---------------------+
| PEER ADDRESS | PEER TYPE         | STATE | SINCE | INFO                |
+--------------+-------------------+-------+-------+---------------------+
| 192.0.2.2    | node-to-node mesh | up    | 1m05s | Established         |
| 192.0.2.9    | configured peer   | start | 1m05s | Active: TCP refused |
+--------------+-------------------+-------+-------+---------------------+

IPv6 BGP status
No IPv6 peers found.
";
        assert_eq!(text, expected);
    }
}
