//! `ocicat policy whatif`: which connections would change, before anything is applied.

use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::Args;
use datastore::Document;
use felix_evaluate::State;
use model::{PolicyKey, Update};
use serde_json::{Value, json};

use super::classes::{Distinctions, reduced};
use super::compare::{ChangeKey, Changed, Comparison, compare};
use super::ports::words;
use crate::client::CallError;
use crate::cluster::{Cluster, ClusterOptions};
use crate::table::{plain, table};
use crate::{CHANGES, Format, OutputOptions, Report, UNWELL};

/// Longest file.
const MAX_FILE: u64 = 16 << 20;

#[derive(Args)]
pub(crate) struct WhatifOptions {
    /// Objects that would be applied: YAML or JSON, several documents to a file; - is standard input
    #[arg(short, long = "filename", value_name = "FILE", required_unless_present_any = ["delete", "enforce_staged"])]
    filename: Vec<PathBuf>,
    /// A policy that would be deleted, by its ID such as knp/default/deny, np/default/tier.name or gnp/name
    #[arg(long, value_name = "POLICY")]
    delete: Vec<String>,
    /// Staged policies would be enforced
    #[arg(long)]
    enforce_staged: bool,
    /// Stop comparing after so many seconds; what was found so far is told, with status 1
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    limit: u64,
    /// Tell of so many pairs of workloads, and of the others how many they are; 0 tells of all
    #[arg(long, value_name = "COUNT", default_value_t = 500)]
    rows: usize,
    #[command(flatten)]
    cluster: ClusterOptions,
    #[command(flatten)]
    output: OutputOptions,
}

pub(crate) fn run(options: &WhatifOptions) -> Result<Report, CallError> {
    let documents = documents(&options.filename)?;
    let cluster = options.cluster.read()?;
    let mut changes: Vec<Update> = documents.iter().map(|document| document.update.clone()).collect();
    for id in &options.delete {
        changes.push(Update::Policy(find_policy(&cluster.state, id)?, None));
    }
    for document in &documents {
        for warning in &document.warnings {
            let _ = writeln!(io::stderr(), "ocicat: {}: {warning}", document.name);
        }
    }
    let progress = Progress::new();
    let comparison = Whatif::new(&cluster, &changes, options.enforce_staged)
        .compare(Duration::from_secs(options.limit), |done, of| progress.tell(done, of));
    progress.end();
    let status = match (comparison.unseen, comparison.changes.is_empty()) {
        (1.., _) => UNWELL,
        (0, true) => 0,
        (0, false) => CHANGES,
    };
    let rows = if options.rows == 0 { usize::MAX } else { options.rows };
    let text = match options.output.output {
        Format::Json => format!("{:#}\n", comparison_json(&comparison, rows)),
        Format::Table => comparison_text(&comparison, rows),
    };
    Ok(Report { text, status })
}

/// The cluster before and after.
pub(super) struct Whatif {
    before: Vec<Update>,
    after: Vec<Update>,
    enforce_staged: bool,
}

impl Whatif {
    pub(super) fn new(cluster: &Cluster, changes: &[Update], enforce_staged: bool) -> Self {
        let before = cluster.updates.clone();
        // An update takes the place of what was said of the same key.
        let after = before.iter().chain(changes).cloned().collect();
        Self { before, after, enforce_staged }
    }

    pub(super) fn compare(&self, limit: Duration, progress: impl Fn(usize, usize) + Sync) -> Comparison {
        let distinctions = Distinctions::of(self.before.iter().chain(&self.after));
        let mut full = State::default();
        self.after.iter().for_each(|update| full.apply(update.clone()));
        let classes = distinctions.classes(&full);
        let before = reduced(self.before.iter(), &classes);
        let mut after = reduced(self.after.iter(), &classes);
        if self.enforce_staged {
            after = after.with_staged_enforced();
        }
        let mut comparison = compare((&before, &after), &classes, &distinctions.ports, limit, progress);
        comparison.unseen += usize::from(distinctions.ports.is_cut());
        comparison
    }
}

fn documents(files: &[PathBuf]) -> Result<Vec<Document>, CallError> {
    let mut all = Vec::new();
    for file in files {
        let failed = |reason: String| CallError::File { path: file.clone(), reason };
        let text = read(file).map_err(|error| failed(error.to_string()))?;
        let values: Vec<Value> =
            serde_saphyr::from_multiple(&text).map_err(|error| failed(plain(&error.to_string())))?;
        let values = values.into_iter().flat_map(items).filter(|value| !value.is_null());
        let before = all.len();
        for value in values {
            all.push(datastore::document(&value).map_err(|error| failed(plain(&error.to_string())))?);
        }
        if all.len() == before {
            return Err(failed("there is no object in it".to_owned()));
        }
    }
    Ok(all)
}

/// The items of a List, or the object itself.
fn items(value: Value) -> Vec<Value> {
    match value {
        Value::Object(mut list) if list.get("kind").and_then(Value::as_str) == Some("List") => {
            match list.remove("items") {
                Some(Value::Array(items)) => items,
                _ => Vec::new(),
            }
        }
        value => vec![value],
    }
}

fn read(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = if file == Path::new("-") {
        io::stdin().take(MAX_FILE).read_to_string(&mut text)?
    } else {
        std::fs::File::open(file)?.take(MAX_FILE).read_to_string(&mut text)?
    };
    if read as u64 == MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it has more than 16 MiB"));
    }
    Ok(text)
}

fn find_policy(state: &State, id: &str) -> Result<PolicyKey, CallError> {
    let found = state.policies().find(|policy| policy.key.to_string() == id);
    found.map(|policy| policy.key.clone()).ok_or_else(|| {
        let name = id.rsplit('/').next().unwrap_or(id);
        let similar: Vec<_> = state
            .policies()
            .map(|policy| policy.key.to_string())
            .filter(|other| other.contains(name))
            .take(5)
            .collect();
        let hint =
            if similar.is_empty() { String::new() } else { format!("; there is {}", similar.join(", ")) };
        CallError::Question { reason: format!("there is no policy {id:?}{hint}") }
    })
}

/// Says on a terminal how far it is, at most every half second.
struct Progress(Option<Mutex<Instant>>);

impl Progress {
    fn new() -> Self {
        Self(io::stderr().is_terminal().then(|| Mutex::new(Instant::now())))
    }

    fn tell(&self, done: usize, of: usize) {
        let Some(last) = &self.0 else { return };
        let Ok(mut last) = last.try_lock() else { return };
        if last.elapsed() >= Duration::from_millis(500) {
            *last = Instant::now();
            let _ = write!(io::stderr(), "\r{done} of {of} pairs of workloads compared ");
        }
    }

    fn end(&self) {
        if self.0.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

/// Pairs of workloads that would change, and are not told of.
fn left_out(comparison: &Comparison, rows: usize) -> usize {
    comparison.changes.len().saturating_sub(rows) + comparison.uncounted
}

fn comparison_text(comparison: &Comparison, rows: usize) -> String {
    let mut text = String::new();
    if comparison.changes.is_empty() {
        text.push_str("no connection would change\n");
    } else {
        let shown = comparison.changes.iter().take(rows);
        let lines: Vec<_> = shown.map(|(key, changed)| row(key, changed)).collect();
        text.push_str(&table(&["WOULD BE", "FROM", "TO", "PACKETS", "PAIRS", "NOW", "THEN"], &lines));
        let left_out = left_out(comparison, rows);
        if left_out > 0 {
            text.push_str(&format!("and {left_out} more lines like these\n"));
        }
    }
    if comparison.unseen > 0 {
        text.push_str(
            "not everything was compared: the time was up, or rules name more ports than are looked at\n",
        );
    }
    text
}

fn row(key: &ChangeKey, changed: &Changed) -> Vec<String> {
    vec![
        if key.allowed { "allowed" } else { "denied" }.to_owned(),
        key.from.clone(),
        key.to.clone(),
        words(&changed.packets),
        changed.pairs.to_string(),
        changed.decided.0.clone(),
        changed.decided.1.clone(),
    ]
}

fn comparison_json(comparison: &Comparison, rows: usize) -> Value {
    let changes = comparison.changes.iter().take(rows).map(|(key, changed)| {
        json!({
            "allowed": key.allowed,
            "from": key.from,
            "to": key.to,
            "packets": words(&changed.packets),
            "pairs": changed.pairs,
            "example": { "from": changed.example.0, "to": changed.example.1 },
            "now": changed.decided.0,
            "then": changed.decided.1,
        })
    });
    json!({
        "changes": changes.collect::<Vec<_>>(),
        "leftOut": left_out(comparison, rows),
        "complete": comparison.unseen == 0,
    })
}

#[cfg(test)]
mod tests {
    use model::{Labels, Pod, PodKey};

    use super::*;

    fn pod(namespace: &str, name: &str, app: &str, last: u8) -> Update {
        let key = PodKey::new(namespace, name);
        let pod = Pod {
            key: key.clone(),
            uid: name.into(),
            node: Some("n1".into()),
            addresses: vec![[10, 65, 0, last].into()],
            labels: Labels::from([("app".into(), app.into()), ("pod-name".into(), name.into())]),
            ports: Vec::new(),
            service_account: None,
            host_network: false,
            annotations: Labels::new(),
        };
        Update::Pod(key, Some(pod))
    }

    fn cluster() -> Cluster {
        let mut updates = vec![Update::Namespace("shop".into(), Some(Labels::new()))];
        updates.extend((1..=40).map(|n| pod("shop", &format!("web-{n}"), "web", n)));
        updates.extend((41..=60).map(|n| pod("shop", &format!("db-{n}"), "db", n)));
        Cluster::new(updates)
    }

    fn policy(spec: Value) -> Update {
        let object = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": { "name": "p", "namespace": "shop" }, "spec": spec,
        });
        datastore::document(&object).unwrap().update
    }

    fn whatif(cluster: &Cluster, changes: &[Update]) -> Comparison {
        Whatif::new(cluster, changes, false).compare(Duration::from_secs(60), |_, _| {})
    }

    #[test]
    fn a_new_policy_is_told_by_workload_with_the_ports_that_stay_left_out() {
        let from_web = json!({
            "podSelector": { "matchLabels": { "app": "db" } }, "policyTypes": ["Ingress"],
            "ingress": [{ "from": [{ "podSelector": { "matchLabels": { "app": "web" } } }], "ports": [{ "port": 5432 }] }],
        });

        let comparison = whatif(&cluster(), &[policy(from_web)]);

        let told: Vec<_> = comparison
            .changes
            .iter()
            .map(|(key, c)| (key.allowed, key.from.as_str(), key.to.as_str(), words(&c.packets), c.pairs))
            .collect();
        let all = "TCP; UDP; SCTP; ICMP 8/0".to_owned();
        let some = "TCP 1-5431, 5433-65535; UDP; SCTP; ICMP 8/0".to_owned();
        let expected = [
            (false, "outside", "shop/db", all.clone(), 20),
            (false, "shop/db", "shop/db", all, 20 * 19),
            (false, "shop/web", "shop/db", some, 40 * 20),
        ];
        assert_eq!(told, expected);
        assert_eq!(comparison.unseen, 0);
    }

    /// A thousand pods of twenty workloads, forty policies: what is compared follows the workloads, and what is said
    /// has a bound.
    #[test]
    fn a_thousand_pods_are_compared_whole_and_told_in_so_many_lines() {
        let app = |n: u32| format!("app-{:02}", n % 20);
        let mut updates = vec![Update::Namespace("shop".into(), Some(Labels::new()))];
        for n in 0..1000_u32 {
            let Update::Pod(key, Some(mut pod)) = pod("shop", &format!("{}-{n}", app(n)), &app(n), 0) else {
                panic!()
            };
            pod.addresses = vec![std::net::Ipv4Addr::from(0x0a41_0000 + n).into()];
            updates.push(Update::Pod(key, Some(pod)));
        }
        let mut changes = Vec::new();
        for n in 0..40_u32 {
            let object = json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": { "name": format!("p{n}"), "namespace": "shop" },
                "spec": {
                    "podSelector": { "matchLabels": { "app": app(n) } }, "policyTypes": ["Ingress"],
                    "ingress": [{
                        "from": [{ "podSelector": { "matchLabels": { "app": app(n + 1) } } }],
                        "ports": [{ "port": 8000 + n % 4 }],
                    }],
                },
            });
            changes.push(datastore::document(&object).unwrap().update);
        }

        let comparison = whatif(&Cluster::new(updates), &changes);

        // From each workload and from outside to each workload; a workload's own pods among themselves, too.
        assert_eq!((comparison.changes.len(), comparison.unseen, comparison.uncounted), (21 * 20, 0, 0));
        let pairs: usize = comparison.changes.values().map(|changed| changed.pairs).sum();
        assert_eq!(pairs, 1000 * 999 + 1000);
        let text = comparison_text(&comparison, 10);
        assert_eq!(text.lines().count(), 12, "{text}");
        assert!(text.ends_with("and 410 more lines like these\n"), "{text}");
        let json = comparison_json(&comparison, 10);
        assert_eq!((json["changes"].as_array().unwrap().len(), &json["leftOut"]), (10, &json!(410)));
    }

    #[test]
    fn what_says_the_same_changes_nothing_and_what_goes_is_undone() {
        let deny = policy(json!({ "podSelector": {}, "policyTypes": ["Ingress"] }));
        let mut updates = cluster().updates;
        updates.push(deny.clone());
        let closed = Cluster::new(updates);

        assert!(whatif(&closed, std::slice::from_ref(&deny)).changes.is_empty());

        let Update::Policy(key, _) = deny else { panic!() };
        let gone = whatif(&closed, &[Update::Policy(key, None)]);
        assert!(!gone.changes.is_empty() && gone.changes.keys().all(|key| key.allowed));
        assert!(find_policy(&closed.state, "knp/shop/q").is_err());
        let error = find_policy(&closed.state, "np/shop/p").unwrap_err().to_string();
        assert!(error.contains("there is knp/shop/p"), "{error}");
    }
}
