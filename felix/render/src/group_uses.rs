//! Which groups of policies the filter table needs: those that some endpoint's chain jumps to.

use std::collections::{BTreeMap, BTreeSet};

use kernel::ChainName;

use crate::groups::Group;

/// Groups by who uses them.
#[derive(Default)]
pub(crate) struct GroupUses {
    by_user: BTreeMap<String, BTreeSet<ChainName>>,
    groups: BTreeMap<ChainName, (Group, usize)>,
}

impl GroupUses {
    /// These are what the user needs from now on. Returns the groups that nobody needed before, and the names
    /// of those that nobody needs any more.
    pub(crate) fn set(&mut self, user: &str, groups: Vec<Group>) -> (Vec<Group>, Vec<ChainName>) {
        // One policy has its own chain.
        let groups = groups.into_iter().filter(|group| group.policies().len() > 1);
        let wanted: BTreeMap<ChainName, Group> = groups.map(|group| (group.chain_name(), group)).collect();
        let names: BTreeSet<ChainName> = wanted.keys().cloned().collect();
        let old = match names.is_empty() {
            true => self.by_user.remove(user),
            false => self.by_user.insert(user.to_owned(), names),
        };
        let mut come = Vec::new();
        for (name, group) in wanted {
            let (_, users) = self.groups.entry(name).or_insert_with(|| {
                come.push(group.clone());
                (group, 0)
            });
            *users += 1;
        }
        let mut gone = Vec::new();
        for name in old.into_iter().flatten() {
            if let Some((_, users)) = self.groups.get_mut(&name) {
                *users -= 1;
                if *users == 0 {
                    self.groups.remove(&name);
                    gone.push(name);
                }
            }
        }
        (come, gone)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Group> {
        self.groups.values().map(|(group, _)| group)
    }
}
