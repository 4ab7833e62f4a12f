//! The settings that something acts upon, by Calico's name and by field of the object.

use super::values::{
    address, address_of, boolean, choice, cidrs, duration, failsafe_ports, feature, host, interface_name,
    interface_patterns, interface_prefix, is_none, keep_alive, lock_probe, log_prefix, mark_mask, mtu,
    number, port_range, port_ranges, rate, route_protocol, switch,
};
use super::{
    AllowAction, ChainInsertMode, DenyAction, EndpointToHostAction, FelixConfiguration, IptablesBackend,
    NatOutgoingExclusions, NftablesMode, Parameter, RateLimit, ServiceLoopPrevention, inert,
};
use crate::Family;

/// Puts one value where it belongs.
type Set = fn(&mut FelixConfiguration, &str) -> Result<(), String>;

pub(super) fn by_field(field: &str) -> Option<Parameter> {
    let of_table = TABLE.iter().find(|(_, of, _)| *of == field && !of.is_empty());
    of_table.map(|(.., set)| Parameter::InForce(*set)).or_else(|| inert::by_field(field))
}

/// With or without `FELIX_` before it.
pub(super) fn by_name(name: &str) -> Option<Parameter> {
    let name = match name.get(..PREFIX.len()) {
        Some(prefix) if prefix.eq_ignore_ascii_case(PREFIX) => &name[PREFIX.len()..],
        _ => name,
    };
    let of_table = TABLE.iter().find(|(of, ..)| of.eq_ignore_ascii_case(name));
    of_table.map(|(.., set)| Parameter::InForce(*set)).or_else(|| inert::by_name(name))
}

/// Every field of the object that is known.
pub(super) fn fields() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|(_, field, _)| *field).filter(|field| !field.is_empty()).chain(inert::fields())
}

const PREFIX: &str = "FELIX_";

const ALLOW: [(&str, AllowAction); 2] = [("Accept", AllowAction::Accept), ("Return", AllowAction::Return)];
const DENY: [(&str, DenyAction); 2] = [("Drop", DenyAction::Drop), ("Reject", DenyAction::Reject)];

/// Name, field of the object, and where it goes.
#[allow(clippy::unit_arg, reason = "one assignment a line keeps the table a table")]
#[rustfmt::skip]
const TABLE: &[(&str, &str, Set)] = &[
    ("InterfacePrefix", "interfacePrefix", |c, t| Ok(c.interface_prefix = interface_prefix(t)?)),
    ("InterfaceExclude", "interfaceExclude", |c, t| Ok(c.interface_exclude = interface_patterns(t)?)),
    ("ChainInsertMode", "chainInsertMode", |c, t| Ok(c.chain_insert_mode = choice(t, &[
        ("Insert", ChainInsertMode::Insert), ("Append", ChainInsertMode::Append)])?)),
    ("DefaultEndpointToHostAction", "defaultEndpointToHostAction", |c, t| Ok(c.endpoint_to_host_action = choice(t, &[
        ("Drop", EndpointToHostAction::Drop), ("Accept", EndpointToHostAction::Accept),
        ("Return", EndpointToHostAction::Return)])?)),
    ("NFTablesMode", "nftablesMode", |c, t| Ok(c.nftables_mode = choice(t, &[
        ("Disabled", NftablesMode::Disabled), ("Enabled", NftablesMode::Enabled), ("Auto", NftablesMode::Auto)])?)),
    ("IptablesBackend", "iptablesBackend", |c, t| Ok(c.iptables_backend = choice(t, &[
        ("Auto", IptablesBackend::Auto), ("Legacy", IptablesBackend::Legacy), ("NFT", IptablesBackend::Nft)])?)),
    ("IptablesMarkMask", "iptablesMarkMask", |c, t| Ok(c.mark_mask = mark_mask(t)?)),
    ("IptablesFilterAllowAction", "iptablesFilterAllowAction", |c, t| Ok(c.filter_allow_action = choice(t, &ALLOW)?)),
    ("IptablesFilterDenyAction", "iptablesFilterDenyAction", |c, t| Ok(c.filter_deny_action = choice(t, &DENY)?)),
    ("IptablesMangleAllowAction", "iptablesMangleAllowAction", |c, t| Ok(c.mangle_allow_action = choice(t, &ALLOW)?)),
    ("NftablesMarkMask", "nftablesMarkMask", |c, t| Ok(c.nftables.mark_mask = mark_mask(t)?)),
    ("NftablesFilterAllowAction", "nftablesFilterAllowAction", |c, t| Ok(c.nftables.filter_allow_action = choice(t, &ALLOW)?)),
    ("NftablesFilterDenyAction", "nftablesFilterDenyAction", |c, t| Ok(c.nftables.filter_deny_action = choice(t, &DENY)?)),
    ("NftablesMangleAllowAction", "nftablesMangleAllowAction", |c, t| Ok(c.nftables.mangle_allow_action = choice(t, &ALLOW)?)),
    ("NftablesRefreshInterval", "nftablesRefreshInterval", |c, t| Ok(c.nftables.refresh_interval = duration(t)?)),
    ("IptablesRefreshInterval", "iptablesRefreshInterval", |c, t| Ok(c.iptables_refresh_interval = duration(t)?)),
    ("IptablesPostWriteCheckIntervalSecs", "iptablesPostWriteCheckInterval", |c, t| Ok(c.iptables_post_write_check_interval = duration(t)?)),
    ("IptablesLockProbeIntervalMillis", "iptablesLockProbeInterval", |c, t| Ok(c.iptables_lock_probe_interval = lock_probe(t)?)),
    ("IpsetsRefreshInterval", "ipsetsRefreshInterval", |c, t| Ok(c.ipsets_refresh_interval = duration(t)?)),
    ("RouteRefreshInterval", "routeRefreshInterval", |c, t| Ok(c.route_refresh_interval = duration(t)?)),
    ("InterfaceRefreshInterval", "interfaceRefreshInterval", |c, t| Ok(c.interface_refresh_interval = duration(t)?)),
    ("MaxIpsetSize", "maxIpsetSize", |c, t| Ok(c.max_ipset_size = number(t, 1, 1 << 30)?)),
    ("MTU", "mtu", |c, t| Ok(c.mtu = mtu(t)?)),
    ("IpInIpMtu", "ipipMTU", |c, t| Ok(c.tunnel_mtus.ipip = mtu(t)?)),
    ("VXLANMTU", "vxlanMTU", |c, t| Ok(c.tunnel_mtus.vxlan = mtu(t)?)),
    ("VXLANMTUV6", "vxlanMTUV6", |c, t| Ok(c.tunnel_mtus.vxlan_v6 = mtu(t)?)),
    ("WireguardMTU", "wireguardMTU", |c, t| Ok(c.tunnel_mtus.wireguard = mtu(t)?)),
    ("WireguardMTUV6", "wireguardMTUV6", |c, t| Ok(c.tunnel_mtus.wireguard_v6 = mtu(t)?)),
    ("MTUIfacePattern", "mtuIfacePattern", |c, t| Ok(c.mtu_iface_pattern = (!is_none(t)).then(|| t.to_owned()))),
    ("Ipv6Support", "ipv6Support", |c, t| Ok(c.ipv6 = boolean(t)?)),
    ("IPForwarding", "ipForwarding", |c, t| Ok(c.ip_forwarding = switch(t)?)),
    ("IPv4NormalRoutePriority", "ipv4NormalRoutePriority", |c, t| Ok(c.ipv4_routes.priority = number(t, 1, i32::MAX as u64)?)),
    ("IPv6NormalRoutePriority", "ipv6NormalRoutePriority", |c, t| Ok(c.ipv6_routes.priority = number(t, 1, i32::MAX as u64)?)),
    ("DeviceRouteSourceAddress", "deviceRouteSourceAddress", |c, t| Ok(c.ipv4_routes.source = address_of(t, Family::V4)?)),
    ("DeviceRouteSourceAddressIPv6", "deviceRouteSourceAddressIPv6", |c, t| Ok(c.ipv6_routes.source = address_of(t, Family::V6)?)),
    ("DeviceRouteProtocol", "deviceRouteProtocol", |c, t| Ok(c.route_protocol = route_protocol(t)?)),
    ("RemoveExternalRoutes", "removeExternalRoutes", |c, t| Ok(c.remove_external_routes = boolean(t)?)),
    ("LogSeverityScreen", "logSeverityScreen", |c, t| Ok(c.log_severity = Some(t.parse()?))),
    ("LogPrefix", "logPrefix", |c, t| Ok(c.log_prefix = log_prefix(t)?)),
    ("LogActionRateLimit", "logActionRateLimit", |c, t| {
        let burst = c.log_rate_limit.map_or(RateLimit::DEFAULT_BURST, |limit| limit.burst);
        Ok(c.log_rate_limit = rate(t)?.map(|limit| RateLimit { burst, ..limit }))
    }),
    ("LogActionRateLimitBurst", "logActionRateLimitBurst", |c, t| {
        let burst = number(t, 1, 10_000)?;
        Ok(c.log_rate_limit = c.log_rate_limit.map(|limit| RateLimit { burst, ..limit }))
    }),
    ("DropLog", "dropLog", |c, t| Ok(c.drop_log.enabled = switch(t)?)),
    ("DropLogRate", "dropLogRate", |c, t| Ok(c.drop_log.rate = rate(t)?.ok_or("switch dropLog off instead")?)),
    ("FailsafeInboundHostPorts", "failsafeInboundHostPorts", |c, t| Ok(c.failsafe_inbound = failsafe_ports(t)?)),
    ("FailsafeOutboundHostPorts", "failsafeOutboundHostPorts", |c, t| Ok(c.failsafe_outbound = failsafe_ports(t)?)),
    ("NATPortRange", "natPortRange", |c, t| Ok(c.nat_port_range = match is_none(t) {
        true => None,
        false => Some(port_range(t)?),
    })),
    ("KubeNodePortRanges", "kubeNodePortRanges", |c, t| Ok(c.node_port_ranges = port_ranges(t, 7)?.into())),
    ("NATOutgoingAddress", "natOutgoingAddress", |c, t| Ok(c.nat_outgoing_address = address(t)?)),
    ("IptablesNATOutgoingInterfaceFilter", "iptablesNATOutgoingInterfaceFilter", |c, t| Ok(c.nat_outgoing_interface_filter = interface_name(t)?)),
    ("NATOutgoingExclusions", "natOutgoingExclusions", |c, t| Ok(c.nat_outgoing_exclusions = choice(t, &[
        ("IPPoolsOnly", NatOutgoingExclusions::IpPoolsOnly), ("IPPoolsAndHostIPs", NatOutgoingExclusions::IpPoolsAndHostIps)])?)),
    ("ServiceLoopPrevention", "serviceLoopPrevention", |c, t| Ok(c.service_loop_prevention = choice(t, &[
        ("Drop", ServiceLoopPrevention::Drop), ("Reject", ServiceLoopPrevention::Reject),
        ("Disabled", ServiceLoopPrevention::Disabled)])?)),
    ("WorkloadSourceSpoofing", "workloadSourceSpoofing", |c, t| Ok(c.workload_source_spoofing = choice(t, &[
        ("Any", true), ("Disabled", false)])?)),
    ("FloatingIPs", "floatingIPs", |c, t| Ok(c.floating_ips = switch(t)?)),
    ("AllowVXLANPacketsFromWorkloads", "allowVXLANPacketsFromWorkloads", |c, t| Ok(c.allow_vxlan_from_workloads = boolean(t)?)),
    ("AllowIPIPPacketsFromWorkloads", "allowIPIPPacketsFromWorkloads", |c, t| Ok(c.allow_ipip_from_workloads = boolean(t)?)),
    ("FeatureDetectOverride", "featureDetectOverride", |c, t| Ok(c.checksum_offload_broken = feature(t, "ChecksumOffloadBroken")?)),
    ("ClampMSSToPMTU", "clampMSSToPMTU", |c, t| Ok(c.clamp_mss = boolean(t)?)),
    ("VXLANPort", "vxlanPort", |c, t| Ok(c.vxlan_port = number(t, 1, 65535)?)),
    ("VXLANVNI", "vxlanVNI", |c, t| Ok(c.vxlan_vni = number(t, 1, (1 << 24) - 1)?)),
    ("VXLANEnabled", "vxlanEnabled", |c, t| Ok(c.vxlan_enabled = if is_none(t) { None } else { Some(boolean(t)?) })),
    ("WireguardEnabled", "wireguardEnabled", |c, t| Ok(c.wireguard.enabled = boolean(t)?)),
    ("WireguardEnabledV6", "wireguardEnabledV6", |c, t| Ok(c.wireguard.enabled_v6 = boolean(t)?)),
    ("WireguardListeningPort", "wireguardListeningPort", |c, t| Ok(c.wireguard.port = number(t, 1, 65535)?)),
    ("WireguardListeningPortV6", "wireguardListeningPortV6", |c, t| Ok(c.wireguard.port_v6 = number(t, 1, 65535)?)),
    ("WireguardPersistentKeepAlive", "wireguardKeepAlive", |c, t| Ok(c.wireguard.keep_alive = keep_alive(t)?)),
    ("PrometheusWireGuardMetricsEnabled", "prometheusWireGuardMetricsEnabled", |c, t| Ok(c.wireguard.has_metrics = boolean(t)?)),
    ("ExternalNodesCIDRList", "externalNodesList", |c, t| Ok(c.external_nodes = cidrs(t)?)),
    ("DisableConntrackInvalidCheck", "disableConntrackInvalidCheck", |c, t| Ok(c.disable_conntrack_invalid_check = boolean(t)?)),
    ("PolicyConntrackMode", "policyConntrackMode", |c, t| Ok(c.policy_conntrack_strict = choice(t, &[
        ("Established", false), ("Strict", true)])?)),
    ("HealthEnabled", "healthEnabled", |c, t| Ok(c.health.enabled = boolean(t)?)),
    ("HealthHost", "healthHost", |c, t| Ok(c.health.host = host(t)?)),
    ("HealthPort", "healthPort", |c, t| Ok(c.health.port = number(t, 0, 65535)?)),
    ("PrometheusMetricsEnabled", "prometheusMetricsEnabled", |c, t| Ok(c.metrics.enabled = boolean(t)?)),
    ("PrometheusMetricsHost", "prometheusMetricsHost", |c, t| Ok(c.metrics.host = host(t)?)),
    ("PrometheusMetricsPort", "prometheusMetricsPort", |c, t| Ok(c.metrics.port = number(t, 0, 65535)?)),
];

#[cfg(test)]
mod tests {
    use super::super::values::list;
    use super::super::{FailsafePort, Listener, SettingReason, SettingSource};
    use super::*;
    use crate::{PortRange, Protocol};

    fn with(settings: &[(&str, &str)]) -> FelixConfiguration {
        let mut configuration = FelixConfiguration::default();
        for (name, value) in settings {
            configuration.set_parameter(name, value, &SettingSource::Environment);
        }
        configuration
    }

    #[test]
    fn names_stand_once_and_in_any_case() {
        let mut names: Vec<String> = TABLE.iter().map(|(name, ..)| name.to_ascii_lowercase()).collect();
        names.extend(inert::names().map(str::to_ascii_lowercase));
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        let mut fields: Vec<&str> = fields().collect();
        let count = fields.len();
        fields.sort_unstable();
        fields.dedup();
        assert_eq!(fields.len(), count);

        assert!(!with(&[("IPV6SUPPORT", "false")]).ipv6);
        assert!(!with(&[("Felix_ipv6support", "0")]).ipv6);
    }

    #[test]
    fn values_are_understood_as_calico_writes_them() {
        let found = with(&[
            ("IptablesMarkMask", "0xff00ff00"),
            ("IptablesBackend", "NFT"),
            ("IptablesFilterDenyAction", "REJECT"),
            ("IptablesRefreshInterval", "1.5"),
            ("FailsafeInboundHostPorts", "tcp:22, udp:10.0.0.0/8:68, 179, tcp:[fd00::/8]:80"),
            ("FailsafeOutboundHostPorts", "none"),
            ("ExternalNodesCIDRList", "192.0.2.1,10.1.0.0/16"),
            ("NATPortRange", "1024:2047"),
            ("LogActionRateLimit", "10/minute"),
            ("LogActionRateLimitBurst", "7"),
            ("HealthHost", "localhost"),
            ("PrometheusMetricsEnabled", "true"),
            ("NftablesMarkMask", "0x00ffff00"),
            ("DeviceRouteSourceAddress", "192.0.2.1"),
            ("DeviceRouteProtocol", "48"),
            ("RemoveExternalRoutes", "false"),
            ("KubeNodePortRanges", "30000:30100,8080"),
            ("IPv6NormalRoutePriority", "7"),
        ]);

        assert_eq!(found.notes, []);
        assert_eq!((found.mark_mask, found.iptables_backend), (0xff00_ff00, IptablesBackend::Nft));
        assert_eq!(found.filter_deny_action, DenyAction::Reject);
        assert_eq!(found.ipv4_routes.source, "192.0.2.1".parse().ok());
        assert_eq!((found.route_protocol, found.ipv6_routes.priority), (48, 7));
        assert!(!found.remove_external_routes);
        assert_eq!(found.node_port_ranges.len(), 2);
        assert_eq!(found.iptables_refresh_interval.as_millis(), 1500);
        let failsafe = |protocol, port, net: Option<&str>| FailsafePort {
            protocol,
            port,
            net: net.map(|net| net.parse().unwrap()),
        };
        assert_eq!(
            found.failsafe_inbound,
            [
                failsafe(Protocol::TCP, 22, None),
                failsafe(Protocol::UDP, 68, Some("10.0.0.0/8")),
                failsafe(Protocol::TCP, 179, None),
                failsafe(Protocol::TCP, 80, Some("fd00::/8")),
            ]
        );
        assert_eq!(found.failsafe_outbound, []);
        assert_eq!(found.external_nodes.len(), 2);
        assert_eq!(found.nat_port_range, Some(PortRange { first: 1024, last: 2047 }));
        assert_eq!(found.log_rate_limit.map(|limit| (limit.count, limit.burst)), Some((10, 7)));
        assert_eq!(found.metrics, Listener { enabled: true, ..Listener::METRICS });
        assert_eq!(found.for_nftables().mark_mask, 0x00ff_ff00);
    }

    #[test]
    fn what_cannot_be_used_is_noted_and_changes_nothing() {
        let given = [
            ("IptablesMarkMask", "0"),
            ("IptablesMarkMask", "0x7"),
            ("NATPortRange", "9:8"),
            ("KubeNodePortRanges", "1,2,3,4,5,6,7,8"),
            ("DeviceRouteProtocol", "12"),
            ("DeviceRouteSourceAddress", "fd00::1"),
            ("FailsafeInboundHostPorts", "icmp:3"),
            ("ChainInsertMode", "sideways"),
            ("VXLANPort", "70000"),
            ("RouteRefreshInterval", "-1"),
            ("IpInIpMtu", "12"),
            ("InterfacePrefix", "cali,tap"),
            ("LogActionRateLimit", "many"),
        ];

        let found = with(&given);

        assert!(found.notes.iter().all(|note| matches!(note.reason, SettingReason::Invalid(_))));
        assert_eq!(found.notes.len(), given.len());
        assert_eq!(FelixConfiguration { notes: Vec::new(), ..found }, FelixConfiguration::default());
    }

    #[test]
    fn what_nothing_acts_upon_is_noted_unless_it_is_so_anyway() {
        let reason = |name: &str, value: &str| {
            let found = with(&[(name, value)]);
            found.notes.first().map(|note| note.reason.as_str())
        };
        assert_eq!(reason("BPFEnabled", "true"), Some("not-acted-upon"));
        assert_eq!(reason("BPFEnabled", "false"), None);
        assert_eq!(reason("WireguardHostEncryptionEnabled", ""), None);
        assert_eq!(reason("NoSuchThing", "1"), Some("unknown"));
        assert_eq!(reason("FelixHostname", "n1"), None);
        let mut of_object = FelixConfiguration::default();
        of_object.set_parameter("FelixHostname", "n1", &SettingSource::Default);
        assert_eq!(of_object.notes.len(), 1);
    }

    #[test]
    fn lists_of_names_are_read() {
        assert_eq!(list("none"), [""; 0]);
        assert_eq!(with(&[("InterfaceExclude", "kube-ipvs0, /^veth.*$/")]).interface_exclude.len(), 2);
    }
}
