//! Where typha is: the endpoints of its Service, read once for each row of attempts.

use std::net::SocketAddr;

use kube::api::ListParams;
use kube::{Api, Client};

use super::settings::Place;
use crate::client::REQUEST_TIMEOUT;
use crate::objects::EndpointSliceObject;
use crate::{Error, Result};

/// The name of the port, as in Calico's manifest.
const PORT_NAME: &str = "calico-typha";

/// An endpoint of typha.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    pub address: SocketAddr,
    pub node: Option<String>,
}

/// The endpoints of a Service that serve.
///
/// # Errors
/// When the API server cannot be reached or refuses.
pub async fn service_endpoints(client: &Client, namespace: &str, name: &str) -> Result<Vec<Found>> {
    let api: Api<EndpointSliceObject> = Api::namespaced(client.clone(), namespace);
    let what = || format!("EndpointSlices of Service {namespace}/{name}");
    let only = ListParams::default().labels(&format!("kubernetes.io/service-name={name}"));
    let slices = match tokio::time::timeout(REQUEST_TIMEOUT, api.list(&only)).await {
        Ok(slices) => slices.map_err(|error| Error::of(what, error))?,
        Err(_) => return Err(Error::Unavailable { what: what(), reason: "no answer in time".to_owned() }),
    };
    let mut found: Vec<Found> = slices.items.iter().flat_map(of_slice).collect();
    found.sort();
    found.dedup();
    Ok(found)
}

fn of_slice(slice: &EndpointSliceObject) -> Vec<Found> {
    let ports = slice.ports.as_deref().unwrap_or_default();
    let named = ports.iter().find(|port| port.name.as_deref() == Some(PORT_NAME)).or(ports.first());
    let Some(port) = named.and_then(|port| u16::try_from(port.port?).ok()) else { return Vec::new() };
    let serving =
        slice.endpoints.iter().flatten().filter(|endpoint| endpoint.conditions.ready != Some(false));
    let addresses = serving.flat_map(|endpoint| {
        let parsed = endpoint.addresses.iter().filter_map(|address| address.parse().ok());
        parsed.map(|ip| Found { address: SocketAddr::new(ip, port), node: endpoint.node_name.clone() })
    });
    addresses.collect()
}

/// The order in which to try: an endpoint of this node first, then at random; the one that was left last.
pub(super) fn order(
    mut found: Vec<Found>,
    node: &str,
    left: Option<SocketAddr>,
    random: u64,
) -> Vec<SocketAddr> {
    let mut state = random | 1;
    for end in (1..found.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        found.swap(end, usize::try_from(state % (end as u64 + 1)).unwrap_or_default());
    }
    found.sort_by_key(|typha| (Some(typha.address) == left, typha.node.as_deref() != Some(node)));
    found.into_iter().map(|typha| typha.address).collect()
}

/// The addresses of `host:port`.
pub(super) async fn resolve(place: &Place, client: &Client) -> std::result::Result<Vec<Found>, String> {
    match place {
        Place::Service { namespace, name } => {
            let found = service_endpoints(client, namespace, name).await;
            found.map_err(|error| error.to_string())
        }
        Place::Address(address) => {
            let found =
                tokio::net::lookup_host(address).await.map_err(|error| format!("{address}: {error}"))?;
            Ok(found.map(|address| Found { address, node: None }).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_that_serve_are_found_by_the_ports_name() {
        let slice = serde_json::json!({
            "metadata": {"name": "s"}, "addressType": "IPv4",
            "ports": [{"name": "metrics", "port": 9093}, {"name": "calico-typha", "port": 5473}],
            "endpoints": [
                {"addresses": ["192.0.2.1"], "conditions": {"ready": true}, "nodeName": "n1"},
                {"addresses": ["192.0.2.2"], "conditions": {"ready": false}},
                {"addresses": ["no address", "192.0.2.3"]},
            ],
        });
        let found = of_slice(&serde_json::from_value(slice).unwrap());

        let addresses: Vec<String> = found.iter().map(|typha| typha.address.to_string()).collect();
        assert_eq!(addresses, ["192.0.2.1:5473", "192.0.2.3:5473"]);
        assert_eq!(found[0].node.as_deref(), Some("n1"));
    }

    #[test]
    fn an_endpoint_of_this_node_is_first_and_the_one_that_was_left_last() {
        let all: Vec<Found> = (1..=8_u8)
            .map(|n| Found { address: SocketAddr::from(([192, 0, 2, n], 1)), node: Some(format!("n{n}")) })
            .collect();
        let mut firsts = std::collections::BTreeSet::new();
        for seed in 1..100_u64 {
            let random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let tried = order(all.clone(), "n3", Some(all[4].address), random);
            assert_eq!((tried[0], tried[7], tried.len()), (all[2].address, all[4].address, 8));
            firsts.insert(tried[1]);
        }
        assert!(firsts.len() > 4, "the others come at random: {firsts:?}");
    }
}
