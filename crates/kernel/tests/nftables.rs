//! Our tables of nf_tables over a fake kernel that refuses what the real one refuses.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kernel::fake::{Entry, FakeKernel, FakeNft};
use kernel::nft::{NftApplied, NftObject, Nftables};
use kernel::{
    Chain, ChainName, Hook, InterfaceSide, IpSet, IpSetKind, IpSetMember, IpSetName, IptablesTable, Match,
    PacketRule, PacketSide, RuleAction,
};
use model::Family;

const V4: Family = Family::V4;
const FILTER: IptablesTable = IptablesTable::Filter;

#[test]
fn one_transaction_brings_all_and_one_takes_all() {
    let mut node = Node::new();
    node.want_everything();

    let applied = node.apply();

    assert_eq!((applied.failed.len(), node.tables.pending()), (0, 0));
    assert_eq!(
        node.chains(),
        [
            "filter-FORWARD",
            "filter-cali-FORWARD",
            "filter-cali-from-wl-dispatch",
            "filter-cali-fw-a",
            "filter-cali-pi-p"
        ]
    );
    assert_eq!(node.apply().changes, 0);

    node.tables.want_nothing();
    node.apply();
    assert!(node.kernel.state().nft.is_empty());
}

#[test]
fn a_lost_answer_costs_a_look() {
    let mut node = Node::new();
    node.want_everything();
    node.kernel.state().lost_answers = 1;

    let applied = node.apply();

    assert_eq!((applied.failed.len(), node.tables.pending()), (0, 0));
    let writes = node.kernel.state().writes;
    assert_eq!(node.apply().changes, 0);
    assert_eq!(node.kernel.state().writes, writes, "what was done is not done twice");

    // Later ones, too, and also where the kernel does nothing and says nothing.
    node.kernel.state().lost_answers = 1;
    node.want_chain("cali-fw-b", vec![PacketRule::new(RuleAction::Drop)]);
    assert_eq!((node.apply().failed.len(), node.tables.pending()), (0, 0));
}

#[test]
fn a_pod_more_is_an_entry_more() {
    let mut node = Node::new();
    node.want_everything();
    node.apply();

    node.want_chain("cali-fw-b", vec![PacketRule::new(RuleAction::Drop)]);
    node.want_dispatch(&["a", "b"]);
    let applied = node.apply();

    // The chain, its rule, the entry.
    assert_eq!((applied.changes, applied.objects), (3, 2));
    node.want_dispatch(&["b"]);
    node.want_no_chain("cali-fw-a");
    assert_eq!(node.apply().failed, []);
    assert!(!node.chains().contains(&"filter-cali-fw-a".to_owned()));
}

#[test]
fn what_an_earlier_run_left_goes_and_what_is_right_stays_as_it_is() {
    let mut before = Node::new();
    before.want_everything();
    before.want_chain("cali-fw-stale", vec![PacketRule::jump("cali-pi-p")]);
    before.apply();

    let mut after = Node::over(before.kernel.clone());
    after.want_everything();
    let applied = after.apply();

    assert_eq!((applied.objects, applied.changes), (1, 2), "only the stale chain is flushed and deleted");
    assert!(!after.chains().contains(&"filter-cali-fw-stale".to_owned()));
}

#[test]
fn a_refused_policy_keeps_what_it_was_a_new_one_is_closed_and_both_are_tried_again() {
    let mut node = Node::new();
    node.want_everything();
    node.apply();
    let rules = node.rules("filter-cali-pi-p");
    node.kernel.refuse(Entry::Nft("filter-cali-pi-p".to_owned()));
    node.want_chain("cali-pi-p", vec![PacketRule::new(RuleAction::Accept)]);
    node.want_chain("cali-fw-a", vec![PacketRule::new(RuleAction::Accept)]);

    let applied = node.apply();

    assert_eq!(applied.failed[0].0, NftObject::Chain(V4, "filter-cali-pi-p".into()));
    assert_eq!(node.rules("filter-cali-pi-p"), rules);
    assert_eq!(node.rules("filter-cali-fw-a"), 1, "nothing else waits");
    let missing = node.tables.missing(&NftObject::Chain(V4, "filter-cali-pi-p".into()));
    assert!(missing.unwrap().contains("told to refuse"));

    node.kernel.heal();
    assert_eq!(node.apply().changes, 0, "it waits for its next try");
    node.now += Duration::from_secs(1);
    assert_eq!(node.apply().failed, []);
    assert_eq!((node.rules("filter-cali-pi-p"), node.tables.pending()), (1, 0));
}

#[test]
fn a_policy_whose_set_is_refused_is_closed_until_the_set_is_there() {
    let mut node = Node::new();
    node.kernel.refuse(Entry::Nft("cali40s-x".to_owned()));
    node.want_everything();

    let applied = node.apply();

    assert_eq!(applied.failed.len(), 1, "{applied:?}");
    assert_eq!(node.rules("filter-cali-pi-p"), 1, "closed");
    node.kernel.heal();
    node.now += Duration::from_secs(1);
    assert_eq!(node.apply().failed, []);
    assert_eq!((node.rules("filter-cali-pi-p"), node.tables.pending()), (2, 0));
}

#[test]
fn a_transaction_that_is_refused_whole_waits_and_nothing_is_half_done() {
    let mut node = Node::new();
    node.kernel.refuse(Entry::NftCommit);
    node.want_everything();

    node.tables.apply(node.now).unwrap_err();

    assert!(node.kernel.state().nft.is_empty() && node.tables.blocked().is_some());
    let due = node.tables.poll_timeout().unwrap();
    assert!(due > node.now);
    node.kernel.heal();
    node.now = due;
    assert_eq!(node.apply().failed, []);
    assert_eq!((node.tables.blocked(), node.tables.pending()), (None, 0));
}

#[test]
fn a_table_that_somebody_deleted_meanwhile_is_made_anew_in_the_same_apply() {
    let mut node = Node::new();
    node.want_everything();
    node.apply();
    node.kernel.state().nft.clear();
    node.tables.want_members(&set_name(), &[member("10.0.0.9/32")], &[]);

    let applied = node.apply();

    assert_eq!((applied.failed.len(), node.tables.pending()), (0, 0));
    assert_eq!(node.chains().len(), 5);
}

#[test]
fn any_order_of_wishes_leads_to_the_same_tables() {
    let mut whole = Node::new();
    whole.want_everything();
    whole.apply();
    let mut stepwise = Node::new();
    // As the renderer never does: what refers comes before what is referred to, with a transaction each.
    stepwise.want_dispatch(&["a"]);
    stepwise.apply();
    stepwise.want_everything();
    stepwise.apply();
    stepwise.now += Duration::from_secs(1);
    stepwise.apply();

    assert_eq!(stepwise.tables.resync().unwrap(), 0);
    let tables = |node: &Node| node.kernel.state().nft.clone();
    assert_eq!(tables(&stepwise), tables(&whole));
}

fn set_name() -> IpSetName {
    IpSetName::new(V4, "s:x")
}

fn member(net: &str) -> IpSetMember {
    IpSetMember::Net(net.parse().unwrap())
}

struct Node {
    kernel: FakeKernel,
    tables: Nftables<FakeNft>,
    now: Instant,
}

impl Node {
    fn new() -> Self {
        Self::over(FakeKernel::new())
    }

    fn over(kernel: FakeKernel) -> Self {
        let tables = Nftables::new(kernel.nft());
        Self { kernel, tables, now: Instant::now() }
    }

    fn want_chain(&mut self, name: &str, rules: Vec<PacketRule>) {
        let name = ChainName::fixed(name);
        let chain = Chain { name: name.clone(), rules: rules.into() };
        self.tables.want_chain(V4, FILTER, &name, Some(&chain));
    }

    fn want_no_chain(&mut self, name: &str) {
        self.tables.want_chain(V4, FILTER, &ChainName::fixed(name), None);
    }

    fn want_dispatch(&mut self, pods: &[&str]) {
        let chains = pods.iter().map(|pod| (Arc::from(*pod), ChainName::fixed(&format!("cali-fw-{pod}"))));
        let chains = Arc::new(chains.collect::<BTreeMap<_, _>>());
        let map = RuleAction::InterfaceMap { side: InterfaceSide::In, chains };
        let rules = vec![PacketRule::new(map), PacketRule::new(RuleAction::Drop)];
        self.want_chain("cali-from-wl-dispatch", rules);
    }

    /// A hook, a dispatch, a pod, a policy that asks a set.
    fn want_everything(&mut self) {
        let hook = Hook { inserts: vec![PacketRule::jump("cali-FORWARD")], appends: Vec::new() };
        self.tables.want_hook(V4, FILTER, "FORWARD", &hook);
        self.want_chain("cali-FORWARD", vec![PacketRule::jump("cali-from-wl-dispatch")]);
        self.want_dispatch(&["a"]);
        self.want_chain("cali-fw-a", vec![PacketRule::jump("cali-pi-p")]);
        let (name, side) = (set_name(), PacketSide::Source);
        let asks = Match::Set { name: name.clone(), side, with_port: false, negated: false };
        let rules = vec![PacketRule::new(RuleAction::Accept).when(asks), PacketRule::new(RuleAction::Drop)];
        self.want_chain("cali-pi-p", rules);
        let members = Arc::new([member("10.0.0.1/32")].into());
        self.tables.want_set(&name, Some(IpSet { kind: IpSetKind::Net, family: V4, members }));
    }

    fn apply(&mut self) -> NftApplied {
        self.tables.apply(self.now).unwrap()
    }

    fn chains(&self) -> Vec<String> {
        let state = self.kernel.state();
        state.nft.get(&V4).iter().flat_map(|table| table.chains.keys()).map(|name| name.to_string()).collect()
    }

    fn rules(&self, chain: &str) -> usize {
        self.kernel.state().nft[&V4].chains[chain].rules.len()
    }
}
