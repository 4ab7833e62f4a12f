//! GC: what the runtime does not have any more, and of which no DEL has come, is let go.

use kernel_linux::Rtnl;
use proto::node::reply::CollectedEndpoint;
use proto::node::request::Attachment;
use serde_json::Value;

use crate::error::CniError;
use crate::plugin::Context;

/// Specification 1.1.0, "GC": the attachments that live on.
const VALID: &str = "cni.dev/valid-attachments";

/// Tells the agent which attachments of this network live on, and takes the links of the others out of service.
pub(crate) fn gc(context: &Context) -> Result<(), CniError> {
    let valid = valid_attachments(context.conf.raw.get(VALID))?;
    let delegated = context.delegate();
    let gone = context.agent.collect(&context.conf.name, valid).map_err(|error| error.into_cni("GC"))?;
    for endpoint in &gone {
        context.log.info(format_args!("container {} is gone", endpoint.container_id));
        if let Err(error) = retire(endpoint) {
            context.log.warn(format_args!("cannot retire the link {}: {error}", endpoint.host_interface));
        }
    }
    delegated
}

/// A list that is not there does not mean that nothing lives.
fn valid_attachments(value: Option<&Value>) -> Result<Vec<Attachment>, CniError> {
    let wrong = |what: &str| CniError::config(format!("{VALID}: {what}"));
    let list = value.ok_or_else(|| wrong("missing: GC must be told which attachments live on"))?;
    let list = list.as_array().ok_or_else(|| wrong("expected a list"))?;
    let parse = |entry: &Value| {
        let text = |key: &str| entry.get(key).and_then(Value::as_str).map(str::to_owned);
        let container_id = text("containerID").filter(|id| !id.is_empty());
        let (Some(container_id), Some(interface)) = (container_id, text("ifname")) else {
            return Err(wrong("expected entries with containerID and ifname"));
        };
        Ok(Attachment { container_id, interface, ..Attachment::default() })
    };
    list.iter().map(parse).collect()
}

fn retire(endpoint: &CollectedEndpoint) -> std::io::Result<()> {
    let mut host = Rtnl::open()?;
    let name = &endpoint.host_interface;
    // The pod's next sandbox may have a link of this name by now.
    let link = host.link_by_name(name)?;
    if link.is_some_and(|link| link.alias.as_deref() == Some(&endpoint.container_id)) {
        host.retire_link(name)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn attachments_are_read() {
        let list =
            json!([{"containerID": "c1", "ifname": "eth0"}, {"containerID": "c2", "ifname": "net1", "x": 1}]);

        let valid = valid_attachments(Some(&list)).unwrap();

        let names: Vec<_> = valid.iter().map(|a| (a.container_id.as_str(), a.interface.as_str())).collect();
        assert_eq!(names, [("c1", "eth0"), ("c2", "net1")]);
        assert!(valid_attachments(Some(&json!([]))).unwrap().is_empty());
    }

    #[test]
    fn a_list_that_is_missing_or_wrong_is_not_an_empty_one() {
        for list in
            [None, Some(json!({})), Some(json!(["c1"])), Some(json!([{"containerID": "", "ifname": "e"}]))]
        {
            let error = valid_attachments(list.as_ref()).unwrap_err();

            assert_eq!(error.code, 7, "{list:?}");
            assert!(error.msg.contains(VALID));
        }
    }
}
