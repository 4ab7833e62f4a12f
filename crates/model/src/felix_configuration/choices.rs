//! The choices that settings of the node agent offer.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use crate::{Cidr, Protocol};

/// What happens to packets from a pod to its own node that egress policy let through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EndpointToHostAction {
    Drop,
    /// What every shipped manifest of Calico sets.
    #[default]
    Accept,
    Return,
}

/// Where the jumps to our chains stand in the kernel's chains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChainInsertMode {
    #[default]
    Insert,
    Append,
}

/// From which severity on messages are logged (`logSeverityScreen`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogSeverity {
    Trace,
    Debug,
    #[default]
    Info,
    Warning,
    /// Also what Calico calls Fatal.
    Error,
}

impl FromStr for LogSeverity {
    type Err = String;

    /// Takes Calico's names in any case: Trace, Debug, Info, Warning, Error, Fatal.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "trace" => Ok(Self::Trace),
            "debug" => Ok(Self::Debug),
            "info" => Ok(Self::Info),
            "warning" | "warn" => Ok(Self::Warning),
            "error" | "fatal" => Ok(Self::Error),
            _ => Err(format!("{text:?} is not a log level: trace, debug, info, warning or error")),
        }
    }
}

/// Which way into the kernel policy takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NftablesMode {
    /// iptables.
    Disabled,
    /// nftables.
    Enabled,
    /// nftables where kube-proxy uses it, else iptables.
    #[default]
    Auto,
}

/// Which iptables is used where policy goes through iptables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IptablesBackend {
    /// Where the rules of kubelet and kube-proxy are.
    #[default]
    Auto,
    Legacy,
    Nft,
}

/// How a packet that policy denies ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DenyAction {
    #[default]
    Drop,
    /// The sender is told.
    Reject,
}

/// How a packet that policy allows leaves our chains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AllowAction {
    #[default]
    Accept,
    /// Rules of others that come after ours may still drop it.
    Return,
}

/// What becomes of a packet to a Service address that no Service uses any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceLoopPrevention {
    #[default]
    Drop,
    Reject,
    /// It takes the default route, and may come back.
    Disabled,
}

/// Which destinations natOutgoing leaves alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NatOutgoingExclusions {
    #[default]
    IpPoolsOnly,
    /// Addresses of nodes, too.
    IpPoolsAndHostIps,
}

/// A port that policy of host endpoints never closes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailsafePort {
    pub protocol: Protocol,
    pub port: u16,
    /// Only to and from here; `None`: anywhere.
    pub net: Option<Cidr>,
}

/// The unit of time of a [`RateLimit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateUnit {
    Second,
    Minute,
    Hour,
    Day,
}

/// So many a unit of time, after a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    pub count: u32,
    pub unit: RateUnit,
    pub burst: u32,
}

impl RateLimit {
    /// iptables' own.
    pub const DEFAULT_BURST: u32 = 5;
}

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            RateUnit::Second => "second",
            RateUnit::Minute => "minute",
            RateUnit::Hour => "hour",
            RateUnit::Day => "day",
        };
        write!(f, "{}/{unit}", self.count)
    }
}

impl FromStr for RateLimit {
    type Err = String;

    /// Takes what iptables' `--limit` takes: `10/minute`, `5/s`.
    fn from_str(text: &str) -> Result<Self, String> {
        let invalid = || format!("{text:?} is not a rate such as 10/minute");
        let (count, unit) = text.split_once('/').ok_or_else(invalid)?;
        let count: u32 = count.trim().parse().map_err(|_| invalid())?;
        let unit = match unit.trim().to_ascii_lowercase().as_str() {
            "s" | "sec" | "second" => RateUnit::Second,
            "m" | "min" | "minute" => RateUnit::Minute,
            "h" | "hour" => RateUnit::Hour,
            "d" | "day" => RateUnit::Day,
            _ => return Err(invalid()),
        };
        // The kernel counts in ten thousandths of a second.
        if (1..=10_000).contains(&count) {
            Ok(Self { count, unit, burst: Self::DEFAULT_BURST })
        } else {
            Err(invalid())
        }
    }
}

/// Records of dropped packets (own setting `dropLog`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropLog {
    pub enabled: bool,
    /// For each place that drops.
    pub rate: RateLimit,
}

impl Default for DropLog {
    fn default() -> Self {
        let rate = RateLimit { count: 10, unit: RateUnit::Second, burst: 10 };
        Self { enabled: true, rate }
    }
}

/// An HTTP server of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    pub enabled: bool,
    pub host: IpAddr,
    pub port: u16,
}

impl Listener {
    /// `/liveness` and `/readiness`; ours is on unless switched off.
    pub const HEALTH: Listener =
        Listener { enabled: true, host: IpAddr::V4(Ipv4Addr::LOCALHOST), port: 9099 };
    /// `/metrics` on a port of its own.
    pub const METRICS: Listener =
        Listener { enabled: false, host: IpAddr::V4(Ipv4Addr::UNSPECIFIED), port: 9091 };
}
