//! Host endpoints that follow from nodes (`autoCreate` of KubeControllersConfiguration): which there should be, as
//! an index, and the loop that makes it so while this replica leads.
//!
//! Only host endpoints that carry the label of those that are made so are ever touched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use datastore::{AutoHostEndpoint, Datastore, Followed, Interest, Kind};
use model::{AutoHostEndpoints, HostEndpoint, Node, NodeName, Update};
use regex::Regex;
use tokio::sync::{mpsc, watch};

use crate::leader::{self, next};
use crate::metrics::Metrics;
use crate::settings::Settings;

/// After a change, for others to come.
const GATHER: Duration = Duration::from_millis(200);
/// After a write that failed.
const RETRY: Duration = Duration::from_secs(5);

/// What there should be and what there is. Pure.
#[derive(Debug, Default)]
pub struct Index {
    /// The inner `None` when they are switched off.
    settings: Option<Option<AutoHostEndpoints>>,
    /// The regular expressions of its templates, by their text.
    expressions: BTreeMap<String, Regex>,
    nodes: BTreeMap<NodeName, Node>,
    existing: BTreeMap<String, AutoHostEndpoint>,
    unread: Unread,
}

/// What was not read yet: nothing is written before.
#[derive(Debug)]
struct Unread {
    nodes: bool,
    existing: bool,
}

impl Default for Unread {
    fn default() -> Self {
        Self { nodes: true, existing: true }
    }
}

/// A difference between what there should be and what there is.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Make it, or make the one that is there say this.
    Write(HostEndpoint, Option<AutoHostEndpoint>),
    /// Its node is gone, or nobody wants them any more.
    Delete(String, AutoHostEndpoint),
}

impl Index {
    /// Takes what the datastore says of nodes.
    pub fn node(&mut self, update: Update) {
        match update {
            Update::Node(name, Some(node)) => _ = self.nodes.insert(name, node),
            Update::Node(name, None) => _ = self.nodes.remove(&name),
            Update::InSync => self.unread.nodes = false,
            _ => {}
        }
    }

    /// Takes the settings; what is known of nodes is forgotten while nobody asks for them.
    pub fn settings(&mut self, said: Option<AutoHostEndpoints>) {
        if said.is_none() {
            self.nodes.clear();
            self.unread.nodes = true;
        }
        let texts = said.iter().flat_map(|said| &said.templates).filter_map(|t| t.interfaces.as_ref());
        self.expressions = texts.filter_map(|text| Some((text.clone(), Regex::new(text).ok()?))).collect();
        self.settings = Some(said);
    }

    /// Takes what there is.
    pub fn existing(&mut self, said: Followed<AutoHostEndpoint>) {
        match said {
            Followed::Put(name, endpoint) => _ = self.existing.insert(name, endpoint),
            Followed::Gone(name) => _ = self.existing.remove(&name),
            Followed::Listed => self.unread.existing = false,
        }
    }

    /// What is to be done, in the order of names; nothing before everything was read.
    pub fn steps(&self) -> Vec<Step> {
        let Some(settings) = &self.settings else { return Vec::new() };
        if (settings.is_some() && self.unread.nodes) || self.unread.existing {
            return Vec::new();
        }
        let finds =
            |text: &str, name: &str| self.expressions.get(text).is_some_and(|found| found.is_match(name));
        let wanted: BTreeMap<Arc<str>, HostEndpoint> = (settings.iter())
            .flat_map(|settings| self.nodes.values().flat_map(|node| settings.of(node, finds)))
            .map(|endpoint| (endpoint.name.clone(), endpoint))
            .collect();
        // A cluster without nodes runs nothing: more likely somebody was told wrong.
        let may_delete = settings.is_none() || !self.nodes.is_empty();
        let unwanted =
            self.existing.iter().filter(|(name, _)| may_delete && !wanted.contains_key(name.as_str()));
        let mut steps: Vec<Step> =
            unwanted.map(|(name, endpoint)| Step::Delete(name.clone(), endpoint.clone())).collect();
        steps.extend(wanted.into_values().filter_map(|endpoint| {
            let existing = self.existing.get(&*endpoint.name);
            let is_right = existing.is_some_and(|existing| existing.says(&endpoint));
            (!is_right).then(|| Step::Write(endpoint, existing.cloned()))
        }));
        steps
    }
}

/// Writes while this replica leads; never ends.
pub async fn run(
    datastore: Datastore,
    leads: watch::Receiver<bool>,
    metrics: Arc<Metrics>,
    settings: Settings,
) {
    leader::while_leading(leads, || write(&datastore, &metrics, settings.clone())).await;
}

async fn write(datastore: &Datastore, metrics: &Metrics, mut settings: Settings) {
    let mut index = Index::default();
    // Nodes with their status, which changes all the time: watched only while somebody wants host endpoints.
    let mut nodes: Option<mpsc::Receiver<Update>> = None;
    let mut existing = datastore.watch_auto_host_endpoints();
    // Those that somebody else has a name of: said once.
    let mut taken = BTreeSet::new();
    settings.mark_changed();
    loop {
        let pause = match flush(datastore, &index, metrics, &mut taken).await {
            true => Duration::from_secs(3600),
            false => RETRY,
        };
        let mut until = tokio::time::Instant::now() + pause;
        let mut is_first = true;
        loop {
            tokio::select! {
                Some(update) = next(&mut nodes) => index.node(update),
                Some(said) = existing.recv() => index.existing(said),
                changed = settings.changed() => {
                    if changed.is_err() { return }
                    let Some(said) = settings.borrow_and_update().clone() else { continue };
                    let said = said.auto_host_endpoints;
                    match (&said, &nodes) {
                        (Some(_), None) => nodes = Some(watch_nodes(datastore)),
                        (None, _) => nodes = None,
                        _ => {}
                    }
                    index.settings(said);
                }
                () = tokio::time::sleep_until(until) => break,
            }
            // What comes within a moment is one change.
            if std::mem::take(&mut is_first) {
                until = until.min(tokio::time::Instant::now() + GATHER);
            }
        }
    }
}

fn watch_nodes(datastore: &Datastore) -> mpsc::Receiver<Update> {
    let interest = Interest { kinds: vec![Kind::Node], ..Interest::felix(NodeName::from("controllers")) };
    datastore.watch(interest)
}

/// Does what is to be done. Did everything succeed?
async fn flush(
    datastore: &Datastore,
    index: &Index,
    metrics: &Metrics,
    taken: &mut BTreeSet<Arc<str>>,
) -> bool {
    let mut is_done = true;
    for step in index.steps() {
        let (name, result) = match step {
            Step::Write(endpoint, existing) => {
                let written = datastore.write_auto_host_endpoint(&endpoint, existing.as_ref()).await;
                (endpoint.name, written)
            }
            Step::Delete(name, existing) => {
                let deleted = datastore.delete_auto_host_endpoint(&name, &existing).await;
                (name.into(), deleted)
            }
        };
        match result {
            Ok(()) => _ = metrics.host_endpoint_writes.inc(),
            // The watch tells what it is now.
            Err(datastore::Error::Conflict { .. }) => {}
            Err(datastore::Error::AlreadyExists { .. }) => {
                is_done = false;
                if taken.insert(name.clone()) {
                    tracing::warn!(%name, "somebody else's host endpoint has this name, it is left alone");
                }
            }
            Err(error) => {
                is_done = false;
                tracing::warn!(%name, %error, "the host endpoint cannot be written, it is tried again");
            }
        }
    }
    is_done
}
