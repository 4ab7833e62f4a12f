//! The address of `tunl0`: taken by IPAM while some pool uses IPIP, published in the Node's annotation, given back
//! when none does any more.
//!
//! The annotation is what other parts go by: it is written after the address is taken and removed before the
//! address is given back, so that at no moment two nodes could use it.

use std::time::Duration;

use anyhow::{Context as _, Result};
use ipam::names::ipip_tunnel_handle;
use model::NodeName;
use tokio::sync::watch;

use crate::addresses::Addresses;
use crate::cluster::OwnNode;
use crate::node_address::Annotate;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const ANNOTATION: &str = "projectcalico.org/IPv4IPIPTunnelAddr";

/// Keeps the address right; never returns.
pub struct TunnelAddress<S, A> {
    pub node: NodeName,
    pub own: watch::Receiver<OwnNode>,
    pub addresses: S,
    pub annotate: A,
    /// Nothing is held: whoever ended between the two steps of giving it back left it to the next.
    pub is_released: bool,
}

impl<S: Addresses, A: Annotate> TunnelAddress<S, A> {
    pub async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let result = self.update().await;
            let failed = result.is_err();
            if let Err(error) = result {
                tracing::warn!(error = %format!("{error:#}"), "tunnel address; will be retried");
            }
            let retry =
                async { if failed { tokio::time::sleep(pause).await } else { std::future::pending().await } };
            tokio::select! {
                changed = self.own.changed() => if changed.is_err() { return },
                () = retry => {}
            }
            pause = if failed { (pause * 2).min(LONGEST_PAUSE) } else { FIRST_PAUSE };
        }
    }

    async fn update(&mut self) -> Result<()> {
        let own = self.own.borrow_and_update().clone();
        let Some(node) = own.node.filter(|_| own.in_sync) else { return Ok(()) };
        let handle = ipip_tunnel_handle(&self.node);
        match (own.uses_ipip, node.ipip_tunnel_address) {
            (true, present) => {
                self.is_released = false;
                let address = self.addresses.allocate_tunnel(&handle).await.context("allocate")?;
                if present != Some(address) {
                    let value = Some(address.to_string());
                    self.annotate.annotate(&[(ANNOTATION, value)]).await.context("publish")?;
                    tracing::info!(%address, "tunnel address published");
                }
            }
            (false, Some(address)) => {
                self.is_released = false;
                self.annotate.annotate(&[(ANNOTATION, None)]).await.context("take it out of the Node")?;
                self.release(&handle).await?;
                tracing::info!(%address, "tunnel address released");
            }
            (false, None) if !self.is_released => self.release(&handle).await?,
            (false, None) => {}
        }
        Ok(())
    }

    async fn release(&mut self, handle: &str) -> Result<()> {
        self.addresses.release(handle).await.context("release")?;
        self.is_released = true;
        Ok(())
    }
}
