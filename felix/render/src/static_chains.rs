//! Chains and hooks that do not depend on pods or policies (`spec/felix.md` §1.5 to §1.7, §1.10, §1.11).

use kernel::{Chain, ChainName, Hook, HookName, IptablesTable, Rule};
use model::{EndpointToHostAction, Family};

use crate::names::{
    ACCEPT, ALL_HOSTS, ALL_MARKS, FROM_WORKLOAD_DISPATCH, MASQUERADE_POOLS, NETWORK_POOLS, PASS, SCRATCH0,
    SCRATCH1, TO_WORKLOAD_DISPATCH, clear_mark, mark_clear, mark_set, set_mark, set_name,
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
    let jump = |chain: HookName| vec![Rule::new(&[], "", &format!("--jump cali-{chain}"))];
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
                Rule::new(&["Policy explicitly accepted packet."], &mark_set(ACCEPT), "--jump ACCEPT"),
                Rule::new(&[], "", &set_mark(ACCEPT)),
            ];
            vec![insert("INPUT"), ("FORWARD", Hook { inserts: jump("FORWARD"), appends }), insert("OUTPUT")]
        }
    }
}

fn raw(input: &StaticInput) -> Vec<Chain> {
    let from_pod = mark_set(SCRATCH0);
    let prerouting = vec![
        Rule::new(&[], "", &clear_mark(ALL_MARKS)),
        Rule::new(&[], &format!("--in-interface {}+", input.prefix), &set_mark(SCRATCH0)),
        Rule::new(&[], &from_pod, "--jump cali-rpf-skip"),
        Rule::new(&[], &format!("{from_pod} -m rpfilter --invert --validmark"), "--jump DROP"),
        Rule::new(&[], &mark_clear(SCRATCH0), "--jump cali-from-host-endpoint"),
        Rule::new(&[], &mark_set(ACCEPT), "--jump ACCEPT"),
    ];
    let output = vec![
        Rule::new(&[], "", &clear_mark(ALL_MARKS)),
        Rule::new(&[], "", "--jump cali-to-host-endpoint"),
        Rule::new(&[], &mark_set(ACCEPT), "--jump ACCEPT"),
    ];
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
        Rule::new(&[], "-m conntrack --ctstate RELATED,ESTABLISHED", "--jump ACCEPT"),
        Rule::new(&[], &mark_set(ACCEPT), "--jump ACCEPT"),
        Rule::new(&[], "", "--jump cali-from-host-endpoint"),
        Rule::new(&[HOST_ENDPOINT_ACCEPTED], &mark_set(ACCEPT), "--jump ACCEPT"),
    ];
    let postrouting = vec![
        Rule::new(&[], &mark_set(ACCEPT), "--jump RETURN"),
        Rule::new(&[], "", &clear_mark(ALL_MARKS)),
        Rule::new(&[], "-m conntrack --ctstate DNAT", "--jump cali-to-host-endpoint"),
        Rule::new(&[HOST_ENDPOINT_ACCEPTED], &mark_set(ACCEPT), "--jump RETURN"),
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
        if input.random_fully { "--jump MASQUERADE --random-fully" } else { "--jump MASQUERADE" };
    let to_dnat = || vec![Rule::new(&[], "", "--jump cali-fip-dnat")];
    let mut postrouting =
        vec![Rule::new(&[], "", "--jump cali-fip-snat"), Rule::new(&[], "", "--jump cali-nat-outgoing")];
    if input.ipip && input.tunnel_address {
        // The node's own packets into the tunnel need the tunnel's address for the way back.
        let from_node = "--out-interface tunl0 -m addrtype ! --src-type LOCAL --limit-iface-out -m addrtype \
                         --src-type LOCAL";
        postrouting.push(Rule::new(&[], from_node, masquerade));
    }
    let mut outgoing = Vec::new();
    if input.masquerade {
        let from = set_name(input.family, MASQUERADE_POOLS);
        let to = set_name(input.family, NETWORK_POOLS);
        let leaves = format!("-m set --match-set {from} src -m set ! --match-set {to} dst");
        outgoing.push(Rule::new(&[], &leaves, masquerade));
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
    let pods = &input.prefix;
    let forward = vec![
        Rule::new(&[], "", &clear_mark(PASS | SCRATCH0 | SCRATCH1)),
        Rule::new(&[], &mark_clear(ACCEPT), "--jump cali-from-hep-forward"),
        Rule::new(&[], &format!("--in-interface {pods}+"), &format!("--jump {FROM_WORKLOAD_DISPATCH}")),
        Rule::new(&[], &format!("--out-interface {pods}+"), &format!("--jump {TO_WORKLOAD_DISPATCH}")),
        Rule::new(&[], "", "--jump cali-to-hep-forward"),
        Rule::new(&[], "", "--jump cali-cidr-block"),
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

fn filter_input(input: &StaticInput) -> Vec<Rule> {
    let mut rules = Vec::new();
    if input.ipip {
        let hosts = set_name(input.family, ALL_HOSTS);
        let from_hosts = format!("-p 4 -m set --match-set {hosts} src -m addrtype --dst-type LOCAL");
        rules.push(Rule::new(&["Allow IPIP packets from Calico hosts"], &from_hosts, "--jump ACCEPT"));
        rules.push(Rule::new(&["Drop IPIP packets from non-Calico hosts"], "-p 4", "--jump DROP"));
    }
    rules.extend([
        Rule::new(&[], &format!("--in-interface {}+", input.prefix), "--goto cali-wl-to-host"),
        Rule::new(&[], &mark_set(ACCEPT), "--jump ACCEPT"),
        Rule::new(&[], "", &clear_mark(ALL_MARKS)),
        Rule::new(&[], "", "--jump cali-from-host-endpoint"),
        Rule::new(&[HOST_ENDPOINT_ACCEPTED], &mark_set(ACCEPT), "--jump ACCEPT"),
    ]);
    rules
}

fn filter_output(input: &StaticInput) -> Vec<Rule> {
    let mut rules = vec![
        Rule::new(&[], &mark_set(ACCEPT), "--jump ACCEPT"),
        // The node to its own pods: always, for the kubelet's probes.
        Rule::new(&[], &format!("--out-interface {}+", input.prefix), "--jump RETURN"),
    ];
    if input.ipip {
        let hosts = set_name(input.family, ALL_HOSTS);
        let to_hosts = format!("-p 4 -m set --match-set {hosts} dst -m addrtype --src-type LOCAL");
        rules.push(Rule::new(&["Allow IPIP packets to other Calico hosts"], &to_hosts, "--jump ACCEPT"));
    }
    rules.extend([
        Rule::new(&[], "", &clear_mark(ALL_MARKS)),
        Rule::new(&[], "-m conntrack ! --ctstate DNAT", "--jump cali-to-host-endpoint"),
        Rule::new(&[HOST_ENDPOINT_ACCEPTED], &mark_set(ACCEPT), "--jump ACCEPT"),
    ]);
    rules
}

fn pod_to_host(input: &StaticInput) -> Vec<Rule> {
    let mut rules = Vec::new();
    if input.family == Family::V6 {
        // Without neighbour discovery and multicast listeners nothing works, whatever policy says.
        for kind in [130, 131, 132, 133, 135, 136] {
            let matches = format!("-p icmpv6 -m icmp6 --icmpv6-type {kind}");
            rules.push(Rule::new(&[], &matches, "--jump ACCEPT"));
        }
    }
    rules.push(Rule::new(&[], "", &format!("--jump {FROM_WORKLOAD_DISPATCH}")));
    let action = match input.to_host {
        EndpointToHostAction::Drop => "--jump DROP",
        EndpointToHostAction::Accept => "--jump ACCEPT",
        EndpointToHostAction::Return => "--jump RETURN",
    };
    rules.push(Rule::new(&["Configured DefaultEndpointToHostAction"], "", action));
    rules
}

fn chain(name: &str, rules: Vec<Rule>) -> Chain {
    Chain { name: ChainName::fixed(name), rules: rules.into() }
}
