//! Runs the guest of the bench, here or on a cluster, and reads what it says.

use std::{path::Path, time::Duration};

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;
use tidelock::{
    Engine, Environment, EnvironmentConfig, Module, ProcessConfig, SpawnOptions, Stdio,
};
use tidelock_control::api::{Ended, LogLine, NodeInfo, SpawnProcess, Spawned};
use tidelock_proto::NodeId;
use tokio::{signal::ctrl_c, sync::broadcast::error::RecvError, time::timeout};

use super::Plan;
use crate::cli::{
    Output,
    cluster::{LocalCluster, Shape},
    connect::{Cluster, Line as Sent},
    failure::{Exit, Failure, Outcome},
    run::{CompiledFor, engine},
};

/// The guest.
const GUEST: &[u8] = include_bytes!("../../../../benches/load/load.wasm");

/// What the guest may take besides the time that was asked for: it gives up by itself before.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long the last lines of a guest may be on their way after it has ended.
const LAST_LINES: Duration = Duration::from_secs(5);

/// What was measured.
pub(super) struct Measured {
    /// Nanoseconds from when an operation was due until it was done.
    pub(super) histogram: Histogram<u64>,
    pub(super) counts: Counts,
    /// The nodes: where operations were begun, and the other side.
    pub(super) between: [String; 2],
    /// The versions of the nodes, each once.
    pub(super) versions: Vec<String>,
}

/// What the guest has counted.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) struct Counts {
    /// How many were due at the given rate.
    pub(super) asked: u64,
    pub(super) begun: u64,
    pub(super) done: u64,
    pub(super) elapsed_ns: u64,
    /// How far the clocks of two machines may be apart.
    pub(super) clock_ns: u64,
}

/// What the guest says, one JSON document per line.
#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line {
    Started {},
    Values { pairs: Vec<u64> },
    Result(Counts),
    Error { message: String },
}

/// What the guest has said so far.
struct Heard {
    histogram: Histogram<u64>,
    counts: Option<Counts>,
    /// Whether its first line was among what has come: all that follow are needed for a figure.
    started: bool,
    bar: ProgressBar,
    time: Duration,
    /// What it wrote besides, for an error.
    words: String,
}

impl Heard {
    fn measured(self, between: [String; 2], versions: Vec<String>) -> Measured {
        Measured {
            histogram: self.histogram,
            counts: self.counts.unwrap_or_default(),
            between,
            versions,
        }
    }

    fn new(plan: &Plan, out: &Output) -> Self {
        Heard {
            histogram: Histogram::new_with_max(3_600_000_000_000, 3)
                .expect("the bounds are constants"),
            counts: None,
            started: false,
            bar: if out.animated() {
                ProgressBar::no_length()
            } else {
                ProgressBar::hidden()
            },
            time: plan.time,
            words: String::new(),
        }
    }

    /// Takes in one line; true once it is the result.
    fn said(&mut self, line: &str) -> Outcome<bool> {
        match serde_json::from_str(line) {
            Ok(Line::Started {}) => {
                self.started = true;
                self.start_bar();
            }
            Ok(Line::Values { .. } | Line::Result(_)) if !self.started => return Err(gap()),
            Ok(Line::Values { pairs }) => {
                for pair in pairs.chunks_exact(2) {
                    self.histogram.saturating_record_n(pair[0], pair[1]);
                }
            }
            Ok(Line::Result(counts)) => {
                self.bar.finish_and_clear();
                self.counts = Some(counts);
            }
            Ok(Line::Error { message }) => {
                return Err(Failure::new("E0054", "the bench was not completed")
                    .detail(message)
                    .detail(&self.words));
            }
            Err(_) => {
                self.words.push_str(line);
                self.words.push('\n');
            }
        }
        Ok(self.counts.is_some())
    }

    /// Takes note that lines are missing. What is so before the first one is of others.
    fn missed(&self) -> Outcome {
        if self.started { Err(gap()) } else { Ok(()) }
    }

    fn start_bar(&self) {
        let style = ProgressStyle::with_template("  {bar:30} {elapsed_precise}");
        self.bar
            .set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        self.bar.set_length(self.time.as_millis() as u64);
        self.bar.reset_elapsed();
    }

    /// Moves the bar, for ever.
    async fn animate(bar: ProgressBar) -> ! {
        let mut ticks = tokio::time::interval(Duration::from_millis(100));
        loop {
            ticks.tick().await;
            bar.set_position(bar.elapsed().as_millis() as u64);
        }
    }

    fn ended_early(self, reason: &str) -> Failure {
        Failure::new("E0054", "the guest of the bench ended early")
            .detail(reason)
            .detail(self.words)
    }
}

/// A figure of the rest would hide what is missing.
fn gap() -> Failure {
    Failure::new("E0054", "the bench was not completed").detail("some of its lines were lost")
}

/// Runs the guest where the plan says.
pub(super) async fn run(plan: &Plan, context: Option<&Path>, out: &Output) -> Outcome<Measured> {
    let heard = Heard::new(plan, out);
    let bar = heard.bar.clone();
    let work = async {
        match &plan.between {
            Some([from, to]) => {
                let cluster = Cluster::open(context, out)?;
                let from = cluster.node_itself(from).await?;
                let to = cluster.node_itself(to).await?;
                on_cluster(plan, &cluster, &from, &to, heard).await
            }
            None => tokio::select! {
                outcome = by_itself(plan, heard, out) => outcome,
                _ = ctrl_c() => Err(interrupted()),
            },
        }
    };
    tokio::select! {
        outcome = timeout(plan.time + PATIENCE, work) => outcome.unwrap_or_else(|_| {
            Err(Failure::new("E0040", "the bench is not over long after its time"))
        }),
        never = Heard::animate(bar) => never,
    }
}

/// On what it starts for this, and what ends with it.
async fn by_itself(plan: &Plan, heard: Heard, out: &Output) -> Outcome<Measured> {
    if plan.remote {
        on_two_nodes(plan, heard, out).await
    } else {
        alone(plan, heard).await
    }
}

/// In an environment of this program.
async fn alone(plan: &Plan, mut heard: Heard) -> Outcome<Measured> {
    let wrong = |error: &dyn std::fmt::Display| Failure::new("E0001", error);
    let engine = Engine::new(engine(CompiledFor::Auto)?).map_err(|error| wrong(&error))?;
    let module = Module::compile(&engine, GUEST.to_vec())
        .await
        .map_err(|error| wrong(&error))?;
    let config = EnvironmentConfig {
        stdio: Stdio::AllLines,
        ..EnvironmentConfig::default()
    };
    let environment = Environment::with_engine(config, engine);
    let mut lines = environment.output();
    let mut args = vec!["load".to_owned()];
    args.extend(plan.words(0, true));
    let mut options = SpawnOptions::default();
    options.config = ProcessConfig {
        args,
        ..ProcessConfig::default()
    }
    .into();
    let pid = environment
        .spawn_wasm(&module, "_start", Vec::new(), options)
        .map_err(|error| Failure::new("E0032", error))?;
    'said: loop {
        tokio::select! {
            biased;
            line = lines.recv() => match line {
                Ok(line) => {
                    if heard.said(&String::from_utf8_lossy(&line.line))? {
                        break;
                    }
                }
                Err(RecvError::Lagged(_) | RecvError::Closed) => {
                    return Err(heard.ended_early("some of its lines were lost"));
                }
            },
            reason = environment.wait(pid) => {
                // What it wrote as we looked for its end.
                while let Ok(line) = lines.try_recv() {
                    if heard.said(&String::from_utf8_lossy(&line.line))? {
                        break 'said;
                    }
                }
                return Err(heard.ended_early(&reason.to_string()));
            }
        }
    }
    environment.wait(pid).await;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Ok(heard.measured(
        ["this program".to_owned(), "itself".to_owned()],
        vec![version],
    ))
}

/// On two nodes that are started for this, and end with it.
async fn on_two_nodes(plan: &Plan, heard: Heard, out: &Output) -> Outcome<Measured> {
    let shape = Shape {
        nodes: 2,
        lease: None,
        guest_output: false,
        pass_stderr: false,
    };
    let cluster = LocalCluster::start(&shape, out).await?;
    let nodes = cluster.wire.nodes().await?;
    let of = |at: usize| {
        let admin = cluster.nodes[at].ready.admin_addr;
        nodes.iter().find(|node| node.admin_addr == admin)
    };
    let (Some(from), Some(to)) = (of(0), of(1)) else {
        return Err(Failure::new("E0042", "a node has left before it was used"));
    };
    let measured = on_cluster(plan, &cluster.wire, from, to, heard).await?;
    cluster.kill().await;
    Ok(measured)
}

/// On two nodes of a running cluster. Leaves the module there, and no process, also when interrupted.
async fn on_cluster(
    plan: &Plan,
    cluster: &Cluster,
    from: &NodeInfo,
    to: &NodeInfo,
    mut heard: Heard,
) -> Outcome<Measured> {
    let pid = tokio::select! {
        pid = start(plan, cluster, from, to) => pid?,
        _ = ctrl_c() => return Err(interrupted()),
    };
    let followed = tokio::select! {
        followed = follow(cluster, from, &pid, &mut heard) => followed,
        _ = ctrl_c() => Err(interrupted()),
    };
    // It has ended if all went well; the others of the run go with it.
    let _ = cluster
        .delete(from.admin_addr, &format!("/v1/processes/{pid}"))
        .await;
    if let Some(reason) = followed? {
        return Err(heard.ended_early(&reason));
    }
    let mut versions = vec![from.version.clone(), to.version.clone()];
    versions.dedup();
    Ok(heard.measured([from.id.clone(), to.id.clone()], versions))
}

fn interrupted() -> Failure {
    Failure::Code(Exit::Interrupted as u8)
}

/// Starts the guest on the first of two nodes; returns its pid.
async fn start(plan: &Plan, cluster: &Cluster, from: &NodeInfo, to: &NodeInfo) -> Outcome<String> {
    let same_node = from.id == to.id;
    let other: NodeId = to
        .id
        .parse()
        .map_err(|error| Failure::new("E0001", error))?;
    let same_machine = from.addr.ip() == to.addr.ip();
    let module = cluster.put_module("bench", GUEST.to_vec()).await?;
    let request = SpawnProcess {
        module: module.hash,
        program: Some("load".to_owned()),
        args: plan.words(if same_node { 0 } else { other.0 }, same_machine),
        apart: true,
        ..SpawnProcess::default()
    };
    let spawned: Spawned = cluster
        .post(from.admin_addr, "/v1/processes", &request)
        .await?;
    Ok(spawned.pid)
}

/// Takes in the lines of the guest until it has said all; why it ended, if it did so before.
async fn follow(
    cluster: &Cluster,
    node: &NodeInfo,
    pid: &str,
    heard: &mut Heard,
) -> Outcome<Option<String>> {
    let path = format!("/v1/processes/{pid}/wait");
    let ended = async {
        let ended: Ended = cluster.wait_for(node.admin_addr, &path).await?;
        // Its last lines may still be on their way.
        tokio::time::sleep(LAST_LINES).await;
        Ok(Some(ended.reason))
    };
    tokio::select! {
        biased;
        listened = listen(cluster, node, pid, heard) => listened.map(|()| None),
        ended = ended => ended,
    }
}

async fn listen(cluster: &Cluster, node: &NodeInfo, pid: &str, heard: &mut Heard) -> Outcome {
    let mut over = false;
    let take = |line: Sent<LogLine>| {
        let line = match line {
            Sent::Item(line) if line.pid == pid => line,
            Sent::Item(_) => return Ok(()),
            Sent::Missed(_) => return heard.missed(),
        };
        over = heard.said(&line.line)?;
        // There is no more to come: this ends the following.
        if over { Err(Failure::Closed) } else { Ok(()) }
    };
    let path = "/v1/logs?follow=true&apart=true";
    let followed = cluster.follow_one(&node.id, node.admin_addr, path, take);
    match followed.await {
        Err(Failure::Closed) if over => Ok(()),
        Ok(()) => Err(Failure::new(
            "E0012",
            format!("{}: the node does not answer any more", node.id),
        )),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_figure_is_made_of_a_part() {
        let heard = || Heard {
            histogram: Histogram::new(3).unwrap(),
            counts: None,
            started: false,
            bar: ProgressBar::hidden(),
            time: Duration::ZERO,
            words: String::new(),
        };
        let (started, values) = (
            r#"{"event":"started"}"#,
            r#"{"event":"values","pairs":[7,1]}"#,
        );
        let mut whole = heard();
        // What others have written before.
        whole.missed().unwrap();
        whole.said(started).unwrap();
        whole.said(values).unwrap();
        assert_eq!(whole.histogram.len(), 1);
        whole.missed().unwrap_err();
        heard().said(values).unwrap_err();
    }
}
