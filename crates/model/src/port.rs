//! Ports, ranges of ports and named ports.

use std::str::FromStr;

/// First and last port of a range, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

impl PortRange {
    pub fn single(port: u16) -> Self {
        Self { first: port, last: port }
    }

    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a port, a range such as 80:90, or the name of a port")]
pub struct InvalidPort(pub String);

/// One entry of a list of ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortMatch {
    Range(PortRange),
    /// Resolved per endpoint: (address, protocol, port) of those that declare a port of this name.
    Named(String),
}

impl FromStr for PortMatch {
    type Err = InvalidPort;

    fn from_str(text: &str) -> Result<Self, InvalidPort> {
        let invalid = || InvalidPort(text.to_owned());
        if text.starts_with(|c: char| c.is_ascii_digit())
            && text.chars().all(|c| c.is_ascii_digit() || c == ':')
        {
            let (first, last) = text.split_once(':').unwrap_or((text, text));
            return match (first.parse(), last.parse()) {
                (Ok(first), Ok(last)) if first <= last => Ok(PortMatch::Range(PortRange { first, last })),
                _ => Err(invalid()),
            };
        }
        let is_name = !text.is_empty()
            && text.len() <= 63
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
        if is_name { Ok(PortMatch::Named(text.to_owned())) } else { Err(invalid()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_numbers_ranges_or_names() {
        assert_eq!("80".parse(), Ok(PortMatch::Range(PortRange::single(80))));
        assert_eq!("80:90".parse(), Ok(PortMatch::Range(PortRange { first: 80, last: 90 })));
        assert_eq!("http".parse(), Ok(PortMatch::Named("http".to_owned())));
        for text in ["", "90:80", "65536", "80:", "80:90:100", "a b", "-1:"] {
            assert!(text.parse::<PortMatch>().is_err(), "{text:?} was accepted");
        }
    }
}
