//! Which policies, IP sets and settings this node needs, out of the state of the whole cluster.
//!
//! An index: [`Calc::apply`] marks what may differ, [`Calc::flush`] says the difference. Its output depends on
//! present state only, never on the way there. Only what local endpoints are subject to becomes active.
//! Never renders a rule, never touches the kernel, knows no clock.
//!
//! ```no_run
//! # let (update, endpoint): (model::Update, model::LocalEndpoint) = unimplemented!();
//! let mut calc = felix_calc::Calc::new(model::NodeName::from("node-1"));
//! calc.apply(update);
//! calc.set_local_endpoint(endpoint.interface.clone(), Some(endpoint));
//! calc.apply(model::Update::InSync);
//! for change in calc.flush() { /* Renderer::apply(change) */ }
//! ```

mod calc;
mod change;
mod classes;
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

pub use calc::Calc;
pub use change::{
    ActiveEndpoint, ActiveEntity, ActiveHostEndpoint, ActivePolicy, ActiveProfile, ActiveRule, ActiveTier,
    Change, ClosedReason, EndpointPolicies, IpSet, PodLimits, PodOptions, Pools, SetId,
};
