//! Chains and hooks that do not depend on single pods or policies: raw, mangle and filter (`spec/felix.md` §1.5
//! to §1.7, §1.11). For nat see [`crate::nat_chains`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use kernel::{
    Chain, ChainName, ConntrackState, Hook, HookName, InterfaceMatch, InterfaceSide, IptablesTable, Match,
    PacketRule, PacketSide, RejectWith, RuleAction,
};
use model::{Cidr, EndpointToHostAction, Family, PortRange, Protocol, ServiceLoopPrevention};

use crate::base_chains::{render_base, render_behind};
use crate::drops::DropReason;
use crate::ipvs_chains::{Ipvs, IpvsInput};
use crate::marks::{clear_mark, mark_clear, mark_set, set_mark};
use crate::names::{
    ALL_HOSTS, ALL_VXLAN, DSCP_SOURCES, ESTABLISHED, FROM_HOST_ENDPOINT, FROM_HOST_ENDPOINT_FORWARD,
    FROM_WORKLOAD_DISPATCH, IPIP, NETWORK_POOLS, THIS_HOST, TO_HOST_ENDPOINT, TO_HOST_ENDPOINT_FORWARD,
    TO_WORKLOAD_DISPATCH, conntrack, in_set, local, protocol, via,
};
use crate::nat_chains::{NatInput, nat};
use crate::settings::{Context, RuleDataplane, RuleSettings};

/// What the static chains depend on, for one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StaticInput {
    pub(crate) family: Family,
    pub(crate) settings: RuleSettings,
    pub(crate) to_host: EndpointToHostAction,
    /// Are IPIP packets of other nodes taken? IPv4 only.
    pub(crate) ipip: bool,
    pub(crate) vxlan: bool,
    /// The port on which WireGuard of other nodes is taken.
    pub(crate) wireguard: Option<u16>,
    pub(crate) loop_prevention: ServiceLoopPrevention,
    /// Addresses of Services that the fabric sends here.
    pub(crate) services: Arc<[Cidr]>,
    /// Interfaces of pods, and what they may send from beside their own addresses.
    pub(crate) allowed_sources: Vec<(String, Cidr)>,
    /// Addresses of pods whose packets carry a mark out of the cluster.
    pub(crate) dscp: BTreeMap<IpAddr, u8>,
    /// Interfaces of pods that are closed, with what they send and receive; only told for nftables.
    pub(crate) closed: [BTreeMap<Arc<str>, ChainName>; 2],
    /// Does some pod's chain count packets, also those of connections that are there?
    pub(crate) limits_packets: bool,
    /// The dispatches to host endpoints that lead somewhere.
    pub(crate) host_roots: BTreeSet<(IptablesTable, &'static str)>,
    /// Told where kube-proxy works in mode IPVS.
    pub(crate) ipvs: Option<IpvsInput>,
    pub(crate) nat: NatInput,
}

pub(crate) const HOST_ENDPOINT_ACCEPTED: &str = "Host endpoint policy accepted packet.";

/// Every static chain of one table.
pub(crate) fn render_static(input: &StaticInput, table: IptablesTable) -> Vec<Chain> {
    let statics = Static::new(input, table);
    if statics.context.is_nftables() {
        return render_behind(input, table);
    }
    match table {
        IptablesTable::Raw => statics.raw(),
        IptablesTable::Mangle => statics.mangle(),
        IptablesTable::Nat => nat(&input.nat, input.family),
        IptablesTable::Filter => statics.filter(),
    }
}

/// What stands in the kernel's own chains.
pub(crate) fn render_hooks(input: &StaticInput, table: IptablesTable) -> Vec<(HookName, Hook)> {
    if input.settings.dataplane == RuleDataplane::Nftables {
        return render_base(input, table);
    }
    let jump = |chain: HookName| vec![PacketRule::jump(&format!("cali-{chain}"))];
    let insert = |chain: HookName| (chain, Hook { inserts: jump(chain), appends: Vec::new() });
    match table {
        IptablesTable::Raw => vec![insert("PREROUTING"), insert("OUTPUT")],
        IptablesTable::Mangle => vec![insert("PREROUTING"), insert("POSTROUTING")],
        // Behind kube-proxy's own masquerading, which needs to see its mark first.
        IptablesTable::Nat => vec![
            insert("PREROUTING"),
            insert("OUTPUT"),
            ("POSTROUTING", Hook { inserts: Vec::new(), appends: jump("POSTROUTING") }),
        ],
        IptablesTable::Filter => {
            let statics = Static::new(input, table);
            let appends = vec![
                statics.accepted().comment("Policy explicitly accepted packet."),
                PacketRule::new(set_mark(input.settings.marks.accept)),
            ];
            vec![insert("INPUT"), ("FORWARD", Hook { inserts: jump("FORWARD"), appends }), insert("OUTPUT")]
        }
    }
}

/// Makes the rules of one table.
pub(crate) struct Static<'a> {
    pub(crate) input: &'a StaticInput,
    pub(crate) context: Context<'a>,
}

impl<'a> Static<'a> {
    pub(crate) fn new(input: &'a StaticInput, table: IptablesTable) -> Self {
        Self { input, context: Context::new(&input.settings, input.family, table) }
    }

    fn raw(&self) -> Vec<Chain> {
        let marks = self.context.marks();
        let from_pod = || mark_set(marks.scratch0);
        let mut prerouting = vec![PacketRule::new(clear_mark(marks.all()))];
        prerouting.extend(self.untracked_vxlan());
        prerouting.extend(self.of_pods(InterfaceSide::In, || PacketRule::new(set_mark(marks.scratch0))));
        prerouting.push(PacketRule::jump("cali-rpf-skip").when(from_pod()));
        let spoofed = |action| PacketRule::new(action).when(from_pod()).when(Match::ReversePathFails);
        let mut chains = Vec::new();
        if self.input.settings.drop_log.is_some() {
            // A chain of its own, so that packets from pods do without further matches.
            prerouting.push(spoofed(RuleAction::Goto(ChainName::fixed("cali-rpf-drop"))));
            let place = (model::Direction::Egress, &DropReason::Spoofed);
            chains.push(chain("cali-rpf-drop", self.context.dropped(place, None, &[])));
        } else {
            prerouting.push(spoofed(self.context.deny()));
        }
        prerouting.push(PacketRule::jump(FROM_HOST_ENDPOINT).when(mark_clear(marks.scratch0)));
        prerouting.push(self.accepted());
        let mut output = vec![PacketRule::new(clear_mark(marks.all())), PacketRule::jump(TO_HOST_ENDPOINT)];
        output.extend(self.untracked_vxlan());
        output.push(self.accepted());
        chains.extend([
            chain("cali-PREROUTING", prerouting),
            chain("cali-OUTPUT", output),
            chain("cali-rpf-skip", self.allowed_sources()),
        ]);
        chains
    }

    /// What pods may send from beside their own addresses.
    pub(crate) fn allowed_sources(&self) -> Vec<PacketRule> {
        let allowed = self.input.allowed_sources.iter().map(|(interface, net)| {
            PacketRule::new(RuleAction::Accept)
                .when(via(InterfaceSide::In, InterfaceMatch::named(interface)))
                .when(Match::Net { side: PacketSide::Source, net: *net, negated: false })
        });
        allowed.collect()
    }

    /// Each packet of the tunnel is a packet of its own to connection tracking, and none needs it.
    pub(crate) fn untracked_vxlan(&self) -> Option<PacketRule> {
        let port = Match::Port { side: PacketSide::Destination, port: self.input.settings.vxlan_port };
        let rule = PacketRule::new(RuleAction::NoTrack).when(protocol(Protocol::UDP)).when(port);
        self.input.vxlan.then_some(rule)
    }

    fn mangle(&self) -> Vec<Chain> {
        let mut postrouting: Vec<_> = self.clamped_mss().into_iter().chain(self.to_egress_dscp()).collect();
        postrouting.extend(self.mangle_postrouting());
        let mut chains = Vec::new();
        chains.extend((!self.input.dscp.is_empty()).then(|| self.egress_dscp()));
        let prerouting = self.mangle_prerouting();
        chains.extend([chain("cali-PREROUTING", prerouting), chain("cali-POSTROUTING", postrouting)]);
        chains
    }

    pub(crate) fn mangle_prerouting(&self) -> Vec<PacketRule> {
        vec![
            PacketRule::new(self.context.allow()).when(conntrack(&ESTABLISHED)),
            self.accepted(),
            PacketRule::jump(FROM_HOST_ENDPOINT),
            self.accepted().comment(HOST_ENDPOINT_ACCEPTED),
        ]
    }

    pub(crate) fn mangle_postrouting(&self) -> Vec<PacketRule> {
        let accept = self.context.marks().accept;
        let mut rules = vec![PacketRule::new(RuleAction::Return).when(mark_set(accept))];
        rules.extend(Ipvs::of(self).map(|ipvs| ipvs.on_postrouting()));
        rules.extend([
            PacketRule::new(clear_mark(self.context.marks().all())),
            PacketRule::jump(TO_HOST_ENDPOINT).when(conntrack(&[ConntrackState::Dnat])),
            PacketRule::new(RuleAction::Return).comment(HOST_ENDPOINT_ACCEPTED).when(mark_set(accept)),
        ]);
        rules
    }

    /// Where the route is known, and whoever else has changed the packet has done so.
    pub(crate) fn clamped_mss(&self) -> Option<PacketRule> {
        let opening = [protocol(Protocol::TCP), Match::TcpOpening];
        self.input.settings.clamp_mss.then(|| PacketRule::new(RuleAction::ClampMss).when_all(opening))
    }

    /// Packets that leave the cluster get their mark, where a pod asks for it.
    pub(crate) fn to_egress_dscp(&self) -> Option<PacketRule> {
        let leaves = PacketRule::jump("cali-egress-dscp")
            .comment("set dscp for traffic leaving cluster.")
            .when(self.in_set(DSCP_SOURCES, PacketSide::Source))
            .when(in_set(self.input.family, NETWORK_POOLS, PacketSide::Destination, true))
            .when(in_set(self.input.family, THIS_HOST, PacketSide::Destination, true));
        (!self.input.dscp.is_empty()).then_some(leaves)
    }

    pub(crate) fn egress_dscp(&self) -> Chain {
        let mark = |(address, value): (&IpAddr, &u8)| {
            let net = Cidr::host(*address);
            let from = Match::Net { side: PacketSide::Source, net, negated: false };
            PacketRule::new(RuleAction::SetDscp(*value)).when(from)
        };
        chain("cali-egress-dscp", self.input.dscp.iter().map(mark).collect())
    }

    fn filter(&self) -> Vec<Chain> {
        let mut chains = vec![
            chain("cali-FORWARD", self.forward()),
            chain("cali-INPUT", self.filter_input()),
            chain("cali-OUTPUT", self.filter_output()),
            chain("cali-wl-to-host", self.pod_to_host()),
            chain("cali-cidr-block", self.unused_services()),
        ];
        chains.extend(Ipvs::of(self).iter().flat_map(Ipvs::chains));
        chains
    }

    fn forward(&self) -> Vec<PacketRule> {
        let marks = self.context.marks();
        let mut rules = vec![PacketRule::new(clear_mark(marks.all() & !marks.accept))];
        rules.push(PacketRule::jump(FROM_HOST_ENDPOINT_FORWARD).when(mark_clear(marks.accept)));
        for prefix in &*self.input.settings.prefixes {
            let through = |side| via(side, InterfaceMatch::prefixed(prefix));
            rules.push(PacketRule::jump(FROM_WORKLOAD_DISPATCH).when(through(InterfaceSide::In)));
            rules.push(PacketRule::jump(TO_WORKLOAD_DISPATCH).when(through(InterfaceSide::Out)));
        }
        rules.push(PacketRule::jump(TO_HOST_ENDPOINT_FORWARD));
        rules.push(PacketRule::jump("cali-cidr-block"));
        rules
    }

    fn filter_input(&self) -> Vec<PacketRule> {
        let mut rules = self.tunnels_in();
        rules.extend(Ipvs::of(self).iter().flat_map(Ipvs::on_input));
        rules.extend(self.pods_to_host());
        rules.extend(self.host_input());
        rules
    }

    /// Packets of tunnels, which only nodes may send here. That what comes by is for this node is asked only where Calico
    /// does: the hook says so already, and the answer costs as much as all other rules together.
    pub(crate) fn tunnels_in(&self) -> Vec<PacketRule> {
        let is_iptables = self.input.settings.dataplane == RuleDataplane::Iptables;
        let to_here = || is_iptables.then(|| local(PacketSide::Destination));
        let mut rules = Vec::new();
        if self.input.ipip {
            let from_hosts = PacketRule::new(self.context.allow())
                .comment("Allow IPIP packets from Calico hosts")
                .when(protocol(IPIP))
                .when(self.in_set(ALL_HOSTS, PacketSide::Source))
                .when_all(to_here());
            let others = PacketRule::new(self.context.deny())
                .comment("Drop IPIP packets from non-Calico hosts")
                .when(protocol(IPIP));
            rules.extend([from_hosts, others]);
        }
        if self.input.vxlan {
            let family = self.family_name();
            let from_hosts = PacketRule::new(self.context.allow())
                .comment(format!("Allow {family} VXLAN packets from allowed hosts"))
                .when_all(self.vxlan_packets())
                .when(self.in_set(ALL_VXLAN, PacketSide::Source))
                .when_all(to_here());
            // The tunnel of a stranger gets no answer.
            let deny = if self.input.family == Family::V4 { RuleAction::Drop } else { self.context.deny() };
            let others = PacketRule::new(deny)
                .comment(format!("Drop {family} VXLAN packets from non-allowed hosts"))
                .when_all(self.vxlan_packets())
                .when_all(to_here());
            rules.extend([from_hosts, others]);
        }
        if let Some(port) = self.input.wireguard {
            // Who may send is for WireGuard to say: it answers nobody whose key it does not know.
            let incoming = PacketRule::new(self.context.allow())
                .comment(format!("Allow incoming {} Wireguard packets", self.family_name()))
                .when_all(udp_to(port))
                .when_all(to_here());
            rules.push(incoming);
        }
        rules
    }

    pub(crate) fn pods_to_host(&self) -> Vec<PacketRule> {
        let to_host = || PacketRule::new(RuleAction::Goto(ChainName::fixed("cali-wl-to-host")));
        self.of_pods(InterfaceSide::In, to_host)
    }

    /// What a host endpoint lets in.
    pub(crate) fn host_input(&self) -> [PacketRule; 4] {
        [
            self.accepted(),
            PacketRule::new(clear_mark(self.context.marks().all())),
            PacketRule::jump(FROM_HOST_ENDPOINT),
            self.accepted().comment(HOST_ENDPOINT_ACCEPTED),
        ]
    }

    pub(crate) fn filter_output(&self) -> Vec<PacketRule> {
        let mut rules = vec![self.accepted()];
        rules.extend(Ipvs::of(self).map(|ipvs| ipvs.on_output()));
        // The node to its own pods: always, for the kubelet's probes.
        rules.extend(self.of_pods(InterfaceSide::Out, || PacketRule::new(RuleAction::Return)));
        if self.input.ipip {
            let to_hosts = PacketRule::new(self.context.allow())
                .comment("Allow IPIP packets to other Calico hosts")
                .when(protocol(IPIP))
                .when(self.in_set(ALL_HOSTS, PacketSide::Destination))
                .when(local(PacketSide::Source));
            rules.push(to_hosts);
        }
        if self.input.vxlan {
            let to_hosts = PacketRule::new(self.context.allow())
                .comment(format!("Allow {} VXLAN packets to other allowed hosts", self.family_name()))
                .when_all(self.vxlan_packets())
                .when(local(PacketSide::Source))
                .when(self.in_set(ALL_VXLAN, PacketSide::Destination));
            rules.push(to_hosts);
        }
        if let Some(port) = self.input.wireguard {
            let outgoing = PacketRule::new(self.context.allow())
                .comment(format!("Allow outgoing {} Wireguard packets", self.family_name()))
                .when_all(udp_to(port))
                .when(local(PacketSide::Source));
            rules.push(outgoing);
        }
        rules.extend([
            PacketRule::new(clear_mark(self.context.marks().all())),
            PacketRule::jump(TO_HOST_ENDPOINT)
                .when(Match::Conntrack { states: &[ConntrackState::Dnat], negated: true }),
            self.accepted().comment(HOST_ENDPOINT_ACCEPTED),
        ]);
        rules
    }

    pub(crate) fn pod_to_host(&self) -> Vec<PacketRule> {
        let mut rules = Vec::new();
        if self.input.family == Family::V6 {
            // Without neighbour discovery and multicast listeners nothing works, whatever policy says. Router
            // advertisements (134) are not among them: a pod is no router.
            for kind in [130, 131, 132, 133, 135, 136] {
                let discovery = PacketRule::new(RuleAction::Accept)
                    .when(protocol(Protocol::ICMPV6))
                    .when(Match::Icmp { family: Family::V6, kind, code: None, negated: false });
                rules.push(discovery);
            }
        }
        rules.push(PacketRule::jump(FROM_WORKLOAD_DISPATCH));
        let action = match self.input.to_host {
            EndpointToHostAction::Drop => self.context.deny(),
            EndpointToHostAction::Accept => RuleAction::Accept,
            EndpointToHostAction::Return => RuleAction::Return,
        };
        rules.push(PacketRule::new(action).comment("Configured DefaultEndpointToHostAction"));
        rules
    }

    /// What kube-proxy did not translate would go out again to where it came from.
    pub(crate) fn unused_services(&self) -> Vec<PacketRule> {
        let action = match self.input.loop_prevention {
            ServiceLoopPrevention::Drop => RuleAction::Drop,
            ServiceLoopPrevention::Reject => RuleAction::Reject(RejectWith::PortUnreachable),
            ServiceLoopPrevention::Disabled => return Vec::new(),
        };
        let of_family = self.input.services.iter().filter(|net| net.family() == self.input.family);
        let block = |net: &Cidr| {
            let to = Match::Net { side: PacketSide::Destination, net: *net, negated: false };
            PacketRule::new(action.clone()).when(to)
        };
        of_family.map(block).collect()
    }

    /// One rule for each beginning that names of pod interfaces have.
    pub(crate) fn of_pods(&self, side: InterfaceSide, rule: impl Fn() -> PacketRule) -> Vec<PacketRule> {
        let prefixes = self.input.settings.prefixes.iter();
        prefixes.map(|prefix| rule().when(via(side, InterfaceMatch::prefixed(prefix)))).collect()
    }

    fn vxlan_packets(&self) -> [Match; 2] {
        udp_to(self.input.settings.vxlan_port)
    }

    fn in_set(&self, id: &str, side: PacketSide) -> Match {
        in_set(self.input.family, id, side, false)
    }

    fn family_name(&self) -> &'static str {
        match self.input.family {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }

    /// What policy allowed, in this table or in one before.
    pub(crate) fn accepted(&self) -> PacketRule {
        PacketRule::new(self.context.allow()).when(mark_set(self.context.marks().accept))
    }
}

fn udp_to(port: u16) -> [Match; 2] {
    let port = Match::Ports {
        side: PacketSide::Destination,
        ranges: [PortRange::single(port)].into(),
        negated: false,
    };
    [protocol(Protocol::UDP), port]
}

pub(crate) fn chain(name: &str, rules: Vec<PacketRule>) -> Chain {
    Chain { name: ChainName::fixed(name), rules: rules.into() }
}
