//! `tidelock logs`.

use clap::Args;
use tidelock_control::api::{LogLine, NodeInfo, ProcessDetail, Stream, codes};

use super::{
    Output,
    connect::{Cluster, Line, no_process},
    failure::{Failure, Outcome},
    output::{Tone, clock, printable},
};

/// Print what guests wrote, merged by time
#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Only of this process: its pid, or a name that `ps` shows
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
        let pid = match &self.pid {
            Some(text) => Some(cluster.pid_of(text).await?),
            None => None,
        };
        let only = pid.map(|pid| pid.to_string());
        let wanted = |line: &Line<LogLine>| match (line, &only) {
            (Line::Item(line), Some(only)) => line.pid == *only,
            _ => true,
        };
        let print = |line: Line<LogLine>| match line {
            line if !wanted(&line) => Ok(()),
            Line::Item(line) => print(out, &line),
            Line::Missed(missed) => missed.print(out),
        };
        let nodes = match (pid, &self.on) {
            (Some(pid), None) => vec![cluster.home_of(pid).await?],
            (_, on) => cluster.chosen(on.as_deref()).await?,
        };
        // Lines outlive their process, but none is added.
        let unknown = match (&nodes[..], &only) {
            ([node], Some(pid)) => is_unknown(cluster, node, pid).await?,
            _ => false,
        };
        if self.follow && !unknown {
            return match (&nodes[..], pid) {
                ([node], Some(_)) => {
                    let path = "/v1/logs?follow=true";
                    cluster
                        .follow_one(&node.id, node.admin_addr, path, print)
                        .await
                }
                _ => {
                    let on = self.on.as_deref();
                    cluster.follow(on, "/v1/logs?follow=true", print).await
                }
            };
        }
        let mut lines: Vec<Line<LogLine>> = cluster.lines_of_all(&nodes, "/v1/logs").await?;
        lines.retain(wanted);
        let has_none = !lines.iter().any(|line| matches!(line, Line::Item(_)));
        if has_none && let Some(pid) = self.pid.as_ref().filter(|_| unknown) {
            let gaps = lines.iter().filter_map(|line| match line {
                Line::Missed(missed) => Some(missed),
                Line::Item(_) => None,
            });
            return Err(gaps.fold(no_process(pid), |failure, missed| {
                failure.detail(format_args!("{missed}, and may have been of this process"))
            }));
        }
        if lines.is_empty() {
            out.nothing("output is kept");
        }
        let lines = Line::in_order(lines, |line| line.time);
        lines.into_iter().try_for_each(print)
    }
}

fn print(out: &Output, line: &LogLine) -> Outcome {
    let tone = if line.stream == Stream::Stderr {
        Tone::Warn
    } else {
        Tone::Dim
    };
    let pid = out.tone(tone, &format!("{:<8}", printable(&line.pid)));
    let time = out.tone(Tone::Dim, &clock(&line.time.to_string()));
    let text = printable(&line.line);
    out.item(line, &line.pid, &format!("{time} {pid} {text}"))
}

/// Whether a node says that it knows no such process, be it one that has ended.
async fn is_unknown(cluster: &Cluster, node: &NodeInfo, pid: &str) -> Outcome<bool> {
    let path = format!("/v1/processes/{pid}");
    match cluster.get::<ProcessDetail>(node.admin_addr, &path).await {
        Ok(_) => Ok(false),
        Err(Failure::Letter(letter)) if letter.code == codes::NO_PROCESS => Ok(true),
        Err(other) => Err(other),
    }
}
