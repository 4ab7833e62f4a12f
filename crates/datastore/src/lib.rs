//! The door to the cluster: custom resources, list and watch, writes by compare-and-swap.
//!
//! Owns how the cluster's objects are spelled in the Kubernetes API and turns every change into a
//! [`model::Update`]. Never decides what an update means: that is felix's and the speakers' own.
//!
//! ```no_run
//! # async fn example() -> datastore::Result<()> {
//! use datastore::{Datastore, Interest};
//!
//! let datastore = Datastore::connect(None).await?;
//! let mut updates = datastore.watch(Interest::speaker("node-1".into(), Default::default()));
//! while let Some(update) = updates.recv().await {
//!     // `Update::InSync` comes once, after every kind was listed.
//! }
//! # Ok(())
//! # }
//! ```

mod check;
mod client;
mod control;
pub mod convert;
pub mod crd;
mod document;
mod error;
mod host_endpoints;
mod initialise;
pub mod ipam;
mod load_balancer;
mod object_events;
mod objects;
mod plain;
mod policy_report;
mod policy_status;
mod report;
mod token;
pub mod typha;
pub mod watch;
mod write;

pub use check::{CHECKED, check};
pub use client::Datastore;
pub use control::{LeaseState, base64, timestamp};
pub use document::{Document, InvalidDocument, document};
pub use error::{Error, Result};
pub use host_endpoints::AutoHostEndpoint;
pub use ipam::{AssignError, AssignRequest, Draw, IpamClient, IpamError, Returned, Settled};
pub use plain::ObjectKind;
pub use policy_status::NodeReport;
pub use report::NodeEvent;
pub use watch::{Followed, Interest, Kind};
pub use write::NetworkState;
