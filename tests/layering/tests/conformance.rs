//! `docs/conformance.md` and `docs/conformance-ipam.md` speak of every scenario, and of tests that exist.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

#[test]
fn every_scenario_has_its_line_and_every_test_that_is_named_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let tests = tests(&root);
    for (document, expected) in [("docs/conformance.md", 1..=152), ("docs/conformance-ipam.md", 55..=91)] {
        let text = std::fs::read_to_string(root.join(document)).expect(document);
        check(document, &text, expected, &tests);
    }
}

fn check(document: &str, text: &str, expected: RangeInclusive<u32>, tests: &BTreeSet<String>) {
    let missing: Vec<&str> = text
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|name| name.contains('_') && !tests.contains(*name))
        .collect();
    let mut scenarios = BTreeSet::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("| ")) {
        let numbers = line.split('|').next().unwrap_or_default();
        let list: Vec<u32> = numbers.split([' ', ',']).filter_map(|word| word.parse().ok()).collect();
        match (list.as_slice(), numbers.contains(" to ")) {
            ([first, last], true) => scenarios.extend(*first..=*last),
            _ => scenarios.extend(list),
        }
    }

    assert!(missing.is_empty(), "{document}: these tests do not exist: {missing:?}");
    assert_eq!(scenarios, expected.collect(), "{document}: one line a scenario");
}

/// The names of all functions in the workspace's sources.
fn tests(root: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut folders: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name();
            if path.is_dir() && name != "target" && name != ".git" {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let source = std::fs::read_to_string(&path).unwrap_or_default();
                let functions = source.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next());
                names.extend(functions.map(str::to_owned));
            }
        }
    }
    names
}
