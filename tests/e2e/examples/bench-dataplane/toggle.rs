//! How long a node takes to turn the routes to all blocks of a pool, from the first to the last.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use e2e::{Cluster, within};
use serde_json::{Value, json};

use crate::Outcome;

/// Remote blocks.
const BLOCKS: usize = 1000;
/// No change for so long: the node has turned everything.
const QUIET: Duration = Duration::from_secs(3);

/// Sets the VXLAN mode of the lab's pool.
pub fn pool(cluster: &Cluster, vxlan: &str) -> Outcome<()> {
    let patch = json!({"spec": {"ipipMode": "Never", "vxlanMode": vxlan}}).to_string();
    cluster.kubectl_ok(&["patch", "ippool", "default-ipv4-ippool", "--type", "merge", "-p", &patch]);
    Ok(())
}

/// Gives the second node a thousand blocks, and turns the pool forth and back while the first one is watched.
pub fn measure(cluster: &Cluster) -> Outcome<()> {
    give_blocks(cluster)?;
    let routes = || cluster.exec("n1", &["ip", "-4", "route", "show"]).matches("/26").count();
    within(120, "routes to all blocks", routes, |count| *count >= BLOCKS);
    for mode in ["Always", "Never", "Always", "Never"] {
        let (sender, lines) = mpsc::channel();
        let mut monitor = cluster
            .lab_command(&["exec", "n1", "--", "ip", "-4", "monitor", "route"])
            .stdout(Stdio::piped())
            .spawn()?;
        let output = monitor.stdout.take().ok_or("no output")?;
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = sender.send((Instant::now(), line));
            }
        });
        // The subscription takes a moment, and nothing tells of it.
        std::thread::sleep(Duration::from_secs(1));
        let asked = Instant::now();
        pool(cluster, mode)?;
        let (mut first, mut last, mut count) = (None, asked, 0);
        while let Ok((at, line)) = lines.recv_timeout(if count == 0 { QUIET * 10 } else { QUIET }) {
            if line.contains("/26") {
                first.get_or_insert(at);
                (last, count) = (at, count + 1);
            }
        }
        monitor.kill()?;
        monitor.wait()?;
        let first = first.unwrap_or(asked);
        println!(
            "vxlanMode {mode} with {BLOCKS} remote blocks: {count} changes of routes within {:.1} ms, the first {:.0} ms after kubectl began",
            (last - first).as_secs_f64() * 1e3,
            (first - asked).as_secs_f64() * 1e3,
        );
    }
    Ok(())
}

/// Blocks out of the lab's pool that the second node holds, and that have no address in use.
fn give_blocks(cluster: &Cluster) -> Outcome<()> {
    let text = cluster.kubectl_ok(&["get", "ipamblocks", "-o", "json"]);
    let present: Value = serde_json::from_str(&text)?;
    let taken: Vec<&str> = present["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|b| b["spec"]["cidr"].as_str())
        .collect();
    let mut items = Vec::new();
    for number in 0..1024 {
        let (third, fourth) = (number / 4, number % 4 * 64);
        let cidr = format!("10.65.{third}.{fourth}/26");
        if taken.contains(&cidr.as_str()) || items.len() >= 2 * BLOCKS {
            continue;
        }
        let name = format!("10-65-{third}-{fourth}-26");
        items.push(json!({
            "apiVersion": "projectcalico.org/v3", "kind": "BlockAffinity",
            "metadata": {"name": format!("n2-{name}")},
            "spec": {"cidr": cidr, "node": "n2", "state": "confirmed", "type": "host", "deleted": "false"},
        }));
        items.push(json!({
            "apiVersion": "projectcalico.org/v3", "kind": "IPAMBlock",
            "metadata": {"name": name},
            "spec": {
                "cidr": cidr, "affinity": "host:n2", "strictAffinity": false, "deleted": false,
                "allocations": vec![Value::Null; 64], "unallocated": (0..64).collect::<Vec<_>>(), "attributes": [],
            },
        }));
    }
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
    let output = cluster.kubectl_with(&["create", "-f", "-"], &list);
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned().into()),
    }
}
