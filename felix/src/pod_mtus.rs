//! Which MTU the pods of this node shall have and have: when another one is right, pods that run get it too.
//! Decides when; how it is written is the kernel door's.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::{Duration, Instant};

use kernel_linux::PodMtu;
use model::HostInterface;

use crate::metrics::Level;

/// How long after a pod's interface came it is looked at: an ADD does not wait for that.
const LOOK: Duration = Duration::from_secs(1);
/// Pause before what failed is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// Gives interfaces an MTU where they have one of some others.
type SetMtu = Box<dyn FnMut(&BTreeSet<HostInterface>, u32, &BTreeSet<u32>) -> Vec<io::Result<PodMtu>> + Send>;
/// Keeps what is told for the next run.
type Keep = Box<dyn FnMut(&BTreeSet<u32>) + Send>;

/// What is wanted, and which pods have something else.
///
/// A pod whose MTU the agent never gave was given it by somebody else, such as the network configuration: it stays.
pub struct PodMtus {
    set: SetMtu,
    keep: Keep,
    wanted: Option<u32>,
    /// Is `wanted` less than what was wanted before?
    is_smaller: bool,
    /// Everything that the agent gave since the machine started: a pod that starts now may have been told of any.
    given: BTreeSet<u32>,
    pods: BTreeSet<HostInterface>,
    pending: BTreeSet<HostInterface>,
    due: Option<Instant>,
    /// Pods with another MTU than wanted.
    others: BTreeMap<HostInterface, u32>,
    mismatches: Level,
}

impl PodMtus {
    /// `given` is what an earlier run told `keep`.
    pub fn new(set: SetMtu, keep: Keep, given: BTreeSet<u32>, mismatches: Level) -> Self {
        Self {
            set,
            keep,
            given,
            mismatches,
            wanted: None,
            is_smaller: true,
            pods: BTreeSet::new(),
            pending: BTreeSet::new(),
            due: None,
            others: BTreeMap::new(),
        }
    }

    /// Says what pods shall have.
    pub fn want(&mut self, mtu: u32, now: Instant) {
        let before = self.wanted.replace(mtu);
        if before == Some(mtu) {
            return;
        }
        self.is_smaller = before.is_none_or(|before| mtu < before);
        if self.given.insert(mtu) {
            (self.keep)(&self.given);
        }
        self.pending = self.pods.clone();
        self.due = Some(now);
    }

    /// A pod's interface is there.
    pub fn up(&mut self, interface: &str, now: Instant) {
        self.pods.insert(interface.to_owned());
        self.pending.insert(interface.to_owned());
        self.due = Some(self.due.map_or(now + LOOK, |at| at.min(now + LOOK)));
    }

    /// A pod is gone.
    pub fn down(&mut self, interface: &str) {
        self.pods.remove(interface);
        self.pending.remove(interface);
        if self.others.remove(interface).is_some() {
            self.mismatches.set(self.others.len() as i64);
        }
    }

    /// Before routes change: pods that are to send smaller packets do so before these go through a tunnel.
    pub fn apply_smaller(&mut self, now: Instant) {
        if self.is_smaller {
            self.apply(now);
        }
    }

    /// After routes have changed.
    pub fn apply(&mut self, now: Instant) {
        let Some(wanted) = self.wanted.filter(|_| self.due.is_some_and(|at| at <= now)) else { return };
        self.due = None;
        let pending = std::mem::take(&mut self.pending);
        let outcomes = (self.set)(&pending, wanted, &self.given);
        let mut changed = 0;
        for (interface, outcome) in pending.into_iter().zip(outcomes) {
            match outcome {
                Ok(PodMtu::Other(mtu) | PodMtu::Unreachable(mtu)) => {
                    self.others.insert(interface, mtu);
                    continue;
                }
                Ok(PodMtu::Changed) => changed += 1,
                Ok(PodMtu::Same | PodMtu::Absent) => {}
                Err(error) => {
                    tracing::warn!(interface, %error, "the pod's MTU is not changed yet; will be retried");
                    self.pending.insert(interface);
                    self.due = Some(now + RETRY);
                    continue;
                }
            }
            self.others.remove(&interface);
        }
        self.tell(changed, wanted);
    }

    fn tell(&mut self, changed: usize, mtu: u32) {
        self.mismatches.set(self.others.len() as i64);
        if changed > 0 {
            tracing::info!(pods = changed, others = self.others.len(), mtu, "MTU of running pods");
        }
    }

    /// When `apply` is due next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due.filter(|_| self.wanted.is_some())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[test]
    fn pods_follow_from_what_the_agent_gave_and_others_stay() {
        let now = Instant::now();
        let mut node = Node::new(&[("cali1", 1500), ("cali2", 1380)], &[1500]);

        node.mtus.want(1450, now);
        assert_eq!(node.mtus.poll_timeout(), Some(now));
        node.mtus.apply_smaller(now);

        assert_eq!(node.links(), [("cali1".to_owned(), 1450), ("cali2".to_owned(), 1380)]);
        assert_eq!(node.mismatches.get(), 1);
        assert_eq!(*node.kept.lock(), BTreeSet::from([1450, 1500]));

        node.mtus.down("cali2");
        assert_eq!(node.mismatches.get(), 0);
    }

    #[test]
    fn a_larger_mtu_waits_until_routes_have_changed() {
        let now = Instant::now();
        let mut node = Node::new(&[("cali1", 1450)], &[1450]);
        node.mtus.want(1450, now);
        node.mtus.apply(now);

        node.mtus.want(1500, now);
        node.mtus.apply_smaller(now);
        assert_eq!(node.links()[0].1, 1450);

        node.mtus.apply(now);
        assert_eq!(node.links()[0].1, 1500);
    }

    #[test]
    fn a_pod_that_was_starting_meanwhile_follows() {
        let now = Instant::now();
        let mut node = Node::new(&[("cali1", 1500)], &[1500]);
        node.mtus.want(1450, now);
        node.mtus.apply(now);

        node.links.lock().insert("cali2".to_owned(), 1500);
        node.mtus.up("cali2", now);
        assert_eq!(node.mtus.poll_timeout(), Some(now + LOOK));
        node.mtus.apply(now + LOOK);

        assert_eq!(node.links(), [("cali1".to_owned(), 1450), ("cali2".to_owned(), 1450)]);
    }

    type Links = Arc<Mutex<BTreeMap<HostInterface, u32>>>;

    struct Node {
        links: Links,
        kept: Arc<Mutex<BTreeSet<u32>>>,
        mismatches: Level,
        mtus: PodMtus,
    }

    impl Node {
        fn new(links: &[(&str, u32)], given: &[u32]) -> Self {
            let links: BTreeMap<_, _> = links.iter().map(|(name, mtu)| ((*name).to_owned(), *mtu)).collect();
            let links: Links = Arc::new(Mutex::new(links));
            let kept = Arc::new(Mutex::new(BTreeSet::new()));
            let mismatches = Level::default();
            let of_kernel = links.clone();
            let set = move |pods: &BTreeSet<HostInterface>, mtu: u32, given: &BTreeSet<u32>| {
                let mut links = of_kernel.lock();
                let one = |pod| match links.get_mut(pod) {
                    None => Ok(PodMtu::Absent),
                    Some(present) if *present == mtu => Ok(PodMtu::Same),
                    Some(present) if !given.contains(present) => Ok(PodMtu::Other(*present)),
                    Some(present) => {
                        *present = mtu;
                        Ok(PodMtu::Changed)
                    }
                };
                pods.iter().map(one).collect()
            };
            let told = kept.clone();
            let keep = move |given: &BTreeSet<u32>| told.lock().clone_from(given);
            let given = given.iter().copied().collect();
            let mut mtus = PodMtus::new(Box::new(set), Box::new(keep), given, mismatches.clone());
            let now = Instant::now();
            links.lock().keys().for_each(|name| mtus.up(name, now));
            Self { links, kept, mismatches, mtus }
        }

        fn links(&self) -> Vec<(HostInterface, u32)> {
            self.links.lock().clone().into_iter().collect()
        }
    }
}
