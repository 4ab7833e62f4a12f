//! The answer, and why it is so.

use std::fmt;
use std::sync::Arc;

use model::{Action, Direction, PodKey, PolicyKey};

/// Whose policy a step belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Endpoint {
    Pod(PodKey),
    /// A host endpoint, by name.
    Host(Arc<str>),
    /// The node itself, whatever policies there are.
    Node,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Pod(pod) => write!(f, "pod {pod}"),
            Endpoint::Host(name) => write!(f, "host endpoint {name}"),
            Endpoint::Node => f.write_str("node"),
        }
    }
}

/// What a step is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// A rule of a policy; `policy` and `rule` name it.
    Rule,
    /// No policy of the tier decided: its default action.
    EndOfTier,
    /// A rule of a profile.
    Profile,
    /// No profile decided, or one that is named does not exist.
    NoProfile,
    /// The Pod is not known, or the Namespace whose labels it inherits.
    Closed,
    /// A pod may not send packets that are encapsulated already.
    Encapsulated,
    /// `defaultEndpointToHostAction`, after the pod's own policy.
    ToHost,
    /// The node's own packets to its pods are not policed: the kubelet probes so.
    NodeToOwnPod,
    /// Neighbour discovery to the node, without which IPv6 does not work.
    NeighbourDiscovery,
    /// A failsafe port of a host endpoint.
    Failsafe,
    /// A packet to a Service's address that nobody translated: it would go in circles.
    ServiceLoop,
    /// The pod sends from an address that is not its own.
    Spoofed,
}

/// One thing that was decided on the way of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub endpoint: Endpoint,
    pub direction: Direction,
    pub tier: Option<Arc<str>>,
    /// Set when `cause` is [`Cause::Rule`].
    pub policy: Option<PolicyKey>,
    /// The profile's name when `cause` is [`Cause::Profile`], or that of the one that is missing.
    pub profile: Option<Arc<str>>,
    /// Index of the rule in its policy or profile, from 0.
    pub rule: Option<usize>,
    pub cause: Cause,
    /// `Log` goes on with the next rule, `Pass` with the next tier.
    pub action: Action,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}: {:?}", self.endpoint, self.direction, self.action)?;
        if let Some(tier) = &self.tier {
            write!(f, " in tier {tier}")?;
        }
        if let Some(policy) = &self.policy {
            write!(f, " by {policy}")?;
        }
        if let Some(profile) = &self.profile {
            write!(f, " by profile {profile}")?;
        }
        if let Some(rule) = self.rule {
            write!(f, " rule {rule}")?;
        }
        if self.cause != Cause::Rule {
            write!(f, " ({:?})", self.cause)?;
        }
        Ok(())
    }
}

/// May the packet pass, from end to end?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub allowed: bool,
    /// In the order in which the packet meets them; the last one decided, where one did.
    pub steps: Vec<Step>,
}
