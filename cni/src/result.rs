//! What ADD answers, in the shape of every version of the specification.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::error::CniError;
use crate::version::CniVersion;

/// The interfaces, addresses and routes that a container got.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Success {
    pub interfaces: Vec<Interface>,
    pub ips: Vec<Ip>,
    pub routes: Vec<Route>,
    /// As the configuration or the IPAM plugin gave it.
    pub dns: Option<Value>,
}

/// One side of a veth, or whatever an earlier plugin made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Interface {
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// From version 1.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Path of the network namespace; empty on the node's side.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// One address.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ip {
    /// "4" or "6", until version 0.4.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// With the prefix length.
    pub address: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// Index into `interfaces`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
}

/// One route inside the container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Route {
    pub dst: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<String>,
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// The part of a result that newer versions write as it is.
#[derive(Default, Deserialize)]
struct Listed {
    #[serde(default)]
    interfaces: Option<Vec<Interface>>,
    #[serde(default)]
    ips: Option<Vec<Ip>>,
    #[serde(default)]
    routes: Option<Vec<Route>>,
    #[serde(default)]
    dns: Option<Value>,
    #[serde(default)]
    ip4: Option<OldIp>,
    #[serde(default)]
    ip6: Option<OldIp>,
}

/// `ip4` and `ip6` of versions 0.1.0 and 0.2.0.
#[derive(Deserialize)]
struct OldIp {
    ip: String,
    #[serde(default)]
    gateway: Option<String>,
    #[serde(default)]
    routes: Option<Vec<Route>>,
}

impl Success {
    /// Parses a result of any version; `what` names it in errors.
    pub fn parse(what: &str, value: &Value) -> Result<Self, CniError> {
        let listed = Listed::deserialize(value).map_err(|error| {
            CniError::config(format!("{what} is not a CNI result")).details(error.to_string())
        })?;
        let mut success = Self {
            interfaces: listed.interfaces.unwrap_or_default(),
            ips: listed.ips.unwrap_or_default(),
            routes: listed.routes.unwrap_or_default(),
            dns: listed.dns,
        };
        for old in [listed.ip4, listed.ip6].into_iter().flatten() {
            success.ips.push(Ip { address: old.ip, gateway: old.gateway, ..Ip::default() });
            success.routes.extend(old.routes.unwrap_or_default());
        }
        Ok(success)
    }

    /// The addresses without their prefix lengths; `what` names the result in errors.
    pub fn addresses(&self, what: &str) -> Result<Vec<IpAddr>, CniError> {
        let ips = self.ips.iter().map(|ip| {
            let address = ip.address.split_once('/').map_or(ip.address.as_str(), |(address, _)| address);
            address.parse().map_err(|_| {
                CniError::config(format!("{what}: ips address {:?} is not an address", ip.address))
            })
        });
        ips.collect()
    }

    /// Puts this result behind `previous`, that of the plugins before us in the chain.
    #[must_use]
    pub fn chained(mut self, previous: Option<Success>) -> Self {
        let Some(mut all) = previous else { return self };
        let offset = all.interfaces.len();
        for ip in &mut self.ips {
            ip.interface = ip.interface.map(|index| index + offset);
        }
        all.interfaces.append(&mut self.interfaces);
        all.ips.append(&mut self.ips);
        all.routes.append(&mut self.routes);
        all.dns = self.dns.or(all.dns);
        all
    }

    /// What goes to stdout.
    pub fn to_json(&self, version: CniVersion) -> String {
        let value = if version < CniVersion::V0_3_0 { self.to_old() } else { self.to_listed(version) };
        let mut object = value;
        object["cniVersion"] = json!(version.as_str());
        object["dns"] = self.dns.clone().unwrap_or_else(|| json!({}));
        object.to_string()
    }

    /// 0.1.0 and 0.2.0 know one address of each family, and no interfaces.
    fn to_old(&self) -> Value {
        let mut object = json!({});
        for (key, is_v6) in [("ip4", false), ("ip6", true)] {
            let of_family = |text: &str| text.contains(':') == is_v6;
            if let Some(ip) = self.ips.iter().find(|ip| of_family(&ip.address)) {
                let mut value = json!({ "ip": ip.address });
                if let Some(gateway) = &ip.gateway {
                    value["gateway"] = json!(gateway);
                }
                let routes: Vec<_> = self.routes.iter().filter(|route| of_family(&route.dst)).collect();
                if !routes.is_empty() {
                    value["routes"] = json!(routes);
                }
                object[key] = value;
            }
        }
        object
    }

    fn to_listed(&self, version: CniVersion) -> Value {
        let interfaces = self.interfaces.iter().map(|interface| Interface {
            mtu: interface.mtu.filter(|_| version >= CniVersion::V1_1_0),
            ..interface.clone()
        });
        let ips = self.ips.iter().map(|ip| {
            let family = if ip.address.contains(':') { "6" } else { "4" };
            let family = (version < CniVersion::V1_0_0).then(|| family.to_owned());
            Ip { version: family, ..ip.clone() }
        });
        let mut object = json!({ "ips": ips.collect::<Vec<_>>() });
        if !self.interfaces.is_empty() {
            object["interfaces"] = json!(interfaces.collect::<Vec<_>>());
        }
        if !self.routes.is_empty() {
            object["routes"] = json!(self.routes);
        }
        object
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Success {
        let interface = |name: &str, mac: &str, sandbox: &str| Interface {
            name: name.into(),
            mac: mac.into(),
            mtu: Some(1480),
            sandbox: sandbox.into(),
            rest: Map::new(),
        };
        let ip = |address: &str| Ip { address: address.into(), interface: Some(1), ..Ip::default() };
        let route = |dst: &str, gw: &str| Route { dst: dst.into(), gw: Some(gw.into()), rest: Map::new() };
        Success {
            interfaces: vec![
                interface("cali0", "ee:ee:ee:ee:ee:ee", ""),
                interface("eth0", "02:00:5e:00:53:01", "/run/netns/x"),
            ],
            ips: vec![ip("10.0.0.7/32"), ip("fd00::7/128")],
            routes: vec![route("0.0.0.0/0", "169.254.1.1"), route("::/0", "fe80::1")],
            dns: Some(json!({"nameservers": ["10.96.0.10"]})),
        }
    }

    #[test]
    fn a_result_has_the_shape_of_its_version() {
        let old = r#"{"cniVersion":"0.2.0","dns":{"nameservers":["10.96.0.10"]},"ip4":{"ip":"10.0.0.7/32","routes":[{"dst":"0.0.0.0/0","gw":"169.254.1.1"}]},"ip6":{"ip":"fd00::7/128","routes":[{"dst":"::/0","gw":"fe80::1"}]}}"#;
        let v03 = r#"{"cniVersion":"0.3.1","dns":{"nameservers":["10.96.0.10"]},"interfaces":[{"mac":"ee:ee:ee:ee:ee:ee","name":"cali0"},{"mac":"02:00:5e:00:53:01","name":"eth0","sandbox":"/run/netns/x"}],"ips":[{"address":"10.0.0.7/32","interface":1,"version":"4"},{"address":"fd00::7/128","interface":1,"version":"6"}],"routes":[{"dst":"0.0.0.0/0","gw":"169.254.1.1"},{"dst":"::/0","gw":"fe80::1"}]}"#;
        let v10 =
            v03.replace(r#","version":"4""#, "").replace(r#","version":"6""#, "").replace("0.3.1", "1.0.0");
        let v11 = v10
            .replace("1.0.0", "1.1.0")
            .replace(r#""mac":"ee:ee:ee:ee:ee:ee","#, r#""mac":"ee:ee:ee:ee:ee:ee","mtu":1480,"#)
            .replace(r#""mac":"02:00:5e:00:53:01","#, r#""mac":"02:00:5e:00:53:01","mtu":1480,"#);

        assert_eq!(pod().to_json(CniVersion::V0_1_0), old.replace("0.2.0", "0.1.0"));
        assert_eq!(pod().to_json(CniVersion::V0_2_0), old);
        assert_eq!(pod().to_json(CniVersion::V0_3_0), v03.replace("0.3.1", "0.3.0"));
        assert_eq!(pod().to_json(CniVersion::V0_3_1), v03);
        assert_eq!(pod().to_json(CniVersion::V0_4_0), v03.replace("0.3.1", "0.4.0"));
        assert_eq!(pod().to_json(CniVersion::V1_0_0), v10);
        assert_eq!(pod().to_json(CniVersion::V1_1_0), v11);
    }

    #[test]
    fn a_result_reads_back_from_every_version() {
        for version in CniVersion::ALL {
            let value = serde_json::from_str(&pod().to_json(version)).unwrap();
            let parsed = Success::parse("result", &value).unwrap();

            let addresses = parsed.addresses("result").unwrap();
            assert_eq!(addresses, pod().addresses("result").unwrap(), "{version:?}");
            assert_eq!(parsed.routes, pod().routes, "{version:?}");
            assert_eq!(parsed.dns, pod().dns, "{version:?}");
        }
    }

    #[test]
    fn in_a_chain_our_interfaces_come_behind_the_others() {
        let first = Success {
            interfaces: vec![Interface { name: "net0".into(), sandbox: "/x".into(), ..Interface::default() }],
            ips: vec![Ip { address: "192.0.2.1/24".into(), interface: Some(0), ..Ip::default() }],
            ..Success::default()
        };

        let all = pod().chained(Some(first));

        let indexes: Vec<_> = all.ips.iter().map(|ip| ip.interface).collect();
        assert_eq!(indexes, [Some(0), Some(2), Some(2)]);
        assert_eq!(all.interfaces[2].name, "eth0");
    }

    #[test]
    fn null_lists_are_empty_ones() {
        let parsed =
            Success::parse("result", &json!({"ips": null, "routes": null, "interfaces": null})).unwrap();

        assert_eq!(parsed, Success::default());
    }
}
