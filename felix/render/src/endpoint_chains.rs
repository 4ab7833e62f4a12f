//! Chains of endpoints, and the dispatch to them by interface (`spec/felix.md` §1.7, §1.8).

use std::collections::BTreeMap;

use felix_calc::{ActiveEndpoint, ActiveTier, EndpointPolicies};
use kernel::{Chain, ChainName, Rule};
use model::{Direction, PolicyKey};

use crate::names::{
    ACCEPT, PASS, clear_mark, endpoint_chain, mark_clear, mark_set, namespace_profile, policy_chain,
    profile_chain,
};

/// The chain of what an endpoint receives or sends; a packet that may pass returns with the accept mark.
pub(crate) fn render_endpoint(endpoint: &ActiveEndpoint, direction: Direction) -> Chain {
    let name = endpoint_chain(direction, &endpoint.local.interface);
    let (namespace, tiers) = match &endpoint.policies {
        EndpointPolicies::Closed(reason) => {
            let rules = [Rule::new(&[&format!("Endpoint closed: {reason}")], "", "--jump DROP")];
            return Chain { name, rules: rules.into() };
        }
        EndpointPolicies::Open { namespace, tiers } => (namespace, tiers),
    };
    let mut rules = vec![
        Rule::new(&[], "-m conntrack --ctstate RELATED,ESTABLISHED", "--jump ACCEPT"),
        Rule::new(&[], "-m conntrack --ctstate INVALID", "--jump DROP"),
        Rule::new(&[], "", &clear_mark(ACCEPT | PASS)),
    ];
    if direction == Direction::Egress {
        let comment = "Drop VXLAN encapped packets originating in workloads";
        rules.push(Rule::new(&[comment], "-p udp -m multiport --destination-ports 4789", "--jump DROP"));
        let comment = "Drop IPinIP encapped packets originating in workloads";
        rules.push(Rule::new(&[comment], "-p 4", "--jump DROP"));
    }
    for tier in tiers {
        render_tier(tier, direction, &mut rules);
    }
    let profile = profile_chain(direction, &namespace_profile(namespace));
    rules.push(Rule::new(&[], "", &format!("--jump {profile}")));
    rules.push(Rule::new(&["Return if profile accepted"], &mark_set(ACCEPT), "--jump RETURN"));
    rules.push(Rule::new(&["Drop if no profiles matched"], "", "--jump DROP"));
    Chain { name, rules: rules.into() }
}

fn render_tier(tier: &ActiveTier, direction: Direction, rules: &mut Vec<Rule>) {
    let policies: &[PolicyKey] = match direction {
        Direction::Ingress => &tier.ingress,
        Direction::Egress => &tier.egress,
    };
    if policies.is_empty() {
        return;
    }
    rules.push(Rule::new(&[&format!("Start of tier {}", tier.name)], "", &clear_mark(PASS)));
    for policy in policies {
        let jump = format!("--jump {}", policy_chain(direction, policy));
        rules.push(Rule::new(&[], &mark_clear(PASS), &jump));
        rules.push(Rule::new(&["Return if policy accepted"], &mark_set(ACCEPT), "--jump RETURN"));
    }
    if !tier.default_action_is_pass {
        let comment = format!("End of tier {}. Drop if no policies passed packet", tier.name);
        rules.push(Rule::new(&[&comment], &mark_clear(PASS), "--jump DROP"));
    }
}

/// How one dispatch chain is spelled.
pub(crate) struct Dispatch {
    pub(crate) root: &'static str,
    pub(crate) interface: &'static str,
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
                let matches = format!("{} {common}{next}+", dispatch.interface);
                root.push(Rule::new(&[], &matches, &format!("--goto {name}")));
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
    fn rule(&self, interface: &str) -> Rule {
        let matches = format!("{} {interface}", self.interface);
        Rule::new(&[], &matches, &format!("--goto {}", endpoint_chain(self.direction, interface)))
    }
}

fn unknown_interface() -> Rule {
    Rule::new(&["Unknown interface"], "", "--jump DROP")
}

/// Interfaces are ASCII (the renderer takes no others).
fn common_prefix<'a>(interfaces: &[&'a str]) -> &'a str {
    let Some((first, rest)) = interfaces.split_first() else { return "" };
    let shared = |other: &&str| first.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
    &first[..rest.iter().map(shared).min().unwrap_or(first.len())]
}
