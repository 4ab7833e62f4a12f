//! What the kernel tells while the agent runs: links, routes and neighbours that others change, rules that are written, and
//! the marks of who else writes rules.
//!
//! Owns the tasks that listen, each into the dataplane's queue; decides nothing about what is told.

use std::time::Duration;

use anyhow::Result;
use felix_dataplane::Drivers;
use kernel_linux::events::Events;
use kernel_linux::{Backend, RuleEvents};

use crate::command::{Command, Dataplane};
use crate::drivers::Linux;
use crate::rule_mode;

/// How often the marks of the kubelet and kube-proxy are looked for.
const HINT_CHECK: Duration = Duration::from_secs(30);

/// Ports of the sockets by which routes and neighbours are written.
pub fn own_ports(drivers: &Drivers<Linux>) -> Result<Vec<u32>> {
    let of_cluster = [drivers.cluster.routes.port()?, drivers.cluster.neighbours.port()?];
    Ok([[drivers.routes.port()?, drivers.neighbours.port()?], of_cluster].concat())
}

/// Tells the dataplane of what changes in the kernel, but not of routes and neighbours that it writes itself.
pub fn links(dataplane: &Dataplane, own_ports: Vec<u32>) -> Result<()> {
    let dataplane = dataplane.clone();
    Events::open()?.without(own_ports).spawn(move |event| {
        dataplane.send(Command::Links(vec![event]));
        true
    })?;
    Ok(())
}

/// Tells the dataplane of rules that are written, and of the backend that others use.
pub fn rules(dataplane: &Dataplane) {
    let events = dataplane.clone();
    let deliver = move |rules| {
        events.send(Command::Rules(rules));
        true
    };
    if let Err(error) = RuleEvents::open().and_then(|rules| rules.spawn(deliver)) {
        tracing::info!(%error, "the kernel does not tell of changed rules; they are looked at instead");
    }
    let dataplane = dataplane.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(HINT_CHECK).await;
            if let Ok(hinted) = tokio::task::spawn_blocking(Backend::hinted).await {
                dataplane.send(Command::Hinted(hinted));
            }
            let look = tokio::task::spawn_blocking(rule_mode::kube_proxy_uses_nftables);
            if let Ok(Ok(nftables)) = look.await {
                dataplane.send(Command::KubeProxy { nftables });
            }
        }
    });
}
