//! The node agent, asked over its unix socket: one framed request and one framed reply a connection.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt};

use proto::node::reply::{Allocated, CollectedEndpoint, Failed, Outcome};
use proto::node::request::{
    Allocate, Attachment, Call, Collect, EndpointCheck, EndpointDown, EndpointUp, NodeSubnets, Status,
};
use proto::node::{Failure, Reply, Request};
use proto::{FrameError, read_frame, write_frame};

use crate::error::{CniError, code};

/// A handle on the agent; connects anew for every call.
pub struct Agent {
    socket: PathBuf,
}

/// An endpoint of which the agent has been told and for whose answer nobody has waited yet.
pub struct Announced {
    socket: PathBuf,
    stream: UnixStream,
}

/// Why a call got no good answer.
#[derive(Debug)]
pub enum AgentError {
    /// Nobody listens.
    Unreachable { socket: PathBuf, error: io::Error },
    /// Somebody else may be listening: the agent's socket is root's, and nobody else may write to it.
    Foreign { socket: PathBuf, why: String },
    /// Somebody took the connection, but no whole reply came: whether the call was done is unknown.
    NoReply { socket: PathBuf, error: FrameError },
    /// The agent answered that it could not.
    Failed(Failed),
    /// The agent answered something that does not belong to the call.
    Unexpected { socket: PathBuf },
}

impl Agent {
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Reserves addresses.
    pub fn allocate(&self, call: Allocate) -> Result<Allocated, AgentError> {
        match self.call(Call::Allocate(call), ALLOCATE_TIMEOUT)? {
            Outcome::Allocated(allocated) => Ok(allocated),
            _ => Err(AgentError::Unexpected { socket: self.socket.clone() }),
        }
    }

    /// Tells of an endpoint, without waiting for the answer.
    pub fn endpoint_up(&self, call: EndpointUp) -> Result<Announced, AgentError> {
        // The agent gives up first, so that its reason arrives.
        let wait = if call.timeout_ms == 0 {
            ENDPOINT_UP_TIMEOUT
        } else {
            Duration::from_millis(call.timeout_ms.into())
        };
        let stream = self.send(Call::EndpointUp(call), wait + Duration::from_secs(5))?;
        Ok(Announced { socket: self.socket.clone(), stream })
    }

    /// Forgets the endpoint and releases its addresses.
    pub fn endpoint_down(&self, call: EndpointDown) -> Result<(), AgentError> {
        self.done(Call::EndpointDown(call), DOWN_TIMEOUT)
    }

    /// Is the endpoint programmed as it should be?
    pub fn endpoint_check(&self, attachment: Attachment, addresses: Vec<String>) -> Result<(), AgentError> {
        let call = EndpointCheck { attachment: Some(attachment), addresses };
        self.done(Call::EndpointCheck(call), DOWN_TIMEOUT)
    }

    /// Can the agent serve ADD?
    pub fn status(&self) -> Result<(), AgentError> {
        self.done(Call::Status(Status {}), STATUS_TIMEOUT)
    }

    /// Lets go all attachments of a network but `valid` ones; returns what was there.
    pub fn collect(
        &self,
        network: &str,
        valid: Vec<Attachment>,
    ) -> Result<Vec<CollectedEndpoint>, AgentError> {
        let call = Collect { network: network.to_owned(), valid };
        match self.call(Call::Collect(call), DOWN_TIMEOUT)? {
            Outcome::Collected(collected) => Ok(collected.endpoints),
            _ => Err(AgentError::Unexpected { socket: self.socket.clone() }),
        }
    }

    /// The subnets that the cluster gave this node.
    pub fn node_subnets(&self) -> Result<Vec<String>, AgentError> {
        match self.call(Call::NodeSubnets(NodeSubnets {}), ALLOCATE_TIMEOUT)? {
            Outcome::NodeSubnets(reply) => Ok(reply.subnets),
            _ => Err(AgentError::Unexpected { socket: self.socket.clone() }),
        }
    }

    /// A call whose good answer says nothing more.
    fn done(&self, call: Call, timeout: Duration) -> Result<(), AgentError> {
        self.call(call, timeout).map(drop)
    }

    fn call(&self, call: Call, timeout: Duration) -> Result<Outcome, AgentError> {
        let stream = self.send(call, timeout)?;
        receive(stream, &self.socket)
    }

    fn send(&self, call: Call, timeout: Duration) -> Result<UnixStream, AgentError> {
        let unreachable = |error| AgentError::Unreachable { socket: self.socket.clone(), error };
        self.check_owner().map_err(|why| AgentError::Foreign { socket: self.socket.clone(), why })?;
        let mut stream = self.connect(timeout).map_err(unreachable)?;
        let no_reply = |error| AgentError::NoReply { socket: self.socket.clone(), error };
        write_frame(&mut stream, &Request { call: Some(call) }).map_err(|error| no_reply(error.into()))?;
        Ok(stream)
    }

    /// What the agent is told and what it answers must not come from somebody who got hold of the path.
    fn check_owner(&self) -> Result<(), String> {
        // One that is not there is found out by connecting.
        let Ok(found) = fs::symlink_metadata(&self.socket) else { return Ok(()) };
        let (owner, mode) = (found.uid(), found.mode() & 0o7777);
        if !found.file_type().is_socket() {
            Err("it is no socket".to_owned())
        } else if owner != 0 {
            Err(format!("it belongs to user {owner}, not to root"))
        } else if mode & 0o022 != 0 {
            Err(format!("others than root may write to it (mode {mode:o})"))
        } else {
            Ok(())
        }
    }

    /// Connects with the timeouts set before: an agent that hangs with a full backlog would block `connect` too.
    fn connect(&self, timeout: Duration) -> io::Result<UnixStream> {
        let address = SocketAddrUnix::new(&self.socket)?;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(CONNECT_TIMEOUT))?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(timeout))?;
        connect(&socket, &address)?;
        Ok(UnixStream::from(socket))
    }
}

impl Announced {
    /// Returns when route and policy of the endpoint are in the kernel.
    pub fn wait(self) -> Result<(), AgentError> {
        receive(self.stream, &self.socket).map(drop)
    }
}

fn receive(mut stream: UnixStream, socket: &Path) -> Result<Outcome, AgentError> {
    let socket = || socket.to_owned();
    let reply: Result<Reply, _> = read_frame(&mut stream);
    match reply.map_err(|error| AgentError::NoReply { socket: socket(), error })?.outcome {
        Some(Outcome::Failed(failed)) => Err(AgentError::Failed(failed)),
        Some(outcome) => Ok(outcome),
        None => Err(AgentError::Unexpected { socket: socket() }),
    }
}

impl AgentError {
    /// Did the call perhaps never reach the agent, or get lost in it?
    pub fn is_lost(&self) -> bool {
        !matches!(self, Self::Failed(_))
    }

    /// The error for a runtime; `what` says what was asked, such as "ADD of prod/web".
    pub fn into_cni(self, what: &str) -> CniError {
        match self {
            Self::Unreachable { socket, error } => CniError::new(
                code::TRY_AGAIN,
                format!(
                    "{what}: the node agent does not listen on {}: is the calico-node pod of this node running?",
                    socket.display()
                ),
            )
            .details(error.to_string()),
            Self::Foreign { socket, why } => CniError::config(format!(
                "{what}: felix_socket {} is not the node agent's: {why}",
                socket.display()
            )),
            Self::NoReply { socket, error } => {
                let why = if error.is_timeout() { "in time".to_owned() } else { format!("({error})") };
                CniError::new(
                    code::TRY_AGAIN,
                    format!(
                        "{what}: the node agent on {} did not answer {why}: see the log of the calico-node pod of this node",
                        socket.display()
                    ),
                )
            }
            Self::Failed(failed) => {
                let code = match failed.failure() {
                    Failure::Retry => code::TRY_AGAIN,
                    Failure::Invalid => code::INVALID_CONFIG,
                    Failure::Permanent => code::REFUSED,
                };
                CniError::new(code, format!("{what}: {}", failed.message))
            }
            Self::Unexpected { socket } => CniError::new(
                code::REFUSED,
                format!(
                    "{what}: what listens on {} is not the agent of this plugin's version: install both anew",
                    socket.display()
                ),
            ),
        }
    }
}

/// Whether an error means that the time was up.
trait IsTimeout {
    fn is_timeout(&self) -> bool;
}

impl IsTimeout for FrameError {
    fn is_timeout(&self) -> bool {
        matches!(self, Self::Io(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut))
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The agent may have to claim a block of addresses first.
const ALLOCATE_TIMEOUT: Duration = Duration::from_secs(40);
/// What the agent takes by itself when `timeout_ms` is 0.
const ENDPOINT_UP_TIMEOUT: Duration = Duration::from_secs(10);
const DOWN_TIMEOUT: Duration = Duration::from_secs(15);
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_is_away_is_worth_another_try() {
        let error = Agent::new(Path::new("/nonexistent/felix.sock")).status().unwrap_err();

        assert!(error.is_lost());
        let error = error.into_cni("ADD of prod/web");
        assert_eq!(error.code, 11);
        for part in ["ADD of prod/web", "/nonexistent/felix.sock", "calico-node"] {
            assert!(error.msg.contains(part), "{}", error.msg);
        }
    }

    #[test]
    fn the_agents_own_failures_have_their_codes() {
        for (failure, code) in [(Failure::Retry, 11), (Failure::Invalid, 7), (Failure::Permanent, 100)] {
            let failed = Failed { failure: failure.into(), message: "no address is left in pool a".into() };
            let error = AgentError::Failed(failed).into_cni("ADD");

            assert_eq!(error.code, code);
            assert!(error.msg.contains("pool a"));
        }
    }
}
