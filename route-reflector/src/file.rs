//! The YAML file as it is written. Owns its fields and their forms; what they mean is in `config`.

use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_saphyr::Spanned;

/// The whole file. What a client or peer may have of its own and is set here holds for those without.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct File {
    /// BGP Identifier.
    pub(crate) router_id: Spanned<Ipv4Addr>,
    pub(crate) as_number: Spanned<u32>,
    /// Shared by reflectors of one cluster; the router id unless given.
    pub(crate) cluster_id: Option<Ipv4Addr>,
    /// Routes of clients go to other clients; they do unless given.
    pub(crate) client_to_client: Option<bool>,
    /// Addresses and ports; all addresses and port 179 unless given.
    pub(crate) listen: Option<Spanned<Vec<SocketAddr>>>,
    /// Own next hops, for routes of one family that go to external peers over sessions of the other.
    #[serde(default)]
    pub(crate) next_hop: NextHop,
    /// Who connects by itself: addresses or prefixes, each alone or with settings.
    #[serde(default)]
    pub(crate) clients: Vec<Spanned<Alone<Neighbour>>>,
    /// Most clients that may come out of prefixes; 10 000 unless given.
    pub(crate) max_clients: Option<usize>,
    /// Peers that the reflector connects to: other reflectors, routers, clients.
    #[serde(default)]
    pub(crate) peers: Vec<Spanned<Neighbour>>,
    /// Nodes of a cluster become clients.
    pub(crate) kubernetes: Option<Spanned<Kubernetes>>,
    /// Seconds; 90 unless given.
    pub(crate) hold_time: Option<Spanned<u16>>,
    /// Seconds that routes are kept over a restart; 120 unless given, 0 for none.
    pub(crate) restart_time: Option<Spanned<u16>>,
    /// Both unless given.
    pub(crate) families: Option<Vec<FamilyName>>,
    /// Seconds that others may keep routes after `restartTime` (RFC 9494); not announced unless given.
    pub(crate) long_lived_stale_time: Option<u32>,
    pub(crate) add_path: Option<AddPath>,
    /// Most routes of a family that a neighbour may send.
    pub(crate) max_prefixes: Option<Alone<MaxPrefixes>>,
    /// Routes become least preferred, as before maintenance (RFC 8326).
    pub(crate) graceful_shutdown: Option<bool>,
    pub(crate) bfd: Option<Alone<Bfd>>,
    /// Generalised TTL security: how many hops away the other side may be.
    pub(crate) ttl_security: Option<u8>,
    /// File with the TCP MD5 password.
    pub(crate) password_file: Option<PathBuf>,
    /// External neighbours without `import` get nothing in, without `export` nothing out (RFC 8212); all goes unless
    /// given.
    #[serde(default)]
    pub(crate) ebgp_requires_policy: bool,
}

/// Which nodes of which cluster.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Kubernetes {
    /// The Pod's own access unless given.
    pub(crate) kubeconfig: Option<PathBuf>,
    /// A selector as in Calico's resources; all nodes unless given.
    pub(crate) node_selector: Option<String>,
    /// File with the TCP MD5 password of nodes.
    pub(crate) password_file: Option<PathBuf>,
}

/// Own next hops.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct NextHop {
    pub(crate) ipv4: Option<Ipv4Addr>,
    pub(crate) ipv6: Option<Ipv6Addr>,
}

/// A client, a range of clients, or a peer.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Neighbour {
    /// `192.0.2.1`, `fe80::1%eth0`; for clients also `192.0.2.0/24`.
    #[serde(default)]
    pub(crate) address: String,
    /// Instead of an address: the router at the other end of this link, by the link-local address that its router
    /// advertisements come from (unnumbered); for peers only.
    pub(crate) interface: Option<String>,
    #[serde(default)]
    pub(crate) name: String,
    /// The reflector's own unless given.
    pub(crate) as_number: Option<u32>,
    /// 179 unless given; for peers only.
    pub(crate) port: Option<u16>,
    /// Routes are reflected to and from it; for peers only.
    pub(crate) client: Option<bool>,
    /// Never connect, only listen; for peers only.
    pub(crate) passive: Option<bool>,
    /// For peers only.
    pub(crate) source_address: Option<IpAddr>,
    pub(crate) password_file: Option<PathBuf>,
    pub(crate) ttl_security: Option<u8>,
    pub(crate) families: Option<Vec<FamilyName>>,
    pub(crate) long_lived_stale_time: Option<u32>,
    pub(crate) add_path: Option<AddPath>,
    pub(crate) max_prefixes: Option<Alone<MaxPrefixes>>,
    pub(crate) graceful_shutdown: Option<bool>,
    /// IPv4 routes may have IPv6 next hops (RFC 8950).
    pub(crate) extended_next_hop: Option<bool>,
    pub(crate) bfd: Option<Alone<Bfd>>,
    /// What we are to it (RFC 9234); for external peers only.
    pub(crate) role: Option<RoleName>,
    /// One that names no role is refused.
    pub(crate) strict_role: Option<bool>,
    /// Only routes inside these prefixes are taken; all are unless given.
    pub(crate) import: Option<Vec<String>>,
    /// Only routes inside these prefixes are sent; all are unless given.
    pub(crate) export: Option<Vec<String>>,
    pub(crate) hold_time: Option<u16>,
    pub(crate) restart_time: Option<u16>,
    /// Switched off.
    #[serde(default)]
    pub(crate) disabled: bool,
}

/// Roles by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum RoleName {
    Provider,
    RouteServer,
    RouteServerClient,
    Customer,
    Peer,
}

/// Families by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FamilyName {
    Ipv4,
    Ipv6,
}

/// Several paths for a prefix (RFC 7911).
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct AddPath {
    #[serde(default)]
    pub(crate) receive: bool,
    /// How many at most; none unless given.
    pub(crate) send: Option<u8>,
}

/// A limit of routes: a number, or settings.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct MaxPrefixes {
    pub(crate) limit: usize,
    /// A warning comes at this many percent; 75 unless given.
    pub(crate) warning_percent: Option<u8>,
    /// Seconds after which the session is tried again; it stays down unless given.
    pub(crate) restart_after: Option<u64>,
    /// Never end the session.
    #[serde(default)]
    pub(crate) only_warn: bool,
}

/// BFD: `true`, `false`, or settings.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Bfd {
    #[serde(default = "yes")]
    pub(crate) enabled: bool,
    /// Milliseconds.
    pub(crate) min_tx: Option<u32>,
    /// Milliseconds.
    pub(crate) min_rx: Option<u32>,
    pub(crate) detect_multiplier: Option<u8>,
    #[serde(default)]
    pub(crate) multihop: bool,
}

fn yes() -> bool {
    true
}

/// Something that has one field of its own that may stand alone, without the others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Alone<T>(pub(crate) T);

/// What stands alone.
pub(crate) trait StandsAlone: Sized {
    /// From a text that stands for the whole.
    fn from_text(_text: &str) -> Option<Self> {
        None
    }

    /// From a number that stands for the whole.
    fn from_number(_number: u64) -> Option<Self> {
        None
    }

    /// From a truth that stands for the whole.
    fn from_bool(_value: bool) -> Option<Self> {
        None
    }
}

impl StandsAlone for Neighbour {
    fn from_text(text: &str) -> Option<Self> {
        Some(Self { address: text.to_owned(), ..Self::default() })
    }
}

impl StandsAlone for MaxPrefixes {
    fn from_number(number: u64) -> Option<Self> {
        let limit = usize::try_from(number).ok()?;
        Some(Self { limit, warning_percent: None, restart_after: None, only_warn: false })
    }
}

impl StandsAlone for Bfd {
    fn from_bool(enabled: bool) -> Option<Self> {
        Some(Self { enabled, min_tx: None, min_rx: None, detect_multiplier: None, multihop: false })
    }
}

impl<'de, T: StandsAlone + Deserialize<'de>> Deserialize<'de> for Alone<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form<T>(PhantomData<T>);

        impl<'de, T: StandsAlone + Deserialize<'de>> Visitor<'de> for Form<T> {
            type Value = Alone<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value alone or a map of settings")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Alone<T>, E> {
                T::from_text(text).map(Alone).ok_or_else(|| E::custom("a map of settings is expected"))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Alone<T>, E> {
                T::from_number(number).map(Alone).ok_or_else(|| E::custom("no number is expected here"))
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<Alone<T>, E> {
                T::from_bool(value).map(Alone).ok_or_else(|| E::custom("no truth is expected here"))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Alone<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Alone)
            }
        }

        deserializer.deserialize_any(Form(PhantomData))
    }
}
