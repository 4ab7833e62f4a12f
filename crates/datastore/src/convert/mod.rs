//! From API objects to `model`, as pure functions.
//!
//! What an object says and cannot be understood becomes a [`Problem`] that names the field. A part that is not
//! understood never opens a policy: rules that allow are left out, rules that deny deny more.

mod bgp;
mod bgp_filter;
mod bgp_peer;
mod duration;
mod felix;
mod ipam;
mod kubernetes_policy;
mod node;
mod pod;
mod policy;
mod pool;
mod service;

use std::fmt;
use std::net::IpAddr;

use model::{Cidr, Selector};

pub use bgp::{BgpSettings, bgp_configuration};
pub use bgp_filter::bgp_filter;
pub use bgp_peer::bgp_peer;
pub use felix::felix_configuration;
pub(crate) use ipam::affinity_labels;
pub use ipam::{
    affinity, affinity_name, affinity_spec, block, block_spec, handle, handle_name, handle_spec,
    ipam_configuration,
};
pub use kubernetes_policy::kubernetes_policy;
pub use node::{IPIP_TUNNEL_ADDRESS, IPV4_ADDRESS, IPV6_ADDRESS, node};
pub use pod::pod;
pub use policy::{global_network_policy, network_policy, tier};
pub use pool::pool;
pub use service::{endpoint_slice, service};

/// What is wrong with one field of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Path such as `spec.ingress[2].source.nets[0]`.
    pub field: String,
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.reason)
    }
}

/// What was found wrong with an object while it was converted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// Notes one.
    pub fn add(&mut self, field: impl Into<String>, reason: impl fmt::Display) {
        self.0.push(Problem { field: field.into(), reason: reason.to_string() });
    }

    /// The value, or `None` and a note about the error.
    pub fn take<T, E: fmt::Display>(&mut self, field: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.add(field, error)).ok()
    }
}

/// An optional selector; blank counts as absent.
fn selector(problems: &mut Problems, field: &str, text: Option<&str>) -> Result<Option<Selector>, ()> {
    match text {
        None => Ok(None),
        Some(text) if text.trim().is_empty() => Ok(None),
        Some(text) => problems.take(field, text.parse()).map(Some).ok_or(()),
    }
}

/// A CIDR whose host bits are cut off, or an address as its /32 or /128.
fn net(text: &str) -> Result<Cidr, String> {
    let invalid = || format!("{text:?} is not a CIDR such as 10.65.0.0/16");
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length.parse::<u8>().map_err(|_| invalid())?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| invalid())?;
    match length {
        Some(length) => Cidr::truncated(address, length).ok_or_else(invalid),
        None => Ok(Cidr::host(address)),
    }
}
