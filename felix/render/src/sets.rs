//! Members of IP sets by family, and changes of a set that follow one another.

use std::collections::BTreeSet;
use std::sync::Arc;

use kernel::{IpSet, IpSetKind, IpSetMember};
use model::{Cidr, Family};

use crate::IpSetChange;

pub(crate) fn family_set(kind: IpSetKind, members: &[IpSetMember], family: Family) -> IpSet {
    let members: BTreeSet<_> = family_members(members, family).collect();
    IpSet { kind, family, members: Arc::new(members) }
}

/// The members of one family; a prefix of length 0 becomes two halves, which is all that the kernel can hold.
pub(crate) fn family_members(members: &[IpSetMember], family: Family) -> impl Iterator<Item = IpSetMember> {
    let of_family = members.iter().copied().filter(move |member| match member {
        IpSetMember::Net(cidr) => cidr.family() == family,
        IpSetMember::IpPort(address, ..) => Family::of(*address) == family,
    });
    of_family.flat_map(|member| match member {
        IpSetMember::Net(cidr) if cidr.length() == 0 => halves(cidr).map(IpSetMember::Net).to_vec(),
        member => vec![member],
    })
}

fn halves(cidr: Cidr) -> [Cidr; 2] {
    let upper =
        cidr.nth(1 << (cidr.family().bits() - 1)).expect("the middle of all addresses is one of them");
    [cidr.address(), upper].map(|address| Cidr::truncated(address, 1).expect("1 is a valid length"))
}

impl IpSetChange {
    /// One change that does what this and then the later one do.
    pub(crate) fn then(self, later: IpSetChange) -> IpSetChange {
        let IpSetChange::Delta { added, removed } = later else { return later };
        match self {
            IpSetChange::Full(mut set) => {
                let members = Arc::make_mut(&mut set.members);
                removed.iter().for_each(|member| _ = members.remove(member));
                members.extend(added);
                IpSetChange::Full(set)
            }
            IpSetChange::Delta { added: before, removed: removed_before } => {
                let mut added_all: BTreeSet<_> = before.into_iter().collect();
                let mut removed_all: BTreeSet<_> = removed_before.into_iter().collect();
                for member in removed {
                    added_all.remove(&member);
                    removed_all.insert(member);
                }
                for member in added {
                    removed_all.remove(&member);
                    added_all.insert(member);
                }
                let (added, removed) = (added_all.into_iter().collect(), removed_all.into_iter().collect());
                IpSetChange::Delta { added, removed }
            }
            // Calc never says so; nothing can be made of it.
            IpSetChange::Gone => IpSetChange::Gone,
        }
    }
}
