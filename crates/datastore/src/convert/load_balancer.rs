//! Services as far as their addresses from outside go.

use std::collections::BTreeMap;
use std::net::IpAddr;

use data_encoding::BASE64URL_NOPAD;
use model::{Family, LoadBalancerRequest, LoadBalancerService, ObjectKey};
use sha2::{Digest, Sha256};

use crate::objects::ServiceObject;

/// A Service; `None` for an object without a name.
pub fn load_balancer_service(object: &ServiceObject) -> Option<LoadBalancerService> {
    let (meta, spec) = (&object.metadata, &object.spec);
    let (namespace, name) = (meta.namespace.as_deref()?, meta.name.as_deref()?);
    let uid = meta.uid.clone().unwrap_or_default();
    let families = spec.ip_families.iter().flatten().filter_map(|family| match family.as_str() {
        "IPv4" => Some(Family::V4),
        "IPv6" => Some(Family::V6),
        _ => None,
    });
    let mut families: Vec<Family> = families.collect();
    if families.is_empty() {
        families.push(Family::V4);
    }
    let ingress = object.status.load_balancer.ingress.iter().flatten().filter_map(|entry| entry.ip.as_ref());
    Some(LoadBalancerService {
        key: ObjectKey::new(namespace, name),
        handle: load_balancer_handle(namespace, name, &uid),
        uid,
        is_load_balancer: spec.type_.as_deref() == Some("LoadBalancer") && meta.deletion_timestamp.is_none(),
        class: spec.load_balancer_class.clone().filter(|class| !class.is_empty()),
        takes_either: spec.ip_family_policy.as_deref() == Some("PreferDualStack"),
        asks: asks(meta.annotations.as_ref(), spec.load_balancer_ip.as_deref(), &families),
        families,
        ingress: ingress.filter_map(|text| text.parse().ok()).collect(),
    })
}

/// The IPAM handle of a Service, as Calico spells it.
pub fn load_balancer_handle(namespace: &str, name: &str, uid: &str) -> String {
    let digest = Sha256::digest(format!("{name}-{namespace}-{uid}").to_lowercase());
    let mut text = BASE64URL_NOPAD.encode(&digest);
    text.retain(|c| c.is_ascii_alphanumeric());
    format!("lb-{text}")
}

fn asks(
    annotations: Option<&BTreeMap<String, String>>,
    address: Option<&str>,
    families: &[Family],
) -> Result<LoadBalancerRequest, String> {
    let list = |name: &str| -> Result<Vec<String>, String> {
        let key = format!("projectcalico.org/{name}");
        let Some(text) = annotations.and_then(|all| all.get(&key)).filter(|text| !text.is_empty()) else {
            return Ok(Vec::new());
        };
        serde_json::from_str(text)
            .map_err(|_| format!("annotation {key} is no JSON list of texts, such as [\"a\"]"))
    };
    let mut texts = list("loadBalancerIPs")?;
    if texts.is_empty() {
        texts.extend(address.filter(|text| !text.is_empty()).map(str::to_owned));
    }
    let parse = |text: &String| text.parse::<IpAddr>().map_err(|_| format!("{text:?} is no IP address"));
    let mut addresses = texts.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    addresses.sort_unstable();
    addresses.dedup();
    for family in Family::ALL {
        let count = addresses.iter().filter(|address| Family::of(**address) == family).count();
        if count > 1 {
            return Err(format!("{count} {family} addresses are asked for; a Service has one"));
        }
        if count > 0 && !families.contains(&family) {
            return Err(format!("an {family} address is asked for, which spec.ipFamilies does not name"));
        }
    }
    Ok(LoadBalancerRequest { addresses, ipv4_pools: list("ipv4pools")?, ipv6_pools: list("ipv6pools")? })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(annotations: Value, spec: Value) -> LoadBalancerService {
        let meta = json!({"name": "web", "namespace": "dev", "uid": "u-1", "annotations": annotations});
        let status = json!({"loadBalancer": {"ingress": [{"ip": "198.51.100.5"}, {"hostname": "x"}]}});
        let object = json!({"metadata": meta, "spec": spec, "status": status});
        load_balancer_service(&serde_json::from_value(object).unwrap()).unwrap()
    }

    #[test]
    fn what_a_service_asks_for_is_understood() {
        let spec = json!({"type": "LoadBalancer", "loadBalancerClass": "calico", "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "PreferDualStack", "loadBalancerIP": "198.51.100.9"});
        let found = service(json!({"projectcalico.org/ipv4pools": "[\"lb\"]"}), spec);

        assert!(found.is_load_balancer && found.takes_either);
        assert_eq!(found.families, [Family::V4, Family::V6]);
        let asks = found.asks.unwrap();
        assert_eq!((asks.addresses.len(), asks.ipv4_pools.as_slice()), (1, &["lb".to_owned()][..]));
        assert_eq!(found.ingress, ["198.51.100.5".parse::<IpAddr>().unwrap()]);
        // sha256("web-dev-u-1"), base64url without - and _.
        assert!(found.handle.starts_with("lb-") && found.handle[3..].chars().all(char::is_alphanumeric));
        assert_eq!(found.handle, load_balancer_handle("dev", "WEB", "U-1"));
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (annotation, value, words) in [
            ("loadBalancerIPs", "198.51.100.1", "no JSON list"),
            ("loadBalancerIPs", "[\"198.51.100.1\", \"198.51.100.2\"]", "2 IPv4 addresses"),
            ("loadBalancerIPs", "[\"2001:db8::1\"]", "spec.ipFamilies"),
            ("loadBalancerIPs", "[\"x\"]", "\"x\" is no IP address"),
            ("ipv4pools", "{}", "projectcalico.org/ipv4pools is no JSON list"),
        ] {
            let key = format!("projectcalico.org/{annotation}");
            let found = service(json!({key: value}), json!({"type": "LoadBalancer"}));
            let error = found.asks.unwrap_err();
            assert!(error.contains(words), "{value}: {error}");
        }
    }
}
