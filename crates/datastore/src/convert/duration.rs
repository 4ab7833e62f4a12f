//! Durations as Go writes them.

use std::time::Duration;

/// Parses `90s`, `1m30s`, `1.5h`, `100ms`, and a bare number as seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("{text:?} is not a duration such as 90s or 1m30s");
    let seconds = |value: f64| Duration::try_from_secs_f64(value).map_err(|_| invalid());
    if let Ok(value) = text.trim().parse::<f64>() {
        return seconds(value);
    }
    let mut total = 0.0;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(invalid)?;
        let value: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let unit_end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        total += value * unit(&rest[..unit_end]).ok_or_else(invalid)?;
        rest = &rest[unit_end..];
    }
    seconds(total)
}

/// Seconds of one unit.
fn unit(name: &str) -> Option<f64> {
    Some(match name {
        "ns" => 1e-9,
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (text, milliseconds) in [
            ("90s", 90_000),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("100ms", 100),
            ("0", 0),
            ("15", 15_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "s", "1x", "-1s", "1s2", "1e400s", "nan"] {
            assert!(duration(text).is_err(), "{text:?} was accepted");
        }
    }
}
