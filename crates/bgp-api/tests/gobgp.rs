//! The `gobgp` client of Debian against a running speaker.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::*;
use serde_json::Value;

/// Waits until all routes of the other side are here, and ours there.
fn converged(pair: &Pair) {
    until("their routes", || {
        wants(pair.ours.gobgp_text(&["global", "rib"]), &["198.51.100.0/24", "203.0.113.0/24"])
    });
    until("our routes", || wants(pair.theirs.gobgp_text(&["global", "rib"]), &["10.65.0.0/26"]));
    for (side, route) in [(&pair.ours, "2001:db8:51::/48"), (&pair.theirs, "fd00:65::/122")] {
        until("routes of IPv6", || wants(side.gobgp_text(&["global", "rib", "-a", "ipv6"]), &[route]));
    }
}

fn squeeze(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn peers_are_listed_with_state_and_told_one_by_one() {
    let at = Addresses::new(1);
    let pair = Pair::start(&at);
    converged(&pair);
    let (tor, nobody) = (at.theirs.ip().to_string(), at.nobody.to_string());

    let list = pair.ours.gobgp_text(&["neighbor"]);
    let line = |peer: &str| squeeze(list.lines().find(|line| line.starts_with(peer)).unwrap_or(&list));
    assert!(line(&tor).starts_with(&format!("{tor} 65001 00:00:")), "{list}");
    assert!(line(&tor).ends_with("Establ | 3 3"), "{list}");
    assert!(line(&nobody).contains("never") && line(&nobody).ends_with("| 0 0"), "{list}");

    let told = pair.ours.gobgp_text(&["neighbor", &tor]);
    let flat = squeeze(&told);
    for part in [
        &format!("BGP neighbor is {tor}, remote AS 65001"),
        &format!("remote router ID {tor}"),
        "BGP state = ESTABLISHED",
        "Hold time is 90, keepalive interval is 30 seconds",
        "ipv4-unicast: advertised and received",
        "ipv6-unicast: advertised and received",
        "route-refresh: advertised and received",
        "4-octet-as: advertised and received",
        "restart time 120 sec",
        "Advertised: 2",
        "Received: 3",
        "Accepted: 3",
    ] {
        assert!(flat.contains(part), "{part:?} is not in\n{told}");
    }

    let json = || pair.ours.gobgp_json(&["neighbor", &nobody]);
    assert_eq!(json()["conf"]["peer_asn"], 64512);
    until("why nobody is there", || {
        wants(json()["state"]["description"].to_string(), &["mesh node-9", "refused"])
    });
    let missing = pair.ours.gobgp(&["neighbor", "192.0.2.77"]);
    assert!(!missing.status.success(), "a peer that is not configured is not found");
}

#[test]
fn tables_are_listed_by_family_and_by_peer() {
    let at = Addresses::new(2);
    let pair = Pair::start(&at);
    converged(&pair);
    let tor = at.theirs.ip().to_string();

    let global = pair.ours.gobgp_text(&["global"]);
    assert_eq!(
        squeeze(&global),
        format!(
            "AS: 64512 Router-ID: {} Listening Port: {}, Addresses: {}",
            at.ours.ip(),
            at.ours.port(),
            at.ours.ip()
        )
    );
    let rib = squeeze(&pair.ours.gobgp_text(&["global", "rib"]));
    assert!(rib.contains(&format!("*> 198.51.100.0/24 {tor} 65001 00:00:")), "{rib}");
    assert!(rib.contains("{Origin: i} {Med: 50} {Communities: 65001:7}"), "{rib}");
    assert!(rib.contains("*> 10.65.0.0/26 0.0.0.0"), "{rib}");
    let v6 = squeeze(&pair.ours.gobgp_text(&["global", "rib", "-a", "ipv6"]));
    assert!(v6.contains("*> 2001:db8:51::/48 2001:db8::2 65001"), "{v6}");
    let held = squeeze(&pair.ours.gobgp_text(&["global", "rib", "198.51.100.9"]));
    assert!(held.contains("198.51.100.0/24") && !held.contains("203.0.113.0/24"), "{held}");
    let inside = pair.ours.gobgp_text(&["global", "rib", "198.0.0.0/8", "longer-prefixes"]);
    assert!(inside.contains("198.51.100.0/24"), "{inside}");
    let counts = pair.ours.gobgp_text(&["global", "rib", "summary"]);
    assert!(counts.contains("Destination: 3, Path: 3"), "{counts}");

    let adj_in = squeeze(&pair.ours.gobgp_text(&["neighbor", &tor, "adj-in"]));
    assert!(adj_in.contains(&format!("0 198.51.100.0/24 {tor} 65001")), "{adj_in}");
    assert!(!adj_in.contains("10.65.0.0/26"), "{adj_in}");
    let adj_out = squeeze(&pair.ours.gobgp_text(&["neighbor", &tor, "adj-out"]));
    assert!(adj_out.contains(&format!("10.65.0.0/26 {} 64512 [{{Origin: i}}]", at.ours.ip())), "{adj_out}");
    let v6 = pair.ours.gobgp_text(&["neighbor", &tor, "adj-out", "-a", "ipv6"]);
    assert!(v6.contains("fd00:65::/122"), "{v6}");
    let json = pair.ours.gobgp_json(&["global", "rib"]);
    assert_eq!(json["203.0.113.0/24"][0]["neighbor-ip"], Value::from(tor));
}

#[test]
fn a_session_is_reset_softly_and_hard_and_switched_off_and_on() {
    let at = Addresses::new(3);
    let pair = Pair::start(&at);
    converged(&pair);
    let tor = at.theirs.ip().to_string();
    let state = |name: &str| pair.ours.gobgp_json(&["neighbor", &tor])["state"][name].clone();
    let refreshes = |side: &str| state("messages")[side]["refresh"].as_u64().unwrap_or(0);

    pair.ours.gobgp_text(&["neighbor", &tor, "softresetin"]);
    assert_eq!(refreshes("sent"), 2);
    let updates = state("messages")["sent"]["update"].as_u64().unwrap();
    pair.ours.gobgp_text(&["neighbor", &tor, "softresetout"]);
    until("routes are sent again", || {
        let now = state("messages")["sent"]["update"].as_u64().unwrap();
        if now > updates { Ok(()) } else { Err(now.to_string()) }
    });
    pair.ours.gobgp_text(&["neighbor", &tor, "softreset"]);
    assert_eq!((refreshes("sent"), state("flops")), (4, Value::Null), "no session ended");

    pair.ours.gobgp_text(&["neighbor", &tor, "reset"]);
    until("a new session", || match (state("flops"), state("session_state")) {
        (flops, up) if flops == 1 && up == 6 => Ok(()),
        other => Err(format!("{other:?}")),
    });

    pair.ours.gobgp_text(&["neighbor", &tor, "shutdown", "--reason", "rack 7 is moved"]);
    until("the session is down", || wants(pair.ours.gobgp_text(&["neighbor"]), &["Idle(Admin)"]));
    until("the other side reads why", || {
        let theirs = pair.theirs.gobgp_json(&["neighbor", &at.ours.ip().to_string()]);
        wants(theirs["state"]["description"].to_string(), &["rack 7 is moved"])
    });
    pair.ours.gobgp_text(&["neighbor", &tor, "enable"]);
    converged(&pair);
}

#[test]
fn paths_are_added_and_deleted_and_what_is_not_ours_stays() {
    let at = Addresses::new(4);
    let pair = Pair::start(&at);
    converged(&pair);

    let add = ["global", "rib", "add", "192.0.2.0/24", "med", "9", "community", "64512:42"];
    pair.ours.gobgp_text(&add);
    pair.ours.gobgp_text(&[
        "global",
        "rib",
        "add",
        "2001:db8:9::/48",
        "nexthop",
        "2001:db8::9",
        "-a",
        "ipv6",
    ]);
    let there = until("the added path", || {
        wants(squeeze(&pair.theirs.gobgp_text(&["global", "rib"])), &["192.0.2.0/24"])
    });
    assert!(there.contains(&format!("192.0.2.0/24 {} 64512", at.ours.ip())), "{there}");
    assert!(there.contains("{Communities: 64512:42}"), "{there}");

    let own = pair.ours.gobgp(&["global", "rib", "add", "10.65.0.0/26"]);
    assert!(!own.status.success());
    let foreign = pair.ours.gobgp(&["global", "rib", "del", "203.0.113.0/24"]);
    let text = String::from_utf8_lossy(&foreign.stdout) + String::from_utf8_lossy(&foreign.stderr);
    assert!(!foreign.status.success() && text.contains("was not added through this API"), "{text}");

    pair.ours.gobgp_text(&["global", "rib", "del", "192.0.2.0/24"]);
    until("the path goes", || match pair.theirs.gobgp_text(&["global", "rib"]) {
        text if text.contains("192.0.2.0/24") => Err(text),
        _ => Ok(()),
    });
    pair.ours.gobgp_text(&["global", "rib", "del", "all", "-a", "ipv6"]);
    let left = pair.ours.gobgp_text(&["global", "rib", "-a", "ipv6"]);
    assert!(!left.contains("2001:db8:9::/48") && left.contains("fd00:65::/122"), "{left}");
}

#[test]
fn what_is_not_answered_is_refused_in_words() {
    let at = Addresses::new(5);
    let pair = Pair::start(&at);
    let tor = at.theirs.ip().to_string();

    for (arguments, words) in [
        (vec!["neighbor", "add", "192.0.2.9", "as", "65009"], "kubectl apply a BGPPeer"),
        (vec!["neighbor", &tor, "local"], "no route server runs here"),
        (vec!["global", "rib", "-a", "evpn"], "IPv4 and IPv6 unicast only"),
        (vec!["vrf"], "ListVrf is not answered"),
        (vec!["monitor", "adj-in"], "tells of best paths"),
        (vec!["neighbor", "192.0.2.77", "reset"], "not found neighbor 192.0.2.77"),
        (vec!["neighbor", "rack7"], "is no address of a peer"),
    ] {
        let output = pair.ours.gobgp(&arguments);
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(words), "{arguments:?}: {text}");
    }
}

#[test]
fn best_paths_are_told_as_they_come_change_and_go() {
    let at = Addresses::new(6);
    let pair = Pair::start(&at);
    converged(&pair);
    let mut monitor = pair.ours.monitor(&["global", "rib", "--current"]);
    let tor = at.theirs.ip();
    let told = |part: &str| until(part, || wants(monitor.told(), &[part]));

    told(&format!("[ROUTE] 198.51.100.0/24 via {tor} aspath [65001] attrs [{{Origin: i}} {{Med: 50}}"));
    told("[ROUTE] 2001:db8:51::/48 via 2001:db8::2 aspath [65001]");
    told("[ROUTE] 10.65.0.0/26 via");
    pair.theirs.gobgp_text(&["global", "rib", "add", "192.0.2.0/24"]);
    told(&format!("[ROUTE] 192.0.2.0/24 via {tor} aspath [65001]"));
    pair.theirs.gobgp_text(&["global", "rib", "add", "192.0.2.0/24", "med", "7"]);
    told(&format!("[ROUTE] 192.0.2.0/24 via {tor} aspath [65001] attrs [{{Origin: ?}} {{Med: 7}}"));
    pair.theirs.gobgp_text(&["global", "rib", "del", "192.0.2.0/24"]);
    told("[DELROUTE] 192.0.2.0/24");
    let all = monitor.told();
    assert_eq!(all.matches(" 192.0.2.0/24 ").count(), 3, "each is told once: {all}");
    assert_eq!(all.matches("203.0.113.0/24").count(), 1, "what does not change is not told again: {all}");
    assert!(!monitor.has_ended(), "{all}");
}

#[test]
fn states_of_a_session_are_told_as_they_change() {
    let at = Addresses::new(7);
    let pair = Pair::start(&at);
    converged(&pair);
    let tor = at.theirs.ip().to_string();
    let monitor = pair.ours.monitor(&["neighbor", &tor]);
    let states = || -> Vec<String> {
        let told = monitor.told();
        let states = told.lines().filter_map(|line| line.split_once("fsm: "));
        states.map(|(_, state)| state.to_owned()).collect()
    };

    // It tells what happens after its watch has begun, and not when that is.
    until("a state", || {
        pair.ours.gobgp_text(&["neighbor", &tor, "reset"]);
        converged(&pair);
        if states().is_empty() { Err(monitor.told()) } else { Ok(()) }
    });
    let up = || wants(states().join(", "), &["ESTABLISHED admin: UP"]);
    until("that it is up", up);
    pair.ours.gobgp_text(&["neighbor", &tor, "shutdown"]);
    until("that it is down", || match states().last() {
        Some(last) if last == "IDLE admin: DOWN" => Ok(()),
        _ => Err(states().join(", ")),
    });
    let before = states().len();
    pair.ours.gobgp_text(&["neighbor", &tor, "enable"]);
    until("that it is up again", || match states().split_off(before).last() {
        Some(last) if last == "ESTABLISHED admin: UP" => Ok(()),
        _ => Err(monitor.told()),
    });
    let again = states().split_off(before);
    assert!(again.windows(2).all(|pair| pair[0] != pair[1]), "no state is told twice: {again:?}");
}
