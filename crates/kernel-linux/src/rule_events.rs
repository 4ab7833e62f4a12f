//! Changes of the rules of iptables-nft, whoever makes them.
//!
//! The kernel tells of nothing like it for iptables-legacy: see `IptablesDriver::fingerprint`.

use std::collections::HashSet;
use std::io;
use std::thread::{self, JoinHandle};

use kernel::nft::NFT_TABLE;
use kernel::{ChainName, IptablesTable, RuleEvent};
use model::Family;

use crate::nl::{Message, Protocol, Socket, messages, named};

/// Datagrams that are put together before events are delivered, so that a large change counts once.
const BURST: usize = 4096;

/// A socket that hears of rules in the network namespace in which it was opened.
pub struct RuleEvents {
    socket: Socket,
    /// Whose changes were told of, but not yet who that is.
    writers: HashSet<u32>,
}

impl RuleEvents {
    /// Events are kept from here on. Fails where the kernel has no nf_tables.
    pub fn open() -> io::Result<Self> {
        let socket = Socket::open(Protocol::Netfilter).map_err(|e| named("open rule events", e))?;
        socket.set_timeout(0)?;
        socket.join(GROUP).map_err(|e| named("subscribe to changes of rules", e))?;
        Ok(Self { socket, writers: HashSet::new() })
    }

    /// Waits for changes that may concern our rules, and tells equal ones once. Lost ones become `Overrun`. The
    /// list is empty when all that came was of no concern.
    pub fn receive(&mut self) -> io::Result<Vec<RuleEvent>> {
        let (mut events, mut seen) = (Vec::new(), HashSet::new());
        let mut push = |event: RuleEvent| {
            if seen.insert(event.clone()) {
                events.push(event);
            }
        };
        let mut next = self.socket.receive().map(Some);
        for _ in 0..BURST {
            match next {
                Ok(Some(length)) => {
                    for message in messages(self.socket.received(length)) {
                        take(&message, &mut self.writers).into_iter().for_each(&mut push);
                    }
                }
                Ok(None) => break,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.writers.clear();
                    push(RuleEvent::Overrun);
                }
                Err(error) => return Err(named("receive changes of rules", error)),
            }
            next = self.socket.try_receive();
        }
        Ok(events)
    }

    /// Delivers events from a thread of its own, until `deliver` returns `false` or the socket fails.
    pub fn spawn(
        mut self,
        mut deliver: impl FnMut(Vec<RuleEvent>) -> bool + Send + 'static,
    ) -> io::Result<JoinHandle<io::Result<()>>> {
        thread::Builder::new().name("rule-events".to_owned()).spawn(move || {
            loop {
                let events = self.receive()?;
                if !events.is_empty() && !deliver(events) {
                    return Ok(());
                }
            }
        })
    }
}

/// The event that one message is. Writers are named behind what they wrote, where that concerns rules of ours.
fn take(message: &Message<'_>, writers: &mut HashSet<u32>) -> Option<RuleEvent> {
    if message.kind == NFTABLES << 8 | NEW_GENERATION {
        return writers.remove(&message.port).then(|| commit(message));
    }
    let event = parse(message)?;
    writers.insert(message.port);
    Some(event)
}

fn commit(message: &Message<'_>) -> RuleEvent {
    let attributes = message.attributes(NFGENMSG);
    let named = |kind: u16| attributes.into_iter().find(|attribute| attribute.kind == kind);
    let number = |octets: &[u8]| octets.first_chunk::<4>().map(|octets| u32::from_be_bytes(*octets));
    RuleEvent::Commit {
        writer: message.port,
        process: named(ATTR_PROCESS_NAME).map(|name| name.string()).unwrap_or_default().into(),
        pid: named(ATTR_PROCESS_ID).and_then(|pid| number(pid.payload)).unwrap_or_default(),
    }
}

/// The change that one message tells of; `None` where it cannot concern rules of ours.
fn parse(message: &Message<'_>) -> Option<RuleEvent> {
    if message.kind >> 8 != NFTABLES {
        return None;
    }
    let family = match libc::c_int::from(*message.body.first()?) {
        libc::NFPROTO_IPV4 => Family::V4,
        libc::NFPROTO_IPV6 => Family::V6,
        _ => return None,
    };
    let attributes = message.attributes(NFGENMSG);
    let text = |kind: u16| attributes.into_iter().find(|a| a.kind == kind).map(|a| a.string());
    let table = text(ATTR_TABLE)?;
    let writer = message.port;
    if table == NFT_TABLE {
        return Some(RuleEvent::Native { writer });
    }
    if !IptablesTable::ALL.iter().any(|known| known.name() == table) {
        return None;
    }
    let chain = match message.kind & 0xff {
        NEW_TABLE | DELETE_TABLE => None,
        NEW_CHAIN | DELETE_CHAIN => text(ATTR_CHAIN_NAME),
        NEW_RULE | DELETE_RULE => text(ATTR_RULE_CHAIN),
        _ => return None,
    };
    let concerns = |chain: &str| ChainName::is_ours(chain) || KERNEL_CHAINS.contains(&chain);
    chain.as_deref().is_none_or(concerns).then_some(RuleEvent::Iptables { family, writer })
}

/// Chains in which our jumps stand.
const KERNEL_CHAINS: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];
/// NFNLGRP_NFTABLES.
const GROUP: u32 = 7;
const NFTABLES: u16 = 10;
const NFGENMSG: usize = 4;
const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const DELETE_CHAIN: u16 = 5;
const NEW_RULE: u16 = 6;
const DELETE_RULE: u16 = 8;
/// NFT_MSG_NEWGEN: what was written is in force.
const NEW_GENERATION: u16 = 15;
/// NFTA_GEN_PROC_PID and NFTA_GEN_PROC_NAME.
const ATTR_PROCESS_ID: u16 = 2;
const ATTR_PROCESS_NAME: u16 = 3;
/// The table's name stands first in messages of every kind.
const ATTR_TABLE: u16 = 1;
const ATTR_CHAIN_NAME: u16 = 3;
const ATTR_RULE_CHAIN: u16 = 2;
