//! The speakers that are measured. Owns how each is configured as a reflector or a node of a mesh, started and
//! ended. All listen on the same address, accept connections and never connect themselves.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::usage;

/// Where every subject listens.
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 1);
pub(crate) const PORT: u16 = 179;
/// The AS of every subject and its clients.
pub(crate) const ASN: u32 = 64512;

/// A speaker that can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Subject {
    Floor,
    Ocicat,
    Bird2,
    Frr,
    Gobgp3,
    Openbgpd,
}

/// One neighbour of the subject.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Neighbour {
    pub(crate) address: Ipv4Addr,
    pub(crate) asn: u32,
    /// Routes are reflected to and from it.
    pub(crate) client: bool,
}

/// A running subject. Ends with its owner.
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = rustix::process::Pid::from_raw(self.child.id() as i32) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.child.wait();
        // Its children hold the port until they are gone as well.
        let end = Instant::now() + Duration::from_secs(5);
        while !usage::processes(self.group()).is_empty() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Running {
    /// The process group to account for.
    pub(crate) fn group(&self) -> u32 {
        self.child.id()
    }

    /// The end of what it wrote.
    pub(crate) fn log_tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Waits until it has nothing to do: its CPU time stands still for 100 ms.
    pub(crate) fn settle(&self, limit: Duration) {
        let end = Instant::now() + limit;
        let mut before = usage::cpu(self.group());
        while Instant::now() < end {
            std::thread::sleep(Duration::from_millis(100));
            let after = usage::cpu(self.group());
            if after - before < Duration::from_millis(2) {
                return;
            }
            before = after;
        }
    }
}

impl Subject {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Ocicat => "ocicat",
            Self::Bird2 => "bird2",
            Self::Frr => "frr",
            Self::Gobgp3 => "gobgp3",
            Self::Openbgpd => "openbgpd",
        }
    }

    /// Others to compare with.
    pub(crate) fn is_peer(self) -> bool {
        !matches!(self, Self::Floor | Self::Ocicat)
    }

    /// The program, if it is there.
    pub(crate) fn program(self, ocicat: &Path) -> Option<PathBuf> {
        let path = match self {
            Self::Floor => std::env::current_exe().ok()?,
            Self::Ocicat => ocicat.to_owned(),
            Self::Bird2 => "/usr/sbin/bird".into(),
            Self::Frr => "/usr/lib/frr/bgpd".into(),
            Self::Gobgp3 => "/usr/bin/gobgpd".into(),
            Self::Openbgpd => "/usr/sbin/bgpd".into(),
        };
        path.exists().then_some(path)
    }

    /// Starts it in `dir` and waits until it listens and has read its configuration.
    pub(crate) fn start(
        self,
        program: &Path,
        neighbours: &[Neighbour],
        dir: &Path,
    ) -> anyhow::Result<Running> {
        // What an earlier run left, such as a socket, keeps some from starting.
        let _ = fs::remove_dir_all(dir);
        fs::create_dir_all(dir)?;
        if self == Self::Openbgpd {
            // Its processes lock themselves in there; the directory is usually made at boot.
            fs::create_dir_all("/run/openbgpd")?;
        }
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
        let config = dir.join("config");
        fs::write(&config, self.config(neighbours, dir))?;
        fs::set_permissions(&config, fs::Permissions::from_mode(0o600))?;
        let log = dir.join("log");
        let out = fs::File::create(&log)?;
        let mut command = Command::new(program);
        command.args(self.arguments(&config, dir)).stdin(Stdio::null()).process_group(0);
        let child = command.stdout(out.try_clone()?).stderr(out).spawn().context("start")?;
        let mut running = Running { child, log };
        let end = Instant::now() + Duration::from_secs(30);
        while !usage::is_listening(PORT) {
            if let Some(status) = running.child.try_wait()? {
                bail!("{} ended with {status}:\n{}", self.name(), running.log_tail());
            }
            if Instant::now() >= end {
                bail!("{} does not listen:\n{}", self.name(), running.log_tail());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        running.settle(Duration::from_secs(20));
        Ok(running)
    }

    fn arguments(self, config: &Path, dir: &Path) -> Vec<String> {
        let (config, dir) = (config.display(), dir.display());
        let line = match self {
            Self::Floor => "floor".to_owned(),
            Self::Ocicat => format!("--config {config} --socket {dir}/socket --log-level error"),
            Self::Bird2 => format!("-f -c {config} -s {dir}/ctl"),
            Self::Frr => {
                format!("-Z -S -n -f {config} -i {dir}/pid --vty_socket {dir} -P 0 --log file:{dir}/frr")
            }
            Self::Gobgp3 => format!("-f {config} -l error --api-hosts unix://{dir}/api"),
            Self::Openbgpd => format!("-d -f {config}"),
        };
        line.split(' ').map(str::to_owned).collect()
    }

    fn config(self, neighbours: &[Neighbour], dir: &Path) -> String {
        let mut text = String::new();
        let each = |text: &mut String, one: fn(&mut String, &Neighbour)| {
            neighbours.iter().for_each(|neighbour| one(text, neighbour));
        };
        match self {
            Self::Floor => {}
            Self::Ocicat => {
                let _ = write!(
                    text,
                    "routerId: {ADDRESS}\nasNumber: {ASN}\nlisten: ['{ADDRESS}:{PORT}']\npeers:\n"
                );
                each(&mut text, |text, n| {
                    let Neighbour { address, asn, client } = n;
                    let _ = writeln!(
                        text,
                        "  - {{address: {address}, asNumber: {asn}, client: {client}, passive: true}}"
                    );
                });
            }
            Self::Bird2 => {
                let _ = write!(text, "router id {ADDRESS};\nprotocol device {{ }}\n");
                let _ = write!(text, "template bgp t {{ local {ADDRESS} as {ASN}; passive on; multihop;");
                text.push_str(" hold time 90; ipv4 { import all; export all; }; }\n");
                each(&mut text, |text, n| {
                    let (a, asn, rr) = (n.address, n.asn, if n.client { "rr client; " } else { "" });
                    let _ = writeln!(text, "protocol bgp from t {{ neighbor {a} as {asn}; {rr}}}");
                });
            }
            Self::Frr => frr(&mut text, neighbours),
            Self::Gobgp3 => {
                let _ = write!(
                    text,
                    "[global.config]\nas = {ASN}\nrouter-id = \"{ADDRESS}\"\nlocal-address-list = [\"{ADDRESS}\"]\n"
                );
                each(&mut text, gobgp_neighbour);
            }
            Self::Openbgpd => {
                let _ = write!(text, "AS {ASN}\nrouter-id {ADDRESS}\nlisten on {ADDRESS}\nfib-update no\n");
                let _ = write!(text, "socket \"{}/ctl\"\nallow from any\nallow to any\n", dir.display());
                each(&mut text, |text, n| {
                    let (a, asn) = (n.address, n.asn);
                    let rr = if n.client { "route-reflector" } else { "" };
                    let _ = writeln!(
                        text,
                        "neighbor {a} {{\nremote-as {asn}\npassive\nmultihop 64\nannounce IPv4 unicast\n{rr}\n}}"
                    );
                });
            }
        }
        text
    }
}

/// Without any of the timers that make FRR wait.
fn frr(text: &mut String, neighbours: &[Neighbour]) {
    let _ = write!(
        text,
        "router bgp {ASN}\n bgp router-id {ADDRESS}\n no bgp ebgp-requires-policy\n no bgp network import-check\n \
         coalesce-time 0\n"
    );
    let groups = [(true, ASN), (false, ASN)];
    for (client, asn) in groups {
        let name = if client { "clients" } else { "mesh" };
        let _ = write!(
            text,
            " neighbor {name} peer-group\n neighbor {name} remote-as {asn}\n neighbor {name} passive\n \
             neighbor {name} advertisement-interval 0\n"
        );
    }
    for Neighbour { address, asn, client } in neighbours {
        if *asn == ASN {
            let name = if *client { "clients" } else { "mesh" };
            let _ = writeln!(text, " neighbor {address} peer-group {name}");
        } else {
            let _ = write!(
                text,
                " neighbor {address} remote-as {asn}\n neighbor {address} passive\n \
                 neighbor {address} ebgp-multihop 64\n neighbor {address} advertisement-interval 0\n"
            );
        }
    }
    text.push_str(
        " address-family ipv4 unicast\n  neighbor clients route-reflector-client\n exit-address-family\n",
    );
}

fn gobgp_neighbour(text: &mut String, n: &Neighbour) {
    let Neighbour { address, asn, client } = n;
    let _ = write!(
        text,
        "[[neighbors]]\n[neighbors.config]\nneighbor-address = \"{address}\"\npeer-as = {asn}\n\
         [neighbors.transport.config]\npassive-mode = true\n"
    );
    if *client {
        let _ = write!(
            text,
            "[neighbors.route-reflector.config]\nroute-reflector-client = true\n\
             route-reflector-cluster-id = \"{ADDRESS}\"\n"
        );
    }
    if *asn != ASN {
        text.push_str("[neighbors.ebgp-multihop.config]\nenabled = true\nmultihop-ttl = 64\n");
    }
}
