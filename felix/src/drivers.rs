//! The real kernel behind the dataplane's ports.

use anyhow::{Context as _, Result};
use felix_dataplane::{Drivers, Ownership, Ports};
use kernel::{PROTO_BIRD, PROTO_BOOT, PROTO_FELIX};
use kernel_linux::{
    Backend, IpSetDriver, IptablesTools, NeighbourDriver, NftablesDriver, RouteDriver, RouteOwner,
    SysctlDriver, TunnelDriver,
};
use model::Family;

/// `kernel-linux`.
pub struct Linux;

impl Ports for Linux {
    type IpSets = IpSetDriver;
    type Iptables = IptablesTools;
    type Routes = RouteDriver;
    type Neighbours = NeighbourDriver;
    type Sysctls = SysctlDriver;
    type Tunnels = TunnelDriver;
    type Nftables = NftablesDriver;

    fn set_ownership(routes: &mut RouteDriver, neighbours: &mut NeighbourDriver, ownership: &Ownership) {
        routes.set_owners(route_owners(ownership));
        neighbours.set_prefixes(vec![ownership.prefix.clone()]);
    }
}

/// Opens everything. `ipv6` says whether the kernel has it; without working ip6tables there is no IPv6 for pods,
/// rather than IPv6 without policy.
pub fn open(backend: Backend, ownership: &Ownership, ipv6: bool) -> Result<Drivers<Linux>> {
    let ip6tables = ipv6.then(|| IptablesTools::new(backend, Family::V6)).and_then(|tools| {
        tools.inspect_err(|error| tracing::warn!(%error, "pods get no IPv6: ip6tables does not work")).ok()
    });
    let nftables = NftablesDriver::open(ip6tables.is_some())
        .inspect_err(|error| tracing::info!(%error, "policy cannot go through nftables on this node"))
        .ok();
    Ok(Drivers {
        ip_sets: IpSetDriver::open().context(
            "IP sets do not work; on the node load the module ip_set, and give the agent CAP_NET_ADMIN",
        )?,
        iptables: IptablesTools::new(backend, Family::V4).context(
            "iptables does not work; install the package iptables, and on the node load its modules",
        )?,
        ip6tables,
        nftables,
        routes: RouteDriver::new(route_owners(ownership))?,
        neighbours: NeighbourDriver::new(vec![ownership.prefix.clone()])?,
        sysctls: SysctlDriver::new(),
        tunnels: TunnelDriver::new("tunl0")?,
    })
}

/// Which routes are ours.
fn route_owners(ownership: &Ownership) -> Vec<RouteOwner> {
    let prefix = ownership.prefix.clone();
    let interfaces = match ownership.takes_all {
        true => RouteOwner::Interface { prefix, except: vec![PROTO_BIRD] },
        false => RouteOwner::InterfaceProtocols { prefix, protocols: vec![PROTO_BOOT, ownership.protocol] },
    };
    vec![RouteOwner::Protocol(PROTO_FELIX), interfaces]
}
