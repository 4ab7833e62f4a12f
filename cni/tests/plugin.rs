//! The built plugin against the real kernel and a pretended agent, called as containerd and podman call it. As root.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use common::{Container, Node, run};
use proto::decode_frame;
use proto::node::request::Call;
use proto::node::{Failure, Request};
use serde_json::{Value, json};

#[test]
fn a_pod_reaches_its_node_at_once_and_the_result_is_complete() {
    let node = Node::new();
    let pod = Container::new("c1");

    let result = node.runtime().add(&pod).unwrap();

    pod.inside(|| run("ping", &["-c1", "-W1", "192.0.2.1"]));
    node.inside(|| run("ping", &["-c1", "-W1", "10.65.0.1"]));
    let host = host_side(&result);
    let mac = result["interfaces"][1]["mac"].clone();
    assert_eq!(
        result,
        json!({
            "cniVersion": "1.0.0",
            "interfaces": [
                {"name": host, "mac": "ee:ee:ee:ee:ee:ee"},
                {"name": "eth0", "mac": mac, "sandbox": pod.path},
            ],
            "ips": [{"address": "10.65.0.1/32", "interface": 1}],
            "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}],
            "dns": {},
        })
    );
    let link = node.inside(|| run("ip", &["-d", "link", "show", &host]));
    assert!(link.contains("alias c1") && link.contains("mtu 1480"), "{link}");
    assert_eq!(pod.inside(|| run("cat", &["/proc/sys/net/ipv4/ip_forward"])).trim(), "0");
}

#[test]
fn every_version_is_answered_in_its_own_shape() {
    for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let node = Node::new();
        let pod = Container::new("c1");
        let mut runtime = node.runtime();
        runtime.conf["cniVersion"] = json!(version);

        let result = runtime.add(&pod).unwrap();

        assert_eq!(result["cniVersion"], version);
        let address = if version < "0.3.0" { &result["ip4"]["ip"] } else { &result["ips"][0]["address"] };
        assert_eq!(address, "10.65.0.1/32", "{version}");
        let mtu = &result["interfaces"][1]["mtu"];
        assert_eq!(*mtu, if version == "1.1.0" { json!(1480) } else { Value::Null }, "{version}");
    }
}

#[test]
fn both_families_work_at_once_and_forwarding_is_opt_in() {
    let node = Node::new();
    let pod = Container::new("c1");
    let mut runtime = node.runtime();
    runtime.conf["ipam"]["assign_ipv6"] = json!("true");
    runtime.conf["container_settings"] = json!({"allow_ip_forwarding": true});
    runtime.conf["mtu"] = json!(1400);

    let result = runtime.add(&pod).unwrap();

    pod.inside(|| {
        run("ping", &["-c1", "-W1", "192.0.2.1"]);
        run("ping", &PING6);
        assert_eq!(run("cat", &["/proc/sys/net/ipv4/ip_forward"]).trim(), "1");
        assert!(run("ip", &["link", "show", "eth0"]).contains("mtu 1400"));
    });
    assert_eq!(result["ips"][1]["address"], "fd00:65::1/128");
    assert_eq!(result["routes"][1], json!({"dst": "::/0", "gw": "fe80::ecee:eeff:feee:eeee"}));
    runtime.check(&pod, &result).unwrap();
}

#[test]
fn ipv6_works_where_new_interfaces_have_it_disabled() {
    let node = Node::new();
    let pod = Container::new("c1");
    let off = || fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
    node.inside(off);
    pod.inside(off);
    let mut runtime = node.runtime();
    runtime.conf["ipam"] = json!({"type": "calico-ipam", "assign_ipv4": false, "assign_ipv6": true});

    let result = runtime.add(&pod).unwrap();

    pod.inside(|| run("ping", &PING6));
    runtime.check(&pod, &result).unwrap();
}

#[test]
fn a_repeated_add_answers_the_same_and_its_failure_takes_nothing_away() {
    let node = Node::new();
    let pod = Container::new("c1");
    let runtime = node.runtime();
    let first = runtime.add(&pod).unwrap();

    assert_eq!(runtime.add(&pod).unwrap(), first);

    node.felix().fail_endpoint_up = Some(Failure::Retry);
    assert_eq!(runtime.add(&pod).code(), 11);
    node.felix().fail_allocate = Some(Failure::Retry);
    assert_eq!(runtime.add(&pod).code(), 11);
    pod.inside(|| run("ping", &["-c1", "-W1", "192.0.2.1"]));
    assert!(node.felix().addresses.contains_key("c1"));
    runtime.check(&pod, &first).unwrap();
}

#[test]
fn check_names_what_is_not_as_add_left_it() {
    type Damage = (&'static str, &'static [&'static str]);
    let inside: [Damage; 5] = [
        ("10.65.0.1/32", &["addr", "del", "10.65.0.1/32", "dev", "eth0"]),
        ("default route", &["route", "del", "default"]),
        ("neighbour", &["neigh", "del", "169.254.1.1", "dev", "eth0"]),
        ("MTU", &["link", "set", "eth0", "mtu", "1300"]),
        ("down", &["link", "set", "eth0", "down"]),
    ];
    for (named, damage) in inside {
        let node = Node::new();
        let pod = Container::new("c1");
        let mut runtime = node.runtime();
        runtime.conf["cniVersion"] = json!("1.1.0");
        let result = runtime.add(&pod).unwrap();
        runtime.check(&pod, &result).unwrap();

        pod.inside(|| run("ip", damage));

        let answer = runtime.check(&pod, &result);
        assert_eq!(answer.code(), 103, "{damage:?}");
        assert!(answer.message().contains(named), "{damage:?}: {}", answer.message());
    }
}

#[test]
fn check_looks_at_the_nodes_side_and_asks_the_agent() {
    let node = Node::new();
    let pod = Container::new("c1");
    let runtime = node.runtime();
    let result = runtime.add(&pod).unwrap();
    let host = host_side(&result);

    node.felix().endpoints.clear();
    let answer = runtime.check(&pod, &result);
    assert!(answer.code() == 100 && answer.message().contains("unknown"), "{}", answer.message());

    node.inside(|| run("ip", &["link", "set", &host, "alias", "another"]));
    let answer = runtime.check(&pod, &result);
    assert!(answer.code() == 103 && answer.message().contains("another"), "{}", answer.message());

    let answer = runtime.call("CHECK", &pod.id, &pod.path, &runtime.conf);
    assert!(answer.code() == 7 && answer.message().contains("prevResult"), "{}", answer.message());
}

#[test]
fn del_releases_everything_and_may_be_repeated() {
    let node = Node::new();
    let pod = Container::new("c1");
    let runtime = node.runtime();
    runtime.add(&pod).unwrap();

    runtime.del(&pod).unwrap();

    assert!(node.felix().addresses.is_empty() && node.felix().endpoints.is_empty());
    assert_eq!(node.pod_links(), [""; 0]);
    runtime.del(&pod).unwrap();
    runtime.del_without_netns(&pod).unwrap();
    runtime.call("DEL", &pod.id, "/run/netns/long-gone", &runtime.conf).unwrap();
    runtime.call("DEL", "never-added", "", &runtime.conf).unwrap();
}

#[test]
fn del_of_an_old_container_leaves_the_pods_new_one_alone() {
    let node = Node::new();
    let (old, new) = (Container::new("c1"), Container::new("c2"));
    let runtime = node.runtime();
    runtime.add(&old).unwrap();

    let result = runtime.add(&new).unwrap();
    runtime.del(&old).unwrap();

    new.inside(|| run("ping", &["-c1", "-W1", "192.0.2.1"]));
    runtime.check(&new, &result).unwrap();
    assert_eq!(node.pod_links(), [host_side(&result)]);
}

#[test]
fn a_container_may_come_back_in_the_same_namespace() {
    let node = Node::new();
    let pod = Container::new("c1");
    let runtime = node.runtime();
    runtime.add(&pod).unwrap();
    runtime.del(&pod).unwrap();

    let result = runtime.add(&pod).unwrap();

    pod.inside(|| run("ping", &["-c1", "-W1", "192.0.2.1"]));
    runtime.check(&pod, &result).unwrap();
}

#[test]
fn a_second_name_for_the_same_container_gets_the_first_ones_result() {
    let node = Node::new();
    let pod = Container::new("c1");
    let mut runtime = node.runtime();
    let first = runtime.add(&pod).unwrap();
    runtime.interface = "net1".to_owned();

    assert_eq!(runtime.add(&pod).unwrap(), first);

    runtime.call("DEL", &pod.id, &pod.path, &runtime.conf).unwrap();
    pod.inside(|| run("ping", &["-c1", "-W1", "192.0.2.1"]));
}

#[test]
fn an_add_without_an_agent_says_so_and_leaves_nothing() {
    let mut node = Node::new();
    let pod = Container::new("c1");
    node.stop_felix();

    let answer = node.runtime().add(&pod);

    assert_eq!(answer.code(), 11);
    for part in ["ADD of prod/web", "felix.sock", "calico-node"] {
        assert!(answer.message().contains(part), "{}", answer.message());
    }
    // A runtime tries again and again, with new containers: the DELs in between must leave nothing either.
    node.runtime().del(&pod).unwrap();
    assert_nothing_left(&node, &pod);
}

#[test]
fn what_the_agent_refuses_is_undone() {
    for (failure, code) in [(Failure::Retry, 11), (Failure::Permanent, 100), (Failure::Invalid, 7)] {
        let node = Node::new();
        let pod = Container::new("c1");
        node.felix().fail_endpoint_up = Some(failure);

        let answer = node.runtime().add(&pod);

        assert_eq!(answer.code(), code);
        assert!(answer.message().contains("policy was not programmed"), "{}", answer.message());
        assert!(node.felix().addresses.is_empty());
        assert_nothing_left(&node, &pod);
    }
}

#[test]
fn an_agent_that_dies_half_way_finds_on_disk_what_to_release() {
    let node = Node::new();
    let pod = Container::new("c1");
    node.felix().die_at_endpoint_up = true;

    let answer = node.runtime().add(&pod);

    assert_eq!(answer.code(), 11);
    assert_eq!(node.pod_links(), [""; 0]);
    let file = fs::read(node.directory.join("cni-del/c1")).unwrap();
    let (request, _) = decode_frame::<Request>(&file).unwrap().unwrap();
    let Some(Call::EndpointDown(call)) = request.call else { panic!("{request:?}") };
    assert!(!call.addresses_only, "the endpoint may be up");
}

#[test]
fn an_agent_that_drops_one_call_is_told_at_once_what_to_release() {
    let node = Node::new();
    let pod = Container::new("c1");
    node.felix().hang_up = true;

    let answer = node.runtime().add(&pod);

    assert_eq!(answer.code(), 11);
    assert_nothing_left(&node, &pod);
}

#[test]
fn no_address_is_left_when_the_agent_has_none() {
    let node = Node::new();
    let pod = Container::new("c1");
    node.felix().fail_allocate = Some(Failure::Retry);

    let answer = node.runtime().add(&pod);

    assert!(answer.code() == 11 && answer.message().contains("no address is left"), "{}", answer.message());
    assert_nothing_left(&node, &pod);
}

#[test]
fn a_del_without_an_agent_waits_on_disk() {
    let mut node = Node::new();
    let pod = Container::new("c1");
    node.runtime().add(&pod).unwrap();
    node.stop_felix();

    node.runtime().del(&pod).unwrap();
    node.runtime().del_without_netns(&pod).unwrap();

    let file = node.directory.join("cni-del/c1");
    let (request, _) = decode_frame::<Request>(&fs::read(&file).unwrap()).unwrap().unwrap();
    let Some(Call::EndpointDown(call)) = request.call else { panic!("{request:?}") };
    let attachment = call.attachment.unwrap();
    assert_eq!((attachment.container_id.as_str(), attachment.interface.as_str()), ("c1", "eth0"));
    assert_eq!((attachment.namespace.as_str(), attachment.pod.as_str()), ("prod", "web"));
    assert!(!call.addresses_only);
}

#[test]
fn an_interface_of_somebody_else_is_refused_by_name() {
    let node = Node::new();
    let pod = Container::new("c1");
    pod.inside(|| run("ip", &["link", "add", "eth0", "type", "bridge"]));

    let answer = node.runtime().add(&pod);

    assert_eq!(answer.code(), 4);
    assert!(answer.message().contains("CNI_IFNAME \"eth0\""), "{}", answer.message());
    assert!(node.felix().addresses.is_empty());
    pod.inside(|| run("ip", &["link", "show", "eth0"]));
}

#[test]
fn the_nodes_own_namespace_is_refused() {
    let node = Node::new();
    let runtime = node.runtime();

    for netns in ["/proc/self/ns/net", "/run/netns/long-gone"] {
        let answer = runtime.call("ADD", "c1", netns, &runtime.conf);

        assert_eq!(answer.code(), 4);
        assert!(answer.message().contains(netns), "{}", answer.message());
    }
    assert!(node.felix().calls.is_empty());
}

#[test]
fn podman_names_no_namespace_and_may_ask_for_address_and_mac() {
    let node = Node::new();
    let pod = Container::new("c1");
    let mut runtime = node.runtime();
    runtime.args = "IgnoreUnknown=1;K8S_POD_NAME=box;IP=10.65.3.7;MAC=02:00:5e:00:53:01".to_owned();

    let result = runtime.add(&pod).unwrap();

    assert_eq!(result["ips"][0]["address"], "10.65.3.7/32");
    assert_eq!(result["interfaces"][1]["mac"], "02:00:5e:00:53:01");
    pod.inside(|| run("ping", &["-c1", "-W1", "192.0.2.1"]));
    let Some(Call::EndpointUp(up)) = node.felix().calls.last().cloned() else { panic!("no EndpointUp") };
    let attachment = up.attachment.unwrap();
    assert_eq!((attachment.namespace.as_str(), attachment.pod.as_str()), ("", "box"));
    runtime.del(&pod).unwrap();
    assert_eq!(node.pod_links(), [""; 0]);
}

#[test]
fn without_any_arguments_the_container_stands_for_the_pod() {
    let node = Node::new();
    let pod = Container::new("c1");
    let mut runtime = node.runtime();
    runtime.args = String::new();

    runtime.add(&pod).unwrap();

    let Some(Call::EndpointUp(up)) = node.felix().calls.last().cloned() else { panic!("no EndpointUp") };
    assert_eq!(up.attachment.unwrap().pod, "c1");
}

#[test]
fn another_ipam_plugin_gives_and_takes_back() {
    let node = Node::new();
    let pod = Container::new("c1");
    let mut runtime = node.runtime();
    let data = node.directory.join("host-local");
    runtime.conf["ipam"] = json!({"type": "host-local", "subnet": "10.66.0.0/24", "dataDir": data});
    let leases =
        || fs::read_dir(data.join("k8s-pod-network")).map_or(0, |files| files.filter(is_lease).count());

    let result = runtime.add(&pod).unwrap();

    assert!(result["ips"][0]["address"].as_str().unwrap().starts_with("10.66.0."), "{result}");
    pod.inside(|| run("ping", &["-c1", "-W1", "192.0.2.1"]));
    assert_eq!(leases(), 1);
    runtime.check(&pod, &result).unwrap();
    runtime.del(&pod).unwrap();
    assert_eq!(leases(), 0);

    let other = Container::new("c2");
    node.felix().fail_endpoint_up = Some(Failure::Retry);
    assert_eq!(runtime.add(&other).code(), 11);
    assert_eq!(leases(), 0);

    runtime.cni_path = "/nonexistent".to_owned();
    let answer = runtime.add(&other);
    assert!(answer.code() == 102 && answer.message().contains("host-local"), "{}", answer.message());
}

#[test]
fn in_a_chain_the_results_are_joined() {
    let node = Node::new();
    let pod = Container::new("c1");
    let mut runtime = node.runtime();
    runtime.interface = "net1".to_owned();
    runtime.conf["dns"] = json!({"nameservers": ["10.96.0.10"]});
    runtime.conf["prevResult"] = json!({
        "cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": pod.path}],
        "ips": [{"address": "192.0.2.7/24", "interface": 0}],
    });

    let result = runtime.add(&pod).unwrap();

    assert_eq!(result["interfaces"][2]["name"], "net1");
    assert_eq!(result["ips"][1], json!({"address": "10.65.0.1/32", "interface": 2}));
    assert_eq!(result["dns"]["nameservers"][0], "10.96.0.10");
    runtime.check(&pod, &result).unwrap();
}

#[test]
fn the_standard_bandwidth_plugin_finds_the_nodes_side() {
    let node = Node::new();
    let (pod, runtime) = (Container::new("c1"), node.runtime());
    let result = runtime.add(&pod).unwrap();
    let mut bandwidth = node.runtime();
    bandwidth.binary = "/usr/lib/cni/bandwidth".into();
    bandwidth.conf = json!({
        "cniVersion": "1.0.0", "name": "k8s-pod-network", "type": "bandwidth",
        "runtimeConfig": {"bandwidth": {"ingressRate": 8_000_000, "ingressBurst": 800_000}},
        "prevResult": result,
    });

    let chained = bandwidth.add(&pod).unwrap();

    assert_eq!(chained["ips"], result["ips"]);
    let shown = node.inside(|| run("tc", &["qdisc", "show", "dev", &host_side(&result)]));
    assert!(shown.contains("tbf") && shown.contains("8Mbit"), "{shown}");
    bandwidth.del(&pod).unwrap();
    runtime.check(&pod, &result).unwrap();
}

#[test]
fn status_and_garbage_collection_answer_in_version_1_1_only() {
    let mut node = Node::new();
    let ask = |node: &Node, verb: &str, version: &str| {
        let mut conf = node.runtime().conf;
        conf["cniVersion"] = json!(version);
        node.runtime().call(verb, "", "", &conf)
    };

    ask(&node, "STATUS", "1.1.0").unwrap();
    let forgetful = ask(&node, "GC", "1.1.0");
    assert!(forgetful.code() == 7 && forgetful.message().contains("cni.dev/valid-attachments"));
    assert_eq!(ask(&node, "STATUS", "1.0.0").code(), 1);
    assert_eq!(ask(&node, "GC", "0.4.0").code(), 1);
    node.stop_felix();
    let answer = ask(&node, "STATUS", "1.1.0");
    assert!(answer.code() == 50 && answer.message().contains("felix.sock"), "{}", answer.message());
}

#[test]
fn garbage_collection_lets_go_what_the_runtime_has_no_more() {
    let node = Node::new();
    let mut runtime = node.runtime();
    runtime.conf["cniVersion"] = json!("1.1.0");
    let (stays, goes) = (Container::new("stays"), Container::new("goes"));
    runtime.add(&goes).unwrap();
    runtime.args = runtime.args.replace("NAME=web", "NAME=db");
    let result = runtime.add(&stays).unwrap();
    let mut conf = runtime.conf.clone();
    conf["cni.dev/valid-attachments"] = json!([{"containerID": "stays", "ifname": "eth0"}]);

    for _ in 0..2 {
        runtime.call("GC", "", "", &conf).unwrap();
    }

    assert_eq!(node.pod_links(), [host_side(&result)]);
    assert_eq!(node.felix().addresses.keys().collect::<Vec<_>>(), ["stays"]);
    runtime.check(&stays, &result).unwrap();
}

#[test]
fn a_socket_that_is_not_the_agents_is_not_talked_to() {
    let node = Node::new();
    let (pod, runtime) = (Container::new("c1"), node.runtime());
    let refused = |what: &str| {
        let answer = runtime.add(&pod);
        assert!(answer.code() == 7 && answer.message().contains(what), "{}", answer.message());
    };
    let socket = node.socket();
    let mode = |mode| fs::set_permissions(&socket, fs::Permissions::from_mode(mode)).unwrap();

    mode(0o666);
    refused("mode 666");
    mode(0o600);
    std::os::unix::fs::chown(&socket, Some(1000), None).unwrap();
    refused("user 1000");
    std::os::unix::fs::chown(&socket, Some(0), None).unwrap();
    assert!(node.felix().calls.is_empty());
    runtime.add(&pod).unwrap();
}

#[test]
fn an_agent_that_hangs_is_given_up() {
    let mut node = Node::new();
    node.stop_felix();
    let _silent = UnixListener::bind(node.socket()).unwrap();
    let mut conf = node.runtime().conf;
    conf["cniVersion"] = json!("1.1.0");

    let answer = node.runtime().call("STATUS", "", "", &conf);

    assert!(
        answer.code() == 50 && answer.message().contains("did not answer in time"),
        "{}",
        answer.message()
    );
}

#[test]
fn a_full_disk_fails_the_del_that_would_be_forgotten() {
    let mut node = Node::new();
    let pod = Container::new("c1");
    let result = node.runtime().add(&pod).unwrap();
    node.stop_felix();
    // Where a file stands no directory can be made, whoever asks.
    fs::write(node.directory.join("cni-del"), "").unwrap();
    let mut conf = node.runtime().conf;
    conf["prevResult"] = result;

    let answer = node.runtime().call("DEL", &pod.id, &pod.path, &conf);

    assert!(answer.code() == 5 && answer.message().contains("cni-del"), "{}", answer.message());
    assert_eq!(node.pod_links(), [""; 0], "it is out of service all the same");
    fs::remove_file(node.directory.join("cni-del")).unwrap();
    node.runtime().call("DEL", &pod.id, &pod.path, &conf).unwrap();
    assert!(node.directory.join("cni-del/c1").exists());
}

#[test]
fn host_local_takes_the_nodes_own_subnet() {
    let mut node = Node::new();
    let pod = Container::new("c1");
    let mut runtime = node.runtime();
    let leases = node.directory.join("leases");
    runtime.conf["ipam"] = json!({"type": "host-local", "subnet": "usePodCidr", "dataDir": leases});

    let result = runtime.add(&pod).unwrap();

    let address = result["ips"][0]["address"].as_str().unwrap().to_owned();
    assert!(address.starts_with("10.99.0."), "{address}");
    runtime.check(&pod, &result).unwrap();
    let conf = runtime.conf.clone();
    drop(runtime);
    node.stop_felix();
    node.runtime().call("DEL", &pod.id, &pod.path, &conf).unwrap();
    let held = fs::read_dir(leases.join("k8s-pod-network")).unwrap().filter(is_lease).count();
    assert_eq!(held, 0, "also while the agent is away");
}

#[test]
fn version_needs_neither_agent_nor_configuration() {
    let mut node = Node::new();
    node.stop_felix();

    for (conf, expected) in [
        (json!({"cniVersion": "0.4.0"}), "0.4.0"),
        (json!({"cniVersion": "9.9.9"}), "1.1.0"),
        (json!(null), "1.1.0"),
    ] {
        let answer = node.runtime().call("VERSION", "", "", &conf).unwrap();

        assert_eq!(answer["cniVersion"], expected);
        assert_eq!(answer["supportedVersions"].as_array().unwrap().len(), 7);
    }
}

#[test]
fn calico_ipam_serves_other_plugins() {
    let mut node = Node::new();
    let pod = Container::new("c1");
    let mut runtime = node.runtime();
    runtime.binary = env!("CARGO_BIN_EXE_calico-ipam").into();

    let result = runtime.add(&pod).unwrap();

    assert_eq!(result, json!({"cniVersion": "1.0.0", "ips": [{"address": "10.65.0.1/32"}], "dns": {}}));
    runtime.check(&pod, &result).unwrap();
    runtime.del(&pod).unwrap();
    assert!(node.felix().addresses.is_empty());
    node.stop_felix();
    let conf = node.runtime().conf;
    let mut runtime = node.runtime();
    runtime.binary = env!("CARGO_BIN_EXE_calico-ipam").into();
    runtime.call("DEL", "c1", "", &conf).unwrap();
    assert!(node.directory.join("cni-del/c1").exists());
}

#[test]
fn bad_input_is_answered_with_the_specifications_codes() {
    let node = Node::new();
    let runtime = node.runtime();
    let answer = |verb: &str, id: &str, conf: Value| runtime.call(verb, id, "/proc/self/ns/net", &conf);

    assert_eq!(answer("JUMP", "c1", runtime.conf.clone()).code(), 4);
    assert_eq!(answer("ADD", "../c1", runtime.conf.clone()).code(), 4);
    assert_eq!(answer("ADD", "c1", json!("text")).code(), 6);
    assert_eq!(answer("ADD", "c1", json!({"cniVersion": "3.0.0", "name": "n"})).code(), 1);
    let wrong = answer("ADD", "c1", json!({"cniVersion": "0.3.1", "name": "n", "mtu": "x"}));
    assert_eq!((wrong.code(), &wrong.json["cniVersion"]), (7, &json!("0.3.1")));
}

fn host_side(result: &Value) -> String {
    result["interfaces"][0]["name"].as_str().expect("the node's side comes first").to_owned()
}

/// One answer is enough: on a busy machine the first packet of IPv6 may go before the kernel has noticed the carrier.
const PING6: [&str; 5] = ["-c10", "-i0.2", "-w5", "-q", "2001:db8::1"];

/// Links in use on either side, files, addresses.
fn assert_nothing_left(node: &Node, pod: &Container) {
    assert_eq!(node.pod_links(), [""; 0]);
    assert!(!Path::new(&node.directory.join("cni-del")).exists());
    let up = pod.inside(|| run("ip", &["-o", "link", "show", "up"]));
    let carrier = up.lines().any(|line| line.contains("eth0") && line.contains("LOWER_UP"));
    assert!(!carrier, "{up}");
    if let Some(felix) = &node.felix {
        let held: Vec<(String, Vec<IpAddr>)> = felix.state().addresses.clone().into_iter().collect();
        assert_eq!(held, []);
    }
}

/// host-local keeps a lock and a pointer beside its leases.
fn is_lease(entry: &std::io::Result<fs::DirEntry>) -> bool {
    let name = entry.as_ref().unwrap().file_name();
    name.to_string_lossy().parse::<IpAddr>().is_ok()
}
