//! The protocol between a runtime and a plugin: environment and stdin in, JSON and an exit status out.

use std::env;
use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};

use proto::node::request::Attachment;

use crate::agent::Agent;
use crate::config::{IpamKind, NetConf};
use crate::error::{CniError, code};
use crate::invocation::{Invocation, Verb};
use crate::log::Log;
use crate::result::Success;
use crate::version::CniVersion;
use crate::{add, check, del, delegate, gc, install, ipam};

/// Everything that one verb is told.
pub(crate) struct Context {
    pub(crate) call: Invocation,
    pub(crate) conf: NetConf,
    pub(crate) agent: Agent,
    pub(crate) log: Log,
}

/// What a verb answers.
pub(crate) enum Answer {
    Result(Success),
    Nothing,
}

type Failure = (CniVersion, CniError);

/// The binary `calico`: the plugin, or the installer when it is called with arguments; `calico-ipam` when it is called by
/// that name, so that the image needs one file for both.
pub fn calico() -> ExitCode {
    let called = env::args_os().next().map(PathBuf::from);
    if called.is_some_and(|path| path.file_name().is_some_and(|name| name == "calico-ipam")) {
        return calico_ipam();
    }
    run("calico", calico_verb)
}

/// The binary `calico-ipam`.
pub fn calico_ipam() -> ExitCode {
    run("calico-ipam", ipam::verb)
}

fn run(name: &str, verb: fn(&Context) -> Result<Answer, CniError>) -> ExitCode {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    match arguments.first().and_then(|argument| argument.to_str()) {
        None if arguments.is_empty() => serve(verb),
        Some("install") => install::run(&arguments[1..]),
        Some("-v" | "--version" | "version") => print(&format!("{name} {}\n", env!("CARGO_PKG_VERSION"))),
        Some("-h" | "--help" | "help") => print(&usage(name)),
        _ => {
            let _ = writeln!(io::stderr(), "{name}: unknown argument {:?}; see {name} --help", arguments[0]);
            ExitCode::from(2)
        }
    }
}

fn serve(verb: fn(&Context) -> Result<Answer, CniError>) -> ExitCode {
    match answer(verb) {
        Ok(text) => print(&text),
        Err((version, error)) => {
            let _ = writeln!(io::stdout(), "{}", error.to_json(version));
            ExitCode::FAILURE
        }
    }
}

/// A runtime that does not listen any more has no use for a status, but gets one.
fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn answer(verb: fn(&Context) -> Result<Answer, CniError>) -> Result<String, Failure> {
    let call = Invocation::read(|name| env::var_os(name));
    if matches!(&call, Ok(call) if call.verb == Verb::Version) {
        return Ok(versions());
    }
    let stdin = read_stdin().map_err(|error| (CniVersion::LATEST, error))?;
    // The version of the configuration is that of the answer, also where the environment is wrong.
    let conf = NetConf::parse(&stdin);
    let call = call.map_err(|error| {
        let version = match &conf {
            Ok(conf) => conf.version,
            Err((version, _)) => *version,
        };
        (version, error)
    })?;
    let conf = conf?;
    let version = conf.version;
    let context = Context::new(call, conf);
    context.log.debug(format_args!("{:?} in {:?}", context.attachment(), context.call.netns));
    let outcome = context.require_version().and_then(|()| verb(&context));
    match outcome {
        Ok(Answer::Result(success)) => Ok(success.to_json(version)),
        Ok(Answer::Nothing) => Ok(String::new()),
        Err(error) => {
            context.log.error(format_args!("code {}: {error}", error.code));
            Err((version, error))
        }
    }
}

fn calico_verb(context: &Context) -> Result<Answer, CniError> {
    match context.call.verb {
        Verb::Add => add::add(context).map(Answer::Result),
        Verb::Del => del::del(context).map(|()| Answer::Nothing),
        Verb::Check => check::check(context).map(|()| Answer::Nothing),
        Verb::Status => context.status().map(|()| Answer::Nothing),
        Verb::Gc => gc::gc(context).map(|()| Answer::Nothing),
        Verb::Version => Ok(Answer::Nothing),
    }
}

impl Context {
    fn new(call: Invocation, conf: NetConf) -> Self {
        let subject = [call.verb.as_str(), &call.container_id, &call.interface].join(" ");
        let log = Log::open(&conf.log, subject.trim_end().to_owned());
        let agent = Agent::new(&conf.felix_socket);
        Self { call, conf, agent, log }
    }

    /// The verbs came one after another: a runtime that uses one in a version without it is mistaken.
    fn require_version(&self) -> Result<(), CniError> {
        let verb = self.call.verb;
        let since = match verb {
            Verb::Check => CniVersion::V0_4_0,
            Verb::Gc | Verb::Status => CniVersion::V1_1_0,
            _ => return Ok(()),
        };
        if self.conf.version >= since {
            return Ok(());
        }
        Err(CniError::incompatible_version(format!(
            "{} needs cniVersion {} or later, the configuration has {}",
            verb.as_str(),
            since.as_str(),
            self.conf.version.as_str()
        )))
    }

    /// How the agent knows the container. A runtime without pods (podman) leaves the namespace empty.
    pub(crate) fn attachment(&self) -> Attachment {
        let args = &self.call.args;
        let pod = if args.pod.is_empty() { &self.call.container_id } else { &args.pod };
        Attachment {
            container_id: self.call.container_id.clone(),
            interface: self.call.interface.clone(),
            network: self.conf.name.clone(),
            namespace: args.namespace.clone(),
            pod: pod.clone(),
            uid: args.uid.clone(),
        }
    }

    /// Names the call in errors: "ADD of prod/web".
    pub(crate) fn subject(&self) -> String {
        let attachment = self.attachment();
        let verb = self.call.verb.as_str();
        match attachment.namespace.as_str() {
            "" => format!("{verb} of {}", attachment.pod),
            namespace => format!("{verb} of {namespace}/{}", attachment.pod),
        }
    }

    /// STATUS: can an ADD be served now?
    pub(crate) fn status(&self) -> Result<(), CniError> {
        self.agent.status().map_err(|error| {
            let error = error.into_cni("STATUS");
            CniError { code: code::UNAVAILABLE, ..error }
        })?;
        self.delegate()
    }

    /// Hands the verb on to the delegated IPAM plugin, if there is one.
    pub(crate) fn delegate(&self) -> Result<(), CniError> {
        match &self.conf.ipam.kind {
            IpamKind::Delegate(plugin) => {
                let verb = self.call.verb;
                let conf = if verb == Verb::Check {
                    delegate::conf(self)?
                } else {
                    delegate::conf_of_anywhere(self)
                };
                delegate::call(plugin, &self.call.path, &conf, verb)
            }
            IpamKind::Calico | IpamKind::Unset => Ok(()),
        }
    }
}

fn read_stdin() -> Result<Vec<u8>, CniError> {
    let mut bytes = Vec::with_capacity(4096);
    io::stdin()
        .take(MAX_CONFIG + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| CniError::io("cannot read the network configuration from stdin", &error))?;
    if bytes.len() as u64 > MAX_CONFIG {
        return Err(CniError::new(
            code::DECODE,
            format!("the configuration on stdin is longer than {MAX_CONFIG} bytes"),
        ));
    }
    Ok(bytes)
}

/// VERSION answers in the version that it is asked in, when we speak it.
fn versions() -> String {
    let stdin = if io::stdin().is_terminal() { Vec::new() } else { read_stdin().unwrap_or_default() };
    let conf: Value = serde_json::from_slice(&stdin).unwrap_or_default();
    let asked = conf["cniVersion"].as_str().filter(|text| !text.is_empty());
    let version = asked.and_then(|text| CniVersion::parse(text).ok()).unwrap_or(CniVersion::LATEST);
    let supported = CniVersion::ALL.map(CniVersion::as_str);
    json!({ "cniVersion": version.as_str(), "supportedVersions": supported }).to_string()
}

fn usage(name: &str) -> String {
    let versions = CniVersion::ALL.map(CniVersion::as_str).join(", ");
    format!(
        "{name} is a CNI plugin: container runtimes run it with CNI_COMMAND set and a network configuration on stdin.\n\
         Versions of the specification: {versions}.\n\n\
         calico install [options]   installs the plugins and their configuration; see calico install --help\n\
         {name} --version           prints the version\n"
    )
}

/// Longest configuration that is read, bytes.
const MAX_CONFIG: u64 = 8 << 20;
