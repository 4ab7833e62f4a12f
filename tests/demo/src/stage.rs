//! What the audience sees: acts, steps with ✓ or ✗, and a progress line for what takes longer.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Counts what held and what did not.
pub struct Stage {
    held: usize,
    broken: Vec<String>,
    started: Instant,
}

impl Stage {
    pub fn new() -> Self {
        Self { held: 0, broken: Vec::new(), started: Instant::now() }
    }

    /// Opens a chapter.
    pub fn act(&mut self, title: &str) {
        println!("\n━━ {title} {}", "━".repeat(72usize.saturating_sub(title.chars().count())));
    }

    /// Says what comes next.
    pub fn say(&mut self, text: impl Display) {
        println!("\n{text}");
    }

    /// Shows the output of a command, indented.
    pub fn show(&mut self, output: &str) {
        for line in output.trim_end().lines() {
            println!("    {line}");
        }
    }

    /// Shows a command as the audience could type it.
    pub fn typed(&mut self, command: impl Display) {
        println!("  $ {command}");
    }

    /// Ends a step; `saw` is what was seen when it does not hold, and a remark when it does.
    pub fn check(&mut self, expected: &str, holds: bool, saw: impl Display) -> bool {
        if holds {
            self.held += 1;
            println!("  ✓ {expected} ({saw})");
        } else {
            self.broken.push(expected.to_owned());
            println!("  ✗ expected: {expected}\n    seen: {saw}");
        }
        holds
    }

    /// Ends a step that may have failed to run at all.
    pub fn attempt<T>(&mut self, expected: &str, outcome: anyhow::Result<T>) -> Option<T> {
        match outcome {
            Ok(value) => Some(value),
            Err(error) => {
                self.check(expected, false, format!("{error:#}"));
                None
            }
        }
    }

    /// Runs `work` with a line that counts the seconds, when it takes longer than one.
    pub fn progress<T>(&mut self, what: &str, work: impl FnOnce() -> T) -> T {
        let ticker = Ticker::start(what.to_owned());
        let result = work();
        ticker.stop();
        result
    }

    /// Adds what another process played.
    pub fn adopt(&mut self, what: &str, succeeded: bool) {
        if !succeeded {
            self.broken.push(what.to_owned());
        }
    }

    /// The last line, and the exit status.
    pub fn curtain(self) -> ExitCode {
        let seconds = self.started.elapsed().as_secs();
        println!();
        if self.broken.is_empty() {
            println!("✓ {} checks held, in {seconds} s", self.held);
            return ExitCode::SUCCESS;
        }
        println!(
            "✗ {} of {} checks did not hold, in {seconds} s:",
            self.broken.len(),
            self.held + self.broken.len()
        );
        for broken in &self.broken {
            println!("    {broken}");
        }
        ExitCode::FAILURE
    }
}

/// Set for a process whose output only looks like a terminal, as inside the virtual machine.
pub const PLAIN: &str = "DEMO_PLAIN";

/// Is the audience at a terminal, where a line can be written again?
pub fn can_rewrite() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os(PLAIN).is_none()
}

/// Prints elapsed seconds until it is told to stop.
struct Ticker {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Ticker {
    fn start(what: String) -> Self {
        let (stop, stopped) = mpsc::channel::<()>();
        let thread = thread::spawn(move || {
            let begin = Instant::now();
            let rewrite = can_rewrite();
            let mut shown = false;
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(Duration::from_secs(1)) {
                let seconds = begin.elapsed().as_secs();
                // A log gets a line now and then, a terminal one line that counts.
                if rewrite {
                    print!("\r  … {what}, {seconds} s ");
                } else if seconds == 1 || seconds.is_multiple_of(10) {
                    println!("  … {what}, {seconds} s");
                }
                shown = rewrite;
                let _ = std::io::stdout().flush();
            }
            if shown {
                print!("\r\x1b[2K");
                let _ = std::io::stdout().flush();
            }
        });
        Self { stop, thread }
    }

    fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}
