//! Can this kernel hold nftables' rules?

use std::io;

use model::Family;

use crate::nl::{Batch, Protocol, Socket, named};
use crate::rtnl::family_number;

/// Makes a table and deletes it in one transaction, so that nothing is left and no packet sees it.
///
/// Reading is no proof: some kernels have nf_tables without the families of IP, list nothing and refuse every
/// write.
pub fn probe(family: Family) -> io::Result<()> {
    let mut socket = Socket::open(Protocol::Netfilter).map_err(|e| named("open nfnetlink", e))?;
    let header = |w: &mut crate::nl::Writer<'_>| w.bytes(&[family_number(family), 0, 0, 0]);
    let bracket = |w: &mut crate::nl::Writer<'_>| w.bytes(&[0, 0, 0, NFTABLES as u8]);
    let mut batch = Batch::new();
    batch.push(BATCH_BEGIN, 0, bracket);
    let made = batch.push(NFTABLES << 8 | NEW_TABLE, (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16, |w| {
        header(w);
        w.string(TABLE_NAME, PROBE);
    });
    batch.push(NFTABLES << 8 | DELETE_TABLE, 0, |w| {
        header(w);
        w.string(TABLE_NAME, PROBE);
    });
    batch.push(BATCH_END, 0, bracket);
    match socket.transact(&mut batch, made)?.into_values().next() {
        None => Ok(()),
        Some(error) => {
            let what = format!("this kernel takes no nftables rules for {family}");
            Err(io::Error::new(io::ErrorKind::Unsupported, named(what, error).to_string()))
        }
    }
}

const PROBE: &str = "cali-probe";
const NFTABLES: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const TABLE_NAME: u16 = 1;
