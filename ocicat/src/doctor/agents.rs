//! What the agents of the node say of themselves. Never waits long: who does not answer is a fact.

use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use doctor::{Difference, Facts, Session};
use proto::node::reply::Outcome;
use proto::{felix, node, read_frame, speaker, write_frame};

use crate::table::plain;

/// How long one agent may take for one answer.
const PATIENCE: Duration = Duration::from_millis(700);
/// Differences that are kept.
const MOST: usize = 200;

/// What the agents say that is no fact by itself.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) node: Option<String>,
    /// Addresses that sessions come from, each once.
    pub(super) own_addresses: Vec<IpAddr>,
    pub(super) router_id: Option<IpAddr>,
    /// Other nodes and routers, with their names where these are known.
    pub(super) peers: Vec<(IpAddr, String)>,
}

/// Asks all sockets at the same time, so that agents that hang cost no more than one that does.
pub(super) fn ask(sockets: &Path, facts: &mut Facts) -> Told {
    let summary = speaker::request::Call::Summary(speaker::request::Summary::default());
    let summary = speaker::Request { call: Some(summary) };
    let status = node::Request { call: Some(node::request::Call::Status(node::request::Status {})) };
    let audit = felix::Request { call: Some(felix::request::Call::Audit(felix::request::Audit {})) };
    let (summary, status, audit) = std::thread::scope(|scope| {
        let summary = scope.spawn(|| call(&sockets.join("bird-lite.sock"), &summary));
        let status = scope.spawn(|| call(&sockets.join("felix.sock"), &status));
        let audit = call(&sockets.join(felix::SOCKET), &audit);
        (joined(summary), joined(status), audit)
    });
    let mut told = Told::default();
    of_speaker(summary, facts, &mut told);
    of_felix(status, audit, facts, &mut told);
    told
}

fn joined<T>(asked: std::thread::ScopedJoinHandle<'_, Result<T, String>>) -> Result<T, String> {
    asked.join().unwrap_or_else(|_| Err("it could not be asked".to_owned()))
}

fn call<Request, Answer>(socket: &Path, request: &Request) -> Result<Answer, String>
where
    Request: prost::Message,
    Answer: prost::Message + Default,
{
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", socket.display());
    let mut stream = UnixStream::connect(socket).map_err(|error| failed(&error))?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(|error| failed(&error))?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(|error| failed(&error))?;
    write_frame(&mut stream, request).map_err(|error| failed(&error))?;
    read_frame(&mut stream).map_err(|error| failed(&error))
}

fn of_felix(
    status: Result<node::Reply, String>,
    audit: Result<felix::Response, String>,
    facts: &mut Facts,
    told: &mut Told,
) {
    match status {
        Ok(reply) => {
            facts.felix.answers = true;
            if let Some(Outcome::Failed(failed)) = reply.outcome {
                facts.felix.complaints.push(plain(&failed.message));
            }
        }
        Err(reason) => facts.felix.complaints.push(reason),
    }
    match audit.map(|response| response.answer) {
        Ok(Some(felix::response::Answer::Audit(audit))) => {
            told.node = told.node.take().or(Some(audit.node)).filter(|name| !name.is_empty());
            facts.felix.complaints.extend(audit.problems.iter().map(|problem| plain(problem)));
            facts.encapsulations = audit.encapsulations.map(|wanted| wanted.names);
            facts.differences = audit
                .differences
                .into_iter()
                .take(MOST)
                .map(|d| Difference { kind: plain(&d.kind), entry: plain(&d.entry), what: plain(&d.what) })
                .collect();
        }
        Ok(_) => facts.unseen.push("what the node agent intends: it cannot say now".to_owned()),
        Err(reason) => facts.unseen.push(format!("what the node agent intends: {reason}")),
    }
}

fn of_speaker(answer: Result<speaker::Response, String>, facts: &mut Facts, told: &mut Told) {
    let summary = match answer.map(|response| response.answer) {
        Ok(Some(speaker::response::Answer::Summary(summary))) => summary,
        Ok(_) => return facts.speaker.complaints.push("it is of another version".to_owned()),
        Err(reason) => return facts.speaker.complaints.push(reason),
    };
    facts.speaker.answers = true;
    facts.speaker.complaints = summary.problems.iter().map(|problem| plain(problem)).collect();
    let pending = summary.pending.iter();
    facts
        .speaker
        .complaints
        .extend(pending.map(|p| format!("route to {} is not in the kernel: {}", p.prefix, plain(&p.reason))));
    told.node = Some(summary.node).filter(|name| !name.is_empty());
    told.router_id = summary.router_id.parse().ok();
    for peer in summary.peers {
        if let Ok(own) = peer.local_address.parse::<IpAddr>()
            && !told.own_addresses.contains(&own)
        {
            told.own_addresses.push(own);
        }
        if let Ok(address) = peer.address.parse() {
            let name = peer.description.strip_prefix("mesh ").unwrap_or_default();
            told.peers.push((address, plain(name)));
        }
        facts.sessions.push(Session {
            peer: plain(&peer.address),
            description: plain(&peer.description),
            asn: peer.asn,
            state: plain(&peer.state),
            seconds: peer.seconds,
            cause: plain(&peer.cause),
            retiring: peer.retiring,
        });
    }
}
