//! How large packets may be on the ways to other nodes: all ways at the same time, in a few short rounds.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use doctor::{Link, Path};
use kernel_linux::{Rtnl, probe_paths};

/// How long the answers of one round are waited for; who answers is not that far away.
const ROUND: Duration = Duration::from_millis(250);
/// Rounds at most: so many find any size up to 9000 to the byte.
const ROUNDS: usize = 5;
/// Sizes that are tried between two in one round.
const STEPS: u32 = 16;
/// Every path carries this (RFC 791 demands less).
const SMALL: u32 = 100;

/// One path while it is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Search {
    path: Path,
    /// The smallest size of which it is known that it is not answered.
    too_large: u32,
}

impl Search {
    /// Sizes that are worth asking for next; none when all is known.
    fn sizes(&self, round: usize) -> Vec<u32> {
        let Some(fits) = self.path.fits else {
            // Nothing was answered: once more, then it is silent.
            return if round < 2 { vec![SMALL, self.path.interface_mtu] } else { Vec::new() };
        };
        if fits + 1 >= self.too_large {
            return Vec::new();
        }
        let (from, room) = (fits, self.too_large - fits);
        let mut sizes: Vec<u32> = (1..=STEPS).map(|step| from + (room * step).div_ceil(STEPS + 1)).collect();
        // What was lost once need not be too large.
        if round < 2 {
            sizes.push(self.path.interface_mtu);
        }
        sizes.retain(|size| *size > fits && *size <= self.path.interface_mtu);
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    fn learn(&mut self, asked: &[u32], answered: &BTreeSet<(IpAddr, u32)>) {
        let largest = asked.iter().copied().filter(|size| answered.contains(&(self.path.to, *size))).max();
        self.path.fits = self.path.fits.max(largest);
        let fits = self.path.fits.unwrap_or(0);
        let above = asked.iter().copied().filter(|size| *size > fits).min();
        self.too_large = match above {
            Some(above) => self.too_large.min(above).max(fits + 1),
            None => self.too_large.max(fits + 1),
        };
    }
}

/// Probes every target over the link by which it is reached.
pub(super) fn probe(targets: &[(IpAddr, String)], links: &[Link]) -> io::Result<Vec<Path>> {
    let mut rtnl = Rtnl::open()?;
    let mut searches = Vec::new();
    for (to, name) in targets {
        let way = rtnl.lookup(*to)?;
        let Some(link) = way.and_then(|way| links.iter().find(|link| link.name == way.interface)) else {
            continue;
        };
        let (interface, interface_mtu) = (link.name.clone(), link.mtu);
        let path = Path { to: *to, name: name.clone(), interface, interface_mtu, fits: None };
        searches.push(Search { too_large: interface_mtu + 1, path });
    }
    for round in 0..ROUNDS {
        let asked: Vec<Vec<u32>> = searches.iter().map(|search| search.sizes(round)).collect();
        let wanted: Vec<(IpAddr, u32)> = searches
            .iter()
            .zip(&asked)
            .flat_map(|(search, sizes)| sizes.iter().map(|size| (search.path.to, *size)))
            .collect();
        if wanted.is_empty() {
            break;
        }
        let answered = probe_paths(&wanted, ROUND)?;
        for (search, asked) in searches.iter_mut().zip(&asked).filter(|(_, asked)| !asked.is_empty()) {
            search.learn(asked, &answered);
        }
    }
    Ok(searches.into_iter().map(|search| search.path).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds and result for a path that carries so much over a link of so much.
    fn find(carries: u32, mtu: u32) -> (usize, Option<u32>) {
        let to = IpAddr::from([192, 0, 2, 2]);
        let path = Path { to, name: String::new(), interface: "eth0".into(), interface_mtu: mtu, fits: None };
        let mut search = Search { path, too_large: mtu + 1 };
        for round in 0..ROUNDS {
            let asked = search.sizes(round);
            if asked.is_empty() {
                return (round, search.path.fits);
            }
            let answered = asked.iter().filter(|size| **size <= carries).map(|size| (to, *size)).collect();
            search.learn(&asked, &answered);
        }
        (ROUNDS, search.path.fits)
    }

    #[test]
    fn what_a_path_carries_is_found_to_the_byte_in_few_rounds() {
        assert_eq!(find(1500, 1500), (1, Some(1500)));
        assert_eq!(find(9000, 9000), (1, Some(9000)));
        for carries in [1280, 1400, 1430, 1450, 1480, 1499, 576, 100] {
            assert_eq!(find(carries, 1500).1, Some(carries));
        }
        for carries in [1500, 8950, 4470] {
            assert_eq!(find(carries, 9000).1, Some(carries));
        }
        assert_eq!(find(0, 1500).1, None);
    }
}
