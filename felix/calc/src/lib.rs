//! Which policies, IP sets and settings this node needs, out of the state of the whole cluster.
//!
//! An index: [`Calc::apply`] marks what may differ, [`Calc::flush`] says the difference. Its output depends on
//! present state only, never on the way there. Only what local endpoints are subject to becomes active.
//! Never renders a rule, never touches the kernel, knows no clock.
//!
//! ```
//! use felix_calc::{Calc, Change};
//! use model::{Policy, PolicyKey, PolicyKind, Selector, Update};
//!
//! let mut calc = Calc::new("node-1".into());
//! let key = PolicyKey::new(PolicyKind::GlobalNetworkPolicy, None, "deny-all");
//! let policy = Policy { needed_everywhere: true, ..Policy::new(key.clone(), Selector::all()) };
//! calc.apply(Update::Policy(key.clone(), Some(Box::new(policy))));
//! calc.apply(Update::InSync);
//!
//! let changes = calc.flush();
//! assert!(changes.iter().any(|change| matches!(change, Change::Policy(of, Some(_)) if *of == key)));
//! assert!(calc.flush().is_empty(), "nothing differs since");
//! ```

mod calc;
mod change;
mod classes;
mod cluster_routes;
mod describe;
mod difference;
mod inherited;
mod items;
mod local;
mod match_index;
mod network;
mod pod_options;
mod policies;
mod profiles;
mod resolve;
mod services;
mod set_definition;
mod sets;
mod slab;
mod symbols;
mod tiers;
mod wireguard;

pub use calc::Calc;
pub use change::{
    ActiveEndpoint, ActiveEntity, ActiveHostEndpoint, ActivePolicy, ActiveProfile, ActiveRule, ActiveTier,
    Change, ClosedReason, ClusterRoute, EndpointPolicies, IpSet, PodLimits, PodOptions, Pools, SetId,
    VxlanEnd, VxlanPeer, WireguardEnd, WireguardPeer,
};
