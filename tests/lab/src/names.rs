//! Names and addresses of a lab: what a node, a namespace and a state directory are called.
//! Pure: nothing here looks at the machine.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where the state of every lab lives.
pub const STATE_ROOT: &str = "/run/ocicat-lab";
/// Where named network namespaces are mounted.
pub const NETNS_ROOT: &str = "/run/netns";
/// The AS number of the nodes (Calico's default).
pub const NODE_AS: u32 = 64512;
/// The AS number of the top-of-rack router.
pub const TOR_AS: u32 = 64513;
/// The port of the API server inside the router namespace.
pub const API_PORT: u16 = 6443;
/// The network that stands for the world outside, and the router's address in it; the router announces it by BGP.
pub const WORLD_V4: (&str, Ipv4Addr) = ("198.51.100.0/24", Ipv4Addr::new(198, 51, 100, 1));
/// The same for IPv6.
pub const WORLD_V6: (&str, Ipv6Addr) =
    ("2001:db8:51::/64", Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 1));
/// Most subnets a lab may have: 172.20.255.0/24 is the API server's.
pub const MAX_SUBNETS: u32 = 200;
/// Most nodes that fit one subnet.
pub const MAX_NODES_PER_SUBNET: u32 = 240;

/// Longest name of a pod's namespace before it is shortened to a hash.
const MAX_NETNS_NAME: usize = 100;

/// A lab's checked name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LabName(String);

/// A name that cannot name a lab.
#[derive(Debug, thiserror::Error)]
#[error(
    "lab name {0:?} must have 1 to 40 characters of a-z, 0-9 and '-', and begin and end with a letter or digit"
)]
pub struct InvalidLabName(String);

impl FromStr for LabName {
    type Err = InvalidLabName;

    fn from_str(s: &str) -> Result<Self, InvalidLabName> {
        let edge = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        let bytes = s.as_bytes();
        let good = (1..=40).contains(&bytes.len())
            && edge(bytes[0])
            && edge(bytes[bytes.len() - 1])
            && bytes.iter().all(|&c| edge(c) || c == b'-');
        if good { Ok(Self(s.to_owned())) } else { Err(InvalidLabName(s.to_owned())) }
    }
}

impl TryFrom<String> for LabName {
    type Error = InvalidLabName;

    fn try_from(s: String) -> Result<Self, InvalidLabName> {
        s.parse()
    }
}

impl From<LabName> for String {
    fn from(name: LabName) -> Self {
        name.0
    }
}

impl fmt::Display for LabName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl LabName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The lab's state directory.
    pub fn state_dir(&self) -> PathBuf {
        Path::new(STATE_ROOT).join(&self.0)
    }

    /// The daemon's control socket.
    pub fn control_socket(&self) -> PathBuf {
        self.state_dir().join("control.sock")
    }

    /// The kubeconfig for programs in the host's own namespace.
    pub fn kubeconfig(&self) -> PathBuf {
        self.state_dir().join("kubeconfig")
    }

    /// The kubeconfig for programs inside the lab's namespaces.
    pub fn node_kubeconfig(&self) -> PathBuf {
        self.state_dir().join("node.kubeconfig")
    }

    /// The kubeconfig of `controllers`, with its own account.
    pub fn controllers_kubeconfig(&self) -> PathBuf {
        self.state_dir().join("controllers").join("kubeconfig")
    }

    /// The directory with token, CA and namespace of a service account, as a pod has it.
    pub fn account_dir(&self, account: &str) -> PathBuf {
        self.state_dir().join("serviceaccounts").join(account)
    }

    /// Marker files, one for every namespace that the lab made.
    pub fn marker_dir(&self) -> PathBuf {
        self.state_dir().join("netns")
    }

    /// The namespace of a node or of the router (`tor`).
    pub fn netns(&self, member: &str) -> String {
        format!("{}-{member}", self.0)
    }

    /// The namespace of a pod; a hash replaces what would be too long.
    pub fn pod_netns(&self, namespace: &str, pod: &str) -> String {
        let plain = format!("{}-{namespace}-{pod}", self.0);
        if plain.len() <= MAX_NETNS_NAME {
            return plain;
        }
        format!("{}-{:016x}", self.0, fnv1a(format!("{namespace}/{pod}").as_bytes()))
    }
}

/// The mount point of a named network namespace.
pub fn netns_path(name: &str) -> PathBuf {
    Path::new(NETNS_ROOT).join(name)
}

/// The 64-bit FNV-1a hash.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// Which address families a lab uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Family {
    /// IPv4 only.
    #[serde(rename = "4")]
    V4,
    /// IPv6 only.
    #[serde(rename = "6")]
    V6,
    /// Both.
    #[serde(rename = "46")]
    Dual,
}

impl Family {
    /// Whether IPv4 is used.
    pub fn has_v4(self) -> bool {
        self != Self::V6
    }

    /// Whether IPv6 is used.
    pub fn has_v6(self) -> bool {
        self != Self::V4
    }
}

impl FromStr for Family {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "4" => Ok(Self::V4),
            "6" => Ok(Self::V6),
            "46" | "64" => Ok(Self::Dual),
            _ => Err(format!("family {s:?} is none of 4, 6, 46")),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "4",
            Self::V6 => "6",
            Self::Dual => "46",
        })
    }
}

/// Where one node sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The node's number, from 1.
    pub index: u32,
    /// The subnet's number, from 0.
    pub subnet: u32,
}

impl Place {
    /// The place of node `index` when `nodes` nodes are spread over `subnets` subnets.
    pub fn of(index: u32, nodes: u32, subnets: u32) -> Self {
        let per_subnet = nodes.div_ceil(subnets.max(1)).max(1);
        let subnet = ((index - 1) / per_subnet).min(subnets.saturating_sub(1));
        Self { index, subnet }
    }

    /// The node's name.
    pub fn name(self) -> String {
        format!("n{}", self.index)
    }

    /// The node's IPv4 address, in a /24.
    pub fn v4(self) -> Ipv4Addr {
        Ipv4Addr::new(172, 20, octet(self.subnet), octet(10 + self.index))
    }

    /// The node's IPv6 address, in a /64; the node's number reads as in the IPv4 address.
    pub fn v6(self) -> Ipv6Addr {
        subnet_v6(self.subnet, &(10 + self.index).to_string())
    }

    /// The addresses of the families in use, IPv4 first.
    pub fn addresses(self, family: Family) -> Vec<IpAddr> {
        let mut all = Vec::new();
        if family.has_v4() {
            all.push(IpAddr::V4(self.v4()));
        }
        if family.has_v6() {
            all.push(IpAddr::V6(self.v6()));
        }
        all
    }
}

/// The router's IPv4 address in a subnet.
pub fn gateway_v4(subnet: u32) -> Ipv4Addr {
    Ipv4Addr::new(172, 20, octet(subnet), 1)
}

/// The router's IPv6 address in a subnet.
pub fn gateway_v6(subnet: u32) -> Ipv6Addr {
    subnet_v6(subnet, "1")
}

/// The router's addresses in a subnet, IPv4 first.
pub fn gateways(subnet: u32, family: Family) -> Vec<IpAddr> {
    let mut all = Vec::new();
    if family.has_v4() {
        all.push(IpAddr::V4(gateway_v4(subnet)));
    }
    if family.has_v6() {
        all.push(IpAddr::V6(gateway_v6(subnet)));
    }
    all
}

/// The addresses of the API server inside the lab, IPv4 first.
pub fn api_addresses(family: Family) -> Vec<IpAddr> {
    let mut all = Vec::new();
    if family.has_v4() {
        all.push(IpAddr::V4(Ipv4Addr::new(172, 20, 255, 1)));
    }
    if family.has_v6() {
        all.push(IpAddr::V6(Ipv6Addr::new(0xfd00, 0x20, 0xffff, 0, 0, 0, 0, 1)));
    }
    all
}

/// The value of `topology.kubernetes.io/zone` on the nodes of a subnet.
pub fn zone(subnet: u32) -> String {
    format!("subnet-{subnet}")
}

/// `fd00:20:<subnet>::<host>`, both read as the digits that a person would type.
fn subnet_v6(subnet: u32, host: &str) -> Ipv6Addr {
    format!("fd00:20:{subnet}::{host}").parse().expect("at most four digits a group are a valid address")
}

fn octet(n: u32) -> u8 {
    u8::try_from(n).expect("the limits on nodes and subnets keep octets below 256")
}

/// One end of a probe or the place of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// `namespace/pod`.
    Pod(String, String),
    /// A node's name.
    Node(String),
    /// The router namespace.
    Tor,
    /// A plain address; only as a destination.
    Address(IpAddr),
}

impl Endpoint {
    /// Reads what a user typed; whether it exists is another question.
    pub fn parse(s: &str) -> Self {
        if s == "tor" {
            return Self::Tor;
        }
        if let Some((namespace, pod)) = s.split_once('/') {
            return Self::Pod(namespace.to_owned(), pod.to_owned());
        }
        match s.parse() {
            Ok(address) => Self::Address(address),
            Err(_) => Self::Node(s.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_nodes_in_two_subnets_sit_as_documented() {
        let places: Vec<Place> = (1..=3).map(|i| Place::of(i, 3, 2)).collect();
        let addresses: Vec<String> =
            places.iter().map(|p| format!("{} {} {}", p.name(), p.v4(), p.v6())).collect();
        assert_eq!(
            addresses,
            ["n1 172.20.0.11 fd00:20::11", "n2 172.20.0.12 fd00:20::12", "n3 172.20.1.13 fd00:20:1::13"]
        );
    }

    #[test]
    fn no_subnet_beyond_the_last_is_used() {
        for nodes in 1..30 {
            for subnets in 1..10 {
                for i in 1..=nodes {
                    assert!(Place::of(i, nodes, subnets).subnet < subnets, "{i} of {nodes} in {subnets}");
                }
            }
        }
    }

    #[test]
    fn subnet_zero_is_a_subnet_of_its_own_in_ipv6() {
        assert_eq!(gateway_v6(0).to_string(), "fd00:20::1");
        assert_eq!(gateway_v6(12).segments(), [0xfd00, 0x20, 0x12, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn lab_names_are_checked() {
        assert!("lab-2".parse::<LabName>().is_ok());
        for bad in ["", "-a", "a-", "A", "a/b", "a.b", &"x".repeat(41)] {
            assert!(bad.parse::<LabName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn long_pod_names_become_hashes_that_differ() {
        let lab: LabName = "lab".parse().unwrap();
        assert_eq!(lab.pod_netns("default", "web"), "lab-default-web");
        let long = "p".repeat(200);
        let (a, b) = (lab.pod_netns("x", &long), lab.pod_netns("y", &long));
        assert!(a.len() < 60 && a.starts_with("lab-") && a != b, "{a} {b}");
    }

    #[test]
    fn endpoints_are_told_apart() {
        assert_eq!(Endpoint::parse("tor"), Endpoint::Tor);
        assert_eq!(Endpoint::parse("n1"), Endpoint::Node("n1".into()));
        assert_eq!(Endpoint::parse("x/a"), Endpoint::Pod("x".into(), "a".into()));
        assert_eq!(Endpoint::parse("fd00::1"), Endpoint::Address("fd00::1".parse().unwrap()));
    }
}
