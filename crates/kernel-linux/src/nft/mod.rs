//! nf_tables by netlink: one transaction a change on a socket that stays open, so that no process is started and
//! nobody waits for the kernel to give memory back (`spec/kernel.md` §2c).

mod events;
mod expressions;
mod messages;
mod numbers;
mod probe;
mod read;

use std::io;

use kernel::nft::{NftChange, NftDriver, NftRefusal, SavedNft};
use model::Family;

pub use events::{NftEvent, NftEvents};
pub(crate) use probe::probe;

use crate::nl::{Protocol, Socket, named};
use messages::Transaction;

/// Our tables `ip calico` and `ip6 calico`.
pub struct NftablesDriver {
    socket: Socket,
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
        Ok(Self { socket, ipv6 })
    }

    /// The port by which events tell that a change was ours.
    pub fn port(&self) -> io::Result<u32> {
        self.socket.port()
    }

    /// How many chains a table of anybody has; 0 where there is no such table.
    pub fn chains(&mut self, family: Family, table: &str) -> io::Result<usize> {
        read::chains(&mut self.socket, family, table).map(|chains| chains.len())
    }

    /// Takes our tables away, with everything in them.
    pub fn delete_tables(&mut self) -> io::Result<()> {
        for family in Family::ALL {
            let changes = [NftChange::AddTable(family), NftChange::DeleteTable(family)];
            if family == Family::V6 && !self.ipv6 {
                continue;
            }
            self.commit(&changes).map_err(|refusal| {
                let mut errors = refusal.changes.into_iter().map(|(_, error)| error).chain(refusal.error);
                let error = errors.next().unwrap_or_else(|| io::Error::other("refused"));
                named(format!("delete the nftables table for {family}"), error)
            })?;
        }
        Ok(())
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

    fn commit(&mut self, changes: &[NftChange]) -> Result<(), NftRefusal> {
        let whole = |error: io::Error| NftRefusal { changes: Vec::new(), error: Some(error) };
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
        let mut refusal = NftRefusal { changes: Vec::new(), error: None };
        for (message, error) in errors {
            match transaction.changes.get(message).copied().flatten() {
                Some(index) => refusal.changes.push((index, error.into())),
                None => refusal.error = Some(named("nftables transaction", error)),
            }
        }
        Err(refusal)
    }
}
