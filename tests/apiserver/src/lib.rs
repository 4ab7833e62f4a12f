//! A Kubernetes-compatible API server to be embedded in a lab or started alone.
//!
//! Owns: the REST surface that `kubectl` and controllers use (list, watch, patches, CRDs, discovery), a store
//! with one monotonic revision, and the listeners with their certificates. Validating webhooks are called. Never: schedules,
//! runs pods. The administrator may do everything, service accounts what roles and their bindings say.

mod api;
mod apply;
mod auth;
mod bootstrap;
mod builtin;
mod cel;
mod clock;
mod columns;
mod crd;
mod defaults;
mod discovery;
mod fieldset;
mod http;
mod jsonpath;
mod kubeconfig;
mod lists;
mod names;
mod object;
mod openapi;
mod patch;
mod persist;
mod pki;
mod proto;
mod rbac;
mod registry;
mod schema;
mod selector;
mod server;
mod status;
mod store;
mod table;
mod validate;
mod webhooks;

pub use crate::api::{
    Api, DeleteOptions, Deleted, FieldValidation, ListOptions, Listing, Part, WriteOptions, Written,
};
pub use crate::auth::Token;
pub use crate::kubeconfig::kubeconfig;
pub use crate::object::{Key, Object};
pub use crate::patch::PatchKind;
pub use crate::rbac::{Audit, Call, Grant, grants_of};
pub use crate::registry::{Resource, Scope};
pub use crate::selector::{FieldSelector, LabelSelector};
pub use crate::server::{ApiServer, Builder, Handle};
pub use crate::status::{ApiError, Cause, ErrorDetails};
pub use crate::store::{Event, EventKind, Watch, WatchError};
