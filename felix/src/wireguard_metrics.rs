//! Figures of WireGuard, read from the kernel whenever somebody scrapes; names are Calico's.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;

use kernel::{WireguardPeerKey, WireguardPeers as _, WireguardSession};
use kernel_linux::WireguardPeerDriver;
use model::FelixConfiguration;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use tokio::sync::watch;

/// Asks the kernel how it goes with the nodes behind WireGuard links.
type Read = Box<dyn Fn() -> io::Result<BTreeMap<WireguardPeerKey, WireguardSession>> + Send + Sync>;

/// Of a session, what is counted.
type Figure = fn(&WireguardSession) -> u64;

/// One figure of each node that is talked with through WireGuard, while the configuration wants that.
pub struct WireguardMetrics {
    node: String,
    configuration: watch::Receiver<Arc<FelixConfiguration>>,
    read: Read,
}

impl WireguardMetrics {
    pub fn new(node: &str, configuration: watch::Receiver<Arc<FelixConfiguration>>) -> Self {
        let read = || WireguardPeerDriver::new()?.sessions();
        Self { node: node.to_owned(), configuration, read: Box::new(read) }
    }

    fn is_wanted(&self) -> bool {
        let settings = self.configuration.borrow().wireguard;
        settings.has_metrics && (settings.enabled || settings.enabled_v6)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    hostname: String,
    interface: String,
    peer_key: String,
}

impl Collector for WireguardMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        if !self.is_wanted() {
            return Ok(());
        }
        let sessions = (self.read)().unwrap_or_else(|error| {
            tracing::warn!(%error, "no figures of WireGuard");
            BTreeMap::new()
        });
        let labels = |peer: &WireguardPeerKey| Labels {
            hostname: self.node.clone(),
            interface: peer.interface.clone(),
            peer_key: peer.key.to_string(),
        };
        let counters: [(_, _, Figure); 2] = [
            ("wireguard_bytes_rcvd", "Bytes that came from the node, with all that WireGuard adds", |one| {
                one.received
            }),
            ("wireguard_bytes_sent", "Bytes that went to the node, with all that WireGuard adds", |one| {
                one.sent
            }),
        ];
        for (name, help, value) in counters {
            let mut figures = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (peer, session) in &sessions {
                let none: Option<&Exemplar<Labels, u64>> = None;
                figures.encode_family(&labels(peer))?.encode_counter(&value(session), none)?;
            }
        }
        let help = "When both last agreed on a key, seconds since the epoch; 0: never";
        let mut figures =
            encoder.encode_descriptor("wireguard_latest_handshake_seconds", help, None, MetricType::Gauge)?;
        for (peer, session) in &sessions {
            let seconds = i64::try_from(session.handshake.unwrap_or_default()).unwrap_or(i64::MAX);
            figures.encode_family(&labels(peer))?.encode_gauge(&seconds)?;
        }
        Ok(())
    }
}

impl fmt::Debug for WireguardMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WireguardMetrics")
    }
}

#[cfg(test)]
mod tests {
    use model::{WireguardKey, WireguardSettings};

    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn every_node_has_its_figures_while_wireguard_is_on() {
        let peer = WireguardPeerKey { interface: "wireguard.cali".to_owned(), key: WireguardKey([1; 32]) };
        let session = WireguardSession { handshake: Some(1_700_000_000), received: 5, sent: 7 };
        let read = move || Ok(BTreeMap::from([(peer.clone(), session)]));
        let (configuration, changes) = watch::channel(Arc::default());
        let metrics = Metrics::new("n1");
        let figures =
            WireguardMetrics { node: "n1".to_owned(), configuration: changes, read: Box::new(read) };
        metrics.collect(Box::new(figures));
        assert!(!metrics.scrape().body.contains("wireguard_bytes"));

        let wireguard = WireguardSettings { enabled: true, ..WireguardSettings::default() };
        configuration
            .send_replace(Arc::new(FelixConfiguration { wireguard, ..FelixConfiguration::default() }));

        let body = metrics.scrape().body;
        let labels =
            format!(r#"{{hostname="n1",interface="wireguard.cali",peer_key="{}"}}"#, WireguardKey([1; 32]));
        for line in [
            format!("wireguard_bytes_rcvd_total{labels} 5"),
            format!("wireguard_bytes_sent_total{labels} 7"),
            format!("wireguard_latest_handshake_seconds{labels} 1700000000"),
        ] {
            assert!(body.lines().any(|l| l == line), "{line} is missing in:\n{body}");
        }
    }
}
