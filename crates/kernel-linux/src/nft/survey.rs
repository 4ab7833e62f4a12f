//! Who has tables and chains, by anybody.

use std::io;

use crate::nl::{Protocol, Socket, errno, named};

use super::numbers::{CHAIN_NAME, CHAIN_TABLE, GET_CHAIN};

/// A chain of anybody.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ForeignChain {
    /// `ip`, `ip6`, `inet`, or another word of nft.
    pub family: &'static str,
    pub table: String,
    pub chain: String,
}

/// All chains of nf_tables in the network namespace of the calling thread; none on a kernel without.
pub fn all_nft_chains() -> io::Result<Vec<ForeignChain>> {
    let mut socket = Socket::open(Protocol::Netfilter).map_err(|e| named("open nfnetlink", e))?;
    let dumped = socket.dump(
        GET_CHAIN,
        |w| w.bytes(&[0, 0, 0, 0]),
        |found: &mut Vec<ForeignChain>, message| {
            let (mut table, mut chain) = (None, None);
            for attribute in message.attributes(4) {
                match attribute.kind {
                    CHAIN_TABLE => table = Some(attribute.string()),
                    CHAIN_NAME => chain = Some(attribute.string()),
                    _ => {}
                }
            }
            let family = family(message.body.first().copied().unwrap_or(0));
            found.extend(table.zip(chain).map(|(table, chain)| ForeignChain { family, table, chain }));
        },
    );
    match dumped {
        Ok(chains) => Ok(chains),
        Err(error)
            if matches!(
                errno(&error),
                Some(libc::EINVAL | libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::ENOENT)
            ) =>
        {
            Ok(Vec::new())
        }
        Err(error) => Err(named("list nftables chains", error)),
    }
}

/// `NFPROTO_*`.
fn family(number: u8) -> &'static str {
    match number {
        1 => "inet",
        2 => "ip",
        3 => "arp",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        _ => "unknown",
    }
}
