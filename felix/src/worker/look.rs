//! What an operator may ask the dataplane's thread, in its turn: nothing here changes anything.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use felix_dataplane::Ports;
use kernel::interpret::Ruleset as _;
use kernel::interpret::{Packet, Step, Verdict, walk};
use kernel::{DROP_GROUP, rule_text};
use proto::felix as api;

use super::{Worker, host_addresses};
use crate::drop_log::Reason;

/// One question; it sees the thread's state between two turns.
pub struct Question(Box<dyn FnOnce(&mut dyn Look) + Send>);

impl Question {
    pub fn new(work: impl FnOnce(&mut dyn Look) + Send + 'static) -> Self {
        Self(Box::new(work))
    }

    pub(super) fn answer(self, worker: &mut dyn Look) {
        (self.0)(worker);
    }
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Question")
    }
}

/// What can be seen.
pub trait Look {
    /// What the prefix of a rule that logs drops means; `None` when no rule of ours has it.
    fn reason(&self, prefix: &str) -> Option<Reason>;

    /// Walks a packet over the rules that should be in the kernel.
    fn walk(&self, packet: &Packet) -> Walked;

    /// Which of these packets are stopped by those rules? Their interfaces follow from their addresses.
    fn stops(&self, packets: &[Packet]) -> Vec<bool>;

    /// Addresses of this node.
    fn own_addresses(&self) -> BTreeSet<IpAddr>;

    /// The interface of a pod of this node with this address.
    fn pod_interface(&self, address: IpAddr) -> Option<String>;

    /// Intended against actual.
    fn audit(&mut self) -> api::Audit;

    /// The policies that this node needs, and whether they are in the kernel.
    fn policies(&self) -> Vec<api::ProgrammedPolicy>;

    /// The settings in force.
    fn settings(&self) -> Vec<api::Setting>;
}

/// In place of the interface towards addresses that are no local pod's and not the node's.
const ELSEWHERE: &str = "elsewhere";

/// What rules make of a packet.
pub struct Walked {
    pub verdict: Verdict,
    /// The rules that matched and decided or led on.
    pub rules: Vec<api::RuleStep>,
    /// What the rule before the drop logs.
    pub reason: Option<Reason>,
}

impl<P: Ports> Look for Worker<P> {
    fn reason(&self, prefix: &str) -> Option<Reason> {
        reason(prefix)
    }

    fn walk(&self, packet: &Packet) -> Walked {
        let addresses = self.own_addresses();
        let rules = self.dataplane.wanted_rules(&addresses);
        let outcome = walk(&rules, packet);
        let family = packet.family();
        let text = |step: &Step| {
            let chain = kernel::ChainName::fixed(&step.chain);
            let in_chain = rules.chain(family, step.table, &chain).and_then(|chain| chain.get(step.rule));
            in_chain.map(rule_text)
        };
        let steps = outcome.steps.iter().map(|step| api::RuleStep {
            table: step.table.name().to_owned(),
            chain: step.chain.to_string(),
            number: u32::try_from(step.rule + 1).unwrap_or(u32::MAX),
            rule: text(step).unwrap_or_default(),
        });
        let logged = outcome.logged.iter().rev().find(|logged| logged.group == Some(DROP_GROUP));
        let stopped = outcome.verdict.is_stopped();
        Walked {
            verdict: outcome.verdict,
            rules: steps.collect(),
            reason: logged.filter(|_| stopped).and_then(|logged| self.reason(&logged.prefix)),
        }
    }

    fn stops(&self, packets: &[Packet]) -> Vec<bool> {
        let addresses = self.own_addresses();
        let rules = self.dataplane.wanted_rules(&addresses);
        let interface = |address: IpAddr| {
            let elsewhere = || (!addresses.contains(&address)).then(|| ELSEWHERE.to_owned());
            self.pod_interface(address).or_else(elsewhere)
        };
        let is_stopped = |packet: &Packet| {
            let server = packet.service.map_or(packet.destination, |(address, _)| address);
            let (from, to) = (interface(packet.source), interface(server));
            walk(&rules, &packet.via(from.as_deref(), to.as_deref())).verdict.is_stopped()
        };
        packets.iter().map(is_stopped).collect()
    }

    fn own_addresses(&self) -> BTreeSet<IpAddr> {
        host_addresses(&self.host_links)
    }

    fn pod_interface(&self, address: IpAddr) -> Option<String> {
        self.connections.interface_of(address)
    }

    fn audit(&mut self) -> api::Audit {
        let audit = self.dataplane.audit();
        let mut told = api::Audit::default();
        for (kind, found) in audit.kinds {
            told.checked.push(api::Checked { kind: kind.to_string(), entries: found.intended as u64 });
            told.problems.extend(found.error.map(|error| format!("{kind}: {error}")));
            told.differences.extend(found.differences.into_iter().map(|difference| api::Difference {
                kind: kind.to_string(),
                entry: difference.what,
                what: match (difference.intended, difference.actual) {
                    (Some(intended), None) => format!("missing: {intended}"),
                    (None, Some(actual)) => format!("unwanted: {actual}"),
                    (intended, actual) => format!(
                        "changed: {} in place of {}",
                        actual.unwrap_or_default(),
                        intended.unwrap_or_default()
                    ),
                },
                by: String::new(),
            }));
        }
        told
    }

    fn policies(&self) -> Vec<api::ProgrammedPolicy> {
        Vec::new()
    }

    fn settings(&self) -> Vec<api::Setting> {
        Vec::new()
    }
}

/// `D|<i or e>|<policy ID, tier:<name> or another word>|<rule>`.
fn reason(prefix: &str) -> Option<Reason> {
    let mut parts = prefix.split('|');
    let ("D", direction, what) = (parts.next()?, parts.next()?, parts.next()?) else { return None };
    let direction = match direction {
        "i" => "ingress",
        "e" => "egress",
        _ => return None,
    };
    let rule = parts.next().and_then(|rule| rule.parse().ok());
    let reason = Reason { direction: direction.to_owned(), rule, ..Reason::default() };
    let cause = |cause: &str| cause.to_owned();
    Some(match what.split_once(':') {
        Some(("tier", tier)) => {
            Reason { cause: cause("end of tier"), tier: tier.to_owned(), rule: None, ..reason }
        }
        _ if what.contains('/') => Reason { cause: cause("policy"), policy: what.to_owned(), ..reason },
        _ => Reason { cause: what.to_owned(), rule: None, ..reason },
    })
}
