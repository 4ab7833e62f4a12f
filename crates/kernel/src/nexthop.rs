//! Nexthop objects: ways out with a number of their own, to which many routes refer (`ip nexthop`, Linux 5.3).
//!
//! One message changes the way of all routes that refer to an object. When the kernel deletes an object it deletes
//! its routes as well, so objects come before their routes and go after them.

use std::collections::BTreeSet;
use std::fmt;

use crate::route::NextHop;

/// The number of an object. One range is ours: single ways in its lower half, groups in its upper half, as the kernel
/// makes neither out of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NexthopId(u32);

impl NexthopId {
    const FIRST: u32 = 0x0c00_0000;
    const FIRST_GROUP: u32 = 0x0c80_0000;
    const LAST: u32 = 0x0cff_ffff;

    /// Smallest number of a single way.
    pub const FIRST_WAY: Self = Self(Self::FIRST);
    /// Smallest number of a group.
    pub const GROUPS: Self = Self(Self::FIRST_GROUP);

    /// `None` when the number is not in our range.
    pub fn ours(number: u32) -> Option<Self> {
        (Self::FIRST..=Self::LAST).contains(&number).then_some(Self(number))
    }

    /// As the kernel reports it, whoever chose it.
    pub fn of(number: u32) -> Self {
        Self(number)
    }

    pub fn number(self) -> u32 {
        self.0
    }

    /// Is it one that only groups have?
    pub fn is_group(self) -> bool {
        (Self::FIRST_GROUP..=Self::LAST).contains(&self.0)
    }

    /// The next one of the same half, which begins anew at its end.
    #[must_use]
    pub fn next(self) -> Self {
        match self.0 + 1 {
            Self::FIRST_GROUP => Self::FIRST_WAY,
            number if number > Self::LAST => Self::GROUPS,
            number => Self(number),
        }
    }
}

impl fmt::Display for NexthopId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What an object stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NexthopObject {
    /// One way out. It has a gateway, whose family is the object's.
    Way(NextHop),
    /// Flows spread over other objects (ECMP).
    Group(BTreeSet<NexthopId>),
}

impl NexthopObject {
    /// Is `actual` what the kernel makes of this object?
    pub fn is_realised_by(&self, actual: &Self) -> bool {
        match (self, actual) {
            (Self::Way(wanted), Self::Way(has)) => wanted.is_realised_by(has),
            _ => self == actual,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_in_their_half_of_the_range() {
        let last_way = NexthopId::ours(NexthopId::GROUPS.number() - 1).expect("it is ours");
        let last = NexthopId::ours(0x0cff_ffff).expect("it is ours");

        assert_eq!(NexthopId::FIRST_WAY.next().number(), 0x0c00_0001);
        assert_eq!((last_way.next(), last.next()), (NexthopId::FIRST_WAY, NexthopId::GROUPS));
        assert_eq!([last_way.is_group(), last.is_group()], [false, true]);
        assert_eq!([NexthopId::ours(1), NexthopId::ours(0x0d00_0000)], [None, None]);
    }
}
