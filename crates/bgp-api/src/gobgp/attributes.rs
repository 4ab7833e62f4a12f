//! Path attributes in GoBGP's words, both ways.

use std::net::{IpAddr, Ipv4Addr};

use bgp_packet::{
    Aggregator, AsPath, Community, Family, LargeCommunity, NextHop, Origin, PathAttributes, Prefix,
    SegmentKind,
};
use proto::gobgp::{self as api, Any};
use tonic::Status;

use super::family;

/// The attributes in the order of their codes.
pub(super) fn encode(prefix: &Prefix, a: &PathAttributes) -> Vec<Any> {
    let mut out = vec![
        Any::pack("OriginAttribute", &api::OriginAttribute { origin: a.origin as u32 }),
        Any::pack("AsPathAttribute", &as_path(&a.as_path)),
    ];
    let next_hop = a.next_hop.to_string();
    match (prefix.family(), a.next_hop) {
        (Family::Ipv4, NextHop::V4(_)) => {
            out.push(Any::pack("NextHopAttribute", &api::NextHopAttribute { next_hop }));
        }
        (of, _) => {
            let message = api::MpReachNlriAttribute {
                family: Some(family(of)),
                next_hops: vec![next_hop],
                nlris: vec![nlri(prefix)],
            };
            out.push(Any::pack("MpReachNLRIAttribute", &message));
        }
    }
    if let Some(med) = a.med {
        out.push(Any::pack("MultiExitDiscAttribute", &api::MultiExitDiscAttribute { med }));
    }
    if let Some(local_pref) = a.local_pref {
        out.push(Any::pack("LocalPrefAttribute", &api::LocalPrefAttribute { local_pref }));
    }
    if a.atomic_aggregate {
        out.push(Any::pack("AtomicAggregateAttribute", &api::AtomicAggregateAttribute {}));
    }
    if let Some(Aggregator { asn, address }) = a.aggregator {
        let message = api::AggregatorAttribute { asn, address: address.to_string() };
        out.push(Any::pack("AggregatorAttribute", &message));
    }
    encode_lists(a, &mut out);
    out
}

fn encode_lists(a: &PathAttributes, out: &mut Vec<Any>) {
    if !a.communities.is_empty() {
        let communities = a.communities.iter().map(|c| c.0).collect();
        out.push(Any::pack("CommunitiesAttribute", &api::CommunitiesAttribute { communities }));
    }
    if let Some(id) = a.originator_id {
        let message = api::OriginatorIdAttribute { id: id.to_string() };
        out.push(Any::pack("OriginatorIdAttribute", &message));
    }
    if !a.cluster_list.is_empty() {
        let ids = a.cluster_list.iter().map(Ipv4Addr::to_string).collect();
        out.push(Any::pack("ClusterListAttribute", &api::ClusterListAttribute { ids }));
    }
    if !a.extended_communities.is_empty() {
        let one = |[kind, value @ ..]: &[u8; 8]| {
            let message = api::UnknownExtended { r#type: u32::from(*kind), value: value.to_vec() };
            Any::pack("UnknownExtended", &message)
        };
        let communities = a.extended_communities.iter().map(one).collect();
        let message = api::ExtendedCommunitiesAttribute { communities };
        out.push(Any::pack("ExtendedCommunitiesAttribute", &message));
    }
    if !a.large_communities.is_empty() {
        let one = |c: &LargeCommunity| {
            let LargeCommunity { global, local1, local2 } = *c;
            api::LargeCommunity { global_admin: global, local_data1: local1, local_data2: local2 }
        };
        let communities = a.large_communities.iter().map(one).collect();
        out.push(Any::pack("LargeCommunitiesAttribute", &api::LargeCommunitiesAttribute { communities }));
    }
    if let Some(asn) = a.only_to_customer {
        let value = asn.to_be_bytes().to_vec();
        out.push(Any::pack("UnknownAttribute", &api::UnknownAttribute { flags: 0xc0, r#type: 35, value }));
    }
    for raw in &a.unknown {
        let (flags, kind) = (u32::from(raw.flags), u32::from(raw.code));
        let message = api::UnknownAttribute { flags, r#type: kind, value: raw.value.to_vec() };
        out.push(Any::pack("UnknownAttribute", &message));
    }
}

fn as_path(path: &AsPath) -> api::AsPathAttribute {
    let segment = |segment: bgp_packet::Segment<'_>| {
        let kind = match segment.kind {
            SegmentKind::Set => api::AsSegmentType::Set,
            SegmentKind::Sequence => api::AsSegmentType::Sequence,
        };
        api::AsSegment { r#type: kind.into(), numbers: segment.asns().collect() }
    };
    api::AsPathAttribute { segments: path.segments().map(segment).collect() }
}

/// A prefix as an NLRI.
pub(super) fn nlri(prefix: &Prefix) -> Any {
    let message =
        api::IpAddressPrefix { prefix_len: u32::from(prefix.len()), prefix: prefix.address().to_string() };
    Any::pack("IPAddressPrefix", &message)
}

/// Reads an NLRI.
pub(super) fn parse_nlri(nlri: Option<&Any>) -> Result<Prefix, Status> {
    let wrong = |why: String| Status::invalid_argument(format!("nlri: {why}"));
    let nlri = nlri.ok_or_else(|| wrong("is missing".to_owned()))?;
    if nlri.name() != "IPAddressPrefix" {
        return Err(wrong(format!("{} is no prefix of IPv4 or IPv6 unicast", nlri.name())));
    }
    let message: api::IpAddressPrefix = unpack(nlri)?;
    let address: IpAddr =
        message.prefix.parse().map_err(|_| wrong(format!("{:?} is no address", message.prefix)))?;
    let len = u8::try_from(message.prefix_len).unwrap_or(u8::MAX);
    Prefix::new(address, len).map_err(|error| wrong(error.to_string()))
}

/// Reads the attributes of a path that is to be originated.
pub(super) fn parse(prefix: &Prefix, attributes: &[Any]) -> Result<PathAttributes, Status> {
    let unspecified = match prefix.family() {
        Family::Ipv4 => IpAddr::from([0; 4]),
        Family::Ipv6 => IpAddr::from([0; 16]),
    };
    let mut a = PathAttributes::new(NextHop::from(unspecified));
    for any in attributes {
        parse_one(any, &mut a)?;
    }
    let of = Family::of(a.next_hop.address());
    if of != prefix.family() {
        return Err(Status::invalid_argument(format!("next hop {} is not of {prefix}'s family", a.next_hop)));
    }
    Ok(a)
}

fn parse_one(any: &Any, a: &mut PathAttributes) -> Result<(), Status> {
    match any.name() {
        "OriginAttribute" => {
            a.origin = match unpack::<api::OriginAttribute>(any)?.origin {
                0 => Origin::Igp,
                1 => Origin::Egp,
                _ => Origin::Incomplete,
            };
        }
        "AsPathAttribute" => {
            let segments = unpack::<api::AsPathAttribute>(any)?.segments;
            if segments.iter().any(|s| s.r#type != i32::from(api::AsSegmentType::Sequence)) {
                return Err(Status::invalid_argument("AS path: only sequences can be originated"));
            }
            let asns: Vec<u32> = segments.into_iter().flat_map(|segment| segment.numbers).collect();
            a.as_path = AsPath::sequence(&asns);
        }
        "NextHopAttribute" => a.next_hop = next_hop(&unpack::<api::NextHopAttribute>(any)?.next_hop)?,
        "MpReachNLRIAttribute" => {
            if let Some(first) = unpack::<api::MpReachNlriAttribute>(any)?.next_hops.first() {
                a.next_hop = next_hop(first)?;
            }
        }
        "MultiExitDiscAttribute" => a.med = Some(unpack::<api::MultiExitDiscAttribute>(any)?.med),
        "LocalPrefAttribute" => a.local_pref = Some(unpack::<api::LocalPrefAttribute>(any)?.local_pref),
        "CommunitiesAttribute" => {
            let communities = unpack::<api::CommunitiesAttribute>(any)?.communities;
            a.communities = communities.into_iter().map(Community).collect();
        }
        "LargeCommunitiesAttribute" => {
            let communities = unpack::<api::LargeCommunitiesAttribute>(any)?.communities.into_iter();
            let large = |c: api::LargeCommunity| LargeCommunity {
                global: c.global_admin,
                local1: c.local_data1,
                local2: c.local_data2,
            };
            a.large_communities = communities.map(large).collect();
        }
        other => {
            return Err(Status::invalid_argument(format!("{other} cannot be set on a path of this speaker")));
        }
    }
    Ok(())
}

fn next_hop(text: &str) -> Result<NextHop, Status> {
    let wrong = |_| Status::invalid_argument(format!("next hop {text:?} is no address"));
    text.parse::<IpAddr>().map(NextHop::from).map_err(wrong)
}

fn unpack<M: prost::Message + Default>(any: &Any) -> Result<M, Status> {
    M::decode(any.value.as_slice())
        .map_err(|error| Status::invalid_argument(format!("{}: {error}", any.name())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_originated_reads_back_as_it_was_said() {
        for (prefix, next_hop) in [("10.0.0.0/24", "192.0.2.1"), ("2001:db8::/64", "2001:db8::1")] {
            let prefix: Prefix = prefix.parse().unwrap();
            let mut said = PathAttributes::new(next_hop.parse::<IpAddr>().unwrap().into());
            said.as_path = AsPath::sequence(&[65001, 4_200_000_000]);
            said.med = Some(7);
            said.local_pref = Some(200);
            said.communities = vec![Community::NO_EXPORT];
            said.large_communities = vec![LargeCommunity { global: 1, local1: 2, local2: 3 }];

            let any = encode(&prefix, &said);

            assert_eq!(parse(&prefix, &any).unwrap(), said);
            assert_eq!(parse_nlri(Some(&nlri(&prefix))).unwrap(), prefix);
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let prefix: Prefix = "10.0.0.0/24".parse().unwrap();
        let tunnel = Any { type_url: "type.googleapis.com/apipb.TunnelEncapAttribute".into(), value: vec![] };
        let garbage = Any { type_url: "type.googleapis.com/apipb.OriginAttribute".into(), value: vec![0xff] };
        let v6 = Any::pack("NextHopAttribute", &api::NextHopAttribute { next_hop: "2001:db8::1".into() });

        for (attribute, named) in [(tunnel, "TunnelEncap"), (garbage, "OriginAttribute"), (v6, "2001:db8::1")]
        {
            let status = parse(&prefix, &[attribute]).unwrap_err();
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
            assert!(status.message().contains(named), "{status}");
        }
        assert!(parse_nlri(None).is_err());
    }
}
