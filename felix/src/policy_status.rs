//! Which policies this node needs, and at which generation the kernel has them.
//!
//! Owns the bookkeeping and the pace of the reports; what a policy means, and how it is written, is others' matter.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Display;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use felix_calc::Change;
use model::{NodeName, PolicyKey, Tier, Update};
use tokio::sync::watch;

/// At most one report in this time.
pub const PACE: Duration = Duration::from_secs(1);
/// Longest pause after a report that failed.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Of an error so many bytes are told.
const MAX_ERROR: usize = 1024;
/// So many problems are told.
const MAX_PROBLEMS: usize = 64;

/// One policy on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programmed {
    /// The generation that is in the kernel; 0 while none is.
    pub generation: i64,
    pub uid: Arc<str>,
    /// Why a newer generation is not.
    pub error: Option<String>,
}

/// By policy ID, as `gnp/deny-all`; those that the node needs.
pub type Policies = BTreeMap<String, Programmed>;

/// What a node tells of its policies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    pub policies: Policies,
    /// Which host endpoint governs an interface; `*` for all that have none of their own.
    pub host_endpoints: BTreeMap<String, Arc<str>>,
    /// What is not in force as somebody wants it; at most [`MAX_PROBLEMS`].
    pub problems: Vec<String>,
}

/// What is told beside the policies, as it is at one moment.
#[derive(Debug, Default)]
pub struct Surroundings<'a> {
    /// By interface.
    pub host_endpoints: BTreeMap<&'a str, &'a Arc<str>>,
    pub problems: Vec<String>,
}

impl Surroundings<'_> {
    fn are_told(&self, told: &Told) -> bool {
        let endpoints = told.host_endpoints.iter().map(|(interface, name)| (interface.as_str(), name));
        let problems = self.problems.iter().take(MAX_PROBLEMS);
        problems.eq(&told.problems) && endpoints.eq(self.host_endpoints.iter().map(|(of, name)| (*of, *name)))
    }
}

/// Of a policy, what its status is about.
struct Version {
    generation: i64,
    uid: Arc<str>,
    tier: Arc<str>,
}

/// What the dataplane's thread keeps.
pub struct PolicyStatus {
    /// Every policy of the cluster.
    versions: HashMap<PolicyKey, Version>,
    /// Those that somebody made.
    tiers: BTreeSet<String>,
    /// Policies that stand elsewhere than in the tiers that are built in, by tier.
    elsewhere: BTreeMap<Arc<str>, BTreeSet<PolicyKey>>,
    needed: BTreeSet<PolicyKey>,
    /// Needed, and changed since they were last known to be in the kernel.
    open: BTreeSet<PolicyKey>,
    told: watch::Sender<Arc<Told>>,
    /// Objects that make no sense, with the reasons.
    not_understood: BTreeMap<Arc<str>, Arc<str>>,
    /// Something was told: also that nothing is needed, since an earlier run may have told else.
    has_told: bool,
}

impl PolicyStatus {
    pub fn new() -> (Self, watch::Receiver<Arc<Told>>) {
        let (told, reports) = watch::channel(Arc::default());
        let (versions, tiers, elsewhere, needed, open, not_understood) = Default::default();
        let has_told = false;
        (Self { versions, tiers, elsewhere, needed, open, told, not_understood, has_told }, reports)
    }

    /// Notes the version of a policy, and what makes no sense.
    pub fn update(&mut self, update: &Update) {
        match update {
            Update::Policy(key, policy) => self.update_policy(key, policy.as_deref()),
            Update::Tier(name, Some(_)) => _ = self.tiers.insert(name.clone()),
            Update::Tier(name, None) => _ = self.tiers.remove(name),
            Update::NotUnderstood(name, Some(why)) => {
                self.not_understood.insert(name.clone(), why.clone());
            }
            Update::NotUnderstood(name, None) => _ = self.not_understood.remove(name),
            _ => {}
        }
    }

    /// Objects that make no sense, a sentence each.
    pub fn not_understood(&self) -> impl Iterator<Item = String> {
        self.not_understood.iter().map(|(name, why)| format!("{name} is not understood: {why}"))
    }

    /// Policies that this node needs and whose tier does not exist, a sentence each.
    pub fn without_tier(&self) -> impl Iterator<Item = String> {
        let missing = self.elsewhere.iter().filter(|(tier, _)| !self.tiers.contains(&***tier));
        missing.flat_map(|(tier, keys)| {
            let needed = keys.iter().filter(|key| self.needed.contains(*key));
            needed.map(move |key| {
                format!(
                    "{key} is in tier {tier}, which does not exist: it comes after all tiers, and what reaches it and \
                     is not allowed is dropped"
                )
            })
        })
    }

    fn update_policy(&mut self, key: &PolicyKey, policy: Option<&model::Policy>) {
        if let Some(tier) = self.versions.get(key).map(|version| version.tier.clone())
            && let Some(keys) = self.elsewhere.get_mut(&tier)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.elsewhere.remove(&tier);
            }
        }
        match policy {
            Some(policy) => {
                let (generation, uid, tier) = (policy.generation, policy.uid.clone(), policy.tier.clone());
                if Tier::built_in(&tier).is_none() {
                    self.elsewhere.entry(tier.clone()).or_default().insert(key.clone());
                }
                self.versions.insert(key.clone(), Version { generation, uid, tier });
                if self.needed.contains(key) {
                    self.open.insert(key.clone());
                }
            }
            None => drop(self.versions.remove(key)),
        }
    }

    /// Notes which policies concern this node.
    pub fn change(&mut self, change: &Change) {
        if let Change::Policy(key, policy) = change {
            self.note(key.clone(), policy.is_some());
        }
    }

    fn note(&mut self, key: PolicyKey, is_needed: bool) {
        if is_needed {
            self.needed.insert(key.clone());
        } else {
            self.needed.remove(&key);
        }
        self.open.insert(key);
    }

    /// What was told last.
    pub fn now(&self) -> Arc<Told> {
        self.told.borrow().clone()
    }

    /// An apply is done; `missing` says why a policy is not in the kernel.
    pub fn applied(
        &mut self,
        around: Surroundings<'_>,
        mut missing: impl FnMut(&PolicyKey) -> Option<String>,
    ) {
        let has_told = self.has_told && around.are_told(&self.told.borrow());
        if self.open.is_empty() && has_told {
            return;
        }
        let mut policies = self.told.borrow().policies.clone();
        for key in std::mem::take(&mut self.open) {
            let id = key.to_string();
            let Some(version) = self.versions.get(&key).filter(|_| self.needed.contains(&key)) else {
                policies.remove(&id);
                continue;
            };
            let (generation, uid) = (&version.generation, &version.uid);
            let entry = match missing(&key) {
                None => Programmed { generation: *generation, uid: uid.clone(), error: None },
                Some(mut error) => {
                    error.truncate(error.floor_char_boundary(MAX_ERROR));
                    let old = policies.get(&id).filter(|old| old.uid == *uid);
                    let generation = old.map_or(0, |old| old.generation);
                    self.open.insert(key);
                    Programmed { generation, uid: uid.clone(), error: Some(error) }
                }
            };
            policies.insert(id, entry);
        }
        self.has_told = true;
        if !has_told || policies != self.told.borrow().policies {
            let host_endpoints = around.host_endpoints.into_iter();
            let host_endpoints = host_endpoints.map(|(of, name)| (of.to_owned(), name.clone())).collect();
            let problems = around.problems.into_iter().take(MAX_PROBLEMS).collect();
            self.told.send_replace(Arc::new(Told { policies, host_endpoints, problems }));
        }
    }
}

/// Writes reports: never more than one in `pace`, always the last one, and each node at its own moment.
pub async fn report<E: Display, F: Future<Output = Result<(), E>>>(
    node: &NodeName,
    pace: Duration,
    mut reports: watch::Receiver<Arc<Told>>,
    mut write: impl FnMut(Arc<Told>) -> F,
) {
    let mut hasher = DefaultHasher::new();
    node.hash(&mut hasher);
    let jitter = pace.mul_f64((hasher.finish() % 1000) as f64 / 1000.0);
    let mut pause = pace;
    // What was told before the first look counts, too.
    while reports.changed().await.is_ok() {
        loop {
            tokio::time::sleep(pause + jitter).await;
            let told = reports.borrow_and_update().clone();
            match write(told).await {
                Ok(()) => {
                    pause = pace;
                    break;
                }
                Err(error) => {
                    tracing::warn!(%error, "the state of policies on this node cannot be reported; will be retried");
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use model::{Policy, PolicyKind};

    use super::*;

    fn key() -> PolicyKey {
        PolicyKey { kind: PolicyKind::GlobalNetworkPolicy, namespace: None, name: "deny".into() }
    }

    fn policy(generation: i64) -> Update {
        let policy = Policy {
            key: key(),
            tier: "default".into(),
            order: None,
            selector: "all()".parse().unwrap(),
            applies_to_ingress: true,
            applies_to_egress: true,
            ingress: Vec::new(),
            egress: Vec::new(),
            do_not_track: false,
            pre_dnat: false,
            apply_on_forward: false,
            needed_everywhere: false,
            generation,
            uid: "u".into(),
            staged: None,
        };
        Update::Policy(key(), Some(Box::new(policy)))
    }

    fn needed(status: &mut PolicyStatus) {
        status.note(key(), true);
    }

    #[test]
    fn a_policy_counts_when_its_generation_is_in_the_kernel() {
        let (mut status, reports) = PolicyStatus::new();
        status.update(&policy(1));
        status.applied(Surroundings::default(), |_| None);
        assert!(reports.borrow().policies.is_empty(), "the node does not need it");

        needed(&mut status);
        status.applied(Surroundings::default(), |_| None);
        assert_eq!(reports.borrow().policies["gnp/deny"].generation, 1);

        status.update(&policy(2));
        status.applied(Surroundings::default(), |_| Some("no room".to_owned()));
        let entry = reports.borrow().policies["gnp/deny"].clone();
        assert_eq!((entry.generation, entry.error.as_deref()), (1, Some("no room")));

        status.applied(Surroundings::default(), |_| None);
        let entry = reports.borrow().policies["gnp/deny"].clone();
        assert_eq!((entry.generation, entry.error), (2, None));

        status.note(key(), false);
        status.applied(Surroundings::default(), |_| None);
        assert!(reports.borrow().policies.is_empty());
    }

    #[test]
    fn what_makes_no_sense_is_a_problem_until_it_does() {
        let (mut status, _reports) = PolicyStatus::new();
        let said = |why: Option<&str>| Update::NotUnderstood("NetworkPolicy a/b".into(), why.map(Into::into));

        status.update(&said(Some("spec.selector: no")));
        let problems: Vec<_> = status.not_understood().collect();
        assert_eq!(problems, ["NetworkPolicy a/b is not understood: spec.selector: no"]);

        status.update(&said(None));
        assert_eq!(status.not_understood().count(), 0);
    }

    #[test]
    fn a_policy_whose_tier_does_not_exist_is_a_problem_where_it_is_needed() {
        let (mut status, _reports) = PolicyStatus::new();
        let Update::Policy(key, Some(policy)) = policy(1) else { unreachable!("policy() makes one") };
        let stands_in = |tier: &str| {
            Update::Policy(key.clone(), Some(Box::new(Policy { tier: tier.into(), ..*policy.clone() })))
        };
        let tier = Tier { name: "platform".into(), order: None, default_action_is_pass: false };

        status.update(&stands_in("platform"));
        assert_eq!(status.without_tier().count(), 0, "the node does not need it");
        needed(&mut status);
        let problems: Vec<_> = status.without_tier().collect();
        assert!(problems[0].starts_with("gnp/deny is in tier platform, which does not"), "{problems:?}");

        status.update(&Update::Tier("platform".to_owned(), Some(tier)));
        assert_eq!(status.without_tier().count(), 0);
        status.update(&Update::Tier("platform".to_owned(), None));
        assert_eq!(status.without_tier().count(), 1);
        status.update(&stands_in("kube-admin"));
        assert_eq!(status.without_tier().count(), 0);
    }

    #[test]
    fn host_endpoints_and_problems_are_told_when_they_change() {
        let (mut status, mut reports) = PolicyStatus::new();
        let name: Arc<str> = "n1-auto-hep".into();
        let around = || Surroundings {
            host_endpoints: BTreeMap::from([("*", &name)]),
            problems: vec!["no".to_owned(); MAX_PROBLEMS + 1],
        };

        status.applied(around(), |_| None);
        let told = reports.borrow_and_update().clone();
        assert_eq!((&*told.host_endpoints["*"], told.problems.len()), ("n1-auto-hep", MAX_PROBLEMS));

        status.applied(around(), |_| None);
        assert!(!reports.has_changed().unwrap(), "nothing is new");
        status.applied(Surroundings::default(), |_| None);
        assert_eq!(**reports.borrow(), Told::default());
    }

    #[tokio::test]
    async fn a_report_that_fails_is_written_later_in_its_last_form() {
        let (told, reports) = watch::channel(Arc::default());
        let tell = |policies| Arc::new(Told { policies, ..Told::default() });
        let entry = |generation| Programmed { generation, uid: "u".into(), error: None };
        told.send_replace(tell(Policies::from([("gnp/a".to_owned(), entry(1))])));
        told.send_replace(tell(Policies::from([("gnp/a".to_owned(), entry(2))])));
        drop(told);
        let mut written = Vec::new();

        report(&NodeName::from("n1"), Duration::from_millis(1), reports, |told: Arc<Told>| {
            written.push(told.policies["gnp/a"].generation);
            std::future::ready(if written.len() == 1 { Err("conflict") } else { Ok(()) })
        })
        .await;

        assert_eq!(written, [2, 2]);
    }
}
