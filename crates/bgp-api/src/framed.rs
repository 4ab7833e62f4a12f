//! What `ocicat bgp` asks ([`proto::speaker`]): one framed request, one framed answer, and several for routes.
//! Owns the words of that contract.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use bgp::{Cause, MessageCounts, PeerKey, PeerState, PeerStatus, Reason, RouteSource, Speaker};
use bgp_packet::{Community, PathAttributes, Prefix};
use operator_socket::Framed;
use proto::speaker::request::{self, Action, Call};
use proto::speaker::response::{Answer, Done};
use proto::speaker::{Peer, PeerDetail, PendingRoute, Request, Response, Route, Routes, Summary, Turn};

use crate::routes::{Found, Table, Walk, Wanted};
use crate::words::{capability_text, reason_text};
use crate::{Console, Recording, Subject};

/// Serves one client until it goes.
pub(crate) async fn client(mut client: Framed, console: Console) -> io::Result<()> {
    while let Some(request) = client.request::<Request>().await? {
        answer(&mut client, &console, request).await?;
    }
    Ok(())
}

async fn answer(client: &mut Framed, console: &Console, request: Request) -> io::Result<()> {
    let answer = match request.call {
        Some(Call::Routes(wanted)) => return routes(client, console, &wanted).await,
        Some(Call::Summary(wanted)) => {
            let recording = console.observers.recording.path();
            console.ask(move |subject| summary(subject, &wanted.peer, recording)).await
        }
        Some(Call::Record(wanted)) => {
            let recording = console.observers.recording.clone();
            console.ask(move |subject| record(subject, &recording, &wanted.file)).await
        }
        Some(Call::Steer(steer)) => console.ask(move |subject| self::steer(subject, &steer)).await,
        None => Ok(Answer::Error("this speaker does not know the call".to_owned())),
    };
    let gone = |_| Answer::Error("the speaker is stopping".to_owned());
    send(client, answer.unwrap_or_else(gone)).await
}

async fn send(client: &mut Framed, answer: Answer) -> io::Result<()> {
    client.send(&Response { answer: Some(answer) }).await
}

/// Sends routes page by page.
async fn routes(client: &mut Framed, console: &Console, wanted: &request::Routes) -> io::Result<()> {
    let mut walk = match selection(wanted) {
        Ok((table, wanted)) => match Walk::begin(console, table, wanted).await {
            Ok(walk) => walk,
            Err(error) => return send(client, Answer::Error(error.to_string())).await,
        },
        Err(error) => return send(client, Answer::Error(error)).await,
    };
    while let Some(page) = walk.page().await {
        let shown = page.into_iter().filter(|found| !wanted.rejected || found.rejected.is_some());
        let routes: Vec<Route> = shown.map(route).collect();
        if !routes.is_empty() {
            send(client, Answer::Routes(Routes { routes, more: true })).await?;
        }
    }
    send(client, Answer::Routes(Routes::default())).await
}

fn selection(wanted: &request::Routes) -> Result<(Table, Wanted), String> {
    let prefix = match wanted.prefix.as_str() {
        "" => Wanted::All(None),
        text => match text.parse::<Prefix>() {
            Ok(prefix) => Wanted::Exact(prefix),
            Err(error) => text.parse().map(Wanted::Holding).map_err(|_| error.to_string())?,
        },
    };
    let table = match (wanted.advertised_to.as_str(), wanted.received_from.as_str()) {
        ("", "") => Table::Global,
        (peer, "") => Table::AdjOut(peer_key(peer)?),
        ("", peer) => Table::AdjIn(peer_key(peer)?),
        _ => return Err("routes are either received from a peer or advertised to one".to_owned()),
    };
    Ok((table, prefix))
}

pub(crate) fn peer_key(text: &str) -> Result<PeerKey, String> {
    text.parse().map_err(|_| format!("{text:?} is no address of a peer"))
}

fn steer(subject: &mut Subject<'_>, steer: &request::Steer) -> Answer {
    let now = subject.now;
    let Some(speaker) = subject.speaker.as_deref_mut() else {
        return Answer::Error(not_running(&subject.owner.problems));
    };
    let peer = match peer_key(&steer.peer) {
        Ok(peer) => peer,
        Err(error) => return Answer::Error(error),
    };
    let Ok(action) = Action::try_from(steer.action) else {
        return Answer::Error("this speaker does not know the action".to_owned());
    };
    match act(speaker, peer, action, &steer.text, now) {
        Ok(()) => {
            tracing::info!(%peer, ?action, "operator");
            Answer::Done(Done {})
        }
        Err(error) => Answer::Error(error),
    }
}

/// Does to a session what an operator wants.
pub(crate) fn act(
    speaker: &mut Speaker,
    peer: PeerKey,
    action: Action,
    text: &str,
    now: Instant,
) -> Result<(), String> {
    let is_off = speaker.switched_off().any(|off| off == peer);
    if speaker.peer_at(peer).is_none() && !(is_off && action == Action::Enable) {
        return Err(format!("no peer has the address {peer}"));
    }
    let ask = |speaker: &mut Speaker| match speaker.refresh_in(peer) {
        true => Ok(()),
        false => Err(format!("{peer} cannot be asked: not Established, or without route refresh")),
    };
    match action {
        Action::Reset => speaker.reset(peer, text, now),
        Action::SoftResetOut => speaker.refresh_out(peer),
        Action::SoftResetIn => ask(speaker)?,
        Action::SoftReset => {
            speaker.refresh_out(peer);
            ask(speaker)?;
        }
        Action::Enable => speaker.enable(peer, now),
        Action::Disable => speaker.disable(peer, text, now),
    }
    Ok(())
}

/// Begins a recording in a file, or ends it when no file is named.
fn record(subject: &mut Subject<'_>, recording: &Recording, file: &str) -> Answer {
    let now = subject.now;
    let Some(speaker) = subject.speaker.as_deref_mut() else {
        return Answer::Error(not_running(&subject.owner.problems));
    };
    if file.is_empty() {
        return match recording.stop(speaker) {
            Some(_) => Answer::Done(Done {}),
            None => Answer::Error("no recording runs".to_owned()),
        };
    }
    if !Path::new(file).is_absolute() {
        return Answer::Error(format!("{file:?} is no absolute path: the speaker has its own directory"));
    }
    match recording.start(Path::new(file), speaker, now) {
        Ok(()) => Answer::Done(Done {}),
        Err(error) => Answer::Error(format!("cannot record into {file}: {error}")),
    }
}

fn not_running(problems: &[String]) -> String {
    format!("the speaker has no settings yet: {}", problems.join("; "))
}

fn summary(subject: &mut Subject<'_>, peer: &str, recording: Option<PathBuf>) -> Answer {
    let (now, owner) = (subject.now, &subject.owner);
    let mut summary = Summary {
        node: owner.node.clone(),
        listening: owner.listening.iter().map(ToString::to_string).collect(),
        problems: owner.problems.clone(),
        recording: recording.map(|path| path.display().to_string()).unwrap_or_default(),
        ..Summary::default()
    };
    if let Some(kernel) = &owner.kernel {
        summary.kernel_routes = kernel.written as u64;
        let pending = kernel.pending.iter().cloned();
        summary.pending = pending.map(|(prefix, reason)| PendingRoute { prefix, reason }).collect();
    }
    let Some(speaker) = subject.speaker.as_deref() else {
        return if peer.is_empty() {
            Answer::Summary(summary)
        } else {
            Answer::Error(not_running(&owner.problems))
        };
    };
    summary.asn = speaker.config().asn;
    summary.router_id = speaker.config().router_id.to_string();
    summary.cluster_id = speaker.config().cluster_id.map(|id| id.to_string()).unwrap_or_default();
    summary.restarting = speaker.is_restarting();
    summary.routes = speaker.routes_count() as u64;
    if peer.is_empty() {
        summary.peers = speaker.peers().into_iter().map(|status| self::peer(status, now)).collect();
        return Answer::Summary(summary);
    }
    match peer_key(peer).map(|key| (key, speaker.peer_at(key))) {
        Ok((key, Some(status))) => {
            let detail = Some(detail(speaker, key, &status, now));
            summary.peers = vec![Peer { detail, ..self::peer(status, now) }];
            Answer::Summary(summary)
        }
        Ok((key, None)) => Answer::Error(format!("no peer has the address {key}")),
        Err(error) => Answer::Error(error),
    }
}

fn peer(status: PeerStatus, now: Instant) -> Peer {
    let silent = status.state == PeerState::Established && status.sessions <= 1;
    let silent = silent || status.cause == Cause::Starting;
    Peer {
        address: status.peer.to_string(),
        description: status.description,
        asn: status.asn.unwrap_or(0),
        router_id: status.router_id.map(|id| id.to_string()).unwrap_or_default(),
        state: format!("{:?}", status.state),
        seconds: now.saturating_duration_since(status.since).as_secs(),
        received: status.received as u64,
        accepted: status.accepted as u64,
        advertised: status.advertised as u64,
        stale: status.stale as u64,
        cause: if silent { String::new() } else { status.cause.to_string() },
        sessions: status.sessions,
        internal: status.internal,
        reflector_client: status.reflector_client,
        retiring: status.retiring,
        dynamic: status.dynamic,
        families: status.families.iter().map(ToString::to_string).collect(),
        hold_time: u32::from(status.hold_time),
        graceful_restart: status.graceful_restart,
        local_address: status.local_address.map(|a| a.to_string()).unwrap_or_default(),
        malformed: status.problems,
        last_malformed: status.last_problem.unwrap_or_default(),
        flaps: status.flaps,
        detail: None,
    }
}

fn detail(speaker: &Speaker, key: PeerKey, status: &PeerStatus, now: Instant) -> PeerDetail {
    let left = |at: Option<Instant>| {
        at.map(|at| u64::try_from(at.saturating_duration_since(now).as_millis()).unwrap_or(u64::MAX))
    };
    let turn = |turn: &bgp::Turn| Turn {
        seconds_ago: now.saturating_duration_since(turn.at).as_secs(),
        cause: turn.cause.as_ref().map(ToString::to_string).unwrap_or_default(),
    };
    let config = speaker.peer_config(key);
    PeerDetail {
        messages_received: Some(counts(&status.messages_received)),
        messages_sent: Some(counts(&status.messages_sent)),
        capabilities_sent: status.capabilities_sent.iter().map(capability_text).collect(),
        capabilities_received: status.capabilities_received.iter().map(capability_text).collect(),
        hold_timer_ms: left(status.timers.hold),
        keepalive_timer_ms: left(status.timers.keepalive),
        connect_retry_timer_ms: left(status.timers.connect_retry),
        stale_timer_ms: left(status.timers.stale),
        history: status.history.iter().map(turn).collect(),
        queued: status.in_flight as u64,
        passive: config.is_some_and(|c| c.passive),
        password: config.is_some_and(|c| c.password.is_some()),
        ttl_security: config.and_then(|c| c.ttl_security).map(u32::from),
    }
}

fn counts(counts: &MessageCounts) -> proto::speaker::MessageCounts {
    let MessageCounts { open, update, notification, keepalive, route_refresh } = *counts;
    proto::speaker::MessageCounts { open, update, notification, keepalive, route_refresh }
}

fn route(found: Found) -> Route {
    Route {
        source: match found.source {
            Some(RouteSource::Peer(peer)) => peer.to_string(),
            Some(RouteSource::Local) => "local".to_owned(),
            None => String::new(),
        },
        best: found.best.is_some(),
        reason: found.best.map(|reason: Reason| reason_text(reason).to_owned()).unwrap_or_default(),
        rejected: found.rejected.unwrap_or_default(),
        stale: found.stale,
        path_id: found.path_id,
        ..attributes(&found.prefix, &found.attributes)
    }
}

fn attributes(prefix: &Prefix, a: &PathAttributes) -> Route {
    let communities = a.communities.iter().map(Community::to_string);
    let large = a.large_communities.iter().map(ToString::to_string);
    Route {
        prefix: prefix.to_string(),
        next_hop: a.next_hop.to_string(),
        as_path: a.as_path.to_string(),
        local_pref: a.local_pref,
        med: a.med,
        communities: communities.chain(large).collect(),
        ..Route::default()
    }
}
