//! What may leave this node. Owns the order of the export rules; the first that matches decides.

use bgp::{Action, Condition, Policy, PrefixMatch, PrefixSet, Rule};

use crate::cluster::Cluster;
use crate::convert::prefix;
use crate::origin::{NORMAL_PRIORITY, PREFERENCE_SUM};

/// The export policy towards every peer.
///
/// Own blocks go out whole, what is more specific stays (unless it is more preferred than normal, as the
/// address of an endpoint that is moving), other routes only within pools; nothing of pools whose export is
/// off, and nothing of the infrastructure.
pub fn export_policy(cluster: &Cluster) -> Policy {
    let silent = cluster.pools.values().filter(|p| p.disable_bgp_export);
    let silent: PrefixSet = silent.map(|p| PrefixMatch::within(prefix(p.cidr))).collect();
    let blocks: Vec<_> = cluster.own_blocks().map(prefix).collect();
    let exact = blocks.iter().copied().map(PrefixMatch::exact).collect();
    let inside: PrefixSet = blocks.iter().copied().map(PrefixMatch::more_specific).collect();
    let pools = cluster.pools.values().filter(|p| !p.disable_bgp_export);
    let pools: PrefixSet = pools.map(|p| PrefixMatch::within(prefix(p.cidr))).collect();
    let elevated = Condition::LocalPrefAbove(PREFERENCE_SUM - NORMAL_PRIORITY);
    let rule = |name: &str, when: Vec<Condition>, then: Action| Rule { name: name.to_owned(), when, then };
    Policy::new(
        vec![
            rule("pool with disableBGPExport", vec![Condition::Prefix(silent)], Action::Reject),
            rule("own block", vec![Condition::Prefix(exact)], Action::Accept),
            rule("preferred address", vec![Condition::Prefix(inside.clone()), elevated], Action::Accept),
            rule("inside own block", vec![Condition::Prefix(inside)], Action::Reject),
            rule("pool", vec![Condition::Prefix(pools)], Action::Accept),
        ],
        false,
    )
}
