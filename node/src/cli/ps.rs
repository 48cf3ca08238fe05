//! `tidelock ps`.

use clap::Args;
use tidelock_control::api::{ModuleInfo, ProcessInfo, ProcessState};

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
        // Names are for people and for the filter; without them the hashes still tell.
        let names = Names(cluster.modules().await.unwrap_or_default());
        if let Some(asked) = &self.module {
            rows.retain(|row| {
                row.module
                    .as_deref()
                    .is_some_and(|hash| names.is(hash, asked))
            });
        }
        if rows.is_empty() {
            out.nothing("processes");
        }
        out.list(
            &rows,
            |row| row.pid.clone(),
            &[
                "PID", "NAME", "STATE", "QUEUED", "MEMORY", "LINKS", "MODULE", "STARTED",
            ],
            |row| {
                vec![
                    row.pid.clone(),
                    row.name.clone().unwrap_or_else(|| row.entry.clone()),
                    shaped(state(row.state)),
                    row.queued.to_string(),
                    size(row.memory_bytes),
                    row.links.to_string(),
                    row.module
                        .as_deref()
                        .map(|hash| names.of(hash))
                        .unwrap_or_default()
                        .to_owned(),
                    row.started_at.map(ago).unwrap_or_default(),
                ]
            },
        )
    }
}

/// What modules are called.
struct Names(Vec<ModuleInfo>);

impl Names {
    /// The name of a module; if it has none, the beginning of its hash.
    fn of<'a>(&'a self, hash: &'a str) -> &'a str {
        let module = self.0.iter().find(|module| module.hash == hash);
        module
            .and_then(|module| module.name.as_deref())
            .unwrap_or_else(|| short(hash))
    }

    /// Whether a module is the one asked for: by name, hash, or the hash's beginning.
    fn is(&self, hash: &str, asked: &str) -> bool {
        let digits = asked.strip_prefix("b3:").unwrap_or(asked);
        let begins = |hash: &str| digits.len() >= 4 && hash.starts_with(digits);
        self.of(hash) == asked || hash.strip_prefix("b3:").is_some_and(begins)
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
