//! DEL: succeeds twice, without a namespace, and while the agent is away.

use std::path::Path;

use kernel_linux::pod;
use kernel_linux::{Netns, Rtnl};
use model::{PodKey, host_interface_name};

use crate::error::CniError;
use crate::ipam::{WhenLost, release};
use crate::plugin::Context;

/// Disconnects a container. What fails is still followed by the rest; the first error is returned.
pub(crate) fn del(context: &Context) -> Result<(), CniError> {
    let is_ours = is_ours(context);
    if is_ours {
        retire(context);
    }
    let delegated = context.delegate();
    // The DEL after an ADD that came to nothing: it holds nothing that an agent would have to hear of later, and
    // while the agent is away there may be very many of them.
    let came_to_nothing = !is_ours && context.conf.previous.is_none();
    let when_lost = if came_to_nothing { WhenLost::Forget } else { WhenLost::Queue };
    let released = release(context, false, when_lost);
    delegated.and(released)
}

/// Whether the container has the interface, or is gone with all it had. A DEL of a second name that the network
/// never gave must not take the first away.
fn is_ours(context: &Context) -> bool {
    let netns = context.call.netns.as_ref().and_then(|path| Netns::open(path).ok());
    netns.is_none_or(|netns| !matches!(pod::pod_mac(&netns, &context.call.interface), Ok(None)))
}

/// Takes the host side out of service. The link is deleted later, with others: one alone would cost 40 ms here.
/// That it fails or finds nothing matters little: the agent takes a link away that has no endpoint.
fn retire(context: &Context) {
    let outcome = Rtnl::open().and_then(|mut host| {
        for name in candidates(context) {
            let link = host.link_by_name(&name)?;
            // The pod's next sandbox may have a link of this name by now.
            if link.is_some_and(|link| link.alias.as_deref() == Some(&context.call.container_id)) {
                return host.retire_link(&name).map(drop);
            }
        }
        Ok(())
    });
    if let Err(error) = outcome {
        context.log.warn(format_args!("cannot retire the link: {error}"));
    }
}

/// What the host side may be called: as ADD's result says, else by the rule.
fn candidates(context: &Context) -> Vec<String> {
    let previous = context.conf.previous.iter().flat_map(|result| &result.interfaces);
    let host_side =
        previous.filter(|interface| interface.sandbox.is_empty()).map(|interface| interface.name.clone());
    let mut names: Vec<_> = host_side.collect();
    let attachment = context.attachment();
    let pod = match attachment.namespace.as_str() {
        "" => PodKey::new("", &attachment.container_id),
        namespace => PodKey::new(namespace, &attachment.pod),
    };
    names.push(host_interface_name("cali", &pod));
    names.retain(|name| !name.is_empty() && name.len() <= 15 && !Path::new(name).is_absolute());
    names.dedup();
    names
}
