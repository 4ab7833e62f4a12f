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
    taken_back: BTreeSet<String>,
    order: VecDeque<String>,
}

impl Adds {
    /// An ADD asks for the addresses of a handle.
    pub fn begin(&self, handle: &str, now: Instant) {
        let state = &mut *self.state.lock();
        state.begun.retain(|_, begun| now.saturating_duration_since(*begun) < LONGEST);
        state.begun.insert(handle.to_owned(), now);
        state.taken_back.remove(handle);
    }

    /// The ADD is done, or the container is gone: other evidence counts from now on.
    pub fn end(&self, handle: &str) {
        self.state.lock().begun.remove(handle);
    }

    /// Handles of ADDs under way.
    pub fn under_way(&self, now: Instant) -> Vec<String> {
        let state = self.state.lock();
        let young = |begun: &Instant| now.saturating_duration_since(*begun) < LONGEST;
        state.begun.iter().filter(|(_, begun)| young(begun)).map(|(handle, _)| handle.clone()).collect()
    }

    /// The addresses of a handle were taken back.
    pub fn took_back(&self, handle: &str) {
        let state = &mut *self.state.lock();
        if state.taken_back.insert(handle.to_owned()) {
            state.order.push_back(handle.to_owned());
        }
        while state.order.len() > REMEMBERED {
            if let Some(oldest) = state.order.pop_front() {
                state.taken_back.remove(&oldest);
            }
        }
    }

    /// Were the addresses of a handle taken back since it last asked for some?
    pub fn were_taken_back(&self, handle: &str) -> bool {
        self.state.lock().taken_back.contains(handle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_add_is_under_way_until_it_ends_or_nobody_can_wait_any_more() {
        let (adds, start) = (Adds::default(), Instant::now());
        adds.begin("net.a", start);
        adds.begin("net.b", start + LONGEST / 2);
        adds.begin("net.c", start + LONGEST / 2);

        adds.end("net.b");

        assert_eq!(adds.under_way(start + LONGEST / 2), ["net.a", "net.c"]);
        assert_eq!(adds.under_way(start + LONGEST), ["net.c"]);
    }

    #[test]
    fn who_asks_again_may_come_after_its_addresses_were_taken_back() {
        let (adds, start) = (Adds::default(), Instant::now());

        adds.took_back("net.a");
        assert!(adds.were_taken_back("net.a"));
        adds.begin("net.a", start);
        assert!(!adds.were_taken_back("net.a"));
        for count in 0..2 * REMEMBERED {
            adds.took_back(&format!("net.{count}"));
        }
        assert!(
            !adds.were_taken_back("net.0") && adds.were_taken_back(&format!("net.{}", 2 * REMEMBERED - 1))
        );
    }
}
