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
    failure::Outcome,
};

/// A radius is not looked at further than this; a larger one is large enough to think twice.
const RADIUS_MAX: usize = 10_000;

/// End processes; links pass it on
#[derive(Debug, Args)]
pub(crate) struct Kill {
    /// Such as n3.42
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
        for text in &self.pids {
            let pid = parse_pid(text)?.to_string();
            if self.dry_run {
                let radius = radius(cluster, text).await?;
                out.item(&radius, &radius.ends.join("\n"), &drawn(&radius))?;
                continue;
            }
            let admin = cluster.node_of(parse_pid(text)?).await?;
            cluster
                .delete(admin, &format!("/v1/processes/{pid}"))
                .await
                .map_err(|failure| cluster.missing_process(text, failure))?;
            out.item(&Killed { pid: &pid }, &pid, &format!("{pid} killed"))?;
        }
        Ok(())
    }
}

/// Follows links from process to process, over all nodes: who ends, and who is told instead.
async fn radius(cluster: &Cluster, typed: &str) -> Outcome<BlastRadius> {
    let first = detail(cluster, typed).await?;
    if first.reason.is_some() {
        return Err(no_process(typed));
    }
    let mut radius = BlastRadius {
        pid: first.info.pid.clone(),
        ends: vec![first.info.pid.clone()],
        told: vec![],
    };
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
                radius.ends.push(pid);
            }
            Ok(_) => radius.told.push(pid),
            // It has ended meanwhile, or its node is gone.
            Err(_) => {}
        }
    }
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
        let _ = write!(
            text,
            "\n{pid} is linked too, but lives on: it gets a message instead."
        );
    }
    text
}
