//! Containers that are gone and whose addresses are still to be released, kept as files.
//!
//! The CNI plugin writes into the same directory while the agent is away, so that there is one queue and one
//! way through it. A file goes when its addresses are released, so a SIGKILL at any moment leaks nothing.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use proto::node::Request;
use proto::node::request::{Call, EndpointDown};
use proto::{decode_frame, encode_frame};

/// Larger files are no request of ours.
const MAX_FILE: u64 = 64 << 10;

/// The directory [`proto::node::DEL_QUEUE`].
pub struct DelQueue {
    directory: PathBuf,
}

/// One waiting DEL.
#[derive(Debug)]
pub struct Waiting {
    /// Name of its file.
    pub name: String,
    pub call: EndpointDown,
}

impl DelQueue {
    /// Opens the directory, making it if needed.
    pub fn open(directory: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        Ok(Self { directory: directory.to_owned() })
    }

    /// Keeps a DEL until it is done; returns the name of its file.
    pub fn put(&self, call: &EndpointDown) -> io::Result<String> {
        let attachment = call.attachment.clone().unwrap_or_default();
        let name = match attachment.interface.as_str() {
            "" | "eth0" => attachment.container_id,
            interface => format!("{}@{}", attachment.container_id, interface.replace('/', "_")),
        };
        let temporary = self.directory.join(format!(".{name}"));
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&encode_frame(&Request { call: Some(Call::EndpointDown(call.clone())) }))?;
        fs::rename(&temporary, self.directory.join(&name))?;
        Ok(name)
    }

    /// All that wait, oldest name first. What is no request is set aside, and its path returned.
    pub fn list(&self) -> io::Result<(Vec<Waiting>, Vec<PathBuf>)> {
        self.list_if(|_| true)
    }

    /// Those of one container; the files of others are not opened.
    pub fn of_container(&self, container_id: &str) -> io::Result<Vec<Waiting>> {
        let is_theirs = |name: &str| {
            name.strip_prefix(container_id).is_some_and(|rest| rest.is_empty() || rest.starts_with('@'))
        };
        self.list_if(is_theirs).map(|(waiting, _)| waiting)
    }

    fn list_if(&self, is_wanted: impl Fn(&str) -> bool) -> io::Result<(Vec<Waiting>, Vec<PathBuf>)> {
        let mut waiting = Vec::new();
        let mut set_aside = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name.starts_with('.') || !is_wanted(&name) {
                continue;
            }
            match read(&entry.path()) {
                Some(call) => waiting.push(Waiting { name, call }),
                None => {
                    let aside = self.directory.join(format!(".bad-{name}"));
                    let _ = fs::rename(entry.path(), &aside);
                    set_aside.push(aside);
                }
            }
        }
        waiting.sort_by(|a, b| a.name.cmp(&b.name));
        Ok((waiting, set_aside))
    }

    /// Forgets one that is done.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.directory.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn read(path: &Path) -> Option<EndpointDown> {
    let metadata = fs::symlink_metadata(path).ok()?;
    if !metadata.is_file() || metadata.len() > MAX_FILE {
        return None;
    }
    let bytes = fs::read(path).ok()?;
    match decode_frame::<Request>(&bytes).ok()??.0.call? {
        Call::EndpointDown(call) if call.attachment.is_some() => Some(call),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proto::node::request::Attachment;

    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn a_del_waits_until_it_is_done() {
        let scratch = Scratch::new("del-queue");
        let queue = DelQueue::open(&scratch.path().join("cni-del")).unwrap();

        let name = queue.put(&down("c1")).unwrap();
        queue.put(&down("c1")).unwrap();
        let (waiting, _) = queue.list().unwrap();
        queue.remove(&name).unwrap();
        queue.remove(&name).unwrap();

        assert_eq!(waiting.len(), 1);
        assert_eq!(waiting[0].call, down("c1"));
        assert!(queue.list().unwrap().0.is_empty());
    }

    #[test]
    fn a_container_finds_its_own_and_no_others() {
        let scratch = Scratch::new("del-own");
        let queue = DelQueue::open(scratch.path()).unwrap();
        let mut second = down("c1");
        second.attachment.as_mut().unwrap().interface = "net1".to_owned();
        for call in [&down("c1"), &second, &down("c10")] {
            queue.put(call).unwrap();
        }

        let names: Vec<_> = queue.of_container("c1").unwrap().into_iter().map(|w| w.name).collect();

        assert_eq!(names, ["c1", "c1@net1"]);
    }

    #[test]
    fn nonsense_is_set_aside_once() {
        let scratch = Scratch::new("del-nonsense");
        let queue = DelQueue::open(scratch.path()).unwrap();
        fs::write(scratch.path().join("c1"), [0, 0, 0, 9, 1]).unwrap();
        fs::write(scratch.path().join(".half"), "").unwrap();
        fs::create_dir(scratch.path().join("c2")).unwrap();
        queue.put(&down("c3")).unwrap();

        let (waiting, set_aside) = queue.list().unwrap();

        assert_eq!(waiting.len(), 1);
        assert_eq!(set_aside.len(), 2);
        assert!(queue.list().unwrap().1.is_empty());
    }

    fn down(container_id: &str) -> EndpointDown {
        let attachment = Attachment { container_id: container_id.to_owned(), ..Attachment::default() };
        EndpointDown { attachment: Some(attachment), addresses_only: false }
    }
}
