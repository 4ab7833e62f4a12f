//! The lab's daemon: started by `lab up`, answers the commands on the control socket until `lab down`.
//! What it runs is in `lab`.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use anyhow::Context;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};

use crate::cleanup;
use crate::control::{Failure, Reply, Request};
use crate::lab::{Lab, Phase};
use crate::options::LabOptions;

/// The file in the state directory from which the daemon reads what to build.
pub const OPTIONS_FILE: &str = "options.json";

struct Shared {
    options: LabOptions,
    phase: watch::Sender<Phase>,
    lab: watch::Sender<Option<Arc<Lab>>>,
    /// Somebody wants the end.
    down: Notify,
    /// Everything is removed; connections may answer.
    removed: watch::Sender<Option<Result<(), String>>>,
}

/// Runs a lab to its end. Whatever happens, nothing of it is left but the log's directory on failure.
pub async fn run(options: LabOptions) -> anyhow::Result<()> {
    raise_file_limit();
    let state = options.name.state_dir();
    std::fs::write(state.join("daemon.pid"), format!("{}\n", std::process::id()))
        .context("write daemon.pid")?;
    let socket = options.name.control_socket();
    let listener = UnixListener::bind(&socket).with_context(|| format!("listen on {}", socket.display()))?;
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600))?;
    let shared = Arc::new(Shared {
        phase: watch::Sender::new(Phase::Starting("daemon".to_owned())),
        lab: watch::Sender::new(None),
        down: Notify::new(),
        removed: watch::Sender::new(None),
        options,
    });
    let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
    let bringing_up = tokio::spawn(bring_up(Arc::clone(&shared)));
    wait_for_end(&shared).await?;
    bringing_up.abort();
    bringing_up.await.ok();
    tear_down(&shared).await;
    accepting.abort();
    // The answers to `down` and `wait` leave before the process does.
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    Ok(())
}

async fn bring_up(shared: Arc<Shared>) {
    let done = async {
        let lab = Lab::start(shared.options.clone(), shared.phase.clone()).await?;
        shared.lab.send_replace(Some(Arc::clone(&lab)));
        lab.wait_ready().await
    };
    if let Err(e) = done.await {
        let message = format!("{e:#}");
        tracing::error!(message, "lab did not come up");
        shared.phase.send_replace(Phase::Failed(message));
        shared.down.notify_one();
    }
}

async fn wait_for_end(shared: &Shared) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        () = shared.down.notified() => {}
        _ = terminate.recv() => tracing::info!("SIGTERM: going down"),
        _ = interrupt.recv() => tracing::info!("SIGINT: going down"),
    }
    Ok(())
}

async fn tear_down(shared: &Shared) {
    let lab = shared.lab.send_replace(None);
    if let Some(lab) = lab {
        lab.end().await;
    }
    let name = shared.options.name.clone();
    let swept = tokio::task::spawn_blocking(move || cleanup::sweep(&name)).await;
    let result = match swept {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(e)) => Err(e.to_string()),
        Err(e) => Err(e.to_string()),
    };
    shared.removed.send_replace(Some(result));
}

async fn accept(listener: UnixListener, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
            Err(e) => {
                tracing::warn!(error = %e, "control connection not accepted");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve(stream: UnixStream, shared: Arc<Shared>) {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let done = match serde_json::from_str(&line) {
            Ok(request) => answer(request, &shared, &mut writer).await,
            Err(e) => Err(Failure::usage(format!("request {line:?}: {e}"))),
        };
        let reply = match done {
            Ok(value) => Reply::Result(value),
            Err(failure) => Reply::Error(failure),
        };
        if send(&mut writer, &reply).await.is_err() {
            return;
        }
    }
}

async fn send(writer: &mut OwnedWriteHalf, reply: &Reply) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    writer.write_all(&line).await
}

async fn answer(
    request: Request,
    shared: &Arc<Shared>,
    writer: &mut OwnedWriteHalf,
) -> Result<Value, Failure> {
    match request {
        Request::Wait => wait(shared, writer).await,
        Request::Down => {
            let mut removed = shared.removed.subscribe();
            shared.down.notify_one();
            let result =
                removed.wait_for(Option::is_some).await.map_err(|e| Failure::failed(e.to_string()))?.clone();
            result.unwrap_or(Ok(())).map(|()| Value::Null).map_err(Failure::failed)
        }
        Request::Status => {
            let status = lab(shared)?.status().await;
            serde_json::to_value(status).map_err(|e| Failure::failed(e.to_string()))
        }
        Request::Fault { action, target, component } => {
            lab(shared)?.fault(action, &target, component.as_deref()).await.map(Value::String)
        }
        Request::NodeAdd { subnet } => lab(shared)?.add_node(subnet).await.map(Value::String),
        Request::NodeRemove { name } => lab(shared)?.remove_node(&name).await.map(|()| Value::Null),
        Request::Link { node, up } => lab(shared)?.set_link(&node, up).map(|()| Value::Null),
    }
}

/// Reports progress until the lab is ready or has failed and is removed.
async fn wait(shared: &Arc<Shared>, writer: &mut OwnedWriteHalf) -> Result<Value, Failure> {
    let mut phases = shared.phase.subscribe();
    loop {
        let phase = phases.borrow_and_update().clone();
        match phase {
            Phase::Ready => return Ok(json!(shared.options.name.kubeconfig())),
            Phase::Failed(message) => {
                shared.removed.subscribe().wait_for(Option::is_some).await.ok();
                return Err(Failure::failed(message));
            }
            Phase::Stopping => return Err(Failure::failed("the lab is being removed")),
            Phase::Starting(text) => {
                if send(writer, &Reply::Progress(text)).await.is_err() {
                    return Ok(Value::Null);
                }
            }
        }
        if phases.changed().await.is_err() {
            return Err(Failure::failed("the daemon is ending"));
        }
    }
}

fn lab(shared: &Shared) -> Result<Arc<Lab>, Failure> {
    shared.lab.borrow().clone().ok_or_else(|| match &*shared.phase.borrow() {
        Phase::Starting(text) => Failure::failed(format!("the lab is still starting ({text})")),
        Phase::Failed(message) => Failure::failed(format!("the lab did not come up: {message}")),
        Phase::Ready | Phase::Stopping => Failure::failed("the lab is being removed"),
    })
}

/// Responders hold a descriptor for each port of each pod.
pub(crate) fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).ok();
}
