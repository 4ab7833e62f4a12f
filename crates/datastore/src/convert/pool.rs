//! IP pools.

use model::{AllowedUse, AssignmentMode, EncapMode, Family, IpPool, Selector};

use super::{Problems, selector};
use crate::crd;

/// An IPPool; `None` when its range or a selector cannot be understood.
pub fn pool(name: &str, spec: &crd::IPPoolSpec, problems: &mut Problems) -> Option<IpPool> {
    let cidr: model::Cidr = problems.take("spec.cidr", spec.cidr.parse())?;
    let (default, sizes) = match cidr.family() {
        Family::V4 => (26, 20..=32),
        Family::V6 => (122, 116..=128),
    };
    let size = spec.block_size.unwrap_or(default);
    let Some(block_size) = u8::try_from(size).ok().filter(|size| sizes.contains(size)) else {
        let (first, last) = (sizes.start(), sizes.end());
        problems.add("spec.blockSize", format!("{size} is not between {first} and {last}"));
        return None;
    };
    let node_selector = selector(problems, "spec.nodeSelector", Some(&spec.node_selector)).ok()?;
    let namespaces = selector(problems, "spec.namespaceSelector", spec.namespace_selector.as_deref()).ok()?;
    Some(IpPool {
        name: name.to_owned(),
        cidr,
        ipip_mode: if cidr.family() == Family::V4 { encap(spec.ipip_mode) } else { EncapMode::Never },
        vxlan_mode: encap(spec.vxlan_mode),
        nat_outgoing: spec.nat_outgoing,
        disabled: spec.disabled,
        disable_bgp_export: spec.disable_bgp_export,
        block_size,
        node_selector: node_selector.unwrap_or_else(Selector::all),
        namespace_selector: namespaces.unwrap_or_else(Selector::all),
        allowed_uses: spec.allowed_uses.iter().map(|allowed| allowed_use(*allowed)).collect(),
        assignment_mode: match spec.assignment_mode {
            crd::AssignmentMode::Automatic => AssignmentMode::Automatic,
            crd::AssignmentMode::Manual => AssignmentMode::Manual,
        },
    })
}

fn encap(mode: crd::EncapMode) -> EncapMode {
    match mode {
        crd::EncapMode::Never => EncapMode::Never,
        crd::EncapMode::Always => EncapMode::Always,
        crd::EncapMode::CrossSubnet => EncapMode::CrossSubnet,
    }
}

fn allowed_use(allowed: crd::IPPoolAllowedUse) -> AllowedUse {
    match allowed {
        crd::IPPoolAllowedUse::Workload => AllowedUse::Workload,
        crd::IPPoolAllowedUse::Tunnel => AllowedUse::Tunnel,
        crd::IPPoolAllowedUse::LoadBalancer => AllowedUse::LoadBalancer,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn convert(spec: Value) -> Result<IpPool, String> {
        let mut problems = Problems::default();
        let pool = pool("p", &serde_json::from_value(spec).unwrap(), &mut problems);
        pool.ok_or_else(|| problems.0[0].field.clone())
    }

    #[test]
    fn defaults_are_calicos() {
        let v4 = convert(json!({"cidr": "10.65.0.0/16"})).unwrap();

        assert_eq!((v4.block_size, v4.ipip_mode, v4.nat_outgoing), (26, EncapMode::Never, false));
        assert_eq!(v4.allowed_uses, [AllowedUse::Workload, AllowedUse::Tunnel]);
        assert!(v4.node_selector.is_all() && v4.namespace_selector.is_all());
        assert_eq!(convert(json!({"cidr": "fd00::/48", "nodeSelector": ""})).unwrap().block_size, 122);
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (spec, field) in [
            (json!({"cidr": "10.65.0.1/16"}), "spec.cidr"),
            (json!({"cidr": "10.65.0.0/16", "blockSize": 116}), "spec.blockSize"),
            (json!({"cidr": "fd00::/48", "blockSize": 26}), "spec.blockSize"),
            (json!({"cidr": "10.65.0.0/16", "blockSize": 300}), "spec.blockSize"),
            (json!({"cidr": "10.65.0.0/16", "nodeSelector": "(a == 'b'"}), "spec.nodeSelector"),
            (json!({"cidr": "10.65.0.0/16", "namespaceSelector": "x"}), "spec.namespaceSelector"),
        ] {
            assert_eq!(convert(spec), Err(field.to_owned()));
        }
    }
}
