//! Dispatch to the chains of endpoints by interface (`spec/felix.md` §1.7).
//!
//! For iptables a tree by the next character in which the names differ, with Calico's names, and one level deeper where a
//! branch has many members, because a packet is compared with every member of a branch. The tree to pods has two levels
//! of branches however few pods there are: so one more pod only adds rules, and takes none away, which would cost it
//! some twenty milliseconds (`docs/benchmarks.md`). For nftables one map.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kernel::{Chain, ChainName, InterfaceMatch, InterfaceSide, PacketRule, RuleAction};

use crate::names::via;

/// A branch with more members than this has branches itself.
const LEAF: usize = 16;
/// So many levels has the tree to pods always.
const LEVELS: usize = 2;

/// One dispatch: from interfaces to chains.
pub(crate) struct Dispatch<'a> {
    pub(crate) root: &'static str,
    pub(crate) side: InterfaceSide,
    pub(crate) targets: &'a BTreeMap<&'a str, ChainName>,
    /// Beginnings that the names of interfaces are to have, where pods come and go by themselves; else none.
    pub(crate) stems: &'a [String],
    /// What stands before the dispatch where that is a map.
    pub(crate) before: &'a [PacketRule],
    /// Those of the targets that are dispatched to before that.
    pub(crate) apart: &'a BTreeSet<&'a str>,
    /// What is done with every other interface; at the end of each chain.
    pub(crate) otherwise: &'a [PacketRule],
}

impl Dispatch<'_> {
    /// The root and its branches.
    pub(crate) fn render(&self, with_map: bool) -> Vec<Chain> {
        if !with_map {
            let mut chains = Vec::new();
            let all: Vec<&str> = self.targets.keys().copied().collect();
            let names = all.iter().copied().chain(self.stems.iter().map(String::as_str));
            let cut = common_prefix(names);
            let levels = if self.stems.is_empty() { 0 } else { LEVELS };
            self.branch(ChainName::fixed(self.root), (cut, cut.len(), levels), &all, &mut chains);
            return chains;
        }
        let mut rules = Vec::new();
        rules.extend(self.map(true));
        rules.extend(self.map(false).into_iter().flat_map(|map| self.before.iter().cloned().chain([map])));
        rules.extend(self.otherwise.iter().cloned());
        vec![Chain { name: ChainName::fixed(self.root), rules: rules.into() }]
    }

    fn map(&self, apart: bool) -> Option<PacketRule> {
        let members = self.targets.iter().filter(|(interface, _)| self.apart.contains(*interface) == apart);
        let map: BTreeMap<Arc<str>, ChainName> =
            members.map(|(interface, chain)| (Arc::from(*interface), chain.clone())).collect();
        let map = (!map.is_empty()).then(|| Arc::new(map))?;
        Some(PacketRule::new(RuleAction::InterfaceMap { side: self.side, chains: map }))
    }

    /// The chain that leads to `members`, whose names begin with `common`, and those below it. Their names differ from
    /// the root's by what stands behind `cut` characters, the prefix that all interfaces share. For so many `levels`
    /// from here on even one member has a branch.
    fn branch(
        &self,
        name: ChainName,
        (common, cut, levels): (&str, usize, usize),
        members: &[&str],
        chains: &mut Vec<Chain>,
    ) {
        let mut groups: BTreeMap<Option<char>, Vec<&str>> = BTreeMap::new();
        for member in members {
            groups.entry(member[common.len()..].chars().next()).or_default().push(member);
        }
        let mut rules = Vec::new();
        for (next, group) in groups {
            match next {
                Some(next) if group.len() > 1 || levels > 0 => {
                    let prefix = format!("{common}{next}");
                    let child = ChainName::limited(&format!("{}-", self.root), &prefix[cut..]);
                    let goto = PacketRule::new(RuleAction::Goto(child.clone()));
                    rules.push(goto.when(via(self.side, InterfaceMatch::prefixed(&prefix))));
                    if levels > 1 {
                        self.branch(child, (&prefix, cut, levels - 1), &group, chains);
                    } else if group.len() > LEAF {
                        let common = common_prefix(group.iter().copied());
                        self.branch(child, (common, cut, 0), &group, chains);
                    } else {
                        let leaves = group.iter().map(|interface| self.leaf(interface));
                        let rules = leaves.chain(self.otherwise.iter().cloned()).collect();
                        chains.push(Chain { name: child, rules });
                    }
                }
                _ => rules.extend(group.iter().map(|interface| self.leaf(interface))),
            }
        }
        rules.extend(self.otherwise.iter().cloned());
        chains.push(Chain { name, rules: rules.into() });
    }

    fn leaf(&self, interface: &str) -> PacketRule {
        let goto = RuleAction::Goto(self.targets[interface].clone());
        PacketRule::new(goto).when(via(self.side, InterfaceMatch::named(interface)))
    }
}

/// Interfaces are ASCII (the renderer takes no others).
fn common_prefix<'a>(mut names: impl Iterator<Item = &'a str>) -> &'a str {
    let Some(first) = names.next() else { return "" };
    names.fold(first, |common, other| {
        let shared = common.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
        &common[..shared]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(interfaces: &[String]) -> BTreeMap<String, Vec<String>> {
        render_below(&[], interfaces)
    }

    fn render_below(stems: &[String], interfaces: &[String]) -> BTreeMap<String, Vec<String>> {
        let chain = |name: &String| ChainName::limited("cali-fw-", name);
        let targets = interfaces.iter().map(|name| (name.as_str(), chain(name))).collect();
        let otherwise = [PacketRule::new(RuleAction::Drop).comment("Unknown interface")];
        let dispatch = Dispatch {
            root: "cali-from-wl-dispatch",
            side: InterfaceSide::In,
            targets: &targets,
            stems,
            before: &[],
            apart: &BTreeSet::new(),
            otherwise: &otherwise,
        };
        let text = |chain: Chain| {
            (chain.name.to_string(), chain.rules.iter().map(kernel::rule_text).collect::<Vec<_>>())
        };
        dispatch.render(false).into_iter().map(text).collect()
    }

    #[test]
    fn a_branch_with_many_members_has_branches_itself() {
        let names: Vec<String> =
            (0..17).map(|n| format!("cali1{n:02x}")).chain(["cali2".to_owned()]).collect();

        let chains = render(&names);

        let closed = "-m comment --comment \"Unknown interface\" --jump DROP";
        let root = [
            "--in-interface cali1+ --goto cali-from-wl-dispatch-1",
            "--in-interface cali2 --goto cali-fw-cali2",
            closed,
        ];
        assert_eq!(chains["cali-from-wl-dispatch"], root);
        let branch = [
            "--in-interface cali10+ --goto cali-from-wl-dispatch-10",
            "--in-interface cali110 --goto cali-fw-cali110",
            closed,
        ];
        assert_eq!(chains["cali-from-wl-dispatch-1"], branch);
        assert_eq!(chains["cali-from-wl-dispatch-10"].len(), 17);
        assert_eq!(chains["cali-from-wl-dispatch-10"][0], "--in-interface cali100 --goto cali-fw-cali100");
        assert_eq!(chains["cali-from-wl-dispatch-10"][16], closed);
    }

    #[test]
    fn one_name_may_begin_another() {
        let chains = render(&["cali1".to_owned(), "cali12".to_owned(), "cali13".to_owned()]);

        assert_eq!(chains["cali-from-wl-dispatch"].len(), 4);
        assert_eq!(chains.len(), 1);
    }

    #[test]
    fn one_more_pod_only_adds_rules() {
        let stems = ["cali".to_owned()];
        let names = ["cali1a1", "cali1a2", "cali1b1", "cali2a1", "cali", "cali1"].map(str::to_owned);
        for count in 0..names.len() {
            let (fewer, more) =
                (render_below(&stems, &names[..count]), render_below(&stems, &names[..=count]));

            for (chain, rules) in fewer {
                let mut left = more[&chain].iter();
                assert!(rules.iter().all(|rule| left.any(|other| other == rule)), "{chain}: {rules:?}");
            }
        }
        let chains = render_below(&stems, &names[..1]);
        assert_eq!(
            chains["cali-from-wl-dispatch"][0],
            "--in-interface cali1+ --goto cali-from-wl-dispatch-1"
        );
        assert_eq!(
            chains["cali-from-wl-dispatch-1"][0],
            "--in-interface cali1a+ --goto cali-from-wl-dispatch-1a"
        );
        assert_eq!(chains["cali-from-wl-dispatch-1a"][0], "--in-interface cali1a1 --goto cali-fw-cali1a1");
        assert_eq!(chains.len(), 3);
    }
}
