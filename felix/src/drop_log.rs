//! Hears of dropped packets, puts names to them, and keeps what was made of them for those who ask.
//!
//! Owns the thread that listens, the metric, and who follows. What a record is, is [`crate::drops`]'s.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kernel::{DROP_GROUP, LoggedPacket, PacketHead, Transport};
use kernel_linux::{Nflog, Rtnl};
use parking_lot::Mutex;
use proto::felix as api;
use tokio::sync::broadcast;

use crate::address_book::AddressBook;
use crate::drops::{Drops, is_wanted};
use crate::metrics::{Denied, Metrics};

/// Records that wait for one who follows; a slower one loses the oldest.
const WAITING: usize = 256;
/// Pause before the group is asked for again.
const RETRY: Duration = Duration::from_secs(30);
/// Links and prefixes whose names are remembered.
const REMEMBERED: usize = 4096;
/// Policies that the metric tells apart.
const POLICIES: usize = 256;
/// How long it is believed which policies a tier has.
const TIER_BELIEVED: Duration = Duration::from_secs(10);
/// What stands in the metric for all others.
const OTHER: &str = "other";

/// What a rule that dropped says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reason {
    /// `ingress` or `egress`.
    pub direction: String,
    /// See [`api::Drop::cause`].
    pub cause: String,
    pub policy: String,
    pub tier: String,
    pub rule: Option<u32>,
}

/// Tells the pod of an interface, `namespace/name`.
pub type PodOf = Box<dyn Fn(&str) -> Option<String> + Send>;
/// Tells what the prefix of a rule means.
pub type ReasonOf = Box<dyn Fn(&str) -> Option<Reason> + Send>;
/// Tells the policies of a tier that select the pod of an interface, in a direction.
pub type PoliciesOf = Box<dyn Fn(&TierOf) -> Vec<String> + Send>;

/// Where names come from.
pub struct Names {
    pub node: String,
    pub addresses: Arc<AddressBook>,
    pub pod_of: PodOf,
    /// Asked once for each prefix.
    pub reason_of: ReasonOf,
    /// Asked now and then.
    pub policies_of: PoliciesOf,
}

/// One tier as it concerns one interface in one direction (`ingress`, `egress`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TierOf {
    pub interface: String,
    pub tier: String,
    pub direction: String,
}

/// What was heard, for those who ask.
pub struct DropLog {
    state: Mutex<State>,
    followers: broadcast::Sender<Arc<api::Drop>>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct State {
    drops: Drops,
    problem: String,
    counted: BTreeSet<String>,
}

impl DropLog {
    pub fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        let (followers, _) = broadcast::channel(WAITING);
        Arc::new(Self { state: Mutex::default(), followers, metrics })
    }

    /// What is kept, as far as it is wanted; and from then on what comes.
    pub fn follow(&self, wanted: &api::request::Drops) -> (api::Drops, broadcast::Receiver<Arc<api::Drop>>) {
        let state = self.state.lock();
        // Under the lock: nothing is told twice or not at all.
        let followed = self.followers.subscribe();
        let kept = state.drops.kept().filter(|record| is_wanted(record, &wanted.pod, &wanted.policy));
        let page = api::Drops {
            records: kept.cloned().collect(),
            more: wanted.follow,
            lost: state.drops.lost(),
            problem: state.problem.clone(),
            node: String::new(),
        };
        (page, followed)
    }

    /// Packets so far that are in no record, and why no packets are heard of.
    pub fn state(&self) -> (u64, String) {
        let state = self.state.lock();
        (state.drops.lost(), state.problem.clone())
    }

    /// Listens on a thread of its own as long as the agent runs.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn listen(self: &Arc<Self>, names: Names) -> io::Result<()> {
        let log = self.clone();
        std::thread::Builder::new().name("drops".to_owned()).spawn(move || {
            let mut namer = Namer::new(names);
            loop {
                let Err(error) = log.hear(&mut namer);
                let problem = error.to_string();
                let mut state = log.state.lock();
                if state.problem != problem {
                    tracing::warn!(%error, "dropped packets are not heard of; will be retried");
                    state.problem = problem;
                }
                drop(state);
                std::thread::sleep(RETRY);
            }
        })?;
        Ok(())
    }

    fn hear(&self, namer: &mut Namer) -> io::Result<std::convert::Infallible> {
        let mut nflog = Nflog::open(DROP_GROUP)?;
        self.state.lock().problem.clear();
        loop {
            let heard = nflog.receive()?;
            self.metrics.denied_lost.inc_by(heard.lost);
            self.state.lock().drops.lose(heard.lost);
            for packet in &heard.packets {
                // Another program's rules may log to the group too.
                if let Some(record) = namer.record(packet) {
                    self.take(record, Instant::now());
                }
            }
        }
    }

    pub(crate) fn take(&self, record: api::Drop, now: Instant) {
        let mut state = self.state.lock();
        let label = state.label(&record);
        self.metrics.denied.get_or_create(&label).inc();
        if let Some(record) = state.drops.packet(record, now) {
            self.tell(record);
        }
    }

    /// Writes the records whose time has come.
    pub fn handle_timeout(&self, now: Instant) {
        let mut state = self.state.lock();
        state.drops.handle_timeout(now).into_iter().for_each(|record| self.tell(record));
    }

    fn tell(&self, record: api::Drop) {
        // Nobody follows: then it is kept all the same.
        let _ = self.followers.send(Arc::new(record));
    }
}

impl State {
    /// The label of the metric: so many policies by name, the rest together.
    fn label(&mut self, record: &api::Drop) -> Denied {
        let name = match (record.policy.as_str(), record.policies.as_slice()) {
            // The end of a tier with one policy is that policy's doing.
            ("", [only]) => only.clone(),
            ("", _) if record.tier.is_empty() => record.cause.clone(),
            ("", _) => format!("{} {}", record.cause, record.tier),
            (policy, _) => policy.to_owned(),
        };
        let is_known = self.counted.contains(&name);
        let policy = if is_known || self.counted.len() < POLICIES {
            self.counted.insert(name.clone());
            name
        } else {
            OTHER.to_owned()
        };
        Denied { policy, direction: record.direction.clone() }
    }
}

/// Puts names to a packet.
struct Namer {
    names: Names,
    rtnl: Option<Rtnl>,
    links: HashMap<u32, String>,
    reasons: BTreeMap<String, Option<Reason>>,
    tiers: BTreeMap<TierOf, (Instant, Vec<String>)>,
}

impl Namer {
    fn new(names: Names) -> Self {
        let (links, reasons, tiers) = Default::default();
        Self { names, rtnl: Rtnl::open().ok(), links, reasons, tiers }
    }

    fn record(&mut self, packet: &LoggedPacket) -> Option<api::Drop> {
        let reason = self.reason(&packet.prefix)?;
        let link = if reason.direction == "egress" { packet.in_link } else { packet.out_link };
        // A host endpoint's rules see what it receives come in.
        let link = link.or(packet.in_link).or(packet.out_link);
        let interface = link.map(|index| self.link(index)).unwrap_or_default();
        let place = TierOf { interface, tier: reason.tier, direction: reason.direction };
        let policies = if place.tier.is_empty() { Vec::new() } else { self.policies(&place, Instant::now()) };
        let TierOf { interface, tier, direction } = place;
        let name = |address: IpAddr| self.names.addresses.name(address).unwrap_or_default();
        let mut record = api::Drop {
            time_ms: since_epoch(SystemTime::now()),
            count: 1,
            node: self.names.node.clone(),
            direction,
            pod: (self.names.pod_of)(&interface).unwrap_or_default(),
            interface,
            cause: reason.cause,
            policy: reason.policy,
            tier,
            rule: reason.rule,
            policies,
            ..api::Drop::default()
        };
        if let Some(head) = &packet.head {
            record.source_pod = name(head.source);
            record.destination_pod = name(head.destination);
            describe(&mut record, head);
        }
        Some(record)
    }

    /// `None` when no rule of ours has this prefix.
    fn reason(&mut self, prefix: &str) -> Option<Reason> {
        if let Some(known) = self.reasons.get(prefix) {
            return known.clone();
        }
        if self.reasons.len() >= REMEMBERED {
            self.reasons.clear();
        }
        let reason = (self.names.reason_of)(prefix);
        // What is not known yet may be known soon.
        if reason.is_some() {
            self.reasons.insert(prefix.to_owned(), reason.clone());
        }
        reason
    }

    fn policies(&mut self, place: &TierOf, now: Instant) -> Vec<String> {
        if let Some((at, policies)) = self.tiers.get(place)
            && now.saturating_duration_since(*at) < TIER_BELIEVED
        {
            return policies.clone();
        }
        if self.tiers.len() >= REMEMBERED {
            self.tiers.clear();
        }
        let policies = (self.names.policies_of)(place);
        self.tiers.insert(place.clone(), (now, policies.clone()));
        policies
    }

    /// The name of a link; its number when it is gone.
    fn link(&mut self, index: u32) -> String {
        if let Some(name) = self.links.get(&index) {
            return name.clone();
        }
        let found = self.rtnl.as_mut().and_then(|rtnl| rtnl.link_by_index(index).ok().flatten());
        let Some(link) = found else { return format!("link {index}") };
        if self.links.len() >= REMEMBERED {
            self.links.clear();
        }
        self.links.insert(index, link.name.clone());
        link.name
    }
}

fn describe(record: &mut api::Drop, head: &PacketHead) {
    record.source = head.source.to_string();
    record.destination = head.destination.to_string();
    record.protocol = head.protocol.to_string();
    match head.transport {
        Transport::Ports { source, destination } => {
            record.source_port = Some(source.into());
            record.port = Some(destination.into());
        }
        Transport::Icmp { kind, code } => record.icmp = format!("{kind}/{code}"),
        Transport::Unknown => {}
    }
}

fn since_epoch(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names {
            node: "n1".into(),
            addresses: Arc::default(),
            pod_of: Box::new(|_| Some("default/web".into())),
            reason_of: Box::new(|prefix| {
                let reason = Reason {
                    direction: "ingress".into(),
                    cause: "policy".into(),
                    policy: prefix.strip_prefix("D|i|")?.into(),
                    ..Reason::default()
                };
                Some(reason)
            }),
            policies_of: Box::new(|_| Vec::new()),
        }
    }

    fn packet(prefix: &str) -> LoggedPacket {
        LoggedPacket { prefix: prefix.into(), in_link: None, out_link: None, head: None }
    }

    #[test]
    fn who_follows_gets_what_is_kept_and_then_what_comes() {
        let log = DropLog::new(Arc::new(Metrics::new("n1")));
        let mut namer = Namer::new(names());
        let mut take = |prefix: &str| {
            if let Some(record) = namer.record(&packet(prefix)) {
                log.take(record, Instant::now());
            }
        };
        take("D|i|knp/default/one");
        take("somebody else's");

        let wanted = api::request::Drops { follow: true, ..api::request::Drops::default() };
        let (page, mut followed) = log.follow(&wanted);
        take("D|i|knp/default/two");

        assert_eq!(page.records.iter().map(|r| r.policy.as_str()).collect::<Vec<_>>(), ["knp/default/one"]);
        assert_eq!(followed.try_recv().unwrap().policy, "knp/default/two");
        assert!(followed.try_recv().is_err());
    }

    #[test]
    fn a_metric_has_so_many_policies_and_no_more() {
        let log = DropLog::new(Arc::new(Metrics::new("n1")));
        let mut namer = Namer::new(names());

        for number in 0..POLICIES + 10 {
            let record = namer.record(&packet(&format!("D|i|gnp/p{number}"))).unwrap();
            log.take(record, Instant::now());
        }

        let body = log.metrics.scrape().body;
        let lines = body.lines().filter(|line| line.starts_with("felix_denied_packets_total")).count();
        assert_eq!(lines, POLICIES + 1);
        assert!(
            body.contains(r#"felix_denied_packets_total{policy="other",direction="ingress"} 10"#),
            "{body}"
        );
    }
}
