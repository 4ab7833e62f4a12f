//! Somebody wrote rules to nf_tables, by iptables-nft or otherwise.

use std::sync::Arc;

use model::Family;

/// A change of rules that may concern ours. The writer is the netlink port that the kernel names: of a process that
/// has one socket, its ID.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RuleEvent {
    /// In a chain of ours, or one of the kernel's, of iptables-nft.
    Iptables { family: Family, writer: u32 },
    /// In our own table of nf_tables.
    Native { writer: u32 },
    /// Who the writer of changes before it was: told behind them, as the kernel does.
    Commit { writer: u32, process: Arc<str>, pid: u32 },
    /// Events were lost: anything may have changed.
    Overrun,
}
