//! The checked-in manifests are what their sources say. `UPDATE=1 cargo test -p manifests` writes them.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use manifests::chart::{self, Values};
use manifests::documents::{identity, parse, sorted};
use manifests::{slim, template};
use serde_json::Value;

const OVERLAYS: [&str; 10] = [
    "ipip",
    "crosssubnet",
    "vxlan",
    "direct",
    "dual-stack",
    "route-reflector",
    "nftables",
    "typha",
    "monitoring",
    "large",
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../manifests")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(folder().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Compares, or writes where that is asked for.
#[track_caller]
fn expect(path: &str, text: &str) {
    let place = folder().join(path);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::fs::write(&place, text).unwrap();
    }
    let checked_in = std::fs::read_to_string(&place).unwrap_or_default();
    assert!(checked_in == text, "manifests/{path} is stale: run UPDATE=1 cargo test -p manifests");
}

/// What a kustomization lists under a key.
fn listed(kustomization: &str, key: &str) -> Vec<String> {
    let parsed = parse(&read(kustomization)).unwrap().pop().unwrap();
    let items = parsed[key].as_array().cloned().unwrap_or_default();
    items.iter().map(|item| item.as_str().unwrap().to_owned()).collect()
}

fn slim_definitions() -> String {
    let mut text = String::from(
        "# crds.yaml without its descriptions, and with what repeats written once.\n\
         # Written by: UPDATE=1 cargo test -p manifests\n",
    );
    for mut definition in parse(&read("crds.yaml")).unwrap() {
        slim::without_descriptions(&mut definition);
        text.push_str("---\n");
        text.push_str(&slim::document(&definition));
    }
    text
}

#[test]
fn slim_definitions_are_those_of_crds_yaml() {
    let text = slim_definitions();
    expect("base/crds.yaml", &text);

    let mut full = parse(&read("crds.yaml")).unwrap();
    full.iter_mut().for_each(slim::without_descriptions);
    assert_eq!(parse(&text).unwrap(), full);
    // A definition that is applied by the client is kept in one annotation of at most 256 KiB.
    let longest = full.iter().map(|definition| definition.to_string().len()).max();
    assert!(longest.is_some_and(|length| length < 200_000), "{longest:?}");
}

/// The text of `ocicat.yaml`: the parts of the base, one after the other.
fn one_file() -> String {
    let mut text = String::from(
        "# Ocicat on a cluster: kubectl apply -f ocicat.yaml\n\
         # The parts of base/, one after the other. Written by: UPDATE=1 cargo test -p manifests\n",
    );
    let mut parts = listed("base/kustomization.yaml", "resources");
    // What people look at and change comes first.
    parts.sort_by_key(|part| part == "crds.yaml");
    for part in parts {
        text.push_str("---\n");
        let lines: Vec<String> = part_text(&part).lines().map(unmarked).collect();
        text.push_str(&lines.join("\n"));
        text.push('\n');
    }
    text
}

fn part_text(part: &str) -> String {
    if part == "crds.yaml" {
        slim_definitions().replacen("---\n", "", 1)
    } else {
        read(&format!("base/{part}"))
    }
}

/// A line without the marks of the chart.
fn unmarked(line: &str) -> String {
    line.split_once(" #= ").map_or(line, |(text, _)| text).to_owned()
}

#[test]
fn one_file_holds_the_base() {
    let text = one_file();
    expect("ocicat.yaml", &text);

    assert!(text.len() < 100_000, "{} bytes", text.len());
    if has_kustomize() {
        assert_same(parse(&text).unwrap(), kustomize("base"));
    }
}

#[test]
fn chart_is_made_from_the_base() {
    let (templates, values) = templates();
    for (name, text) in &templates {
        expect(&format!("chart/templates/{name}"), text);
    }
    expect("chart/values.yaml", &values.text());
    expect("chart/crds/crds.yaml", &slim_definitions());
}

/// Templates by file name, and the values that they know.
fn templates() -> (Vec<(String, String)>, Values) {
    let mut values = Values::default();
    let mut sources = listed("base/kustomization.yaml", "resources");
    sources.retain(|part| part != "crds.yaml");
    let mut sources: Vec<String> = sources.into_iter().map(|part| format!("base/{part}")).collect();
    for component in ["typha", "route-reflector", "monitoring"] {
        let parts = listed(&format!("components/{component}/kustomization.yaml"), "resources");
        sources.extend(parts.into_iter().map(|part| format!("components/{component}/{part}")));
    }
    let template = |source: &String| {
        let name = source.rsplit('/').next().unwrap().to_owned();
        (name, chart::template(&read(source), &mut values))
    };
    let templates = sources.iter().map(template).collect();
    (templates, values)
}

/// The chart for values that differ from its own.
fn rendered(over: &Value) -> Vec<Value> {
    let (templates, values) = templates();
    let mut values = parse(&values.text()).unwrap().pop().unwrap();
    template::merge(&mut values, over);
    let mut objects = Vec::new();
    for (name, text) in templates {
        let text = template::render(&text, &values, "kube-system").unwrap_or_else(|e| panic!("{name}: {e}"));
        objects.extend(parse(&text).unwrap_or_else(|e| panic!("{name}: {e}\n{text}")));
    }
    objects
}

/// What a folder is built to; each is built once, since that takes a while.
fn kustomize(path: &str) -> Vec<Value> {
    static BUILT: Mutex<BTreeMap<String, Vec<Value>>> = Mutex::new(BTreeMap::new());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    built.entry(path.to_owned()).or_insert_with(|| build(path)).clone()
}

/// Debian 12's own kubectl (1.20) has a kustomize that knows no components: what a test then leaves out is said.
fn has_kustomize() -> bool {
    let output = Command::new("kubectl").args(["version", "--client", "-o", "json"]).output();
    let output = output.expect("kubectl starts (Debian package kubernetes-client)");
    let version: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let minor = version["clientVersion"]["minor"].as_str().unwrap_or("0");
    let is_recent = minor.trim_end_matches('+').parse::<u32>().is_ok_and(|minor| minor >= 25);
    if !is_recent {
        eprintln!("kubectl is older than 1.25: kustomize is not tested");
    }
    is_recent
}

fn build(path: &str) -> Vec<Value> {
    let output = Command::new("kubectl").arg("kustomize").arg(folder().join(path)).output();
    let output = output.expect("kubectl starts (Debian package kubernetes-client)");
    assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
    parse(&String::from_utf8(output.stdout).unwrap()).unwrap()
}

#[track_caller]
fn assert_same(one: Vec<Value>, other: Vec<Value>) {
    let (mut one, mut other) = (sorted(one), sorted(other));
    one.iter_mut().chain(&mut other).for_each(order_variables);
    let names = |objects: &[Value]| objects.iter().map(identity).collect::<Vec<_>>();
    assert_eq!(names(&one), names(&other));
    for (one, other) in one.iter().zip(&other) {
        assert!(one == other, "{} differs:\n{one:#}\n{other:#}", identity(one));
    }
}

/// A patch puts variables, ports and volumes first; no variable refers to another one.
fn order_variables(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                if let ("env" | "ports" | "volumes" | "volumeMounts", Value::Array(items)) =
                    (name.as_str(), &mut *member)
                {
                    items.sort_by_key(|item| (item["name"].to_string(), item["mountPath"].to_string()));
                }
                order_variables(member);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(order_variables),
        _ => {}
    }
}

fn without_definitions(mut objects: Vec<Value>) -> Vec<Value> {
    objects.retain(|object| object["kind"] != "CustomResourceDefinition");
    objects
}

#[test]
fn chart_and_base_say_the_same() {
    if !has_kustomize() {
        return;
    }
    assert_same(rendered(&serde_json::json!({})), without_definitions(kustomize("base")));
}

#[test]
fn chart_and_overlays_say_the_same() {
    if !has_kustomize() {
        return;
    }
    for overlay in OVERLAYS {
        let values = parse(&read(&format!("overlays/{overlay}/values.yaml"))).unwrap().pop().unwrap();
        println!("{overlay}");
        assert_same(rendered(&values), without_definitions(kustomize(&format!("overlays/{overlay}"))));
    }
}

/// Helm itself is in no Debian package: where somebody has it, it is asked, too.
#[test]
fn helm_agrees_where_there_is_one() {
    if !has_kustomize() {
        return;
    }
    let chart = folder().join("chart");
    for overlay in OVERLAYS {
        let values = folder().join(format!("overlays/{overlay}/values.yaml"));
        let mut command = Command::new("helm");
        command
            .args(["template", "ocicat", "--namespace", "kube-system"])
            .arg(&chart)
            .arg("--values")
            .arg(values);
        let Ok(output) = command.output() else { return println!("there is no helm here") };
        assert!(output.status.success(), "{overlay}: {}", String::from_utf8_lossy(&output.stderr));
        let objects = parse(&String::from_utf8(output.stdout).unwrap()).unwrap();
        assert_same(objects, without_definitions(kustomize(&format!("overlays/{overlay}"))));
    }
}

#[test]
fn overlays_are_as_they_were_looked_at() {
    if !has_kustomize() {
        return;
    }
    for overlay in OVERLAYS {
        let base = without_definitions(kustomize("base"));
        let mut text = format!(
            "# What kubectl kustomize overlays/{overlay} has and base/ has not. Written by: UPDATE=1 cargo test -p manifests\n"
        );
        for object in without_definitions(kustomize(&format!("overlays/{overlay}"))) {
            if !base.contains(&object) {
                text.push_str("---\n");
                text.push_str(&serde_saphyr::to_string(&object).unwrap());
            }
        }
        expect(&format!("rendered/{overlay}.yaml"), &text);
    }
}

/// The image says user 65532, and a program that is not root has none of the capabilities that are added.
#[test]
fn who_has_capabilities_says_that_it_is_root() {
    let files = ["ocicat.yaml", "rendered/route-reflector.yaml", "rendered/typha.yaml"];
    let mut seen = 0;
    for object in files.iter().flat_map(|file| parse(&read(file)).unwrap()) {
        let spec = &object["spec"]["template"]["spec"];
        let lists = ["initContainers", "containers"];
        for container in lists.iter().flat_map(|list| spec[*list].as_array().into_iter().flatten()) {
            let own = &container["securityContext"];
            let name = format!("{} of {}", container["name"], identity(&object));
            assert_eq!(own["capabilities"]["drop"], serde_json::json!(["ALL"]), "{name}");
            assert_eq!(own["readOnlyRootFilesystem"], true, "{name}");
            assert_eq!(own["allowPrivilegeEscalation"], false, "{name}");
            assert_eq!(spec["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{name}");
            if !own["capabilities"]["add"].is_null() {
                assert_eq!(spec["securityContext"]["runAsUser"], 0, "{name}");
            }
            seen += 1;
        }
    }
    assert!(seen >= 7, "{seen} containers");
}
