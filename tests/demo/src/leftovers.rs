//! What the demo must not leave behind.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use crate::command::{run, until};
use crate::stage::Stage;

/// Namespaces, links, rules and processes of this machine.
pub struct Snapshot {
    things: BTreeSet<String>,
}

const DAEMONS: [&str; 7] = ["felix", "bird-lite", "controllers", "lab", "bird", "gobgpd", "bgpd"];

impl Snapshot {
    pub fn take() -> Self {
        let mut things = BTreeSet::new();
        add(&mut things, "namespace", Command::new("ip").args(["netns", "list"]), |line| {
            line.split(' ').next()
        });
        add(&mut things, "link", Command::new("ip").args(["-o", "link"]), link);
        add(&mut things, "rule", Command::new("iptables-save").args(["-t", "filter"]), |line| {
            line.contains("cali").then_some(line)
        });
        things.extend(processes());
        Self { things }
    }
}

/// Compares with what was there before; processes that are ending get a moment.
pub fn check(stage: &mut Stage, before: &Snapshot) {
    let (clean, left) = until(Duration::from_secs(5), || {
        let left: Vec<String> = Snapshot::take().things.difference(&before.things).cloned().collect();
        (left.is_empty(), left)
    });
    let saw = if clean { "namespaces, links, rules, processes".to_owned() } else { left.join(", ") };
    stage.check("nothing is left behind", clean, saw);
}

/// A link's name. The kernel's own `tunl0`, which stands in every namespace from the moment that its module is
/// loaded, is nobody's leftover as long as it is down.
fn link(line: &str) -> Option<&str> {
    let name = line.split(": ").nth(1)?;
    let is_fallback = name.starts_with("tunl0@NONE") && line.contains("state DOWN");
    (!is_fallback).then_some(name)
}

fn add(
    things: &mut BTreeSet<String>,
    kind: &str,
    command: &mut Command,
    name: impl Fn(&str) -> Option<&str>,
) {
    let text = run(command).unwrap_or_default();
    things.extend(text.lines().filter_map(name).map(|name| format!("{kind} {name}")));
}

fn processes() -> BTreeSet<String> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return BTreeSet::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let name = std::fs::read_to_string(entry.path().join("comm")).ok()?;
            DAEMONS.contains(&name.trim()).then(|| format!("process {} {pid}", name.trim()))
        })
        .collect()
}
