//! The real kernel behind the dataplane's ports.

use std::collections::BTreeMap;
use std::io;

use anyhow::{Context as _, Result};
use felix_dataplane::{Drivers, Ports};
use kernel::{Driver, Failures, IpSet, IpSetName, PROTO_BIRD, PROTO_FELIX};
use kernel_linux::{
    Backend, IpSetDriver, IptablesTools, NeighbourDriver, RouteDriver, RouteOwner, SysctlDriver, TunnelDriver,
};
use model::Family;

/// `kernel-linux`.
pub struct Linux;

impl Ports for Linux {
    type IpSets = IpSets;
    type Iptables = IptablesTools;
    type Routes = RouteDriver;
    type Neighbours = NeighbourDriver;
    type Sysctls = SysctlDriver;
    type Tunnels = TunnelDriver;
}

/// Opens everything. `ipv6` says whether the kernel has it; without working ip6tables there is no IPv6 for pods,
/// rather than IPv6 without policy.
pub fn open(backend: Backend, interface_prefix: &str, ipv6: bool) -> Result<Drivers<Linux>> {
    let ip6tables = ipv6.then(|| IptablesTools::new(backend, Family::V6)).and_then(|tools| {
        tools.inspect_err(|error| tracing::warn!(%error, "pods get no IPv6: ip6tables does not work")).ok()
    });
    let ipv6 = ip6tables.is_some();
    let interfaces = RouteOwner::Interface { prefix: interface_prefix.to_owned(), except: vec![PROTO_BIRD] };
    Ok(Drivers {
        ip_sets: IpSets::open(ipv6).context(
            "IP sets do not work; on the node load the module ip_set, and give the agent CAP_NET_ADMIN",
        )?,
        iptables: IptablesTools::new(backend, Family::V4).context(
            "iptables does not work; install the package iptables, and on the node load its modules",
        )?,
        ip6tables,
        routes: RouteDriver::new(vec![RouteOwner::Protocol(PROTO_FELIX), interfaces])?,
        neighbours: NeighbourDriver::new(vec![interface_prefix.to_owned()])?,
        sysctls: SysctlDriver::new(),
        tunnels: TunnelDriver::new("tunl0")?,
    })
}

/// The sets of both families.
pub struct IpSets {
    ipv4: IpSetDriver,
    ipv6: Option<IpSetDriver>,
}

impl IpSets {
    fn open(ipv6: bool) -> io::Result<Self> {
        let ipv6 = if ipv6 { Some(IpSetDriver::new(Family::V6)?) } else { None };
        Ok(Self { ipv4: IpSetDriver::new(Family::V4)?, ipv6 })
    }
}

impl Driver for IpSets {
    type Key = IpSetName;
    type Value = IpSet;

    fn list(&mut self) -> io::Result<BTreeMap<IpSetName, IpSet>> {
        let mut all = self.ipv4.list()?;
        if let Some(ipv6) = &mut self.ipv6 {
            all.extend(ipv6.list()?);
        }
        Ok(all)
    }

    fn apply(&mut self, puts: &[(IpSetName, IpSet)], deletes: &[IpSetName]) -> Failures<IpSetName> {
        let (puts6, puts4): (Vec<_>, Vec<_>) = puts.iter().cloned().partition(|(name, _)| is_ipv6(name));
        let (deletes6, deletes4): (Vec<_>, Vec<_>) = deletes.iter().cloned().partition(is_ipv6);
        let mut failures = Vec::new();
        if !puts4.is_empty() || !deletes4.is_empty() {
            failures.extend(self.ipv4.apply(&puts4, &deletes4));
        }
        match &mut self.ipv6 {
            Some(ipv6) if !puts6.is_empty() || !deletes6.is_empty() => {
                failures.extend(ipv6.apply(&puts6, &deletes6));
            }
            Some(_) => {}
            None => {
                let no_ipv6 = || io::Error::new(io::ErrorKind::Unsupported, "this kernel has no IPv6");
                failures.extend(puts6.into_iter().map(|(name, _)| (name, no_ipv6())));
            }
        }
        failures
    }
}

fn is_ipv6(name: &IpSetName) -> bool {
    ["cali6", "felix-6"].iter().any(|prefix| name.as_str().starts_with(prefix))
}
