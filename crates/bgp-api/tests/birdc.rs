//! The `birdc` client of Debian, and a reader that wants what `calicoctl node status` wants, against a running
//! speaker.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use common::*;

fn up(pair: &Pair) -> String {
    let counts = "3 imported, 2 exported";
    until("all routes", || wants(pair.ours.birdc(&["show", "protocols", "all"]), &[counts]));
    until("the session", || wants(pair.ours.birdc(&["show", "protocols"]), &["Established", "refused"]))
}

/// Columns of a protocol by its name.
fn row<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let line = text.lines().find(|line| line.trim_start().starts_with(name));
    line.unwrap_or_else(|| panic!("no {name} in\n{text}")).split_whitespace().collect()
}

#[test]
fn birdc_shows_status_protocols_and_routes() {
    let at = Addresses::new(11);
    let pair = Pair::start(&at);
    let text = up(&pair);
    let tor = format!("Peer_{}", at.theirs.ip().to_string().replace('.', "_"));
    let mesh = format!("Mesh_{}", at.nobody.to_string().replace('.', "_"));

    assert_eq!(row(&text, "name"), ["name", "proto", "table", "state", "since", "info"]);
    assert_eq!(row(&text, &tor)[1..4], ["BGP", "master", "up"]);
    assert_eq!(row(&text, &mesh)[1..4], ["BGP", "master", "start"]);
    let status = pair.ours.birdc(&["show", "status"]);
    let router = format!("Router ID is {}", at.ours.ip());
    for part in ["BIRD 2.0.12", &router, "Hostname is node-1", "Last reboot on 2", "Daemon is up and running"]
    {
        assert!(status.contains(part), "{part:?} is not in\n{status}");
    }
    let all = pair.ours.birdc(&["show", "protocols", "all", &tor]);
    for part in ["BGP state:          Established", "Neighbor AS:      65001", "3 imported, 2 exported"] {
        assert!(all.contains(part), "{part:?} is not in\n{all}");
    }
    assert!(!all.contains("Mesh_"), "{all}");
    let routes = pair.ours.birdc(&["show", "route"]);
    let line = routes.lines().find(|line| line.contains("198.51.100.0/24")).unwrap_or(&routes);
    assert!(line.contains(&format!("via {} [{tor} ", at.theirs.ip())), "{routes}");
    assert!(line.ends_with("] * (100) [AS65001i]"), "{routes}");
    let one = pair.ours.birdc(&["show", "route", "for", "203.0.113.9", "all"]);
    assert!(one.contains("BGP.as_path: 65001") && !one.contains("198.51.100.0/24"), "{one}");
    let missing = pair.ours.birdc(&["show", "route", "192.0.2.0/24"]);
    assert!(missing.contains("Network not in table"), "{missing}");
    assert!(pair.ours.birdc(&["configure"]).contains("settings come from the cluster"));
}

/// Reads as strictly as `calicoctl`: every line has a known code or begins with a space.
#[test]
fn a_strict_reader_of_codes_finds_every_session() {
    let at = Addresses::new(12);
    let pair = Pair::start(&at);
    up(&pair);
    let mut stream = UnixStream::connect(&pair.ours.bird).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(b"show protocols\n").unwrap();

    let mut sessions = Vec::new();
    for line in BufReader::new(stream).lines() {
        let line = line.unwrap();
        let data = match (line.get(..4), line.get(5..)) {
            (Some("0000"), _) => break,
            (Some("0001"), _) => continue,
            (Some("2002"), Some(head)) => {
                assert_eq!(
                    head.split_whitespace().collect::<Vec<_>>().join(" "),
                    "name proto table state since info"
                );
                continue;
            }
            (Some("1002"), Some(data)) => data.to_owned(),
            _ if line.starts_with(' ') => line[1..].to_owned(),
            _ => panic!("{line}"),
        };
        let columns: Vec<&str> = data.split_whitespace().collect();
        let (kind, address) = columns[0].split_once('_').unwrap();
        sessions.push((kind.to_owned(), address.replace('_', "."), columns[5].to_owned()));
    }

    let tor = ("Peer".to_owned(), at.theirs.ip().to_string(), "Established".to_owned());
    assert_eq!(sessions.len(), 2);
    assert!(sessions.contains(&tor), "{sessions:?}");
    assert!(sessions.iter().any(|s| s.0 == "Mesh" && s.1 == at.nobody.to_string()), "{sessions:?}");
}
