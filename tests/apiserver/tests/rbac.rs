//! Accounts, their tokens, and what roles let them do.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use apiserver::{ApiServer, Handle, grants_of, kubeconfig};
use common::{Kubectl, eventually, listen};

const ROLES: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: reader, namespace: default}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: nodes}
rules:
- {apiGroups: [''], resources: [nodes, nodes/status], verbs: [list, patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: nodes}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: nodes}
subjects:
- {kind: ServiceAccount, name: reader, namespace: default}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: one-secret, namespace: default}
rules:
- {apiGroups: [''], resources: [secrets], resourceNames: [mine], verbs: [get, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: one-secret, namespace: default}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: one-secret}
subjects:
- {kind: Group, name: 'system:serviceaccounts:default', apiGroup: rbac.authorization.k8s.io}
";

/// The administrator and the account `reader` of a server with these roles.
fn with_reader(body: impl FnOnce(&Kubectl, &Kubectl, &ApiServer, &str)) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = ApiServer::builder().build().unwrap();
    let handle: Handle = runtime.block_on(async { server.serve(vec![listen()]).unwrap() });
    let admin = Kubectl::new(&server.kubeconfig(&handle.url()));
    admin.run(&["apply", "-f", &admin.file("roles.yaml", ROLES)]);
    let token = server.service_account_token("default", "reader", Duration::from_secs(60)).unwrap();
    let reader = Kubectl::new(&kubeconfig(&handle.url(), server.ca_pem(), &token.token));
    body(&admin, &reader, &server, &handle.url());
    runtime.block_on(handle.stop());
}

#[test]
fn an_account_may_do_what_its_roles_say_and_nothing_else() {
    with_reader(|admin, reader, _, _| {
        for secret in ["mine", "others"] {
            admin.run(&["create", "secret", "generic", secret]);
        }

        assert!(reader.run(&["get", "nodes", "-o", "name"]).is_empty());
        assert!(reader.run(&["get", "secret", "mine", "-o", "name"]).contains("secret/mine"));

        for (refused, why) in [
            (&["get", "secret", "others"][..], "cannot get resource \"secrets\""),
            (&["get", "secrets"], "cannot list resource \"secrets\""),
            (&["get", "secret", "mine", "-n", "kube-system"], "in the namespace \"kube-system\""),
            (&["get", "pods", "-A"], "at the cluster scope"),
            (&["get", "--raw", "/audit"], "administrator only"),
        ] {
            let said = reader.fail(refused);
            assert!(said.contains(why) && said.contains("orbidden"), "{refused:?}: {said}");
        }
        assert!(reader.run(&["auth", "can-i", "list", "nodes"]).contains("yes"));
        reader.fail(&["auth", "can-i", "delete", "nodes"]);
    });
}

#[test]
fn what_was_used_and_refused_is_noted() {
    with_reader(|admin, reader, _, _| {
        reader.run(&["get", "nodes"]);
        reader.fail(&["get", "pods"]);

        let audit: serde_json::Value = serde_json::from_str(&admin.run(&["get", "--raw", "/audit"])).unwrap();

        assert_eq!(audit["used"].as_array().unwrap().len(), 1, "{audit}");
        assert_eq!(audit["used"][0]["role"], "ClusterRole nodes");
        assert_eq!(
            (&audit["refused"][0]["verb"], &audit["refused"][0]["resource"]),
            (&"list".into(), &"pods".into())
        );
        let role = serde_json::from_str(&admin.run(&["get", "clusterrole", "nodes", "-o", "json"])).unwrap();
        assert_eq!(grants_of(&role).len(), 4);
    });
}

#[test]
fn tokens_end_with_their_time_and_with_their_account() {
    with_reader(|admin, reader, server, url| {
        let short = server.service_account_token("default", "reader", Duration::from_secs(1)).unwrap();
        let short = Kubectl::new(&kubeconfig(url, server.ca_pem(), &short.token));
        let is_over = || {
            // Raw: `kubectl` words a refused discovery otherwise than a refused request.
            let output = short.command(&["get", "--raw", "/api/v1/nodes"]).output().unwrap();
            String::from_utf8_lossy(&output.stderr).contains("nauthorized")
        };
        eventually("the token is over", is_over);
        reader.run(&["get", "nodes"]);

        admin.run(&["delete", "serviceaccount", "reader"]);

        assert!(reader.fail(&["get", "nodes"]).contains("nauthorized"));
        assert!(server.service_account_token("default", "reader", Duration::from_secs(1)).is_err());
    });
}
