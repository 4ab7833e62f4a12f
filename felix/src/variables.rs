//! The variables of the environment that the agent reads beside those of its settings, as the reference lists them.
//!
//! Owns names, defaults and meaning for the reader. What they do is decided where they are read; a variable that is
//! read and not listed here stops any debug build.

/// One variable of the environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variable {
    /// In capitals; in the environment any case is taken.
    pub name: &'static str,
    /// What holds without it, in words.
    pub default: &'static str,
    pub meaning: &'static str,
}

const fn variable(name: &'static str, default: &'static str, meaning: &'static str) -> Variable {
    Variable { name, default, meaning }
}

/// Which typha is asked, read by felix and bird-lite: `FELIX_` and the parameter in capitals.
pub const TYPHA: &[Variable] = &[
    variable("FELIX_TYPHAK8SSERVICENAME", "none", "Service of typha; none for the API server itself"),
    variable("FELIX_TYPHAK8SNAMESPACE", "kube-system", "Namespace of that Service"),
    variable("FELIX_TYPHAADDR", "", "Address and port of a typha, in place of the Service"),
    variable(
        "FELIX_TYPHACAFILE",
        "",
        "PEM file with the CA of typha's certificate; the next three go with it",
    ),
    variable("FELIX_TYPHACERTFILE", "", "PEM file with the certificate shown to typha"),
    variable("FELIX_TYPHAKEYFILE", "", "PEM file with its key"),
    variable(
        "FELIX_TYPHACN",
        "",
        "Common name that typha's certificate must have; this or the next with TLS",
    ),
    variable("FELIX_TYPHAURISAN", "", "URI that typha's certificate may have instead"),
    variable("FELIX_TYPHAREADTIMEOUT", "30", "Seconds without a word after which another typha is asked"),
    variable("FELIX_TYPHAWRITETIMEOUT", "10", "Seconds that a connection may take nothing"),
    variable(
        "OCICAT_TYPHA_FALLBACK",
        "0",
        "Seconds without any typha until the API server is asked; 0 for never",
    ),
];

/// What the start of a node goes by.
pub const START: &[Variable] = &[
    variable(
        "NODENAME",
        "FELIX_FELIXHOSTNAME, else HOSTNAME, else the host's name",
        "Name of this node in Kubernetes",
    ),
    variable("FELIX_FELIXHOSTNAME", "", "The same, behind NODENAME"),
    variable("HOSTNAME", "", "The same, behind both, in small letters"),
    variable("KUBECONFIG", "the pod's service account", "Kubeconfig of the API server"),
    variable(
        "IP",
        "autodetect",
        "The node's IPv4 address, with or without prefix length; autodetect; none leaves the Node as it is",
    ),
    variable("IP6", "autodetect", "The same for IPv6; without a word, a node that has none does without"),
    variable(
        "IP_AUTODETECTION_METHOD",
        "kubernetes-internal-ip",
        "kubernetes-internal-ip, first-found, can-reach=, interface=, skip-interface= or cidr=",
    ),
    variable("IP6_AUTODETECTION_METHOD", "kubernetes-internal-ip", "The same for IPv6"),
    variable(
        "AUTODETECT_POLL_INTERVAL",
        "60s",
        "How often addresses are looked for again without being told; 0 for never",
    ),
    variable("DISABLE_NODE_IP_CHECK", "false", "true: another node may have the same address"),
    variable("AS", "what the Node says, else the cluster's", "AS number of this node, as 64512 or 1.10"),
    variable(
        "CALICO_NETWORKING_BACKEND",
        "bird",
        "Who carries packets between nodes: bird, vxlan (no BGP), none (policy alone)",
    ),
    variable(
        "USE_POD_CIDR",
        "false",
        "true: another IPAM plugin gives out addresses of Node.spec.podCIDRs, and each of these is routed to its node",
    ),
    variable("CLUSTER_TYPE", "", "Words with commas between that go into ClusterInformation"),
    variable(
        "WAIT_FOR_DATASTORE",
        "true",
        "Taken for the sake of Calico's manifests: the agent always waits for the API server",
    ),
    variable(
        "OCICAT_LEAK_GRACE",
        "leakGracePeriod of the KubeControllersConfiguration, else 300",
        "Seconds after which addresses that nobody on this node uses are taken back; 0 for never",
    ),
];

/// The pools that the first start makes where a family has none.
pub const POOLS: &[Variable] = &[
    variable("NO_DEFAULT_POOLS", "false", "true makes no pool"),
    variable(
        "CALICO_IPV4POOL_CIDR",
        "kubeadm's podSubnet, else 192.168.0.0/16, else another private range that no node is in",
        "Range of the IPv4 pool; none for no pool",
    ),
    variable("CALICO_IPV4POOL_IPIP", "Never", "Always, CrossSubnet or Never"),
    variable("CALICO_IPV4POOL_VXLAN", "Never", "Always, CrossSubnet or Never; one of the two must be Never"),
    variable(
        "CALICO_IPV4POOL_NAT_OUTGOING",
        "true",
        "Whether packets to the world outside get the node's address",
    ),
    variable("CALICO_IPV4POOL_BLOCK_SIZE", "26", "Prefix length of a block, 20 to 32"),
    variable("CALICO_IPV4POOL_NODE_SELECTOR", "all()", "Which nodes take addresses out of the pool"),
    variable("CALICO_IPV4POOL_DISABLE_BGP_EXPORT", "false", "Whether its blocks are kept from BGP peers"),
    variable(
        "CALICO_IPV6POOL_CIDR",
        "none",
        "Range of the IPv6 pool; auto for kubeadm's, else one made up; none for no pool",
    ),
    variable("CALICO_IPV6POOL_VXLAN", "Never", "Always, CrossSubnet or Never"),
    variable(
        "CALICO_IPV6POOL_NAT_OUTGOING",
        "false",
        "Whether packets to the world outside get the node's address",
    ),
    variable("CALICO_IPV6POOL_BLOCK_SIZE", "122", "Prefix length of a block, 116 to 128"),
    variable("CALICO_IPV6POOL_NODE_SELECTOR", "all()", "Which nodes take addresses out of the pool"),
    variable("CALICO_IPV6POOL_DISABLE_BGP_EXPORT", "false", "Whether its blocks are kept from BGP peers"),
];

/// Is this one listed?
pub(crate) fn is_known(name: &str) -> bool {
    [TYPHA, START, POOLS].into_iter().flatten().any(|variable| variable.name == name)
}
