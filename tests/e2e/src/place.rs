//! Working inside a pod's or a node's network namespace, with sockets of the test itself.

use std::fs::File;
use std::os::fd::AsFd;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::Cluster;

impl Cluster {
    /// Runs `work` on a thread of its own inside a node (`n1`) or a pod (`default/p1`). Sockets that it opens stay there.
    ///
    /// The names must be short enough to stand in the namespace's name, as those of tests are.
    pub fn inside<T: Send>(&self, place: &str, work: impl FnOnce() -> T + Send) -> T {
        let path = format!("/run/netns/{}-{}", self.name(), place.replace('/', "-"));
        let netns = File::open(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let inside = move || {
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        };
        std::thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|_| panic!("work in {place}"))
    }
}
