//! `tidelock ps`.

use clap::Args;
use tidelock_control::api::{ProcessInfo, ProcessState};

use super::{
    Output,
    connect::Cluster,
    failure::Outcome,
    output::{ago, shaped, size},
};

/// List processes, all nodes' unless one is named
#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// Only of this node
    #[arg(long, value_name = "NODE")]
    on: Option<String>,
    /// Only of this module: its name, hash or the hash's beginning
    #[arg(long)]
    module: Option<String>,
}

impl Ps {
    pub(crate) async fn run(&self, out: &Output, cluster: &Cluster) -> Outcome {
        let nodes = cluster.chosen(self.on.as_deref()).await?;
        let mut rows: Vec<ProcessInfo> = cluster.of_all(&nodes, "/v1/processes", out).await?;
        if let Some(module) = &self.module {
            rows.retain(|row| {
                row.module
                    .as_deref()
                    .is_some_and(|name| is_module(name, module))
            });
        }
        out.list(
            &rows,
            |row| row.pid.clone(),
            &[
                "PID", "NAME", "STATE", "QUEUED", "MEMORY", "LINKS", "MODULE", "ENTRY", "STARTED",
            ],
            |row| {
                vec![
                    row.pid.clone(),
                    row.name.clone().unwrap_or_default(),
                    shaped(state(row.state)),
                    row.queued.to_string(),
                    size(row.memory_bytes),
                    row.links.to_string(),
                    row.module
                        .as_deref()
                        .map(short)
                        .unwrap_or_default()
                        .to_owned(),
                    row.entry.clone(),
                    ago(row.started_at),
                ]
            },
        )
    }
}

/// The word of a state.
pub(super) fn state(state: ProcessState) -> &'static str {
    match state {
        ProcessState::Running => "running",
        ProcessState::Waiting => "waiting",
        ProcessState::Parked => "parked",
        ProcessState::Ended => "ended",
    }
}

/// A module as people like to see it: names stay, hashes are cut.
pub(super) fn short(module: &str) -> &str {
    match module.strip_prefix("b3:") {
        Some(_) => module.get(..11).unwrap_or(module),
        None => module,
    }
}

fn is_module(module: &str, asked: &str) -> bool {
    module == asked
        || module.starts_with("b3:") && module.starts_with(asked)
        || module
            .strip_prefix("b3:")
            .is_some_and(|hex| asked.len() >= 4 && hex.starts_with(asked))
}
