//! Reads what annotations of a Pod ask of its node (`spec/felix.md` §7.4).

use std::str::FromStr;

use kernel::Bandwidth;
use model::{Labels, RateLimit, RateUnit};

use crate::{PodLimits, PodOptions};

const FLOATING: &str = "cni.projectcalico.org/floatingIPs";
const ALLOWED_SOURCES: &str = "cni.projectcalico.org/allowedSourcePrefixes";
const DSCP: &str = "qos.projectcalico.org/dscp";
const INGRESS: LimitKeys = LimitKeys {
    rate: "qos.projectcalico.org/ingressPacketRate",
    burst: "qos.projectcalico.org/ingressPacketBurst",
    connections: "qos.projectcalico.org/ingressMaxConnections",
    bandwidth: ["qos.projectcalico.org/ingressBandwidth", "kubernetes.io/ingress-bandwidth"],
    bits_at_once: "qos.projectcalico.org/ingressBurst",
    peak: "qos.projectcalico.org/ingressPeakrate",
    min_burst: "qos.projectcalico.org/ingressMinburst",
};
const EGRESS: LimitKeys = LimitKeys {
    rate: "qos.projectcalico.org/egressPacketRate",
    burst: "qos.projectcalico.org/egressPacketBurst",
    connections: "qos.projectcalico.org/egressMaxConnections",
    bandwidth: ["qos.projectcalico.org/egressBandwidth", "kubernetes.io/egress-bandwidth"],
    bits_at_once: "qos.projectcalico.org/egressBurst",
    peak: "qos.projectcalico.org/egressPeakrate",
    min_burst: "qos.projectcalico.org/egressMinburst",
};
/// The kernel's limit of a packet rate.
const MOST_PACKETS: u64 = 10_000;
const PETA: u64 = 1_000_000_000_000_000;
/// Bits; what the kernel can count in bytes.
const MOST_BURST: u64 = 34_359_738_360;
const DEFAULT_BURST: u64 = 4 << 30;
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
        let connections = number(keys.connections, u64::from(u32::MAX));
        PodLimits { packets, connections, bandwidth: self.bandwidth(annotations, keys) }
    }

    /// What cannot be understood, or lies outside its limits, counts as not said.
    fn bandwidth(&mut self, annotations: &Labels, keys: &LimitKeys) -> Option<Bandwidth> {
        let mut number = |key: &'static str, least: u64, most: u64| -> Option<u64> {
            let value = annotations.get(key).map(|text| bits(text).filter(|n| (least..=most).contains(n)))?;
            if value.is_none() {
                self.invalid = Some(key);
            }
            value
        };
        let [own, shared] = keys.bandwidth;
        let key = if annotations.contains_key(own) { own } else { shared };
        let rate = number(key, 1_000, PETA)?;
        let burst = number(keys.bits_at_once, 1_000, MOST_BURST).unwrap_or(DEFAULT_BURST);
        let peak = number(keys.peak, (rate + 1).max(1_010), PETA + PETA / 100);
        let min_burst = number(keys.min_burst, 1_000, 100_000_000);
        self.shared_bandwidth |= key == shared;
        Some(Bandwidth { rate, burst, peak, min_burst })
    }
}

/// Annotations of one direction.
struct LimitKeys {
    rate: &'static str,
    burst: &'static str,
    connections: &'static str,
    /// The first that is there counts.
    bandwidth: [&'static str; 2],
    bits_at_once: &'static str,
    peak: &'static str,
    min_burst: &'static str,
}

/// A quantity as Kubernetes writes it, without an exponent: `10M`, `1.5G`, `8Mi`.
fn bits(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor = match unit {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "P" => PETA,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        _ => return None,
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if part.len() > 9 || part.contains('.') {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(factor)?;
    let Ok(digits) = part.parse::<u128>() else { return part.is_empty().then_some(whole) };
    let part = digits * u128::from(factor) / 10_u128.pow(part.len() as u32);
    whole.checked_add(u64::try_from(part).ok()?)
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
        assert_eq!(
            options.ingress,
            PodLimits { packets: rate(10_000, 5), connections: Some(5), bandwidth: None }
        );
        assert_eq!(options.egress, PodLimits { packets: rate(7, 3), connections: None, bandwidth: None });
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
    fn bandwidths_are_read() {
        let read = |pairs: &[(&str, &str)]| {
            let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
            PodOptions::parse(&pairs.iter().map(own).collect())
        };
        let plain = |rate| Bandwidth { rate, burst: DEFAULT_BURST, peak: None, min_burst: None };

        let options =
            read(&[("kubernetes.io/ingress-bandwidth", "10M"), ("kubernetes.io/egress-bandwidth", "1.5G")]);
        assert_eq!(options.ingress.bandwidth, Some(plain(10_000_000)));
        assert_eq!((options.egress.bandwidth, options.invalid), (Some(plain(1_500_000_000)), None));
        assert!(options.shared_bandwidth);

        let options = read(&[
            ("kubernetes.io/egress-bandwidth", "1M"),
            ("qos.projectcalico.org/egressBandwidth", "8Mi"),
            ("qos.projectcalico.org/egressBurst", "64k"),
            ("qos.projectcalico.org/egressPeakrate", "20M"),
            ("qos.projectcalico.org/egressMinburst", "3k"),
        ]);
        let bandwidth =
            Bandwidth { rate: 8 << 20, burst: 64_000, peak: Some(20_000_000), min_burst: Some(3_000) };
        assert_eq!((options.egress.bandwidth, options.invalid), (Some(bandwidth), None));
        assert!(!options.shared_bandwidth);

        for text in ["", "0", "999", "2P", "-1M", "1e6", "M", "1.2.3", ".5M", "10m", "99999999999999999999P"]
        {
            let options = read(&[("kubernetes.io/ingress-bandwidth", text)]);
            assert_eq!(options.ingress.bandwidth, None, "{text}");
            assert_eq!(options.invalid, Some("kubernetes.io/ingress-bandwidth"), "{text}");
        }
        let slower =
            [("qos.projectcalico.org/egressBandwidth", "8M"), ("qos.projectcalico.org/egressPeakrate", "8M")];
        assert_eq!(read(&slower).egress.bandwidth, Some(plain(8_000_000)));
        assert_eq!(read(&slower).invalid, Some("qos.projectcalico.org/egressPeakrate"));
    }

    #[test]
    fn nonsense_is_named() {
        let many = format!("[{}]", vec!["\"10.0.0.0/8\""; 101].join(","));
        for text in ["", "[", "10.0.0.0/8", "[10.0.0.0/8]", "[\"10.0.0.0/8\",]", "[\"x\"]", &many] {
            assert_eq!(parse(ALLOWED_SOURCES, text).invalid, Some(ALLOWED_SOURCES), "{text}");
        }
    }
}
