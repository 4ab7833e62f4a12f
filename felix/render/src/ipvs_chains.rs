//! Policy where kube-proxy works in mode IPVS: packets to Services then come in through INPUT and go out through
//! OUTPUT, which knows their way in no more. A mark of the packet remembers it (`spec/felix.md` §1.7).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use kernel::{Chain, ChainName, InterfaceSide, Match, PacketRule, PacketSide, RuleAction};
use model::{PortRange, Protocol};

use crate::dispatch::Dispatch;
use crate::marks::{clear_mark, mark_not_clear};
use crate::names::{
    ESTABLISHED, THIS_HOST, TO_HOST_ENDPOINT_FORWARD, TO_WORKLOAD_DISPATCH, conntrack, in_set, protocol,
};
use crate::static_chains::{Static, chain};

const FORWARD_CHECK: &str = "cali-forward-check";
const FORWARD_MARKED: &str = "cali-forward-endpoint-mark";
const FROM_MARK: &str = "cali-from-endpoint-mark";
const SET_MARK: &str = "cali-set-endpoint-mark";

/// What the chains depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct IpvsInput {
    /// By interface of a pod or a host endpoint: the chain that polices what came in through it.
    pub(crate) endpoints: BTreeMap<String, ChainName>,
    /// Ports on which kube-proxy listens for Services on addresses of this node.
    pub(crate) node_ports: Arc<[PortRange]>,
}

/// The bits of a packet's mark that say through which endpoint it came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct EndpointMarks {
    mask: u32,
}

impl EndpointMarks {
    /// Position 1 is for what came in through no endpoint; 0 is no mark.
    const NO_ENDPOINT: u32 = 1;

    /// The bits that policy leaves of the mask; at least two are needed.
    fn new(mask: u32, used: u32) -> Option<Self> {
        let mask = mask & !used;
        (mask.count_ones() >= 2).then_some(Self { mask })
    }

    /// The bits of a position, spread over those of the mask.
    fn value(self, position: u32) -> u32 {
        let (mut rest, mut value) = (self.mask, 0);
        for bit in 0..self.mask.count_ones() {
            let lowest = rest & rest.wrapping_neg();
            rest &= !lowest;
            if position & (1 << bit) != 0 {
                value |= lowest;
            }
        }
        value
    }

    /// A mark for each name, by its hash, or the next one that is free. Without one left, a name has none.
    fn allocate<'a>(self, names: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, u32> {
        let positions = 1_u64 << self.mask.count_ones();
        let mut taken = HashSet::from([0, u64::from(Self::NO_ENDPOINT)]);
        let mut marks = BTreeMap::new();
        for name in names {
            if taken.len() as u64 == positions {
                break;
            }
            let mut position = u64::from(fnv1(name)) % positions;
            while !taken.insert(position) {
                position = (position + 1) % positions;
            }
            marks.insert(name, self.value(u32::try_from(position).unwrap_or_default()));
        }
        marks
    }
}

/// FNV-1 of 32 bits.
fn fnv1(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| hash.wrapping_mul(0x0100_0193) ^ u32::from(byte))
}

/// Can packets be marked so with the bits that there are?
pub(crate) fn has_room(mask: u32, used: u32) -> bool {
    EndpointMarks::new(mask, used).is_some()
}

/// The rules in the chains of the hooks, and the chains that they lead to.
pub(crate) struct Ipvs<'a> {
    statics: &'a Static<'a>,
    input: &'a IpvsInput,
    marks: EndpointMarks,
}

impl<'a> Ipvs<'a> {
    /// `None` where kube-proxy does not work so, and for nftables, which has other base chains.
    pub(crate) fn of(statics: &'a Static<'a>) -> Option<Self> {
        let settings = &statics.input.settings;
        let input = statics.input.ipvs.as_ref().filter(|_| !statics.context.is_nftables())?;
        let marks = EndpointMarks::new(settings.mark_mask, settings.marks.all_and_drop())?;
        Some(Self { statics, input, marks })
    }

    /// In `cali-INPUT`: what goes on to a Service is none of the host's input.
    pub(crate) fn on_input(&self) -> [PacketRule; 3] {
        [
            PacketRule::new(clear_mark(self.marks.mask)),
            PacketRule::jump(FORWARD_CHECK),
            PacketRule::new(RuleAction::Return).when(mark_not_clear(self.marks.mask)),
        ]
    }

    /// In `cali-OUTPUT`: it is forwarded, and policed as such.
    pub(crate) fn on_output(&self) -> PacketRule {
        let marked = RuleAction::Goto(ChainName::fixed(FORWARD_MARKED));
        PacketRule::new(marked).when(mark_not_clear(self.marks.mask))
    }

    /// In `cali-POSTROUTING` of mangle: it was policed already.
    pub(crate) fn on_postrouting(&self) -> PacketRule {
        PacketRule::new(RuleAction::Return).when(mark_not_clear(self.marks.mask))
    }

    /// The chains of the filter table.
    pub(crate) fn chains(&self) -> Vec<Chain> {
        let marks = self.marks.allocate(self.input.endpoints.keys().map(String::as_str));
        let mut chains = vec![
            chain(FORWARD_CHECK, self.forward_check()),
            chain(FORWARD_MARKED, self.forward_marked()),
            chain(FROM_MARK, self.dispatch_by_mark(&marks)),
        ];
        chains.extend(self.set_mark(&marks));
        chains
    }

    fn forward_check(&self) -> Vec<PacketRule> {
        let set = || ChainName::fixed(SET_MARK);
        let host = |negated| in_set(self.statics.input.family, THIS_HOST, PacketSide::Destination, negated);
        let mut rules = vec![PacketRule::new(RuleAction::Return).when(conntrack(&ESTABLISHED))];
        if !self.input.node_ports.is_empty() {
            rules.extend([Protocol::TCP, Protocol::UDP].map(|transport| {
                let ranges = self.input.node_ports.clone();
                PacketRule::new(RuleAction::Goto(set()))
                    .comment("To kubernetes NodePort service")
                    .when(protocol(transport))
                    .when(Match::Ports { side: PacketSide::Destination, ranges, negated: false })
                    .when(host(false))
            }));
        }
        rules.push(PacketRule::jump(SET_MARK).comment("To kubernetes service").when(host(true)));
        rules
    }

    fn set_mark(&self, marks: &BTreeMap<&str, u32>) -> Vec<Chain> {
        let name = |interface: &str| ChainName::limited("cali-sm-", interface);
        let targets = marks.keys().map(|interface| (*interface, name(interface))).collect();
        let unknown = || PacketRule::new(self.statics.context.deny()).comment("Unknown endpoint");
        let mut otherwise = self.statics.of_pods(InterfaceSide::In, unknown);
        let value = self.marks.value(EndpointMarks::NO_ENDPOINT);
        otherwise.push(
            PacketRule::new(RuleAction::SetMark { value, mask: self.marks.mask })
                .comment("Non-Cali endpoint mark"),
        );
        let dispatch = Dispatch {
            root: SET_MARK,
            side: InterfaceSide::In,
            targets: &targets,
            stems: &[],
            before: &[],
            apart: &BTreeSet::new(),
            otherwise: &otherwise,
        };
        let mut chains = dispatch.render(false);
        chains.extend(marks.iter().map(|(interface, value)| {
            let set = RuleAction::SetMark { value: *value, mask: self.marks.mask };
            Chain { name: name(interface), rules: [PacketRule::new(set)].into() }
        }));
        chains
    }

    fn dispatch_by_mark(&self, marks: &BTreeMap<&str, u32>) -> Vec<PacketRule> {
        let policed = marks.iter().map(|(interface, value)| {
            let goto = RuleAction::Goto(self.input.endpoints[*interface].clone());
            PacketRule::new(goto).when(Match::Mark { value: *value, mask: self.marks.mask, negated: false })
        });
        let unknown = PacketRule::new(self.statics.context.deny()).comment("Unknown interface");
        policed.chain([unknown]).collect()
    }

    fn forward_marked(&self) -> Vec<PacketRule> {
        let of_none = self.marks.value(EndpointMarks::NO_ENDPOINT);
        let of_some = Match::Mark { value: of_none, mask: self.marks.mask, negated: true };
        let mut rules = vec![PacketRule::jump(FROM_MARK).when(of_some)];
        rules.extend(self.statics.of_pods(InterfaceSide::Out, || PacketRule::jump(TO_WORKLOAD_DISPATCH)));
        rules.extend([
            PacketRule::jump(TO_HOST_ENDPOINT_FORWARD),
            PacketRule::new(clear_mark(self.marks.mask)),
            self.statics.accepted().comment("Policy explicitly accepted packet."),
        ]);
        rules
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint_has_a_mark_of_its_own_as_long_as_there_are_some() {
        let marks = EndpointMarks::new(0xffff_0000, 0x1f_0000).unwrap();
        assert_eq!((marks.mask, marks.value(EndpointMarks::NO_ENDPOINT)), (0xffe0_0000, 0x20_0000));
        let names: Vec<String> = (0..2_100).map(|n| format!("cali{n}")).collect();

        let found = marks.allocate(names.iter().map(String::as_str));

        let values: HashSet<u32> = found.values().copied().collect();
        assert_eq!((found.len(), values.len()), (2046, 2046), "two of the 2048 are reserved");
        assert!(values.iter().all(|value| value & !marks.mask == 0 && *value != 0 && *value != 0x20_0000));
        assert!(EndpointMarks::new(0x3f_0000, 0x1f_0000).is_none(), "one bit is too few");
    }

    #[test]
    fn the_hash_is_fnv_1() {
        assert_eq!((fnv1(""), fnv1("a")), (0x811c_9dc5, 0x050c_5d7e));
    }
}
