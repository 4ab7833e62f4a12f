//! Whether the node's network is up, as its condition `NetworkUnavailable` tells the scheduler: not before agent and
//! speaker are ready, and no more when the agent ends or has not been well for a while.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use datastore::convert::rfc3339;
use datastore::{Datastore, NetworkState};
use model::NodeName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::health::{Component, Health};

/// What is over sooner is no news: a restart of the API server or of the agent.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the speaker is waited for at most, as Calico does.
const SPEAKER_PATIENCE: Duration = Duration::from_secs(300);
const SPEAKER_PAUSE: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_secs(5);
/// How long the last word may take.
const LAST_WORD: Duration = Duration::from_secs(2);
/// Where bird-lite answers probes.
const SPEAKER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9098);

/// Decides when the condition is written.
#[derive(Debug, Default)]
pub struct NetworkCondition {
    /// What was written last: up or not.
    told: Option<bool>,
    unready_since: Option<Instant>,
}

impl NetworkCondition {
    /// What is to be written now, if anything. `reason`: why the agent is not ready; `None` when it is.
    pub fn handle(&mut self, reason: Option<&str>, now: Instant) -> Option<NetworkState> {
        let Some(reason) = reason else {
            self.unready_since = None;
            return (self.told != Some(true)).then_some(NetworkState::Up);
        };
        let since = *self.unready_since.get_or_insert(now);
        let is_news = now >= since + PATIENCE && self.told != Some(false);
        is_news.then(|| NetworkState::Down(reason.to_owned()))
    }

    /// The state was written.
    pub fn written(&mut self, state: &NetworkState) {
        self.told = Some(*state == NetworkState::Up);
    }

    /// When something is due although nothing changes.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.unready_since.filter(|_| self.told != Some(false)).map(|since| since + PATIENCE)
    }
}

/// Keeps the condition right; never returns.
pub async fn run(node: NodeName, datastore: Datastore, health: Health, has_speaker: bool) {
    let mut changes = health.changes();
    let mut condition = NetworkCondition::default();
    let mut waits_for_speaker = has_speaker;
    loop {
        changes.mark_unchanged();
        let reason = health.reason_against(&Component::ALL);
        if waits_for_speaker && reason.is_none() {
            wait_for_speaker().await;
            waits_for_speaker = false;
            continue;
        }
        let state = condition.handle(reason.as_deref(), Instant::now());
        let mut next = condition.poll_timeout();
        if let Some(state) = state {
            match datastore.set_network_state(&node, &state, &rfc3339(SystemTime::now())).await {
                Ok(()) => {
                    tracing::info!(?state, "the Node says whether its network is up");
                    condition.written(&state);
                    next = condition.poll_timeout();
                }
                Err(error) => {
                    tracing::debug!(%error, "condition NetworkUnavailable is written later");
                    next = Some(Instant::now() + RETRY);
                }
            }
        }
        let due = async {
            match next {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = due => {}
        }
    }
}

/// The last word of an agent that ends: pods that are scheduled now would wait for the next one.
pub async fn end(node: &NodeName, datastore: &Datastore) {
    let state = NetworkState::Down("felix was asked to end; what is in the kernel stays".to_owned());
    let now = rfc3339(SystemTime::now());
    let written = tokio::time::timeout(LAST_WORD, datastore.set_network_state(node, &state, &now)).await;
    if !matches!(written, Ok(Ok(()))) {
        tracing::info!("condition NetworkUnavailable stays as it is: the API server did not take it in time");
    }
}

async fn wait_for_speaker() {
    let deadline = Instant::now() + SPEAKER_PATIENCE;
    while Instant::now() < deadline {
        if tokio::time::timeout(SPEAKER_PAUSE, is_ready(SPEAKER)).await.unwrap_or(false) {
            return;
        }
        tokio::time::sleep(SPEAKER_PAUSE).await;
    }
    tracing::warn!("bird-lite is not ready on {SPEAKER}; the Node's network counts as up all the same");
}

async fn is_ready(address: SocketAddr) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET /readiness HTTP/1.1\r\nHost: localhost\r\n\r\n").await?;
        let mut status = [0; 12];
        stream.read_exact(&mut status).await?;
        std::io::Result::Ok(status.ends_with(b" 200"))
    };
    ask.await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_is_up_when_the_agent_is_ready_and_down_when_it_is_not_for_a_while() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut condition = NetworkCondition::default();

        assert_eq!(condition.handle(Some("waits"), start), None, "what an earlier agent said stays");
        assert_eq!(condition.handle(None, after(10)), Some(NetworkState::Up));
        assert_eq!(condition.handle(None, after(11)), Some(NetworkState::Up), "it was not written");
        condition.written(&NetworkState::Up);
        assert_eq!(condition.handle(None, after(12)), None);

        assert_eq!(condition.handle(Some("no socket"), after(20)), None);
        assert_eq!(condition.poll_timeout(), Some(after(80)));
        let down = NetworkState::Down("no socket".to_owned());
        assert_eq!(condition.handle(Some("no socket"), after(80)).as_ref(), Some(&down));
        condition.written(&down);
        assert_eq!((condition.handle(Some("x"), after(90)), condition.poll_timeout()), (None, None));
        assert_eq!(condition.handle(None, after(91)), Some(NetworkState::Up));
    }

    #[tokio::test]
    async fn a_speaker_is_ready_when_it_says_so() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert!(!is_ready(([127, 0, 0, 1], 1).into()).await);
        for (line, expected) in [("HTTP/1.1 503 No\r\n\r\n", false), ("HTTP/1.1 200 OK\r\n\r\n", true)] {
            let (answer, ()) = tokio::join!(is_ready(address), async {
                let (mut stream, _) = listener.accept().await.unwrap();
                // What is closed unread is reset.
                assert!(stream.read(&mut [0; 512]).await.unwrap() > 0);
                stream.write_all(line.as_bytes()).await.unwrap();
            });
            assert_eq!(answer, expected);
        }
    }
}
