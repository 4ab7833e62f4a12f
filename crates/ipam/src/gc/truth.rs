//! What a living node knows of its own addresses, and what a Pod's object may add to it.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use model::NodeName;

use super::allocation::{Allocation, User, grouped};
use super::take_back::Leak;

/// What a node sees without asking anybody: its interfaces, its endpoints, its ADDs and DELs under way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnTruth {
    /// Handles of endpoints, of ADDs under way and of DELs that wait (these release by themselves).
    pub handles: BTreeSet<String>,
    /// Container IDs that an interface in service names.
    pub containers: BTreeSet<String>,
    /// Addresses of endpoints.
    pub addresses: BTreeSet<IpAddr>,
}

/// What the API server says of one Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodAnswer {
    Absent,
    Present {
        uid: String,
        /// `None` until it is scheduled.
        node: Option<NodeName>,
        /// Empty before ADD has told.
        addresses: Vec<IpAddr>,
        /// Succeeded or Failed, which an evicted one is too.
        is_finished: bool,
    },
}

/// Why nobody seems to use an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    PodGone,
    PodReplaced,
    PodElsewhere,
    PodFinished,
    PodHasOtherAddress,
    NodeGone,
    NotTheTunnel,
    ServiceGone,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::PodGone => "the Pod is gone",
            Why::PodReplaced => "another Pod has the name now",
            Why::PodElsewhere => "the Pod is on another node",
            Why::PodFinished => "the Pod has finished",
            Why::PodHasOtherAddress => "the Pod has another address",
            Why::NodeGone => "the node is gone",
            Why::NotTheTunnel => "the node's tunnel has another address",
            Why::ServiceGone => "the Service is gone",
        })
    }
}

/// Does a Pod, as the API server tells of it, use the address that was given to it? `Err` says why not.
///
/// One that has no address yet is about to use what it was given.
///
/// # Errors
/// Why it does not use it.
pub fn is_used_by(allocation: &Allocation, answer: &PodAnswer) -> Result<(), Why> {
    let User::Pod { uid: given_to, .. } = &allocation.user else { return Ok(()) };
    let PodAnswer::Present { uid, node, addresses, is_finished } = answer else { return Err(Why::PodGone) };
    if given_to.as_ref().is_some_and(|given_to| given_to != uid) {
        return Err(Why::PodReplaced);
    }
    if node.is_some() && *node != allocation.node {
        return Err(Why::PodElsewhere);
    }
    if *is_finished {
        return Err(Why::PodFinished);
    }
    if !addresses.is_empty() && !addresses.contains(&allocation.address) {
        return Err(Why::PodHasOtherAddress);
    }
    Ok(())
}

/// Of the addresses that name a node, those that nothing of the node's own uses, by handle.
///
/// `has_pod`: has the watch told of a Pod that uses the address? Addresses of tunnels and reserved ones are the
/// business of who took them, and those that say nothing of who has them are nobody's to judge.
pub fn own_suspects(
    own: impl IntoIterator<Item = Allocation>,
    truth: &OwnTruth,
    has_pod: impl Fn(&Allocation) -> bool,
) -> Vec<(String, Vec<Leak>)> {
    let is_used = |allocation: &Allocation| {
        !matches!(allocation.user, User::Pod { .. } | User::Container)
            || truth.addresses.contains(&allocation.address)
            || allocation.handle.as_ref().is_some_and(|handle| truth.handles.contains(handle))
            || allocation.is_of_container(|id| truth.containers.contains(id))
            || has_pod(allocation)
    };
    let groups = grouped(own.into_iter().filter(|allocation| !allocation.is_cooling));
    let unused = groups.into_iter().filter(|(_, group)| !group.iter().any(is_used));
    unused.map(|(name, group)| (name, group.iter().map(Leak::of).collect())).collect()
}
