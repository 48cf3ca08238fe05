//! The machines of the cluster, as a guest sees them.

use std::fmt;

use crate::{Monitor, sys};

/// The name of a node, unique in its cluster. A node that restarts gets another one.
///
/// It prints as `n3`. Node 0 is a program that runs without a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

/// The node this process runs on.
pub fn node_id() -> NodeId {
    NodeId(sys::node_id())
}

/// The live nodes, this one included, in no order. Empty without a cluster.
///
/// Advice, not a promise: a node listed may be gone when the answer is read, and a spawn
/// there then says so.
pub fn nodes() -> Vec<NodeId> {
    let mut ids = vec![0; sys::nodes_count() as usize];
    let written = sys::get_nodes(&mut ids) as usize;
    ids.truncate(written);
    ids.into_iter().map(NodeId).collect()
}

/// Asks for one [`Received::NodeDown`](crate::Received::NodeDown) when this node loses `node`.
///
/// A node that is not connected yields its message at once.
pub fn monitor_node(node: NodeId) -> Monitor {
    Monitor(sys::monitor_node(node.0))
}

/// A number for the module this process runs: equal on two nodes when the code is.
pub fn module_id() -> u64 {
    sys::module_id()
}
