//! What a runtime says in the environment: the verb, the container, its namespace, `CNI_ARGS`.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::error::CniError;

/// What the runtime wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

/// The environment of one call, checked for its verb.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    pub verb: Verb,
    /// `CNI_CONTAINERID`; empty for GC, STATUS and VERSION.
    pub container_id: String,
    /// `CNI_NETNS`; `None` where a DEL comes without.
    pub netns: Option<PathBuf>,
    /// `CNI_IFNAME`.
    pub interface: String,
    pub args: Args,
    /// `CNI_PATH`, split.
    pub path: Vec<PathBuf>,
}

/// `CNI_ARGS`, as far as it concerns us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args {
    /// `K8S_POD_NAMESPACE`; empty where the runtime knows none (podman).
    pub namespace: String,
    /// `K8S_POD_NAME`.
    pub pod: String,
    /// `K8S_POD_UID`.
    pub uid: String,
    /// `IP`: one address or several with commas between.
    pub addresses: Vec<IpAddr>,
    /// `MAC`.
    pub mac: Option<[u8; 6]>,
}

impl Verb {
    fn parse(text: &str) -> Result<Self, CniError> {
        match text {
            "ADD" => Ok(Self::Add),
            "DEL" => Ok(Self::Del),
            "CHECK" => Ok(Self::Check),
            "GC" => Ok(Self::Gc),
            "STATUS" => Ok(Self::Status),
            "VERSION" => Ok(Self::Version),
            "" => Err(CniError::environment(
                "CNI_COMMAND is not set: a container runtime sets it; by hand see `calico --help`",
            )),
            other => Err(CniError::environment(format!(
                "CNI_COMMAND {other:?} is unknown: expected ADD, DEL, CHECK, GC, STATUS or VERSION"
            ))),
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// Whether the verb is about one container.
    fn is_about_a_container(self) -> bool {
        matches!(self, Self::Add | Self::Del | Self::Check)
    }
}

impl Invocation {
    /// Reads the variables through `var`, which is [`std::env::var_os`] outside of tests.
    pub fn read(var: impl Fn(&str) -> Option<OsString>) -> Result<Self, CniError> {
        let text = |name: &str| -> Result<String, CniError> {
            var(name).unwrap_or_default().into_string().map_err(|value| {
                CniError::environment(format!("{name} is not valid UTF-8: {}", value.to_string_lossy()))
            })
        };
        let verb = Verb::parse(&text("CNI_COMMAND")?)?;
        let path: Vec<_> = var("CNI_PATH").map(|v| std::env::split_paths(&v).collect()).unwrap_or_default();
        if !verb.is_about_a_container() {
            let (container_id, interface) = (String::new(), String::new());
            return Ok(Self { verb, container_id, netns: None, interface, args: Args::default(), path });
        }
        let container_id = text("CNI_CONTAINERID")?;
        check_container_id(&container_id)?;
        let interface = text("CNI_IFNAME")?;
        check_interface(&interface)?;
        let netns = var("CNI_NETNS").filter(|value| !value.is_empty()).map(PathBuf::from);
        if netns.is_none() && verb != Verb::Del {
            return Err(CniError::environment(format!(
                "CNI_NETNS is not set: {} needs the path of the container's network namespace",
                verb.as_str()
            )));
        }
        // A DEL gets along without the arguments: a value that ADD would refuse must not keep the pod from going.
        let args = match Args::parse(&text("CNI_ARGS")?) {
            Ok(args) => args,
            Err(error) if verb != Verb::Del => return Err(error),
            Err(_) => Args::default(),
        };
        Ok(Self { verb, container_id, netns, interface, args, path })
    }
}

impl Args {
    /// Parses `KEY=VALUE;KEY=VALUE`, in any order.
    pub fn parse(text: &str) -> Result<Self, CniError> {
        let mut args = Self::default();
        let mut unknown = None;
        let mut ignore_unknown = false;
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(CniError::environment(format!("CNI_ARGS: {pair:?} is not KEY=VALUE")));
            };
            match key {
                "IgnoreUnknown" => ignore_unknown = parse_bool(value)?,
                "K8S_POD_NAMESPACE" => args.namespace = value.to_owned(),
                "K8S_POD_NAME" => args.pod = value.to_owned(),
                "K8S_POD_UID" => args.uid = value.to_owned(),
                "K8S_POD_INFRA_CONTAINER_ID" => {}
                "IP" if value.is_empty() => {}
                "IP" => {
                    for address in value.split(',') {
                        args.addresses.push(parse_address("CNI_ARGS IP", address)?);
                    }
                }
                "MAC" if value.is_empty() => {}
                "MAC" => args.mac = Some(parse_mac("CNI_ARGS MAC", value)?),
                other => unknown = unknown.or(Some(other)),
            }
        }
        match unknown {
            Some(key) if !ignore_unknown => Err(CniError::environment(format!(
                "CNI_ARGS: {key:?} is unknown: remove it or add IgnoreUnknown=1"
            ))),
            _ => Ok(args),
        }
    }
}

/// An address with or without a prefix length, which is dropped: a pod gets /32 or /128.
pub(crate) fn parse_address(what: &str, text: &str) -> Result<IpAddr, CniError> {
    let address = text.split_once('/').map_or(text, |(address, _)| address).trim();
    address.parse().map_err(|_| CniError::config(format!("{what}: {text:?} is not an IP address")))
}

/// A unicast MAC such as `02:00:5e:00:53:01`.
pub(crate) fn parse_mac(what: &str, text: &str) -> Result<[u8; 6], CniError> {
    let invalid =
        || CniError::config(format!("{what}: {text:?} is not a unicast MAC such as 02:00:5e:00:53:01"));
    let mut mac = [0; 6];
    let mut octets = text.split([':', '-']);
    for byte in &mut mac {
        let octet = octets.next().filter(|o| o.len() == 2 && o.bytes().all(|b| b.is_ascii_hexdigit()));
        *byte = octet.and_then(|o| u8::from_str_radix(o, 16).ok()).ok_or_else(invalid)?;
    }
    if octets.next().is_some() || mac[0] & 1 == 1 || mac == [0; 6] {
        return Err(invalid());
    }
    Ok(mac)
}

fn parse_bool(value: &str) -> Result<bool, CniError> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" => Ok(true),
        "0" | "false" | "" => Ok(false),
        _ => Err(CniError::environment(format!(
            "CNI_ARGS IgnoreUnknown: {value:?} is not 1, 0, true or false"
        ))),
    }
}

/// Specification: starts with a letter or digit; then also `_`, `.`, `-`. It becomes a file name, so it is bounded.
fn check_container_id(id: &str) -> Result<(), CniError> {
    if id.is_empty() {
        return Err(CniError::environment("CNI_CONTAINERID is not set"));
    }
    if is_identifier(id) && id.len() <= MAX_CONTAINER_ID {
        return Ok(());
    }
    Err(CniError::environment(format!(
        "CNI_CONTAINERID {id:?} is invalid: at most {MAX_CONTAINER_ID} letters, digits, '_', '.', '-', starting with a letter or digit"
    )))
}

/// Starts with a letter or digit, goes on with these and `_`, `.`, `-`.
pub(crate) fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn check_interface(name: &str) -> Result<(), CniError> {
    let problem = match name {
        "" => "is not set",
        "." | ".." => "must not be . or ..",
        "lo" => "must not be the loopback interface",
        _ if name.len() > 15 => "is longer than 15 bytes",
        _ if name
            .bytes()
            .any(|b| b == b'/' || b == b':' || b.is_ascii_whitespace() || b.is_ascii_control()) =>
        {
            "contains '/', ':', white space or a control character"
        }
        _ => return Ok(()),
    };
    Err(CniError::environment(format!("CNI_IFNAME {name:?} {problem}")))
}

/// Longest container ID that still fits an interface alias and a file name with a suffix.
const MAX_CONTAINER_ID: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Invocation, CniError> {
        let find =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, v)| OsString::from(v));
        Invocation::read(find)
    }

    const ADD: [(&str, &str); 5] = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/run/netns/x"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/opt/cni/bin:/usr/lib/cni"),
    ];

    #[test]
    fn containerds_arguments_are_taken_in_any_order() {
        let expected =
            Args { namespace: "prod".into(), pod: "web-0".into(), uid: "u-1".into(), ..Args::default() };

        for text in [
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=u-1",
            "K8S_POD_UID=u-1;K8S_POD_NAME=web-0;K8S_POD_NAMESPACE=prod;Extra=7;IgnoreUnknown=true",
        ] {
            assert_eq!(Args::parse(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn podmans_arguments_have_no_namespace() {
        let args = Args::parse("IgnoreUnknown=1;K8S_POD_NAME=box;MAC=02:00:5e:00:53:01;IP=10.1.0.7").unwrap();

        assert_eq!((args.namespace.as_str(), args.pod.as_str()), ("", "box"));
        assert_eq!(args.addresses, ["10.1.0.7".parse::<IpAddr>().unwrap()]);
        assert_eq!(args.mac, Some([2, 0, 0x5e, 0, 0x53, 1]));
    }

    #[test]
    fn wrong_arguments_are_named() {
        for (text, code, named) in [
            ("K8S_POD_NAME", 4, "K8S_POD_NAME"),
            ("Extra=1", 4, "Extra"),
            ("Extra=1;IgnoreUnknown=0", 4, "Extra"),
            ("IgnoreUnknown=perhaps", 4, "IgnoreUnknown"),
            ("IP=10.0.0.300", 7, "10.0.0.300"),
            ("MAC=01:00:5e:00:00:01", 7, "MAC"),
            ("MAC=02:00:5e:00:00", 7, "MAC"),
            ("MAC=+2:00:5e:00:00:01", 7, "MAC"),
        ] {
            let error = Args::parse(text).unwrap_err();

            assert_eq!(error.code, code, "{text}");
            assert!(error.msg.contains(named), "{}", error.msg);
        }
    }

    #[test]
    fn an_add_takes_everything() {
        let call = read(&ADD).unwrap();

        assert_eq!(call.verb, Verb::Add);
        assert_eq!(call.netns, Some("/run/netns/x".into()));
        assert_eq!(call.path, [PathBuf::from("/opt/cni/bin"), PathBuf::from("/usr/lib/cni")]);
    }

    #[test]
    fn a_missing_or_wrong_variable_is_code_4_and_named() {
        for (name, value) in [
            ("CNI_COMMAND", ""),
            ("CNI_COMMAND", "add"),
            ("CNI_CONTAINERID", ""),
            ("CNI_CONTAINERID", "../../etc/passwd"),
            ("CNI_CONTAINERID", ".hidden"),
            ("CNI_NETNS", ""),
            ("CNI_IFNAME", ""),
            ("CNI_IFNAME", "eth0/../x"),
            ("CNI_IFNAME", "a name"),
            ("CNI_IFNAME", "sixteen-letters0"),
        ] {
            let variables = ADD.map(|(key, old)| if key == name { (key, value) } else { (key, old) });
            let error = read(&variables).unwrap_err();

            assert_eq!(error.code, 4, "{name}={value}");
            assert!(error.msg.contains(name), "{}", error.msg);
        }
    }

    #[test]
    fn a_del_needs_no_namespace_and_no_sound_arguments() {
        let call = read(&[
            ("CNI_COMMAND", "DEL"),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_NETNS", ""),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", "nonsense"),
        ])
        .unwrap();

        assert_eq!(call.netns, None);
        assert_eq!(call.args, Args::default());
    }

    #[test]
    fn a_verb_about_no_container_needs_nothing_else() {
        for verb in ["VERSION", "STATUS", "GC"] {
            assert_eq!(read(&[("CNI_COMMAND", verb)]).unwrap().verb.as_str(), verb);
        }
    }
}
