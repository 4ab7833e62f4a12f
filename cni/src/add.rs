//! ADD: addresses, the veth, what is inside the pod, then the agent's word that routes and policy are in force.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use kernel_linux::pod::{self, GATEWAY_V4, GATEWAY_V6, HOST_MAC, PodInterface, PodLink};
use kernel_linux::pod_state::peer_name;
use kernel_linux::{Netns, Rtnl};
use proto::node::request::{Attachment, EndpointUp};

use crate::agent::{AgentError, Announced};
use crate::config::{IpamKind, MTU_FILE};
use crate::delegate;
use crate::error::{CniError, code};
use crate::invocation::Verb;
use crate::ipam::{WhenLost, addresses, host_cidr, release, request};
use crate::plugin::Context;
use crate::readiness;
use crate::result::{Interface, Ip, Route, Success};

/// What this call has made so far, to be undone when it fails.
#[derive(Default)]
struct Made {
    /// It is certain that no earlier ADD of this container holds any of it.
    is_first: bool,
    /// Addresses of the agent; also set where its reply got lost.
    addresses: bool,
    /// Addresses of a delegated plugin.
    delegated: bool,
    /// The host side of the veth.
    link: Option<String>,
    /// The agent has been told of the endpoint.
    endpoint: bool,
}

/// What a pod is to be given.
struct Plan {
    host_interface: String,
    /// Name inside the pod.
    interface: String,
    addresses: Vec<IpAddr>,
    mac: [u8; 6],
    mtu: u32,
    dns: Option<serde_json::Value>,
}

/// Connects a container. Asked again for the same container, it answers the same.
pub(crate) fn add(context: &Context) -> Result<Success, CniError> {
    let netns = open_netns(context)?;
    readiness::wait(&context.conf.gates)?;
    let mut made = Made::default();
    match connect(context, &netns, &mut made) {
        Ok(success) => Ok(success.chained(context.conf.previous.clone())),
        Err(error) => {
            undo(context, &netns, &made);
            Err(error)
        }
    }
}

fn connect(context: &Context, netns: &Netns, made: &mut Made) -> Result<Success, CniError> {
    let mut watch = context.log.stopwatch();
    let mut plan = plan(context, made)?;
    watch.lap("addresses");
    let mut host = Rtnl::open().map_err(|error| CniError::kernel("cannot talk to the kernel", error))?;
    if let Some((interface, mac)) = create(context, netns, &mut host, &plan, made)? {
        // The first ADD made it all: a failure of this one must not take it away.
        *made = Made::default();
        (plan.interface, plan.mac) = (interface, mac);
    }
    watch.lap("link");
    // The agent programs the node's side while this process configures the pod's.
    let announced = announce(context, &plan, made)?;
    let inside_works = configure(context, netns, &mut host, &plan);
    watch.lap("pod's side");
    let outside_works = announced.wait().map_err(|error| error.into_cni(&context.subject()));
    watch.lap("rest of the wait for the agent");
    inside_works?;
    outside_works?;
    context.log.info(format_args!("{} has {:?}", plan.host_interface, plan.addresses));
    Ok(success(netns, &plan))
}

/// Sets the pod's side up, until packets from the node reach it.
fn configure(context: &Context, netns: &Netns, host: &mut Rtnl, plan: &Plan) -> Result<(), CniError> {
    let inside = PodInterface {
        name: plan.interface.clone(),
        addresses: plan.addresses.clone(),
        gateway_mac: HOST_MAC,
        forwarding: context.conf.allow_ip_forwarding,
    };
    pod::configure_pod(netns, &inside).map_err(|error| {
        CniError::kernel(format!("cannot configure {} in {}", inside.name, netns.path().display()), error)
    })?;
    settle(host, &plan.host_interface)
}

/// Gets addresses from whoever gives them, and names from the agent.
fn plan(context: &Context, made: &mut Made) -> Result<Plan, CniError> {
    let mut dns = None;
    let mut given = Vec::new();
    match &context.conf.ipam.kind {
        IpamKind::Unset => {
            return Err(CniError::config("ipam.type is missing: set it to \"calico-ipam\""));
        }
        IpamKind::Calico => {}
        IpamKind::Delegate(plugin) => {
            made.delegated = true;
            let result = delegate::add(plugin, &context.call.path, &delegate::conf(context)?)?;
            given = result.addresses(plugin)?;
            dns = result.dns;
        }
    }
    let reply = context.agent.allocate(request(context));
    made.addresses = match &reply {
        Ok(_) | Err(AgentError::NoReply { .. }) => true,
        Err(_) => false,
    };
    let allocated = reply.map_err(|error| error.into_cni(&context.subject()))?;
    given.extend(addresses(&allocated)?);
    if given.is_empty() {
        return Err(CniError::new(code::REFUSED, format!("{}: no address was given", context.subject())));
    }
    let mac = context.call.args.mac.or(context.conf.mac);
    let mac = mac.or_else(|| allocated.mac.as_slice().try_into().ok());
    let mtu = mtu(context, allocated.mtu)?;
    if mtu < 1280 && given.iter().any(IpAddr::is_ipv6) {
        return Err(CniError::config(format!("mtu {mtu} is too small for IPv6: use 1280 or more")));
    }
    Ok(Plan {
        host_interface: allocated.host_interface,
        interface: context.call.interface.clone(),
        addresses: given,
        mac: mac.unwrap_or_else(|| stable_mac(&context.call.container_id, &context.call.interface)),
        mtu,
        dns: context.conf.dns.clone().or(dns),
    })
}

/// The configuration's, else the file's where one must be there, else the agent's.
fn mtu(context: &Context, agents: u32) -> Result<u32, CniError> {
    if let Some(mtu) = context.conf.mtu {
        return Ok(mtu);
    }
    if !context.conf.require_mtu_file {
        return Ok(if agents == 0 { 1500 } else { agents });
    }
    let failed = |why: String| {
        let text = format!(
            "require_mtu_file: {MTU_FILE} holds no MTU yet: is the calico-node pod of this node running?"
        );
        CniError::new(code::TRY_AGAIN, text).details(why)
    };
    let text = fs::read_to_string(MTU_FILE).map_err(|error| failed(error.to_string()))?;
    let number = text.trim().parse().ok().filter(|mtu| (68..=65535).contains(mtu));
    number.ok_or_else(|| failed(format!("it says {:?}", text.chars().take(20).collect::<String>())))
}

/// Name and MAC of the pod's side, when an earlier ADD of this container has made the veth already: a network
/// gives a container one interface, whatever name a later ADD asks for. Another container's link of this name (the
/// pod's last sandbox, not yet deleted) is moved out of the way.
fn existing(
    context: &Context,
    netns: &Netns,
    host: &mut Rtnl,
    name: &str,
) -> Result<Option<(String, [u8; 6])>, CniError> {
    let kernel = |error| CniError::kernel(format!("cannot look at the link {name}"), error);
    let Some(link) = host.link_by_name(name).map_err(kernel)? else { return Ok(None) };
    if link.up && link.alias.as_deref() == Some(&context.call.container_id) {
        let peer = peer_name(netns, link.index).map_err(kernel)?;
        if let Some(peer) = peer
            && let Some(mac) = pod::pod_mac(netns, &peer).map_err(kernel)?
        {
            return Ok(Some((peer, mac)));
        }
    }
    context.log.info(format_args!("moving {name} of container {:?} out of the way", link.alias));
    host.move_aside(&link)
        .map_err(|error| CniError::kernel(format!("cannot move the link {name} out of the way"), error))?;
    Ok(None)
}

/// Makes the veth, or says what an earlier ADD of this container made ([`existing`]). Looks only where a link is in
/// the way: that is seldom, and every look waits for the kernel's one lock of all links.
fn create(
    context: &Context,
    netns: &Netns,
    host: &mut Rtnl,
    plan: &Plan,
    made: &mut Made,
) -> Result<Option<(String, [u8; 6])>, CniError> {
    let link = PodLink {
        host_name: plan.host_interface.clone(),
        alias: context.call.container_id.clone(),
        pod_name: context.call.interface.clone(),
        pod_mac: Some(plan.mac),
        mtu: plan.mtu,
        queues: context.conf.queues,
        ipv6: plan.addresses.iter().any(IpAddr::is_ipv6),
    };
    let mut outcome = host.create_pod_link(&link, netns);
    if is_taken(&outcome) {
        if let Some(existing) = existing(context, netns, host, &plan.host_interface)? {
            return Ok(Some(existing));
        }
        outcome = host.create_pod_link(&link, netns);
    }
    // The container's last veth may be retired and not yet gone (DEL and ADD in one namespace).
    if is_taken(&outcome) && host.reap_retired().unwrap_or(false) {
        outcome = host.create_pod_link(&link, netns);
    }
    made.is_first = true;
    let taken = is_taken(&outcome);
    if !taken {
        // Also after a failure: the link may exist without its alias or address.
        made.link = Some(link.host_name.clone());
    }
    outcome.map(|()| None).map_err(|error| {
        if taken {
            return CniError::environment(format!(
                "CNI_IFNAME {:?}: an interface of this name exists already in {}",
                link.pod_name,
                netns.path().display()
            ))
            .details(error.to_string());
        }
        CniError::kernel(format!("cannot make the veth {}", link.host_name), error)
    })
}

fn is_taken(outcome: &io::Result<()>) -> bool {
    matches!(outcome, Err(error) if error.kind() == io::ErrorKind::AlreadyExists)
}

/// The node's side got its carrier when the pod's side came up, but sends only after the kernel's link watch has
/// noticed, and drops until then. Asking for the link makes a kernel from 6.8 on notice at once.
fn settle(host: &mut Rtnl, name: &str) -> Result<(), CniError> {
    match host.link_by_name(name) {
        Ok(Some(_)) => Ok(()),
        Ok(None) => {
            Err(CniError::new(code::KERNEL, format!("the link {name} vanished while the pod was set up")))
        }
        Err(error) => Err(CniError::kernel(format!("cannot look at the link {name}"), error)),
    }
}

/// Tells the agent, which answers when it has programmed routes and policy.
fn announce(context: &Context, plan: &Plan, made: &mut Made) -> Result<Announced, CniError> {
    made.endpoint = made.link.is_some();
    let attachment = Attachment { interface: plan.interface.clone(), ..context.attachment() };
    let call = EndpointUp {
        attachment: Some(attachment),
        host_interface: plan.host_interface.clone(),
        addresses: plan.addresses.iter().map(IpAddr::to_string).collect(),
        mac: plan.mac.to_vec(),
        timeout_ms: context.conf.policy_setup_timeout_seconds * 1000,
    };
    context.agent.endpoint_up(call).map_err(|error| error.into_cni(&context.subject()))
}

/// Takes back what this call made. The runtime calls DEL after a failed ADD, but need not.
fn undo(context: &Context, netns: &Netns, made: &Made) {
    // A container that an earlier ADD connected keeps what it has, also where this one got no further than asking.
    let is_connected = || matches!(pod::pod_mac(netns, &context.call.interface), Ok(Some(_)));
    if !made.is_first && is_connected() {
        return;
    }
    if let Some(name) = &made.link {
        let retired = Rtnl::open().and_then(|mut host| host.retire_link(name));
        if let Err(error) = retired {
            context.log.warn(format_args!("undo: {error}"));
        }
    }
    if made.addresses
        && let Err(error) = release(context, !made.endpoint, WhenLost::Queue)
    {
        context.log.warn(format_args!("undo: {error}"));
    }
    if made.delegated
        && let IpamKind::Delegate(plugin) = &context.conf.ipam.kind
        && let Err(error) =
            delegate::call(plugin, &context.call.path, &delegate::conf_of_anywhere(context), Verb::Del)
    {
        context.log.warn(format_args!("undo: {error}"));
    }
}

fn success(netns: &Netns, plan: &Plan) -> Success {
    let interface = |name: &str, mac: [u8; 6], sandbox: &Path| Interface {
        name: name.to_owned(),
        mac: mac_text(mac),
        mtu: Some(plan.mtu),
        sandbox: sandbox.display().to_string(),
        ..Interface::default()
    };
    let ip = |address: &IpAddr| Ip { address: host_cidr(*address), interface: Some(1), ..Ip::default() };
    let routes = [("0.0.0.0/0", IpAddr::V4(GATEWAY_V4)), ("::/0", IpAddr::V6(GATEWAY_V6))];
    let has = |gateway: &IpAddr| plan.addresses.iter().any(|address| address.is_ipv4() == gateway.is_ipv4());
    let routes = routes.into_iter().filter(|(_, gateway)| has(gateway)).map(|(dst, gateway)| Route {
        dst: dst.to_owned(),
        gw: Some(gateway.to_string()),
        ..Route::default()
    });
    Success {
        interfaces: vec![
            interface(&plan.host_interface, HOST_MAC, Path::new("")),
            interface(&plan.interface, plan.mac, netns.path()),
        ],
        ips: plan.addresses.iter().map(ip).collect(),
        routes: routes.collect(),
        dns: plan.dns.clone(),
    }
}

/// Opens `CNI_NETNS`; the node's own namespace is refused before anything is changed in it.
pub(crate) fn open_netns(context: &Context) -> Result<Netns, CniError> {
    let path = context.call.netns.as_deref().unwrap_or(Path::new(""));
    let wrong = |error: io::Error| {
        let text = format!("CNI_NETNS {} cannot be opened: does the container still run?", path.display());
        CniError::environment(text).details(error.to_string())
    };
    let netns = Netns::open(path).map_err(wrong)?;
    let theirs = fs::metadata(path).map_err(wrong)?;
    let ours = fs::metadata("/proc/self/ns/net").map_err(wrong)?;
    if (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino()) {
        return Err(CniError::environment(format!(
            "CNI_NETNS {} is the node's own network namespace",
            path.display()
        )));
    }
    Ok(netns)
}

/// A unicast, locally administered MAC that follows from the container, so that a repeated ADD asks for the same.
fn stable_mac(container_id: &str, interface: &str) -> [u8; 6] {
    // FNV-1a: spread is all that is asked of it, two pods may even share a MAC.
    let bytes = container_id.bytes().chain([0]).chain(interface.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let [.., a, b, c, d, e, f] = hash.to_be_bytes();
    [(a & 0xfc) | 0x02, b, c, d, e, f]
}

pub(crate) fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_up_mac_is_local_unicast_and_stays() {
        let mac = stable_mac("c1", "eth0");

        assert_eq!(mac[0] & 3, 2);
        assert_eq!(mac, stable_mac("c1", "eth0"));
        assert_ne!(mac, stable_mac("c2", "eth0"));
        assert_ne!(mac, stable_mac("c1", "net1"));
    }
}
