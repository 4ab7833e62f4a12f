//! The built binary against pretended agents.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use proto::node::{self, reply};
use proto::speaker::{self, response};
use proto::{read_frame, write_frame};

/// A socket on which one call is answered; goes away with the value.
struct Agent(PathBuf);

impl Agent {
    fn answering<Request, Answer>(answer: Answer) -> Self
    where
        Request: prost::Message + Default,
        Answer: prost::Message + 'static,
    {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ocicat-cli-{}-{}.sock", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        let listener = UnixListener::bind(&path).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            read_frame::<Request>(&mut stream).unwrap();
            write_frame(&mut stream, &answer).unwrap();
        });
        Self(path)
    }

    fn ocicat(&self, arguments: &[&str]) -> Output {
        ocicat(&[arguments, &["--socket", self.0.to_str().unwrap()]].concat())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn ocicat(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ocicat")).args(arguments).output().unwrap()
}

fn speaker(answer: response::Answer) -> Agent {
    Agent::answering::<speaker::Request, _>(speaker::Response { answer: Some(answer) })
}

fn felix(outcome: reply::Outcome) -> Agent {
    Agent::answering::<node::Request, _>(node::Reply { outcome: Some(outcome) })
}

#[test]
fn a_summary_comes_as_table_and_as_json() {
    let summary = speaker::Summary { node: "node-1".into(), asn: 64512, ..speaker::Summary::default() };

    let table = speaker(response::Answer::Summary(summary.clone())).ocicat(&["bgp", "summary"]);
    let json = speaker(response::Answer::Summary(summary)).ocicat(&["bgp", "summary", "-o", "json"]);

    assert_eq!((table.status.code(), json.status.code()), (Some(0), Some(0)));
    assert!(String::from_utf8_lossy(&table.stdout).starts_with("node-1  AS 64512"));
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["asn"], 64512);
}

#[test]
fn a_peer_that_is_down_shows_in_the_exit_status_of_a_check() {
    let peer =
        speaker::Peer { address: "192.0.2.2".into(), state: "Active".into(), ..speaker::Peer::default() };
    let summary = speaker::Summary { peers: vec![peer], ..speaker::Summary::default() };

    let plain = speaker(response::Answer::Summary(summary.clone())).ocicat(&["bgp", "summary"]);
    let check = speaker(response::Answer::Summary(summary)).ocicat(&["bgp", "summary", "--check"]);

    assert_eq!((plain.status.code(), check.status.code()), (Some(0), Some(1)));
}

#[test]
fn what_the_speaker_refuses_is_said() {
    let output =
        speaker(response::Answer::Error("no peer 192.0.2.9".into())).ocicat(&["bgp", "reset", "192.0.2.9"]);

    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no peer 192.0.2.9"));
}

#[test]
fn an_agent_that_is_not_ready_says_why() {
    let failed = reply::Failed { failure: node::Failure::Retry.into(), message: "no MTU yet".into() };

    let ready = felix(reply::Outcome::Done(reply::Done {})).ocicat(&["node", "status"]);
    let unready = felix(reply::Outcome::Failed(failed)).ocicat(&["node", "status", "-o", "json"]);

    assert_eq!((ready.status.code(), unready.status.code()), (Some(0), Some(1)));
    let json: serde_json::Value = serde_json::from_slice(&unready.stdout).unwrap();
    assert_eq!((&json["ready"], &json["reason"]), (&false.into(), &"no MTU yet".into()));
}

#[test]
fn a_socket_where_nobody_listens_is_named_with_a_remedy() {
    for command in [["bgp", "summary"], ["node", "status"]] {
        let output = ocicat(&[command[0], command[1], "--socket", "/nonexistent/x.sock"]);

        assert_eq!(output.status.code(), Some(3));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains("/nonexistent/x.sock") && text.contains("calico-node"), "{text}");
    }
}

#[test]
fn a_wrong_command_line_is_status_2_and_help_is_0() {
    assert_eq!(ocicat(&["bgp", "sumary"]).status.code(), Some(2));
    assert_eq!(ocicat(&["--help"]).status.code(), Some(0));
    assert_eq!(ocicat(&["version"]).status.code(), Some(0));
}

#[test]
fn a_recording_is_replayed_and_one_that_was_changed_is_told() {
    let start = bgp::Start { seed: 1, ..bgp::Start::default() };
    let now = std::time::Instant::now();
    let mut config = bgp::Config::new(64512, [192, 0, 2, 1].into());
    config.peers.insert("192.0.2.2".parse().unwrap(), bgp::PeerConfig::new(65001));
    let mut speaker = bgp::Speaker::new(config, start, now);
    speaker.start_recording(now);
    speaker.handle_timeout(now);
    while speaker.poll_output().is_some() {}
    let lines: Vec<String> = std::iter::from_fn(|| speaker.poll_record()).collect();
    let file = std::env::temp_dir().join(format!("ocicat-replay-{}.jsonl", std::process::id()));
    let path = file.to_str().unwrap();

    fs::write(&file, lines.join("\n")).unwrap();
    let same = ocicat(&["bgp", "replay", path]);
    fs::write(&file, lines.join("\n").replace("192.0.2.2:179", "192.0.2.2:180")).unwrap();
    let changed = ocicat(&["bgp", "replay", path]);
    fs::write(&file, "no recording").unwrap();
    let garbage = ocicat(&["bgp", "replay", path]);
    fs::remove_file(&file).unwrap();

    let text = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text(&same).contains("every output is the same as recorded"), "{}", text(&same));
    assert!(text(&changed).contains("outputs differ"), "{}", text(&changed));
    let codes = (same.status.code(), changed.status.code(), garbage.status.code());
    assert_eq!(codes, (Some(0), Some(1), Some(1)));
}

#[test]
fn a_peer_is_steered_and_a_neighbour_is_told() {
    let done = || response::Answer::Done(response::Done {});
    for arguments in [
        &["bgp", "disable", "192.0.2.2", "--text", "rack 7"][..],
        &["bgp", "enable", "192.0.2.2"],
        &["bgp", "softreset", "192.0.2.2", "--in"],
        &["bgp", "reset", "192.0.2.2", "-o", "json"],
    ] {
        let output = speaker(done()).ocicat(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("192.0.2.2"), "{arguments:?}");
    }

    let peer = speaker::Peer {
        address: "192.0.2.2".into(),
        state: "Active".into(),
        cause: "wrong AS: expected 1, got 2".into(),
        ..speaker::Peer::default()
    };
    let summary = speaker::Summary { peers: vec![peer], ..speaker::Summary::default() };
    let output = speaker(response::Answer::Summary(summary)).ocicat(&["bgp", "neighbor", "192.0.2.2"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("why             wrong AS: expected 1, got 2"));
}

fn agent(answer: proto::felix::response::Answer) -> Agent {
    let response = proto::felix::Response { answer: Some(answer) };
    Agent::answering::<proto::felix::Request, _>(response)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn drops_come_as_table_and_as_json_and_follow_line_by_line() {
    use proto::felix::{Drop, Drops, response::Answer};
    let record = Drop {
        node: "n1".into(),
        pod: "default/web".into(),
        direction: "ingress".into(),
        cause: "policy".into(),
        policy: "knp/default/deny".into(),
        count: 2,
        ..Drop::default()
    };
    let page =
        || Answer::Drops(Drops { records: vec![record.clone()], node: "n1".into(), ..Drops::default() });

    let table = agent(page()).ocicat(&["drops"]);
    let json = agent(page()).ocicat(&["drops", "-o", "json"]);
    let follow = agent(page()).ocicat(&["drops", "--follow", "--pod", "default/web"]);

    assert_eq!((table.status.code(), json.status.code()), (Some(0), Some(0)));
    assert!(
        text(&table.stdout).contains("default/web  ingress    knp/default/deny"),
        "{}",
        text(&table.stdout)
    );
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["drops"][0]["policy"], "knp/default/deny");
    assert!(text(&follow.stdout).contains("by knp/default/deny x2"), "{}", text(&follow.stdout));
    assert_eq!(follow.status.code(), Some(3), "the agent went away");
}

#[test]
fn an_agent_that_hears_of_no_drops_says_why() {
    let problem = "NFLOG group 7: another program listens there".to_owned();
    let page = proto::felix::Drops { node: "n1".into(), problem, ..proto::felix::Drops::default() };

    let output = agent(proto::felix::response::Answer::Drops(page)).ocicat(&["drops"]);

    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("n1: NFLOG group 7: another program"), "{}", text(&output.stdout));
}

#[test]
fn an_audit_is_a_status_for_scripts() {
    use proto::felix::{Audit, Difference, response::Answer};
    let clean = Audit { node: "n1".into(), ..Audit::default() };
    let difference = Difference {
        kind: "routes".into(),
        entry: "10.65.0.1/32".into(),
        what: "missing".into(),
        ..Difference::default()
    };
    let odd = Audit { differences: vec![difference], ..clean.clone() };

    let clean = agent(Answer::Audit(clean)).ocicat(&["audit"]);
    let odd = agent(Answer::Audit(odd)).ocicat(&["audit", "-o", "json"]);

    assert_eq!((clean.status.code(), odd.status.code()), (Some(0), Some(1)));
    assert!(text(&clean.stdout).starts_with("n1: as intended"));
    let odd: serde_json::Value = serde_json::from_slice(&odd.stdout).unwrap();
    assert_eq!(odd[0]["differences"][0]["entry"], "10.65.0.1/32");
}

#[test]
fn nonsense_about_policy_is_a_wrong_command_line() {
    let explain = |arguments: &[&str]| {
        let output = ocicat(&[&["explain"], arguments, &["--kubeconfig", "/nonexistent"]].concat());
        (output.status.code(), text(&output.stderr))
    };
    for (arguments, said) in [
        (&["--from", "web", "--to", "10.0.0.1", "--port", "80"][..], "NAMESPACE/NAME"),
        (&["--from", "a/b", "--to", "a/c"], "--port"),
        (&["--from", "a/b", "--to", "a/c", "--port", "0"], "--port"),
        (&["--from", "a/b", "--to", "a/c", "--port", "65536"], "65536"),
        (&["--from", "a/b", "--to", "a/c", "--port", "8", "--proto", "gre"], "sctp"),
        (&["--from", "a/b", "--to", "a/c", "--port", "8", "--proto", "icmp"], "no ports"),
        (&["--from", "a/b;rm", "--to", "a/c", "--port", "8"], "NAMESPACE/NAME"),
    ] {
        let (code, error) = explain(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {error}");
        assert!(error.contains(said), "{arguments:?}: {error}");
    }
    let (code, error) = explain(&["--from", "a/b", "--to", "a/c", "--port", "80"]);
    assert_eq!(code, Some(3), "{error}");
    assert!(error.contains("/nonexistent"), "{error}");
    assert_eq!(ocicat(&["drops", "--pod", "web"]).status.code(), Some(2));
    assert_eq!(ocicat(&["policy", "whatif"]).status.code(), Some(2));
}

#[test]
fn a_file_that_is_no_policy_is_named_with_the_field() {
    let file = std::env::temp_dir().join(format!("ocicat-whatif-{}.yaml", std::process::id()));
    let whatif = |yaml: &str| {
        fs::write(&file, yaml).unwrap();
        let output =
            ocicat(&["policy", "whatif", "-f", file.to_str().unwrap(), "--kubeconfig", "/nonexistent"]);
        (output.status.code(), text(&output.stderr))
    };
    let calico = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: g}\nspec: ";

    let cases = [
        (String::new(), "no object"),
        ("{".to_owned(), "ocicat-whatif"),
        (format!("{calico}{{selector: 'a =='}}"), "spec.selector"),
        (format!("{calico}{{selektor: all()}}"), "selektor"),
        ("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}".to_owned(), "Deployment"),
    ];
    let told: Vec<_> = cases.iter().map(|(yaml, said)| (whatif(yaml), said)).collect();
    fs::remove_file(&file).unwrap();

    for ((code, error), said) in told {
        assert_eq!(code, Some(1), "{error}");
        assert!(error.contains(said), "{said}: {error}");
    }
}
