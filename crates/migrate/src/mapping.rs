//! One object from one group to the other.
//!
//! Calico keeps what users wrote into an object's metadata as JSON in an annotation, and the name of a policy there, too;
//! IPAM's objects spell two fields otherwise. Everything else is the same in both groups.

use serde_json::{Map, Value, json};

use crate::{CALICO, Effect, Kind, Note, OURS};

/// Where Calico keeps the metadata that users gave.
const METADATA: &str = "projectcalico.org/metadata";
/// What `kubectl apply` keeps for itself: it says another group and version.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Longer metadata than Kubernetes allows is nobody's.
const MOST_METADATA: usize = 512 << 10;

/// An object as it will be in our group.
#[derive(Clone, Debug, PartialEq)]
pub struct Mapped {
    pub kind: &'static Kind,
    pub namespace: Option<String>,
    pub name: String,
    /// Whole, with `apiVersion` and `kind`.
    pub object: Value,
    pub notes: Vec<Note>,
}

impl Mapped {
    /// `namespace/name`, or the name alone.
    pub fn full_name(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{namespace}/{}", self.name),
            None => self.name.clone(),
        }
    }
}

/// What an object of Calico's (of either group) is in ours.
///
/// # Errors
/// A note: it is to be left out, or it cannot be understood, which blocks.
pub fn to_ours(kind: &'static Kind, object: &Value) -> Result<Mapped, Note> {
    let half = |reason: &str| Note::new(Effect::Blocks, "metadata", reason);
    let given = object.get("metadata").and_then(Value::as_object).ok_or_else(|| half("is missing"))?;
    let text = |key: &str| given.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let stored_name = text("name").ok_or_else(|| half("the object has no name"))?;
    let spec = match object.get("spec") {
        None | Some(Value::Null) => json!({}),
        Some(spec @ Value::Object(_)) => spec.clone(),
        Some(_) => return Err(Note::new(Effect::Blocks, "spec", "is no object")),
    };
    if given.get("deletionTimestamp").is_some_and(|at| !at.is_null()) {
        return Err(Note::new(Effect::Ignored, "metadata.deletionTimestamp", "it is being deleted"));
    }
    let mut notes = Vec::new();
    let envelope = envelope(given)?;
    let name = match envelope.as_ref().and_then(|of| of.get("name")).and_then(Value::as_str) {
        Some(name) if kind.is_policy() && !name.is_empty() => name.to_owned(),
        None if kind.is_policy() => untiered(stored_name, &spec).to_owned(),
        _ => stored_name.to_owned(),
    };
    let namespace = text("namespace").filter(|_| kind.namespaced).map(str::to_owned);
    let metadata = metadata(given, envelope.as_ref(), &name, namespace.as_deref(), &mut notes);
    let spec = spec_to_ours(kind, spec)?;
    let object = json!({"apiVersion": OURS, "kind": kind.name, "metadata": metadata, "spec": spec});
    Ok(Mapped { kind, namespace, name, object, notes })
}

/// What users gave, when Calico has written the object.
fn envelope(metadata: &Map<String, Value>) -> Result<Option<Map<String, Value>>, Note> {
    let field = format!("metadata.annotations[{METADATA}]");
    let Some(text) = metadata.get("annotations").and_then(|all| all.get(METADATA)) else { return Ok(None) };
    let text = text.as_str().filter(|text| text.len() <= MOST_METADATA);
    let read = text.and_then(|text| serde_json::from_str::<Map<String, Value>>(text).ok());
    read.map(Some).ok_or_else(|| {
        Note::new(
            Effect::Blocks,
            field,
            "is no JSON object, so its labels are not known: mend or delete the object",
        )
    })
}

/// Older releases put `default.` before the names of policies in tier `default`.
fn untiered<'a>(name: &'a str, spec: &Value) -> &'a str {
    let tier = spec.get("tier").and_then(Value::as_str).filter(|tier| !tier.is_empty()).unwrap_or("default");
    let rest = name.strip_prefix("default.").filter(|rest| !rest.is_empty());
    rest.filter(|_| tier == "default").unwrap_or(name)
}

fn metadata(
    given: &Map<String, Value>,
    envelope: Option<&Map<String, Value>>,
    name: &str,
    namespace: Option<&str>,
    notes: &mut Vec<Note>,
) -> Value {
    let strings = |of: Option<&Map<String, Value>>, key: &str| -> Map<String, Value> {
        let found = of.and_then(|of| of.get(key)).and_then(Value::as_object).cloned().unwrap_or_default();
        found.into_iter().filter(|(_, value)| value.is_string()).collect()
    };
    let mut metadata = Map::from_iter([("name".to_owned(), json!(name))]);
    if let Some(namespace) = namespace {
        metadata.insert("namespace".to_owned(), json!(namespace));
    }
    for key in ["labels", "annotations"] {
        // Those of the stored object are Calico's own there, and everybody's where it wrote no envelope.
        let mut all = strings(Some(given), key);
        all.extend(strings(envelope, key));
        all.retain(|key, _| key != METADATA && key != LAST_APPLIED);
        if !all.is_empty() {
            metadata.insert(key.to_owned(), Value::Object(all));
        }
    }
    let owners = envelope.unwrap_or(given).get("ownerReferences").and_then(Value::as_array);
    let is_calico = |owner: &&Value| {
        owner.get("apiVersion").and_then(Value::as_str).is_some_and(|of| of.contains("projectcalico.org"))
    };
    let (calico, kept): (Vec<_>, Vec<_>) = owners.into_iter().flatten().partition(is_calico);
    if !calico.is_empty() {
        let reason = "an owner of Calico's kinds has another UID here: the object no longer goes with it";
        notes.push(Note::new(Effect::Ignored, "metadata.ownerReferences", reason));
    }
    if !kept.is_empty() {
        metadata.insert("ownerReferences".to_owned(), json!(kept));
    }
    if given.get("finalizers").and_then(Value::as_array).is_some_and(|all| !all.is_empty()) {
        notes.push(Note::new(
            Effect::Ignored,
            "metadata.finalizers",
            "nobody here would take them away again",
        ));
    }
    Value::Object(metadata)
}

/// Fields that are spelled otherwise.
fn spec_to_ours(kind: &Kind, mut spec: Value) -> Result<Value, Note> {
    let Some(members) = spec.as_object_mut() else { return Ok(spec) };
    if kind.is_ipam {
        let deleted = match members.get("deleted") {
            Some(Value::String(text)) => text == "true",
            Some(Value::Bool(deleted)) => *deleted,
            _ => false,
        };
        if deleted {
            return Err(Note::new(Effect::Ignored, "spec.deleted", "it is marked as deleted"));
        }
        members.insert("deleted".to_owned(), json!(false));
    }
    if kind.name == "BlockAffinity" {
        for (key, value) in [("state", "confirmed"), ("type", "host")] {
            if members.get(key).and_then(Value::as_str).is_none_or(str::is_empty) {
                members.insert(key.to_owned(), json!(value));
            }
        }
    }
    Ok(spec)
}

/// An object of ours as Calico would have stored it. `present` is what Calico has of it, whose place it takes.
pub fn to_calico_object(kind: &Kind, object: &Value, present: Option<&Value>) -> Value {
    let given = object.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
    let name = given.get("name").and_then(Value::as_str).unwrap_or_default();
    let mut spec = object.get("spec").cloned().unwrap_or_else(|| json!({}));
    let present_name = present.and_then(|object| object.pointer("/metadata/name")).and_then(Value::as_str);
    let stored_name = match present_name {
        Some(name) => name.to_owned(),
        None if kind.is_policy() => tiered(name, &spec),
        None => name.to_owned(),
    };
    let mut metadata = Map::from_iter([("name".to_owned(), json!(stored_name))]);
    let present_metadata =
        |key: &str| present.and_then(|of| of.pointer(&format!("/metadata/{key}"))).cloned();
    for key in ["namespace", "resourceVersion"] {
        let value = if key == "namespace" { given.get(key).cloned() } else { present_metadata(key) };
        metadata.extend(value.map(|value| (key.to_owned(), value)));
    }
    if kind.is_ipam {
        metadata.extend(given.get("labels").map(|labels| ("labels".to_owned(), labels.clone())));
        if kind.name == "BlockAffinity" {
            let deleted = spec.get("deleted").and_then(Value::as_bool).unwrap_or(false);
            let members = spec.as_object_mut().into_iter();
            members.for_each(|members| _ = members.insert("deleted".to_owned(), json!(deleted.to_string())));
        }
    } else {
        let mut envelope = Map::new();
        for key in ["name", "namespace", "labels", "annotations", "ownerReferences"] {
            envelope.extend(given.get(key).map(|value| (key.to_owned(), value.clone())));
        }
        envelope.insert("creationTimestamp".to_owned(), Value::Null);
        let own = |(key, _): &(String, Value)| key.contains("projectcalico.org/");
        let of = |key: &str| given.get(key).and_then(Value::as_object).cloned().unwrap_or_default();
        let mut annotations: Map<String, Value> = of("annotations").into_iter().filter(own).collect();
        annotations.insert(METADATA.to_owned(), json!(Value::Object(envelope).to_string()));
        metadata.insert("annotations".to_owned(), Value::Object(annotations));
        let labels: Map<String, Value> = of("labels").into_iter().filter(own).collect();
        if !labels.is_empty() {
            metadata.insert("labels".to_owned(), Value::Object(labels));
        }
    }
    json!({"apiVersion": CALICO, "kind": kind.calico_name, "metadata": metadata, "spec": spec})
}

/// As releases want it that know policies by tier and name; newer ones read the name beside.
fn tiered(name: &str, spec: &Value) -> String {
    let tier = spec.get("tier").and_then(Value::as_str).filter(|tier| !tier.is_empty()).unwrap_or("default");
    if name.starts_with(&format!("{tier}.")) { name.to_owned() } else { format!("{tier}.{name}") }
}

/// Names that several of Calico's objects would have here.
pub fn collisions(all: &[Mapped]) -> Vec<String> {
    let mut seen = std::collections::BTreeMap::<(&str, String), usize>::new();
    for mapped in all {
        *seen.entry((mapped.kind.name, mapped.full_name())).or_default() += 1;
    }
    let twice = seen.into_iter().filter(|(_, count)| *count > 1);
    twice.map(|((kind, name), _)| format!("{kind} {name}")).collect()
}

/// Do two objects say the same: spec, labels and annotations? Both as the API server has them, defaults and all.
pub fn same(one: &Value, other: &Value) -> bool {
    let metadata = |object: &Value, key: &str| {
        let all = object.pointer(&format!("/metadata/{key}")).and_then(Value::as_object).cloned();
        let mut all = all.unwrap_or_default();
        all.remove(LAST_APPLIED);
        all
    };
    one.get("spec") == other.get("spec")
        && ["labels", "annotations"].into_iter().all(|key| metadata(one, key) == metadata(other, key))
}

#[cfg(test)]
mod tests;
