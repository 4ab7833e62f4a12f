//! The port to one kind of kernel state.

use std::collections::BTreeMap;
use std::io;

/// Entries that could not be written, each with its reason; the others are written.
pub type Failures<K> = Vec<(K, io::Error)>;

/// One kind of kernel state that is ours, such as the routes that carry our protocol number.
///
/// Calls block. They are made from one thread of the dataplane, in the order of its apply.
pub trait Driver {
    type Key: Ord + Clone;
    type Value: PartialEq + Clone;

    /// Reads back what is ours, also what an earlier run of us left behind.
    fn list(&mut self) -> io::Result<BTreeMap<Self::Key, Self::Value>>;

    /// Creates or replaces `puts`, then deletes `deletes`; deleting what is not there succeeds.
    ///
    /// One entry that fails stops no other.
    fn apply(&mut self, puts: &[(Self::Key, Self::Value)], deletes: &[Self::Key]) -> Failures<Self::Key>;

    /// Is what the kernel reports as good as what is wanted? Parts that the kernel chooses may differ.
    fn matches(desired: &Self::Value, actual: &Self::Value) -> bool {
        desired == actual
    }
}
