//! What is asked: two ends in an operator's words, and what they are in the cluster.

use std::net::IpAddr;

use felix_evaluate::Place;
use model::{Family, NodeName, ObjectKey, Pod, PodKey, Protocol, Service};

use crate::client::CallError;
use crate::cluster::Cluster;

/// Endpoints of a Service that are looked at.
const MOST_TARGETS: usize = 16;

/// What was asked.
pub(crate) struct Question {
    from: Word,
    to: Word,
    pub(crate) protocol: Protocol,
    /// 0 where the protocol has none.
    pub(crate) port: u16,
    family: Option<Family>,
}

enum Word {
    Address(IpAddr),
    Node(NodeName),
    Named { only: Option<Only>, namespace: String, name: String },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Only {
    Pod,
    Service,
}

/// One end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) address: IpAddr,
    pub(crate) node: Option<NodeName>,
}

/// A Service's address before it is translated.
#[derive(Clone, Debug)]
pub(crate) struct Translation {
    pub(crate) service: ObjectKey,
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    /// Endpoints that are not looked at, as they are too many.
    pub(crate) left_out: usize,
}

/// The ends as they are in the cluster.
pub(crate) struct Resolved {
    pub(crate) from: End,
    /// What was asked for, before translation.
    pub(crate) asked: End,
    pub(crate) translation: Option<Translation>,
    pub(crate) targets: Vec<(End, u16)>,
}

pub(crate) fn protocol(text: &str) -> Result<Protocol, String> {
    match text.to_ascii_lowercase().as_str() {
        "tcp" => Ok(Protocol::TCP),
        "udp" => Ok(Protocol::UDP),
        "sctp" => Ok(Protocol::SCTP),
        "icmp" | "icmpv6" | "icmp6" => Ok(Protocol::ICMP),
        _ => Err("one of tcp, udp, sctp, icmp".to_owned()),
    }
}

pub(crate) fn family(text: &str) -> Result<Family, String> {
    match text {
        "4" => Ok(Family::V4),
        "6" => Ok(Family::V6),
        _ => Err("4 or 6".to_owned()),
    }
}

fn usage(reason: impl Into<String>) -> CallError {
    CallError::Usage { reason: reason.into() }
}

fn nothing(reason: impl Into<String>) -> CallError {
    CallError::Question { reason: reason.into() }
}

impl Word {
    fn parse(option: &str, text: &str) -> Result<Self, CallError> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let (only, rest) = match text.split_once(':') {
            Some(("pod", rest)) => (Some(Only::Pod), rest),
            Some(("service" | "svc", rest)) => (Some(Only::Service), rest),
            Some(("node", rest)) if is_name(rest) => return Ok(Self::Node(NodeName::from(rest))),
            _ => (None, text),
        };
        match rest.split_once('/') {
            Some((namespace, name)) if is_name(namespace) && is_name(name) => {
                Ok(Self::Named { only, namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err(usage(format!("{option} {text:?} is neither NAMESPACE/NAME, node:NAME nor an address"))),
        }
    }
}

fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
    !text.is_empty() && text.len() <= 253 && text.chars().all(plain)
}

impl Question {
    pub(crate) fn parse(
        from: &str,
        to: &str,
        protocol: Protocol,
        port: Option<u16>,
        family: Option<Family>,
    ) -> Result<Self, CallError> {
        let port = match (protocol.has_ports(), port) {
            (true, None | Some(0)) => return Err(usage(format!("{protocol} needs --port, from 1 to 65535"))),
            (false, Some(_)) => return Err(usage("ICMP has no ports: leave --port out")),
            (_, port) => port.unwrap_or(0),
        };
        Ok(Self { from: Word::parse("--from", from)?, to: Word::parse("--to", to)?, protocol, port, family })
    }

    /// Finds both ends in the cluster.
    pub(crate) fn resolve(&self, cluster: &Cluster) -> Result<Resolved, CallError> {
        let from = ends(cluster, &self.from)?;
        let service = self.service(cluster)?;
        let asked = match service {
            Some(service) => service_ends(service),
            None => ends(cluster, &self.to)?,
        };
        let pair = |family: Family| {
            let of = |ends: &[End]| ends.iter().find(|end| Family::of(end.address) == family).cloned();
            Some((of(&from)?, of(&asked)?))
        };
        let families = self.family.map_or_else(|| Family::ALL.to_vec(), |family| vec![family]);
        let Some((from, asked)) = families.into_iter().find_map(pair) else {
            return Err(nothing("the two ends have no addresses of one family"));
        };
        let Some(service) = service else {
            let targets = vec![(asked.clone(), self.port)];
            return Ok(Resolved { from, asked, translation: None, targets });
        };
        let (targets, left_out) = self.endpoints(cluster, service, Family::of(asked.address))?;
        let translation =
            Translation { service: service.key.clone(), address: asked.address, port: self.port, left_out };
        Ok(Resolved { from, asked, translation: Some(translation), targets })
    }

    /// The Service that is asked for, by name or by address.
    fn service<'c>(&self, cluster: &'c Cluster) -> Result<Option<&'c Service>, CallError> {
        let Word::Named { only, namespace, name } = &self.to else {
            let Word::Address(address) = &self.to else { return Ok(None) };
            return Ok(cluster.service_at(*address));
        };
        let is_pod = cluster.state.pod(&PodKey::new(namespace, name)).is_some();
        let service = cluster.services.get(&ObjectKey::new(namespace, name));
        match (only, is_pod, service) {
            (Some(Only::Pod), ..) | (None, true, None) => Ok(None),
            (None, true, Some(_)) => Err(usage(format!(
                "{namespace}/{name} is a pod and a Service: say pod:{namespace}/{name} or service:{namespace}/{name}"
            ))),
            (_, _, Some(service)) => Ok(Some(service)),
            (Some(Only::Service), ..) => {
                Err(nothing(format!("there is no Service {namespace}/{name} with an address of its own")))
            }
            (None, false, None) => {
                Err(nothing(format!("there is neither a pod nor a Service {namespace}/{name}")))
            }
        }
    }

    /// The addresses behind a port of a Service.
    fn endpoints(
        &self,
        cluster: &Cluster,
        service: &Service,
        family: Family,
    ) -> Result<(Vec<(End, u16)>, usize), CallError> {
        let wanted = |protocol, port| protocol == self.protocol && port == self.port;
        let Some(port) = service.ports.iter().find(|port| wanted(port.protocol, port.port)) else {
            let has: Vec<_> = service.ports.iter().map(|p| format!("{} {}", p.protocol, p.port)).collect();
            let has = if has.is_empty() { "none".to_owned() } else { has.join(", ") };
            let reason =
                format!("Service {} has no port {} {}: it has {has}", service.key, self.protocol, self.port);
            return Err(nothing(reason));
        };
        let slices = cluster.slices.iter().filter(|slice| {
            slice.key.namespace == service.key.namespace
                && slice.service == service.key.name
                && slice.family == family
        });
        let mut all: Vec<(End, u16)> = slices
            .flat_map(|slice| {
                let same = |p: &&model::ServicePort| p.name == port.name && p.protocol == port.protocol;
                let target = slice.ports.iter().find(same).map(|port| port.port);
                let addresses =
                    target.into_iter().flat_map(|port| slice.addresses.iter().map(move |a| (*a, port)));
                addresses.map(|(address, port)| (end_of(cluster, address), port))
            })
            .collect();
        all.sort_by_key(|(end, port)| (end.address, *port));
        all.dedup_by_key(|(end, port)| (end.address, *port));
        if all.is_empty() {
            return Err(nothing(format!("Service {} has no endpoints on that port", service.key)));
        }
        let left_out = all.len().saturating_sub(MOST_TARGETS);
        all.truncate(MOST_TARGETS);
        Ok((all, left_out))
    }
}

fn end_of(cluster: &Cluster, address: IpAddr) -> End {
    let place = cluster.place(address);
    let node = cluster.node_of(&place);
    End { name: cluster.name(&place), place, address, node }
}

fn service_ends(service: &Service) -> Vec<End> {
    let own = [&service.cluster_ips, &service.external_ips, &service.load_balancer_ips];
    let name = format!("Service {}", service.key);
    let end =
        |address: &IpAddr| End { name: name.clone(), place: Place::Outside, address: *address, node: None };
    own.into_iter().flatten().map(end).collect()
}

fn node_ends(cluster: &Cluster, name: &NodeName) -> Result<Vec<End>, CallError> {
    let Some(node) = cluster.nodes.get(name) else {
        return Err(nothing(format!("there is no node {name}")));
    };
    let addresses = Family::ALL.into_iter().filter_map(|family| Some(node.address(family)?.address));
    let ends: Vec<_> = addresses.map(|address| end_of(cluster, address)).collect();
    match ends.is_empty() {
        true => Err(nothing(format!("node {name} has no address yet"))),
        false => Ok(ends),
    }
}

fn ends(cluster: &Cluster, word: &Word) -> Result<Vec<End>, CallError> {
    let (namespace, name) = match word {
        Word::Address(address) => return Ok(vec![end_of(cluster, *address)]),
        Word::Node(node) => return node_ends(cluster, node),
        Word::Named { namespace, name, .. } => (namespace, name),
    };
    let key = PodKey::new(namespace, name);
    let Some(pod) = cluster.state.pod(&key) else {
        return Err(nothing(format!("there is no pod {key}")));
    };
    let place = |pod: &Pod| match (&pod.node, pod.host_network) {
        (Some(node), true) => Place::Node(node.clone()),
        _ => Place::Pod(pod.key.clone()),
    };
    if pod.addresses.is_empty() {
        return Err(nothing(format!("pod {key} has no address: it has not started, or has finished")));
    }
    let end = |address: &IpAddr| End {
        name: key.to_string(),
        place: place(pod),
        address: *address,
        node: pod.node.clone(),
    };
    Ok(pod.addresses.iter().map(end).collect())
}
