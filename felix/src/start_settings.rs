//! What calico-node's environment says about a node's start: `IP`, `IP6` and how they are found, `AS`, the default
//! pools (`spec/control.md` §6.2).
//!
//! Owns names, defaults and what makes no sense, each with variable, value and remedy. What makes no sense is never
//! replaced by a default: the part that needs it waits, and what an earlier start wrote stays.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use model::Family;

use crate::autodetect::Method;
use crate::default_pools::PoolSettings;
use crate::settings::Environment;

/// How often addresses are looked for without being told, as Calico does.
const POLL: Duration = Duration::from_secs(60);
/// No more often than this, whatever is written.
const SHORTEST: Duration = Duration::from_secs(1);
/// Longer than any process lives, and short enough to be added to any time.
const NEVER: Duration = Duration::from_secs(u32::MAX as u64);

/// Everything that only the start and the node's own address need.
#[derive(Clone, Debug)]
pub struct StartSettings {
    pub ipv4: AddressSetting,
    pub ipv6: AddressSetting,
    /// `AUTODETECT_POLL_INTERVAL`: the kernel tells of addresses, not of where a name leads to.
    pub poll: Duration,
    /// `AS`: the node's own; `None` leaves what the Node says.
    pub as_number: Option<u32>,
    /// `DISABLE_NODE_IP_CHECK`: another node may have the address too.
    pub allows_duplicates: bool,
    /// `USE_POD_CIDR`: another IPAM plugin gives out addresses of `Node.spec.podCIDRs`.
    pub uses_pod_cidrs: bool,
    /// `CLUSTER_TYPE`, comma-separated.
    pub cluster_type: String,
    /// `CALICO_NETWORKING_BACKEND`.
    pub backend: Networking,
    pub pools: PoolSettings,
    /// What was not understood, other than `IP` and the pools, which say so themselves.
    pub problems: Vec<Misfit>,
}

/// Who carries packets between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Networking {
    /// Routes that the speaker learns.
    Bird,
    /// No speaker.
    Vxlan,
    /// Somebody else: policy only.
    None,
}

/// Where the node's address of one family comes from (`IP`, `IP6` and their `_AUTODETECTION_METHOD`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressSetting {
    Detect {
        method: Method,
        /// Somebody asked for it, so that failing is an error even when the other family has an address.
        is_required: bool,
    },
    /// This address; the prefix length is that of the link which has it unless given.
    Fixed(IpAddr, Option<u8>),
    /// Leave the annotation alone.
    None,
    /// What was given cannot be understood.
    Misfit(Misfit),
}

/// A variable whose value makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    pub variable: &'static str,
    pub value: String,
    /// What is wrong, and what would be right.
    pub reason: String,
}

impl AddressSetting {
    /// Somebody asked for it.
    pub fn is_required(&self) -> bool {
        match self {
            AddressSetting::Detect { is_required, .. } => *is_required,
            AddressSetting::Fixed(..) | AddressSetting::Misfit(_) => true,
            AddressSetting::None => false,
        }
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={:?}: {}", self.variable, self.value, self.reason)
    }
}

impl StartSettings {
    pub fn read(env: &Environment) -> Self {
        let mut problems = Vec::new();
        let poll = take(&mut problems, parse(env, "AUTODETECT_POLL_INTERVAL", interval));
        let as_number = take(&mut problems, parse(env, "AS", as_number));
        let backend = take(&mut problems, parse(env, "CALICO_NETWORKING_BACKEND", backend));
        let allows_duplicates = take(&mut problems, parse(env, "DISABLE_NODE_IP_CHECK", boolean));
        let uses_pod_cidrs = take(&mut problems, parse(env, "USE_POD_CIDR", boolean));
        Self {
            ipv4: address_setting(env, Family::V4),
            ipv6: address_setting(env, Family::V6),
            poll: poll.unwrap_or(POLL),
            as_number,
            allows_duplicates: allows_duplicates.unwrap_or_default(),
            uses_pod_cidrs: uses_pod_cidrs.unwrap_or_default(),
            cluster_type: env.text("CLUSTER_TYPE").unwrap_or_default(),
            backend: backend.unwrap_or(Networking::Bird),
            pools: PoolSettings::read(env),
            problems,
        }
    }

    /// Everything that makes no sense, for the log.
    pub fn misfits(&self) -> impl Iterator<Item = &Misfit> {
        let addresses = [&self.ipv4, &self.ipv6].into_iter().filter_map(|setting| match setting {
            AddressSetting::Misfit(misfit) => Some(misfit),
            _ => None,
        });
        addresses.chain(self.pools.misfits()).chain(&self.problems)
    }
}

/// Reads one variable; `None` when it is not given.
pub fn parse<T>(
    env: &Environment,
    variable: &'static str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, Misfit> {
    let Some(value) = env.text(variable) else { return Ok(None) };
    parse(&value).map(Some).map_err(|reason| Misfit { variable, value, reason })
}

/// Sets what makes no sense aside.
pub fn take<T>(misfits: &mut Vec<Misfit>, parsed: Result<Option<T>, Misfit>) -> Option<T> {
    parsed.unwrap_or_else(|misfit| {
        misfits.push(misfit);
        None
    })
}

/// true or false, in any case and as Go reads it.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "t" | "1" => Ok(true),
        "false" | "f" | "0" => Ok(false),
        _ => Err("write true or false".to_owned()),
    }
}

fn backend(text: &str) -> Result<Networking, String> {
    match text {
        "bird" => Ok(Networking::Bird),
        "vxlan" => Ok(Networking::Vxlan),
        "none" => Ok(Networking::None),
        _ => Err("write bird, vxlan or none".to_owned()),
    }
}

/// `64512`, or `1.10` for 65546.
fn as_number(text: &str) -> Result<u32, String> {
    let wrong =
        || "write an AS number from 1 to 4294967295, such as 64512 or 1.10, or leave it empty".to_owned();
    model::parse_as_number(text).ok_or_else(wrong)
}

/// `60s`, `2m`, `1h`, or seconds; `0` for never.
fn interval(text: &str) -> Result<Duration, String> {
    let given = model::parse_duration(text).ok().filter(|interval| *interval <= NEVER);
    match given.ok_or("write a time such as 60s or 2m")? {
        Duration::ZERO => Ok(NEVER),
        interval => Ok(interval.max(SHORTEST)),
    }
}

/// Both families are detected unless told otherwise (Calico: IPv6 only when `IP6=autodetect`), because a node
/// without an IPv6 InternalIP then simply has none.
fn address_setting(env: &Environment, family: Family) -> AddressSetting {
    let (address_key, method_key) = match family {
        Family::V4 => ("IP", "IP_AUTODETECTION_METHOD"),
        Family::V6 => ("IP6", "IP6_AUTODETECTION_METHOD"),
    };
    let text = env.text(address_key).unwrap_or_default().to_ascii_lowercase();
    match text.as_str() {
        "none" => return AddressSetting::None,
        "" | "autodetect" => {}
        _ => {
            let fixed = parse(env, address_key, |text| fixed_address(text, family));
            return match fixed {
                Ok(Some((address, length))) => AddressSetting::Fixed(address, length),
                Ok(None) => AddressSetting::None,
                Err(misfit) => AddressSetting::Misfit(misfit),
            };
        }
    }
    match parse(env, method_key, |text| text.parse::<Method>()) {
        Ok(method) => {
            let is_required = method.is_some() || text == "autodetect";
            AddressSetting::Detect { method: method.unwrap_or_default(), is_required }
        }
        Err(misfit) => AddressSetting::Misfit(misfit),
    }
}

fn fixed_address(text: &str, family: Family) -> Result<(IpAddr, Option<u8>), String> {
    let example = match family {
        Family::V4 => "192.0.2.11/24",
        Family::V6 => "2001:db8::11/64",
    };
    let wrong =
        |what: &str| Err(format!("{what}; write an {family} address such as {example}, autodetect or none"));
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => match length.parse::<u8>() {
            Ok(length) if length <= family.bits() => (address, Some(length)),
            _ => return wrong(&format!("an {family} prefix has 0 to {} bits", family.bits())),
        },
        None => (text, None),
    };
    match address.parse::<IpAddr>() {
        Ok(address) if Family::of(address) != family => wrong("it is of the other family"),
        Ok(address) if address.is_unspecified() || address.is_loopback() || address.is_multicast() => {
            wrong("other nodes cannot reach it")
        }
        Ok(address) => Ok((address, length)),
        Err(_) => wrong("it is no address"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(env: &[(&str, &str)]) -> StartSettings {
        let env = env.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        StartSettings::read(&Environment::new(env))
    }

    #[test]
    fn addresses_may_be_given_or_left_alone() {
        let settings = read(&[("IP", "10.0.0.1/24"), ("IP6", "None"), ("AS", "1.10")]);

        assert_eq!(settings.ipv4, AddressSetting::Fixed("10.0.0.1".parse().unwrap(), Some(24)));
        assert_eq!(settings.ipv6, AddressSetting::None);
        assert_eq!(settings.as_number, Some(65546));
        assert_eq!(settings.misfits().count(), 0);
    }

    #[test]
    fn what_is_asked_for_is_required() {
        let detect = |env: &[(&str, &str)]| read(env).ipv6;
        let asked = AddressSetting::Detect { method: Method::KubernetesInternalIp, is_required: true };
        let by_default = AddressSetting::Detect { method: Method::KubernetesInternalIp, is_required: false };

        assert_eq!(detect(&[("IP6", "autodetect")]), asked);
        assert_eq!(detect(&[("IP6_AUTODETECTION_METHOD", "kubernetes-internal-ip")]), asked);
        assert_eq!(detect(&[("IP", "autodetect")]), by_default);
    }

    #[test]
    fn nonsense_names_the_variable_and_what_would_be_right() {
        let cases = [
            ("IP", "fd00::1", "it is of the other family; write an IPv4 address such as 192.0.2.11/24"),
            ("IP", "10.0.0.1/33", "an IPv4 prefix has 0 to 32 bits"),
            ("IP", "10.0.0.", "it is no address"),
            ("IP6", "::1", "other nodes cannot reach it"),
            ("IP_AUTODETECTION_METHOD", "guess", "kubernetes-internal-ip, first-found"),
            ("IP6_AUTODETECTION_METHOD", "interface=(", "unclosed group"),
            ("AS", "0", "such as 64512"),
            ("AS", "1.65536", "such as 64512"),
            ("DISABLE_NODE_IP_CHECK", "maybe", "write true or false"),
            ("AUTODETECT_POLL_INTERVAL", "soon", "such as 60s"),
            ("AUTODETECT_POLL_INTERVAL", "9999999999999999999h", "such as 60s"),
            ("AUTODETECT_POLL_INTERVAL", "4294967296", "such as 60s"),
        ];
        for (variable, value, words) in cases {
            let settings = read(&[(variable, value)]);

            let misfits: Vec<String> = settings.misfits().map(ToString::to_string).collect();
            assert_eq!(misfits.len(), 1, "{variable}={value}: {misfits:?}");
            assert!(misfits[0].starts_with(&format!("{variable}=\"{value}\": ")), "{misfits:?}");
            assert!(misfits[0].contains(words), "{misfits:?}");
        }
    }

    #[test]
    fn times_have_units() {
        let poll = |text| read(&[("AUTODETECT_POLL_INTERVAL", text)]).poll.as_secs();

        assert_eq!([poll("90s"), poll("2m"), poll("30"), poll("")], [90, 120, 30, 60]);
        assert_eq!([poll("1h30m"), poll("1ms")], [5400, 1]);
        assert!(poll("0") > 1_000_000, "never");
    }
}
