//! IP sets: who is in them, who refers to them, what was told of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kernel::{IpSetKind, IpSetMember};
use model::{Cidr, Protocol, Selector};
use sha2::{Digest, Sha224};

use crate::match_index::MatchIndex;
use crate::pods::{Entry, PodId, Pods};
use crate::{Change, IpSet, SetId};

/// What decides who is in a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SetDefinition {
    /// The addresses of what matches.
    Selector(Selector),
    /// Address and port of what matches and declares a port of this name; of every protocol when `None`.
    NamedPort { selector: Selector, protocol: Option<Protocol>, name: String },
}

impl SetDefinition {
    pub(crate) fn id(&self) -> SetId {
        match self {
            Self::Selector(selector) => SetId::new(selector.set_id()),
            Self::NamedPort { selector, protocol, name } => {
                let protocol = protocol.map_or("any".to_owned(), |p| p.to_string().to_lowercase());
                let text = format!("n:{},{protocol},{name}", selector.set_id());
                SetId::new(format!("n:{}", URL_SAFE_NO_PAD.encode(Sha224::digest(text))))
            }
        }
    }

    fn selector(&self) -> &Selector {
        match self {
            Self::Selector(selector) | Self::NamedPort { selector, .. } => selector,
        }
    }

    fn kind(&self) -> IpSetKind {
        match self {
            Self::Selector(_) => IpSetKind::Net,
            Self::NamedPort { .. } => IpSetKind::IpPort,
        }
    }

    /// What one Pod that matches adds.
    fn members_of(&self, entry: &Entry) -> Vec<IpSetMember> {
        let addresses = entry.addresses();
        match self {
            Self::Selector(_) => addresses.into_iter().map(|a| IpSetMember::Net(Cidr::host(a))).collect(),
            Self::NamedPort { protocol, name, .. } => {
                let ports = entry.networked().into_iter().flat_map(|pod| &pod.ports);
                let named =
                    ports.filter(|p| p.name == *name && protocol.is_none_or(|want| p.protocol == want));
                let members = named.flat_map(|port| {
                    addresses.iter().map(|address| IpSetMember::IpPort(*address, port.protocol, port.port))
                });
                members.collect::<BTreeSet<_>>().into_iter().collect()
            }
        }
    }
}

struct State {
    definition: SetDefinition,
    references: usize,
    /// How many Pods add each member: two may have one address for a while.
    members: HashMap<IpSetMember, u32>,
    by_pod: HashMap<PodId, Vec<IpSetMember>>,
    /// `None` until the whole set was told, then what changed since.
    told: Option<Delta>,
}

#[derive(Default)]
struct Delta {
    added: BTreeSet<IpSetMember>,
    removed: BTreeSet<IpSetMember>,
}

#[derive(Default)]
pub(crate) struct IpSets {
    states: HashMap<SetId, State>,
    index: MatchIndex<SetId>,
    /// Sets that have something to tell.
    dirty: BTreeSet<SetId>,
}

impl IpSets {
    /// Counts one more reference; the first one fills the set.
    pub(crate) fn acquire(&mut self, id: &SetId, definition: &SetDefinition, pods: &Pods) {
        if let Some(state) = self.states.get_mut(id) {
            state.references += 1;
            return;
        }
        let mut state = State {
            definition: definition.clone(),
            references: 1,
            members: HashMap::new(),
            by_pod: HashMap::new(),
            told: None,
        };
        let selector = definition.selector();
        let candidates = pods.candidates(&selector.restrictions());
        for pod in self.index.insert(id.clone(), selector.clone(), pods, candidates) {
            state.set_pod(pod, pods);
        }
        self.states.insert(id.clone(), state);
        self.dirty.insert(id.clone());
    }

    /// Counts one reference less; the last one's end is noticed by `tell`.
    pub(crate) fn release(&mut self, id: &SetId) {
        let state = self.states.get_mut(id).expect("what is released was acquired");
        state.references -= 1;
        if state.references == 0 {
            self.dirty.insert(id.clone());
        }
    }

    /// A Pod's labels, addresses or ports may have changed.
    pub(crate) fn update_pod(&mut self, pod: PodId, pods: &Pods) {
        let matches = self.index.update(pod, pods.labels(pod));
        for id in matches.before.difference(&matches.after) {
            self.change(id, |state| state.remove_pod(pod));
        }
        for id in &matches.after {
            self.change(id, |state| state.set_pod(pod, pods));
        }
    }

    /// The sets that come or change, and those that go.
    pub(crate) fn tell(&mut self) -> (Vec<Change>, Vec<Change>) {
        let (mut whole, mut deltas, mut gone) = (Vec::new(), Vec::new(), Vec::new());
        for id in std::mem::take(&mut self.dirty) {
            let Some(state) = self.states.get_mut(&id) else { continue };
            if state.references == 0 {
                if state.told.is_some() {
                    gone.push(Change::IpSet(id.clone(), None));
                }
                self.index.remove(&id);
                self.states.remove(&id);
                continue;
            }
            match state.told.replace(Delta::default()) {
                None => whole.push(Change::IpSet(id, Some(state.whole()))),
                Some(delta) if delta.added.is_empty() && delta.removed.is_empty() => {}
                Some(Delta { added, removed }) => {
                    let (added, removed) = (added.into_iter().collect(), removed.into_iter().collect());
                    deltas.push(Change::IpSetDelta { id, added, removed });
                }
            }
        }
        whole.append(&mut deltas);
        (whole, gone)
    }

    fn change(&mut self, id: &SetId, change: impl FnOnce(&mut State)) {
        change(self.states.get_mut(id).expect("what is in the index has a state"));
        self.dirty.insert(id.clone());
    }
}

impl State {
    fn set_pod(&mut self, pod: PodId, pods: &Pods) {
        let members = pods.get(pod).map(|entry| self.definition.members_of(entry)).unwrap_or_default();
        if self.by_pod.get(&pod).is_some_and(|old| *old == members) {
            return;
        }
        members.iter().for_each(|member| self.add(*member));
        if let Some(old) = self.by_pod.insert(pod, members) {
            old.into_iter().for_each(|member| self.subtract(member));
        }
    }

    fn remove_pod(&mut self, pod: PodId) {
        let old = self.by_pod.remove(&pod).unwrap_or_default();
        old.into_iter().for_each(|member| self.subtract(member));
    }

    fn add(&mut self, member: IpSetMember) {
        let count = self.members.entry(member).or_default();
        *count += 1;
        if *count == 1
            && let Some(delta) = &mut self.told
            && !delta.removed.remove(&member)
        {
            delta.added.insert(member);
        }
    }

    fn subtract(&mut self, member: IpSetMember) {
        let count = self.members.get_mut(&member).expect("only what was added is subtracted");
        *count -= 1;
        if *count > 0 {
            return;
        }
        self.members.remove(&member);
        if let Some(delta) = &mut self.told
            && !delta.added.remove(&member)
        {
            delta.removed.insert(member);
        }
    }

    fn whole(&self) -> IpSet {
        let members: BTreeMap<_, _> = self.members.iter().collect();
        IpSet { kind: self.definition.kind(), members: members.into_keys().copied().collect() }
    }
}
