//! What somebody may do: Roles, ClusterRoles and their bindings, as `rbac.authorization.k8s.io/v1` has them. Notes which
//! rule let what pass, so that rules nobody needs can be found.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use crate::api::Api;
use crate::auth::User;

const GROUP: &str = "rbac.authorization.k8s.io";
/// Most kinds of refused calls that are kept.
const MANY: usize = 1_000;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Call {
    /// Such as `system:serviceaccount:kube-system:calico-node`.
    pub user: String,
    /// Such as `list`.
    pub verb: String,
    /// API group, empty for core.
    pub group: String,
    /// Plural, with a slash before a subresource.
    pub resource: String,
    /// Empty for all namespaces and for what has none.
    pub namespace: String,
    /// Empty for a collection.
    pub name: String,
}

/// One thing that one rule allows: what its lists say, multiplied out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Grant {
    /// Kind and name of the role, such as `ClusterRole calico-node`.
    pub role: String,
    /// API group, empty for core.
    pub group: String,
    /// Plural, with a slash before a subresource.
    pub resource: String,
    /// Such as `list`.
    pub verb: String,
    /// Name of the only object for which it holds; empty for all.
    pub name: String,
}

impl std::fmt::Display for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { role, group, resource, verb, name } = self;
        let dot = if group.is_empty() { "" } else { "." };
        write!(f, "{role}: {verb} {resource}{dot}{group}{}{name}", if name.is_empty() { "" } else { " " })
    }
}

/// What was done so far by those whom roles are asked about.
#[derive(Debug, Default, Serialize)]
pub struct Audit {
    /// What let requests pass.
    pub used: BTreeSet<Grant>,
    /// What was refused, and how often.
    #[serde(serialize_with = "as_list")]
    pub refused: BTreeMap<Call, u64>,
}

fn as_list<S: serde::Serializer>(refused: &BTreeMap<Call, u64>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(refused.keys())
}

impl Audit {
    /// Notes a decision: what allowed a call, which is nothing if it was refused.
    pub(crate) fn note(&mut self, call: &Call, grants: Vec<Grant>) {
        if grants.is_empty() && (self.refused.len() < MANY || self.refused.contains_key(call)) {
            *self.refused.entry(call.clone()).or_default() += 1;
        }
        self.used.extend(grants);
    }
}

/// Everything that a Role or ClusterRole allows.
pub fn grants_of(role: &Value) -> BTreeSet<Grant> {
    let mut all = BTreeSet::new();
    for rule in list(role, "rules") {
        for group in texts(rule, "apiGroups") {
            for resource in texts(rule, "resources") {
                for verb in texts(rule, "verbs") {
                    let names = texts(rule, "resourceNames");
                    let names = if names.is_empty() { vec![""] } else { names };
                    all.extend(names.into_iter().map(|name| Grant {
                        role: title(role),
                        group: group.to_owned(),
                        resource: resource.to_owned(),
                        verb: verb.to_owned(),
                        name: name.to_owned(),
                    }));
                }
            }
        }
    }
    all
}

/// What allows a call; empty when nothing does.
pub(crate) fn grants(api: &Api, user: &User, call: &Call) -> Vec<Grant> {
    let mut found = Vec::new();
    for role in roles(api, user, &call.namespace) {
        let fits = |grant: &Grant| {
            is(&grant.group, &call.group)
                && is(&grant.resource, &call.resource)
                && is(&grant.verb, &call.verb)
                && (grant.name.is_empty() || grant.name == call.name)
        };
        found.extend(grants_of(&role).into_iter().filter(fits));
    }
    found
}

fn is(granted: &str, asked: &str) -> bool {
    granted == "*" || granted == asked
}

/// The roles that somebody is bound to, for a namespace.
fn roles(api: &Api, user: &User, namespace: &str) -> Vec<Value> {
    let mut found = Vec::new();
    let everywhere = ("clusterrolebindings", "");
    for (bindings, scope) in [everywhere, ("rolebindings", namespace)] {
        if bindings == "rolebindings" && namespace.is_empty() {
            continue;
        }
        let (all, _) = api.store.list(&format!("{GROUP}/{bindings}"), Some(scope).filter(|s| !s.is_empty()));
        for binding in all.iter().map(|object| object.value()) {
            if !list(binding, "subjects").any(|subject| concerns(subject, user)) {
                continue;
            }
            let text = |pointer: &str| binding.pointer(pointer).and_then(Value::as_str).unwrap_or("");
            let (kind, name) = (text("/roleRef/kind"), text("/roleRef/name"));
            let of = if kind == "Role" { scope } else { "" };
            let Some(resource) = api.resource(&format!("{GROUP}/v1"), kind) else { continue };
            if let Ok(role) = api.get(&resource, of, name) {
                found.push(role.typed(&format!("{GROUP}/v1"), kind));
            }
        }
    }
    found
}

fn concerns(subject: &Value, user: &User) -> bool {
    let text = |name: &str| subject[name].as_str().unwrap_or("");
    match text("kind") {
        "ServiceAccount" => {
            user.name == format!("system:serviceaccount:{}:{}", text("namespace"), text("name"))
        }
        "User" => user.name == text("name"),
        "Group" => user.groups.iter().any(|group| group == text("name")),
        _ => false,
    }
}

fn title(role: &Value) -> String {
    let text = |pointer: &str| role.pointer(pointer).and_then(Value::as_str).unwrap_or("");
    format!("{} {}", text("/kind"), text("/metadata/name"))
}

fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value.get(name).and_then(Value::as_array).into_iter().flatten()
}

fn texts<'a>(rule: &'a Value, name: &str) -> Vec<&'a str> {
    list(rule, name).filter_map(Value::as_str).collect()
}
