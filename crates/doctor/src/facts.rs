//! The facts of one node. They travel as JSON between releases: what is not there was not looked at.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// All that is known of one node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Facts {
    pub node: String,
    /// Release of the kernel, as `uname -r` has it.
    pub kernel: String,
    /// How long it took to gather them, milliseconds.
    pub took_ms: u64,
    /// What could not be looked at, and why.
    pub unseen: Vec<String>,
    pub felix: Agent,
    pub speaker: Agent,
    /// How the node's address was chosen, one entry a family.
    pub addresses: Vec<Chosen>,
    pub links: Vec<Link>,
    pub routes: Vec<Route>,
    pub paths: Vec<Path>,
    pub sessions: Vec<Session>,
    pub sysctls: Sysctls,
    pub rules: Option<RuleFacts>,
    pub cni: Option<CniFacts>,
    /// Programs that are known to interfere: `NetworkManager`, `firewalld`; and whether they leave our links alone,
    /// where that can be seen.
    pub meddlers: BTreeMap<String, Option<bool>>,
    /// What the cluster's pools and settings want of the kernel besides plain routes: `ipip`, `vxlan`, `wireguard`.
    /// `None`: the node agent did not say.
    pub encapsulations: Option<Vec<String>>,
    /// Parts of the kernel by name.
    pub modules: BTreeMap<String, Module>,
    pub conntrack: Option<Conntrack>,
    pub descriptors: Vec<Descriptors>,
    pub cgroup: CgroupFacts,
    /// The kernel calls the clock synchronised.
    pub clock_synchronised: Option<bool>,
    /// How far the clock is ahead of that of whoever asked, milliseconds; set by the one who asked.
    pub clock_ahead_ms: Option<i64>,
    /// When the facts were gathered, milliseconds since 1970, by the node's clock.
    pub time_ms: u64,
    /// Entries of the kernel that are not as the node agent intends.
    pub differences: Vec<Difference>,
}

/// Whether an agent answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Agent {
    pub answers: bool,
    /// Why it does not, or what it complains of.
    pub complaints: Vec<String>,
}

/// How the node's address of one family was chosen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Chosen {
    /// `None`: none was.
    pub address: Option<IpAddr>,
    /// `kubernetes-internal-ip`, `first-found`, `fixed`, …; empty when that is not known.
    pub method: String,
    /// Every address that others could use.
    pub candidates: Vec<Candidate>,
}

/// One address on one link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    pub link: String,
    pub address: IpAddr,
    pub length: u8,
}

/// A link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Link {
    pub name: String,
    pub up: bool,
    /// Bytes.
    pub mtu: u32,
    pub addresses: Vec<(IpAddr, u8)>,
}

/// A route of the main table, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Route {
    pub destination: String,
    /// Empty for a blackhole.
    pub interface: String,
    pub gateway: Option<IpAddr>,
    /// As `rtm_protocol` has it; 12 is the speaker's.
    pub protocol: u8,
}

/// What came of probing the way to another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Path {
    /// The other node's address.
    pub to: IpAddr,
    /// Its name, where that is known.
    #[serde(default)]
    pub name: String,
    /// By which link packets go there.
    pub interface: String,
    /// MTU of that link, bytes.
    pub interface_mtu: u32,
    /// The largest packet that must not be cut and was answered, bytes; `None`: none was answered.
    pub fits: Option<u32>,
}

/// A BGP session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Session {
    pub peer: String,
    /// `mesh n2`, `BGPPeer tor`.
    pub description: String,
    pub asn: u32,
    pub state: String,
    pub seconds: u64,
    /// Why it is not Established.
    pub cause: String,
    /// It is configured no more and ends by itself.
    pub retiring: bool,
}

/// Settings of the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Sysctls {
    pub ip_forward: Option<String>,
    pub ipv6_forwarding: Option<String>,
    /// `rp_filter` by link, and of `all`.
    pub rp_filter: BTreeMap<String, u8>,
}

/// Who has rules where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RuleFacts {
    /// By iptables-legacy.
    pub legacy: Rules,
    /// By iptables-nft.
    pub nft: Rules,
    /// Tables of nftables that iptables does not know, as `inet firewalld`.
    pub tables: Vec<String>,
}

/// Chains of one engine, by whom.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Rules {
    /// Chains that are ours (`cali-*`).
    pub ours: usize,
    /// Rules, or where these were not read chains, of others.
    pub others: usize,
    /// Names of others' chains, at most some.
    pub names: Vec<String>,
}

/// Configurations in the directory that the runtime reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CniFacts {
    pub directory: String,
    /// In the order of names: the first one counts.
    pub files: Vec<CniFile>,
}

/// One of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CniFile {
    pub name: String,
    /// Types of its plugins; empty when the file is not understood.
    pub plugins: Vec<String>,
}

/// Whether the kernel has something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Module {
    /// It works now.
    Present,
    /// A module that is not loaded.
    Loadable,
    Missing,
}

/// Connection tracking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conntrack {
    pub count: u64,
    pub max: u64,
}

/// Files that a process has open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptors {
    pub process: String,
    pub open: u64,
    pub limit: u64,
}

/// Limits of the control group in which the facts were gathered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CgroupFacts {
    /// Bytes.
    pub memory: Option<u64>,
    pub memory_max: Option<u64>,
    /// Processes that the kernel killed for want of memory.
    pub oom_kills: u64,
    pub tasks: Option<u64>,
    pub tasks_max: Option<u64>,
}

/// Intended against actual, as the node agent says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Difference {
    pub kind: String,
    pub entry: String,
    /// `missing`, `changed`, `unwanted`, with details.
    pub what: String,
}

impl Facts {
    /// The link of this name.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// Is this way of carrying packets between nodes asked for? `None`: that is not known.
    pub fn wants(&self, encapsulation: &str) -> Option<bool> {
        Some(self.encapsulations.as_ref()?.iter().any(|wanted| wanted == encapsulation))
    }

    /// Links of pods.
    pub fn pod_links(&self) -> impl Iterator<Item = &Link> {
        self.links.iter().filter(|link| link.name.starts_with("cali"))
    }
}
