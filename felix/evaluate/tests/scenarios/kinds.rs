//! §12 D, 72 to 90: what a rule can say.

use model::{Family, IcmpMatch, ObjectKey, Protocol};

use crate::story::{
    Directions, Matches, OUTSIDE, Story, allow, deny, global, icmp, icmp6, labels, nets, packet, pod,
    port_list, tcp, tcp6, udp, update,
};

/// Only what `rule` allows comes in to `x/a`.
fn only(rule: model::Rule) -> Story {
    let mut story = Story::begin();
    story.policy(global("only", "app == 'a'").ingress(&[rule]));
    story
}

#[test]
fn d72_more_ports_than_one_match_takes_are_one_list() {
    let ports: Vec<String> = (0..17).map(|n| (1000 + 10 * n).to_string()).collect();
    let mut ports: Vec<&str> = ports.iter().map(String::as_str).collect();
    ports.extend(["2000:2010", "3000:3010"]);

    let story = only(allow().protocol(Protocol::TCP).ports(&ports));

    story.allows(&[tcp("x/b", "x/a", 1000), tcp("x/b", "x/a", 1160), tcp("x/b", "x/a", 3010)]);
    story.drops(&[tcp("x/b", "x/a", 1001), tcp("x/b", "x/a", 3011), udp("x/b", "x/a", 1000)]);
}

#[test]
fn d73_a_named_port_has_its_protocol() {
    let story = only(allow().protocol(Protocol::TCP).ports(&["web", "dns"]));

    story.allows(&[tcp("x/b", "x/a", 80)]);
    story.drops(&[tcp("x/b", "x/a", 53), udp("x/b", "x/a", 53), udp("x/b", "x/a", 80)]);
    only(allow().ports(&["web", "dns"])).allows(&[tcp("x/b", "x/a", 80), udp("x/b", "x/a", 53)]);
}

#[test]
fn d74_a_named_port_may_be_negated() {
    let story = only(allow().protocol(Protocol::TCP).destination(|to| to.not_ports = port_list(&["web"])));

    story.drops(&[tcp("x/b", "x/a", 80)]).allows(&[tcp("x/b", "x/a", 81)]);
}

#[test]
fn d75_names_and_numbers_join_and_the_selector_holds_for_both() {
    let ports: Vec<String> = (0..16).map(|n| (1000 + 10 * n).to_string()).collect();
    let mut ports: Vec<&str> = ports.iter().map(String::as_str).collect();
    ports.push("web");
    let mut story = Story::begin();

    let rule = allow().protocol(Protocol::TCP).to("app == 'b'").ports(&ports);
    story.policy(global("only", "app == 'a'").egress(&[rule]));

    story.allows(&[tcp("x/a", "x/b", 80), tcp("x/a", "x/b", 1150)]);
    story.drops(&[tcp("x/a", "y/c", 80), tcp("x/a", "y/c", 1150), tcp("x/a", "x/b", 81)]);
}

#[test]
fn d76_several_prefixes_and_several_exceptions() {
    let story = only(allow().source(|from| {
        from.nets = nets(&["10.65.0.0/16", "198.51.100.0/24"]);
        from.not_nets = nets(&["10.65.0.3/32", "198.51.100.7/32"]);
    }));

    story.allows(&[tcp("y/c", "x/a", 80), tcp("198.51.100.8", "x/a", 80)]);
    story.drops(&[tcp("x/b", "x/a", 80), tcp(OUTSIDE, "x/a", 80), tcp("192.0.2.1", "x/a", 80)]);
}

#[test]
fn d77_prefixes_of_one_family_say_nothing_of_the_other() {
    let both = only(allow().source(|from| from.nets = nets(&["10.65.0.0/16", "fd00::/64"])));
    both.allows(&[tcp("x/b", "x/a", 80), tcp6("x/b", "x/a", 80)]);

    let six = only(allow().source(|from| from.nets = nets(&["fd00::/64"])));
    six.drops(&[tcp("x/b", "x/a", 80)]).allows(&[tcp6("x/b", "x/a", 80)]);

    let mut rule = allow();
    rule.family = Some(Family::V6);
    only(rule).drops(&[tcp("x/b", "x/a", 80)]).allows(&[tcp6("x/b", "x/a", 80)]);
}

#[test]
fn d78_an_exception_of_everything_leaves_nothing() {
    let story = only(allow().source(|from| from.not_nets = nets(&["0.0.0.0/0"])));

    story.drops(&[tcp("x/b", "x/a", 80)]).allows(&[tcp6("x/b", "x/a", 80)]);
}

#[test]
fn d81_a_selector_follows_labels() {
    let mut story = only(allow().from("role == 'friend'"));
    story.drops(&[tcp("x/b", "x/a", 80)]);

    let mut friend = pod("x/b");
    friend.labels = labels(&[("role", "friend")]);
    story.tell(update(friend));

    story.allows(&[tcp("x/b", "x/a", 80)]).drops(&[tcp("y/c", "x/a", 80)]);
}

#[test]
fn d82_policies_share_a_selector_and_one_may_go() {
    let mut story = only(allow().from("app == 'b'"));
    let other = global("other", "app == 'c'").ingress(&[allow().from("app == 'b'")]);
    story.policy(other.clone()).allows(&[tcp("x/b", "x/a", 80), tcp("x/b", "y/c", 80)]);

    story.tell(model::Update::Policy(other.key, None));

    story.allows(&[tcp("x/b", "x/a", 80)]).drops(&[tcp("y/c", "x/a", 80)]);
}

#[test]
fn d83_a_policy_that_no_longer_selects_is_gone() {
    let mut story = only(allow().from("app == 'b'"));
    story.drops(&[tcp("y/c", "x/a", 80)]);

    story.policy(global("only", "app == 'nobody'").ingress(&[allow().from("app == 'b'")]));

    story.allows(&[tcp("y/c", "x/a", 80)]);
}

#[test]
fn d85_a_service_account_is_a_label() {
    let mut story = only(allow().from("projectcalico.org/serviceaccount == 'robot'"));
    story.drops(&[tcp("x/b", "x/a", 80)]);

    story.tell(update(model::Pod { service_account: Some("robot".to_owned()), ..pod("x/b") }));

    story.allows(&[tcp("x/b", "x/a", 80)]).drops(&[tcp("y/c", "x/a", 80)]);
}

#[test]
fn d86_icmp_by_type() {
    let mut echo = deny().protocol(Protocol::ICMP);
    echo.icmp = Some(IcmpMatch { kind: 8, code: None });
    let mut echo6 = deny().protocol(Protocol::ICMPV6);
    echo6.icmp = Some(IcmpMatch { kind: 128, code: Some(0) });
    let mut story = Story::begin();

    story.policy(global("echo", "app == 'a'").ingress(&[echo, echo6, allow()]));

    story.drops(&[icmp("x/b", "x/a", 8), icmp6("x/b", "x/a", 128)]);
    story.allows(&[icmp("x/b", "x/a", 3), icmp6("x/b", "x/a", 1), tcp("x/b", "x/a", 8)]);
}

#[test]
fn d87_sctp_has_ports() {
    let story = only(allow().protocol(Protocol::SCTP).ports(&["80"]));

    story.allows(&[packet("x/b", "x/a", Protocol::SCTP, 80)]);
    story.drops(&[packet("x/b", "x/a", Protocol::SCTP, 81), tcp("x/b", "x/a", 80)]);
}

#[test]
fn d88_a_protocol_may_be_negated() {
    let mut rule = allow();
    rule.not_protocol = Some(Protocol::TCP);

    only(rule).allows(&[udp("x/b", "x/a", 80), icmp("x/b", "x/a", 8)]).drops(&[tcp("x/b", "x/a", 80)]);
}

#[test]
fn d90_many_policies_of_one_selector_decide_as_single_ones() {
    let mut story = Story::begin();
    let port = |n: u16| (1000 + n).to_string();

    for n in 0..12 {
        let rule = allow().protocol(Protocol::TCP).ports(&[&port(n)]);
        story.policy(global(&format!("p{n:02}"), "app == 'a'").ingress(&[rule]));
    }
    story
        .policy(global("p05-deny", "app == 'a'").ingress(&[deny().protocol(Protocol::TCP).ports(&["1008"])]));

    for n in 0..12 {
        match n {
            8 => story.drops(&[tcp("x/b", "x/a", 1000 + n)]),
            _ => story.allows(&[tcp("x/b", "x/a", 1000 + n)]),
        };
    }
    story.drops(&[tcp("x/b", "x/a", 1012)]);
}

#[test]
fn d79_network_sets_follow_their_members() {
    let mut story = only(allow().from("app == 'partner'"));
    story.drops(&[tcp(OUTSIDE, "x/a", 80)]);

    story.network_set(None, "partner", &["198.51.100.0/24", "198.51.100.0/30"]);
    story.allows(&[tcp(OUTSIDE, "x/a", 80), tcp("198.51.100.1", "x/a", 80)]);

    story.network_set(None, "partner", &["198.51.100.0/30"]);
    story.drops(&[tcp(OUTSIDE, "x/a", 80)]).allows(&[tcp("198.51.100.1", "x/a", 80)]);

    story.network_set(Some("y"), "partner", &["198.51.100.7/32"]);
    story.allows(&[tcp(OUTSIDE, "x/a", 80)]);
    let own = "app == 'partner' && projectcalico.org/namespace == 'x'";
    story.policy(global("only", "app == 'a'").ingress(&[allow().from(own)]));
    story.drops(&[tcp(OUTSIDE, "x/a", 80)]);
}

#[test]
fn d80_a_network_set_of_everything_matches_everything() {
    let mut story = only(allow().from("app == 'world'"));

    story.network_set(None, "world", &["0.0.0.0/0", "::/0"]);

    story.allows(&[tcp(OUTSIDE, "x/a", 80), tcp("x/b", "x/a", 80), tcp6("x/b", "x/a", 80)]);
}

#[test]
fn d84_a_service_is_the_addresses_and_ports_behind_it() {
    let mut story = Story::begin();
    let service = ObjectKey::new("y", "web");
    let rule = allow().destination(|to| to.service = Some(service.clone()));
    story.tier("first", 10.0, false);
    story.policy(global("service", "app == 'a'").tier("first").egress(&[rule]));
    story.drops(&[tcp("x/a", "y/c", 80)]);

    let slice = model::EndpointSlice {
        key: ObjectKey::new("y", "web-1"),
        service: "web".into(),
        family: Family::V4,
        any_ready: true,
        ready_nodes: Default::default(),
        addresses: vec!["10.65.1.2".parse().unwrap()],
        ports: vec![model::ServicePort { name: "".into(), protocol: Protocol::TCP, port: 80 }],
    };
    story.tell(model::Update::EndpointSlice(slice.key.clone(), Some(slice.clone())));
    story.allows(&[tcp("x/a", "y/c", 80)]);
    story.drops(&[tcp("x/a", "y/c", 81), udp("x/a", "y/c", 80), tcp("x/a", "x/b", 80)]);

    let elsewhere = model::EndpointSlice { addresses: vec!["10.65.0.3".parse().unwrap()], ..slice };
    story.tell(model::Update::EndpointSlice(elsewhere.key.clone(), Some(elsewhere)));
    story.drops(&[tcp("x/a", "y/c", 80)]).allows(&[tcp("x/a", "x/b", 80)]);
}

#[test]
fn d89_annotations_of_a_rule_change_nothing_of_its_meaning() {
    let mut rule = allow().from("app == 'b'");
    rule.annotations =
        vec![("owner".into(), "\"; iptables -F #".into()), ("$(reboot)".into(), "`x`\n-j ACCEPT".into())];

    only(rule).allows(&[tcp("x/b", "x/a", 80)]).drops(&[tcp("y/c", "x/a", 80)]);
}
