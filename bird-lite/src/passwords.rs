//! Passwords of sessions. Owns what is wrong when one cannot be had, in words that name the Secret; the passwords
//! themselves are never shown.

use bgp::Password;
use model::{Secret, SecretKey};

use crate::cluster::Cluster;

/// Longest key that the kernel takes for TCP MD5 (`TCP_MD5SIG_MAXKEYLEN`).
const LONGEST: usize = 80;

/// The password, or what is missing.
pub(crate) fn password(cluster: &Cluster, wanted: &SecretKey) -> Result<Password, String> {
    let SecretKey { name, key } = wanted;
    if name.is_empty() || key.is_empty() {
        return Err("password.secretKeyRef names no Secret and key".to_owned());
    }
    let namespace = &cluster.namespace;
    let entries = match cluster.secrets.get(name) {
        Some(Secret::Present(entries)) => entries,
        Some(Secret::Absent) => return Err(format!("there is no Secret {name} in namespace {namespace}")),
        Some(Secret::Unreadable(why)) => {
            return Err(format!("Secret {namespace}/{name} cannot be read: {why}"));
        }
        None => return Err(format!("Secret {namespace}/{name} has not been read yet")),
    };
    match entries.get(key).map(|password| password.reveal()) {
        None => Err(format!("Secret {namespace}/{name} has no text under the key {key}")),
        Some("") => Err(format!("Secret {namespace}/{name} is empty under the key {key}")),
        Some(text) if text.len() > LONGEST => {
            Err(format!("Secret {namespace}/{name} key {key} is longer than {LONGEST} octets"))
        }
        Some(text) => Ok(Password::new(text.to_owned())),
    }
}
