//! IP protocols by name and number.

use std::fmt;
use std::str::FromStr;

/// An IP protocol number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Protocol(pub u8);

impl Protocol {
    pub const ICMP: Protocol = Protocol(1);
    pub const TCP: Protocol = Protocol(6);
    pub const UDP: Protocol = Protocol(17);
    pub const ICMPV6: Protocol = Protocol(58);
    pub const SCTP: Protocol = Protocol(132);
    pub const UDPLITE: Protocol = Protocol(136);

    const NAMES: [(Protocol, &'static str); 6] = [
        (Protocol::ICMP, "ICMP"),
        (Protocol::TCP, "TCP"),
        (Protocol::UDP, "UDP"),
        (Protocol::ICMPV6, "ICMPv6"),
        (Protocol::SCTP, "SCTP"),
        (Protocol::UDPLITE, "UDPLite"),
    ];

    /// Does it have ports?
    pub fn has_ports(self) -> bool {
        matches!(self, Protocol::TCP | Protocol::UDP | Protocol::SCTP)
    }
}

impl FromStr for Protocol {
    type Err = String;

    /// Takes a name (`TCP`, any case) or a number from 1 to 255.
    fn from_str(text: &str) -> Result<Self, String> {
        let by_name = Self::NAMES.iter().find(|(_, name)| name.eq_ignore_ascii_case(text));
        match (by_name, text.parse()) {
            (Some((protocol, _)), _) => Ok(*protocol),
            (None, Ok(number)) if number > 0 => Ok(Protocol(number)),
            _ => {
                Err(format!("{text:?} is not a protocol: TCP, UDP, SCTP, ICMP, ICMPv6, UDPLite or 1 to 255"))
            }
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMES.iter().find(|(protocol, _)| protocol == self) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

impl fmt::Debug for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_names_or_numbers() {
        assert_eq!("tcp".parse(), Ok(Protocol::TCP));
        assert_eq!("132".parse(), Ok(Protocol::SCTP));
        assert_eq!(Protocol(4).to_string(), "4");
        for text in ["", "0", "256", "TCPP"] {
            assert!(text.parse::<Protocol>().is_err(), "{text:?} was accepted");
        }
    }
}
