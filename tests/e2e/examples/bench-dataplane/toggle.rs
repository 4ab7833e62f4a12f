//! A pool with a thousand remote blocks turns from direct routes to VXLAN and back: how long a node's routes take.
//!
//! `ip monitor` watches the routes that the agent owns. What IPIP costs is in bird-lite's `bench-kernel-routes`.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use e2e::Cluster;
use serde_json::{Value, json};

use crate::{Outcome, median, patch};

const BLOCKS: usize = 1000;
const POOL: &str = "thousand";
const MODES: [&str; 2] = ["Always", "Never"];
const ROUNDS: usize = 5;
/// A thousand routes do not take longer; nor does a new tunnel.
const PATIENCE: Duration = Duration::from_secs(60);
const DAY: f64 = 86_400.0;

pub fn measure(cluster: &Cluster) -> Outcome<()> {
    // No node takes a block of the other pool, nor an address for its tunnel.
    patch(
        cluster,
        "ippool",
        "default-ipv4-ippool",
        &json!({"spec": {"ipipMode": "Never", "vxlanMode": "Always"}}),
    );
    make_blocks(cluster)?;
    let mut monitor = Monitor::start(cluster)?;
    // Makes the tunnel.
    for mode in MODES {
        turn(cluster, mode, &mut monitor)?;
    }
    let mut figures = [const { [Vec::new(), Vec::new()] }; 2];
    for _ in 0..ROUNDS {
        for (mode, [writing, all]) in MODES.into_iter().zip(&mut figures) {
            let (until_last, first_to_last) = turn(cluster, mode, &mut monitor)?;
            writing.push(first_to_last);
            all.push(until_last);
        }
    }
    for (mode, figures) in MODES.into_iter().zip(figures) {
        let [writing, all] = figures.map(median);
        println!(
            "{BLOCKS} blocks to vxlanMode {mode}: first to last route {writing:.1} ms, from the change of the pool {all:.1} ms"
        );
    }
    Ok(())
}

/// n2 holds them all, as its own block shows how.
fn make_blocks(cluster: &Cluster) -> Outcome<()> {
    cluster.apply(&format!(
        "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{name: {POOL}}}\n\
         spec: {{cidr: 10.200.0.0/16, ipipMode: Never, vxlanMode: Never, nodeSelector: \"!all()\"}}\n"
    ));
    let get = |kind: &str| -> Outcome<Vec<Value>> {
        let list: Value = serde_json::from_str(&cluster.kubectl_ok(&["get", kind, "-o", "json"]))?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    };
    let block = get("ipamblocks")?.into_iter().find(|block| block["spec"]["affinity"] == "host:n2");
    let affinity = get("blockaffinities")?.into_iter().find(|affinity| affinity["spec"]["node"] == "n2");
    let (block, affinity) = block.zip(affinity).ok_or("n2 has no block")?;
    let mut items = Vec::new();
    for at in 0..BLOCKS {
        let address = [10, 200, (at / 4) as u8, (at % 4 * 64) as u8].map(|octet| octet.to_string());
        let (cidr, name) = (format!("{}/26", address.join(".")), format!("{}-26", address.join("-")));
        for (like, name) in [(&block, name.clone()), (&affinity, format!("n2-{name}"))] {
            let mut item = json!({"apiVersion": like["apiVersion"], "kind": like["kind"]});
            item["metadata"] = json!({"name": name});
            item["spec"] = like["spec"].clone();
            item["spec"]["cidr"] = json!(cidr);
            if like["kind"] == "IPAMBlock" {
                item["spec"]["allocations"] = json!(vec![Value::Null; 64]);
                item["spec"]["attributes"] = json!([]);
                item["spec"]["unallocated"] = json!((0..64).collect::<Vec<_>>());
            }
            items.push(item);
        }
    }
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
    let output = cluster.kubectl_with(&["create", "-f", "-"], &list);
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    let routes =
        || cluster.exec("n1", &["ip", "route"]).lines().filter(|line| line.starts_with("10.200.")).count();
    e2e::within(60, "n1 has all routes", routes, |count| *count == BLOCKS);
    Ok(())
}

/// Milliseconds from the change to the last route, and from the first to the last.
fn turn(cluster: &Cluster, mode: &str, monitor: &mut Monitor) -> Outcome<(f64, f64)> {
    let gone = mode == "Never";
    let start = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64() % DAY;
    patch(cluster, "ippool", POOL, &json!({"spec": {"vxlanMode": mode}}));
    let mut times = Vec::with_capacity(BLOCKS);
    while times.len() < BLOCKS {
        let (time, is_gone) = monitor.events.recv_timeout(PATIENCE)?;
        if is_gone == gone {
            times.push(time);
        }
    }
    let (first, last) = (times[0], times[BLOCKS - 1]);
    Ok(((last - start).rem_euclid(DAY) * 1e3, (last - first).rem_euclid(DAY) * 1e3))
}

/// When a route of the agent came or went, seconds of the day.
struct Monitor {
    child: Child,
    events: Receiver<(f64, bool)>,
}

impl Monitor {
    fn start(cluster: &Cluster) -> Outcome<Self> {
        let netns = format!("{}-n1", cluster.name());
        let mut child = Command::new("ip")
            .args(["-n", &netns, "-tshort", "-rcvbuf", "16777216", "monitor", "route"])
            .env("TZ", "UTC")
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or("ip has no output")?;
        let (sender, events) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if line.contains(" 10.200.") && line.contains("proto 80") && line.contains("/26 via") {
                    let event = (seconds(&line), line.contains("Deleted"));
                    if sender.send(event).is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Self { child, events })
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Of `[2026-01-31T23:59:59.123456] …`.
fn seconds(line: &str) -> f64 {
    let time = line.split_once('T').and_then(|(_, rest)| rest.split_once(']')).map(|(time, _)| time);
    let parts = time.unwrap_or_default().split(':').map(|part| part.parse::<f64>().unwrap_or_default());
    parts.fold(0.0, |sum, part| sum * 60.0 + part)
}
