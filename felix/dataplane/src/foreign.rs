//! Who else wrote rules, as far as the kernel tells: the last one of each kind of state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use crate::status::Kind;

/// Somebody else who wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignWriter {
    /// Name of the process, as the kernel has it: 15 octets at most.
    pub process: Arc<str>,
    pub pid: u32,
    /// When we heard of it.
    pub at: Instant,
}

/// Writers by the kinds that they wrote.
#[derive(Debug, Default)]
pub(crate) struct ForeignWriters {
    /// Netlink ports whose changes were told of, but not yet who that is.
    open: BTreeMap<u32, BTreeSet<Kind>>,
    last: BTreeMap<Kind, ForeignWriter>,
}

impl ForeignWriters {
    /// Somebody else wrote; who it was is told behind that, if events are not lost.
    pub(crate) fn wrote(&mut self, writer: u32, kind: Kind) {
        if self.open.len() >= MOST_OPEN {
            self.open.clear();
        }
        self.open.entry(writer).or_default().insert(kind);
    }

    /// Who a writer is.
    pub(crate) fn is(&mut self, writer: u32, process: &Arc<str>, pid: u32, now: Instant) {
        for kind in self.open.remove(&writer).unwrap_or_default() {
            self.last.insert(kind, ForeignWriter { process: process.clone(), pid, at: now });
        }
    }

    pub(crate) fn last(&self, kind: Kind) -> Option<&ForeignWriter> {
        self.last.get(&kind)
    }
}

/// More ports than these that nobody named are forgotten.
const MOST_OPEN: usize = 64;
