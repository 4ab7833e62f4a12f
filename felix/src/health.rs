//! Is the agent alive, and ready? Each component says so itself, with a reason when it is not.
//!
//! Readiness is about this node alone: a dead remote node or peer is no part of it. Liveness only asks whether
//! the dataplane makes progress, however long an apply takes as a whole.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use probes::{Response, Status};
use serde::Serialize;

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
}

impl Component {
    /// Why it is not ready at the start.
    fn initial_reason(self) -> &'static str {
        match self {
            Component::Datastore => "the API server has not answered yet",
            Component::Dataplane => "nothing has been written to the kernel yet: waits for the datastore",
            Component::Socket => "the CNI socket is not open yet",
            Component::NodeAddress => "the node's address has not been determined yet",
        }
    }
}

/// Shared by all parts of the agent.
#[derive(Clone)]
pub struct Health(Arc<Mutex<State>>);

struct State {
    /// Why each component is not ready; `None` when it is.
    components: BTreeMap<Component, Option<String>>,
    /// When the step began that the dataplane is at; `None` while it is idle.
    busy_since: Option<Instant>,
    /// The dataplane's thread ended.
    is_dead: bool,
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
        let components =
            [Component::Datastore, Component::Dataplane, Component::Socket, Component::NodeAddress];
        let components = components.map(|component| (component, Some(component.initial_reason().to_owned())));
        let state = State { components: components.into(), busy_since: None, is_dead: false };
        Self(Arc::new(Mutex::new(state)))
    }

    pub fn set_ready(&self, component: Component) {
        self.0.lock().components.insert(component, None);
    }

    /// Back to what it waits for at the start.
    pub fn set_waiting(&self, component: Component) {
        self.set_unready(component, component.initial_reason());
    }

    pub fn set_unready(&self, component: Component, reason: impl Into<String>) {
        self.0.lock().components.insert(component, Some(reason.into()));
    }

    /// Why the first of these components that is not ready is not; `None` when all are.
    pub fn reason_against(&self, components: &[Component]) -> Option<String> {
        let state = self.0.lock();
        components.iter().find_map(|component| state.components.get(component).cloned().flatten())
    }

    /// The dataplane begins a step of its work.
    pub fn dataplane_busy(&self, now: Instant) {
        self.0.lock().busy_since = Some(now);
    }

    /// The dataplane waits for something to do.
    pub fn dataplane_idle(&self) {
        self.0.lock().busy_since = None;
    }

    /// The dataplane's thread ended, which it never should.
    pub fn dataplane_dead(&self) {
        self.0.lock().is_dead = true;
    }

    /// `/liveness`
    pub fn liveness(&self, now: Instant) -> Response {
        let state = self.0.lock();
        if state.is_dead {
            return Response::text(Status::ServiceUnavailable, "the dataplane has stopped\n");
        }
        match state.busy_since.map(|since| now.saturating_duration_since(since)) {
            Some(busy) if busy > WATCHDOG => Response::text(
                Status::ServiceUnavailable,
                format!("the dataplane is stuck in one step for {} s\n", busy.as_secs()),
            ),
            _ => Response::text(Status::Ok, "alive\n"),
        }
    }

    /// `/readiness`: JSON that names every component, and why it is not ready.
    pub fn readiness(&self) -> Response {
        let state = self.0.lock();
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
        let body = serde_json::to_string(&report).expect("names and strings are always JSON");
        let status = if ready { Status::Ok } else { Status::ServiceUnavailable };
        Response { status, content_type: "application/json", body: body + "\n" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_every_component_is() {
        let health = Health::new();
        for component in [Component::Datastore, Component::Dataplane, Component::NodeAddress] {
            health.set_ready(component);
        }

        let before = health.readiness();
        health.set_ready(Component::Socket);
        let after = health.readiness();

        assert_eq!(before.status, Status::ServiceUnavailable);
        assert!(
            before
                .body
                .contains(r#"{"name":"socket","ready":false,"reason":"the CNI socket is not open yet"}"#)
        );
        assert_eq!(after.status, Status::Ok);
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
