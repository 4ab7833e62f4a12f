//! A whole cluster is asked by `kubectl exec`: here a stand-in that starts the real `ocicat relay` before agents in memory.

#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use proto::{felix, read_frame, speaker, write_frame};
use serde_json::Value;

const OCICAT: &str = env!("CARGO_BIN_EXE_ocicat");

/// A directory that goes with the test.
struct Place(PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Place {
    /// Nodes n1 and n2 have agents, the pod of n3 does not run, and `kubectl` knows all three.
    fn new(test: &str) -> Self {
        let place = Self(std::env::temp_dir().join(format!("ocicat-{test}-{}", std::process::id())));
        let directory = place.0.display();
        for node in ["n1", "n2"] {
            let pod = place.0.join(format!("pod-{node}"));
            fs::create_dir_all(&pod).unwrap();
            serve(&pod.join("bird-lite.sock"), node, speaker_answer);
            serve(&pod.join("felix-api.sock"), node, felix_answer);
        }
        fs::write(place.0.join("config"), "").unwrap();
        let networks = place.0.join("mounted-in-cni-configuration");
        fs::create_dir(&networks).unwrap();
        fs::write(networks.join("05-other.conflist"), r#"{"plugins": [{"type": "other"}]}"#).unwrap();
        let script = format!(
            "#!/bin/sh
[ \"$1 $2\" = '--kubeconfig {directory}/config' ] || {{ echo 'another cluster' >&2; exit 1; }}
shift 2
if [ \"$3 $4\" = 'get pods' ]; then printf 'n2\\tpod-n2\\nn1\\tpod-n1\\nn3\\tpod-n3\\n\\tpending\\n'; exit; fi
if [ \"$1\" = logs ]; then
  case \"$*\" in *--previous*) echo 'there was none before' >&2; exit 1; esac
  echo \"$6 of $4 began with $7: password=canary\"; exit
fi
[ \"$1\" = exec ] || {{ echo \"no answer to $1\" >&2; exit 1; }}
pod=$5 container=$7; shift 8
[ $pod = pod-n3 ] && {{ echo 'error: the container does not run' >&2; exit 1; }}
export OCICAT_CNI_DIRECTORY={directory}/mounted-in-$container
case \"$*\" in 'ocicat doctor --here '*|'ocicat diags --here') shift; exec {OCICAT} \"$@\" ;; esac
[ \"$*\" = \"ocicat relay $container\" ] || {{ echo \"no program $*\" >&2; exit 1; }}
exec {OCICAT} relay $container --directory {directory}/$pod
"
        );
        let kubectl = place.0.join("kubectl");
        fs::write(&kubectl, script).unwrap();
        fs::set_permissions(&kubectl, fs::Permissions::from_mode(0o755)).unwrap();
        place
    }

    fn ocicat(&self, arguments: &[&str]) -> (Output, String, String) {
        let path = format!("{}:{}", self.0.display(), std::env::var("PATH").unwrap());
        let mut command = Command::new(OCICAT);
        command.args(arguments).env("PATH", path).env("KUBECONFIG", self.0.join("config"));
        for name in ["OCICAT_LAB", "OCICAT_BGP_SOCKET", "OCICAT_FELIX_API_SOCKET", "OCICAT_NAMESPACE"] {
            command.env_remove(name);
        }
        let output = command.output().unwrap();
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        let (out, errors) = (text(&output.stdout), text(&output.stderr));
        (output, out, errors)
    }
}

/// Answers on a socket until the test ends.
fn serve<Request, Response>(socket: &Path, node: &'static str, answer: fn(&str, Request) -> Response)
where
    Request: prost::Message + Default + 'static,
    Response: prost::Message + 'static,
{
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            while let Ok(request) = read_frame(&mut client) {
                let _ = write_frame(&mut client, &answer(node, request));
            }
        }
    });
}

fn speaker_answer(node: &str, request: speaker::Request) -> speaker::Response {
    use speaker::{request::Call, response::Answer};
    let answer = match request.call.unwrap() {
        Call::Summary(wanted) if wanted.peer == "192.0.2.1" && node == "n2" => {
            Answer::Error("there is no peer 192.0.2.1".to_owned())
        }
        Call::Summary(_) => {
            Answer::Summary(speaker::Summary { node: node.to_owned(), ..speaker::Summary::default() })
        }
        Call::Routes(_) => {
            let route = speaker::Route {
                prefix: "10.65.0.0/26".to_owned(),
                source: format!("peer-of-{node}"),
                best: true,
                ..speaker::Route::default()
            };
            Answer::Routes(speaker::Routes { routes: vec![route], more: false })
        }
        _ => Answer::Error("nothing else is asked".to_owned()),
    };
    speaker::Response { answer: Some(answer) }
}

fn felix_answer(node: &str, _: felix::Request) -> felix::Response {
    let difference = felix::Difference {
        kind: "route".to_owned(),
        entry: "10.65.0.1/32".to_owned(),
        what: "missing".to_owned(),
        by: String::new(),
    };
    let differences = if node == "n2" { vec![difference] } else { Vec::new() };
    let audit = felix::Audit { node: node.to_owned(), differences, ..felix::Audit::default() };
    felix::Response { answer: Some(felix::response::Answer::Audit(audit)) }
}

#[test]
fn routes_of_all_nodes_stand_in_one_table_whoever_does_not_answer() {
    let place = Place::new("routes");

    let (output, table, errors) = place.ocicat(&["bgp", "routes"]);

    let expected = "\
NODE     PREFIX        NEXT HOP  FROM        LOCAL PREF  MED  AS PATH  WHY
n1    *  10.65.0.0/26  -         peer-of-n1  -           -    -        -
n2    *  10.65.0.0/26  -         peer-of-n2  -           -    -        -
";
    assert_eq!(table, expected, "{errors}");
    let told = "ocicat: cannot ask the BGP speaker of node n3: error: the container does not run\n";
    assert_eq!((errors.as_str(), output.status.code()), (told, Some(1)));
}

#[test]
fn one_node_is_asked_alone_and_json_names_it() {
    let place = Place::new("one");

    let (output, text, errors) = place.ocicat(&["bgp", "routes", "--node", "n2", "-o", "json"]);

    let routes: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&routes[0]["node"], routes.as_array().unwrap().len()), (&"n2".into(), 1));
    assert_eq!((errors.as_str(), output.status.code()), ("", Some(0)));
    let (output, _, errors) = place.ocicat(&["bgp", "routes", "--node", "n9"]);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    let (output, _, errors) = place.ocicat(&["bgp", "routes", "--node", "n3"]);
    assert_eq!(output.status.code(), Some(3), "{errors}");
}

#[test]
fn a_peer_is_asked_for_where_it_is_known() {
    let place = Place::new("peer");

    let (_, table, _) = place.ocicat(&["bgp", "received", "192.0.2.1"]);

    assert!(table.contains("peer-of-n1") && !table.contains("n2"), "{table}");
}

#[test]
fn an_audit_of_all_nodes_tells_of_each() {
    let place = Place::new("audit");

    let (output, text, errors) = place.ocicat(&["audit"]);

    let expected = "\
n1: as intended ()
n2: 1 entry differs ()
NODE  KIND   ENTRY         DIFFERENCE
n2    route  10.65.0.1/32  missing
";
    assert_eq!(text, expected, "{errors}");
    assert!(errors.contains("the node agent (felix) of node n3"), "{errors}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn the_doctor_looks_at_every_node_and_names_the_one_that_cannot_be_looked_at() {
    let place = Place::new("doctor");

    let (output, text, errors) = place.ocicat(&["doctor", "--no-probes", "-o", "json"]);

    let told: Value = serde_json::from_str(&text).unwrap();
    let nodes: Vec<&str> = told.as_array().unwrap().iter().filter_map(|node| node["node"].as_str()).collect();
    assert_eq!(nodes, ["n1", "n2"], "{errors}");
    assert!(errors.contains("node n3"), "{text}{errors}");
    let is_found =
        |wanted: &str| told[0]["findings"].as_array().unwrap().iter().any(|f| f["check"] == wanted);
    assert!(is_found("foreign-conflist"), "the container that has the runtime's directory is asked: {text}");
    assert!(!text.contains("configurations of the container runtime"), "{text}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_bundle_has_what_the_pods_tell_and_names_the_one_that_cannot_be_asked() {
    let place = Place::new("bundle");
    let bundle = place.0.join("bundle.tar.gz");
    let path = bundle.to_str().unwrap();

    let (output, _, errors) = place.ocicat(&["diags", "-o", path, "--lines", "7"]);

    let tar = |arguments: &[&str]| {
        let output = Command::new("tar").args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let names = tar(&["-tzf", path]);
    for name in ["nodes/n1/limits.txt", "nodes/n2/logs/bird-lite.log", "cluster/doctor.txt"] {
        assert!(names.contains(name), "{name} is not in\n{names}{errors}");
    }
    assert!(!names.contains("nodes/n3/") && !names.contains("felix-before.log"), "{names}");
    let all = tar(&["-xzOf", path]);
    assert!(all.contains("felix of pod-n1 began with --tail=7: password=***"), "{errors}");
    assert!(
        !all.contains("canary") && all.contains("node n3: error: the container does not run"),
        "{errors}"
    );
    assert_eq!(output.status.code(), Some(1), "{errors}");
}
