//! Profiles: what decides after the last tier.

use std::sync::Arc;

use crate::{Labels, Rule};

/// A Profile object. Those of namespaces (`kns.*`) and service accounts (`ksa.*`) are derived from their
/// objects instead.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    pub name: Arc<str>,
    pub ingress: Vec<Rule>,
    pub egress: Vec<Rule>,
    /// Labels that endpoints with this profile inherit (`labelsToApply`).
    pub labels: Labels,
}
