//! Settings of the node agent that can change while it runs.

use std::str::FromStr;
use std::time::Duration;

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

/// `FelixConfiguration`, merged by precedence, with defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FelixConfiguration {
    /// Names of pod interfaces begin so.
    pub interface_prefix: String,
    pub chain_insert_mode: ChainInsertMode,
    pub endpoint_to_host_action: EndpointToHostAction,
    pub iptables_refresh_interval: Duration,
    pub ipsets_refresh_interval: Duration,
    pub route_refresh_interval: Duration,
    /// `None`: the smallest MTU of the uplinks, less the encapsulation.
    pub mtu: Option<u32>,
    pub ipv6: bool,
    /// Priority (metric) of the routes to local pods.
    pub route_priority: u32,
    /// `None` leaves it to the agent's command line.
    pub log_severity: Option<LogSeverity>,
    /// Which links are uplinks when the MTU is found out, a regular expression; `None` is Calico's pattern.
    pub mtu_iface_pattern: Option<String>,
}

impl Default for FelixConfiguration {
    fn default() -> Self {
        Self {
            interface_prefix: "cali".to_owned(),
            chain_insert_mode: ChainInsertMode::default(),
            endpoint_to_host_action: EndpointToHostAction::default(),
            iptables_refresh_interval: Duration::from_secs(90),
            ipsets_refresh_interval: Duration::from_secs(90),
            route_refresh_interval: Duration::from_secs(90),
            mtu: None,
            ipv6: true,
            route_priority: 1024,
            log_severity: None,
            mtu_iface_pattern: None,
        }
    }
}
