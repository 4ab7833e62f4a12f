//! The chains of host endpoints, everything that they alone refer to, and the dispatch to them
//! (`spec/felix.md` §1.7, §1.8, §7.3).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use felix_calc::{ActiveHostEndpoint, ActivePolicy, ActiveProfile, ActiveTier, PodLimits};
use kernel::{
    Chain, ChainName, InterfaceMatch, InterfaceSide, IptablesTable, Match, PacketRule, PacketSide, RuleAction,
};
use model::{Cidr, Direction, FailsafePort, Family, HostInterface, PolicyKey, PortRange};

use crate::dispatch::Dispatch;
use crate::endpoint_chains::{EndpointChain, Way, endpoint_chain};
use crate::groups::Group;
use crate::host_links::Governed;
use crate::names::{
    ANY_INTERFACE, FROM_HOST_ENDPOINT, FROM_HOST_ENDPOINT_FORWARD, TO_HOST_ENDPOINT,
    TO_HOST_ENDPOINT_FORWARD, protocol, returns, via,
};
use crate::policy_chains::{render_policy, render_profile};
use crate::settings::{Context, RuleSettings};

/// What the chains of one family are made from.
pub(crate) struct HostChains<'a> {
    pub(crate) settings: &'a RuleSettings,
    pub(crate) family: Family,
    pub(crate) governed: &'a Governed,
    pub(crate) policies: &'a BTreeMap<PolicyKey, Arc<ActivePolicy>>,
    pub(crate) profiles: &'a BTreeMap<Arc<str>, Arc<ActiveProfile>>,
    pub(crate) failsafe_inbound: &'a [FailsafePort],
    pub(crate) failsafe_outbound: &'a [FailsafePort],
}

/// What was made.
#[derive(Default)]
pub(crate) struct Rendered {
    pub(crate) chains: BTreeMap<(IptablesTable, ChainName), Chain>,
    /// Groups of policies that the filter table needs; pods may need them as well.
    pub(crate) filter_groups: Vec<Group>,
}

/// One dispatch and the chains that it leads to.
struct Branch {
    table: IptablesTable,
    way: Way,
    direction: Direction,
    root: &'static str,
}

const BRANCHES: [Branch; 8] = {
    use Direction::{Egress, Ingress};
    use IptablesTable::{Filter, Mangle, Raw};
    const fn branch(table: IptablesTable, way: Way, direction: Direction, root: &'static str) -> Branch {
        Branch { table, way, direction, root }
    }
    [
        branch(Raw, Way::Untracked, Ingress, FROM_HOST_ENDPOINT),
        branch(Raw, Way::Untracked, Egress, TO_HOST_ENDPOINT),
        branch(Mangle, Way::PreDnat, Ingress, FROM_HOST_ENDPOINT),
        branch(Mangle, Way::HostAfterDnat, Egress, TO_HOST_ENDPOINT),
        branch(Filter, Way::Host, Ingress, FROM_HOST_ENDPOINT),
        branch(Filter, Way::Host, Egress, TO_HOST_ENDPOINT),
        branch(Filter, Way::Forward, Ingress, FROM_HOST_ENDPOINT_FORWARD),
        branch(Filter, Way::Forward, Egress, TO_HOST_ENDPOINT_FORWARD),
    ]
};

impl Branch {
    fn tiers<'a>(&self, active: &'a ActiveHostEndpoint) -> &'a [ActiveTier] {
        match self.way {
            Way::Untracked => &active.untracked,
            Way::PreDnat => &active.pre_dnat,
            Way::Forward => &active.forward,
            Way::Pod | Way::Host | Way::HostAfterDnat => &active.normal,
        }
    }

    /// Before tracking and translation only policies that are about that count; without any nothing happens.
    fn concerns(&self, active: &ActiveHostEndpoint) -> bool {
        !matches!(self.way, Way::Untracked | Way::PreDnat) || !self.tiers(active).is_empty()
    }

    /// The host endpoints of single interfaces that it leads to.
    fn of_interfaces<'a>(
        &self,
        governed: &'a Governed,
    ) -> impl Iterator<Item = (&'a HostInterface, &'a Arc<ActiveHostEndpoint>)> {
        governed.interfaces.iter().filter(|(_, active)| self.concerns(active))
    }

    /// The host endpoint that it leads all others to. What is not tracked cannot be policed on every interface
    /// at once.
    fn of_all<'a>(&self, governed: &'a Governed) -> Option<&'a Arc<ActiveHostEndpoint>> {
        let all = governed.all.as_ref().filter(|_| self.way != Way::Untracked);
        all.filter(|active| self.concerns(active))
    }

    fn side(&self) -> InterfaceSide {
        match self.direction {
            Direction::Ingress => InterfaceSide::In,
            Direction::Egress => InterfaceSide::Out,
        }
    }
}

/// The dispatches that lead somewhere.
pub(crate) fn used_roots(governed: &Governed) -> BTreeSet<(IptablesTable, &'static str)> {
    let is_used = |branch: &&Branch| {
        branch.of_interfaces(governed).next().is_some() || branch.of_all(governed).is_some()
    };
    BRANCHES.iter().filter(is_used).map(|branch| (branch.table, branch.root)).collect()
}

impl HostChains<'_> {
    pub(crate) fn render(&self) -> Rendered {
        let mut rendered = Rendered::default();
        for branch in &BRANCHES {
            self.branch(branch, &mut rendered);
        }
        if self.governed.all.is_some() || !self.governed.interfaces.is_empty() {
            for table in [IptablesTable::Raw, IptablesTable::Mangle, IptablesTable::Filter] {
                self.failsafe(table, &mut rendered);
            }
        }
        rendered
    }

    fn branch(&self, branch: &Branch, rendered: &mut Rendered) {
        let context = Context::new(self.settings, self.family, branch.table);
        let mut targets = BTreeMap::new();
        for (interface, active) in branch.of_interfaces(self.governed) {
            targets.insert(interface.as_str(), self.endpoint(&context, branch, interface, active, rendered));
        }
        let mut otherwise = Vec::new();
        if let Some(active) = branch.of_all(self.governed) {
            let chain = self.endpoint(&context, branch, ANY_INTERFACE, active, rendered);
            otherwise.extend(self.skip_pods(branch));
            otherwise.push(PacketRule::new(RuleAction::Goto(chain)));
        }
        let dispatch = Dispatch {
            root: branch.root,
            side: branch.side(),
            targets: &targets,
            stems: &[],
            before: &[],
            apart: &BTreeSet::new(),
            otherwise: &otherwise,
        };
        if context.is_nftables() && targets.is_empty() && otherwise.is_empty() {
            // Nothing leads to it either.
            return;
        }
        let chains = dispatch.render(context.is_nftables());
        rendered.put(branch.table, chains);
    }

    /// What the node sends to its pods is not policed. Policy before translation, and that of forwarded
    /// packets, is about what comes from pods, too (`spec/felix.md` §11).
    fn skip_pods(&self, branch: &Branch) -> Vec<PacketRule> {
        let is_sent =
            matches!(branch.way, Way::Host | Way::HostAfterDnat) && branch.direction == Direction::Egress;
        if !is_sent {
            return Vec::new();
        }
        let comment = "Skip egress WHEP policy for traffic to local workload";
        let skip =
            |prefix: &String| returns(comment).when(via(branch.side(), InterfaceMatch::prefixed(prefix)));
        self.settings.prefixes.iter().map(skip).collect()
    }

    /// One endpoint's chain, and in raw and mangle what it jumps to.
    fn endpoint(
        &self,
        context: &Context<'_>,
        branch: &Branch,
        interface: &str,
        active: &ActiveHostEndpoint,
        rendered: &mut Rendered,
    ) -> ChainName {
        let Branch { table, way, direction, .. } = *branch;
        let name = endpoint_chain(way, direction, interface);
        let chain = EndpointChain {
            way,
            direction,
            tiers: branch.tiers(active),
            profiles: &active.profiles,
            limits: PodLimits::default(),
        };
        let (rules, groups) = chain.render(context, |key| self.policies.get(key));
        rendered.put(table, [Chain { name: name.clone(), rules: rules.into() }]);
        if table == IptablesTable::Filter {
            rendered.filter_groups.extend(groups);
            return name;
        }
        rendered.put(table, groups.iter().filter_map(|group| group.render(context)));
        let policies = groups.iter().flat_map(Group::policies).filter_map(|key| self.policies.get(key));
        rendered.put(table, policies.map(|policy| render_policy(context, policy, direction)));
        if way == Way::HostAfterDnat {
            let profiles = active.profiles.iter().filter_map(|profile| self.profiles.get(profile));
            rendered.put(table, profiles.map(|profile| render_profile(context, profile, direction)));
        }
        name
    }

    /// Ports that stay open whatever policy says. What is not tracked needs them for the way back, too.
    fn failsafe(&self, table: IptablesTable, rendered: &mut Rendered) {
        use PacketSide::{Destination, Source};
        let is_of_family = |net: &Cidr| net.family() == self.family;
        let open = |ports: &[FailsafePort], port_side: PacketSide, net_side: PacketSide| {
            let rule = |failsafe: &FailsafePort| {
                let ranges = [PortRange::single(failsafe.port)].into();
                let net = failsafe.net.map(|net| Match::Net { side: net_side, net, negated: false });
                PacketRule::new(RuleAction::Accept)
                    .when(protocol(failsafe.protocol))
                    .when(Match::Ports { side: port_side, ranges, negated: false })
                    .when_all(net)
            };
            let ports = ports.iter().filter(|port| port.net.as_ref().is_none_or(is_of_family));
            ports.map(rule).collect::<Vec<_>>()
        };
        let mut inbound = open(self.failsafe_inbound, Destination, Source);
        let mut outbound = open(self.failsafe_outbound, Destination, Destination);
        if table == IptablesTable::Raw {
            inbound.extend(open(self.failsafe_outbound, Source, Source));
            outbound.extend(open(self.failsafe_inbound, Source, Destination));
        }
        let chain =
            |name, rules: Vec<PacketRule>| Chain { name: ChainName::fixed(name), rules: rules.into() };
        rendered.put(table, [chain("cali-failsafe-in", inbound), chain("cali-failsafe-out", outbound)]);
    }
}

impl Rendered {
    fn put(&mut self, table: IptablesTable, chains: impl IntoIterator<Item = Chain>) {
        self.chains.extend(chains.into_iter().map(|chain| ((table, chain.name.clone()), chain)));
    }
}
