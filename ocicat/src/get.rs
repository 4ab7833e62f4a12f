//! `ocicat get`: objects of the network with the columns that calicoctl's users know. Reads only.

mod derived;
mod kinds;
mod output;

use clap::Args;
use datastore::{Datastore, ObjectKind};
use serde_json::Value;

use crate::Report;
use crate::client::CallError;
use crate::cluster::{ClusterOptions, away, connect, runtime};
use kinds::{Kind, Source};
use output::{Look, name, print};

#[derive(Args)]
pub(crate) struct GetOptions {
    /// What: nodes, ippools, bgppeers, workloadendpoints (wep), hostendpoints (hep), networkpolicies, … (short names,
    /// singular and plural as calicoctl has them)
    kind: String,
    /// Only these
    names: Vec<String>,
    /// Objects of every namespace
    #[arg(short = 'A', long, visible_short_alias = 'a')]
    all_namespaces: bool,
    /// ps, wide, yaml, json, name, or custom-columns=NAME,HEADER:.path
    #[arg(short, long, default_value = "ps", value_name = "LOOK")]
    output: Look,
    /// Namespace of the objects; without it that of the kubeconfig's context
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    #[command(flatten)]
    cluster: ClusterOptions,
}

pub(crate) fn run(options: &GetOptions) -> Result<Report, CallError> {
    let kind = kinds::find(&options.kind).ok_or_else(|| CallError::Usage {
        reason: format!("there is no kind {:?}: one of {}", options.kind, kinds::known()),
    })?;
    if options.all_namespaces && !options.names.is_empty() && kind.is_namespaced {
        let reason = "a name is one of a namespace: give --namespace instead of --all-namespaces".to_owned();
        return Err(CallError::Usage { reason });
    }
    let objects = runtime()?.block_on(async {
        let datastore = connect(&options.cluster).await?;
        let own = || options.namespace.clone().unwrap_or_else(|| datastore.default_namespace());
        let namespace = (kind.is_namespaced && !options.all_namespaces).then(own);
        read(&datastore, kind, namespace.as_deref()).await
    })?;
    let objects = wanted(kind, objects, &options.names)?;
    let single = options.names.len() == 1;
    let text = print(kind, &objects, &options.output, single, options.all_namespaces);
    Ok(Report::new(text.map_err(|reason| CallError::Usage { reason })?, true))
}

/// Those that were named, in that order, or all.
fn wanted(kind: &Kind, mut objects: Vec<Value>, names: &[String]) -> Result<Vec<Value>, CallError> {
    objects.sort_by_key(|object| (object["metadata"]["namespace"].to_string(), name(object)));
    if names.is_empty() {
        return Ok(objects);
    }
    let find = |wanted: &String| {
        // An endpoint is known by its pod, too.
        let is_it = |object: &&Value| name(object) == *wanted || object["spec"]["pod"] == **wanted;
        objects.iter().find(is_it).cloned().ok_or_else(|| CallError::Question {
            reason: format!(
                "{} {wanted} does not exist: `ocicat get {}` lists what does",
                kind.kind,
                short(kind)
            ),
        })
    };
    names.iter().map(find).collect()
}

fn short(kind: &Kind) -> &'static str {
    kind.names.first().copied().unwrap_or(kind.kind)
}

async fn read(datastore: &Datastore, kind: &Kind, namespace: Option<&str>) -> Result<Vec<Value>, CallError> {
    let list = async |kind: ObjectKind| datastore.objects(kind, namespace).await.map_err(away);
    Ok(match kind.source {
        Source::Stored(stored) => list(stored).await?,
        Source::Nodes => list(core("Node", "nodes")).await?.iter().map(derived::node).collect(),
        Source::WorkloadEndpoints => {
            list(core("Pod", "pods")).await?.iter().filter_map(derived::workload_endpoint).collect()
        }
        Source::Profiles => {
            let mut all = list(kinds::stored("Profile", "profiles")).await?;
            all.push(derived::default_profile());
            let namespaces = list(core("Namespace", "namespaces")).await?;
            all.extend(namespaces.iter().map(derived::namespace_profile));
            let accounts = list(core("ServiceAccount", "serviceaccounts")).await?;
            all.extend(accounts.iter().map(derived::account_profile));
            all
        }
        Source::NetworkPolicies => {
            let mut all = list(kinds::stored("NetworkPolicy", "networkpolicies")).await?;
            let plural = "networkpolicies";
            let kubernetes =
                ObjectKind { group: "networking.k8s.io", version: "v1", kind: "NetworkPolicy", plural };
            all.extend(list(kubernetes).await?.iter().map(derived::kubernetes_policy));
            all
        }
    })
}

const fn core(kind: &'static str, plural: &'static str) -> ObjectKind {
    ObjectKind { group: "", version: "v1", kind, plural }
}

/// Every object of every kind as YAML, kind by kind.
pub(crate) async fn everything(datastore: &Datastore) -> Vec<(&'static str, Result<String, CallError>)> {
    let mut all = Vec::new();
    for kind in kinds::KINDS {
        let objects = read(datastore, kind, None).await;
        let text = objects.and_then(|objects| {
            print(kind, &objects, &Look::Yaml, false, true).map_err(|reason| CallError::Question { reason })
        });
        all.push((short(kind), text));
    }
    all
}
