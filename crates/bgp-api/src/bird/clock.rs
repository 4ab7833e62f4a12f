//! Dates and times as BIRD writes them, in UTC.

use std::time::{Duration, SystemTime};

/// `2026-11-21 12:16:52`.
pub(super) fn date_time(time: SystemTime) -> String {
    let (date, clock) = split(time);
    format!("{date} {clock}")
}

/// `2026-11-21T12:16:52Z`, as RFC 3339 has it.
pub fn utc(time: SystemTime) -> String {
    let (date, clock) = split(time);
    format!("{date}T{clock}Z")
}

/// The time alone for what is younger than a day, else the date alone: always one word, as `calicoctl` needs it.
pub(super) fn short(time: SystemTime, now: SystemTime) -> String {
    let (date, clock) = split(time);
    let is_young = now.duration_since(time).unwrap_or_default() < Duration::from_secs(20 * 3600);
    if is_young { clock } else { date }
}

fn split(time: SystemTime) -> (String, String) {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let date = format!("{year:04}-{month:02}-{day:02}");
    (date, format!("{:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60))
}

/// The day of the Gregorian calendar, `days` after 1970-01-01: eras of 400 years that begin in March.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);

        assert_eq!(date_time(at(0)), "1970-01-01 00:00:00");
        assert_eq!(date_time(at(951_782_399)), "2000-02-28 23:59:59");
        assert_eq!(date_time(at(951_782_400)), "2000-02-29 00:00:00");
        assert_eq!(date_time(at(1_795_263_412)), "2026-11-21 12:16:52");
        assert_eq!(short(at(86_399), at(86_400)), "23:59:59");
        assert_eq!(short(at(86_399), at(200_000)), "1970-01-01");
    }
}
