//! A ping that runs while something else happens.

use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::Cluster;

/// Seconds between two packets.
const INTERVAL: &str = "0.05";

pub struct RunningPing {
    child: Child,
}

/// What the ping counted.
pub struct Tally {
    pub sent: u64,
    pub received: u64,
}

impl RunningPing {
    /// Starts pinging `address` from inside a pod.
    pub fn start(cluster: &Cluster, from: &str, address: &str) -> Result<Self> {
        let mut command: Command =
            cluster.lab(&["exec", from, "--", "ping", "-n", "-q", "-i", INTERVAL, address]);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start ping")?;
        Ok(Self { child })
    }

    /// Ends it and reads its last lines.
    pub fn stop(self) -> Result<Tally> {
        // The lab's exec replaces itself by the command, so the signal reaches ping, which then prints its sums.
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::INT).context("end ping")?;
        let output = self.child.wait_with_output().context("wait for ping")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        tally(&text).with_context(|| {
            format!("ping said {:?}{}", text.trim(), String::from_utf8_lossy(&output.stderr).trim())
        })
    }
}

impl Tally {
    /// Nothing was lost but, at most, the one packet that was on its way when ping was ended.
    pub fn lost(&self) -> u64 {
        (self.sent - self.received.min(self.sent)).saturating_sub(1)
    }
}

fn tally(text: &str) -> Option<Tally> {
    let line = text.lines().find(|line| line.contains("packets transmitted"))?;
    let mut numbers = line.split(", ").filter_map(|part| part.split(' ').next()?.parse().ok());
    Some(Tally { sent: numbers.next()?, received: numbers.next()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_last_lines_are_understood() {
        let tally = tally("\n--- 10.65.0.1 ping statistics ---\n40 packets transmitted, 38 received, 5% packet loss, time 8ms\n").unwrap();

        assert_eq!((tally.sent, tally.received, tally.lost()), (40, 38, 1));
    }
}
