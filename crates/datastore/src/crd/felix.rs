//! `FelixConfiguration`.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ipam::Switch;
use super::text;

/// What becomes of packets from a pod to its own node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EndpointToHostAction {
    Drop,
    Accept,
    Return,
}

/// Written in either case by people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ChainInsertMode {
    Insert,
    Append,
    #[serde(rename = "insert")]
    LowerInsert,
    #[serde(rename = "append")]
    LowerAppend,
}

/// Settings of the node agent: `default`, `node.<name>`, or any name with a nodeSelector.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "FelixConfiguration",
    plural = "felixconfigurations",
    shortname = "felixconfig",
    shortname = "felixconfigs",
    derive = "PartialEq",
    doc = "Settings of the node agent: named default for all nodes, node.<name> for one.",
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct FelixConfigurationSpec {
    /// Pod interfaces begin so; cali unless given.
    #[schemars(regex(pattern = r"^[a-zA-Z0-9_-]{1,15}(,[a-zA-Z0-9_-]{1,15})*$"), length(max = 64))]
    pub interface_prefix: Option<String>,
    /// Where the jumps to our chains stand; Insert unless given.
    pub chain_insert_mode: Option<ChainInsertMode>,
    /// What becomes of packets from a pod to its own node that egress policy let through; Accept unless given.
    pub default_endpoint_to_host_action: Option<EndpointToHostAction>,
    /// 90s unless given.
    #[schemars(regex(pattern = text::DURATION), length(max = 32))]
    pub iptables_refresh_interval: Option<String>,
    /// 90s unless given.
    #[schemars(regex(pattern = text::DURATION), length(max = 32))]
    pub ipsets_refresh_interval: Option<String>,
    /// 90s unless given.
    #[schemars(regex(pattern = text::DURATION), length(max = 32))]
    pub route_refresh_interval: Option<String>,
    /// MTU of pod interfaces; found out unless given.
    #[schemars(range(min = 0, max = 65535))]
    pub mtu: Option<i32>,
    /// MTU of tunl0, and of pods while a pool uses it; found out unless given.
    #[serde(rename = "ipipMTU")]
    #[schemars(range(min = 0, max = 65535))]
    pub ipip_mtu: Option<i32>,
    /// Program IPv6 too; true unless given.
    pub ipv6_support: Option<bool>,
    /// Metric of the routes to local pods; 1024 unless given.
    #[schemars(range(min = 1, max = 2147483646))]
    pub ipv4_normal_route_priority: Option<i32>,
    /// Metric of the routes to local pods; 1024 unless given.
    #[schemars(range(min = 1, max = 2147483646))]
    pub ipv6_normal_route_priority: Option<i32>,
    /// Info unless given.
    #[schemars(regex(pattern = r"^(?i:trace|debug|info|warning|warn|error|fatal)?$"), length(max = 16))]
    pub log_severity_screen: Option<String>,
    /// Regular expression: links whose MTU counts when that of the pods is found out.
    #[schemars(length(max = 1024))]
    pub mtu_iface_pattern: Option<String>,
    #[serde(flatten)]
    pub other: Other,
}

/// Settings whose values the agent itself judges; what it does not act upon, it says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Other {
    pub node_selector: Option<String>,
    pub interface_exclude: Option<String>,
    pub iptables_backend: Option<String>,
    pub iptables_post_write_check_interval: Option<String>,
    pub iptables_lock_file_path: Option<String>,
    pub iptables_lock_timeout: Option<String>,
    pub iptables_lock_probe_interval: Option<String>,
    pub iptables_mark_mask: Option<i64>,
    #[serde(rename = "iptablesNATOutgoingInterfaceFilter")]
    pub iptables_nat_outgoing_interface_filter: Option<String>,
    pub iptables_filter_allow_action: Option<String>,
    pub iptables_filter_deny_action: Option<String>,
    pub iptables_mangle_allow_action: Option<String>,
    pub nftables_mode: Option<String>,
    pub nftables_refresh_interval: Option<String>,
    pub nftables_mark_mask: Option<i64>,
    pub nftables_filter_allow_action: Option<String>,
    pub nftables_filter_deny_action: Option<String>,
    pub nftables_mangle_allow_action: Option<String>,
    pub netlink_timeout: Option<String>,
    pub interface_refresh_interval: Option<String>,
    pub device_route_source_address: Option<String>,
    #[serde(rename = "deviceRouteSourceAddressIPv6")]
    pub device_route_source_address_ipv6: Option<String>,
    pub device_route_protocol: Option<i32>,
    pub remove_external_routes: Option<bool>,
    pub route_sync_disabled: Option<bool>,
    pub route_source: Option<String>,
    pub route_table_ranges: Option<Vec<TableRange>>,
    pub log_file_path: Option<String>,
    pub log_prefix: Option<String>,
    pub log_severity_file: Option<String>,
    pub log_severity_sys: Option<String>,
    pub ipip_enabled: Option<bool>,
    pub vxlan_enabled: Option<bool>,
    #[serde(rename = "vxlanMTU")]
    pub vxlan_mtu: Option<i32>,
    #[serde(rename = "vxlanMTUV6")]
    pub vxlan_mtu_v6: Option<i32>,
    pub vxlan_port: Option<i32>,
    #[serde(rename = "vxlanVNI")]
    pub vxlan_vni: Option<i32>,
    #[serde(rename = "allowVXLANPacketsFromWorkloads")]
    pub allow_vxlan_packets_from_workloads: Option<bool>,
    #[serde(rename = "allowIPIPPacketsFromWorkloads")]
    pub allow_ipip_packets_from_workloads: Option<bool>,
    pub reporting_interval: Option<String>,
    #[serde(rename = "reportingTTL")]
    pub reporting_ttl: Option<String>,
    pub endpoint_reporting_enabled: Option<bool>,
    pub endpoint_reporting_delay: Option<String>,
    pub endpoint_status_path_prefix: Option<String>,
    pub health_enabled: Option<bool>,
    pub health_host: Option<String>,
    pub health_port: Option<i32>,
    pub health_timeout_overrides: Option<Vec<HealthTimeout>>,
    pub prometheus_metrics_enabled: Option<bool>,
    pub prometheus_metrics_host: Option<String>,
    pub prometheus_metrics_port: Option<i32>,
    pub prometheus_go_metrics_enabled: Option<bool>,
    pub prometheus_process_metrics_enabled: Option<bool>,
    pub prometheus_wire_guard_metrics_enabled: Option<bool>,
    pub failsafe_inbound_host_ports: Option<Vec<ProtoPort>>,
    pub failsafe_outbound_host_ports: Option<Vec<ProtoPort>>,
    pub kube_node_port_ranges: Option<Vec<super::int_or_string::PortValue>>,
    pub nat_port_range: Option<super::int_or_string::PortValue>,
    pub nat_outgoing_address: Option<String>,
    pub nat_outgoing_exclusions: Option<String>,
    pub external_nodes_list: Option<Vec<String>>,
    pub program_cluster_routes: Option<super::bgp::ProgramClusterRoutes>,
    pub ip_forwarding: Option<Switch>,
    pub wireguard_enabled: Option<bool>,
    pub wireguard_enabled_v6: Option<bool>,
    pub wireguard_listening_port: Option<i32>,
    pub wireguard_listening_port_v6: Option<i32>,
    pub wireguard_routing_rule_priority: Option<i32>,
    pub wireguard_interface_name: Option<String>,
    pub wireguard_interface_name_v6: Option<String>,
    #[serde(rename = "wireguardMTU")]
    pub wireguard_mtu: Option<i32>,
    #[serde(rename = "wireguardMTUV6")]
    pub wireguard_mtu_v6: Option<i32>,
    pub wireguard_host_encryption_enabled: Option<bool>,
    pub wireguard_keep_alive: Option<String>,
    pub service_loop_prevention: Option<String>,
    pub workload_source_spoofing: Option<String>,
    #[serde(rename = "floatingIPs")]
    pub floating_ips: Option<Switch>,
    pub ipv4_elevated_route_priority: Option<i32>,
    pub ipv6_elevated_route_priority: Option<i32>,
    #[serde(rename = "requireMTUFile")]
    pub require_mtu_file: Option<bool>,
    /// With ChecksumOffloadBroken=true tunnels leave no checksum to the hardware.
    pub feature_detect_override: Option<String>,
    pub feature_gates: Option<String>,
    pub sidecar_acceleration_enabled: Option<bool>,
    pub xdp_enabled: Option<bool>,
    pub xdp_refresh_interval: Option<String>,
    #[serde(rename = "genericXDPEnabled")]
    pub generic_xdp_enabled: Option<bool>,
    pub policy_sync_path_prefix: Option<String>,
    pub usage_reporting_enabled: Option<bool>,
    pub usage_reporting_initial_delay: Option<String>,
    pub usage_reporting_interval: Option<String>,
    pub max_ipset_size: Option<i64>,
    pub metadata_addr: Option<String>,
    pub metadata_port: Option<i32>,
    pub aws_src_dst_check: Option<String>,
    #[serde(rename = "goGCThreshold")]
    pub go_gc_threshold: Option<i32>,
    #[serde(rename = "goMemoryLimitMB")]
    pub go_memory_limit_mb: Option<i32>,
    pub go_max_procs: Option<i32>,
    pub bpf_enabled: Option<bool>,
    pub bpf_log_level: Option<String>,
    pub bpf_data_iface_pattern: Option<String>,
    pub bpf_external_service_mode: Option<String>,
    pub bpf_kube_proxy_iptables_cleanup_enabled: Option<bool>,
    pub bpf_connect_time_load_balancing: Option<String>,
    pub bpf_connect_time_load_balancing_enabled: Option<bool>,
    pub flow_logs_flush_interval: Option<String>,
    pub flow_logs_goldmane_server: Option<String>,
    pub flow_logs_local_reporter: Option<Switch>,
    pub flow_logs_policy_evaluation_mode: Option<String>,
    pub istio_ambient_mode: Option<Switch>,
    pub openstack_region: Option<String>,
    /// Whether TCP agrees on segments that fit through the routes of nodes on the way.
    #[serde(rename = "clampMSSToPMTU")]
    pub clamp_mss_to_pmtu: Option<bool>,
    /// Established (connections go on when a policy tightens) or Strict (those that it denies end).
    pub policy_conntrack_mode: Option<String>,
    /// Enabled: packets that policy drops are recorded.
    pub drop_log: Option<Switch>,
    /// At most so many records of each place that drops, such as 10/second.
    pub drop_log_rate: Option<String>,
    pub log_action_rate_limit: Option<String>,
    pub log_action_rate_limit_burst: Option<i32>,
    pub disable_conntrack_invalid_check: Option<bool>,
    #[serde(rename = "cgroupV2Path")]
    pub cgroup_v2_path: Option<String>,
    pub wireguard_threading_enabled: Option<bool>,
    pub log_debug_filename_regex: Option<String>,
    pub debug_disable_log_dropping: Option<bool>,
    #[serde(rename = "prometheusMetricsCAFile")]
    pub prometheus_metrics_ca_file: Option<String>,
    pub prometheus_metrics_cert_file: Option<String>,
    pub prometheus_metrics_key_file: Option<String>,
    pub prometheus_metrics_client_auth: Option<String>,
    pub dataplane_driver: Option<String>,
    pub use_internal_dataplane_driver: Option<bool>,
    pub dataplane_watchdog_timeout: Option<String>,
    pub nftables_flow_table_offload: Option<String>,
    pub nftables_flow_table_data_iface_pattern: Option<String>,
    pub live_migration_route_convergence_time: Option<String>,
    pub route_table_range: Option<TableRange>,
    pub local_subnet_l2_reachability: Option<String>,
    pub local_subnet_l2_reachability_refresh_interval: Option<String>,
    pub flow_logs_collector_debug_trace: Option<bool>,
    #[serde(rename = "istioDSCPMark")]
    pub istio_dscp_mark: Option<super::int_or_string::PortValue>,
    pub debug_host: Option<String>,
    pub debug_memory_profile_path: Option<String>,
    pub debug_port: Option<i32>,
    pub debug_simulate_calc_graph_hang_after: Option<String>,
    pub debug_simulate_dataplane_apply_delay: Option<String>,
    pub debug_simulate_dataplane_hang_after: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProtoPort {
    pub protocol: Option<String>,
    pub port: i32,
    pub net: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TableRange {
    pub min: i64,
    pub max: i64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HealthTimeout {
    pub name: String,
    pub timeout: String,
}
