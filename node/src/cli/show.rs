//! `tidelock show PID`.

use std::fmt::Write as _;

use clap::Args;
use tidelock_control::api::{ProcessDetail, ProcessState};

use super::{
    Output,
    connect::Cluster,
    failure::Outcome,
    output::{Tone, ago, grouped, printable_lines, shaped, size},
    ps,
};

/// Show everything about one process
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// Such as n3.42, or a name that `ps` shows
    pid: String,
}

impl Show {
    pub(crate) async fn run(&self, out: &Output, cluster: &Cluster) -> Outcome {
        let pid = cluster.pid_of(&self.pid).await?;
        let admin = cluster.node_of(pid).await?;
        let detail: ProcessDetail = cluster
            .get(admin, &format!("/v1/processes/{pid}"))
            .await
            .map_err(|failure| cluster.missing_process(&self.pid, failure))?;
        out.one(&detail, &detail.info.pid, &text(out, &detail))
    }
}

fn text(out: &Output, detail: &ProcessDetail) -> String {
    let info = &detail.info;
    let mut text = String::new();
    let mut row = |name: &str, value: String| {
        if !value.is_empty() {
            let name = out.tone(Tone::Dim, &format!("{name:<14}"));
            let _ = writeln!(text, "{name}{}", printable_lines(&value));
        }
    };
    row("pid", info.pid.clone());
    row("name", info.name.clone().unwrap_or_default());
    row("state", shaped(ps::doing(info)));
    row("reason", detail.reason.clone().unwrap_or_default());
    row("module", info.module.clone().unwrap_or_default());
    row("entry", info.entry.clone());
    row("parent", info.parent.clone().unwrap_or_default());
    row("started", info.started_at.map(ago).unwrap_or_default());
    row("ended", detail.ended_at.map(ago).unwrap_or_default());
    if info.state != ProcessState::Ended {
        row("memory", size(info.memory_bytes));
        let queued = format!("{}, {}", grouped(info.queued), size(info.queued_bytes));
        row("queued", queued);
    }
    row(
        "received",
        detail.messages_in.map(grouped).unwrap_or_default(),
    );
    let linked: Vec<&str> = detail.linked.iter().map(|link| link.pid.as_str()).collect();
    row("linked to", linked.join("  "));
    row("monitors", detail.monitoring.join("  "));
    row("monitored by", detail.monitored_by.join("  "));
    if detail.die_when_link_dies == Some(false) {
        row("links' ends", "are messages to it".to_owned());
    }
    for (name, limit) in &detail.limits {
        row("limit", format!("{name} {}", grouped(*limit)));
    }
    text
}
