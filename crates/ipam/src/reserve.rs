//! Addresses that a node holds ready for its next pods.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// Addresses that a pod got from the node's reserve, as long as the block does not say so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Who has them: `<network>.<container ID>`.
    pub handle: String,
    pub addresses: Vec<IpAddr>,
    /// What the block is to show beside each.
    pub attributes: BTreeMap<String, String>,
    /// The container is gone, and its addresses rest since then: seconds since the epoch ([`rest_from`]).
    ///
    /// [`rest_from`]: crate::rest_from
    pub released_at: Option<u64>,
}
