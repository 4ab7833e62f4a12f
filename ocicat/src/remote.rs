//! A conversation with an agent of another node by `kubectl exec`: a program in the agent's pod joins the octets to the
//! agent's socket. Owns the processes and their limits of time.

use std::io::{self, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proto::FrameError;

use crate::kubectl::{Kubectl, last_line};
use crate::table::plain;

/// How long nothing may come: the API server and the kubelet stand between.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a program that has ended may take for its last words.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Octets of complaints that are kept.
const MOST_WORDS: u64 = 4096;

/// The running program; dropped, it ends.
pub(crate) struct Remote {
    child: Arc<Mutex<Child>>,
    input: ChildStdin,
    output: ChildStdout,
    complaints: Receiver<String>,
    /// One for each time that something came; closing it ends the watch.
    came: Sender<()>,
    was_late: Arc<AtomicBool>,
}

impl Remote {
    /// # Errors
    /// In words: `kubectl` cannot be started.
    pub(crate) fn start(
        kubectl: &Kubectl,
        pod: (&str, &str),
        container: &str,
        program: &[&str],
    ) -> Result<Self, String> {
        let mut command = kubectl.exec(pod, container, program);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("kubectl cannot be started: {error}"))?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(input), Some(output), Some(errors)) = pipes else {
            return Err("kubectl was started without pipes".to_owned());
        };
        let (said, complaints) = mpsc::channel();
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = errors.take(MOST_WORDS).read_to_end(&mut text);
            let _ = said.send(String::from_utf8_lossy(&text).into_owned());
        });
        let (child, was_late) = (Arc::new(Mutex::new(child)), Arc::new(AtomicBool::new(false)));
        let (came, comes) = mpsc::channel();
        let (watched, late) = (child.clone(), was_late.clone());
        std::thread::spawn(move || watch(&comes, &watched, &late));
        Ok(Self { child, input, output, complaints, came, was_late })
    }

    /// Why nothing came.
    pub(crate) fn reason(&self, error: &FrameError) -> String {
        end(&self.child);
        if self.was_late.load(Ordering::Relaxed) {
            return format!("no answer within {} s", PATIENCE.as_secs());
        }
        let said = self.complaints.recv_timeout(LAST_WORDS).unwrap_or_default();
        last_line(&said).map_or_else(|| error.to_string(), plain)
    }
}

/// Ends a program from which nothing comes for too long.
fn watch(comes: &Receiver<()>, child: &Mutex<Child>, was_late: &AtomicBool) {
    loop {
        match comes.recv_timeout(PATIENCE) {
            Ok(()) => {}
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                was_late.store(true, Ordering::Relaxed);
                return end(child);
            }
        }
    }
}

fn end(child: &Mutex<Child>) {
    let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
    // Both fail only for one that is gone.
    let _ = child.kill();
    let _ = child.wait();
}

impl Read for Remote {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.output.read(buffer)?;
        if count > 0 {
            // The watch has ended when the program was too late; then nothing comes any more.
            let _ = self.came.send(());
        }
        Ok(count)
    }
}

impl Write for Remote {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.input.write(octets)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.input.flush()
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        end(&self.child);
    }
}
