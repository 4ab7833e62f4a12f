//! One framed request and its answer over an agent's unix socket.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proto::{FrameError, read_frame, write_frame};

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum CallError {
    /// Nobody can be reached.
    Connect { agent: &'static str, socket: PathBuf, error: io::Error },
    /// The connection was taken, and no whole answer came.
    NoAnswer { agent: &'static str, socket: PathBuf, error: FrameError },
    /// No socket is where one is looked for.
    Nowhere { agent: &'static str, tried: Vec<String> },
    /// The API server cannot be asked.
    Cluster { reason: String },
    /// What was asked for is not there.
    Question { reason: String },
    /// The command line makes no sense.
    Usage { reason: String },
    /// A file is not what it should be.
    File { path: PathBuf, reason: String },
    /// The agent says why it cannot.
    Refused { agent: &'static str, reason: String },
}

impl CallError {
    /// Is it that nobody answered?
    pub(crate) fn is_silence(&self) -> bool {
        matches!(
            self,
            Self::Connect { .. } | Self::NoAnswer { .. } | Self::Nowhere { .. } | Self::Cluster { .. }
        )
    }

    /// Is it the command line?
    pub(crate) fn is_usage(&self) -> bool {
        matches!(self, Self::Usage { .. })
    }
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connect { agent, socket, error } => {
                write!(f, "cannot reach {agent} on {}: {error}: {}", socket.display(), remedy(error))
            }
            Self::NoAnswer { agent, socket, error } => write!(
                f,
                "{agent} on {} gave no answer ({error}): see its log, and whether --socket names the right one",
                socket.display()
            ),
            Self::Nowhere { agent, tried } => write!(
                f,
                "{agent} has no socket at {}: is it running here? --socket names another place",
                tried.join(", ")
            ),
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

/// Asks `agent`, which listens on `socket`.
pub(crate) fn call<Request, Answer>(
    agent: &'static str,
    socket: &Path,
    request: &Request,
) -> Result<Answer, CallError>
where
    Request: prost::Message,
    Answer: prost::Message + Default,
{
    let mut answer = None;
    call_many(agent, socket, request, |one| {
        answer = Some(one);
        false
    })?;
    let none = || CallError::Refused { agent, reason: "there was no answer".to_owned() };
    answer.ok_or_else(none)
}

/// Asks for several answers: `take` gets each, and says whether another follows.
pub(crate) fn call_many<Request, Answer>(
    agent: &'static str,
    socket: &Path,
    request: &Request,
    mut take: impl FnMut(Answer) -> bool,
) -> Result<(), CallError>
where
    Request: prost::Message,
    Answer: prost::Message + Default,
{
    let connected = UnixStream::connect(socket).and_then(|stream| {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    });
    let mut stream =
        connected.map_err(|error| CallError::Connect { agent, socket: socket.to_owned(), error })?;
    let silent = |error| CallError::NoAnswer { agent, socket: socket.to_owned(), error };
    write_frame(&mut stream, request).map_err(FrameError::from).map_err(silent)?;
    while take(read_frame(&mut stream).map_err(silent)?) {}
    Ok(())
}

/// An agent that is busy for longer is as good as away.
const PATIENCE: Duration = Duration::from_secs(10);
