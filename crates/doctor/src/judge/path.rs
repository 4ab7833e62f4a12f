//! Does what pods send fit the way to every other node?

use std::collections::BTreeSet;

use crate::Severity::{Error, Warning};
use crate::{Facts, Finding, Path};

/// Our tunnels, and what each puts around a packet, bytes.
const TUNNELS: [(&str, u32); 5] = [
    ("tunl0", 20),
    ("vxlan.calico", 50),
    ("vxlan-v6.calico", 70),
    ("wireguard.cali", 60),
    ("wg-v6.cali", 80),
];

/// Is this a link by which we carry packets between nodes?
pub(super) fn is_tunnel(link: &str) -> bool {
    TUNNELS.iter().any(|(name, _)| *name == link)
}

pub(super) fn judge(facts: &Facts, found: &mut Vec<Finding>) {
    let needed = needed(facts);
    let mut small_links = BTreeSet::new();
    for path in &facts.paths {
        let name =
            if path.name.is_empty() { path.to.to_string() } else { format!("{} ({})", path.name, path.to) };
        match path.fits {
            None => found.push(Finding::new(
                Warning,
                "path-silent",
                format!("{name} answers no ping: the path to it cannot be judged"),
                format!("by {} with MTU {}", path.interface, path.interface_mtu),
                format!("ping -c 3 {} # or let ICMP pass between nodes", path.to),
            )),
            Some(fits) if fits < path.interface_mtu => {
                found.push(too_small(path, &name, fits, needed));
            }
            Some(_) => {}
        }
        if path.interface_mtu < needed && small_links.insert(&path.interface) {
            found.push(link_too_small(path, needed));
        }
    }
    TUNNELS.iter().filter(|(name, _)| uses(facts, name)).for_each(|(name, _)| tunnel(facts, name, found));
}

/// The largest packet that nodes send one another for pods, bytes; 0 while there are no pods.
fn needed(facts: &Facts) -> u32 {
    let pods = facts.pod_links().map(|link| link.mtu).max().unwrap_or(0);
    let used = TUNNELS.iter().filter(|(name, _)| pods > 0 && uses(facts, name));
    pods + used.map(|(_, header)| *header).max().unwrap_or(0)
}

/// Do routes to pods of other nodes lead through this tunnel?
fn uses(facts: &Facts, tunnel: &str) -> bool {
    facts.routes.iter().any(|route| route.interface == tunnel && OURS.contains(&route.protocol))
}

/// Protocols of the routes that the speaker and the node agent write for other nodes.
const OURS: [u8; 2] = [12, 80];

/// The link says more than the path carries: large packets of pods and of the node itself vanish.
fn too_small(path: &Path, name: &str, fits: u32, needed: u32) -> Finding {
    let severity = if needed == 0 || fits < needed { Error } else { Warning };
    let what = format!(
        "the path to {name} carries packets of {fits} bytes, and {} says {}: larger ones vanish",
        path.interface, path.interface_mtu
    );
    let evidence =
        format!("DF probes of {fits} bytes were answered, larger ones were not; pods need {needed}");
    // The link's MTU is what the agent takes the MTU of pods from.
    let mend = format!("ip link set dev {} mtu {fits}", path.interface);
    Finding::new(severity, "path-mtu", what, evidence, mend)
}

fn link_too_small(path: &Path, needed: u32) -> Finding {
    let what = format!(
        "{} has MTU {}, and pods of this node send packets of {needed}",
        path.interface, path.interface_mtu
    );
    let evidence = format!("the way to {} goes by {}", path.to, path.interface);
    let mend = format!("ip link set dev {} mtu {needed}", path.interface);
    Finding::new(Error, "link-mtu", what, evidence, mend)
}

/// A tunnel must carry what pods send.
fn tunnel(facts: &Facts, name: &str, found: &mut Vec<Finding>) {
    let Some(tunnel) = facts.link(name) else { return };
    let pods = facts.pod_links().map(|link| link.mtu).max().unwrap_or(0);
    if tunnel.mtu < pods {
        let what = format!("{name} has MTU {}, and pods send packets of {pods}", tunnel.mtu);
        let mend = format!("ip link set dev {name} mtu {pods}");
        let evidence = format!("routes of pods lead through {name}");
        found.push(Finding::new(Error, "tunnel-mtu", what, evidence, mend));
    }
    if !tunnel.up {
        let evidence = format!("{name} is down with MTU {}", tunnel.mtu);
        let what = "packets for pods of other nodes go into a tunnel that is down";
        found.push(Finding::new(Error, "tunnel-down", what, evidence, format!("ip link set dev {name} up")));
    }
}
