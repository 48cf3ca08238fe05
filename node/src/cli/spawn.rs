//! `tidelock spawn MODULE [ENTRY]`.

use std::path::Path;

use clap::Args;
use tidelock_control::api::{NodeState, SpawnProcess, Spawned};

use super::{
    Output,
    connect::Cluster,
    failure::{Failure, Outcome},
    output::printable,
};

/// Start a process by hand; prints its pid
#[derive(Debug, Args)]
pub(crate) struct Spawn {
    /// Name of a deployed module, its hash, or the beginning of that
    module: String,
    /// The exported function to start with
    #[arg(default_value = "_start")]
    entry: String,
    /// The node to start it on; the one with the fewest processes if left out
    #[arg(long, value_name = "NODE")]
    on: Option<String>,
    /// A name to register it under
    #[arg(long)]
    name: Option<String>,
    /// An environment variable for it, NAME=VALUE
    #[arg(short, long = "env", value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// A directory of the node's machine that it may use; it sees it under the same path
    #[arg(long = "dir", value_name = "DIR", value_parser = absolute)]
    dirs: Vec<String>,
    /// Its arguments
    #[arg(last = true)]
    args: Vec<String>,
}

impl Spawn {
    pub(crate) async fn run(self, out: &Output, cluster: &Cluster) -> Outcome {
        let node = match &self.on {
            Some(name) => cluster.node_itself(name).await?,
            None => self.least_busy(cluster, out).await?,
        };
        let request = SpawnProcess {
            module: self.module.clone(),
            entry: self.entry,
            args: self.args,
            env: self.env.into_iter().collect(),
            name: self.name,
            preopens: self.dirs,
            ..SpawnProcess::default()
        };
        let spawned: Spawned = cluster
            .post(node.admin_addr, "/v1/processes", &request)
            .await?;
        out.one(&spawned, &spawned.pid, &printable(&spawned.pid))
    }

    async fn least_busy(
        &self,
        cluster: &Cluster,
        out: &Output,
    ) -> Outcome<tidelock_control::api::NodeInfo> {
        let mut nodes = cluster.nodes().await?;
        nodes.retain(|node| node.state == NodeState::Alive);
        let mut best = None;
        for node in nodes {
            let status = cluster.get(node.admin_addr, "/v1/status").await;
            match status {
                Ok(tidelock_control::api::NodeStatus {
                    processes,
                    draining: false,
                    ..
                }) => {
                    if best.as_ref().is_none_or(|(fewest, _)| processes < *fewest) {
                        best = Some((processes, node));
                    }
                }
                Ok(_) => {}
                Err(_) => out.say(format_args!("{} does not answer; passed over", node.id)),
            }
        }
        best.map(|(_, node)| node).ok_or_else(|| {
            Failure::new(
                "E0012",
                format!("{}: no node is there to run it", self.module),
            )
            .next("tidelock nodes --all", "who was here")
        })
    }
}

/// The node was started in another folder, and on another machine perhaps.
fn absolute(text: &str) -> Result<String, String> {
    match Path::new(text).is_absolute() {
        true => Ok(text.to_owned()),
        false => Err("it is a path of the node's machine, and begins with /".to_owned()),
    }
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}
