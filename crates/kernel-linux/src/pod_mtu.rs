//! The MTU of a pod's veth while the pod runs, on both sides.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::netns::Netns;
use crate::nl::{errno, named};
use crate::rtnl::*;

/// What became of a pod's veth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodMtu {
    /// Both sides have it, and had it before.
    Same,
    /// Both sides have it now.
    Changed,
    /// The pod's side has this MTU, which nobody said may be replaced.
    Other(u32),
    /// The pod's side has this MTU and should have another, but its namespace is nowhere to be seen, or may not be entered.
    Unreachable(u32),
    /// There is no such link, or its far end is not in another namespace.
    Absent,
}

/// The network namespaces that can be seen from here, by the number by which the kernel tells of them in ours.
#[derive(Default)]
pub struct Namespaces {
    by_number: Option<BTreeMap<u32, PathBuf>>,
}

impl Rtnl {
    /// Gives the veth whose near side is `name` an MTU, if its far side has one of `replaceable`.
    ///
    /// A side that takes less than the other sends loses packets without a word. So a smaller MTU goes to the pod first
    /// and a larger one to the node first, and where the pod's side cannot be changed, the node's is not.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn set_pod_mtu(
        &mut self,
        name: &str,
        mtu: u32,
        replaceable: &BTreeSet<u32>,
        namespaces: &mut Namespaces,
    ) -> io::Result<PodMtu> {
        let Some(near) = self.link_by_name(name)? else { return Ok(PodMtu::Absent) };
        let Some((far_index, number)) = self.far_place(near.index)? else { return Ok(PodMtu::Absent) };
        let Some(far) = self.link_elsewhere(far_index, number)? else { return Ok(PodMtu::Absent) };
        if far.mtu == mtu && near.mtu == mtu {
            return Ok(PodMtu::Same);
        }
        if far.mtu != mtu {
            if !replaceable.contains(&far.mtu) {
                if near.mtu > far.mtu {
                    // The node answers for what the pod would not take.
                    self.set_mtu(near.index, far.mtu)?;
                }
                return Ok(PodMtu::Other(far.mtu));
            }
            let Some(namespace) = namespaces.find(self, number)? else {
                return Ok(PodMtu::Unreachable(far.mtu));
            };
            if near.mtu < mtu {
                self.set_mtu(near.index, mtu)?;
            }
            match namespace.run(|| Rtnl::open()?.set_mtu(far_index, mtu)) {
                Err(error) if errno(&error) == Some(libc::EPERM) => return Ok(PodMtu::Unreachable(far.mtu)),
                outcome => outcome?,
            }
        }
        if near.mtu < mtu || replaceable.contains(&near.mtu) {
            self.set_mtu(near.index, mtu)?;
        }
        Ok(PodMtu::Changed)
    }

    /// The number of a namespace in the socket's own; `None` when the kernel has given it none.
    fn number_of(&mut self, namespace: &Netns) -> io::Result<Option<u32>> {
        let mut number = None;
        self.socket
            .request(
                libc::RTM_GETNSID,
                0,
                |w| {
                    w.bytes(&[libc::AF_UNSPEC as u8, 0, 0, 0]);
                    w.u32(NETNSA_FD, namespace.raw_fd() as u32);
                },
                |message| {
                    let found = message.attributes(RTGENMSG).find(|a| a.kind == NETNSA_NSID);
                    // Minus one: none.
                    number = found.and_then(|a| a.u32()).filter(|number| *number <= i32::MAX as u32);
                },
            )
            .map_err(|e| named(format!("number of {}", namespace.path().display()), e))?;
        Ok(number)
    }
}

impl Namespaces {
    fn find(&mut self, rtnl: &mut Rtnl, number: u32) -> io::Result<Option<Netns>> {
        if self.by_number.is_none() {
            self.by_number = Some(look(rtnl));
        }
        let found = self.by_number.as_ref().and_then(|all| all.get(&number));
        match found.map(Netns::open) {
            None => Ok(None),
            // Gone meanwhile, or it may not be opened.
            Some(Err(_)) => Ok(None),
            Some(Ok(namespace)) => Ok(Some(namespace)),
        }
    }
}

/// Namespaces that have a name, then those of processes; what cannot be opened is left out.
fn look(rtnl: &mut Rtnl) -> BTreeMap<u32, PathBuf> {
    let mut found = BTreeMap::new();
    let mut note = |path: PathBuf| {
        let number = Netns::open(&path).and_then(|namespace| rtnl.number_of(&namespace));
        if let Ok(Some(number)) = number {
            found.entry(number).or_insert(path);
        }
    };
    entries(Path::new(NAMED)).for_each(&mut note);
    let mut seen = BTreeSet::new();
    for process in entries(Path::new("/proc")) {
        let path = process.join("ns/net");
        // All processes of a pod are in the same one.
        if let Ok(target) = fs::read_link(&path)
            && seen.insert(target)
        {
            note(path);
        }
    }
    found
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// Where container runtimes and `ip netns` keep namespaces.
const NAMED: &str = "/run/netns";
/// `struct rtgenmsg`, padded.
const RTGENMSG: usize = 4;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
