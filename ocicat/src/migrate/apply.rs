//! Does what the plan says: objects first, then node by node. Everything that was done is seen in the cluster, so a second
//! run goes on where the first one stopped.

use std::io::Write;
use std::time::{Duration, Instant};

use migrate::{Agent, Direction, KINDS, Kind, LABEL, NodeView, OURS, Step, kept_away, next_step, same};
use serde_json::{Value, json};

use super::api::{Api, Refusal, name, namespace, path};
use super::copy::{self, Copied};
use super::plan::{Action, Entry, Plan, Source, nodes};
use crate::client::CallError;

/// How often the cluster is looked at while a node changes hands.
const LOOK: Duration = Duration::from_secs(1);

/// How often Calico's blocks are looked at where routes are made of them.
const FOLLOW: Duration = Duration::from_secs(5);

/// What is to be done, and how.
pub(super) struct Orders {
    /// Say it, and write nothing.
    pub(super) dry_run: bool,
    /// Leave the nodes alone.
    pub(super) objects_only: bool,
    /// Only these nodes; all when it is empty.
    pub(super) nodes: Vec<String>,
    /// How long an agent may take to leave, and another to be ready.
    pub(super) patience: Duration,
}

/// Tells what happens as it happens: a node takes a while.
pub(super) fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Writes our objects as Calico's say; true when all is done.
pub(super) async fn objects(api: &Api, plan: &Plan, orders: &Orders) -> Result<(), CallError> {
    if plan.source == Source::InPlace {
        return Ok(());
    }
    if !plan.is_under_way() {
        say("every node is ours: objects stay as they are here");
        return Ok(());
    }
    let mut written = 0;
    for entry in plan.entries.iter().filter(|entry| !entry.kind.is_ipam) {
        written += usize::from(object(api, entry, orders).await?);
    }
    if orders.dry_run {
        let due = |entry: &&Entry| matches!(entry.action, Action::Create | Action::Update);
        let count = plan.entries.iter().filter(|entry| entry.kind.is_ipam).filter(due).count();
        say(&format!("would copy {count} objects of IPAM"));
        return Ok(());
    }
    // As long as two agents give addresses, ours takes no block that Calico may take, and borrows none.
    strict(api, plan, true).await?;
    let copied = copy::all(api, &plan.nodes).await?;
    say(&format!("{written} objects written; {copied}"));
    Ok(())
}

/// One object that people write; true when it was.
async fn object(api: &Api, entry: &Entry, orders: &Orders) -> Result<bool, CallError> {
    let Some(mapped) = &entry.mapped else { return Ok(false) };
    // Counts while nodes change hands are ours to set.
    if !matches!(entry.action, Action::Create | Action::Update) || entry.kind.name == "IPAMConfiguration" {
        return Ok(false);
    }
    let what = format!("{} {}", entry.kind.name, entry.name);
    if orders.dry_run {
        say(&format!("would {} {what}", if entry.action == Action::Create { "create" } else { "update" }));
        return Ok(false);
    }
    put(api, OURS, entry.kind.plural, &mapped.object, entry.present.as_ref()).await.map_err(|refusal| {
        match refusal {
            Refusal::Failed(CallError::Question { reason }) => {
                CallError::Question { reason: format!("{what}: {reason}") }
            }
            other => other.into(),
        }
    })?;
    Ok(true)
}

/// Creates an object, or replaces what is there.
pub(super) async fn put(
    api: &Api,
    group: &str,
    plural: &str,
    object: &Value,
    present: Option<&Value>,
) -> Result<(), Refusal> {
    let place = path(group, plural, namespace(object));
    match present {
        None => match api.create(&place, object).await {
            // It came meanwhile: whoever runs this again sees it.
            Err(Refusal::Conflict) => Err(Refusal::Conflict),
            other => other.map(drop),
        },
        Some(present) => {
            let mut object = object.clone();
            object["metadata"]["resourceVersion"] = present["metadata"]["resourceVersion"].clone();
            api.replace(&format!("{place}/{}", name(&object)), &object).await.map(drop)
        }
    }
}

/// Settings of IPAM while two agents give addresses, or as Calico's say.
pub(super) async fn strict(api: &Api, plan: &Plan, is_strict: bool) -> Result<(), CallError> {
    let calicos =
        plan.entries.iter().find(|entry| entry.kind.name == "IPAMConfiguration" && entry.name == "default");
    let mut wanted = calicos.and_then(|entry| entry.mapped.as_ref()).map_or_else(
        || {
            json!({
                "apiVersion": OURS, "kind": "IPAMConfiguration", "metadata": {"name": "default"},
                "spec": {"strictAffinity": false, "autoAllocateBlocks": true},
            })
        },
        |mapped| mapped.object.clone(),
    );
    if is_strict {
        wanted["spec"]["strictAffinity"] = json!(true);
        wanted["spec"]["autoAllocateBlocks"] = json!(false);
    }
    let place = path(OURS, "ipamconfigurations", None);
    let present = api.get(&format!("{place}/default")).await?;
    if present.as_ref().is_some_and(|present| same(&wanted, present)) {
        return Ok(());
    }
    Ok(put(api, OURS, "ipamconfigurations", &wanted, present.as_ref()).await?)
}

/// Lets nodes change hands, one after the other; true when all are where they should be.
pub(super) async fn move_nodes(
    api: &Api,
    plan: &Plan,
    direction: Direction,
    orders: &Orders,
) -> Result<bool, CallError> {
    let may_go = |node: &str| orders.nodes.is_empty() || orders.nodes.iter().any(|wanted| wanted == node);
    if let Some(missing) = unknown(&nodes(api).await?, &orders.nodes) {
        return Err(CallError::Usage { reason: format!("there is no node {missing}") });
    }
    if orders.dry_run {
        let due = nodes(api).await?.into_iter().filter(|n| n.agent != direction.target() && may_go(&n.name));
        let due: Vec<_> = due.map(|node| node.name).collect();
        say(&format!(
            "would move, one after the other: {}",
            if due.is_empty() { "-".to_owned() } else { due.join(", ") }
        ));
        return Ok(true);
    }
    daemon_sets(api).await?;
    let mut since = Instant::now();
    let mut waiting = String::new();
    let mut follower = Follower::new(plan);
    loop {
        follower.look(api).await?;
        let step = next_step(&nodes(api).await?, direction, &orders.nodes);
        match step {
            Step::Done => return Ok(true),
            Step::Halt { node, why } => {
                say(&format!("{node}: {why}; the nodes after it wait"));
                return Ok(false);
            }
            Step::Wait { node, what } => {
                if waiting != format!("{node}{what}") {
                    (waiting, since) = (format!("{node}{what}"), Instant::now());
                }
                if since.elapsed() > orders.patience {
                    say(&format!(
                        "{node}: {what} after {} s; the nodes after it wait",
                        orders.patience.as_secs()
                    ));
                    return Ok(false);
                }
                tokio::time::sleep(LOOK).await;
            }
            Step::Leave { node } => {
                label(api, &node, Agent::Moving).await?;
                say(&format!("{node}: the agent leaves; what is in the kernel stays"));
            }
            Step::Copy { node } => {
                let copied = match plan.source {
                    Source::Stored => copy::node(api, &node, direction).await?,
                    // Both agents have the same objects.
                    Source::InPlace => Copied::default(),
                };
                label(api, &node, direction.target()).await?;
                say(&format!("{node}: {copied}; {} comes", direction.target().name()));
            }
        }
    }
}

/// Keeps our group's copy of Calico's blocks as Calico has them while nodes of both kinds send to one another by what
/// blocks say.
struct Follower {
    is_needed: bool,
    looked: Instant,
}

impl Follower {
    fn new(plan: &Plan) -> Self {
        let is_needed = plan.source == Source::Stored && plan.has_vxlan();
        Self { is_needed, looked: Instant::now() }
    }

    /// Copies what changed, if it is time.
    async fn look(&mut self, api: &Api) -> Result<(), CallError> {
        if self.is_needed && self.looked.elapsed() >= FOLLOW {
            copy::all(api, &nodes(api).await?).await?;
            self.looked = Instant::now();
        }
        Ok(())
    }
}

fn unknown<'a>(nodes: &[NodeView], wanted: &'a [String]) -> Option<&'a String> {
    wanted.iter().find(|wanted| !nodes.iter().any(|node| node.name == **wanted))
}

async fn label(api: &Api, node: &str, agent: Agent) -> Result<(), CallError> {
    let patch = json!({"metadata": {"labels": {LABEL: agent.name()}}});
    api.patch(&format!("/api/v1/nodes/{node}"), &patch).await?;
    Ok(())
}

/// Calico's DaemonSet keeps away from nodes that are not its own; ours must run on its own only.
async fn daemon_sets(api: &Api) -> Result<(), CallError> {
    let sets = api.list("/apis/apps/v1/daemonsets").await?.unwrap_or_default();
    let with = |container: &str| {
        let has = |set: &&Value| {
            let containers = set.pointer("/spec/template/spec/containers").and_then(Value::as_array);
            containers.into_iter().flatten().any(|one| one["name"] == *container)
        };
        sets.iter().filter(has).collect::<Vec<_>>()
    };
    let ours = with("felix");
    let is_bound = |set: &&Value| {
        let selector = set.pointer("/spec/template/spec/nodeSelector");
        selector.and_then(|selector| selector.get(LABEL)).is_some_and(|value| value == Agent::Ocicat.name())
    };
    if ours.is_empty() || !ours.iter().all(is_bound) {
        let reason = format!(
            "our DaemonSet must be there and have the nodeSelector {LABEL}: {}, so that it comes node by node: kubectl apply -k \
             manifests/migrate",
            Agent::Ocicat.name()
        );
        return Err(CallError::Question { reason });
    }
    for set in with("calico-node") {
        let template = &set["spec"]["template"]["spec"];
        let affinity = kept_away(&template["affinity"]);
        if affinity == template["affinity"] {
            continue;
        }
        // OnDelete first: the new template is for pods to come, and restarts none.
        let place = path("apps/v1", "daemonsets", namespace(set));
        let patch = json!({"spec": {
            "updateStrategy": {"type": "OnDelete", "rollingUpdate": null},
            "template": {"spec": {"affinity": affinity}},
        }});
        api.patch(&format!("{place}/{}", name(set)), &patch).await?;
        say(&format!("DaemonSet {}: keeps away from nodes that are not Calico's", name(set)));
    }
    Ok(())
}

/// Objects of ours that differ go into Calico's group, as long as a node is ours.
pub(super) async fn objects_back(api: &Api, plan: &Plan, orders: &Orders) -> Result<(), CallError> {
    if plan.source == Source::InPlace {
        return Ok(());
    }
    let mut written = 0;
    let is_ours_alone =
        |kind: &Kind| ["IPAMConfiguration", "ClusterInformation", "CalicoNodeStatus"].contains(&kind.name);
    for kind in KINDS.iter().filter(|kind| !kind.is_ipam && !is_ours_alone(kind)) {
        let Some(stored) = api.list(&path(migrate::CALICO, kind.calico_plural, None)).await? else {
            continue;
        };
        for object in api.list(&path(OURS, kind.plural, None)).await?.unwrap_or_default() {
            let is_it = |entry: &&Entry| {
                entry.kind == kind
                    && entry.mapped.as_ref().is_some_and(|mapped| {
                        mapped.name == name(&object) && mapped.namespace.as_deref() == namespace(&object)
                    })
            };
            let entry = plan.entries.iter().find(is_it);
            if entry.is_some_and(|entry| entry.action == Action::Keep) {
                continue;
            }
            let what = format!("{} {}", kind.name, name(&object));
            if orders.dry_run {
                say(&format!("would write {what} for Calico"));
                continue;
            }
            let is_stored = |one: &&Value| {
                migrate::to_ours(kind, one).is_ok_and(|mapped| {
                    mapped.name == name(&object) && mapped.namespace.as_deref() == namespace(&object)
                })
            };
            let present = stored.iter().find(is_stored);
            let object = migrate::to_calico_object(kind, &object, present);
            put(api, migrate::CALICO, kind.calico_plural, &object, present).await?;
            written += 1;
        }
    }
    if !orders.dry_run {
        say(&format!("{written} objects written for Calico"));
    }
    Ok(())
}
