//! The kernel state that this node should have, in Calico's shape: chains, IP sets, routes to local pods,
//! neighbours, sysctls, `tunl0` (`spec/felix.md` §1 to §3).
//!
//! Rules are packet rules of `kernel`, in nobody's spelling; what iptables and nftables can do differently is
//! asked of [`RuleDataplane`]. Every place that drops says so by a record whose prefix [`drop_prefix`] makes.
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
//! let output = renderer.flush(); // Output { ip_sets, chains, hooks, routes, neighbours, sysctls, tunnel, cluster }
//! ```

mod base_chains;
mod compact;
mod dispatch;
mod drops;
mod endpoint_chains;
mod group_uses;
mod groups;
mod host_chains;
mod host_links;
mod ipvs_chains;
mod marks;
mod names;
mod nat_chains;
mod output;
mod pod_state;
mod policy_chains;
mod renderer;
mod rules;
mod sets;
mod settings;
mod static_chains;
mod tracked;

pub use drops::{DropPlace, DropReason, drop_prefix};
pub use marks::{MarkMaskTooSmall, check_mark_mask};
pub use names::policy_chains;
pub use output::{ClusterOutput, Hold, IpSetChange, Output, Sysctl, TunnelDevice, WireguardOutput};
pub use renderer::Renderer;
pub use settings::{RenderSettings, RuleDataplane};
