//! What a node takes from a peer and what it sends to it. Owns the order of the rules; the first that matches
//! decides.

use std::collections::BTreeMap;

use bgp::{Action, Condition, Glob, Operation, Policy, PrefixMatch, PrefixSet, Rule, SourceKind};
use bgp_packet::Family;
use model::BgpFilter;

use crate::cluster::Cluster;
use crate::convert::prefix;
use crate::filters::{self, Direction};
use crate::origin::normal_preference;

/// The import policy of a session: what its filters say, and everything else.
pub fn import_policy(filters: &[&BgpFilter], internal: bool) -> Policy {
    let rules = filters.iter().flat_map(|filter| filters::rules(filter, Direction::Import, internal));
    Policy::new(rules.collect(), true)
}

/// The export policy of a session.
///
/// First what its filters say, which may let anything out. Then own blocks go out whole, what is more specific
/// stays (unless it is more preferred than normal, as the address of an endpoint that is moving), what Services
/// have announced goes, other routes only within pools; nothing of pools whose export is off, and nothing of the
/// infrastructure.
pub fn export_policy(cluster: &Cluster, filters: &[&BgpFilter], internal: bool) -> Policy {
    let mut rules = preferences(cluster, filters.iter().any(|filter| filters::looks_at_priority(filter)));
    rules.extend(filters.iter().flat_map(|filter| filters::rules(filter, Direction::Export, internal)));
    rules.extend(unwanted(cluster, internal));
    rules.extend(communities(cluster));
    rules.extend(own_blocks(cluster));
    rules.extend(services(cluster));
    let pools = cluster.pools.values().filter(|p| !p.disable_bgp_export);
    let pools: PrefixSet = pools.map(|p| PrefixMatch::within(prefix(p.cidr))).collect();
    rules.push(rule("pool", vec![Condition::Prefix(pools)], Action::Accept));
    Policy::new(rules, false)
}

fn rule(name: &str, when: Vec<Condition>, then: Action) -> Rule {
    Rule { name: name.to_owned(), when, then }
}

/// Gives routes that come without LOCAL_PREF the one of their family, where that is looked at or not the
/// speaker's own default.
fn preferences(cluster: &Cluster, looked_at: bool) -> Vec<Rule> {
    let preference = |family| normal_preference(cluster, family);
    let needs = |family| looked_at || preference(family) != preference(Family::Ipv4);
    let families = Family::ALL.into_iter().filter(|family| needs(*family));
    let rules = families.map(|family| {
        let operation = Operation::DefaultLocalPref(preference(family));
        rule("normal priority", vec![Condition::Family(family)], Action::Modify(vec![operation]))
    });
    rules.collect()
}

fn unwanted(cluster: &Cluster, internal: bool) -> Vec<Rule> {
    let silent = cluster.pools.values().filter(|p| p.disable_bgp_export);
    let silent: PrefixSet = silent.map(|p| PrefixMatch::within(prefix(p.cidr))).collect();
    let mut tunnels = vec![Glob::new("*.cali"), Glob::new("*.calico")];
    if !cluster.configuration.programs.ipip {
        tunnels.push(Glob::new("tunl0"));
    }
    let mut rules = vec![rule("pool with disableBGPExport", vec![Condition::Prefix(silent)], Action::Reject)];
    if internal {
        rules.push(rule("tunnel to another node", vec![Condition::Interface(tunnels)], Action::Reject));
    }
    let bpf = Condition::Interface(vec![Glob::new("bpf*.cali")]);
    rules.push(rule("interface of the eBPF dataplane", vec![bpf], Action::Reject));
    rules
}

/// One rule for each set of communities, whatever the number of ranges.
fn communities(cluster: &Cluster) -> Vec<Rule> {
    let mut ranges: BTreeMap<_, Vec<PrefixMatch>> = BTreeMap::new();
    for advertisement in &cluster.configuration.prefix_advertisements {
        let range = PrefixMatch::within(prefix(advertisement.cidr));
        ranges.entry(&advertisement.communities).or_default().push(range);
    }
    let rules = ranges.into_iter().filter(|(communities, _)| !communities.is_empty());
    let rules = rules.map(|(communities, ranges)| {
        let operations = communities.iter().map(|community| filters::add_community(*community)).collect();
        let when = vec![Condition::Prefix(PrefixSet::new(ranges))];
        rule("prefixAdvertisements", when, Action::Modify(operations))
    });
    rules.collect()
}

fn own_blocks(cluster: &Cluster) -> Vec<Rule> {
    let blocks: Vec<_> = cluster.own_blocks().map(prefix).collect();
    let exact: PrefixSet = blocks.iter().copied().map(PrefixMatch::exact).collect();
    let inside: PrefixSet = blocks.iter().copied().map(PrefixMatch::more_specific).collect();
    let mut rules = vec![rule("own block", vec![Condition::Prefix(exact)], Action::Accept)];
    for family in Family::ALL {
        let elevated = Condition::LocalPrefAbove(normal_preference(cluster, family));
        let when = vec![Condition::Family(family), Condition::Prefix(inside.clone()), elevated];
        rules.push(rule("preferred address", when, Action::Accept));
    }
    rules.push(rule("inside own block", vec![Condition::Prefix(inside)], Action::Reject));
    rules
}

/// Addresses of Services: own ones, what lies in ranges that go out whole, and on a reflector those of others.
fn services(cluster: &Cluster) -> Vec<Rule> {
    let whole: PrefixSet =
        cluster.services.whole_ranges().map(|range| PrefixMatch::within(prefix(range))).collect();
    let external: PrefixSet =
        cluster.services.external_ranges().map(|range| PrefixMatch::within(prefix(range))).collect();
    let own = vec![Condition::Prefix(external.clone()), Condition::Source(vec![SourceKind::Local])];
    let mut rules = vec![
        rule("Service range", vec![Condition::Prefix(whole)], Action::Accept),
        rule("Service address", own, Action::Accept),
    ];
    if cluster.node().is_some_and(|node| node.route_reflector_cluster_id.is_some()) {
        let when = vec![Condition::Prefix(external)];
        rules.push(rule("Service address of another node", when, Action::Accept));
    }
    rules
}
