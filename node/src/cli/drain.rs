//! `tidelock drain NODE`.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tidelock_control::api::{Drain as Request, Draining};

use super::{
    Output,
    connect::{Cluster, whole_seconds},
    failure::Outcome,
};

/// Let a node take no new work, and leave once what runs there has ended
#[derive(Debug, Args)]
pub(crate) struct Drain {
    /// Its id or name
    node: String,
    /// Kill what still runs after this time, such as 30s; without it, wait as long as it takes
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
}

/// Who drains; the node itself says only how far it is.
#[derive(Serialize)]
struct Drained<'a> {
    node: &'a str,
    #[serde(flatten)]
    draining: Draining,
}

impl Drain {
    pub(crate) async fn run(&self, out: &Output, cluster: &Cluster) -> Outcome {
        let node = cluster.node_itself(&self.node).await?;
        let request = Request {
            timeout_s: self.timeout.map(whole_seconds),
        };
        let draining: Draining = cluster.post(node.admin_addr, "/v1/drain", &request).await?;
        let remaining = draining.remaining;
        let text = match remaining {
            0 => format!("{} has nothing to wait for and leaves", node.id),
            1 => format!("{} waits for 1 process to end, then leaves", node.id),
            _ => format!(
                "{} waits for {remaining} processes to end, then leaves",
                node.id
            ),
        };
        let drained = Drained {
            node: &node.id,
            draining,
        };
        out.one(&drained, &node.id, &text)
    }
}
