//! `tidelock nodes`.

use clap::Args;
use tidelock_control::api::NodeState;

use super::{
    Output,
    connect::Cluster,
    failure::Outcome,
    output::{ago, shaped},
};

/// List nodes, as the control plane knows them
#[derive(Debug, Args)]
pub(crate) struct Nodes {
    /// Also those that have left; one that was lost is listed anyway
    #[arg(short, long)]
    all: bool,
}

impl Nodes {
    pub(crate) async fn run(&self, out: &Output, cluster: &Cluster) -> Outcome {
        let mut nodes = cluster.nodes().await?;
        // A loss is news for a while; a node that left is not.
        nodes.retain(|node| self.all || node.state != NodeState::Left);
        if nodes.is_empty() {
            out.nothing("nodes");
        }
        out.list(
            &nodes,
            |node| node.id.clone(),
            &[
                "NODE", "NAME", "STATE", "ADDRESS", "ADMIN", "VERSION", "JOINED", "SEEN",
            ],
            |node| {
                vec![
                    node.id.clone(),
                    node.name.clone(),
                    shaped(state(node.state)),
                    node.addr.to_string(),
                    node.admin_addr.to_string(),
                    node.version.clone(),
                    ago(node.joined_at),
                    ago(node.last_seen),
                ]
            },
        )
    }
}

/// The word of a state.
pub(super) fn state(state: NodeState) -> &'static str {
    match state {
        NodeState::Alive => "alive",
        NodeState::Draining => "draining",
        NodeState::Lost => "lost",
        NodeState::Left => "left",
    }
}
