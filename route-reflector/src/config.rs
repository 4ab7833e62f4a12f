//! The YAML file. Owns its fields, their checks, and what they mean to the speaker.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use bgp::{Config, DynamicNeighbours, Password, PeerConfig, PeerKey};
use bgp_packet::{Family, Prefix};
use serde::Deserialize;

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct File {
    /// BGP Identifier.
    router_id: Ipv4Addr,
    as_number: u32,
    /// Shared by reflectors of one cluster; the router id unless given.
    cluster_id: Option<Ipv4Addr>,
    /// Addresses and ports; all addresses and port 179 unless given.
    #[serde(default = "listen_everywhere")]
    listen: Vec<SocketAddr>,
    /// Clients that connect by themselves: addresses or prefixes.
    #[serde(default)]
    clients: Vec<String>,
    /// Seconds; 90 unless given.
    #[serde(default = "hold_time")]
    hold_time: u16,
    /// Seconds that clients keep routes over a restart; 120 unless given.
    #[serde(default = "restart_time")]
    restart_time: u16,
    /// Further peers, which the reflector connects to.
    #[serde(default)]
    peers: Vec<Peer>,
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Peer {
    address: IpAddr,
    #[serde(default)]
    name: String,
    /// The reflector's own unless given.
    as_number: Option<u32>,
    #[serde(default = "port")]
    port: u16,
    /// Routes are reflected to and from it.
    #[serde(default)]
    client: bool,
    #[serde(default)]
    passive: bool,
    source_address: Option<IpAddr>,
    /// File with the TCP MD5 password.
    password_file: Option<PathBuf>,
    /// Generalised TTL security: how many hops away it may be.
    ttl_security: Option<u8>,
}

fn listen_everywhere() -> Vec<SocketAddr> {
    vec![SocketAddr::from(([0, 0, 0, 0], 179)), SocketAddr::from(([0_u16; 8], 179))]
}

fn hold_time() -> u16 {
    90
}

fn restart_time() -> u16 {
    120
}

fn port() -> u16 {
    179
}

/// What the file asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) speaker: Config,
    pub(crate) listen: Vec<SocketAddr>,
}

/// Reads and checks the file.
pub(crate) fn read(path: &Path) -> anyhow::Result<Settings> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    parse(&text).with_context(|| format!("in {}", path.display()))
}

fn parse(text: &str) -> anyhow::Result<Settings> {
    let file: File = serde_saphyr::from_str(text)?;
    ensure!(!file.router_id.is_unspecified(), "routerId: 0.0.0.0 is no BGP Identifier");
    ensure!(file.as_number != 0, "asNumber: 0 is no AS");
    ensure!(!matches!(file.hold_time, 1 | 2), "holdTime: must be 0 or at least 3 seconds");
    ensure!(file.restart_time <= 4095, "restartTime: at most 4095 seconds");
    ensure!(!file.listen.is_empty(), "listen: at least one address is needed");
    let mut speaker = Config::new(file.as_number, file.router_id);
    speaker.cluster_id = Some(file.cluster_id.unwrap_or(file.router_id));
    for (i, client) in file.clients.iter().enumerate() {
        let prefix = range(client).with_context(|| format!("clients[{i}]"))?;
        let template = PeerConfig { description: format!("client of {prefix}"), ..file.client() };
        speaker.dynamic.push(DynamicNeighbours::new(prefix, template));
    }
    speaker.peers = peers(&file)?;
    Ok(Settings { speaker, listen: file.listen })
}

/// A prefix, or a single address.
fn range(text: &str) -> anyhow::Result<Prefix> {
    if let Ok(address) = text.parse() {
        return Ok(Prefix::host(address));
    }
    Ok(text.parse()?)
}

fn peers(file: &File) -> anyhow::Result<BTreeMap<PeerKey, PeerConfig>> {
    let mut peers = BTreeMap::new();
    for (i, peer) in file.peers.iter().enumerate() {
        if peers
            .insert(peer.address.into(), peer.config(file).with_context(|| format!("peers[{i}]"))?)
            .is_some()
        {
            bail!("peers[{i}]: {} is there twice", peer.address);
        }
    }
    Ok(peers)
}

impl File {
    fn client(&self) -> PeerConfig {
        PeerConfig {
            hold_time: self.hold_time,
            restart_time: self.restart_time,
            passive: true,
            reflector_client: true,
            ..PeerConfig::new(self.as_number)
        }
    }
}

impl Peer {
    fn config(&self, file: &File) -> anyhow::Result<PeerConfig> {
        let asn = self.as_number.unwrap_or(file.as_number);
        ensure!(asn != 0, "asNumber: 0 is no AS");
        ensure!(!self.client || asn == file.as_number, "client: only a peer of our own AS can be one");
        if let Some(source) = self.source_address {
            ensure!(
                Family::of(source) == Family::of(self.address),
                "sourceAddress: not of the peer's family"
            );
        }
        let (password, password_missing) = match &self.password_file {
            None => (None, None),
            Some(path) => match fs::read_to_string(path) {
                Ok(text) if !text.trim_end().is_empty() => {
                    (Some(Password::new(text.trim_end().to_owned())), None)
                }
                // The session stays down and says so: it never goes without.
                Ok(_) => (None, Some(format!("{} is empty", path.display()).into())),
                Err(error) => (None, Some(format!("{}: {error}", path.display()).into())),
            },
        };
        Ok(PeerConfig {
            description: if self.name.is_empty() { "peer".to_owned() } else { self.name.clone() },
            port: self.port,
            passive: self.passive,
            local_address: self.source_address,
            reflector_client: self.client,
            ttl_security: self.ttl_security,
            password,
            password_missing,
            ..PeerConfig { asn: Some(asn), ..file.client() }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
routerId: 192.0.2.1
asNumber: 64512
clusterId: 244.0.0.1
listen: ['192.0.2.1:179']
clients: [192.0.2.0/24, '2001:db8::7']
peers:
  - {address: 198.51.100.1, asNumber: 65000, name: tor}
  - {address: 192.0.2.9, client: true}
";

    #[test]
    fn a_file_becomes_a_reflector() {
        let settings = parse(GOOD).unwrap();
        let speaker = settings.speaker;
        assert_eq!(speaker.cluster_id, Some(Ipv4Addr::new(244, 0, 0, 1)));
        let ranges: Vec<String> = speaker.dynamic.iter().map(|d| d.prefix.to_string()).collect();
        assert_eq!(ranges, ["192.0.2.0/24", "2001:db8::7/128"]);
        assert!(speaker.dynamic.iter().all(|d| d.template.reflector_client && d.template.passive));
        let tor = &speaker.peers[&"198.51.100.1".parse::<PeerKey>().unwrap()];
        assert_eq!((tor.asn, tor.reflector_client, tor.passive), (Some(65000), false, false));
        assert!(speaker.peers[&"192.0.2.9".parse::<PeerKey>().unwrap()].reflector_client);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            ("asNumber: 64512", "asNumber: 0", "asNumber"),
            ("clusterId", "clusterid", "clusterid"),
            ("192.0.2.0/24", "192.0.2.0/33", "clients[0]"),
            ("asNumber: 65000", "asNumber: 65000, client: true", "peers[0]"),
            ("198.51.100.1", "192.0.2.9", "192.0.2.9 is there twice"),
            ("routerId: 192.0.2.1", "routerId: 0.0.0.0", "routerId"),
        ];
        for (from, to, named) in cases {
            let error = format!("{:#}", parse(&GOOD.replace(from, to)).unwrap_err());
            assert!(error.contains(named), "{to}: {error}");
        }
    }

    #[test]
    fn a_password_that_cannot_be_read_keeps_the_session_down() {
        let text = GOOD.replace("name: tor", "name: tor, passwordFile: /nonexistent");
        let peers = parse(&text).unwrap().speaker.peers;
        assert!(peers[&"198.51.100.1".parse::<PeerKey>().unwrap()].password_missing.is_some());
    }
}
