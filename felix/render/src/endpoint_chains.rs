//! The chain that an endpoint's packets pass in one direction (`spec/felix.md` §1.8).

use std::sync::Arc;

use felix_calc::{ActiveEndpoint, ActivePolicy, ActiveTier, EndpointPolicies, PodLimits, PodOptions};
use kernel::{Chain, ChainName, ConntrackState, Match, PacketRule, PacketSide, RejectWith, RuleAction};
use model::{Direction, PolicyKey, PortRange, Protocol};

use crate::compact::{CompactChain, ProfileSays};
use crate::drops::DropReason;
use crate::groups::{Group, groups};
use crate::marks::{clear_mark, mark_clear, mark_set, set_mark};
use crate::names::{ESTABLISHED, IPIP, by_direction, conntrack, profile_chain, protocol, returns};
use crate::settings::{Context, RuleSettings};

/// On which of its ways through the node a packet meets the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// To or from a pod.
    Pod,
    /// Between a host's interface and a local process.
    Host,
    /// As `Host`, for what local processes send to a translated destination (table mangle).
    HostAfterDnat,
    /// Through a host's interface, to or from elsewhere.
    Forward,
    /// Before connection tracking (table raw).
    Untracked,
    /// Before destination NAT (table mangle).
    PreDnat,
}

impl Way {
    /// What local processes and pods send and receive: here a packet that nothing allows is dropped.
    fn is_normal(self) -> bool {
        matches!(self, Way::Pod | Way::Host | Way::HostAfterDnat)
    }
}

/// What decides about the packets of one endpoint on one way.
pub(crate) struct EndpointChain<'a> {
    pub(crate) way: Way,
    pub(crate) direction: Direction,
    pub(crate) tiers: &'a [ActiveTier],
    pub(crate) profiles: &'a [Arc<str>],
    /// Of pods alone.
    pub(crate) limits: PodLimits,
}

/// Chain of what an interface lets in (from the point of view of policy) or out.
pub(crate) fn endpoint_chain(way: Way, direction: Direction, interface: &str) -> ChainName {
    let prefix = match way {
        Way::Pod => by_direction(direction, "cali-tw-", "cali-fw-"),
        Way::Forward => by_direction(direction, "cali-fhfw-", "cali-thfw-"),
        _ => by_direction(direction, "cali-fh-", "cali-th-"),
    };
    ChainName::limited(prefix, interface)
}

/// The chain of what a pod receives or sends, and the groups that it jumps to.
pub(crate) fn render_pod<'a>(
    context: &Context<'_>,
    endpoint: &ActiveEndpoint,
    direction: Direction,
    policy: impl Fn(&PolicyKey) -> Option<&'a Arc<ActivePolicy>>,
    profile: impl Fn(&Arc<str>) -> ProfileSays,
) -> (Chain, Vec<Group>) {
    let name = endpoint_chain(Way::Pod, direction, &endpoint.local.interface);
    let closed = |reason: String| {
        let comment = format!("Endpoint closed: {reason}");
        let rules = context.dropped((direction, &DropReason::Closed), Some(comment), &[]);
        (Chain { name: name.clone(), rules: rules.into() }, Vec::new())
    };
    match &endpoint.policies {
        EndpointPolicies::Closed(reason) => closed(reason.to_string()),
        EndpointPolicies::Open { profiles, tiers } => {
            if let Some(reason) = refusal(context.settings, endpoint) {
                return closed(reason.to_owned());
            }
            let limits = by_direction(direction, endpoint.options.ingress, endpoint.options.egress);
            let chain = EndpointChain { way: Way::Pod, direction, tiers, profiles, limits };
            let (rules, groups) = if context.is_nftables() && !limits_packets(endpoint) {
                let mut rules: Vec<_> = chain.connection_limit().into_iter().collect();
                let compact = CompactChain { direction, tiers, profiles };
                let groups = compact.render(context, policy, profile, &mut rules);
                (rules, groups)
            } else {
                chain.render(context, policy)
            };
            (Chain { name, rules: rules.into() }, groups)
        }
    }
}

/// Is everything that the pod sends or receives dropped?
pub(crate) fn is_closed(settings: &RuleSettings, endpoint: &ActiveEndpoint) -> bool {
    matches!(endpoint.policies, EndpointPolicies::Closed(_)) || refusal(settings, endpoint).is_some()
}

/// Does the pod's chain count packets, whatever they belong to?
pub(crate) fn limits_packets(endpoint: &ActiveEndpoint) -> bool {
    let PodOptions { ingress, egress, .. } = &endpoint.options;
    ingress.packets.is_some() || egress.packets.is_some()
}

/// Why what a pod asks for closes it. Who may send from any address could be anybody.
fn refusal(settings: &RuleSettings, endpoint: &ActiveEndpoint) -> Option<&'static str> {
    let options = &endpoint.options;
    if options.invalid == Some("cni.projectcalico.org/allowedSourcePrefixes") {
        return Some("its allowedSourcePrefixes make no sense");
    }
    let is_refused = !options.allowed_sources.is_empty() && !settings.source_spoofing;
    is_refused.then_some("allowedSourcePrefixes need workloadSourceSpoofing: Any")
}

impl EndpointChain<'_> {
    /// The rules, and the groups of policies that they jump to. A packet that may pass returns with the accept
    /// mark.
    pub(crate) fn render<'a>(
        &self,
        context: &Context<'_>,
        policy: impl Fn(&PolicyKey) -> Option<&'a Arc<ActivePolicy>>,
    ) -> (Vec<PacketRule>, Vec<Group>) {
        let marks = context.marks();
        let mut rules = self.packet_rate(context);
        rules.extend(self.connections(context));
        if self.way != Way::Pod && self.way != Way::Forward {
            let failsafe = by_direction(self.direction, "cali-failsafe-in", "cali-failsafe-out");
            rules.push(PacketRule::jump(failsafe));
        }
        rules.push(PacketRule::new(clear_mark(marks.accept | marks.pass)));
        if (self.way, self.direction) == (Way::Pod, Direction::Egress) {
            rules.extend(encapsulated(context));
        }
        let mut all_groups = Vec::new();
        for tier in self.tiers {
            let policies = by_direction(self.direction, &tier.ingress, &tier.egress);
            let groups = groups(self.direction, policies, &policy);
            if !groups.is_empty() {
                self.tier(context, tier, &groups, &mut rules);
                all_groups.extend(groups);
            }
        }
        if self.way == Way::Forward && all_groups.is_empty() {
            let allow = PacketRule::new(set_mark(marks.accept));
            rules.push(allow.comment("Allow forwarded traffic by default"));
            rules.push(PacketRule::new(RuleAction::Return));
        }
        if self.way.is_normal() {
            self.profiles(context, &mut rules);
        }
        (rules, all_groups)
    }

    /// What belongs to a connection that is there passes, what belongs to none does not.
    fn connections(&self, context: &Context<'_>) -> Vec<PacketRule> {
        if self.way == Way::Untracked {
            return Vec::new();
        }
        let allow = match self.way {
            Way::HostAfterDnat => RuleAction::Return,
            _ => context.allow(),
        };
        let mut rules = Vec::new();
        if allow != RuleAction::Accept {
            let accept = set_mark(context.marks().accept);
            rules.push(PacketRule::new(accept).when(conntrack(&ESTABLISHED)));
        }
        rules.push(PacketRule::new(allow).when(conntrack(&ESTABLISHED)));
        if context.settings.drop_invalid {
            rules.push(PacketRule::new(context.deny()).when(conntrack(&[ConntrackState::Invalid])));
        }
        rules.extend(self.connection_limit());
        rules
    }

    /// Refuses what would be one connection too many.
    fn connection_limit(&self) -> Option<PacketRule> {
        let most = self.limits.connections?;
        let one_too_many = PacketRule::new(RuleAction::Reject(RejectWith::TcpReset))
            .when(protocol(Protocol::TCP))
            .when(Match::TcpSyn)
            .when(Match::ConnectionsAbove(most));
        Some(one_too_many)
    }

    /// Packets above the rate go, whatever they belong to.
    fn packet_rate(&self, context: &Context<'_>) -> Vec<PacketRule> {
        let Some(rate) = self.limits.packets else { return Vec::new() };
        let within = context.marks().scratch0;
        vec![
            PacketRule::new(clear_mark(within)),
            PacketRule::new(set_mark(within)).when(Match::Limit(rate)),
            PacketRule::new(RuleAction::Drop).when(mark_clear(within)),
            PacketRule::new(clear_mark(within)),
        ]
    }

    fn tier(&self, context: &Context<'_>, tier: &ActiveTier, groups: &[Group], rules: &mut Vec<PacketRule>) {
        let marks = context.marks();
        rules.push(PacketRule::new(clear_mark(marks.pass)).comment(format!("Start of tier {}", tier.name)));
        for group in groups {
            let jump = RuleAction::Jump(group.chain_name());
            rules.push(PacketRule::new(jump).when(mark_clear(marks.pass)));
            if self.way == Way::Untracked {
                rules.push(PacketRule::new(RuleAction::NoTrack).when(mark_set(marks.accept)));
            }
            rules.push(returns("Return if policy accepted").when(mark_set(marks.accept)));
        }
        let decides = self.way.is_normal() || self.way == Way::Forward;
        if decides && !tier.default_action_is_pass {
            let comment = format!("End of tier {}. Drop if no policies passed packet", tier.name);
            let reason = DropReason::EndOfTier(tier.name.clone());
            let undecided = [mark_clear(marks.pass)];
            rules.extend(context.dropped((self.direction, &reason), Some(comment), &undecided));
        }
    }

    fn profiles(&self, context: &Context<'_>, rules: &mut Vec<PacketRule>) {
        for profile in self.profiles {
            rules.push(PacketRule::new(RuleAction::Jump(profile_chain(self.direction, profile))));
            rules.push(returns("Return if profile accepted").when(mark_set(context.marks().accept)));
        }
        let comment = "Drop if no profiles matched".to_owned();
        rules.extend(context.dropped((self.direction, &DropReason::NoProfile), Some(comment), &[]));
    }
}

/// A pod's own tunnels would carry packets past the policy of where they end.
pub(crate) fn encapsulated(context: &Context<'_>) -> Vec<PacketRule> {
    let mut rules = Vec::new();
    if !context.settings.vxlan_from_pods {
        let ranges = [PortRange::single(context.settings.vxlan_port)].into();
        let vxlan = PacketRule::new(context.deny())
            .comment("Drop VXLAN encapped packets originating in workloads")
            .when(protocol(Protocol::UDP))
            .when(Match::Ports { side: PacketSide::Destination, ranges, negated: false });
        rules.push(vxlan);
    }
    if !context.settings.ipip_from_pods {
        let ipip = PacketRule::new(context.deny())
            .comment("Drop IPinIP encapped packets originating in workloads")
            .when(protocol(IPIP));
        rules.push(ipip);
    }
    rules
}
