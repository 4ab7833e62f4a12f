//! `BGPFilter`: rules for routes that come from or go to a peer.

use crate::{BgpCommunity, Cidr};

/// `BGPFilter` of `projectcalico.org/v3`: rules by direction and family; the first that matches decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BgpFilter {
    pub name: String,
    pub import_v4: Vec<BgpFilterRule>,
    pub import_v6: Vec<BgpFilterRule>,
    pub export_v4: Vec<BgpFilterRule>,
    pub export_v6: Vec<BgpFilterRule>,
}

/// How the prefix of a route is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatchOperator {
    /// The route is this prefix.
    Equal,
    NotEqual,
    /// The route is this prefix or lies inside it.
    In,
    NotIn,
}

/// Sessions that a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BgpPeerType {
    /// To a peer of another AS.
    External,
    /// To a peer of the same AS.
    Internal,
}

/// One rule: all that is given must match; nothing given matches every route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpFilterRule {
    pub cidr: Option<(Cidr, MatchOperator)>,
    /// Shortest length of the route's prefix.
    pub min_length: Option<u8>,
    /// Longest length of the route's prefix.
    pub max_length: Option<u8>,
    /// Only routes that a peer told us.
    pub remote_peers: bool,
    /// Outgoing interface; `*` stands for any text.
    pub interface: Option<String>,
    pub peer_type: Option<BgpPeerType>,
    /// All of these.
    pub communities: Vec<BgpCommunity>,
    pub as_path_prefix: Vec<u32>,
    /// Kernel metric, which LOCAL_PREF mirrors.
    pub priority: Option<u32>,
    pub accept: bool,
    /// What is changed in an accepted route.
    pub operations: Vec<BgpFilterOperation>,
}

impl BgpFilterRule {
    /// Matches everything.
    pub fn new(accept: bool) -> Self {
        Self {
            cidr: None,
            min_length: None,
            max_length: None,
            remote_peers: false,
            interface: None,
            peer_type: None,
            communities: Vec::new(),
            as_path_prefix: Vec::new(),
            priority: None,
            accept,
            operations: Vec::new(),
        }
    }
}

/// A change of an accepted route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BgpFilterOperation {
    AddCommunity(BgpCommunity),
    /// The path begins with these afterwards.
    PrependAsPath(Vec<u32>),
    /// Kernel metric, which LOCAL_PREF mirrors.
    SetPriority(u32),
}
