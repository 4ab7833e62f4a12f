//! What a packet meets on its way through the rules, so that of all that differs in the kernel what matters to it can be
//! told. Owns how entries of an audit are called.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::IpAddr;

use kernel::interpret::{Packet, Ruleset};
use kernel::{ChainName, Hook, HookName, IpSetMember, IpSetName, IptablesTable, PacketRule};
use model::Family;

/// Everything by name.
#[derive(Clone, Debug, Default)]
pub struct Met {
    family: Option<Family>,
    /// Chains, with the kernel's own, in which the packet was.
    chains: BTreeSet<String>,
    /// Sets in which it was looked up.
    sets: BTreeSet<String>,
    /// By which it comes and goes.
    interfaces: BTreeSet<String>,
    addresses: BTreeSet<IpAddr>,
}

impl Met {
    fn of(packet: &Packet) -> Self {
        Self {
            family: Some(packet.family()),
            interfaces: [&packet.from, &packet.to].into_iter().flatten().map(ToString::to_string).collect(),
            addresses: BTreeSet::from([packet.source, packet.destination]),
            ..Self::default()
        }
    }

    /// Is an entry of an audit one that decides what becomes of the packet?
    pub fn concerns(&self, kind: &str, entry: &str) -> bool {
        let is_ours = |name: &str| self.chains.contains(name) || self.sets.contains(name);
        let last = entry.rsplit(' ').next().unwrap_or_default();
        let mut words = entry.split([' ', '/']);
        match kind {
            "iptables" => self.family == Some(Family::V4) && is_ours(last),
            "ip6tables" => self.family == Some(Family::V6) && is_ours(last),
            "nftables" => {
                let of_family = self.family.is_some_and(|family| entry.starts_with(&family.to_string()));
                // A chain there carries its table's name before its own; maps lead to the chains of pods.
                let bare = last.split_once('-').map_or(last, |(_, name)| name);
                of_family && (entry.contains(" map ") || is_ours(last) || is_ours(bare))
            }
            "ipset" => self.sets.contains(entry),
            "route" => words.any(|word| word.parse().is_ok_and(|address| self.addresses.contains(&address))),
            "link" => self.interfaces.contains(entry),
            "neighbour" => words.any(|word| self.interfaces.contains(word)),
            "sysctl" => !entry.contains("cali") || words.any(|word| self.interfaces.contains(word)),
            "tunnel" => self.interfaces.iter().any(|interface| entry.contains(interface.as_str())),
            _ => false,
        }
    }
}

/// Rules that note what is asked of them.
pub struct Noted<'a, R> {
    rules: &'a R,
    met: RefCell<Met>,
}

impl<'a, R: Ruleset> Noted<'a, R> {
    pub fn new(rules: &'a R, packet: &Packet) -> Self {
        Self { rules, met: RefCell::new(Met::of(packet)) }
    }

    pub fn into_met(self) -> Met {
        self.met.into_inner()
    }
}

impl<R: Ruleset> Ruleset for Noted<'_, R> {
    fn hook(&self, family: Family, table: IptablesTable, hook: HookName) -> Option<&Hook> {
        self.met.borrow_mut().chains.insert(hook.to_owned());
        self.rules.hook(family, table, hook)
    }

    fn chain(&self, family: Family, table: IptablesTable, name: &ChainName) -> Option<&[PacketRule]> {
        self.met.borrow_mut().chains.insert(name.to_string());
        self.rules.chain(family, table, name)
    }

    fn set(&self, name: &IpSetName) -> Option<&BTreeSet<IpSetMember>> {
        self.met.borrow_mut().sets.insert(name.to_string());
        self.rules.set(name)
    }

    fn is_local(&self, address: IpAddr, interface: Option<&str>) -> bool {
        self.rules.is_local(address, interface)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_packet_meets_concerns_it() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let met = Met {
            family: Some(Family::V4),
            chains: names(&["FORWARD", "cali-tw-cali1"]),
            sets: names(&["cali40s:abc"]),
            interfaces: names(&["cali1", "eth0"]),
            addresses: BTreeSet::from(["10.65.0.1".parse().unwrap()]),
        };
        let yes = [
            ("iptables", "table filter: chain FORWARD"),
            ("iptables", "table filter: chain cali-tw-cali1"),
            ("nftables", "IPv4 chain filter-cali-tw-cali1"),
            ("nftables", "IPv4 set cali40s:abc"),
            ("nftables", "IPv4 map dispatch"),
            ("ipset", "cali40s:abc"),
            ("route", "10.65.0.1/32"),
            ("link", "cali1"),
            ("neighbour", "10.65.0.1 on cali1"),
            ("sysctl", "/proc/sys/net/ipv4/conf/cali1/rp_filter"),
            ("sysctl", "/proc/sys/net/ipv4/ip_forward"),
        ];
        let no = [
            ("ip6tables", "table filter: chain FORWARD"),
            ("iptables", "table filter: chain cali-tw-cali12"),
            ("nftables", "IPv6 map dispatch"),
            ("nftables", "IPv4 chain filter-cali-tw-cali12"),
            ("ipset", "cali40s:abcd"),
            ("route", "10.65.0.12/32"),
            ("link", "cali12"),
            ("neighbour", "10.65.0.12 on cali12"),
            ("sysctl", "/proc/sys/net/ipv4/conf/cali12/rp_filter"),
            ("iptables leftover", "table filter: chain FORWARD"),
        ];

        for (kind, entry) in yes {
            assert!(met.concerns(kind, entry), "{kind} {entry}");
        }
        for (kind, entry) in no {
            assert!(!met.concerns(kind, entry), "{kind} {entry}");
        }
    }
}
