//! Where the sockets of agents are looked for: in their places, and in the labs of this machine.

use std::fs;
use std::path::{Path, PathBuf};

/// Labs of this machine: `<lab>/<node>/<name of the socket>`.
pub(crate) const LABS: &str = "/run/ocicat-lab";

/// Which of `places` are there, and every socket called `name` in `labs`, in order.
pub(crate) fn find<'a>(places: impl Iterator<Item = &'a Path>, labs: &Path, name: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = places.filter(|place| place.exists()).map(Path::to_owned).collect();
    let nodes = entries(labs).into_iter().flat_map(|lab| entries(&lab));
    let mut in_labs: Vec<PathBuf> =
        nodes.map(|node| node.join(name)).filter(|socket| socket.exists()).collect();
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

        let found = find([place.as_path(), Path::new("/nonexistent/x")].into_iter(), &root, "bird-lite.sock");

        fs::remove_dir_all(&root).unwrap();
        let names: Vec<_> = found.iter().map(|p| p.strip_prefix(&root).unwrap().to_str().unwrap()).collect();
        let (n1, n2) = ("a/n1/bird-lite.sock", "a/n2/bird-lite.sock");
        assert_eq!(names, [n1, n1, n2, "b/n1/bird-lite.sock"]);
    }
}
