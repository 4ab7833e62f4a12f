//! The command line: its words only; what they do is in `commands`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::names::{Family, LabName};
use crate::options::{Encap, TorKind};
use crate::probe::Proto;

/// A Kubernetes cluster on one machine: nodes are network namespaces with the real felix, bird-lite and CNI plugin.
#[derive(Debug, Parser)]
#[command(name = "lab", disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Which lab is meant.
#[derive(Debug, Args)]
pub struct Which {
    /// The lab's name
    #[arg(long, default_value = "lab", env = "OCICAT_LAB", global = true)]
    pub name: LabName,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a lab in the background; prints the kubeconfig's path when all nodes are Ready
    Up(Up),
    /// Remove a lab with everything of it, also after a crash
    Down {
        /// Which lab.
        #[command(flatten)]
        which: Which,
        /// Remove all labs of this machine
        #[arg(long)]
        all: bool,
    },
    /// Show a lab's nodes, programs and pods
    Status {
        /// Which lab.
        #[command(flatten)]
        which: Which,
        /// Output format
        #[arg(short, long, value_enum, default_value = "text")]
        output: Output,
    },
    /// Print the path of a lab's kubeconfig
    Kubeconfig {
        /// Which lab.
        #[command(flatten)]
        which: Which,
        /// The one for programs inside the lab's namespaces
        #[arg(long)]
        node: bool,
    },
    /// Print the logs of a node's programs, of the router, or of the lab itself
    Logs {
        /// Which lab.
        #[command(flatten)]
        which: Which,
        /// A node, `tor`, `controllers`, or `lab` for the daemon
        target: String,
        /// One program, such as felix, bird-lite or cni; all when absent
        component: Option<String>,
        /// Go on printing what is added
        #[arg(short, long)]
        follow: bool,
    },
    /// Run a command inside a node's, a pod's or the router's network namespace
    Exec {
        /// Which lab.
        #[command(flatten)]
        which: Which,
        /// NODE, NAMESPACE/POD or tor
        target: String,
        /// The command with its arguments
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Try whether one place reaches another
    Probe(ProbeArgs),
    /// Try all ordered pairs of pods and draw the truth table
    Matrix(MatrixArgs),
    /// Kill programs (SIGKILL); the supervisor starts them again
    Kill(Fault),
    /// Stop programs (SIGTERM); they stay down until `lab start`
    Stop(Fault),
    /// Start what was stopped
    Start(Fault),
    /// Add or remove a node
    #[command(subcommand)]
    Node(NodeCommand),
    /// Pull or plug a node's cable
    #[command(subcommand)]
    Link(LinkCommand),
    /// Run a command on a stock Debian kernel with this machine's file system
    Vm(Vm),
    /// The background half of `lab up`
    #[command(hide = true)]
    Daemon {
        /// The lab's name
        name: LabName,
    },
}

/// `lab up`.
#[derive(Debug, Args)]
pub struct Up {
    /// Which lab.
    #[command(flatten)]
    pub which: Which,
    /// How many nodes
    #[arg(long, default_value_t = 3)]
    pub nodes: u32,
    /// How many subnets the nodes are spread over
    #[arg(long, default_value_t = 2)]
    pub subnets: u32,
    /// The top-of-rack router
    #[arg(long, value_enum, default_value = "bird")]
    pub tor: TorKind,
    /// The pods' IPv4 network
    #[arg(long, default_value = "10.65.0.0/16")]
    pub pod_cidr: String,
    /// The pool's IPIP mode
    #[arg(long, value_enum, default_value = "Never", ignore_case = true)]
    pub encap: Encap,
    /// Address families: 4, 6 or 46
    #[arg(long, default_value = "4")]
    pub family: Family,
    /// `embedded`, or the URL of an API server elsewhere
    #[arg(long, default_value = "embedded", value_name = "URL")]
    pub kube_apiserver: String,
    /// Bearer token for that server
    #[arg(long, env = "OCICAT_LAB_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// PEM file with that server's CA; without it its certificate is not checked
    #[arg(long)]
    pub certificate_authority: Option<PathBuf>,
    /// Where felix, bird-lite, calico and calico-ipam are; default: beside this program
    #[arg(long, env = "OCICAT_BIN_DIR")]
    pub bin_dir: Option<PathBuf>,
    /// Without `controllers`: no webhook, no status of policies
    #[arg(long)]
    pub no_controllers: bool,
    /// The first node runs a typha (`lab stop n1 typha`), and no node watches the API server itself; without TLS
    #[arg(long, env = "OCICAT_LAB_TYPHA")]
    pub typha: bool,
    /// Nodes run the pod of this manifest as a kubelet would, with its rights and no others; `shipped` is
    /// manifests/ocicat.yaml as it was when this program was built. Without it, programs may do everything
    #[arg(long, env = "OCICAT_LAB_MANIFEST", value_name = "FILE")]
    pub manifest: Option<PathBuf>,
    /// Without felix and bird-lite
    #[arg(long, hide = true)]
    pub no_agents: bool,
}

/// `lab probe`.
#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// Which lab.
    #[command(flatten)]
    pub which: Which,
    /// NAMESPACE/POD, NODE or tor
    #[arg(long)]
    pub from: String,
    /// NAMESPACE/POD, NODE, tor or an address
    #[arg(long)]
    pub to: String,
    /// The port; not needed for icmp
    #[arg(long, default_value_if("proto", "icmp", "0"))]
    pub port: Option<u16>,
    /// What to send
    #[arg(long, value_enum, default_value = "tcp", ignore_case = true)]
    pub proto: Proto,
    /// How long to wait for an answer
    #[arg(long, default_value_t = 1000)]
    pub timeout_ms: u64,
    /// Which of the destination's addresses to take: 4 or 6
    #[arg(long)]
    pub family: Option<Family>,
    /// Exit with 1 unless this is the verdict
    #[arg(long, value_name = "VERDICT")]
    pub expect: Option<String>,
    /// Output format
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: Output,
}

/// `lab matrix`.
#[derive(Debug, Args)]
pub struct MatrixArgs {
    /// Which lab.
    #[command(flatten)]
    pub which: Which,
    /// Only pods of this namespace; may be given more than once
    #[arg(short, long)]
    pub namespace: Vec<String>,
    /// The port
    #[arg(long, default_value_if("proto", "icmp", "0"))]
    pub port: Option<u16>,
    /// What to send
    #[arg(long, value_enum, default_value = "tcp", ignore_case = true)]
    pub proto: Proto,
    /// How long to wait for an answer
    #[arg(long, default_value_t = 1000)]
    pub timeout_ms: u64,
    /// Which of the destinations' addresses to take: 4 or 6
    #[arg(long)]
    pub family: Option<Family>,
    /// Output format
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: Output,
}

/// `lab kill|stop|start`.
#[derive(Debug, Args)]
pub struct Fault {
    /// Which lab.
    #[command(flatten)]
    pub which: Which,
    /// A node, `tor`, `controllers` or `apiserver`
    pub target: String,
    /// One program, such as felix or bird-lite; all when absent
    pub component: Option<String>,
}

/// `lab node …`.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Add the next node; prints its name when it is Ready
    Add {
        /// Which lab.
        #[command(flatten)]
        which: Which,
        /// Its subnet
        #[arg(long)]
        subnet: Option<u32>,
    },
    /// Remove a node with its pods
    Remove {
        /// Which lab.
        #[command(flatten)]
        which: Which,
        /// The node
        node: String,
    },
}

/// `lab link …`.
#[derive(Debug, Subcommand)]
pub enum LinkCommand {
    /// Plug a node's cable
    Up {
        /// Which lab.
        #[command(flatten)]
        which: Which,
        /// The node
        node: String,
    },
    /// Pull a node's cable
    Down {
        /// Which lab.
        #[command(flatten)]
        which: Which,
        /// The node
        node: String,
    },
}

/// `lab vm`.
#[derive(Debug, Args)]
pub struct Vm {
    /// The machine: uml starts fast and has IPIP; qemu is slower and has everything
    #[arg(long, value_enum, default_value = "uml")]
    pub engine: Engine,
    /// Processors (qemu only)
    #[arg(long, default_value_t = 2)]
    pub cpus: u32,
    /// Memory in MiB
    #[arg(long, default_value_t = 2048)]
    pub memory: u32,
    /// Seconds until the machine is stopped
    #[arg(long, default_value_t = 600)]
    pub timeout: u64,
    /// A directory that the command may write to; may be given more than once
    #[arg(long, value_name = "DIR")]
    pub share: Vec<PathBuf>,
    /// Print the machine's console at the end
    #[arg(short, long)]
    pub verbose: bool,
    /// Only build the boot files
    #[arg(long)]
    pub prepare: bool,
    /// The command with its arguments
    #[arg(last = true, required_unless_present = "prepare")]
    pub command: Vec<OsString>,
}

/// Which virtual machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// User-mode Linux.
    Uml,
    /// QEMU without hardware help.
    Qemu,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For scripts.
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_documented_forms_are_understood() {
        for line in [
            "lab up --name a --nodes 5 --subnets 1 --tor gobgp --pod-cidr 10.9.0.0/16 --encap CrossSubnet --family 46",
            "lab up --no-controllers",
            "lab down --name a",
            "lab status -o json",
            "lab logs n1 felix",
            "lab exec n1 -- ip route",
            "lab exec x/a -- ping -c 1 10.65.0.1",
            "lab probe --from x/a --to 10.65.0.1 --port 80 --proto udp --timeout-ms 500 -o json",
            "lab probe --from n1 --to x/a --proto icmp",
            "lab matrix --namespace x --namespace y --port 80 --proto TCP -o json",
            "lab kill n1 felix",
            "lab stop controllers",
            "lab stop apiserver",
            "lab node add --subnet 1",
            "lab node remove n4",
            "lab link down n1",
            "lab vm --engine qemu --cpus 1 --memory 512 --timeout 60 --share /tmp -v -- uname -r",
        ] {
            let parsed = Cli::try_parse_from(line.split(' '));
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
    }
}
