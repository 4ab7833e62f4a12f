//! CHECK: is everything still as ADD left it?

use std::net::IpAddr;

use kernel_linux::pod::{GATEWAY_V4, GATEWAY_V6, HOST_MAC};
use kernel_linux::pod_state::{PodState, pod_state};
use kernel_linux::{Netns, Rtnl};

use crate::add::{mac_text, open_netns};
use crate::error::{CniError, code};
use crate::ipam::host_cidr;
use crate::plugin::Context;
use crate::result::{Interface, Success};

/// Compares the pod, the host side and the agent's view with `prevResult`.
pub(crate) fn check(context: &Context) -> Result<(), CniError> {
    let Some(result) = &context.conf.previous else {
        return Err(CniError::config("prevResult is missing: CHECK compares with what ADD answered"));
    };
    let (index, inside) = inside(context, result)?;
    let addresses = addresses(result, index)?;
    let netns = open_netns(context)?;
    check_pod(context, &netns, inside, &addresses)?;
    check_host(context, result)?;
    context.delegate()?;
    let texts = addresses.iter().map(IpAddr::to_string).collect();
    context
        .agent
        .endpoint_check(context.attachment(), texts)
        .map_err(|error| error.into_cni(&context.subject()))
}

/// Our interface in the result, and its index.
fn inside<'a>(context: &Context, result: &'a Success) -> Result<(usize, &'a Interface), CniError> {
    let name = &context.call.interface;
    let is_ours = |interface: &&Interface| interface.name == *name && !interface.sandbox.is_empty();
    let found = result.interfaces.iter().enumerate().find(|(_, interface)| is_ours(interface));
    found.ok_or_else(|| CniError::config(format!("prevResult: no interface {name:?} with a sandbox")))
}

fn addresses(result: &Success, index: usize) -> Result<Vec<IpAddr>, CniError> {
    let ours = result.ips.iter().filter(|ip| ip.interface == Some(index)).cloned().collect();
    let addresses = Success { ips: ours, ..Success::default() }.addresses("prevResult")?;
    if addresses.is_empty() {
        return Err(CniError::config(format!("prevResult: no address has interface {index}")));
    }
    Ok(addresses)
}

fn check_pod(
    context: &Context,
    netns: &Netns,
    expected: &Interface,
    addresses: &[IpAddr],
) -> Result<(), CniError> {
    let name = &expected.name;
    let state = pod_state(netns, name)
        .map_err(|error| CniError::kernel(format!("cannot look into {}", netns.path().display()), error))?
        .ok_or_else(|| differs(format!("{name} is missing in {}", netns.path().display())))?;
    let PodState { link, gateways, neighbours } = &state;
    if !link.up {
        return Err(differs(format!("{name} is down")));
    }
    let mac = link.mac.map(mac_text).unwrap_or_default();
    if !expected.mac.is_empty() && !expected.mac.eq_ignore_ascii_case(&mac) {
        return Err(differs(format!("{name} has MAC {mac}, ADD gave {}", expected.mac)));
    }
    if let Some(mtu) = expected.mtu.or(context.conf.mtu).filter(|mtu| *mtu != link.mtu) {
        return Err(differs(format!("{name} has MTU {}, expected {mtu}", link.mtu)));
    }
    for address in addresses {
        let length = if address.is_ipv4() { 32 } else { 128 };
        if !link.addresses.contains(&(*address, length)) {
            return Err(differs(format!("{name} has lost its address {}", host_cidr(*address))));
        }
        let gateway = if address.is_ipv4() { IpAddr::V4(GATEWAY_V4) } else { IpAddr::V6(GATEWAY_V6) };
        if !gateways.contains(&gateway) {
            return Err(differs(format!("the pod has no default route via {gateway} on {name}")));
        }
        if !neighbours.contains(&(gateway, HOST_MAC)) {
            return Err(differs(format!("the pod has no permanent neighbour {gateway} on {name}")));
        }
    }
    Ok(())
}

fn check_host(context: &Context, result: &Success) -> Result<(), CniError> {
    let is_ours =
        |interface: &&Interface| interface.sandbox.is_empty() && interface.mac == mac_text(HOST_MAC);
    let Some(Interface { name, .. }) = result.interfaces.iter().find(is_ours) else {
        return Err(CniError::config("prevResult: no interface of the node's side"));
    };
    let link = Rtnl::open()
        .and_then(|mut host| host.link_by_name(name))
        .map_err(|error| CniError::kernel(format!("cannot look at the link {name}"), error))?
        .ok_or_else(|| differs(format!("the node's side {name} is missing")))?;
    if !link.up {
        return Err(differs(format!("the node's side {name} is down")));
    }
    if link.alias.as_deref() != Some(&context.call.container_id) {
        let owner = link.alias.unwrap_or_default();
        return Err(differs(format!("the node's side {name} belongs to container {owner:?}")));
    }
    if link.mac != Some(HOST_MAC) {
        return Err(differs(format!("the node's side {name} has not the MAC {}", mac_text(HOST_MAC))));
    }
    Ok(())
}

fn differs(what: String) -> CniError {
    CniError::new(code::CHECK, format!("CHECK: {what}: delete the pod so that it is made anew"))
}
