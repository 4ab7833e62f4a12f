//! IP pools.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use model::{AllowedUse, AssignmentMode, Cidr, EncapMode, Family, IpPool, Selector};

use super::{Problems, net, selector};
use crate::crd;

/// An IPReservation; what is no range is left out.
pub fn ip_reservation(spec: &crd::IPReservationSpec, problems: &mut Problems) -> Vec<Cidr> {
    let texts = spec.reserved_cidrs.iter().enumerate();
    texts.filter_map(|(i, text)| problems.take(&format!("spec.reservedCIDRs[{i}]"), net(text))).collect()
}

/// An IPPool; `None` when its range or a selector cannot be understood.
pub fn pool(meta: &ObjectMeta, spec: &crd::IPPoolSpec, problems: &mut Problems) -> Option<IpPool> {
    let pool = read(meta, spec, problems)?;
    judge(&pool, spec, problems);
    Some(pool)
}

/// What the schema says too, for objects that came past it.
fn judge(pool: &IpPool, spec: &crd::IPPoolSpec, problems: &mut Problems) {
    let is_ipv4 = pool.cidr.family() == Family::V4;
    let link_local = if is_ipv4 { "169.254.0.0/16" } else { "fe80::/10" };
    if link_local.parse::<Cidr>().is_ok_and(|range| range.overlaps(pool.cidr)) {
        problems.add("spec.cidr", format!("link-local addresses ({link_local}) cannot be pod addresses"));
    }
    if pool.block_size < pool.cidr.length() && !pool.disabled {
        let (length, size) = (pool.cidr.length(), pool.block_size);
        problems.add("spec.cidr", format!("a /{length} is smaller than one block of the pool, a /{size}"));
    }
    if spec.ipip_mode != crd::EncapMode::Never && !is_ipv4 {
        problems.add("spec.ipipMode", "is for IPv4 only: use Never for an IPv6 pool");
    }
    if spec.ipip_mode != crd::EncapMode::Never && spec.vxlan_mode != crd::EncapMode::Never {
        problems.add("spec.ipipMode", "excludes vxlanMode: set one of them to Never");
    }
    let allows = |wanted| pool.allowed_uses.contains(&wanted);
    if allows(AllowedUse::LoadBalancer) {
        if pool.allowed_uses.len() > 1 {
            problems.add("spec.allowedUses", "LoadBalancer excludes the other uses");
        }
        if pool.ipip_mode != EncapMode::Never || pool.vxlan_mode != EncapMode::Never {
            problems.add("spec.allowedUses", "a pool for load balancers has no encapsulation");
        }
    }
    if allows(AllowedUse::Tunnel) && !pool.namespace_selector.is_all() {
        problems.warn("spec.namespaceSelector", "tunnels get no address of a pool for some namespaces only");
    }
}

fn read(meta: &ObjectMeta, spec: &crd::IPPoolSpec, problems: &mut Problems) -> Option<IpPool> {
    let name = meta.name.as_deref()?;
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
        deleting: meta.deletion_timestamp.is_some(),
        created: meta
            .creation_timestamp
            .as_ref()
            .and_then(|at| u64::try_from(at.0.as_second()).ok())
            .unwrap_or_default(),
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
        let pool = pool(&meta(json!({})), &serde_json::from_value(spec).unwrap(), &mut problems);
        pool.filter(|_| problems.0.iter().all(|problem| problem.is_warning))
            .ok_or_else(|| problems.0[0].field.clone())
    }

    fn meta(more: Value) -> ObjectMeta {
        let mut meta = json!({"name": "p"});
        meta.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(meta).unwrap()
    }

    #[test]
    fn age_and_deletion_are_known() {
        let at = "2026-01-01T00:00:10Z";
        let meta = meta(json!({"creationTimestamp": at, "deletionTimestamp": at}));
        let spec = serde_json::from_value(json!({"cidr": "10.65.0.0/16"})).unwrap();

        let pool = pool(&meta, &spec, &mut Problems::default()).unwrap();

        assert_eq!((pool.created, pool.deleting), (1_767_225_610, true));
    }

    #[test]
    fn reservations_are_ranges_and_addresses() {
        let spec = json!({"reservedCIDRs": ["10.0.0.0/28", "10.0.0.77", "x"]});
        let mut problems = Problems::default();

        let found = ip_reservation(&serde_json::from_value(spec).unwrap(), &mut problems);

        assert_eq!(found, ["10.0.0.0/28".parse().unwrap(), "10.0.0.77/32".parse::<Cidr>().unwrap()]);
        assert_eq!(problems.0[0].field, "spec.reservedCIDRs[2]");
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
    fn the_smallest_and_largest_blocks_are_possible() {
        for (cidr, size) in
            [("10.65.0.0/16", 20), ("10.65.0.0/16", 32), ("fd00::/48", 116), ("fd00::/48", 128)]
        {
            assert!(convert(json!({"cidr": cidr, "blockSize": size})).is_ok(), "{cidr} {size}");
        }
        assert!(convert(json!({"cidr": "10.65.0.0/27", "disabled": true})).is_ok());
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
            (json!({"cidr": "10.65.0.0/16", "blockSize": 19}), "spec.blockSize"),
            (json!({"cidr": "10.65.0.0/16", "blockSize": 33}), "spec.blockSize"),
            (json!({"cidr": "fd00::/48", "blockSize": 115}), "spec.blockSize"),
            (json!({"cidr": "10.65.0.0/27"}), "spec.cidr"),
            (json!({"cidr": "169.254.5.0/24"}), "spec.cidr"),
            (json!({"cidr": "fe80::/120"}), "spec.cidr"),
            (json!({"cidr": "10.65.0.0/16", "ipipMode": "Always", "vxlanMode": "Always"}), "spec.ipipMode"),
            (json!({"cidr": "fd00::/48", "ipipMode": "Always"}), "spec.ipipMode"),
            (
                json!({"cidr": "10.65.0.0/16", "allowedUses": ["LoadBalancer", "Workload"]}),
                "spec.allowedUses",
            ),
            (
                json!({"cidr": "10.65.0.0/16", "allowedUses": ["LoadBalancer"], "vxlanMode": "Always"}),
                "spec.allowedUses",
            ),
        ] {
            assert_eq!(convert(spec), Err(field.to_owned()));
        }
    }
}
