//! The kinds that `get` knows: their names, where they are kept, and the columns that calicoctl's users know.
//! Owns no request.

use datastore::ObjectKind;
use serde_json::Value;

/// Where the objects of a kind come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Objects of this kind as they stand.
    Stored(ObjectKind),
    /// Nodes of Kubernetes with Calico's annotations.
    Nodes,
    /// Pods that have an address of their own.
    WorkloadEndpoints,
    /// Stored ones, and what namespaces and service accounts stand for.
    Profiles,
    /// Stored ones, and those of Kubernetes.
    NetworkPolicies,
}

/// One kind.
pub(super) struct Kind {
    pub(super) kind: &'static str,
    /// Every name in small letters that is understood; the first is shown.
    pub(super) names: &'static [&'static str],
    pub(super) is_namespaced: bool,
    pub(super) source: Source,
    pub(super) columns: &'static [Column],
}

/// One column of the tables of a kind.
pub(super) struct Column {
    pub(super) header: &'static str,
    when: When,
    cell: Cell,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    Always,
    /// Only with `-o wide`.
    Wide,
}

enum Cell {
    /// What stands there, and what is shown when nothing does.
    At(&'static str, &'static str),
    /// How many entries the list has.
    Count(&'static str),
    /// The entries of a list or map, at most 80 characters.
    List(&'static str),
    Of(fn(&Value) -> String),
}

impl Column {
    pub(super) fn is_shown(&self, wide: bool) -> bool {
        wide || self.when == When::Always
    }

    pub(super) fn text(&self, object: &Value) -> String {
        match self.cell {
            Cell::At(path, otherwise) => {
                let text = object.pointer(path).map(plain_value).unwrap_or_default();
                if text.is_empty() { otherwise.to_owned() } else { text }
            }
            Cell::Count(path) => {
                object.pointer(path).and_then(Value::as_array).map_or(0, Vec::len).to_string()
            }
            Cell::List(path) => short(&object.pointer(path).map(plain_value).unwrap_or_default()),
            Cell::Of(text) => text(object),
        }
    }
}

/// Text as it is, lists joined by commas, maps as `key=value`.
pub(super) fn plain_value(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain_value).collect::<Vec<_>>().join(","),
        Value::Object(members) => members
            .iter()
            .map(|(key, value)| format!("{key}={}", plain_value(value)))
            .collect::<Vec<_>>()
            .join(","),
        other => other.to_string(),
    }
}

fn short(text: &str) -> String {
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    text.chars().take(LONGEST - 3).collect::<String>() + "..."
}

const LONGEST: usize = 80;

/// The kind of a name as calicoctl takes it: any case, singular, plural or short.
pub(super) fn find(name: &str) -> Option<&'static Kind> {
    let name = name.to_ascii_lowercase();
    let bare = name.strip_suffix(".projectcalico.org").unwrap_or(&name);
    KINDS.iter().find(|kind| kind.names.contains(&bare))
}

/// What a name may be, for whoever gave another.
pub(super) fn known() -> String {
    KINDS.iter().filter_map(|kind| kind.names.first().copied()).collect::<Vec<_>>().join(", ")
}

const fn calico(kind: &'static str, plural: &'static str) -> Source {
    Source::Stored(stored(kind, plural))
}

/// Where objects of projectcalico.org are kept.
pub(super) const fn stored(kind: &'static str, plural: &'static str) -> ObjectKind {
    ObjectKind { group: "projectcalico.org", version: "v3", kind, plural }
}

const fn col(header: &'static str, path: &'static str) -> Column {
    Column { header, when: When::Always, cell: Cell::At(path, "") }
}

const fn wide(header: &'static str, path: &'static str) -> Column {
    Column { header, when: When::Wide, cell: Cell::At(path, "") }
}

const fn of(header: &'static str, text: fn(&Value) -> String) -> Column {
    Column { header, when: When::Always, cell: Cell::Of(text) }
}

const fn count(header: &'static str, path: &'static str) -> Column {
    Column { header, when: When::Always, cell: Cell::Count(path) }
}

const fn wide_list(header: &'static str, path: &'static str) -> Column {
    Column { header, when: When::Wide, cell: Cell::List(path) }
}

const NAME: Column = col("NAME", "/metadata/name");
const TIER: Column = Column { header: "TIER", when: When::Always, cell: Cell::At("/spec/tier", "default") };
const ORDER: Column = wide("ORDER", "/spec/order");
const SELECTOR: Column = wide("SELECTOR", "/spec/selector");
const POLICY: &[Column] = &[NAME, TIER, ORDER, SELECTOR];

/// `(global)`, a node, or a selector.
fn peer_node(peer: &Value) -> String {
    let at = |path: &str| peer.pointer(path).map(plain_value).filter(|text| !text.is_empty());
    at("/spec/node").or_else(|| at("/spec/nodeSelector")).unwrap_or_else(|| "(global)".to_owned())
}

/// An address, or the selector of the nodes that are peered with.
fn peer_address(peer: &Value) -> String {
    let at = |path: &str| peer.pointer(path).map(plain_value).filter(|text| !text.is_empty());
    at("/spec/peerIP")
        .or_else(|| at("/spec/peerSelector"))
        .or_else(|| at("/spec/localWorkloadSelector"))
        .unwrap_or_default()
}

fn node_asn(node: &Value) -> String {
    node.pointer("/spec/bgp/asNumber").map_or_else(|| "(64512)".to_owned(), plain_value)
}

fn used(block: &Value) -> String {
    let slots = block.pointer("/spec/allocations").and_then(Value::as_array);
    slots.map_or_else(String::new, |slots| {
        format!("{}/{}", slots.iter().filter(|slot| !slot.is_null()).count(), slots.len())
    })
}

fn mesh(configuration: &Value) -> String {
    let mesh = configuration.pointer("/spec/nodeToNodeMeshEnabled");
    // The default holds for the cluster's configuration alone.
    mesh.map(plain_value).unwrap_or_else(|| {
        if configuration["metadata"]["name"] == "default" { "true".to_owned() } else { String::new() }
    })
}

/// All of them.
pub(super) const KINDS: &[Kind] = &[
    Kind {
        kind: "BGPConfiguration",
        names: &["bgpconfigurations", "bgpconfiguration", "bgpconfig", "bgpconfigs"],
        is_namespaced: false,
        source: calico("BGPConfiguration", "bgpconfigurations"),
        columns: &[
            NAME,
            Column {
                header: "LOGSEVERITY",
                when: When::Always,
                cell: Cell::At("/spec/logSeverityScreen", "Info"),
            },
            of("MESHENABLED", mesh),
            col("ASNUMBER", "/spec/asNumber"),
        ],
    },
    Kind {
        kind: "BGPFilter",
        names: &["bgpfilters", "bgpfilter", "bgpf", "bgpfs", "bf", "bfs"],
        is_namespaced: false,
        source: calico("BGPFilter", "bgpfilters"),
        columns: &[
            NAME,
            count("NUMEXPORTV4", "/spec/exportV4"),
            count("NUMIMPORTV4", "/spec/importV4"),
            count("NUMEXPORTV6", "/spec/exportV6"),
            count("NUMIMPORTV6", "/spec/importV6"),
        ],
    },
    Kind {
        kind: "BGPPeer",
        names: &["bgppeers", "bgppeer", "bgpp", "bgpps", "bp", "bps"],
        is_namespaced: false,
        source: calico("BGPPeer", "bgppeers"),
        columns: &[NAME, of("PEERIP", peer_address), of("NODE", peer_node), col("ASN", "/spec/asNumber")],
    },
    Kind {
        kind: "BlockAffinity",
        names: &["blockaffinities", "blockaffinity", "affinity", "affinities"],
        is_namespaced: false,
        source: calico("BlockAffinity", "blockaffinities"),
        columns: &[NAME, col("NODE", "/spec/node"), col("CIDR", "/spec/cidr"), col("STATE", "/spec/state")],
    },
    Kind {
        kind: "ClusterInformation",
        names: &["clusterinformations", "clusterinformation", "clusterinfo", "clusterinfos"],
        is_namespaced: false,
        source: calico("ClusterInformation", "clusterinformations"),
        columns: &[
            NAME,
            col("CLUSTERGUID", "/spec/clusterGUID"),
            col("CLUSTERTYPE", "/spec/clusterType"),
            col("CALICOVERSION", "/spec/calicoVersion"),
            col("DATASTOREREADY", "/spec/datastoreReady"),
        ],
    },
    Kind {
        kind: "FelixConfiguration",
        names: &["felixconfigurations", "felixconfiguration", "felixconfig", "felixconfigs"],
        is_namespaced: false,
        source: calico("FelixConfiguration", "felixconfigurations"),
        columns: &[NAME],
    },
    Kind {
        kind: "GlobalNetworkPolicy",
        names: &["globalnetworkpolicies", "globalnetworkpolicy", "gnp", "gnps"],
        is_namespaced: false,
        source: calico("GlobalNetworkPolicy", "globalnetworkpolicies"),
        columns: POLICY,
    },
    Kind {
        kind: "GlobalNetworkSet",
        names: &["globalnetworksets", "globalnetworkset", "gnetsets", "gnetset"],
        is_namespaced: false,
        source: calico("GlobalNetworkSet", "globalnetworksets"),
        columns: &[NAME, wide_list("NETS", "/spec/nets")],
    },
    Kind {
        kind: "HostEndpoint",
        names: &["hostendpoints", "hostendpoint", "hep", "heps"],
        is_namespaced: false,
        source: calico("HostEndpoint", "hostendpoints"),
        columns: &[
            NAME,
            col("NODE", "/spec/node"),
            wide("INTERFACE", "/spec/interfaceName"),
            wide("IPS", "/spec/expectedIPs"),
            wide("PROFILES", "/spec/profiles"),
        ],
    },
    Kind {
        kind: "IPAMBlock",
        names: &["ipamblocks", "ipamblock", "blocks", "block"],
        is_namespaced: false,
        source: calico("IPAMBlock", "ipamblocks"),
        columns: &[NAME, col("CIDR", "/spec/cidr"), col("AFFINITY", "/spec/affinity"), of("USED", used)],
    },
    Kind {
        kind: "IPAMConfiguration",
        names: &["ipamconfigurations", "ipamconfiguration", "ipamconfig", "ipamconfigs"],
        is_namespaced: false,
        source: calico("IPAMConfiguration", "ipamconfigurations"),
        columns: &[
            NAME,
            col("STRICTAFFINITY", "/spec/strictAffinity"),
            col("AUTOALLOCATEBLOCKS", "/spec/autoAllocateBlocks"),
            wide("MAXBLOCKSPERHOST", "/spec/maxBlocksPerHost"),
        ],
    },
    Kind {
        kind: "IPAMHandle",
        names: &["ipamhandles", "ipamhandle", "handles", "handle"],
        is_namespaced: false,
        source: calico("IPAMHandle", "ipamhandles"),
        columns: &[NAME, col("BLOCKS", "/spec/block")],
    },
    Kind {
        kind: "IPPool",
        names: &["ippools", "ippool", "ipp", "ipps", "pool", "pools"],
        is_namespaced: false,
        source: calico("IPPool", "ippools"),
        columns: &[
            NAME,
            col("CIDR", "/spec/cidr"),
            wide("NAT", "/spec/natOutgoing"),
            wide("IPIPMODE", "/spec/ipipMode"),
            wide("VXLANMODE", "/spec/vxlanMode"),
            wide("DISABLED", "/spec/disabled"),
            wide("DISABLEBGPEXPORT", "/spec/disableBGPExport"),
            col("SELECTOR", "/spec/nodeSelector"),
            wide("ASSIGNMENTMODE", "/spec/assignmentMode"),
        ],
    },
    Kind {
        kind: "IPReservation",
        names: &["ipreservations", "ipreservation", "reservation", "reservations"],
        is_namespaced: false,
        source: calico("IPReservation", "ipreservations"),
        columns: &[NAME, wide_list("CIDRS", "/spec/reservedCIDRs")],
    },
    Kind {
        kind: "KubeControllersConfiguration",
        names: &[
            "kubecontrollersconfigurations",
            "kubecontrollersconfiguration",
            "kubecontrollersconfig",
            "kubecontrollersconfigs",
            "kcconfig",
        ],
        is_namespaced: false,
        source: calico("KubeControllersConfiguration", "kubecontrollersconfigurations"),
        columns: &[NAME],
    },
    Kind {
        kind: "NetworkPolicy",
        names: &["networkpolicies", "networkpolicy", "np", "policy", "policies", "pol", "pols", "cnp"],
        is_namespaced: true,
        source: Source::NetworkPolicies,
        columns: POLICY,
    },
    Kind {
        kind: "NetworkSet",
        names: &["networksets", "networkset", "netsets", "netset"],
        is_namespaced: true,
        source: calico("NetworkSet", "networksets"),
        columns: &[NAME, wide_list("NETS", "/spec/nets")],
    },
    Kind {
        kind: "Node",
        names: &["nodes", "node", "no", "nos"],
        is_namespaced: false,
        source: Source::Nodes,
        columns: &[
            NAME,
            Column { header: "ASN", when: When::Wide, cell: Cell::Of(node_asn) },
            wide("IPV4", "/spec/bgp/ipv4Address"),
            wide("IPV6", "/spec/bgp/ipv6Address"),
        ],
    },
    Kind {
        kind: "CalicoNodeStatus",
        names: &["caliconodestatuses", "caliconodestatus", "nodestatus", "nodestatuses"],
        is_namespaced: false,
        source: calico("CalicoNodeStatus", "caliconodestatuses"),
        columns: &[NAME, col("NODE", "/spec/node"), wide("CLASSES", "/spec/classes")],
    },
    Kind {
        kind: "Profile",
        names: &["profiles", "profile", "pro", "pros"],
        is_namespaced: false,
        source: Source::Profiles,
        columns: &[NAME, wide_list("LABELS", "/spec/labelsToApply")],
    },
    Kind {
        kind: "StagedGlobalNetworkPolicy",
        names: &["stagedglobalnetworkpolicies", "stagedglobalnetworkpolicy", "sgnp", "sgnps"],
        is_namespaced: false,
        source: calico("StagedGlobalNetworkPolicy", "stagedglobalnetworkpolicies"),
        columns: POLICY,
    },
    Kind {
        kind: "StagedNetworkPolicy",
        names: &["stagednetworkpolicies", "stagednetworkpolicy", "snp", "snps", "spol", "spols"],
        is_namespaced: true,
        source: calico("StagedNetworkPolicy", "stagednetworkpolicies"),
        columns: POLICY,
    },
    Kind {
        kind: "StagedKubernetesNetworkPolicy",
        names: &[
            "stagedkubernetesnetworkpolicies",
            "stagedkubernetesnetworkpolicy",
            "sknp",
            "sknps",
            "skpol",
            "skpols",
        ],
        is_namespaced: true,
        source: calico("StagedKubernetesNetworkPolicy", "stagedkubernetesnetworkpolicies"),
        columns: &[NAME, wide("PODSELECTOR", "/spec/podSelector")],
    },
    Kind {
        kind: "Tier",
        names: &["tiers", "tier"],
        is_namespaced: false,
        source: calico("Tier", "tiers"),
        columns: &[NAME, col("ORDER", "/spec/order")],
    },
    Kind {
        kind: "WorkloadEndpoint",
        names: &["workloadendpoints", "workloadendpoint", "wep", "weps"],
        is_namespaced: true,
        source: Source::WorkloadEndpoints,
        columns: &[
            Column { header: "NAME", when: When::Wide, cell: Cell::At("/metadata/name", "") },
            col("WORKLOAD", "/spec/pod"),
            col("NODE", "/spec/node"),
            col("NETWORKS", "/spec/ipNetworks"),
            col("INTERFACE", "/spec/interfaceName"),
            wide("PROFILES", "/spec/profiles"),
            wide("NATS", "/spec/ipNATs"),
        ],
    },
];
