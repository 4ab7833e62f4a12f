//! Changes of our tables by somebody else.

use std::collections::BTreeSet;
use std::io;
use std::thread::{self, JoinHandle};

use kernel::nft::NFT_TABLE;

use super::numbers::*;
use super::read::be32;
use crate::nl::{Message, Protocol, Socket, messages, named};

/// Datagrams that are put together before an event is delivered, so that a burst counts once.
const BURST: usize = 1024;

/// Somebody else changed what is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NftEvent {
    /// Name and ID of the processes, where the kernel tells; empty where events were lost.
    pub by: BTreeSet<(String, u32)>,
}

/// A socket that hears of changes in the network namespace in which it was opened.
pub struct NftEvents {
    socket: Socket,
    /// Whose changes are no news.
    own: u32,
}

impl NftEvents {
    /// Events are kept from here on, until `receive` takes them; `own` is [`super::NftablesDriver::port`].
    pub fn open(own: u32) -> io::Result<Self> {
        let socket = Socket::open(Protocol::Netfilter).map_err(|e| named("open event socket", e))?;
        socket.set_timeout(0)?;
        socket.join(GROUP).map_err(|e| named("subscribe to nftables events", e))?;
        Ok(Self { socket, own })
    }

    /// Waits for a change of ours that we did not make; others' tables are passed over.
    pub fn receive(&mut self) -> io::Result<NftEvent> {
        let mut burst = Burst { own: self.own, is_touched: false, event: None };
        let mut next = self.socket.receive().map(Some);
        loop {
            for _ in 0..BURST {
                match next {
                    Ok(Some(length)) => messages(self.socket.received(length)).for_each(|m| burst.add(&m)),
                    Ok(None) => break,
                    Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => burst.lost(),
                    Err(error) => return Err(named("receive nftables events", error)),
                }
                next = self.socket.try_receive();
            }
            if burst.is_touched {
                // The transaction's end, with the name of the process, is on its way.
                next = self.socket.receive().map(Some);
            } else if let Some(event) = burst.event.take() {
                return Ok(event);
            } else {
                next = self.socket.receive().map(Some);
            }
        }
    }

    /// Delivers events from a thread of its own, until `deliver` returns `false` or the socket fails.
    pub fn spawn(
        mut self,
        mut deliver: impl FnMut(NftEvent) -> bool + Send + 'static,
    ) -> io::Result<JoinHandle<io::Result<()>>> {
        thread::Builder::new().name("nftables-events".to_owned()).spawn(move || {
            loop {
                let event = self.receive().inspect_err(|_| {
                    deliver(NftEvent { by: BTreeSet::new() });
                })?;
                if !deliver(event) {
                    return Ok(());
                }
            }
        })
    }
}

struct Burst {
    own: u32,
    /// Did the transaction that is being told of touch a table of ours?
    is_touched: bool,
    event: Option<NftEvent>,
}

impl Burst {
    fn add(&mut self, message: &Message<'_>) {
        if message.kind == NEW_GENERATION {
            if std::mem::take(&mut self.is_touched) {
                let event = self.event.get_or_insert_with(|| NftEvent { by: BTreeSet::new() });
                event.by.extend(process(message));
            }
            return;
        }
        // Table, chain, rule, set and element all name the table by attribute 1.
        let is_known = (NEW_TABLE..NEW_GENERATION).contains(&message.kind);
        let mut attributes = message.attributes(4);
        if is_known && message.port != self.own {
            let table = attributes.find(|attribute| attribute.kind == TABLE_NAME);
            self.is_touched |= table.is_some_and(|table| table.string() == NFT_TABLE);
        }
    }

    fn lost(&mut self) {
        self.is_touched = false;
        self.event.get_or_insert_with(|| NftEvent { by: BTreeSet::new() });
    }
}

fn process(message: &Message<'_>) -> Option<(String, u32)> {
    const PROCESS_ID: u16 = 2;
    const PROCESS_NAME: u16 = 3;
    let find = |kind| message.attributes(4).find(|attribute| attribute.kind == kind);
    Some((find(PROCESS_NAME)?.string(), be32(&find(PROCESS_ID)?)?))
}
