//! A speaker on real sockets that is recorded plays again to the same outputs.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use common::*;

#[test]
fn what_came_over_real_sockets_plays_again_to_the_same_outputs() {
    let at = Addresses::new(21);
    let pair = Pair::start(&at);
    let tor = at.theirs.ip().to_string();
    until("routes", || wants(pair.ours.gobgp_text(&["global", "rib"]), &["198.51.100.0/24"]));
    pair.ours.gobgp_text(&["global", "rib", "add", "192.0.2.0/24", "med", "9"]);
    pair.ours.gobgp_text(&["neighbor", &tor, "reset"]);
    until("a new session", || {
        let peer = pair.ours.gobgp_json(&["neighbor", &tor]);
        let state = (peer["state"]["flops"].as_u64(), peer["state"]["session_state"].as_u64());
        if state == (Some(1), Some(6)) { Ok(()) } else { Err(format!("{state:?}")) }
    });

    let file = pair.ours.socket.with_file_name("record");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&file).unwrap();
    // The last line may be half-written; what comes after the last drain cannot be compared anyway.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let replayed = bgp::replay(whole.lines(), Instant::now(), |_| {}).unwrap();

    assert!(replayed.is_complete && replayed.inputs > 20, "{} inputs", replayed.inputs);
    assert!(replayed.differences.is_empty(), "{:#?}", replayed.differences.first());
    assert!(replayed.speaker.prefixes().any(|prefix| prefix.to_string() == "192.0.2.0/24"));
}
