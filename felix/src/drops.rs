//! Packets that rules dropped, as records for people: equal ones are counted together, and everything is bounded.
//!
//! Owns what makes two packets equal and how often one record is written. Never reads a socket: packets come in
//! with their names resolved, and time is an argument.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use proto::felix::Drop as Record;

/// Records that are kept for those who ask later.
const KEPT: usize = 1024;
/// Equal packets within this time become one record.
const GATHER: Duration = Duration::from_secs(10);
/// Kinds of packets that are counted at a time; of others is only known that they were.
const MOST_KINDS: usize = 4096;
/// Records a second; what comes above that waits until its time is up.
const RATE: u32 = 100;

/// See the module.
#[derive(Debug, Default)]
pub struct Drops {
    kept: VecDeque<Record>,
    open: BTreeMap<Kind, Open>,
    /// When each kind's time is up, the next one first.
    due: VecDeque<(Instant, Kind)>,
    lost: u64,
    second: Option<(Instant, u32)>,
}

/// What makes packets equal: everything but the source port, the time, and how many they are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind([String; 5], Option<u32>);

#[derive(Debug)]
struct Open {
    /// The last packet.
    record: Record,
    /// Packets in no record yet.
    count: u64,
}

impl Drops {
    /// Takes one packet, as a record of its own; gives back a record when it is time for one.
    pub fn packet(&mut self, packet: Record, now: Instant) -> Option<Record> {
        let kind = Kind::of(&packet);
        if let Some(open) = self.open.get_mut(&kind) {
            open.count += packet.count;
            open.record = packet;
            return None;
        }
        if self.open.len() >= MOST_KINDS {
            self.lost += packet.count;
            return None;
        }
        let at_once = self.may_write(now);
        let count = if at_once { 0 } else { packet.count };
        self.open.insert(kind.clone(), Open { record: packet.clone(), count });
        self.due.push_back((now + GATHER, kind));
        at_once.then(|| self.keep(packet))
    }

    /// Records of what was counted and whose time is up.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<Record> {
        let mut records = Vec::new();
        while self.due.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, kind)) = self.due.pop_front() else { break };
            let Some(open) = self.open.remove(&kind) else { continue };
            if open.count > 0 {
                // More of the same go on being counted together.
                let record = Record { count: open.count, ..open.record.clone() };
                self.open.insert(kind.clone(), Open { record: open.record, count: 0 });
                self.due.push_back((now + GATHER, kind));
                records.push(self.keep(record));
            }
        }
        records
    }

    /// Notes packets of which nothing is known.
    pub fn lose(&mut self, packets: u64) {
        self.lost += packets;
    }

    /// Packets so far that are in no record.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// The records that are kept, the oldest first.
    pub fn kept(&self) -> impl Iterator<Item = &Record> {
        self.kept.iter()
    }

    fn keep(&mut self, record: Record) -> Record {
        if self.kept.len() >= KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(record.clone());
        record
    }

    fn may_write(&mut self, now: Instant) -> bool {
        match &mut self.second {
            Some((began, written)) if now.saturating_duration_since(*began) < Duration::from_secs(1) => {
                *written += 1;
                *written <= RATE
            }
            second => {
                *second = Some((now, 1));
                true
            }
        }
    }
}

impl Kind {
    fn of(packet: &Record) -> Self {
        let what = format!("{}|{}|{}|{:?}", packet.cause, packet.policy, packet.tier, packet.rule);
        let place = format!("{}|{}", packet.direction, packet.interface);
        let (source, destination) = (packet.source.clone(), packet.destination.clone());
        let protocol = format!("{}|{}", packet.protocol, packet.icmp);
        Self([what, place, source, destination, protocol], packet.port)
    }
}

/// Is the record about this pod and by this policy? Empty means any.
pub fn is_wanted(record: &Record, pod: &str, policy: &str) -> bool {
    let pods = [&record.pod, &record.source_pod, &record.destination_pod];
    let is_it = |id: &String| id == policy || id.rsplit('/').next() == Some(policy);
    let by_policy = policy.is_empty() || [&record.policy].into_iter().chain(&record.policies).any(is_it);
    (pod.is_empty() || pods.into_iter().any(|name| name == pod)) && by_policy
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(source: &str, source_port: u32) -> Record {
        Record {
            count: 1,
            direction: "ingress".into(),
            interface: "cali1".into(),
            cause: "policy".into(),
            policy: "knp/default/deny".into(),
            source: source.into(),
            source_port: Some(source_port),
            ..Record::default()
        }
    }

    #[test]
    fn the_first_packet_is_told_at_once_and_equal_ones_are_counted() {
        let start = Instant::now();
        let mut drops = Drops::default();

        assert_eq!(drops.packet(packet("10.65.0.1", 1), start).map(|record| record.count), Some(1));
        for port in 2..5 {
            assert_eq!(drops.packet(packet("10.65.0.1", port), start), None);
        }
        assert_eq!(drops.handle_timeout(start + GATHER / 2), []);
        let later = drops.handle_timeout(start + GATHER);

        assert_eq!(later.iter().map(|r| (r.count, r.source_port)).collect::<Vec<_>>(), [(3, Some(4))]);
        assert_eq!(drops.kept().map(|record| record.count).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(drops.handle_timeout(start + GATHER * 2), []);
        assert!(drops.packet(packet("10.65.0.1", 9), start + GATHER * 2).is_some(), "told at once again");
    }

    #[test]
    fn a_scan_of_many_addresses_fills_no_memory_and_is_counted() {
        let now = Instant::now();
        let mut drops = Drops::default();

        let sources = (0..10_000).map(|n| format!("10.0.{}.{}", n / 256, n % 256));
        let told = sources.filter_map(|source| drops.packet(packet(&source, 1), now)).count();

        assert_eq!(told, RATE as usize);
        assert_eq!(drops.lost(), 10_000 - MOST_KINDS as u64);
        let late = drops.handle_timeout(now + GATHER);
        assert_eq!(told + late.len(), MOST_KINDS);
        assert_eq!(drops.kept().count(), KEPT);
    }

    #[test]
    fn records_are_chosen_by_pod_on_either_side_and_by_policy() {
        let record = Record { destination_pod: "default/web".into(), ..packet("10.65.0.1", 1) };

        assert!(is_wanted(&record, "", "") && is_wanted(&record, "default/web", "deny"));
        assert!(is_wanted(&record, "", "knp/default/deny"));
        assert!(!is_wanted(&record, "default/we", "") && !is_wanted(&record, "", "den"));
        let end = Record { policy: String::new(), policies: vec!["knp/default/deny".into()], ..record };
        assert!(is_wanted(&end, "", "deny") && !is_wanted(&end, "", "other"));
    }
}
