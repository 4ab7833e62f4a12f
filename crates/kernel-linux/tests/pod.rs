//! A pod's veth against the real kernel, as root.

mod common;

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use common::{in_new_netns, new_netns, run};
use kernel_linux::pod::{HOST_MAC, PodInterface, PodLink, configure_pod};
use kernel_linux::sysctl;
use kernel_linux::{Namespaces, PodMtu, Rtnl};
use model::Family;

const POD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn link(name: &str) -> PodLink {
    PodLink {
        host_name: name.to_owned(),
        alias: "3f2a".to_owned(),
        pod_name: "eth0".to_owned(),
        pod_mac: Some(POD_MAC),
        mtu: 1480,
        queues: 1,
        ipv6: true,
    }
}

fn interface(addresses: &[&str]) -> PodInterface {
    PodInterface {
        name: "eth0".to_owned(),
        addresses: addresses.iter().map(|text| text.parse().expect("an address")).collect(),
        gateway_mac: HOST_MAC,
        forwarding: false,
    }
}

#[test]
fn pod_and_host_reach_each_other_in_both_families() {
    in_new_netns(|| {
        let pod = new_netns();
        let mut rtnl = Rtnl::open().unwrap();

        rtnl.create_pod_link(&link("cali1"), &pod).unwrap();
        let mac = configure_pod(&pod, &interface(&["10.65.0.2", "fd00:65::2"])).unwrap();
        sysctl::configure_pod_interface("cali1", "1", true).unwrap();

        let host = rtnl.links().unwrap().into_iter().find(|link| link.name == "cali1").unwrap();
        assert_eq!((host.up, host.mtu), (true, 1480));
        assert_eq!((host.mac, host.alias.as_deref()), (Some(HOST_MAC), Some("3f2a")));
        assert!(host.addresses.contains(&("fe80::ecee:eeff:feee:eeee".parse().unwrap(), 64)), "{host:?}");
        assert_eq!(mac, POD_MAC);
        run("ip", &["addr", "add", "192.0.2.1/32", "dev", "lo"]);
        run("ip", &["-6", "addr", "add", "fd00:1::1/128", "dev", "lo"]);
        run("ip", &["route", "add", "10.65.0.2/32", "dev", "cali1"]);
        run("ip", &["-6", "route", "add", "fd00:65::2/128", "dev", "cali1"]);
        pod.run(|| {
            run("ping", &["-c1", "-w30", "192.0.2.1"]);
            run("ping", &["-c1", "-w30", "fd00:1::1"]);
            let neighbours = run("ip", &["neigh", "show", "169.254.1.1"]);
            assert!(neighbours.contains("lladdr ee:ee:ee:ee:ee:ee PERMANENT"), "{neighbours}");
            Ok(())
        })
        .unwrap();
    });
}

#[test]
fn the_far_end_of_a_veth_is_seen_from_the_host() {
    in_new_netns(|| {
        let pod = new_netns();
        let mut rtnl = Rtnl::open().unwrap();
        rtnl.create_pod_link(&link("cali1"), &pod).unwrap();
        run("ip", &["link", "add", "here", "type", "veth", "peer", "name", "there"]);

        let far = rtnl.far_end("cali1").unwrap().unwrap();

        assert_eq!((far.name.as_str(), far.mac), ("eth0", Some(POD_MAC)));
        assert_eq!(rtnl.far_end("here").unwrap(), None);
        assert_eq!(rtnl.far_end("nothing").unwrap(), None);
    });
}

#[test]
fn configuring_twice_changes_nothing() {
    in_new_netns(|| {
        let pod = new_netns();
        Rtnl::open().unwrap().create_pod_link(&link("cali1"), &pod).unwrap();
        let show = || {
            pod.run(|| {
                let routes = run("ip", &["route"]) + &run("ip", &["-6", "route"]);
                Ok(routes + &run("ip", &["-o", "addr", "show", "scope", "global"]))
            })
            .unwrap()
        };

        configure_pod(&pod, &interface(&["10.65.0.2", "fd00:65::2"])).unwrap();
        let once = show();
        configure_pod(&pod, &interface(&["10.65.0.2", "fd00:65::2"])).unwrap();

        assert_eq!(show(), once);
        assert!(once.contains("default via 169.254.1.1 dev eth0"), "{once}");
        assert!(once.contains("default via fe80::ecee:eeff:feee:eeee dev eth0"), "{once}");
    });
}

#[test]
fn second_link_of_the_same_name_is_refused() {
    in_new_netns(|| {
        let (first, second) = (new_netns(), new_netns());
        let mut rtnl = Rtnl::open().unwrap();
        rtnl.create_pod_link(&link("cali1"), &first).unwrap();

        let error = rtnl.create_pod_link(&link("cali1"), &second).unwrap_err();

        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "{error}");
        assert!(error.to_string().contains("cali1"), "{error}");
    });
}

#[test]
fn retired_links_are_down_at_once_and_reaped_together() {
    in_new_netns(|| {
        let pods = [new_netns(), new_netns()];
        let mut rtnl = Rtnl::open().unwrap();
        for (name, pod) in ["cali1", "cali2"].iter().zip(&pods) {
            rtnl.create_pod_link(&link(name), pod).unwrap();
        }

        assert!(rtnl.retire_link("cali1").unwrap());
        assert!(!rtnl.retire_link("cali3").unwrap());

        assert!(!rtnl.link_by_name("cali1").unwrap().unwrap().up);
        assert!(rtnl.reap_retired().unwrap());
        assert!(rtnl.link_by_name("cali1").unwrap().is_none());
        assert!(rtnl.link_by_name("cali2").unwrap().unwrap().up);
        assert!(!rtnl.reap_retired().unwrap());
        assert!(rtnl.delete_link("cali2").unwrap());
        assert!(!rtnl.delete_link("cali2").unwrap());
    });
}

#[test]
fn errors_name_the_link_and_the_namespace() {
    in_new_netns(|| {
        let pod = new_netns();

        let error = configure_pod(&pod, &interface(&["10.65.0.2"])).unwrap_err();
        assert_eq!(error.to_string(), "the pod has no link eth0");
        let mut long = link("cali1");
        long.host_name = "cali-much-too-long".to_owned();
        let error = Rtnl::open().unwrap().create_pod_link(&long, &pod).unwrap_err();
        assert!(error.to_string().contains("cali-much-too-long"), "{error}");
        let error = sysctl::write("net/ipv4/conf/nosuch/forwarding", "1").unwrap_err();
        assert!(error.to_string().contains("/proc/sys/net/ipv4/conf/nosuch/forwarding"), "{error}");
        let error = kernel_linux::Netns::open("/nonexistent/netns").unwrap_err();
        assert!(error.to_string().contains("/nonexistent/netns"), "{error}");
    });
}

#[test]
fn one_address_replaces_all_others() {
    in_new_netns(|| {
        let mut rtnl = Rtnl::open().unwrap();
        run("ip", &["link", "add", "v0", "type", "veth", "peer", "name", "v1"]);
        run("ip", &["addr", "add", "10.0.0.1/24", "dev", "v0"]);
        run("ip", &["addr", "add", "10.0.0.2/24", "dev", "v0"]);
        let index = rtnl.link_by_name("v0").unwrap().unwrap().index;
        let on_v0 = |rtnl: &mut Rtnl| -> Vec<(IpAddr, u8)> {
            let all = rtnl.addresses().unwrap();
            all.into_iter().filter(|(on, _, _)| *on == index).map(|(_, a, l)| (a, l)).collect()
        };

        let address: Option<IpAddr> = "10.65.0.1".parse().ok();
        assert!(rtnl.set_only_address(index, Family::V4, address).unwrap());
        assert_eq!(on_v0(&mut rtnl), [("10.65.0.1".parse().unwrap(), 32)]);
        assert!(!rtnl.set_only_address(index, Family::V4, address).unwrap());
        assert!(rtnl.set_only_address(index, Family::V4, None).unwrap());
        assert_eq!(on_v0(&mut rtnl), []);
    });
}

#[test]
fn a_running_pod_gets_another_mtu_on_both_sides() {
    in_new_netns(|| {
        let pod = new_netns();
        let mut rtnl = Rtnl::open().unwrap();
        rtnl.create_pod_link(&link("cali1"), &pod).unwrap();
        configure_pod(&pod, &interface(&["10.65.0.2"])).unwrap();
        let far = || pod.run(|| Ok(run("ip", &["-o", "link", "show", "eth0"]))).unwrap();
        let mut set = |mtu: u32, given: &[u32]| {
            let given = given.iter().copied().collect();
            rtnl.set_pod_mtu("cali1", mtu, &given, &mut Namespaces::default()).unwrap()
        };

        assert_eq!(set(1400, &[1500]), PodMtu::Other(1480));
        assert!(far().contains("mtu 1480"));

        run("ip", &["link", "set", "cali1", "mtu", "1490"]);
        assert_eq!(set(1500, &[1450]), PodMtu::Other(1480));
        assert!(run("ip", &["-o", "link", "show", "cali1"]).contains("mtu 1480 "));

        // Nothing leads to the namespace: it has neither a name nor a process.
        assert_eq!(set(1400, &[1480]), PodMtu::Unreachable(1480));
        assert!(run("ip", &["-o", "link", "show", "cali1"]).contains("mtu 1480 "));

        let mut process = pod.run(|| std::process::Command::new("sleep").arg("60").spawn()).unwrap();
        for mtu in [1400, 1450] {
            assert_eq!(set(mtu, &[1400, 1480]), PodMtu::Changed);
            assert!(far().contains(&format!("mtu {mtu} ")), "{}", far());
            assert!(run("ip", &["-o", "link", "show", "cali1"]).contains(&format!("mtu {mtu} ")));
        }
        assert_eq!(set(1450, &[]), PodMtu::Same);
        process.kill().unwrap();
        process.wait().unwrap();
    });
}

#[test]
fn a_link_that_is_gone_has_no_mtu() {
    in_new_netns(|| {
        let mut rtnl = Rtnl::open().unwrap();
        let outcome = rtnl.set_pod_mtu("cali1", 1400, &BTreeSet::from([1500]), &mut Namespaces::default());
        assert_eq!(outcome.unwrap(), PodMtu::Absent);
    });
}
