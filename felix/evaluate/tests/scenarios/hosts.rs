//! §12 E, 100 to 115: host endpoints, and the table of §11 about pods and their node.

use felix_evaluate::Packet;
use model::{
    EndpointToHostAction, FailsafePort, HostEndpoint, HostEndpointInterface, Policy, Profile, Protocol,
    Update,
};

use crate::story::{
    Directions, Matches, OUTSIDE, Story, allow, deny, global, labels, nets, packet, tcp, udp,
};

/// A host endpoint of `n1` with label `role=host`.
fn host(name: &str, interface: Option<HostEndpointInterface>) -> HostEndpoint {
    HostEndpoint {
        name: name.into(),
        node: "n1".into(),
        interface,
        expected_ips: Vec::new(),
        labels: labels(&[("role", "host")]),
        profiles: Vec::new(),
        ports: Vec::new(),
    }
}

fn eth0() -> HostEndpoint {
    host("eth0", Some(HostEndpointInterface::Named("eth0".into())))
}

fn all() -> HostEndpoint {
    host("all", Some(HostEndpointInterface::All))
}

fn tell(story: &mut Story, endpoint: HostEndpoint) {
    story.tell(Update::HostEndpoint(endpoint.name.clone(), Some(Box::new(endpoint))));
}

fn with(endpoint: HostEndpoint) -> Story {
    let mut story = Story::begin();
    tell(&mut story, endpoint);
    story
}

/// A policy for host endpoints.
fn policy(name: &str) -> Policy {
    global(name, "role == 'host'")
}

fn forward(policy: Policy) -> Policy {
    Policy { apply_on_forward: true, ..policy }
}

fn untracked(policy: Policy) -> Policy {
    Policy { do_not_track: true, ..forward(policy) }
}

fn pre_dnat(policy: Policy) -> Policy {
    Policy { pre_dnat: true, ..forward(policy) }
}

/// To a port of the node that is translated to a pod's.
fn node_port(port: u16) -> Packet {
    let original_destination = Some(("172.20.0.1".parse().unwrap(), port));
    Packet { original_destination, ..tcp(OUTSIDE, "x/a", 80) }
}

#[test]
fn e100_without_policy_and_profile_only_failsafe_ports_are_open() {
    let story = with(eth0());

    story.drops(&[tcp(OUTSIDE, "n1", 80), tcp("n1", OUTSIDE, 80), tcp("n1", "n2", 80), tcp("y/c", "n1", 80)]);
    story.allows(&[tcp(OUTSIDE, "n1", 22), tcp(OUTSIDE, "n1", 6443), tcp("n2", "n1", 179)]);
    story.allows(&[udp("n1", OUTSIDE, 53), tcp("n1", "n2", 179)]);
    story.allows(&[
        tcp(OUTSIDE, "x/a", 80),
        tcp("x/a", OUTSIDE, 80),
        tcp("x/a", "n1", 80),
        tcp("n1", "x/a", 80),
    ]);
}

#[test]
fn e101_the_endpoint_of_all_interfaces_closes_all_and_no_pod() {
    let story = with(all());

    story.drops(&[tcp(OUTSIDE, "n1", 80), tcp("n1", OUTSIDE, 80)]);
    story.allows(&[
        tcp("n1", "x/a", 80),
        tcp("x/a", "x/b", 80),
        tcp(OUTSIDE, "x/a", 80),
        tcp("x/a", OUTSIDE, 80),
    ]);
    let other = |mut packet: Packet| {
        packet.to.link = Some("docker0".into());
        packet
    };
    story.drops(&[other(tcp(OUTSIDE, "n1", 80))]);
}

#[test]
fn e102_a_policy_opens_what_it_names() {
    let mut story = with(eth0());

    story.policy(policy("web").ingress(&[allow().protocol(Protocol::TCP).ports(&["8080"])]));

    story.allows(&[tcp(OUTSIDE, "n1", 8080)]).drops(&[tcp(OUTSIDE, "n1", 80), udp(OUTSIDE, "n1", 8080)]);
}

#[test]
fn e103_an_endpoint_without_interface_finds_the_one_with_its_address() {
    let of =
        |address: &str| HostEndpoint { expected_ips: vec![address.parse().unwrap()], ..host("by-ip", None) };
    let mut story = with(of("172.20.0.1"));
    story.drops(&[tcp(OUTSIDE, "n1", 80)]);

    tell(&mut story, of("172.21.0.1"));

    story.allows(&[tcp(OUTSIDE, "n1", 80)]);
    let mut through_eth1 = tcp(OUTSIDE, "n1", 80);
    through_eth1.to.link = Some("eth1".into());
    story.drops(&[through_eth1]);
}

#[test]
fn e104_without_failsafe_ports_none_is_open() {
    let mut story = with(eth0());

    story.configuration(|configuration| configuration.failsafe_inbound.clear());

    story.drops(&[tcp(OUTSIDE, "n1", 22)]).allows(&[udp("n1", OUTSIDE, 53)]);
}

#[test]
fn e105_a_failsafe_port_may_be_for_some_addresses() {
    let mut story = with(eth0());
    let ssh = FailsafePort { protocol: Protocol::TCP, port: 22, net: Some(nets(&["198.51.100.0/24"])[0]) };

    story.configuration(|configuration| configuration.failsafe_inbound = vec![ssh]);

    story.allows(&[tcp(OUTSIDE, "n1", 22)]).drops(&[tcp("192.0.2.1", "n1", 22)]);
}

#[test]
fn e106_forwarded_packets_are_policed_only_by_policies_that_say_so() {
    let mut story = with(eth0());
    story.policy(policy("deny").ingress(&[deny()]));
    story.allows(&[tcp(OUTSIDE, "x/a", 80)]);

    story.policy(forward(policy("deny").ingress(&[deny()])));

    story.drops(&[tcp(OUTSIDE, "x/a", 80)]).allows(&[tcp("x/a", OUTSIDE, 80)]);
}

#[test]
fn e107_untracked_packets_need_both_directions() {
    let mut story = with(eth0());
    let web = || allow().protocol(Protocol::TCP).ports(&["80"]);
    let answer =
        || allow().protocol(Protocol::TCP).source(|from| from.ports = crate::story::port_list(&["80"]));
    let reply = Packet { source_port: 80, ..tcp("n1", OUTSIDE, 40_000) };

    story.policy(untracked(policy("web").ingress(&[web()])));
    story.allows(&[tcp(OUTSIDE, "n1", 80)]).drops(std::slice::from_ref(&reply));

    story.policy(untracked(policy("web").ingress(&[web()]).egress(&[answer()])));
    story.allows(&[tcp(OUTSIDE, "n1", 80), reply]).drops(&[tcp(OUTSIDE, "n1", 81)]);
}

#[test]
fn e108_untracked_policy_drops_before_everything_else() {
    let mut story = with(eth0());
    story.policy(policy("allow").ingress(&[allow()]));

    story.policy(untracked(policy("deny").ingress(&[deny().protocol(Protocol::TCP).ports(&["80"])])));

    story.drops(&[tcp(OUTSIDE, "n1", 80), tcp(OUTSIDE, "x/a", 80)]).allows(&[tcp(OUTSIDE, "n1", 81)]);
}

#[test]
fn e109_policy_before_translation_sees_the_nodes_port() {
    let mut story = with(eth0());

    let open = allow().protocol(Protocol::TCP).ports(&["30000"]);
    story.policy(pre_dnat(policy("ports").order(1.0).ingress(&[open, deny()])));

    story.allows(&[node_port(30_000)]).drops(&[node_port(30_001), tcp(OUTSIDE, "x/a", 80)]);
    story.policy(global("pod", "app == 'a'").ingress(&[]));
    story.drops(&[node_port(30_000)]);
}

#[test]
fn e110_policy_before_translation_is_not_about_what_the_node_sends() {
    let mut story = with(HostEndpoint { profiles: vec!["projectcalico-default-allow".into()], ..eth0() });

    story.policy(pre_dnat(policy("deny").ingress(&[deny()])));

    story.allows(&[tcp("n1", OUTSIDE, 80)]).drops(&[tcp(OUTSIDE, "n1", 80)]);
}

#[test]
fn e111_what_the_node_sends_to_a_service_is_policed_by_where_it_goes() {
    let mut story = with(eth0());
    let to_service = |to| {
        let original_destination = Some(("10.96.0.10".parse().unwrap(), 80));
        Packet { original_destination, ..tcp("n1", to, 80) }
    };
    story.drops(&[to_service("y/c")]);

    story.policy(policy("to-c").egress(&[allow().to("app == 'c'")]));

    story
        .allows(&[to_service("y/c"), to_service("x/a"), tcp("n1", "y/c", 80)])
        .drops(&[tcp("n1", OUTSIDE, 80)]);
}

#[test]
fn e113_any_protocol_has_a_number() {
    let mut story = with(eth0());

    story.policy(policy("253").ingress(&[allow().protocol(Protocol(253))]));

    story.allows(&[packet(OUTSIDE, "n1", Protocol(253), 0)]).drops(&[packet(
        OUTSIDE,
        "n1",
        Protocol(252),
        0,
    )]);
}

#[test]
fn e114_without_its_endpoint_the_node_is_open_again() {
    let mut story = with(eth0());

    story.tell(Update::HostEndpoint("eth0".into(), None));

    story.allows(&[tcp(OUTSIDE, "n1", 80), tcp("n1", OUTSIDE, 80)]);
}

#[test]
fn e115_of_two_endpoints_the_first_by_name_governs() {
    let first = HostEndpoint { name: "a".into(), ..eth0() };
    let open =
        HostEndpoint { name: "b".into(), profiles: vec!["projectcalico-default-allow".into()], ..eth0() };
    let mut story = with(open);
    story.allows(&[tcp(OUTSIDE, "n1", 80)]);

    tell(&mut story, first);
    story.drops(&[tcp(OUTSIDE, "n1", 80)]);

    story.tell(Update::HostEndpoint("a".into(), None));
    story.allows(&[tcp(OUTSIDE, "n1", 80)]);
}

#[test]
fn e100_profiles_decide_after_policies_and_one_that_is_missing_closes() {
    let own = Profile {
        name: "own".into(),
        ingress: vec![allow().protocol(Protocol::TCP).ports(&["80"])],
        egress: Vec::new(),
        labels: labels(&[("zone", "edge")]),
    };
    let mut story = with(HostEndpoint { profiles: vec!["own".into()], ..eth0() });
    story.drops(&[tcp(OUTSIDE, "n1", 80)]);

    story.tell(Update::Profile("own".into(), Some(Box::new(own))));
    story.allows(&[tcp(OUTSIDE, "n1", 80)]).drops(&[tcp(OUTSIDE, "n1", 81)]);

    story.policy(global("edge", "zone == 'edge'").ingress(&[deny()]));
    story.drops(&[tcp(OUTSIDE, "n1", 80)]);
}

/// The rows of §11's table: setting, policy of the endpoint of all interfaces, does the pod reach its node?
#[test]
fn d62_the_settings_row_by_row_beside_an_endpoint_of_all_interfaces() {
    use EndpointToHostAction::{Accept, Drop, Return};
    let normal = |rule| Some(policy("host").ingress(&[rule]));
    let before = |rule| Some(pre_dnat(policy("host").ingress(&[rule])));
    let rows = [
        (Accept, None, true),
        (Return, None, true),
        (Drop, None, false),
        (Accept, normal(allow()), true),
        (Accept, normal(deny()), true),
        (Return, normal(deny()), true),
        (Accept, before(deny()), false),
        (Return, before(deny()), false),
        (Accept, before(allow()), true),
        (Drop, before(allow()), false),
    ];
    for (action, policy, reaches) in rows {
        let mut story = Story::begin();
        if let Some(policy) = policy {
            tell(&mut story, all());
            story.policy(policy);
        }
        story.configuration(|configuration| configuration.endpoint_to_host_action = action);
        match reaches {
            true => story.allows(&[tcp("x/a", "n1", 80)]),
            false => story.drops(&[tcp("x/a", "n1", 80)]),
        };
    }
}
