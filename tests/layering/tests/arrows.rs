//! Arrows point down only, and layers 0 and 1 have no door to the outside.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use serde::Deserialize;

/// The layer of every package of the workspace; a new package must find its place here first.
const LAYERS: &[(u8, &[&str])] = &[
    (0, &["delta", "model", "bgp-packet", "proto"]),
    (1, &["kernel", "felix-calc", "felix-render", "felix-dataplane", "felix-evaluate"]),
    (1, &["fanout", "ipam", "migrate", "bfd", "bgp", "doctor"]),
    (2, &["kernel-linux", "datastore", "bgp-transport", "bgp-api", "operator-socket", "probes"]),
    (3, &["felix", "bird-lite", "route-reflector", "cni", "controllers", "typha", "ocicat", "lab"]),
    (4, &["all-in-one"]),
];

/// Stand beside the layers: they serve tests only.
const TEST_PACKAGES: &[&str] =
    &["apiserver", "bench-bgp", "bench-policy", "demo", "e2e", "layering", "manifests", "ping"];

/// All that layers 0 and 1 may use from outside; none of these does IO.
const PURE_DEPENDENCIES: &[&str] = &[
    "base64",
    "bytes",
    "hashbrown",
    "ipnetwork",
    "lz4_flex",
    "prost",
    "serde",
    "serde_json",
    "sha1",
    "sha2",
    "sha3",
    "thiserror",
];

/// Doors know nothing of one another.
const DOORS: u8 = 2;

/// What several doors stand in: the socket of an operator, which knows no call.
const DOOR_FRAME: &str = "operator-socket";

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// `None` is an ordinary dependency, otherwise `dev` or `build`.
    kind: Option<String>,
}

#[test]
fn every_package_has_a_place() {
    let layers = layers();

    let homeless: Vec<_> = packages()
        .into_iter()
        .map(|package| package.name)
        .filter(|name| !layers.contains_key(name.as_str()) && !TEST_PACKAGES.contains(&name.as_str()))
        .collect();

    assert!(homeless.is_empty(), "say in tests/layering which layer these belong to: {homeless:?}");
}

#[test]
fn arrows_point_down() {
    let layers = layers();
    let mut wrong = Vec::new();

    for package in packages() {
        let Some(&layer) = layers.get(package.name.as_str()) else { continue };
        for dependency in package.dependencies.iter().filter(|d| d.kind.as_deref() != Some("dev")) {
            let upward = layers.get(dependency.name.as_str()).is_some_and(|&to| to > layer);
            let is_door = layers.get(dependency.name.as_str()) == Some(&DOORS);
            let between_doors = layer == DOORS && is_door && dependency.name != DOOR_FRAME;
            let tests_shipped = TEST_PACKAGES.contains(&dependency.name.as_str()) && package.name != "lab";
            if upward || between_doors || tests_shipped {
                wrong.push(format!("{} -> {}", package.name, dependency.name));
            }
        }
    }

    assert!(wrong.is_empty(), "arrows that do not point down: {wrong:?}");
}

#[test]
fn pure_layers_have_no_door_to_the_outside() {
    let layers = layers();
    let mut wrong = Vec::new();

    for package in packages().into_iter().filter(|p| layers.get(p.name.as_str()).is_some_and(|&l| l <= 1)) {
        for dependency in package.dependencies.iter().filter(|d| d.kind.as_deref() != Some("dev")) {
            let known = layers.contains_key(dependency.name.as_str());
            if !known && !PURE_DEPENDENCIES.contains(&dependency.name.as_str()) {
                wrong.push(format!("{} -> {}", package.name, dependency.name));
            }
        }
    }

    assert!(wrong.is_empty(), "pure packages depend on what may do IO: {wrong:?}");
}

#[test]
fn pure_packages_are_watched_by_clippy() {
    let layers = layers();

    let unwatched: Vec<_> = packages()
        .into_iter()
        .filter(|p| layers.get(p.name.as_str()).is_some_and(|&l| l <= 1))
        .filter(|p| {
            let config = p.manifest_path.with_file_name("clippy.toml");
            !std::fs::read_to_string(config).is_ok_and(|text| text.contains("std::time::Instant::now"))
        })
        .map(|p| p.name)
        .collect();

    assert!(unwatched.is_empty(), "link crates/pure-clippy.toml as clippy.toml into: {unwatched:?}");
}

fn layers() -> BTreeMap<&'static str, u8> {
    LAYERS.iter().flat_map(|(layer, names)| names.iter().map(|name| (*name, *layer))).collect()
}

fn packages() -> Vec<Package> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .expect("cargo runs this test, so it can be run");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice::<Metadata>(&output.stdout).expect("cargo metadata prints its own format").packages
}
