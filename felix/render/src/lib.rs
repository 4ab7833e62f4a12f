//! The kernel state that this node should have, in Calico's shape: chains, IP sets, routes to local pods,
//! neighbours, sysctls, `tunl0` (`spec/felix.md` §1 to §3).
//!
//! [`Renderer::apply`] takes the changes of `felix-calc` in their order, [`Renderer::flush`] says how the
//! desired state differs since the last flush. Pure: never reads or writes the kernel, and decides nothing
//! that depends on what is there.
//!
//! ```no_run
//! # let mut calc = felix_calc::Calc::new(model::NodeName::from("node-1"));
//! let mut renderer = felix_render::Renderer::new(felix_render::RenderSettings::default());
//! for change in calc.flush() {
//!     renderer.apply(change);
//! }
//! let output = renderer.flush(); // Output { ip_sets, chains, hooks, routes, neighbours, sysctls, tunnel }
//! ```

mod endpoint_chains;
mod names;
mod output;
mod pod_state;
mod policy_chains;
mod renderer;
mod rules;
mod sets;
mod static_chains;
mod tracked;

pub use output::{IpSetChange, Output, Sysctl, TunnelDevice};
pub use renderer::{RenderSettings, Renderer};
