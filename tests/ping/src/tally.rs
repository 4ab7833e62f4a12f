//! What ping's lines say.

use std::fmt;

/// How many lines of trouble are kept.
const TROUBLE: usize = 5;

/// What ping counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub sent: u64,
    pub received: u64,
    /// Numbers of packets without an answer, although a later one has one; and between which times.
    gaps: Vec<Gap>,
    /// The highest number that was answered, and when, as ping printed it.
    last: (u64, String),
    /// Answers that say no, the first few.
    trouble: Vec<String>,
    pub(crate) has_sums: bool,
    /// Packets from this one on do not count: they were sent when ping was to end already.
    pub(crate) end: Option<u64>,
}

/// An answer: to which packet, and when that was sent, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) number: u64,
    pub(crate) sent_at: f64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Gap {
    first: u64,
    last: u64,
    /// Seconds since 1970, as ping printed them: of the answers before and after.
    between: (String, String),
}

impl Tally {
    /// Packets without an answer: those before the last answer that counts; when no answer shows that all others are
    /// there, those after it as well, but one, which may have been on its way when ping was ended.
    pub fn lost(&self) -> u64 {
        let end = self.end.unwrap_or(u64::MAX);
        let counted = self.gaps.iter().filter(|gap| gap.first < end);
        let in_gaps: u64 = counted.map(|gap| gap.last - gap.first + 1).sum();
        let unanswered = self.sent.saturating_sub(self.last.0).saturating_sub(1);
        in_gaps + if self.end.is_some() { 0 } else { unanswered }
    }

    /// Reads one line; the answer that it tells of.
    pub(crate) fn read(&mut self, line: &str) -> Option<Answer> {
        if let Some((time, number, milliseconds)) = answer(line) {
            let number = whole(self.last.0, number);
            self.answered(time, number);
            let came_at: f64 = time.parse().unwrap_or_default();
            return Some(Answer { number, sent_at: came_at - milliseconds / 1000.0 });
        }
        if line.contains("packets transmitted") {
            let mut numbers = line.split(", ").filter_map(|part| part.split(' ').next()?.parse().ok());
            (self.sent, self.received) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
            self.has_sums = true;
        } else if line.contains("icmp_seq=") && self.trouble.len() < TROUBLE {
            self.trouble.push(line.to_owned());
        }
        None
    }

    fn answered(&mut self, time: &str, number: u64) {
        let (last, before) = &self.last;
        if number > *last {
            if number > last + 1 {
                let between = (before.clone(), time.to_owned());
                self.gaps.push(Gap { first: last + 1, last: number - 1, between });
            }
            self.last = (number, time.to_owned());
        } else {
            self.came_late(number);
        }
    }

    /// An answer that a later one has overtaken.
    fn came_late(&mut self, number: u64) {
        let Some(at) = self.gaps.iter().position(|gap| (gap.first..=gap.last).contains(&number)) else {
            return;
        };
        let gap = self.gaps.remove(at);
        let before = Gap { last: number - 1, ..gap.clone() };
        let after = Gap { first: number + 1, ..gap };
        let left = [before, after].into_iter().filter(|gap| gap.first <= gap.last);
        self.gaps.splice(at..at, left);
    }
}

/// The number that is nearest to the last one: ping's numbers have 16 bits.
fn whole(last: u64, number: u16) -> u64 {
    let [.., high, low] = last.to_be_bytes();
    let ahead = number.wrapping_sub(u16::from_be_bytes([high, low])).cast_signed();
    last.saturating_add_signed(i64::from(ahead))
}

/// `[1700000000.123456] 64 bytes from 10.65.0.1: icmp_seq=3 ttl=62 time=0.050 ms`.
fn answer(line: &str) -> Option<(&str, u16, f64)> {
    let (time, rest) = line.strip_prefix('[')?.split_once("] ")?;
    let number = rest.split(' ').find_map(|word| word.strip_prefix("icmp_seq="))?;
    let milliseconds = rest.split(' ').find_map(|word| word.strip_prefix("time="))?;
    let is_answer = rest.contains(" bytes from ") && !rest.contains("DUP!");
    Some((time, number.parse().ok()?, milliseconds.parse().ok()?)).filter(|_| is_answer)
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sent, {} answered, {} lost", self.sent, self.received, self.lost())?;
        for Gap { first, last, between: (before, after) } in &self.gaps {
            write!(f, "; {first}-{last} between {before} and {after}")?;
        }
        self.trouble.iter().try_for_each(|line| write!(f, "; {line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(numbers: &[u64], sent: u64) -> Tally {
        let mut tally = Tally::default();
        for number in numbers {
            let line =
                format!("[17.{number}] 64 bytes from 10.65.0.1: icmp_seq={number} ttl=62 time=0.050 ms");
            assert_eq!(tally.read(&line).map(|answer| answer.number), Some(*number));
        }
        tally.read(&format!(
            "{sent} packets transmitted, {} received, 5% packet loss, time 8ms",
            numbers.len()
        ));
        tally
    }

    #[test]
    fn what_is_answered_is_not_lost_in_whatever_order() {
        assert_eq!(tally(&[1, 2, 3], 3).lost(), 0);
        assert_eq!(tally(&[1, 4, 3, 2, 5], 5).lost(), 0);
    }

    #[test]
    fn numbers_go_on_after_16_bits() {
        assert_eq!(whole(0, 1), 1);
        assert_eq!(whole(65_535, 0), 65_536);
        assert_eq!(whole(65_536, 65_535), 65_535);
        assert_eq!(whole(3 * 65_536 + 9, 12), 3 * 65_536 + 12);
    }

    #[test]
    fn the_last_packet_may_be_on_its_way_but_not_the_two_last() {
        assert_eq!(tally(&[1, 2], 3).lost(), 0);
        assert_eq!(tally(&[1, 2], 4).lost(), 1);
        assert_eq!(tally(&[], 4).lost(), 3);
    }

    #[test]
    fn what_is_sent_when_ping_is_to_end_does_not_count() {
        let mut tally = tally(&[1, 3, 4, 7], 12);
        tally.end = Some(4);

        assert_eq!(tally.lost(), 1, "{tally}");
    }

    #[test]
    fn when_a_packet_was_sent_is_known_from_its_answer() {
        let line = "[1700000001.5] 64 bytes from 10.65.0.1: icmp_seq=3 ttl=62 time=250 ms";
        let answer = Tally::default().read(line).unwrap();

        assert!((answer.sent_at - 1_700_000_001.25).abs() < 0.001, "{answer:?}");
    }

    #[test]
    fn what_is_missing_is_told_with_its_times() {
        let mut tally = tally(&[1, 2, 5, 4, 8], 9);
        tally.read("[17.9] From 10.65.0.9 icmp_seq=9 Destination Host Unreachable");

        assert_eq!((tally.sent, tally.received, tally.lost()), (9, 5, 3));
        assert_eq!(
            tally.to_string(),
            "9 sent, 5 answered, 3 lost; 3-3 between 17.2 and 17.5; 6-7 between 17.5 and 17.8; \
             [17.9] From 10.65.0.9 icmp_seq=9 Destination Host Unreachable"
        );
    }
}
