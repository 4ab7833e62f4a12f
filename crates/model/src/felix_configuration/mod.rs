//! Settings of the node agent that can change while it runs (`spec/felix.md` §8).
//!
//! Owns their types, names, defaults, how text becomes a value, and what is said of settings that are not in
//! force. Never reads an object or the environment.

mod choices;
mod inert;
mod parameters;
mod values;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::{PortRange, Protocol};

pub use choices::{
    AllowAction, ChainInsertMode, DenyAction, DropLog, EndpointToHostAction, FailsafePort, IptablesBackend,
    Listener, LogSeverity, NatOutgoingExclusions, NftablesMode, RateLimit, RateUnit, ServiceLoopPrevention,
};
pub use values::duration as parse_duration;

/// `FelixConfiguration`, merged by precedence, with defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FelixConfiguration {
    /// Names of pod interfaces begin so.
    pub interface_prefix: String,
    /// Interfaces that the agent does not look at: names, or regular expressions between slashes.
    pub interface_exclude: Vec<String>,
    pub chain_insert_mode: ChainInsertMode,
    pub endpoint_to_host_action: EndpointToHostAction,
    pub nftables_mode: NftablesMode,
    pub iptables_backend: IptablesBackend,
    /// Bits of packet marks that are ours.
    pub mark_mask: u32,
    pub filter_allow_action: AllowAction,
    pub filter_deny_action: DenyAction,
    pub mangle_allow_action: AllowAction,
    /// What stands in place of the four above, and of the refresh interval, where policy goes through nftables.
    pub nftables: NftablesSettings,
    /// Full re-read; zero: never.
    pub iptables_refresh_interval: Duration,
    /// First look after a write; zero: never.
    pub iptables_post_write_check_interval: Duration,
    pub ipsets_refresh_interval: Duration,
    pub route_refresh_interval: Duration,
    pub interface_refresh_interval: Duration,
    /// How often iptables-legacy's lock is tried again while somebody else holds it.
    pub iptables_lock_probe_interval: Duration,
    /// Most members of an IP set.
    pub max_ipset_size: u32,
    /// Of pods' interfaces, bytes. `None`: that of the uplinks or, where pools use tunnels, of the smallest tunnel.
    pub mtu: Option<u32>,
    pub tunnel_mtus: TunnelMtus,
    /// Which links are uplinks when the MTU is found out, a regular expression; `None` is Calico's pattern.
    pub mtu_iface_pattern: Option<String>,
    pub ipv6: bool,
    /// Global forwarding sysctls are the agent's to set.
    pub ip_forwarding: bool,
    /// How routes to local pods look.
    pub ipv4_routes: PodRoutes,
    pub ipv6_routes: PodRoutes,
    /// Protocol of the routes to local pods, as `ip route` has it.
    pub route_protocol: u8,
    /// Routes that somebody else makes to interfaces of pods are removed, but those of speakers.
    pub remove_external_routes: bool,
    /// `None` leaves it to the agent's command line.
    pub log_severity: Option<LogSeverity>,
    /// Prefix of what a Log rule writes; `%t` tier, `%k` kind, `%n` name, `%p` policy.
    pub log_prefix: String,
    /// For each Log rule; `None`: every packet.
    pub log_rate_limit: Option<RateLimit>,
    pub drop_log: DropLog,
    pub failsafe_inbound: Vec<FailsafePort>,
    pub failsafe_outbound: Vec<FailsafePort>,
    /// Ports of masqueraded TCP and UDP; `None`: the kernel's choice.
    pub nat_port_range: Option<PortRange>,
    /// Ports of Services on addresses of nodes, where kube-proxy works in mode IPVS.
    pub node_port_ranges: Arc<[PortRange]>,
    /// In place of the outgoing interface's address.
    pub nat_outgoing_address: Option<IpAddr>,
    /// Only out of this interface.
    pub nat_outgoing_interface_filter: Option<String>,
    pub nat_outgoing_exclusions: NatOutgoingExclusions,
    pub service_loop_prevention: ServiceLoopPrevention,
    /// Honour `cni.projectcalico.org/allowedSourcePrefixes`.
    pub workload_source_spoofing: bool,
    /// Honour `cni.projectcalico.org/floatingIPs`.
    pub floating_ips: bool,
    pub allow_vxlan_from_workloads: bool,
    pub allow_ipip_from_workloads: bool,
    /// Does the kernel get checksums of packets inside others wrong where it leaves them to the hardware
    /// (`ChecksumOffloadBroken` of `featureDetectOverride`)? `None` goes by its release.
    pub checksum_offload_broken: Option<bool>,
    /// TCP connections agree on segments that fit through the routes (own setting `clampMSSToPMTU`).
    pub clamp_mss: bool,
    pub vxlan_port: u16,
    /// Network identifier of VXLAN between nodes, 24 bits.
    pub vxlan_vni: u32,
    /// Whether VXLAN is used at all; `None` leaves it to the pools.
    pub vxlan_enabled: Option<bool>,
    pub wireguard: WireguardSettings,
    /// Hosts outside of the cluster that may send IPIP and VXLAN.
    pub external_nodes: Vec<crate::Cidr>,
    /// Packets that connection tracking calls INVALID pass.
    pub disable_conntrack_invalid_check: bool,
    /// Connections that policy no longer allows end (own setting `policyConntrackMode: Strict`).
    pub policy_conntrack_strict: bool,
    pub health: Listener,
    pub metrics: Listener,
    /// Settings that are not in force as they were given.
    pub notes: Vec<SettingNote>,
}

/// MTUs of the links that put another header around packets, bytes; `None`: the smallest of the uplinks, less that header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunnelMtus {
    /// `tunl0`
    pub ipip: Option<u32>,
    /// VXLAN between IPv4 addresses of nodes.
    pub vxlan: Option<u32>,
    /// VXLAN between IPv6 addresses of nodes.
    pub vxlan_v6: Option<u32>,
    /// WireGuard between IPv4 addresses of nodes.
    pub wireguard: Option<u32>,
    /// WireGuard between IPv6 addresses of nodes.
    pub wireguard_v6: Option<u32>,
}

/// Whether pods of different nodes talk through WireGuard, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireguardSettings {
    /// For pods' IPv4.
    pub enabled: bool,
    pub enabled_v6: bool,
    /// UDP port that nodes listen on for each other, for pods' IPv4.
    pub port: u16,
    pub port_v6: u16,
    /// How often a node sends something to another one that has nothing to say; zero: never.
    pub keep_alive: Duration,
    /// Are there metrics of every other node?
    pub has_metrics: bool,
}

impl WireguardSettings {
    pub fn is_enabled(&self, family: crate::Family) -> bool {
        match family {
            crate::Family::V4 => self.enabled,
            crate::Family::V6 => self.enabled_v6,
        }
    }

    /// UDP port for pods of this family.
    pub fn port(&self, family: crate::Family) -> u16 {
        match family {
            crate::Family::V4 => self.port,
            crate::Family::V6 => self.port_v6,
        }
    }
}

impl Default for WireguardSettings {
    fn default() -> Self {
        Self {
            enabled: false,
            enabled_v6: false,
            port: 51_820,
            port_v6: 51_821,
            keep_alive: Duration::ZERO,
            has_metrics: true,
        }
    }
}

/// How the routes of one family to local pods look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodRoutes {
    /// Metric.
    pub priority: u32,
    /// Preferred source address of what the node sends to pods; `None`: the kernel's choice.
    pub source: Option<IpAddr>,
}

impl Default for PodRoutes {
    fn default() -> Self {
        Self { priority: 1024, source: None }
    }
}

/// What `NftablesMarkMask` and the like say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NftablesSettings {
    pub mark_mask: u32,
    pub filter_allow_action: AllowAction,
    pub filter_deny_action: DenyAction,
    pub mangle_allow_action: AllowAction,
    pub refresh_interval: Duration,
}

impl Default for NftablesSettings {
    fn default() -> Self {
        Self {
            mark_mask: DEFAULT_MARK_MASK,
            filter_allow_action: AllowAction::default(),
            filter_deny_action: DenyAction::default(),
            mangle_allow_action: AllowAction::default(),
            refresh_interval: REFRESH,
        }
    }
}

impl FelixConfiguration {
    /// Every field of the object that is known, whether or not something acts upon it.
    pub fn fields() -> impl Iterator<Item = &'static str> {
        parameters::fields()
    }

    /// Takes a field of a FelixConfiguration object, its value as text: lists joined by commas.
    ///
    /// What cannot be used is noted, and what was in force before stays.
    pub fn set_field(&mut self, field: &str, value: &str, source: &SettingSource) {
        self.set(field, value, source, parameters::by_field(field));
    }

    /// Takes a parameter by Calico's name in any case, as environment and files have it.
    pub fn set_parameter(&mut self, name: &str, value: &str, source: &SettingSource) {
        self.set(name, value, source, parameters::by_name(name));
    }

    fn set(&mut self, name: &str, value: &str, source: &SettingSource, found: Option<Parameter>) {
        // Nothing said.
        if value.trim().is_empty() {
            return;
        }
        let reason = match found {
            None => SettingReason::Unknown,
            Some(Parameter::InForce(set)) => match set(self, value.trim()) {
                Ok(()) => return,
                Err(reason) => SettingReason::Invalid(reason),
            },
            Some(Parameter::Inert { as_is, .. })
                if as_is.iter().any(|v| v.eq_ignore_ascii_case(value.trim())) =>
            {
                return;
            }
            Some(Parameter::Inert { why, .. }) => SettingReason::NotActedUpon(why),
            Some(Parameter::OfProcess)
                if matches!(source, SettingSource::Environment | SettingSource::File) =>
            {
                return;
            }
            Some(Parameter::OfProcess) => {
                SettingReason::Invalid("the environment or the configuration file says this".to_owned())
            }
        };
        let (name, value) = (name.to_owned(), value.to_owned());
        let note = SettingNote { name, value, source: source.clone(), reason };
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// The same with the settings of nftables in the place of those of iptables.
    pub fn for_nftables(mut self) -> Self {
        let NftablesSettings {
            mark_mask,
            filter_allow_action,
            filter_deny_action,
            mangle_allow_action,
            refresh_interval,
        } = self.nftables;
        self.mark_mask = mark_mask;
        self.filter_allow_action = filter_allow_action;
        self.filter_deny_action = filter_deny_action;
        self.mangle_allow_action = mangle_allow_action;
        self.iptables_refresh_interval = refresh_interval;
        self
    }
}

impl Default for FelixConfiguration {
    fn default() -> Self {
        Self {
            interface_prefix: "cali".to_owned(),
            interface_exclude: vec!["kube-ipvs0".to_owned()],
            chain_insert_mode: ChainInsertMode::default(),
            endpoint_to_host_action: EndpointToHostAction::default(),
            nftables_mode: NftablesMode::default(),
            iptables_backend: IptablesBackend::default(),
            mark_mask: DEFAULT_MARK_MASK,
            filter_allow_action: AllowAction::default(),
            filter_deny_action: DenyAction::default(),
            mangle_allow_action: AllowAction::default(),
            nftables: NftablesSettings::default(),
            iptables_refresh_interval: REFRESH,
            iptables_post_write_check_interval: Duration::from_secs(1),
            ipsets_refresh_interval: REFRESH,
            route_refresh_interval: REFRESH,
            interface_refresh_interval: REFRESH,
            iptables_lock_probe_interval: Duration::from_millis(5),
            max_ipset_size: 1 << 20,
            mtu: None,
            tunnel_mtus: TunnelMtus::default(),
            mtu_iface_pattern: None,
            ipv6: true,
            ip_forwarding: true,
            ipv4_routes: PodRoutes::default(),
            ipv6_routes: PodRoutes::default(),
            route_protocol: 3,
            remove_external_routes: true,
            log_severity: None,
            log_prefix: "calico-packet".to_owned(),
            log_rate_limit: None,
            drop_log: DropLog::default(),
            failsafe_inbound: failsafe(&[(Protocol::UDP, 68), (Protocol::TCP, 22)]),
            failsafe_outbound: failsafe(&[(Protocol::UDP, 53), (Protocol::UDP, 67)]),
            nat_port_range: None,
            node_port_ranges: [PortRange { first: 30_000, last: 32_767 }].into(),
            nat_outgoing_address: None,
            nat_outgoing_interface_filter: None,
            nat_outgoing_exclusions: NatOutgoingExclusions::default(),
            service_loop_prevention: ServiceLoopPrevention::default(),
            workload_source_spoofing: false,
            floating_ips: false,
            allow_vxlan_from_workloads: false,
            allow_ipip_from_workloads: false,
            checksum_offload_broken: None,
            clamp_mss: false,
            vxlan_port: 4789,
            vxlan_vni: 4096,
            vxlan_enabled: None,
            wireguard: WireguardSettings::default(),
            external_nodes: Vec::new(),
            disable_conntrack_invalid_check: false,
            policy_conntrack_strict: false,
            health: Listener::HEALTH,
            metrics: Listener::METRICS,
            notes: Vec::new(),
        }
    }
}

/// What is known of one setting.
#[derive(Clone, Copy)]
enum Parameter {
    /// Puts the value where it belongs.
    InForce(fn(&mut FelixConfiguration, &str) -> Result<(), String>),
    /// Nothing acts upon it, because of `why`; values `as_is` say what is the case anyway.
    Inert { why: &'static str, as_is: &'static [&'static str] },
    /// Read once when the process starts, from the environment alone.
    OfProcess,
}

const DEFAULT_MARK_MASK: u32 = 0xffff_0000;

const REFRESH: Duration = Duration::from_secs(90);

/// The ports of one direction, and those of BGP, etcd, Typha and the API server, which are open in both.
fn failsafe(own: &[(Protocol, u16)]) -> Vec<FailsafePort> {
    let both = [179, 2379, 2380, 5473, 6443, 6666, 6667].map(|port| (Protocol::TCP, port));
    let all = own.iter().chain(&both);
    all.map(|(protocol, port)| FailsafePort { protocol: *protocol, port: *port, net: None }).collect()
}

/// A setting that is not in force as it was given, and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SettingNote {
    /// As it was given: `mtu`, `FELIX_MTU`.
    pub name: String,
    pub value: String,
    pub source: SettingSource,
    pub reason: SettingReason,
}

impl fmt::Display for SettingNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={:?} of {} {}", self.name, self.value, self.source, self.reason)
    }
}

/// Where a setting was given, in the order of precedence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SettingSource {
    /// FelixConfiguration `default`.
    Default,
    /// A FelixConfiguration whose nodeSelector selects the node, by name.
    Selector(Arc<str>),
    /// FelixConfiguration `node.<name>`, by its name.
    Node(Arc<str>),
    /// The agent's configuration file.
    File,
    /// `FELIX_*`.
    Environment,
}

impl fmt::Display for SettingSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SettingSource::Default => f.write_str("FelixConfiguration default"),
            SettingSource::Selector(name) | SettingSource::Node(name) => {
                write!(f, "FelixConfiguration {name}")
            }
            SettingSource::File => f.write_str("the configuration file"),
            SettingSource::Environment => f.write_str("the environment"),
        }
    }
}

/// Why a setting is not in force as it was given.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SettingReason {
    /// No such setting.
    Unknown,
    /// The value makes no sense; what comes next in precedence is in force.
    Invalid(String),
    /// A setting of Calico that the agent knows and does not act upon, and why.
    NotActedUpon(&'static str),
}

impl SettingReason {
    /// One word, for labels of metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            SettingReason::Unknown => "unknown",
            SettingReason::Invalid(_) => "invalid",
            SettingReason::NotActedUpon(_) => "not-acted-upon",
        }
    }
}

impl fmt::Display for SettingReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SettingReason::Unknown => f.write_str("is not known"),
            SettingReason::Invalid(reason) => write!(f, "is not used: {reason}"),
            SettingReason::NotActedUpon(reason) => write!(f, "is not acted upon: {reason}"),
        }
    }
}
