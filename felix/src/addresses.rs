//! The port to IPAM, as far as pods need it.

use std::future::Future;
use std::net::IpAddr;

use model::TunnelKind;

/// Which addresses a pod wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressRequest {
    /// Who holds them: `<network>.<container ID>`.
    pub handle: String,
    /// Empty for runtimes that know no pods, as the next two are.
    pub namespace: String,
    pub pod: String,
    pub uid: String,
    /// Interface inside the pod.
    pub interface: String,
    /// The container's network namespace, where another plugin makes its interface; else empty.
    pub netns: String,
    pub ipv4: bool,
    pub ipv6: bool,
    /// Exactly these, instead of any.
    pub exact: Vec<IpAddr>,
    /// Names or CIDRs of pools; none means any.
    pub ipv4_pools: Vec<String>,
    pub ipv6_pools: Vec<String>,
}

/// Why there is no address.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// What was asked for cannot be given, now or later: an address outside every pool, an unknown pool.
    #[error("{0}")]
    Invalid(String),
    /// Later it may be possible: pools are full, the API server is away.
    #[error("{0}")]
    Unavailable(String),
}

/// Gives out and takes back addresses.
pub trait Addresses: Send + Sync + 'static {
    /// Gives addresses to a handle; asking again for the same handle gives the same ones.
    fn allocate(
        &self,
        request: AddressRequest,
    ) -> impl Future<Output = Result<Vec<IpAddr>, AddressError>> + Send;

    /// Gives a tunnel of this node an address from one of these pools, by name: the same one when asked again. It is
    /// `wish` where nobody else has that.
    fn allocate_tunnel(
        &self,
        kind: TunnelKind,
        pools: &[String],
        wish: Option<IpAddr>,
    ) -> impl Future<Output = Result<IpAddr, AddressError>> + Send;

    /// Takes back what a tunnel of this node holds besides the address that it has.
    fn release_others(
        &self,
        kind: TunnelKind,
        keep: IpAddr,
    ) -> impl Future<Output = Result<(), AddressError>> + Send;

    /// Takes back all that a tunnel of this node holds; nothing held is success.
    fn release_tunnel(&self, kind: TunnelKind) -> impl Future<Output = Result<(), AddressError>> + Send;

    /// Takes back all that a handle holds; nothing held is success.
    fn release(&self, handle: &str) -> impl Future<Output = Result<(), AddressError>> + Send;
}
