//! Which speakers are asked. Owns where their sockets are looked for.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use super::AGENT;
use crate::client::CallError;

/// Where a node's speaker and a route reflector listen unless told otherwise.
const PLACES: [&str; 2] = ["/var/run/calico/bird-lite.sock", "/run/route-reflector.sock"];
/// Labs of this machine: `<lab>/<node>/bird-lite.sock`.
const LABS: &str = "/run/ocicat-lab";

/// Who is asked: every speaker of this machine unless one is named; a summary tells of other nodes of the cluster, too.
#[derive(Args, Debug)]
pub(crate) struct Target {
    /// Unix socket of the one speaker to ask
    #[arg(long, env = "OCICAT_BGP_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Only the speaker of this node
    #[arg(long, value_name = "NAME", conflicts_with = "socket")]
    node: Option<String>,
    /// Only speakers of this machine: the cluster is not asked
    #[arg(long)]
    local: bool,
}

impl Target {
    /// One speaker was named by its socket: its answer is not put into a list.
    pub(crate) fn is_single(&self) -> bool {
        self.socket.is_some()
    }

    /// The cluster is not to be asked.
    pub(crate) fn is_local(&self) -> bool {
        self.local
    }

    /// Name of the node that is asked about.
    pub(crate) fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }

    /// The sockets to ask, in order of their paths.
    pub(crate) fn sockets(&self) -> Result<Vec<PathBuf>, CallError> {
        if let Some(socket) = &self.socket {
            return Ok(vec![socket.clone()]);
        }
        let found = find(PLACES.iter().map(Path::new), Path::new(LABS));
        if found.is_empty() {
            let tried = PLACES.iter().map(|p| (*p).to_owned());
            let tried = tried.chain([format!("{LABS}/*/*/bird-lite.sock")]).collect();
            return Err(CallError::Nowhere { agent: AGENT, tried });
        }
        Ok(found)
    }
}

fn find<'a>(places: impl Iterator<Item = &'a Path>, labs: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = places.filter(|place| place.exists()).map(Path::to_owned).collect();
    let nodes = entries(labs).into_iter().flat_map(|lab| entries(&lab));
    let mut in_labs: Vec<PathBuf> =
        nodes.map(|node| node.join("bird-lite.sock")).filter(|socket| socket.exists()).collect();
    in_labs.sort();
    found.append(&mut in_labs);
    found
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_speaker_of_every_lab_is_found() {
        let root = std::env::temp_dir().join(format!("ocicat-sockets-{}", std::process::id()));
        for node in ["a/n2", "a/n1", "b/n1"] {
            fs::create_dir_all(root.join(node)).unwrap();
            fs::write(root.join(node).join("bird-lite.sock"), "").unwrap();
        }
        fs::create_dir_all(root.join("a/tor")).unwrap();
        let place = root.join("a/n1/bird-lite.sock");

        let found = find([place.as_path(), Path::new("/nonexistent/x")].into_iter(), &root);

        fs::remove_dir_all(&root).unwrap();
        let names: Vec<_> = found.iter().map(|p| p.strip_prefix(&root).unwrap().to_str().unwrap()).collect();
        let (n1, n2) = ("a/n1/bird-lite.sock", "a/n2/bird-lite.sock");
        assert_eq!(names, [n1, n1, n2, "b/n1/bird-lite.sock"]);
    }
}
