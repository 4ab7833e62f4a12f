//! A directory of small JSON files, one a thing, that outlives the process.
//!
//! Each is replaced atomically, so that a SIGKILL at any moment leaves either the old or the new state. The directories
//! are on a tmpfs: what they tell of does not outlive a reboot either, and nothing has to be synced to a disk.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// The directory; names are without the ending `.json`.
pub struct StateFiles {
    directory: PathBuf,
}

impl StateFiles {
    /// Opens the directory, making it if needed. Returns the files that an earlier run left, without half-written ones.
    ///
    /// # Errors
    /// When the directory cannot be made or listed.
    pub fn open(directory: PathBuf) -> io::Result<(Self, Vec<PathBuf>)> {
        fs::create_dir_all(&directory)?;
        let mut files = Vec::new();
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("json") => files.push(path),
                // A write that was interrupted: whoever waited for it was told nothing.
                Some("tmp") => drop(fs::remove_file(&path)),
                _ => {}
            }
        }
        Ok((Self { directory }, files))
    }

    /// Keeps a thing; when this returns, it outlives the process.
    ///
    /// # Errors
    /// When it cannot be written, such as on a full disk; then an earlier state is still there.
    pub fn put(&self, name: &str, thing: &impl Serialize) -> io::Result<()> {
        let path = self.path(name);
        let temporary = path.with_extension("tmp");
        fs::write(&temporary, serde_json::to_vec(thing)?)?;
        fs::rename(&temporary, &path)
    }

    /// Forgets a thing.
    ///
    /// # Errors
    /// When the file cannot be deleted; one that is not there is no error.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.json"))
    }
}

/// Puts a file that makes no sense out of the way, for people to look at; returns where it is.
pub fn set_aside(path: &Path) -> PathBuf {
    let aside = path.with_extension("bad");
    let _ = fs::rename(path, &aside);
    aside
}
