//! IP sets (`spec/felix.md` §2).

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use model::{Cidr, Family, Protocol};

/// Name in the kernel, at most 31 bytes: `cali40` (IPv4) or `cali60` (IPv6) and an ID.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpSetName(Arc<str>);

impl IpSetName {
    /// Longest name that the kernel takes, in bytes.
    pub const MAX: usize = 31;

    /// The name of the set with this ID in one family; cut where the kernel's limit is.
    pub fn new(family: Family, id: &str) -> Self {
        let prefix = match family {
            Family::V4 => "cali40",
            Family::V6 => "cali60",
        };
        let mut name = format!("{prefix}{id}");
        let mut end = name.len().min(Self::MAX);
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        name.truncate(end);
        Self(name.into())
    }

    /// Takes a name that the kernel reported.
    pub fn from_kernel(name: &str) -> Self {
        Self(name.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Was it made by us (or an earlier release or Calico)?
    pub fn is_ours(name: &str) -> bool {
        ["cali4", "cali6", "felix-4", "felix-6"].iter().any(|prefix| name.starts_with(prefix))
    }
}

impl fmt::Display for IpSetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IpSetKind {
    /// `hash:net`
    Net,
    /// `hash:ip,port`
    IpPort,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpSetMember {
    /// Never of length 0: `hash:net` cannot hold it, use two halves.
    Net(Cidr),
    IpPort(IpAddr, Protocol, u16),
}

impl fmt::Display for IpSetMember {
    /// As `ipset` spells it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IpSetMember::Net(cidr) => write!(f, "{cidr}"),
            IpSetMember::IpPort(address, protocol, port) => {
                write!(f, "{address},{}:{port}", protocol.to_string().to_lowercase())
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpSet {
    pub kind: IpSetKind,
    pub family: Family,
    /// Shared, so that keeping a desired and an actual copy costs one.
    pub members: Arc<BTreeSet<IpSetMember>>,
}
