//! `tidelock remove NODE`.

use clap::Args;

use super::{Output, connect::Cluster, failure::Outcome};

/// Put a node out of the cluster for good, such as one that was stolen
///
/// Its key is never let in again and its sessions end at once, on every node that reaches the control plane; whoever
/// is linked to its processes is told. Its machine can join again with a new token, and makes a new key for it.
/// A node that was lost or has left can be removed, too. To let one end its work first: `tidelock drain`.
#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// Its id, such as n3
    node: String,
}

impl Remove {
    pub(crate) async fn run(&self, out: &Output, cluster: &Cluster) -> Outcome {
        let node = cluster.remove(&self.node).await?;
        let text = format!(
            "{} ({}) is removed; its key is refused for good",
            node.id, node.name
        );
        out.one(&node, &node.id, &text)
    }
}
