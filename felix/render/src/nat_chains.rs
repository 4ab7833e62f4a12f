//! Chains of the nat table (`spec/felix.md` §1.10).

use std::net::IpAddr;

use kernel::{Chain, HookName, InterfaceMatch, Match, PacketRule, PacketSide, RuleAction};
use model::{Cidr, Family, PortRange, Protocol};

use crate::names::{ALL_HOSTS, MASQUERADE_POOLS, NETWORK_POOLS, in_set, local, protocol};
use crate::static_chains::chain;

/// What the chains depend on, for one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NatInput {
    /// Does some pool ask for it?
    pub(crate) masquerade: bool,
    pub(crate) random_fully: bool,
    /// Ports of translated TCP and UDP; `None`: the kernel's choice.
    pub(crate) ports: Option<PortRange>,
    /// In place of the outgoing interface's address.
    pub(crate) address: Option<IpAddr>,
    /// Only out of this interface.
    pub(crate) interface: Option<InterfaceMatch>,
    /// Is what goes to nodes left alone, too?
    pub(crate) exclude_hosts: bool,
    /// Devices of tunnels that have an address.
    pub(crate) tunnels: Vec<&'static str>,
    /// The port of VXLAN, when it is in use.
    pub(crate) vxlan_port: Option<u16>,
    /// External and internal address.
    pub(crate) floating: Vec<(IpAddr, IpAddr)>,
}

/// Every chain of the table.
pub(crate) fn nat(input: &NatInput, family: Family) -> Vec<Chain> {
    let to_dnat = || vec![PacketRule::jump(DNAT)];
    let mut postrouting = vec![PacketRule::jump(SNAT), PacketRule::jump(OUTGOING)];
    postrouting.extend(input.tunnels.iter().flat_map(|tunnel| input.of_tunnel(tunnel)));
    let mut chains = vec![
        chain("cali-PREROUTING", to_dnat()),
        chain("cali-OUTPUT", to_dnat()),
        chain("cali-POSTROUTING", postrouting),
    ];
    chains.extend(behind(input, family));
    chains
}

/// The rules of nftables' base chains: without jumps to chains in which nothing is.
pub(crate) fn base(input: &NatInput, family: Family) -> Vec<(HookName, Vec<PacketRule>)> {
    let [outgoing, dnat, snat] = behind(input, family);
    let to = |chain: &Chain| {
        let jump = PacketRule::new(RuleAction::Jump(chain.name.clone()));
        (!chain.rules.is_empty()).then_some(jump)
    };
    let mut postrouting: Vec<_> = to(&snat).into_iter().chain(to(&outgoing)).collect();
    postrouting.extend(input.tunnels.iter().flat_map(|tunnel| input.of_tunnel(tunnel)));
    let to_dnat = || to(&dnat).into_iter().collect();
    vec![("PREROUTING", to_dnat()), ("OUTPUT", to_dnat()), ("POSTROUTING", postrouting)]
}

const OUTGOING: &str = "cali-nat-outgoing";
const DNAT: &str = "cali-fip-dnat";
const SNAT: &str = "cali-fip-snat";

/// The chains that translate; what comes by in the kernel leads to them.
pub(crate) fn behind(input: &NatInput, family: Family) -> [Chain; 3] {
    let floating = || input.floating.iter().filter(|(external, _)| Family::of(*external) == family);
    let dnat = |(external, internal): &(IpAddr, IpAddr)| {
        PacketRule::new(RuleAction::Dnat(*internal)).when(host(PacketSide::Destination, *external))
    };
    // A pod that talks to its own floating address must not see itself as the source.
    let snat = |(external, internal): &(IpAddr, IpAddr)| {
        PacketRule::new(RuleAction::Snat { address: *external, ports: None, random_fully: false })
            .when(host(PacketSide::Destination, *internal))
            .when(host(PacketSide::Source, *internal))
    };
    [
        chain(OUTGOING, if input.masquerade { input.outgoing(family) } else { Vec::new() }),
        chain(DNAT, floating().map(dnat).collect()),
        chain(SNAT, floating().map(snat).collect()),
    ]
}

impl NatInput {
    fn masquerade(&self, ports: Option<PortRange>) -> RuleAction {
        RuleAction::Masquerade { ports, random_fully: self.random_fully }
    }

    /// What pods send to elsewhere than pods.
    fn outgoing(&self, family: Family) -> Vec<PacketRule> {
        let mut leaves = vec![
            in_set(family, MASQUERADE_POOLS, PacketSide::Source, false),
            in_set(family, NETWORK_POOLS, PacketSide::Destination, true),
        ];
        if self.exclude_hosts {
            leaves.push(in_set(family, ALL_HOSTS, PacketSide::Destination, true));
        }
        leaves.extend(self.interface.clone().map(Match::OutInterface));
        let address = self.address.filter(|address| Family::of(*address) == family);
        let translate = |ports| match address {
            Some(address) => RuleAction::Snat { address, ports, random_fully: self.random_fully },
            None => self.masquerade(ports),
        };
        let mut rules = Vec::new();
        if self.ports.is_some() {
            for with_ports in [Protocol::TCP, Protocol::UDP].map(protocol) {
                let rule = PacketRule::new(translate(self.ports)).when(with_ports.clone());
                rules.push(rule.when_all(leaves.iter().cloned()));
                rules.push(PacketRule::new(RuleAction::Return).when(with_ports));
            }
        }
        rules.push(PacketRule::new(translate(None)).when_all(leaves));
        rules
    }

    /// The node's own packets into a tunnel need the tunnel's address for the way back.
    fn of_tunnel(&self, tunnel: &str) -> Vec<PacketRule> {
        let rule = |protocols: Option<Match>, ports| {
            PacketRule::new(self.masquerade(ports))
                .when_all(protocols)
                .when(Match::OutInterface(InterfaceMatch::named(tunnel)))
                .when(Match::LocalAddress { side: PacketSide::Source, negated: true, of_out_interface: true })
                .when(local(PacketSide::Source))
        };
        let mut rules = Vec::new();
        if let Some(port) = self.vxlan_port {
            // A source port that is the tunnel's own would be taken for the tunnel by the other side.
            let others = match port.checked_add(1) {
                Some(first) => PortRange { first, last: u16::MAX },
                None => PortRange { first: 1024, last: port - 1 },
            };
            rules.push(rule(Some(protocol(Protocol::UDP)), Some(others)));
        }
        rules.push(rule(None, None));
        rules
    }
}

fn host(side: PacketSide, address: IpAddr) -> Match {
    Match::Net { side, net: Cidr::host(address), negated: false }
}
