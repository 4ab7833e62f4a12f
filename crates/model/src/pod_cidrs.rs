//! Blocks that follow from `Node.spec.podCIDRs`, for clusters in which another IPAM plugin (`host-local`) gives out addresses:
//! each range that the cluster gave a node is a block of that node.

use std::collections::BTreeMap;

use crate::{AffinityState, Block, BlockAffinity, Cidr, Node, NodeName, Update};

/// Adds blocks and affinities to the updates of nodes. Real blocks pass, unless they are such a range themselves.
#[derive(Debug, Default)]
pub struct PodCidrBlocks {
    owners: BTreeMap<Cidr, NodeName>,
}

impl PodCidrBlocks {
    /// What follows from an update, itself first.
    pub fn apply(&mut self, update: Update) -> Vec<Update> {
        match &update {
            Update::Block(cidr, _) | Update::BlockAffinity(_, cidr, _) if self.owners.contains_key(cidr) => {
                Vec::new()
            }
            Update::Node(name, node) => {
                let changes = self.of_node(name, node.as_ref());
                std::iter::once(update).chain(changes).collect()
            }
            _ => vec![update],
        }
    }

    fn of_node(&mut self, name: &NodeName, node: Option<&Node>) -> Vec<Update> {
        let wanted: &[Cidr] = node.map_or(&[], |node| &node.pod_cidrs);
        let owned = self.owners.iter().filter(|(_, owner)| *owner == name);
        let gone: Vec<Cidr> = owned.map(|(cidr, _)| *cidr).filter(|cidr| !wanted.contains(cidr)).collect();
        let mut updates = Vec::new();
        for cidr in gone {
            self.owners.remove(&cidr);
            updates.push(Update::BlockAffinity(name.clone(), cidr, None));
            updates.push(Update::Block(cidr, None));
        }
        for cidr in wanted {
            match self.owners.insert(*cidr, name.clone()) {
                Some(owner) if owner == *name => continue,
                Some(other) => updates.push(Update::BlockAffinity(other, *cidr, None)),
                None => {}
            }
            updates.push(Update::Block(*cidr, Some(Box::new(block(*cidr, name)))));
            updates.push(Update::BlockAffinity(name.clone(), *cidr, Some(affinity(*cidr, name))));
        }
        updates
    }
}

/// Nobody looks into it: who has which address is the other plugin's to know.
fn block(cidr: Cidr, owner: &NodeName) -> Block {
    Block {
        cidr,
        affinity: Some(owner.clone()),
        allocations: Vec::new(),
        unallocated: Vec::new(),
        attributes: Vec::new(),
        sequence_number: 0,
        sequence_number_for_allocation: BTreeMap::new(),
        deleted: false,
    }
}

fn affinity(cidr: Cidr, node: &NodeName) -> BlockAffinity {
    BlockAffinity { node: node.clone(), cidr, state: AffinityState::Confirmed, deleted: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, cidrs: &[&str]) -> Update {
        let node =
            Node { pod_cidrs: cidrs.iter().map(|text| text.parse().unwrap()).collect(), ..Node::named(name) };
        Update::Node(name.into(), Some(node))
    }

    /// What follows besides the update, in words.
    fn follows(blocks: &mut PodCidrBlocks, update: Update) -> Vec<String> {
        let word = |update: &Update| match update {
            Update::Node(..) => None,
            Update::Block(cidr, None) => Some(format!("-{cidr}")),
            Update::Block(cidr, Some(block)) => Some(format!("+{cidr} of {}", block.affinity.as_ref()?)),
            Update::BlockAffinity(node, cidr, None) => Some(format!("{node} -{cidr}")),
            Update::BlockAffinity(node, cidr, Some(_)) => Some(format!("{node} +{cidr}")),
            other => Some(format!("{other:?}")),
        };
        blocks.apply(update).iter().filter_map(word).collect()
    }

    #[test]
    fn each_range_of_a_node_is_its_block() {
        let mut blocks = PodCidrBlocks::default();

        let both = follows(&mut blocks, node("n1", &["10.1.0.0/24", "fd00:1::/64"]));

        let expected = ["+10.1.0.0/24 of n1", "n1 +10.1.0.0/24", "+fd00:1::/64 of n1", "n1 +fd00:1::/64"];
        assert_eq!(both, expected);
        assert_eq!(follows(&mut blocks, node("n1", &["10.1.0.0/24"])), ["n1 -fd00:1::/64", "-fd00:1::/64"]);
        assert_eq!(follows(&mut blocks, node("n1", &["10.1.0.0/24"])), [""; 0]);
        assert_eq!(
            follows(&mut blocks, Update::Node("n1".into(), None)),
            ["n1 -10.1.0.0/24", "-10.1.0.0/24"]
        );
    }

    #[test]
    fn a_range_that_another_node_gets_goes_over() {
        let mut blocks = PodCidrBlocks::default();
        follows(&mut blocks, node("n1", &["10.1.0.0/24"]));

        let moved = follows(&mut blocks, node("n2", &["10.1.0.0/24"]));

        assert_eq!(moved, ["n1 -10.1.0.0/24", "+10.1.0.0/24 of n2", "n2 +10.1.0.0/24"]);
        assert_eq!(follows(&mut blocks, Update::Node("n1".into(), None)), [""; 0]);
    }

    #[test]
    fn real_blocks_pass_unless_they_are_such_a_range() {
        let mut blocks = PodCidrBlocks::default();
        follows(&mut blocks, node("n1", &["10.1.0.0/24"]));

        let real = |text: &str| Update::Block(text.parse().unwrap(), None);

        assert_eq!(follows(&mut blocks, real("10.9.0.0/26")), ["-10.9.0.0/26"]);
        assert_eq!(follows(&mut blocks, real("10.1.0.0/24")), [""; 0]);
    }
}
