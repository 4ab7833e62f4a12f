//! Bytes written by hand, and a small generator, for all tests of this package.

#![allow(dead_code, reason = "every test file uses a part")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bgp_packet::*;

/// An internal session with four-octet AS numbers.
pub const CONTEXT: UpdateContext =
    UpdateContext { as4: true, internal: true, add_path: [false; 2], v4_over_v6: false };
/// What goes out on such a session.
pub const OPTIONS: EncodeOptions = EncodeOptions { as4: true, extended: false, add_path: [false; 2] };

pub const ORIGIN: &[u8] = &[0x40, 1, 1, 0];
pub const AS_PATH: &[u8] = &[0x40, 2, 6, 2, 1, 0, 0, 0xfc, 0x01];
pub const NEXT_HOP: &[u8] = &[0x40, 3, 4, 192, 0, 2, 1];
pub const LOCAL_PREF: &[u8] = &[0x40, 5, 4, 0, 0, 0, 100];
/// 10.0.1.0/26.
pub const NLRI: &[u8] = &[26, 10, 0, 1, 0];

pub fn p(s: &str) -> Prefix {
    s.parse().unwrap()
}

/// A header before a body.
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = (19 + body.len()) as u16;
    [&[0xff; 16][..], &len.to_be_bytes(), &[kind], body].concat()
}

/// An UPDATE body out of withdrawn prefixes, attributes and prefixes.
pub fn update_body(withdrawn: &[u8], attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    let mut body = (withdrawn.len() as u16).to_be_bytes().to_vec();
    body.extend(withdrawn);
    body.extend((attributes.len() as u16).to_be_bytes());
    body.extend(attributes);
    body.extend(nlri);
    body
}

/// What every IPv4 route of an internal peer needs.
pub fn mandatory() -> Vec<Vec<u8>> {
    [ORIGIN, AS_PATH, NEXT_HOP, LOCAL_PREF].iter().map(|a| a.to_vec()).collect()
}

/// An IPv4 route with the mandatory attributes and more.
pub fn with(extra: &[u8]) -> Vec<u8> {
    update_body(&[], &[&mandatory().concat(), extra].concat(), NLRI)
}

/// An attribute; the length takes two octets when it must.
pub fn attribute(flags: u8, code: u8, value: &[u8]) -> Vec<u8> {
    match u8::try_from(value.len()) {
        Ok(len) => [&[flags, code, len], value].concat(),
        Err(_) => {
            let [a, b] = (value.len() as u16).to_be_bytes();
            [&[flags | 0x10, code, a, b], value].concat()
        }
    }
}

/// A small generator, so that a failure can be repeated by its seed.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }

    pub fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }

    pub fn u32(&mut self) -> u32 {
        (self.below(1 << 16) << 16 | self.below(1 << 16)) as u32
    }

    fn some<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.chance(2).then(|| make(self))
    }

    /// Mostly none or a few, seldom many.
    fn list<T>(&mut self, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let n = [0, 0, 1, 2, 3, 70][self.below(6)];
        (0..n).map(|_| make(self)).collect()
    }

    /// An AS that may stand in a path: not 0.
    pub fn asn(&mut self) -> u32 {
        if self.chance(2) { 1 + self.below(65535) as u32 } else { self.u32().max(1) }
    }

    /// The address of a host.
    pub fn v4(&mut self) -> Ipv4Addr {
        Ipv4Addr::from(0x0a00_0001 + (self.u32() >> 8))
    }

    pub fn v6(&mut self) -> Ipv6Addr {
        Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(self.u32()) << 32 | u128::from(self.u32()))
    }

    pub fn prefix(&mut self, family: Family) -> Prefix {
        let address: IpAddr = match family {
            Family::Ipv4 => Ipv4Addr::from(self.u32()).into(),
            Family::Ipv6 => self.v6().into(),
        };
        let len = self.below(usize::from(family.max_len()) + 1) as u8;
        Prefix::new(address, len).unwrap()
    }

    pub fn path(&mut self) -> AsPath {
        let n = [0, 1, 2, 5, 255, 256, 400][self.below(7)];
        AsPath::sequence(&(0..n).map(|_| self.asn()).collect::<Vec<_>>())
    }

    pub fn attributes(&mut self, family: Family) -> PathAttributes {
        let next_hop = match family {
            Family::Ipv4 => NextHop::V4(self.v4()),
            Family::Ipv6 => {
                let link_local = self.some(|r| Ipv6Addr::from(0xfe80_u128 << 112 | u128::from(r.u32())));
                NextHop::V6(self.v6(), link_local)
            }
        };
        let mut a = PathAttributes::new(next_hop);
        a.origin = [Origin::Igp, Origin::Egp, Origin::Incomplete][self.below(3)];
        a.as_path = self.path();
        a.med = self.some(Self::u32);
        a.local_pref = Some(self.u32());
        a.atomic_aggregate = self.chance(2);
        a.aggregator = self.some(|r| Aggregator { asn: r.asn(), address: r.v4() });
        a.communities = self.list(|r| Community(r.u32()));
        a.extended_communities = self.list(|r| [0, 2, 1, 2, 3, 4, 5, r.below(256) as u8]);
        a.large_communities =
            self.list(|r| LargeCommunity { global: r.u32(), local1: r.u32(), local2: r.u32() });
        a.originator_id = self.some(Self::v4);
        a.cluster_list = self.list(Self::v4);
        a.only_to_customer = self.some(Self::u32);
        let mut codes: Vec<u8> = self.list(|r| 200 + r.below(56) as u8);
        codes.sort_unstable();
        codes.dedup();
        a.unknown = codes
            .into_iter()
            .take(3)
            .map(|code| {
                let len = self.below(300);
                let value = (0..len).map(|_| self.below(256) as u8).collect();
                RawAttribute { flags: 0xe0, code, value }
            })
            .collect();
        a
    }
}
