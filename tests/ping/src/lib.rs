//! A ping that runs while something else happens, and what it saw: which packets had no answer, and when.
//!
//! The command is `ping` of iputils, line by line (without `-q`), with `-D` for the times.

mod tally;

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use tally::Answer;
pub use tally::Tally;

/// What `ping` is asked for: numbers, times, and packets so many seconds apart.
pub const PING: [&str; 4] = ["ping", "-n", "-D", "-i"];

/// How long the last packets may take to be answered, before they count as lost.
const LAST_ANSWER: Duration = Duration::from_secs(10);

/// Ends with its owner, whatever becomes of it.
pub struct RunningPing {
    child: Child,
    reader: Option<JoinHandle<Tally>>,
    /// A message for each answer, until ping ends.
    answers: Receiver<Answer>,
}

impl RunningPing {
    /// Starts a command that is (or becomes) [`PING`].
    ///
    /// # Errors
    /// There is no such command.
    pub fn start(mut command: Command) -> Result<Self> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn();
        let mut child = child.context("start ping (Debian package iputils-ping)")?;
        let stdout = child.stdout.take().context("ping's output")?;
        let (answered, answers) = channel();
        // Nobody listens any more once ping is stopped.
        let reader = std::thread::spawn(move || read(stdout, |answer| answered.send(answer).unwrap_or(())));
        Ok(Self { child, reader: Some(reader), answers })
    }

    /// Waits for the answer to a packet that is sent from now on, and ends ping. What was sent before that packet
    /// has its answer by then; what was sent after it may be on its way, more than one on a slow machine, and does not
    /// count.
    ///
    /// # Errors
    /// Ping had ended by itself, or did not print its sums.
    pub fn stop(mut self) -> Result<Tally> {
        let end = self.wait_for_an_answer();
        kill_process(Pid::from_child(&self.child), Signal::INT).context("end ping")?;
        let reader = self.reader.take().context("ping is stopped once")?;
        let mut tally = reader.join().map_err(|_| anyhow::anyhow!("the reader of ping's lines panicked"))?;
        tally.end = end;
        self.child.wait().context("wait for ping")?;
        ensure!(tally.has_sums, "ping printed no sums: {tally}");
        Ok(tally)
    }

    /// The number of the packet; without one, all that was sent counts.
    fn wait_for_an_answer(&self) -> Option<u64> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs_f64();
        let deadline = Instant::now() + LAST_ANSWER;
        loop {
            let answer =
                self.answers.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()?;
            if answer.sent_at > now {
                return Some(answer.number);
            }
        }
    }
}

fn read(stdout: ChildStdout, answered: impl Fn(Answer)) -> Tally {
    let mut tally = Tally::default();
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        if let Some(answer) = tally.read(&line) {
            answered(answer);
        }
    }
    tally
}

impl Drop for RunningPing {
    fn drop(&mut self) {
        // Both fail where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
