//! The file of a recording. Owns when one runs and where it goes; what is in it is the speaker's.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use bgp::Speaker;

/// Most octets of one recording: it is for a failure, not for a month.
const MAX_OCTETS: u64 = 4 << 30;

/// Whether a recording runs, shared by those who switch it and the loop that feeds it.
#[derive(Clone, Debug, Default)]
pub struct Recording(Arc<Mutex<Option<Open>>>);

#[derive(Debug)]
struct Open {
    path: PathBuf,
    file: BufWriter<File>,
    written: u64,
}

impl Recording {
    fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        self.0.lock().expect("nobody panics while holding it")
    }

    /// Begins a recording in a new file that only root can read. Only one that begins with the speaker, at the
    /// `now` that it was made with, can be compared when it is replayed.
    ///
    /// # Errors
    /// What the file system says; `AlreadyExists` for a file that is there, and when a recording runs.
    pub fn start(&self, path: &Path, speaker: &mut Speaker, now: Instant) -> io::Result<()> {
        let mut open = self.lock();
        if let Some(open) = &*open {
            let running = format!("a recording runs already, into {}", open.path.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, running));
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        speaker.start_recording(now);
        *open = Some(Open { path: path.to_owned(), file: BufWriter::new(file), written: 0 });
        tracing::info!(path = %path.display(), "recording begins");
        Ok(())
    }

    /// Ends the recording. Gives back its file; `None` when there was none.
    pub fn stop(&self, speaker: &mut Speaker) -> Option<PathBuf> {
        self.take(speaker);
        speaker.stop_recording();
        let open = self.lock().take()?;
        tracing::info!(path = %open.path.display(), octets = open.written, "recording ends");
        Some(open.path)
    }

    /// The file that is written.
    pub fn path(&self) -> Option<PathBuf> {
        self.lock().as_ref().map(|open| open.path.clone())
    }

    /// Writes what the speaker has recorded meanwhile; a file that cannot be written ends the recording.
    pub(crate) fn take(&self, speaker: &mut Speaker) {
        let mut guard = self.lock();
        let Some(open) = &mut *guard else { return };
        if let Err(error) = open.take(speaker) {
            tracing::warn!(path = %open.path.display(), %error, "recording ends");
            *guard = None;
            speaker.stop_recording();
        }
    }
}

impl Open {
    fn take(&mut self, speaker: &mut Speaker) -> io::Result<()> {
        let before = self.written;
        while let Some(line) = speaker.poll_record() {
            writeln!(self.file, "{line}")?;
            self.written += line.len() as u64 + 1;
        }
        if self.written > MAX_OCTETS {
            return Err(io::Error::other("the recording is too long"));
        }
        if self.written > before { self.file.flush() } else { Ok(()) }
    }
}
