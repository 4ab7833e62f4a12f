//! Which lists are merged by key and which are one value: for strategic merge patches and for field ownership.

use serde_json::Value;

use crate::registry::{Flavour, Resource};

/// How a list is merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ListKind {
    /// The whole list is one value.
    Atomic,
    /// A set of scalars.
    Set,
    /// Items are told apart by these members.
    Map(Vec<String>),
}

/// One row: the parent member ("" for any), the list, its keys for ownership, its key for strategic merge ("" if
/// such a patch replaces the list).
type Row = (&'static str, &'static str, &'static [&'static str], &'static str);

const LISTS: &[Row] = &[
    ("", "containers", &["name"], "name"),
    ("", "initContainers", &["name"], "name"),
    ("", "ephemeralContainers", &["name"], "name"),
    ("containers", "ports", &["containerPort", "protocol"], "containerPort"),
    ("initContainers", "ports", &["containerPort", "protocol"], "containerPort"),
    ("", "env", &["name"], "name"),
    ("", "volumeMounts", &["mountPath"], "mountPath"),
    ("", "volumeDevices", &["devicePath"], "devicePath"),
    ("", "volumes", &["name"], "name"),
    ("", "imagePullSecrets", &["name"], "name"),
    ("", "hostAliases", &["ip"], "ip"),
    ("", "topologySpreadConstraints", &["topologyKey", "whenUnsatisfiable"], "topologyKey"),
    ("", "conditions", &["type"], "type"),
    ("", "podIPs", &["ip"], "ip"),
    ("", "hostIPs", &[], "ip"),
    ("metadata", "ownerReferences", &["uid"], "uid"),
    ("", "secrets", &["name"], "name"),
    ("status", "addresses", &["type"], "type"),
    ("spec", "taints", &[], "key"),
];

const SETS: &[(&str, &str)] = &[("metadata", "finalizers"), ("spec", "podCIDRs"), ("spec", "finalizers")];

/// Maps of the built-in types that are one value for ownership.
const ATOMIC_MAPS: &[&str] = &[
    "podSelector",
    "namespaceSelector",
    "labelSelector",
    "nodeSelector",
    "selector",
    "resourceRef",
    "fieldRef",
];

impl Resource {
    /// How field ownership sees the list at `path`.
    pub(crate) fn list_kind(&self, path: &[String]) -> ListKind {
        if let Flavour::Custom(custom) = &self.flavour
            && path.first().is_some_and(|p| p != "metadata")
        {
            return custom.schema.at(path).map_or(ListKind::Atomic, |s| s.list_kind());
        }
        if is_set(path) {
            return ListKind::Set;
        }
        match row(self, path) {
            Some((_, _, keys, _)) if !keys.is_empty() => {
                ListKind::Map(keys.iter().map(|k| (*k).to_owned()).collect())
            }
            _ => ListKind::Atomic,
        }
    }

    /// Whether field ownership takes the map at `path` as one value.
    pub(crate) fn is_atomic_map(&self, path: &[String]) -> bool {
        match &self.flavour {
            Flavour::Custom(custom) if path.first().is_some_and(|p| p != "metadata") => {
                custom.schema.at(path).is_none_or(|s| s.is_atomic_map())
            }
            Flavour::Custom(_) => false,
            Flavour::BuiltIn(_) => {
                path.len() > 1 && path.last().is_some_and(|l| ATOMIC_MAPS.contains(&l.as_str()))
            }
        }
    }

    /// The member by which a strategic merge patch tells the items of a list apart; for a set of scalars `None`
    /// inside.
    pub(crate) fn strategic_key(&self, path: &[String]) -> Option<Option<&'static str>> {
        if is_set(path) {
            return Some(None);
        }
        match row(self, path) {
            Some((_, _, _, "")) | None => None,
            Some((_, _, _, key)) => Some(Some(key)),
        }
    }
}

/// The values of the keys of a list item; an absent `protocol` is TCP.
pub(crate) fn item_key(item: &Value, keys: &[String]) -> Vec<Value> {
    let default = |key: &String| if key == "protocol" { Value::from("TCP") } else { Value::Null };
    keys.iter().map(|k| item.get(k).cloned().unwrap_or_else(|| default(k))).collect()
}

fn parent_and_name(path: &[String]) -> (&str, &str) {
    let mut names = path.iter().rev().map(String::as_str).filter(|p| *p != "*");
    let name = names.next().unwrap_or("");
    (names.next().unwrap_or(""), name)
}

fn is_set(path: &[String]) -> bool {
    SETS.contains(&parent_and_name(path))
}

fn row(resource: &Resource, path: &[String]) -> Option<Row> {
    let (parent, name) = parent_and_name(path);
    if resource.is("", "services") && (parent, name) == ("spec", "ports") {
        return Some(("spec", "ports", &["port", "protocol"], "port"));
    }
    if name == "secrets" && !resource.is("", "serviceaccounts") {
        return None;
    }
    LISTS.iter().find(|(p, n, _, _)| *n == name && (p.is_empty() || *p == parent)).copied()
}
