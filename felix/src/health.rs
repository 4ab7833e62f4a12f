//! Is the agent alive, and ready? Each component says so itself, with a reason when it is not.
//!
//! Readiness is about this node alone: a dead remote node or peer is no part of it. Liveness only asks whether
//! the dataplane makes progress, however long an apply takes as a whole.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::Family;
use parking_lot::Mutex;
use probes::{Response, Status};
use serde::Serialize;
use tokio::sync::watch;

/// How long one step of the dataplane may take (Calico's watchdog).
const WATCHDOG: Duration = Duration::from_secs(90);

/// What has to be in order before the agent counts as ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Component {
    /// Every kind of object has been listed once.
    Datastore,
    /// The first apply is done; what failed is retried and named in metrics, and does not count here.
    Dataplane,
    /// The CNI plugin can reach the agent.
    Socket,
    /// The node's address is known and published.
    NodeAddress,
    /// There are pools, or the environment wants none.
    AddressPools,
}

impl Component {
    /// Why it is not ready at the start.
    fn initial_reason(self) -> &'static str {
        match self {
            Component::Datastore => "the API server has not answered yet",
            Component::Dataplane => "nothing has been written to the kernel yet: waits for the datastore",
            Component::Socket => "the CNI socket is not open yet",
            Component::NodeAddress => "the node's address has not been determined yet",
            Component::AddressPools => "the pools have not been looked at yet: waits for the datastore",
        }
    }
}

impl Component {
    pub const ALL: [Self; 5] =
        [Self::Datastore, Self::Dataplane, Self::Socket, Self::NodeAddress, Self::AddressPools];
}

/// Shared by all parts of the agent.
#[derive(Clone)]
pub struct Health {
    state: Arc<Mutex<State>>,
    /// Wakes whoever follows readiness.
    changed: Arc<watch::Sender<()>>,
}

struct State {
    /// Why each component is not ready; `None` when it is.
    components: BTreeMap<Component, Option<String>>,
    /// When the step began that the dataplane is at; `None` while it is idle.
    busy_since: Option<Instant>,
    /// The dataplane's thread ended.
    is_dead: bool,
    /// Everything was ready once.
    has_started: bool,
    /// Which addresses the node goes by, and why.
    addresses: BTreeMap<Family, Chosen>,
}

/// Where the node's address of a family comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Chosen {
    pub address: String,
    /// Every address of the family that was seen, with the reason why it was chosen or not.
    pub seen: Vec<String>,
}

#[derive(Serialize)]
struct Liveness {
    alive: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Serialize)]
struct Startup<'a> {
    started: bool,
    /// What is still waited for.
    waiting: Vec<ComponentReport<'a>>,
    addresses: BTreeMap<&'static str, &'a Chosen>,
}

#[derive(Serialize)]
struct Report<'a> {
    ready: bool,
    components: Vec<ComponentReport<'a>>,
}

#[derive(Serialize)]
struct ComponentReport<'a> {
    name: Component,
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

impl Health {
    /// Nothing is ready yet.
    pub fn new() -> Self {
        let components = Component::ALL;
        let components = components.map(|component| (component, Some(component.initial_reason().to_owned())));
        let state = State {
            components: components.into(),
            busy_since: None,
            is_dead: false,
            has_started: false,
            addresses: BTreeMap::new(),
        };
        Self { state: Arc::new(Mutex::new(state)), changed: Arc::new(watch::Sender::default()) }
    }

    pub fn set_ready(&self, component: Component) {
        self.set(component, None);
    }

    /// Back to what it waits for at the start.
    pub fn set_waiting(&self, component: Component) {
        self.set_unready(component, component.initial_reason());
    }

    pub fn set_unready(&self, component: Component, reason: impl Into<String>) {
        self.set(component, Some(reason.into()));
    }

    fn set(&self, component: Component, reason: Option<String>) {
        let mut state = self.state.lock();
        let before = state.components.insert(component, reason.clone());
        state.has_started |= state.components.values().all(Option::is_none);
        drop(state);
        if before.is_none_or(|before| before != reason) {
            self.changed.send_replace(());
        }
    }

    /// Notes which address of a family the node goes by.
    pub fn set_address(&self, family: Family, chosen: Chosen) {
        self.state.lock().addresses.insert(family, chosen);
    }

    /// Tells of every change of readiness.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Why the first of these components that is not ready is not; `None` when all are.
    pub fn reason_against(&self, components: &[Component]) -> Option<String> {
        let state = self.state.lock();
        components.iter().find_map(|component| state.components.get(component).cloned().flatten())
    }

    /// The dataplane begins a step of its work.
    pub fn dataplane_busy(&self, now: Instant) {
        self.state.lock().busy_since = Some(now);
    }

    /// The dataplane waits for something to do.
    pub fn dataplane_idle(&self) {
        self.state.lock().busy_since = None;
    }

    /// The dataplane's thread ended, which it never should.
    pub fn dataplane_dead(&self) {
        self.state.lock().is_dead = true;
    }

    /// `/liveness`
    pub fn liveness(&self, now: Instant) -> Response {
        let state = self.state.lock();
        let stuck = state.busy_since.map(|since| now.saturating_duration_since(since));
        let reason = match stuck.filter(|stuck| *stuck > WATCHDOG) {
            _ if state.is_dead => Some("the dataplane has stopped".to_owned()),
            Some(stuck) => Some(format!("the dataplane has been at one step for {} s", stuck.as_secs())),
            None => None,
        };
        drop(state);
        let alive = reason.is_none();
        reply(alive, &Liveness { alive, reason })
    }

    /// `/startup`: everything was ready once; it never goes back.
    pub fn startup(&self) -> Response {
        let state = self.state.lock();
        let waiting = state.components.iter().filter(|_| !state.has_started);
        let waiting = waiting.filter_map(|(name, reason)| {
            Some(ComponentReport { name: *name, ready: false, reason: Some(reason.as_deref()?) })
        });
        let name = |family: &Family| match family {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        };
        let report = Startup {
            started: state.has_started,
            waiting: waiting.collect(),
            addresses: state.addresses.iter().map(|(family, chosen)| (name(family), chosen)).collect(),
        };
        reply(report.started, &report)
    }

    /// `/readiness`: JSON that names every component, and why it is not ready.
    pub fn readiness(&self) -> Response {
        let state = self.state.lock();
        let component = |(name, reason): (&Component, &'_ Option<String>)| (*name, reason.clone());
        let reasons: Vec<_> = state.components.iter().map(component).collect();
        drop(state);
        let ready = reasons.iter().all(|(_, reason)| reason.is_none());
        let components = reasons.iter().map(|(name, reason)| ComponentReport {
            name: *name,
            ready: reason.is_none(),
            reason: reason.as_deref(),
        });
        let report = Report { ready, components: components.collect() };
        reply(ready, &report)
    }
}

fn reply(is_well: bool, report: &impl Serialize) -> Response {
    let body = serde_json::to_string(report).expect("names and strings are always JSON");
    let status = if is_well { Status::Ok } else { Status::ServiceUnavailable };
    Response { status, content_type: "application/json", body: body + "\n" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_every_component_is() {
        let health = Health::new();
        for component in Component::ALL.into_iter().filter(|component| *component != Component::Socket) {
            health.set_ready(component);
        }

        let before = health.readiness();
        let starting = health.startup();
        health.set_ready(Component::Socket);
        let after = health.readiness();
        health.set_unready(Component::NodeAddress, "gone");

        assert_eq!(before.status, Status::ServiceUnavailable);
        assert!(
            before
                .body
                .contains(r#"{"name":"socket","ready":false,"reason":"the CNI socket is not open yet"}"#)
        );
        assert_eq!(after.status, Status::Ok);
        assert_eq!(starting.status, Status::ServiceUnavailable);
        assert!(
            starting.body.starts_with(r#"{"started":false,"waiting":[{"name":"socket""#),
            "{}",
            starting.body
        );
        assert_eq!(
            (health.readiness().status, health.startup().status),
            (Status::ServiceUnavailable, Status::Ok)
        );
    }

    #[test]
    fn a_long_apply_is_alive_while_its_steps_are_short() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let health = Health::new();

        health.dataplane_busy(start);
        health.dataplane_busy(after(80));
        assert_eq!(health.liveness(after(160)).status, Status::Ok);
        assert_eq!(health.liveness(after(171)).status, Status::ServiceUnavailable);

        health.dataplane_idle();
        assert_eq!(health.liveness(after(100_000)).status, Status::Ok);
        health.dataplane_dead();
        assert_eq!(health.liveness(after(0)).status, Status::ServiceUnavailable);
    }
}
