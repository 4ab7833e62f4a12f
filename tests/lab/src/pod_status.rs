//! What the kubelet stand-in writes into a pod's status. Pure.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, Pod, PodCondition};
use serde_json::{Value, json};

use crate::responder::Transport;

/// A pod's state as the status shall tell it.
#[derive(Debug, Clone, PartialEq)]
pub enum PodState<'a> {
    /// Wired and served.
    Running {
        /// The pod's addresses, IPv4 first.
        addresses: &'a [IpAddr],
        /// The sandbox's id.
        container_id: &'a str,
        /// Ports that could not be served; empty in a pod that is Ready.
        failures: &'a [String],
    },
    /// Not yet: why.
    Waiting {
        /// A CamelCase word such as `ContainerCreating`.
        reason: &'a str,
        /// The whole story.
        message: &'a str,
    },
}

/// The patch of a pod's status; `now` is the present time as the API writes it.
pub fn status_patch(pod: &Pod, host: &[IpAddr], state: &PodState<'_>, now: &Value) -> Value {
    let ready = matches!(state, PodState::Running { failures, .. } if failures.is_empty());
    let old = pod.status.as_ref();
    let start = old.and_then(|s| s.start_time.as_ref()).and_then(|t| serde_json::to_value(t).ok());
    let mut status = json!({
        "phase": if matches!(state, PodState::Running { .. }) { "Running" } else { "Pending" },
        "conditions": conditions(pod, state, ready, now),
        "containerStatuses": containers(pod, state, ready, now),
        "startTime": start.unwrap_or_else(|| now.clone()),
        "hostIPs": host.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>(),
    });
    if let Some(first) = host.first() {
        status["hostIP"] = json!(first);
    }
    if let PodState::Running { addresses, .. } = state {
        status["podIPs"] = addresses.iter().map(|ip| json!({"ip": ip})).collect();
        status["podIP"] = json!(addresses.first());
    }
    let init = init_containers(pod, state, now);
    if !init.is_empty() {
        status["initContainerStatuses"] = Value::Array(init);
    }
    json!({ "status": status })
}

/// The ports that the pod's containers declare.
pub fn declared_ports(pod: &Pod) -> Vec<(Transport, u16)> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut ports: Vec<(Transport, u16)> = containers
        .flat_map(|c| c.ports.iter().flatten())
        .filter_map(|p| {
            let transport = match p.protocol.as_deref().unwrap_or("TCP") {
                "TCP" => Transport::Tcp,
                "UDP" => Transport::Udp,
                "SCTP" => Transport::Sctp,
                _ => return None,
            };
            Some((transport, u16::try_from(p.container_port).ok()?))
        })
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn conditions(pod: &Pod, state: &PodState<'_>, ready: bool, now: &Value) -> Vec<Value> {
    let waiting = match state {
        PodState::Waiting { reason, message } => Some(((*reason).to_owned(), (*message).to_owned())),
        PodState::Running { failures, .. } if !failures.is_empty() => {
            Some(("ContainersNotReady".to_owned(), failures.join("; ")))
        }
        PodState::Running { .. } => None,
    };
    let old = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let running = matches!(state, PodState::Running { .. });
    let ours = [
        ("PodScheduled", true),
        ("PodReadyToStartContainers", running),
        ("Initialized", true),
        ("ContainersReady", ready),
        ("Ready", ready),
    ];
    let mut all: Vec<Value> = old
        .iter()
        .filter(|c| ours.iter().all(|(name, _)| *name != c.type_))
        .filter_map(|c| serde_json::to_value(c).ok())
        .collect();
    for (name, holds) in ours {
        let before = old.iter().find(|c| c.type_ == name);
        let mut condition = json!({
            "type": name, "status": if holds { "True" } else { "False" },
            "lastTransitionTime": transition(before, holds, now),
        });
        if let (false, Some((reason, message))) = (holds, &waiting) {
            condition["reason"] = json!(reason);
            condition["message"] = json!(message);
        }
        all.push(condition);
    }
    all
}

fn transition(before: Option<&PodCondition>, holds: bool, now: &Value) -> Value {
    let same = before.filter(|c| (c.status == "True") == holds);
    same.and_then(|c| serde_json::to_value(c.last_transition_time.as_ref()?).ok())
        .unwrap_or_else(|| now.clone())
}

fn containers(pod: &Pod, state: &PodState<'_>, ready: bool, now: &Value) -> Vec<Value> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers
        .map(|c| match state {
            PodState::Running { container_id, .. } => {
                let mut status = container(c, json!({"running": {"startedAt": now}}), ready);
                status["containerID"] = json!(format!("lab://{container_id}/{}", c.name));
                status["started"] = json!(true);
                status
            }
            PodState::Waiting { reason, message } => {
                let waiting = json!({"waiting": {"reason": reason, "message": message}});
                container(c, waiting, false)
            }
        })
        .collect()
}

/// Init containers have nothing to do here: they have ended as soon as the pod runs.
fn init_containers(pod: &Pod, state: &PodState<'_>, now: &Value) -> Vec<Value> {
    let init = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    init.map(|c| match state {
        PodState::Running { .. } => {
            let end = json!({"exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now});
            container(c, json!({ "terminated": end }), true)
        }
        PodState::Waiting { .. } => container(c, json!({"waiting": {"reason": "PodInitializing"}}), false),
    })
    .collect()
}

fn container(container: &Container, state: Value, ready: bool) -> Value {
    json!({
        "name": container.name, "image": container.image.as_deref().unwrap_or(""), "imageID": "",
        "ready": ready, "restartCount": 0, "state": state, "lastState": {},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "a", "namespace": "x"},
            "spec": {"containers": [{"name": "c", "image": "i", "ports": [
                {"containerPort": 80}, {"containerPort": 80, "protocol": "UDP"}, {"containerPort": 80}]}]},
            "status": {"conditions": [
                {"type": "Ready", "status": "False", "lastTransitionTime": "2020-01-01T00:00:00Z"},
                {"type": "example.com/gate", "status": "True"}]},
        }))
        .unwrap()
    }

    #[test]
    fn a_running_pod_is_ready_and_keeps_foreign_conditions() {
        let addresses = ["10.65.0.1".parse().unwrap()];
        let state = PodState::Running { addresses: &addresses, container_id: "id", failures: &[] };
        let patch = status_patch(&pod(), &["172.20.0.11".parse().unwrap()], &state, &json!("NOW"));
        assert_eq!(patch["status"]["podIP"], "10.65.0.1");
        assert_eq!(patch["status"]["hostIP"], "172.20.0.11");
        assert_eq!(patch["status"]["containerStatuses"][0]["ready"], true);
        let conditions = patch["status"]["conditions"].as_array().unwrap();
        assert_eq!(conditions[0]["type"], "example.com/gate");
        let ready = conditions.last().unwrap();
        assert_eq!((&ready["status"], &ready["lastTransitionTime"]), (&json!("True"), &json!("NOW")));
    }

    #[test]
    fn a_waiting_pod_says_why_and_keeps_its_time() {
        let state = PodState::Waiting { reason: "FailedCreatePodSandBox", message: "felix is away" };
        let patch = status_patch(&pod(), &[], &state, &json!("NOW"));
        let ready = patch["status"]["conditions"].as_array().unwrap().last().unwrap().clone();
        assert_eq!(ready["message"], "felix is away");
        assert_eq!(ready["lastTransitionTime"], "2020-01-01T00:00:00Z");
        assert_eq!(patch["status"]["containerStatuses"][0]["state"]["waiting"]["message"], "felix is away");
        assert_eq!(patch["status"]["podIP"], Value::Null);
    }

    #[test]
    fn ports_are_declared_once() {
        assert_eq!(declared_ports(&pod()), [(Transport::Tcp, 80), (Transport::Udp, 80)]);
    }
}
