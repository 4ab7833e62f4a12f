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
    /// The usable address of a link that is no bridge, tunnel or pod. Of several the one that the Node says already,
    /// then its InternalIP; otherwise none, where Calico takes any.
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

/// What the cluster and the kernel know already, besides the links.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hints<'a> {
    /// `status.addresses` of the Node.
    pub internal_ips: &'a [IpAddr],
    /// What the Node says already; kept where it is as good as others.
    pub stored: Option<IpAddr>,
    /// The local address from which the destination of `CanReach` is reached.
    pub source: Option<IpAddr>,
}

/// One address of the node, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub interface: String,
    pub address: NodeAddress,
    /// Why it was chosen, or why it was not.
    pub verdict: String,
}

/// An address, and all that were looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    pub address: NodeAddress,
    pub seen: Vec<Seen>,
}

/// No address could be determined.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot determine the node's {family} address: {reason}; seen: {}; {remedy}", list(seen))]
pub struct Undetermined {
    pub family: Family,
    pub reason: String,
    /// Every address that was looked at.
    pub seen: Vec<Seen>,
    pub remedy: String,
}

impl Method {
    /// Chooses among the addresses of `links`.
    ///
    /// # Errors
    /// When none fits, or when several do and nothing says which: guessing has cut off nodes before.
    pub fn detect(&self, family: Family, links: &[Link], hints: &Hints<'_>) -> Result<Choice, Undetermined> {
        let mut all = candidates(family, links);
        for candidate in &mut all {
            match self.rank(candidate, hints) {
                Ok(rank) => candidate.rank = Some(rank),
                Err(reason) => candidate.verdict = reason,
            }
        }
        let chosen = narrow(&mut all, hints);
        let seen = |all: &[Candidate<'_>]| all.iter().map(Candidate::seen).collect();
        match chosen.as_slice() {
            [one] => {
                let address = all[*one].address;
                Ok(Choice { address, seen: seen(&all) })
            }
            [] => Err(undetermined(family, self.nothing(family, hints), seen(&all))),
            several => {
                for index in several {
                    all[*index].verdict = "it could be this one".to_owned();
                }
                let reason = format!("{} addresses fit, and nothing says which is meant", several.len());
                Err(undetermined(family, reason, seen(&all)))
            }
        }
    }

    /// How good an address is, less is better, or why it is none.
    fn rank(&self, candidate: &Candidate<'_>, hints: &Hints<'_>) -> Result<usize, String> {
        let (name, address) = (candidate.link.name.as_str(), candidate.address.address);
        if !is_global(address) {
            return Err("other nodes cannot reach it".to_owned());
        }
        if let Method::KubernetesInternalIp = self {
            let place = hints.internal_ips.iter().position(|internal| *internal == address);
            return place.ok_or_else(|| "it is no InternalIP of the Node".to_owned());
        }
        if let Method::CanReach(target) = self {
            let reaches = hints.source == Some(address);
            return reaches.then_some(0).ok_or_else(|| format!("{target} is not reached from it"));
        }
        if !candidate.link.up {
            return Err("the interface is down".to_owned());
        }
        let left_out = || is_excluded(candidate.link).then(|| "such interfaces are left out".to_owned());
        let reason = match self {
            Method::FirstFound => left_out(),
            Method::Interface(patterns) => {
                let place = patterns.iter().position(|pattern| pattern.matches(name));
                return place.ok_or_else(|| format!("the interface does not match {}", join(patterns)));
            }
            Method::SkipInterface(patterns) => left_out().or_else(|| {
                let skipped = patterns.iter().find(|pattern| pattern.matches(name))?;
                Some(format!("skip-interface names {skipped}"))
            }),
            Method::Cidr(cidrs) => {
                let place = cidrs.iter().position(|cidr| cidr.contains(address));
                place.is_none().then(|| format!("it is not inside {}", join(cidrs)))
            }
            Method::KubernetesInternalIp | Method::CanReach(_) => None,
        };
        reason.map_or(Ok(0), Err)
    }

    /// Why there is nothing.
    fn nothing(&self, family: Family, hints: &Hints<'_>) -> String {
        match self {
            Method::KubernetesInternalIp => {
                let own = hints.internal_ips.iter().filter(|address| Family::of(**address) == family);
                let own: Vec<_> = own.collect();
                match own.is_empty() {
                    true => format!("the Node has no {family} InternalIP in status.addresses"),
                    false => format!("no link has the Node's InternalIP {}", join(&own)),
                }
            }
            Method::FirstFound => "no link has a usable address".to_owned(),
            Method::CanReach(target) => format!("no local address reaches {target}"),
            Method::Interface(patterns) => {
                format!("no link with an address matches {}", join(patterns))
            }
            Method::SkipInterface(patterns) => {
                format!("no link has a usable address when {} are left out", join(patterns))
            }
            Method::Cidr(cidrs) => format!("no address is inside {}", join(cidrs)),
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
    /// `None` when it is out of the question.
    rank: Option<usize>,
    verdict: String,
}

impl Candidate<'_> {
    fn seen(&self) -> Seen {
        Seen { interface: self.link.name.clone(), address: self.address, verdict: self.verdict.clone() }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NodeAddress { address, length } = self.address;
        write!(f, "{} {address}/{length} ({})", self.interface, self.verdict)
    }
}

/// Every address of a family, links with a higher index first as Calico does.
fn candidates(family: Family, links: &[Link]) -> Vec<Candidate<'_>> {
    let mut links: Vec<&Link> = links.iter().collect();
    links.sort_by_key(|link| std::cmp::Reverse(link.index));
    let mut all = Vec::new();
    for link in links {
        for &(address, length) in &link.addresses {
            if Family::of(address) == family {
                let address = NodeAddress { address, length };
                all.push(Candidate { link, address, rank: None, verdict: String::new() });
            }
        }
    }
    all
}

/// The indexes of those between which nothing decides; says of the others why not.
fn narrow(all: &mut [Candidate<'_>], hints: &Hints<'_>) -> Vec<usize> {
    let best = all.iter().filter_map(|candidate| candidate.rank).min();
    let mut left: Vec<usize> = (0..all.len()).filter(|index| all[*index].rank.is_some()).collect();
    let mut keep = |left: &mut Vec<usize>, why_not: &str, keeps: &dyn Fn(&Candidate<'_>) -> bool| {
        if !left.iter().any(|index| keeps(&all[*index])) {
            return;
        }
        left.retain(|index| {
            let keeps = keeps(&all[*index]);
            if !keeps {
                all[*index].verdict = why_not.to_owned();
            }
            keeps
        });
    };
    keep(&mut left, "another one comes first in what is wanted", &|candidate| candidate.rank == best);
    // A lone /32 is more often a virtual IP than the node's own.
    keep(&mut left, "it has no subnet, another one has", &|candidate| {
        candidate.address.length < Family::of(candidate.address.address).bits()
    });
    keep(&mut left, "the node goes by another one already", &|candidate| {
        hints.stored == Some(candidate.address.address)
    });
    keep(&mut left, "another one is the Node's InternalIP", &|candidate| {
        hints.internal_ips.contains(&candidate.address.address)
    });
    let mut links = Vec::new();
    left.retain(|index| {
        let is_first = !links.contains(&all[*index].link.index);
        links.push(all[*index].link.index);
        if !is_first {
            all[*index].verdict = "another address of the interface comes first".to_owned();
        }
        is_first
    });
    if let [one] = left[..] {
        all[one].verdict = "chosen".to_owned();
    }
    left
}

fn undetermined(family: Family, reason: String, seen: Vec<Seen>) -> Undetermined {
    let (address, method) = match family {
        Family::V4 => ("IP", "IP_AUTODETECTION_METHOD"),
        Family::V6 => ("IP6", "IP6_AUTODETECTION_METHOD"),
    };
    let remedy = format!(
        "set {method} (first-found, interface=REGEX, cidr=CIDR, can-reach=ADDRESS) or {address}=ADDRESS"
    );
    Undetermined { family, reason, seen, remedy }
}

/// May other machines reach it?
pub fn is_global(address: IpAddr) -> bool {
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

/// Does nobody mean the node itself by it: is it of pods, tunnels, bridges?
pub fn is_excluded(link: &Link) -> bool {
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

/// As many as a person reads.
const LISTED: usize = 24;

/// What was seen, for people.
pub fn list(seen: &[Seen]) -> String {
    let more = seen.len().saturating_sub(LISTED);
    match (seen.is_empty(), more) {
        (true, _) => "no address at all".to_owned(),
        (false, 0) => join(seen),
        (false, more) => format!("{} and {more} more", join(&seen[..LISTED])),
    }
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
            link(2, "eth0", true, &["10.0.0.1/24", "10.0.0.2/24", "fd00::1/64", "fe80::1/64"]),
            link(3, "eth1", true, &["192.168.0.1/16"]),
            link(4, "docker0", true, &["172.17.0.1/16"]),
            link(5, "eth2", false, &["203.0.113.1/24"]),
            link(6, "vip0", true, &["10.0.0.99/32"]),
        ];
        let cases = [
            ("kubernetes-internal-ip", "10.0.0.1/24"),
            ("first-found", "10.0.0.1/24"),
            ("interface=bond.*,eth1", "192.168.0.1/16"),
            ("skip-interface=eth0", "192.168.0.1/16"),
            ("cidr=172.16.0.0/12,10.1.0.0/16", "172.17.0.1/16"),
            ("can-reach=198.51.100.1", "192.168.0.1/16"),
        ];
        for (method, expected) in cases {
            let method: Method = method.parse().unwrap();
            let internal_ips = ["10.0.0.1".parse().unwrap()];
            let source = Some("192.168.0.1".parse().unwrap());
            let hints = Hints { internal_ips: &internal_ips, stored: None, source };

            let found = method.detect(Family::V4, &links, &hints);

            let found = found.map(|choice| text(choice.address));
            assert_eq!(found.as_deref(), Ok(expected), "{method:?}");
        }
        let found = Method::FirstFound.detect(Family::V6, &links, &Hints::default()).unwrap();
        assert_eq!(text(found.address), "fd00::1/64");
    }

    #[test]
    fn several_that_fit_are_refused_unless_something_tells_them_apart() {
        let links = [
            link(2, "eth0", true, &["10.0.0.1/24"]),
            link(3, "eth1", true, &["10.1.0.1/24"]),
            link(4, "cali1", true, &["10.65.0.1/32"]),
        ];
        let own: IpAddr = "10.1.0.1".parse().unwrap();
        let detect = |stored, internal_ips: &[IpAddr]| {
            let hints = Hints { internal_ips, stored, source: None };
            Method::FirstFound.detect(Family::V4, &links, &hints)
        };

        let refused = detect(None, &[]).unwrap_err().to_string();
        assert_eq!(
            refused,
            "cannot determine the node's IPv4 address: 2 addresses fit, and nothing says which is meant; seen: cali1 \
             10.65.0.1/32 (such interfaces are left out), eth1 10.1.0.1/24 (it could be this one), eth0 10.0.0.1/24 \
             (it could be this one); set IP_AUTODETECTION_METHOD (first-found, interface=REGEX, cidr=CIDR, \
             can-reach=ADDRESS) or IP=ADDRESS"
        );
        for chosen in [detect(Some(own), &[]), detect(None, &[own])] {
            let chosen = chosen.unwrap();
            assert_eq!(text(chosen.address), "10.1.0.1/24");
            let verdicts: Vec<_> = chosen.seen.iter().map(|seen| seen.verdict.as_str()).collect();
            assert_eq!(verdicts[..2], ["such interfaces are left out", "chosen"]);
        }
    }

    #[test]
    fn a_failure_names_what_was_seen_and_what_to_do() {
        let links = [link(2, "eth0", true, &["10.0.0.1/24"]), link(3, "eth1", false, &["10.1.0.1/24"])];
        let internal_ips = ["192.0.2.1".parse().unwrap()];
        let hints = Hints { internal_ips: &internal_ips, ..Hints::default() };

        let error = Method::default().detect(Family::V4, &links, &hints);

        assert_eq!(
            error.unwrap_err().to_string(),
            "cannot determine the node's IPv4 address: no link has the Node's InternalIP 192.0.2.1; seen: \
             eth1 10.1.0.1/24 (it is no InternalIP of the Node), eth0 10.0.0.1/24 (it is no InternalIP of the Node); \
             set IP_AUTODETECTION_METHOD (first-found, interface=REGEX, cidr=CIDR, can-reach=ADDRESS) or IP=ADDRESS"
        );
        let error = "interface=eth1".parse::<Method>().unwrap().detect(Family::V4, &links, &hints);
        assert!(error.unwrap_err().to_string().contains("eth1 10.1.0.1/24 (the interface is down)"));
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

    fn text(NodeAddress { address, length }: NodeAddress) -> String {
        format!("{address}/{length}")
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
