//! §12 D, 53 to 71: Kubernetes policies, order, tiers, nodes.

use model::{Action, EndpointToHostAction, PolicyKey, PolicyKind, Protocol, Update};

use crate::story::{
    Directions, Matches, OUTSIDE, Story, allow, deny, global, icmp6, kubernetes, nets, pass, pod, tcp, udp,
    update,
};

#[test]
fn d53_without_policy_the_namespaces_profile_allows() {
    let story = Story::begin();

    story.allows(&[tcp("x/a", "x/b", 80), tcp("x/a", "y/c", 80), tcp("y/c", "x/a", 80)]);
}

#[test]
fn d54_a_pod_whose_namespace_is_not_known_is_closed() {
    let mut story = Story::begin();

    story.tell(Update::Namespace("x".to_owned(), None));

    story.drops(&[tcp("x/a", "y/c", 80), tcp("y/c", "x/a", 80)]);
}

#[test]
fn d55_an_empty_ingress_denies_ingress_alone() {
    let mut story = Story::begin();

    story.policy(kubernetes("deny", "a").ingress(&[]));

    story.drops(&[tcp("x/b", "x/a", 80), tcp("y/c", "x/a", 80)]).allows(&[tcp("x/a", "x/b", 80)]);
}

#[test]
fn d56_a_pod_selector_allows_these_pods_and_port() {
    let mut story = Story::begin();
    let from_b = allow().from("projectcalico.org/namespace == 'x' && app == 'b'");

    story.policy(kubernetes("web", "a").ingress(&[from_b.protocol(Protocol::TCP).ports(&["80"])]));

    story.allows(&[tcp("x/b", "x/a", 80)]);
    story.drops(&[tcp("x/b", "x/a", 81), udp("x/b", "x/a", 80), tcp("y/c", "x/a", 80)]);
}

#[test]
fn d57_a_selector_of_all_namespaces_matches_pods_and_neither_nodes_nor_the_world() {
    let mut story = Story::begin();

    story.policy(kubernetes("pods", "a").ingress(&[allow().from("has(projectcalico.org/namespace)")]));

    story.allows(&[tcp("x/b", "x/a", 80), tcp("y/c", "x/a", 80)]);
    story.drops(&[tcp("n2", "x/a", 80), tcp(OUTSIDE, "x/a", 80)]);
}

#[test]
fn d58_an_ip_block_has_exceptions() {
    let mut story = Story::begin();
    let block = allow().source(|source| {
        source.nets = nets(&["198.51.100.0/24"]);
        source.not_nets = nets(&["198.51.100.0/30", "198.51.100.8/32"]);
    });

    story.policy(kubernetes("block", "a").ingress(&[block]));

    story.allows(&[tcp(OUTSIDE, "x/a", 80)]);
    story.drops(&[
        tcp("198.51.100.1", "x/a", 80),
        tcp("198.51.100.8", "x/a", 80),
        tcp("192.0.2.1", "x/a", 80),
    ]);
}

#[test]
fn d59_a_range_of_ports_has_both_ends() {
    let mut story = Story::begin();

    story.policy(kubernetes("range", "a").ingress(&[allow().protocol(Protocol::TCP).ports(&["80:90"])]));

    story.allows(&[tcp("x/b", "x/a", 80), tcp("x/b", "x/a", 90)]);
    story.drops(&[tcp("x/b", "x/a", 79), tcp("x/b", "x/a", 91), udp("x/b", "x/a", 80)]);
}

#[test]
fn d60_an_egress_without_rules_blocks_names_too_and_not_what_comes_in() {
    let mut story = Story::begin();

    story.policy(kubernetes("deny", "a").egress(&[]));

    story.drops(&[udp("x/a", "y/c", 53), tcp("x/a", OUTSIDE, 443)]).allows(&[tcp("y/c", "x/a", 80)]);
}

#[test]
fn d61_a_node_reaches_its_own_pods_and_is_policed_elsewhere() {
    let mut story = Story::begin();

    story.policy(global("deny", "all()").ingress(&[]));

    story.allows(&[tcp("n1", "x/a", 80)]).drops(&[tcp("n2", "x/a", 80), tcp("n1", "y/c", 80)]);
}

#[test]
fn d62_what_policy_lets_out_to_the_own_node_is_the_settings_to_decide() {
    let mut story = Story::begin();

    for (action, allowed) in [
        (EndpointToHostAction::Accept, true),
        (EndpointToHostAction::Return, true),
        (EndpointToHostAction::Drop, false),
    ] {
        story.configuration(|configuration| configuration.endpoint_to_host_action = action);
        match allowed {
            true => story.allows(&[tcp("x/a", "n1", 10_250)]),
            false => story.drops(&[tcp("x/a", "n1", 10_250)]),
        };
    }
}

#[test]
fn d63_egress_policy_comes_before_that_setting() {
    let mut story = Story::begin();
    let to_node = deny().destination(|to| to.nets = nets(&["172.20.0.1/32"]));

    story.policy(global("node", "app == 'a'").egress(&[to_node, allow()]));

    story.drops(&[tcp("x/a", "n1", 10_250)]).allows(&[tcp("x/b", "n1", 10_250), tcp("x/a", "n2", 80)]);
}

#[test]
fn d64_the_lower_order_decides() {
    let mut story = Story::begin();

    story.policy(global("deny", "all()").order(10.0).ingress(&[deny()]));
    story.policy(global("allow", "all()").order(20.0).ingress(&[allow()]));

    story.drops(&[tcp("x/b", "x/a", 80)]);
    story.policy(global("allow", "all()").order(5.0).ingress(&[allow()]));
    story.allows(&[tcp("x/b", "x/a", 80)]);
}

#[test]
fn d65_of_one_order_the_first_by_name_decides() {
    let mut story = Story::begin();

    story.policy(global("b", "all()").order(10.0).ingress(&[deny()]));
    story.policy(global("a", "all()").order(10.0).ingress(&[allow()]));

    story.allows(&[tcp("x/b", "x/a", 80)]);
}

#[test]
fn d66_pass_goes_on_in_the_next_tier() {
    let mut story = Story::begin();
    story.tier("first", 10.0, false);

    story.policy(global("first", "app == 'a'").tier("first").ingress(&[pass()]));

    story.allows(&[tcp("x/b", "x/a", 80)]);
    story.policy(global("last", "app == 'a'").ingress(&[deny()]));
    story.drops(&[tcp("x/b", "x/a", 80)]);
}

#[test]
fn d67_the_end_of_a_tier_drops_unless_it_passes() {
    let mut story = Story::begin();
    let web = || allow().protocol(Protocol::TCP).ports(&["80"]);
    story.policy(global("last", "all()").ingress(&[allow()]));

    story.tier("first", 10.0, false).policy(global("web", "app == 'a'").tier("first").ingress(&[web()]));
    story.drops(&[tcp("x/b", "x/a", 81)]).allows(&[tcp("x/b", "x/a", 80)]);

    story.tier("first", 10.0, true);
    story.allows(&[tcp("x/b", "x/a", 81)]);
}

#[test]
fn d68_a_tier_of_staged_policies_has_no_effect() {
    let mut story = Story::begin();
    let mut staged = global("staged", "all()").tier("first").ingress(&[deny()]);
    staged.key = PolicyKey::new(PolicyKind::StagedGlobalNetworkPolicy, None, "staged");
    staged.staged = Some(model::StagedAction::Set);

    story.tier("first", 10.0, false).policy(staged);

    story.allows(&[tcp("x/b", "x/a", 80)]);
}

#[test]
fn d69_a_tier_with_egress_alone_is_skipped_for_ingress() {
    let mut story = Story::begin();

    story.tier("first", 10.0, false).policy(global("out", "app == 'a'").tier("first").egress(&[]));

    story.allows(&[tcp("x/b", "x/a", 80)]).drops(&[tcp("x/a", "x/b", 80)]);
}

#[test]
fn d70_log_goes_on_with_the_next_rule() {
    let mut story = Story::begin();
    let log = model::Rule::any(Action::Log);

    story.policy(global("log", "app == 'a'").ingress(&[log.clone(), allow()]));
    story.policy(global("only", "app == 'b'").ingress(&[log]));

    story.allows(&[tcp("y/c", "x/a", 80)]).drops(&[tcp("y/c", "x/b", 80)]);
}

#[test]
fn d71_what_is_rejected_is_stopped_as_what_is_dropped() {
    let mut story = Story::begin();

    story.configuration(|configuration| {
        configuration.filter_deny_action = model::DenyAction::Reject;
        configuration.nftables.filter_deny_action = model::DenyAction::Reject;
    });
    story.policy(global("deny", "app == 'a'").ingress(&[deny()]));

    story.drops(&[tcp("x/b", "x/a", 80)]);
}

#[test]
fn d91_neighbour_discovery_passes_whatever_egress_policy_says() {
    let mut story = Story::begin();

    story.policy(global("deny", "all()").egress(&[]));

    story.allows(&[icmp6("x/a", "n1", 135), icmp6("x/a", "n1", 136), icmp6("x/a", "n1", 133)]);
    story.drops(&[icmp6("x/a", "n1", 134), icmp6("x/a", "n1", 128)]);
}

#[test]
fn d92_a_pod_sends_from_its_own_addresses_alone() {
    let story = Story::begin();
    let mut spoofed = tcp("x/a", "y/c", 80);

    spoofed.from.address = "10.65.0.99".parse().unwrap();

    story.drops(&[spoofed]);
}

#[test]
fn d92_prefixes_that_a_pod_may_send_from_need_the_setting() {
    let mut story = Story::begin();
    let mut router = pod("x/a");
    let prefixes = r#"["192.0.2.0/24"]"#.to_owned();
    router.annotations.insert("cni.projectcalico.org/allowedSourcePrefixes".to_owned(), prefixes);
    let mut spoofed = tcp("x/a", "y/c", 80);
    spoofed.from.address = "192.0.2.1".parse().unwrap();

    story.configuration(|configuration| configuration.workload_source_spoofing = true);
    story.tell(update(router)).allows(std::slice::from_ref(&spoofed));
    spoofed.from.address = "192.0.3.1".parse().unwrap();
    story.drops(&[spoofed]);

    // Whoever asks for it without the setting is closed.
    story.configuration(|_| {}).drops(&[tcp("x/a", "y/c", 80), tcp("y/c", "x/a", 80)]);
}

#[test]
fn f135_forwarded_packets_to_addresses_of_services_that_nobody_translates_are_dropped() {
    let mut story = Story::begin();
    let mut bgp = model::BgpConfiguration::default();
    bgp.services.cluster_ips = nets(&["10.96.0.0/17"]);
    bgp.services.load_balancer_ips = nets(&["203.0.113.0/24"]);
    story.tell(Update::BgpConfiguration(Some(Box::new(bgp))));

    story.drops(&[tcp("x/a", "10.96.0.99", 80), tcp("x/a", "203.0.113.9", 80)]);
    story.allows(&[tcp("x/a", "10.96.128.1", 80), tcp("x/a", OUTSIDE, 80)]);

    story.configuration(|configuration| {
        configuration.service_loop_prevention = model::ServiceLoopPrevention::Disabled;
    });
    story.allows(&[tcp("x/a", "10.96.0.99", 80)]);
}

#[test]
fn d93_a_pods_own_tunnels_are_dropped_unless_they_are_let() {
    let mut story = Story::begin();
    let ipip = crate::story::packet("x/a", "y/c", Protocol(4), 0);
    let vxlan = udp("x/a", "y/c", 4789);
    story.drops(&[ipip.clone(), vxlan.clone()]);

    story.configuration(|configuration| {
        configuration.allow_ipip_from_workloads = true;
        configuration.allow_vxlan_from_workloads = true;
    });

    story.allows(&[ipip, vxlan]);
}

#[test]
fn d99_the_clusters_admins_come_first_and_their_baseline_last() {
    let mut story = Story::begin();
    let of_kind = |kind, name: &str, tier: &str, rules: &[model::Rule]| {
        let mut policy = global(name, "all()").order(5.0).tier(tier).ingress(rules);
        policy.key = PolicyKey::new(kind, None, name);
        policy
    };
    story.policy(kubernetes("web", "a").ingress(&[allow().protocol(Protocol::TCP).ports(&["80"])]));

    let admin = PolicyKind::ClusterNetworkPolicy;
    let to_81 = |rule: model::Rule| rule.protocol(Protocol::TCP).ports(&["81"]);
    let to_82 = |rule: model::Rule| rule.protocol(Protocol::TCP).ports(&["82"]);
    story.policy(of_kind(admin, "admin", "kube-admin", &[to_81(allow()), to_82(pass())]));
    story.policy(of_kind(PolicyKind::BaselineAdminNetworkPolicy, "default", "kube-baseline", &[deny()]));

    // `x/a` has a policy of its own, `x/b` has none.
    story.allows(&[tcp("y/c", "x/a", 81), tcp("y/c", "x/a", 80), tcp("y/c", "x/b", 81)]);
    story.drops(&[tcp("y/c", "x/a", 82), tcp("y/c", "x/b", 80), tcp("y/c", "x/b", 82)]);
}

#[test]
fn c44_a_pod_that_is_gone_or_finished_is_closed() {
    let mut story = Story::begin();
    let finished = model::Pod { addresses: Vec::new(), ..pod("x/a") };

    story.tell(update(finished));

    story.drops(&[tcp("x/a", "x/b", 80)]);
}
