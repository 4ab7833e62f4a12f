//! nf_tables by netlink: one transaction a change on a socket that stays open, so that no process is started and
//! nobody waits for the kernel to give memory back (`spec/kernel.md` §2c).

mod expressions;
mod messages;
mod numbers;
mod probe;
mod read;
mod survey;

use std::io;

use kernel::nft::{NftChange, NftDriver, NftRefusal, SavedNft};
use model::Family;

pub use probe::probe;
pub use survey::{ForeignChain, all_nft_chains};

use crate::nl::{Protocol, Socket, errno, named};
use messages::Transaction;

/// Our tables `ip calico` and `ip6 calico`.
pub struct NftablesDriver {
    socket: Socket,
    /// Stands in what the kernel tells of our changes.
    port: u32,
    ipv6: bool,
}

impl NftablesDriver {
    /// Opens in the network namespace of the calling thread. Without `ipv6` only IPv4's table is read.
    ///
    /// Fails where the kernel takes no such tables.
    pub fn open(ipv6: bool) -> io::Result<Self> {
        probe(Family::V4)?;
        if ipv6 {
            probe(Family::V6)?;
        }
        let socket = Socket::open(Protocol::Netfilter).map_err(|e| named("open nfnetlink", e))?;
        Ok(Self { port: socket.port()?, socket, ipv6 })
    }
}

/// How many chains a table of anybody has in the network namespace of the calling thread; 0 where there is no such
/// table, or no nf_tables.
pub fn nft_chains(family: Family, table: &str) -> io::Result<usize> {
    let mut socket = Socket::open(Protocol::Netfilter).map_err(|e| named("open nfnetlink", e))?;
    match read::chains(&mut socket, family, table) {
        Ok(chains) => Ok(chains.len()),
        Err(error) if matches!(errno(&error), Some(libc::EINVAL | libc::EOPNOTSUPP | libc::EAFNOSUPPORT)) => {
            Ok(0)
        }
        Err(error) => Err(error),
    }
}

impl NftDriver for NftablesDriver {
    fn list(&mut self) -> io::Result<SavedNft> {
        let mut saved = SavedNft::new();
        for family in Family::ALL {
            if (family == Family::V4 || self.ipv6)
                && let Some(table) = read::table(&mut self.socket, family)?
            {
                saved.insert(family, table);
            }
        }
        Ok(saved)
    }

    fn is_own(&self, writer: u32) -> bool {
        writer == self.port
    }

    fn commit(&mut self, changes: &[NftChange]) -> Result<(), NftRefusal> {
        let whole = |error: io::Error| {
            let is_unknown = errno(&error) == Some(libc::ENOBUFS) || error.kind() == io::ErrorKind::TimedOut;
            NftRefusal { error: Some(error), is_unknown, ..NftRefusal::default() }
        };
        if changes.is_empty() {
            return Ok(());
        }
        let mut transaction = Transaction::new(changes);
        self.socket.make_room(transaction.batch.bytes());
        let last = transaction.last();
        let errors = self.socket.transact(&mut transaction.batch, last).map_err(whole)?;
        if errors.is_empty() {
            return Ok(());
        }
        let mut refusal = NftRefusal::default();
        for (message, error) in errors {
            match transaction.changes.get(message).copied().flatten() {
                Some(index) => refusal.changes.push((index, error.into())),
                None => refusal.error = Some(named("nftables transaction", error)),
            }
        }
        Err(refusal)
    }
}
