//! What is served, in the forms in which clients ask for it: `/version`, legacy lists, aggregated discovery.

use serde_json::{Value, json};

use crate::registry::{Index, Resource};

/// Version of Kubernetes whose behaviour is followed.
const MINOR: &str = "32";

/// `/version`.
pub(crate) fn version() -> Value {
    json!({
        "major": "1", "minor": MINOR, "gitVersion": format!("v1.{MINOR}.0+ocicat"), "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc", "platform": "linux/amd64",
    })
}

/// `/`: all paths.
pub(crate) fn paths(index: &Index) -> Value {
    let mut all = vec!["/api".to_owned(), "/api/v1".to_owned(), "/apis".to_owned()];
    for (group, versions) in index.groups().into_iter().filter(|(g, _)| !g.is_empty()) {
        all.push(format!("/apis/{group}"));
        all.extend(versions.iter().map(|v| format!("/apis/{group}/{v}")));
    }
    all.extend(["/healthz", "/livez", "/openapi/v3", "/readyz", "/version"].map(str::to_owned));
    json!({"paths": all})
}

/// `/api` without aggregation.
pub(crate) fn core_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

/// `/apis` without aggregation.
pub(crate) fn groups(index: &Index) -> Value {
    let groups: Vec<Value> =
        index.groups().iter().filter(|(g, _)| !g.is_empty()).map(|(g, v)| group_json(g, v)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`.
pub(crate) fn group(index: &Index, name: &str) -> Option<Value> {
    let groups = index.groups();
    let (name, versions) = groups.iter().find(|(g, _)| g == name && !g.is_empty())?;
    let mut value = group_json(name, versions);
    value["kind"] = json!("APIGroup");
    value["apiVersion"] = json!("v1");
    Some(value)
}

fn group_json(name: &str, versions: &[String]) -> Value {
    let version = |v: &String| json!({"groupVersion": format!("{name}/{v}"), "version": v});
    let all: Vec<Value> = versions.iter().map(version).collect();
    json!({"name": name, "versions": all, "preferredVersion": all.first()})
}

/// `/api/v1` and `/apis/GROUP/VERSION`.
pub(crate) fn resources(index: &Index, group: &str, version: &str) -> Option<Value> {
    let served = index.of(group, version);
    let api_version = served.first()?.api_version();
    let mut list = Vec::new();
    for resource in &served {
        let mut entry = json!({
            "name": resource.plural, "singularName": resource.singular, "namespaced": resource.is_namespaced(),
            "kind": resource.kind, "verbs": resource.verbs,
        });
        if !resource.short_names.is_empty() {
            entry["shortNames"] = json!(resource.short_names);
        }
        if !resource.categories.is_empty() {
            entry["categories"] = json!(resource.categories);
        }
        list.push(entry);
        for sub in subresources(resource) {
            let mut entry = json!({
                "name": format!("{}/{}", resource.plural, sub.name), "singularName": "",
                "namespaced": resource.is_namespaced(), "kind": sub.kind, "verbs": sub.verbs,
            });
            if let Some((group, version)) = sub.group_version {
                entry["group"] = json!(group);
                entry["version"] = json!(version);
            }
            list.push(entry);
        }
    }
    Some(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": list}),
    )
}

/// The version of aggregated discovery that an `Accept` asks for, if it asks at all.
pub(crate) fn aggregated_version(accept: &str) -> Option<&'static str> {
    accept.split(',').find_map(|entry| {
        let has = |parameter: &str| entry.split(';').any(|p| p.trim() == parameter);
        (has("as=APIGroupDiscoveryList") && has("v=v2")).then_some("v2")
    })
}

/// Aggregated discovery of the core or of all groups.
pub(crate) fn aggregated(index: &Index, is_groups: bool, version: &str) -> Value {
    let mut items = Vec::new();
    for (group, versions) in index.groups().iter().filter(|(g, _)| g.is_empty() != is_groups) {
        let versions: Vec<Value> = versions
            .iter()
            .map(|v| {
                let resources: Vec<Value> =
                    index.of(group, v).iter().map(|r| aggregated_resource(r)).collect();
                json!({"version": v, "resources": resources, "freshness": "Current"})
            })
            .collect();
        let metadata = if group.is_empty() { json!({}) } else { json!({"name": group}) };
        items.push(json!({"metadata": metadata, "versions": versions}));
    }
    let api_version = format!("apidiscovery.k8s.io/{version}");
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": api_version, "metadata": {}, "items": items})
}

fn aggregated_resource(resource: &Resource) -> Value {
    let kind =
        |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let own = kind(&resource.group, &resource.version, &resource.kind);
    let mut entry = json!({
        "resource": resource.plural, "responseKind": own,
        "scope": if resource.is_namespaced() { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular, "verbs": resource.verbs,
    });
    if !resource.short_names.is_empty() {
        entry["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        entry["categories"] = json!(resource.categories);
    }
    let subs: Vec<Value> = subresources(resource)
        .iter()
        .map(|sub| {
            let (group, version) = sub.group_version.unwrap_or((&resource.group, &resource.version));
            json!({"subresource": sub.name, "responseKind": kind(group, version, &sub.kind), "verbs": sub.verbs})
        })
        .collect();
    if !subs.is_empty() {
        entry["subresources"] = Value::Array(subs);
    }
    entry
}

struct Subresource {
    name: &'static str,
    kind: String,
    group_version: Option<(&'static str, &'static str)>,
    verbs: &'static [&'static str],
}

fn subresources(resource: &Resource) -> Vec<Subresource> {
    let status = resource.has_status.then(|| Subresource {
        name: "status",
        kind: resource.kind.clone(),
        group_version: None,
        verbs: &["get", "patch", "update"],
    });
    let others = resource.subresources.iter().map(|name| match *name {
        "eviction" => Subresource {
            name,
            kind: "Eviction".into(),
            group_version: Some(("policy", "v1")),
            verbs: &["create"],
        },
        name => Subresource { name, kind: "Binding".into(), group_version: None, verbs: &["create"] },
    });
    others.chain(status).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Registry;

    #[test]
    fn both_forms_name_the_same_resources() {
        let index = Registry::new().index();

        let legacy = resources(&index, "networking.k8s.io", "v1").unwrap();
        let aggregated = aggregated(&index, true, "v2");

        assert_eq!(legacy["resources"][0]["name"], "networkpolicies");
        let group = aggregated["items"]
            .as_array()
            .unwrap()
            .iter()
            .find(|g| g["metadata"]["name"] == "networking.k8s.io");
        let resource = &group.unwrap()["versions"][0]["resources"][0];
        assert_eq!(
            (&resource["resource"], &resource["shortNames"][0]),
            (&json!("networkpolicies"), &json!("netpol"))
        );
    }

    #[test]
    fn only_version_2_is_aggregated() {
        let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let beta = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

        assert_eq!(aggregated_version(&format!("{v2},{beta},application/json")), Some("v2"));
        assert_eq!(aggregated_version(&format!("{beta},application/json")), None);
    }
}
