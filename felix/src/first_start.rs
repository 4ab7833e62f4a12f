//! What a new cluster gets from the first node agent that starts in it: pools, tiers, settings, and the
//! ClusterInformation by which later ones know that it has them (`spec/control.md` §1.3).
//!
//! Nothing that is there is changed, but for what ClusterInformation says of the agents. What somebody deletes later
//! is not made again, but for a pool where a family has none.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use datastore::convert::rfc3339;
use datastore::crd::{
    BGPConfiguration, BGPConfigurationSpec, ClusterInformation, ClusterInformationSpec, EncapMode,
    FelixConfiguration, FelixConfigurationSpec, IPPool, IPPoolSpec, Tier, TierAction, TierSpec,
};
use datastore::{Datastore, NodeEvent};
use kernel::Link;
use model::{Cidr, NodeName};
use tokio::sync::watch;

use crate::cluster::{Cluster, OwnNode};
use crate::default_pools::{Ground, NewPool};
use crate::health::{Component, Health};
use crate::metrics::Metrics;
use crate::start_settings::StartSettings;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// What every cluster type says whose datastore is the API server.
const DATASTORE: &str = "kdd";
/// 122 random bits, as text.
const UUID: &str = "/proc/sys/kernel/random/uuid";

/// Lays the ground of a cluster, then compares the environment with the pools for as long as the agent runs.
pub struct FirstStart {
    pub node: NodeName,
    pub settings: StartSettings,
    pub cluster: Arc<Cluster>,
    pub own: watch::Receiver<OwnNode>,
    pub links: watch::Receiver<Arc<Vec<Link>>>,
    pub datastore: Datastore,
    pub health: Health,
    pub metrics: Arc<Metrics>,
}

impl FirstStart {
    /// Never returns but at the end of the agent.
    pub async fn run(mut self) {
        let links_are_known = async { self.links.wait_for(|links| !links.is_empty()).await.map(drop) };
        if self.own.wait_for(|own| own.in_sync).await.is_err() || links_are_known.await.is_err() {
            return;
        }
        let mut pools = self.cluster.pools_changed();
        // Tried once before the node can be ready: who waits for a ready node finds what the first start makes.
        let (datastore, cluster_type) = (self.datastore.clone(), self.settings.cluster_type.clone());
        if let Err(error) = describe_once(&datastore, &cluster_type).await {
            tracing::warn!(error = %format!("{error:#}"), "default objects are not made yet; it is tried again");
            tokio::spawn(describe(datastore, cluster_type));
        }
        let (mut pause, mut last_error, mut told) = (FIRST_PAUSE, String::new(), Vec::new());
        loop {
            pools.mark_unchanged();
            self.tell_differences(&mut told).await;
            let error = self.make_pools().await.err().map(|error| format!("{error:#}"));
            match &error {
                Some(error) => self.health.set_unready(Component::AddressPools, error),
                None => self.health.set_ready(Component::AddressPools),
            }
            let failed = error.is_some();
            let error = error.unwrap_or_default();
            if failed && error != last_error {
                tracing::error!(%error, "no pool; it is tried again");
            }
            last_error = error;
            let retry =
                async { if failed { tokio::time::sleep(pause).await } else { std::future::pending().await } };
            tokio::select! {
                changed = pools.changed() => if changed.is_err() { return },
                () = retry => {}
            }
            pause = if failed { (pause * 2).min(LONGEST_PAUSE) } else { FIRST_PAUSE };
        }
    }

    /// Makes a pool of each family that has none and should have one.
    async fn make_pools(&self) -> Result<()> {
        let present = self.cluster.pools();
        let settings = &self.settings.pools;
        let kubeadm = match settings.asks_kubeadm(&present) {
            true => self.datastore.kubeadm_pod_subnets().await.context("look for kubeadm's pod subnet")?,
            false => Vec::new(),
        };
        let ground = Ground { own_subnets: self.own_subnets(), kubeadm, random: random()? };
        for pool in settings.missing(&present, &ground) {
            let pool = pool.map_err(anyhow::Error::msg)?;
            let object = IPPool::new(pool.name, spec(&pool));
            if self.datastore.create_if_missing(&object).await? {
                tracing::info!(pool = pool.name, cidr = %pool.cidr, "default pool made");
            }
        }
        Ok(())
    }

    fn own_subnets(&self) -> Vec<Cidr> {
        let links = self.links.borrow().clone();
        let addresses = links.iter().flat_map(|link| link.addresses.clone());
        addresses.filter_map(|(address, length)| Cidr::truncated(address, length)).collect()
    }

    /// Says once of each variable that it is not in force, and counts them.
    async fn tell_differences(&self, told: &mut Vec<String>) {
        let pools = self.cluster.pools();
        let differences = self.settings.pools.differences(&pools);
        self.metrics.start_settings_ignored.set(i64::try_from(differences.len()).unwrap_or(i64::MAX));
        for difference in differences.iter().filter(|difference| !told.contains(difference)) {
            tracing::warn!(variable = %difference, "a pool that exists is changed by kubectl edit ippool, not by the environment");
            let message =
                format!("{difference}; the environment only says how a pool is made: change the IPPool");
            let event = NodeEvent { is_warning: true, reason: "PoolSettingIgnored".to_owned(), message };
            let Some(pool) = pools.first() else { continue };
            let (source, now) = (("felix", &self.node), rfc3339(SystemTime::now()));
            if let Err(error) = self.datastore.publish_once_about_pool(&pool.name, source, &event, &now).await
            {
                tracing::debug!(%error, "Event is lost");
            }
        }
        *told = differences;
    }
}

/// Makes what could not be made at once.
async fn describe(datastore: Datastore, cluster_type: String) {
    let mut pause = FIRST_PAUSE;
    loop {
        tokio::time::sleep(pause).await;
        if describe_once(&datastore, &cluster_type).await.is_ok() {
            return;
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Makes what the first start makes, and says which agents are there.
async fn describe_once(datastore: &Datastore, cluster_type: &str) -> Result<()> {
    let version = format!("v{}", env!("CARGO_PKG_VERSION"));
    let Some(present) = datastore.cluster_information().await? else {
        make_defaults(datastore).await?;
        let spec = ClusterInformationSpec {
            cluster_guid: Some(uuid()?.replace('-', "")),
            cluster_type: Some(with_type("", cluster_type)),
            calico_version: Some(version),
            datastore_ready: Some(true),
            variant: None,
        };
        // The last: while it is not there, the others may be missing.
        if datastore.create_if_missing(&ClusterInformation::new("default", spec)).await? {
            tracing::info!("a new cluster: its default objects are made");
        }
        return Ok(());
    };
    let before = present.cluster_type.unwrap_or_default();
    let wanted = with_type(&before, cluster_type);
    if wanted != before || present.calico_version.as_ref() != Some(&version) {
        datastore.describe_cluster(&wanted, &version).await?;
    }
    Ok(())
}

async fn make_defaults(datastore: &Datastore) -> Result<()> {
    for name in [model::Tier::KUBE_ADMIN, model::Tier::DEFAULT, model::Tier::KUBE_BASELINE] {
        let Some(tier) = model::Tier::built_in(name) else { continue };
        let default_action = if tier.default_action_is_pass { TierAction::Pass } else { TierAction::Deny };
        datastore.create_if_missing(&Tier::new(name, TierSpec { order: tier.order, default_action })).await?;
    }
    let felix = FelixConfigurationSpec {
        log_severity_screen: Some("Info".to_owned()),
        ..FelixConfigurationSpec::default()
    };
    datastore.create_if_missing(&FelixConfiguration::new("default", felix)).await?;
    let bgp = BGPConfiguration::new("default", BGPConfigurationSpec::default());
    datastore.create_if_missing(&bgp).await.map(drop).map_err(Into::into)
}

/// The types of both, each once, with the datastore's.
fn with_type(before: &str, ours: &str) -> String {
    let mut types: Vec<&str> = Vec::new();
    for of in before.split(',').chain(ours.split(',')).chain([DATASTORE]).map(str::trim) {
        if !of.is_empty() && !types.contains(&of) {
            types.push(of);
        }
    }
    types.join(",")
}

fn uuid() -> Result<String> {
    Ok(std::fs::read_to_string(UUID).with_context(|| format!("read {UUID}"))?.trim().to_owned())
}

fn random() -> Result<u64> {
    // Its last twelve digits are all random.
    let digits = uuid()?.rsplit('-').next().unwrap_or_default().to_owned();
    u64::from_str_radix(&digits, 16).with_context(|| format!("read {UUID}"))
}

fn spec(pool: &NewPool) -> IPPoolSpec {
    let mode = |mode| match mode {
        model::EncapMode::Never => EncapMode::Never,
        model::EncapMode::CrossSubnet => EncapMode::CrossSubnet,
        model::EncapMode::Always => EncapMode::Always,
    };
    IPPoolSpec {
        cidr: pool.cidr.to_string(),
        vxlan_mode: mode(pool.vxlan),
        ipip_mode: mode(pool.ipip),
        nat_outgoing: pool.nat_outgoing,
        disabled: false,
        disable_bgp_export: pool.disable_bgp_export,
        block_size: Some(pool.block_size.into()),
        node_selector: pool.node_selector.clone(),
        namespace_selector: None,
        allowed_uses: vec![
            datastore::crd::IPPoolAllowedUse::Workload,
            datastore::crd::IPPoolAllowedUse::Tunnel,
        ],
        assignment_mode: Default::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_merged_without_repetition() {
        assert_eq!(with_type("", "k8s,bgp"), "k8s,bgp,kdd");
        assert_eq!(with_type("kubeadm,kdd,k8s", " k8s, bgp ,"), "kubeadm,kdd,k8s,bgp");
        assert_eq!(with_type("", ""), "kdd");
    }

    #[test]
    fn the_kernel_gives_randomness() {
        assert_eq!(uuid().unwrap().replace('-', "").len(), 32);
        assert_ne!((random().unwrap(), random().unwrap()), (0, 0));
    }
}
