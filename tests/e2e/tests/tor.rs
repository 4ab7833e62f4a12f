//! Real routers as top of rack: they learn the pods' blocks, reach pods, and carry what crosses subnets.

use e2e::{Cluster, Options, within};

fn learns_and_reaches(tor: &str) {
    let cluster = Cluster::up(&format!("tor{tor}"), &Options { tor, ..Options::default() });
    cluster.pod("p1", "n1");
    cluster.pod("p3", "n3");
    cluster.pods_ready();
    let routes = || cluster.exec("tor", &["ip", "-4", "route"]);
    let is_learned = |text: &String| text.lines().filter(|line| line.starts_with("10.65.")).count() >= 2;

    within(30, &format!("{tor} has a route to the block of each node with pods"), routes, is_learned);
    cluster.expect_probe("tor", "default/p1", 80, "allowed");
    cluster.expect_probe("tor", "default/p3", 80, "allowed");
    // Without encapsulation the router forwards between the subnets.
    cluster.expect_probe("default/p1", "default/p3", 80, "allowed");

    // The router keeps the routes while a speaker restarts.
    let ping = cluster.ping("default/p1", &cluster.address("p3"));
    cluster.lab_ok(&["kill", "n3", "bird-lite"]);
    cluster.well_again("n3");
    let tally = ping.stop().expect("ping ran");
    assert_eq!(tally.lost(), 0, "{tally}");
}

#[test]
fn bird_learns_and_reaches() {
    learns_and_reaches("bird");
}

#[test]
fn gobgp_learns_and_reaches() {
    learns_and_reaches("gobgp");
}

#[test]
fn frr_learns_and_reaches() {
    learns_and_reaches("frr");
}
