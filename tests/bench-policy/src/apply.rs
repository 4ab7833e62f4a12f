//! One policy of ten rules changes while 10 000 rules are in the kernel.

use std::io::{self, Write};
use std::process::{Command, Stdio};

use kernel_linux::{Backend, Netns};

use crate::agent::{Agent, Way, new_netns};
use crate::cluster;
use crate::cost::{Cost, Stopwatch};
use crate::report::{Report, median, ratio, show};

/// Of ten rules each, and every rule of theirs is two in the kernel.
const POLICIES: usize = 500;
const RULES: usize = 10;
const PODS: usize = 100;

pub fn measure(rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    for backend in [Backend::Legacy, Backend::Nft] {
        let mut own = loaded(Way::Iptables(backend))?;
        let bare = Bare::new(&mut own, backend)?;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            own.apply([cluster::policy(0, POLICIES, RULES, 1 + round as u16 % 2)]);
            ours.push(own.write()?);
            theirs.push(bare.change(1 + round as u16 % 2)?);
        }
        let (ours, theirs) = (median(&ours), median(&theirs));
        let (subject, peer, target) = match backend {
            Backend::Legacy => ("iptables-legacy", "bare iptables-legacy-restore --noflush", "≤ 1.2 ×"),
            Backend::Nft => ("iptables-nft", "bare iptables-nft-restore --noflush", "≤ 1.2 ×"),
        };
        let what = "policy of 10 rules changed, 10 000 rules present";
        report.add(what, peer, show(theirs), None, "");
        report.add(what, subject, show(ours), Some((ratio(ours, theirs), peer)), target);
    }
    nftables(rounds, report)
}

/// The program `nft` replaces one chain of its own table, which holds as many rules.
fn nftables(rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let mut own = loaded(Way::Nftables)?;
    let listed = run(own.netns(), "nft", &["list", "table", "ip", "calico"], "")?;
    let other = new_netns()?;
    run(&other, "nft", &["-f", "-"], &listed)?;
    let chain = listed
        .lines()
        .filter_map(|line| line.trim().strip_prefix("chain "))
        .filter_map(|rest| rest.strip_suffix(" {"))
        .find(|name| name.contains("cali-pi-"))
        .unwrap_or_default();
    let body: Vec<&str> = listed
        .lines()
        .skip_while(|line| line.trim() != format!("chain {chain} {{"))
        .skip(1)
        .take_while(|line| line.trim() != "}")
        .map(str::trim)
        .collect();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let salt = 1 + round as u16 % 2;
        own.apply([cluster::policy(0, POLICIES, RULES, salt)]);
        ours.push(own.write()?);
        let mut text = format!("flush chain ip calico {chain}\n");
        for rule in &body {
            let rule = rule.replace("dport 10", &format!("dport {}", 10 + salt));
            text.push_str(&format!("add rule ip calico {chain} {rule}\n"));
        }
        theirs.push(timed(&other, "nft", &["-f", "-"], &text)?);
    }
    let (ours, theirs) = (median(&ours), median(&theirs));
    let what = "policy of 10 rules changed, 10 000 rules present";
    report.add(what, "nft -f", show(theirs), None, "");
    report.add(what, "nftables", show(ours), Some((ratio(ours, theirs), "nft -f")), "≤ 0.1 ×");
    Ok(())
}

fn timed(netns: &Netns, program: &str, arguments: &[&str], input: &str) -> io::Result<Cost> {
    netns.run(|| {
        let stopwatch = Stopwatch::start();
        feed(program, arguments, input)?;
        Ok(stopwatch.stop())
    })
}

/// A node with pods, each subject to five policies.
pub fn loaded(way: Way) -> anyhow::Result<Agent> {
    let mut agent = Agent::new(new_netns()?, way)?;
    make_links(agent.netns())?;
    agent.apply([cluster::namespace()]);
    for number in 0..PODS {
        agent.add_local(cluster::local(number));
        agent.apply([cluster::pod(number, PODS)]);
    }
    agent.apply((0..POLICIES).map(|number| cluster::policy(number, PODS, RULES, 0)));
    agent.write()?;
    Ok(agent)
}

/// The interfaces of the pods. Without them routes and sysctls would be tried again with every change.
fn make_links(netns: &Netns) -> anyhow::Result<()> {
    let mut commands = String::new();
    for number in 0..PODS {
        let name = cluster::local(number).interface;
        commands.push_str(&format!(
            "link add {name} type veth peer name peer{number}\nlink set {name} up\nlink set peer{number} up\n"
        ));
    }
    run(netns, "ip", &["-batch", "-"], &commands)?;
    Ok(())
}

/// The program itself on the same rules in a namespace of its own, fed with the lines of one chain.
struct Bare {
    netns: Netns,
    program: String,
    /// Lines of the chain's rules, with `{port}` where they differ.
    lines: Vec<String>,
    chain: String,
}

impl Bare {
    fn new(own: &mut Agent, backend: Backend) -> anyhow::Result<Self> {
        let netns = new_netns()?;
        let sets = run(own.netns(), "ipset", &["save"], "")?;
        run(&netns, "ipset", &["restore"], &sets)?;
        let saved = run(own.netns(), &format!("iptables-{backend}-save"), &[], "")?;
        let program = format!("iptables-{backend}-restore");
        run(&netns, &program, &[], &saved)?;
        // The chain of one policy: the last one of ten rules will do.
        let chain = saved
            .lines()
            .find(|line| line.starts_with(":cali-pi-"))
            .and_then(|line| line[1..].split(' ').next())
            .unwrap_or_default()
            .to_owned();
        let prefix = format!("-A {chain} ");
        let lines = saved.lines().filter(|line| line.starts_with(&prefix)).map(str::to_owned).collect();
        Ok(Self { netns, program, lines, chain })
    }

    fn change(&self, salt: u16) -> io::Result<Cost> {
        let mut text = format!("*filter\n:{} - [0:0]\n", self.chain);
        for line in &self.lines {
            // Another mark in a comment's place makes another rule of it, as the change of a port does.
            text.push_str(&line.replace("--dports 10", &format!("--dports {}", 10 + salt)));
            text.push('\n');
        }
        text.push_str("COMMIT\n");
        timed(&self.netns, &self.program, &["--noflush"], &text)
    }
}

/// Runs a program in a namespace with this input; what it printed.
pub fn run(netns: &Netns, program: &str, arguments: &[&str], input: &str) -> io::Result<String> {
    netns.run(|| feed(program, arguments, input))
}

fn feed(program: &str, arguments: &[&str], input: &str) -> io::Result<String> {
    let mut child =
        Command::new(program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let stdin = child.stdin.take();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input.as_bytes())));
        child.wait_with_output()
    })?;
    if !output.status.success() {
        return Err(io::Error::other(format!("{program} failed: {}", output.status)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
