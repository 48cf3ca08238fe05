//! `tidelock kill PID…`.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt::Write as _,
};

use clap::Args;
use serde::Serialize;
use tidelock_control::api::{BlastRadius, ProcessDetail};

use super::{
    Output,
    connect::{Cluster, no_process, parse_pid},
    failure::{Exit, Failure, Outcome},
    output::printable_lines,
};

/// A radius is not looked at further than this; a larger one is large enough to think twice.
const RADIUS_MAX: usize = 10_000;

/// End processes; links pass it on
#[derive(Debug, Args)]
pub(crate) struct Kill {
    /// Such as n3.42, or a name that `ps` shows
    #[arg(required = true)]
    pids: Vec<String>,
    /// Only show who would end and who would be told
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Killed<'a> {
    pid: &'a str,
}

impl Kill {
    pub(crate) async fn run(&self, out: &Output, cluster: &Cluster) -> Outcome {
        // Before any of them: a mistype ends nobody.
        let mut pids = Vec::with_capacity(self.pids.len());
        for text in &self.pids {
            pids.push(cluster.pid_of(text).await?.to_string());
        }
        let mut failed: Option<u8> = None;
        for text in &pids {
            match self.one(out, cluster, text).await {
                Err(Failure::Letter(letter)) if pids.len() > 1 => {
                    out.letter(&letter);
                    // That one is gone is what was wanted: what else went wrong counts more.
                    let missing = Exit::Missing as u8;
                    failed = failed.filter(|exit| *exit != missing).or(Some(letter.exit));
                }
                done => done?,
            }
        }
        failed.map_or(Ok(()), |exit| Err(Failure::Code(exit)))
    }

    async fn one(&self, out: &Output, cluster: &Cluster, typed: &str) -> Outcome {
        if self.dry_run {
            let radius = radius(cluster, typed).await?;
            return out.item(&radius, &radius.ends.join("\n"), &drawn(&radius));
        }
        let pid = parse_pid(typed)?;
        let admin = cluster.node_of(pid).await?;
        let pid = pid.to_string();
        cluster
            .delete(admin, &format!("/v1/processes/{pid}"))
            .await
            .map_err(|failure| cluster.missing_process(typed, failure))?;
        out.item(&Killed { pid: &pid }, &pid, &format!("{pid} killed"))
    }
}

/// Follows links from process to process, over all nodes: who ends, who is told instead, and of whom nobody knows.
async fn radius(cluster: &Cluster, typed: &str) -> Outcome<BlastRadius> {
    let first = detail(cluster, typed).await?;
    if first.reason.is_some() {
        return Err(no_process(typed));
    }
    let mut radius = BlastRadius {
        pid: first.info.pid.clone(),
        ends: vec![first.info.pid.clone()],
        told: vec![],
        unknown: vec![],
    };
    let mut monitors = BTreeSet::from_iter(first.monitored_by);
    let mut seen = BTreeSet::from([first.info.pid.clone()]);
    let mut waiting: VecDeque<String> = first.linked.into_iter().map(|link| link.pid).collect();
    while let Some(pid) = waiting.pop_front() {
        if !seen.insert(pid.clone()) || seen.len() > RADIUS_MAX {
            continue;
        }
        match detail(cluster, &pid).await {
            Ok(detail) if detail.reason.is_some() => {}
            Ok(detail) if detail.die_when_link_dies == Some(true) => {
                waiting.extend(detail.linked.into_iter().map(|link| link.pid));
                monitors.extend(detail.monitored_by);
                radius.ends.push(pid);
            }
            Ok(_) => radius.told.push(pid),
            // It has ended meanwhile.
            Err(Failure::Letter(letter)) if letter.exit == Exit::Missing as u8 => {}
            Err(Failure::Letter(_)) => radius.unknown.push(pid),
            Err(other) => return Err(other),
        }
    }
    // Whoever ends itself is told nothing.
    monitors.retain(|pid| !radius.ends.contains(pid) && !radius.told.contains(pid));
    radius.told.extend(monitors);
    Ok(radius)
}

async fn detail(cluster: &Cluster, typed: &str) -> Outcome<ProcessDetail> {
    let pid = parse_pid(typed)?;
    let admin = cluster.node_of(pid).await?;
    cluster
        .get(admin, &format!("/v1/processes/{pid}"))
        .await
        .map_err(|failure| cluster.missing_process(typed, failure))
}

fn drawn(radius: &BlastRadius) -> String {
    let count = radius.ends.len();
    let noun = if count == 1 { "process" } else { "processes" };
    let mut text = format!("Ending {} would end {count} {noun}:", radius.pid);
    for pid in &radius.ends {
        let why = if *pid == radius.pid {
            "this one"
        } else {
            "linked"
        };
        let _ = write!(text, "\n  {pid:10} {why}");
    }
    for pid in &radius.told {
        let _ = write!(text, "\n{pid} lives on: it gets a message instead.");
    }
    for pid in &radius.unknown {
        let _ = write!(
            text,
            "\n{pid} is linked, but its node does not answer: it may end, and others with it."
        );
    }
    printable_lines(&text)
}
