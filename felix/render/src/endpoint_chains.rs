//! Chains of endpoints, and the dispatch to them by interface (`spec/felix.md` §1.7, §1.8).

use std::collections::BTreeMap;

use felix_calc::{ActiveEndpoint, ActiveTier, EndpointPolicies};
use kernel::{
    Chain, ChainName, ConntrackState, InterfaceMatch, InterfaceSide, Match, PacketRule, PacketSide,
    RuleAction,
};
use model::{Direction, PolicyKey, PortRange, Protocol};

use crate::names::{
    ACCEPT, ESTABLISHED, IPIP, PASS, clear_mark, conntrack, endpoint_chain, mark_clear, mark_set,
    policy_chain, profile_chain, protocol, via,
};

/// The chain of what an endpoint receives or sends; a packet that may pass returns with the accept mark.
pub(crate) fn render_endpoint(endpoint: &ActiveEndpoint, direction: Direction) -> Chain {
    let name = endpoint_chain(direction, &endpoint.local.interface);
    let (profiles, tiers) = match &endpoint.policies {
        EndpointPolicies::Closed(reason) => {
            let rules = [PacketRule::new(RuleAction::Drop).comment(format!("Endpoint closed: {reason}"))];
            return Chain { name, rules: rules.into() };
        }
        EndpointPolicies::Open { profiles, tiers } => (profiles, tiers),
    };
    let mut rules = vec![
        PacketRule::new(RuleAction::Accept).when(conntrack(&ESTABLISHED)),
        PacketRule::new(RuleAction::Drop).when(conntrack(&[ConntrackState::Invalid])),
        PacketRule::new(clear_mark(ACCEPT | PASS)),
    ];
    if direction == Direction::Egress {
        let ports = [PortRange::single(4789)].into();
        let vxlan = PacketRule::new(RuleAction::Drop)
            .comment("Drop VXLAN encapped packets originating in workloads")
            .when(protocol(Protocol::UDP))
            .when(Match::Ports { side: PacketSide::Destination, ranges: ports, negated: false });
        let ipip = PacketRule::new(RuleAction::Drop)
            .comment("Drop IPinIP encapped packets originating in workloads")
            .when(protocol(IPIP));
        rules.extend([vxlan, ipip]);
    }
    for tier in tiers {
        render_tier(tier, direction, &mut rules);
    }
    for profile in profiles {
        rules.push(PacketRule::new(RuleAction::Jump(profile_chain(direction, profile))));
        rules.push(returns("Return if profile accepted").when(mark_set(ACCEPT)));
    }
    rules.push(PacketRule::new(RuleAction::Drop).comment("Drop if no profiles matched"));
    Chain { name, rules: rules.into() }
}

fn render_tier(tier: &ActiveTier, direction: Direction, rules: &mut Vec<PacketRule>) {
    let policies: &[PolicyKey] = match direction {
        Direction::Ingress => &tier.ingress,
        Direction::Egress => &tier.egress,
    };
    if policies.is_empty() {
        return;
    }
    rules.push(PacketRule::new(clear_mark(PASS)).comment(format!("Start of tier {}", tier.name)));
    for policy in policies {
        let jump = RuleAction::Jump(policy_chain(direction, policy));
        rules.push(PacketRule::new(jump).when(mark_clear(PASS)));
        rules.push(returns("Return if policy accepted").when(mark_set(ACCEPT)));
    }
    if !tier.default_action_is_pass {
        let comment = format!("End of tier {}. Drop if no policies passed packet", tier.name);
        rules.push(PacketRule::new(RuleAction::Drop).comment(comment).when(mark_clear(PASS)));
    }
}

fn returns(comment: &str) -> PacketRule {
    PacketRule::new(RuleAction::Return).comment(comment)
}

/// How one dispatch chain is spelled.
pub(crate) struct Dispatch {
    pub(crate) root: &'static str,
    pub(crate) interface: InterfaceSide,
    pub(crate) direction: Direction,
}

/// The root and its children, by the first character in which the interfaces differ. An interface that is
/// not among them is closed.
pub(crate) fn render_dispatch(dispatch: &Dispatch, interfaces: &[&str]) -> Vec<Chain> {
    let common = common_prefix(interfaces);
    let mut groups: BTreeMap<Option<char>, Vec<&str>> = BTreeMap::new();
    for interface in interfaces {
        groups.entry(interface[common.len()..].chars().next()).or_default().push(interface);
    }
    let (mut root, mut chains) = (Vec::new(), Vec::new());
    for (next, members) in groups {
        match (next, members.as_slice()) {
            (Some(next), [_, _, ..]) => {
                let name = ChainName::limited(&format!("{}-", dispatch.root), &next.to_string());
                let members_of = InterfaceMatch::prefixed(&format!("{common}{next}"));
                let goto = PacketRule::new(RuleAction::Goto(name.clone()));
                root.push(goto.when(via(dispatch.interface, members_of)));
                let rules = members.iter().map(|interface| dispatch.rule(interface));
                chains.push(Chain { name, rules: rules.chain([unknown_interface()]).collect() });
            }
            (_, members) => root.extend(members.iter().map(|interface| dispatch.rule(interface))),
        }
    }
    root.push(unknown_interface());
    chains.push(Chain { name: ChainName::fixed(dispatch.root), rules: root.into() });
    chains
}

impl Dispatch {
    fn rule(&self, interface: &str) -> PacketRule {
        let goto = RuleAction::Goto(endpoint_chain(self.direction, interface));
        PacketRule::new(goto).when(via(self.interface, InterfaceMatch::named(interface)))
    }
}

fn unknown_interface() -> PacketRule {
    PacketRule::new(RuleAction::Drop).comment("Unknown interface")
}

/// Interfaces are ASCII (the renderer takes no others).
fn common_prefix<'a>(interfaces: &[&'a str]) -> &'a str {
    let Some((first, rest)) = interfaces.split_first() else { return "" };
    let shared = |other: &&str| first.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
    &first[..rest.iter().map(shared).min().unwrap_or(first.len())]
}
