//! What stands where packets come by in the kernel, for nftables.
//!
//! A base chain costs every packet something even when it is empty, and so does every jump: a base chain is only
//! there when something has to be decided in it, its rules stand in it themselves, and packets of connections that
//! are there meet as little as possible.

use kernel::{
    Chain, Hook, HookName, InterfaceMatch, InterfaceSide, IptablesTable, Match, PacketRule, RuleAction,
};
use model::Direction;

use crate::drops::DropReason;
use crate::marks::{clear_mark, mark_clear, set_mark};
use crate::names::{
    ESTABLISHED, FROM_HOST_ENDPOINT, FROM_HOST_ENDPOINT_FORWARD, FROM_WORKLOAD_DISPATCH, TO_HOST_ENDPOINT,
    TO_HOST_ENDPOINT_FORWARD, TO_WORKLOAD_DISPATCH, conntrack, via,
};
use crate::nat_chains;
use crate::static_chains::{Static, StaticInput, chain};

/// The rules of the base chains of a table; none where nothing is to be decided.
pub(crate) fn render_base(input: &StaticInput, table: IptablesTable) -> Vec<(HookName, Hook)> {
    let statics = Static::new(input, table);
    let rules = match table {
        IptablesTable::Raw => {
            vec![("PREROUTING", statics.base_raw_in()), ("OUTPUT", statics.base_raw_out())]
        }
        IptablesTable::Mangle => {
            vec![("PREROUTING", statics.base_mangle_in()), ("POSTROUTING", statics.base_mangle_out())]
        }
        IptablesTable::Nat => nat_chains::base(&input.nat, input.family),
        IptablesTable::Filter => vec![
            ("INPUT", statics.base_input()),
            ("FORWARD", statics.base_forward()),
            ("OUTPUT", statics.base_output()),
        ],
    };
    rules.into_iter().map(|(name, inserts)| (name, Hook { inserts, appends: Vec::new() })).collect()
}

/// The static chains of a table that its base chains lead to.
pub(crate) fn render_behind(input: &StaticInput, table: IptablesTable) -> Vec<Chain> {
    let statics = Static::new(input, table);
    let mut chains = match table {
        IptablesTable::Raw => statics.spoofed(),
        IptablesTable::Mangle => vec![statics.egress_dscp()],
        IptablesTable::Nat => nat_chains::behind(&input.nat, input.family).into(),
        IptablesTable::Filter => {
            vec![chain("cali-wl-to-host", statics.pod_to_host()), chain(UNUSED, statics.unused_services())]
        }
    };
    chains.retain(|chain| !chain.rules.is_empty());
    chains
}

const SPOOFED: &str = "cali-rpf";
const UNUSED: &str = "cali-cidr-block";

impl Static<'_> {
    /// Is there policy of host endpoints behind this name?
    fn has(&self, root: &'static str) -> bool {
        self.input.host_roots.contains(&(self.context.table, root))
    }

    /// Does a host endpoint govern any interface? Policy before tracking and translation may then have marked
    /// packets as accepted; without, nobody has, and what is marked so is somebody else's.
    fn governs(&self) -> bool {
        self.input.host_roots.contains(&(IptablesTable::Filter, FROM_HOST_ENDPOINT))
    }

    /// The route back is only asked for where a packet comes from a pod: the answer costs ten times what comparing the
    /// interface's name does, and a packet of a VXLAN tunnel comes by here twice where it arrives.
    fn base_raw_in(&self) -> Vec<PacketRule> {
        let mut rules = Vec::new();
        rules.extend(self.governs().then(|| PacketRule::new(clear_mark(self.context.marks().all()))));
        rules.extend(self.untracked_vxlan());
        rules.extend(self.input.settings.prefixes.iter().map(|prefix| {
            let from_pod = via(InterfaceSide::In, InterfaceMatch::prefixed(prefix));
            PacketRule::jump(SPOOFED).when(from_pod).when(Match::ReversePathFails)
        }));
        if self.has(FROM_HOST_ENDPOINT) {
            rules.extend([PacketRule::jump(FROM_HOST_ENDPOINT), self.accepted()]);
        }
        rules
    }

    /// What has another way back than it came, and comes from a pod, must be allowed to.
    fn spoofed(&self) -> Vec<Chain> {
        let mut rules = self.allowed_sources();
        let mut chains = Vec::new();
        let place = (Direction::Egress, &DropReason::Spoofed);
        let drop = match self.context.dropped(place, None, &[]) {
            one if one.len() < 2 => RuleAction::Drop,
            many => {
                let record = chain("cali-rpf-drop", many);
                let to = RuleAction::Goto(record.name.clone());
                chains.push(record);
                to
            }
        };
        rules.extend(self.of_pods(InterfaceSide::In, || PacketRule::new(drop.clone())));
        chains.push(chain(SPOOFED, rules));
        chains
    }

    fn base_raw_out(&self) -> Vec<PacketRule> {
        let mut rules = Vec::new();
        rules.extend(self.governs().then(|| PacketRule::new(clear_mark(self.context.marks().all()))));
        rules.extend(self.has(TO_HOST_ENDPOINT).then(|| PacketRule::jump(TO_HOST_ENDPOINT)));
        rules.extend(self.untracked_vxlan());
        rules.extend(self.has(TO_HOST_ENDPOINT).then(|| self.accepted()));
        rules
    }

    fn base_mangle_in(&self) -> Vec<PacketRule> {
        if self.has(FROM_HOST_ENDPOINT) { self.mangle_prerouting() } else { Vec::new() }
    }

    fn base_mangle_out(&self) -> Vec<PacketRule> {
        let mut rules: Vec<_> = self.clamped_mss().into_iter().chain(self.to_egress_dscp()).collect();
        if self.has(TO_HOST_ENDPOINT) {
            rules.extend(self.mangle_postrouting());
        }
        rules
    }

    fn base_forward(&self) -> Vec<PacketRule> {
        let marks = self.context.marks();
        let mut rules = Vec::new();
        if !self.input.limits_packets {
            rules.extend(self.established_first());
        }
        let kept = if self.governs() { marks.accept } else { 0 };
        rules.push(PacketRule::new(clear_mark(marks.all() & !kept)));
        if self.has(FROM_HOST_ENDPOINT_FORWARD) {
            rules.push(PacketRule::jump(FROM_HOST_ENDPOINT_FORWARD).when(mark_clear(marks.accept)));
        }
        for prefix in &*self.input.settings.prefixes {
            let through = |side| via(side, InterfaceMatch::prefixed(prefix));
            rules.push(PacketRule::jump(FROM_WORKLOAD_DISPATCH).when(through(InterfaceSide::In)));
            rules.push(PacketRule::jump(TO_WORKLOAD_DISPATCH).when(through(InterfaceSide::Out)));
        }
        if self.has(TO_HOST_ENDPOINT_FORWARD) {
            rules.push(PacketRule::jump(TO_HOST_ENDPOINT_FORWARD));
        }
        if !self.unused_services().is_empty() {
            rules.push(PacketRule::jump(UNUSED));
        }
        rules.push(self.accepted().comment("Policy explicitly accepted packet."));
        if self.governs() {
            rules.push(PacketRule::new(set_mark(marks.accept)));
        }
        rules
    }

    /// Every endpoint's chain lets packets of connections pass that are there, but those of closed endpoints: so
    /// most packets need no dispatch.
    fn established_first(&self) -> Vec<PacketRule> {
        let sides = [InterfaceSide::In, InterfaceSide::Out].into_iter().zip(&self.input.closed);
        let closed = sides.filter(|(_, chains)| !chains.is_empty());
        let closed = closed.map(|(side, chains)| {
            PacketRule::new(RuleAction::InterfaceMap { side, chains: chains.clone().into() })
        });
        let mut rules: Vec<_> = closed.collect();
        if self.context.allow() != RuleAction::Accept {
            let accept = set_mark(self.context.marks().accept);
            rules.push(PacketRule::new(accept).when(conntrack(&ESTABLISHED)));
        }
        rules.push(PacketRule::new(self.context.allow()).when(conntrack(&ESTABLISHED)));
        rules
    }

    fn base_input(&self) -> Vec<PacketRule> {
        let mut rules = self.tunnels_in();
        rules.extend(self.pods_to_host());
        if self.has(FROM_HOST_ENDPOINT) {
            rules.extend(self.host_input());
        }
        rules
    }

    /// Others' chains still decide about what this one accepts: without policy nothing is left to say.
    fn base_output(&self) -> Vec<PacketRule> {
        if self.has(TO_HOST_ENDPOINT) { self.filter_output() } else { Vec::new() }
    }
}
