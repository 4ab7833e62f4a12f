//! What the other parts of the agent tell the dataplane's thread, and how they wait for it.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use kernel::interpret::Packet;
use kernel::{LinkEvent, RuleEvent};
use kernel_linux::Backend;
use model::{HostInterface, LocalEndpoint, Update};
use tokio::sync::oneshot;

use felix_dataplane::EndpointState;

use crate::worker::look::{Look, Question};

/// How long to wait for the thread's judgement of packets.
const JUDGE_PATIENCE: Duration = Duration::from_secs(30);

/// One message to the dataplane's thread.
#[derive(Debug)]
pub enum Command {
    /// News from the datastore, and when it came.
    Updates(Vec<Update>, Instant),
    /// A pod's interface exists.
    EndpointUp { endpoint: LocalEndpoint, waiter: Option<Waiter> },
    /// A pod's interface is gone or about to go.
    EndpointDown(HostInterface),
    /// What is in the kernel for a pod, after reading back from the kernel if asked to.
    Inspect { interface: HostInterface, reread: bool, reply: oneshot::Sender<EndpointState> },
    /// Something changed in the kernel.
    Links(Vec<LinkEvent>),
    /// Connections of addresses that another pod has by now are forgotten.
    Flushed,
    /// Somebody wrote rules.
    Rules(Vec<RuleEvent>),
    /// The backend of iptables that carries the kubelet's marks, if one does.
    Hinted(Option<Backend>),
    /// An operator wants to see something.
    Look(Question),
    /// Was a table of kube-proxy found in nftables?
    KubeProxy { nftables: bool },
    /// End the thread and leave everything as it is.
    Stop,
}

/// Somebody who waits for a pod's endpoint.
#[derive(Debug)]
pub struct Waiter {
    /// Is told when route and policy are in the kernel, and when that was.
    pub programmed: oneshot::Sender<Instant>,
    /// Since when.
    pub since: Instant,
}

/// Sends to the dataplane's thread; cheap to clone.
#[derive(Clone)]
pub struct Dataplane(mpsc::Sender<Command>);

/// The dataplane did not answer in time; it is busy or has stopped.
#[derive(Debug, thiserror::Error)]
#[error("the dataplane is busy and did not answer within {0:?}")]
pub struct Silent(Duration);

impl Dataplane {
    /// The sending side, and what the thread receives from.
    pub fn channel() -> (Self, mpsc::Receiver<Command>) {
        let (sender, receiver) = mpsc::channel();
        (Self(sender), receiver)
    }

    /// Sends one message. After the thread has ended messages are lost, and liveness says so.
    pub fn send(&self, command: Command) {
        let _ = self.0.send(command);
    }

    /// Announces an endpoint; the receiver resolves when it is programmed.
    pub fn endpoint_up(&self, endpoint: LocalEndpoint) -> oneshot::Receiver<Instant> {
        let (programmed, receiver) = oneshot::channel();
        let waiter = Waiter { programmed, since: Instant::now() };
        self.send(Command::EndpointUp { endpoint, waiter: Some(waiter) });
        receiver
    }

    /// Which of these packets policy stops now; nothing when the thread does not answer.
    pub fn stopped(&self, packets: Vec<Packet>) -> Vec<bool> {
        let (reply, answer) = mpsc::sync_channel(1);
        let question = Question::new(move |look| _ = reply.send(look.stops(&packets)));
        self.send(Command::Look(question));
        answer.recv_timeout(JUDGE_PATIENCE).unwrap_or_default()
    }

    /// What is in the kernel for a pod.
    pub async fn inspect(
        &self,
        interface: &str,
        reread: bool,
        patience: Duration,
    ) -> Result<EndpointState, Silent> {
        let (reply, receiver) = oneshot::channel();
        self.send(Command::Inspect { interface: interface.to_owned(), reread, reply });
        match tokio::time::timeout(patience, receiver).await {
            Ok(Ok(state)) => Ok(state),
            _ => Err(Silent(patience)),
        }
    }

    /// Lets `work` see the dataplane's thread, and gives back what it makes of it.
    pub async fn look<T: Send + 'static>(
        &self,
        patience: Duration,
        work: impl FnOnce(&mut dyn Look) -> T + Send + 'static,
    ) -> Result<T, Silent> {
        let (reply, receiver) = oneshot::channel();
        self.send(Command::Look(Question::new(move |worker| {
            // Whoever asked may have gone meanwhile.
            let _ = reply.send(work(worker));
        })));
        match tokio::time::timeout(patience, receiver).await {
            Ok(Ok(seen)) => Ok(seen),
            _ => Err(Silent(patience)),
        }
    }

    /// As [`Dataplane::look`], for a thread that may wait.
    pub fn look_blocking<T: Send + 'static>(
        &self,
        patience: Duration,
        work: impl FnOnce(&mut dyn Look) -> T + Send + 'static,
    ) -> Result<T, Silent> {
        let (reply, receiver) = mpsc::sync_channel(1);
        self.send(Command::Look(Question::new(move |worker| {
            let _ = reply.send(work(worker));
        })));
        receiver.recv_timeout(patience).map_err(|_| Silent(patience))
    }
}
