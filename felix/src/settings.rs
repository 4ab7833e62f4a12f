//! What the agent is told when it starts: command line, then environment (`FELIX_*` and calico-node's own), then its
//! configuration file.
//!
//! Owns names, defaults and precedence. Never reads the datastore: what can change while the agent runs is
//! [`model::FelixConfiguration`], over which [`Overrides`] from file and environment win.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use datastore::typha;
use model::{FelixConfiguration, Listener, LogSeverity, NodeName, SettingNote, SettingReason, SettingSource};
use proto::node::DEL_QUEUE;

use crate::config_file;
use crate::start_settings::StartSettings;
use crate::variables;

/// The command line.
#[derive(Clone, Debug, clap::Parser)]
#[command(
    name = "felix",
    version,
    about = "Node agent of Ocicat: pod routes, policy and addresses of one node"
)]
pub struct Arguments {
    /// Name of this node in Kubernetes [env: NODENAME, FELIX_FELIXHOSTNAME, HOSTNAME; default: the host's name].
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Kubeconfig of the API server [env: KUBECONFIG; default: the pod's service account].
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Where the CNI plugin reaches the agent.
    #[arg(long, value_name = "PATH", default_value = "/var/run/calico/felix.sock")]
    pub socket: PathBuf,
    /// Where endpoints are kept from one run to the next.
    #[arg(long, value_name = "DIR", default_value = "/var/run/calico/felix")]
    pub state_dir: PathBuf,
    /// Address of /liveness and /readiness [env: FELIX_HEALTHHOST, FELIX_HEALTHPORT; default: 127.0.0.1:9099].
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub health_listen: Option<SocketAddr>,
    /// Address of /metrics besides the health address [env: FELIX_PROMETHEUSMETRICSENABLED and ...PORT, ...HOST].
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics_listen: Option<SocketAddr>,
    /// trace, debug, info, warning or error [env: FELIX_LOGSEVERITYSCREEN; default: the cluster's, else info].
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<LogSeverity>,
    /// File of settings, between the cluster's and the environment's in precedence; it need not exist.
    #[arg(long, value_name = "FILE", default_value = config_file::PLACE)]
    pub config_file: PathBuf,
    /// Where sysctls are written in place of /proc/sys, which containers have read-only: below it, the host's
    /// /proc/sys/net is mounted at `net`.
    #[arg(long, value_name = "DIR", env = "OCICAT_PROC_SYS")]
    pub proc_sys: Option<PathBuf>,
    /// Seconds after which addresses that nobody on this node uses are taken back, 0 for never [env:
    /// OCICAT_LEAK_GRACE; default: leakGracePeriod of the KubeControllersConfiguration, else 300].
    #[arg(long, value_name = "SECONDS")]
    pub leak_grace: Option<u64>,
    /// How log lines look.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// One line of text, or one JSON object, a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// Everything that stays as it is until the process ends.
#[derive(Clone, Debug)]
pub struct Settings {
    pub node: NodeName,
    pub kubeconfig: Option<PathBuf>,
    pub socket: PathBuf,
    pub state_dir: PathBuf,
    pub health_listen: SocketAddr,
    pub metrics_listen: Option<SocketAddr>,
    /// How long addresses must be unused before they are taken back, zero for ever; `None` leaves it to the cluster's
    /// settings.
    pub leak_grace: Option<Duration>,
    pub log_format: LogFormat,
    pub start: StartSettings,
    pub overrides: Overrides,
    /// How typha is used; `None` for the API server itself.
    pub typha: Result<Option<typha::Settings>, typha::WrongSetting>,
}

/// Settings from the configuration file and the environment that win over every `FelixConfiguration`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Of the configuration file, by Calico's names.
    file: BTreeMap<String, String>,
    /// `FELIX_*`, in capitals.
    variables: BTreeMap<String, String>,
    /// From the command line, which wins over the environment.
    log_severity: Option<LogSeverity>,
}

/// A setting that could not be understood; its default is in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}={value:?} is ignored: {reason}")]
pub struct IgnoredSetting {
    pub key: String,
    pub value: String,
    pub reason: String,
}

impl Settings {
    /// Joins command line, environment and the text of the configuration file; what cannot be understood is named in
    /// the second part.
    pub fn new(
        arguments: Arguments,
        environment: impl IntoIterator<Item = (String, String)>,
        file: &str,
        host_name: &str,
    ) -> (Self, Vec<IgnoredSetting>) {
        let mut env = Environment::new(environment);
        let (file, not_understood) = config_file::parse(file);
        env.ignored.extend(not_understood);
        let of_file = |name: &str| {
            let found = file.iter().find(|(key, value)| key.eq_ignore_ascii_case(name) && !value.is_empty());
            found.map(|(_, value)| value.clone())
        };
        let node = arguments
            .node_name
            .or_else(|| env.text("NODENAME"))
            .or_else(|| env.text("FELIX_FELIXHOSTNAME"))
            .or_else(|| of_file("FelixHostname"))
            .unwrap_or_else(|| env.text("HOSTNAME").as_deref().unwrap_or(host_name).to_lowercase());
        let overrides = Overrides { file, variables: env.felix(), log_severity: arguments.log_level };
        let configuration = overrides.apply(FelixConfiguration::default());
        env.ignored.extend(configuration.notes.iter().map(IgnoredSetting::from));
        let address = |listener: Listener| SocketAddr::new(listener.host, listener.port);
        let metrics = configuration.metrics.enabled.then(|| address(configuration.metrics));
        let fallback = env.text("OCICAT_TYPHA_FALLBACK");
        let typha = typha::Settings::from_parameters(|name| overrides.of_process(name), fallback.as_deref());
        let settings = Self {
            typha,
            node: NodeName::from(node.as_str()),
            kubeconfig: arguments.kubeconfig.or_else(|| env.text("KUBECONFIG").map(PathBuf::from)),
            socket: arguments.socket,
            state_dir: arguments.state_dir,
            health_listen: arguments.health_listen.unwrap_or(address(configuration.health)),
            metrics_listen: arguments.metrics_listen.or(metrics),
            leak_grace: env.leak_grace(arguments.leak_grace),
            log_format: arguments.log_format,
            start: StartSettings::read(&env),
            overrides,
        };
        (settings, env.ignored)
    }

    /// Where the CNI plugin leaves the DELs that it could not tell the agent: [`DEL_QUEUE`].
    pub fn del_queue(&self) -> PathBuf {
        self.socket.with_file_name(DEL_QUEUE)
    }
}

impl From<&SettingNote> for IgnoredSetting {
    fn from(note: &SettingNote) -> Self {
        Self { key: note.name.clone(), value: note.value.clone(), reason: note.reason.to_string() }
    }
}

impl Overrides {
    /// The log level, when the environment or the command line says one.
    pub fn log_severity(&self) -> Option<LogSeverity> {
        self.apply(FelixConfiguration::default()).log_severity
    }

    /// The configuration in force, given what the cluster says. What is not in force as it was given, here or
    /// there, stands in its notes.
    pub fn apply(&self, mut cluster: FelixConfiguration) -> FelixConfiguration {
        for (name, value) in &self.file {
            cluster.set_parameter(name, value, &SettingSource::File);
        }
        for (name, value) in &self.variables {
            cluster.set_parameter(name, value, &SettingSource::Environment);
        }
        if let Some(pattern) = cluster.mtu_iface_pattern.take() {
            match regex::Regex::new(&pattern) {
                Ok(_) => cluster.mtu_iface_pattern = Some(pattern),
                Err(error) => cluster.notes.push(self.invalid_pattern(pattern, &error)),
            }
        }
        cluster.log_severity = self.log_severity.or(cluster.log_severity);
        cluster
    }

    /// A parameter that counts from the start on, as environment or configuration file give it.
    fn of_process(&self, name: &str) -> Option<String> {
        let variable = format!("FELIX_{}", name.to_ascii_uppercase());
        debug_assert!(variables::is_known(&variable), "felix::variables does not list {variable}");
        let variable = self.variables.get(&variable);
        let of_file =
            || self.file.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        variable.or_else(of_file).cloned()
    }

    /// The same without the configuration file.
    pub fn of_environment(&self) -> Self {
        Self { file: BTreeMap::new(), ..self.clone() }
    }

    fn invalid_pattern(&self, pattern: String, error: &regex::Error) -> SettingNote {
        let name = "FELIX_MTUIFACEPATTERN";
        let (name, source) = match self.variables.contains_key(name) {
            true => (name, SettingSource::Environment),
            false => ("mtuIfacePattern", SettingSource::Default),
        };
        let reason = SettingReason::Invalid(error.to_string());
        SettingNote { name: name.to_owned(), value: pattern, source, reason }
    }
}

/// The environment, and what of it made no sense.
pub struct Environment {
    values: BTreeMap<String, String>,
    ignored: Vec<IgnoredSetting>,
}

impl Environment {
    /// Names are told apart without regard to case, as Calico does; blanks around a value are none of it, and an empty
    /// value counts as absent.
    pub fn new(values: impl IntoIterator<Item = (String, String)>) -> Self {
        let values = values.into_iter().map(|(key, value)| (key, value.trim().to_owned()));
        let values = values.filter(|(_, value)| !value.is_empty());
        Self {
            values: values.map(|(key, value)| (key.to_ascii_uppercase(), value)).collect(),
            ignored: Vec::new(),
        }
    }

    /// The agent's own variables.
    fn felix(&self) -> BTreeMap<String, String> {
        let own = self.values.iter().filter(|(key, _)| key.starts_with("FELIX_"));
        own.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    pub fn text(&self, key: &str) -> Option<String> {
        debug_assert!(variables::is_known(key), "felix::variables does not list {key}");
        self.values.get(key).cloned()
    }

    fn leak_grace(&mut self, argument: Option<u64>) -> Option<Duration> {
        argument.or_else(|| self.parse("OCICAT_LEAK_GRACE")).map(Duration::from_secs)
    }

    fn parse<T: FromStr<Err: std::fmt::Display>>(&mut self, key: &str) -> Option<T> {
        self.parse_with(key, |text| text.parse().map_err(|error: T::Err| error.to_string()))
    }

    fn parse_with<T>(&mut self, key: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let value = self.text(key)?;
        match parse(&value) {
            Ok(parsed) => Some(parsed),
            Err(reason) => {
                self.ignored.push(IgnoredSetting { key: key.to_owned(), value, reason });
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;
    use model::{ChainInsertMode, EndpointToHostAction};

    use super::*;

    #[test]
    fn the_command_line_wins_over_the_environment() {
        let (settings, ignored) = settings(
            &["--node-name", "a", "--health-listen", "127.0.0.1:1", "--log-level", "debug"],
            &[("NODENAME", "b"), ("FELIX_HEALTHPORT", "2"), ("FELIX_LOGSEVERITYSCREEN", "Error")],
        );

        assert_eq!(ignored, []);
        assert_eq!(settings.node.as_str(), "a");
        assert_eq!(settings.health_listen.port(), 1);
        let configuration = settings.overrides.apply(FelixConfiguration::default());
        assert_eq!(configuration.log_severity, Some(LogSeverity::Debug));
    }

    #[test]
    fn the_node_is_named_by_nodename_then_felixhostname_then_the_host() {
        let name = |env: &[(&str, &str)]| settings(&[], env).0.node.to_string();

        assert_eq!(name(&[("NODENAME", "a"), ("FELIX_FELIXHOSTNAME", "b")]), "a");
        assert_eq!(name(&[("Felix_FelixHostname", "b")]), "b");
        assert_eq!(name(&[("NODENAME", " ")]), "host");
        assert_eq!(name(&[("NODENAME", " Node-1 "), ("HOSTNAME", "c")]), "Node-1");
        assert_eq!(name(&[("HOSTNAME", "C")]), "c");
    }

    #[test]
    fn the_environment_wins_over_the_cluster() {
        let env = [
            ("FELIX_DEFAULTENDPOINTTOHOSTACTION", "DROP"),
            ("FELIX_IPINIPMTU", "1380"),
            ("FELIX_ROUTEREFRESHINTERVAL", "1.5"),
            ("FELIX_IPV6SUPPORT", "false"),
        ];

        let configuration = settings(&[], &env).0.overrides.apply(FelixConfiguration::default());

        assert_eq!(configuration.endpoint_to_host_action, EndpointToHostAction::Drop);
        assert_eq!((configuration.mtu, configuration.tunnel_mtus.ipip), (None, Some(1380)));
        assert_eq!(configuration.route_refresh_interval, Duration::from_millis(1500));
        assert!(!configuration.ipv6);
        assert_eq!(configuration.interface_prefix, "cali");
    }

    #[test]
    fn the_file_stands_between_the_cluster_and_the_environment() {
        let file = "[global]\nFelixHostname = c\nMTU = 1400\nchaininsertmode = append\nGuess = 1\nBPFLogLevel = info\n";
        let env = [("FELIX_MTU".to_owned(), "1300".to_owned())];
        let (settings, ignored) = Settings::new(Arguments::parse_from(["felix"]), env, file, "host");
        let cluster = FelixConfiguration {
            mtu: Some(1200),
            chain_insert_mode: ChainInsertMode::Insert,
            ..FelixConfiguration::default()
        };

        let configuration = settings.overrides.apply(cluster);

        assert_eq!(settings.node.as_str(), "c");
        assert_eq!(configuration.mtu, Some(1300));
        assert_eq!(configuration.chain_insert_mode, ChainInsertMode::Append);
        let notes: Vec<String> = configuration.notes.iter().map(ToString::to_string).collect();
        assert!(
            notes[0].starts_with("BPFLogLevel=\"info\" of the configuration file is not acted upon"),
            "{notes:?}"
        );
        assert_eq!(notes[1], "Guess=\"1\" of the configuration file is not known");
        assert_eq!(ignored.len(), 2);
    }

    #[test]
    fn nonsense_is_named_and_its_default_stays() {
        let env = [
            ("FELIX_HEALTHPORT", "70000"),
            ("FELIX_ROUTEREFRESHINTERVAL", "-1"),
            ("FELIX_IPINIPMTU", "12"),
            ("FELIX_MTUIFACEPATTERN", "("),
            ("FELIX_INTERFACEPREFIX", "cali,tap"),
        ];

        let (settings, ignored) = settings(&[], &env);

        let keys: Vec<_> = ignored.iter().map(|i| i.key.as_str()).collect();
        assert_eq!(ignored.len(), env.len(), "{keys:?}");
        assert!(env.iter().all(|(key, _)| keys.contains(key)), "{keys:?}");
        assert_eq!(settings.health_listen.to_string(), "127.0.0.1:9099");
        let in_force = settings.overrides.apply(FelixConfiguration::default());
        assert_eq!(FelixConfiguration { notes: Vec::new(), ..in_force }, FelixConfiguration::default());
    }

    #[test]
    fn metrics_have_a_listener_of_their_own_only_when_asked_for() {
        let listen = |env: &[(&str, &str)]| settings(&[], env).0.metrics_listen.map(|a| a.to_string());

        assert_eq!(listen(&[("FELIX_PROMETHEUSMETRICSPORT", "1")]), None);
        assert_eq!(listen(&[("FELIX_PROMETHEUSMETRICSENABLED", "true")]).as_deref(), Some("0.0.0.0:9091"));
    }

    fn settings(arguments: &[&str], env: &[(&str, &str)]) -> (Settings, Vec<IgnoredSetting>) {
        let arguments = Arguments::parse_from([&["felix"], arguments].concat());
        let env = env.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Settings::new(arguments, env, "", "Host")
    }
}
