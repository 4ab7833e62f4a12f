//! ADDs between the plugin's question for addresses and its word that the pod is there: nothing else shows yet that
//! their addresses are used.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// No plugin and no runtime takes longer for one ADD.
const LONGEST: Duration = Duration::from_secs(300);
/// Handles of which it is remembered that their addresses were taken back.
const REMEMBERED: usize = 4096;

/// See the module.
#[derive(Default)]
pub struct Adds {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    begun: BTreeMap<String, Instant>,
    /// Their addresses are being taken back right now.
    leaving: BTreeSet<String>,
    taken_back: BTreeSet<String>,
    order: VecDeque<String>,
}

impl Adds {
    /// An ADD asks for the addresses of a handle. `false`: those that it had are being taken back right now.
    #[must_use]
    pub fn begin(&self, handle: &str, now: Instant) -> bool {
        let state = &mut *self.state.lock();
        if state.leaving.contains(handle) {
            return false;
        }
        state.begun.retain(|_, begun| now.saturating_duration_since(*begun) < LONGEST);
        state.begun.insert(handle.to_owned(), now);
        state.taken_back.remove(handle);
        true
    }

    /// The ADD has its addresses; the plugin goes on.
    pub fn goes_on(&self, handle: &str, now: Instant) {
        if let Some(heard) = self.state.lock().begun.get_mut(handle) {
            *heard = now;
        }
    }

    /// The ADD is done, or the container is gone: other evidence counts from now on. Returns when it was last heard of.
    pub fn end(&self, handle: &str) -> Option<Instant> {
        self.state.lock().begun.remove(handle)
    }

    /// Handles of ADDs under way.
    pub fn under_way(&self, now: Instant) -> Vec<String> {
        let state = &mut *self.state.lock();
        state.begun.retain(|_, begun| now.saturating_duration_since(*begun) < LONGEST);
        state.begun.keys().cloned().collect()
    }

    /// The addresses of a handle are to be taken back; [`took_back`](Self::took_back) ends it. `false`: an ADD is
    /// under way.
    #[must_use]
    pub fn take_back(&self, handle: &str) -> bool {
        let state = &mut *self.state.lock();
        !state.begun.contains_key(handle) && state.leaving.insert(handle.to_owned())
    }

    /// Ends [`take_back`](Self::take_back); `is_gone`: addresses of the handle were taken back, all or some.
    pub fn took_back(&self, handle: &str, is_gone: bool) {
        let state = &mut *self.state.lock();
        state.leaving.remove(handle);
        if !is_gone {
            return;
        }
        if state.taken_back.insert(handle.to_owned()) {
            state.order.push_back(handle.to_owned());
        }
        while state.order.len() > REMEMBERED {
            if let Some(oldest) = state.order.pop_front() {
                state.taken_back.remove(&oldest);
            }
        }
    }

    /// Were the addresses of a handle taken back since it last asked for some, or are they being just now?
    pub fn were_taken_back(&self, handle: &str) -> bool {
        let state = self.state.lock();
        state.taken_back.contains(handle) || state.leaving.contains(handle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_add_is_under_way_until_it_ends_or_nobody_can_wait_any_more() {
        let (adds, start) = (Adds::default(), Instant::now());
        assert!(adds.begin("net.a", start));
        assert!(adds.begin("net.b", start + LONGEST / 2));
        assert!(adds.begin("net.c", start + LONGEST / 2));
        assert!(!adds.take_back("net.c"));

        adds.end("net.b");

        assert_eq!(adds.under_way(start + LONGEST / 2), ["net.a", "net.c"]);
        assert_eq!(adds.under_way(start + LONGEST), ["net.c"]);
    }

    #[test]
    fn who_asks_again_may_come_after_its_addresses_were_taken_back() {
        let (adds, start) = (Adds::default(), Instant::now());

        assert!(adds.take_back("net.a"));
        assert!(!adds.begin("net.a", start), "they are leaving");
        adds.took_back("net.a", true);
        assert!(adds.were_taken_back("net.a"));
        assert!(adds.begin("net.a", start));
        assert!(!adds.were_taken_back("net.a"));
        for count in 0..2 * REMEMBERED {
            adds.took_back(&format!("net.{count}"), true);
        }
        assert!(
            !adds.were_taken_back("net.0") && adds.were_taken_back(&format!("net.{}", 2 * REMEMBERED - 1))
        );
    }
}
