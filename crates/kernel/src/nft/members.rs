//! The members of one set, and what of them the kernel is to hold: it takes no prefix within another one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::Cidr;

use super::objects::NftSetLayout;
use crate::ipset::{IpSet, IpSetKind, IpSetMember};

/// What is to be added to the kernel's set (`true`) or taken from it.
pub(crate) type Difference = BTreeMap<IpSetMember, bool>;

/// Everything that is wanted in a set, prefixes within others included.
#[derive(Clone, Debug)]
pub(crate) struct Members {
    set: IpSet,
    /// How many prefixes there are of each length; those that are single addresses are counted at the end.
    lengths: Vec<usize>,
}

impl Members {
    pub(crate) fn new(set: IpSet) -> Self {
        let bits = usize::from(set.family.bits());
        let mut members = Self { lengths: vec![0; bits + 1], set };
        for member in members.set.members.iter() {
            if let IpSetMember::Net(cidr) = member {
                members.lengths[usize::from(cidr.length()).min(bits)] += 1;
            }
        }
        members
    }

    pub(crate) fn is(&self, set: &IpSet) -> bool {
        self.set == *set
    }

    /// Everything that is wanted.
    pub(crate) fn all(&self) -> &IpSet {
        &self.set
    }

    pub(crate) fn kind(&self) -> IpSetKind {
        self.set.kind
    }

    /// Changes what is wanted to exactly this.
    pub(crate) fn become_set(&mut self, set: &IpSet, out: &mut Difference) {
        let (old, new) = (self.set.members.clone(), &set.members);
        let added: Vec<_> = new.difference(&old).copied().collect();
        let removed: Vec<_> = old.difference(new).copied().collect();
        drop(old);
        self.change(&added, &removed, out);
    }

    /// How the kernel's set must change that holds this.
    pub(crate) fn difference_from(&self, held: &BTreeSet<IpSetMember>) -> Difference {
        let wanted = self.outermost();
        let added = wanted.difference(held).map(|member| (*member, true));
        added.chain(held.difference(&wanted).map(|member| (*member, false))).collect()
    }

    pub(crate) fn layout(&self) -> NftSetLayout {
        let hosts = self.lengths.last().copied().unwrap_or_default();
        let nets: usize = self.lengths.iter().sum();
        match self.set.kind {
            IpSetKind::IpPort => NftSetLayout::Ports(self.set.family),
            IpSetKind::Net if nets == hosts => NftSetLayout::Addresses(self.set.family),
            IpSetKind::Net => NftSetLayout::Prefixes(self.set.family),
        }
    }

    /// What the kernel is to hold.
    pub(crate) fn outermost(&self) -> BTreeSet<IpSetMember> {
        let mut last: Option<Cidr> = None;
        // A prefix stands in order before everything within it.
        let is_outermost = |member: &&IpSetMember| match member {
            IpSetMember::Net(cidr) => {
                let is_within = last.is_some_and(|last| last.covers(*cidr));
                if !is_within {
                    last = Some(*cidr);
                }
                !is_within
            }
            IpSetMember::IpPort(..) => true,
        };
        self.set.members.iter().filter(is_outermost).copied().collect()
    }

    /// Changes what is wanted, and notes in `difference` what that means for the kernel's set.
    pub(crate) fn change(&mut self, added: &[IpSetMember], removed: &[IpSetMember], out: &mut Difference) {
        removed.iter().for_each(|member| self.remove(*member, out));
        added.iter().for_each(|member| self.add(*member, out));
    }

    fn add(&mut self, member: IpSetMember, out: &mut Difference) {
        if self.set.members.contains(&member) {
            return;
        }
        if let IpSetMember::Net(cidr) = member {
            if !self.is_covered(cidr) {
                for inner in self.outermost_within(cidr) {
                    note(out, inner, false);
                }
                note(out, member, true);
            }
            self.lengths[usize::from(cidr.length())] += 1;
        } else {
            note(out, member, true);
        }
        Arc::make_mut(&mut self.set.members).insert(member);
    }

    fn remove(&mut self, member: IpSetMember, out: &mut Difference) {
        if !Arc::make_mut(&mut self.set.members).remove(&member) {
            return;
        }
        if let IpSetMember::Net(cidr) = member {
            self.lengths[usize::from(cidr.length())] -= 1;
            if !self.is_covered(cidr) {
                note(out, member, false);
                for inner in self.outermost_within(cidr) {
                    note(out, inner, true);
                }
            }
        } else {
            note(out, member, false);
        }
    }

    /// Is there a shorter prefix around it?
    fn is_covered(&self, cidr: Cidr) -> bool {
        (0..cidr.length()).filter(|length| self.lengths[usize::from(*length)] > 0).any(|length| {
            Cidr::truncated(cidr.address(), length)
                .is_some_and(|outer| self.set.members.contains(&IpSetMember::Net(outer)))
        })
    }

    /// The members within `cidr` (itself excepted) that are within no other of these.
    fn outermost_within(&self, cidr: Cidr) -> Vec<IpSetMember> {
        let mut found: Vec<IpSetMember> = Vec::new();
        let mut last: Option<Cidr> = None;
        for member in self.set.members.range(IpSetMember::Net(cidr)..) {
            let IpSetMember::Net(inner) = *member else { break };
            if !cidr.covers(inner) {
                break;
            }
            if inner == cidr || last.is_some_and(|last| last.covers(inner)) {
                continue;
            }
            last = Some(inner);
            found.push(*member);
        }
        found
    }
}

/// Adds one step to a difference; what was to be undone needs nothing.
fn note(difference: &mut Difference, member: IpSetMember, add: bool) {
    if difference.get(&member) == Some(&!add) {
        difference.remove(&member);
    } else {
        difference.insert(member, add);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Family;

    fn nets(members: &[&str]) -> Vec<IpSetMember> {
        members.iter().map(|member| IpSetMember::Net(member.parse().unwrap())).collect()
    }

    fn members(wanted: &[&str]) -> Members {
        let members = Arc::new(nets(wanted).into_iter().collect());
        Members::new(IpSet { kind: IpSetKind::Net, family: Family::V4, members })
    }

    #[test]
    fn what_is_within_a_prefix_comes_back_when_the_prefix_goes() {
        let mut members = members(&["10.0.0.1/32", "10.0.1.0/24", "10.0.1.7/32", "11.0.0.0/8"]);
        let mut difference = Difference::new();

        members.change(&nets(&["10.0.0.0/16"]), &[], &mut difference);
        let expected = [("10.0.0.0/16", true), ("10.0.0.1/32", false), ("10.0.1.0/24", false)];
        assert_eq!(
            difference,
            expected.map(|(net, add)| (IpSetMember::Net(net.parse().unwrap()), add)).into()
        );

        members.change(&[], &nets(&["10.0.0.0/16"]), &mut difference);
        assert_eq!(difference, Difference::new());
        assert_eq!(
            members.outermost(),
            nets(&["10.0.0.1/32", "10.0.1.0/24", "11.0.0.0/8"]).into_iter().collect()
        );
    }

    #[test]
    fn any_walk_of_changes_ends_at_what_a_fresh_look_says() {
        let mut state = 7_u32;
        let mut random = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 8
        };
        let mut walked = members(&[]);
        let mut kernel: BTreeSet<IpSetMember> = BTreeSet::new();
        for _ in 0..3000 {
            let length = [8, 14, 16, 24, 30, 32][random() as usize % 6];
            let address = std::net::Ipv4Addr::from(0x0a00_0000 | (random() & 0x0003_0103));
            let member = IpSetMember::Net(Cidr::truncated(address.into(), length).unwrap());
            let mut difference = Difference::new();
            let (added, removed) =
                if random() % 2 == 0 { (vec![member], vec![]) } else { (vec![], vec![member]) };

            walked.change(&added, &removed, &mut difference);

            for (member, add) in difference {
                let changed = if add { kernel.insert(member) } else { kernel.remove(&member) };
                assert!(changed, "{member:?} {add}");
            }
            assert_eq!(kernel, walked.outermost());
            assert_eq!(walked.layout(), NftSetLayout::of(&walked.set));
        }
    }
}
