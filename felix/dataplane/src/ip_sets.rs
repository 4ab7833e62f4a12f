//! IP sets: the renderer speaks of differences, the table of whole sets.

use std::collections::BTreeSet;
use std::sync::Arc;

use felix_render::IpSetChange;
use kernel::{Driver, IpSet, IpSetMember, IpSetName, Table};

/// Wants what a change leads to.
pub(crate) fn want<D>(table: &mut Table<D>, name: IpSetName, change: IpSetChange)
where
    D: Driver<Key = IpSetName, Value = IpSet>,
{
    let wanted = match change {
        IpSetChange::Full(set) => Some(set),
        IpSetChange::Gone => None,
        IpSetChange::Delta { added, removed } => {
            // A difference to a set that was never told: nothing can be made of it.
            let Some(set) = table.desired().get(&name) else { return };
            let members = changed(&set.members, added, &removed);
            Some(IpSet { kind: set.kind, family: set.family, members: Arc::new(members) })
        }
    };
    table.set(name, wanted);
}

fn changed(
    members: &BTreeSet<IpSetMember>,
    added: Vec<IpSetMember>,
    removed: &[IpSetMember],
) -> BTreeSet<IpSetMember> {
    let mut members = members.clone();
    for member in removed {
        members.remove(member);
    }
    members.extend(added);
    members
}
