//! Entries that stand on links and go with them, neighbours and forwarding entries among them, written in batches.

use std::io;

use kernel::Failures;

use crate::neighbour::{fail_all, no_link};
use crate::nl::{Batch, named};
use crate::rtnl::{Rtnl, is_absent};

/// Entries that go out in one send.
const BATCH: usize = 512;

/// How one kind of entry is written.
pub(crate) struct LinkEntries<K, V> {
    /// The link that an entry stands on.
    pub(crate) interface: fn(&K) -> &str,
    /// What errors call an entry.
    pub(crate) describe: fn(&K) -> String,
    /// The message that puts an entry on the link of this index, or deletes it.
    pub(crate) write: fn(&mut Batch, &K, u32, Option<&V>),
}

impl<K: Clone, V> LinkEntries<K, V> {
    /// Puts and deletes; what is to be deleted and is not there is no failure.
    pub(crate) fn apply(&self, rtnl: &mut Rtnl, puts: &[(K, V)], deletes: &[K]) -> Failures<K> {
        self.try_apply(rtnl, puts, deletes)
            .unwrap_or_else(|error| fail_all(puts.iter().map(|(key, _)| key).chain(deletes), &error))
    }

    fn try_apply(&self, rtnl: &mut Rtnl, puts: &[(K, V)], deletes: &[K]) -> io::Result<Failures<K>> {
        let names = puts.iter().map(|(key, _)| key).chain(deletes).map(self.interface);
        let indexes = rtnl.indexes(names)?;
        let mut failures = Vec::new();
        let all = puts.iter().map(|(key, value)| (key, Some(value))).chain(deletes.iter().map(|k| (k, None)));
        let all: Vec<_> = all.collect();
        for chunk in all.chunks(BATCH) {
            let mut batch = Batch::new();
            let mut keys = Vec::with_capacity(chunk.len());
            for (key, value) in chunk {
                let interface = (self.interface)(key);
                match (indexes.get(interface), value) {
                    (Some(index), _) => {
                        (self.write)(&mut batch, key, *index, *value);
                        keys.push((*key, value.is_some()));
                    }
                    // With its link an entry is gone too.
                    (None, None) => {}
                    (None, Some(_)) => failures.push(((*key).clone(), no_link(interface))),
                }
            }
            for (index, error) in rtnl.socket.execute(&mut batch)? {
                let (key, is_put) = keys[index];
                if is_put || !is_absent(&error) {
                    failures.push((key.clone(), named((self.describe)(key), error)));
                }
            }
        }
        Ok(failures)
    }
}
