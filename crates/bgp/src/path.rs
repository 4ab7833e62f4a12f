//! Paths to a prefix. Owns what the table keeps of one, in few octets; decides nothing.

use crate::intern::AttrId;

/// Index of a peer in the speaker.
pub(crate) type PeerIndex = u32;

/// Who a path came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Source(u32);

impl Source {
    /// Originated here.
    pub(crate) const LOCAL: Self = Self(u32::MAX);

    pub(crate) fn peer(index: PeerIndex) -> Self {
        Self(index)
    }

    pub(crate) fn as_peer(self) -> Option<PeerIndex> {
        (self != Self::LOCAL).then_some(self.0)
    }
}

/// Why a path is kept but not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// Import policy; the index of the rule, or the default.
    Policy(Option<u16>),
    /// Our own AS is in the AS_PATH (RFC 4271 §9.1.2).
    AsLoop,
    /// Our own identifier is the ORIGINATOR_ID (RFC 4456 §8).
    OwnOriginator,
    /// Our own cluster is in the CLUSTER_LIST (RFC 4456 §8).
    ClusterLoop,
    /// The next hop is ourselves or no usable address (RFC 4271 §5.1.3).
    NextHop,
    /// The peer is external, and nobody has said what to take from it (RFC 8212).
    NoPolicy,
    /// The route leaks: it should not have come from this peer (RFC 9234 §5).
    RouteLeak,
    /// No route leads to the next hop (RFC 4271 §9.1.2.1).
    NextHopUnreachable,
}

/// One path to a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    pub(crate) source: Source,
    /// Identifier that the peer gave it (RFC 7911); 0 without ADD-PATH.
    pub(crate) id: u32,
    /// Attributes as they were received.
    pub(crate) received: AttrId,
    /// What import policy made of them.
    pub(crate) attributes: AttrId,
    pub(crate) rejection: Option<Rejection>,
    /// Kept from before the peer restarted (RFC 4724 §4.2).
    pub(crate) stale: bool,
    /// Stale for so long that any other path is better (RFC 9494 §4.2).
    pub(crate) long_stale: bool,
}

impl Path {
    /// A fresh path that policy left as it is.
    pub(crate) fn new(source: Source, attributes: AttrId) -> Self {
        Self {
            source,
            id: 0,
            received: attributes,
            attributes,
            rejection: None,
            stale: false,
            long_stale: false,
        }
    }
}

/// All paths to one prefix; nearly always there is one.
#[derive(Clone, Debug, Default)]
pub(crate) enum Paths {
    #[default]
    None,
    One(Path),
    #[allow(clippy::box_collection, reason = "one word instead of three in every entry of the table")]
    Many(Box<Vec<Path>>),
}

impl Paths {
    pub(crate) fn as_slice(&self) -> &[Path] {
        match self {
            Self::None => &[],
            Self::One(path) => std::slice::from_ref(path),
            Self::Many(paths) => paths,
        }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [Path] {
        match self {
            Self::None => &mut [],
            Self::One(path) => std::slice::from_mut(path),
            Self::Many(paths) => paths,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }

    /// Where the path of a source is.
    pub(crate) fn find(&self, source: Source, id: u32) -> Option<usize> {
        self.as_slice().iter().position(|p| p.source == source && p.id == id)
    }

    /// Whether a source has any path.
    pub(crate) fn has(&self, source: Source) -> bool {
        self.as_slice().iter().any(|p| p.source == source)
    }

    pub(crate) fn push(&mut self, path: Path) {
        match self {
            Self::None => *self = Self::One(path),
            Self::One(first) => *self = Self::Many(Box::new(vec![*first, path])),
            Self::Many(paths) => paths.push(path),
        }
    }

    pub(crate) fn remove(&mut self, at: usize) {
        match self {
            Self::None => {}
            Self::One(_) => *self = Self::None,
            Self::Many(paths) => {
                paths.remove(at);
                if let [only] = paths[..] {
                    *self = Self::One(only);
                }
            }
        }
    }
}
