//! What the documentation tells people to type is taken by the programs that it is for.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

/// The block of one language in a document.
fn block(document: &str, language: &str) -> String {
    let text = fs::read_to_string(docs().join(document)).unwrap();
    let start = text.split(&format!("```{language}\n")).nth(1).expect("the document has such a block");
    start.split("```").next().unwrap().to_owned()
}

/// What a program with these arguments and a file of this text says, and whether it takes it.
fn takes(program: &str, arguments: &[&str], text: &str) -> (bool, String) {
    let file = std::env::temp_dir().join(format!("ocicat-docs-{}-{program}", std::process::id()));
    fs::write(&file, text).unwrap();
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
    let output = Command::new(program).args(arguments).arg(&file).env("PATH", path).output();
    fs::remove_file(&file).unwrap();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error} (scripts/setup installs it)"));
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn bird_takes_the_example_of_a_router() {
    let example = block("tor.md", "bird");

    let (taken, said) = takes("bird", &["-p", "-c"], &example);
    assert!(taken, "{said}");
    let (taken, _) = takes("bird", &["-p", "-c"], &example.replace("import limit", "import limits"));
    assert!(!taken, "bird takes anything");
}

#[test]
fn frr_takes_the_example_of_a_router() {
    let example = block("tor.md", "frr");

    let (taken, said) = takes("vtysh", &["-C", "-f"], &example);
    assert!(taken, "{said}");
    let (taken, _) = takes("vtysh", &["-C", "-f"], &example.replace("maximum-paths", "maximal-paths"));
    assert!(!taken, "vtysh takes anything");
}

#[test]
fn the_index_leads_somewhere() {
    let text = fs::read_to_string(docs().join("README.md")).unwrap();
    let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());

    let lost: Vec<&str> = links.filter(|link| !docs().join(link).exists()).collect();
    assert!(lost.is_empty(), "docs/README.md leads nowhere: {lost:?}");
}
