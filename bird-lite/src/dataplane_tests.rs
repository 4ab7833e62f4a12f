//! Kernel routes in the real kernel: what somebody deletes, changes or floods with is put right. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "helpers of tests are tests; time passes here"
)]

use std::net::IpAddr;
use std::process::Command;

use bgp::RouteSource;
use bgp_packet::{NextHop, PathAttributes};
use kernel_linux::Netns;
use model::NodeName;

use super::*;

/// Long enough for any machine; a test that passes waits for what it needs only.
const LIMIT: Duration = Duration::from_secs(120);

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A namespace with two links, and the dataplane of a node in it that has learned three routes.
struct Node {
    cluster: Cluster,
    dataplane: Dataplane,
    events: mpsc::Receiver<Vec<RouteEvent>>,
    /// Whole readings of the kernel's routes so far.
    readings: usize,
}

const PREFIXES: [&str; 3] = ["10.0.1.0/26", "10.0.2.0/26", "10.0.3.0/26"];

fn in_new_netns(test: impl FnOnce() + Send) {
    let netns = std::thread::spawn(|| {
        // SAFETY: no memory is shared that depends on the thread's namespace.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
        Netns::current().unwrap()
    });
    netns
        .join()
        .expect("root")
        .run(|| {
            test();
            Ok(())
        })
        .unwrap();
}

fn learned(next_hop: &str) -> bgp::Route {
    let next_hop: IpAddr = next_hop.parse().unwrap();
    bgp::Route {
        source: RouteSource::Peer(next_hop.into()),
        attributes: PathAttributes::new(NextHop::from(next_hop)).into(),
        next_hops: vec![next_hop.into()],
        external: false,
        stale: false,
    }
}

impl Node {
    fn new() -> Self {
        // Addresses of IPv6 that are ready a second later would be news in the middle of a story.
        let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0");
        for (link, address) in [("eth0", "192.0.2.1/24"), ("eth1", "198.51.100.1/24")] {
            ip(&format!("link add {link} type veth peer name {link}p"));
            ip(&format!("link set {link}p up"));
            ip(&format!("link set {link} up"));
            ip(&format!("addr add {address} dev {link}"));
        }
        let mut cluster = Cluster::new(NodeName::from("n1"));
        cluster.in_sync = true;
        let (mut dataplane, events) = Dataplane::open(true).unwrap();
        dataplane.allow_sweep();
        for (prefix, next_hop) in PREFIXES.iter().zip(["192.0.2.2", "192.0.2.3", "198.51.100.2"]) {
            dataplane.learn(&cluster, prefix.parse().unwrap(), Some(learned(next_hop)));
        }
        let mut node = Self { cluster, dataplane, events, readings: 0 };
        node.until("the first routes", |node| node.routes().len() == 3);
        node
    }

    /// Without the numbers of nexthop objects.
    fn routes(&self) -> Vec<String> {
        let text = ip("-4 route show proto bird");
        let line = |line: &str| match line.trim().split_once(" nhid ") {
            Some((destination, rest)) => {
                format!("{destination} {}", rest.split_once(' ').map_or("", |(_, rest)| rest))
            }
            None => line.trim().to_owned(),
        };
        text.lines().map(line).collect()
    }

    /// Works until `done`.
    fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let end = Instant::now() + LIMIT;
        loop {
            let now = Instant::now();
            assert!(now < end, "{what}: {:?}, pending {:?}", self.routes(), self.dataplane.pending());
            while let Ok(events) = self.events.try_recv() {
                self.dataplane.events(&self.cluster, events, now);
            }
            let reads = |at: Option<Instant>| usize::from(at.is_some_and(|at| at <= now));
            self.readings += reads(self.dataplane.resync_at) + reads(self.dataplane.survey_at);
            self.dataplane.work(&self.cluster, now);
            if done(self) {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until the kernel has nothing to tell any more, as its events are in order: until a route that is
    /// made now has been heard of.
    fn settle(&mut self, through: &str) {
        ip(&format!("route add 192.168.77.7/32 dev {through}"));
        let heard = |node: &Self| node.dataplane.fib.resolve("192.168.77.7".parse().unwrap()).is_some();
        self.until("the mark", heard);
        ip("route del 192.168.77.7/32");
        self.until("the mark's end", |node| !heard(node));
        self.until("rest", |node| {
            node.dataplane.resync_at.is_none()
                && node.dataplane.survey_at.is_none()
                && node.dataplane.repair_at.is_none()
        });
    }
}

#[test]
fn deleted_and_replaced_routes_come_back_without_reading_all() {
    in_new_netns(|| {
        let mut node = Node::new();
        node.settle("eth0");
        let (before, readings) = (node.routes(), node.readings);

        ip("route del 10.0.1.0/26");
        node.until("a deleted route", |node| node.routes() == before);
        ip("route replace 10.0.2.0/26 via 192.0.2.99 metric 1024 proto bird");
        assert_ne!(node.routes(), before);
        node.until("a changed route", |node| node.routes() == before);
        ip("route replace 10.0.3.0/26 via 192.0.2.99 metric 1024 proto static");
        node.until("a route that somebody took", |node| node.routes() == before);
        ip("route add 10.9.9.0/24 via 192.0.2.99 proto bird");
        node.until("a route that nobody wants", |node| node.routes() == before);
        // `ip route flush` of this version cannot delete routes that refer to nexthop objects.
        for prefix in PREFIXES {
            ip(&format!("route del {prefix}"));
        }
        node.until("all routes", |node| node.routes() == before);

        assert_eq!(node.readings, readings);
    });
}

#[test]
fn deleted_and_changed_nexthop_objects_come_back_with_their_routes() {
    in_new_netns(|| {
        let mut node = Node::new();
        node.settle("eth0");
        let (before, readings) = (node.routes(), node.readings);
        let all = ip("nexthop show protocol 12");
        let object = all.lines().find(|line| line.contains("192.0.2.2 ")).unwrap();
        let id = object.split(' ').nth(1).unwrap();
        assert!(ip("route show 10.0.1.0/26").contains(&format!("nhid {id} ")), "{all}");

        ip(&format!("nexthop del id {id}"));
        assert_eq!(node.routes().len(), 2);
        node.until("a deleted object", |node| node.routes() == before);
        ip(&format!("nexthop replace id {id} via 192.0.2.99 dev eth0 proto static"));
        assert_ne!(node.routes(), before);
        node.until("a changed object", |node| {
            node.routes() == before && ip("nexthop show protocol 12").lines().count() == 3
        });
        node.settle("eth0");
        assert_eq!(node.readings, readings);

        ip("nexthop flush protocol 12");
        node.until("all objects", |node| node.routes() == before);
        let same = Some(learned("192.0.2.3"));
        node.dataplane.learn(&node.cluster, "10.0.1.0/26".parse().unwrap(), same);
        node.until("an object that nobody needs", |_| {
            ip("nexthop show protocol 12").lines().count() == 2
                && ip("route show 10.0.1.0/26").contains("192.0.2.3")
        });
    });
}

#[test]
fn a_restart_adopts_nexthop_objects_and_without_them_they_go() {
    in_new_netns(|| {
        let mut node = Node::new();
        let (before, objects) = (ip("-4 route show proto bird"), ip("nexthop show protocol 12"));

        for nexthop_objects in [true, false] {
            let (dataplane, events) = Dataplane::open(nexthop_objects).unwrap();
            assert!(dataplane.has_adopted());
            (node.dataplane, node.events) = (dataplane, events);
            for (prefix, next_hop) in PREFIXES.iter().zip(["192.0.2.2", "192.0.2.3", "198.51.100.2"]) {
                node.dataplane.learn(&node.cluster, prefix.parse().unwrap(), Some(learned(next_hop)));
            }
            node.dataplane.allow_sweep();
            let wanted = if nexthop_objects { objects.clone() } else { String::new() };
            node.until("the objects", |_| ip("nexthop show protocol 12") == wanted);
            assert_eq!(ip("-4 route show proto bird") == before, nexthop_objects);
            assert_eq!(node.routes().len(), 3);
        }
    });
}

#[test]
fn foreign_routes_are_followed_without_reading_all() {
    in_new_netns(|| {
        let mut node = Node::new();
        node.dataplane.learn(&node.cluster, "10.0.4.0/26".parse().unwrap(), Some(learned("203.0.113.4")));
        node.settle("eth0");
        assert_eq!(node.dataplane.pending().len(), 1, "nobody knows the way to 203.0.113.4");
        let readings = node.readings;

        ip("route add 203.0.113.0/24 via 192.0.2.2");
        node.until("the way", |node| {
            ip("route show 10.0.4.0/26").contains("192.0.2.2") && node.routes().len() == 4
        });
        ip("route replace 203.0.113.0/24 via 198.51.100.2");
        node.until("the other way", |_| ip("route show 10.0.4.0/26").contains("198.51.100.2"));
        for i in 0..20 {
            ip(&format!("link add cali{i} type veth peer name calip{i}"));
            ip(&format!("link set cali{i} up"));
            ip(&format!("route add 10.0.9.{i}/32 dev cali{i}"));
        }
        ip("link del cali7");
        node.settle("eth0");
        let pod = |node: &Node, i: u8| node.dataplane.fib.resolve(IpAddr::from([10, 0, 9, i])).is_some();

        assert!(!pod(&node, 7) && pod(&node, 8));
        assert_eq!(node.readings, readings);
    });
}

#[test]
fn routes_come_back_with_their_link() {
    in_new_netns(|| {
        let mut node = Node::new();
        let before = node.routes();

        ip("link set eth0 down");
        node.until("the routes of the other link", |node| node.routes().len() == 1);
        ip("link set eth0 up");
        node.until("all routes", |node| node.routes() == before && node.dataplane.pending().is_empty());
    });
}

#[test]
fn a_path_counts_while_its_next_hop_can_be_reached() {
    in_new_netns(|| {
        let mut node = Node::new();
        let start = bgp::Start { track_next_hops: true, ..bgp::Start::default() };
        let config = bgp::Config::new(64512, std::net::Ipv4Addr::new(192, 0, 2, 1));
        let mut speaker = Speaker::new(config, start, Instant::now());

        for (next_hop, cost) in [("192.0.2.77", Some(0)), ("203.0.113.77", None)] {
            let next_hop = next_hop.parse().unwrap();
            node.dataplane.next_hops.watch(&node.dataplane.fib, next_hop);
            assert_eq!(node.dataplane.cost(next_hop), cost, "{next_hop}");
        }
        ip("route add 203.0.113.0/24 via 192.0.2.2 metric 30");
        let far = IpAddr::from([203, 0, 113, 77]);
        node.until("the way", |node| node.dataplane.answers == [far]);

        assert_eq!(node.dataplane.cost(far), Some(30));
        node.dataplane.answer(&mut speaker);
        assert!(node.dataplane.answers.is_empty());
    });
}

#[test]
fn ipv4_routes_leave_by_a_neighbour_of_ipv6_while_its_link_is_up() {
    in_new_netns(|| {
        let mut node = Node::new();
        let text = ip("-o link show eth1");
        let index: u32 = text.split(':').next().unwrap().parse().unwrap();
        let neighbour: IpAddr = "fe80::99".parse().unwrap();
        let route =
            bgp::Route { next_hops: vec![bgp::PeerKey::new(neighbour, index)], ..learned("192.0.2.9") };
        let way = "10.0.9.0/26 via inet6 fe80::99 dev eth1";
        let stands = |node: &Node| node.routes().iter().any(|route| route.starts_with(way));

        node.dataplane.learn(&node.cluster, "10.0.9.0/26".parse().unwrap(), Some(route));
        node.until("the route", stands);

        ip("link set eth1 down");
        let named = |node: &Node| {
            node.dataplane
                .pending()
                .iter()
                .any(|(what, why)| what == "10.0.9.0/26" && why.contains("is down"))
        };
        node.until("that it is named", |node| named(node) && !stands(node));
        ip("link set eth1 up");
        node.until("the route again", stands);
    });
}

#[test]
fn links_of_pods_that_peer_have_our_address_and_no_other() {
    in_new_netns(|| {
        let mut node = Node::new();
        for link in ["cali1", "cali2"] {
            ip(&format!("link add {link} type veth peer name {link}p"));
            ip(&format!("link set {link} up"));
        }
        ip("addr add 169.254.9.9/32 dev cali2");
        let addresses = |link: &str| ip(&format!("-o -4 addr show dev {link}"));
        let address: IpAddr = "169.254.0.179".parse().unwrap();

        node.dataplane.set_peering(BTreeSet::from(["cali1".to_owned()]), vec![address]);

        let as_wanted =
            |_: &Node| addresses("cali1").contains("169.254.0.179/32") && addresses("cali2").is_empty();
        node.until("the address", as_wanted);
        ip("addr del 169.254.0.179/32 dev cali1");
        node.until("the address again", as_wanted);
        ip("link del cali1");
        ip("link add cali1 type veth peer name cali1p");
        ip("link set cali1 up");
        node.until("the address of the new link", as_wanted);
        node.dataplane.set_peering(BTreeSet::new(), vec![address]);
        node.until("that it goes", |_| addresses("cali1").is_empty());
    });
}
