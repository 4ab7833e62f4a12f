//! Answers in BIRD's form: the columns of 1.6, which `calicoctl` reads, with the details of 2.

use std::fmt::Write;
use std::time::SystemTime;

use bgp::{Cause, PeerConfig, PeerKind, PeerState, PeerStatus, RouteSource, Speaker};
use bgp_packet::{Family, Origin};

use super::Command;
use super::clock::{date_time, short};
use crate::Subject;
use crate::routes::Found;
use crate::words::capability_text;

/// What we call ourselves; programs look for digits here.
pub(super) const VERSION: &str = concat!("2.0.12 (bird-lite ", env!("CARGO_PKG_VERSION"), ")");

/// The answer to a command, with its codes.
pub(super) fn answer(subject: &Subject<'_>, command: &Command, family: Option<Family>) -> String {
    match command {
        Command::Status => status(subject),
        Command::Protocols { all, name } => protocols(subject, *all, name.as_deref(), family),
        Command::Restrict => "0016 Access restricted\n".to_owned(),
        Command::NotHere(word) => {
            format!("9001 {word}: settings come from the cluster or from a file; see `ocicat bgp --help`\n")
        }
        // Routes are answered page by page elsewhere.
        Command::Routes { .. } | Command::Unknown => {
            "9001 syntax error: show status, show protocols [all] [NAME], show route [all] [primary] \
             [for ADDRESS | PREFIX]\n"
                .to_owned()
        }
    }
}

fn status(subject: &Subject<'_>) -> String {
    let owner = &subject.owner;
    let Some(speaker) = subject.speaker.as_deref() else {
        return format!("1000-BIRD {VERSION}\n9001 {}\n", owner.problems.join("; "));
    };
    let time = |at: Option<std::time::Instant>| date_time(subject.wall(at.unwrap_or(subject.now)));
    let mut out = format!("1000-BIRD {VERSION}\n1011-Router ID is {}\n", speaker.config().router_id);
    line(&mut out, &format!(" Hostname is {}", owner.node));
    line(&mut out, &format!(" Current server time is {}", date_time(SystemTime::now())));
    line(&mut out, &format!(" Last reboot on {}", time(owner.started)));
    line(&mut out, &format!(" Last reconfiguration on {}", time(owner.reconfigured.or(owner.started))));
    if speaker.is_restarting() {
        out.push_str("0024-Graceful restart recovery in progress\n");
    }
    out.push_str("0013 Daemon is up and running\n");
    out
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

/// What a peer is called: as Calico names BIRD's protocols, which `calicoctl` looks for.
pub(super) fn protocol_name(status: &PeerStatus) -> String {
    let kind = match status.kind {
        PeerKind::Mesh => "Mesh",
        PeerKind::Global => "Global",
        PeerKind::Node => "Node",
        PeerKind::Other if status.reflector_client => "Client",
        PeerKind::Other => "Peer",
    };
    format!("{kind}_{}", status.peer.to_string().replace(['.', ':', '%'], "_"))
}

fn protocols(subject: &Subject<'_>, all: bool, name: Option<&str>, family: Option<Family>) -> String {
    let Some(speaker) = subject.speaker.as_deref() else {
        return format!("9001 {}\n", subject.owner.problems.join("; "));
    };
    let now = SystemTime::now();
    let mut rows: Vec<(String, String)> = Vec::new();
    if let Some(kernel) = &subject.owner.kernel {
        let since = short(subject.wall(subject.owner.started.unwrap_or(subject.now)), now);
        let text =
            format!("  Routes:         {} written, {} pending\n", kernel.written, kernel.pending.len());
        let row = row("kernel1", "Kernel", "up", &since, "");
        rows.push((row, text));
    }
    let of_family = |p: &&PeerStatus| family.is_none_or(|f| f == Family::of(p.peer.address()));
    for status in speaker.peers().iter().filter(of_family) {
        let since = short(subject.wall(status.since), now);
        let row = row(&protocol_name(status), "BGP", protocol_state(status), &since, &info(status));
        rows.push((row, if all { details(speaker, status) } else { String::new() }));
    }
    let matching = |(row, _): &(String, String)| {
        let own = row.split(' ').next().unwrap_or_default();
        name.is_none_or(|pattern| matches(pattern, own))
    };
    let rows: Vec<_> = rows.into_iter().filter(matching).collect();
    if rows.is_empty() && name.is_some() {
        return "8003 No protocols match\n".to_owned();
    }
    let mut out = String::from("2002-name     proto    table    state  since       info\n");
    for (index, (row, details)) in rows.iter().enumerate() {
        // In a list only the first line has the code, as long as it stays the same.
        let code = if index == 0 || all { "1002-" } else { " " };
        line(&mut out, &format!("{code}{row}"));
        if all {
            out.push_str("1006-");
            out.push_str(details);
            out.push_str(" \n");
        }
    }
    out.push_str("0000 \n");
    out
}

fn row(name: &str, proto: &str, state: &str, since: &str, info: &str) -> String {
    format!("{name:<8} {proto:<8} {:<8} {state:<6} {since:<11} {info}", "master")
}

fn protocol_state(status: &PeerStatus) -> &'static str {
    match (status.state, &status.cause) {
        (PeerState::Established, _) => "up",
        (_, Cause::AdminDown | Cause::Disabled(_)) => "down",
        _ => "start",
    }
}

fn info(status: &PeerStatus) -> String {
    match (status.state, &status.cause) {
        (PeerState::Established, _) => "Established".to_owned(),
        (state, Cause::Starting | Cause::WaitingForPeer) => format!("{state:?}"),
        (state, cause) => format!("{:<13} {}", format!("{state:?}"), plain(&cause.to_string())),
    }
}

fn details(speaker: &Speaker, status: &PeerStatus) -> String {
    let default = PeerConfig::new(0);
    let config = speaker.peer_config(status.peer).unwrap_or(&default);
    let mut out = format!("  BGP state:          {:?}\n", status.state);
    let mut say = |name: &str, value: String| {
        let _ = writeln!(out, "     {:<17} {value}", format!("{name}:"));
    };
    say("Description", plain(&status.description));
    say("Neighbor address", status.peer.to_string());
    say("Neighbor AS", status.asn.map_or_else(|| "any".to_owned(), |asn| asn.to_string()));
    say("Local AS", config.local_asn.unwrap_or(speaker.config().asn).to_string());
    if let Some(id) = status.router_id {
        say("Neighbor ID", id.to_string());
    }
    if status.state == PeerState::Established {
        let session = if status.internal { "internal" } else { "external" };
        say("Session", format!("{session}{}", if status.reflector_client { " route-reflector" } else { "" }));
        say("Source address", status.local_address.map(|a| a.to_string()).unwrap_or_default());
        say("Hold time", format!("{} s", status.hold_time));
    } else {
        say("Last error", plain(&status.cause.to_string()));
    }
    for capability in &status.capabilities_received {
        say("Neighbor caps", capability_text(capability));
    }
    let counts = format!("{} imported, {} exported", status.accepted, status.advertised);
    say("Routes", format!("{counts}, {} filtered", status.received.saturating_sub(status.accepted)));
    out
}

/// BIRD's patterns: `*` for anything, `?` for one character.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(b'?') => (p, t) = (p + 1, t + 1),
            Some(c) if *c == text[t] => (p, t) = (p + 1, t + 1),
            _ => match star {
                // The star takes one character more.
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    (p, t) = (at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

/// Routes of one page; only the first line of all has the code.
pub(super) fn routes(subject: &Subject<'_>, page: &[Found], all: bool, first: bool) -> String {
    let Some(speaker) = subject.speaker.as_deref() else { return String::new() };
    let peers = speaker.peers();
    let now = SystemTime::now();
    let mut out = String::new();
    let mut last = None;
    for (index, found) in page.iter().enumerate() {
        let code = if (first && index == 0) || all { "1007-" } else { " " };
        let peer = match found.source {
            Some(RouteSource::Peer(key)) => peers.iter().find(|p| p.peer == key),
            _ => None,
        };
        let since = peer.map_or(subject.owner.started.unwrap_or(subject.now), |p| p.since);
        let name = peer.map_or_else(|| "static1".to_owned(), protocol_name);
        let prefix = if last == Some(found.prefix) { String::new() } else { found.prefix.to_string() };
        last = Some(found.prefix);
        let via = match found.attributes.next_hop.address() {
            hop if hop.is_unspecified() => "blackhole".to_owned(),
            hop => format!("via {hop}"),
        };
        let best = if found.best.is_some() { " *" } else { "" };
        let unused = if found.rejected.is_some() { " filtered" } else { "" };
        let since = short(subject.wall(since), now);
        line(
            &mut out,
            &format!("{code}{prefix:<18} {via} [{name} {since}]{best}{unused} (100) {}", tail(found)),
        );
        if all {
            attributes(&mut out, found);
        }
    }
    out
}

/// The last AS and the origin, as BIRD shows them.
fn tail(found: &Found) -> String {
    let origin = match found.attributes.origin {
        Origin::Igp => "i",
        Origin::Egp => "e",
        Origin::Incomplete => "?",
    };
    let last = found.attributes.as_path.asns().last();
    format!("[{}{origin}]", last.map(|asn| format!("AS{asn}")).unwrap_or_default())
}

fn attributes(out: &mut String, found: &Found) {
    let a = &found.attributes;
    let mut lines = vec![
        "Type: BGP unicast univ".to_owned(),
        format!("BGP.origin: {:?}", a.origin),
        format!("BGP.as_path: {}", a.as_path),
        format!("BGP.next_hop: {}", a.next_hop),
    ];
    lines.extend(a.med.map(|med| format!("BGP.med: {med}")));
    lines.extend(a.local_pref.map(|pref| format!("BGP.local_pref: {pref}")));
    if !a.communities.is_empty() {
        let texts: Vec<String> = a.communities.iter().map(ToString::to_string).collect();
        lines.push(format!("BGP.community: {}", texts.join(" ")));
    }
    lines.extend(found.rejected.as_ref().map(|why| format!("not used: {}", plain(why))));
    for (index, text) in lines.iter().enumerate() {
        let code = if index == 0 { "1008-" } else { " " };
        line(out, &format!("{code}\t{text}"));
    }
}

/// On one line and without control characters: it may quote a peer.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_a_shell() {
        for (pattern, text, fits) in [
            ("Mesh_*", "Mesh_10_0_0_1", true),
            ("*_1", "Mesh_10_0_0_1", true),
            ("M?sh*", "Mesh_1", true),
            ("Mesh", "Mesh_1", false),
            ("**", "", true),
            ("*a*b*c", "aXbYbc", true),
            ("*a*b*c", "aXc", false),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
    }
}
