//! `tidelock logs`.

use clap::Args;
use tidelock_control::api::{LogLine, Stream};

use super::{
    Output,
    connect::Cluster,
    failure::Outcome,
    output::{Tone, clock},
};

/// Print what guests wrote, merged by time
#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Only of this process
    pid: Option<String>,
    /// Keep printing
    #[arg(short, long)]
    follow: bool,
    /// Only of this node
    #[arg(long, value_name = "NODE")]
    on: Option<String>,
}

impl Logs {
    pub(crate) async fn run(&self, out: &Output, cluster: &Cluster) -> Outcome {
        let pid = self
            .pid
            .as_deref()
            .map(super::connect::parse_pid)
            .transpose()?;
        let node = match (pid, &self.on) {
            (Some(pid), None) => Some(pid.node().to_string()),
            (_, on) => on.clone(),
        };
        let only = pid.map(|pid| pid.to_string());
        let nodes = cluster.chosen(node.as_deref()).await?;
        let wanted = |line: &LogLine| only.as_ref().is_none_or(|only| *only == line.pid);
        let print = |line: LogLine| {
            if !wanted(&line) {
                return Ok(());
            }
            let tone = if line.stream == Stream::Stderr {
                Tone::Warn
            } else {
                Tone::Dim
            };
            let pid = out.tone(tone, &format!("{:<8}", line.pid));
            let time = out.tone(Tone::Dim, &clock(&line.time.to_string()));
            out.item(&line, &line.pid, &format!("{time} {pid} {}", line.line))
        };
        if self.follow {
            return cluster.follow(&nodes, "/v1/logs?follow=true", print).await;
        }
        let mut lines: Vec<LogLine> = cluster.lines_of_all(&nodes, "/v1/logs", out).await?;
        lines.retain(wanted);
        if lines.is_empty() {
            out.nothing("output is kept");
        }
        lines.sort_by_key(|line| line.time);
        lines.into_iter().try_for_each(print)
    }
}
