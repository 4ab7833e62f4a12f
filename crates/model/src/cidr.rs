//! CIDRs whose host bits are zero, and address families.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnetwork::IpNetwork;

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// Both, in the order in which they are programmed.
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// Length of an address in bits: 32 or 128.
    pub fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// A prefix in which every host bit is zero; parsing refuses anything else.
///
/// Ordered by family, address, then length, so that a sorted list groups what overlaps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr(IpNetwork);

/// Text that is no CIDR, or one with host bits set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCidr {
    #[error("{0:?} is not a CIDR such as 10.65.0.0/16")]
    Syntax(String),
    #[error("{given} has host bits set; the network is {network}")]
    HostBits { given: String, network: Cidr },
}

impl Cidr {
    /// The prefix of `length` bits that contains `address`; host bits are cut off.
    ///
    /// Returns `None` when `length` is longer than the family's addresses.
    pub fn truncated(address: IpAddr, length: u8) -> Option<Self> {
        let network = IpNetwork::new(address, length).ok()?;
        IpNetwork::new(network.network(), length).ok().map(Self)
    }

    /// The /32 or /128 of one address.
    pub fn host(address: IpAddr) -> Self {
        Self::truncated(address, Family::of(address).bits()).expect("a full-length prefix is valid")
    }

    /// First address of the prefix.
    pub fn address(self) -> IpAddr {
        self.0.network()
    }

    /// Prefix length in bits.
    pub fn length(self) -> u8 {
        self.0.prefix()
    }

    pub fn family(self) -> Family {
        Family::of(self.address())
    }

    /// Is this one single address?
    pub fn is_host(self) -> bool {
        self.length() == self.family().bits()
    }

    /// Is `address` inside?
    pub fn contains(self, address: IpAddr) -> bool {
        self.0.contains(address)
    }

    /// Is `other` equal to this or inside it?
    pub fn covers(self, other: Cidr) -> bool {
        self.length() <= other.length() && self.contains(other.address())
    }

    /// Does any address belong to both?
    pub fn overlaps(self, other: Cidr) -> bool {
        self.covers(other) || other.covers(self)
    }

    /// The address at `offset` from the first one; `None` past the end.
    pub fn nth(self, offset: u128) -> Option<IpAddr> {
        let host_bits = u32::from(self.family().bits() - self.length());
        if host_bits < 128 && offset >> host_bits != 0 {
            return None;
        }
        Some(match self.address() {
            IpAddr::V4(first) => IpAddr::V4(Ipv4Addr::from(u32::from(first) | u32::try_from(offset).ok()?)),
            IpAddr::V6(first) => IpAddr::V6(Ipv6Addr::from(u128::from(first) | offset)),
        })
    }

    /// How far `address` is from the first one; `None` when it is outside.
    pub fn offset(self, address: IpAddr) -> Option<u128> {
        if !self.contains(address) {
            return None;
        }
        match (self.address(), address) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                Some(u128::from(u32::from(address) - u32::from(first)))
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => Some(u128::from(address) - u128::from(first)),
            _ => None,
        }
    }

    /// The form that Calico uses in object names: `10-65-0-0-26`.
    pub fn object_name(self) -> String {
        self.to_string().replace(['.', ':', '/'], "-")
    }

    /// The range that [`object_name`](Self::object_name) spells; `None` when it spells none.
    pub fn of_object_name(name: &str) -> Option<Self> {
        let (address, length) = name.rsplit_once('-')?;
        let ipv4 = || address.replace('-', ".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
        let ipv6 = || address.replace('-', ":").parse::<Ipv6Addr>().ok().map(IpAddr::V6);
        let cidr = Self::truncated(ipv4().or_else(ipv6)?, length.parse().ok()?)?;
        (cidr.object_name() == name).then_some(cidr)
    }
}

impl FromStr for Cidr {
    type Err = InvalidCidr;

    fn from_str(text: &str) -> Result<Self, InvalidCidr> {
        // A bare address is not accepted here: IpNetwork would take it for a /32.
        let syntax = || InvalidCidr::Syntax(text.to_owned());
        if !text.contains('/') {
            return Err(syntax());
        }
        let given = IpNetwork::from_str(text).map_err(|_| syntax())?;
        let network = Self::truncated(given.ip(), given.prefix()).ok_or_else(syntax)?;
        if given.ip() == network.address() {
            Ok(network)
        } else {
            Err(InvalidCidr::HostBits { given: text.to_owned(), network })
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address(), self.length())
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Cidr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Cidr {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_bits_are_refused_and_the_network_is_named() {
        let error = "10.65.0.1/26".parse::<Cidr>().unwrap_err();

        assert_eq!(error.to_string(), "10.65.0.1/26 has host bits set; the network is 10.65.0.0/26");
    }

    #[test]
    fn what_is_no_cidr_is_refused() {
        for text in ["", "10.65.0.0", "10.65.0.0/33", "fe80::/129", "10.65.0/16", "a/8", "10.0.0.0/-1"] {
            assert!(text.parse::<Cidr>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn nth_and_offset_are_each_others_inverse() {
        for (text, size) in [("10.65.0.64/26", 64), ("fd00::40/122", 64), ("10.0.0.1/32", 1)] {
            let cidr: Cidr = text.parse().unwrap();

            assert_eq!(cidr.nth(size), None, "{text}");
            let last = cidr.nth(size - 1).unwrap();
            assert_eq!(cidr.offset(last), Some(size - 1), "{text}");
        }
        let whole: Cidr = "::/0".parse().unwrap();
        assert_eq!(whole.nth(u128::MAX).and_then(|last| whole.offset(last)), Some(u128::MAX));
    }

    #[test]
    fn covers_is_about_the_whole_prefix() {
        let pool: Cidr = "10.65.0.0/16".parse().unwrap();
        let block: Cidr = "10.65.1.0/26".parse().unwrap();

        assert!(pool.covers(block) && pool.covers(pool) && pool.overlaps(block) && block.overlaps(pool));
        assert!(!block.covers(pool));
        assert!(!pool.covers("fd00::/26".parse().unwrap()));
    }

    #[test]
    fn object_names_are_calicos() {
        assert_eq!("10.65.0.64/26".parse::<Cidr>().unwrap().object_name(), "10-65-0-64-26");
        assert_eq!("fd00:10:65::/122".parse::<Cidr>().unwrap().object_name(), "fd00-10-65---122");
        for text in ["10.65.0.64/26", "fd00:10:65::/122", "::/0", "0.0.0.0/0", "a:b:c:d:e:f:1:2/128"] {
            let cidr: Cidr = text.parse().unwrap();
            assert_eq!(Cidr::of_object_name(&cidr.object_name()), Some(cidr));
        }
        for name in ["", "-", "10-65-0-64-99", "10-65-0-65-26", "web-1", "10-65-0-26", "é-1"] {
            assert_eq!(Cidr::of_object_name(name), None, "{name}");
        }
    }
}
