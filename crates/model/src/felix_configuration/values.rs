//! How text becomes the value of a setting. `none` is the zero of whatever it is, as Calico has it.

use std::net::IpAddr;
use std::time::Duration;

use super::{FailsafePort, RateLimit};
use crate::{Cidr, Family, PortMatch, PortRange, Protocol};

pub(super) fn is_none(text: &str) -> bool {
    text.eq_ignore_ascii_case("none")
}

/// How often a lock is tried: a duration as Go writes it, or a number of milliseconds.
pub(super) fn lock_probe(text: &str) -> Result<Duration, String> {
    let interval = match text.trim().parse() {
        Ok(milliseconds) => Duration::from_millis(milliseconds),
        Err(_) => duration(text)?,
    };
    let is_within = (Duration::from_millis(1)..=Duration::from_secs(1)).contains(&interval);
    is_within.then_some(interval).ok_or_else(|| format!("{text:?} is not between 1ms and 1s"))
}

/// A duration as Go writes it (`90s`, `1m30s`, `1.5h`, `100ms`), or a number of seconds.
///
/// # Errors
/// When it is neither, negative or beyond all bounds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("{text:?} is not a duration such as 90s or 1m30s");
    let seconds = |value: f64| Duration::try_from_secs_f64(value).map_err(|_| invalid());
    if is_none(text) {
        return Ok(Duration::ZERO);
    }
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

/// Whole seconds, as WireGuard has them.
pub(super) fn keep_alive(text: &str) -> Result<Duration, String> {
    let interval = duration(text)?;
    match interval.as_secs() {
        seconds @ 0..=65535 => Ok(Duration::from_secs(seconds)),
        _ => Err(format!("{text:?} is more than 65535 seconds")),
    }
}

pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "y" | "t" => Ok(true),
        "false" | "0" | "no" | "n" | "f" | "none" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

/// What a list such as `ChecksumOffloadBroken=true,SNATFullyRandom=false` says of one of its names.
pub(super) fn feature(text: &str, name: &str) -> Result<Option<bool>, String> {
    let mut said = None;
    for part in list(text) {
        let (of, value) = part.split_once('=').ok_or_else(|| format!("{part:?} is not name=value"))?;
        let value = boolean(value.trim())?;
        if of.trim().eq_ignore_ascii_case(name) {
            said = Some(value);
        }
    }
    Ok(said)
}

/// `Enabled` or `Disabled`.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    choice(text, &[("Enabled", true), ("Disabled", false)])
}

/// One of a few words, in any case.
pub(super) fn choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    let found = choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
    found.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        format!("{text:?} is none of {}", names.join(", "))
    })
}

/// A number within bounds, decimal or `0x` and hexadecimal.
pub(super) fn number<T: TryFrom<u64>>(text: &str, least: u64, most: u64) -> Result<T, String> {
    let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    let within = parsed.ok().filter(|number| (least..=most).contains(number));
    within
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| format!("{text:?} is not a number from {least} to {most}"))
}

/// Marks need room for what the rules tell by them: five bits, and each endpoint's own.
pub(super) fn mark_mask(text: &str) -> Result<u32, String> {
    let mask: u32 = number(text, 1, u32::MAX.into())?;
    match mask.count_ones() {
        0..8 => Err(format!("{text:?} leaves fewer than eight bits for marks")),
        _ => Ok(mask),
    }
}

/// Bytes; 0 means automatic.
pub(super) fn mtu(text: &str) -> Result<Option<u32>, String> {
    match text.parse::<u32>() {
        Ok(0) => Ok(None),
        Ok(mtu @ 68..=65535) => Ok(Some(mtu)),
        _ if is_none(text) => Ok(None),
        _ => Err(format!("{text:?} is not an MTU from 68 to 65535, or 0 for automatic")),
    }
}

/// The entries of a list; `none` has none.
pub(super) fn list(text: &str) -> Vec<&str> {
    if is_none(text) {
        return Vec::new();
    }
    text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).collect()
}

/// Prefixes and addresses.
pub(super) fn cidrs(text: &str) -> Result<Vec<Cidr>, String> {
    list(text).into_iter().map(cidr).collect()
}

fn cidr(text: &str) -> Result<Cidr, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Cidr::host(address));
    }
    match text.parse() {
        Err(crate::InvalidCidr::HostBits { network, .. }) => Ok(network),
        other => other.map_err(|error| error.to_string()),
    }
}

pub(super) fn port_range(text: &str) -> Result<PortRange, String> {
    match text.parse() {
        Ok(PortMatch::Range(range)) if range.first > 0 => Ok(range),
        _ => Err(format!("{text:?} is not a port, or a range such as 30000:32767")),
    }
}

/// At most so many ranges of ports, with commas between.
pub(super) fn port_ranges(text: &str, most: usize) -> Result<Vec<PortRange>, String> {
    let ranges: Vec<PortRange> = list(text).into_iter().map(port_range).collect::<Result<_, _>>()?;
    match ranges.len() > most {
        true => Err(format!("{} ranges are more than {most}", ranges.len())),
        false => Ok(ranges),
    }
}

/// `tcp:22`, `udp:10.0.0.0/8:68`, or a bare port of TCP.
pub(super) fn failsafe_ports(text: &str) -> Result<Vec<FailsafePort>, String> {
    list(text).into_iter().map(failsafe_port).collect()
}

fn failsafe_port(text: &str) -> Result<FailsafePort, String> {
    let (head, port) = text.rsplit_once(':').unwrap_or(("tcp", text));
    let (protocol, net) = match head.split_once(':') {
        Some((protocol, net)) => (protocol, Some(cidr(net.trim_matches(['[', ']']))?)),
        None => (head, None),
    };
    let protocol: Protocol = protocol.parse()?;
    if !protocol.has_ports() {
        return Err(format!("{protocol} has no ports"));
    }
    Ok(FailsafePort { protocol, port: number(port, 0, 65535)?, net })
}

/// An address of one family.
pub(super) fn address_of(text: &str, family: Family) -> Result<Option<IpAddr>, String> {
    match address(text)? {
        Some(address) if Family::of(address) != family => Err(format!("{text:?} is not an {family} address")),
        address => Ok(address),
    }
}

/// A number by which routes are told apart; those of the kernel and of the speaker are theirs.
pub(super) fn route_protocol(text: &str) -> Result<u8, String> {
    match number(text, 3, 255)? {
        12 => Err("12 (bird) marks the routes of the speaker".to_owned()),
        protocol => Ok(protocol),
    }
}

pub(super) fn address(text: &str) -> Result<Option<IpAddr>, String> {
    if is_none(text) {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| format!("{text:?} is not an address"))
}

/// An address to listen on.
pub(super) fn host(text: &str) -> Result<IpAddr, String> {
    if text.eq_ignore_ascii_case("localhost") {
        return Ok(std::net::Ipv4Addr::LOCALHOST.into());
    }
    text.parse().map_err(|_| format!("{text:?} is neither an address nor localhost"))
}

/// Names of pod interfaces begin with the first of the list.
pub(super) fn interface_prefix(text: &str) -> Result<String, String> {
    let first = text.split(',').next().unwrap_or_default().trim();
    // The rest of the 15 characters tells pods apart.
    let is_sound = (1..=4).contains(&first.len()) && first.chars().all(|c| c.is_ascii_alphanumeric());
    match is_sound && !text.contains(',') {
        true => Ok(first.to_owned()),
        false => Err("one prefix of one to four letters or digits is understood".to_owned()),
    }
}

/// Names, or expressions between slashes.
pub(super) fn interface_patterns(text: &str) -> Result<Vec<String>, String> {
    let entries = list(text);
    for entry in &entries {
        let is_expression = entry.len() > 2 && entry.starts_with('/') && entry.ends_with('/');
        if !is_expression && (entry.len() > 15 || entry.contains(['/', ' '])) {
            return Err(format!("{entry:?} is neither the name of an interface nor an /expression/"));
        }
    }
    Ok(entries.into_iter().map(str::to_owned).collect())
}

/// The name of an interface, where `+` at the end stands for any text.
pub(super) fn interface_name(text: &str) -> Result<Option<String>, String> {
    if is_none(text) {
        return Ok(None);
    }
    let is_plain = |c: char| c.is_ascii_graphic() && !"/\"'\\".contains(c);
    match text.len() <= 15 && text.chars().all(is_plain) {
        true => Ok(Some(text.to_owned())),
        false => Err(format!("{text:?} is not the name of an interface")),
    }
}

/// What the kernel's LOG target takes: text without what would end it.
pub(super) fn log_prefix(text: &str) -> Result<String, String> {
    match is_none(text) {
        true => Ok(String::new()),
        false if text.chars().any(char::is_control) => Err("has control characters".to_owned()),
        false => Ok(text.to_owned()),
    }
}

pub(super) fn rate(text: &str) -> Result<Option<RateLimit>, String> {
    if is_none(text) { Ok(None) } else { text.parse().map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_tried_neither_all_the_time_nor_hardly_ever() {
        assert_eq!(lock_probe("50"), Ok(Duration::from_millis(50)));
        assert_eq!(lock_probe("0.02s"), Ok(Duration::from_millis(20)));
        for text in ["0", "none", "2s", "2000", "-5", "often"] {
            assert!(lock_probe(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn durations_are_gos() {
        for (text, milliseconds) in [
            ("90s", 90_000),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("100ms", 100),
            ("0", 0),
            ("15", 15_000),
            ("none", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "s", "1x", "-1s", "1s2", "1e400s", "nan"] {
            assert!(duration(text).is_err(), "{text:?} was accepted");
        }
    }
}
