//! `tidelock ps`.

use clap::Args;
use tidelock_control::api::{ModuleInfo, ProcessInfo, ProcessState};

use super::{
    Output,
    connect::Cluster,
    failure::{Failure, Outcome},
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
        let mut rows: Vec<ProcessInfo> = cluster.of_all(&nodes, "/v1/processes").await?;
        // Names are for people and for the filter; without them the hashes still tell.
        let modules = cluster.modules().await;
        let is_told = modules.is_ok();
        let names = Names(modules.unwrap_or_default());
        if let Some(asked) = &self.module {
            rows.retain(|row| {
                row.module
                    .as_deref()
                    .is_some_and(|hash| names.is(hash, asked))
            });
        }
        if let Some(asked) = self.module.as_ref().filter(|_| is_told && rows.is_empty())
            && !names.0.iter().any(|module| names.is(&module.hash, asked))
        {
            let message = format!("{asked}: there is no such module");
            return Err(
                Failure::new("E0022", message).next("tidelock modules", "what was deployed")
            );
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
                    shaped(doing(row)),
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
    /// The names that stand for a module now.
    fn all(&self, hash: &str) -> &[String] {
        let module = self.0.iter().find(|module| module.hash == hash);
        let names = module.map(|module| module.names.as_slice());
        names.unwrap_or_default()
    }

    /// The first name of a module; if none stands for it any more, the beginning of its hash.
    fn of<'a>(&'a self, hash: &'a str) -> &'a str {
        let name = self.all(hash).first();
        name.map_or_else(|| short(hash), String::as_str)
    }

    /// Whether a module is the one asked for: by name, hash, or the hash's beginning.
    fn is(&self, hash: &str, asked: &str) -> bool {
        let digits = asked.strip_prefix("b3:").unwrap_or(asked);
        let begins = |hash: &str| digits.len() >= 4 && hash.starts_with(digits);
        let named = self.all(hash).iter().any(|name| name == asked);
        named || hash.strip_prefix("b3:").is_some_and(begins)
    }
}

/// The word for what a process is doing.
pub(super) fn doing(info: &ProcessInfo) -> &'static str {
    match info.state {
        ProcessState::Running => "running",
        ProcessState::Waiting if info.hibernating => "hibernating",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_does_has_one_word_and_a_shape() {
        let mut info: ProcessInfo = serde_json::from_str(
            r#"{"pid": "n1.1", "entry": "", "state": "waiting", "queued": 0, "memory_bytes": 0, "links": 0, "monitors": 0}"#,
        )
        .expect("what a node without hibernation says");
        assert_eq!(doing(&info), "waiting");
        info.hibernating = true;
        assert_eq!(shaped(doing(&info)), "○ hibernating");
        for state in [
            ProcessState::Running,
            ProcessState::Parked,
            ProcessState::Ended,
        ] {
            info.state = state;
            assert_eq!(serde_json::to_value(state).unwrap(), doing(&info));
            let is_over = state == ProcessState::Ended;
            assert_eq!(shaped(doing(&info)).starts_with('✕'), is_over);
        }
    }

    #[test]
    fn a_module_that_no_name_stands_for_has_a_hash() {
        let module = |hash: &str, names: &[&str]| ModuleInfo {
            hash: hash.to_owned(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            size_bytes: 8,
            added_at: jiff::Timestamp::UNIX_EPOCH,
            deployed_at: None,
        };
        let (old, new) = ("b3:1234567890", "b3:abcdefabcd");
        let names = Names(vec![module(old, &[]), module(new, &["app", "web"])]);
        assert_eq!((names.of(old), names.of(new)), ("b3:12345678", "app"));
        assert!(names.is(new, "app") && names.is(new, "web") && !names.is(old, "app"));
        assert!(names.is(old, "b3:1234") && names.is(old, "1234") && !names.is(new, "1234"));
    }
}
