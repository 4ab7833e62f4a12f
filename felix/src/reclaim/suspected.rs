//! What is under suspicion, for an operator who asks.

use std::time::{Duration, Instant};

use ipam::gc::{Leak, Suspects};
use proto::felix as api;

/// What was found at the last look.
#[derive(Debug, Default)]
pub struct Suspected {
    grace: Duration,
    addresses: Vec<(Leak, Instant)>,
}

impl Suspected {
    /// Takes over what is suspected now, to be taken back after `grace`.
    pub fn set(&mut self, grace: Duration, suspects: &Suspects<String, Vec<Leak>>) {
        self.grace = grace;
        self.addresses = suspects
            .iter()
            .flat_map(|(_, suspicion)| {
                suspicion.evidence.iter().map(move |leak| (leak.clone(), suspicion.since))
            })
            .collect();
    }

    /// How long each has been suspected at `now`.
    pub fn report(&self, node: &str, now: Instant) -> api::Suspects {
        let suspect = |(leak, since): &(Leak, Instant)| api::Suspect {
            address: leak.address.to_string(),
            handle: leak.handle.clone().unwrap_or_default(),
            seconds: now.saturating_duration_since(*since).as_secs(),
        };
        api::Suspects {
            node: node.to_owned(),
            grace_seconds: self.grace.as_secs(),
            addresses: self.addresses.iter().map(suspect).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_of_a_handle_is_as_old_as_its_suspicion() {
        let start = Instant::now();
        let leak = |text: &str| Leak {
            address: text.parse().unwrap(),
            block: "10.0.0.0/26".parse().unwrap(),
            handle: Some("net.c1".to_owned()),
            sequence_number: None,
        };
        let grace = Duration::from_secs(300);
        let (mut suspects, mut suspected) = (Suspects::new(grace), Suspected::default());
        let found = || [("net.c1".to_owned(), vec![leak("10.0.0.1"), leak("10.0.0.2")])];
        suspects.look(start, found());
        suspects.look(start + Duration::from_secs(40), found());

        suspected.set(grace, &suspects);

        let report = suspected.report("n1", start + Duration::from_secs(45));
        let told: Vec<_> = report.addresses.iter().map(|s| (s.address.as_str(), s.seconds)).collect();
        assert_eq!(told, [("10.0.0.1", 45), ("10.0.0.2", 45)]);
        assert_eq!((report.node.as_str(), report.grace_seconds), ("n1", 300));
        suspects.clear_all();
        suspected.set(grace, &suspects);
        assert!(suspected.report("n1", start).addresses.is_empty());
    }
}
