//! Sets of prefixes. Owns the quick answer to "is this prefix in the set"; knows no policy.

use std::collections::HashMap;

use bgp_packet::{Family, Prefix};

/// A set of prefixes: those inside `prefix` whose length is in a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PrefixMatch {
    /// What contains the route's prefix.
    pub prefix: Prefix,
    /// Shortest length.
    pub min_len: u8,
    /// Longest length.
    pub max_len: u8,
}

impl PrefixMatch {
    /// Only `prefix` itself.
    pub fn exact(prefix: Prefix) -> Self {
        Self { prefix, min_len: prefix.len(), max_len: prefix.len() }
    }

    /// `prefix` and all that lies inside.
    pub fn within(prefix: Prefix) -> Self {
        Self { prefix, min_len: prefix.len(), max_len: prefix.family().max_len() }
    }

    /// What lies inside `prefix`, but not `prefix` itself.
    pub fn more_specific(prefix: Prefix) -> Self {
        Self { prefix, min_len: prefix.len().saturating_add(1), max_len: prefix.family().max_len() }
    }
}

/// Many [`PrefixMatch`]es as one set.
///
/// A lookup costs one hash for every length that occurs among the matches, however many there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(from = "Vec<PrefixMatch>", into = "Vec<PrefixMatch>")]
pub struct PrefixSet {
    /// Ranges of lengths by prefix, for each family and length that occurs.
    lengths: Vec<(Family, u8, HashMap<Prefix, Ranges>)>,
}

/// Ranges of lengths; more than one is rare.
type Ranges = Vec<(u8, u8)>;

impl From<Vec<PrefixMatch>> for PrefixSet {
    fn from(matches: Vec<PrefixMatch>) -> Self {
        Self::new(matches)
    }
}

impl From<PrefixSet> for Vec<PrefixMatch> {
    fn from(set: PrefixSet) -> Self {
        let all = set.lengths.into_iter().flat_map(|(_, _, by_prefix)| by_prefix);
        let mut matches: Self = all
            .flat_map(|(prefix, ranges)| {
                let one = move |(min_len, max_len)| PrefixMatch { prefix, min_len, max_len };
                ranges.into_iter().map(one)
            })
            .collect();
        matches.sort_by_key(|m| (m.prefix, m.min_len, m.max_len));
        matches
    }
}

impl PrefixSet {
    /// The union of the matches.
    pub fn new(matches: impl IntoIterator<Item = PrefixMatch>) -> Self {
        let mut lengths: Vec<(Family, u8, HashMap<Prefix, Ranges>)> = Vec::new();
        for PrefixMatch { prefix, min_len, max_len } in matches {
            let (family, len) = (prefix.family(), prefix.len());
            let at = match lengths.binary_search_by_key(&(family, len), |(f, l, _)| (*f, *l)) {
                Ok(at) => at,
                Err(at) => {
                    lengths.insert(at, (family, len, HashMap::new()));
                    at
                }
            };
            let ranges = lengths[at].2.entry(prefix).or_default();
            if !ranges.contains(&(min_len, max_len)) {
                ranges.push((min_len, max_len));
                ranges.sort_unstable();
            }
        }
        Self { lengths }
    }

    /// Whether nothing is in the set.
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// Whether `prefix` is in the set.
    pub fn contains(&self, prefix: &Prefix) -> bool {
        let fitting = self.lengths.iter().filter(|(f, len, _)| *f == prefix.family() && *len <= prefix.len());
        fitting.into_iter().any(|(_, len, by_prefix)| {
            let around = Prefix::new(prefix.address(), *len).ok().and_then(|p| by_prefix.get(&p));
            around.is_some_and(|ranges| ranges.iter().any(|(min, max)| (*min..=*max).contains(&prefix.len())))
        })
    }
}

impl FromIterator<PrefixMatch> for PrefixSet {
    fn from_iter<I: IntoIterator<Item = PrefixMatch>>(matches: I) -> Self {
        Self::new(matches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(s: &str) -> Prefix {
        s.parse().unwrap()
    }

    #[test]
    fn answers_as_each_match_alone_would() {
        let matches = [
            PrefixMatch::exact(p("10.0.1.0/26")),
            PrefixMatch { prefix: p("10.2.0.0/16"), min_len: 24, max_len: 26 },
            PrefixMatch { prefix: p("10.2.0.0/16"), min_len: 32, max_len: 32 },
            PrefixMatch::more_specific(p("10.3.0.0/16")),
            PrefixMatch::within(p("fd00::/64")),
            PrefixMatch::exact(p("0.0.0.0/0")),
        ];
        let set = PrefixSet::new(matches);
        for text in [
            "10.0.1.0/26",
            "10.0.1.0/27",
            "10.0.1.0/25",
            "10.2.0.0/16",
            "10.2.5.0/24",
            "10.2.5.64/26",
            "10.2.5.64/27",
            "10.2.5.5/32",
            "10.3.0.0/16",
            "10.3.0.0/17",
            "fd00::/64",
            "fd00::5/128",
            "fd00::/63",
            "0.0.0.0/0",
            "0.0.0.0/1",
            "::/0",
        ] {
            let prefix = p(text);
            let expected = matches
                .iter()
                .any(|m| m.prefix.contains(&prefix) && (m.min_len..=m.max_len).contains(&prefix.len()));
            assert_eq!(set.contains(&prefix), expected, "{text}");
        }
    }

    #[test]
    fn sets_are_equal_whatever_the_order() {
        let matches = [PrefixMatch::exact(p("10.0.0.0/8")), PrefixMatch::within(p("10.0.0.0/8"))];
        assert_eq!(PrefixSet::new(matches), matches.into_iter().rev().collect());
        assert!(PrefixSet::default().is_empty());
    }
}
