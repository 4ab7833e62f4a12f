//! How much a pod may receive and send: token buckets as `tc-tbf(8)` has them.

/// One token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bandwidth {
    /// Bits a second.
    pub rate: u64,
    /// Bits that may go at once after a silence.
    pub burst: u64,
    /// Bits a second within a burst; more than `rate`.
    pub peak: Option<u64>,
    /// Bytes that may go at once at the peak; the link's MTU where it is not said.
    pub min_burst: Option<u64>,
}

/// Both directions of a pod's interface, as the pod sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shaping {
    /// What it receives.
    pub ingress: Option<Bandwidth>,
    /// What it sends.
    pub egress: Option<Bandwidth>,
    /// Where somebody else limits the interface, such as the standard `bandwidth` plugin, that stays.
    pub yields: bool,
}

impl Shaping {
    /// Is nothing limited?
    pub fn is_none(&self) -> bool {
        self.ingress.is_none() && self.egress.is_none()
    }
}
