//! The binary and its file: what is wrong is refused, and named.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::path::PathBuf;
use std::process::Command;

const GOOD: &str = "
routerId: 192.0.2.1
asNumber: 64512
clients: [192.0.2.0/24]
peers:
  - {address: 198.51.100.1, asNumber: 65000}
";

/// A file that goes away with it.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("reflector-{name}-{}.yaml", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Whether the binary takes a file, and all that it says.
fn check(path: &std::path::Path) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_route-reflector"))
        .arg("--check")
        .arg("--config")
        .arg(path)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

#[test]
fn a_good_file_is_taken() {
    let file = File::new("good", GOOD);

    assert_eq!(check(&file.0), (true, "1 client ranges, 1 peers: fine\n".to_owned()));
}

#[test]
fn what_is_wrong_is_refused_with_its_key_and_file() {
    let cases = [
        ("asNumber: 64512", "asNumber: many", "asNumber"),
        ("asNumber: 64512", "asNumber: 4294967296", "asNumber"),
        ("asNumber: 64512\n", "", "asNumber"),
        ("clients:", "client:", "client"),
        ("asNumber: 65000", "asn: 65000", "asn"),
        ("[192.0.2.0/24]", "[192.0.2.0/33]", "clients[0]"),
        ("198.51.100.1", "router.example", "address"),
        ("routerId: 192.0.2.1", "routerId: 0.0.0.0", "routerId"),
        ("asNumber: 64512", "asNumber: 64512\nholdTime: 2", "holdTime"),
        ("asNumber: 64512", "asNumber: 64512\nlisten: [192.0.2.1]", "listen"),
    ];
    for (i, (from, to, key)) in cases.into_iter().enumerate() {
        let file = File::new(&format!("bad{i}"), &GOOD.replacen(from, to, 1));

        let (taken, said) = check(&file.0);

        assert!(!taken, "{to:?} was taken");
        assert!(said.contains(key), "{to:?} does not name {key}: {said}");
        assert!(said.contains(file.0.to_str().unwrap()), "{to:?} does not name the file: {said}");
    }
}

#[test]
fn text_that_is_no_yaml_and_a_missing_file_are_errors_and_no_panic() {
    let files = [File::new("brace", "routerId: {"), File::new("empty", ""), File::new("list", "- 1\n- 2\n")];
    for file in &files {
        let (taken, said) = check(&file.0);
        assert!(!taken && !said.contains("panicked"), "{said}");
    }

    let (taken, said) = check("/nonexistent/reflector.yaml".as_ref());

    assert!(!taken && said.contains("/nonexistent/reflector.yaml"), "{said}");
}

#[test]
fn the_example_is_taken() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/route-reflector.yaml");

    let (taken, said) = check(example.as_ref());

    assert!(taken, "{said}");
}
