//! The server as a user of `kubectl` meets it.
#![allow(clippy::unwrap_used)]

mod common;

use apiserver::{ApiServer, DeleteOptions, Handle};
use common::{DEADLINE, Kubectl, POD, POOL, POOL_CRD, eventually, listen, rows};

/// Runs a test body on a thread, since `kubectl` blocks, while the server lives in the runtime.
fn with_server(body: impl FnOnce(&Kubectl, &ApiServer)) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = ApiServer::builder().build().unwrap();
    let handle: Handle = runtime.block_on(async { server.serve(vec![listen()]).unwrap() });
    let kubectl = Kubectl::new(&server.kubeconfig(&handle.url()));
    body(&kubectl, &server);
    runtime.block_on(handle.stop());
}

#[test]
fn tables_show_what_a_cluster_shows() {
    with_server(|kubectl, _| {
        kubectl.run(&["apply", "-f", &kubectl.file("pod.yaml", POD)]);

        let pods = rows(&kubectl.run(&["get", "pods", "-o", "wide"]));
        assert_eq!(
            pods[0],
            ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE", "NOMINATED NODE", "READINESS GATES"]
        );
        assert_eq!(pods[1][..4], ["p1", "0/1", "Pending", "0"]);
        let all = kubectl.run(&[
            "get",
            "pods",
            "-A",
            "-l",
            "app in (a)",
            "--field-selector",
            "status.phase=Pending",
        ]);
        assert_eq!(rows(&all)[1][..2], ["default", "p1"]);
        assert_eq!(rows(&kubectl.run(&["get", "ns", "--chunk-size=2"])).len(), 5);
        let sorted = kubectl.run(&["get", "ns", "--sort-by=.metadata.name", "-o", "name"]);
        assert!(sorted.starts_with("namespace/default"), "{sorted}");
        assert!(kubectl.run(&["get", "pod", "p1", "-o", "jsonpath={.spec.nodeName}"]).contains("n1"));
        assert!(kubectl.run(&["describe", "pod", "p1"]).contains("QoS Class:        BestEffort"));
        assert!(kubectl.fail(&["get", "pod", "nope"]).contains("pods \"nope\" not found"));
    });
}

#[test]
fn custom_resources_live_as_on_a_cluster() {
    with_server(|kubectl, _| {
        if !kubectl.is_recent("custom resources") {
            return;
        }
        kubectl.run(&["apply", "-f", &kubectl.file("crd.yaml", POOL_CRD)]);
        kubectl.run(&[
            "wait",
            "crd",
            "ippools.lab.example.org",
            "--for=condition=Established",
            "--timeout=10s",
        ]);
        let pool = kubectl.file("pool.yaml", POOL);
        assert!(kubectl.run(&["apply", "-f", &pool]).contains("created"));
        assert!(kubectl.run(&["apply", "-f", &pool]).contains("unchanged"));
        let always = kubectl.file("always.yaml", &POOL.replace("CrossSubnet", "Always"));
        assert!(kubectl.run(&["apply", "-f", &always]).contains("configured"));
        assert_eq!(
            rows(&kubectl.run(&["get", "ipp", "-o", "wide"])),
            [["NAME", "CIDR", "IPIP"], ["default-pool", "10.65.0.0/16", "Always"]]
        );

        let typo = kubectl.file("typo.yaml", &POOL.replace("natOutgoing", "natOutgoin"));
        assert!(kubectl.fail(&["apply", "-f", &typo]).contains("unknown field \"spec.natOutgoin\""));
        let mode = kubectl.file("mode.yaml", &POOL.replace("CrossSubnet", "Sometimes"));
        assert!(
            kubectl
                .fail(&["apply", "-f", &mode])
                .contains("supported values: \"Never\", \"Always\", \"CrossSubnet\"")
        );
        let moved = kubectl.file("moved.yaml", &POOL.replace("10.65", "10.66"));
        assert!(
            kubectl
                .fail(&["apply", "-f", &moved])
                .contains("spec.cidr: Invalid value: \"10.66.0.0/16\": cidr is immutable")
        );

        kubectl.run(&[
            "patch",
            "ipp",
            "default-pool",
            "--subresource=status",
            "--type=merge",
            "-p",
            r#"{"status":{"blocks":3},"spec":{"natOutgoing":false}}"#,
        ]);
        kubectl.run(&["patch", "ipp", "default-pool", "--type=merge", "-p", r#"{"status":{"blocks":9}}"#]);
        let fields = "jsonpath={.status.blocks} {.spec.natOutgoing} {.metadata.generation}";
        assert_eq!(kubectl.run(&["get", "ipp", "default-pool", "-o", fields]), "3 true 2");
        assert!(kubectl.run(&["explain", "ippool.spec.cidr"]).contains("Range of addresses."));
        assert!(kubectl.run(&["explain", "networkpolicy.spec.ingress.ports"]).contains("endPort"));

        kubectl.run(&["delete", "-f", &kubectl.file("crd.yaml", POOL_CRD)]);
        assert!(!kubectl.fail(&["get", "ippools"]).is_empty());
    });
}

#[test]
fn a_list_of_objects_is_applied_like_the_objects() {
    let list = r#"{"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "one"}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "two"}, "data": {"a": "b"}}]}"#;
    with_server(|kubectl, _| {
        let said = kubectl.run(&["apply", "-f", &kubectl.file("list.json", list)]);

        assert!(said.contains("namespace/one created") && said.contains("configmap/two created"), "{said}");
    });
}

#[test]
fn server_side_apply_guards_fields() {
    with_server(|kubectl, _| {
        kubectl.run(&["apply", "-f", &kubectl.file("crd.yaml", POOL_CRD)]);
        let pool = kubectl.file("pool.yaml", POOL);
        kubectl.run(&["apply", "--server-side", "-f", &pool]);
        kubectl.run(&["apply", "--server-side", "-f", &pool]);
        let always = kubectl.file("always.yaml", &POOL.replace("CrossSubnet", "Always"));

        let conflict = kubectl.fail(&["apply", "--server-side", "--field-manager=other", "-f", &always]);

        assert!(conflict.contains("conflict with \"kubectl\": .spec.ipipMode"), "{conflict}");
        kubectl.run(&["apply", "--server-side", "--field-manager=other", "--force-conflicts", "-f", &always]);
        assert_eq!(kubectl.run(&["get", "ipp", "default-pool", "-o", "jsonpath={.spec.ipipMode}"]), "Always");
    });
}

#[test]
fn client_side_apply_moves_to_server_side() {
    with_server(|kubectl, _| {
        if !kubectl.is_recent("the move from client-side to server-side apply") {
            return;
        }
        let pod = kubectl.file("pod.yaml", POD);
        kubectl.run(&["apply", "-f", &pod]);

        kubectl.run(&["apply", "--server-side", "-f", &pod]);

        let fields = "jsonpath={.metadata.managedFields[*].manager}";
        let managers = kubectl.run(&["get", "pod", "p1", "--show-managed-fields", "-o", fields]);
        assert!(!managers.contains("kubectl-client-side-apply"), "{managers}");
    });
}

#[test]
fn objects_are_created_and_changed_in_every_way() {
    with_server(|kubectl, _| {
        kubectl.run(&["create", "ns", "demo"]);
        kubectl.run(&["create", "cm", "c", "-n", "demo", "--from-literal=a=b"]);
        kubectl.run(&["create", "secret", "generic", "s", "--from-literal=a=b"]);
        kubectl.run(&["create", "sa", "robot"]);
        kubectl.run(&["create", "svc", "clusterip", "web", "--tcp=80:8080"]);
        assert!(kubectl.run(&["auth", "can-i", "get", "pods"]).contains("yes"));
        assert_eq!(kubectl.run(&["get", "cm", "c", "-n", "demo", "-o", "jsonpath={.data.a}"]), "b");
        assert_eq!(kubectl.run(&["get", "secret", "s", "-o", "jsonpath={.data.a}"]), "Yg==");
        assert!(
            kubectl.run(&["get", "svc", "web", "-o", "jsonpath={.spec.clusterIP}"]).starts_with("10.96.")
        );
        assert!(kubectl.fail(&["create", "cm", "c", "-n", "demo"]).contains("already exists"));

        kubectl.run(&["apply", "-f", &kubectl.file("pod.yaml", POD)]);
        kubectl.run(&["label", "pod", "p1", "tier=front"]);
        kubectl.run(&["annotate", "pod", "p1", "note=x"]);
        kubectl.run(&["patch", "pod", "p1", "-p", r#"{"spec":{"containers":[{"name":"c","image":"new"}]}}"#]);
        kubectl.run(&[
            "patch",
            "pod",
            "p1",
            "--type=json",
            "-p",
            r#"[{"op":"remove","path":"/metadata/labels/app"}]"#,
        ]);
        let fields = "jsonpath={.metadata.labels.tier} {.metadata.annotations.note} {.spec.containers[0].image} {.metadata.labels.app}";
        assert_eq!(kubectl.run(&["get", "pod", "p1", "-o", fields]).trim_end(), "front x new");
        kubectl.run(&[
            "replace",
            "-f",
            &kubectl.file(
                "cm.yaml",
                "---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: demo}, data: {a: z}}",
            ),
        ]);
        assert_eq!(kubectl.run(&["get", "cm", "c", "-n", "demo", "-o", "jsonpath={.data.a}"]), "z");
    });
}

#[test]
fn wrong_objects_are_refused_with_their_field() {
    with_server(|kubectl, _| {
        if !kubectl.is_recent("refusals") {
            return;
        }
        let policy = "---\n{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: x}, spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: CIDR}}]}]}}";
        let of = |cidr: &str| kubectl.file("np.yaml", &policy.replace("CIDR", cidr));

        assert!(
            kubectl
                .fail(&["apply", "-f", &of("10.0.0.1/8")])
                .contains("spec.ingress[0].from[0].ipBlock.cidr")
        );
        kubectl.run(&["apply", "-f", &of("10.0.0.0/8")]);
        let typo = kubectl.file("typo.yaml", &POD.replace("image: b", "imagee: b"));
        assert!(
            kubectl.fail(&["apply", "-f", &typo]).contains("unknown field \"spec.containers[0].imagee\"")
        );
        assert!(
            kubectl
                .fail(&["create", "ns", "Bad_Name"])
                .contains("a lowercase RFC 1123 label must consist of")
        );
        assert!(
            kubectl
                .fail(&["run", "x", "--image=i", "-n", "nowhere"])
                .contains("namespaces \"nowhere\" not found")
        );
    });
}

#[test]
fn pod_on_a_node_goes_when_the_kubelet_says_so() {
    with_server(|kubectl, server| {
        kubectl.run(&["apply", "-f", &kubectl.file("pod.yaml", POD)]);
        let mut deletion = kubectl.command(&["delete", "pod", "p1", "--timeout=30s"]).spawn().unwrap();
        let status = || rows(&kubectl.run(&["get", "pods", "--no-headers"]));
        eventually("pod is terminating", || status().first().is_some_and(|row| row[2] == "Terminating"));
        assert!(deletion.try_wait().unwrap().is_none(), "kubectl delete must wait for the kubelet");

        let pods = server.api().resource("v1", "Pod").unwrap();
        server.api().delete(&pods, "default", "p1", &DeleteOptions::now()).unwrap();

        assert!(deletion.wait().unwrap().success());
        assert!(kubectl.fail(&["get", "pod", "p1"]).contains("not found"));
    });
}

#[test]
fn namespace_goes_with_its_content_and_finalizers_hold() {
    with_server(|kubectl, _| {
        kubectl.run(&["create", "ns", "demo"]);
        kubectl.run(&["create", "cm", "c", "-n", "demo"]);
        kubectl.run(&[
            "patch",
            "cm",
            "c",
            "-n",
            "demo",
            "--type=merge",
            "-p",
            r#"{"metadata":{"finalizers":["x.example.org/f"]}}"#,
        ]);

        kubectl.run(&["delete", "ns", "demo", "--wait=false"]);

        assert_eq!(kubectl.run(&["get", "ns", "demo", "-o", "jsonpath={.status.phase}"]), "Terminating");
        assert!(
            kubectl.fail(&["create", "cm", "d", "-n", "demo"]).contains("because it is being terminated")
        );
        kubectl.run(&[
            "patch",
            "cm",
            "c",
            "-n",
            "demo",
            "--type=merge",
            "-p",
            r#"{"metadata":{"finalizers":null}}"#,
        ]);
        eventually("the namespace is gone", || {
            let get = ["get", "ns", "demo", "--ignore-not-found", "-o", "name"];
            kubectl.run(&get).is_empty()
        });
    });
}

#[test]
fn watch_prints_changes() {
    with_server(|kubectl, _| {
        let mut watch =
            kubectl.command(&["get", "cm", "-w", "-o", "name", "--request-timeout=20s"]).spawn().unwrap();
        kubectl.run(&["create", "cm", "first"]);
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(watch.stdout.take().unwrap()));
        let end = std::time::Instant::now() + DEADLINE;

        let line = lines.next().unwrap().unwrap();

        assert!(std::time::Instant::now() < end);
        assert_eq!(line, "configmap/first");
        watch.kill().unwrap();
        watch.wait().unwrap();
    });
}

#[test]
fn client_certificate_is_as_good_as_the_token() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = ApiServer::builder().token("secret").build().unwrap();
    let handle = runtime.block_on(async { server.serve(vec![listen()]).unwrap() });

    let by_certificate = Kubectl::new(&server.kubeconfig_with_certificate(&handle.url()));
    let wrong = Kubectl::new(&server.kubeconfig(&handle.url()).replace("secret", "wrong"));

    assert_eq!(rows(&by_certificate.run(&["get", "ns"])).len(), 5);
    let refusal = wrong.fail(&["get", "ns"]);
    assert!(refusal.contains("Unauthorized") || refusal.contains("logged in"), "{refusal}");
    runtime.block_on(handle.stop());
}
