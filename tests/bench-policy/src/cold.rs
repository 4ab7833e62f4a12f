//! A node that starts with 110 pods and 400 policies: from the datastore's first update to the kernel's last.

use kernel_linux::Backend;

use crate::agent::{Agent, Way, new_netns};
use crate::cluster;
use crate::cost::{Cost, Stopwatch};
use crate::report::{Report, median, show};

const PODS: usize = 110;
const POLICIES: usize = 400;

pub fn measure(rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let ways = [
        (Way::Iptables(Backend::Legacy), "iptables-legacy"),
        (Way::Iptables(Backend::Nft), "iptables-nft"),
        (Way::Nftables, "nftables"),
    ];
    for (way, subject) in ways {
        let mut took = Vec::new();
        for _ in 0..rounds {
            let netns = new_netns()?;
            let stopwatch = Stopwatch::start();
            let mut agent = Agent::new(netns, way)?;
            agent.apply([cluster::namespace()]);
            for number in 0..PODS {
                agent.add_local(cluster::local(number));
                agent.apply([cluster::pod(number, PODS)]);
            }
            agent.apply((0..POLICIES).map(|number| cluster::policy(number, PODS, 3, 0)));
            let written = agent.write()?;
            // The writing has a thread of its own; programs that it ran are children of this process.
            let whole = stopwatch.stop();
            took.push(Cost { wall: whole.wall, cpu: written.cpu });
        }
        let what = "cold start, 110 pods and 400 policies";
        report.add(what, subject, show(median(&took)), None, "≤ 1 s");
    }
    Ok(())
}
