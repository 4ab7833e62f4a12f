//! Blocks, claims and handles from one group to the other; see `migrate::seal` for what is left behind.

use std::collections::BTreeMap;
use std::fmt;

use migrate::{
    Agent, CALICO, Counts, Direction, Kind, NodeView, OURS, carried, handle_changes, is_sealed, kind_of,
    owner, returned, same, seal, to_calico_object, to_ours, unsealed,
};
use serde_json::{Value, json};

use super::api::{Api, Refusal, name, path};
use super::apply::put;
use super::plan::schema;
use crate::client::CallError;

/// How often somebody else may be faster.
const ATTEMPTS: usize = 8;

/// What was copied.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Copied {
    blocks: usize,
    claims: usize,
    handles: usize,
}

impl fmt::Display for Copied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} blocks, {} claims and {} handles copied", self.blocks, self.claims, self.handles)
    }
}

/// One object as both groups have it.
struct Stored {
    /// As it is stored.
    object: Value,
    /// In our spelling.
    ours: Value,
}

struct Side {
    group: &'static str,
    is_calico: bool,
}

impl Side {
    const CALICO: Self = Self { group: CALICO, is_calico: true };
    const OURS: Self = Self { group: OURS, is_calico: false };

    fn plural(&self, kind: &Kind) -> &'static str {
        if self.is_calico { kind.calico_plural } else { kind.plural }
    }

    async fn list(&self, api: &Api, kind: &'static Kind) -> Result<Vec<Stored>, CallError> {
        let found = api.list(&path(self.group, self.plural(kind), None)).await?.unwrap_or_default();
        let schema = schema(kind);
        let read = |object: Value| {
            let mut ours = to_ours(kind, &object).ok()?.object;
            ours["spec"] = carried("spec", &ours["spec"], &schema["properties"]["spec"], &mut Vec::new());
            Some(Stored { ours, object })
        };
        Ok(found.into_iter().filter_map(read).collect())
    }

    /// Writes an object that is in our spelling.
    async fn put(
        &self,
        api: &Api,
        kind: &Kind,
        ours: &Value,
        present: Option<&Value>,
    ) -> Result<(), Refusal> {
        let object = if self.is_calico { to_calico_object(kind, ours, present) } else { ours.clone() };
        put(api, self.group, self.plural(kind), &object, present).await
    }

    async fn delete(&self, api: &Api, kind: &Kind, object: &Value) -> Result<(), Refusal> {
        let place = path(self.group, self.plural(kind), None);
        api.delete(&format!("{place}/{}", name(object)), object).await
    }
}

fn ipam_kind(plural: &str) -> &'static Kind {
    kind_of(plural).expect("IPAM's kinds are among those that are known")
}

/// Copies what belongs to nodes that are Calico's, and to nobody; nothing is sealed, as Calico goes on with it.
pub(super) async fn all(api: &Api, nodes: &[NodeView]) -> Result<Copied, CallError> {
    let is_calicos = |node: Option<&str>| {
        node.is_none_or(|node| !nodes.iter().any(|of| of.name == node && of.agent != Agent::Calico))
    };
    again(async || copy(api, &Side::CALICO, &Side::OURS, is_calicos, None).await).await
}

/// Copies what belongs to one node, which nobody's agent runs on, and seals what is left behind.
pub(super) async fn node(api: &Api, node: &str, direction: Direction) -> Result<Copied, CallError> {
    let (from, to) = match direction {
        Direction::Over => (Side::CALICO, Side::OURS),
        Direction::Back => (Side::OURS, Side::CALICO),
    };
    again(async || copy(api, &from, &to, |of| of == Some(node), Some(node)).await).await
}

async fn again(attempt: impl AsyncFn() -> Result<Copied, Refusal>) -> Result<Copied, CallError> {
    for _ in 1..ATTEMPTS {
        match attempt().await {
            Err(Refusal::Conflict) => {}
            outcome => return outcome.map_err(CallError::from),
        }
    }
    attempt().await.map_err(CallError::from)
}

async fn copy(
    api: &Api,
    from: &Side,
    to: &Side,
    is_meant: impl Fn(Option<&str>) -> bool,
    leaves: Option<&str>,
) -> Result<Copied, Refusal> {
    let kind = ipam_kind("ipamblocks");
    let mut copied = Copied::default();
    let failed = Refusal::Failed;
    let present = to.list(api, kind).await.map_err(failed)?;
    let found = from.list(api, kind).await.map_err(failed)?;
    let meant = |stored: &&Stored| is_meant(owner(&stored.ours["spec"]));
    let mut specs = Vec::new();
    let mut names = Vec::new();
    for stored in found.iter().filter(meant) {
        let there = present.iter().find(|other| name(&other.object) == name(&stored.object));
        let wanted = wanted_block(stored, there, to);
        specs.push(wanted["spec"].clone());
        names.push(name(&stored.object).to_owned());
        // First of all, and only as it was read: from now on nobody else takes an address of it.
        if let Some(node) = leaves.filter(|_| from.is_calico && !is_sealed(&stored.ours["spec"])) {
            let mut sealed = stored.object.clone();
            sealed["spec"] = seal(&stored.object["spec"], node);
            put(api, from.group, from.plural(kind), &sealed, Some(&stored.object)).await?;
        }
        if there.is_none_or(|there| !same(&wanted, &there.ours)) {
            to.put(api, kind, &wanted, there.map(|there| &there.object)).await?;
            copied.blocks += 1;
        }
    }
    // Blocks that the node has given up since they were copied.
    for gone in present
        .iter()
        .filter(meant)
        .filter(|other| !names.iter().any(|name| name == self::name(&other.object)))
    {
        let mut empty = gone.ours["spec"].clone();
        empty["allocations"] = json!([]);
        specs.push(empty);
        to.delete(api, kind, &gone.object).await?;
        copied.blocks += 1;
    }
    copied.claims = claims(api, from, to, &is_meant).await?;
    copied.handles = handles(api, to, &specs.iter().collect::<Vec<_>>()).await?;
    Ok(copied)
}

/// A block as it will be on the other side.
fn wanted_block(stored: &Stored, there: Option<&Stored>, to: &Side) -> Value {
    let mut wanted = stored.ours.clone();
    wanted["spec"] = if to.is_calico {
        returned(&stored.ours["spec"], there.map(|there| &there.ours["spec"]))
    } else {
        unsealed(&stored.ours["spec"])
    };
    wanted
}

async fn claims(
    api: &Api,
    from: &Side,
    to: &Side,
    is_meant: &impl Fn(Option<&str>) -> bool,
) -> Result<usize, Refusal> {
    let kind = ipam_kind("blockaffinities");
    let meant = |stored: &&Stored| is_meant(stored.ours["spec"]["node"].as_str());
    let present = to.list(api, kind).await.map_err(Refusal::Failed)?;
    let found = from.list(api, kind).await.map_err(Refusal::Failed)?;
    let mut count = 0;
    for stored in found.iter().filter(meant) {
        let there = present.iter().find(|other| name(&other.object) == name(&stored.object));
        if there.is_none_or(|there| !same(&stored.ours, &there.ours)) {
            to.put(api, kind, &stored.ours, there.map(|there| &there.object)).await?;
            count += 1;
        }
    }
    for gone in present.iter().filter(meant) {
        if !found.iter().any(|stored| name(&stored.object) == name(&gone.object)) {
            to.delete(api, kind, &gone.object).await?;
            count += 1;
        }
    }
    Ok(count)
}

/// Makes handles say what the copied blocks say.
async fn handles(api: &Api, to: &Side, blocks: &[&Value]) -> Result<usize, Refusal> {
    let kind = ipam_kind("ipamhandles");
    let stored = to.list(api, kind).await.map_err(Refusal::Failed)?;
    let id = |stored: &Stored| stored.ours["spec"]["handleID"].as_str().unwrap_or_default().to_owned();
    let counts = |stored: &Stored| -> Counts {
        let all = stored.ours["spec"]["block"].as_object().into_iter().flatten();
        all.filter_map(|(block, count)| Some((block.clone(), count.as_u64()?))).collect()
    };
    let present: BTreeMap<String, Counts> =
        stored.iter().map(|stored| (id(stored), counts(stored))).collect();
    let changes = handle_changes(&present, blocks);
    let count = changes.len();
    for (handle, counts) in changes {
        let there = stored.iter().find(|stored| id(stored) == handle).map(|stored| &stored.object);
        match (counts, there) {
            (Some(counts), there) => {
                let ours = json!({
                    "apiVersion": OURS, "kind": kind.name,
                    "metadata": {"name": datastore::convert::handle_name(&handle)},
                    "spec": {"handleID": handle, "block": counts, "deleted": false},
                });
                to.put(api, kind, &ours, there).await?;
            }
            (None, Some(there)) => to.delete(api, kind, there).await?,
            (None, None) => {}
        }
    }
    Ok(count)
}
