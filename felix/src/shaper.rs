//! Which bandwidth each pod of this node shall have and has: what annotations ask for, written when it changes or the
//! pod's link is another. Decides when; how it is written is the kernel door's.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::{Duration, Instant};

use felix_calc::Change;
use kernel::Shaping;
use model::HostInterface;

/// Pause before what failed is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// How long a plugin that is chained behind ours gets to limit a new pod in our place.
const YIELD: Duration = Duration::from_secs(3);

/// Limits an interface; returns its index, `None` where there is none.
type Shape = Box<dyn FnMut(&str, &Shaping) -> io::Result<Option<u32>> + Send>;

/// What is wanted, and what is written of it.
pub struct Shaper {
    shape: Shape,
    /// Only pods that ask for something.
    wanted: BTreeMap<HostInterface, Shaping>,
    /// Links on which it is written, by their index.
    written: BTreeMap<HostInterface, u32>,
    pending: BTreeSet<HostInterface>,
    failed: BTreeMap<HostInterface, String>,
    /// When others have had their chance.
    due: BTreeMap<HostInterface, Instant>,
    retry_at: Option<Instant>,
}

impl Shaper {
    pub fn new(shape: Shape) -> Self {
        Self {
            shape,
            wanted: BTreeMap::new(),
            written: BTreeMap::new(),
            pending: BTreeSet::new(),
            failed: BTreeMap::new(),
            due: BTreeMap::new(),
            retry_at: None,
        }
    }

    /// An earlier run has limited these; those that nobody wants limited by now are freed at the first `apply`.
    pub fn found(&mut self, interfaces: Vec<HostInterface>) {
        self.pending.extend(interfaces);
    }

    /// Notes what the calculation says of a pod.
    pub fn change(&mut self, change: &Change) {
        let Change::Endpoint(interface, endpoint) = change else { return };
        let shaping = endpoint.as_ref().map_or_else(Shaping::default, |endpoint| Shaping {
            ingress: endpoint.options.ingress.bandwidth,
            egress: endpoint.options.egress.bandwidth,
            yields: endpoint.options.shared_bandwidth,
        });
        if self.wanted.get(interface).copied().unwrap_or_default() == shaping {
            return;
        }
        if shaping.is_none() {
            self.wanted.remove(interface);
            self.due.remove(interface);
        } else {
            self.wanted.insert(interface.clone(), shaping);
        }
        self.pending.insert(interface.clone());
    }

    /// A pod's link is there, perhaps another one than before.
    pub fn link_changed(&mut self, interface: &str, index: u32) {
        if self.wanted.contains_key(interface) && self.written.get(interface) != Some(&index) {
            self.pending.insert(interface.to_owned());
        }
    }

    /// Writes a pod's limits anew at the next `apply`.
    pub fn recheck(&mut self, interface: &str) {
        if self.wanted.contains_key(interface) {
            self.pending.insert(interface.to_owned());
        }
    }

    /// Writes what is pending.
    pub fn apply(&mut self, now: Instant) {
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            self.pending.extend(self.failed.keys().cloned());
        }
        let is_due = |(interface, at): (&HostInterface, &Instant)| (*at <= now).then(|| interface.clone());
        self.pending.extend(self.due.iter().filter_map(is_due));
        for interface in std::mem::take(&mut self.pending) {
            let shaping = self.wanted.get(&interface).copied().unwrap_or_default();
            if shaping.yields && !self.written.contains_key(&interface) {
                let due = *self.due.entry(interface.clone()).or_insert(now + YIELD);
                if due > now {
                    continue;
                }
            }
            self.due.remove(&interface);
            match (self.shape)(&interface, &shaping) {
                Ok(index) => {
                    self.failed.remove(&interface);
                    match index.filter(|_| !shaping.is_none()) {
                        Some(index) => _ = self.written.insert(interface, index),
                        None => _ = self.written.remove(&interface),
                    }
                }
                Err(error) => {
                    tracing::warn!(interface, %error, "bandwidth is not limited as wanted yet; will be retried");
                    self.written.remove(&interface);
                    self.failed.insert(interface, error.to_string());
                    self.retry_at = Some(now + RETRY);
                }
            }
        }
    }

    /// When `apply` has something to do without being told anything new.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due.values().copied().chain(self.retry_at).min()
    }

    /// One sentence for each pod that is not limited as it asks. A pod does not wait for it: it would never start on
    /// a kernel that lacks a part.
    pub fn problems(&self) -> impl Iterator<Item = String> {
        let wanted = self.failed.keys().filter(|interface| self.wanted.contains_key(*interface));
        wanted.filter_map(|interface| self.missing(interface))
    }

    /// Why a pod is not limited as it asks; `None` when it is, or does not ask.
    pub fn missing(&self, interface: &str) -> Option<String> {
        let is_settled = self.written.contains_key(interface) || self.due.contains_key(interface);
        if !self.wanted.contains_key(interface) || is_settled {
            return None;
        }
        let why = self.failed.get(interface).map_or("not written yet", String::as_str);
        Some(format!("bandwidth of {interface}: {why}"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use felix_calc::{ActiveEndpoint, ClosedReason, EndpointPolicies, PodLimits, PodOptions};
    use kernel::Bandwidth;
    use model::{LocalEndpoint, PodKey};

    use super::*;

    type Calls = Arc<Mutex<Vec<(String, bool)>>>;

    fn shaper(calls: &Calls) -> Shaper {
        let calls = calls.clone();
        Shaper::new(Box::new(move |interface, shaping| {
            calls.lock().unwrap().push((interface.to_owned(), shaping.egress.is_some()));
            if interface == "calibad" { Err(io::Error::other("no ifb")) } else { Ok(Some(7)) }
        }))
    }

    fn pod(interface: &str, rate: Option<u64>) -> Change {
        let local = LocalEndpoint {
            container_id: String::new(),
            pod: PodKey::new("x", "a"),
            interface: interface.to_owned(),
            addresses: Vec::new(),
            mac: [0; 6],
        };
        let bandwidth = rate.map(|rate| Bandwidth { rate, burst: 1000, peak: None, min_burst: None });
        let options =
            PodOptions { egress: PodLimits { bandwidth, ..PodLimits::default() }, ..Default::default() };
        let policies = EndpointPolicies::Closed(ClosedReason::PodUnknown);
        Change::Endpoint(interface.to_owned(), Some(Arc::new(ActiveEndpoint { local, policies, options })))
    }

    fn took(calls: &Calls) -> Vec<(String, bool)> {
        std::mem::take(&mut calls.lock().unwrap())
    }

    #[test]
    fn a_limit_is_written_once_for_a_link_and_goes_with_the_annotation() {
        let (calls, now) = (Calls::default(), Instant::now());
        let mut shaper = shaper(&calls);
        shaper.change(&pod("cali1", Some(1000)));
        assert!(shaper.missing("cali1").is_some());
        shaper.apply(now);
        shaper.link_changed("cali1", 7);
        shaper.apply(now);
        assert_eq!((took(&calls), shaper.missing("cali1")), (vec![("cali1".to_owned(), true)], None));

        shaper.link_changed("cali1", 8);
        shaper.apply(now);
        assert_eq!(took(&calls), [("cali1".to_owned(), true)]);

        shaper.change(&pod("cali1", None));
        shaper.change(&pod("cali2", None));
        shaper.apply(now);
        assert_eq!(took(&calls), [("cali1".to_owned(), false)]);
    }

    #[test]
    fn what_an_earlier_run_limited_is_freed_unless_it_is_wanted() {
        let calls = Calls::default();
        let mut shaper = shaper(&calls);
        shaper.found(vec!["cali1".to_owned(), "cali2".to_owned()]);

        shaper.change(&pod("cali2", Some(1000)));
        shaper.apply(Instant::now());

        assert_eq!(took(&calls), [("cali1".to_owned(), false), ("cali2".to_owned(), true)]);
    }

    #[test]
    fn a_plugin_behind_ours_comes_first_where_both_are_asked() {
        let (calls, now) = (Calls::default(), Instant::now());
        let mut shaper = shaper(&calls);
        let shared = |rate| {
            let Change::Endpoint(interface, Some(endpoint)) = pod("cali1", Some(rate)) else { panic!() };
            let mut endpoint = (*endpoint).clone();
            endpoint.options.shared_bandwidth = true;
            Change::Endpoint(interface, Some(Arc::new(endpoint)))
        };

        shaper.change(&shared(1000));
        shaper.apply(now);
        assert_eq!((took(&calls).len(), shaper.missing("cali1")), (0, None));
        assert_eq!(shaper.poll_timeout(), Some(now + YIELD));
        shaper.apply(now + YIELD);
        assert_eq!((took(&calls).len(), shaper.poll_timeout()), (1, None));

        shaper.change(&shared(2000));
        shaper.apply(now + YIELD);
        assert_eq!(took(&calls).len(), 1);
    }

    #[test]
    fn what_fails_is_named_and_retried() {
        let (calls, now) = (Calls::default(), Instant::now());
        let mut shaper = shaper(&calls);
        shaper.change(&pod("calibad", Some(1000)));

        shaper.apply(now);
        shaper.apply(now + RETRY / 2);
        assert_eq!(took(&calls).len(), 1);
        assert_eq!(shaper.missing("calibad").unwrap(), "bandwidth of calibad: no ifb");

        assert_eq!(shaper.poll_timeout(), Some(now + RETRY));
        shaper.apply(now + RETRY);
        assert_eq!(took(&calls).len(), 1);
    }
}
