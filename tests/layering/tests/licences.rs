//! What is linked into the programs that ship carries only licences that deny.toml allows, and none of the
//! packages that it bans. (`make deny` asks cargo-deny, which also knows advisories.)

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde::Deserialize;

const SHIPPED: [&str; 7] = ["felix", "bird-lite", "route-reflector", "cni", "controllers", "typha", "ocicat"];
const BANNED: [&str; 5] = ["bgp-rs", "serde_yaml", "openssl", "openssl-sys", "aws-lc-rs"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    license: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dep>,
}

#[derive(Deserialize)]
struct Dep {
    pkg: String,
    dep_kinds: Vec<DepKind>,
}

#[derive(Deserialize)]
struct DepKind {
    kind: Option<String>,
}

#[test]
fn only_allowed_licences_are_shipped() {
    let shipped = shipped_packages();
    assert!(shipped.len() > 50, "the dependencies of the programs were not found: {shipped:?}");

    let refused: Vec<_> = shipped.iter().filter(|(_, licence)| !is_allowed(licence)).collect();

    assert!(refused.is_empty(), "not covered by deny.toml: {refused:?}");
}

#[test]
fn nothing_banned_is_shipped() {
    let shipped = shipped_packages();

    let banned: Vec<_> = BANNED.iter().filter(|name| shipped.contains_key(**name)).collect();

    assert!(banned.is_empty(), "{banned:?}");
}

#[test]
fn licence_expressions_are_understood() {
    for allowed in
        ["MIT", "MIT OR Apache-2.0", "MIT/Apache-2.0", "(MIT OR GPL-3.0) AND Unicode-3.0", "GPL-3.0 OR ISC"]
    {
        assert!(is_allowed(allowed), "{allowed}");
    }
    for refused in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT OR ISC) AND AGPL-3.0", "LGPL-2.1"] {
        assert!(!is_allowed(refused), "{refused}");
    }
}

/// Name and licence of everything that the programs link.
fn shipped_packages() -> BTreeMap<String, String> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--offline",
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
        ])
        .args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")])
        .output()
        .expect("cargo runs this test, so it can be run");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Metadata =
        serde_json::from_slice(&output.stdout).expect("cargo metadata prints its own format");
    let packages: BTreeMap<&str, &Package> = metadata.packages.iter().map(|p| (p.id.as_str(), p)).collect();
    let nodes: BTreeMap<&str, &Node> =
        metadata.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
    let is_program = |package: &&Package| SHIPPED.contains(&package.name.as_str());
    let mut next: Vec<&str> = metadata.packages.iter().filter(is_program).map(|p| p.id.as_str()).collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = next.pop() {
        if seen.insert(id) {
            let linked =
                nodes[id].deps.iter().filter(|dep| dep.dep_kinds.iter().any(|kind| kind.kind.is_none()));
            next.extend(linked.map(|dep| dep.pkg.as_str()));
        }
    }
    let described = |id: &str| (packages[id].name.clone(), packages[id].license.clone().unwrap_or_default());
    seen.into_iter().map(described).collect()
}

/// `AND` needs every part, `OR` (or the older `/`) one.
fn is_allowed(expression: &str) -> bool {
    let deny = include_str!("../../../deny.toml");
    let allowed: BTreeSet<&str> = deny
        .lines()
        .skip_while(|line| !line.starts_with("allow = ["))
        .skip(1)
        .take_while(|line| !line.starts_with(']'))
        .map(|line| line.trim().trim_end_matches(',').trim_matches('"'))
        .collect();
    let one_of = |part: &str| {
        let part = part.trim().trim_start_matches('(').trim_end_matches(')').replace('/', " OR ");
        part.split(" OR ").any(|licence| allowed.contains(licence.trim()))
    };
    expression.split(" AND ").all(one_of)
}
