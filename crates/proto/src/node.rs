//! What the CNI plugin asks the node agent over `felix.sock`.
//!
//! One request and one reply a connection. ADD is two calls: [`request::Allocate`] gives addresses, the plugin
//! makes the interfaces, then [`request::EndpointUp`] returns when route and policy are in the kernel.
//! DEL is one: [`request::EndpointDown`], which also releases the addresses. GC is one, too: [`request::Collect`].

/// Name of the directory beside `felix.sock` in which the plugin leaves what it could not tell the agent:
/// one file a container, named after it, that holds one framed [`Request`] with an
/// [`request::EndpointDown`]. The plugin writes `.<container ID>` and renames it; the agent leaves names
/// that begin with a dot alone, and removes a file when it has done what it says.
pub const DEL_QUEUE: &str = "cni-del";

/// One call.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Request {
    #[prost(oneof = "request::Call", tags = "1, 2, 3, 4, 5, 6, 7")]
    pub call: Option<request::Call>,
}

pub mod request {
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Call {
        #[prost(message, tag = "1")]
        Allocate(Allocate),
        #[prost(message, tag = "2")]
        EndpointUp(EndpointUp),
        #[prost(message, tag = "3")]
        EndpointDown(EndpointDown),
        #[prost(message, tag = "4")]
        EndpointCheck(EndpointCheck),
        #[prost(message, tag = "5")]
        Status(Status),
        #[prost(message, tag = "6")]
        Collect(Collect),
        #[prost(message, tag = "7")]
        NodeSubnets(NodeSubnets),
    }

    /// Which pod, and which of its interfaces.
    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub struct Attachment {
        /// `CNI_CONTAINERID`.
        #[prost(string, tag = "1")]
        pub container_id: String,
        /// Interface inside the pod, `CNI_IFNAME`.
        #[prost(string, tag = "2")]
        pub interface: String,
        /// Name of the CNI network: handles are `<network>.<container ID>`.
        #[prost(string, tag = "3")]
        pub network: String,
        /// Empty for runtimes that know no pods (podman).
        #[prost(string, tag = "4")]
        pub namespace: String,
        #[prost(string, tag = "5")]
        pub pod: String,
        #[prost(string, tag = "6")]
        pub uid: String,
    }

    /// Reserves addresses; asking again for the same container gives the same ones.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Allocate {
        #[prost(message, optional, tag = "1")]
        pub attachment: Option<Attachment>,
        #[prost(bool, tag = "2")]
        pub ipv4: bool,
        #[prost(bool, tag = "3")]
        pub ipv6: bool,
        /// Exactly these (`CNI_ARGS` IP=, runtimeConfig ips); the pod's own annotation is read by the agent.
        #[prost(string, repeated, tag = "4")]
        pub addresses: Vec<String>,
        /// Names or CIDRs of pools from the network configuration.
        #[prost(string, repeated, tag = "5")]
        pub ipv4_pools: Vec<String>,
        #[prost(string, repeated, tag = "6")]
        pub ipv6_pools: Vec<String>,
        /// `feature_control.ip_addrs_no_ipam`: the pod may name addresses that IPAM knows nothing of.
        #[prost(bool, tag = "7")]
        pub may_bypass_ipam: bool,
        /// `feature_control.floating_ips`: the pod may have floating addresses.
        #[prost(bool, tag = "8")]
        pub may_float: bool,
        /// Another plugin gives the addresses: only names, MTU and MAC are wanted.
        #[prost(bool, tag = "9")]
        pub delegated: bool,
        /// Another main plugin makes the interface, in this network namespace (`CNI_NETNS`): that it is there is all
        /// the agent can see of the container. Empty where the agent hears of the interface itself.
        #[prost(string, tag = "10")]
        pub netns: String,
    }

    /// The interfaces exist: program them and tell when that is done.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct EndpointUp {
        #[prost(message, optional, tag = "1")]
        pub attachment: Option<Attachment>,
        /// Name of the veth on the node's side.
        #[prost(string, tag = "2")]
        pub host_interface: String,
        #[prost(string, repeated, tag = "3")]
        pub addresses: Vec<String>,
        /// MAC of the pod's side, six bytes.
        #[prost(bytes = "vec", tag = "4")]
        pub mac: Vec<u8>,
        /// How long to wait for the kernel, milliseconds; 0 leaves it to the agent (10 s).
        #[prost(uint32, tag = "5")]
        pub timeout_ms: u32,
    }

    /// The pod is gone: forget the endpoint and release its addresses. Succeeds for what is unknown.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct EndpointDown {
        #[prost(message, optional, tag = "1")]
        pub attachment: Option<Attachment>,
        /// Release the addresses only; the endpoint never came up (an ADD that failed half-way).
        #[prost(bool, tag = "2")]
        pub addresses_only: bool,
    }

    /// Is the endpoint programmed as it should be?
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct EndpointCheck {
        #[prost(message, optional, tag = "1")]
        pub attachment: Option<Attachment>,
        #[prost(string, repeated, tag = "2")]
        pub addresses: Vec<String>,
    }

    /// Can the agent serve ADD now?
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Status {}

    /// Every attachment of the network that is not named here is gone (the verb GC): forget it and release its
    /// addresses, as [`EndpointDown`] does for one.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Collect {
        #[prost(string, tag = "1")]
        pub network: String,
        /// Those that live on; only container ID and interface count.
        #[prost(message, repeated, tag = "2")]
        pub valid: Vec<Attachment>,
    }

    /// Which subnets the cluster gave this node (`spec.podCIDRs`), for `host-local` with `usePodCidr`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct NodeSubnets {}
}

/// The answer to a [`Request`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct Reply {
    #[prost(oneof = "reply::Outcome", tags = "1, 2, 3, 4, 5")]
    pub outcome: Option<reply::Outcome>,
}

pub mod reply {
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Outcome {
        #[prost(message, tag = "1")]
        Done(Done),
        #[prost(message, tag = "2")]
        Allocated(Allocated),
        #[prost(message, tag = "3")]
        Failed(Failed),
        #[prost(message, tag = "4")]
        Collected(Collected),
        #[prost(message, tag = "5")]
        NodeSubnets(NodeSubnets),
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Done {}

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Allocated {
        /// Plain addresses, IPv4 before IPv6; the pod gets them as /32 and /128.
        #[prost(string, repeated, tag = "1")]
        pub addresses: Vec<String>,
        /// MTU of the pod's interface, bytes.
        #[prost(uint32, tag = "2")]
        pub mtu: u32,
        /// Name that the veth on the node's side must have.
        #[prost(string, tag = "3")]
        pub host_interface: String,
        /// MAC of the pod's side from the pod's annotation `cni.projectcalico.org/hwAddr`; empty for any.
        #[prost(bytes = "vec", tag = "4")]
        pub mac: Vec<u8>,
    }

    /// What [`Collect`](super::request::Collect) has let go; their links are the plugin's to take away.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Collected {
        #[prost(message, repeated, tag = "1")]
        pub endpoints: Vec<CollectedEndpoint>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct CollectedEndpoint {
        #[prost(string, tag = "1")]
        pub container_id: String,
        /// Name of the veth on the node's side.
        #[prost(string, tag = "2")]
        pub host_interface: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct NodeSubnets {
        /// At most one a family, as `10.244.1.0/24`; empty where the cluster gives nodes none.
        #[prost(string, repeated, tag = "1")]
        pub subnets: Vec<String>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Failed {
        #[prost(enumeration = "super::Failure", tag = "1")]
        pub failure: i32,
        /// What failed and what to do about it.
        #[prost(string, tag = "2")]
        pub message: String,
    }
}

/// What kind of failure: the plugin maps it to an error code of the CNI specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Failure {
    /// Will not get better by asking again.
    Permanent = 0,
    /// Try again later (CNI code 11).
    Retry = 1,
    /// The request or an annotation is wrong (CNI code 7).
    Invalid = 2,
}
