//! What has been told of each object, so that only differences are told.
//!
//! Pure: events of all kinds go in, [`Update`]s come out. After a list, objects that vanished meanwhile are told
//! as gone, and those that did not change are not told again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

pub(crate) use fanout::Name as ObjectName;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use model::{Labels, NodeName, PeerTarget, Update};
use serde_json::Value;

use super::Kind;
use crate::convert::{self, FelixObject, Problems};
use crate::crd;

/// What one object says.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "lives for one turn of the loop, and most are the large one")]
pub(crate) enum Item {
    /// The whole of an update.
    Update(Update),
    /// A part of the settings, which are merged by precedence.
    Felix(Box<(ObjectMeta, Value)>),
    Bgp(Box<crd::BGPConfigurationSpec>),
}

/// What a watch of one kind tells.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "lives for one turn of the loop, and most are the large one")]
pub(crate) enum Event {
    /// A list begins.
    ListBegins,
    /// An object is there, and what of it makes no sense. Without an item it counts as gone.
    Put(ObjectName, Option<Item>, Option<Arc<str>>),
    Gone(ObjectName),
    /// The list is complete.
    Listed,
    /// The API server does not know this kind.
    Missing,
}

/// Who watches, which decides how settings merge.
#[derive(Clone, Debug)]
pub(crate) struct Viewer {
    pub(crate) node: NodeName,
    /// Variables that win over settings.
    pub(crate) overrides: BTreeMap<String, String>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Tracker {
    viewer: Viewer,
    kinds: BTreeMap<Kind, KindState>,
    in_sync: bool,
    /// Settings of the agent that may concern the viewer's node.
    felix: BTreeMap<Arc<str>, FelixObject>,
    felix_told: Option<u64>,
    /// Of the viewer's node, by which settings are selected.
    labels: Labels,
    bgp: convert::BgpSettings,
    bgp_told: Option<u64>,
    /// Kinds that nobody needs until the settings say so.
    asleep: Vec<Kind>,
    /// Kinds that the settings have just asked for.
    woken: Vec<Kind>,
}

#[derive(Debug, Default)]
struct KindState {
    listed_once: bool,
    /// Objects seen since a list began.
    listing: Option<BTreeSet<ObjectName>>,
    told: BTreeMap<ObjectName, Told>,
    /// Objects of which something makes no sense.
    not_understood: BTreeSet<ObjectName>,
}

#[derive(Debug)]
struct Told {
    /// Of the last update; equal objects are not told again.
    fingerprint: u64,
    /// The update that takes it back.
    gone: Box<Update>,
}

impl Tracker {
    pub(crate) fn new(viewer: Viewer, kinds: impl IntoIterator<Item = Kind>) -> Self {
        let (asleep, awake): (Vec<Kind>, Vec<Kind>) = kinds.into_iter().partition(|k| k.is_on_demand());
        Self {
            viewer,
            kinds: awake.iter().map(|kind| (*kind, KindState::default())).collect(),
            in_sync: false,
            felix: BTreeMap::new(),
            felix_told: None,
            labels: Labels::new(),
            bgp: convert::BgpSettings::default(),
            bgp_told: None,
            asleep,
            woken: awake,
        }
    }

    /// Kinds whose watch is to begin now.
    pub(crate) fn take_woken(&mut self) -> Vec<Kind> {
        std::mem::take(&mut self.woken)
    }

    /// Has every kind been listed once?
    pub(crate) fn is_in_sync(&self) -> bool {
        self.in_sync
    }

    /// Takes one event and appends what follows from it.
    pub(crate) fn handle(&mut self, kind: Kind, event: Event, out: &mut Vec<Update>) {
        let Some(state) = self.kinds.get_mut(&kind) else { return };
        match event {
            Event::ListBegins => state.listing = Some(BTreeSet::new()),
            Event::Put(name, item, not_understood) => {
                if let Some(listing) = &mut state.listing {
                    listing.insert(name.clone());
                }
                self.understood(kind, &name, out);
                match item {
                    Some(item) => self.put(kind, name.clone(), item, out),
                    None => self.gone(kind, &name, out),
                }
                if let Some(why) = not_understood {
                    out.push(Update::NotUnderstood(full_name(kind, &name), Some(why)));
                    self.kinds.entry(kind).or_default().not_understood.insert(name);
                }
            }
            Event::Gone(name) => self.gone(kind, &name, out),
            Event::Listed => self.listed(kind, out),
            Event::Missing => {
                // What was known stays: the kind may be back in a moment, when an API server restarts.
                state.listed_once = true;
                state.listing = None;
                self.settle(kind, out);
            }
        }
    }

    fn put(&mut self, kind: Kind, name: ObjectName, item: Item, out: &mut Vec<Update>) {
        match item {
            Item::Felix(object) => {
                let (meta, spec) = *object;
                let mut problems = Problems::default();
                let object = convert::felix_object(&self.viewer.node, &meta, &spec, &mut problems);
                report(kind, &problems);
                match object {
                    Some(object) => drop(self.felix.insert(name.name, object)),
                    None => drop(self.felix.remove(&name.name)),
                }
                self.settle_unless_listing(kind, out);
            }
            Item::Bgp(spec) => {
                if &*name.name == "default" {
                    self.bgp.default = Some(spec);
                } else if let Some(node) = name.name.strip_prefix("node.") {
                    self.bgp.nodes.insert(node.to_owned(), spec);
                }
                self.settle_unless_listing(kind, out);
            }
            Item::Update(update) => {
                self.note_labels(&update, out);
                if names_service(&update) {
                    self.wake(|kind| kind != Kind::LocalPod);
                }
                if peers_with_pods(&update) {
                    self.wake(|kind| kind == Kind::LocalPod);
                }
                let state = self.kinds.entry(kind).or_default();
                let fingerprint = fingerprint(&update);
                let gone = gone_of(&update);
                match state.told.get_mut(&name) {
                    Some(told) if told.fingerprint == fingerprint => return,
                    Some(told) => {
                        if *told.gone != gone {
                            out.push((*told.gone).clone());
                        }
                        *told = Told { fingerprint, gone: Box::new(gone) };
                    }
                    None => {
                        state.told.insert(name, Told { fingerprint, gone: Box::new(gone) });
                    }
                }
                out.push(update);
            }
        }
    }

    /// Nothing is held against an object any more.
    fn understood(&mut self, kind: Kind, name: &ObjectName, out: &mut Vec<Update>) {
        if self.kinds.get_mut(&kind).is_some_and(|state| state.not_understood.remove(name)) {
            out.push(Update::NotUnderstood(full_name(kind, name), None));
        }
    }

    fn gone(&mut self, kind: Kind, name: &ObjectName, out: &mut Vec<Update>) {
        self.understood(kind, name, out);
        let is_setting = match kind {
            Kind::FelixConfiguration => self.felix.remove(&name.name).is_some(),
            Kind::BgpConfiguration => {
                let node = name.name.strip_prefix("node.");
                let own = node.is_some_and(|node| self.bgp.nodes.remove(node).is_some());
                own || (&*name.name == "default" && self.bgp.default.take().is_some())
            }
            _ => false,
        };
        if is_setting {
            self.settle_unless_listing(kind, out);
        }
        if let Some(told) = self.kinds.get_mut(&kind).and_then(|state| state.told.remove(name)) {
            out.push(*told.gone);
        }
    }

    fn listed(&mut self, kind: Kind, out: &mut Vec<Update>) {
        let Some(state) = self.kinds.get_mut(&kind) else { return };
        let Some(seen) = state.listing.take() else { return };
        state.listed_once = true;
        let vanished: Vec<ObjectName> = state
            .told
            .keys()
            .chain(&state.not_understood)
            .filter(|name| !seen.contains(*name))
            .cloned()
            .collect();
        for name in vanished {
            self.gone(kind, &name, out);
        }
        let is_seen = |name: &str| seen.iter().any(|object| &*object.name == name);
        match kind {
            Kind::FelixConfiguration => self.felix.retain(|name, _| is_seen(name)),
            Kind::BgpConfiguration => {
                self.bgp.default = self.bgp.default.take().filter(|_| is_seen("default"));
                self.bgp.nodes.retain(|node, _| is_seen(&format!("node.{node}")));
            }
            _ => {}
        }
        self.settle(kind, out);
    }

    /// Tells merged settings, and that everything is in sync when it just became so.
    fn settle(&mut self, kind: Kind, out: &mut Vec<Update>) {
        self.settle_unless_listing(kind, out);
        if !self.in_sync && self.kinds.values().all(|state| state.listed_once) {
            self.in_sync = true;
            out.push(Update::InSync);
        }
    }

    /// Begins to watch kinds that something needs from now on.
    pub(crate) fn wake(&mut self, is_needed: impl Fn(Kind) -> bool) {
        let (woken, asleep) = std::mem::take(&mut self.asleep).into_iter().partition(|kind| is_needed(*kind));
        self.asleep = asleep;
        for kind in woken {
            self.kinds.insert(kind, KindState::default());
            self.woken.push(kind);
        }
    }

    fn settle_unless_listing(&mut self, kind: Kind, out: &mut Vec<Update>) {
        if self.kinds.get(&kind).is_some_and(|state| state.listing.is_some()) {
            return;
        }
        let mut problems = Problems::default();
        let (update, told) = match kind {
            Kind::FelixConfiguration => {
                let merged = convert::felix_configuration(&self.felix, &self.viewer.node, &self.labels);
                (Update::FelixConfiguration(Some(Box::new(merged))), &mut self.felix_told)
            }
            Kind::BgpConfiguration => {
                let mut merged = convert::bgp_configuration(&self.bgp, &self.viewer.node, &mut problems);
                if let Some(ranges) = self.viewer.overrides.get(convert::ADVERTISE_CLUSTER_IPS) {
                    merged.services.cluster_ips = convert::ranges(ranges, &mut problems);
                }
                let announces = !merged.services.is_empty() && self.kinds.contains_key(&Kind::BgpPeer);
                if announces {
                    self.wake(|kind| kind != Kind::LocalPod);
                }
                (Update::BgpConfiguration(Some(Box::new(merged))), &mut self.bgp_told)
            }
            _ => return,
        };
        let fingerprint = fingerprint(&update);
        if *told == Some(fingerprint) {
            return;
        }
        *told = Some(fingerprint);
        report(kind, &problems);
        out.push(update);
    }

    /// Settings may select the viewer's node by its labels.
    fn note_labels(&mut self, update: &Update, out: &mut Vec<Update>) {
        let Update::Node(name, Some(node)) = update else { return };
        if *name == self.viewer.node && node.labels != self.labels {
            self.labels.clone_from(&node.labels);
            if self.kinds.get(&Kind::FelixConfiguration).is_some_and(|state| state.listed_once) {
                self.settle_unless_listing(Kind::FelixConfiguration, out);
            }
        }
    }
}

fn full_name(kind: Kind, name: &ObjectName) -> Arc<str> {
    format!("{kind:?} {name}").into()
}

/// Kind, namespace (empty where there is none) and name of what [`Update::NotUnderstood`] names.
pub(crate) fn from_full_name(full: &str) -> Option<(Kind, &str, &str)> {
    let (kind, name) = full.split_once(' ')?;
    let (kind, _) = Kind::SHARED.into_iter().find(|(known, _)| format!("{known:?}") == kind)?;
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    Some((kind, namespace, name))
}

fn report(kind: Kind, problems: &Problems) {
    for problem in &problems.0 {
        tracing::warn!(?kind, field = problem.field, reason = problem.reason, "setting is not used");
    }
}

/// Is it a policy with a rule that names a Service?
fn names_service(update: &Update) -> bool {
    let Update::Policy(_, Some(policy)) = update else { return false };
    let mut rules = policy.ingress.iter().chain(&policy.egress);
    rules.any(|rule| rule.source.service.is_some() || rule.destination.service.is_some())
}

fn peers_with_pods(update: &Update) -> bool {
    matches!(update, Update::BgpPeer(_, Some(peer)) if matches!(peer.target, PeerTarget::LocalWorkloads(_)))
}

/// The same key, with nothing.
pub(crate) fn gone_of(update: &Update) -> Update {
    match update {
        Update::Node(name, _) => Update::Node(name.clone(), None),
        Update::Pod(key, _) => Update::Pod(key.clone(), None),
        Update::Namespace(name, _) => Update::Namespace(name.clone(), None),
        Update::ServiceAccount(namespace, name, _) => {
            Update::ServiceAccount(namespace.clone(), name.clone(), None)
        }
        Update::Policy(key, _) => Update::Policy(key.clone(), None),
        Update::Tier(name, _) => Update::Tier(name.clone(), None),
        Update::NetworkSet(key, _) => Update::NetworkSet(key.clone(), None),
        Update::HostEndpoint(name, _) => Update::HostEndpoint(name.clone(), None),
        Update::Profile(name, _) => Update::Profile(name.clone(), None),
        Update::Pool(name, _) => Update::Pool(name.clone(), None),
        Update::Block(cidr, _) => Update::Block(*cidr, None),
        Update::BlockAffinity(node, cidr, _) => Update::BlockAffinity(node.clone(), *cidr, None),
        Update::BgpConfiguration(_) => Update::BgpConfiguration(None),
        Update::BgpPeer(name, _) => Update::BgpPeer(name.clone(), None),
        Update::BgpFilter(name, _) => Update::BgpFilter(name.clone(), None),
        Update::Service(key, _) => Update::Service(key.clone(), None),
        Update::EndpointSlice(key, _) => Update::EndpointSlice(key.clone(), None),
        // Secrets have a watch of their own, which never hashes what it tells.
        Update::Secret(name, _) => Update::Secret(name.clone(), None),
        Update::IpReservation(name, _) => Update::IpReservation(name.clone(), None),
        Update::IpamConfiguration(_) => Update::IpamConfiguration(None),
        Update::FelixConfiguration(_) => Update::FelixConfiguration(None),
        Update::NotUnderstood(name, _) => Update::NotUnderstood(name.clone(), None),
        Update::InSync => Update::InSync,
    }
}

/// A hash over the whole of an update, without building its text.
fn fingerprint(update: &Update) -> u64 {
    struct Sink(DefaultHasher);
    impl Write for Sink {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.write(text.as_bytes());
            Ok(())
        }
    }
    let mut sink = Sink(DefaultHasher::new());
    write!(sink, "{update:?}").expect("hashing never fails");
    sink.0.finish()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const KINDS: [Kind; 2] = [Kind::Namespace, Kind::FelixConfiguration];

    fn tracker() -> Tracker {
        Tracker::new(Viewer { node: "n1".into(), overrides: BTreeMap::new() }, KINDS)
    }

    fn name(name: &str) -> ObjectName {
        ObjectName { namespace: "".into(), name: name.into() }
    }

    fn namespace(name: &str, label: &str) -> Update {
        let labels = Labels::from([("a".to_owned(), label.to_owned())]);
        Update::Namespace(name.to_owned(), Some(labels))
    }

    fn put(object: &str, label: &str) -> Event {
        Event::Put(name(object), Some(Item::Update(namespace(object, label))), None)
    }

    fn felix(object: &str, spec: Value) -> Event {
        let meta = ObjectMeta { name: Some(object.to_owned()), ..ObjectMeta::default() };
        Event::Put(name(object), Some(Item::Felix(Box::new((meta, spec)))), None)
    }

    fn run(tracker: &mut Tracker, kind: Kind, events: impl IntoIterator<Item = Event>) -> Vec<Update> {
        let mut out = Vec::new();
        for event in events {
            tracker.handle(kind, event, &mut out);
        }
        out
    }

    fn is_felix(update: &Update) -> bool {
        matches!(update, Update::FelixConfiguration(Some(_)))
    }

    #[test]
    fn in_sync_comes_once_after_every_kind_was_listed() {
        let mut tracker = tracker();

        let first = run(&mut tracker, Kind::Namespace, [Event::ListBegins, put("a", "1"), Event::Listed]);
        assert_eq!(first, [namespace("a", "1")]);
        let second = run(&mut tracker, Kind::FelixConfiguration, [Event::ListBegins, Event::Listed]);
        assert!(is_felix(&second[0]) && second[1..] == [Update::InSync], "{second:?}");
        let again = run(&mut tracker, Kind::Namespace, [Event::ListBegins, put("a", "1"), Event::Listed]);
        assert_eq!(again, []);
    }

    #[test]
    fn a_relist_tells_what_vanished_and_what_changed_only() {
        let mut tracker = tracker();
        run(
            &mut tracker,
            Kind::Namespace,
            [Event::ListBegins, put("a", "1"), put("b", "1"), put("c", "1"), Event::Listed],
        );

        let out = run(
            &mut tracker,
            Kind::Namespace,
            [Event::ListBegins, put("a", "1"), put("c", "2"), Event::Listed],
        );

        assert_eq!(out, [namespace("c", "2"), Update::Namespace("b".to_owned(), None)]);
    }

    #[test]
    fn what_cannot_be_understood_counts_as_gone() {
        let mut tracker = tracker();
        run(&mut tracker, Kind::Namespace, [put("a", "1")]);

        let out = run(
            &mut tracker,
            Kind::Namespace,
            [Event::Put(name("a"), None, None), Event::Put(name("a"), None, None), put("a", "1")],
        );

        assert_eq!(out, [Update::Namespace("a".to_owned(), None), namespace("a", "1")]);
    }

    #[test]
    fn what_makes_no_sense_is_told_until_it_does_or_is_gone() {
        let mut tracker = tracker();
        let told = |name: &str, why: Option<&str>| {
            Update::NotUnderstood(format!("Namespace {name}").into(), why.map(Into::into))
        };
        let broken = |object: &str| Event::Put(name(object), None, Some("spec.selector: no".into()));

        let out = run(&mut tracker, Kind::Namespace, [broken("a"), broken("b")]);
        assert_eq!(out, ["a", "b"].map(|object| told(object, Some("spec.selector: no"))));

        let out = run(&mut tracker, Kind::Namespace, [put("a", "1")]);
        assert_eq!(out, [told("a", None), namespace("a", "1")]);
        let out = run(&mut tracker, Kind::Namespace, [Event::ListBegins, put("a", "1"), Event::Listed]);
        assert_eq!(out, [told("b", None)]);
    }

    #[test]
    fn what_is_named_can_be_found() {
        let object = ObjectName { namespace: "a".into(), name: "b".into() };

        for kind in Kind::SHARED.map(|(kind, _)| kind) {
            assert_eq!(from_full_name(&full_name(kind, &object)), Some((kind, "a", "b")));
            assert_eq!(from_full_name(&full_name(kind, &name("b"))), Some((kind, "", "b")));
        }
        assert_eq!(from_full_name("Nothing b"), None);
    }

    #[test]
    fn an_object_whose_key_changes_takes_the_old_key_back() {
        let mut tracker = tracker();
        run(&mut tracker, Kind::Namespace, [put("a", "1")]);

        let moved = Event::Put(name("a"), Some(Item::Update(namespace("b", "1"))), None);

        assert_eq!(
            run(&mut tracker, Kind::Namespace, [moved]),
            [Update::Namespace("a".to_owned(), None), namespace("b", "1")]
        );
    }

    #[test]
    fn a_missing_kind_blocks_nothing_and_forgets_nothing() {
        let mut tracker = tracker();
        run(&mut tracker, Kind::Namespace, [Event::ListBegins, put("a", "1"), Event::Listed]);

        let missing =
            run(&mut tracker, Kind::FelixConfiguration, [Event::ListBegins, Event::Missing, Event::Missing]);
        assert!(is_felix(&missing[0]) && missing[1..] == [Update::InSync], "{missing:?}");
        assert_eq!(run(&mut tracker, Kind::Namespace, [Event::Missing]), []);
    }

    #[test]
    fn settings_merge_once_a_list_is_complete() {
        let mut tracker = tracker();
        let refresh = |out: &[Update]| match out {
            [Update::FelixConfiguration(Some(found)), ..] => found.route_refresh_interval.as_secs(),
            other => panic!("{other:?}"),
        };
        let list = [
            Event::ListBegins,
            felix("default", json!({"routeRefreshInterval": "10s"})),
            felix("node.n1", json!({"routeRefreshInterval": "20s"})),
            felix("node.n2", json!({"routeRefreshInterval": "30s"})),
            Event::Listed,
        ];

        assert_eq!(refresh(&run(&mut tracker, Kind::FelixConfiguration, list)), 20);
        assert_eq!(refresh(&run(&mut tracker, Kind::FelixConfiguration, [Event::Gone(name("node.n1"))])), 10);
        assert_eq!(run(&mut tracker, Kind::FelixConfiguration, [Event::Gone(name("node.n2"))]), []);
        let relist = [Event::ListBegins, Event::Listed];
        assert_eq!(refresh(&run(&mut tracker, Kind::FelixConfiguration, relist)), 90);
    }

    #[test]
    fn settings_follow_the_labels_of_the_node() {
        let mut tracker = Tracker::new(
            Viewer { node: "n1".into(), overrides: BTreeMap::new() },
            [Kind::Node, Kind::FelixConfiguration],
        );
        let node = |labels: Value| {
            let object = json!({"metadata": {"name": "n1", "labels": labels}});
            let node = convert::node(&serde_json::from_value(object).unwrap(), &mut Problems::default());
            Event::Put(name("n1"), Some(Item::Update(Update::Node("n1".into(), node))), None)
        };
        let scoped = felix("zone-a", json!({"nodeSelector": "zone == 'a'", "mtu": 1300}));
        run(&mut tracker, Kind::FelixConfiguration, [Event::ListBegins, scoped, Event::Listed]);

        let out = run(&mut tracker, Kind::Node, [node(json!({})), node(json!({"zone": "a"}))]);

        let mtus = out.iter().filter_map(|update| match update {
            Update::FelixConfiguration(Some(found)) => Some(found.mtu),
            _ => None,
        });
        assert_eq!(mtus.collect::<Vec<_>>(), [Some(1300)]);
    }

    #[test]
    fn services_are_watched_once_a_rule_names_one() {
        let kinds = [Kind::GlobalNetworkPolicy, Kind::BgpConfiguration, Kind::EndpointSlice];
        let mut tracker = Tracker::new(Viewer { node: "n1".into(), overrides: BTreeMap::new() }, kinds);
        tracker.take_woken();
        let key = model::PolicyKey::new(model::PolicyKind::GlobalNetworkPolicy, None, "p");
        let mut policy = model::Policy::new(key.clone(), model::Selector::all());
        let put = |policy: &model::Policy| {
            let update = Update::Policy(key.clone(), Some(Box::new(policy.clone())));
            Event::Put(name("p"), Some(Item::Update(update)), None)
        };

        run(&mut tracker, Kind::GlobalNetworkPolicy, [put(&policy)]);
        assert_eq!(tracker.take_woken(), []);
        let mut rule = model::Rule::any(model::Action::Allow);
        rule.destination.service = Some(model::ObjectKey::new("d", "web"));
        policy.egress.push(rule);
        run(&mut tracker, Kind::GlobalNetworkPolicy, [put(&policy)]);

        assert_eq!(tracker.take_woken(), [Kind::EndpointSlice]);
        assert!(!tracker.is_in_sync(), "what was woken is waited for");
    }
}
