//! Which addresses of Services a node announces.

use std::net::IpAddr;

use bird_lite::cluster::Cluster;
use model::{
    BgpConfiguration, Cidr, EndpointSlice, Family, Node, NodeName, ObjectKey, Service, ServiceRanges, Update,
};

use crate::world::*;

const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

fn ranges(cluster: &[&str], external: &[&str], balancers: &[&str]) -> ServiceRanges {
    let all = |texts: &[&str]| -> Vec<Cidr> { texts.iter().map(|text| cidr(text)).collect() };
    ServiceRanges {
        cluster_ips: all(cluster),
        external_ips: all(external),
        load_balancer_ips: all(balancers),
        aggregate_load_balancers: true,
    }
}

fn announcing(ranges: ServiceRanges) -> Cluster {
    let mut cluster = cluster(2);
    announce(&mut cluster, ranges);
    cluster
}

fn announce(cluster: &mut Cluster, services: ServiceRanges) {
    configure(cluster, BgpConfiguration { services, ..Default::default() });
}

fn service(name: &str, local: bool, cluster: &[&str], external: &[&str], balancers: &[&str]) -> Service {
    let all = |texts: &[&str]| -> Vec<IpAddr> { texts.iter().map(|text| address(text)).collect() };
    Service {
        key: ObjectKey::new("default", name),
        cluster_ips: all(cluster),
        external_ips: all(external),
        load_balancer_ips: all(balancers),
        local_traffic_only: local,
        ports: Vec::new(),
    }
}

fn put(cluster: &mut Cluster, service: Service) {
    cluster.apply(Update::Service(service.key.clone(), Some(service)));
}

fn take(cluster: &mut Cluster, name: &str) {
    cluster.apply(Update::Service(ObjectKey::new("default", name), None));
}

/// Says on which nodes a Service has endpoints that are ready.
fn ready(cluster: &mut Cluster, service: &str, family: Family, nodes: &[&str]) {
    let key = ObjectKey::new("default", &format!("{service}-{family}"));
    let slice = EndpointSlice {
        key: key.clone(),
        service: service.into(),
        family,
        any_ready: !nodes.is_empty(),
        ready_nodes: nodes.iter().map(|node| NodeName::from(*node)).collect(),
        addresses: Vec::new(),
        ports: Vec::new(),
    };
    cluster.apply(Update::EndpointSlice(key, Some(slice)));
}

/// What is announced beside the node's block.
fn announced(cluster: &Cluster) -> Vec<String> {
    let own = OWN_BLOCK.to_owned();
    origins(cluster).keys().map(ToString::to_string).filter(|prefix| *prefix != own).collect()
}

#[test]
fn cluster_ranges_go_out_whole_and_addresses_only_where_traffic_must_go() {
    let mut cluster = announcing(ranges(&["10.96.0.0/12"], &[], &[]));
    put(&mut cluster, service("spread", false, &["10.96.0.5"], &[], &[]));
    put(&mut cluster, service("local", true, &["10.96.0.6"], &[], &[]));
    ready(&mut cluster, "spread", Family::V4, &["n1"]);
    ready(&mut cluster, "local", Family::V4, &["n2"]);
    assert_eq!(announced(&cluster), ["10.96.0.0/12"]);

    ready(&mut cluster, "local", Family::V4, &["n1", "n2"]);
    assert_eq!(announced(&cluster), ["10.96.0.0/12", "10.96.0.6/32"]);

    ready(&mut cluster, "local", Family::V4, &[]);
    assert_eq!(announced(&cluster), ["10.96.0.0/12"]);
}

#[test]
fn a_node_that_is_excluded_announces_its_blocks_alone() {
    let mut cluster = announcing(ranges(&["10.96.0.0/12"], &[], &[]));
    put(&mut cluster, service("local", true, &["10.96.0.6"], &[], &[]));
    ready(&mut cluster, "local", Family::V4, &["n1"]);
    assert_eq!(announced(&cluster).len(), 2);

    let mut labels = node(1).labels;
    labels.insert(EXCLUDED.to_owned(), "true".to_owned());
    put_node(&mut cluster, Node { labels, ..node(1) });
    assert_eq!(announced(&cluster), [""; 0]);

    put_node(&mut cluster, node(1));
    assert_eq!(announced(&cluster).len(), 2);
}

#[test]
fn external_addresses_go_out_inside_the_ranges_only() {
    let mut cluster = announcing(ranges(&[], &["203.0.113.0/24", "198.51.100.7/32"], &[]));
    put(&mut cluster, service("local", true, &["10.96.0.6"], &["203.0.113.5", "192.0.2.77"], &[]));
    ready(&mut cluster, "local", Family::V4, &["n1"]);
    assert_eq!(announced(&cluster), ["203.0.113.0/24", "203.0.113.5/32"]);

    // A single address goes out from every node, endpoints or not; nothing else of the range does.
    put(&mut cluster, service("listed", false, &["10.96.0.7"], &["198.51.100.7"], &[]));
    assert_eq!(announced(&cluster), ["198.51.100.7/32", "203.0.113.0/24", "203.0.113.5/32"]);
}

#[test]
fn load_balancer_ranges_go_out_whole_or_by_address() {
    let mut cluster = announcing(ranges(&[], &[], &["198.51.100.0/24"]));
    put(&mut cluster, service("lb", false, &["10.96.0.5"], &[], &["198.51.100.5"]));
    put(&mut cluster, service("outside", true, &["10.96.0.6"], &[], &["192.0.2.80"]));
    ready(&mut cluster, "lb", Family::V4, &["n2"]);
    ready(&mut cluster, "outside", Family::V4, &["n1"]);
    assert_eq!(announced(&cluster), ["198.51.100.0/24"]);

    let by_address =
        ServiceRanges { aggregate_load_balancers: false, ..ranges(&[], &[], &["198.51.100.0/24"]) };
    announce(&mut cluster, by_address);
    assert_eq!(announced(&cluster), ["198.51.100.5/32"], "an endpoint is ready somewhere");
    ready(&mut cluster, "lb", Family::V4, &[]);
    assert_eq!(announced(&cluster), [""; 0]);

    announce(&mut cluster, ServiceRanges::default());
    assert_eq!(announced(&cluster), [""; 0]);
}

#[test]
fn an_address_that_two_services_share_stays_until_both_are_gone() {
    let mut cluster = announcing(ranges(&[], &["203.0.113.7/32"], &[]));
    put(&mut cluster, service("a", false, &["10.96.0.5"], &["203.0.113.7"], &[]));
    put(&mut cluster, service("b", false, &["10.96.0.6"], &["203.0.113.7"], &[]));

    take(&mut cluster, "a");
    assert_eq!(announced(&cluster), ["203.0.113.7/32"]);
    take(&mut cluster, "b");
    assert_eq!(announced(&cluster), [""; 0]);
}

#[test]
fn each_family_goes_where_its_own_endpoints_are() {
    let mut cluster = announcing(ranges(&["10.96.0.0/12", "fd00:96::/108"], &[], &[]));
    put(&mut cluster, service("dual", true, &["10.96.0.5", "fd00:96::5"], &[], &[]));
    ready(&mut cluster, "dual", Family::V4, &["n2"]);
    ready(&mut cluster, "dual", Family::V6, &["n1"]);

    assert_eq!(announced(&cluster), ["10.96.0.0/12", "fd00:96::/108", "fd00:96::5/128"]);
}

#[test]
fn a_slice_that_changes_hands_is_counted_once() {
    let mut cluster = announcing(ranges(&["10.96.0.0/12"], &[], &[]));
    for (name, ip) in [("a", "10.96.0.5"), ("b", "10.96.0.6")] {
        put(&mut cluster, service(name, true, &[ip], &[], &[]));
    }
    ready(&mut cluster, "a", Family::V4, &["n1"]);
    let key = ObjectKey::new("default", "a-IPv4");
    let moved = EndpointSlice {
        key: key.clone(),
        service: "b".into(),
        family: Family::V4,
        any_ready: true,
        ready_nodes: [NodeName::from("n1")].into(),
        addresses: Vec::new(),
        ports: Vec::new(),
    };

    cluster.apply(Update::EndpointSlice(key.clone(), Some(moved)));
    assert_eq!(announced(&cluster), ["10.96.0.0/12", "10.96.0.6/32"]);
    cluster.apply(Update::EndpointSlice(key, None));
    assert_eq!(announced(&cluster), ["10.96.0.0/12"]);
}

#[test]
fn a_change_touches_the_addresses_of_its_own_service() {
    let mut cluster = announcing(ranges(&["10.96.0.0/12"], &[], &[]));
    for n in 0..100 {
        let name = format!("s{n}");
        put(&mut cluster, service(&name, true, &[&format!("10.96.1.{n}")], &[], &[]));
        ready(&mut cluster, &name, Family::V4, &["n1"]);
    }
    assert_eq!(announced(&cluster).len(), 101);
    cluster.take_changes();

    ready(&mut cluster, "s7", Family::V4, &["n2"]);

    let changes = cluster.take_changes();
    let touched: Vec<_> = changes.prefixes.iter().map(ToString::to_string).collect();
    assert_eq!(touched, ["10.96.1.7/32"]);
    assert!(!changes.peers && !changes.all_routes);
    // Nothing that matters to this node: nothing is touched.
    ready(&mut cluster, "s7", Family::V4, &["n2", "n3"]);
    assert!(cluster.take_changes().is_empty());
}
