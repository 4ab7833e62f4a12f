//! The lab's `controllers`: one supervised process beside the API server, which asks it by URL before it stores an
//! object. It runs in the daemon's own network namespace, where the API server's requests come from.
//! Nobody waits for it: a lab is as ready without it as with it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;

use crate::agents::{Agent, AgentSpec};
use crate::node::answers_ready;
use crate::options::LabOptions;

/// The program, the target of `lab kill|stop|start|logs`, and the directory of its log.
pub const CONTROLLERS: &str = "controllers";

/// The daemon's own network namespace.
const OWN_NETNS: &str = "/proc/self/ns/net";
/// How often it is asked until it is ready, and from then on.
const STARTING: Duration = Duration::from_millis(100);
const READY: Duration = Duration::from_secs(2);

/// The process and what looks after it.
pub struct Controllers {
    agents: Vec<Arc<Agent>>,
    watcher: JoinHandle<()>,
    /// Keeps the port that webhook and probes use on loopback addresses of their own from everybody else.
    _port: TcpSocket,
}

impl Controllers {
    /// Whether the program is there.
    pub fn is_installed(bin_dir: &Path) -> bool {
        bin_dir.join(CONTROLLERS).is_file()
    }

    /// Starts the process.
    pub fn start(options: &LabOptions) -> anyhow::Result<Self> {
        let directory = options.name.state_dir().join(CONTROLLERS);
        std::fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
        let reserved = TcpSocket::new_v4()?;
        reserved.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).context("reserve a port on 127.0.0.1")?;
        let port = reserved.local_addr()?.port();
        let at = |last: u8| SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), port));
        let (webhook, health) = (at(2), at(3));
        let agent = Agent::start(spec(options, &directory, webhook, health));
        let watcher = tokio::spawn(watch(Arc::clone(&agent), health));
        Ok(Self { agents: vec![agent], watcher, _port: reserved })
    }

    /// The process, as the one of its kind.
    pub fn agents(&self) -> &[Arc<Agent>] {
        &self.agents
    }

    /// Ends the process.
    pub async fn end(&self) {
        self.watcher.abort();
        for agent in &self.agents {
            agent.end().await;
        }
    }
}

/// The process's command line has the lab's kubeconfig, by which what a dead daemon left behind is found.
fn spec(options: &LabOptions, directory: &Path, webhook: SocketAddr, health: SocketAddr) -> AgentSpec {
    let mut command = vec![
        options.bin_dir.join(CONTROLLERS).display().to_string(),
        "--kubeconfig".to_owned(),
        options.name.controllers_kubeconfig().display().to_string(),
        "--health-listen".to_owned(),
        health.to_string(),
    ];
    if options.external.is_some() {
        // A server elsewhere does not reach this machine's loopback.
        command.push("--no-webhook".to_owned());
    } else {
        let url = format!("https://{webhook}");
        command.extend(["--webhook-listen".to_owned(), webhook.to_string(), "--webhook-url".to_owned(), url]);
    }
    AgentSpec {
        name: CONTROLLERS.to_owned(),
        command,
        environment: Vec::new(),
        netns: PathBuf::from(OWN_NETNS),
        log: directory.join(format!("{CONTROLLERS}.log")),
        readiness: Some(health),
        confinement: None,
    }
}

async fn watch(agent: Arc<Agent>, health: SocketAddr) {
    loop {
        let is_ready = answers_ready(Path::new(OWN_NETNS), health).await;
        agent.set_ready(is_ready);
        tokio::time::sleep(if is_ready { READY } else { STARTING }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{Encap, ExternalApi, TorKind};

    fn options() -> LabOptions {
        LabOptions {
            name: "lab".parse().unwrap(),
            nodes: 1,
            subnets: 1,
            tor: TorKind::None,
            pod_cidr: "10.65.0.0/16".into(),
            encap: Encap::Never,
            family: crate::names::Family::V4,
            external: None,
            bin_dir: "/x".into(),
            agents: true,
            controllers: true,
            typha: false,
            manifest: None,
        }
    }

    #[test]
    fn only_the_embedded_server_is_given_a_webhook() {
        let (webhook, health) = ("127.0.0.2:7".parse().unwrap(), "127.0.0.3:7".parse().unwrap());
        let command =
            |options: &LabOptions| spec(options, Path::new("/s"), webhook, health).command.join(" ");

        assert!(
            command(&options()).ends_with("--webhook-listen 127.0.0.2:7 --webhook-url https://127.0.0.2:7")
        );
        let external = ExternalApi { url: "https://k".into(), token: "t".into(), ca_file: None };
        assert!(command(&LabOptions { external: Some(external), ..options() }).ends_with("--no-webhook"));
    }
}
