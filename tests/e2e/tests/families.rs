//! IPv6 alone and beside IPv4: pods reach each other across subnets, and policy holds, in every family. Alone, they also
//! reach the world outside by their nodes' addresses, and the world knows the way to Services.

#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use e2e::{Cluster, Options, within};

/// The router's address in the network that stands for the world outside.
const WORLD: &str = "2001:db8:51::1";
const SERVICES: &str = "fd00:10:96::/112";
const A_SERVICE: &str = "fd00:10:96::77";
const POLICY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-p1}
spec:
  podSelector: {matchLabels: {app: p3}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: p1}}}]
";

fn connects_and_denies(family: &str, probed: &[&str]) -> Cluster {
    let cluster = Cluster::up(&format!("family{family}"), &Options { family, ..Options::default() });
    for node in 1..=3 {
        cluster.pod(&format!("p{node}"), &format!("n{node}"));
    }
    cluster.pods_ready();
    let probe = |from: &str, family: &str, verdict: &str| {
        let ask = ["probe", "--from", from, "--to", "default/p3", "--port", "80", "--family", family];
        let look = || cluster.lab(&[&ask[..], &["--expect", verdict]].concat()).status.success();
        within(60, &format!("{from} to p3 by IPv{family}: {verdict}"), look, |is_so| *is_so);
    };
    for family in probed {
        probe("default/p1", family, "allowed");
        probe("default/p2", family, "allowed");
    }

    cluster.apply(POLICY);

    for family in probed {
        probe("default/p2", family, "denied");
        probe("default/p1", family, "allowed");
    }
    cluster
}

#[test]
fn ipv6_alone() {
    let cluster = connects_and_denies("6", &["6"]);
    let pod: IpAddr = cluster.address("p1").parse().unwrap();
    let path = "jsonpath={.status.addresses[?(@.type==\"InternalIP\")].address}";
    let node: IpAddr = cluster.kubectl_ok(&["get", "node", "n1", "-o", path]).parse().unwrap();

    for (nat_outgoing, expected) in [(true, node), (false, pod)] {
        let patch = format!("{{\"spec\": {{\"natOutgoing\": {nat_outgoing}}}}}");
        cluster.kubectl_ok(&["patch", "ippool", "default-ipv6-ippool", "--type", "merge", "-p", &patch]);
        let what = format!("natOutgoing {nat_outgoing}: the world sees p1 as {expected}");
        within(60, &what, || seen_outside(&cluster), |from| *from == Some(expected));
    }

    cluster.apply(&format!(
        "apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {{name: default}}
spec: {{serviceClusterIPs: [{{cidr: \"{SERVICES}\"}}]}}
---
apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {{name: default}}
spec: {{serviceLoopPrevention: Reject}}
"
    ));
    let routes = || cluster.exec("tor", &["ip", "-6", "route", "show", SERVICES]);
    within(60, "the router has a way to Services", routes, |text| text.contains(SERVICES));
    // No kube-proxy translates it here: a node would send it back to the router.
    let at = SocketAddr::new(A_SERVICE.parse().unwrap(), 80);
    let look = || cluster.inside("tor", || connect(at)).err().map(|error| error.kind());
    within(60, "a node refuses what is no Service", look, |kind| *kind == Some(ErrorKind::ConnectionRefused));
}

/// Where a connection from p1 to the world outside seems to come from.
fn seen_outside(cluster: &Cluster) -> Option<IpAddr> {
    let world: IpAddr = WORLD.parse().unwrap();
    let listener = cluster.inside("tor", || TcpListener::bind((world, 0))).unwrap();
    let at = listener.local_addr().unwrap();
    let _connection = cluster.inside("default/p1", || connect(at)).ok()?;
    Some(listener.accept().unwrap().1.ip())
}

fn connect(at: SocketAddr) -> io::Result<TcpStream> {
    TcpStream::connect_timeout(&at, Duration::from_secs(5))
}

#[test]
fn both_families() {
    connects_and_denies("46", &["4", "6"]);
}
