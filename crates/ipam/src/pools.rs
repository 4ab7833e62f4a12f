//! Which pools a request may take addresses from, and why not from the others.

use std::fmt;

use model::{AllowedUse, AssignmentMode, Family, IpPool};

use crate::{Request, Settings};

/// Why a pool gave no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    Disabled,
    /// It is being deleted.
    Deleting,
    /// It shares addresses with this older pool.
    Overlaps(String),
    OtherFamily,
    OtherUse(AllowedUse),
    /// Only for who asks for it.
    Manual,
    NodeNotSelected,
    NamespaceNotSelected,
    /// Every block is full or, with strict affinity, another node's.
    Full {
        strict_affinity: bool,
    },
    /// This node has as many blocks as it may.
    BlockLimit(usize),
    /// No further blocks are claimed (`autoAllocateBlocks` is false).
    NoNewBlocks,
    /// A pool that was asked for and is not there.
    Missing,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Disabled => f.write_str("is disabled"),
            Reason::Deleting => f.write_str("is being deleted"),
            Reason::Overlaps(other) => {
                write!(f, "overlaps the older pool {other}: delete one of the two")
            }
            Reason::OtherFamily => f.write_str("is of the other address family"),
            Reason::OtherUse(wanted) => write!(f, "does not allow use {wanted:?}"),
            Reason::Manual => f.write_str("is used only when asked for by name (assignmentMode Manual)"),
            Reason::NodeNotSelected => f.write_str("does not select this node (nodeSelector)"),
            Reason::NamespaceNotSelected => f.write_str("does not select the namespace (namespaceSelector)"),
            Reason::Full { strict_affinity: false } => f.write_str("has no free address"),
            Reason::Full { strict_affinity: true } => f.write_str(
                "has no free address in this node's blocks, and strict affinity keeps off the others'",
            ),
            Reason::BlockLimit(limit) => {
                write!(f, "has free blocks, but the limit of {limit} blocks is reached for this node")
            }
            Reason::NoNewBlocks => f.write_str("gives no further blocks (autoAllocateBlocks is false)"),
            Reason::Missing => f.write_str("does not exist"),
        }
    }
}

/// A pool and why it gave no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub pool: String,
    pub reason: Reason,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pool {} {}", self.pool, self.reason)
    }
}

/// Pools of one family that the request may use, in the order in which they are tried, and the others.
///
/// Pools that are asked for need not select the node or namespace, and are tried in the order asked for.
pub(crate) fn usable<'a>(
    request: &Request,
    family: Family,
    settings: &'a Settings,
) -> (Vec<&'a IpPool>, Vec<Refusal>) {
    let mut usable = Vec::new();
    let mut refused = Vec::new();
    let mut judge =
        |pool: &'a IpPool, is_asked_for: bool| match judge(request, family, settings, pool, is_asked_for) {
            None => usable.push(pool),
            Some(reason) => refused.push(Refusal { pool: pool.name.clone(), reason }),
        };
    let asked_for = request.pools(family);
    if asked_for.is_empty() {
        for pool in &settings.pools {
            judge(pool, false);
        }
        return (usable, refused);
    }
    let mut missing = Vec::new();
    for name in asked_for {
        let is_meant = |pool: &&IpPool| pool.name == *name || pool.cidr.to_string() == *name;
        match settings.pools.iter().find(is_meant) {
            Some(pool) => judge(pool, true),
            None => missing.push(Refusal { pool: name.clone(), reason: Reason::Missing }),
        }
    }
    refused.extend(missing);
    (usable, refused)
}

fn judge(
    request: &Request,
    family: Family,
    settings: &Settings,
    pool: &IpPool,
    is_asked_for: bool,
) -> Option<Reason> {
    if pool.cidr.family() != family {
        return Some(Reason::OtherFamily);
    }
    if let Some(reason) = closed(settings, pool, request.usage) {
        return Some(reason);
    }
    if is_asked_for {
        return None;
    }
    if pool.assignment_mode == AssignmentMode::Manual {
        return Some(Reason::Manual);
    }
    if !pool.node_selector.matches(&settings.node_labels) {
        return Some(Reason::NodeNotSelected);
    }
    // A tunnel is in no namespace, so a pool for some namespaces only is not for tunnels.
    if !pool.namespace_selector.matches(&request.namespace_labels) {
        return Some(Reason::NamespaceNotSelected);
    }
    None
}

/// Why a pool gives no address for this use to anybody, however it is asked.
pub(crate) fn closed(settings: &Settings, pool: &IpPool, usage: AllowedUse) -> Option<Reason> {
    if pool.disabled {
        return Some(Reason::Disabled);
    }
    if pool.deleting {
        return Some(Reason::Deleting);
    }
    if let Some(older) = settings.overlapped_by(pool) {
        return Some(Reason::Overlaps(older.name.clone()));
    }
    (!pool.allowed_uses.contains(&usage)).then_some(Reason::OtherUse(usage))
}
