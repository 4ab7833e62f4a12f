//! Finds out at which addresses other nodes reach this one, and publishes them in the Node's annotations.

use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use kernel::Link;
use model::{Family, Node, NodeAddress};
use tokio::sync::watch;

use crate::autodetect::{Method, Undetermined, with_length};
use crate::cluster::OwnNode;
use crate::health::{Component, Health};
use crate::settings::AddressSetting;

/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(5);

/// Writes annotations of this node's Node object; `None` removes one.
pub trait Annotate: Send + Sync + 'static {
    fn annotate(&self, annotations: &[(&str, Option<String>)]) -> impl Future<Output = Result<()>> + Send;
}

/// Keeps the addresses right; never returns.
pub struct NodeAddresses<A> {
    pub ipv4: AddressSetting,
    pub ipv6: AddressSetting,
    pub own: watch::Receiver<OwnNode>,
    pub links: watch::Receiver<Arc<Vec<Link>>>,
    pub annotate: A,
    pub health: Health,
}

impl<A: Annotate> NodeAddresses<A> {
    pub async fn run(mut self) {
        let mut last_error = String::new();
        loop {
            let error = self.update().await.err().map(|error| format!("{error:#}"));
            if let Some(error) = error.as_ref().filter(|error| **error != last_error) {
                tracing::error!(%error, "node address");
            }
            last_error = error.unwrap_or_default();
            let retry = async {
                if last_error.is_empty() {
                    std::future::pending().await
                } else {
                    tokio::time::sleep(RETRY).await
                }
            };
            tokio::select! {
                changed = self.own.changed() => if changed.is_err() { return },
                changed = self.links.changed() => if changed.is_err() { return },
                () = retry => {}
            }
        }
    }

    async fn update(&mut self) -> Result<()> {
        let own = self.own.borrow_and_update().clone();
        let links = self.links.borrow_and_update().clone();
        if !own.in_sync || links.is_empty() {
            return Ok(());
        }
        let Some(node) = own.node else {
            let reason = "the API server has no Node of this node's name";
            self.health.set_unready(Component::NodeAddress, reason);
            anyhow::bail!("{reason}; register the node, or set --node-name");
        };
        let ipv4 = determine(&self.ipv4, Family::V4, &node, &links).await;
        let ipv6 = determine(&self.ipv6, Family::V6, &node, &links).await;
        let mut changes = Vec::new();
        for (found, present, key) in [(&ipv4, node.ipv4, IPV4), (&ipv6, node.ipv6, IPV6)] {
            if let Ok(Some(found)) = found
                && present != Some(*found)
            {
                changes.push((key, Some(format!("{}/{}", found.address, found.length))));
            }
        }
        if !changes.is_empty() {
            self.annotate.annotate(&changes).await?;
            tracing::info!(addresses = ?changes, "node address published");
        }
        self.judge(&node, ipv4, ipv6)
    }

    /// Ready when the node has an address, be it one that was found earlier.
    fn judge(&self, node: &Node, ipv4: Found, ipv6: Found) -> Result<()> {
        let has_any = [&ipv4, &ipv6].iter().any(|found| matches!(found, Ok(Some(_))))
            || node.ipv4.is_some()
            || node.ipv6.is_some();
        let is_required = |setting: &AddressSetting| match setting {
            AddressSetting::Detect { is_required, .. } => *is_required,
            AddressSetting::Fixed(..) | AddressSetting::None => false,
        };
        let error4 = ipv4.err().filter(|_| !has_any || is_required(&self.ipv4));
        let error6 = ipv6.err().filter(|_| is_required(&self.ipv6));
        match error4.or(error6) {
            Some(error) if !has_any => {
                self.health.set_unready(Component::NodeAddress, error.to_string());
                Err(error.into())
            }
            Some(error) => {
                self.health.set_ready(Component::NodeAddress);
                Err(error.into())
            }
            None => {
                self.health.set_ready(Component::NodeAddress);
                Ok(())
            }
        }
    }
}

type Found = Result<Option<NodeAddress>, Undetermined>;

async fn determine(setting: &AddressSetting, family: Family, node: &Node, links: &[Link]) -> Found {
    match setting {
        AddressSetting::None => Ok(None),
        AddressSetting::Fixed(address, length) => Ok(Some(with_length(*address, *length, links))),
        AddressSetting::Detect { method, .. } => {
            let source = match method {
                Method::CanReach(target) => source_towards(target, family).await,
                _ => None,
            };
            method.detect(family, links, &node.internal_ips, source).map(Some)
        }
    }
}

/// The address from which a packet to `target` would be sent. Nothing is sent: the kernel only looks up its route.
async fn source_towards(target: &str, family: Family) -> Option<IpAddr> {
    let mut addresses = tokio::net::lookup_host((target, 80)).await.ok()?;
    let target = addresses.find(|address| Family::of(address.ip()) == family)?;
    let any = match family {
        Family::V4 => "0.0.0.0:0",
        Family::V6 => "[::]:0",
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(target).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

const IPV4: &str = "projectcalico.org/IPv4Address";
const IPV6: &str = "projectcalico.org/IPv6Address";
