//! Reads what annotations of a Pod ask of its node (`spec/felix.md` §7.4).

use std::str::FromStr;

use model::Labels;

use crate::PodOptions;

const FLOATING: &str = "cni.projectcalico.org/floatingIPs";
const ALLOWED_SOURCES: &str = "cni.projectcalico.org/allowedSourcePrefixes";
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
        options
    }
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
    fn nonsense_is_named() {
        let many = format!("[{}]", vec!["\"10.0.0.0/8\""; 101].join(","));
        for text in ["", "[", "10.0.0.0/8", "[10.0.0.0/8]", "[\"10.0.0.0/8\",]", "[\"x\"]", &many] {
            assert_eq!(parse(ALLOWED_SOURCES, text).invalid, Some(ALLOWED_SOURCES), "{text}");
        }
    }
}
