//! `tidelock events`.

use clap::Args;
use tidelock_control::api::{Event, EventKind};

use super::{
    Output,
    connect::{Cluster, Line},
    failure::Outcome,
    output::{Tone, clock, printable},
    ps::short,
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
        let print = |line: Line<Event>| {
            let event = match line {
                Line::Item(event) => event,
                Line::Missed(missed) => return missed.print(out),
            };
            let id = event
                .pid
                .clone()
                .or_else(|| event.peer.clone())
                .unwrap_or_default();
            out.item(&event, &id, &text(out, &event))
        };
        if self.follow {
            let on = self.on.as_deref();
            return cluster.follow(on, "/v1/events?follow=true", print).await;
        }
        let nodes = cluster.chosen(self.on.as_deref()).await?;
        let events: Vec<Line<Event>> = cluster.lines_of_all(&nodes, "/v1/events").await?;
        if events.is_empty() {
            out.nothing("events");
        }
        let events = Line::in_order(events, |event| event.time);
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
    let mut text = format!("{time} {:<3} {word}", printable(&event.node));
    let module = event.module.as_deref().map(|hash| short(hash).to_owned());
    let parts = [
        &event.pid,
        &event.peer,
        &event.reason,
        &event.entry,
        &module,
        &event.detail,
    ];
    for part in parts.into_iter().flatten() {
        text.push(' ');
        // A reason may have several lines.
        text.push_str(&printable(&part.replace('\n', " ")));
    }
    text.trim_end().to_owned()
}
