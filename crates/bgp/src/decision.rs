//! The decision process (RFC 4271 §9.1.2.2, RFC 4456 §9, RFC 9494 §4.2). Owns the order of its steps, as one
//! list.

use std::cmp::Ordering;
use std::net::{IpAddr, Ipv4Addr};

use bgp_packet::{Community, PathAttributes};

/// The step that decided for a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// There is no other route.
    OnlyRoute,
    /// The others are kept from peers that have been away for long (RFC 9494).
    LongLivedStale,
    /// Originated here.
    LocalOrigin,
    /// Higher LOCAL_PREF.
    LocalPref,
    /// Shorter AS_PATH.
    AsPathLength,
    /// Lower ORIGIN.
    Origin,
    /// Lower MULTI_EXIT_DISC within a neighbouring AS.
    Med,
    /// Learned from an external peer.
    External,
    /// Lower cost of the way to the next hop.
    InteriorCost,
    /// Lower identifier of the originator or peer.
    RouterId,
    /// Shorter CLUSTER_LIST.
    ClusterList,
    /// Lower address of the peer.
    PeerAddress,
    /// Lower path identifier: the peer sent several (RFC 7911).
    PathId,
}

/// What the process looks at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'a> {
    pub(crate) index: usize,
    pub(crate) attributes: &'a PathAttributes,
    pub(crate) local: bool,
    pub(crate) external: bool,
    pub(crate) long_stale: bool,
    pub(crate) cost: u32,
    pub(crate) router_id: Ipv4Addr,
    pub(crate) address: IpAddr,
    pub(crate) path_id: u32,
}

/// How a step tells the better from the worse.
#[derive(Clone, Copy)]
enum Step {
    /// The least value stays.
    Least(fn(&Candidate<'_>) -> u64),
    /// The lowest MED of each neighbouring AS stays (RFC 4271 §9.1.2.2 c).
    Med,
    /// The lowest address stays.
    Address,
}

/// Steps up to here leave routes that are equally good for forwarding.
const STEPS_TO_EQUAL: usize = 8;

const STEPS: [(Reason, Step); 12] = [
    (Reason::LongLivedStale, Step::Least(|c| is_long_stale(c).into())),
    (Reason::LocalOrigin, Step::Least(|c| (!c.local).into())),
    (Reason::LocalPref, Step::Least(|c| (u32::MAX - c.attributes.local_pref.unwrap_or(100)).into())),
    (Reason::AsPathLength, Step::Least(|c| c.attributes.as_path.hops() as u64)),
    (Reason::Origin, Step::Least(|c| c.attributes.origin as u64)),
    (Reason::Med, Step::Med),
    (Reason::External, Step::Least(|c| (!c.external).into())),
    (Reason::InteriorCost, Step::Least(|c| c.cost.into())),
    (Reason::RouterId, Step::Least(|c| c.attributes.originator_id.unwrap_or(c.router_id).to_bits().into())),
    (Reason::ClusterList, Step::Least(|c| c.attributes.cluster_list.len() as u64)),
    (Reason::PeerAddress, Step::Address),
    (Reason::PathId, Step::Least(|c| c.path_id.into())),
];

/// The better of two, and why; the first when nothing tells them apart.
pub(crate) fn better<'a>(a: Candidate<'a>, b: Candidate<'a>) -> (Candidate<'a>, Reason) {
    for (reason, step) in STEPS {
        let order = match step {
            Step::Least(key) => key(&a).cmp(&key(&b)),
            Step::Med if neighbour(&a) == neighbour(&b) => med(&a).cmp(&med(&b)),
            Step::Med => Ordering::Equal,
            Step::Address => a.address.cmp(&b.address),
        };
        match order {
            Ordering::Less => return (a, reason),
            Ordering::Greater => return (b, reason),
            Ordering::Equal => {}
        }
    }
    (a, Reason::PathId)
}

/// The best of any number, and why. MED does not order routes of several neighbouring ASes, so the steps
/// take away what is worse, each from all that are left: the order of arrival never matters.
pub(crate) fn best(mut candidates: Vec<Candidate<'_>>) -> Option<(usize, Reason)> {
    if let [only] = &candidates[..] {
        return Some((only.index, Reason::OnlyRoute));
    }
    let mut last = Reason::PathId;
    for (reason, step) in STEPS {
        keep_best(&mut candidates, step);
        last = reason;
        if candidates.len() == 1 {
            break;
        }
    }
    candidates.first().map(|c| (c.index, last))
}

/// The indices of all candidates that are as good as the best for forwarding, in order.
pub(crate) fn equal(mut candidates: Vec<Candidate<'_>>) -> Vec<usize> {
    STEPS[..STEPS_TO_EQUAL].iter().for_each(|(_, step)| keep_best(&mut candidates, *step));
    candidates.iter().map(|c| c.index).collect()
}

fn keep_best(candidates: &mut Vec<Candidate<'_>>, step: Step) {
    match step {
        Step::Least(key) => {
            let Some(least) = candidates.iter().map(key).min() else { return };
            candidates.retain(|c| key(c) == least);
        }
        Step::Med => {
            let meds: Vec<_> = candidates.iter().map(|c| (neighbour(c), med(c))).collect();
            candidates.retain(|c| !meds.iter().any(|(asn, other)| *asn == neighbour(c) && *other < med(c)));
        }
        Step::Address => {
            let Some(least) = candidates.iter().map(|c| c.address).min() else { return };
            candidates.retain(|c| c.address == least);
        }
    }
}

fn neighbour(candidate: &Candidate<'_>) -> Option<u32> {
    candidate.attributes.as_path.first()
}

fn med(candidate: &Candidate<'_>) -> u32 {
    candidate.attributes.med.unwrap_or(0)
}

/// The peer is away, or told us that its own source is (RFC 9494 §4.3).
fn is_long_stale(candidate: &Candidate<'_>) -> bool {
    candidate.long_stale || candidate.attributes.communities.contains(&Community::LLGR_STALE)
}

#[cfg(test)]
mod tests {
    use bgp_packet::{AsPath, NextHop, Origin};

    use super::*;

    fn attributes(asns: &[u32]) -> PathAttributes {
        let mut a = PathAttributes::new(NextHop::V4([192, 0, 2, 1].into()));
        a.as_path = AsPath::sequence(asns);
        a
    }

    fn candidate(index: usize, attributes: &PathAttributes) -> Candidate<'_> {
        let id = Ipv4Addr::from(index as u32 + 1);
        Candidate {
            index,
            attributes,
            local: false,
            external: true,
            long_stale: false,
            cost: 0,
            router_id: id,
            address: IpAddr::V4(id),
            path_id: 0,
        }
    }

    /// Both ways of asking, in both orders, agree.
    fn decide(a: Candidate<'_>, b: Candidate<'_>) -> (usize, Reason) {
        let answer = best(vec![a, b]).unwrap();
        for (x, y) in [(a, b), (b, a)] {
            let (winner, reason) = better(x, y);
            assert_eq!((winner.index, reason), answer);
        }
        answer
    }

    #[test]
    fn each_step_decides_and_names_itself() {
        let base = attributes(&[1, 2]);
        let with = |change: fn(&mut PathAttributes)| {
            let mut a = base.clone();
            change(&mut a);
            a
        };
        let cases = [
            (with(|a| a.local_pref = Some(200)), Reason::LocalPref),
            (with(|a| a.as_path = AsPath::sequence(&[1])), Reason::AsPathLength),
            (base.clone(), Reason::Origin),
        ];
        for (good, reason) in &cases {
            let worse = with(|a| a.origin = Origin::Incomplete);
            assert_eq!(decide(candidate(1, good), candidate(0, &worse)), (1, *reason));
        }
        let worse = with(|a| a.med = Some(7));
        assert_eq!(decide(candidate(1, &base), candidate(0, &worse)), (1, Reason::Med));
        let worse = with(|a| a.communities.push(Community::LLGR_STALE));
        assert_eq!(decide(candidate(1, &base), candidate(0, &worse)), (1, Reason::LongLivedStale));
        let plain = candidate(0, &base);
        let cases = [
            (Candidate { long_stale: true, ..plain }, Reason::LongLivedStale),
            (Candidate { external: false, ..plain }, Reason::External),
            (Candidate { cost: 1, ..plain }, Reason::InteriorCost),
            (Candidate { router_id: Ipv4Addr::BROADCAST, ..plain }, Reason::RouterId),
            (Candidate { address: Ipv4Addr::BROADCAST.into(), ..plain }, Reason::PeerAddress),
            (Candidate { path_id: 5, ..plain }, Reason::PathId),
        ];
        for (worse, reason) in cases {
            assert_eq!(decide(worse, Candidate { index: 1, ..plain }), (1, reason));
        }
        let local = Candidate { index: 1, local: true, ..plain };
        assert_eq!(decide(plain, local), (1, Reason::LocalOrigin));
        let longer = with(|a| a.cluster_list = vec![Ipv4Addr::LOCALHOST]);
        assert_eq!(
            decide(Candidate { index: 1, ..plain }, Candidate { attributes: &longer, ..plain }),
            (1, Reason::ClusterList)
        );
    }

    #[test]
    fn med_counts_only_within_a_neighbouring_as() {
        let (mut a, mut b, mut c) = (attributes(&[1, 9]), attributes(&[1, 9]), attributes(&[2, 9]));
        (a.med, b.med, c.med) = (Some(10), Some(5), Some(100));
        let all = vec![candidate(0, &a), candidate(1, &b), candidate(2, &c)];
        assert_eq!(best(all.clone()), Some((1, Reason::RouterId)));
        assert_eq!(equal(all), [1, 2]);
        assert_eq!(decide(candidate(0, &a), candidate(2, &c)), (0, Reason::RouterId));
    }

    #[test]
    fn order_of_arrival_does_not_matter() {
        let (mut a, mut b, c) = (attributes(&[1, 9]), attributes(&[1, 9]), attributes(&[2, 9]));
        (a.med, b.med) = (Some(10), Some(5));
        let list = [candidate(0, &a), candidate(1, &b), candidate(2, &c)];
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let candidates = order.map(|i| list[i]).to_vec();
            assert_eq!(best(candidates).map(|(i, _)| i), Some(1), "{order:?}");
        }
    }
}
