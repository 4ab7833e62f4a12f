//! The network configuration that comes on stdin (`docs/cni.md` lists the keys).

use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::error::{CniError, code};
use crate::invocation::{is_identifier, parse_address, parse_mac};
use crate::keys::Keys;
use crate::readiness::Gate;
use crate::result::Success;
use crate::version::CniVersion;

/// Where the node agent listens unless `felix_socket` says otherwise.
pub const DEFAULT_SOCKET: &str = "/var/run/calico/felix.sock";

/// Where Calico's agent writes the MTU of pods.
pub const MTU_FILE: &str = "/var/lib/calico/mtu";

/// What the plugins need of the configuration. Keys that are not known are ignored.
#[derive(Clone, Debug)]
pub struct NetConf {
    pub version: CniVersion,
    /// Name of the network.
    pub name: String,
    pub felix_socket: PathBuf,
    /// Bytes; `None` takes what the agent replies.
    pub mtu: Option<u32>,
    pub ipam: Ipam,
    /// `container_settings.allow_ip_forwarding`: the container may forward packets between its interfaces.
    pub allow_ip_forwarding: bool,
    /// `feature_control`: what annotations of pods may ask for.
    pub features: FeatureControl,
    /// `require_mtu_file`: the MTU is what [`MTU_FILE`] says, unless `mtu` is given.
    pub require_mtu_file: bool,
    /// `num_queues`: of each direction, on both sides of the veth; the kernel gives one where it is 1.
    pub queues: u32,
    /// `readiness_gates`: what must answer well before a pod gets a network.
    pub gates: Vec<Gate>,
    /// `policy_setup_timeout_seconds`; 0 leaves the time to the agent.
    pub policy_setup_timeout_seconds: u32,
    /// MAC for the container's side: `runtimeConfig.mac`, else `args.cni.mac`.
    pub mac: Option<[u8; 6]>,
    /// Exactly these addresses: `runtimeConfig.ips`, else `args.cni.ips`.
    pub addresses: Vec<IpAddr>,
    pub log: LogConfig,
    /// `dns`, handed on in the result.
    pub dns: Option<Value>,
    /// `prevResult`: what the plugins before us, or ADD for CHECK and DEL, made.
    pub previous: Option<Success>,
    /// All of stdin, for a delegated plugin.
    pub raw: Map<String, Value>,
}

/// `feature_control`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FeatureControl {
    /// `cni.projectcalico.org/ipAddrsNoIpam`.
    pub ip_addrs_no_ipam: bool,
    /// `cni.projectcalico.org/floatingIPs`.
    pub floating_ips: bool,
}

/// `ipam`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipam {
    pub kind: IpamKind,
    pub ipv4: bool,
    pub ipv6: bool,
    /// Names or CIDRs of pools.
    pub ipv4_pools: Vec<String>,
    pub ipv6_pools: Vec<String>,
}

/// Who gives addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IpamKind {
    /// The node agent, asked by this process itself.
    Calico,
    /// A plugin of this name in `CNI_PATH`.
    Delegate(String),
    /// `ipam.type` is absent; an error for ADD only.
    Unset,
}

/// `log_level`, `log_file_path`, `log_file_max_size`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    pub level: Level,
    /// Beside stderr.
    pub file: Option<PathBuf>,
    /// The file is set aside as `.1` when it has grown to this many bytes.
    pub max_bytes: u64,
}

/// How much to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
}

impl NetConf {
    /// Parses stdin. The error comes with the version to answer in, as far as that is known by then.
    pub fn parse(bytes: &[u8]) -> Result<Self, (CniVersion, CniError)> {
        let raw = parse_object(bytes).map_err(|error| (CniVersion::LATEST, error))?;
        let keys = Keys::root(&raw);
        let version = keys
            .string("cniVersion")
            .and_then(|text| CniVersion::parse(text.unwrap_or_default()))
            .map_err(|error| (CniVersion::LATEST, error))?;
        Self::from_keys(version, &keys, &raw).map_err(|error| (version, error))
    }

    fn from_keys(version: CniVersion, keys: &Keys, raw: &Map<String, Value>) -> Result<Self, CniError> {
        let name = keys.string("name")?.unwrap_or_default().to_owned();
        if !is_identifier(&name) {
            return Err(CniError::config(format!(
                "name {name:?} is invalid: letters, digits, '_', '.', '-', starting with a letter or digit"
            )));
        }
        let (mac, addresses) = requested(keys)?;
        Ok(Self {
            version,
            name,
            felix_socket: socket(keys)?,
            mtu: mtu(keys)?,
            ipam: Ipam::parse(&keys.object("ipam")?)?,
            allow_ip_forwarding: keys
                .object("container_settings")?
                .bool("allow_ip_forwarding")?
                .unwrap_or_default(),
            features: features(&keys.object("feature_control")?)?,
            require_mtu_file: keys.bool("require_mtu_file")?.unwrap_or_default(),
            queues: queues(keys)?,
            gates: keys
                .strings("readiness_gates")?
                .iter()
                .map(|text| Gate::parse(text))
                .collect::<Result<_, _>>()?,
            policy_setup_timeout_seconds: timeout(keys)?,
            mac,
            addresses,
            log: LogConfig::parse(keys)?,
            dns: keys.value("dns").cloned(),
            previous: keys
                .value("prevResult")
                .map(|value| Success::parse("prevResult", value))
                .transpose()?,
            raw: raw.clone(),
        })
    }
}

impl Ipam {
    fn parse(keys: &Keys) -> Result<Self, CniError> {
        let kind = match keys.string("type")?.unwrap_or_default() {
            "" => IpamKind::Unset,
            "calico-ipam" => IpamKind::Calico,
            other if is_identifier(other) => IpamKind::Delegate(other.to_owned()),
            other => {
                return Err(CniError::config(format!(
                    "ipam.type {other:?} is not the name of a plugin: use \"calico-ipam\""
                )));
            }
        };
        let ipam = Self {
            kind,
            ipv4: keys.bool("assign_ipv4")?.unwrap_or(true),
            ipv6: keys.bool("assign_ipv6")?.unwrap_or(false),
            ipv4_pools: keys.strings("ipv4_pools")?,
            ipv6_pools: keys.strings("ipv6_pools")?,
        };
        if ipam.kind == IpamKind::Calico && !ipam.ipv4 && !ipam.ipv6 {
            return Err(CniError::config(
                "ipam.assign_ipv4 and ipam.assign_ipv6 are both false: set one to true",
            ));
        }
        Ok(ipam)
    }
}

impl LogConfig {
    fn parse(keys: &Keys) -> Result<Self, CniError> {
        let level = match keys.string("log_level")?.unwrap_or("info").to_ascii_lowercase().as_str() {
            "error" | "fatal" | "panic" => Level::Error,
            "warn" | "warning" => Level::Warn,
            "info" | "" => Level::Info,
            "debug" | "trace" => Level::Debug,
            other => {
                return Err(CniError::config(format!(
                    "log_level {other:?} is unknown: use error, warn, info or debug"
                )));
            }
        };
        let file = keys.string("log_file_path")?.filter(|path| !path.is_empty()).map(PathBuf::from);
        let megabytes = keys.u32("log_file_max_size")?.unwrap_or(100).max(1);
        Ok(Self { level, file, max_bytes: u64::from(megabytes) << 20 })
    }
}

fn parse_object(bytes: &[u8]) -> Result<Map<String, Value>, CniError> {
    let decode = |details: String| {
        CniError::new(code::DECODE, "the network configuration on stdin is not a JSON object")
            .details(details)
    };
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(decode("its outermost value is not an object".to_owned())),
        Err(error) => Err(decode(error.to_string())),
    }
}

fn socket(keys: &Keys) -> Result<PathBuf, CniError> {
    let path = keys.string("felix_socket")?.filter(|path| !path.is_empty()).unwrap_or(DEFAULT_SOCKET);
    if !path.starts_with('/') {
        return Err(CniError::config(format!("felix_socket {path:?} is not an absolute path")));
    }
    // sockaddr_un holds 108 bytes with the final NUL.
    if path.len() > 107 {
        return Err(CniError::config(format!("felix_socket {path:?} is longer than 107 bytes")));
    }
    Ok(PathBuf::from(path))
}

/// The kernel's own limit is 4096.
fn queues(keys: &Keys) -> Result<u32, CniError> {
    match keys.u32("num_queues")? {
        None | Some(0) => Ok(1),
        Some(queues @ 1..=4096) => Ok(queues),
        Some(queues) => Err(CniError::config(format!("num_queues {queues} is not between 1 and 4096"))),
    }
}

fn mtu(keys: &Keys) -> Result<Option<u32>, CniError> {
    match keys.u32("mtu")? {
        None | Some(0) => Ok(None),
        Some(mtu @ 68..=65535) => Ok(Some(mtu)),
        Some(mtu) => {
            Err(CniError::config(format!("mtu {mtu} is not between 68 and 65535; 0 lets the agent choose")))
        }
    }
}

fn features(keys: &Keys) -> Result<FeatureControl, CniError> {
    Ok(FeatureControl {
        ip_addrs_no_ipam: keys.bool("ip_addrs_no_ipam")?.unwrap_or_default(),
        floating_ips: keys.bool("floating_ips")?.unwrap_or_default(),
    })
}

fn timeout(keys: &Keys) -> Result<u32, CniError> {
    let key = "policy_setup_timeout_seconds";
    match keys.u32(key)?.unwrap_or_default() {
        seconds @ 0..=600 => Ok(seconds),
        seconds => Err(CniError::config(format!("{key} {seconds} is more than 600"))),
    }
}

/// The MAC and the addresses that the runtime asks for, by capability or by the older `args` convention.
fn requested(keys: &Keys) -> Result<(Option<[u8; 6]>, Vec<IpAddr>), CniError> {
    let sources = [keys.object("runtimeConfig")?, keys.object("args")?.object("cni")?];
    let (mut mac, mut addresses) = (None, Vec::new());
    for source in &sources {
        if let Some(text) = source.string("mac")?.filter(|text| mac.is_none() && !text.is_empty()) {
            mac = Some(parse_mac(&source.path_of("mac"), text)?);
        }
        if addresses.is_empty() {
            let path = source.path_of("ips");
            let texts = source.strings("ips")?;
            addresses = texts.iter().map(|text| parse_address(&path, text)).collect::<Result<_, _>>()?;
        }
    }
    Ok((mac, addresses))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(value: &Value) -> Result<NetConf, (CniVersion, CniError)> {
        NetConf::parse(value.to_string().as_bytes())
    }

    #[test]
    fn a_short_configuration_has_calicos_defaults() {
        let conf =
            parse(&json!({"cniVersion": "1.0.0", "name": "pods", "ipam": {"type": "calico-ipam"}})).unwrap();

        assert_eq!(conf.felix_socket, PathBuf::from(DEFAULT_SOCKET));
        assert_eq!(conf.mtu, None);
        assert_eq!((conf.ipam.ipv4, conf.ipam.ipv6), (true, false));
        assert!(!conf.allow_ip_forwarding);
        assert_eq!(conf.log.level, Level::Info);
    }

    #[test]
    fn calicos_own_template_is_understood() {
        let conf = parse(&json!({
            "cniVersion": "0.3.1", "name": "k8s-pod-network", "type": "calico",
            "log_level": "Debug", "log_file_path": "/var/log/calico/cni/cni.log",
            "datastore_type": "kubernetes", "nodename": "node-1", "nodename_file": "/var/lib/calico/nodename",
            "mtu": 0,
            "ipam": {"type": "calico-ipam", "assign_ipv4": "true", "assign_ipv6": "true", "ipv4_pools": ["a", "10.0.0.0/16"]},
            "container_settings": {"allow_ip_forwarding": true},
            "policy": {"type": "k8s"}, "policy_setup_timeout_seconds": 7,
            "kubernetes": {"kubeconfig": "/etc/cni/net.d/calico-kubeconfig"},
            "runtimeConfig": {"mac": "02-00-5E-00-53-01", "ips": ["10.0.0.7/24", "fd00::7"]}
        }))
        .unwrap();

        assert!(conf.ipam.ipv4 && conf.ipam.ipv6 && conf.allow_ip_forwarding);
        assert_eq!(conf.ipam.ipv4_pools, ["a", "10.0.0.0/16"]);
        assert_eq!(conf.mac, Some([2, 0, 0x5e, 0, 0x53, 1]));
        assert_eq!(conf.addresses.len(), 2);
        assert_eq!(conf.policy_setup_timeout_seconds, 7);
    }

    #[test]
    fn the_capability_goes_before_the_convention() {
        let conf = parse(&json!({
            "cniVersion": "1.0.0", "name": "pods", "ipam": {"type": "calico-ipam"},
            "runtimeConfig": {"ips": ["10.0.0.7"]},
            "args": {"cni": {"ips": ["10.0.0.8"], "mac": "02:00:5e:00:53:02"}}
        }))
        .unwrap();

        assert_eq!(conf.addresses, ["10.0.0.7".parse::<IpAddr>().unwrap()]);
        assert_eq!(conf.mac, Some([2, 0, 0x5e, 0, 0x53, 2]));
    }

    #[test]
    fn what_is_no_json_is_code_6() {
        for text in ["", "{", "[]", "\"x\"", "{\"a\":1} trailing"] {
            let (_, error) = NetConf::parse(text.as_bytes()).unwrap_err();

            assert_eq!(error.code, 6, "{text}");
        }
    }

    #[test]
    fn a_wrong_key_is_named_with_the_version_of_the_caller() {
        let cases = [
            (json!({"name": "a b"}), 7, "name"),
            (json!({"name": null}), 7, "name"),
            (json!({"mtu": "big"}), 7, "mtu: expected"),
            (json!({"mtu": -1}), 7, "mtu"),
            (json!({"mtu": 70000}), 7, "mtu 70000"),
            (json!({"felix_socket": "felix.sock"}), 7, "felix_socket"),
            (json!({"felix_socket": format!("/{}", "x".repeat(120))}), 7, "felix_socket"),
            (json!({"ipam": []}), 7, "ipam: expected an object"),
            (json!({"ipam": {"type": "../../bin/sh"}}), 7, "ipam.type"),
            (json!({"feature_control": {"floating_ips": "on"}}), 7, "feature_control.floating_ips"),
            (json!({"require_mtu_file": 1}), 7, "require_mtu_file"),
            (json!({"ipam": {"type": "calico-ipam", "assign_ipv4": "yes"}}), 7, "ipam.assign_ipv4"),
            (json!({"ipam": {"type": "calico-ipam", "assign_ipv4": false}}), 7, "assign_ipv6"),
            (json!({"ipam": {"ipv4_pools": "a"}}), 7, "ipam.ipv4_pools"),
            (
                json!({"container_settings": {"allow_ip_forwarding": 1}}),
                7,
                "container_settings.allow_ip_forwarding",
            ),
            (json!({"runtimeConfig": {"mac": "x"}}), 7, "runtimeConfig.mac"),
            (json!({"args": {"cni": {"ips": ["10.0.0"]}}}), 7, "args.cni.ips"),
            (json!({"log_level": "loud"}), 7, "log_level"),
            (json!({"policy_setup_timeout_seconds": 100_000}), 7, "policy_setup_timeout_seconds"),
            (json!({"prevResult": {"ips": 3}}), 7, "prevResult"),
        ];
        for (change, code, named) in cases {
            let mut conf = json!({"cniVersion": "0.4.0", "name": "pods", "ipam": {"type": "calico-ipam"}});
            for (key, value) in change.as_object().unwrap() {
                conf[key] = value.clone();
            }

            let (version, error) = parse(&conf).unwrap_err();

            assert_eq!((version, error.code), (CniVersion::V0_4_0, code), "{change}: {error}");
            assert!(error.msg.contains(named), "{change}: {}", error.msg);
        }
    }

    #[test]
    fn a_version_of_the_future_is_code_1() {
        let (_, error) = parse(&json!({"cniVersion": "2.0.0", "name": "pods"})).unwrap_err();

        assert_eq!(error.code, 1);
    }
}
