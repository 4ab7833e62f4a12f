//! What a node tells of its interfaces, for host endpoints that go by their names: those of the machine itself, not those of
//! pods, tunnels, bridges and the like.

use std::time::{Duration, Instant};

use kernel::Link;
use kernel_linux::pod::HOST_MAC;
use model::NodeInterface;

use crate::autodetect::{is_excluded, is_global};

/// Least time between two writes: everybody who watches nodes hears of each.
pub const PAUSE: Duration = Duration::from_secs(10);
/// When interfaces were told of, and whether they differ from what was told.
#[derive(Debug, Default)]
pub struct Interfaces {
    told: Option<Instant>,
    waits: bool,
}

impl Interfaces {
    /// What to write, when the Node says something else and the last write is long enough ago.
    pub fn news(
        &mut self,
        known: &[NodeInterface],
        links: &[Link],
        now: Instant,
    ) -> Option<Vec<NodeInterface>> {
        let found = interfaces(links);
        let differs = found != known;
        self.waits = differs && self.told.is_some_and(|told| now.saturating_duration_since(told) < PAUSE);
        if !differs || self.waits {
            return None;
        }
        self.told = Some(now);
        Some(found)
    }

    /// Is there something to be told later?
    pub fn waits(&self) -> bool {
        self.waits
    }
}

/// In the order of their names, with the addresses that others may reach them at.
fn interfaces(links: &[Link]) -> Vec<NodeInterface> {
    let mut found: Vec<NodeInterface> = links
        .iter()
        // The host's end of every pod has this one, whatever its name begins with.
        .filter(|link| !is_excluded(link) && link.mac != Some(HOST_MAC))
        .map(|link| {
            let usable = link.addresses.iter().map(|(address, _)| *address).filter(|a| is_global(*a));
            let mut addresses: Vec<_> = usable.collect();
            addresses.sort_unstable();
            addresses.dedup();
            NodeInterface { name: link.name.clone(), addresses }
        })
        .collect();
    found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    found.truncate(NodeInterface::MOST);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, addresses: &[&str]) -> Link {
        let addresses = addresses.iter().map(|text| (text.parse().unwrap(), 24)).collect();
        Link { index: 1, name: name.to_owned(), up: true, mtu: 1500, mac: None, alias: None, addresses }
    }

    #[test]
    fn only_what_is_the_machines_own_is_told() {
        let links = [
            link("lo", &["127.0.0.1"]),
            link("eth1", &[]),
            link("eth0", &["10.0.0.1", "fe80::1", "2001:db8::1"]),
            link("cali12345", &[]),
            link("tunl0", &["10.65.0.1"]),
        ];

        let told = Interfaces::default().news(&[], &links, Instant::now()).unwrap();

        let text: Vec<String> = told.iter().map(|i| format!("{} {:?}", i.name, i.addresses)).collect();
        assert_eq!(text, ["eth0 [10.0.0.1, 2001:db8::1]", "eth1 []"]);
    }

    #[test]
    fn one_that_comes_and_goes_is_told_of_now_and_then() {
        let (start, mut interfaces) = (Instant::now(), Interfaces::default());
        let eth0 = [link("eth0", &["10.0.0.1"])];
        let known = interfaces.news(&[], &eth0, start).unwrap();

        assert_eq!(interfaces.news(&known, &[], start + PAUSE / 2), None);
        assert!(interfaces.waits());
        assert_eq!(interfaces.news(&known, &eth0, start + PAUSE / 2), None);
        assert!(!interfaces.waits(), "it is as the Node says");
        assert_eq!(interfaces.news(&known, &[], start + PAUSE), Some(Vec::new()));
    }
}
