//! Where agents can be reached from here. Owns the places that are looked at, and their order.
//!
//! Agents listen on sockets that only root of their own node may open. So those of a lab and of this machine are asked
//! through their sockets, and those of a cluster through `kubectl exec`: a program in the agent's pod joins standard input
//! and output to the socket, and whoever may not `exec` there is not answered.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use proto::felix;

use crate::client::CallError;
use crate::cluster::ClusterOptions;
use crate::kubectl::Kubectl;

/// Labs of this machine: `<lab>/<node>/<name of the socket>`.
pub(crate) const LABS: &str = "/run/ocicat-lab";
/// Where agents of a cluster's node listen.
pub(crate) const PLACE: &str = "/var/run/calico";
/// Where a route reflector listens unless told otherwise.
const REFLECTOR: &str = "/run/route-reflector.sock";

/// A kind of agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// The node agent
    Felix,
    /// The BGP speaker
    BirdLite,
}

impl Kind {
    /// Name of its socket.
    pub(crate) fn socket(self) -> &'static str {
        match self {
            Kind::Felix => felix::SOCKET,
            Kind::BirdLite => "bird-lite.sock",
        }
    }

    /// Its name on the command line, which is that of its container, too.
    fn container(self) -> &'static str {
        match self {
            Kind::Felix => "felix",
            Kind::BirdLite => "bird-lite",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Felix => "the node agent (felix)",
            Kind::BirdLite => "the BGP speaker",
        })
    }
}

/// One agent that can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Agent {
    pub(crate) kind: Kind,
    /// Where it runs, as far as that is known before it is asked.
    pub(crate) node: Option<String>,
    pub(crate) way: Way,
}

/// How it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Socket(PathBuf),
    /// By a program in its pod.
    Exec {
        kubectl: Kubectl,
        namespace: String,
        pod: String,
    },
}

impl Agent {
    /// The one behind a socket of this machine.
    pub(crate) fn at(kind: Kind, socket: &Path) -> Self {
        Self { kind, node: None, way: Way::Socket(socket.to_owned()) }
    }

    /// What runs in its pod to reach it.
    pub(crate) fn relay(&self) -> [&'static str; 3] {
        ["ocicat", "relay", self.kind.container()]
    }

    /// Container of its pod.
    pub(crate) fn container(&self) -> &'static str {
        self.kind.container()
    }
}

impl fmt::Display for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.node, &self.way) {
            (Some(node), _) => write!(f, "{} of node {node}", self.kind),
            (None, Way::Socket(socket)) => write!(f, "{} on {}", self.kind, socket.display()),
            (None, Way::Exec { pod, .. }) => write!(f, "{} in pod {pod}", self.kind),
        }
    }
}

/// Which agents are meant when none is named.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Reach {
    /// Only agents of this lab
    #[arg(long, env = "OCICAT_LAB", value_name = "NAME")]
    lab: Option<String>,
    /// Only agents of this machine: no other node of the cluster is asked
    #[arg(long)]
    local: bool,
    /// Namespace of the calico-node pods
    #[arg(long, env = "OCICAT_NAMESPACE", value_name = "NAME", default_value = "kube-system")]
    agent_namespace: String,
    #[command(flatten)]
    pub(crate) cluster: ClusterOptions,
}

/// Where agents were found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Places {
    /// A lab: the sockets of node `n` are in `n/`.
    Lab(PathBuf),
    /// This machine: its own agents, and all nodes of its labs.
    Here { why_not_the_cluster: Option<String> },
    /// A cluster: nodes with the pods of their agents.
    Pods { kubectl: Kubectl, namespace: String, pods: Vec<(String, String)> },
}

impl Reach {
    pub(crate) fn is_local(&self) -> bool {
        self.local
    }

    /// The same choice for an `ocicat` that is started.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let mut arguments = self.cluster.arguments();
        arguments.extend(["--agent-namespace".into(), OsString::from(&self.agent_namespace)]);
        if let Some(lab) = &self.lab {
            arguments.extend(["--lab".into(), OsString::from(lab)]);
        }
        arguments.extend(self.local.then(|| "--local".into()));
        arguments
    }

    /// `kubectl` for the cluster that is meant.
    pub(crate) fn kubectl(&self) -> Kubectl {
        Kubectl::new(self.cluster.path(), self.cluster.context.clone())
    }

    /// The lab that was named; else this machine when it is all that is wanted, or has labs and no other cluster was named;
    /// else the cluster, if `kubectl` reaches one that has agents; else this machine.
    pub(crate) fn places(&self) -> Places {
        let named = self.lab.as_ref().map(|name| Path::new(LABS).join(name));
        if let Some(lab) = named.or_else(|| self.cluster.named_lab()) {
            return Places::Lab(lab);
        }
        let has_labs = || !entries(Path::new(LABS)).is_empty();
        if self.local || (!self.cluster.is_named() && has_labs()) {
            return Places::Here { why_not_the_cluster: None };
        }
        let (kubectl, namespace) = (self.kubectl(), self.agent_namespace.clone());
        match kubectl.agent_pods(&namespace) {
            Ok(pods) if !pods.is_empty() => Places::Pods { kubectl, namespace, pods },
            Ok(_) => {
                let reason = format!("there are no calico-node pods in namespace {namespace}");
                Places::Here { why_not_the_cluster: Some(reason) }
            }
            Err(reason) => Places::Here { why_not_the_cluster: Some(reason) },
        }
    }
}

impl Places {
    /// The agents of a kind, in order of node or path.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn agents(&self, kind: Kind) -> Result<Vec<Agent>, CallError> {
        let mut reflector = (kind == Kind::BirdLite).then(|| Agent::at(kind, Path::new(REFLECTOR)));
        reflector = reflector.filter(|_| Path::new(REFLECTOR).exists());
        let found: Vec<Agent> = match self {
            Self::Lab(lab) => of_lab(lab, kind),
            Self::Here { .. } => {
                let place = Some(Path::new(PLACE).join(kind.socket())).filter(|place| place.exists());
                let own = place.map(|place| Agent::at(kind, &place));
                let labs = entries(Path::new(LABS)).into_iter().flat_map(|lab| of_lab(&lab, kind));
                own.into_iter().chain(reflector).chain(labs).collect()
            }
            Self::Pods { kubectl, namespace, pods } => {
                let agent = |(node, pod): &(String, String)| {
                    let (kubectl, namespace, pod) = (kubectl.clone(), namespace.clone(), pod.clone());
                    Agent { kind, node: Some(node.clone()), way: Way::Exec { kubectl, namespace, pod } }
                };
                pods.iter().map(agent).chain(reflector).collect()
            }
        };
        if found.is_empty() { Err(self.nowhere(kind)) } else { Ok(found) }
    }

    fn nowhere(&self, kind: Kind) -> CallError {
        let name = kind.socket();
        let mut tried = match self {
            Self::Lab(lab) => vec![format!("{}/*/{name}", lab.display())],
            _ => vec![format!("{PLACE}/{name}"), format!("{LABS}/*/*/{name}")],
        };
        if kind == Kind::BirdLite && !matches!(self, Self::Lab(_)) {
            tried.insert(1, REFLECTOR.to_owned());
        }
        let reason = match self {
            Self::Here { why_not_the_cluster } => why_not_the_cluster.clone(),
            _ => None,
        };
        CallError::Nowhere { agent: kind, tried, reason }
    }
}

/// A node of a lab on this machine.
pub(crate) struct LabNode {
    pub(crate) name: String,
    /// Where its agents' sockets are.
    pub(crate) directory: PathBuf,
    pub(crate) netns: PathBuf,
}

impl Places {
    /// Nodes of the labs that are meant; none for a cluster, and where this machine itself is a node.
    pub(crate) fn lab_nodes(&self) -> Vec<LabNode> {
        let labs = match self {
            Self::Lab(lab) => vec![lab.clone()],
            Self::Here { .. } if !Path::new(PLACE).join(Kind::Felix.socket()).exists() => {
                entries(Path::new(LABS))
            }
            _ => Vec::new(),
        };
        let nodes =
            labs.iter().flat_map(|lab| entries(lab).into_iter().map(move |directory| (lab, directory)));
        nodes
            .filter_map(|(lab, directory)| {
                let (lab, name) = (lab.file_name()?.to_str()?, directory.file_name()?.to_str()?.to_owned());
                let netns = Path::new("/run/netns").join(format!("{lab}-{name}"));
                // A router has a namespace, and no agent.
                let is_node = netns.exists() && name != "tor" && directory.is_dir();
                is_node.then_some(LabNode { name, directory, netns })
            })
            .collect()
    }
}

/// Agents of a lab in order of their nodes.
fn of_lab(lab: &Path, kind: Kind) -> Vec<Agent> {
    let sockets = entries(lab).into_iter().filter_map(|node| {
        let (name, socket) = (node.file_name()?.to_str()?.to_owned(), node.join(kind.socket()));
        socket.exists().then_some(Agent { kind, node: Some(name), way: Way::Socket(socket) })
    });
    sockets.collect()
}

/// What is in a directory, in order.
fn entries(directory: &Path) -> Vec<PathBuf> {
    let read = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<_> = read.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_speaker_of_a_lab_is_found_with_its_node() {
        let lab = std::env::temp_dir().join(format!("ocicat-reach-{}", std::process::id()));
        for node in ["n2", "n1"] {
            fs::create_dir_all(lab.join(node)).unwrap();
            fs::write(lab.join(node).join("bird-lite.sock"), "").unwrap();
        }
        fs::create_dir_all(lab.join("tor")).unwrap();

        let found = Places::Lab(lab.clone()).agents(Kind::BirdLite);
        let none = Places::Lab(lab.clone()).agents(Kind::Felix);

        fs::remove_dir_all(&lab).unwrap();
        let names: Vec<_> = found.unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["the BGP speaker of node n1", "the BGP speaker of node n2"]);
        assert!(none.unwrap_err().to_string().contains("felix-api.sock"));
    }

    #[test]
    fn agents_of_a_cluster_are_in_its_pods() {
        let pods = vec![("n1".to_owned(), "calico-node-x".to_owned())];
        let places = Places::Pods { kubectl: Kubectl::default(), namespace: "net".into(), pods };

        let found = places.agents(Kind::Felix).unwrap();

        let way =
            Way::Exec { kubectl: Kubectl::default(), namespace: "net".into(), pod: "calico-node-x".into() };
        assert_eq!(found, [Agent { kind: Kind::Felix, node: Some("n1".into()), way }]);
        assert_eq!(found[0].relay(), ["ocicat", "relay", "felix"]);
    }
}
