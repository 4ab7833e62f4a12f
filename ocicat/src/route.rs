//! `ocicat route get`: the way from one end to another, hop by hop, as the nodes' kernels have it now, and why it is so.

use clap::{Args, Subcommand};
use felix_evaluate::Place;
use model::{Family, Protocol};
use proto::felix as api;
use serde_json::{Value, json};

use crate::client::CallError;
use crate::cluster::Cluster;
use crate::explain::live::Live;
use crate::explain::question::{self, End, Question};
use crate::explain::text::{at, end_json, learned_json, learned_text, route_json, route_text};
use crate::explain::{NodeView, packet, pool_text, wanted_encapsulation, wrong_encapsulation};
use crate::reach::Reach;
use crate::table::plain;
use crate::{DIFFERS, Format, OutputOptions, Report, UNWELL};

#[derive(Subcommand)]
pub(crate) enum RouteCommand {
    /// Hop by hop: route, who wrote it and why, next hop, outer header, MTU
    Get(RouteOptions),
}

#[derive(Args)]
pub(crate) struct RouteOptions {
    /// Where the packet starts: a pod as NAMESPACE/NAME, a node as node:NAME, or an address
    #[arg(value_name = "NS/POD|node:NODE|IP")]
    from: String,
    /// Where it goes: also a Service as NAMESPACE/NAME
    #[arg(value_name = "NS/POD|NS/SERVICE|node:NODE|IP")]
    to: String,
    /// 4 or 6; without it the first one that both ends have
    #[arg(long, value_parser = question::family)]
    family: Option<Family>,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    output: OutputOptions,
}

/// The way to one address.
struct Way {
    from: End,
    to: End,
    pool: String,
    /// Why the source's node encapsulates or does not.
    why: Option<String>,
    /// The nodes that the packet goes through, as far as they are known.
    nodes: Vec<NodeView>,
    differences: Vec<String>,
}

pub(crate) fn run(command: &RouteCommand) -> Result<Report, CallError> {
    let RouteCommand::Get(options) = command;
    // What rules say is not asked for; ICMP needs no port.
    let question = Question::parse(&options.from, &options.to, Protocol::ICMP, None, options.family)?;
    let cluster = options.reach.cluster.read()?;
    let resolved = question.resolve(&cluster)?;
    let live = Live::new(&options.reach);
    let targets = resolved.targets.into_iter();
    let ways: Vec<Way> = targets.map(|(to, _)| Way::ask(&cluster, &live, &resolved.from, to)).collect();
    let text = match options.output.output {
        Format::Json => format!("{:#}\n", Value::from(ways.iter().map(Way::json).collect::<Vec<_>>())),
        Format::Table => ways.iter().map(Way::text).collect::<Vec<_>>().join("\n"),
    };
    let status = ways.iter().map(Way::status).max().unwrap_or(UNWELL);
    Ok(Report { text, status })
}

impl Way {
    fn ask(cluster: &Cluster, live: &Live, from: &End, to: End) -> Self {
        let protocol = if to.address.is_ipv6() { Protocol::ICMPV6 } else { Protocol::ICMP };
        let packet = packet(from, &to, protocol, 0, None);
        let mut nodes: Vec<NodeView> = Vec::new();
        for node in [&from.node, &to.node].into_iter().flatten() {
            if nodes.iter().all(|view| view.node != *node) {
                nodes.push(live.ask(node, &packet));
            }
        }
        let first = nodes.iter().find(|view| from.node.as_ref() == Some(&view.node));
        let differences = first.and_then(|view| wrong_encapsulation(cluster, from, &to, view));
        Self {
            from: from.clone(),
            pool: pool_text(cluster, to.address),
            why: wanted_encapsulation(cluster, from, &to).map(|wanted| wanted.reason),
            to,
            nodes,
            differences: differences.into_iter().collect(),
        }
    }

    /// Every node that was asked has a way on.
    fn status(&self) -> u8 {
        let leads_on = |view: &NodeView| {
            let route = view.told.as_ref().ok().and_then(|told| told.route.as_ref());
            route.is_some_and(|route| ["unicast", "local"].contains(&route.kind.as_str()))
        };
        match (self.differences.is_empty(), self.nodes.iter().all(leads_on)) {
            (_, false) => UNWELL,
            (false, true) => DIFFERS,
            (true, true) => 0,
        }
    }

    /// The largest packet that passes every link that is known, bytes.
    fn mtu(&self) -> Option<u32> {
        let of_node = |view: &NodeView| {
            let told = view.told.as_ref().ok()?;
            let route = told.route.as_ref()?;
            let from_pod = is_pod(&self.from) && self.from.node.as_ref() == Some(&view.node);
            let in_by = if from_pod { told.from_mtu } else { 0 };
            [in_by, route.mtu, inner_mtu(route)].into_iter().filter(|mtu| *mtu > 0).min()
        };
        self.nodes.iter().filter_map(of_node).min()
    }

    fn text(&self) -> String {
        let mut text = format!("{} -> {}\n", at(&self.from, 0), at(&self.to, 0));
        if !self.pool.is_empty() {
            text.push_str(&format!("pool {}\n", self.pool));
        }
        for view in &self.nodes {
            self.node_text(view, &mut text);
        }
        if let Some(mtu) = self.mtu() {
            text.push_str(&format!("packets of up to {mtu} bytes pass the links of this way\n"));
        }
        for difference in &self.differences {
            text.push_str(&format!("DIFFERS  {}\n", plain(difference)));
        }
        text
    }

    fn node_text(&self, view: &NodeView, text: &mut String) {
        let told = match &view.told {
            Ok(told) => told,
            Err(reason) => {
                text.push_str(&format!("node {}: not asked: {}\n", view.node, plain(reason)));
                return;
            }
        };
        text.push_str(&format!("node {}\n", view.node));
        let mut line = |word: &str, what: String| text.push_str(&format!("  {word:<8}{what}\n"));
        if is_pod(&self.from) && self.from.node.as_ref() == Some(&view.node) {
            line("from", format!("{} by {}, MTU {}", self.from.name, told.from_interface, told.from_mtu));
        }
        let Some(route) = &told.route else {
            return line("route", told.problems.iter().map(|problem| plain(problem)).collect());
        };
        line("route", route_text(route));
        line("by", writer(route).to_owned());
        if let Some(learned) = &view.learned_from {
            line("BGP", learned_text(learned));
        }
        if !route.outer_destination.is_empty() {
            line(
                "outer",
                format!(
                    "{} -> {} dev {}, MTU {}",
                    route.outer_source, route.outer_destination, route.outer_interface, route.outer_mtu
                ),
            );
        }
        if self.from.node.as_ref() == Some(&view.node) {
            self.why.iter().for_each(|why| line("why", plain(why)));
        }
        if is_pod(&self.to) && self.to.node.as_ref() == Some(&view.node) {
            line("to", format!("{} by {}, MTU {}", self.to.name, route.interface, route.mtu));
        }
    }

    fn json(&self) -> Value {
        let node = |view: &NodeView| match &view.told {
            Err(reason) => json!({ "node": view.node.to_string(), "notAsked": reason }),
            Ok(told) => json!({
                "node": view.node.to_string(),
                "fromInterface": told.from_interface,
                "fromMtu": told.from_mtu,
                "route": told.route.as_ref().map(route_json),
                "writer": told.route.as_ref().map(writer),
                "bgp": view.learned_from.as_ref().map(learned_json),
                "problems": told.problems,
            }),
        };
        json!({
            "from": end_json(&self.from),
            "to": end_json(&self.to),
            "pool": self.pool,
            "why": self.why,
            "nodes": self.nodes.iter().map(node).collect::<Vec<_>>(),
            "mtu": self.mtu(),
            "differences": self.differences,
        })
    }
}

fn is_pod(end: &End) -> bool {
    matches!(end.place, Place::Pod(_))
}

/// What the outer link leaves for the packet; 0 without an outer header.
fn inner_mtu(route: &api::Route) -> u32 {
    let outer = if route.outer_destination.contains(':') { 40 } else { 20 };
    let overhead = match route.encapsulation.as_str() {
        "IPIP" => outer,
        // UDP, VXLAN, Ethernet.
        "VXLAN" => outer + 8 + 8 + 14,
        // UDP, WireGuard's header and seal.
        "WireGuard" => outer + 8 + 16 + 16,
        _ => return 0,
    };
    route.outer_mtu.saturating_sub(overhead)
}

/// Who makes routes of this protocol.
fn writer(route: &api::Route) -> &'static str {
    match (route.kind.as_str(), route.protocol.as_str()) {
        (_, "bird") => "bird-lite, learned by BGP",
        (_, "boot" | "felix") => "felix",
        ("local", _) => "the kernel: an address of this node",
        (_, "kernel") => "the kernel: a subnet of the link",
        (_, "") => "nobody: there is no route",
        _ => "somebody else",
    }
}

#[cfg(test)]
mod tests {
    use model::NodeName;

    use super::*;

    #[test]
    fn the_smallest_link_of_the_way_counts_and_a_missing_route_is_told() {
        let mut way = way();
        assert_eq!((way.mtu(), way.status()), (Some(1400), 0));
        let text = way.text();
        for part in [
            "default/a (10.65.0.1, node n1) -> default/b (10.65.1.1, node n2)",
            "  from    default/a by cali1, MTU 1500",
            "10.65.1.0/26 via 10.65.1.0 dev vxlan.calico proto felix, MTU 1450, encapsulated in VXLAN from 172.20.0.1 to 172.20.0.2",
            "  outer   172.20.0.1 -> 172.20.0.2 dev eth0, MTU 1450",
            "  why     pool p: vxlanMode is Always",
            "  to      default/b by cali2, MTU 1480",
            "packets of up to 1400 bytes pass",
        ] {
            assert!(text.contains(part), "{part}\nin\n{text}");
        }
        assert_eq!(way.json()["nodes"][0]["route"]["outerDestination"], "172.20.0.2");

        way.differences.push("n1 differs".to_owned());
        assert_eq!(way.status(), DIFFERS);
        way.nodes[0].told.as_mut().unwrap().route.as_mut().unwrap().kind = "unreachable".to_owned();
        assert_eq!(way.status(), UNWELL);
    }

    fn way() -> Way {
        let end = |name: &str, address: &str, node: &str| End {
            name: format!("default/{name}"),
            place: Place::Pod(model::PodKey::new("default", name)),
            address: address.parse().unwrap(),
            node: Some(NodeName::from(node)),
        };
        let view = |node: &str, from: (&str, u32), route: api::Route| NodeView {
            node: NodeName::from(node),
            told: Ok(api::Explained {
                from_interface: from.0.to_owned(),
                from_mtu: from.1,
                route: Some(route),
                ..api::Explained::default()
            }),
            learned_from: None,
        };
        let there = api::Route {
            prefix: "10.65.1.0/26".to_owned(),
            gateway: "10.65.1.0".to_owned(),
            interface: "vxlan.calico".to_owned(),
            kind: "unicast".to_owned(),
            protocol: "felix".to_owned(),
            mtu: 1450,
            encapsulation: "VXLAN".to_owned(),
            outer_source: "172.20.0.1".to_owned(),
            outer_destination: "172.20.0.2".to_owned(),
            outer_interface: "eth0".to_owned(),
            outer_mtu: 1450,
            ..api::Route::default()
        };
        let here = api::Route {
            prefix: "10.65.1.1/32".to_owned(),
            interface: "cali2".to_owned(),
            kind: "unicast".to_owned(),
            protocol: "boot".to_owned(),
            mtu: 1480,
            encapsulation: "none".to_owned(),
            ..api::Route::default()
        };
        Way {
            from: end("a", "10.65.0.1", "n1"),
            to: end("b", "10.65.1.1", "n2"),
            pool: String::new(),
            why: Some("pool p: vxlanMode is Always".to_owned()),
            nodes: vec![view("n1", ("cali1", 1500), there), view("n2", ("vxlan.calico", 1450), here)],
            differences: Vec::new(),
        }
    }
}
