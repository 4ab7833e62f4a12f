//! IP sets: who refers to them, who is in them, what was told of them.
//!
//! No set keeps its members: who is in it follows from the classes that its selector matches and from who has
//! an address. What may have changed since the last flush is noted with how it was told, and looked at again
//! in the flush.

use std::collections::HashMap;

use kernel::{IpSetKind, IpSetMember};
use model::{Cidr, EndpointSlice, ObjectKey, Protocol};

use crate::classes::{Class, ClassId, Classes};
use crate::difference::difference;
use crate::items::{Items, Membership};
use crate::match_index::{Difference, MatchIndex, SelectorId};
use crate::services::Services;
use crate::set_definition::SetDefinition;
use crate::slab::{IdMap, IdSet, Slab};
use crate::symbols::Symbol;
use crate::{Change, IpSet, SetId};

/// Stands for a set while somebody refers to it.
type SetNumber = u32;

/// A definition in numbers.
enum Content {
    Selector(SelectorId),
    NamedPort { selector: SelectorId, protocol: Option<Protocol>, name: Symbol },
    Service { service: ObjectKey, ports: bool },
}

struct Set {
    id: SetId,
    kind: IpSetKind,
    content: Content,
    references: usize,
    /// Was the whole set told?
    is_told: bool,
    /// What may have changed since: was it told as a member?
    touched: HashMap<IpSetMember, bool>,
}

#[derive(Default)]
pub(crate) struct IpSets {
    ids: HashMap<SetId, SetNumber>,
    sets: Slab<Set>,
    /// Over all classes there are.
    index: MatchIndex,
    by_selector: IdMap<SelectorId, Vec<SetNumber>>,
    services: Services,
    by_service: HashMap<ObjectKey, Vec<SetNumber>>,
    /// Sets that may have something to tell.
    dirty: IdSet<SetNumber>,
}

impl IpSets {
    /// Counts one more reference; the first one finds the members.
    pub(crate) fn acquire(&mut self, id: &SetId, definition: &SetDefinition, classes: &mut Classes) {
        if let Some(number) = self.ids.get(id) {
            self.sets.get_mut(*number).references += 1;
            return;
        }
        let mut selector = |selector: &model::Selector| {
            self.index.hold(selector, classes, |classes| classes.candidates(&selector.restrictions()))
        };
        let content = match definition {
            SetDefinition::Selector(text) => Content::Selector(selector(text)),
            SetDefinition::NamedPort { selector: text, protocol, name } => Content::NamedPort {
                selector: selector(text),
                protocol: *protocol,
                name: classes.symbols.hold(name),
            },
            SetDefinition::Service { service, ports } => {
                Content::Service { service: service.clone(), ports: *ports }
            }
        };
        let kind = definition.kind();
        let touched = HashMap::new();
        let set = Set { id: id.clone(), kind, content, references: 1, is_told: false, touched };
        let number = self.sets.insert(set);
        match &self.sets.get(number).content {
            Content::Selector(selector) | Content::NamedPort { selector, .. } => {
                self.by_selector.entry(*selector).or_default().push(number);
            }
            Content::Service { service, .. } => {
                self.by_service.entry(service.clone()).or_default().push(number);
            }
        }
        self.ids.insert(id.clone(), number);
        self.dirty.insert(number);
    }

    /// Counts one reference less; the last one's end is noticed by `tell`.
    pub(crate) fn release(&mut self, id: &SetId) {
        let number = self.ids[id];
        let set = self.sets.get_mut(number);
        set.references -= 1;
        if set.references == 0 {
            self.dirty.insert(number);
        }
    }

    /// A class has come to life.
    pub(crate) fn add_class(&mut self, class: ClassId, classes: &Classes) {
        let difference = self.index.try_class(class, classes);
        self.index.accept(class, &difference);
    }

    /// A class without items has ended.
    pub(crate) fn remove_class(&mut self, class: ClassId) {
        self.index.remove_class(class);
    }

    /// The labels that a class inherits have changed.
    pub(crate) fn update_class(&mut self, class: ClassId, items: &Items) {
        let difference = self.index.try_class(class, &items.classes);
        let Difference { lost, gained } = &difference;
        let members = &items.classes.get(class).items;
        for number in self.sets_of(lost.iter().chain(gained)) {
            for item in members {
                let content = &self.sets.get(number).content;
                let members = content.members_of(items.membership(*item), &items.classes);
                members.into_iter().for_each(|member| self.touch(number, member, items));
            }
        }
        self.index.accept(class, &difference);
    }

    /// An item is about to come, change or go.
    pub(crate) fn item_changes(
        &mut self,
        before: Option<Membership<'_>>,
        after: Option<Membership<'_>>,
        items: &Items,
    ) {
        let matches = |is: Option<Membership<'_>>| {
            is.map(|is| self.index.matches(is.class)).into_iter().flatten().copied()
        };
        let mut concerned: Vec<_> = matches(before).chain(matches(after)).collect();
        concerned.sort_unstable();
        concerned.dedup();
        for number in self.sets_of(&concerned) {
            let content = &self.sets.get(number).content;
            if let (Some(a), Some(b), Content::Selector(_)) = (before, after, content)
                && a.nets == b.nets
                && content.matches(a.class, &self.index) == content.matches(b.class, &self.index)
            {
                continue;
            }
            let members = |is: Option<Membership<'_>>| {
                let is = is.filter(|is| content.matches(is.class, &self.index));
                is.map(|is| content.members_of(is, &items.classes)).unwrap_or_default()
            };
            let (gone, come) = difference(&members(before), &members(after));
            gone.into_iter().chain(come).for_each(|member| self.touch(number, member, items));
        }
    }

    /// Stores a part of a Service's endpoints.
    pub(crate) fn set_slice(&mut self, key: ObjectKey, slice: Option<EndpointSlice>) {
        let Self { services, by_service, sets, dirty, .. } = self;
        services.set(key, slice, |services, service, with_ports, member| {
            for number in by_service.get(service).into_iter().flatten() {
                let set = sets.get_mut(*number);
                if matches!(set.content, Content::Service { ports, .. } if ports == with_ports) && set.is_told
                {
                    set.touched.entry(member).or_insert_with(|| services.contains(service, &member));
                    dirty.insert(*number);
                }
            }
        });
    }

    /// The sets that come or change, and those that go.
    pub(crate) fn tell(&mut self, items: &mut Items) -> (Vec<Change>, Vec<Change>) {
        let (mut whole, mut deltas, mut gone) = (Vec::new(), Vec::new(), Vec::new());
        let mut dirty: Vec<_> = std::mem::take(&mut self.dirty).into_iter().collect();
        dirty.sort_unstable_by(|a, b| self.sets.get(*a).id.cmp(&self.sets.get(*b).id));
        for number in dirty {
            let set = self.sets.get_mut(number);
            let id = set.id.clone();
            if set.references == 0 {
                if set.is_told {
                    gone.push(Change::IpSet(id, None));
                }
                self.forget(number, &mut items.classes);
                continue;
            }
            let touched = std::mem::take(&mut set.touched);
            if !std::mem::replace(&mut set.is_told, true) {
                let set = self.sets.get(number);
                let set = IpSet { kind: set.kind, members: self.members(&set.content, items) };
                whole.push(Change::IpSet(id, Some(set)));
                continue;
            }
            let set = self.sets.get(number);
            let (mut added, mut removed) = (Vec::new(), Vec::new());
            for (member, was_there) in touched {
                match (was_there, self.contains(&set.content, &member, items)) {
                    (false, true) => added.push(member),
                    (true, false) => removed.push(member),
                    (false, false) | (true, true) => {}
                }
            }
            if !added.is_empty() || !removed.is_empty() {
                added.sort_unstable();
                removed.sort_unstable();
                deltas.push(Change::IpSetDelta { id, added, removed });
            }
        }
        whole.append(&mut deltas);
        (whole, gone)
    }

    /// How often a selector was tried so far.
    pub(crate) fn tried(&self) -> u64 {
        self.index.tried()
    }

    fn sets_of<'a>(&self, selectors: impl IntoIterator<Item = &'a SelectorId>) -> Vec<SetNumber> {
        let sets = selectors.into_iter().filter_map(|selector| self.by_selector.get(selector));
        sets.flatten().copied().collect()
    }

    /// Notes that the member may come or go, and how it was told.
    fn touch(&mut self, number: SetNumber, member: IpSetMember, items: &Items) {
        let set = self.sets.get(number);
        if !set.is_told || set.touched.contains_key(&member) {
            return;
        }
        let is_there = self.contains(&set.content, &member, items);
        self.sets.get_mut(number).touched.insert(member, is_there);
        self.dirty.insert(number);
    }

    fn contains(&self, content: &Content, member: &IpSetMember, items: &Items) -> bool {
        if let Content::Service { service, .. } = content {
            return self.services.contains(service, member);
        }
        let net = match member {
            IpSetMember::Net(net) => *net,
            IpSetMember::IpPort(address, ..) => Cidr::host(*address),
        };
        let mut owners = items.owners(net).filter(|owner| content.matches(owner.class, &self.index));
        match member {
            IpSetMember::Net(_) => owners.next().is_some(),
            IpSetMember::IpPort(_, protocol, port) => owners.any(|owner| {
                let mut ports = content.ports(items.classes.get(owner.class));
                ports.any(|has| has == (*protocol, *port))
            }),
        }
    }

    /// Sorted, each once.
    fn members(&self, content: &Content, items: &Items) -> Vec<IpSetMember> {
        let mut members = match content {
            Content::Service { service, ports } => self.services.members(service, *ports),
            Content::Selector(selector) | Content::NamedPort { selector, .. } => {
                let classes = self.index.classes(*selector).map(|class| items.classes.get(class));
                let all = classes.flat_map(|class| class.items.iter().map(|item| items.membership(*item)));
                let mut members = Vec::new();
                all.for_each(|item| content.add_members_of(item, &items.classes, &mut members));
                members
            }
        };
        members.sort_unstable();
        members.dedup();
        members
    }

    fn forget(&mut self, number: SetNumber, classes: &mut Classes) {
        let set = self.sets.remove(number);
        self.ids.remove(&set.id);
        match set.content {
            Content::Selector(selector) => self.forget_selector(selector, number, classes),
            Content::NamedPort { selector, name, .. } => {
                self.forget_selector(selector, number, classes);
                classes.symbols.release(name);
            }
            Content::Service { service, .. } => {
                if let Some(sets) = self.by_service.get_mut(&service) {
                    sets.retain(|other| *other != number);
                    if sets.is_empty() {
                        self.by_service.remove(&service);
                    }
                }
            }
        }
    }

    fn forget_selector(&mut self, selector: SelectorId, number: SetNumber, classes: &mut Classes) {
        if let Some(sets) = self.by_selector.get_mut(&selector) {
            sets.retain(|other| *other != number);
            if sets.is_empty() {
                self.by_selector.remove(&selector);
            }
        }
        self.index.release(selector, &mut classes.symbols);
    }
}

impl Content {
    /// Is what is in the class in the set (with a named port: if it declares one)?
    fn matches(&self, class: ClassId, index: &MatchIndex) -> bool {
        match self {
            Self::Selector(selector) | Self::NamedPort { selector, .. } => {
                index.matches(class).binary_search(selector).is_ok()
            }
            Self::Service { .. } => false,
        }
    }

    /// The ports of a class that the set is about.
    fn ports(&self, class: &Class) -> impl Iterator<Item = (Protocol, u16)> {
        let wanted = match self {
            Self::NamedPort { protocol, name, .. } => Some((*protocol, *name)),
            Self::Selector(_) | Self::Service { .. } => None,
        };
        let of_name = class.ports().iter().filter(move |port| {
            wanted.is_some_and(|(protocol, name)| {
                port.name == name && protocol.is_none_or(|protocol| protocol == port.protocol)
            })
        });
        of_name.map(|port| (port.protocol, port.port))
    }

    /// What an item that matches adds, sorted, each once.
    fn members_of(&self, item: Membership<'_>, classes: &Classes) -> Vec<IpSetMember> {
        let mut members = Vec::new();
        self.add_members_of(item, classes, &mut members);
        members.sort_unstable();
        members.dedup();
        members
    }

    fn add_members_of(&self, item: Membership<'_>, classes: &Classes, members: &mut Vec<IpSetMember>) {
        match self {
            Self::Selector(_) => members.extend(item.nets.iter().copied().map(IpSetMember::Net)),
            Self::NamedPort { .. } => {
                let class = classes.get(item.class);
                for address in item.nets.iter().filter(|net| net.is_host()).map(|net| net.address()) {
                    let ports = self.ports(class);
                    members
                        .extend(ports.map(|(protocol, port)| IpSetMember::IpPort(address, protocol, port)));
                }
            }
            Self::Service { .. } => {}
        }
    }
}
