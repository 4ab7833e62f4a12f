//! `ocicat explain`: may this connection pass, and why; what policy says beside what the kernel does.

pub(crate) mod live;
pub(crate) mod question;
pub(crate) mod text;

use std::net::IpAddr;

use clap::Args;
use felix_evaluate::{Cause, Endpoint, Packet, Place, Side, State, Step, Verdict, evaluate};
use model::{Action, EncapMode, Family, Node, NodeName, Protocol};
use proto::felix as api;

use crate::client::CallError;
use crate::cluster::Cluster;
use crate::reach::Reach;
use crate::{DENIED, DIFFERS, Format, OutputOptions, Report};
use live::{LearnedFrom, Live};
use question::{End, Question, Translation};

#[derive(Args)]
pub(crate) struct ExplainOptions {
    /// Who connects: a pod as NAMESPACE/NAME, or an address
    #[arg(long, value_name = "NS/POD|IP")]
    from: String,
    /// To whom: a pod or a Service as NAMESPACE/NAME (pod:… or service:… when both are there), or an address
    #[arg(long, value_name = "NS/POD|NS/SERVICE|IP")]
    to: String,
    /// Port that is asked for
    #[arg(long)]
    port: Option<u16>,
    /// tcp, udp, sctp or icmp (an echo request)
    #[arg(long, default_value = "tcp", value_parser = question::protocol)]
    proto: Protocol,
    /// 4 or 6; without it the first one that both ends have
    #[arg(long, value_parser = question::family)]
    family: Option<Family>,
    /// Only what policy says: no agent is asked
    #[arg(long)]
    intent_only: bool,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    output: OutputOptions,
}

/// The whole answer.
pub(crate) struct Explanation {
    pub(crate) from: End,
    pub(crate) asked: End,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    pub(crate) translation: Option<Translation>,
    /// One for each address that may answer.
    pub(crate) paths: Vec<Path>,
}

/// The way to one address.
pub(crate) struct Path {
    pub(crate) to: End,
    pub(crate) port: u16,
    pub(crate) verdict: Verdict,
    /// The policies behind each end of a tier among the verdict's steps, in their order.
    pub(crate) behind: Vec<Vec<String>>,
    pub(crate) nodes: Vec<NodeView>,
    /// The pool and the block of the destination, in words; empty outside of every pool.
    pub(crate) pool: String,
    /// Where what policy says and what a kernel does are not the same.
    pub(crate) differences: Vec<String>,
}

/// What one node makes of it.
pub(crate) struct NodeView {
    pub(crate) node: NodeName,
    /// `Err`: why it was not asked.
    pub(crate) told: Result<api::Explained, String>,
    /// Who taught the route by BGP.
    pub(crate) learned_from: Option<LearnedFrom>,
}

pub(crate) fn run(options: &ExplainOptions) -> Result<Report, CallError> {
    let question = Question::parse(&options.from, &options.to, options.proto, options.port, options.family)?;
    let cluster = options.reach.cluster.read()?;
    let live = (!options.intent_only).then(|| Live::new(&options.reach));
    let explanation = explain(&cluster, &question, live.as_ref())?;
    let status = explanation.status();
    let text = match options.output.output {
        Format::Json => format!("{:#}\n", text::json(&explanation)),
        Format::Table => text::text(&explanation),
    };
    Ok(Report { text, status })
}

fn explain(cluster: &Cluster, question: &Question, live: Option<&Live>) -> Result<Explanation, CallError> {
    let resolved = question.resolve(cluster)?;
    let mut paths = Vec::new();
    for (to, port) in &resolved.targets {
        let packet = packet(&resolved.from, to, question.protocol, *port, resolved.translation.as_ref());
        let verdict = evaluate(&cluster.state, &packet);
        let pool = pool_text(cluster, to.address);
        let behind = verdict.steps.iter().map(|step| behind(&cluster.state, step)).collect();
        let mut path = Path {
            to: to.clone(),
            port: *port,
            verdict,
            behind,
            nodes: Vec::new(),
            pool,
            differences: Vec::new(),
        };
        if let Some(live) = live {
            for node in [&resolved.from.node, &to.node].into_iter().flatten() {
                if path.nodes.iter().all(|view| view.node != *node) {
                    let view = live.ask(node, &packet);
                    path.differences.extend(differences(&cluster.state, &path, &resolved.from, &view));
                    if resolved.from.node.as_ref() == Some(node) {
                        path.differences.extend(wrong_encapsulation(cluster, &resolved.from, to, &view));
                    }
                    path.nodes.push(view);
                }
            }
        }
        paths.push(path);
    }
    let (protocol, port) = (question.protocol, question.port);
    Ok(Explanation {
        from: resolved.from,
        asked: resolved.asked,
        protocol,
        port,
        translation: resolved.translation,
        paths,
    })
}

/// At the end of a tier: the policies of which no rule matched.
fn behind(state: &State, step: &Step) -> Vec<String> {
    match (&step.endpoint, &step.tier, step.cause) {
        (Endpoint::Pod(pod), Some(tier), Cause::EndOfTier) => {
            state.policies_at(pod, tier, step.direction).into_iter().map(ToString::to_string).collect()
        }
        _ => Vec::new(),
    }
}

pub(crate) fn packet(
    from: &End,
    to: &End,
    protocol: Protocol,
    port: u16,
    service: Option<&Translation>,
) -> Packet {
    let side = |end: &End| Side::new(end.place.clone(), end.address);
    let mut packet = Packet::new(side(from), side(to), protocol, port);
    packet.icmp = match protocol {
        Protocol::ICMP => Some((8, 0)),
        Protocol::ICMPV6 => Some((128, 0)),
        _ => None,
    };
    packet.original_destination = service.map(|service| (service.address, service.port));
    packet
}

pub(crate) fn pool_text(cluster: &Cluster, address: IpAddr) -> String {
    let Some(pool) = cluster.pool_of(address) else { return String::new() };
    let modes = [("IPIP", pool.ipip_mode), ("VXLAN", pool.vxlan_mode)];
    let mode = modes.into_iter().find(|(_, mode)| *mode != EncapMode::Never);
    let mode = mode.map_or("no encapsulation".to_owned(), |(name, mode)| format!("{name} {mode:?}"));
    let owner = cluster.block_of(address).map(|block| match &block.affinity {
        Some(node) => format!(", block {} of node {node}", block.cidr),
        None => format!(", block {} of no node", block.cidr),
    });
    format!("{} ({mode}){}", pool.name, owner.unwrap_or_default())
}

/// What the pool of the destination asks of the source's node.
pub(crate) struct Wanted {
    /// As in [`api::Route`].
    pub(crate) encapsulation: &'static str,
    /// In words.
    pub(crate) reason: String,
}

/// `None` where no packet goes from one node of the cluster to a pod of another.
pub(crate) fn wanted_encapsulation(cluster: &Cluster, from: &End, to: &End) -> Option<Wanted> {
    let (own_node, node) = (from.node.as_ref()?, to.node.as_ref()?);
    let pool =
        cluster.pool_of(to.address).filter(|_| own_node != node && matches!(to.place, Place::Pod(_)))?;
    let family = Family::of(to.address);
    let (own_object, other_object) = (cluster.nodes.get(own_node)?, cluster.nodes.get(node)?);
    let own = own_object.address(family)?;
    let other = other_object.address(family)?.address;
    let has_key = |node: &Node| node.tunnels.wireguard_key(family).is_some();
    if pool.is_network() && has_key(own_object) && has_key(other_object) {
        let reason = format!("{own_node} and {node} both tell a WireGuard key");
        return Some(Wanted { encapsulation: "WireGuard", reason });
    }
    let modes = [("IPIP", "ipipMode", pool.ipip_mode), ("VXLAN", "vxlanMode", pool.vxlan_mode)];
    let name = &pool.name;
    let used = modes.into_iter().find(|(.., mode)| *mode != EncapMode::Never);
    let Some((encapsulation, field, mode)) = used else {
        let reason = format!("pool {name}: ipipMode and vxlanMode are Never");
        return Some(Wanted { encapsulation: "none", reason });
    };
    let is_near = own.subnet().contains(other);
    Some(match mode {
        EncapMode::CrossSubnet => {
            let word = if is_near { "in" } else { "outside of" };
            let subnet = own.subnet();
            let reason = format!(
                "pool {name}: {field} is CrossSubnet, and {node} ({other}) is {word} {own_node}'s subnet {subnet}"
            );
            Wanted { encapsulation: if is_near { "none" } else { encapsulation }, reason }
        }
        _ => Wanted { encapsulation, reason: format!("pool {name}: {field} is Always") },
    })
}

/// Does the source's node encapsulate where the pool says so, and nowhere else?
pub(crate) fn wrong_encapsulation(
    cluster: &Cluster,
    from: &End,
    to: &End,
    view: &NodeView,
) -> Option<String> {
    let route = view.told.as_ref().ok()?.route.as_ref().filter(|route| route.kind == "unicast")?;
    let wanted = wanted_encapsulation(cluster, from, to)?;
    (wanted.encapsulation != route.encapsulation).then(|| {
        let word = |name: &str| if name == "none" { "no encapsulation".to_owned() } else { name.to_owned() };
        format!(
            "node {}: {} means {}, the route has {}",
            view.node,
            wanted.reason,
            word(wanted.encapsulation),
            word(&route.encapsulation)
        )
    })
}

/// What one node's kernel does otherwise than policy says. Only what policy decides on that node counts.
fn differences(state: &State, path: &Path, from: &End, view: &NodeView) -> Vec<String> {
    let Ok(told) = &view.told else { return Vec::new() };
    let node = &view.node;
    let here = |endpoint: &Endpoint| match endpoint {
        Endpoint::Pod(pod) => state.pod(pod).is_some_and(|pod| pod.node.as_ref() == Some(node)),
        Endpoint::Host(_) | Endpoint::Node => true,
    };
    let denied_by = path.verdict.steps.iter().find(|step| step.action == Action::Deny);
    let denied_here = denied_by.is_some_and(|step| here(&step.endpoint));
    // What another node has dropped never comes here.
    let comes_here = from.node.as_ref() == Some(node) || denied_by.is_none() || denied_here;
    let mut found: Vec<String> = match (comes_here, denied_here, told.verdict.as_str()) {
        (true, true, "allowed" | "undecided") => {
            vec![format!("node {node}: policy denies it, and the rules of its kernel let it pass")]
        }
        (true, false, "denied") => {
            let by = told.decided_by.as_ref().map(crate::drops::by);
            let by = by.map(|by| format!(" ({by})")).unwrap_or_default();
            vec![format!("node {node}: policy allows it, and the rules of its kernel drop it{by}")]
        }
        _ => Vec::new(),
    };
    let dead_end =
        told.route.as_ref().is_some_and(|route| ["unreachable", "blackhole"].contains(&route.kind.as_str()));
    if path.verdict.allowed && dead_end && from.node.as_ref() == Some(node) {
        found.push(format!("node {node}: policy allows it, and there is no route to {}", path.to.address));
    }
    let entries = told.differences.iter();
    found.extend(entries.map(|d| format!("node {node}: {} {}: {}", d.kind, d.entry, d.what)));
    found
}

impl Explanation {
    /// Every address that may answer can be reached.
    pub(crate) fn is_allowed(&self) -> bool {
        !self.paths.is_empty() && self.paths.iter().all(|path| path.verdict.allowed)
    }

    pub(crate) fn differs(&self) -> bool {
        self.paths.iter().any(|path| !path.differences.is_empty())
    }

    fn status(&self) -> u8 {
        match (self.differs(), self.is_allowed()) {
            (true, _) => DIFFERS,
            (false, true) => 0,
            (false, false) => DENIED,
        }
    }
}
