//! Reads what annotations of a Pod ask of its node (`spec/felix.md` §7.4).

use std::str::FromStr;

use model::{Labels, RateLimit, RateUnit};

use crate::{PodLimits, PodOptions};

const FLOATING: &str = "cni.projectcalico.org/floatingIPs";
const ALLOWED_SOURCES: &str = "cni.projectcalico.org/allowedSourcePrefixes";
const DSCP: &str = "qos.projectcalico.org/dscp";
const INGRESS: LimitKeys = LimitKeys {
    rate: "qos.projectcalico.org/ingressPacketRate",
    burst: "qos.projectcalico.org/ingressPacketBurst",
    connections: "qos.projectcalico.org/ingressMaxConnections",
};
const EGRESS: LimitKeys = LimitKeys {
    rate: "qos.projectcalico.org/egressPacketRate",
    burst: "qos.projectcalico.org/egressPacketBurst",
    connections: "qos.projectcalico.org/egressMaxConnections",
};
/// The kernel's limit of a packet rate.
const MOST_PACKETS: u64 = 10_000;
/// Longer lists are refused: every entry is a rule or more.
const MOST_ENTRIES: usize = 100;

impl PodOptions {
    pub(crate) fn parse(annotations: &Labels) -> Self {
        let mut options = Self::default();
        if let Some(text) = annotations.get(FLOATING) {
            match list(text) {
                Some(floating) => options.floating = floating,
                None => options.invalid = Some(FLOATING),
            }
        }
        if let Some(text) = annotations.get(ALLOWED_SOURCES) {
            match list(text) {
                Some(sources) => options.allowed_sources = sources,
                None => options.invalid = Some(ALLOWED_SOURCES),
            }
        }
        if let Some(text) = annotations.get(DSCP) {
            match dscp(text) {
                Some(value) => options.dscp = Some(value),
                None => options.invalid = Some(DSCP),
            }
        }
        options.ingress = options.limits(annotations, &INGRESS);
        options.egress = options.limits(annotations, &EGRESS);
        options
    }

    fn limits(&mut self, annotations: &Labels, keys: &LimitKeys) -> PodLimits {
        let mut number = |key: &'static str, most: u64| -> Option<u32> {
            let value = annotations.get(key).map(|text| quantity(text).filter(|n| (1..=most).contains(n)))?;
            if value.is_none() {
                self.invalid = Some(key);
            }
            value.and_then(|value| value.try_into().ok())
        };
        let rate = number(keys.rate, MOST_PACKETS);
        let burst = number(keys.burst, MOST_PACKETS).unwrap_or(RateLimit::DEFAULT_BURST);
        let packets = rate.map(|count| RateLimit { count, unit: RateUnit::Second, burst });
        PodLimits { packets, connections: number(keys.connections, u64::from(u32::MAX)) }
    }
}

/// Annotations of one direction.
struct LimitKeys {
    rate: &'static str,
    burst: &'static str,
    connections: &'static str,
}

/// A whole number, perhaps of thousands (`10k`) or millions.
fn quantity(text: &str) -> Option<u64> {
    let text = text.trim();
    let (digits, factor) = match text.strip_suffix('k').map(|digits| (digits, 1_000)) {
        Some(thousands) => thousands,
        None => text.strip_suffix('M').map_or((text, 1), |digits| (digits, 1_000_000)),
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

/// A number up to 63 or a name of RFC 2474, RFC 2597, RFC 3246, RFC 5865 or RFC 8622.
fn dscp(text: &str) -> Option<u8> {
    let text = text.trim().to_ascii_uppercase();
    if let Ok(value) = text.parse::<u8>() {
        return (value < 64).then_some(value);
    }
    let digit = |c: Option<char>, least: u32, most: u32| {
        c.and_then(|c| c.to_digit(10)).filter(|n| (least..=most).contains(n)).map(|n| n as u8)
    };
    match text.as_str() {
        "DF" => return Some(0),
        "EF" => return Some(46),
        "VA" => return Some(44),
        "LE" => return Some(1),
        _ => {}
    }
    let (letters, mut numbers) = (text.get(..2)?, text.get(2..)?.chars());
    let value = match letters {
        "CS" => digit(numbers.next(), 0, 7)? * 8,
        "AF" => digit(numbers.next(), 1, 4)? * 8 + digit(numbers.next(), 1, 3)? * 2,
        _ => return None,
    };
    numbers.next().is_none().then_some(value)
}

/// A JSON list of strings; no character of an address needs an escape.
fn list<T: FromStr + Ord>(text: &str) -> Option<Vec<T>> {
    let inside = text.trim().strip_prefix('[')?.strip_suffix(']')?.trim();
    if inside.is_empty() {
        return Some(Vec::new());
    }
    let string = |item: &str| item.trim().strip_prefix('"')?.strip_suffix('"')?.parse().ok();
    let mut items: Vec<T> = inside.split(',').take(MOST_ENTRIES + 1).map(string).collect::<Option<_>>()?;
    if items.len() > MOST_ENTRIES {
        return None;
    }
    items.sort();
    items.dedup();
    Some(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(key: &str, value: &str) -> PodOptions {
        PodOptions::parse(&Labels::from([(key.to_owned(), value.to_owned())]))
    }

    #[test]
    fn lists_are_read() {
        let options = parse(FLOATING, "[\"192.0.2.7\", \"192.0.2.6\",\"2001:db8::7\"]");
        let floating: Vec<_> = options.floating.iter().map(ToString::to_string).collect();
        assert_eq!(floating, ["192.0.2.6", "192.0.2.7", "2001:db8::7"]);

        let options = parse(ALLOWED_SOURCES, "[\"10.0.0.0/8\"]");
        assert_eq!(options.allowed_sources, ["10.0.0.0/8".parse().unwrap()]);
        assert_eq!(parse(ALLOWED_SOURCES, "[]"), PodOptions::default());
        assert_eq!(parse("cni.projectcalico.org/podIP", "10.65.0.2"), PodOptions::default());
    }

    #[test]
    fn limits_are_read() {
        let options = PodOptions::parse(&Labels::from(
            [
                ("ingressPacketRate", "10k"),
                ("egressPacketRate", "7"),
                ("egressPacketBurst", "3"),
                ("ingressMaxConnections", "5"),
                ("dscp", "AF21"),
            ]
            .map(|(key, value)| (format!("qos.projectcalico.org/{key}"), value.to_owned())),
        ));

        let rate = |count, burst| Some(RateLimit { count, unit: RateUnit::Second, burst });
        assert_eq!(options.ingress, PodLimits { packets: rate(10_000, 5), connections: Some(5) });
        assert_eq!(options.egress, PodLimits { packets: rate(7, 3), connections: None });
        assert_eq!((options.dscp, options.invalid), (Some(18), None));
        for (text, value) in [("EF", Some(46)), ("cs6", Some(48)), ("63", Some(63)), ("64", None)] {
            assert_eq!(dscp(text), value, "{text}");
        }
        for text in ["", "CS8", "AF44", "AF211", "ÄÖ", "-1"] {
            assert_eq!(dscp(text), None, "{text}");
        }
        for text in ["0", "11k", "-1", "1.5", "", "99999999999999999999", "9999999999999999M"] {
            let options = parse(INGRESS.rate, text);
            assert_eq!((options.ingress.packets, options.invalid), (None, Some(INGRESS.rate)), "{text}");
        }
    }

    #[test]
    fn nonsense_is_named() {
        let many = format!("[{}]", vec!["\"10.0.0.0/8\""; 101].join(","));
        for text in ["", "[", "10.0.0.0/8", "[10.0.0.0/8]", "[\"10.0.0.0/8\",]", "[\"x\"]", &many] {
            assert_eq!(parse(ALLOWED_SOURCES, text).invalid, Some(ALLOWED_SOURCES), "{text}");
        }
    }
}
