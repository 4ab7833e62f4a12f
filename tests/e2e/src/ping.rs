//! A ping that runs while something else happens.

use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// Ends with the test, whatever becomes of it.
pub struct RunningPing {
    child: Option<Child>,
}

/// What ping counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    pub sent: u64,
    pub received: u64,
}

impl Tally {
    /// Packets without an answer; one may still be on its way when ping is ended.
    pub fn lost(self) -> u64 {
        (self.sent - self.received.min(self.sent)).saturating_sub(1)
    }
}

impl RunningPing {
    /// Starts a command that is (or becomes) ping.
    pub fn start(mut command: Command) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn();
        Self { child: Some(child.expect("ping starts (Debian package iputils-ping)")) }
    }

    /// Ends it and reads its sums.
    pub fn stop(mut self) -> Tally {
        let child = self.child.take().expect("stop is called once");
        kill_process(Pid::from_child(&child), Signal::INT).expect("ping is still running");
        let output = child.wait_with_output().expect("ping ends");
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().find(|line| line.contains("packets transmitted"));
        let line = line.unwrap_or_else(|| panic!("ping printed no sums: {text:?}"));
        let mut numbers = line.split(", ").filter_map(|part| part.split(' ').next()?.parse().ok());
        Tally { sent: numbers.next().unwrap(), received: numbers.next().unwrap() }
    }
}

impl Drop for RunningPing {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
