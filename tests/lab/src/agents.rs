//! Supervised processes inside a namespace: started, watched, started again with back-off, stopped on request.
//! It knows nothing of what the processes do.

use std::fs::OpenOptions;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::container::Confinement;
use crate::netns;
use crate::status::AgentStatus;

/// The first pause before a crashed process is started again; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A run this long makes the next pause the first again.
const GOOD_RUN: Duration = Duration::from_secs(10);
/// How long a process may take to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(5);

/// What to run and where.
#[derive(Debug, Clone)]
pub struct AgentSpec {
    /// Name in status and commands.
    pub name: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Environment variables on top of the daemon's own.
    pub environment: Vec<(String, String)>,
    /// The network namespace's mount point.
    pub netns: PathBuf,
    /// Where standard output and error go, appended.
    pub log: PathBuf,
    /// Where its readiness is asked; without one it is ready while it runs.
    pub readiness: Option<SocketAddr>,
    /// What it sees of the machine and may do; everything unless given.
    pub confinement: Option<Confinement>,
}

impl AgentSpec {
    /// Starts the process, not supervised.
    pub async fn spawn(&self) -> io::Result<Child> {
        let spec = self.clone();
        let runtime = tokio::runtime::Handle::current();
        // A child gets the namespaces of the thread that starts it.
        netns::enter(&self.netns, move || {
            let _entered = runtime.enter();
            let log = OpenOptions::new().append(true).create(true).open(&spec.log)?;
            let mut command = Command::new(&spec.command[0]);
            command
                .args(&spec.command[1..])
                .env_remove("KUBECONFIG")
                .envs(spec.environment.iter().map(|(k, v)| (k, v)))
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log);
            if let Some(confinement) = spec.confinement {
                confinement.enter()?;
                // SAFETY: only prctl is called, and nothing is allocated.
                unsafe { command.pre_exec(move || confinement.drop_capabilities()) };
            }
            command.spawn()
        })
        .await
    }
}

/// A supervised process.
#[derive(Debug)]
pub struct Agent {
    spec: AgentSpec,
    view: Mutex<View>,
    wish: watch::Sender<Wish>,
}

#[derive(Debug, Default)]
struct View {
    state: &'static str,
    pid: Option<u32>,
    restarts: u32,
    last_exit: Option<String>,
    ready: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Run,
    Stop,
    /// Stop, and the supervisor itself ends.
    End,
}

impl Agent {
    /// Starts the process and its supervisor.
    pub fn start(spec: AgentSpec) -> Arc<Self> {
        let (wish, wishes) = watch::channel(Wish::Run);
        let view = Mutex::new(View { state: "starting", ..View::default() });
        let agent = Arc::new(Self { spec, view, wish });
        tokio::spawn(Arc::clone(&agent).supervise(wishes));
        agent
    }

    /// The name in status and commands.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Where its readiness is asked.
    pub fn readiness(&self) -> Option<SocketAddr> {
        self.spec.readiness
    }

    /// What status shows.
    pub fn status(&self) -> AgentStatus {
        let view = self.view();
        AgentStatus {
            name: self.spec.name.clone(),
            state: view.state.to_owned(),
            pid: view.pid,
            restarts: view.restarts,
            last_exit: view.last_exit.clone(),
            ready: view.ready,
            log: self.spec.log.clone(),
        }
    }

    /// Notes what a readiness check found.
    pub fn set_ready(&self, ready: bool) {
        self.view().ready = Some(ready);
    }

    /// Sends SIGKILL; the supervisor starts the process again. False when it was not running.
    pub fn kill(&self) -> bool {
        let pid = self.view().pid.and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = pid {
            netns::signal(pid, libc::SIGKILL);
        }
        pid.is_some()
    }

    /// Stops the process for good and returns when it has ended.
    pub async fn stop(&self) {
        self.wish.send_replace(Wish::Stop);
        self.wait_ended().await;
    }

    /// Starts the process if it was stopped or is waiting to be started again.
    pub fn resume(&self) {
        self.wish.send_replace(Wish::Run);
    }

    /// Stops the process and its supervisor.
    pub async fn end(&self) {
        self.wish.send_replace(Wish::End);
        self.wait_ended().await;
    }

    async fn wait_ended(&self) {
        while self.view().pid.is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn supervise(self: Arc<Self>, mut wishes: watch::Receiver<Wish>) {
        let mut pause = FIRST_PAUSE;
        loop {
            if wishes.wait_for(|w| *w != Wish::Stop).await.is_err() || *wishes.borrow() == Wish::End {
                self.view().state = "stopped";
                return;
            }
            let begun = Instant::now();
            let crashed = match self.launch().await {
                Ok(child) => self.watch_child(child, &mut wishes).await,
                Err(e) => {
                    self.view().last_exit = Some(format!("cannot start {}: {e}", self.spec.command[0]));
                    true
                }
            };
            if !crashed {
                self.view().state = "stopped";
                continue;
            }
            self.note_crash();
            pause = if begun.elapsed() >= GOOD_RUN { FIRST_PAUSE } else { pause };
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
                _ = wishes.changed() => pause = FIRST_PAUSE,
            }
        }
    }

    fn note_crash(&self) {
        let mut view = self.view();
        view.state = "backoff";
        view.restarts += 1;
        tracing::warn!(agent = %self.spec.name, log = %self.spec.log.display(), exit = ?view.last_exit, "process ended by itself");
    }

    /// Waits for the process's end; true when nobody asked for it.
    async fn watch_child(&self, mut child: Child, wishes: &mut watch::Receiver<Wish>) -> bool {
        let exit = tokio::select! {
            exit = child.wait() => Some(exit),
            stop = wishes.wait_for(|w| *w != Wish::Run) => { drop(stop); None }
        };
        let (exit, crashed) = match exit {
            Some(exit) => (exit, true),
            None => (stop_child(&mut child).await, false),
        };
        let mut view = self.view();
        view.pid = None;
        view.ready = view.ready.map(|_| false);
        view.last_exit = Some(describe(exit));
        crashed
    }

    async fn launch(&self) -> io::Result<Child> {
        let child = self.spec.spawn().await?;
        let mut view = self.view();
        view.pid = child.id();
        view.state = "running";
        Ok(child)
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn stop_child(child: &mut Child) -> io::Result<ExitStatus> {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        netns::signal(pid, libc::SIGTERM);
    }
    match tokio::time::timeout(PATIENCE, child.wait()).await {
        Ok(exit) => exit,
        Err(_) => {
            child.start_kill()?;
            child.wait().await
        }
    }
}

fn describe(exit: io::Result<ExitStatus>) -> String {
    match exit {
        Ok(status) => status.to_string(),
        Err(e) => format!("unknown end: {e}"),
    }
}
