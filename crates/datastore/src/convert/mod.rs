//! From API objects to `model`, as pure functions.
//!
//! What an object says and cannot be understood becomes a [`Problem`] that names the field. A part that is not
//! understood never opens a policy: rules that allow are left out, rules that deny deny more.

mod bgp;
mod bgp_filter;
mod bgp_peer;
mod cluster_policy;
mod felix;
mod host_endpoint;
mod ipam;
mod kube_controllers;
mod kubernetes_policy;
mod label_selector;
mod load_balancer;
mod network_set;
mod node;
mod pod;
mod policy;
mod pool;
mod product;
mod profile;
mod service;

use std::fmt;
use std::net::IpAddr;

use model::{Cidr, Selector};

pub use bgp::{ADVERTISE_CLUSTER_IPS, BgpSettings, bgp_configuration, ranges};
pub use bgp_filter::bgp_filter;
pub use bgp_peer::bgp_peer;
pub use cluster_policy::{admin_network_policy, baseline_admin_network_policy, cluster_network_policy};
pub use felix::{FelixObject, check_felix_configuration, felix_configuration, felix_object};
pub use host_endpoint::{host_endpoint, host_endpoint_spec};
pub(crate) use ipam::affinity_labels;
pub use ipam::{
    affinity, affinity_name, affinity_spec, block, block_spec, handle, handle_name, handle_spec,
    ipam_configuration, rfc3339,
};
pub use kube_controllers::{kube_controllers_configuration, kube_controllers_status};
pub use kubernetes_policy::{kubernetes_policy, staged_kubernetes_policy};
pub use load_balancer::{load_balancer_handle, load_balancer_service};
pub use network_set::{global_network_set, network_set};
pub use node::{
    INTERFACES, IPIP_TUNNEL_ADDRESS, IPV4_ADDRESS, IPV6_ADDRESS, VXLAN_TUNNEL_MAC, VXLAN_TUNNEL_MAC_V6,
    WIREGUARD_PUBLIC_KEY, WIREGUARD_PUBLIC_KEY_V6, interfaces_annotation, node, tunnel_address_annotation,
};
pub use pod::pod;
pub use policy::{
    global_network_policy, network_policy, staged_global_network_policy, staged_network_policy, tier,
};
pub use pool::{ip_reservation, pool};
pub use profile::profile;
pub use service::{endpoint_slice, service};

/// What is wrong with one field of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Path such as `spec.ingress[2].source.nets[0]`.
    pub field: String,
    pub reason: String,
    /// It makes sense, but is not acted upon: nothing to refuse an object for.
    pub is_warning: bool,
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
        self.0.push(Problem { field: field.into(), reason: reason.to_string(), is_warning: false });
    }

    /// Notes what makes sense and is not acted upon.
    pub fn warn(&mut self, field: impl Into<String>, reason: impl fmt::Display) {
        self.0.push(Problem { field: field.into(), reason: reason.to_string(), is_warning: true });
    }

    /// The value, or `None` and a note about the error.
    pub fn take<T, E: fmt::Display>(&mut self, field: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.add(field, error)).ok()
    }
}

/// An optional selector; blank counts as absent. `global()` means something to [`entity_namespaces`] only.
fn selector(problems: &mut Problems, field: &str, text: Option<&str>) -> Result<Option<Selector>, ()> {
    let Some(parsed) = parsed(problems, field, text)? else { return Ok(None) };
    if parsed.mentions_global() {
        problems.add(field, "global() is for the namespaceSelector of a rule");
        return Err(());
    }
    Ok(Some(parsed))
}

/// The namespaceSelector of a rule, where `global()` may stand alone.
fn entity_namespaces(
    problems: &mut Problems,
    field: &str,
    text: Option<&str>,
) -> Result<Option<Selector>, ()> {
    let Some(parsed) = parsed(problems, field, text)? else { return Ok(None) };
    if parsed.mentions_global() && !parsed.is_global() {
        problems.add(field, "global() stands alone or not at all");
        return Err(());
    }
    Ok(Some(parsed))
}

fn parsed(problems: &mut Problems, field: &str, text: Option<&str>) -> Result<Option<Selector>, ()> {
    let Some(text) = text.filter(|text| !text.trim().is_empty()) else { return Ok(None) };
    let parsed = text.parse::<Selector>();
    // The selector itself may be long, and whoever reads this has it.
    let placed = parsed.map_err(|error| format!("{} at position {}", error.reason, error.position));
    problems.take(field, placed).map(Some).ok_or(())
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
