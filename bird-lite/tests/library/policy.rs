//! BGPFilters, communities and priorities on their way into the policies of sessions, and that a change of any of
//! them resets no session.

use std::sync::Arc;

use bgp::{Edit, Facts, Policy, SourceKind, Verdict};
use bgp_packet::{AsPath, NextHop, PathAttributes};
use bird_lite::cluster::Cluster;
use bird_lite::origin::PREFERENCE_SUM;
use bird_lite::peers::Planner;
use model::{
    BgpConfiguration, BgpFilter, BgpFilterOperation, BgpFilterRule, BgpPeer, BgpPeerType, IpPool,
    MatchOperator, PrefixAdvertisement, ServiceRanges, Update,
};

use crate::world::*;

const EXTERNAL: &str = "192.0.2.9";
const INTERNAL: &str = "192.0.2.8";

fn matching(text: &str, operator: MatchOperator, accept: bool) -> BgpFilterRule {
    BgpFilterRule { cidr: Some((cidr(text), operator)), ..BgpFilterRule::new(accept) }
}

fn filter(name: &str, import: Vec<BgpFilterRule>, export: Vec<BgpFilterRule>) -> BgpFilter {
    BgpFilter { name: name.to_owned(), import_v4: import, export_v4: export, ..Default::default() }
}

/// A cluster whose two routers, one of its AS and one of another, name filters.
fn with_filters(filters: Vec<BgpFilter>) -> Cluster {
    let mut cluster = cluster(1);
    let names: Vec<String> = filters.iter().map(|filter| filter.name.clone()).collect();
    for (name, remote, asn) in [("tor", EXTERNAL, 65000), ("inner", INTERNAL, 64512)] {
        put_peering(&mut cluster, BgpPeer { filters: names.clone(), ..peering(name, remote, asn) });
    }
    filters.into_iter().for_each(|filter| put_filter(&mut cluster, filter));
    cluster
}

fn import(cluster: &Cluster, remote: &str) -> Arc<Policy> {
    config(cluster).peers[&remote.parse().unwrap()].import.clone()
}

fn export(cluster: &Cluster, remote: &str) -> Arc<Policy> {
    config(cluster).peers[&remote.parse().unwrap()].export.clone()
}

fn attributes() -> PathAttributes {
    PathAttributes::new(NextHop::from(address("192.0.2.1")))
}

/// What a policy makes of a route: its attributes, or the rule that rejects it.
fn judge(policy: &Policy, text: &str, source: SourceKind) -> Result<PathAttributes, String> {
    judge_with(policy, text, source, &attributes())
}

fn judge_with(
    policy: &Policy,
    text: &str,
    source: SourceKind,
    attributes: &PathAttributes,
) -> Result<PathAttributes, String> {
    let prefix = text.parse().unwrap();
    let mut edit = Edit::Same(attributes);
    match policy.apply(Facts::new(&prefix, source), &mut edit) {
        Verdict::Accept => Ok(edit.current().clone()),
        Verdict::Reject(rule) => Err(policy.rule_name(rule).to_owned()),
    }
}

#[test]
fn operators_and_lengths_mean_what_calico_means() {
    let lengths = |min, max, operator| BgpFilterRule {
        min_length: min,
        max_length: max,
        ..matching("10.1.0.0/16", operator, false)
    };
    let cases = [
        (matching("10.1.0.0/16", MatchOperator::Equal, false), "10.1.0.0/16", "10.1.1.0/24"),
        (matching("10.1.0.0/16", MatchOperator::NotEqual, false), "10.1.1.0/24", "10.1.0.0/16"),
        (matching("10.1.0.0/16", MatchOperator::In, false), "10.1.0.0/16", "10.0.0.0/8"),
        (matching("10.1.0.0/16", MatchOperator::In, false), "10.1.1.1/32", "10.2.1.1/32"),
        (matching("10.1.0.0/16", MatchOperator::NotIn, false), "10.2.0.0/16", "10.1.1.0/24"),
        (lengths(Some(24), None, MatchOperator::In), "10.1.1.0/24", "10.1.0.0/23"),
        (lengths(None, Some(24), MatchOperator::In), "10.1.1.0/24", "10.1.1.0/25"),
        (lengths(Some(24), Some(25), MatchOperator::NotIn), "10.1.0.0/16", "10.1.1.0/24"),
        (BgpFilterRule { min_length: Some(25), ..BgpFilterRule::new(false) }, "10.9.0.0/26", "10.9.0.0/24"),
    ];
    for (rule, rejected, accepted) in cases {
        let policy = import(&with_filters(vec![filter("f", vec![rule.clone()], vec![])]), EXTERNAL);

        let verdicts = [rejected, accepted].map(|text| judge(&policy, text, SourceKind::External));
        assert_eq!(verdicts[0], Err("BGPFilter f importV4 rule 1".to_owned()), "{rule:?} {rejected}");
        assert!(verdicts[1].is_ok(), "{rule:?} {accepted}");
        // The other family has rules of its own.
        assert!(judge(&policy, "fd00::/64", SourceKind::External).is_ok());
    }
}

#[test]
fn the_first_rule_of_the_first_filter_that_matches_decides() {
    let first = filter("f1", vec![matching("10.1.0.0/16", MatchOperator::In, true)], vec![]);
    let second = filter("f2", vec![matching("10.1.1.0/24", MatchOperator::In, false)], vec![]);

    let policy = import(&with_filters(vec![first.clone(), second.clone()]), EXTERNAL);
    assert!(judge(&policy, "10.1.1.0/24", SourceKind::External).is_ok());
    let policy = import(&with_filters(vec![second, first]), EXTERNAL);
    let verdict = judge(&policy, "10.1.1.0/24", SourceKind::External);
    assert_eq!(verdict, Err("BGPFilter f2 importV4 rule 1".to_owned()));
    assert!(judge(&policy, "10.3.0.0/24", SourceKind::External).is_ok(), "no match on import accepts");
}

#[test]
fn an_export_filter_comes_before_the_order_of_calico_and_what_it_does_not_match_follows_that() {
    let rules = vec![
        BgpFilterRule { remote_peers: true, ..BgpFilterRule::new(false) },
        matching("192.0.2.0/24", MatchOperator::In, true),
        matching("10.96.0.0/12", MatchOperator::In, false),
    ];
    let mut cluster = with_filters(vec![filter("f", vec![], rules)]);
    let services = ServiceRanges { cluster_ips: vec![cidr("10.96.0.0/12")], ..Default::default() };
    configure(&mut cluster, BgpConfiguration { services, ..Default::default() });
    let policy = export(&cluster, EXTERNAL);

    let verdict = |text, source| judge(&policy, text, source).map(drop);
    let rule = |n| Err(format!("BGPFilter f exportV4 rule {n}"));
    assert_eq!(verdict("10.0.3.0/26", SourceKind::Internal), rule(1));
    assert_eq!(verdict("192.0.2.0/24", SourceKind::Local), Ok(()), "accept may let anything out");
    assert_eq!(verdict("10.96.0.0/12", SourceKind::Local), rule(3));
    assert_eq!(verdict(OWN_BLOCK, SourceKind::Local), Ok(()));
    assert_eq!(verdict("10.0.1.5/32", SourceKind::Local), Err("inside own block".to_owned()));
    assert_eq!(verdict("198.51.100.0/24", SourceKind::Local), Err("default".to_owned()));
}

#[test]
fn a_rule_for_a_type_of_peer_is_for_that_type_alone() {
    let rule = BgpFilterRule { peer_type: Some(BgpPeerType::External), ..BgpFilterRule::new(false) };
    let cluster = with_filters(vec![filter("f", vec![rule], vec![])]);

    assert!(judge(&import(&cluster, EXTERNAL), "10.1.0.0/24", SourceKind::External).is_err());
    assert!(judge(&import(&cluster, INTERNAL), "10.1.0.0/24", SourceKind::Internal).is_ok());
}

#[test]
fn communities_paths_and_priorities_are_looked_at_and_changed() {
    let rules = vec![
        BgpFilterRule {
            communities: vec!["65000:1".parse().unwrap(), "65000:1:2".parse().unwrap()],
            ..BgpFilterRule::new(false)
        },
        BgpFilterRule { as_path_prefix: vec![65001, 65002], ..BgpFilterRule::new(false) },
        BgpFilterRule { priority: Some(512), ..BgpFilterRule::new(false) },
        BgpFilterRule {
            operations: vec![
                BgpFilterOperation::AddCommunity("65000:7".parse().unwrap()),
                BgpFilterOperation::PrependAsPath(vec![65010, 65011]),
                BgpFilterOperation::SetPriority(100),
            ],
            ..BgpFilterRule::new(true)
        },
    ];
    let policy = import(&with_filters(vec![filter("f", rules, vec![])]), INTERNAL);
    let with = |change: fn(&mut PathAttributes)| {
        let mut attributes = attributes();
        change(&mut attributes);
        judge_with(&policy, "10.1.0.0/24", SourceKind::Internal, &attributes)
    };
    let rule = |n| Err(format!("BGPFilter f importV4 rule {n}"));

    assert_eq!(
        with(|a| {
            a.communities = vec!["65000:1".parse().unwrap()];
            a.large_communities = vec!["65000:1:2".parse().unwrap()];
        }),
        rule(1)
    );
    assert_eq!(with(|a| a.as_path = AsPath::sequence(&[65001, 65002, 65003])), rule(2));
    assert_eq!(with(|a| a.local_pref = Some(PREFERENCE_SUM - 512)), rule(3));
    let changed = with(|a| a.as_path = AsPath::sequence(&[65001])).unwrap();
    assert_eq!(changed.as_path.to_string(), "65010 65011 65001");
    assert_eq!((changed.local_pref, changed.communities.len()), (Some(PREFERENCE_SUM - 100), 1));
}

#[test]
fn a_route_without_a_priority_has_the_normal_one_on_its_way_out() {
    let rule = BgpFilterRule { priority: Some(1024), ..BgpFilterRule::new(false) };
    let cluster = with_filters(vec![filter("f", vec![], vec![rule])]);

    let verdict = judge(&export(&cluster, INTERNAL), "10.0.3.0/26", SourceKind::External);

    assert_eq!(verdict, Err("BGPFilter f exportV4 rule 1".to_owned()));
}

#[test]
fn a_filter_that_does_not_exist_is_named_and_the_others_count() {
    let mut cluster = with_filters(vec![filter("there", vec![BgpFilterRule::new(false)], vec![])]);
    let names = vec!["gone".to_owned(), "there".to_owned()];
    put_peering(&mut cluster, BgpPeer { filters: names, ..peering("tor", EXTERNAL, 65000) });

    let plan = plan(&cluster);

    assert_eq!(plan.problems, ["BGPPeer tor: BGPFilter gone does not exist, its rules are not applied"]);
    let peer = &plan.config.peers[&EXTERNAL.parse().unwrap()];
    assert_eq!(peer.description, "BGPPeer tor (BGPFilter gone does not exist)");
    assert!(judge(&peer.import, "10.1.0.0/24", SourceKind::External).is_err());
    // Once nobody has rules any more, the order of Calico is what is left.
    cluster.apply(Update::BgpFilter("there".to_owned(), None));
    assert!(judge(&import(&cluster, EXTERNAL), "10.1.0.0/24", SourceKind::External).is_ok());
}

#[test]
fn communities_go_with_what_lies_inside_their_range() {
    let mut cluster = cluster(2);
    let advertise = |text: &str, communities: &[&str]| PrefixAdvertisement {
        cidr: cidr(text),
        communities: communities.iter().map(|text| text.parse().unwrap()).collect(),
    };
    let prefix_advertisements =
        vec![advertise("10.0.0.0/16", &["65000:1", "65000:1:2"]), advertise("10.0.1.0/24", &["65000:3"])];
    configure(&mut cluster, BgpConfiguration { prefix_advertisements, ..Default::default() });
    let policy = export(&cluster, "192.0.2.2");

    let counts = |text| {
        let found = judge(&policy, text, SourceKind::Local).unwrap();
        (found.communities.len(), found.large_communities.len())
    };
    assert_eq!(counts(OWN_BLOCK), (2, 1));
    assert_eq!(counts("10.0.2.9/32"), (1, 1));
}

#[test]
fn thresholds_follow_the_normal_priority_of_each_family() {
    let mut cluster = cluster(2);
    put_node(&mut cluster, dual_stack(1));
    put_pool(&mut cluster, pool("fd00::/64"));
    own(&mut cluster, "fd00::1:0/122");
    let priorities = BgpConfiguration { normal_priority_v4: 2000, ..Default::default() };
    configure(&mut cluster, priorities);

    let preferences: Vec<_> =
        origins(&cluster).values().map(|o| PREFERENCE_SUM - o.attributes.local_pref.unwrap()).collect();
    assert_eq!(preferences, [2000, 1024]);
    let policy = export(&cluster, "192.0.2.2");
    let inside = |text, metric| {
        let mut attributes = attributes();
        attributes.local_pref = Some(PREFERENCE_SUM - metric);
        judge_with(&policy, text, SourceKind::Local, &attributes).is_ok()
    };
    assert!(inside("10.0.1.5/32", 1999) && !inside("10.0.1.5/32", 2000));
    assert!(inside("fd00::1:5/128", 1023) && !inside("fd00::1:5/128", 1500));
}

/// Draws numbers from a seed, so that a failure can be played again.
struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn chance(&mut self) -> bool {
        self.below(2) == 0
    }
}

/// Settings about what is announced, drawn at random; the peers stay the same.
fn draw_announcements(draw: &mut Draw, cluster: &mut Cluster) {
    let mut configuration = BgpConfiguration::default();
    if draw.chance() {
        configuration.services.cluster_ips.push(cidr("10.96.0.0/12"));
    }
    if draw.chance() {
        configuration.services.load_balancer_ips.push(cidr("198.51.100.0/24"));
        configuration.services.aggregate_load_balancers = draw.chance();
    }
    if draw.chance() {
        let communities = vec!["65000:1".parse().unwrap()];
        configuration
            .prefix_advertisements
            .push(PrefixAdvertisement { cidr: cidr("10.0.0.0/16"), communities });
    }
    configuration.normal_priority_v4 = 1000 + u32::try_from(draw.below(3)).unwrap();
    configure(cluster, configuration);
    put_pool(cluster, IpPool { disable_bgp_export: draw.chance(), ..pool("10.0.0.0/16") });
    for block in ["10.0.4.0/26", "10.0.5.0/26"] {
        let node = cluster.node_name.clone();
        match draw.chance() {
            true => own(cluster, block),
            false => cluster.apply(Update::BlockAffinity(node, cidr(block), None)),
        }
    }
    let operators = [MatchOperator::In, MatchOperator::NotIn, MatchOperator::Equal, MatchOperator::NotEqual];
    let mut rules = || {
        let count = draw.below(3);
        (0..count)
            .map(|_| {
                let operator = operators[usize::try_from(draw.below(4)).unwrap()];
                matching(&format!("10.{}.0.0/16", draw.below(4)), operator, draw.chance())
            })
            .collect()
    };
    let (import, export) = (rules(), rules());
    match draw.chance() {
        true => put_filter(cluster, filter("f", import, export)),
        false => cluster.apply(Update::BgpFilter("f".to_owned(), None)),
    }
}

#[test]
fn what_is_announced_never_decides_about_a_session() {
    let mut cluster = with_filters(vec![filter("f", vec![], vec![])]);
    put_node(&mut cluster, node(2));
    let mut planner = Planner::default();
    let mut draw = Draw(7);
    let mut before = planner.plan(&cluster).unwrap().config;
    let mut different = 0;
    for round in 0..500 {
        draw_announcements(&mut draw, &mut cluster);
        let after = planner.plan(&cluster).unwrap().config;

        assert!(before.peers.keys().eq(after.peers.keys()));
        for (key, old) in &before.peers {
            assert!(!old.needs_reset(&after.peers[key]), "round {round}: {key}");
        }
        assert_eq!((before.asn, before.router_id), (after.asn, after.router_id));
        different += usize::from(before != after);
        before = after;
    }
    assert!(different > 400, "only {different} rounds changed anything");
}
