//! Walks one packet over the chains of a fake dataplane, as netfilter would.

use std::net::IpAddr;

use kernel::{ChainName, IpSetMember, IpSetName, IptablesTable, Rule};
use model::{Cidr, Family, Protocol};

use crate::dataplane::Dataplane;

/// A packet of a new connection, at one node.
#[derive(Clone, Debug)]
pub struct Packet {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: Protocol,
    pub source_port: u16,
    pub destination_port: u16,
    /// Type and code.
    pub icmp: (u8, u8),
    pub from: Option<String>,
    pub to: Option<String>,
    /// As conntrack says: `NEW`, `ESTABLISHED`, `INVALID`.
    pub state: &'static str,
}

impl Packet {
    pub fn new(source: IpAddr, destination: IpAddr, protocol: Protocol, port: u16) -> Self {
        Self {
            source,
            destination,
            protocol,
            source_port: 40_000,
            destination_port: port,
            icmp: (8, 0),
            from: None,
            to: None,
            state: "NEW",
        }
    }

    pub fn via(&self, from: Option<&str>, to: Option<&str>) -> Self {
        Self { from: from.map(str::to_owned), to: to.map(str::to_owned), ..self.clone() }
    }

    fn family(&self) -> Family {
        Family::of(self.source)
    }
}

/// May it pass a node, from one interface to another?
pub fn is_forwarded(dataplane: &Dataplane, packet: &Packet) -> bool {
    let mut walk = Walk { dataplane, packet, mark: 0 };
    // FORWARD's own policy is taken for DROP: what is allowed must be accepted, not fall through.
    walk.passes(IptablesTable::Raw, "PREROUTING", true)
        && walk.passes(IptablesTable::Filter, "FORWARD", false)
}

/// May it enter the node itself?
pub fn is_delivered_to_host(dataplane: &Dataplane, packet: &Packet) -> bool {
    let mut walk = Walk { dataplane, packet, mark: 0 };
    walk.passes(IptablesTable::Raw, "PREROUTING", true) && walk.passes(IptablesTable::Filter, "INPUT", false)
}

/// May the node itself send it?
pub fn is_sent_by_host(dataplane: &Dataplane, packet: &Packet) -> bool {
    let mut walk = Walk { dataplane, packet, mark: 0 };
    walk.passes(IptablesTable::Raw, "OUTPUT", true) && walk.passes(IptablesTable::Filter, "OUTPUT", true)
}

struct Walk<'a> {
    dataplane: &'a Dataplane,
    packet: &'a Packet,
    mark: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Accept,
    Drop,
    /// Go on behind the jump.
    Return,
}

impl Walk<'_> {
    fn passes(&mut self, table: IptablesTable, hook: &'static str, otherwise: bool) -> bool {
        let hook = &self.dataplane.hooks[&(self.packet.family(), table, hook)];
        for rules in [&hook.inserts, &hook.appends] {
            match self.rules(table, rules) {
                Verdict::Accept => return true,
                Verdict::Drop => return false,
                Verdict::Return => {}
            }
        }
        otherwise
    }

    fn chain(&mut self, table: IptablesTable, name: &str) -> Verdict {
        let key = (self.packet.family(), table, ChainName::from_kernel(name));
        let chain = self.dataplane.chains.get(&key).unwrap_or_else(|| panic!("no chain {name} in {table:?}"));
        self.rules(table, &chain.rules)
    }

    fn rules(&mut self, table: IptablesTable, rules: &[Rule]) -> Verdict {
        for rule in rules {
            let mut words = Words(&rule.text);
            let Some(action) = self.matches(&mut words) else { continue };
            let verdict = match (action, words.next()) {
                (_, None) => Verdict::Return,
                (_, Some("ACCEPT")) => return Verdict::Accept,
                (_, Some("DROP")) => return Verdict::Drop,
                (_, Some("RETURN")) => return Verdict::Return,
                (_, Some("LOG")) => Verdict::Return,
                (_, Some("MARK")) => {
                    self.set_mark(&mut words);
                    Verdict::Return
                }
                ("--goto", Some(chain)) => return self.chain(table, chain),
                (_, Some(chain)) => self.chain(table, chain),
            };
            if verdict != Verdict::Return {
                return verdict;
            }
        }
        Verdict::Return
    }

    fn set_mark(&mut self, words: &mut Words<'_>) {
        assert_eq!(words.next(), Some("--set-mark"));
        let (value, mask) = mark(words.expect());
        self.mark = (self.mark & !mask) | value;
    }

    /// The word that introduces the action, when every match before it holds.
    fn matches<'w>(&self, words: &mut Words<'w>) -> Option<&'w str> {
        let mut negated = false;
        let mut module = "";
        while let Some(word) = words.next() {
            let holds = match word {
                "!" => {
                    negated = true;
                    continue;
                }
                "-m" => {
                    module = words.expect();
                    continue;
                }
                "--comment" => {
                    words.expect();
                    continue;
                }
                "--jump" | "--goto" => return Some(word),
                _ => self.holds(module, word, words),
            };
            if holds == std::mem::take(&mut negated) {
                return None;
            }
        }
        Some("")
    }

    fn holds(&self, module: &str, word: &str, words: &mut Words<'_>) -> bool {
        let packet = self.packet;
        let value = if matches!(word, "--invert" | "--validmark") { "" } else { words.expect() };
        match word {
            "-p" => packet.protocol == protocol(value),
            "--source" => value.parse::<Cidr>().unwrap().contains(packet.source),
            "--destination" => value.parse::<Cidr>().unwrap().contains(packet.destination),
            "--in-interface" => interface_matches(value, packet.from.as_deref()),
            "--out-interface" => interface_matches(value, packet.to.as_deref()),
            "--mark" => {
                let (wanted, mask) = mark(value);
                self.mark & mask == wanted
            }
            "--match-set" => self.in_set(value, words.expect()),
            "--source-ports" => has_ports(packet.protocol) && in_ports(value, packet.source_port),
            "--destination-ports" => has_ports(packet.protocol) && in_ports(value, packet.destination_port),
            "--ctstate" => value.split(',').any(|state| state == packet.state),
            "--icmp-type" | "--icmpv6-type" => {
                let (kind, code) = value.split_once('/').map_or((value, None), |(k, c)| (k, Some(c)));
                kind.parse() == Ok(packet.icmp.0) && code.is_none_or(|code| code.parse() == Ok(packet.icmp.1))
            }
            // Every packet here comes in where the route to its source leads.
            "--invert" | "--validmark" if module == "rpfilter" => false,
            _ => panic!("the interpreter does not know {word:?} of {module:?}"),
        }
    }

    fn in_set(&self, name: &str, dimension: &str) -> bool {
        let members = &self.dataplane.sets[&IpSetName::from_kernel(name)];
        let packet = self.packet;
        match dimension {
            "src" => members.contains(&IpSetMember::Net(Cidr::host(packet.source))),
            "dst" => members.contains(&IpSetMember::Net(Cidr::host(packet.destination))),
            "src,src" => {
                members.contains(&IpSetMember::IpPort(packet.source, packet.protocol, packet.source_port))
            }
            "dst,dst" => {
                let port = packet.destination_port;
                members.contains(&IpSetMember::IpPort(packet.destination, packet.protocol, port))
            }
            _ => panic!("the interpreter does not know {dimension:?}"),
        }
    }
}

fn has_ports(protocol: Protocol) -> bool {
    protocol.has_ports() || protocol == Protocol::UDPLITE
}

fn protocol(text: &str) -> Protocol {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

fn mark(text: &str) -> (u32, u32) {
    let number = |text: &str| {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        u32::from_str_radix(digits, 16).unwrap_or_else(|error| panic!("{text:?}: {error}"))
    };
    let (value, mask) = text.split_once('/').expect("a mark has a mask");
    (number(value), number(mask))
}

fn interface_matches(pattern: &str, interface: Option<&str>) -> bool {
    let interface = interface.unwrap_or_default();
    match pattern.strip_suffix('+') {
        Some(prefix) => interface.starts_with(prefix),
        None => interface == pattern,
    }
}

fn in_ports(list: &str, port: u16) -> bool {
    list.split(',').any(|range| {
        let (first, last) = range.split_once(':').unwrap_or((range, range));
        (first.parse().unwrap()..=last.parse().unwrap()).contains(&port)
    })
}

/// The words of a rule; what stands in quotes is one.
struct Words<'a>(&'a str);

impl<'a> Words<'a> {
    fn expect(&mut self) -> &'a str {
        self.next().expect("a match has its value")
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let rest = self.0.trim_start_matches(' ');
        if rest.is_empty() {
            return None;
        }
        let (word, rest) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').expect("quotes are closed"),
            None => rest.split_once(' ').unwrap_or((rest, "")),
        };
        self.0 = rest;
        Some(word)
    }
}
