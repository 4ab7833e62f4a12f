//! What the node agent does between the datastore and the kernel, without its threads.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Context, ensure};
use felix_calc::Calc;
use felix_dataplane::{Dataplane, Failed, Kind, Ownership};
use felix_render::{RenderSettings, Renderer, RuleDataplane};
use kernel_linux::{Backend, Netns};
use model::{FelixConfiguration, LocalEndpoint, Update};

use crate::cluster::NODE;
use crate::cost::{Cost, Stopwatch};
use crate::drivers::{self, Linux};

/// Which way into the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Iptables(Backend),
    Nftables,
}

/// Calc, renderer and dataplane of a node that is a network namespace.
pub struct Agent {
    netns: Netns,
    calc: Calc,
    renderer: Renderer,
    dataplane: Dataplane<Linux>,
}

impl Agent {
    /// In sync with an empty datastore; nothing is written yet.
    pub fn new(netns: Netns, way: Way) -> anyhow::Result<Self> {
        let (backend, rules) = match way {
            Way::Iptables(backend) => (backend, RuleDataplane::Iptables),
            Way::Nftables => (Backend::Nft, RuleDataplane::Nftables),
        };
        let text = |error: anyhow::Error| io::Error::other(format!("{error:#}"));
        let ownership = Ownership::from(&FelixConfiguration::default());
        let opened = netns.run(|| drivers::open(Some(backend), &ownership, false).map_err(text))?;
        ensure!(opened.has_iptables || way == Way::Nftables, "iptables or IP sets do not work");
        let mut dataplane = Dataplane::new(opened.drivers, Instant::now());
        ensure!(dataplane.use_nftables(way == Way::Nftables, Instant::now()), "the kernel takes no nftables");
        let mut calc = Calc::new(NODE.into());
        calc.apply(Update::InSync);
        // The kernel's default, as with Calico's tree beside it.
        let settings = RenderSettings {
            ipip: false,
            ipv6: false,
            dataplane: rules,
            rp_filter: "0",
            ..RenderSettings::default()
        };
        Ok(Self { netns, calc, renderer: Renderer::new(settings), dataplane })
    }

    /// The node's own interfaces with their addresses.
    #[allow(dead_code, reason = "only the tests of the kernel have host endpoints")]
    pub fn set_host_links(&mut self, links: BTreeMap<String, BTreeSet<IpAddr>>) {
        self.renderer.set_host_links(links);
    }

    /// The namespace that is its node.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Takes updates of the datastore; they reach the kernel with `write`.
    pub fn apply(&mut self, updates: impl IntoIterator<Item = Update>) {
        updates.into_iter().for_each(|update| self.calc.apply(update));
    }

    /// A pod's interface is there.
    pub fn add_local(&mut self, endpoint: LocalEndpoint) {
        self.calc.set_local_endpoint(endpoint.interface.clone(), Some(endpoint));
    }

    /// Brings the kernel to what is wanted; how long that took from the calculation on.
    ///
    /// Routes to interfaces that do not exist stay pending, which is no failure here.
    pub fn write(&mut self) -> anyhow::Result<Cost> {
        let Self { netns, calc, renderer, dataplane } = self;
        let mut took = Cost::default();
        let failed = netns.run(|| {
            let stopwatch = Stopwatch::start();
            calc.flush().into_iter().for_each(|change| renderer.apply(change));
            dataplane.want(renderer.flush());
            let report = dataplane.apply(Instant::now(), |_| {});
            took = stopwatch.stop();
            let beside = [Kind::Routes, Kind::Neighbours, Kind::Sysctls];
            let matters = |failed: &&Failed| !beside.contains(&failed.kind);
            Ok(report.failed.iter().find(matters).map(|failed| format!("{failed:?}")))
        });
        let failed = failed.context("write to the kernel")?;
        ensure!(failed.is_none(), "the kernel did not take everything: {}", failed.unwrap_or_default());
        Ok(took)
    }
}

/// A namespace that goes away with the value.
pub fn new_netns() -> anyhow::Result<Netns> {
    let made = std::thread::spawn(|| -> io::Result<Netns> {
        // SAFETY: plain system call that changes this short-lived thread only.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Netns::current()
    });
    let made = made.join().map_err(|_| anyhow::anyhow!("the thread does not panic"))?;
    made.context("make a network namespace (root is needed)")
}
