//! The verbs of `calico-ipam`, and what `calico` does in its place without a second process.

use std::net::IpAddr;

use proto::node::reply::Allocated;
use proto::node::request::{Allocate, EndpointDown};

use crate::agent::AgentError;
use crate::config::{IpamKind, NetConf};
use crate::error::{CniError, code};
use crate::invocation::Verb;
use crate::plugin::{Answer, Context};
use crate::queue;
use crate::result::{Ip, Success};

/// `calico-ipam` as a plugin of its own, below another main plugin.
pub(crate) fn verb(context: &Context) -> Result<Answer, CniError> {
    match context.call.verb {
        Verb::Add => {
            let netns = context.call.netns.as_ref().and_then(|path| path.to_str()).unwrap_or_default();
            let allocated = context.agent.allocate(Allocate { netns: netns.to_owned(), ..request(context) });
            let allocated = allocated.map_err(|error| error.into_cni(&context.subject()))?;
            let ips = addresses(&allocated)?
                .into_iter()
                .map(|address| Ip { address: host_cidr(address), ..Ip::default() });
            Ok(Answer::Result(Success { ips: ips.collect(), ..Success::default() }))
        }
        Verb::Del => release(context, true, WhenLost::Queue).map(|()| Answer::Nothing),
        Verb::Status => context
            .agent
            .status()
            .map(|()| Answer::Nothing)
            .map_err(|error| CniError { code: code::UNAVAILABLE, ..error.into_cni("STATUS") }),
        Verb::Check | Verb::Gc | Verb::Version => Ok(Answer::Nothing),
    }
}

/// What to ask the agent for. With another IPAM plugin it is only the names: no address of either family.
pub(crate) fn request(context: &Context) -> Allocate {
    let NetConf { ipam, features, .. } = &context.conf;
    let attachment = Some(context.attachment());
    if matches!(ipam.kind, IpamKind::Delegate(_)) {
        return Allocate { attachment, delegated: true, ..Allocate::default() };
    }
    let asked = &context.call.args.addresses;
    let asked = if asked.is_empty() { &context.conf.addresses } else { asked };
    Allocate {
        attachment,
        ipv4: ipam.ipv4,
        ipv6: ipam.ipv6,
        addresses: asked.iter().map(IpAddr::to_string).collect(),
        ipv4_pools: ipam.ipv4_pools.clone(),
        ipv6_pools: ipam.ipv6_pools.clone(),
        may_bypass_ipam: features.ip_addrs_no_ipam,
        may_float: features.floating_ips,
        delegated: false,
        netns: String::new(),
    }
}

/// The addresses in the agent's reply.
pub(crate) fn addresses(allocated: &Allocated) -> Result<Vec<IpAddr>, CniError> {
    let parse = |text: &String| {
        text.parse().map_err(|_| {
            CniError::new(code::REFUSED, format!("the node agent gave {text:?}, which is no address"))
        })
    };
    allocated.addresses.iter().map(parse).collect()
}

/// `10.0.0.7/32`, `fd00::7/128`.
pub(crate) fn host_cidr(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}

/// What to do with a call that did not reach the agent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenLost {
    /// Leave it for the agent on disk.
    Queue,
    /// There is nothing that could be lost with it.
    Forget,
}

/// Tells the agent that the container is gone.
pub(crate) fn release(context: &Context, addresses_only: bool, when_lost: WhenLost) -> Result<(), CniError> {
    let call = EndpointDown { attachment: Some(context.attachment()), addresses_only };
    let error = match context.agent.endpoint_down(call.clone()) {
        Ok(()) => return Ok(()),
        Err(AgentError::Failed(failed)) => {
            return Err(AgentError::Failed(failed).into_cni(&context.subject()));
        }
        Err(lost) => lost.into_cni(&context.subject()),
    };
    if when_lost == WhenLost::Forget {
        context.log.info(format_args!("nothing to release: {error}"));
        return Ok(());
    }
    context.log.warn(format_args!("left for later: {error}"));
    queue::put(&context.conf.felix_socket, &call).map_err(|cause| {
        CniError::io(
            format!("{}; and leaving the call in cni-del beside the socket failed too", error.msg),
            &cause,
        )
    })
}
