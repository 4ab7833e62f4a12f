//! The real kernel behind the dataplane's ports.

use std::collections::BTreeSet;
use std::io;

use anyhow::{Context as _, Result, bail};
use felix_dataplane::{ClusterDrivers, Drivers, Ownership, Ports, WireguardDrivers};
use kernel::{Optional, PROTO_BIRD, PROTO_BOOT, PROTO_FELIX, vxlan_link_name};
use kernel_linux::{
    Backend, FdbDriver, IpSetDriver, IptablesTools, NeighbourDriver, NftablesDriver, RouteDriver, RouteOwner,
    SysctlDriver, TunnelDriver, VxlanDriver, WireguardDriver, WireguardPeerDriver,
};
use model::{Cidr, Family};

/// `kernel-linux`.
pub struct Linux;

impl Ports for Linux {
    type IpSets = Optional<IpSetDriver>;
    type Iptables = Optional<IptablesTools>;
    type Routes = RouteDriver;
    type Neighbours = NeighbourDriver;
    type Sysctls = SysctlDriver;
    type Tunnels = TunnelDriver;
    type Nftables = NftablesDriver;
    type Vxlans = VxlanDriver;
    type Fdb = FdbDriver;
    type WireguardLinks = WireguardDriver;
    type WireguardPeers = WireguardPeerDriver;

    fn set_ownership(
        routes: &mut RouteDriver,
        neighbours: &mut NeighbourDriver,
        cluster: &mut RouteDriver,
        ownership: &Ownership,
    ) {
        routes.set_owners(route_owners(ownership));
        neighbours.set_prefixes(vec![ownership.prefix.clone()]);
        cluster.set_owners(cluster_route_owners(ownership));
    }

    fn routes_of_others(routes: &mut RouteDriver) -> io::Result<BTreeSet<Cidr>> {
        routes.of_others()
    }
}

/// Everything, and whether policy could go through iptables and IP sets.
pub struct Opened {
    pub drivers: Drivers<Linux>,
    pub has_iptables: bool,
}

/// Opens everything. `ipv6` says whether the kernel has it; without working ip6tables there is no IPv6 for pods,
/// rather than IPv6 without policy.
///
/// Policy needs one way into the kernel: where nf_tables takes tables of ours, iptables and IP sets may be missing.
/// `backend` is `None` where no iptables was found; should programs come later, those of the nft backend are used.
pub fn open(backend: Option<Backend>, ownership: &Ownership, ipv6: bool) -> Result<Opened> {
    let tools = move |family| move || IptablesTools::new(backend.unwrap_or(Backend::Nft), family);
    let (iptables, no_iptables) = Optional::new(tools(Family::V4));
    let (ip_sets, no_ip_sets) = Optional::new(IpSetDriver::open);
    let ip6tables = ipv6.then(|| Optional::new(tools(Family::V6)));
    let has_ipv6 = match &ip6tables {
        Some((_, Some(error))) if no_iptables.is_none() => {
            tracing::warn!(%error, "pods get no IPv6: ip6tables does not work");
            false
        }
        tried => tried.is_some(),
    };
    let nftables = NftablesDriver::open(has_ipv6)
        .inspect_err(|error| tracing::info!(%error, "policy cannot go through nftables on this node"))
        .ok();
    let mut has_iptables = true;
    for (error, name, advice) in [(no_iptables, "iptables", NO_IPTABLES), (no_ip_sets, "IP sets", NO_IP_SETS)]
    {
        let Some(error) = error else { continue };
        if nftables.is_none() {
            bail!("{advice}: {error}");
        }
        tracing::info!(%error, "{name} do not work on this node: policy goes through nftables");
        has_iptables = false;
    }
    let drivers = Drivers {
        ip_sets,
        iptables,
        ip6tables: ip6tables.filter(|_| has_ipv6).map(|(driver, _)| driver),
        nftables,
        routes: RouteDriver::new(route_owners(ownership)).context("routes")?,
        neighbours: NeighbourDriver::new(vec![ownership.prefix.clone()]).context("neighbours")?,
        sysctls: SysctlDriver::new(),
        tunnels: TunnelDriver::new("tunl0").context("tunl0")?,
        cluster: cluster_drivers(ownership).context("ways to other nodes")?,
    };
    Ok(Opened { drivers, has_iptables })
}

const NO_IP_SETS: &str =
    "IP sets do not work; on the node load the module ip_set, and give the agent CAP_NET_ADMIN";
const NO_IPTABLES: &str =
    "iptables does not work; install the package iptables, and on the node load its modules";

/// What leads to other nodes.
fn cluster_drivers(ownership: &Ownership) -> Result<ClusterDrivers<Linux>> {
    let names = Family::ALL.map(vxlan_link_name);
    Ok(ClusterDrivers {
        vxlans: VxlanDriver::new(&names)?,
        fdb: FdbDriver::new(&names)?,
        neighbours: NeighbourDriver::new(names.map(str::to_owned).into())?,
        routes: RouteDriver::new(cluster_route_owners(ownership))?,
        wireguard: WireguardDrivers { links: WireguardDriver::new()?, peers: WireguardPeerDriver::new()? },
    })
}

/// Which routes to other nodes are ours.
fn cluster_route_owners(ownership: &Ownership) -> Vec<RouteOwner> {
    let prefix = ownership.prefix.clone();
    vec![RouteOwner::ProtocolElsewhere { protocol: PROTO_FELIX, prefix }]
}

/// Which routes to pods of this node are ours.
fn route_owners(ownership: &Ownership) -> Vec<RouteOwner> {
    let prefix = ownership.prefix.clone();
    let interfaces = match ownership.takes_all {
        true => RouteOwner::Interface { prefix, except: vec![PROTO_BIRD] },
        false => RouteOwner::InterfaceProtocols {
            prefix,
            protocols: vec![PROTO_BOOT, PROTO_FELIX, ownership.protocol],
        },
    };
    vec![interfaces]
}
