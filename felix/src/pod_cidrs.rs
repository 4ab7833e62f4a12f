//! Addresses of tunnels where another IPAM plugin gives out those of pods (`USE_POD_CIDR`): the first of the range that the
//! cluster gave the node, which `host-local` keeps for a gateway. Nothing is taken, and nothing given back.

use std::net::IpAddr;

use model::{Family, TunnelKind};
use tokio::sync::watch;

use crate::addresses::{AddressError, AddressRequest, Addresses};
use crate::cluster::OwnNode;

/// See the module.
pub struct OfPodCidrs(pub watch::Receiver<OwnNode>);

impl OfPodCidrs {
    fn first(&self, family: Family) -> Option<IpAddr> {
        let own = self.0.borrow();
        let mut ranges = own.node.iter().flat_map(|node| &node.pod_cidrs);
        ranges.find(|range| range.family() == family)?.nth(1)
    }
}

impl Addresses for OfPodCidrs {
    async fn allocate(&self, _: AddressRequest) -> Result<Vec<IpAddr>, AddressError> {
        Err(AddressError::Invalid("USE_POD_CIDR: pods have addresses of another IPAM plugin".to_owned()))
    }

    async fn allocate_tunnel(
        &self,
        kind: TunnelKind,
        _: &[String],
        _: Option<IpAddr>,
    ) -> Result<IpAddr, AddressError> {
        let family = kind.family();
        self.first(family).ok_or_else(|| {
            AddressError::Unavailable(format!(
                "USE_POD_CIDR: the cluster has given this node no {family} range (Node spec.podCIDRs)"
            ))
        })
    }

    async fn release_others(&self, _: TunnelKind, _: IpAddr) -> Result<(), AddressError> {
        Ok(())
    }

    async fn release_tunnel(&self, _: TunnelKind) -> Result<(), AddressError> {
        Ok(())
    }

    async fn release(&self, _: &str) -> Result<(), AddressError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use model::Node;

    use super::*;

    #[tokio::test]
    async fn a_tunnel_has_the_first_address_of_its_familys_range() {
        let node = Node { pod_cidrs: vec!["10.1.0.0/24".parse().unwrap()], ..Node::named("n1") };
        let (_kept, own) = watch::channel(OwnNode { in_sync: true, node: Some(node) });
        let addresses = OfPodCidrs(own);

        let taken = addresses.allocate_tunnel(TunnelKind::Vxlan, &[], "10.9.0.1".parse().ok()).await;

        assert_eq!(taken.unwrap(), "10.1.0.1".parse::<IpAddr>().unwrap());
        let none = addresses.allocate_tunnel(TunnelKind::VxlanV6, &[], None).await.unwrap_err();
        assert!(none.to_string().contains("no IPv6 range"), "{none}");
    }
}
