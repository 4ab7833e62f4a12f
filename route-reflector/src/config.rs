//! What the YAML file means to the speaker. Owns its checks; each error names the line and the field.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use bgp::{
    Action, BfdConfig, Condition, Config, DynamicNeighbours, MaxPrefix, MaxPrefixAction, Password,
    PeerConfig, PeerKey, Policy, PrefixMatch, PrefixSet, Rule,
};
use bgp_packet::{Family, Prefix, Role};
use model::Selector;
use serde_saphyr::Spanned;

use crate::file::{Alone, Bfd, FamilyName, File, Kubernetes, MaxPrefixes, Neighbour, RoleName};
use crate::nodes::Choice;

/// What the file asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) speaker: Config,
    pub(crate) listen: Vec<SocketAddr>,
    /// Nodes of a cluster that are clients, too.
    pub(crate) nodes: Option<Choice>,
    /// Peers at the other end of links, by the links' names.
    pub(crate) links: BTreeMap<String, PeerConfig>,
    /// Files beside it that it depends on.
    pub(crate) password_files: Vec<PathBuf>,
}

/// Reads and checks the file.
pub(crate) fn read(path: &Path) -> anyhow::Result<Settings> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    parse(&text).with_context(|| format!("in {}", path.display()))
}

fn parse(text: &str) -> anyhow::Result<Settings> {
    let file: File = serde_saphyr::from_str(text)?;
    let hold_time = file.hold_time.as_ref().map_or(90, |s| s.value);
    let restart_time = file.restart_time.as_ref().map_or(120, |s| s.value);
    if file.router_id.value.is_unspecified() {
        bail!("{}: 0.0.0.0 is no BGP Identifier", field(&file.router_id, "routerId"));
    }
    if file.as_number.value == 0 {
        bail!("{}: 0 is no AS", field(&file.as_number, "asNumber"));
    }
    if let Some(seconds) = &file.hold_time {
        check_hold_time(seconds.value).with_context(|| field(seconds, "holdTime"))?;
    }
    if let Some(seconds) = &file.restart_time {
        check_restart_time(seconds.value).with_context(|| field(seconds, "restartTime"))?;
    }
    let listen = match &file.listen {
        Some(listen) if listen.value.is_empty() => {
            bail!("{}: at least one address is needed", field(listen, "listen"))
        }
        Some(listen) => listen.value.clone(),
        None => vec![SocketAddr::from(([0, 0, 0, 0], 179)), SocketAddr::from((Ipv6Addr::UNSPECIFIED, 179))],
    };
    let mut speaker = Config::new(file.as_number.value, file.router_id.value);
    speaker.cluster_id = Some(file.cluster_id.unwrap_or(file.router_id.value));
    speaker.client_to_client = file.client_to_client.unwrap_or(true);
    (speaker.next_hop_v4, speaker.next_hop_v6) = (file.next_hop.ipv4, file.next_hop.ipv6);
    speaker.ebgp_requires_policy = file.ebgp_requires_policy;
    speaker.max_dynamic = file.max_clients.unwrap_or(speaker.max_dynamic);
    let mut meaning = Meaning { file: &file, hold_time, restart_time, password_files: Vec::new() };
    for (i, client) in file.clients.iter().enumerate() {
        let range =
            meaning.client(&client.value.0).with_context(|| field(client, &format!("clients[{i}]")))?;
        if speaker
            .dynamic
            .iter()
            .any(|other| (other.prefix, other.interface) == (range.prefix, range.interface))
        {
            bail!("{}: {} is there twice", field(client, &format!("clients[{i}]")), range.prefix);
        }
        speaker.dynamic.push(range);
    }
    let (mut peers, mut links) = (BTreeMap::new(), BTreeMap::new());
    for (i, peer) in file.peers.iter().enumerate() {
        let place = field(peer, &format!("peers[{i}]"));
        if let Some(link) = &peer.value.interface {
            let config = meaning.link(&peer.value).with_context(|| place.clone())?;
            if links.insert(link.clone(), config).is_some() {
                bail!("{place}: {link} is there twice");
            }
            continue;
        }
        let (key, config) = meaning.peer(&peer.value).with_context(|| place.clone())?;
        if peers.insert(key, config).is_some() {
            bail!("{place}: {key} is there twice");
        }
    }
    speaker.peers = peers;
    let nodes =
        file.kubernetes.as_ref().map(|k| meaning.nodes(&k.value).with_context(|| field(k, "kubernetes")));
    let nodes = nodes.transpose()?;
    Ok(Settings { speaker, listen, nodes, links, password_files: meaning.password_files })
}

/// Where something is: line and field.
fn field<T>(what: &Spanned<T>, name: &str) -> String {
    match what.referenced.line() {
        0 => name.to_owned(),
        line => format!("line {line}, {name}"),
    }
}

fn check_hold_time(seconds: u16) -> anyhow::Result<u16> {
    ensure!(!matches!(seconds, 1 | 2), "must be 0 or at least 3 seconds");
    Ok(seconds)
}

fn check_restart_time(seconds: u16) -> anyhow::Result<u16> {
    ensure!(seconds <= 4095, "at most 4095 seconds");
    Ok(seconds)
}

/// Turns neighbours of the file into those of the speaker.
struct Meaning<'a> {
    file: &'a File,
    hold_time: u16,
    restart_time: u16,
    password_files: Vec<PathBuf>,
}

impl Meaning<'_> {
    /// Clients connect by themselves, so some settings say nothing about them.
    fn client(&mut self, client: &Neighbour) -> anyhow::Result<DynamicNeighbours> {
        ensure!(
            client.port.is_none(),
            "port: clients connect by themselves; make it a peer with client: true"
        );
        ensure!(client.passive.is_none(), "passive: clients always connect by themselves");
        ensure!(client.client.is_none(), "client: all of clients are");
        ensure!(client.interface.is_none(), "interface: clients come from addresses; make it a peer");
        ensure!(client.role.is_none(), "role: a client is of our own AS");
        ensure!(
            client.source_address.is_none(),
            "sourceAddress: clients choose which address they connect to"
        );
        let (prefix, interface) = range(&client.address).context("address")?;
        let mut template = self.neighbour(client)?;
        ensure!(template.asn == Some(self.file.as_number.value), "asNumber: a client is of our own AS");
        template.passive = true;
        template.reflector_client = true;
        if client.name.is_empty() {
            template.description = format!("client of {prefix}");
        }
        Ok(DynamicNeighbours { interface, ..DynamicNeighbours::new(prefix, template) })
    }

    /// Nodes connect by themselves, each from an address that is known.
    fn nodes(&mut self, wanted: &Kubernetes) -> anyhow::Result<Choice> {
        let selector = wanted.node_selector.as_deref().map_or(Ok(Selector::all()), str::parse);
        let selector = Arc::new(selector.context("nodeSelector")?);
        let node = Neighbour { password_file: wanted.password_file.clone(), ..Neighbour::default() };
        let template = PeerConfig { passive: true, reflector_client: true, ..self.neighbour(&node)? };
        Ok(Choice { kubeconfig: wanted.kubeconfig.clone(), selector, template })
    }

    /// A peer whose address is heard on its link. IPv4 goes by way of it, too.
    fn link(&mut self, peer: &Neighbour) -> anyhow::Result<PeerConfig> {
        ensure!(peer.address.is_empty(), "interface: excludes address");
        ensure!(peer.source_address.is_none(), "sourceAddress: the link-local address of the link is taken");
        let config = self.common_peer(peer)?;
        Ok(PeerConfig { extended_next_hop: peer.extended_next_hop.unwrap_or(true), ..config })
    }

    fn peer(&mut self, peer: &Neighbour) -> anyhow::Result<(PeerKey, PeerConfig)> {
        let key = key(&peer.address).context("address")?;
        let mut config = self.common_peer(peer)?;
        config.local_address = peer.source_address;
        if let Some(source) = peer.source_address {
            ensure!(
                Family::of(source) == Family::of(key.address()),
                "sourceAddress: not of the peer's family"
            );
        }
        Ok((key, config))
    }

    fn common_peer(&mut self, peer: &Neighbour) -> anyhow::Result<PeerConfig> {
        let mut config = self.neighbour(peer)?;
        config.reflector_client = peer.client.unwrap_or(false);
        config.passive = peer.passive.unwrap_or(false);
        config.port = peer.port.unwrap_or(179);
        let own = config.asn == Some(self.file.as_number.value);
        ensure!(!config.reflector_client || own, "client: only a peer of our own AS can be one");
        ensure!(peer.role.is_none() || !own, "role: only external peers have one");
        if peer.name.is_empty() {
            config.description =
                peer.interface.as_ref().map_or("peer".to_owned(), |link| format!("on {link}"));
        }
        Ok(config)
    }

    /// What clients and peers have in common.
    fn neighbour(&mut self, neighbour: &Neighbour) -> anyhow::Result<PeerConfig> {
        let asn = neighbour.as_number.unwrap_or(self.file.as_number.value);
        ensure!(asn != 0, "asNumber: 0 is no AS");
        let hold_time = check_hold_time(neighbour.hold_time.unwrap_or(self.hold_time)).context("holdTime")?;
        let restart_time = neighbour.restart_time.unwrap_or(self.restart_time);
        let (password, password_missing) =
            self.password(neighbour.password_file.as_ref().or(self.file.password_file.as_ref()));
        let families = neighbour.families.as_ref().or(self.file.families.as_ref());
        let add_path = neighbour.add_path.or(self.file.add_path).unwrap_or_default();
        let max_prefix = neighbour.max_prefixes.as_ref().or(self.file.max_prefixes.as_ref());
        let max_prefix = max_prefix.map(max_prefixes).transpose().context("maxPrefixes")?;
        let ttl_security = neighbour.ttl_security.or(self.file.ttl_security);
        ensure!(
            neighbour.role.is_some() || neighbour.strict_role != Some(true),
            "strictRole: needs a role of ours"
        );
        ensure!(ttl_security != Some(0), "ttlSecurity: a neighbour is at least one hop away");
        Ok(PeerConfig {
            description: neighbour.name.clone(),
            hold_time,
            restart_time: check_restart_time(restart_time).context("restartTime")?,
            families: families.map_or(Ok(Family::ALL.to_vec()), |f| families_of(f)).context("families")?,
            bfd: neighbour
                .bfd
                .as_ref()
                .or(self.file.bfd.as_ref())
                .map(bfd)
                .transpose()
                .context("bfd")?
                .flatten(),
            long_lived_stale_time: neighbour.long_lived_stale_time.or(self.file.long_lived_stale_time),
            add_path_receive: add_path.receive,
            add_path_send_max: add_path.send.filter(|paths| *paths > 0),
            max_prefix: [max_prefix; 2],
            graceful_shutdown: neighbour.graceful_shutdown.or(self.file.graceful_shutdown).unwrap_or(false),
            extended_next_hop: neighbour.extended_next_hop.unwrap_or(false),
            ttl_security,
            role: neighbour.role.map(role),
            strict_role: neighbour.strict_role.unwrap_or(false),
            import: policy(neighbour.import.as_deref()).context("import")?,
            export: policy(neighbour.export.as_deref()).context("export")?,
            password,
            password_missing,
            admin_down: neighbour.disabled,
            ..PeerConfig::new(asn)
        })
    }

    /// A password that cannot be read keeps sessions down, which say so: they never go without.
    fn password(&mut self, path: Option<&PathBuf>) -> (Option<Password>, Option<Arc<str>>) {
        let Some(path) = path else { return (None, None) };
        if !self.password_files.contains(path) {
            self.password_files.push(path.clone());
        }
        match fs::read_to_string(path) {
            Ok(text) if !text.trim_end().is_empty() => {
                (Some(Password::new(text.trim_end().to_owned())), None)
            }
            Ok(_) => (None, Some(format!("{} is empty", path.display()).into())),
            Err(error) => (None, Some(format!("{}: {error}", path.display()).into())),
        }
    }
}

/// Lets through what lies inside of prefixes, or everything.
fn policy(inside: Option<&[String]>) -> anyhow::Result<Arc<Policy>> {
    let Some(inside) = inside else { return Ok(Arc::new(Policy::accept())) };
    let prefixes: Vec<PrefixMatch> =
        inside.iter().map(|text| Ok(PrefixMatch::within(text.parse()?))).collect::<anyhow::Result<_>>()?;
    let rule = Rule {
        name: "inside of the prefixes of the file".to_owned(),
        when: vec![Condition::Prefix(PrefixSet::new(prefixes))],
        then: Action::Accept,
    };
    Ok(Arc::new(Policy::new(vec![rule], false)))
}

fn role(name: RoleName) -> Role {
    match name {
        RoleName::Provider => Role::Provider,
        RoleName::RouteServer => Role::RouteServer,
        RoleName::RouteServerClient => Role::RouteServerClient,
        RoleName::Customer => Role::Customer,
        RoleName::Peer => Role::Peer,
    }
}

fn max_prefixes(wanted: &Alone<MaxPrefixes>) -> anyhow::Result<MaxPrefix> {
    let wanted = &wanted.0;
    ensure!(wanted.limit > 0, "limit: at least 1");
    ensure!(wanted.warning_percent.is_none_or(|p| (1..=100).contains(&p)), "warningPercent: 1 to 100");
    let default = MaxPrefix::new(wanted.limit);
    let action = match (wanted.only_warn, wanted.restart_after) {
        (true, None) => MaxPrefixAction::Warn,
        (true, Some(_)) => bail!("restartAfter: with onlyWarn the session never ends"),
        (false, Some(seconds)) => MaxPrefixAction::Restart(Duration::from_secs(seconds)),
        (false, None) => default.action,
    };
    let warning_percent = wanted.warning_percent.unwrap_or(default.warning_percent);
    Ok(MaxPrefix { action, warning_percent, ..default })
}

fn families_of(names: &[FamilyName]) -> anyhow::Result<Vec<Family>> {
    ensure!(!names.is_empty(), "at least one is needed");
    let has = |family: &Family| match family {
        Family::Ipv4 => names.contains(&FamilyName::Ipv4),
        Family::Ipv6 => names.contains(&FamilyName::Ipv6),
    };
    Ok(Family::ALL.into_iter().filter(has).collect())
}

fn bfd(bfd: &Alone<Bfd>) -> anyhow::Result<Option<BfdConfig>> {
    let (bfd, default) = (&bfd.0, BfdConfig::default());
    let config = BfdConfig {
        min_tx: bfd.min_tx.unwrap_or(default.min_tx),
        min_rx: bfd.min_rx.unwrap_or(default.min_rx),
        detect_multiplier: bfd.detect_multiplier.unwrap_or(default.detect_multiplier),
        multihop: bfd.multihop,
    };
    // The longest that fits into a packet is some 71 minutes; a minute is more than the hold timer needs.
    for (name, ms) in [("minTx", config.min_tx), ("minRx", config.min_rx)] {
        ensure!((10..=60_000).contains(&ms), "{name}: 10 to 60000 milliseconds");
    }
    ensure!(config.detect_multiplier > 0, "detectMultiplier: at least 1");
    Ok(bfd.enabled.then_some(config))
}

/// A prefix or a single address, with the interface of link-local ones.
fn range(text: &str) -> anyhow::Result<(Prefix, Option<u32>)> {
    if text.contains('/') {
        return Ok((text.parse()?, None));
    }
    let key = key(text)?;
    Ok((Prefix::host(key.address()), (key.scope() != 0).then_some(key.scope())))
}

/// An address; a link-local one has its interface by name or number behind a `%`.
fn key(text: &str) -> anyhow::Result<PeerKey> {
    let (address, interface) = text.split_once('%').map_or((text, None), |(a, i)| (a, Some(i)));
    let address: IpAddr = address.parse().map_err(|_| anyhow!("{text:?} is no address"))?;
    let scope = match interface {
        None => 0,
        Some(interface) => match interface.parse() {
            Ok(index) => index,
            Err(_) => interface_index(interface).with_context(|| format!("interface {interface:?}"))?,
        },
    };
    let key = PeerKey::new(address, scope);
    ensure!(!key.is_link_local() || scope != 0, "{text:?} needs its interface: {text}%eth0");
    Ok(key)
}

pub(crate) fn interface_index(name: &str) -> anyhow::Result<u32> {
    use rustix::net::{AddressFamily, SocketType, netdevice, socket};
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    Ok(netdevice::name_to_index(socket, name)?)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use bgp::{Edit, Facts, SourceKind, Verdict};
    use bgp_packet::{NextHop, PathAttributes};

    use super::*;

    const GOOD: &str = "
routerId: 192.0.2.1
asNumber: 64512
clusterId: 244.0.0.1
listen: ['192.0.2.1:179']
clients:
  - 192.0.2.0/24
  - '2001:db8::7'
  - {address: 198.18.0.0/15, name: pod racks, bfd: true, maxPrefixes: 10, ttlSecurity: 2, families: [ipv4]}
peers:
  - {address: 198.51.100.1, asNumber: 65000, name: tor}
  - {address: 192.0.2.9, client: true, bfd: {minTx: 100, multihop: true}, addPath: {send: 4}}
  - {address: 'fe80::1%1', holdTime: 30, disabled: true}
";

    fn at(peers: &BTreeMap<PeerKey, PeerConfig>, address: &str) -> PeerConfig {
        peers[&key(address).unwrap()].clone()
    }

    #[test]
    fn a_file_becomes_a_reflector() {
        let settings = parse(GOOD).unwrap();
        let speaker = settings.speaker;
        assert_eq!(speaker.cluster_id, Some(Ipv4Addr::new(244, 0, 0, 1)));
        assert!(speaker.client_to_client);
        let ranges: Vec<String> = speaker.dynamic.iter().map(|d| d.prefix.to_string()).collect();
        assert_eq!(ranges, ["192.0.2.0/24", "2001:db8::7/128", "198.18.0.0/15"]);
        assert!(speaker.dynamic.iter().all(|d| d.template.reflector_client && d.template.passive));
        let racks = &speaker.dynamic[2].template;
        assert_eq!((racks.description.as_str(), racks.ttl_security), ("pod racks", Some(2)));
        assert_eq!((racks.bfd, &racks.families[..]), (Some(BfdConfig::default()), &[Family::Ipv4][..]));
        assert_eq!(racks.max_prefix, [Some(MaxPrefix::new(10)); 2]);
        let tor = at(&speaker.peers, "198.51.100.1");
        assert_eq!((tor.asn, tor.reflector_client, tor.passive), (Some(65000), false, false));
        let client = at(&speaker.peers, "192.0.2.9");
        assert!(client.reflector_client && client.bfd.is_some_and(|b| b.min_tx == 100 && b.multihop));
        assert_eq!((client.add_path_send_max, client.add_path_receive), (Some(4), false));
        let local = at(&speaker.peers, "fe80::1%1");
        assert_eq!((local.hold_time, local.admin_down), (30, true));
    }

    #[test]
    fn settings_of_the_file_hold_for_those_without_their_own() {
        let text = GOOD.replace(
            "asNumber: 64512",
            "asNumber: 64512\nholdTime: 9\nbfd: {minRx: 50}\nclientToClient: false",
        );
        let speaker = parse(&text).unwrap().speaker;
        assert!(!speaker.client_to_client);
        assert_eq!(speaker.dynamic[0].template.bfd.map(|b| b.min_rx), Some(50));
        assert_eq!(at(&speaker.peers, "192.0.2.9").bfd.map(|b| (b.min_tx, b.min_rx)), Some((100, 300)));
        assert_eq!(at(&speaker.peers, "198.51.100.1").hold_time, 9);
        assert_eq!(at(&speaker.peers, "fe80::1%1").hold_time, 30);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let cases = [
            ("asNumber: 64512", "asNumber: 0", "line 3, asNumber"),
            ("clusterId", "clusterid", "clusterid"),
            ("192.0.2.0/24", "192.0.2.0/33", "line 7, clients[0]: address"),
            ("192.0.2.0/24", "198.18.0.0/15", "line 9, clients[2]: 198.18.0.0/15 is there twice"),
            ("bfd: true", "bfd: {minTx: 1}", "line 9, clients[2]: bfd: minTx"),
            (
                "maxPrefixes: 10",
                "maxPrefixes: {limit: 9, onlyWarn: true, restartAfter: 1}",
                "clients[2]: maxPrefixes",
            ),
            ("maxPrefixes: 10", "maxPrefixes: 0", "line 9, clients[2]: maxPrefixes: limit"),
            ("bfd: true", "port: 1", "line 9, clients[2]: port"),
            ("asNumber: 65000", "asNumber: 65000, client: true", "line 11, peers[0]: client"),
            ("asNumber: 65000", "asNumber: 65000, holdTime: 2", "line 11, peers[0]: holdTime"),
            ("198.51.100.1", "192.0.2.9", "line 12, peers[1]: 192.0.2.9 is there twice"),
            ("fe80::1%1", "fe80::1", "needs its interface"),
            ("fe80::1%1", "fe80::1%nowhere0", "interface \"nowhere0\""),
            (
                "clients:",
                "kubernetes: {nodeSelector: 'rack =='}\nclients:",
                "line 6, kubernetes: nodeSelector",
            ),
            ("routerId: 192.0.2.1", "routerId: 0.0.0.0", "line 2, routerId"),
            ("families: [ipv4]", "families: [ipv5]", "ipv5"),
            (
                "address: 198.51.100.1",
                "interface: eth0, address: 198.51.100.1",
                "line 11, peers[0]: interface",
            ),
            ("client: true", "role: peer", "line 12, peers[1]: role"),
            ("asNumber: 65000", "asNumber: 65000, strictRole: true", "line 11, peers[0]: strictRole"),
            ("asNumber: 65000", "asNumber: 65000, import: [10.0.0.0/33]", "line 11, peers[0]: import"),
        ];
        for (from, to, named) in cases {
            let error = format!("{:#}", parse(&GOOD.replace(from, to)).unwrap_err());
            assert!(error.contains(named), "{to}: {error}");
        }
    }

    #[test]
    fn peers_may_be_named_by_their_link_have_roles_and_say_what_goes() {
        let settings = parse(
            "{routerId: 192.0.2.1, asNumber: 64512, ebgpRequiresPolicy: true, peers: [
              {interface: eth1, asNumber: 65001, role: customer, strictRole: true, export: [10.0.0.0/8]}]}",
        )
        .unwrap();

        let peer = &settings.links["eth1"];
        assert!(settings.speaker.ebgp_requires_policy && settings.speaker.peers.is_empty());
        assert_eq!((peer.role, peer.strict_role, peer.extended_next_hop), (Some(Role::Customer), true, true));
        let verdict = |prefix: &str| {
            let attributes = PathAttributes::new(NextHop::V4([192, 0, 2, 9].into()));
            let prefix = prefix.parse().unwrap();
            let facts = Facts::new(&prefix, SourceKind::Internal);
            peer.export.apply(facts, &mut Edit::Same(&attributes))
        };
        assert_eq!(verdict("10.1.0.0/26"), Verdict::Accept);
        assert_ne!(verdict("192.0.2.0/24"), Verdict::Accept);
        assert_eq!(*peer.import, Policy::accept());
    }

    #[test]
    fn a_password_that_cannot_be_read_keeps_the_session_down() {
        let text = GOOD.replace("name: tor", "name: tor, passwordFile: /nonexistent");
        let settings = parse(&text).unwrap();
        assert!(at(&settings.speaker.peers, "198.51.100.1").password_missing.is_some());
        assert_eq!(settings.password_files, [PathBuf::from("/nonexistent")]);
    }
}
