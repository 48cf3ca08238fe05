//! `tidelock events`.

use clap::Args;
use tidelock_control::api::{Event, EventKind};

use super::{
    Output,
    connect::Cluster,
    failure::Outcome,
    output::{Tone, clock},
};

/// Print what happened: spawned, linked, ended, node lost
#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Keep printing
    #[arg(short, long)]
    follow: bool,
    /// Only as seen by this node
    #[arg(long, value_name = "NODE")]
    on: Option<String>,
}

impl Events {
    pub(crate) async fn run(&self, out: &Output, cluster: &Cluster) -> Outcome {
        let nodes = cluster.chosen(self.on.as_deref()).await?;
        let print = |event: Event| {
            let id = event
                .pid
                .clone()
                .or_else(|| event.peer.clone())
                .unwrap_or_default();
            out.item(&event, &id, &text(out, &event))
        };
        if self.follow {
            return cluster
                .follow(&nodes, "/v1/events?follow=true", print)
                .await;
        }
        let mut events: Vec<Event> = cluster.lines_of_all(&nodes, "/v1/events", out).await?;
        if events.is_empty() {
            out.nothing("events");
        }
        events.sort_by_key(|event| event.time);
        events.into_iter().try_for_each(print)
    }
}

fn text(out: &Output, event: &Event) -> String {
    let (word, tone) = match event.kind {
        EventKind::Spawned => ("spawned", Tone::Good),
        EventKind::Linked => ("linked", Tone::Dim),
        EventKind::Unlinked => ("unlinked", Tone::Dim),
        EventKind::Ended => ("ended", Tone::Warn),
        EventKind::NodeUp => ("node up", Tone::Good),
        EventKind::NodeLost => ("node lost", Tone::Bad),
        EventKind::NodeLeft => ("node left", Tone::Warn),
        EventKind::ModuleLoaded => ("module", Tone::Dim),
        EventKind::Draining => ("draining", Tone::Warn),
        EventKind::Log => ("log", Tone::Dim),
        EventKind::Other => ("event", Tone::Dim),
    };
    let time = out.tone(Tone::Dim, &clock(&event.time.to_string()));
    let word = out.tone(tone, &format!("{word:<9}"));
    let mut text = format!("{time} {:<3} {word}", event.node);
    for part in [&event.pid, &event.peer, &event.reason, &event.detail]
        .into_iter()
        .flatten()
    {
        text.push(' ');
        text.push_str(part);
    }
    text.trim_end().to_owned()
}
