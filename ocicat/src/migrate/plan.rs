//! What would happen: every object of Calico's with what it is here, how Calico was installed, and whose each node is.

use std::collections::BTreeMap;

use migrate::{
    Agent, CALICO, Effect, Installation, KINDS, Kind, LABEL, Mapped, NodeView, Note, OURS, PodView,
    block_notes, carried, collisions, free_addresses, installation_notes, is_sealed, kind_of, owner, same,
    to_ours,
};
use serde_json::{Value, json};

use super::api::{Api, name, path};
use crate::client::CallError;
use crate::table::{plain, table};

/// Where Calico keeps its objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// `crd.projectcalico.org/v1`: they are copied.
    Stored,
    /// `projectcalico.org/v3` as custom resources, which are ours, too: they stay.
    InPlace,
}

/// What becomes of an object in our group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Create,
    Update,
    /// It is there as it should be.
    Keep,
    /// It stays where it is and is not carried over.
    Leave,
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Action::Create => "create",
            Action::Update => "update",
            Action::Keep => "keep",
            Action::Leave => "leave",
        }
    }
}

/// One object of Calico's.
pub(super) struct Entry {
    pub(super) kind: &'static Kind,
    pub(super) name: String,
    pub(super) mapped: Option<Mapped>,
    /// As our group has it.
    pub(super) present: Option<Value>,
    pub(super) action: Action,
    pub(super) notes: Vec<Note>,
}

/// Everything.
pub(super) struct Plan {
    pub(super) source: Source,
    pub(super) entries: Vec<Entry>,
    /// About something else than an object that is carried over.
    pub(super) others: Vec<(String, Note)>,
    pub(super) nodes: Vec<NodeView>,
    /// Addresses that each node can still give, and how many pods it has.
    pub(super) room: BTreeMap<String, (usize, usize)>,
}

impl Plan {
    /// Something has to be settled first.
    pub(super) fn is_blocked(&self) -> bool {
        self.notes().any(|(_, _, note)| note.effect == Effect::Blocks)
    }

    /// Is there a node that is Calico's, or on its way?
    pub(super) fn is_under_way(&self) -> bool {
        self.nodes.iter().any(|node| node.agent != Agent::Ocicat)
    }

    /// Are routes to pods made of blocks, as VXLAN's are? Then both sides must know of new ones.
    pub(super) fn has_vxlan(&self) -> bool {
        let mapped = |entry: &Entry| entry.mapped.as_ref().is_some_and(|of| has_vxlan(&of.object["spec"]));
        self.entries.iter().any(|entry| entry.kind.name == "IPPool" && mapped(entry))
    }

    /// Kind, name and note of everything that is to be said.
    fn notes(&self) -> impl Iterator<Item = (&str, &str, &Note)> {
        let of_objects = self.entries.iter().flat_map(|entry| {
            entry.notes.iter().map(move |note| (entry.kind.name, entry.name.as_str(), note))
        });
        let others = self.others.iter().map(|(what, note)| {
            let (kind, name) = what.split_once(' ').unwrap_or((what, ""));
            (kind, name, note)
        });
        of_objects.chain(others)
    }

    pub(super) fn json(&self) -> Value {
        let note =
            |note: &Note| json!({"effect": note.effect.name(), "field": note.field, "reason": note.reason});
        let objects = self.entries.iter().map(|entry| {
            json!({
                "kind": entry.kind.name,
                "name": entry.name,
                "action": entry.action.name(),
                "notes": entry.notes.iter().map(note).collect::<Vec<_>>(),
            })
        });
        let others = self.others.iter().map(|(what, of)| {
            let mut value = note(of);
            value["of"] = json!(what);
            value
        });
        let nodes = self.nodes.iter().map(|node| {
            let (free, pods) = self.room.get(&node.name).copied().unwrap_or_default();
            json!({"name": node.name, "agent": node.agent.name(), "ready": node.is_ready, "freeAddresses": free, "pods": pods})
        });
        json!({
            "source": self.group(),
            "blocked": self.is_blocked(),
            "objects": objects.collect::<Vec<_>>(),
            "installation": others.collect::<Vec<_>>(),
            "nodes": nodes.collect::<Vec<_>>(),
        })
    }

    fn group(&self) -> &'static str {
        if self.source == Source::Stored { CALICO } else { OURS }
    }

    pub(super) fn text(&self) -> String {
        let mut text = match self.source {
            Source::Stored => format!("Calico keeps its objects in {CALICO}; they are copied to {OURS}\n"),
            Source::InPlace => format!("Calico keeps its objects in {OURS}; they stay as they are\n"),
        };
        let mut counts: BTreeMap<&str, [usize; 4]> = BTreeMap::new();
        for entry in &self.entries {
            counts.entry(entry.kind.name).or_default()[entry.action as usize] += 1;
        }
        let row = |(kind, count): (&&str, &[usize; 4])| {
            std::iter::once((*kind).to_owned()).chain(count.iter().map(ToString::to_string)).collect()
        };
        let rows: Vec<Vec<String>> = counts.iter().map(row).collect();
        text.push_str(&table(&["KIND", "CREATE", "UPDATE", "KEEP", "LEAVE"], &rows));
        let notes: Vec<_> = self.notes().filter(|(_, _, note)| note.effect != Effect::Maps).collect();
        if !notes.is_empty() {
            let row = |(kind, name, note): &(&str, &str, &Note)| {
                let reason = plain(&note.reason);
                vec![
                    note.effect.name().to_owned(),
                    plain(&format!("{kind} {name}")),
                    plain(&note.field),
                    reason,
                ]
            };
            text.push('\n');
            text.push_str(&table(
                &["WHAT", "OBJECT", "FIELD", "WHY"],
                &notes.iter().map(row).collect::<Vec<_>>(),
            ));
        }
        let rows: Vec<_> = self.nodes.iter().map(|node| self.node_row(node)).collect();
        text.push('\n');
        text.push_str(&table(&["NODE", "AGENT", "READY", "PODS", "FREE ADDRESSES"], &rows));
        text.push_str(if self.is_blocked() {
            "\nBlocked: settle what blocks, and look again.\n"
        } else {
            "\nNothing blocks.\n"
        });
        text
    }

    fn node_row(&self, node: &NodeView) -> Vec<String> {
        let (free, pods) = self.room.get(&node.name).copied().unwrap_or_default();
        let ready = if node.is_ready { "yes" } else { "no" };
        vec![
            node.name.clone(),
            node.agent.name().to_owned(),
            ready.to_owned(),
            pods.to_string(),
            free.to_string(),
        ]
    }
}

/// Reads everything, and changes nothing.
pub(super) async fn read(api: &Api) -> Result<Plan, CallError> {
    let stored = api.get(&format!("/apis/{CALICO}")).await?;
    let ours = api.get(&format!("/apis/{OURS}")).await?;
    let source = if stored.is_some() { Source::Stored } else { Source::InPlace };
    let daemon_sets = api.list("/apis/apps/v1/daemonsets").await?.unwrap_or_default();
    let calico =
        daemon_sets.iter().find(|set| has_container(&set["spec"]["template"], "calico-node")).cloned();
    if stored.is_none() && (ours.is_none() || calico.is_none()) {
        let reason =
            format!("there is no Calico here: neither {CALICO}, nor its DaemonSet with objects in {OURS}");
        return Err(CallError::Question { reason });
    }
    let nodes = nodes(api).await?;
    let mut plan = Plan { source, entries: Vec::new(), others: Vec::new(), nodes, room: BTreeMap::new() };
    if ours.is_none() {
        let reason = "the custom resources are not there: kubectl apply -k manifests/migrate installs them, \
            with agents that run on no node yet";
        plan.others.push((format!("APIService {OURS}"), Note::new(Effect::Blocks, "", reason)));
    }
    let api_service = api.get("/apis/apiregistration.k8s.io/v1/apiservices/v3.projectcalico.org").await?;
    // What Calico's API server shows is what is stored; asking it twice would say nothing.
    let hidden =
        api_service.as_ref().is_some_and(|of| of.pointer("/spec/service").is_some_and(Value::is_object));
    for kind in &KINDS {
        let present = if hidden { None } else { api.list(&path(OURS, kind.plural, None)).await? };
        let present = present.unwrap_or_default();
        let found = match source {
            Source::Stored => api.list(&path(CALICO, kind.calico_plural, None)).await?.unwrap_or_default(),
            Source::InPlace => present.clone(),
        };
        plan.entries.extend(found.iter().map(|object| entry(kind, object, &present, &plan.nodes)));
    }
    say_what_collides(&mut plan);
    say_what_is_unknown(api, stored.as_ref(), &mut plan).await?;
    plan.others.extend(installation(api, calico, api_service).await?);
    say_what_pools_mean(&mut plan);
    count_room(api, &mut plan).await?;
    Ok(plan)
}

fn has_container(template: &Value, wanted: &str) -> bool {
    let containers = template.pointer("/spec/containers").and_then(Value::as_array);
    containers.into_iter().flatten().any(|one| one["name"] == wanted)
}

fn entry(kind: &'static Kind, object: &Value, present: &[Value], nodes: &[NodeView]) -> Entry {
    let stored_name = match super::api::namespace(object) {
        Some(namespace) => format!("{namespace}/{}", name(object)),
        None => name(object).to_owned(),
    };
    let leave = |note| Entry {
        kind,
        name: stored_name.clone(),
        mapped: None,
        present: None,
        action: Action::Leave,
        notes: vec![note],
    };
    let mut mapped = match to_ours(kind, object) {
        Ok(mapped) => mapped,
        Err(note) => return leave(note),
    };
    let mut notes = std::mem::take(&mut mapped.notes);
    let schema = schema(kind);
    let spec = carried("spec", &mapped.object["spec"], &schema["properties"]["spec"], &mut notes);
    mapped.object["spec"] = spec;
    for problem in datastore::check(&mapped.object) {
        // Fields that nothing acts upon are named already.
        if !(problem.is_warning && notes.iter().any(|note| note.field == problem.field)) {
            let effect = if problem.is_warning { Effect::Ignored } else { Effect::Blocks };
            notes.push(Note::new(effect, problem.field, problem.reason));
        }
    }
    if kind.name == "IPAMBlock" {
        notes.extend(block_notes(&mapped.object["spec"]));
    }
    let is_it = |other: &&Value| {
        name(other) == mapped.name && super::api::namespace(other) == mapped.namespace.as_deref()
    };
    let present = present.iter().find(is_it).cloned();
    let node = owner(&mapped.object["spec"]).or_else(|| mapped.object["spec"]["node"].as_str());
    let has_moved = kind.is_ipam
        && (is_sealed(&mapped.object["spec"])
            || node.is_some_and(|node| nodes.iter().any(|of| of.name == node && of.agent == Agent::Ocicat)));
    let action = match &present {
        // Ours counts by now.
        _ if has_moved => Action::Leave,
        None => Action::Create,
        // Handles are counted from blocks when they are copied.
        Some(_) if kind.name == "IPAMHandle" => Action::Keep,
        Some(present) if same(&mapped.object, present) => Action::Keep,
        Some(_) => Action::Update,
    };
    Entry { kind, name: mapped.full_name(), mapped: Some(mapped), present, action, notes }
}

/// The schema of our kind; null for one that we have not.
pub(super) fn schema(kind: &Kind) -> Value {
    let wanted = format!("{}.projectcalico.org", kind.plural);
    let found = SCHEMAS.iter().find(|of| of["metadata"]["name"] == *wanted);
    found.map_or(Value::Null, |of| of["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone())
}

static SCHEMAS: std::sync::LazyLock<Vec<Value>> = std::sync::LazyLock::new(datastore::crd::definitions);

fn say_what_collides(plan: &mut Plan) {
    let mapped: Vec<Mapped> = plan.entries.iter().filter_map(|entry| entry.mapped.clone()).collect();
    for what in collisions(&mapped) {
        let reason = "two objects have this name here, as one has the name of its tier before it: rename or delete one";
        plan.others.push((what, Note::new(Effect::Blocks, "metadata.name", reason)));
    }
}

/// Kinds of Calico's group that nobody here knows, with their objects.
async fn say_what_is_unknown(api: &Api, stored: Option<&Value>, plan: &mut Plan) -> Result<(), CallError> {
    let resources = stored.and_then(|of| of.get("resources")).and_then(Value::as_array);
    for resource in resources.into_iter().flatten() {
        let plural = resource["name"].as_str().unwrap_or_default();
        if plural.contains('/') || kind_of(plural).is_some() {
            continue;
        }
        let kind = resource["kind"].as_str().unwrap_or(plural);
        for object in api.list(&path(CALICO, plural, None)).await?.unwrap_or_default() {
            let note = Note::new(Effect::Ignored, "kind", "nothing here knows this kind");
            plan.others.push((format!("{kind} {}", name(&object)), note));
        }
    }
    Ok(())
}

async fn installation(
    api: &Api,
    daemon_set: Option<Value>,
    api_service: Option<Value>,
) -> Result<Vec<(String, Note)>, CallError> {
    let of = |key: &str| daemon_set.as_ref().and_then(|set| set.pointer(key)).and_then(Value::as_str);
    let namespace = of("/metadata/namespace").unwrap_or("kube-system").to_owned();
    let config_map = api.get(&format!("/api/v1/namespaces/{namespace}/configmaps/calico-config")).await?;
    let operator = "/apis/apps/v1/namespaces/tigera-operator/deployments/tigera-operator";
    let operator = api.get(operator).await?;
    let nodes = api.list("/api/v1/nodes").await?.unwrap_or_default();
    let is_other = |node: &&Value| {
        let os = node["metadata"]["labels"]["kubernetes.io/os"].as_str();
        os.is_some_and(|os| os != "linux")
    };
    let found = Installation {
        daemon_set,
        config_map,
        operator_replicas: operator.and_then(|of| of.pointer("/spec/replicas")?.as_i64()),
        api_service,
        other_nodes: nodes.iter().filter(is_other).map(|node| name(node).to_owned()).collect(),
    };
    Ok(installation_notes(&found))
}

/// Is VXLAN the way to pods of this pool?
fn has_vxlan(pool: &Value) -> bool {
    pool["vxlanMode"].as_str().is_some_and(|mode| mode != "Never")
}

/// What is right by itself and would not work here, or not without a thought.
fn say_what_pools_mean(plan: &mut Plan) {
    for entry in &mut plan.entries {
        let Some(spec) = entry.mapped.as_ref().map(|mapped| &mapped.object["spec"]) else { continue };
        if entry.kind.name == "IPPool" && has_vxlan(spec) {
            let reason = "a block that a node of Calico's takes during the move is known to nodes that have moved when it \
                was copied: every few seconds while `apply` runs; run `apply --objects` when you let it rest half-way";
            entry.notes.push(Note::new(Effect::Differs, "spec.vxlanMode", reason));
        }
        if entry.kind.name == "FelixConfiguration" {
            for (field, reason) in [
                (
                    "bpfEnabled",
                    "Calico's eBPF programs would stay in force beside our rules: set it to false first",
                ),
                (
                    "wireguardEnabled",
                    "Calico's own rules and tables of routes would stay: set it to false before, and to true afterwards",
                ),
                (
                    "wireguardEnabledV6",
                    "Calico's own rules and tables of routes would stay: set it to false before, and to true afterwards",
                ),
            ] {
                if spec[field] == true {
                    let field = format!("spec.{field}");
                    entry.notes.retain(|note| note.field != field);
                    entry.notes.push(Note::new(Effect::Blocks, field, reason));
                }
            }
        }
    }
    let is_pool = |entry: &Entry| entry.kind.name == "IPPool" && entry.mapped.is_some();
    if !plan.entries.iter().any(is_pool) {
        let note =
            Note::new(Effect::Blocks, "", "there is none: Calico gives no addresses here that could be kept");
        plan.others.push(("IPPool".to_owned(), note));
    }
}

/// Pods of each node, and the addresses that it can still give.
async fn count_room(api: &Api, plan: &mut Plan) -> Result<(), CallError> {
    for entry in plan.entries.iter().filter(|entry| entry.kind.name == "IPAMBlock") {
        // Of a node that has moved ours counts.
        let spec = match (&entry.action, &entry.present, &entry.mapped) {
            (Action::Leave, Some(present), _) => &present["spec"],
            (_, _, Some(mapped)) => &mapped.object["spec"],
            _ => continue,
        };
        if let Some(node) = owner(spec) {
            plan.room.entry(node.to_owned()).or_default().0 += free_addresses(spec);
        }
    }
    for pod in api.list("/api/v1/pods").await?.unwrap_or_default() {
        if let Some(node) = pod.pointer("/spec/nodeName").and_then(Value::as_str)
            && pod["spec"]["hostNetwork"] != true
            && pod.pointer("/status/podIP").is_some()
        {
            plan.room.entry(node.to_owned()).or_default().1 += 1;
        }
    }
    Ok(())
}

/// Whose each node is, with the pods of the agents on it.
pub(super) async fn nodes(api: &Api) -> Result<Vec<NodeView>, CallError> {
    let pods = api.list("/api/v1/pods?labelSelector=k8s-app%3Dcalico-node").await?.unwrap_or_default();
    let on = |node: &str, container: &str| {
        let found =
            pods.iter().find(|pod| pod["spec"]["nodeName"] == *node && has_container(pod, container))?;
        Some(PodView { is_ready: is_true(found, "Ready") })
    };
    let view = |node: &Value| {
        let label = node.pointer("/metadata/labels").and_then(|all| all.get(LABEL)).and_then(Value::as_str);
        NodeView {
            name: name(node).to_owned(),
            agent: Agent::of_label(label),
            is_ready: is_true(node, "Ready"),
            calico: on(name(node), "calico-node"),
            ours: on(name(node), "felix"),
        }
    };
    let mut nodes: Vec<_> = api.list("/api/v1/nodes").await?.unwrap_or_default().iter().map(view).collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(nodes)
}

fn is_true(object: &Value, condition: &str) -> bool {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|one| one["type"] == condition && one["status"] == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entered(plural: &str, spec: &Value, present: &[Value], agent: Agent) -> Entry {
        let node = NodeView { name: "node-a".to_owned(), agent, is_ready: true, calico: None, ours: None };
        let object = json!({"metadata": {"name": "x"}, "spec": spec});
        entry(kind_of(plural).unwrap(), &object, present, &[node])
    }

    fn said(entry: &Entry) -> Vec<(&str, Effect)> {
        entry.notes.iter().map(|note| (note.field.as_str(), note.effect)).collect()
    }

    fn block() -> Value {
        json!({
            "cidr": "10.0.0.0/31", "affinity": "host:node-a", "strictAffinity": false, "allocations": [null, null],
            "unallocated": [0, 1], "attributes": [],
        })
    }

    #[test]
    fn an_object_that_is_there_with_its_defaults_is_kept() {
        let spec = json!({"cidr": "10.0.0.0/16", "natOutgoing": true, "nat-outgoing": true, "blockSize": 26});

        let new = entered("ippools", &spec, &[], Agent::Calico);
        assert_eq!((new.action, said(&new)), (Action::Create, vec![("spec.nat-outgoing", Effect::Ignored)]));
        let present = new.mapped.unwrap().object;
        assert_eq!(present["spec"]["nodeSelector"], "all()");
        let again = entered("ippools", &spec, std::slice::from_ref(&present), Agent::Calico);
        assert_eq!(again.action, Action::Keep);
        let other = json!({"cidr": "10.0.0.0/16", "natOutgoing": false, "blockSize": 26});
        assert_eq!(entered("ippools", &other, &[present], Agent::Calico).action, Action::Update);
    }

    #[test]
    fn fields_and_values_that_mean_nothing_here_are_named() {
        let settings = json!({"bpfEnabled": true, "logSeverityScreen": "Info", "noSuchThing": 3});
        let entry = entered("felixconfigurations", &settings, &[], Agent::Calico);
        assert!(said(&entry).contains(&("spec.noSuchThing", Effect::Ignored)), "{:?}", entry.notes);
        let wrong = json!({"selector": "a ===", "ingress": [{"action": "Deny"}]});
        let entry = entered("globalnetworkpolicies", &wrong, &[], Agent::Calico);
        assert_eq!(said(&entry), [("spec.selector", Effect::Blocks)]);
        let entry = entered("ipamblocks", &json!({"cidr": "10.0.0.0/31"}), &[], Agent::Calico);
        assert_eq!(said(&entry), [("spec.allocations", Effect::Blocks)]);
    }

    #[test]
    fn blocks_of_a_node_that_has_moved_are_ours() {
        assert_eq!(entered("ipamblocks", &block(), &[], Agent::Calico).action, Action::Create);
        assert_eq!(entered("ipamblocks", &block(), &[], Agent::Ocicat).action, Action::Leave);
        let sealed = migrate::seal(&block(), "node-a");
        assert_eq!(entered("ipamblocks", &sealed, &[], Agent::Moving).action, Action::Leave);
    }

    #[test]
    fn what_pools_and_dataplanes_mean_for_a_move_is_told() {
        let mut plan = Plan {
            source: Source::Stored,
            entries: vec![
                entered(
                    "ippools",
                    &json!({"cidr": "10.0.0.0/16", "vxlanMode": "Always"}),
                    &[],
                    Agent::Calico,
                ),
                entered("felixconfigurations", &json!({"wireguardEnabled": true}), &[], Agent::Calico),
            ],
            others: Vec::new(),
            nodes: Vec::new(),
            room: BTreeMap::new(),
        };

        say_what_pools_mean(&mut plan);

        assert!(plan.is_blocked() && plan.others.is_empty());
        assert!(plan.has_vxlan());
        let told = plan.notes().filter(|(_, _, note)| note.effect >= Effect::Differs);
        let told: Vec<_> = told.map(|(_, _, note)| (note.field.as_str(), note.effect)).collect();
        assert_eq!(told, [("spec.vxlanMode", Effect::Differs), ("spec.wireguardEnabled", Effect::Blocks)]);
        assert!(plan.text().contains("blocks") && plan.json()["blocked"] == true);
        plan.entries.clear();
        say_what_pools_mean(&mut plan);
        assert_eq!(plan.others.len(), 1, "a Calico without pools");
    }
}
