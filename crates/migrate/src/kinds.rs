//! The kinds that Calico keeps in the Kubernetes API, by both of its groups.

/// Group and version in which Calico keeps its objects unless it was installed with CRDs of the other.
pub const CALICO: &str = "crd.projectcalico.org/v1";
/// Group and version of our custom resources, which users of Calico know from its API server.
pub const OURS: &str = "projectcalico.org/v3";

/// One kind.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// Name in `projectcalico.org/v3`.
    pub name: &'static str,
    /// Plural in `projectcalico.org/v3`.
    pub plural: &'static str,
    /// Name in `crd.projectcalico.org/v1`.
    pub calico_name: &'static str,
    /// Plural in `crd.projectcalico.org/v1`.
    pub calico_plural: &'static str,
    pub namespaced: bool,
    /// Written by IPAM, not by people.
    pub is_ipam: bool,
}

/// All of them, in the order in which they are written: what others refer to comes first.
pub const KINDS: [Kind; 22] = [
    cluster("Tier", "tiers"),
    cluster("IPPool", "ippools"),
    cluster("IPReservation", "ipreservations"),
    Kind {
        calico_name: "IPAMConfig",
        calico_plural: "ipamconfigs",
        ..cluster("IPAMConfiguration", "ipamconfigurations")
    },
    ipam("IPAMBlock", "ipamblocks"),
    ipam("BlockAffinity", "blockaffinities"),
    ipam("IPAMHandle", "ipamhandles"),
    cluster("BGPConfiguration", "bgpconfigurations"),
    cluster("BGPFilter", "bgpfilters"),
    cluster("BGPPeer", "bgppeers"),
    cluster("FelixConfiguration", "felixconfigurations"),
    cluster("KubeControllersConfiguration", "kubecontrollersconfigurations"),
    cluster("ClusterInformation", "clusterinformations"),
    cluster("CalicoNodeStatus", "caliconodestatuses"),
    cluster("GlobalNetworkSet", "globalnetworksets"),
    namespaced("NetworkSet", "networksets"),
    cluster("HostEndpoint", "hostendpoints"),
    cluster("GlobalNetworkPolicy", "globalnetworkpolicies"),
    namespaced("NetworkPolicy", "networkpolicies"),
    cluster("StagedGlobalNetworkPolicy", "stagedglobalnetworkpolicies"),
    namespaced("StagedNetworkPolicy", "stagednetworkpolicies"),
    namespaced("StagedKubernetesNetworkPolicy", "stagedkubernetesnetworkpolicies"),
];

/// A kind by its plural in either group.
pub fn kind_of(plural: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.plural == plural || kind.calico_plural == plural)
}

impl Kind {
    /// Policies had the name of their tier before their own, and Calico notes the real name beside.
    pub fn is_policy(&self) -> bool {
        self.name.ends_with("NetworkPolicy")
    }
}

const fn cluster(name: &'static str, plural: &'static str) -> Kind {
    Kind { name, plural, calico_name: name, calico_plural: plural, namespaced: false, is_ipam: false }
}

const fn namespaced(name: &'static str, plural: &'static str) -> Kind {
    Kind { namespaced: true, ..cluster(name, plural) }
}

const fn ipam(name: &'static str, plural: &'static str) -> Kind {
    Kind { is_ipam: true, ..cluster(name, plural) }
}
