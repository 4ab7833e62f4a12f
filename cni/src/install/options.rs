//! What `calico install` is asked for: options first, then variables of the environment, then defaults.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::config::DEFAULT_SOCKET;

/// Where to install what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) bin_dirs: Vec<PathBuf>,
    pub(super) net_dir: PathBuf,
    pub(super) conf_name: String,
    /// Removed when it has another name.
    pub(super) old_conf_name: Option<String>,
    pub(super) source_dir: PathBuf,
    pub(super) felix_socket: String,
    pub(super) mtu: u32,
    pub(super) log_level: String,
    pub(super) log_file: String,
    pub(super) node_name: String,
    /// The configuration itself, instead of the default one.
    pub(super) network_config: Option<String>,
    /// A file with the configuration; goes before `network_config`.
    pub(super) network_config_file: Option<PathBuf>,
    /// Replace plugins that are there.
    pub(super) update: bool,
    pub(super) skip: Vec<String>,
    pub(super) uninstall: bool,
    /// Plugins, and no configuration.
    pub(super) binaries_only: bool,
    /// The configuration alone, as soon as the agent can serve ADD.
    pub(super) when_ready: bool,
    /// Then wait for SIGTERM, as a container that is to be running does.
    pub(super) stay: bool,
}

impl Options {
    /// `None` when help is asked for.
    pub(super) fn parse(
        arguments: &[OsString],
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, String> {
        let mut options = Self::from_env(|name| env(name).filter(|value| !value.is_empty()))?;
        let mut bin_dirs = Vec::new();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let text = argument.to_str().ok_or("an option is not valid UTF-8")?;
            let (name, inline) = match text.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (text, None),
            };
            let mut value = || match &inline {
                Some(value) => Ok(value.clone()),
                None => {
                    let next = arguments.next().and_then(|value| value.to_str());
                    next.map(str::to_owned).ok_or_else(|| format!("{name} needs a value"))
                }
            };
            match name {
                "--bin-dir" => bin_dirs.push(value()?.into()),
                "--net-dir" => options.net_dir = value()?.into(),
                "--conf-name" => options.conf_name = value()?,
                "--source-dir" => options.source_dir = value()?.into(),
                "--felix-socket" => options.felix_socket = value()?,
                "--mtu" => options.mtu = parse_mtu("--mtu", &value()?)?,
                "--log-level" => options.log_level = value()?,
                "--log-file" => options.log_file = value()?,
                "--uninstall" => options.uninstall = true,
                "--binaries-only" => options.binaries_only = true,
                "--when-ready" => options.when_ready = true,
                "--stay" => options.stay = true,
                "-h" | "--help" => return Ok(None),
                _ => return Err(format!("unknown option {text:?}")),
            }
        }
        if !bin_dirs.is_empty() {
            options.bin_dirs = bin_dirs;
        }
        if options.binaries_only && options.when_ready {
            return Err("--binaries-only and --when-ready exclude each other".to_owned());
        }
        let names = [Some(&options.conf_name), options.old_conf_name.as_ref()];
        if let Some(name) = names.into_iter().flatten().find(|name| name.is_empty() || name.contains('/')) {
            return Err(format!("{name:?} is no file name for the configuration"));
        }
        Ok(Some(options))
    }

    fn from_env(env: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let own = std::env::current_exe().ok().and_then(|path| path.parent().map(Path::to_owned));
        let in_container = |path: &str| Some(PathBuf::from(path)).filter(|path| path.is_dir());
        let mut bin_dirs: Vec<_> = HOST_BIN_DIRS.iter().filter_map(|path| in_container(path)).collect();
        if bin_dirs.is_empty() {
            bin_dirs.push("/opt/cni/bin".into());
        }
        let net_dir = env("CNI_NET_DIR").unwrap_or_else(|| "/etc/cni/net.d".to_owned());
        let or = |name: &str, default: &str| env(name).unwrap_or_else(|| default.to_owned());
        Ok(Self {
            bin_dirs,
            net_dir: in_container("/host/etc/cni/net.d").unwrap_or(net_dir.into()),
            conf_name: or("CNI_CONF_NAME", "10-calico.conflist"),
            old_conf_name: env("CNI_OLD_CONF_NAME"),
            source_dir: own.unwrap_or_else(|| "/opt/cni/bin".into()),
            felix_socket: or("FELIX_SOCKET", DEFAULT_SOCKET),
            mtu: parse_mtu("CNI_MTU", &or("CNI_MTU", "0"))?,
            log_level: or("LOG_LEVEL", "info"),
            log_file: or("LOG_FILE_PATH", "/var/log/calico/cni/cni.log"),
            node_name: or("KUBERNETES_NODE_NAME", ""),
            network_config: env("CNI_NETWORK_CONFIG"),
            network_config_file: env("CNI_NETWORK_CONFIG_FILE").map(PathBuf::from),
            update: or("UPDATE_CNI_BINARIES", "true") != "false",
            skip: or("SKIP_CNI_BINARIES", "").split(',').map(|name| name.trim().to_owned()).collect(),
            uninstall: false,
            binaries_only: false,
            when_ready: false,
            stay: false,
        })
    }
}

fn parse_mtu(what: &str, text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(mtu @ (0 | 68..=65535)) => Ok(mtu),
        _ => Err(format!("{what} {text:?} is neither 0 nor between 68 and 65535")),
    }
}

/// Where the node's directories are mounted in an init container.
const HOST_BIN_DIRS: [&str; 2] = ["/host/opt/cni/bin", "/host/secondary-bin-dir"];

/// What `calico install --help` prints.
pub const USAGE: &str = "\
Usage: calico install [options]

Installs the CNI plugins and the network configuration; replaces files as a whole, so it may be repeated at any time.

  --bin-dir DIR       where plugins go; may be repeated (/host/opt/cni/bin and /host/secondary-bin-dir, as far as
                      they are mounted, else /opt/cni/bin)
  --net-dir DIR       where the configuration goes (/host/etc/cni/net.d if mounted, else CNI_NET_DIR, else /etc/cni/net.d)
  --conf-name NAME    its file name (CNI_CONF_NAME, else 10-calico.conflist)
  --source-dir DIR    where the plugins are (beside this binary)
  --felix-socket PATH socket of the node agent (FELIX_SOCKET, else /var/run/calico/felix.sock)
  --mtu BYTES         MTU of pods; 0 lets the node agent choose (CNI_MTU, else 0)
  --log-level LEVEL   error, warn, info or debug (LOG_LEVEL, else info)
  --log-file PATH     (LOG_FILE_PATH, else /var/log/calico/cni/cni.log)
  --binaries-only     installs the plugins and no configuration
  --when-ready        installs the configuration alone, as soon as the node agent can serve pods
  --stay              then waits for SIGTERM; the configuration stays
  --uninstall         removes the configuration and the plugins calico and calico-ipam
  -h, --help          prints this

More variables of the environment: CNI_NETWORK_CONFIG (the configuration itself), CNI_NETWORK_CONFIG_FILE (a file with
it), CNI_OLD_CONF_NAME (removed), UPDATE_CNI_BINARIES=false (keep plugins that are there), SKIP_CNI_BINARIES (names
with commas between), KUBERNETES_NODE_NAME.
";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str], env: &[(&str, &str)]) -> Result<Option<Options>, String> {
        let arguments: Vec<_> = arguments.iter().map(OsString::from).collect();
        let find = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, v)| (*v).to_owned());
        Options::parse(&arguments, find)
    }

    #[test]
    fn options_go_before_the_environment_and_that_before_defaults() {
        let env = [
            ("CNI_MTU", "1400"),
            ("CNI_CONF_NAME", "05-x.conflist"),
            ("SKIP_CNI_BINARIES", "portmap, tuning"),
        ];
        let options = parse(&["--mtu=1300", "--bin-dir", "/a", "--bin-dir", "/b"], &env).unwrap().unwrap();

        assert_eq!((options.mtu, options.conf_name.as_str()), (1300, "05-x.conflist"));
        assert_eq!(options.bin_dirs, [PathBuf::from("/a"), PathBuf::from("/b")]);
        assert_eq!(options.skip, ["portmap", "tuning"]);
        assert!(options.update && !options.uninstall);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (arguments, named) in [
            (vec!["--mtu", "big"], "--mtu"),
            (vec!["--mtu"], "--mtu"),
            (vec!["--conf-name", "../x"], "../x"),
            (vec!["--frobnicate"], "--frobnicate"),
            (vec!["--when-ready", "--binaries-only"], "exclude each other"),
        ] {
            assert!(parse(&arguments, &[]).unwrap_err().contains(named), "{arguments:?}");
        }
        assert!(parse(&[], &[("CNI_MTU", "x")]).unwrap_err().contains("CNI_MTU"));
        assert_eq!(parse(&["--help"], &[]).unwrap(), None);
    }
}
