//! Addresses that were drawn from the node's reserve and that the block does not show yet, kept as files.
//!
//! One file a container ([`StateFiles`]), written before ADD hears of its addresses: no address that a pod has is
//! forgotten. A file goes when the block says what it says.
//!
//! ```json
//! {"handle": "k8s-pod-network.3f0c", "addresses": ["10.65.0.7"], "attributes": {"node": "n1", "pod": "web"},
//!  "releasedAt": 1767225600}
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipam::Draw;
use serde::{Deserialize, Serialize};

use crate::state_files::{StateFiles, set_aside};

/// Name of the directory in the state directory.
const DIRECTORY: &str = "draws";
/// Longer names of files are cut; the file says itself which handle it is about.
const MAX_NAME: usize = 200;

/// The directory of draws.
pub struct DrawJournal {
    files: StateFiles,
}

/// What a file says.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    handle: String,
    addresses: Vec<IpAddr>,
    attributes: BTreeMap<String, String>,
    /// Seconds since the epoch, rounded up; the container is gone, and its addresses rest since then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    released_at: Option<u64>,
}

impl DrawJournal {
    /// Opens the directory, making it if needed, and reads what an earlier run left. Files that make no sense are
    /// set aside and returned.
    ///
    /// # Errors
    /// When the directory cannot be made or listed.
    pub fn open(state_dir: &Path) -> io::Result<(Self, Vec<Draw>, Vec<PathBuf>)> {
        let (files, found) = StateFiles::open(state_dir.join(DIRECTORY))?;
        let (mut draws, mut senseless) = (Vec::new(), Vec::new());
        for path in found {
            match read(&path) {
                Some(draw) => draws.push(draw),
                None => senseless.push(set_aside(&path)),
            }
        }
        Ok((Self { files }, draws, senseless))
    }

    /// Keeps a draw; when this returns, it outlives the process.
    ///
    /// # Errors
    /// When it cannot be written, such as on a full disk; then an earlier state of the draw is still there.
    pub fn put(&self, draw: &Draw) -> io::Result<()> {
        let entry = Entry {
            handle: draw.handle.clone(),
            addresses: draw.addresses.clone(),
            attributes: draw.attributes.clone(),
            released_at: draw.released_at,
        };
        self.files.put(&file_name(&draw.handle), &entry)
    }

    /// Forgets a draw that the block shows.
    ///
    /// # Errors
    /// When the file cannot be deleted; one that is not there is no error.
    pub fn remove(&self, handle: &str) -> io::Result<()> {
        self.files.remove(&file_name(handle))
    }
}

/// A name of its own for every handle: what is not plain is escaped, what is long ends in a hash.
fn file_name(handle: &str) -> String {
    let mut name = String::new();
    for byte in handle.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(byte)),
            b'.' if !name.is_empty() => name.push('.'),
            _ => name.push_str(&format!("%{byte:02x}")),
        }
    }
    if name.len() > MAX_NAME {
        name.truncate(MAX_NAME - 17);
        name.push_str(&format!("%{:016x}", ipam::fnv64(handle)));
    }
    name
}

fn read(path: &Path) -> Option<Draw> {
    let entry: Entry = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let Entry { handle, addresses, attributes, released_at } = entry;
    (!addresses.is_empty()).then_some(Draw { handle, addresses, attributes, released_at })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn draws_outlive_the_process_until_they_are_written() {
        let scratch = Scratch::new("draws-outlive");
        let (journal, _, _) = DrawJournal::open(scratch.path()).unwrap();
        let released = Draw { released_at: Some(7), ..draw("net.c1") };
        journal.put(&draw("net.c1")).unwrap();
        journal.put(&draw("net.c2")).unwrap();
        journal.put(&released).unwrap();
        journal.remove("net.c2").unwrap();
        journal.remove("net.c2").unwrap();

        let (_, draws, set_aside) = DrawJournal::open(scratch.path()).unwrap();

        assert_eq!((draws, set_aside), (vec![released], vec![]));
    }

    #[test]
    fn handles_stay_apart_and_in_the_directory() {
        let scratch = Scratch::new("draws-names");
        let (journal, _, _) = DrawJournal::open(scratch.path()).unwrap();
        let long = "n".repeat(300);
        let handles = ["../x.1", "my net/1", "my net_1", ".h", &format!("{long}.1"), &format!("{long}.2")];
        for handle in handles {
            journal.put(&draw(handle)).unwrap();
        }

        let (_, draws, _) = DrawJournal::open(scratch.path()).unwrap();

        let mut found: Vec<_> = draws.iter().map(|draw| draw.handle.as_str()).collect();
        let mut expected = handles.to_vec();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_was_half_written_or_is_nonsense_stops_nothing() {
        let scratch = Scratch::new("draws-nonsense");
        let (journal, _, _) = DrawJournal::open(scratch.path()).unwrap();
        journal.put(&draw("net.good")).unwrap();
        let directory = scratch.path().join("draws");
        fs::write(directory.join("half.tmp"), "{").unwrap();
        fs::write(directory.join("bad.json"), r#"{"handle": "h", "addresses": ["10.0.0.300"]}"#).unwrap();

        let (_, draws, set_aside) = DrawJournal::open(scratch.path()).unwrap();

        assert_eq!((draws.len(), set_aside), (1, vec![directory.join("bad.bad")]));
        assert!(DrawJournal::open(scratch.path()).unwrap().2.is_empty());
    }

    fn draw(handle: &str) -> Draw {
        Draw {
            handle: handle.to_owned(),
            addresses: vec!["10.65.0.7".parse().unwrap()],
            attributes: [("pod".to_owned(), "web".to_owned())].into(),
            released_at: None,
        }
    }
}
