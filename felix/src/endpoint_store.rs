//! The pods of this node as the CNI plugin reported them, kept in files so that they outlive the process.
//!
//! One file a container ([`StateFiles`]), written before the kernel is touched.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use model::{LocalEndpoint, PodKey};
use proto::node::request::Attachment;
use serde::{Deserialize, Serialize};

use crate::state_files::StateFiles;

/// Longest container ID that is accepted; it becomes a file name.
const MAX_ID: usize = 200;

/// What is known of one container's interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredEndpoint {
    pub container_id: String,
    /// Interface inside the pod.
    pub interface: String,
    /// Name of the CNI network, part of the IPAM handle.
    pub network: String,
    /// Empty for runtimes that know no pods.
    pub namespace: String,
    pub pod: String,
    pub uid: String,
    pub host_interface: String,
    pub addresses: Vec<IpAddr>,
    pub mac: [u8; 6],
}

/// The endpoints of this node, in memory and on disk.
pub struct EndpointStore {
    files: StateFiles,
    endpoints: BTreeMap<String, StoredEndpoint>,
}

/// A file that could not be read; it is left where it is, and its name says which container it was about.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {path}: {reason}; its pod has no network until it is created anew", path = path.display())]
pub struct UnreadableFile {
    pub path: PathBuf,
    pub reason: String,
}

/// A container ID that is none.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is not a container ID: 1 to {MAX_ID} letters, digits, '_', '.' or '-', a letter or digit first"
)]
pub struct InvalidContainerId(String);

impl StoredEndpoint {
    /// As policy and routes see it.
    pub fn local(&self) -> LocalEndpoint {
        LocalEndpoint {
            container_id: self.container_id.clone(),
            pod: self.pod_key(),
            interface: self.host_interface.clone(),
            addresses: self.addresses.clone(),
            mac: self.mac,
        }
    }

    /// The pod, or for runtimes that know none a stand-in named after the container.
    pub fn pod_key(&self) -> PodKey {
        pod_key(&self.namespace, &self.pod, &self.container_id)
    }
}

/// The pod of a call, or for runtimes that know none a stand-in named after the container.
pub fn pod_key(namespace: &str, pod: &str, container_id: &str) -> PodKey {
    if namespace.is_empty() { PodKey::new("", container_id) } else { PodKey::new(namespace, pod) }
}

/// The IPAM handle of a container: `<network>.<container ID>`, Calico's rule.
pub fn handle(network: &str, container_id: &str) -> String {
    format!("{network}.{container_id}")
}

/// Refuses whatever could not be a file name of its own (CNI specification, parameters).
pub fn check_container_id(attachment: &Attachment) -> Result<(), InvalidContainerId> {
    let id = attachment.container_id.as_str();
    let is_plain = id.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    let begins_well = id.starts_with(|c: char| c.is_ascii_alphanumeric());
    if is_plain && begins_well && id.len() <= MAX_ID {
        Ok(())
    } else {
        Err(InvalidContainerId(id.chars().take(MAX_ID).collect()))
    }
}

impl EndpointStore {
    /// Where the files are.
    pub fn directory(state_dir: &Path) -> PathBuf {
        state_dir.join("endpoints")
    }

    /// Reads what an earlier run left; files that make no sense are named and skipped.
    pub fn open(state_dir: &Path) -> io::Result<(Self, Vec<UnreadableFile>)> {
        let (files, found) = StateFiles::open(Self::directory(state_dir))?;
        let mut endpoints = BTreeMap::new();
        let mut unreadable = Vec::new();
        for path in found {
            match read(&path) {
                Ok(endpoint) => {
                    endpoints.insert(endpoint.container_id.clone(), endpoint);
                }
                Err(reason) => unreadable.push(UnreadableFile { path, reason }),
            }
        }
        Ok((Self { files, endpoints }, unreadable))
    }

    /// Every endpoint, by container ID.
    pub fn iter(&self) -> impl Iterator<Item = &StoredEndpoint> {
        self.endpoints.values()
    }

    pub fn get(&self, container_id: &str) -> Option<&StoredEndpoint> {
        self.endpoints.get(container_id)
    }

    /// Keeps an endpoint; when this returns, it is on disk.
    ///
    /// Endpoints of other containers that used the same interface are forgotten and returned: a pod's new
    /// sandbox takes the interface over before the old one's DEL comes.
    pub fn put(&mut self, endpoint: StoredEndpoint) -> io::Result<Vec<StoredEndpoint>> {
        if self.endpoints.get(&endpoint.container_id) != Some(&endpoint) {
            self.files.put(&endpoint.container_id, &endpoint)?;
        }
        let replaced: Vec<_> = self
            .iter()
            .filter(|other| other.host_interface == endpoint.host_interface)
            .filter(|other| other.container_id != endpoint.container_id)
            .map(|other| other.container_id.clone())
            .collect();
        self.endpoints.insert(endpoint.container_id.clone(), endpoint);
        replaced.iter().map(|id| self.remove(id)).filter_map(Result::transpose).collect()
    }

    /// Forgets an endpoint; `None` when it was not known.
    pub fn remove(&mut self, container_id: &str) -> io::Result<Option<StoredEndpoint>> {
        if !self.endpoints.contains_key(container_id) {
            return Ok(None);
        }
        self.files.remove(container_id)?;
        Ok(self.endpoints.remove(container_id))
    }
}

fn read(path: &Path) -> Result<StoredEndpoint, String> {
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    let endpoint: StoredEndpoint = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    if path.file_stem().and_then(|stem| stem.to_str()) != Some(&endpoint.container_id) {
        return Err(format!("it is about container {:?}", endpoint.container_id));
    }
    Ok(endpoint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn endpoints_outlive_the_process() {
        let scratch = Scratch::new("store-outlive");
        let (mut store, _) = EndpointStore::open(scratch.path()).unwrap();
        store.put(endpoint("c1", "cali1")).unwrap();
        store.put(endpoint("c2", "cali2")).unwrap();
        store.remove("c1").unwrap();
        drop(store);

        let (store, unreadable) = EndpointStore::open(scratch.path()).unwrap();

        assert!(unreadable.is_empty());
        assert_eq!(store.iter().cloned().collect::<Vec<_>>(), [endpoint("c2", "cali2")]);
    }

    #[test]
    fn a_new_sandbox_takes_the_interface_over() {
        let scratch = Scratch::new("store-takeover");
        let (mut store, _) = EndpointStore::open(scratch.path()).unwrap();
        store.put(endpoint("old", "cali1")).unwrap();

        let replaced = store.put(endpoint("new", "cali1")).unwrap();

        assert_eq!(replaced, [endpoint("old", "cali1")]);
        assert_eq!(store.remove("old").unwrap(), None);
        assert_eq!(store.get("new"), Some(&endpoint("new", "cali1")));
    }

    #[test]
    fn what_was_half_written_or_is_nonsense_stops_nothing() {
        let scratch = Scratch::new("store-nonsense");
        let (mut store, _) = EndpointStore::open(scratch.path()).unwrap();
        store.put(endpoint("good", "cali1")).unwrap();
        let directory = scratch.path().join("endpoints");
        fs::write(directory.join("half.tmp"), "{").unwrap();
        fs::write(directory.join("bad.json"), "{").unwrap();
        fs::copy(directory.join("good.json"), directory.join("other.json")).unwrap();

        let (store, unreadable) = EndpointStore::open(scratch.path()).unwrap();

        assert_eq!(store.iter().count(), 1);
        assert_eq!(unreadable.len(), 2);
        assert!(!directory.join("half.tmp").exists());
    }

    #[test]
    fn a_container_id_cannot_leave_the_directory() {
        let check = |id: &str| {
            check_container_id(&Attachment { container_id: id.to_owned(), ..Attachment::default() })
        };
        for id in ["", "..", "../x", "a/b", ".hidden", "a\0", &"a".repeat(201)] {
            assert!(check(id).is_err(), "{id:?} was accepted");
        }
        assert!(check("3f0c_a.b-c").is_ok());
    }

    fn endpoint(container_id: &str, host_interface: &str) -> StoredEndpoint {
        StoredEndpoint {
            container_id: container_id.to_owned(),
            interface: "eth0".to_owned(),
            network: "k8s-pod-network".to_owned(),
            namespace: "default".to_owned(),
            pod: "web".to_owned(),
            uid: "u".to_owned(),
            host_interface: host_interface.to_owned(),
            addresses: vec!["10.65.0.1".parse().unwrap()],
            mac: [2, 0, 0, 0, 0, 1],
        }
    }
}
