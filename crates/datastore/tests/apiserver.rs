//! Against a real API server over TLS: what it refuses, how a watch survives it, how writers meet.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::Duration;

use apiserver::{ApiServer, Handle};
use datastore::crd::{ClusterInformation, ClusterInformationSpec, Tier, TierSpec};
use datastore::{AssignRequest, Datastore, Error, Interest, IpamClient, IpamError, NetworkState};
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use model::{AllowedUse, Secret, Update};
use serde_json::{Value, json};
use tokio::sync::mpsc::Receiver;

struct Cluster {
    server: ApiServer,
    handle: Option<Handle>,
    client: kube::Client,
}

impl Cluster {
    async fn empty() -> Self {
        let server = ApiServer::builder().build().unwrap();
        let handle = server.serve(vec![TcpListener::bind("127.0.0.1:0").unwrap()]).unwrap();
        let client = client(&server, &handle).await;
        Self { server, handle: Some(handle), client }
    }

    async fn with_definitions() -> Self {
        let cluster = Self::empty().await;
        for definition in datastore::crd::definitions() {
            cluster.create("apiextensions.k8s.io/v1", "CustomResourceDefinition", definition).await.unwrap();
        }
        cluster
    }

    fn datastore(&self) -> Datastore {
        Datastore::from_client(self.client.clone())
    }

    fn api(&self, version: &str, kind: &str, namespace: Option<&str>) -> Api<DynamicObject> {
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }

    async fn create(&self, version: &str, kind: &str, mut object: Value) -> kube::Result<DynamicObject> {
        object["apiVersion"] = json!(version);
        object["kind"] = json!(kind);
        let namespace = object["metadata"]["namespace"].as_str().map(str::to_owned);
        let api = self.api(version, kind, namespace.as_deref());
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        let params = PostParams { field_manager: Some("test".to_owned()), ..PostParams::default() };
        api.create(&params, &object).await
    }

    /// Creates one of our kinds.
    async fn make(&self, kind: &str, name: &str, spec: Value) -> kube::Result<DynamicObject> {
        let mut object = json!({"metadata": {"name": name}, "spec": spec});
        if kind == "NetworkPolicy" {
            object["metadata"]["namespace"] = json!("default");
        }
        self.create("projectcalico.org/v3", kind, object).await
    }

    async fn stop(&mut self) -> SocketAddr {
        let handle = self.handle.take().unwrap();
        let address = handle.addresses()[0];
        handle.stop().await;
        address
    }
}

async fn client(server: &ApiServer, handle: &Handle) -> kube::Client {
    let kubeconfig = Kubeconfig::from_yaml(&server.kubeconfig(&handle.url())).unwrap();
    let options = KubeConfigOptions::default();
    kube::Client::try_from(kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap()).unwrap()
}

const DEADLINE: Duration = Duration::from_secs(120);

/// Connections may keep the port of a listener that is closed for a moment.
async fn rebind(address: SocketAddr) -> TcpListener {
    let free = async {
        loop {
            match TcpListener::bind(address) {
                Ok(listener) => return listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    tokio::time::timeout(DEADLINE, free).await.expect("the port becomes free")
}

/// The next update for which `wanted` holds; all on the way are put into `seen`.
async fn until(updates: &mut Receiver<Update>, seen: &mut Vec<Update>, wanted: impl Fn(&Update) -> bool) {
    let wait = async {
        loop {
            let update = updates.recv().await.expect("the stream has no end");
            seen.push(update);
            if wanted(seen.last().unwrap()) {
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("not told in time; seen {seen:#?}"));
}

fn felix() -> Interest {
    Interest::felix("n1".into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_refused_and_the_field_is_named() {
    let cluster = Cluster::with_definitions().await;
    let pool = |extra: Value| merged(json!({"cidr": "10.65.0.0/16"}), extra);
    let peer = |extra: Value| merged(json!({"peerIP": "192.0.2.1", "asNumber": 64512}), extra);
    let filter = |rule: Value| json!({"importV4": [merged(json!({"action": "Accept"}), rule)]});
    let rule = |rule: Value| json!({"ingress": [merged(json!({"action": "Allow"}), rule)]});
    let refused = [
        ("IPPool", json!({}), "cidr"),
        ("IPPool", json!({"cidr": "10.65.0.0"}), "spec.cidr"),
        ("IPPool", json!({"cidr": "10.65.0.0/33"}), "spec.cidr"),
        ("IPPool", json!({"cidr": "169.254.0.0/16"}), "spec.cidr"),
        ("IPPool", json!({"cidr": "10.65.0.0/27"}), "cidr"),
        ("IPPool", pool(json!({"ipipMode": "Sometimes"})), "spec.ipipMode"),
        ("IPPool", pool(json!({"ipipMode": "Always", "vxlanMode": "Always"})), "exclude each other"),
        ("IPPool", json!({"cidr": "fd00::/48", "ipipMode": "Always"}), "ipipMode"),
        ("IPPool", pool(json!({"blockSize": 19})), "spec.blockSize"),
        ("IPPool", pool(json!({"blockSize": 33})), "blockSize"),
        ("IPPool", json!({"cidr": "fd00::/48", "blockSize": 26}), "blockSize"),
        ("IPPool", pool(json!({"nodeSelector": "a = 'b'"})), "spec.nodeSelector"),
        ("IPPool", pool(json!({"natOutgoing": "yes"})), "spec.natOutgoing"),
        ("IPPool", pool(json!({"allowedUses": ["LoadBalancer", "Workload"]})), "allowedUses"),
        ("BGPPeer", peer(json!({"asNumber": 4294967296i64})), "spec.asNumber"),
        ("BGPPeer", peer(json!({"asNumber": "one"})), "spec.asNumber"),
        ("BGPPeer", peer(json!({"peerIP": "1.2.3.4:70000"})), "spec.peerIP"),
        ("BGPPeer", peer(json!({"peerIP": "router"})), "spec.peerIP"),
        ("BGPPeer", peer(json!({"node": "a", "nodeSelector": "all()"})), "nodeSelector"),
        ("BGPPeer", peer(json!({"peerSelector": "all()"})), "peerSelector"),
        ("BGPPeer", json!({"peerIP": "192.0.2.1"}), "asNumber"),
        ("BGPPeer", json!({"asNumber": 1}), "peerIP"),
        ("BGPPeer", peer(json!({"reachableBy": "fd00::1"})), "reachableBy"),
        ("BGPPeer", peer(json!({"asNumber": "1.65536"})), "spec.asNumber"),
        ("BGPPeer", peer(json!({"ttlSecurity": 256})), "spec.ttlSecurity"),
        ("BGPPeer", peer(json!({"filters": ["no spaces"]})), "spec.filters[0]"),
        ("BGPPeer", peer(json!({"reversePeering": "Sometimes"})), "spec.reversePeering"),
        ("BGPPeer", json!({"localWorkloadSelector": "all()"}), "localWorkloadSelector"),
        ("BGPConfiguration", json!({}), "name"),
        ("BGPConfiguration", json!({"listenPort": 65536}), "spec.listenPort"),
        ("BGPConfiguration", json!({"asNumber": 0}), "spec.asNumber"),
        (
            "BGPConfiguration",
            json!({"serviceClusterIPs": [{"cidr": "10.96.0.0"}]}),
            "spec.serviceClusterIPs[0].cidr",
        ),
        (
            "BGPConfiguration",
            json!({"communities": [{"name": "a", "value": "65536:1"}]}),
            "spec.communities[0].value",
        ),
        ("BGPConfiguration", json!({"communities": [{"name": "a", "value": "1:1"}]}), "communities"),
        (
            "BGPConfiguration",
            json!({"prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["a b"]}]}),
            "spec.prefixAdvertisements[0].communities[0]",
        ),
        ("BGPConfiguration", json!({"logSeverityScreen": "Loud"}), "spec.logSeverityScreen"),
        ("BGPFilter", filter(json!({"cidr": "10.0.0.0/8"})), "matchOperator"),
        ("BGPFilter", filter(json!({"cidr": "fd00::/8", "matchOperator": "In"})), "spec.importV4[0].cidr"),
        (
            "BGPFilter",
            filter(json!({"cidr": "10.0.0.0/8", "matchOperator": "Inside"})),
            "spec.importV4[0].matchOperator",
        ),
        ("BGPFilter", filter(json!({"prefixLength": {"max": 33}})), "spec.importV4[0].prefixLength.max"),
        ("BGPFilter", filter(json!({"prefixLength": {"min": 9, "max": 8}})), "min is greater than max"),
        (
            "BGPFilter",
            filter(json!({"interface": "an-interface-that-is-long"})),
            "spec.importV4[0].interface",
        ),
        ("BGPFilter", filter(json!({"peerType": "ebgp"})), "spec.importV4[0].peerType"),
        (
            "BGPFilter",
            filter(json!({"communities": {"values": ["1:70000"]}})),
            "spec.importV4[0].communities.values[0]",
        ),
        ("BGPFilter", filter(json!({"action": "Drop"})), "spec.importV4[0].action"),
        (
            "BGPFilter",
            filter(json!({"action": "Reject", "operations": [{"setPriority": {"value": 1}}]})),
            "operations",
        ),
        ("BGPFilter", filter(json!({"operations": [{}]})), "exactly one of"),
        ("BGPFilter", filter(json!({"priority": 0})), "spec.importV4[0].priority"),
        ("FelixConfiguration", json!({"routeRefreshInterval": "soon"}), "spec.routeRefreshInterval"),
        (
            "FelixConfiguration",
            json!({"defaultEndpointToHostAction": "Bounce"}),
            "spec.defaultEndpointToHostAction",
        ),
        ("IPAMConfiguration", json!({}), "name"),
        ("GlobalNetworkPolicy", json!({"selector": "a == b"}), "spec.selector"),
        ("GlobalNetworkPolicy", json!({"doNotTrack": true}), "applyOnForward"),
        ("GlobalNetworkPolicy", rule(json!({"action": "allow"})), "spec.ingress[0].action"),
        ("GlobalNetworkPolicy", rule(json!({"protocol": "TCPP"})), "spec.ingress[0].protocol"),
        (
            "NetworkPolicy",
            rule(json!({"source": {"nets": ["10.0.0.0/40"]}})),
            "spec.ingress[0].source.nets[0]",
        ),
        (
            "NetworkPolicy",
            rule(json!({"destination": {"ports": [70000]}})),
            "spec.ingress[0].destination.ports[0]",
        ),
        ("NetworkPolicy", json!({"types": ["Ingress", "Ingress"]}), "spec.types"),
    ];
    for (index, (kind, spec, field)) in refused.into_iter().enumerate() {
        let error = match cluster.make(kind, &format!("bad-{index}"), spec.clone()).await {
            Ok(_) => panic!("{kind} {spec} was accepted"),
            Err(error) => error.to_string(),
        };
        assert!(error.contains(field), "{kind} {spec}: {error}");
    }
}

fn merged(mut base: Value, extra: Value) -> Value {
    for (key, value) in extra.as_object().unwrap() {
        base[key] = value.clone();
    }
    base
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_people_write_is_accepted_and_some_of_it_never_changes() {
    let cluster = Cluster::with_definitions().await;
    let accepted = [
        (
            "IPPool",
            "a",
            json!({"cidr": "10.65.0.0/16", "ipipMode": "CrossSubnet", "natOutgoing": true, "blockSize": 26}),
        ),
        ("IPPool", "b", json!({"cidr": "fd00::/48", "nodeSelector": "zone in {'a', 'b'} && !has(x)"})),
        ("IPPool", "c", json!({"cidr": "10.66.0.0/27", "disabled": true})),
        (
            "BGPPeer",
            "a",
            json!({"peerIP": "192.0.2.1:1790", "asNumber": 4294967295u32, "nodeSelector": "rack == 'r1'", "password": {"secretKeyRef": {"name": "s", "key": "k"}}, "filters": ["f"], "keepaliveTime": "20s"}),
        ),
        ("BGPPeer", "b", json!({"peerSelector": "has(rr)", "nodeSelector": "!has(rr)"})),
        (
            "BGPConfiguration",
            "default",
            json!({"asNumber": 65000, "nodeToNodeMeshEnabled": false, "serviceClusterIPs": [{"cidr": "10.96.0.0/12"}]}),
        ),
        ("BGPConfiguration", "node.n1", json!({"listenPort": 1790, "bindMode": "NodeIP"})),
        ("BGPPeer", "c", json!({"peerIP": "2001:db8::1", "asNumber": "1.10", "reachableBy": "2001:db8::2"})),
        (
            "BGPFilter",
            "everything",
            json!({
                "importV4": [{
                    "cidr": "10.0.0.0/8", "matchOperator": "NotIn", "prefixLength": {"min": 24, "max": 32},
                    "source": "RemotePeers", "interface": "*.calico", "peerType": "iBGP",
                    "communities": {"values": ["4294967295:1:2"]}, "asPathPrefix": [65001, "1.0"],
                    "priority": 512, "action": "Accept",
                    "operations": [{"addCommunity": {"value": "65000:1"}}, {"prependASPath": {"prefix": [65010]}}],
                }],
                "exportV6": [{"action": "Reject"}],
            }),
        ),
        (
            "FelixConfiguration",
            "default",
            json!({"logSeverityScreen": "Info", "ipipEnabled": true, "reportingInterval": "0s", "bpfEnabled": false, "mtuIfacePattern": "eth.*"}),
        ),
        ("IPAMConfiguration", "default", json!({"strictAffinity": true, "autoAllocateBlocks": true})),
        ("Tier", "platform", json!({"order": 100})),
        (
            "GlobalNetworkPolicy",
            "a",
            json!({"tier": "platform", "order": 1.5, "selector": "all()", "types": ["Ingress", "Egress"], "ingress": [{"action": "Deny", "protocol": 6, "source": {"nets": ["10.0.0.0/8", "192.0.2.1"]}, "destination": {"ports": [80, "81:82", "http"]}}]}),
        ),
        (
            "NetworkPolicy",
            "a",
            json!({"egress": [{"action": "Allow", "destination": {"services": {"name": "web"}}}]}),
        ),
    ];
    for (kind, name, spec) in accepted {
        let created = cluster.make(kind, name, spec.clone()).await;
        created.unwrap_or_else(|error| panic!("{kind} {spec}: {error}"));
    }
    let api = cluster.api("projectcalico.org/v3", "IPPool", None);
    let defaulted = api.get("b").await.unwrap().data["spec"].clone();
    assert_eq!(defaulted["ipipMode"], "Never");
    assert_eq!(defaulted["allowedUses"], json!(["Workload", "Tunnel"]));
    for (pool, spec, field) in [
        ("a", json!({"cidr": "10.67.0.0/16"}), "cidr cannot change"),
        ("a", json!({"blockSize": 27}), "blockSize cannot change"),
        ("b", json!({"blockSize": 123}), "blockSize cannot change"),
    ] {
        let patch = Patch::Merge(json!({"spec": spec}));
        let error = api.patch(pool, &PatchParams::default(), &patch).await.unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }
    api.patch("a", &PatchParams::default(), &Patch::Merge(json!({"spec": {"ipipMode": "Always"}})))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_fields_are_refused_when_asked_to_be_strict() {
    let cluster = Cluster::with_definitions().await;
    let body = json!({"apiVersion": "projectcalico.org/v3", "kind": "BGPPeer", "metadata": {"name": "p"},
        "spec": {"peerIP": "192.0.2.1", "asNumber": 1, "asNumer": 2}});
    let request = http::Request::post("/apis/projectcalico.org/v3/bgppeers?fieldValidation=Strict")
        .header("content-type", "application/json")
        .body(serde_json::to_vec(&body).unwrap())
        .unwrap();

    let error = cluster.client.request::<Value>(request).await.unwrap_err().to_string();

    assert!(error.contains("spec.asNumer"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_survives_the_api_server_and_tells_only_what_differs() {
    let mut cluster = Cluster::with_definitions().await;
    cluster.make("IPPool", "stays", json!({"cidr": "10.65.0.0/16"})).await.unwrap();
    cluster.make("IPPool", "goes", json!({"cidr": "10.66.0.0/16"})).await.unwrap();
    let mut updates = cluster.datastore().watch(felix());
    let mut seen = Vec::new();
    until(&mut updates, &mut seen, |update| *update == Update::InSync).await;
    let pools = |seen: &[Update]| -> BTreeSet<String> {
        let name = |update: &Update| match update {
            Update::Pool(name, Some(_)) => Some(name.clone()),
            _ => None,
        };
        seen.iter().filter_map(name).collect()
    };
    assert_eq!(pools(&seen), ["goes".to_owned(), "stays".to_owned()].into());

    // While nobody answers at the old address, somebody else changes the cluster through another door.
    let address = cluster.stop().await;
    let door = cluster.server.serve(vec![TcpListener::bind("127.0.0.1:0").unwrap()]).unwrap();
    cluster.client = client(&cluster.server, &door).await;
    let api = cluster.api("projectcalico.org/v3", "IPPool", None);
    api.delete("goes", &Default::default()).await.unwrap();
    cluster.make("IPPool", "comes", json!({"cidr": "10.67.0.0/16"})).await.unwrap();
    cluster.handle = Some(cluster.server.serve(vec![rebind(address).await]).unwrap());

    let mut after = Vec::new();
    until(
        &mut updates,
        &mut after,
        |update| matches!(update, Update::Pool(name, Some(_)) if name == "comes"),
    )
    .await;
    let gone = Update::Pool("goes".to_owned(), None);
    if !after.contains(&gone) {
        until(&mut updates, &mut after, |update| *update == gone).await;
    }
    assert_eq!(pools(&after), ["comes".to_owned()].into(), "{after:#?}");
    assert!(!after.contains(&Update::InSync));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_our_kinds_is_in_sync_and_learns_of_them_later() {
    let cluster = Cluster::empty().await;
    let mut updates = cluster.datastore().watch(Interest::speaker("n1".into(), Default::default()));
    let mut seen = Vec::new();
    until(&mut updates, &mut seen, |update| *update == Update::InSync).await;

    for definition in datastore::crd::definitions() {
        cluster.create("apiextensions.k8s.io/v1", "CustomResourceDefinition", definition).await.unwrap();
    }
    cluster.make("IPPool", "late", json!({"cidr": "10.65.0.0/16"})).await.unwrap();

    until(&mut updates, &mut seen, |update| matches!(update, Update::Pool(name, Some(_)) if name == "late"))
        .await;
}

fn one(handle: String) -> AssignRequest {
    AssignRequest { ipv4: 1, ..AssignRequest::new(handle, AllowedUse::Workload) }
}

async fn node(cluster: &Cluster, name: &str) -> IpamClient {
    cluster.create("v1", "Node", json!({"metadata": {"name": name}})).await.unwrap();
    IpamClient::new(&cluster.datastore(), name.into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_ask_at_once_never_get_one_address_twice() {
    let cluster = Cluster::with_definitions().await;
    // Four blocks of four for three nodes that want five each: they claim, collide and borrow.
    cluster.make("IPPool", "small", json!({"cidr": "10.65.0.0/28", "blockSize": 30})).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..3 {
        let client = node(&cluster, &format!("n{index}")).await;
        for pod in 0..5 {
            let client = client.clone();
            let handle = format!("k8s-pod-network.{index}-{pod}");
            tasks.spawn(async move {
                let first = client.assign(&one(handle.clone())).await.unwrap();
                let again = client.assign(&one(handle.clone())).await.unwrap();
                assert_eq!(first, again, "{handle}");
                (client, handle, first[0])
            });
        }
    }
    let given = tasks.join_all().await;
    let addresses: BTreeSet<IpAddr> = given.iter().map(|(_, _, address)| *address).collect();
    assert_eq!(addresses.len(), 15);

    let (client, _, _) = &given[0];
    client.assign(&one("last".to_owned())).await.unwrap();
    let error = client.assign(&one("too-many".to_owned())).await.unwrap_err().to_string();
    assert!(error.contains("pool small") && error.contains("no free address"), "{error}");
    for (client, handle, address) in &given {
        assert_eq!(client.release_by_handle(handle).await.unwrap(), [*address], "{handle}");
        assert_eq!(client.release_by_handle(handle).await.unwrap(), [] as [IpAddr; 0]);
    }
    client.release_by_handle("last").await.unwrap();
    let handles =
        cluster.api("projectcalico.org/v3", "IPAMHandle", None).list(&Default::default()).await.unwrap();
    assert_eq!(handles.items.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_one_family_has_none_the_other_is_taken_back() {
    let cluster = Cluster::with_definitions().await;
    cluster.make("IPPool", "four", json!({"cidr": "10.65.0.0/24"})).await.unwrap();
    let client = node(&cluster, "n1").await;

    let error = client.assign(&AssignRequest { ipv6: 1, ..one("dual".to_owned()) }).await.unwrap_err();

    assert!(matches!(error, IpamError::Assign(_)), "{error}");
    assert_eq!(client.release_by_handle("dual").await.unwrap(), [] as [IpAddr; 0]);
    let blocks =
        cluster.api("projectcalico.org/v3", "IPAMBlock", None).list(&Default::default()).await.unwrap();
    let attributes = blocks.items[0].data["spec"]["attributes"].as_array().unwrap();
    assert!(attributes.iter().all(|of| of["releasedAt"].is_string()), "at most it rests: {attributes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_says_its_address_and_that_its_network_is_up() {
    let cluster = Cluster::with_definitions().await;
    node(&cluster, "n1").await;
    let datastore = cluster.datastore();
    let annotations = BTreeMap::from([
        (datastore::convert::IPV4_ADDRESS, Some("192.0.2.11/24".to_owned())),
        (datastore::convert::IPIP_TUNNEL_ADDRESS, Some("10.65.0.1".to_owned())),
    ]);

    datastore.annotate_node(&"n1".into(), &annotations).await.unwrap();
    datastore.set_network_state(&"n1".into(), &NetworkState::Up, "2026-01-01T00:00:00Z").await.unwrap();

    let found = datastore.node(&"n1".into()).await.unwrap().unwrap();
    assert_eq!(found.ipv4.map(|address| address.length), Some(24));
    assert_eq!(found.tunnels.ipip, Some("10.65.0.1".parse().unwrap()));
    let object = cluster.api("v1", "Node", None).get("n1").await.unwrap();
    assert_eq!(object.data["status"]["conditions"][0]["reason"], "CalicoIsUp");
    let missing = datastore.annotate_node(&"n2".into(), &annotations).await.unwrap_err();
    assert!(matches!(missing, Error::NotFound { .. }), "{missing}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_cluster_gets_once_is_made_once() {
    let cluster = Cluster::with_definitions().await;
    let datastore = cluster.datastore();
    let tier = |order| Tier::new("default", TierSpec { order: Some(order), ..TierSpec::default() });

    assert_eq!(datastore.cluster_information().await.unwrap(), None);
    assert!(datastore.create_if_missing(&tier(1_000_000.0)).await.unwrap());
    assert!(!datastore.create_if_missing(&tier(1.0)).await.unwrap());
    let spec = ClusterInformationSpec { datastore_ready: Some(true), ..ClusterInformationSpec::default() };
    assert!(datastore.create_if_missing(&ClusterInformation::new("default", spec)).await.unwrap());
    datastore.describe_cluster("k8s,bgp,kdd", "v1").await.unwrap();

    let found = datastore.cluster_information().await.unwrap().unwrap();
    assert_eq!((found.cluster_type.as_deref(), found.datastore_ready), (Some("k8s,bgp,kdd"), Some(true)));
    let tiers: Api<Tier> = Api::all(cluster.client.clone());
    assert_eq!(tiers.get("default").await.unwrap().spec.order, Some(1_000_000.0));

    assert_eq!(datastore.kubeadm_pod_subnets().await.unwrap(), []);
    let text = "networking: {podSubnet: 10.244.0.0/16}";
    let map = json!({"metadata": {"name": "kubeadm-config", "namespace": "kube-system"},
        "data": {"ClusterConfiguration": text}});
    cluster.create("v1", "ConfigMap", map).await.unwrap();
    assert_eq!(datastore.kubeadm_pod_subnets().await.unwrap(), ["10.244.0.0/16".parse().unwrap()]);
}

fn is_service(update: &Update) -> bool {
    matches!(update, Update::Service(..) | Update::EndpointSlice(..))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_are_watched_once_the_settings_announce_them() {
    let cluster = Cluster::with_definitions().await;
    let service =
        json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {"ports": [{"port": 80}]}});
    cluster.create("v1", "Service", service).await.unwrap();
    let slice = json!({
        "metadata": {"name": "web-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.0.0.1"], "nodeName": "n1", "conditions": {"ready": true}}],
    });
    cluster.create("discovery.k8s.io/v1", "EndpointSlice", slice).await.unwrap();
    let mut updates = cluster.datastore().watch(Interest::speaker("n1".into(), Default::default()));
    let mut seen = Vec::new();
    until(&mut updates, &mut seen, |update| *update == Update::InSync).await;
    assert!(!seen.iter().any(is_service), "{seen:#?}");

    cluster
        .make("BGPConfiguration", "default", json!({"serviceClusterIPs": [{"cidr": "10.96.0.0/12"}]}))
        .await
        .unwrap();

    until(&mut updates, &mut seen, |update| matches!(update, Update::Service(_, Some(_)))).await;
    if !seen.iter().any(|update| matches!(update, Update::EndpointSlice(_, Some(_)))) {
        until(&mut updates, &mut seen, |update| matches!(update, Update::EndpointSlice(_, Some(_)))).await;
    }
    // Who comes later hears of them before it is told that it is in sync.
    let mut updates = cluster.datastore().watch(Interest::speaker("n2".into(), Default::default()));
    let mut seen = Vec::new();
    until(&mut updates, &mut seen, |update| *update == Update::InSync).await;
    let ours = seen.iter().filter(|update| is_service(update) && format!("{update:?}").contains("web"));
    assert_eq!(ours.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_secrets_that_are_asked_for_are_read_and_each_change_is_told() {
    let cluster = Cluster::empty().await;
    let (wanted, asked) = tokio::sync::watch::channel(BTreeSet::new());
    let mut found = cluster.datastore().watch_secrets("kube-system", asked);
    let secret = |name: &str, text: &str| json!({"metadata": {"name": name, "namespace": "kube-system"}, "stringData": {"bgp": text}});
    cluster.create("v1", "Secret", secret("other", "not asked for")).await.unwrap();
    let mut next = async || {
        let next = tokio::time::timeout(DEADLINE, found.recv()).await;
        next.expect("told in time").expect("the stream has no end")
    };

    wanted.send_replace(["rack".to_owned()].into());
    assert_eq!(next().await, ("rack".to_owned(), Secret::Absent));
    cluster.create("v1", "Secret", secret("rack", "opensesame\n")).await.unwrap();
    let present =
        |text: &str| Secret::Present([("bgp".to_owned(), model::Password::new(text.to_owned()))].into());
    assert_eq!(next().await, ("rack".to_owned(), present("opensesame")));
    let api = cluster.api("v1", "Secret", Some("kube-system"));
    let patch = Patch::Merge(json!({"stringData": {"bgp": "changed"}}));
    api.patch("rack", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(next().await, ("rack".to_owned(), present("changed")));
    api.delete("rack", &Default::default()).await.unwrap();
    assert_eq!(next().await, ("rack".to_owned(), Secret::Absent));

    wanted.send_replace(["other".to_owned()].into());
    assert_eq!(next().await, ("other".to_owned(), present("not asked for")));
}

#[tokio::test]
async fn a_node_tells_what_a_node_status_asks_it_and_makes_events() {
    use datastore::NodeEvent;
    use datastore::crd::{CalicoNodeStatus, CalicoNodeStatusStatus, NodeBgpStatus, NodeStatusClass};

    let cluster = Cluster::with_definitions().await;
    let datastore = cluster.datastore();
    let mut changes = datastore.watch_node_statuses("n1".into());
    let spec = |node: &str| json!({"node": node, "classes": ["Agent", "BGP"], "updatePeriodSeconds": 5});
    cluster.make("CalicoNodeStatus", "other", spec("n2")).await.unwrap();
    cluster.make("CalicoNodeStatus", "mine", spec("n1")).await.unwrap();

    let wait = Duration::from_secs(60);
    let (name, wanted) = tokio::time::timeout(wait, changes.recv()).await.unwrap().unwrap();
    let wanted = wanted.unwrap();
    assert_eq!((name.as_str(), wanted.update_period_seconds), ("mine", 5));
    assert_eq!(wanted.classes, [NodeStatusClass::Agent, NodeStatusClass::Bgp]);

    let bgp = NodeBgpStatus { number_established_v4: 7, ..NodeBgpStatus::default() };
    let status = CalicoNodeStatusStatus {
        last_updated: Some("2026-11-21T12:00:00Z".to_owned()),
        bgp: Some(bgp),
        ..CalicoNodeStatusStatus::default()
    };
    datastore.write_node_status("mine", &status).await.unwrap();
    let api: Api<CalicoNodeStatus> = Api::all(cluster.client.clone());
    assert_eq!(api.get("mine").await.unwrap().status.unwrap().bgp, status.bgp);

    let event = NodeEvent { is_warning: true, reason: "BGPPeerDown".into(), message: "tor is away".into() };
    let now = "2026-11-21T12:00:00Z";
    datastore.publish("bird-lite", &"n1".into(), &event, now).await.unwrap();
    let events = cluster.api("v1", "Event", Some("default"));
    assert_eq!(events.list(&Default::default()).await.unwrap().items[0].data["reason"], "BGPPeerDown");
    for node in ["n1", "n2"] {
        datastore
            .publish_once_about_pool("default-ipv4-ippool", ("felix", &node.into()), &event, now)
            .await
            .unwrap();
    }
    let all = events.list(&Default::default()).await.unwrap().items;
    assert_eq!(all.len(), 2, "two nodes say the same of a pool in one Event: {all:?}");

    api.delete("mine", &Default::default()).await.unwrap();
    loop {
        // Our own write of the status is told too.
        let (name, wanted) = tokio::time::timeout(wait, changes.recv()).await.unwrap().unwrap();
        if wanted.is_none() {
            assert_eq!(name, "mine");
            return;
        }
    }
}
