//! Which of the node's addresses others reach it at (`spec/control.md` §6.3).
//!
//! Pure: the links, the node's InternalIPs and the answer to "which source would reach DEST" come in.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use kernel::Link;
use model::{Cidr, Family, NodeAddress};
use regex::Regex;

/// `IP_AUTODETECTION_METHOD`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// The Node's InternalIP; the length of its subnet is taken from the link that has it.
    #[default]
    KubernetesInternalIp,
    /// The first usable address on a link that is no bridge, tunnel or pod.
    FirstFound,
    /// The address from which this name or address would be reached.
    CanReach(String),
    /// The first of these patterns that matches a link with an address.
    Interface(Vec<Pattern>),
    /// As `FirstFound`, leaving out links that match.
    SkipInterface(Vec<Pattern>),
    /// The first address inside any of these.
    Cidr(Vec<Cidr>),
}

/// A regular expression that a whole interface name has to match.
#[derive(Clone)]
pub struct Pattern(Regex);

/// No address could be determined.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot determine the node's {family} address: {reason}; candidates: {}; {remedy}", list(candidates))]
pub struct Undetermined {
    pub family: Family,
    pub reason: String,
    /// Every address that was looked at, as `eth0 10.0.0.1/24`.
    pub candidates: Vec<String>,
    pub remedy: String,
}

impl Method {
    /// Chooses among `links`.
    ///
    /// `source` is the local address from which the destination of `CanReach` is reached, if any.
    pub fn detect(
        &self,
        family: Family,
        links: &[Link],
        internal_ips: &[IpAddr],
        source: Option<IpAddr>,
    ) -> Result<NodeAddress, Undetermined> {
        let all = candidates(family, links);
        let usable = || all.iter().filter(|candidate| !is_excluded(candidate.link));
        let (found, reason) = match self {
            Method::KubernetesInternalIp => return by_internal_ip(family, &all, internal_ips),
            Method::FirstFound => (first(usable()), "no link has a usable address".to_owned()),
            Method::CanReach(target) => (
                source.and_then(|source| all.iter().find(|c| c.address.address == source)),
                format!("no local address reaches {target}"),
            ),
            Method::Interface(patterns) => (
                patterns.iter().find_map(|p| first(all.iter().filter(|c| p.matches(&c.link.name)))),
                format!("no link with an address matches {}", join(patterns)),
            ),
            Method::SkipInterface(patterns) => (
                first(usable().filter(|c| !patterns.iter().any(|p| p.matches(&c.link.name)))),
                format!("no link has a usable address when {} are left out", join(patterns)),
            ),
            Method::Cidr(cidrs) => (
                all.iter().find(|c| cidrs.iter().any(|cidr| cidr.contains(c.address.address))),
                format!("no address is inside {}", join(cidrs)),
            ),
        };
        match found {
            Some(candidate) => Ok(candidate.address),
            None => Err(undetermined(family, reason, &all)),
        }
    }
}

/// Completes an address that was given: its length is that of the link that has it, else a host's.
pub fn with_length(address: IpAddr, length: Option<u8>, links: &[Link]) -> NodeAddress {
    let family = Family::of(address);
    let on_link = candidates(family, links).into_iter().find(|c| c.address.address == address);
    let length = length.or(on_link.map(|c| c.address.length)).unwrap_or(family.bits());
    NodeAddress { address, length }
}

struct Candidate<'a> {
    link: &'a Link,
    address: NodeAddress,
}

impl fmt::Display for Candidate<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.link.name, self.address.address, self.address.length)?;
        if self.link.up { Ok(()) } else { f.write_str(" (down)") }
    }
}

/// Every address that others could use, links with a higher index first as Calico does.
fn candidates(family: Family, links: &[Link]) -> Vec<Candidate<'_>> {
    let mut links: Vec<&Link> = links.iter().collect();
    links.sort_by_key(|link| std::cmp::Reverse(link.index));
    let mut all = Vec::new();
    for link in links {
        for &(address, length) in &link.addresses {
            if Family::of(address) == family && is_global(address) {
                all.push(Candidate { link, address: NodeAddress { address, length } });
            }
        }
    }
    all
}

/// Prefers an address with a subnet: a lone /32 is more often a virtual IP than the node's own.
fn first<'a>(candidates: impl Iterator<Item = &'a Candidate<'a>>) -> Option<&'a Candidate<'a>> {
    let mut up: Vec<_> = candidates.filter(|candidate| candidate.link.up).collect();
    up.sort_by_key(|candidate| Family::of(candidate.address.address).bits() == candidate.address.length);
    up.first().copied()
}

fn by_internal_ip(
    family: Family,
    all: &[Candidate<'_>],
    internal_ips: &[IpAddr],
) -> Result<NodeAddress, Undetermined> {
    let mut wanted = internal_ips.iter().filter(|address| Family::of(**address) == family).peekable();
    if wanted.peek().is_none() {
        let reason = format!("the Node has no {family} InternalIP in status.addresses");
        return Err(undetermined(family, reason, all));
    }
    let named = join(&wanted.clone().collect::<Vec<_>>());
    wanted
        .find_map(|address| all.iter().find(|candidate| candidate.address.address == *address))
        .map(|candidate| candidate.address)
        .ok_or_else(|| undetermined(family, format!("no link has the Node's InternalIP {named}"), all))
}

fn undetermined(family: Family, reason: String, all: &[Candidate<'_>]) -> Undetermined {
    let (address, method) = match family {
        Family::V4 => ("IP", "IP_AUTODETECTION_METHOD"),
        Family::V6 => ("IP6", "IP6_AUTODETECTION_METHOD"),
    };
    Undetermined {
        family,
        reason,
        candidates: all.iter().map(Candidate::to_string).collect(),
        remedy: format!(
            "set {method} (first-found, interface=REGEX, cidr=CIDR, can-reach=ADDRESS) or {address}=ADDRESS"
        ),
    }
}

fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !(v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast()
                || v4.is_unspecified())
        }
        IpAddr::V6(v6) => {
            !(v6.is_loopback() || v6.is_unicast_link_local() || v6.is_multicast() || v6.is_unspecified())
        }
    }
}

fn is_excluded(link: &Link) -> bool {
    let name = link.name.as_str();
    EXCLUDED_NAMES.contains(&name) || EXCLUDED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

impl Pattern {
    fn matches(&self, name: &str) -> bool {
        self.0.is_match(name)
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Regex::new(&format!("^(?:{text})$")).map(Self).map_err(|error| format!("{text:?}: {error}"))
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.as_str();
        f.write_str(text.strip_prefix("^(?:").and_then(|text| text.strip_suffix(")$")).unwrap_or(text))
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({self})")
    }
}

impl FromStr for Method {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (method, value) = text.split_once('=').unwrap_or((text, ""));
        match (method, value) {
            ("kubernetes-internal-ip", "") => Ok(Method::KubernetesInternalIp),
            ("first-found", "") => Ok(Method::FirstFound),
            ("can-reach", target) if !target.is_empty() => Ok(Method::CanReach(target.to_owned())),
            ("interface", list) => Ok(Method::Interface(parse_list(list)?)),
            ("skip-interface", list) => Ok(Method::SkipInterface(parse_list(list)?)),
            ("cidr", list) => Ok(Method::Cidr(parse_list(list)?)),
            _ => {
                Err("none of kubernetes-internal-ip, first-found, can-reach=DEST, interface=REGEX[,REGEX], \
                      skip-interface=REGEX[,REGEX], cidr=CIDR[,CIDR]"
                    .to_owned())
            }
        }
    }
}

fn parse_list<T: FromStr<Err: fmt::Display>>(list: &str) -> Result<Vec<T>, String> {
    list.split(',').map(|item| item.trim().parse().map_err(|error: T::Err| error.to_string())).collect()
}

fn join(items: &[impl fmt::Display]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn list(candidates: &[String]) -> String {
    if candidates.is_empty() { "none".to_owned() } else { candidates.join(", ") }
}

const EXCLUDED_NAMES: [&str; 2] = ["lo", "vxlan-v6.calico"];
const EXCLUDED_PREFIXES: [&str; 18] = [
    "docker",
    "cbr",
    "dummy",
    "podman",
    "virbr",
    "lxcbr",
    "veth",
    "br-",
    "cali",
    "tunl",
    "flannel",
    "kube-ipvs",
    "cni",
    "vxlan.calico",
    "wireguard.cali",
    "wg-v6.cali",
    "nodelocaldns",
    "ip6tnl",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_choose_as_their_names_say() {
        let links = [
            link(2, "eth0", true, &["10.0.0.1/24", "fd00::1/64", "fe80::1/64"]),
            link(3, "eth1", true, &["192.168.0.1/16"]),
            link(4, "docker0", true, &["172.17.0.1/16"]),
            link(5, "eth2", false, &["203.0.113.1/24"]),
            link(6, "vip0", true, &["10.0.0.99/32"]),
        ];
        let cases = [
            ("kubernetes-internal-ip", "10.0.0.1/24"),
            ("first-found", "192.168.0.1/16"),
            ("interface=bond.*,eth0", "10.0.0.1/24"),
            ("skip-interface=eth1", "10.0.0.1/24"),
            ("cidr=172.16.0.0/12,10.1.0.0/16", "172.17.0.1/16"),
            ("can-reach=198.51.100.1", "192.168.0.1/16"),
        ];
        for (method, expected) in cases {
            let method: Method = method.parse().unwrap();
            let found = method.detect(
                Family::V4,
                &links,
                &["10.0.0.1".parse().unwrap()],
                Some("192.168.0.1".parse().unwrap()),
            );

            let found = found.map(|a| format!("{}/{}", a.address, a.length));
            assert_eq!(found.as_deref(), Ok(expected), "{method:?}");
        }
        let found = Method::FirstFound.detect(Family::V6, &links, &[], None).unwrap();
        assert_eq!(found.address, "fd00::1".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn a_failure_names_what_was_seen_and_what_to_do() {
        let links = [link(2, "eth0", true, &["10.0.0.1/24"]), link(3, "eth1", false, &["10.1.0.1/24"])];

        let error = Method::default().detect(Family::V4, &links, &["192.0.2.1".parse().unwrap()], None);

        assert_eq!(
            error.unwrap_err().to_string(),
            "cannot determine the node's IPv4 address: no link has the Node's InternalIP 192.0.2.1; candidates: \
             eth1 10.1.0.1/24 (down), eth0 10.0.0.1/24; set IP_AUTODETECTION_METHOD (first-found, interface=REGEX, \
             cidr=CIDR, can-reach=ADDRESS) or IP=ADDRESS"
        );
    }

    #[test]
    fn a_given_address_gets_the_length_of_its_link() {
        let links = [link(2, "eth0", true, &["10.0.0.1/24"])];
        let length = |address: &str, length| with_length(address.parse().unwrap(), length, &links).length;

        assert_eq!(length("10.0.0.1", None), 24);
        assert_eq!(length("10.0.0.1", Some(16)), 16);
        assert_eq!(length("10.0.0.2", None), 32);
    }

    #[test]
    fn nonsense_is_no_method() {
        for text in ["", "guess", "can-reach=", "interface=(", "cidr=10.0.0.1/8", "first-found=eth0", "cidr="]
        {
            assert!(text.parse::<Method>().is_err(), "{text:?} was accepted");
        }
    }

    fn link(index: u32, name: &str, up: bool, addresses: &[&str]) -> Link {
        let parse = |text: &&str| {
            let (address, length) = text.split_once('/').unwrap();
            (address.parse().unwrap(), length.parse().unwrap())
        };
        let addresses = addresses.iter().map(parse).collect();
        Link { index, name: name.to_owned(), up, mtu: 1500, mac: None, alias: None, addresses }
    }
}
