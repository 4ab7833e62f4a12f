//! One framed request and its answer, through an agent's unix socket or a program in its pod.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use proto::{FrameError, read_frame, write_frame};

use crate::reach::{Agent, Kind, Way};
use crate::remote::Remote;

/// Why there is no answer. Agents are named in words.
#[derive(Debug)]
pub(crate) enum CallError {
    /// Nobody can be reached.
    Connect { agent: String, error: io::Error },
    /// The connection was taken, and no whole answer came.
    NoAnswer { agent: String, error: FrameError },
    /// No program in the agent's pod answers.
    Remote { agent: String, reason: String },
    /// No socket is where one is looked for, nor a cluster that could be asked, and why.
    Nowhere { agent: Kind, tried: Vec<String>, reason: Option<String> },
    /// The API server cannot be asked.
    Cluster { reason: String },
    /// What was asked for is not there.
    Question { reason: String },
    /// The command line makes no sense.
    Usage { reason: String },
    /// A file is not what it should be.
    File { path: PathBuf, reason: String },
    /// The agent says why it cannot.
    Refused { agent: String, reason: String },
}

impl CallError {
    /// Is it that nobody answered?
    pub(crate) fn is_silence(&self) -> bool {
        matches!(
            self,
            Self::Connect { .. }
                | Self::NoAnswer { .. }
                | Self::Remote { .. }
                | Self::Nowhere { .. }
                | Self::Cluster { .. }
        )
    }

    /// Is it the command line?
    pub(crate) fn is_usage(&self) -> bool {
        matches!(self, Self::Usage { .. })
    }

    /// The agent answers something else than what was asked.
    pub(crate) fn other_version(agent: &Agent) -> Self {
        Self::Refused { agent: agent.to_string(), reason: "the answer is of another version".to_owned() }
    }
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connect { agent, error } => {
                write!(f, "cannot reach {agent}: {error}: {}", remedy(error))
            }
            Self::NoAnswer { agent, error } => {
                write!(f, "{agent} gave no answer ({error}): see its log, and whether it is the right one")
            }
            Self::Remote { agent, reason } => write!(f, "cannot ask {agent}: {reason}"),
            Self::Nowhere { agent, tried, reason } => {
                let tried = tried.join(", ");
                write!(
                    f,
                    "{agent} has no socket at {tried}: is it running here? --socket names another place"
                )?;
                reason.iter().try_for_each(|reason| write!(f, "; the cluster cannot be asked: {reason}"))
            }
            Self::Cluster { reason } => write!(f, "{reason}; --kubeconfig names another cluster"),
            Self::Question { reason } | Self::Usage { reason } => f.write_str(reason),
            Self::File { path, reason } => write!(f, "{}: {reason}", path.display()),
            Self::Refused { agent, reason } => write!(f, "{agent}: {reason}"),
        }
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "run it as root",
        io::ErrorKind::NotFound => {
            "is the calico-node pod of this node running? --socket names another place"
        }
        io::ErrorKind::ConnectionRefused => {
            "the agent has ended; see the log of the calico-node pod of this node"
        }
        _ => "--socket names another place",
    }
}

/// Asks an agent for one answer.
pub(crate) fn call<Request, Answer>(agent: &Agent, request: &Request) -> Result<Answer, CallError>
where
    Request: prost::Message,
    Answer: prost::Message + Default,
{
    let mut answer = None;
    call_many(agent, request, |one| {
        answer = Some(one);
        false
    })?;
    answer.ok_or_else(|| CallError::Refused {
        agent: agent.to_string(),
        reason: "there was no answer".to_owned(),
    })
}

/// Asks for several answers: `take` gets each, and says whether another follows.
pub(crate) fn call_many<Request, Answer>(
    agent: &Agent,
    request: &Request,
    take: impl FnMut(Answer) -> bool,
) -> Result<(), CallError>
where
    Request: prost::Message,
    Answer: prost::Message + Default,
{
    let name = || agent.to_string();
    match &agent.way {
        Way::Socket(socket) => {
            let connected = UnixStream::connect(socket).and_then(|stream| {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Ok(stream)
            });
            let mut stream = connected.map_err(|error| CallError::Connect { agent: name(), error })?;
            converse(&mut stream, request, take).map_err(|error| CallError::NoAnswer { agent: name(), error })
        }
        Way::Exec { kubectl, namespace, pod } => {
            let remote = Remote::start(kubectl, (namespace, pod), agent.container(), &agent.relay());
            let mut remote = remote.map_err(|reason| CallError::Remote { agent: name(), reason })?;
            converse(&mut remote, request, take)
                .map_err(|error| CallError::Remote { agent: name(), reason: remote.reason(&error) })
        }
    }
}

fn converse<Request, Answer>(
    stream: &mut (impl Read + Write),
    request: &Request,
    mut take: impl FnMut(Answer) -> bool,
) -> Result<(), FrameError>
where
    Request: prost::Message,
    Answer: prost::Message + Default,
{
    write_frame(stream, request)?;
    while take(read_frame(stream)?) {}
    Ok(())
}

/// Does something with each agent, several at a time; the results are in the order of the agents.
pub(crate) fn each<T: Send>(agents: &[Agent], ask: impl Fn(&Agent) -> T + Sync) -> Vec<T> {
    each_of(agents, ask)
}

/// As [`each`], with anything.
pub(crate) fn each_of<A: Sync, T: Send>(agents: &[A], ask: impl Fn(&A) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let results: Vec<Mutex<Option<T>>> = agents.iter().map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..agents.len().min(AT_ONCE) {
            scope.spawn(|| {
                while let Some((agent, slot)) = Some(next.fetch_add(1, Ordering::Relaxed))
                    .and_then(|at| agents.get(at).zip(results.get(at)))
                {
                    *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(ask(agent));
                }
            });
        }
    });
    results.into_iter().filter_map(|slot| slot.into_inner().unwrap_or_else(PoisonError::into_inner)).collect()
}

/// What was answered, and by whom it was not.
#[derive(Debug)]
pub(crate) struct Answers<T> {
    pub(crate) given: Vec<T>,
    /// Those who did not answer were told of.
    pub(crate) is_complete: bool,
}

impl<T> Answers<T> {
    /// What was answered, and why others did not, in words.
    pub(crate) fn sorted(results: Vec<Result<T, CallError>>) -> (Vec<T>, Vec<String>) {
        let (mut given, mut silent) = (Vec::new(), Vec::new());
        for result in results {
            match result {
                Ok(answer) => given.push(answer),
                Err(error) => silent.push(error.to_string()),
            }
        }
        (given, silent)
    }

    /// Tells on standard error of agents that did not answer; when none did, that is an error.
    pub(crate) fn of(results: Vec<Result<T, CallError>>) -> Result<Self, CallError> {
        let (mut given, mut errors) = (Vec::new(), Vec::new());
        for result in results {
            match result {
                Ok(answer) => given.push(answer),
                Err(error) => errors.push(error),
            }
        }
        if given.is_empty() && !errors.is_empty() {
            return Err(errors.swap_remove(0));
        }
        for error in &errors {
            let _ = writeln!(io::stderr(), "ocicat: {error}");
        }
        Ok(Self { given, is_complete: errors.is_empty() })
    }
}

/// An agent that is busy for longer is as good as away.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many agents are asked at a time: each may be a `kubectl` of its own.
const AT_ONCE: usize = 16;
