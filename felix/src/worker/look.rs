//! What an operator may ask the dataplane's thread, in its turn: nothing here changes anything.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use felix_calc::EndpointPolicies;
use felix_dataplane::{ForeignWriter, Ports};
use felix_render::{DropPlace, DropReason};
use kernel::interpret::Ruleset as _;
use kernel::interpret::{Packet, Step, Verdict, walk};
use kernel::{DROP_GROUP, rule_text};
use model::{Direction, FailsafePort, FelixConfiguration};
use proto::felix as api;

use super::Worker;
use super::links::host_addresses;
use crate::drop_log::{Reason, TierOf};
use crate::operator::met::{Met, Noted};

/// One question; it sees the thread's state between two turns.
pub struct Question(Work);

type Work = Box<dyn FnOnce(&mut dyn Look) + Send>;

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

    /// The policies of a tier that select a pod in a direction.
    fn tier_policies(&self, place: &TierOf) -> Vec<String>;

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

    /// The policies that this node needs, and whether they are in the kernel; its host endpoints, and its problems.
    fn policies(&self) -> api::PolicyStatus;

    /// The settings in force.
    fn settings(&self) -> Vec<api::Setting>;
}

/// In place of the interface towards addresses that are no local pod's and not the node's.
const ELSEWHERE: &str = "elsewhere";

/// Policies that are named of one tier.
const MOST_POLICIES: usize = 8;

/// What rules make of a packet.
pub struct Walked {
    pub verdict: Verdict,
    /// The rules that matched and decided or led on.
    pub rules: Vec<api::RuleStep>,
    /// What the rule before the drop logs.
    pub reason: Option<Reason>,
    /// Everything that it met.
    pub met: Met,
}

impl<P: Ports> Look for Worker<P> {
    fn reason(&self, prefix: &str) -> Option<Reason> {
        self.renderer.explain_prefix(prefix).map(of_place).or_else(|| unknown(prefix))
    }

    fn tier_policies(&self, place: &TierOf) -> Vec<String> {
        let Some(endpoint) = self.renderer.endpoint(&place.interface) else { return Vec::new() };
        let EndpointPolicies::Open { tiers, .. } = &endpoint.policies else { return Vec::new() };
        let Some(tier) = tiers.iter().find(|tier| *tier.name == *place.tier) else { return Vec::new() };
        let keys = if place.direction == "egress" { &tier.egress } else { &tier.ingress };
        keys.iter().take(MOST_POLICIES).map(ToString::to_string).collect()
    }

    fn walk(&self, packet: &Packet) -> Walked {
        let addresses = self.own_addresses();
        let rules = self.dataplane.wanted_rules(&addresses);
        let noted = Noted::new(&rules, packet);
        let outcome = walk(&noted, packet);
        let met = noted.into_met();
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
            met,
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
        let mut told = api::Audit::default();
        for (kind, found) in self.dataplane.audit().kinds {
            let kind = kind.to_string();
            told.checked.push(api::Checked { kind: kind.clone(), entries: found.intended as u64 });
            told.problems.extend(found.error.map(|error| format!("{kind}: {error}")));
            let by = found.writer.as_ref().filter(|writer| writer.at.elapsed() < BLAMED).map(named);
            let by = by.unwrap_or_default();
            told.differences.extend(found.differences.into_iter().map(|difference| api::Difference {
                kind: kind.clone(),
                entry: difference.what,
                what: changed(difference.intended, difference.actual),
                by: by.clone(),
            }));
            told.writers.extend(found.writer.map(|writer| api::Writer {
                kind,
                process: writer.process.to_string(),
                pid: writer.pid,
                seconds_ago: writer.at.elapsed().as_secs(),
            }));
        }
        self.audit_links(&mut told);
        let names: BTreeSet<&str> = self.encapsulations.iter().map(|wanted| wanted.name()).collect();
        let names = names.into_iter().map(str::to_owned).collect();
        told.encapsulations = Some(api::Encapsulations { names });
        told
    }

    fn policies(&self) -> api::PolicyStatus {
        let told = self.policies.now();
        let policies = told.policies.iter().map(|(policy, programmed)| api::ProgrammedPolicy {
            policy: policy.clone(),
            generation: programmed.generation,
            programmed: programmed.error.is_none(),
            error: programmed.error.clone().unwrap_or_default(),
        });
        let governed = told.host_endpoints.iter().map(|(interface, name)| api::GovernedInterface {
            interface: interface.clone(),
            host_endpoint: name.to_string(),
        });
        api::PolicyStatus {
            node: String::new(),
            policies: policies.collect(),
            host_endpoints: governed.collect(),
            problems: told.problems.clone(),
        }
    }

    fn settings(&self) -> Vec<api::Setting> {
        let built_in = FelixConfiguration::default();
        let own = self.overrides.of_environment().apply(FelixConfiguration::default());
        let with_file = self.overrides.apply(FelixConfiguration::default());
        let notes = self.configuration.notes.iter().map(|note| api::Setting {
            name: note.name.clone(),
            value: note.value.clone(),
            source: note.source.to_string(),
            ignored: note.reason.to_string(),
        });
        let files = fields(&own).into_iter().zip(fields(&with_file));
        let now = fields(&self.configuration).into_iter().zip(files).zip(fields(&built_in));
        let in_force =
            now.map(|(((name, value), ((_, of_environment), (_, of_file))), (_, of_default))| api::Setting {
                name,
                source: match () {
                    () if value == of_default => "default",
                    () if value == of_environment => "environment",
                    () if value == of_file => "configuration file",
                    () => "FelixConfiguration",
                }
                .to_owned(),
                value,
                ignored: String::new(),
            });
        in_force.chain(notes).collect()
    }
}

impl<P: Ports> Worker<P> {
    /// Links are made by others; here it is told which of them pods lack, and which have no pod.
    fn audit_links(&mut self, told: &mut api::Audit) {
        const KIND: &str = "link";
        let wanted: BTreeSet<String> = self.dataplane.pod_interfaces().cloned().collect();
        told.checked.push(api::Checked { kind: KIND.to_owned(), entries: wanted.len() as u64 });
        let links = match (self.read_links)() {
            Ok(links) => links,
            Err(error) => return told.problems.push(format!("{KIND}: {error}")),
        };
        let up = || Some("up".to_owned());
        let states: BTreeMap<&str, bool> = links.iter().map(|link| (link.name.as_str(), link.up)).collect();
        let mut differ = |entry: &str, intended, actual| {
            let what = changed(intended, actual);
            let (kind, entry, by) = (KIND.to_owned(), entry.to_owned(), String::new());
            told.differences.push(api::Difference { kind, entry, what, by });
        };
        for interface in &wanted {
            match states.get(interface.as_str()) {
                Some(true) => {}
                Some(false) => differ(interface, up(), Some("down".to_owned())),
                None => differ(interface, up(), None),
            }
        }
        let of_pods = states.keys().filter(|name| self.is_pod_link(name) && !wanted.contains(**name));
        of_pods.for_each(|name| differ(name, None, Some("a link of no pod".to_owned())));
    }
}

/// Whoever wrote longer ago than this has nothing to do with what differs now: that was put right meanwhile.
const BLAMED: Duration = Duration::from_secs(60);

fn named(writer: &ForeignWriter) -> String {
    format!("{} (process {})", writer.process, writer.pid)
}

/// One difference in words.
fn changed(intended: Option<String>, actual: Option<String>) -> String {
    match (intended, actual) {
        (Some(intended), None) => format!("missing: {intended}"),
        (None, Some(actual)) => format!("unwanted: {actual}"),
        (intended, actual) => {
            format!("changed: {} in place of {}", actual.unwrap_or_default(), intended.unwrap_or_default())
        }
    }
}

/// Names, in the spelling of the custom resource, and values.
macro_rules! fields {
    ($configuration:expr, $($field:ident)*) => {
        vec![$((camel(stringify!($field)), shown(format!("{:?}", $configuration.$field)))),*]
    };
}

fn fields(configuration: &FelixConfiguration) -> Vec<(String, String)> {
    let mut all = fields!(configuration,
        interface_prefix interface_exclude chain_insert_mode endpoint_to_host_action nftables_mode
        iptables_backend mark_mask filter_allow_action filter_deny_action mangle_allow_action nftables
        iptables_refresh_interval iptables_post_write_check_interval
        ipsets_refresh_interval route_refresh_interval interface_refresh_interval max_ipset_size mtu
        tunnel_mtus mtu_iface_pattern ipv6 ip_forwarding ipv4_routes ipv6_routes route_protocol remove_external_routes
        log_severity log_prefix
        log_rate_limit drop_log failsafe_inbound failsafe_outbound nat_port_range node_port_ranges nat_outgoing_address
        nat_outgoing_interface_filter nat_outgoing_exclusions service_loop_prevention
        workload_source_spoofing floating_ips allow_vxlan_from_workloads allow_ipip_from_workloads
        checksum_offload_broken clamp_mss vxlan_port vxlan_vni vxlan_enabled external_nodes disable_conntrack_invalid_check
        policy_conntrack_strict health metrics
    );
    for (name, value) in &mut all {
        *value = match name.as_str() {
            "markMask" => format!("{:#x}", configuration.mark_mask),
            "failsafeInbound" => ports(&configuration.failsafe_inbound),
            "failsafeOutbound" => ports(&configuration.failsafe_outbound),
            _ => continue,
        };
    }
    all
}

fn ports(ports: &[FailsafePort]) -> String {
    let net = |port: &FailsafePort| port.net.map(|net| format!(" of {net}")).unwrap_or_default();
    let one = |port: &FailsafePort| format!("{} {}{}", port.protocol, port.port, net(port));
    ports.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |mut name, word| {
        let mut letters = word.chars();
        name.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
        name.push_str(letters.as_str());
        name
    })
}

/// Without the wrapping of optional values.
fn shown(value: String) -> String {
    let inner = value.strip_prefix("Some(").and_then(|rest| rest.strip_suffix(')'));
    let value = inner.map_or(value.clone(), str::to_owned);
    if value == "None" { String::new() } else { value.trim_matches('"').to_owned() }
}

fn of_place(place: DropPlace) -> Reason {
    let direction = match place.direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    let reason = Reason { direction: direction.to_owned(), ..Reason::default() };
    let number = |rule: usize| Some(u32::try_from(rule).unwrap_or(u32::MAX));
    let cause = |cause: &str| cause.to_owned();
    match place.reason {
        DropReason::Policy(key, rule) => {
            Reason { cause: cause("policy"), policy: key.to_string(), rule: number(rule), ..reason }
        }
        DropReason::Profile(name, rule) => {
            Reason { cause: cause("profile"), policy: format!("pro/{name}"), rule: number(rule), ..reason }
        }
        DropReason::EndOfTier(tier) => {
            Reason { cause: cause("end of tier"), tier: tier.to_string(), ..reason }
        }
        DropReason::NoProfile => Reason { cause: cause("no profile"), ..reason },
        DropReason::Closed => Reason { cause: cause("closed"), ..reason },
        DropReason::UnknownInterface => Reason { cause: cause("unknown interface"), ..reason },
        DropReason::Spoofed => Reason { cause: cause("spoofed source"), ..reason },
    }
}

/// A prefix in our form that names what is gone by now: told as it stands.
fn unknown(prefix: &str) -> Option<Reason> {
    let mut parts = prefix.strip_prefix("D|")?.split('|');
    let direction = match parts.next()? {
        "i" => "ingress",
        "e" => "egress",
        _ => return None,
    };
    let policy = parts.next()?.to_owned();
    let rule = parts.next().and_then(|rule| rule.parse().ok());
    let direction = direction.to_owned();
    Some(Reason { direction, cause: "policy".to_owned(), policy, rule, ..Reason::default() })
}
