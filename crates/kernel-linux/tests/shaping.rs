//! Bandwidth of a pod, on the real kernel in namespaces of its own. Needs root.
#![allow(clippy::unwrap_used)]

mod common;

use common::{in_new_netns, new_netns, run};
use kernel::{Bandwidth, Shaping};
use kernel_linux::Rtnl;
use kernel_linux::pod::{HOST_MAC, PodLink};

const LIMIT: Bandwidth = Bandwidth { rate: 8_000_000, burst: 800_000, peak: None, min_burst: None };

#[test]
fn both_directions_are_limited_changed_and_freed() {
    in_new_netns(|| {
        let pod = new_netns();
        let mut rtnl = Rtnl::open().unwrap();
        let link = PodLink {
            host_name: "cali0123456789a".to_owned(),
            alias: "c1".to_owned(),
            pod_name: "eth0".to_owned(),
            pod_mac: Some(HOST_MAC),
            mtu: 1500,
            queues: 2,
            ipv6: false,
        };
        rtnl.create_pod_link(&link, &pod).unwrap();
        let shape = |rtnl: &mut Rtnl, ingress, egress| {
            rtnl.shape("cali0123456789a", &Shaping { ingress, egress, yields: false })
                .unwrap()
                .expect("the link is there")
        };

        shape(&mut rtnl, Some(LIMIT), Some(LIMIT));
        shape(&mut rtnl, Some(LIMIT), Some(LIMIT));
        for device in ["cali0123456789a", "bwcali23456789a"] {
            let shown = run("tc", &["qdisc", "show", "dev", device]);
            assert!(shown.contains("tbf ca11: root") && shown.contains("rate 8Mbit"), "{shown}");
        }
        let filters = run("tc", &["filter", "show", "dev", "cali0123456789a", "ingress"]);
        assert!(filters.contains("Egress Redirect to device bwcali23456789a"), "{filters}");
        assert_eq!(rtnl.shaped().unwrap(), ["cali0123456789a"]);

        let peak = Bandwidth { rate: 16_000_000, peak: Some(32_000_000), ..LIMIT };
        shape(&mut rtnl, Some(peak), None);
        let shown = run("tc", &["qdisc", "show", "dev", "cali0123456789a"]);
        assert!(shown.contains("rate 16Mbit") && shown.contains("peakrate 32Mbit"), "{shown}");
        assert!(!shown.contains("ingress"), "{shown}");

        shape(&mut rtnl, None, None);
        let shown = run("tc", &["qdisc", "show", "dev", "cali0123456789a"]);
        assert!(!shown.contains("tbf"), "{shown}");
        run(
            "tc",
            &[
                "qdisc",
                "add",
                "dev",
                "cali0123456789a",
                "root",
                "tbf",
                "rate",
                "1mbit",
                "burst",
                "10k",
                "latency",
                "25ms",
            ],
        );
        let shared = Shaping { ingress: Some(LIMIT), egress: None, yields: true };
        rtnl.shape("cali0123456789a", &shared).unwrap();
        let shown = run("tc", &["qdisc", "show", "dev", "cali0123456789a"]);
        assert!(shown.contains("rate 1Mbit") && !shown.contains("ca11"), "{shown}");
        rtnl.reap_retired().unwrap();
        assert_eq!(rtnl.shaped().unwrap(), [""; 0]);
        assert_eq!(rtnl.shape("cali-none", &Shaping::default()).unwrap(), None);
    });
}
