//! The node's name, as the agent asks for it.

pub const NODE: &str = crate::world::NODES[0];
