//! The settings of Calico that nothing acts upon, and why.

use super::Parameter;

pub(super) fn by_field(field: &str) -> Option<Parameter> {
    find(|entry| entry.1 == field && !field.is_empty())
}

pub(super) fn by_name(name: &str) -> Option<Parameter> {
    if OF_PROCESS.iter().any(|of| of.eq_ignore_ascii_case(name)) {
        return Some(Parameter::OfProcess);
    }
    find(|entry| entry.0.eq_ignore_ascii_case(name))
}

fn find(is_it: impl Fn(&Entry) -> bool) -> Option<Parameter> {
    TABLE.iter().find_map(|(why, entries)| {
        let (.., as_is) = entries.iter().find(|entry| is_it(entry))?;
        Some(Parameter::Inert { why, as_is })
    })
}

#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().flat_map(|(_, entries)| entries.iter().map(|entry| entry.0))
}

pub(super) fn fields() -> impl Iterator<Item = &'static str> {
    let all = TABLE.iter().flat_map(|(_, entries)| entries.iter().map(|entry| entry.1));
    all.filter(|field| !field.is_empty())
}

/// What says who and where the process is, and by which typha it hears of the cluster.
const OF_PROCESS: [&str; 11] = [
    "FelixHostname",
    "TyphaAddr",
    "TyphaCAFile",
    "TyphaCN",
    "TyphaCertFile",
    "TyphaK8sNamespace",
    "TyphaK8sServiceName",
    "TyphaKeyFile",
    "TyphaReadTimeout",
    "TyphaURISAN",
    "TyphaWriteTimeout",
];

/// Name, field of the object, and values that say what is the case anyway.
type Entry = (&'static str, &'static str, &'static [&'static str]);

/// Why, and what of.
#[rustfmt::skip]
const TABLE: &[(&str, &[Entry])] = &[
    ("there is no eBPF and no XDP dataplane", &[
        ("BPFEnabled", "bpfEnabled", &["false"]),
        ("BPFLogLevel", "bpfLogLevel", &["off"]),
        ("BPFDataIfacePattern", "bpfDataIfacePattern", &[]),
        ("BPFExternalServiceMode", "bpfExternalServiceMode", &["tunnel"]),
        ("BPFKubeProxyIptablesCleanupEnabled", "bpfKubeProxyIptablesCleanupEnabled", &[]),
        ("BPFConnectTimeLoadBalancing", "bpfConnectTimeLoadBalancing", &[]),
        ("BPFConnectTimeLoadBalancingEnabled", "bpfConnectTimeLoadBalancingEnabled", &[]),
        ("CgroupV2Path", "cgroupV2Path", &[]),
        ("DebugBPFCgroupV2", "", &[]),
        ("XDPEnabled", "xdpEnabled", &["false"]),
        ("GenericXDPEnabled", "genericXDPEnabled", &["false"]),
        ("XDPRefreshInterval", "xdpRefreshInterval", &[]),
    ]),
    ("WireGuard encrypts what pods send to pods on other nodes, by routes of the main table, through links of fixed names", &[
        ("WireguardHostEncryptionEnabled", "wireguardHostEncryptionEnabled", &["false"]),
        ("WireguardInterfaceName", "wireguardInterfaceName", &["wireguard.cali"]),
        ("WireguardInterfaceNameV6", "wireguardInterfaceNameV6", &["wg-v6.cali"]),
        ("WireguardRoutingRulePriority", "wireguardRoutingRulePriority", &["99"]),
        ("WireguardThreadingEnabled", "wireguardThreadingEnabled", &["false"]),
    ]),
    ("IP pools and IPAM say this", &[
        ("IpInIpEnabled", "ipipEnabled", &[]),
        ("RouteSource", "routeSource", &["CalicoIPAM"]),
    ]),
    ("there is no Go runtime", &[
        ("GoGCThreshold", "goGCThreshold", &[]),
        ("GoMaxProcs", "goMaxProcs", &["-1"]),
        ("GoMemoryLimitMB", "goMemoryLimitMB", &["-1"]),
        ("PrometheusGoMetricsEnabled", "prometheusGoMetricsEnabled", &["false"]),
    ]),
    ("logs go to the standard output alone", &[
        ("LogFilePath", "logFilePath", &["none"]),
        ("LogSeverityFile", "logSeverityFile", &["none"]),
        ("LogSeveritySys", "logSeveritySys", &["none"]),
        ("LogDebugFilenameRegex", "logDebugFilenameRegex", &[]),
        ("DebugDisableLogDropping", "debugDisableLogDropping", &["true"]),
    ]),
    ("the servers for probes and metrics speak plain HTTP and have no reporters of their own", &[
        ("PrometheusMetricsCAFile", "prometheusMetricsCAFile", &[]),
        ("PrometheusMetricsCertFile", "prometheusMetricsCertFile", &[]),
        ("PrometheusMetricsKeyFile", "prometheusMetricsKeyFile", &[]),
        ("PrometheusMetricsClientAuth", "prometheusMetricsClientAuth", &["NoClientCert"]),
        ("PrometheusProcessMetricsEnabled", "prometheusProcessMetricsEnabled", &["true"]),
        ("HealthTimeoutOverrides", "healthTimeoutOverrides", &[]),
    ]),
    ("the agent finds out for itself what the kernel takes", &[
        ("DataplaneDriver", "dataplaneDriver", &["calico-iptables-plugin"]),
        ("UseInternalDataplaneDriver", "useInternalDataplaneDriver", &["true"]),
        ("DataplaneWatchdogTimeout", "dataplaneWatchdogTimeout", &[]),
        ("NetlinkTimeoutSecs", "netlinkTimeout", &[]),
        ("FeatureGates", "featureGates", &[]),
        ("IptablesLockFilePath", "iptablesLockFilePath", &["/run/xtables.lock"]),
        ("IptablesLockTimeoutSecs", "iptablesLockTimeout", &[]),
        ("SidecarAccelerationEnabled", "sidecarAccelerationEnabled", &["false"]),
        ("NFTablesFlowTableOffload", "nftablesFlowTableOffload", &["Disabled"]),
        ("NFTablesFlowTableDataIfacePattern", "nftablesFlowTableDataIfacePattern", &[]),
        ("IgnoreLooseRPF", "", &["false"]),
        ("RequireMTUFile", "requireMTUFile", &["false"]),
    ]),
    ("the agent programs routes to its own pods alone, bird-lite those between nodes, and there is no live migration", &[
        ("IPv4ElevatedRoutePriority", "ipv4ElevatedRoutePriority", &[]),
        ("IPv6ElevatedRoutePriority", "ipv6ElevatedRoutePriority", &[]),
        ("LiveMigrationRouteConvergenceTime", "liveMigrationRouteConvergenceTime", &[]),
        ("RouteSyncDisabled", "routeSyncDisabled", &["false"]),
        ("RouteTableRange", "routeTableRange", &[]),
        ("RouteTableRanges", "routeTableRanges", &[]),
        ("ProgramClusterRoutes", "programClusterRoutes", &["Disabled"]),
        ("LocalSubnetL2Reachability", "localSubnetL2Reachability", &["Disabled"]),
        ("LocalSubnetL2ReachabilityRefreshInterval", "localSubnetL2ReachabilityRefreshInterval", &[]),
    ]),
    ("nothing is reported there; see the metrics, the drop records and the status of the policies", &[
        ("EndpointStatusPathPrefix", "endpointStatusPathPrefix", &["none"]),
        ("PolicySyncPathPrefix", "policySyncPathPrefix", &["none"]),
        ("EndpointReportingEnabled", "endpointReportingEnabled", &["false"]),
        ("EndpointReportingDelaySecs", "endpointReportingDelay", &[]),
        ("ReportingIntervalSecs", "reportingInterval", &["0", "0s"]),
        ("ReportingTTLSecs", "reportingTTL", &[]),
        ("UsageReportingEnabled", "usageReportingEnabled", &["false"]),
        ("UsageReportingInitialDelaySecs", "usageReportingInitialDelay", &[]),
        ("UsageReportingIntervalSecs", "usageReportingInterval", &[]),
        ("FlowLogsCollectorDebugTrace", "flowLogsCollectorDebugTrace", &["false"]),
        ("FlowLogsFlushInterval", "flowLogsFlushInterval", &[]),
        ("FlowLogsGoldmaneServer", "flowLogsGoldmaneServer", &[]),
        ("FlowLogsLocalReporter", "flowLogsLocalReporter", &["Disabled"]),
        ("FlowLogsPolicyEvaluationMode", "flowLogsPolicyEvaluationMode", &[]),
    ]),
    ("it is about an environment that is not supported", &[
        ("IstioAmbientMode", "istioAmbientMode", &["Disabled"]),
        ("IstioDSCPMark", "istioDSCPMark", &[]),
        ("AWSSrcDstCheck", "awsSrcDstCheck", &["DoNothing"]),
        ("MetadataAddr", "metadataAddr", &["none"]),
        ("MetadataPort", "metadataPort", &[]),
        ("OpenstackRegion", "openstackRegion", &[]),
        ("DropActionOverride", "", &["Drop"]),
    ]),
    ("it is a switch for debugging Calico's own agent", &[
        ("DebugCPUProfilePath", "", &[]),
        ("DebugHost", "debugHost", &[]),
        ("DebugMemoryProfilePath", "debugMemoryProfilePath", &[]),
        ("DebugPanicAfter", "", &["0"]),
        ("DebugPort", "debugPort", &[]),
        ("DebugSimulateCalcGraphHangAfter", "debugSimulateCalcGraphHangAfter", &[]),
        ("DebugSimulateDataRace", "", &["false"]),
        ("DebugSimulateDataplaneApplyDelay", "debugSimulateDataplaneApplyDelay", &[]),
        ("DebugSimulateDataplaneHangAfter", "debugSimulateDataplaneHangAfter", &[]),
    ]),
    ("the datastore is the Kubernetes API", &[
        ("DatastoreType", "", &["kubernetes"]),
        ("EtcdAddr", "", &[]),
        ("EtcdCaFile", "", &[]),
        ("EtcdCertFile", "", &[]),
        ("EtcdEndpoints", "", &[]),
        ("EtcdKeyFile", "", &[]),
        ("EtcdScheme", "", &[]),
        ("EtcdDriver", "", &[]),
    ]),
    ("it follows from the Node and the cluster", &[
        ("IpInIpTunnelAddr", "", &[]),
        ("IPv4VXLANTunnelAddr", "", &[]),
        ("IPv6VXLANTunnelAddr", "", &[]),
        ("VXLANTunnelMACAddr", "", &[]),
        ("VXLANTunnelMACAddrV6", "", &[]),
        ("ClusterGUID", "", &[]),
        ("ClusterType", "", &[]),
        ("CalicoVersion", "", &[]),
    ]),
];
