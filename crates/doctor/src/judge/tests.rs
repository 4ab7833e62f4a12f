//! One row a finding: what is changed in the facts of a node that is well, and what is then found.

use std::net::IpAddr;

use super::judge;
use crate::Severity::{Error, Info, Warning};
use crate::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn link(name: &str, mtu: u32) -> Link {
    Link { name: name.into(), up: true, mtu, addresses: Vec::new() }
}

fn route(destination: &str, interface: &str, protocol: u8) -> Route {
    Route { destination: destination.into(), interface: interface.into(), gateway: None, protocol }
}

/// A node on which nothing is wrong.
fn well() -> Facts {
    let candidate =
        |link: &str, address: &str| Candidate { link: link.into(), address: ip(address), length: 24 };
    Facts {
        node: "n1".into(),
        kernel: "6.1".into(),
        felix: Agent { answers: true, complaints: Vec::new() },
        speaker: Agent { answers: true, complaints: Vec::new() },
        addresses: vec![Chosen {
            address: Some(ip("192.0.2.1")),
            method: "kubernetes-internal-ip".into(),
            candidates: vec![candidate("eth0", "192.0.2.1"), candidate("docker0", "172.17.0.1")],
        }],
        links: vec![link("eth0", 1500), link("tunl0", 1480), link("cali1", 1480)],
        routes: vec![route("10.65.0.1/32", "cali1", 3), route("10.65.1.0/26", "tunl0", 12)],
        paths: vec![Path {
            to: ip("192.0.2.2"),
            name: "n2".into(),
            interface: "eth0".into(),
            interface_mtu: 1500,
            fits: Some(1500),
        }],
        sessions: vec![session("", "Established")],
        sysctls: Sysctls {
            ip_forward: Some("1".into()),
            ipv6_forwarding: Some("0".into()),
            rp_filter: [("all", 0), ("eth0", 2), ("tunl0", 2), ("cali1", 1)]
                .map(|(name, value)| (name.to_owned(), value))
                .into(),
        },
        rules: Some(RuleFacts {
            nft: Rules { ours: 12, others: 3, names: vec!["KUBE-SERVICES".into()] },
            ..RuleFacts::default()
        }),
        cni: Some(CniFacts {
            directory: "/etc/cni/net.d".into(),
            files: vec![conf("10-calico.conflist", "calico")],
        }),
        encapsulations: Some(vec!["ipip".into()]),
        modules: ["nf_conntrack", "nf_tables", "ip_set", "ipip"]
            .map(|name| (name.to_owned(), Module::Present))
            .into(),
        conntrack: Some(Conntrack { count: 10, max: 1000 }),
        clock_synchronised: Some(true),
        clock_ahead_ms: Some(-20),
        ..Facts::default()
    }
}

fn conf(name: &str, plugin: &str) -> CniFile {
    CniFile { name: name.into(), plugins: vec![plugin.into()] }
}

fn session(cause: &str, state: &str) -> Session {
    Session {
        peer: "192.0.2.9".into(),
        description: "BGPPeer tor".into(),
        state: state.into(),
        seconds: 60,
        cause: cause.into(),
        ..Session::default()
    }
}

type Row = (&'static str, fn(&mut Facts), Severity, &'static str, &'static str);

/// What is wrong, how that looks in the facts, and what is found: severity, check, a part of the command that mends it.
const TABLE: &[Row] = &[
    ("no address", |f| f.addresses[0].address = None, Error, "node-address", "IP_AUTODETECTION_METHOD"),
    (
        "address of no link",
        |f| f.addresses[0].address = Some(ip("192.0.2.7")),
        Error,
        "node-address",
        "kubectl annotate node n1 projectcalico.org/IPv4Address-",
    ),
    (
        "address of containers",
        |f| f.addresses[0].address = Some(ip("172.17.0.1")),
        Error,
        "node-address",
        "IP_AUTODETECTION_METHOD",
    ),
    ("address of a dead link", |f| f.links[0].up = false, Error, "node-address", "ip link set dev eth0 up"),
    (
        "address found first",
        |f| {
            f.addresses[0].method = "first-found".into();
            f.addresses[0].candidates.push(Candidate {
                link: "eth1".into(),
                address: ip("198.51.100.1"),
                length: 24,
            });
        },
        Warning,
        "node-address",
        "interface=REGEX",
    ),
    ("felix is silent", |f| f.felix.answers = false, Error, "agent-felix", "logs -c felix"),
    ("the speaker is silent", |f| f.speaker.answers = false, Error, "agent-bird-lite", "logs -c bird-lite"),
    (
        "the speaker complains",
        |f| f.speaker.complaints = vec!["port 179 is taken".into()],
        Warning,
        "agent-bird-lite",
        "",
    ),
    (
        "wrong AS",
        |f| f.sessions = vec![session("wrong AS: expected 64513, got 64600", "Idle")],
        Error,
        "bgp-as",
        "kubectl patch bgppeer tor --type merge -p '{\"spec\":{\"asNumber\":64600}}'",
    ),
    (
        "AS refused",
        |f| f.sessions = vec![session("received OPEN error: the peer expects another AS of us", "Idle")],
        Error,
        "bgp-as",
        "asNumber",
    ),
    (
        "MD5",
        |f| {
            f.sessions = vec![session(
                "TCP connect timed out: MD5 mismatch suspected, or host down, or firewall",
                "Active",
            )]
        },
        Error,
        "bgp-md5",
        "bgppeer tor",
    ),
    (
        "MD5 of the peer",
        |f| {
            f.sessions = vec![session(
                "TCP connect timed out: the host is down, a firewall drops, or the peer expects a password",
                "Active",
            )]
        },
        Error,
        "bgp-md5",
        "ping",
    ),
    (
        "no Secret",
        |f| f.sessions = vec![session("the password is missing: Secret a has no key b", "Idle")],
        Error,
        "bgp-md5",
        "Secret",
    ),
    (
        "TTL",
        |f| f.sessions = vec![session("cannot set TTL security", "Idle")],
        Error,
        "bgp-ttl",
        "ttlSecurity",
    ),
    (
        "nobody listens",
        |f| f.sessions = vec![session("TCP connection refused: no BGP speaker listens there", "Active")],
        Error,
        "bgp-refused",
        "192.0.2.9",
    ),
    (
        "unknown to the peer",
        |f| {
            f.sessions = vec![session(
                "the peer closed the connection before OPEN: are we configured on it?",
                "Active",
            )]
        },
        Error,
        "bgp-unknown",
        "configure 192.0.2.1 as a neighbour",
    ),
    (
        "disabled",
        |f| f.sessions = vec![session("disabled by the operator", "Idle")],
        Error,
        "bgp-disabled",
        "ocicat bgp enable 192.0.2.9",
    ),
    (
        "too many prefixes",
        |f| f.sessions = vec![session("max-prefix: 9 of 5 IPv4 routes", "Idle")],
        Error,
        "bgp-max-prefix",
        "bgp enable",
    ),
    (
        "another cause",
        |f| f.sessions = vec![session("something new", "Idle")],
        Error,
        "bgp-session",
        "ocicat bgp neighbor",
    ),
    ("small path", |f| f.paths[0].fits = Some(1400), Error, "path-mtu", "ip link set dev eth0 mtu 1400"),
    (
        "path that is enough",
        |f| {
            f.paths[0].interface_mtu = 9000;
            f.links[0].mtu = 9000;
        },
        Warning,
        "path-mtu",
        "mtu 1500",
    ),
    ("silent path", |f| f.paths[0].fits = None, Warning, "path-silent", "ping"),
    (
        "small link",
        |f| {
            f.paths[0].interface_mtu = 1400;
            f.paths[0].fits = Some(1400);
        },
        Error,
        "link-mtu",
        "ip link set dev eth0 mtu 1500",
    ),
    ("small tunnel", |f| f.links[1].mtu = 1400, Error, "tunnel-mtu", "ip link set dev tunl0 mtu 1480"),
    (
        "a tunnel with a larger header",
        |f| {
            f.links.push(link("vxlan.calico", 1480));
            f.routes.push(route("10.65.2.0/26", "vxlan.calico", 80));
        },
        Error,
        "link-mtu",
        "ip link set dev eth0 mtu 1530",
    ),
    ("dead tunnel", |f| f.links[1].up = false, Error, "tunnel-down", "ip link set dev tunl0 up"),
    (
        "no forwarding",
        |f| f.sysctls.ip_forward = Some("0".into()),
        Error,
        "ip-forward",
        "sysctl -w net.ipv4.ip_forward=1",
    ),
    (
        "no forwarding of IPv6",
        |f| f.routes.push(route("fd00::1/128", "cali1", 3)),
        Error,
        "ip-forward",
        "net.ipv6.conf.all.forwarding=1",
    ),
    (
        "strict uplink",
        |f| _ = f.sysctls.rp_filter.insert("eth0".into(), 1),
        Warning,
        "rp-filter",
        "sysctl -w net.ipv4.conf.eth0.rp_filter=2",
    ),
    (
        "strict tunnel",
        |f| _ = f.sysctls.rp_filter.insert("tunl0".into(), 1),
        Error,
        "rp-filter",
        "net.ipv4.conf.tunl0.rp_filter=2",
    ),
    (
        "no ipip",
        |f| _ = f.modules.insert("ipip".into(), Module::Missing),
        Error,
        "kernel-feature",
        "linux-modules-extra-6.1",
    ),
    (
        "no ipip, and no pool that asks for it",
        |f| {
            f.modules.insert("ipip".into(), Module::Missing);
            f.encapsulations = Some(Vec::new());
        },
        Info,
        "kernel-feature",
        "linux-modules-extra-6.1",
    ),
    (
        "no VXLAN, and nobody says whether a pool asks for it",
        |f| {
            f.modules.insert("vxlan".into(), Module::Missing);
            f.encapsulations = None;
        },
        Info,
        "kernel-feature",
        "linux-modules-extra-6.1",
    ),
    (
        "no WireGuard",
        |f| {
            f.modules.insert("wireguard".into(), Module::Missing);
            f.encapsulations = Some(vec!["wireguard".into()]);
        },
        Error,
        "kernel-feature",
        "linux-modules-extra-6.1",
    ),
    (
        "ipip not loaded",
        |f| _ = f.modules.insert("ipip".into(), Module::Loadable),
        Info,
        "kernel-feature",
        "modprobe ipip",
    ),
    (
        "no way for policy",
        |f| {
            f.modules.insert("nf_tables".into(), Module::Missing);
            f.modules.insert("ip_set".into(), Module::Missing);
        },
        Error,
        "kernel-feature",
        "",
    ),
    (
        "many connections",
        |f| f.conntrack = Some(Conntrack { count: 850, max: 1000 }),
        Warning,
        "conntrack-full",
        "nf_conntrack_max=2000",
    ),
    (
        "full of connections",
        |f| f.conntrack = Some(Conntrack { count: 999, max: 1000 }),
        Error,
        "conntrack-full",
        "nf_conntrack_max=2000",
    ),
    (
        "many files",
        |f| f.descriptors = vec![Descriptors { process: "felix".into(), open: 900, limit: 1000 }],
        Warning,
        "descriptors",
        "--nofile=4000:4000",
    ),
    (
        "little memory",
        |f| {
            f.cgroup =
                CgroupFacts { memory: Some(95 << 20), memory_max: Some(100 << 20), ..CgroupFacts::default() }
        },
        Warning,
        "memory",
        "memory=200Mi",
    ),
    ("killed", |f| f.cgroup.oom_kills = 1, Warning, "memory", "--limits"),
    (
        "many tasks",
        |f| f.cgroup = CgroupFacts { tasks: Some(99), tasks_max: Some(100), ..CgroupFacts::default() },
        Warning,
        "tasks",
        "podPidsLimit",
    ),
    ("clock ahead", |f| f.clock_ahead_ms = Some(8_000), Warning, "clock", "chronyc"),
    ("clock far behind", |f| f.clock_ahead_ms = Some(-90_000), Error, "clock", "chronyc"),
    ("clock of nobody", |f| f.clock_synchronised = Some(false), Info, "clock", "chrony"),
    (
        "two engines",
        |f| f.rules.as_mut().unwrap().legacy.ours = 3,
        Error,
        "mixed-backend",
        "iptables-legacy-save",
    ),
    (
        "others' other engine",
        |f| f.rules.as_mut().unwrap().legacy.others = 3,
        Warning,
        "mixed-backend",
        "iptables-legacy -t $t -F",
    ),
    (
        "our other engine",
        |f| {
            let rules = f.rules.as_mut().unwrap();
            (rules.legacy.ours, rules.nft.ours) = (9, 0);
        },
        Warning,
        "mixed-backend",
        "\"iptablesBackend\":\"NFT\"",
    ),
    (
        "firewalld's table",
        |f| f.rules.as_mut().unwrap().tables.push("inet firewalld".into()),
        Error,
        "firewalld",
        "systemctl disable --now firewalld",
    ),
    (
        "firewalld's process",
        |f| _ = f.meddlers.insert("firewalld".into(), None),
        Error,
        "firewalld",
        "systemctl disable",
    ),
    (
        "NetworkManager",
        |f| _ = f.meddlers.insert("NetworkManager".into(), Some(false)),
        Warning,
        "network-manager",
        "unmanaged-devices",
    ),
    (
        "another network first",
        |f| f.cni.as_mut().unwrap().files.insert(0, conf("05-cilium.conflist", "cilium-cni")),
        Error,
        "foreign-conflist",
        "mv /etc/cni/net.d/05-cilium.conflist /etc/cni/net.d/05-cilium.conflist.disabled",
    ),
    (
        "another network behind",
        |f| f.cni.as_mut().unwrap().files.push(conf("20-flannel.conflist", "flannel")),
        Warning,
        "foreign-conflist",
        ".disabled",
    ),
    ("no network", |f| f.cni.as_mut().unwrap().files.clear(), Error, "no-conflist", "rollout restart"),
    (
        "another network's link",
        |f| f.links.push(link("flannel.1", 1450)),
        Warning,
        "foreign-link",
        "ip link delete flannel.1",
    ),
    (
        "another network's chains",
        |f| f.rules.as_mut().unwrap().nft.names.push("FLANNEL-FWD".into()),
        Warning,
        "foreign-chains",
        "FLANNEL-",
    ),
    (
        "drift",
        |f| {
            f.differences = vec![Difference {
                kind: "routes".into(),
                entry: "10.65.0.1/32".into(),
                what: "missing".into(),
            }]
        },
        Error,
        "drift",
        "ocicat audit --node n1",
    ),
    (
        "leak",
        |f| {
            f.differences =
                vec![Difference { kind: "chains".into(), entry: "cali-x".into(), what: "unwanted".into() }]
        },
        Warning,
        "leaked-state",
        "ocicat audit",
    ),
    ("leaked link", |f| f.links.push(link("cali9", 1480)), Warning, "leaked-veth", "ip link delete cali9"),
    ("dead pod link", |f| f.links[2].up = false, Error, "leaked-route", "ip link set dev cali1 up"),
    ("unseen", |f| f.unseen = vec!["/lib/modules".into()], Info, "not-seen", ""),
];

#[test]
fn a_node_that_is_well_only_tells_its_address() {
    let found = judge(&well());

    let told: Vec<_> = found.iter().map(|finding| (finding.severity, finding.check.as_str())).collect();
    assert_eq!(told, [(Info, "node-address")], "{found:?}");
    assert!(
        found[0].what.contains("192.0.2.1/24 on eth0") && found[0].evidence.contains("docker0 172.17.0.1/24")
    );
}

#[test]
fn addresses_that_every_link_has_need_no_forwarding() {
    let mut facts = well();
    facts.routes.push(route("fe80::/64", "cali1", 2));

    let found = judge(&facts);

    assert!(found.iter().all(|finding| finding.check != "ip-forward"), "{found:#?}");
}

#[test]
fn each_thing_that_is_wrong_is_found_with_what_mends_it() {
    for (name, change, severity, check, mend) in TABLE {
        let mut facts = well();
        change(&mut facts);

        let found = judge(&facts);

        let is_it = |finding: &&Finding| {
            finding.check == *check && finding.severity == *severity && finding.mend.contains(mend)
        };
        assert!(found.iter().any(|finding| is_it(&finding)), "{name}: {found:#?}");
        assert!(
            found.iter().filter(|finding| finding.severity > Info).count() <= 1
                || *name == "no way for policy",
            "{name}: {found:#?}"
        );
        assert!(found.is_sorted_by_key(|finding| std::cmp::Reverse(finding.severity)), "{name}");
    }
}

#[test]
fn a_session_that_retires_or_has_just_begun_is_no_error() {
    let mut facts = well();
    facts.sessions = vec![Session { retiring: true, ..session("x", "Idle") }];
    assert_eq!(judge(&facts).len(), 1);

    facts.sessions = vec![Session { seconds: 2, ..session("not tried yet", "Idle") }];
    assert_eq!(judge(&facts)[0].severity, Warning);
}

#[test]
fn facts_of_another_release_are_understood_as_far_as_they_go() {
    let facts: Facts = serde_json::from_str(r#"{"node": "n1", "somethingNew": 7}"#).unwrap();

    assert_eq!(facts.node, "n1");
    let whole = serde_json::to_string(&well()).unwrap();
    assert_eq!(serde_json::from_str::<Facts>(&whole).unwrap(), well());
}
