//! Daemons are killed and come back; the packets do not notice.

use std::time::Duration;

use anyhow::{Context, Result};
use ping::{RunningPing, Tally};

use crate::cluster::{Cluster, Pod};
use crate::command::{run, until};
use crate::stage::Stage;

pub fn loses_nothing(stage: &mut Stage, cluster: &Cluster, pods: &[Pod]) {
    stage.say("While a ping runs between pods of two subnets, felix and then bird-lite are killed (SIGKILL) and come back.");
    let find = |suffix: &str| pods.iter().find(|pod| pod.name.ends_with(suffix));
    let (Some(from), Some(to)) = (find("client-1"), find("web-3")) else {
        stage.check("there is a pod on the first and on the last node", false, "they are missing");
        return;
    };
    stage.typed(format!("lab exec {} -- ping -i 0.05 {} &", from.name, to.address));
    for daemon in ["felix", "bird-lite"] {
        stage.typed(format!("lab kill n1 {daemon}"));
        let outcome =
            stage.progress(&format!("{daemon} restarts"), || kill_under_ping(cluster, from, to, daemon));
        let Some(tally) = stage.attempt(&format!("{daemon} is killed and comes back"), outcome) else {
            continue;
        };
        let lost = tally.lost();
        stage.check(
            &format!("no packet is lost while {daemon} restarts"),
            lost == 0 && tally.sent > 20,
            &tally,
        );
    }
}

fn kill_under_ping(cluster: &Cluster, from: &Pod, to: &Pod, daemon: &str) -> Result<Tally> {
    let ping = RunningPing::start(cluster.ping(&from.name, &to.address))?;
    std::thread::sleep(Duration::from_millis(500));
    let killed = run(&mut cluster.lab(&["kill", "n1", daemon]));
    // Not a wait for luck: long enough that a flush on exit or on start would show as lost packets.
    std::thread::sleep(Duration::from_millis(2500));
    let (back, nodes) = until(Duration::from_secs(120), || {
        let nodes = cluster.quiet_kubectl(&["get", "nodes"]);
        (nodes.as_ref().is_ok_and(|text| text.matches(" Ready ").count() == 3), nodes)
    });
    let tally = ping.stop()?;
    killed?;
    anyhow::ensure!(back, "nodes are not Ready again: {}", nodes.context("kubectl get nodes")?);
    Ok(tally)
}
