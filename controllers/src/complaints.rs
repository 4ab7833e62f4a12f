//! Which objects make no sense, and when that is to be said in an Event, as an index: pure, time comes as an argument.
//!
//! What stays wrong is said again every [`REPEAT`], since the API server forgets Events after an hour. Of one object
//! something else is said [`PAUSE`] later at the earliest, and of no more than [`MOST`] objects anything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::Update;

/// Between two Events that say the same of an object.
pub const REPEAT: Duration = Duration::from_secs(30 * 60);
/// Between two Events of one object that differ.
pub const PAUSE: Duration = Duration::from_secs(10);
/// So many objects are told of.
pub const MOST: usize = 200;
/// So many Events are due at once.
const TURN: usize = 20;

/// See the module.
#[derive(Debug, Default)]
pub struct Complaints {
    /// By kind and name, as [`Update::NotUnderstood`] spells them.
    objects: BTreeMap<Arc<str>, Object>,
}

#[derive(Debug, Default)]
struct Object {
    /// What makes no sense; `None` while it does, or is gone.
    why: Option<Arc<str>>,
    /// What was said last, and when.
    told: Option<(Arc<str>, Instant)>,
}

impl Object {
    /// When an Event is due; `None` when there is nothing to say.
    fn due(&self) -> Option<Due> {
        let why = self.why.as_ref()?;
        Some(match &self.told {
            None => Due::Now,
            Some((told, at)) if told == why => Due::At(*at + REPEAT),
            Some((_, at)) => Due::At(*at + PAUSE),
        })
    }
}

#[derive(Clone, Copy, Debug)]
enum Due {
    Now,
    At(Instant),
}

impl Complaints {
    /// Takes what the datastore says.
    pub fn apply(&mut self, update: &Update, now: Instant) {
        let Update::NotUnderstood(name, why) = update else { return };
        if let Some(why) = why {
            self.objects.entry(name.clone()).or_default().why = Some(why.clone());
            return;
        }
        // What was said a moment ago is kept: an object that is changed again and again is told of no more often.
        self.objects.retain(|_, object| object.why.is_some() || object.is_recent(now));
        if let Some(object) = self.objects.get_mut(name) {
            object.why = None;
        }
    }

    /// Objects of which an Event is due, and what it is to say. Each comes again until [`Self::told`].
    pub fn due(&self, now: Instant) -> Vec<(Arc<str>, Arc<str>)> {
        let due = self.complaints().filter(|(_, object)| match object.due() {
            None => false,
            Some(Due::Now) => true,
            Some(Due::At(at)) => at <= now,
        });
        due.filter_map(|(name, object)| Some((name.clone(), object.why.clone()?))).take(TURN).collect()
    }

    /// An Event was made.
    pub fn told(&mut self, name: &str, why: Arc<str>, now: Instant) {
        if let Some(object) = self.objects.get_mut(name) {
            object.told = Some((why, now));
        }
    }

    /// When something is due next, at `now` or later.
    pub fn next(&self, now: Instant) -> Option<Instant> {
        let due = self.complaints().filter_map(|(_, object)| object.due());
        due.map(|due| match due {
            Due::Now => now,
            Due::At(at) => at.max(now),
        })
        .min()
    }

    /// How many objects make no sense.
    pub fn count(&self) -> usize {
        self.objects.values().filter(|object| object.why.is_some()).count()
    }

    fn complaints(&self) -> impl Iterator<Item = (&Arc<str>, &Object)> {
        self.objects.iter().filter(|(_, object)| object.why.is_some()).take(MOST)
    }
}

impl Object {
    fn is_recent(&self, now: Instant) -> bool {
        self.told.as_ref().is_some_and(|(_, at)| now < *at + PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(object: &str, why: Option<&str>) -> Update {
        Update::NotUnderstood(object.into(), why.map(Into::into))
    }

    /// What is due, told at once.
    fn tell(complaints: &mut Complaints, now: Instant) -> Vec<String> {
        let due = complaints.due(now);
        due.into_iter()
            .map(|(name, why)| {
                let text = format!("{name}: {why}");
                complaints.told(&name, why, now);
                text
            })
            .collect()
    }

    #[test]
    fn what_stays_wrong_is_said_again_before_it_is_forgotten() {
        let (mut complaints, now) = (Complaints::default(), Instant::now());
        complaints.apply(&said("Tier x", Some("no")), now);

        assert_eq!(complaints.next(now), Some(now));
        assert_eq!(tell(&mut complaints, now), ["Tier x: no"]);
        assert_eq!(tell(&mut complaints, now), [""; 0]);
        // A change of the object that leaves it as wrong as it was.
        complaints.apply(&said("Tier x", None), now);
        complaints.apply(&said("Tier x", Some("no")), now);
        assert_eq!(complaints.next(now), Some(now + REPEAT));
        assert_eq!(tell(&mut complaints, now + REPEAT), ["Tier x: no"]);

        complaints.apply(&said("Tier x", None), now + REPEAT);
        assert_eq!((complaints.count(), complaints.next(now)), (0, None));
    }

    #[test]
    fn an_object_that_changes_all_the_time_is_told_of_at_times() {
        let (mut complaints, start) = (Complaints::default(), Instant::now());
        let mut told = 0;
        for tenth in 0..300 {
            let now = start + Duration::from_millis(100 * tenth);
            complaints.apply(&said("Tier x", None), now);
            complaints.apply(&said("Tier x", Some(&tenth.to_string())), now);
            told += tell(&mut complaints, now).len();
        }

        assert_eq!(told, 3);
    }

    #[test]
    fn many_objects_are_told_of_up_to_a_bound() {
        let (mut complaints, now) = (Complaints::default(), Instant::now());
        for number in 0..MOST + 50 {
            complaints.apply(&said(&format!("Tier {number}"), Some("no")), now);
        }

        let rounds = std::iter::repeat_with(|| tell(&mut complaints, now).len());
        let told: Vec<usize> = rounds.take_while(|told| *told > 0).collect();

        assert!(told.iter().all(|turn| *turn <= TURN), "{told:?}");
        assert_eq!((told.iter().sum::<usize>(), complaints.count()), (MOST, MOST + 50));
        assert_eq!(complaints.next(now), Some(now + REPEAT));
    }
}
