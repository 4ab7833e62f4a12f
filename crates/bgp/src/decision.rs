//! The decision process (RFC 4271 §9.1.2.2, RFC 4456 §9). Owns the order of its steps, as one list.

use std::net::{IpAddr, Ipv4Addr};

use bgp_packet::PathAttributes;

/// The step that decided for a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// There is no other route.
    OnlyRoute,
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
    /// Lower identifier of the originator or peer.
    RouterId,
    /// Shorter CLUSTER_LIST.
    ClusterList,
    /// Lower address of the peer.
    PeerAddress,
}

/// What the process looks at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'a> {
    pub(crate) index: usize,
    pub(crate) attributes: &'a PathAttributes,
    pub(crate) local: bool,
    pub(crate) external: bool,
    pub(crate) router_id: Ipv4Addr,
    pub(crate) address: IpAddr,
}

type Step = fn(&mut Vec<Candidate<'_>>);

/// Steps up to here leave routes that are equally good for forwarding.
const STEPS_TO_EQUAL: usize = 6;

const STEPS: [(Reason, Step); 9] = [
    (Reason::LocalOrigin, |c| keep_least(c, |c| !c.local)),
    (Reason::LocalPref, |c| keep_least(c, |c| u32::MAX - c.attributes.local_pref.unwrap_or(100))),
    (Reason::AsPathLength, |c| keep_least(c, |c| c.attributes.as_path.hops())),
    (Reason::Origin, |c| keep_least(c, |c| c.attributes.origin)),
    (Reason::Med, keep_least_med),
    (Reason::External, |c| keep_least(c, |c| !c.external)),
    (Reason::RouterId, |c| keep_least(c, |c| c.attributes.originator_id.unwrap_or(c.router_id))),
    (Reason::ClusterList, |c| keep_least(c, |c| c.attributes.cluster_list.len())),
    (Reason::PeerAddress, |c| keep_least(c, |c| c.address)),
];

/// The index of the best candidate and why it is best; `None` when there is none.
pub(crate) fn best(mut candidates: Vec<Candidate<'_>>) -> Option<(usize, Reason)> {
    if let [only] = &candidates[..] {
        return Some((only.index, Reason::OnlyRoute));
    }
    let mut last = Reason::PeerAddress;
    for (reason, step) in STEPS {
        step(&mut candidates);
        last = reason;
        if candidates.len() == 1 {
            break;
        }
    }
    candidates.first().map(|c| (c.index, last))
}

/// The indices of all candidates that are as good as the best for forwarding, in order.
pub(crate) fn equal(mut candidates: Vec<Candidate<'_>>) -> Vec<usize> {
    STEPS[..STEPS_TO_EQUAL].iter().for_each(|(_, step)| step(&mut candidates));
    candidates.iter().map(|c| c.index).collect()
}

fn keep_least<T: Ord>(candidates: &mut Vec<Candidate<'_>>, key: impl Fn(&Candidate<'_>) -> T) {
    let Some(least) = candidates.iter().map(&key).min() else { return };
    candidates.retain(|c| key(c) == least);
}

/// MED is comparable only between routes from one neighbouring AS (RFC 4271 §9.1.2.2 c).
fn keep_least_med(candidates: &mut Vec<Candidate<'_>>) {
    let meds: Vec<_> = candidates.iter().map(|c| (c.attributes.as_path.first(), med(c))).collect();
    candidates.retain(|c| {
        let neighbour = c.attributes.as_path.first();
        !meds.iter().any(|(asn, other)| *asn == neighbour && *other < med(c))
    });
}

fn med(candidate: &Candidate<'_>) -> u32 {
    candidate.attributes.med.unwrap_or(0)
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
        Candidate { index, attributes, local: false, external: true, router_id: id, address: IpAddr::V4(id) }
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
            (base.clone(), Reason::RouterId),
        ];
        for (better, reason) in &cases {
            let mut worse = base.clone();
            worse.origin = if *reason == Reason::RouterId { Origin::Igp } else { Origin::Incomplete };
            assert_eq!(best(vec![candidate(0, better), candidate(1, &worse)]), Some((0, *reason)));
        }
    }

    #[test]
    fn med_counts_only_within_a_neighbouring_as() {
        let (mut a, mut b, mut c) = (attributes(&[1, 9]), attributes(&[1, 9]), attributes(&[2, 9]));
        (a.med, b.med, c.med) = (Some(10), Some(5), Some(100));
        let all = vec![candidate(0, &a), candidate(1, &b), candidate(2, &c)];
        assert_eq!(best(all.clone()), Some((1, Reason::RouterId)));
        assert_eq!(equal(all), [1, 2]);
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
