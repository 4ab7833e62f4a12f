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
    /// Exactly these, and IPAM is not asked.
    pub unmanaged: Vec<IpAddr>,
    /// Addresses that lead to the pod beside its own.
    pub floating: Vec<IpAddr>,
    /// IPv4 and IPv6, in the place of what the network configuration says.
    pub families: Option<(bool, bool)>,
    /// Names or CIDRs of pools; none means any.
    pub ipv4_pools: Vec<String>,
    pub ipv6_pools: Vec<String>,
    /// MAC of the pod's side.
    pub mac: Option<[u8; 6]>,
}

/// What `feature_control` of the network configuration lets pods ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FeatureControl {
    /// `ip_addrs_no_ipam`.
    pub no_ipam: bool,
    /// `floating_ips`.
    pub floating: bool,
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
    /// Reads them from the annotations of a pod and of its namespace. Of pools and families the pod's count first.
    ///
    /// # Errors
    /// A value that makes no sense, or that asks for what is not `allowed`.
    pub fn parse(
        pod: &Labels,
        namespace: &Labels,
        allowed: FeatureControl,
    ) -> Result<Self, InvalidAnnotation> {
        let read = |key: &'static str| pod.get(key).map(|value| Annotation { key, value });
        let either = |key: &'static str| {
            read(key).or_else(|| namespace.get(key).map(|value| Annotation { key, value }))
        };
        let unmanaged = read(IP_ADDRS_NO_IPAM);
        let floating = read(FLOATING_IPS);
        if let Some(annotation) = unmanaged.as_ref().filter(|_| !allowed.no_ipam) {
            return Err(
                annotation.refuse(format!("not allowed {}", NOT_ENABLED.replace("KEY", "ip_addrs_no_ipam")))
            );
        }
        if let Some(annotation) = floating.as_ref().filter(|_| !allowed.floating) {
            return Err(
                annotation.refuse(format!("not allowed {}", NOT_ENABLED.replace("KEY", "floating_ips")))
            );
        }
        if let Some(annotation) = unmanaged.as_ref().filter(|_| pod.contains_key(IP_ADDRS)) {
            return Err(annotation.refuse(format!("not together with {IP_ADDRS}")));
        }
        let one_a_family = |annotation: Option<Annotation>| {
            annotation.map(|a| a.addresses()).transpose().map(Option::unwrap_or_default)
        };
        Ok(Self {
            addresses: one_a_family(read(IP_ADDRS))?,
            unmanaged: one_a_family(unmanaged)?,
            floating: floating.map(|a| a.any_addresses()).transpose()?.unwrap_or_default(),
            families: either(IP_FAMILIES).map(|a| a.families()).transpose()?,
            ipv4_pools: either(IPV4_POOLS).map(|a| a.list()).transpose()?.unwrap_or_default(),
            ipv6_pools: either(IPV6_POOLS).map(|a| a.list()).transpose()?.unwrap_or_default(),
            mac: read(HW_ADDR).map(|a| a.mac()).transpose()?,
        })
    }

    /// Refuses what only this agent's IPAM could give.
    pub fn without_ipam(&self) -> Result<(), InvalidAnnotation> {
        let asked = [(IP_ADDRS, &self.addresses), (IP_ADDRS_NO_IPAM, &self.unmanaged)];
        let Some((key, addresses)) = asked.into_iter().find(|(_, addresses)| !addresses.is_empty()) else {
            return Ok(());
        };
        let value = format!("{addresses:?}");
        Err(InvalidAnnotation { key, value, reason: "needs ipam.type \"calico-ipam\"".to_owned() })
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

    fn any_addresses(&self) -> Result<Vec<IpAddr>, InvalidAnnotation> {
        let parse =
            |text: &String| text.parse().map_err(|_| self.refuse(format!("{text:?} is not an IP address")));
        self.list()?.iter().map(parse).collect()
    }

    /// As `["IPv4", "IPv6"]`.
    fn families(&self) -> Result<(bool, bool), InvalidAnnotation> {
        let families = self.list()?;
        let has = |name: &str| families.iter().any(|family| family == name);
        let unknown = families.iter().any(|family| family != "IPv4" && family != "IPv6");
        if families.is_empty() || unknown {
            return Err(self.refuse("expected one or both of \"IPv4\" and \"IPv6\""));
        }
        Ok((has("IPv4"), has("IPv6")))
    }

    fn addresses(&self) -> Result<Vec<IpAddr>, InvalidAnnotation> {
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in self.any_addresses()? {
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
const IP_FAMILIES: &str = "cni.projectcalico.org/ipFamilies";
const FLOATING_IPS: &str = "cni.projectcalico.org/floatingIPs";
const NOT_ENABLED: &str = "unless feature_control.KEY is true in the network configuration";

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
            (IP_ADDRS_NO_IPAM, r#"["10.0.0.1", "10.0.0.2"]"#),
            (FLOATING_IPS, r#"["10.0.0"]"#),
            (IP_FAMILIES, "[]"),
            (IP_FAMILIES, r#"["IPv5"]"#),
        ];
        for (key, value) in cases {
            let error = parse(&[(key, value)]).unwrap_err();

            assert_eq!(error.key, key);
            assert!(error.to_string().contains(key));
        }
    }

    #[test]
    fn what_the_network_does_not_allow_is_refused() {
        for (key, named) in [
            (IP_ADDRS_NO_IPAM, "feature_control.ip_addrs_no_ipam"),
            (FLOATING_IPS, "feature_control.floating_ips"),
        ] {
            let annotations = labels(&[(key, r#"["10.0.0.1"]"#)]);

            let error =
                PodRequests::parse(&annotations, &Labels::new(), FeatureControl::default()).unwrap_err();

            assert!(error.to_string().contains(named), "{error}");
            assert!(PodRequests::parse(&annotations, &Labels::new(), ALL).is_ok());
        }
        let both = [(IP_ADDRS, r#"["10.0.0.1"]"#), (IP_ADDRS_NO_IPAM, r#"["10.0.0.2"]"#)];
        assert_eq!(parse(&both).unwrap_err().key, IP_ADDRS_NO_IPAM);
    }

    #[test]
    fn the_pod_goes_before_its_namespace() {
        let namespace = labels(&[
            (IPV4_POOLS, r#"["far"]"#),
            (IPV6_POOLS, r#"["far6"]"#),
            (IP_FAMILIES, r#"["IPv6"]"#),
            (HW_ADDR, "is the pod's alone"),
        ]);

        let requests = PodRequests::parse(&labels(&[(IPV4_POOLS, r#"["near"]"#)]), &namespace, ALL).unwrap();

        assert_eq!((requests.ipv4_pools, requests.ipv6_pools), (vec!["near".into()], vec!["far6".into()]));
        assert_eq!((requests.families, requests.mac), (Some((false, true)), None));
    }

    #[test]
    fn another_plugins_addresses_leave_no_room_for_wishes() {
        let wishes = [(IP_ADDRS, r#"["10.0.0.1"]"#), (IP_ADDRS_NO_IPAM, r#"["10.0.0.1"]"#)];
        for wish in wishes {
            assert_eq!(parse(&[wish]).unwrap().without_ipam().unwrap_err().key, wish.0);
        }
        assert_eq!(parse(&[(HW_ADDR, "02:00:00:00:00:0a")]).unwrap().without_ipam(), Ok(()));
    }

    const ALL: FeatureControl = FeatureControl { no_ipam: true, floating: true };

    fn parse(annotations: &[(&str, &str)]) -> Result<PodRequests, InvalidAnnotation> {
        PodRequests::parse(&labels(annotations), &Labels::new(), ALL)
    }

    fn labels(annotations: &[(&str, &str)]) -> Labels {
        annotations.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }
}
