//! What a Pod's annotations ask of the network (`spec/control.md` §3.8).
//!
//! Pure. Wrong values are refused with the key named: a pod that asked for an address must not get another.

use std::net::IpAddr;

use model::{Family, Labels};

/// Requests of one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodRequests {
    /// Exactly these addresses, at most one a family.
    pub addresses: Vec<IpAddr>,
    /// Names or CIDRs of pools; none means any.
    pub ipv4_pools: Vec<String>,
    pub ipv6_pools: Vec<String>,
    /// MAC of the pod's side.
    pub mac: Option<[u8; 6]>,
}

/// An annotation that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("annotation {key}={value:?}: {reason}")]
pub struct InvalidAnnotation {
    pub key: &'static str,
    pub value: String,
    pub reason: String,
}

impl PodRequests {
    /// Reads them from a pod's annotations.
    pub fn parse(annotations: &Labels) -> Result<Self, InvalidAnnotation> {
        let read = |key: &'static str| annotations.get(key).map(|value| Annotation { key, value });
        if let Some(annotation) = read(IP_ADDRS_NO_IPAM) {
            return Err(annotation.refuse("addresses outside IPAM are not supported; use ipAddrs"));
        }
        Ok(Self {
            addresses: read(IP_ADDRS).map(|a| a.addresses()).transpose()?.unwrap_or_default(),
            ipv4_pools: read(IPV4_POOLS).map(|a| a.list()).transpose()?.unwrap_or_default(),
            ipv6_pools: read(IPV6_POOLS).map(|a| a.list()).transpose()?.unwrap_or_default(),
            mac: read(HW_ADDR).map(|a| a.mac()).transpose()?,
        })
    }
}

struct Annotation<'a> {
    key: &'static str,
    value: &'a str,
}

impl Annotation<'_> {
    fn refuse(&self, reason: impl Into<String>) -> InvalidAnnotation {
        let value = self.value.chars().take(256).collect();
        InvalidAnnotation { key: self.key, value, reason: reason.into() }
    }

    fn list(&self) -> Result<Vec<String>, InvalidAnnotation> {
        serde_json::from_str(self.value)
            .map_err(|_| self.refuse("not a JSON list of strings such as [\"a\", \"b\"]"))
    }

    fn addresses(&self) -> Result<Vec<IpAddr>, InvalidAnnotation> {
        let mut addresses: Vec<IpAddr> = Vec::new();
        for text in self.list()? {
            let address: IpAddr =
                text.parse().map_err(|_| self.refuse(format!("{text:?} is not an IP address")))?;
            let family = Family::of(address);
            if addresses.iter().any(|other| Family::of(*other) == family) {
                return Err(self.refuse(format!("at most one {family} address is possible")));
            }
            addresses.push(address);
        }
        addresses.sort();
        Ok(addresses)
    }

    fn mac(&self) -> Result<[u8; 6], InvalidAnnotation> {
        let is_byte = |part: &str| part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit());
        let parse = |part: &str| u8::from_str_radix(part, 16).ok().filter(|_| is_byte(part));
        let bytes: Option<Vec<u8>> = self.value.split([':', '-']).map(parse).collect();
        let mac = bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
        let mac = mac.ok_or_else(|| self.refuse("not a MAC address such as 02:00:00:00:00:01"))?;
        if mac[0] & 1 == 1 || mac == [0; 6] {
            return Err(
                self.refuse("an interface needs a unicast MAC address: an even first byte, not all zero")
            );
        }
        Ok(mac)
    }
}

const IP_ADDRS: &str = "cni.projectcalico.org/ipAddrs";
const IP_ADDRS_NO_IPAM: &str = "cni.projectcalico.org/ipAddrsNoIpam";
const IPV4_POOLS: &str = "cni.projectcalico.org/ipv4pools";
const IPV6_POOLS: &str = "cni.projectcalico.org/ipv6pools";
const HW_ADDR: &str = "cni.projectcalico.org/hwAddr";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read() {
        let requests = parse(&[
            (IP_ADDRS, r#"["fd00::1", "10.65.0.9"]"#),
            (IPV4_POOLS, r#"["pool-a", "10.66.0.0/16"]"#),
            (HW_ADDR, "02:00:00:00:00:0a"),
            ("other", "("),
        ]);

        let requests = requests.unwrap();
        assert_eq!(requests.addresses, ["10.65.0.9".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()]);
        assert_eq!(requests.ipv4_pools, ["pool-a", "10.66.0.0/16"]);
        assert_eq!(requests.mac, Some([2, 0, 0, 0, 0, 10]));
        assert_eq!(parse(&[]), Ok(PodRequests::default()));
    }

    #[test]
    fn nonsense_is_refused_with_the_key_named() {
        let cases = [
            (IP_ADDRS, "10.65.0.9"),
            (IP_ADDRS, r#"["10.65.0.300"]"#),
            (IP_ADDRS, r#"["10.65.0.1", "10.65.0.2"]"#),
            (IPV6_POOLS, "{}"),
            (HW_ADDR, "02:00:00:00:00"),
            (HW_ADDR, "01:00:00:00:00:01"),
            (HW_ADDR, "+2:00:00:00:00:01"),
            (IP_ADDRS_NO_IPAM, r#"["10.0.0.1"]"#),
        ];
        for (key, value) in cases {
            let error = parse(&[(key, value)]).unwrap_err();

            assert_eq!(error.key, key);
            assert!(error.to_string().contains(key));
        }
    }

    fn parse(annotations: &[(&str, &str)]) -> Result<PodRequests, InvalidAnnotation> {
        PodRequests::parse(&annotations.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }
}
