//! Chains and hooks that do not depend on pods or policies (`spec/felix.md` §1.5 to §1.7, §1.10, §1.11).

use kernel::{
    Chain, ChainName, ConntrackState, Hook, HookName, InterfaceMatch, InterfaceSide, IptablesTable, Match,
    PacketRule, PacketSide, RuleAction,
};
use model::{EndpointToHostAction, Family, Protocol};

use crate::names::{
    ACCEPT, ALL_HOSTS, ALL_MARKS, ESTABLISHED, FROM_WORKLOAD_DISPATCH, IPIP, MASQUERADE_POOLS, NETWORK_POOLS,
    PASS, SCRATCH0, SCRATCH1, TO_WORKLOAD_DISPATCH, clear_mark, conntrack, mark_clear, mark_set, protocol,
    set_mark, set_name, via,
};

/// What the static chains depend on, for one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StaticInput {
    pub(crate) family: Family,
    /// Interfaces of pods begin so.
    pub(crate) prefix: String,
    pub(crate) to_host: EndpointToHostAction,
    /// Are IPIP packets of other nodes taken? IPv4 only.
    pub(crate) ipip: bool,
    /// Does `tunl0` have its address?
    pub(crate) tunnel_address: bool,
    pub(crate) masquerade: bool,
    pub(crate) random_fully: bool,
}

impl StaticInput {
    /// Through an interface of a pod.
    fn pods(&self, side: InterfaceSide) -> Match {
        via(side, InterfaceMatch::prefixed(&self.prefix))
    }

    fn set(&self, id: &str, side: PacketSide, negated: bool) -> Match {
        Match::Set { name: set_name(self.family, id), side, with_port: false, negated }
    }
}

const HOST_ENDPOINT_ACCEPTED: &str = "Host endpoint policy accepted packet.";

/// Every static chain of one table.
pub(crate) fn render_static(input: &StaticInput, table: IptablesTable) -> Vec<Chain> {
    match table {
        IptablesTable::Raw => raw(input),
        IptablesTable::Mangle => mangle(),
        IptablesTable::Nat => nat(input),
        IptablesTable::Filter => filter(input),
    }
}

/// What stands in the kernel's own chains.
pub(crate) fn render_hooks(table: IptablesTable) -> Vec<(HookName, Hook)> {
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
            let appends = vec![
                accepted().comment("Policy explicitly accepted packet."),
                PacketRule::new(set_mark(ACCEPT)),
            ];
            vec![insert("INPUT"), ("FORWARD", Hook { inserts: jump("FORWARD"), appends }), insert("OUTPUT")]
        }
    }
}

fn raw(input: &StaticInput) -> Vec<Chain> {
    let prerouting = vec![
        PacketRule::new(clear_mark(ALL_MARKS)),
        PacketRule::new(set_mark(SCRATCH0)).when(input.pods(InterfaceSide::In)),
        PacketRule::jump("cali-rpf-skip").when(mark_set(SCRATCH0)),
        PacketRule::new(RuleAction::Drop).when(mark_set(SCRATCH0)).when(Match::ReversePathFails),
        PacketRule::jump("cali-from-host-endpoint").when(mark_clear(SCRATCH0)),
        accepted(),
    ];
    let output =
        vec![PacketRule::new(clear_mark(ALL_MARKS)), PacketRule::jump("cali-to-host-endpoint"), accepted()];
    vec![
        chain("cali-PREROUTING", prerouting),
        chain("cali-OUTPUT", output),
        chain("cali-rpf-skip", Vec::new()),
        chain("cali-from-host-endpoint", Vec::new()),
        chain("cali-to-host-endpoint", Vec::new()),
    ]
}

fn mangle() -> Vec<Chain> {
    let prerouting = vec![
        PacketRule::new(RuleAction::Accept).when(conntrack(&ESTABLISHED)),
        accepted(),
        PacketRule::jump("cali-from-host-endpoint"),
        accepted().comment(HOST_ENDPOINT_ACCEPTED),
    ];
    let postrouting = vec![
        PacketRule::new(RuleAction::Return).when(mark_set(ACCEPT)),
        PacketRule::new(clear_mark(ALL_MARKS)),
        PacketRule::jump("cali-to-host-endpoint").when(conntrack(&[ConntrackState::Dnat])),
        PacketRule::new(RuleAction::Return).comment(HOST_ENDPOINT_ACCEPTED).when(mark_set(ACCEPT)),
    ];
    vec![
        chain("cali-PREROUTING", prerouting),
        chain("cali-POSTROUTING", postrouting),
        chain("cali-from-host-endpoint", Vec::new()),
        chain("cali-to-host-endpoint", Vec::new()),
    ]
}

fn nat(input: &StaticInput) -> Vec<Chain> {
    let masquerade =
        || PacketRule::new(RuleAction::Masquerade { ports: None, random_fully: input.random_fully });
    let to_dnat = || vec![PacketRule::jump("cali-fip-dnat")];
    let mut postrouting = vec![PacketRule::jump("cali-fip-snat"), PacketRule::jump("cali-nat-outgoing")];
    if input.ipip && input.tunnel_address {
        // The node's own packets into the tunnel need the tunnel's address for the way back.
        let from_node = masquerade()
            .when(Match::OutInterface(InterfaceMatch::named("tunl0")))
            .when(Match::LocalAddress { side: PacketSide::Source, negated: true, of_out_interface: true })
            .when(local(PacketSide::Source));
        postrouting.push(from_node);
    }
    let mut outgoing = Vec::new();
    if input.masquerade {
        let leaves = masquerade()
            .when(input.set(MASQUERADE_POOLS, PacketSide::Source, false))
            .when(input.set(NETWORK_POOLS, PacketSide::Destination, true));
        outgoing.push(leaves);
    }
    vec![
        chain("cali-PREROUTING", to_dnat()),
        chain("cali-OUTPUT", to_dnat()),
        chain("cali-POSTROUTING", postrouting),
        chain("cali-nat-outgoing", outgoing),
        chain("cali-fip-dnat", Vec::new()),
        chain("cali-fip-snat", Vec::new()),
    ]
}

fn filter(input: &StaticInput) -> Vec<Chain> {
    let forward = vec![
        PacketRule::new(clear_mark(PASS | SCRATCH0 | SCRATCH1)),
        PacketRule::jump("cali-from-hep-forward").when(mark_clear(ACCEPT)),
        PacketRule::jump(FROM_WORKLOAD_DISPATCH).when(input.pods(InterfaceSide::In)),
        PacketRule::jump(TO_WORKLOAD_DISPATCH).when(input.pods(InterfaceSide::Out)),
        PacketRule::jump("cali-to-hep-forward"),
        PacketRule::jump("cali-cidr-block"),
    ];
    vec![
        chain("cali-FORWARD", forward),
        chain("cali-INPUT", filter_input(input)),
        chain("cali-OUTPUT", filter_output(input)),
        chain("cali-wl-to-host", pod_to_host(input)),
        chain("cali-from-hep-forward", Vec::new()),
        chain("cali-to-hep-forward", Vec::new()),
        chain("cali-cidr-block", Vec::new()),
        chain("cali-from-host-endpoint", Vec::new()),
        chain("cali-to-host-endpoint", Vec::new()),
    ]
}

fn filter_input(input: &StaticInput) -> Vec<PacketRule> {
    let mut rules = Vec::new();
    if input.ipip {
        let from_hosts = PacketRule::new(RuleAction::Accept)
            .comment("Allow IPIP packets from Calico hosts")
            .when(protocol(IPIP))
            .when(input.set(ALL_HOSTS, PacketSide::Source, false))
            .when(local(PacketSide::Destination));
        let others = PacketRule::new(RuleAction::Drop)
            .comment("Drop IPIP packets from non-Calico hosts")
            .when(protocol(IPIP));
        rules.extend([from_hosts, others]);
    }
    rules.extend([
        PacketRule::new(RuleAction::Goto(ChainName::fixed("cali-wl-to-host")))
            .when(input.pods(InterfaceSide::In)),
        accepted(),
        PacketRule::new(clear_mark(ALL_MARKS)),
        PacketRule::jump("cali-from-host-endpoint"),
        accepted().comment(HOST_ENDPOINT_ACCEPTED),
    ]);
    rules
}

fn filter_output(input: &StaticInput) -> Vec<PacketRule> {
    let mut rules = vec![
        accepted(),
        // The node to its own pods: always, for the kubelet's probes.
        PacketRule::new(RuleAction::Return).when(input.pods(InterfaceSide::Out)),
    ];
    if input.ipip {
        let to_hosts = PacketRule::new(RuleAction::Accept)
            .comment("Allow IPIP packets to other Calico hosts")
            .when(protocol(IPIP))
            .when(input.set(ALL_HOSTS, PacketSide::Destination, false))
            .when(local(PacketSide::Source));
        rules.push(to_hosts);
    }
    rules.extend([
        PacketRule::new(clear_mark(ALL_MARKS)),
        PacketRule::jump("cali-to-host-endpoint")
            .when(Match::Conntrack { states: &[ConntrackState::Dnat], negated: true }),
        accepted().comment(HOST_ENDPOINT_ACCEPTED),
    ]);
    rules
}

fn pod_to_host(input: &StaticInput) -> Vec<PacketRule> {
    let mut rules = Vec::new();
    if input.family == Family::V6 {
        // Without neighbour discovery and multicast listeners nothing works, whatever policy says.
        for kind in [130, 131, 132, 133, 135, 136] {
            let discovery = PacketRule::new(RuleAction::Accept)
                .when(protocol(Protocol::ICMPV6))
                .when(Match::Icmp { family: Family::V6, kind, code: None, negated: false });
            rules.push(discovery);
        }
    }
    rules.push(PacketRule::jump(FROM_WORKLOAD_DISPATCH));
    let action = match input.to_host {
        EndpointToHostAction::Drop => RuleAction::Drop,
        EndpointToHostAction::Accept => RuleAction::Accept,
        EndpointToHostAction::Return => RuleAction::Return,
    };
    rules.push(PacketRule::new(action).comment("Configured DefaultEndpointToHostAction"));
    rules
}

/// What policy allowed, in this chain or in a table before.
fn accepted() -> PacketRule {
    PacketRule::new(RuleAction::Accept).when(mark_set(ACCEPT))
}

fn local(side: PacketSide) -> Match {
    Match::LocalAddress { side, negated: false, of_out_interface: false }
}

fn chain(name: &str, rules: Vec<PacketRule>) -> Chain {
    Chain { name: ChainName::fixed(name), rules: rules.into() }
}
