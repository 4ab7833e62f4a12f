//! Every manifest that is shipped applies cleanly, with strict validation, and again without a change.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};

use apiserver::{ApiServer, Handle};
use common::{Kubectl, listen};

fn manifests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../manifests")
}

fn with_server(body: impl FnOnce(&Kubectl)) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = ApiServer::builder().build().unwrap();
    let handle: Handle = runtime.block_on(async { server.serve(vec![listen()]).unwrap() });
    body(&Kubectl::new(&server.kubeconfig(&handle.url())));
    runtime.block_on(handle.stop());
}

#[test]
fn one_file_applies_and_applies_again() {
    with_server(|kubectl| {
        let path = manifests().join("ocicat.yaml").display().to_string();
        // Older ones check less, and the same.
        let strict: &[&str] =
            if kubectl.is_recent("strict validation") { &["--validate=strict"] } else { &[] };
        let apply = [&["apply", "-f", path.as_str()], strict].concat();

        let first = kubectl.run(&apply);
        let second = kubectl.run(&apply);

        assert!(first.lines().count() > 30 && !first.contains("Warning"), "{first}");
        // The selector of a budget is replaced as a whole, by which kubectl always takes it for a change.
        let is_budget = |line: &str| line.starts_with("poddisruptionbudget");
        let is_changed = |line: &&str| !line.ends_with("unchanged") && !is_budget(line);
        let changed: Vec<&str> = second.lines().filter(is_changed).collect();
        assert!(changed.is_empty(), "{changed:?}");

        // Descriptions come with the other file, over what is there.
        let crds = manifests().join("crds.yaml").display().to_string();
        if kubectl.is_recent("descriptions of fields") {
            kubectl.run(&["apply", "--server-side", "--force-conflicts", "--validate=strict", "-f", &crds]);
            let said = kubectl.run(&["explain", "ippools.spec.cidr"]);
            assert!(!said.contains("<empty>"), "{said}");
        }
    });
}

#[test]
fn every_overlay_applies() {
    with_server(|kubectl| {
        let strict: &[&str] =
            if kubectl.is_recent("strict validation") { &["--validate=strict"] } else { &[] };
        let apply = |path: &Path| {
            let path = path.display().to_string();
            kubectl.run(&[&["apply", "-f", path.as_str()], strict].concat())
        };
        apply(&manifests().join("ocicat.yaml"));
        // What the overlay for monitoring needs of the Prometheus operator.
        apply(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/prometheus-operator.yaml"));
        let definitions = ["podmonitors.monitoring.coreos.com", "prometheusrules.monitoring.coreos.com"];
        for definition in definitions {
            kubectl.run(&["wait", "--for=condition=Established", "--timeout=60s", "crd", definition]);
        }

        let mut kinds = String::new();
        for entry in std::fs::read_dir(manifests().join("rendered")).unwrap() {
            let path = entry.unwrap().path();
            let said = apply(&path);
            assert!(!said.contains("Warning"), "{}: {said}", path.display());
            kinds.push_str(&said);
        }
        for kind in
            ["podmonitor", "prometheusrule", "deployment.apps/calico-typha", "daemonset.apps/route-reflector"]
        {
            assert!(kinds.contains(kind), "{kind} is in no overlay: {kinds}");
        }

        // Beside Calico: every name is another one.
        if kubectl.is_recent("kustomize") {
            let path = manifests().join("migrate").display().to_string();
            let said = kubectl.run(&["apply", "--validate=strict", "-k", &path]);
            assert!(said.contains("daemonset.apps/calico-node-ocicat created"), "{said}");
        }
    });
}
