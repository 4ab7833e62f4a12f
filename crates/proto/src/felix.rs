//! What the node agent tells an operator over its unix socket `felix-api.sock` (`ocicat drops`, `explain`, `audit`,
//! `policy status`). A client sends one [`Request`] and gets one [`Response`], as often as it likes; only drops
//! come in several. The same messages are spoken as gRPC (`docs/felix.proto`), one call of [`SERVICE`] each.

use prost::{Message, Oneof};

/// Path of the gRPC service in HTTP/2 requests, before the name of the call.
pub const SERVICE: &str = "/ocicat.felix.v1.Operator/";

/// Name of the operator's socket, beside that of the CNI plugin.
pub const SOCKET: &str = "felix-api.sock";

/// What a client asks.
#[derive(Clone, PartialEq, Message)]
pub struct Request {
    #[prost(oneof = "request::Call", tags = "1, 2, 3, 4, 5, 6")]
    pub call: Option<request::Call>,
}

/// Calls of [`Request`].
pub mod request {
    use super::{Message, Oneof};

    #[derive(Clone, PartialEq, Oneof)]
    pub enum Call {
        /// Packets that were dropped, and why.
        #[prost(message, tag = "1")]
        Drops(Drops),
        /// Is everything in the kernel as it should be?
        #[prost(message, tag = "2")]
        Audit(Audit),
        /// What this node would do with a packet.
        #[prost(message, tag = "3")]
        Explain(Explain),
        /// Which policies are in the kernel.
        #[prost(message, tag = "4")]
        PolicyStatus(PolicyStatus),
        /// The settings in force.
        #[prost(message, tag = "5")]
        Configuration(Configuration),
        /// Which addresses seem unused, and for how long.
        #[prost(message, tag = "6")]
        Suspects(Suspects),
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Drops {
        /// Go on with those that come; an empty page now and then says that the agent is still there.
        #[prost(bool, tag = "1")]
        pub follow: bool,
        /// Only those of this pod, as `namespace/name`, on either side; empty means all.
        #[prost(string, tag = "2")]
        pub pod: String,
        /// Only those by this policy: its ID (`knp/default/deny`), or its name alone.
        #[prost(string, tag = "3")]
        pub policy: String,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Audit {}

    /// The first packet of a connection as this node sees it.
    #[derive(Clone, PartialEq, Message)]
    pub struct Explain {
        #[prost(string, tag = "1")]
        pub source: String,
        /// After the translation of a Service.
        #[prost(string, tag = "2")]
        pub destination: String,
        /// Number of the IP protocol.
        #[prost(uint32, tag = "3")]
        pub protocol: u32,
        /// 0 leaves it open: connections from every port are looked for, rules see one from 40000.
        #[prost(uint32, tag = "4")]
        pub source_port: u32,
        #[prost(uint32, tag = "5")]
        pub destination_port: u32,
        /// Type and code of ICMP.
        #[prost(uint32, tag = "6")]
        pub icmp_type: u32,
        #[prost(uint32, tag = "7")]
        pub icmp_code: u32,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct PolicyStatus {}

    #[derive(Clone, PartialEq, Message)]
    pub struct Configuration {}

    #[derive(Clone, PartialEq, Message)]
    pub struct Suspects {}
}

/// What the agent answers.
#[derive(Clone, PartialEq, Message)]
pub struct Response {
    #[prost(oneof = "response::Answer", tags = "1, 2, 3, 4, 5, 6, 15")]
    pub answer: Option<response::Answer>,
}

/// Answers of [`Response`].
pub mod response {
    use super::Oneof;

    #[derive(Clone, PartialEq, Oneof)]
    #[expect(clippy::large_enum_variant, reason = "one is made for each call of an operator")]
    pub enum Answer {
        #[prost(message, tag = "1")]
        Drops(super::Drops),
        #[prost(message, tag = "2")]
        Audit(super::Audit),
        #[prost(message, tag = "3")]
        Explained(super::Explained),
        #[prost(message, tag = "4")]
        PolicyStatus(super::PolicyStatus),
        #[prost(message, tag = "5")]
        Configuration(super::Configuration),
        #[prost(message, tag = "6")]
        Suspects(super::Suspects),
        /// Why the call failed, in words.
        #[prost(string, tag = "15")]
        Error(String),
    }
}

/// Packets that were dropped, the oldest first.
#[derive(Clone, PartialEq, Message)]
pub struct Drops {
    #[prost(message, repeated, tag = "1")]
    pub records: Vec<Drop>,
    /// Another [`Response`] may follow: the client asked to follow.
    #[prost(bool, tag = "2")]
    pub more: bool,
    /// Packets so far that were logged and are in no record: too many at a time.
    #[prost(uint64, tag = "3")]
    pub lost: u64,
    /// Why no packets are heard of; empty when they are.
    #[prost(string, tag = "4")]
    pub problem: String,
    #[prost(string, tag = "5")]
    pub node: String,
}

/// Equal packets that were dropped at one place.
#[derive(Clone, PartialEq, Message)]
pub struct Drop {
    /// When the last of them came, milliseconds since 1970.
    #[prost(uint64, tag = "1")]
    pub time_ms: u64,
    /// How many were logged since the record before of the same kind; rules log a limited number a second, so
    /// more may have been dropped.
    #[prost(uint64, tag = "2")]
    pub count: u64,
    #[prost(string, tag = "3")]
    pub node: String,
    /// `ingress` or `egress`, seen from the endpoint whose rule it was.
    #[prost(string, tag = "4")]
    pub direction: String,
    /// The pod whose rule it was, `namespace/name`; empty for a host endpoint or an unknown interface.
    #[prost(string, tag = "5")]
    pub pod: String,
    /// That pod's interface on the node.
    #[prost(string, tag = "6")]
    pub interface: String,
    /// `policy`, `end of tier`, `no profile`, `profile`, `closed`, `unknown interface`, or another word.
    #[prost(string, tag = "7")]
    pub cause: String,
    /// The policy's ID when `cause` is `policy`.
    #[prost(string, tag = "8")]
    pub policy: String,
    #[prost(string, tag = "9")]
    pub tier: String,
    /// Index of the rule in the policy's direction, from 0.
    #[prost(uint32, optional, tag = "10")]
    pub rule: Option<u32>,
    #[prost(string, tag = "11")]
    pub source: String,
    /// `namespace/name` of the pod with that address, where there is one.
    #[prost(string, tag = "12")]
    pub source_pod: String,
    #[prost(string, tag = "13")]
    pub destination: String,
    #[prost(string, tag = "14")]
    pub destination_pod: String,
    /// `TCP`, `UDP`, …, or a number.
    #[prost(string, tag = "15")]
    pub protocol: String,
    #[prost(uint32, optional, tag = "16")]
    pub source_port: Option<u32>,
    #[prost(uint32, optional, tag = "17")]
    pub port: Option<u32>,
    /// `type/code` of ICMP.
    #[prost(string, tag = "18")]
    pub icmp: String,
    /// At the end of a tier: its policies that select the pod in this direction, none of which allowed it.
    #[prost(string, repeated, tag = "19")]
    pub policies: Vec<String>,
}

/// Intended against actual.
#[derive(Clone, PartialEq, Message)]
pub struct Audit {
    #[prost(string, tag = "1")]
    pub node: String,
    /// How many entries of each kind are intended.
    #[prost(message, repeated, tag = "2")]
    pub checked: Vec<Checked>,
    #[prost(message, repeated, tag = "3")]
    pub differences: Vec<Difference>,
    /// What could not be looked at, and why.
    #[prost(string, repeated, tag = "4")]
    pub problems: Vec<String>,
    /// Who else wrote where we do, the last one of each kind for which the kernel tells.
    #[prost(message, repeated, tag = "5")]
    pub writers: Vec<Writer>,
    /// What pools and settings want packets between nodes wrapped in; an agent that does not know the field says
    /// nothing.
    #[prost(message, optional, tag = "6")]
    pub encapsulations: Option<Encapsulations>,
}

/// How packets travel between nodes besides plain.
#[derive(Clone, PartialEq, Message)]
pub struct Encapsulations {
    /// `ipip`, `vxlan`, `wireguard`.
    #[prost(string, repeated, tag = "1")]
    pub names: Vec<String>,
}

/// Somebody else who wrote.
#[derive(Clone, PartialEq, Message)]
pub struct Writer {
    /// Kind of kernel state.
    #[prost(string, tag = "1")]
    pub kind: String,
    /// Name of the process, cut to 15 octets.
    #[prost(string, tag = "2")]
    pub process: String,
    #[prost(uint32, tag = "3")]
    pub pid: u32,
    #[prost(uint64, tag = "4")]
    pub seconds_ago: u64,
}

/// One kind of kernel state.
#[derive(Clone, PartialEq, Message)]
pub struct Checked {
    #[prost(string, tag = "1")]
    pub kind: String,
    #[prost(uint64, tag = "2")]
    pub entries: u64,
}

/// One entry that is not as intended.
#[derive(Clone, PartialEq, Message)]
pub struct Difference {
    #[prost(string, tag = "1")]
    pub kind: String,
    /// Which entry.
    #[prost(string, tag = "2")]
    pub entry: String,
    /// What is different: `missing`, `changed`, `unwanted`, with details.
    #[prost(string, tag = "3")]
    pub what: String,
    /// Who changed it, where the kernel tells; else empty.
    #[prost(string, tag = "4")]
    pub by: String,
}

/// What one node would do with a packet, and what its kernel knows of it.
#[derive(Clone, PartialEq, Message)]
pub struct Explained {
    #[prost(string, tag = "1")]
    pub node: String,
    /// Interfaces by which the packet comes in and goes out; empty for this node itself.
    #[prost(string, tag = "2")]
    pub from_interface: String,
    #[prost(string, tag = "3")]
    pub to_interface: String,
    /// `allowed`, `denied`, or `undecided` (rules that are not ours decide); empty when the node knows no end.
    #[prost(string, tag = "4")]
    pub verdict: String,
    /// What decided, as in a [`Drop`]; empty unless denied by a rule that is logged.
    #[prost(message, optional, tag = "5")]
    pub decided_by: Option<Drop>,
    /// Rules that the packet met, of those that did something.
    #[prost(message, repeated, tag = "6")]
    pub rules: Vec<RuleStep>,
    /// Entries of connection tracking between the two ends.
    #[prost(message, repeated, tag = "7")]
    pub connections: Vec<Connection>,
    #[prost(message, optional, tag = "8")]
    pub route: Option<Route>,
    /// Entries of the kernel that matter here and are not as intended.
    #[prost(message, repeated, tag = "9")]
    pub differences: Vec<Difference>,
    #[prost(string, repeated, tag = "10")]
    pub problems: Vec<String>,
    /// MTU of the link that leads to the source, bytes; 0 when it is this node itself.
    #[prost(uint32, tag = "11")]
    pub from_mtu: u32,
}

/// One rule on a packet's way.
#[derive(Clone, PartialEq, Message)]
pub struct RuleStep {
    #[prost(string, tag = "1")]
    pub table: String,
    #[prost(string, tag = "2")]
    pub chain: String,
    /// Number of the rule in its chain, from 1.
    #[prost(uint32, tag = "3")]
    pub number: u32,
    /// In iptables' words.
    #[prost(string, tag = "4")]
    pub rule: String,
}

/// One entry of connection tracking.
#[derive(Clone, PartialEq, Message)]
pub struct Connection {
    #[prost(string, tag = "1")]
    pub source: String,
    #[prost(string, tag = "2")]
    pub destination: String,
    #[prost(uint32, tag = "3")]
    pub source_port: u32,
    #[prost(uint32, tag = "4")]
    pub destination_port: u32,
    /// The destination that answers, where it was translated.
    #[prost(string, tag = "5")]
    pub answered_by: String,
    /// `replied`, `assured`, `unreplied`.
    #[prost(string, tag = "6")]
    pub state: String,
}

/// Where the kernel would send a packet.
#[derive(Clone, PartialEq, Message)]
pub struct Route {
    /// The matching entry of the routing table; empty when there is none.
    #[prost(string, tag = "1")]
    pub prefix: String,
    /// Empty when the destination is on the link itself.
    #[prost(string, tag = "2")]
    pub gateway: String,
    #[prost(string, tag = "3")]
    pub interface: String,
    /// `local`, `unicast`, `blackhole`, `unreachable`.
    #[prost(string, tag = "4")]
    pub kind: String,
    /// Who wrote the route: `bird`, `boot`, `felix`, `kernel`, or a number.
    #[prost(string, tag = "5")]
    pub protocol: String,
    /// Bytes.
    #[prost(uint32, tag = "6")]
    pub mtu: u32,
    /// `none`, `IPIP`, `VXLAN`.
    #[prost(string, tag = "7")]
    pub encapsulation: String,
    /// State of the neighbour entry of the next hop: `permanent`, `reachable`, `failed`, …; empty without.
    #[prost(string, tag = "8")]
    pub neighbour: String,
    /// Of the outer header; empty without encapsulation.
    #[prost(string, tag = "9")]
    pub outer_source: String,
    #[prost(string, tag = "10")]
    pub outer_destination: String,
    /// By which the encapsulated packet leaves.
    #[prost(string, tag = "11")]
    pub outer_interface: String,
    /// Of that interface, bytes.
    #[prost(uint32, tag = "12")]
    pub outer_mtu: u32,
}

/// Policies of one node.
#[derive(Clone, PartialEq, Message)]
pub struct PolicyStatus {
    #[prost(string, tag = "1")]
    pub node: String,
    #[prost(message, repeated, tag = "2")]
    pub policies: Vec<ProgrammedPolicy>,
    #[prost(message, repeated, tag = "3")]
    pub host_endpoints: Vec<GovernedInterface>,
    /// What is not in force as somebody wants it, a sentence each.
    #[prost(string, repeated, tag = "4")]
    pub problems: Vec<String>,
}

/// An interface of the node itself that a HostEndpoint governs.
#[derive(Clone, PartialEq, Message)]
pub struct GovernedInterface {
    /// `*`: all that have no HostEndpoint of their own.
    #[prost(string, tag = "1")]
    pub interface: String,
    /// The HostEndpoint's name.
    #[prost(string, tag = "2")]
    pub host_endpoint: String,
}

/// One policy that this node needs.
#[derive(Clone, PartialEq, Message)]
pub struct ProgrammedPolicy {
    /// `knp/default/allow-web`
    #[prost(string, tag = "1")]
    pub policy: String,
    /// `metadata.generation` of the object that the kernel has; 0 while it has none.
    #[prost(int64, tag = "2")]
    pub generation: i64,
    /// Is that the present one?
    #[prost(bool, tag = "3")]
    pub programmed: bool,
    /// Why not.
    #[prost(string, tag = "4")]
    pub error: String,
}

/// The settings in force on one node.
#[derive(Clone, PartialEq, Message)]
pub struct Configuration {
    #[prost(string, tag = "1")]
    pub node: String,
    #[prost(message, repeated, tag = "2")]
    pub settings: Vec<Setting>,
}

/// One setting.
#[derive(Clone, PartialEq, Message)]
pub struct Setting {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub value: String,
    /// `default`, `FelixConfiguration`, or the name of an environment variable.
    #[prost(string, tag = "3")]
    pub source: String,
    /// Why it is not acted upon; empty when it is.
    #[prost(string, tag = "4")]
    pub ignored: String,
}

/// Addresses of this node that nobody seems to use, and that it takes back when nothing else is seen.
#[derive(Clone, PartialEq, Message)]
pub struct Suspects {
    #[prost(string, tag = "1")]
    pub node: String,
    /// After how long they are taken back; 0 for never.
    #[prost(uint64, tag = "2")]
    pub grace_seconds: u64,
    #[prost(message, repeated, tag = "3")]
    pub addresses: Vec<Suspect>,
}

/// One address that nobody seems to use.
#[derive(Clone, PartialEq, Message)]
pub struct Suspect {
    #[prost(string, tag = "1")]
    pub address: String,
    #[prost(string, tag = "2")]
    pub handle: String,
    /// For how long, without a break.
    #[prost(uint64, tag = "3")]
    pub seconds: u64,
}
