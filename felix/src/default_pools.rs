//! The pools that a new cluster gets from calico-node's environment (`CALICO_IPV4POOL_*`, `CALICO_IPV6POOL_*`,
//! `NO_DEFAULT_POOLS`), and what the environment says otherwise than the pools of an old one.
//!
//! Pure. An environment variable never changes a pool that exists: it only says so.

use model::{Cidr, EncapMode, Family, IpPool, Selector};

use crate::settings::Environment;
use crate::start_settings::{Misfit, boolean, parse, take};

/// What the environment says of pools.
#[derive(Clone, Debug, Default)]
pub struct PoolSettings {
    families: Vec<FamilyPool>,
}

/// Of one family.
#[derive(Clone, Debug)]
struct FamilyPool {
    family: Family,
    range: Range,
    /// A pool is made where there is none.
    is_wanted: bool,
    ipip: Option<EncapMode>,
    vxlan: Option<EncapMode>,
    nat_outgoing: Option<bool>,
    block_size: Option<u8>,
    node_selector: Option<String>,
    disable_bgp_export: Option<bool>,
    /// What makes no sense; no pool is made while there is such.
    misfits: Vec<Misfit>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Range {
    /// The one of kubeadm, else one that is free on this node.
    Auto,
    Given(Cidr),
}

/// A pool to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPool {
    pub name: &'static str,
    pub cidr: Cidr,
    pub ipip: EncapMode,
    pub vxlan: EncapMode,
    pub nat_outgoing: bool,
    pub block_size: u8,
    pub node_selector: String,
    pub disable_bgp_export: bool,
}

/// What a pool must not touch, and where its range may come from.
#[derive(Clone, Debug, Default)]
pub struct Ground {
    /// Subnets that this node is in.
    pub own_subnets: Vec<Cidr>,
    /// `networking.podSubnet` of kubeadm.
    pub kubeadm: Vec<Cidr>,
    /// Entropy for an IPv6 range of our own.
    pub random: u64,
}

impl PoolSettings {
    pub fn read(env: &Environment) -> Self {
        let none = parse(env, "NO_DEFAULT_POOLS", boolean);
        let mut families: Vec<_> = NAMES.iter().map(|names| FamilyPool::read(env, names)).collect();
        for family in &mut families {
            match &none {
                Ok(none) => family.is_wanted &= *none != Some(true),
                Err(misfit) if family.family == Family::V4 => family.misfits.push(misfit.clone()),
                Err(_) => family.is_wanted = false,
            }
        }
        Self { families }
    }

    pub fn misfits(&self) -> impl Iterator<Item = &Misfit> {
        self.families.iter().flat_map(|family| &family.misfits)
    }

    /// The pools that are missing, each for a family of which there is none, or why one cannot be made.
    pub fn missing(&self, pools: &[IpPool], ground: &Ground) -> Vec<Result<NewPool, String>> {
        let has = |family| pools.iter().any(|pool| pool.cidr.family() == family);
        let missing = self.families.iter().filter(|of| of.is_wanted && !has(of.family));
        missing.map(|family| family.make(ground)).collect()
    }

    /// Is kubeadm's range needed to make what is missing?
    pub fn asks_kubeadm(&self, pools: &[IpPool]) -> bool {
        let has = |family| pools.iter().any(|pool| pool.cidr.family() == family);
        self.families.iter().any(|of| of.is_wanted && of.range == Range::Auto && !has(of.family))
    }

    /// Each variable that says otherwise than the pool it is about, with the command that brings the pool there.
    pub fn differences(&self, pools: &[IpPool]) -> Vec<String> {
        let of_family = |family: &FamilyPool| {
            let all: Vec<_> = pools.iter().filter(|pool| pool.cidr.family() == family.family).collect();
            family.differences(&all)
        };
        self.families.iter().flat_map(of_family).collect()
    }
}

impl FamilyPool {
    fn read(env: &Environment, names: &'static Names) -> Self {
        let mut misfits = Vec::new();
        let range = take(&mut misfits, parse(env, names.cidr, |text| range(text, names.family)));
        let ipip = names.ipip.and_then(|name| take(&mut misfits, parse(env, name, encap)));
        let vxlan = take(&mut misfits, parse(env, names.vxlan, encap));
        let nat_outgoing = take(&mut misfits, parse(env, names.nat_outgoing, boolean));
        let (least, most) = names.block_sizes;
        let size = |text: &str| {
            let size: Option<u8> = text.parse().ok();
            size.filter(|size| (least..=most).contains(size))
                .ok_or(format!("write a length from {least} to {most}"))
        };
        let block_size = take(&mut misfits, parse(env, names.block_size, size));
        let selector = |text: &str| {
            let parsed = text.parse::<Selector>();
            parsed
                .map(|_| text.to_owned())
                .map_err(|error| format!("{error}; write a selector such as all()"))
        };
        let node_selector = take(&mut misfits, parse(env, names.node_selector, selector));
        let disable_bgp_export = take(&mut misfits, parse(env, names.disable_bgp_export, boolean));
        let is_encapsulated = |mode: Option<EncapMode>| mode.is_some_and(|mode| mode != EncapMode::Never);
        if is_encapsulated(ipip) && is_encapsulated(vxlan) {
            let value = env.text(names.vxlan).unwrap_or_default();
            let reason = format!("it excludes {}: set one of them to Never", names.ipip.unwrap_or_default());
            misfits.push(Misfit { variable: names.vxlan, value, reason });
        }
        let block = block_size.unwrap_or(names.block);
        if let Some(Some(range)) = range.filter(|range| range.is_some_and(|range| range.length() > block)) {
            let reason = format!(
                "it is smaller than one block, a /{block}; write a shorter prefix, or set {}",
                names.block_size
            );
            misfits.push(Misfit { variable: names.cidr, value: range.to_string(), reason });
        }
        let asks = |name: &str| {
            let text = env.text(name).unwrap_or_default().to_ascii_lowercase();
            !text.is_empty() && text != "none"
        };
        Self {
            family: names.family,
            is_wanted: range != Some(None) && (names.is_default || range.is_some() || asks("IP6")),
            range: range.flatten().map_or(Range::Auto, Range::Given),
            ipip,
            vxlan,
            nat_outgoing,
            block_size,
            node_selector,
            disable_bgp_export,
            misfits,
        }
    }

    fn names(&self) -> &'static Names {
        let is_own = |names: &&Names| names.family == self.family;
        NAMES.iter().find(is_own).expect("there are names for each family")
    }

    fn make(&self, ground: &Ground) -> Result<NewPool, String> {
        let names = self.names();
        if let Some(misfit) = self.misfits.first() {
            return Err(format!("no {} is made: {misfit}", names.pool));
        }
        let cidr = match self.range {
            Range::Given(cidr) => cidr,
            Range::Auto => self.choose(ground).ok_or_else(|| {
                format!(
                    "no {} is made: this node's own subnets lie in every range that is tried; set {}",
                    names.pool, names.cidr
                )
            })?,
        };
        let never = EncapMode::Never;
        Ok(NewPool {
            name: names.pool,
            cidr,
            ipip: self.ipip.unwrap_or(never),
            vxlan: self.vxlan.unwrap_or(never),
            nat_outgoing: self.nat_outgoing.unwrap_or(names.is_default),
            block_size: self.block_size.unwrap_or(names.block),
            node_selector: self.node_selector.clone().unwrap_or_else(|| "all()".to_owned()),
            disable_bgp_export: self.disable_bgp_export.unwrap_or_default(),
        })
    }

    /// kubeadm's range, else Calico's, else the first of 172.16/16 to 172.31/16, that no subnet of the node's is in.
    fn choose(&self, ground: &Ground) -> Option<Cidr> {
        if let Some(kubeadm) = ground.kubeadm.iter().find(|cidr| cidr.family() == self.family) {
            return Some(*kubeadm);
        }
        let is_free = |cidr: &Cidr| !ground.own_subnets.iter().any(|subnet| subnet.overlaps(*cidr));
        if self.family == Family::V6 {
            // RFC 4193: 40 random bits behind fd.
            let random = u128::from(ground.random & 0xff_ffff_ffff);
            let address = std::net::Ipv6Addr::from_bits(0xfd << 120 | random << 80);
            return Cidr::truncated(address.into(), 48).filter(is_free);
        }
        let others = (16..32).map(|second| [172, second, 0, 0]);
        let mut ranges = std::iter::once([192, 168, 0, 0]).chain(others);
        ranges.find_map(|octets| Cidr::truncated(octets.into(), 16).filter(is_free))
    }

    /// The pool that the variables are about: the one with their range, else the default one.
    fn differences(&self, pools: &[&IpPool]) -> Vec<String> {
        let names = self.names();
        if pools.is_empty() {
            return Vec::new();
        }
        let mut differences = Vec::new();
        let given = match self.range {
            Range::Given(cidr) => Some(cidr),
            Range::Auto => None,
        };
        let by_range = given.and_then(|cidr| pools.iter().find(|pool| pool.cidr == cidr));
        if let (Some(cidr), None) = (given, by_range) {
            let all: Vec<_> = pools.iter().map(|pool| format!("{} {}", pool.name, pool.cidr)).collect();
            let pools = all.join(", ");
            differences.push(format!("{}={cidr} is not in force: there is {pools}", names.cidr));
        }
        let Some(pool) = by_range.or_else(|| pools.iter().find(|pool| pool.name == names.pool)) else {
            return differences;
        };
        let selector = self
            .node_selector
            .as_ref()
            .filter(|text| text.parse().ok().as_ref() != Some(&pool.node_selector));
        let not_size = self.block_size.filter(|size| *size != pool.block_size);
        let settings = [
            (names.ipip.unwrap_or_default(), "ipipMode", differs(self.ipip, pool.ipip_mode).map(encap_name)),
            (names.vxlan, "vxlanMode", differs(self.vxlan, pool.vxlan_mode).map(encap_name)),
            (
                names.nat_outgoing,
                "natOutgoing",
                differs(self.nat_outgoing, pool.nat_outgoing).map(|is| is.to_string()),
            ),
            (names.block_size, "blockSize", not_size.map(|size| size.to_string())),
            (names.node_selector, "nodeSelector", selector.cloned()),
            (
                names.disable_bgp_export,
                "disableBGPExport",
                differs(self.disable_bgp_export, pool.disable_bgp_export).map(|is| is.to_string()),
            ),
        ];
        for (variable, field, wanted) in settings {
            let Some(wanted) = wanted else { continue };
            let name = &pool.name;
            differences.push(format!(
                "{variable}={wanted} is not in force: IPPool {name} says otherwise in spec.{field}"
            ));
        }
        differences
    }
}

fn differs<T: PartialEq>(wanted: Option<T>, present: T) -> Option<T> {
    wanted.filter(|wanted| *wanted != present)
}

/// `None` for `none`: no pool.
fn range(text: &str, family: Family) -> Result<Option<Cidr>, String> {
    if text.eq_ignore_ascii_case("none") {
        return Ok(None);
    }
    let (example, link_local) = match family {
        Family::V4 => ("192.168.0.0/16", "169.254.0.0/16"),
        Family::V6 => ("fd00:10:65::/48", "fe80::/10"),
    };
    let wrong = |what: &str| Err(format!("{what}; write an {family} range such as {example}, or none"));
    match text.parse::<Cidr>() {
        Ok(cidr) if cidr.family() != family => wrong("it is of the other family"),
        Ok(cidr) if link_local.parse().is_ok_and(|range: Cidr| range.overlaps(cidr)) => {
            wrong("link-local addresses cannot be pods'")
        }
        Ok(cidr) => Ok(Some(cidr)),
        Err(error) => wrong(&error.to_string()),
    }
}

fn encap(text: &str) -> Result<EncapMode, String> {
    match text.to_ascii_lowercase().as_str() {
        "off" | "never" => Ok(EncapMode::Never),
        "always" => Ok(EncapMode::Always),
        "crosssubnet" | "cross-subnet" => Ok(EncapMode::CrossSubnet),
        _ => Err("write Never, CrossSubnet or Always".to_owned()),
    }
}

fn encap_name(mode: EncapMode) -> String {
    match mode {
        EncapMode::Never => "Never",
        EncapMode::CrossSubnet => "CrossSubnet",
        EncapMode::Always => "Always",
    }
    .to_owned()
}

/// Spellings and defaults of one family.
struct Names {
    family: Family,
    pool: &'static str,
    /// Made without being asked for; packets to the outside are masqueraded.
    is_default: bool,
    cidr: &'static str,
    ipip: Option<&'static str>,
    vxlan: &'static str,
    nat_outgoing: &'static str,
    block_size: &'static str,
    node_selector: &'static str,
    disable_bgp_export: &'static str,
    block: u8,
    block_sizes: (u8, u8),
}

static NAMES: [Names; 2] = [
    Names {
        family: Family::V4,
        pool: "default-ipv4-ippool",
        is_default: true,
        cidr: "CALICO_IPV4POOL_CIDR",
        ipip: Some("CALICO_IPV4POOL_IPIP"),
        vxlan: "CALICO_IPV4POOL_VXLAN",
        nat_outgoing: "CALICO_IPV4POOL_NAT_OUTGOING",
        block_size: "CALICO_IPV4POOL_BLOCK_SIZE",
        node_selector: "CALICO_IPV4POOL_NODE_SELECTOR",
        disable_bgp_export: "CALICO_IPV4POOL_DISABLE_BGP_EXPORT",
        block: 26,
        block_sizes: (20, 32),
    },
    Names {
        family: Family::V6,
        pool: "default-ipv6-ippool",
        is_default: false,
        cidr: "CALICO_IPV6POOL_CIDR",
        ipip: None,
        vxlan: "CALICO_IPV6POOL_VXLAN",
        nat_outgoing: "CALICO_IPV6POOL_NAT_OUTGOING",
        block_size: "CALICO_IPV6POOL_BLOCK_SIZE",
        node_selector: "CALICO_IPV6POOL_NODE_SELECTOR",
        disable_bgp_export: "CALICO_IPV6POOL_DISABLE_BGP_EXPORT",
        block: 122,
        block_sizes: (116, 128),
    },
];

#[cfg(test)]
mod tests {
    use model::AssignmentMode;

    use super::*;

    fn settings(env: &[(&str, &str)]) -> PoolSettings {
        let env = env.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        PoolSettings::read(&Environment::new(env))
    }

    fn made(env: &[(&str, &str)], ground: &Ground) -> Vec<String> {
        let shown = |pool: Result<NewPool, String>| match pool {
            Ok(p) => {
                let (ipip, vxlan, nat) = (encap_name(p.ipip), encap_name(p.vxlan), p.nat_outgoing);
                format!(
                    "{} {} {ipip} {vxlan} nat={nat} /{} {}",
                    p.name, p.cidr, p.block_size, p.node_selector
                )
            }
            Err(error) => error,
        };
        settings(env).missing(&[], ground).into_iter().map(shown).collect()
    }

    /// Variables of the environment, and the pools that they make.
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str]);

    #[test]
    fn a_new_cluster_gets_what_the_environment_says() {
        let nothing = Ground::default();
        let default = "default-ipv4-ippool 192.168.0.0/16 Never Never nat=true /26 all()";
        let cases: [Case; 9] = [
            (&[], &[default]),
            (&[("CALICO_IPV4POOL_IPIP", "off"), ("CALICO_IPV4POOL_VXLAN", "NEVER")], &[default]),
            (
                &[("CALICO_IPV4POOL_CIDR", "10.65.0.0/16"), ("CALICO_IPV4POOL_IPIP", "Cross-Subnet")],
                &["default-ipv4-ippool 10.65.0.0/16 CrossSubnet Never nat=true /26 all()"],
            ),
            (
                &[("CALICO_IPV4POOL_VXLAN", "always"), ("CALICO_IPV4POOL_NAT_OUTGOING", "false")],
                &["default-ipv4-ippool 192.168.0.0/16 Never Always nat=false /26 all()"],
            ),
            (
                &[("CALICO_IPV4POOL_BLOCK_SIZE", "24"), ("CALICO_IPV4POOL_NODE_SELECTOR", "has(rack)")],
                &["default-ipv4-ippool 192.168.0.0/16 Never Never nat=true /24 has(rack)"],
            ),
            (&[("NO_DEFAULT_POOLS", "true"), ("CALICO_IPV6POOL_CIDR", "fd00::/48")], &[]),
            (&[("CALICO_IPV4POOL_CIDR", "none")], &[]),
            (
                &[("CALICO_IPV6POOL_CIDR", "fd00:10::/48")],
                &[default, "default-ipv6-ippool fd00:10::/48 Never Never nat=false /122 all()"],
            ),
            (
                &[("IP6", "autodetect")],
                &[default, "default-ipv6-ippool fd00::/48 Never Never nat=false /122 all()"],
            ),
        ];
        for (env, expected) in cases {
            assert_eq!(made(env, &nothing), expected, "{env:?}");
        }
    }

    #[test]
    fn a_range_that_the_node_is_in_is_not_taken() {
        let cidrs = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<Cidr>>();
        let first = |ground: &Ground| made(&[], ground).remove(0);
        let own_subnets = cidrs(&["192.168.1.0/24", "172.16.0.0/15", "172.18.4.0/22"]);

        let taken = Ground { own_subnets: own_subnets.clone(), ..Ground::default() };
        let kubeadm = Ground { own_subnets, kubeadm: cidrs(&["fd00::/64", "10.244.0.0/16"]), random: 0 };
        let all = Ground { own_subnets: cidrs(&["0.0.0.0/1", "128.0.0.0/1"]), ..Ground::default() };

        assert!(first(&taken).contains(" 172.19.0.0/16 "), "{}", first(&taken));
        assert!(first(&kubeadm).contains(" 10.244.0.0/16 "), "{}", first(&kubeadm));
        assert!(first(&all).ends_with("set CALICO_IPV4POOL_CIDR"), "{}", first(&all));
    }

    #[test]
    fn nonsense_makes_no_pool_and_says_what_would_be_right() {
        let cases: [(&[(&str, &str)], &str); 9] = [
            (&[("CALICO_IPV4POOL_CIDR", "10.0.0.0")], "CALICO_IPV4POOL_CIDR=\"10.0.0.0\": "),
            (
                &[("CALICO_IPV4POOL_CIDR", "10.0.0.1/16")],
                "write an IPv4 range such as 192.168.0.0/16, or none",
            ),
            (&[("CALICO_IPV4POOL_CIDR", "fd00::/48")], "it is of the other family"),
            (&[("CALICO_IPV4POOL_CIDR", "169.254.0.0/17")], "link-local addresses cannot be pods'"),
            (&[("CALICO_IPV4POOL_CIDR", "10.0.0.0/27")], "it is smaller than one block, a /26"),
            (&[("CALICO_IPV4POOL_BLOCK_SIZE", "33")], "write a length from 20 to 32"),
            (&[("CALICO_IPV4POOL_IPIP", "sometimes")], "write Never, CrossSubnet or Always"),
            (
                &[("CALICO_IPV4POOL_IPIP", "Always"), ("CALICO_IPV4POOL_VXLAN", "CrossSubnet")],
                "it excludes CALICO_IPV4POOL_IPIP",
            ),
            (&[("CALICO_IPV4POOL_NODE_SELECTOR", "all(")], "write a selector such as all()"),
        ];
        for (env, words) in cases {
            let pools = made(env, &Ground::default());

            assert_eq!(pools.len(), 1, "{env:?}");
            assert!(pools[0].starts_with("no default-ipv4-ippool is made: CALICO_IPV4POOL_"), "{pools:?}");
            assert!(pools[0].contains(words), "{pools:?}");
        }
    }

    #[test]
    fn an_old_cluster_keeps_its_pools_and_is_told_what_differs() {
        let pool = IpPool {
            name: "default-ipv4-ippool".to_owned(),
            cidr: "10.65.0.0/16".parse().unwrap(),
            ipip_mode: EncapMode::CrossSubnet,
            vxlan_mode: EncapMode::Never,
            nat_outgoing: true,
            disabled: false,
            disable_bgp_export: false,
            block_size: 26,
            node_selector: Selector::all(),
            namespace_selector: Selector::all(),
            allowed_uses: Vec::new(),
            assignment_mode: AssignmentMode::Automatic,
            deleting: false,
            created: 0,
        };
        let same =
            settings(&[("CALICO_IPV4POOL_CIDR", "10.65.0.0/16"), ("CALICO_IPV4POOL_NODE_SELECTOR", "all()")]);
        let other = settings(&[("CALICO_IPV4POOL_CIDR", "10.66.0.0/16"), ("CALICO_IPV4POOL_IPIP", "Always")]);
        let pools = [pool];

        assert!(same.missing(&pools, &Ground::default()).is_empty());
        assert_eq!(same.differences(&pools), [""; 0]);
        assert_eq!(
            other.differences(&pools),
            [
                "CALICO_IPV4POOL_CIDR=10.66.0.0/16 is not in force: there is default-ipv4-ippool 10.65.0.0/16",
                "CALICO_IPV4POOL_IPIP=Always is not in force: IPPool default-ipv4-ippool says otherwise in spec.ipipMode"
            ]
        );
        assert_eq!(other.differences(&[]), [""; 0]);
    }
}
