//! In which order the kernel is written, what blocks what, and what is put right when somebody else changed it.
//!
//! [`Dataplane::want`] takes the renderer's differences, [`Dataplane::apply`] brings the kernel there:
//!
//! 1. read back what may have changed (the first time: everything, so that an earlier run's state is adopted);
//! 2. where policy goes through nf_tables: sets, maps and chains in one transaction; otherwise
//!    IP sets that come or change;
//! 3. chains with their hooks, all tables of a family in one batch, and then chains that nothing refers to any
//!    more; a chain whose sets could not be written stays as it was, or closed if it is new;
//! 4. routes, neighbours, sysctls and `tunl0`;
//! 5. VXLAN and WireGuard links, who is behind them, routes to other nodes; what is unwanted in the opposite order;
//! 6. IP sets that nothing looks up any more.
//!
//! An entry that fails stops no other, stays pending, is named in [`Status`] and tried again. Pure: the kernel is
//! behind `kernel`'s ports, the time is an argument. Never decides what a rule says: that is `felix-render`.

mod audit;
mod chains;
mod cluster;
mod dataplane;
mod endpoint;
mod foreign;
mod ip_sets;
mod leftovers;
mod local;
mod nft_stage;
mod ports;
mod rules;
mod stage;
mod status;
mod touched;
mod wireguard;

pub use audit::{Audit, Difference, KindAudit};
pub use cluster::ClusterDrivers;
pub use dataplane::{Dataplane, Refresh, Step};
pub use endpoint::EndpointState;
pub use foreign::ForeignWriter;
pub use ports::{Drivers, Ownership, Ports};
pub use rules::WantedRules;
pub use status::{Failed, Kind, Report, Status};
pub use touched::Touched;
pub use wireguard::WireguardDrivers;
